//! `oomtrace import`: kernel logs to the same records.

mod against;

use std::{
    io::{self, BufWriter, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{CommandFactory as _, error::ErrorKind};
use jiff::tz::Offset;

use self::against::Against;
use super::{Cli, Color, events, logs::Logs, progress::Progress, trace::candidates};
use crate::{
    event::{Event, OomKill},
    format::Format,
    host,
    incident::Importer,
    kernel_log::Dates,
    report::count,
};

/// Exit status when two lists of kills differ.
const DIFFERENT: u8 = 3;

/// What `--help` says below the options.
const AFTER_HELP: &str = "\
Examples:
  dmesg | oomtrace import
  journalctl -k -o json --since -7d | oomtrace import --format json > kills.jsonl
  oomtrace import --year 2026 --hostname node-7 /var/log/kern.log*
  oomtrace import dmesg.txt --against /var/log/oomtrace.jsonl

Any log that holds kernel lines will do: dmesg (raw, -T, -H, -x, ISO), /dev/kmsg, the journal (text, json,
export), syslog files, Docker and Kubernetes logs, what grep left of them; of Linux 2.6.32 and later; plain,
gzip, xz or zstd. What could not be read is told on standard error with its line.

Exit status: 0 when something could be read, 1 when nothing could, 2 for wrong usage; 3 when --against found a
difference.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The logs; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,

    /// How records are written [default: pretty on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// When to use colours in the pretty format
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    color: Color,

    /// Only kills at or after this: RFC 3339, `YYYY-MM-DD[ HH:MM[:SS]]`, or how long ago (2h, 3d)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Only kills before this
    #[arg(long, value_name = "TIME")]
    until: Option<String>,

    /// The year of the first date, for logs whose dates have none; without it their time is unknown
    #[arg(long, value_name = "YEAR", value_parser = clap::value_parser!(i16).range(1970..=2261))]
    year: Option<i16>,

    /// The zone of dates without one, and of --since and --until
    #[arg(long, value_name = "±HH:MM", default_value = "+00:00", value_parser = offset,
          allow_hyphen_values = true)]
    utc_offset: Offset,

    /// The machine's name, for logs that do not tell it
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// How many candidates an event lists, or `all`
    #[arg(long, value_name = "N", default_value = "10", value_parser = candidates)]
    candidates: usize,

    /// Write no records, but tell which kills are only in the logs or only in this event log
    #[arg(long, value_name = "EVENTS")]
    against: Option<PathBuf>,

    /// Say nothing on standard error but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Where records go, and what is counted on the way.
struct Output {
    out: BufWriter<io::StdoutLock<'static>>,
    format: Format,
    color: bool,
    bytes: Vec<u8>,
    since: Option<u64>,
    until: Option<u64>,
    against: Option<Against>,
    kills: u64,
    without_time: u64,
    /// Nothing more can be written.
    failed: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let dates = Dates {
        year: args.year,
        offset: args.utc_offset,
    };
    let moment = |text: &Option<String>, option: &str| {
        let moment = |text: &String| events::moment_at(text, args.utc_offset);
        text.as_ref()
            .map(moment)
            .transpose()
            .unwrap_or_else(|error| {
                let error = format!("{option}: {error}");
                Cli::command()
                    .error(ErrorKind::ValueValidation, error)
                    .exit()
            })
    };
    let stdout = io::stdout();
    let mut output = Output {
        format: args.format.unwrap_or_else(|| Format::of(&stdout)),
        color: args.color.on(&stdout),
        since: moment(&args.since, "--since"),
        until: moment(&args.until, "--until"),
        out: BufWriter::with_capacity(256 << 10, stdout.lock()),
        bytes: Vec::new(),
        against: args.against.as_deref().map(Against::read).transpose()?,
        kills: 0,
        without_time: 0,
        failed: false,
    };
    if output.against.is_none() {
        output.format.begin(&mut output.bytes);
        output
            .out
            .write_all(&output.bytes)
            .context("writing the records")?;
    }
    let run_id = host::random_uuid().context("reading /proc/sys/kernel/random/uuid")?;
    let importer = Importer::new(args.hostname.clone(), run_id, args.candidates);
    let mut logs = Logs::new(importer, dates, args.quiet);
    let mut progress = Progress::new(&args.files, args.quiet);
    let mut unreadable = 0;
    for file in &args.files {
        let read = events::open(file, &progress).and_then(|input| {
            logs.read(file, input, &mut progress, &mut |event| {
                output.write(&event)
            })
        });
        progress.clear();
        if let Err(error) = read {
            if output.failed {
                return Err(error);
            }
            unreadable += 1;
            anstream::eprintln!("oomtrace: {}: {error:#}", events::shown(file));
        }
    }
    let nothing = output.kills == 0 && output.without_time == 0;
    let different = match output.against.take() {
        Some(against) => against.tell(&mut output.out)?,
        None => false,
    };
    output.out.flush().context("writing the records")?;
    if !args.quiet {
        output.sum(&logs);
    }
    Ok(if nothing && (unreadable > 0 || logs.cut > 0) {
        ExitCode::FAILURE
    } else if different {
        ExitCode::from(DIFFERENT)
    } else {
        ExitCode::SUCCESS
    })
}

impl Output {
    fn write(&mut self, event: &Event) -> Result<()> {
        let Event::OomKill(kill) = event else {
            return Ok(());
        };
        if !self.is_in_time(kill) {
            return Ok(());
        }
        self.kills += 1;
        if let Some(against) = &mut self.against {
            against.take(kill);
            return Ok(());
        }
        self.bytes.clear();
        self.format.write(event, self.color, &mut self.bytes);
        let result = self.out.write_all(&self.bytes);
        self.failed = result.is_err();
        result.context("writing the records")
    }

    fn is_in_time(&mut self, kill: &OomKill) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        let Some(time) = kill.head.unix_ns() else {
            self.without_time += 1;
            return false;
        };
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    fn sum(&self, logs: &Logs) {
        let mut text = count(self.kills, "kill");
        if logs.troubles > 0 {
            text += &format!("; {} could not be read", count(logs.troubles, "place"));
            if logs.troubles > logs.told {
                text += &format!(", {} of them shown", logs.told);
            }
        }
        if self.without_time > 0 {
            let without = self.without_time;
            text += &format!("; {without} without a time, which --since and --until leave out");
        }
        let unexplained = logs.importer.unexplained();
        if unexplained > 0 {
            text += &format!("; {unexplained} not explainable by the formula of their kernel");
        }
        anstream::eprintln!("oomtrace: {text}");
    }
}

/// `+02:00`, `-0530`
fn offset(text: &str) -> Result<Offset, String> {
    let wrong = || "not an offset such as +02:00".to_owned();
    let (sign, digits) = match text.split_at_checked(1) {
        Some(("+", digits)) => (1, digits),
        Some(("-", digits)) => (-1, digits),
        _ => return Err(wrong()),
    };
    let digits = digits.replace(':', "");
    if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: i32 = digits.parse().map_err(|_| wrong())?;
    let seconds = sign * (number / 100 * 3600 + number % 100 * 60);
    Offset::from_seconds(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets as people write them.
    #[test]
    fn offsets() {
        assert_eq!(offset("+02:00").map(Offset::seconds), Ok(7200));
        assert_eq!(offset("-0530").map(Offset::seconds), Ok(-19800));
        for nonsense in ["", "2", "+2", "CET", "+99:99", "+0ä0"] {
            assert!(offset(nonsense).is_err(), "{nonsense}");
        }
    }
}
