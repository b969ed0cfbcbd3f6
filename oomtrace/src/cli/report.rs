//! `oomtrace report`: event logs to one page.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use rustix::{
    fs::{AtFlags, CWD, OFlags, linkat},
    io::Errno,
};

use super::events::{Count, moment};
use crate::{
    event::rfc3339,
    report::{self, Markup, Report, html, plain},
};

const AFTER_HELP: &str = "\
One page: when, who, why, how often, what to change, what is missing, and every decision with its
ranking. The HTML is one file without scripts that needs no network; it is readable on a phone, in the
dark, and printed.

Examples:
  oomtrace report /var/log/oomtrace.jsonl -o report.html
  oomtrace report /var/log/oomtrace --since 7d --format md
  oomtrace show 'events.jsonl*' --namespace prod --format json | oomtrace report - -o prod.html

The file appears whole or not at all.

Exit status: 0 when something could be read, 1 when nothing could, 2 for wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Event logs and kernel logs, packed or not, and directories of event logs; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,

    /// Where to write it; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,

    /// As what [default: by the name of the output, else text]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// How many decisions are told in full, the newest [default: 100, in md and text 10]
    #[arg(long, value_name = "N")]
    decisions: Option<usize>,

    /// Only events at or after this: RFC 3339, `YYYY-MM-DD[ HH:MM[:SS]]` in UTC, or how long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<u64>,

    /// Only events before this
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<u64>,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One page for a browser.
    Html,
    /// Markdown, for a ticket.
    Md,
    /// Text, for a terminal or a mail.
    Text,
}

impl Format {
    fn of(name: &Path) -> Self {
        match name.extension().and_then(|ending| ending.to_str()) {
            Some("html" | "htm") => Self::Html,
            Some("md") => Self::Md,
            _ => Self::Text,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let format = args.format.unwrap_or_else(|| Format::of(&args.output));
    let most = args.decisions.unwrap_or(match format {
        Format::Html => 100,
        Format::Md | Format::Text => 10,
    });
    let mut report = Report::new(most);
    let mut count = Count::default();
    count.read(&args.files, &mut |event, _| {
        let time = event.as_ref().and_then(|event| event.head().unix_ns());
        let early = args
            .since
            .is_some_and(|since| time.is_none_or(|time| time < since));
        let late = args
            .until
            .is_some_and(|until| time.is_none_or(|time| time >= until));
        if !early && !late {
            report.take(event);
        }
        Ok(())
    })?;
    report.finish();
    if count.events == 0 {
        anstream::eprintln!("oomtrace: no event was read");
        return Ok(ExitCode::FAILURE);
    }
    let now = jiff::Timestamp::now().as_second();
    let now = rfc3339(u64::try_from(now).unwrap_or(0) * 1_000_000_000);
    let made = format!(
        "Made by oomtrace {} on {} from {}",
        env!("CARGO_PKG_VERSION"),
        now.get(..16).unwrap_or_default().replace('T', " "),
        report::count(count.events, "record"),
    );
    let text = match format {
        Format::Html => html(&report, &made),
        Format::Md => plain(&report, Markup::Markdown, &made),
        Format::Text => plain(&report, Markup::Text, &made),
    };
    if args.output == Path::new("-") {
        return super::print(text.as_bytes());
    }
    write_whole(&args.output, text.as_bytes())
        .with_context(|| format!("writing {}", super::events::shown(&args.output)))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a file so that it is there whole or not at all. Until it is whole it has no name, so
/// nothing is left of it if the program is killed.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A link stays one; what is no file (/dev/stdout) is written as it is.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(path).is_ok_and(|data| !data.is_file()) {
        return OpenOptions::new().write(true).open(path)?.write_all(bytes);
    }
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let name = format!(".oomtrace-{}.tmp", std::process::id());
    let waiting = folder.join(name);
    let nameless = i32::try_from(OFlags::TMPFILE.bits()).unwrap_or(0);
    let result = match OpenOptions::new()
        .write(true)
        .custom_flags(nameless)
        .open(folder)
    {
        Ok(mut file) => {
            file.write_all(bytes)?;
            use std::os::fd::AsRawFd;
            let file = format!("/proc/self/fd/{}", file.as_raw_fd());
            let link = |name| linkat(CWD, &*file, CWD, name, AtFlags::SYMLINK_FOLLOW);
            match link(path) {
                // A link cannot replace what is there.
                Err(Errno::EXIST) => link(&waiting).map_err(io::Error::from),
                other => return other.map_err(io::Error::from),
            }
        }
        // Not every file system has files without a name.
        Err(_) => File::create_new(&waiting).and_then(|mut file| file.write_all(bytes)),
    };
    result
        .and_then(|()| fs::rename(&waiting, path))
        .inspect_err(|_| {
            let _ = fs::remove_file(&waiting);
        })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A file is replaced, a link is followed, nothing else is left, and a device is no file.
    #[test]
    fn files_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.html");
        let link = folder.path().join("link");
        symlink(&file, &link).unwrap();
        write_whole(&file, b"one").unwrap();
        write_whole(&link, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        write_whole(Path::new("/dev/null"), b"three").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        assert!(write_whole(&folder.path().join("no/such"), b"").is_err());
    }
}
