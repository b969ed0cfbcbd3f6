//! `oomtrace show`: the events of event logs, filtered.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use super::{
    Color,
    events::{self, Count, moment},
};
use crate::{
    event::Event,
    filter::{Filter, Wanted},
    format::Format,
};

const AFTER_HELP: &str = "\
Options that are given more than once want any of their values; different options want all of them.
Names may have `*` for any text and `?` for any character. An outcome is shown with its kill.

Examples:
  oomtrace show /var/log/oomtrace.jsonl --since 2h
  oomtrace show /var/log/oomtrace --namespace prod --pod 'payments-*'
  oomtrace show 'events.jsonl*' --kind oom_kill --format csv > kills.csv
  oomtrace show events.jsonl --scope node --format json | oomtrace explain
  oomtrace show --follow /var/log/oomtrace.jsonl

Files may be packed by gzip, xz or zstd. The files of a rotated set are read oldest first. Lines that
are no event are named on standard error and passed over.

Exit status: 0 when something could be read, 1 when nothing could, 2 for wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Event logs and kernel logs, packed or not, and directories of event logs; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,

    /// How events are written [default: pretty on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// When to use colours in the pretty format
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    color: Color,

    /// Wait for more at the end of the last file, also when it is rotated
    #[arg(short, long)]
    follow: bool,

    #[command(flatten)]
    times: Times,

    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which events")]
struct Times {
    /// At or after this time: RFC 3339, `YYYY-MM-DD[ HH:MM[:SS]]` in UTC, or how long ago (2h, 3d)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<u64>,

    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<u64>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let stdout = io::stdout();
    let format = args.format.unwrap_or_else(|| Format::of(&stdout));
    let color = args.color.on(&stdout);
    let mut out = BufWriter::with_capacity(256 << 10, stdout.lock());
    let mut bytes = Vec::new();
    format.begin(&mut bytes);
    let mut wanted = Wanted::new(args.filter.clone());
    let everything = args.times.is_empty() && args.filter.is_empty();
    let mut without_time = 0;
    // Who watches wants each event at once.
    let live = args.follow || args.files.iter().any(|file| file == Path::new("-"));
    let mut take = |event: Option<Event>, text: &[u8]| -> Result<()> {
        let is_wanted = match &event {
            Some(event) if wanted.has(event) => args.times.has(event).unwrap_or_else(|| {
                without_time += 1;
                false
            }),
            Some(_) => false,
            None => everything,
        };
        if is_wanted {
            match (format, &event) {
                // As it stands in the log, with what a later version may have put there.
                (Format::Json, _) => compact(text, &mut bytes),
                (_, Some(event)) => format.write(event, color, &mut bytes),
                (_, None) => {}
            }
        }
        out.write_all(&bytes).context("standard output")?;
        bytes.clear();
        if live {
            out.flush().context("standard output")?;
        }
        Ok(())
    };
    let mut count = Count::default();
    if args.follow {
        let mut files = events::files(&args.files)?;
        let last = files.pop().context("there is no file to follow")?;
        if last == Path::new("-") {
            bail!("--follow: standard input is read as it comes, without it");
        }
        if !files.is_empty() {
            count.read(&files, &mut take)?;
        }
        count.follow(&last, &mut take)?;
    } else {
        count.read(&args.files, &mut take)?;
    }
    out.write_all(&bytes).context("standard output")?;
    out.flush().context("standard output")?;
    if without_time > 0 {
        anstream::eprintln!(
            "oomtrace: {} records without a time, which --since and --until leave out",
            without_time
        );
    }
    count.any()?;
    Ok(ExitCode::SUCCESS)
}

/// A JSON text on one line.
fn compact(text: &[u8], out: &mut Vec<u8>) {
    let (mut quoted, mut escaped) = (false, false);
    for byte in text.trim_ascii() {
        if quoted || !byte.is_ascii_whitespace() {
            out.push(*byte);
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    out.push(b'\n');
}

impl Times {
    /// Whether any time will do.
    const fn is_empty(&self) -> bool {
        self.since.is_none() && self.until.is_none()
    }

    /// Whether an event is of that time; `None` where it has none.
    fn has(&self, event: &Event) -> Option<bool> {
        if self.is_empty() {
            return Some(true);
        }
        let time = event.head().unix_ns()?;
        Some(
            self.since.is_none_or(|since| time >= since)
                && self.until.is_none_or(|until| time < until),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Space between the parts of an object goes, space in strings stays.
    #[test]
    fn on_one_line() {
        let mut out = Vec::new();
        compact(
            b"{\n  \"a b\": [1,\n 2],\n \"c\\\" d\": \"e\\\\\" }\n",
            &mut out,
        );
        assert_eq!(out, b"{\"a b\":[1,2],\"c\\\" d\":\"e\\\\\"}\n");
    }
}
