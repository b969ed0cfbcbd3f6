//! Event logs named on the command line, and kernel logs, read as if they were some.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, IsTerminal, Read},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use jiff::{Span, SpanRelativeTo, tz::Offset};

use super::{
    logs::Logs,
    progress::{Counted, Progress},
};
use crate::{
    event::Event,
    event_log::{self, Item, Reader},
    format, host,
    incident::Importer,
    kernel_log::{self, Dates},
};

/// Troubles that are told one by one; of more, the number.
pub(super) const TOLD: u64 = 20;
/// So much of a file is looked at to see what it is.
const FRONT_MAX: usize = 64 << 10;
/// Candidates that the event of a kill in a kernel log lists, as `oomtrace trace` does.
const CANDIDATES: usize = 10;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Count {
    /// Records of all kinds.
    pub(super) events: u64,
    /// What was no record.
    pub(super) troubles: u64,
    /// Files that could not be read to their end.
    pub(super) unreadable: u64,
}

/// What is done with an event, and with its JSON text; `None` for a kind of a newer version.
pub(super) type Take<'a> = &'a mut dyn FnMut(Option<Event>, &[u8]) -> Result<()>;

impl Count {
    /// Reads all files. What goes wrong is told on standard error.
    pub(super) fn read(&mut self, names: &[PathBuf], take: Take<'_>) -> Result<()> {
        let files = files(names)?;
        let mut progress = Progress::new(&files, false);
        let run_id = host::random_uuid().context("naming this run")?;
        let importer = Importer::new(None, run_id, CANDIDATES);
        let mut logs = Logs::new(importer, Dates::default(), false);
        for file in &files {
            let read = open(file, &progress).and_then(|mut input| {
                let (front, is_log) = front(&mut input)?;
                let input = Cursor::new(front).chain(input);
                if is_log {
                    self.read_log(file, input, &mut logs, &mut progress, take)
                } else {
                    let input = BufReader::with_capacity(64 << 10, input);
                    self.read_one(file, Reader::new(input), &mut progress, take)
                }
            });
            progress.clear();
            if let Err(error) = read {
                // Of whom reads what is written.
                if super::is_closed_pipe(&error) {
                    return Err(error);
                }
                self.unreadable += 1;
                anstream::eprintln!("oomtrace: {}: {error:#}", shown(file));
            }
        }
        self.sum();
        Ok(())
    }

    /// Reads what there is of a growing file, and all that comes.
    pub(super) fn follow(&mut self, file: &Path, take: Take<'_>) -> Result<()> {
        // A file that is not there yet may come.
        let mut progress = Progress::new(&[], true);
        loop {
            let tail = event_log::Tail::open(file).with_context(|| shown(file))?;
            let reader = Reader::new(BufReader::new(tail));
            self.read_one(file, reader, &mut progress, take)?;
        }
    }

    fn read_one<R: io::BufRead>(
        &mut self,
        file: &Path,
        mut reader: Reader<R>,
        progress: &mut Progress,
        take: Take<'_>,
    ) -> Result<()> {
        while let Some(item) = reader.item()? {
            progress.read(reader.bytes());
            match item {
                Item::Event(event) => {
                    self.events += 1;
                    take(Some(*event), reader.text())?;
                }
                Item::Unknown => {
                    self.events += 1;
                    take(None, reader.text())?;
                }
                Item::Trouble { line, what } => {
                    self.troubles += 1;
                    if self.troubles <= TOLD {
                        progress.clear();
                        // It may quote the input.
                        let what = what.escape_debug();
                        anstream::eprintln!("oomtrace: {}:{line}: {what}", shown(file));
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads a kernel log.
    fn read_log(
        &mut self,
        file: &Path,
        input: impl Read + Send + 'static,
        logs: &mut Logs,
        progress: &mut Progress,
        take: Take<'_>,
    ) -> Result<()> {
        let mut text = Vec::new();
        logs.read(file, input, progress, &mut |event| {
            self.events += 1;
            text.clear();
            format::json(&event, &mut text);
            take(Some(event), &text)
        })
    }

    /// Refuses files in which there was no event.
    pub(super) fn any(&self) -> Result<()> {
        ensure!(self.events > 0, "no event was read");
        Ok(())
    }

    fn sum(&self) {
        if self.troubles > TOLD {
            anstream::eprintln!(
                "oomtrace: {} places are no events, {TOLD} of them shown",
                self.troubles
            );
        }
    }
}

/// The files that are meant; standard input where it is named `-`.
pub(super) fn files(names: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let all = || names.iter().map(|name| shown(name)).collect::<Vec<_>>();
    event_log::expand(names).with_context(|| all().join(", "))
}

/// The text of a file.
pub(super) fn open(file: &Path, progress: &Progress) -> Result<Box<dyn Read + Send>> {
    let input: Box<dyn Read + Send> = if file == Path::new("-") {
        if io::stdin().is_terminal() {
            anstream::eprintln!("oomtrace: reading from the terminal; end with Ctrl-D");
        }
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file)?)
    };
    Ok(kernel_log::unpack(Counted::new(input, progress.counter()))?)
}

/// So much of a text that it can be told whether it is a kernel log, and whether it is one.
fn front(input: &mut impl Read) -> io::Result<(Vec<u8>, bool)> {
    let mut front = Vec::new();
    loop {
        let have = front.len();
        front.resize(FRONT_MAX, 0);
        let count = match input.read(&mut front[have..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            other => other.map(Some),
        }?;
        front.truncate(have + count.unwrap_or(0));
        let last = count == Some(0) || front.len() == FRONT_MAX;
        if let Some(is_log) = kernel_log::is_log(&front, last) {
            return Ok((front, is_log));
        }
    }
}

/// A file's name, which may be anything.
pub(super) fn shown(file: &Path) -> String {
    file.display().to_string().escape_debug().to_string()
}

/// A time as people type it, in nanoseconds since the Unix epoch: RFC 3339,
/// `YYYY-MM-DD[ HH:MM[:SS]]` in UTC, or how long ago.
pub(super) fn moment(text: &str) -> Result<u64, String> {
    moment_at(text, Offset::UTC)
}

/// The same, where times without a zone have this one.
pub(super) fn moment_at(text: &str, offset: Offset) -> Result<u64, String> {
    let dates = Dates { year: None, offset };
    let ago = || {
        let span: Span = text.parse().ok()?;
        let ago = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let then = now.checked_sub(ago.try_into().ok()?)?;
        u64::try_from(then.as_nanos()).ok()
    };
    kernel_log::typed(text, dates)
        .or_else(ago)
        .ok_or_else(|| "not a time such as 2026-11-21, \"2026-11-21 16:20\", 2h or 3d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times as people write them; nonsense is refused.
    #[test]
    fn moments() {
        let day = 86_400_000_000_000;
        assert_eq!(moment("1970-01-02"), Ok(day));
        assert_eq!(moment("1970-01-02 00:00:01"), Ok(day + 1_000_000_000));
        assert_eq!(moment("1970-01-02T01:00:00+01:00"), Ok(day));
        let (two, three) = (moment("2h"), moment("3d"));
        let apart = two.and_then(|two| Ok(two.abs_diff(three?)));
        assert!(
            apart.is_ok_and(|ns| ns.abs_diff(70 * 3_600_000_000_000) < 60_000_000_000),
            "2 h and 3 days ago are 70 h apart"
        );
        for nonsense in ["", "x", "2026-13-40", "-2h", "5 parsecs"] {
            assert!(moment(nonsense).is_err(), "{nonsense:?}");
        }
    }
}
