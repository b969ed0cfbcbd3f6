//! `cargo xtask bench --logs`: reading kernel logs, beside what people would use instead.
//!
//! All read the same files, in turns, from the page cache, and write to a pipe. Another
//! parser of reports, OOMAnalyser, is a page for a browser that takes one pasted report, and not in
//! any package registry, so there is nothing of it that could read these files.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use super::{machine, measure::megabytes, report::write_table, stats::Summary};
use crate::sh;

const IMPORT: [&str; 4] = ["import", "--quiet", "--format", "json"];

/// What cadvisor looks for, each in every line.
const PYTHON: &str = r"
import re, sys
patterns = [re.compile(text) for text in (
    rb'invoked oom-killer:',
    rb'oom-kill:constraint=(.*),oom_memcg=(.*),task_memcg=(.*),task=(.*),pid=(.*),uid=(.*)',
    rb'Task in (.*) killed as a result of limit of (.*)',
    rb'Killed process ([0-9]+) \((.+)\)',
)]
found = 0
for line in open(sys.argv[1], 'rb'):
    for pattern in patterns:
        found += pattern.search(line) is not None
print(found)
";

/// The scenario in which many die at once.
const GROUP: &str = "twenty_die_as_a_group";

/// How much is read, and how often.
struct Plan {
    plain: u64,
    dense: u64,
    rounds: usize,
    piped: [u64; 2],
}

/// Something that reads a file.
struct Reader {
    name: &'static str,
    program: PathBuf,
    arguments: &'static [&'static str],
}

impl Reader {
    /// Reads the file; how many MB of it a second.
    fn read(&self, file: &Path) -> Result<f64> {
        let mut command = Command::new(&self.program);
        // Not to /dev/null: grep sees that and stops at the first line it finds.
        command
            .args(self.arguments)
            .arg(file)
            .stdout(Stdio::piped());
        let bytes = fs::metadata(file)?.len() as f64;
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| sh::show(&command))?;
        let mut pipe = child.stdout.take().context("a pipe")?;
        io::copy(&mut pipe, &mut io::sink())?;
        let status = child.wait()?;
        let seconds = start.elapsed().as_secs_f64();
        // grep's way to say that it found nothing is 1.
        ensure!(
            status.success() || status.code() == Some(1),
            "{}: {status}",
            self.name
        );
        Ok(bytes / 1e6 / seconds)
    }
}

/// The results.
pub struct Report {
    facts: String,
    readers: Vec<&'static str>,
    absent: Option<&'static str>,
    speeds: Vec<Speed>,
    /// Bytes that came through a pipe, and the peak of oomtrace's resident memory in MB.
    memory: Vec<(u64, f64)>,
}

/// How fast one file was read, in MB a second by each reader.
struct Speed {
    what: &'static str,
    of: Vec<Summary>,
    least: Option<f64>,
}

/// Measures.
pub fn run(quick: bool) -> Result<Report> {
    let plan = if quick {
        Plan {
            plain: 128 << 20,
            dense: 32 << 20,
            rounds: 2,
            piped: [256 << 20, 1 << 30],
        }
    } else {
        Plan {
            plain: 1 << 30,
            dense: 256 << 20,
            rounds: 3,
            piped: [1 << 30, 20 << 30],
        }
    };
    let program = sh::target().join("release/oomtrace");
    let mut readers = vec![
        Reader {
            name: "oomtrace import",
            program: program.clone(),
            arguments: &IMPORT,
        },
        Reader {
            name: "grep -c",
            program: "grep".into(),
            arguments: &["-c", "Killed process"],
        },
    ];
    let python = sh::find("python3");
    readers.extend(python.clone().map(|program| Reader {
        name: "Python, cadvisor's patterns",
        program,
        arguments: &["-c", PYTHON],
    }));
    let folder = tempfile::tempdir_in(sh::target()).context("a folder for the logs")?;
    let plain = plain()?;
    let single = recorded(|scenario| !scenario.starts_with(GROUP))?;
    let groups = recorded(|scenario| scenario.starts_with(GROUP))?;
    let mut speeds = Vec::new();
    for (what, block, size, least) in [
        ("no report in it", &plain, plan.plain, Some(1000.0)),
        ("reports of one kill", &single, plan.dense, Some(100.0)),
        ("reports of groups of twenty", &groups, plan.dense, None),
    ] {
        let log = folder.path().join("log");
        repeat(block, size, &mut File::create(&log)?)?;
        let mut of = vec![Vec::new(); readers.len()];
        for _ in 0..plan.rounds {
            for (reader, values) in readers.iter().zip(&mut of) {
                values.push(reader.read(&log)?);
            }
        }
        let of = of.into_iter().filter_map(Summary::of).collect();
        speeds.push(Speed { what, of, least });
    }
    let all = [plain, single, groups].concat();
    let peak = |size| Ok((size, peak(&program, &all, size)?));
    Ok(Report {
        facts: machine::facts()?,
        readers: readers.iter().map(|reader| reader.name).collect(),
        absent: python.is_none().then_some("python3"),
        speeds,
        memory: plan.piped.into_iter().map(peak).collect::<Result<_>>()?,
    })
}

