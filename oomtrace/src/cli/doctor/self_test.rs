//! A kill on purpose: a child of this process, in a memory cgroup made for it, seen through the
//! same program and the same pipe as any other kill.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::Value;

/// The limit the child is killed at.
const LIMIT_BYTES: u64 = 32 << 20;
/// What the child would take if it were let.
const APPETITE_BYTES: usize = 256 << 20;
/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the self-test found.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// Each thing that was looked at.
    pub(super) checks: Vec<Check>,
    /// The event of the kill.
    event: Option<Value>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) passed: bool,
    pub(super) found: String,
}

/// Runs the self-test.
pub(super) fn run() -> Outcome {
    match kill_and_watch() {
        Ok((event, pid)) => Outcome {
            checks: checks(&event, pid),
            event: Some(event),
        },
        Err(error) => Outcome {
            checks: vec![Check {
                name: "a kill is seen".to_owned(),
                passed: false,
                found: format!("{error:#}"),
            }],
            event: None,
        },
    }
}

/// The hidden verb: waits for a line, then takes memory until killed.
pub(in crate::cli) fn victim() -> Result<ExitCode> {
    let mut line = [0];
    std::io::stdin()
        .read_exact(&mut line)
        .context("waiting to be let go")?;
    // Random bytes, so that no kernel can merge or compress the pages away.
    let mut memory = Vec::with_capacity(APPETITE_BYTES);
    fs::File::open("/dev/urandom")?
        .take(APPETITE_BYTES as u64)
        .read_to_end(&mut memory)?;
    bail!("took {} bytes and was not killed", memory.len())
}

fn kill_and_watch() -> Result<(Value, u32)> {
    let program = env::current_exe().context("finding this program")?;
    let cgroup = TestCgroup::new()?;
    let mut tracer = Running(
        Command::new(&program)
            .args(["trace", "--format", "json", "--quiet", "--heartbeat", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting oomtrace trace")?,
    );
    let events = lines(tracer.0.stdout.take().context("its output")?);
    wait_for(&events, |event| event["kind"] == "status").context("waiting for it to attach")?;

    let mut victim = Running(
        Command::new(&program)
            .arg("self-test-victim")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the victim")?,
    );
    let pid = victim.0.id();
    cgroup.admit(pid)?;
    victim
        .0
        .stdin
        .take()
        .context("its input")?
        .write_all(b"\n")
        .context("letting it go")?;
    let event = wait_for(&events, |event| {
        event["kind"] == "oom_kill" && event["victim"]["pid"] == pid
    })
    .context("waiting for the event of the kill")?;
    Ok((event, pid))
}

fn checks(event: &Value, pid: u32) -> Vec<Check> {
    let victim = &event["victim"];
    let oom = &event["oom"];
    let path = victim["cgroup"]["path"].as_str().unwrap_or_default();
    let known = |value: &Value| !value.is_null();
    let looked_at: [(&str, bool, &Value); 9] = [
        (
            "the victim's process id",
            victim["pid"] == pid,
            &victim["pid"],
        ),
        ("its name", known(&victim["comm"]), &victim["comm"]),
        ("its executable", known(&victim["exe"]), &victim["exe"]),
        (
            "its memory",
            victim["memory"]["anon_rss_bytes"]
                .as_u64()
                .is_some_and(|anon| anon > LIMIT_BYTES / 2),
            &victim["memory"],
        ),
        (
            "its memory cgroup",
            path.contains(TestCgroup::PREFIX),
            &victim["cgroup"]["path"],
        ),
        (
            "its points",
            known(&victim["badness_pages"]),
            &victim["badness_pages"],
        ),
        (
            "the constraint",
            oom["constraint"] == "memcg",
            &oom["constraint"],
        ),
        (
            "the limit",
            oom["memcg"]["limit_bytes"] == LIMIT_BYTES,
            &oom["memcg"]["limit_bytes"],
        ),
        (
            "the trigger",
            event["trigger"]["pid"] == pid,
            &event["trigger"]["pid"],
        ),
    ];
    looked_at
        .into_iter()
        .map(|(name, passed, found)| Check {
            name: name.to_owned(),
            passed,
            found: found.to_string(),
        })
        .collect()
}

/// The lines of a pipe as JSON, from a thread of their own, so that waiting has a bound.
fn lines(output: impl std::io::Read + Send + 'static) -> mpsc::Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Ok(event) = serde_json::from_str(&line)
                && sender.send(event).is_err()
            {
                break;
            }
        }
    });
    receiver
}

fn wait_for(events: &mpsc::Receiver<Value>, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let event = events
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .with_context(|| format!("nothing came within {} s", PATIENCE.as_secs()))?;
        if wanted(&event) {
            return Ok(event);
        }
    }
}

/// A child that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// A memory cgroup of the test's own.
struct TestCgroup {
    directory: PathBuf,
}

impl TestCgroup {
    const PREFIX: &'static str = "oomtrace-self-test-";

    fn new() -> Result<Self> {
        let (root, limit) = hierarchy()?;
        let directory = root.join(format!("{}{}", Self::PREFIX, std::process::id()));
        fs::create_dir(&directory)
            .with_context(|| format!("making the cgroup {}", directory.display()))?;
        let cgroup = Self { directory };
        let file = cgroup.directory.join(limit);
        fs::write(&file, LIMIT_BYTES.to_string()).with_context(|| {
            format!(
                "setting {}: the memory controller may not be enabled for {}",
                file.display(),
                root.display()
            )
        })?;
        // Where there is swap, the child must not go there.
        let _ = fs::write(cgroup.directory.join("memory.swap.max"), "0");
        let _ = fs::write(
            cgroup.directory.join("memory.memsw.limit_in_bytes"),
            LIMIT_BYTES.to_string(),
        );
        Ok(cgroup)
    }

    fn admit(&self, pid: u32) -> Result<()> {
        let file = self.directory.join("cgroup.procs");
        fs::write(&file, pid.to_string()).with_context(|| format!("writing {}", file.display()))
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        // A dying process leaves its cgroup a moment later.
        for _ in 0..100 {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The root of the hierarchy that has the memory controller, and the name of the limit there.
fn hierarchy() -> Result<(PathBuf, &'static str)> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    for mount in mounts.lines() {
        let mut fields = mount.split(' ').skip(1);
        let (Some(place), Some(kind), Some(options)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let place = Path::new(place);
        if kind == "cgroup" && options.split(',').any(|name| name == "memory") {
            return Ok((place.to_owned(), "memory.limit_in_bytes"));
        }
        if kind == "cgroup2" {
            let controllers =
                fs::read_to_string(place.join("cgroup.controllers")).unwrap_or_default();
            if controllers.split_whitespace().any(|name| name == "memory") {
                return Ok((place.to_owned(), "memory.max"));
            }
        }
    }
    bail!("no cgroup hierarchy with the memory controller is mounted")
}
