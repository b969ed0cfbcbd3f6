//! `oomtrace import`: kernel logs to the same records.

mod against;

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Read, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use jiff::tz::Offset;

use self::against::Against;
use super::{
    Color,
    progress::{self, Progress},
    trace::candidates,
};
use crate::{
    event::Event,
    format::Format,
    host,
    incident::{Importer, Problem},
    kernel_log::{self, Dates, LogReader, Totals},
};

/// Troubles that are told one by one; of more, the number.
const TOLD: u64 = 20;
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

    /// Only kills at or after this: RFC 3339, or `YYYY-MM-DD[ HH:MM]`
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
    error: Option<io::Error>,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let dates = Dates {
        year: args.year,
        offset: args.utc_offset,
    };
    let moment = |text: &Option<String>, option: &str| -> Result<Option<u64>> {
        let Some(text) = text else { return Ok(None) };
        let time = kernel_log::typed(text, dates);
        let time =
            time.with_context(|| format!("{option} {text}: not a time such as 2026-11-21 16:20"))?;
        Ok(Some(time))
    };
    let stdout = io::stdout();
    let mut output = Output {
        format: args.format.unwrap_or(if stdout.is_terminal() {
            Format::Pretty
        } else {
            Format::Json
        }),
        color: args.color.on(&stdout),
        since: moment(&args.since, "--since")?,
        until: moment(&args.until, "--until")?,
        out: BufWriter::with_capacity(256 << 10, stdout.lock()),
        bytes: Vec::new(),
        against: args.against.as_deref().map(Against::read).transpose()?,
        kills: 0,
        without_time: 0,
        error: None,
    };
    if output.against.is_none() {
        output.format.begin(&mut output.bytes);
        output
            .out
            .write_all(&output.bytes)
            .context("writing the records")?;
    }
    let run_id = host::random_uuid().context("reading /proc/sys/kernel/random/uuid")?;
    let mut importer = Importer::new(args.hostname.clone(), run_id, args.candidates);
    let mut progress = Progress::new(&args.files, args.quiet);
    let mut troubles = Troubles::new(args.quiet);
    let mut unreadable = 0;
    for file in &args.files {
        let read = import(
            file,
            dates,
            &mut importer,
            &mut output,
            &mut troubles,
            &mut progress,
        );
        progress.clear();
        if let Some(error) = output.error.take() {
            return Err(error).context("writing the records");
        }
        match read {
            Ok(totals) => troubles.totals(file, &totals),
            Err(error) => {
                unreadable += 1;
                anstream::eprintln!("oomtrace: {}: {error:#}", file.display());
            }
        }
    }
    let nothing = output.kills == 0 && output.without_time == 0;
    let different = match output.against.take() {
        Some(against) => against.tell(&mut output.out)?,
        None => false,
    };
    output.out.flush().context("writing the records")?;
    if !args.quiet {
        troubles.sum(&output, &importer);
    }
    Ok(if nothing && (unreadable > 0 || troubles.cut > 0) {
        ExitCode::FAILURE
    } else if different {
        ExitCode::from(DIFFERENT)
    } else {
        ExitCode::SUCCESS
    })
}

/// Reads one log.
fn import(
    file: &Path,
    dates: Dates,
    importer: &mut Importer,
    output: &mut Output,
    troubles: &mut Troubles,
    progress: &mut Progress,
) -> Result<Totals> {
    let input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(file)?)
    };
    let counter = progress.counter();
    let input = kernel_log::unpack(progress::Counted::new(input, counter))?;
    troubles.file = file.display().to_string();
    let mut reader = LogReader::new(dates);
    let totals = reader.read(input, |bytes| progress.read(bytes), &mut |found| {
        importer.take(
            found,
            &mut |event| output.write(&event),
            &mut |line, problem| troubles.add(line, problem),
        );
    })?;
    Ok(totals)
}

impl Output {
    fn write(&mut self, event: &Event) {
        let Event::OomKill(kill) = event else { return };
        if self.since.is_some() || self.until.is_some() {
            let time = kill
                .head
                .time_unix_ns
                .as_ref()
                .and_then(|ns| ns.parse::<u64>().ok());
            let Some(time) = time else {
                self.without_time += 1;
                return;
            };
            let early = self.since.is_some_and(|since| time < since);
            if early || self.until.is_some_and(|until| time >= until) {
                return;
            }
        }
        self.kills += 1;
        if let Some(against) = &mut self.against {
            against.take(kill);
            return;
        }
        self.bytes.clear();
        self.format.write(event, self.color, &mut self.bytes);
        if self.error.is_none() {
            self.error = self.out.write_all(&self.bytes).err();
        }
    }
}

/// What could not be read, told as it comes.
struct Troubles {
    quiet: bool,
    file: String,
    told: u64,
    all: u64,
    /// Reports without an end, and lines that should have been readable.
    cut: u64,
}

impl Troubles {
    const fn new(quiet: bool) -> Self {
        Self {
            quiet,
            file: String::new(),
            told: 0,
            all: 0,
            cut: 0,
        }
    }

    fn add(&mut self, line: u64, problem: Problem) {
        self.all += 1;
        self.cut += u64::from(problem != Problem::Imitation);
        let what = match problem {
            Problem::NoVictim => "a report that ends before it names a victim",
            Problem::Imitation => "not the kernel's: a program wrote this line",
            Problem::Broken => "this line is cut off or garbled",
        };
        if !self.quiet && self.told < TOLD {
            self.told += 1;
            anstream::eprintln!("oomtrace: {}:{line}: {what}", self.file);
        }
    }

    /// What is unsure about a whole file.
    fn totals(&self, file: &Path, totals: &Totals) {
        if self.quiet {
            return;
        }
        let file = file.display();
        if totals.dates_without_year > 0 {
            anstream::eprintln!(
                "oomtrace: {file}: its dates have no year, so the time of kills is unknown; give it by --year"
            );
        } else if totals.dates_without_zone > 0 {
            anstream::eprintln!(
                "oomtrace: {file}: its dates have no zone; they are read by --utc-offset"
            );
        }
        if totals.long_lines > 0 {
            anstream::eprintln!(
                "oomtrace: {file}: {} lines of more than 64 KiB, of which the front was read",
                totals.long_lines
            );
        }
    }

    fn sum(&self, output: &Output, importer: &Importer) {
        let mut text = match output.kills {
            1 => "1 kill".to_owned(),
            kills => format!("{kills} kills"),
        };
        if self.all > 0 {
            text += &format!("; {} places could not be read", self.all);
            if self.all > self.told {
                text += &format!(", {} of them shown", self.told);
            }
        }
        if output.without_time > 0 {
            let count = output.without_time;
            text += &format!("; {count} without a time, which --since and --until leave out");
        }
        if importer.unexplained() > 0 {
            let count = importer.unexplained();
            text += &format!("; {count} not explainable by the formula of their kernel");
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