/// A piece of a syslog file in which nobody is killed.
fn plain() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for at in 0..100_000 {
        let (minute, second, worker) = (at / 60 % 60, at % 60, at % 97);
        writeln!(
            text,
            "Nov 21 16:{minute:02}:{second:02} node-7 app[{at}]: request {at} handled by worker {worker}, status 200"
        )?;
    }
    Ok(text)
}

/// The kernel's reports that were recorded in virtual machines, of these scenarios.
fn recorded(wanted: impl Fn(&str) -> bool) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for cell in fs::read_dir(sh::root().join("tests/recorded"))? {
        for file in fs::read_dir(cell?.path())? {
            let file = file?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".kmsg.gz") && wanted(&name) {
                GzDecoder::new(File::open(&file)?)
                    .read_to_end(&mut text)
                    .with_context(|| format!("reading {}", file.display()))?;
            }
        }
    }
    ensure!(!text.is_empty(), "nothing is recorded");
    Ok(text)
}

/// Writes a block again and again, until so many bytes are written.
fn repeat(block: &[u8], size: u64, out: &mut impl Write) -> Result<()> {
    let mut left = usize::try_from(size)?;
    while left > 0 {
        let part = &block[..block.len().min(left)];
        out.write_all(part)?;
        left -= part.len();
    }
    Ok(())
}

/// The greatest resident memory of `oomtrace import`, in MB, when so many bytes came through a pipe.
fn peak(program: &Path, block: &[u8], size: u64) -> Result<f64> {
    let mut child = Command::new(program)
        .args(IMPORT)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let mut pipe = child.stdin.take().context("a pipe")?;
    let written = repeat(block, size, &mut pipe);
    // It waits for the end of the pipe.
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    drop(pipe);
    ensure!(child.wait()?.success(), "oomtrace import failed");
    written?;
    megabytes(&status, "VmHWM")
}

impl Report {
    /// Every number.
    pub fn json(&self) -> Value {
        let speed = |speed: &Speed| {
            let of = self.readers.iter().zip(&speed.of);
            let of: serde_json::Map<_, _> = of
                .map(|(name, summary)| ((*name).to_owned(), summary.json()))
                .collect();
            json!({ "what": speed.what, "unit": "MB/s", "tools": of })
        };
        json!({
            "machine": self.facts,
            "absent": self.absent,
            "measures": self.speeds.iter().map(speed).collect::<Vec<_>>(),
            "memory_mb_by_bytes": self.memory,
        })
    }
}

/// A table that is Markdown, too.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}.\n", self.facts)?;
        let mut rows = vec![vec!["median of MB a second".to_owned()]];
        rows[0].extend(self.readers.iter().map(|name| (*name).to_owned()));
        rows[0].push("target".to_owned());
        for Speed { what, of, least } in &self.speeds {
            let mut row = vec![(*what).to_owned()];
            row.extend(of.iter().map(|summary| format!("{:.0}", summary.median)));
            let ours = of.first().map_or(0.0, |summary| summary.median);
            let judged = least.map(|least| {
                let met = if ours >= least { "met" } else { "**not met**" };
                format!("≥ {least}: {met}")
            });
            row.push(judged.unwrap_or_default());
            rows.push(row);
        }
        write_table(f, &rows)?;
        for (size, peak) in &self.memory {
            let size = *size as f64 / f64::from(1 << 30);
            write!(
                f,
                "\nThrough a pipe, {size} GiB of all: {peak:.1} MB of memory at most."
            )?;
        }
        if let Some(absent) = self.absent {
            write!(f, "\n\nNot measured: there is no {absent}.")?;
        }
        writeln!(f)
    }
}
