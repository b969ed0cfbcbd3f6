//! A node: what it has to tell, and the process that delivers it.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    ops::AddAssign,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::broker::Broker;

/// Before a node is given up.
const MOST_ATTEMPTS: u32 = 20;

/// A run that was recorded: JSON lines.
pub struct Recording {
    text: String,
    boot: String,
    run: String,
    hostname: String,
}

impl Recording {
    pub fn read(file: &Path) -> Result<Self> {
        let mut text = String::new();
        let reader = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        MultiGzDecoder::new(reader).read_to_string(&mut text)?;
        let first: Value = serde_json::from_str(text.lines().next().unwrap_or_default())
            .with_context(|| format!("reading {}", file.display()))?;
        let told = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            boot: told(&first["node"]["boot_id"]),
            run: told(&first["run_id"]),
            hostname: told(&first["node"]["hostname"]),
            text,
        })
    }
}

/// A node, by its number.
pub struct Node {
    number: u32,
    text: String,
}

impl Node {
    /// It plays one of the recordings, under its own name, with its own boot and run, which its
    /// identifiers of events are made of.
    pub fn new(number: u32, recordings: &[Recording]) -> Self {
        let recording = &recordings[number as usize % recordings.len()];
        let own = |id: &str| format!("{number:08x}{}", id.get(8..).unwrap_or_default());
        let mut text = recording.text.clone();
        for id in [&recording.boot, &recording.run] {
            let bare = id.replace('-', "");
            text = text
                .replace(id.as_str(), &own(id))
                .replace(&bare, &own(&bare));
        }
        let hostname = |name: &str| format!("\"hostname\":\"{name}\"");
        let text = text.replace(&hostname(&recording.hostname), &hostname(&name(number)));
        Self { number, text }
    }

    pub fn name(&self) -> String {
        name(self.number)
    }

    pub fn lines(&self) -> std::str::Lines<'_> {
        self.text.lines()
    }

    /// Runs the program until it has delivered everything; the first time not to the end, if it is to
    /// be `killed`.
    pub fn deliver(&self, program: &Path, sink: &str, home: &Path, killed: bool) -> Result<Cost> {
        let folder = tempfile::Builder::new()
            .prefix(&self.name())
            .tempdir_in(home)?;
        let path = |name: &str| folder.path().join(name);
        let spool = path("spool");
        fs::write(
            path("config.toml"),
            format!("[spool]\ndirectory = {spool:?}\n{sink}"),
        )?;
        fs::write(path("events"), &self.text)?;
        let start = |events| start(program, folder.path(), events, "30s");
        let mut cost = Cost::default();
        if killed {
            let mut child = start(Some("events"))?;
            // Before it has begun, while it writes the spool, while it sends, or when it has ended.
            thread::sleep(Duration::from_millis(u64::from(self.number * 7 % 61)));
            child.kill()?;
            cost += Cost::of(child)?.0;
            cost.killed += 1;
        }
        let mut events = Some("events");
        for _ in 0..MOST_ATTEMPTS {
            let (one, status) = Cost::of(start(events)?)?;
            cost += one;
            match status {
                0 => return Ok(cost),
                // The broker is away. What it was given waits on disk.
                1 => events = None,
                _ => break,
            }
        }
        bail!("{}", fs::read_to_string(path("said"))?)
    }
}

/// What it took to deliver what waited.
pub struct Backlog {
    pub records: usize,
    pub took: Duration,
    pub cost: Cost,
}

/// Lets so many records wait on a disk, for a broker that is not there, and delivers them.
pub fn backlog(
    nodes: &mut impl Iterator<Item = Node>,
    records: usize,
    program: &Path,
    broker: &Broker,
    home: &Path,
) -> Result<Backlog> {
    let folder = tempfile::tempdir_in(home)?;
    let path = |name: &str| folder.path().join(name);
    let mut text = String::new();
    let mut count = 0;
    while count < records
        && let Some(node) = nodes.next()
    {
        count += node.lines().count();
        text += &node.text;
    }
    fs::write(path("events"), &text)?;
    let spool = format!("[spool]\ndirectory = {:?}\nmax = \"4GiB\"\n", path("spool"));
    let run = |sink: String, events, timeout| -> Result<(Cost, i32)> {
        fs::write(path("config.toml"), format!("{spool}{sink}"))?;
        Ok(Cost::of(start(program, folder.path(), events, timeout)?)?)
    };
    run(broker.nobody(), Some("events"), "0s")?;
    let begun = Instant::now();
    let (cost, status) = run(broker.sink(), None, "10m")?;
    let took = begun.elapsed();
    ensure!(status == 0, "{}", fs::read_to_string(path("said"))?);
    Ok(Backlog {
        records: count,
        took,
        cost,
    })
}

/// Starts a delivery in a folder with its configuration: of the file `events`, or of what waits.
fn start(program: &Path, folder: &Path, events: Option<&str>, timeout: &str) -> Result<Child> {
    Command::new(program)
        .args(["deliver", "--timeout", timeout, "--config"])
        .arg(folder.join("config.toml"))
        .stdin(match events {
            Some(events) => File::open(folder.join(events))?.into(),
            None => Stdio::null(),
        })
        .stderr(File::create(folder.join("said"))?)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))
}

fn name(number: u32) -> String {
    format!("node-{number:05}")
}

/// What delivery has cost.
#[derive(Default)]
pub struct Cost {
    pub killed: u32,
    /// Of the processor.
    pub cpu: Duration,
    /// The most of a process, KiB.
    pub resident_kib: u64,
}

impl Cost {
    /// Waits for a process to end; also returns its exit status, -1 when it was killed.
    fn of(child: Child) -> io::Result<(Self, i32)> {
        let mut status = 0;
        // SAFETY: zeros are a usage.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let pid = child.id().cast_signed();
        // SAFETY: the two outlive the call. Nobody else waits for this child.
        if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } != pid {
            return Err(io::Error::last_os_error());
        }
        let time = |time: libc::timeval| {
            Duration::from_secs(time.tv_sec.cast_unsigned())
                + Duration::from_micros(time.tv_usec.cast_unsigned())
        };
        let cost = Self {
            killed: 0,
            cpu: time(usage.ru_utime) + time(usage.ru_stime),
            resident_kib: usage.ru_maxrss.cast_unsigned(),
        };
        let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
        Ok((cost, code.unwrap_or(-1)))
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.killed += other.killed;
        self.cpu += other.cpu;
        self.resident_kib = self.resident_kib.max(other.resident_kib);
    }
}
