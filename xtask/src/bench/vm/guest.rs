//! The first process of the virtual machine: it measures, tells what came out, and powers off.
//!
//! A line `RESULT {…}` is a [`Turn`], or tells which tool does not run; otherwise it speaks as the guest that plays scenarios
//! does.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, reboot},
};
use serde_json::{Value, json};

use super::{
    Part, Turn,
    stage::{self, Kill, Place},
};
use crate::bench::{
    measure::megabytes,
    tool::{Kind, OOMTRACE, Running, Said, Tool},
};

/// How long a kill may take to be told.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is measured of a line and of a process: its name in a result, and in the table.
pub const LINE: [(&str, &str); 4] = [
    ("line", "kill to line, µs"),
    ("start", "start to attached, ms"),
    ("resident", "resident memory (VmRSS), MB"),
    ("peak", "its peak (VmHWM), MB"),
];
/// How many kills without the kernel's report are measured in one turn.
const KILLS: usize = 20;
/// The kernel prints ten reports in so long (`oom_kill_process` in `mm/oom_kill.c`).
const REPORTS: Duration = Duration::from_secs(5);

/// The name of a result: the page fault with so many candidates, in which the kernel prints its
/// report or does not.
pub fn fault(candidates: usize, reported: bool) -> String {
    format!(
        "{} {candidates}",
        if reported { "reported" } else { "fault" }
    )
}

/// Measures, as `/init`, and powers off.
pub fn run(part: Part, rounds: usize) -> Result<()> {
    let tally = match boot().and_then(|()| measure(part, rounds)) {
        Ok(()) => "passed=1 failed=0",
        Err(error) => {
            let error = format!("{error:#}").replace('\n', " | ");
            println!("SCENARIO bench FAIL: {error}");
            "passed=0 failed=1"
        }
    };
    println!("GUEST DONE {tally} skipped=0");
    // The kernel panics when init ends.
    reboot(RebootCommand::PowerOff).context("powering off")
}

/// Becomes a machine.
fn boot() -> Result<()> {
    for (kind, directory) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tracefs", "/sys/kernel/tracing"),
        ("debugfs", "/sys/kernel/debug"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        fs::create_dir_all(directory).with_context(|| format!("making {directory}"))?;
        mount(kind, directory, kind, MountFlags::empty(), None)
            .with_context(|| format!("mounting {kind} on {directory}"))?;
    }
    for (file, value) in [
        ("/sys/fs/cgroup/cgroup.subtree_control", "+memory"),
        // Nothing but a panic goes to the serial line, which is slow.
        ("/proc/sys/kernel/printk", "1"),
        ("/proc/sys/kernel/printk_devkmsg", "on\n"),
    ] {
        fs::write(file, value).with_context(|| format!("writing {value} to {file}"))?;
    }
    for (name, value) in [("PATH", "/usr/bin:/usr/sbin"), ("HOME", "/tmp")] {
        // SAFETY: there is one thread.
        unsafe { env::set_var(name, value) };
    }
    Ok(())
}

/// What any program costs that is told what the kernel scores: this one does nothing with it.
const EMPTY: &str = r#"
    BEGIN { printf("Tracing\n"); }
    fexit:vmlinux:oom_badness { }
    tracepoint:oom:mark_victim { printf("Triggered by\n"); }
"#;

fn tools() -> Vec<Tool> {
    let hooks = ["--hooks", "raw_tp,fentry,kprobe,outcome,kmsg"];
    let no_ranking = [&OOMTRACE[..], &hooks].concat();
    let oomkill = |name, program: &str, arguments: &[&str]| {
        Tool::new(name, Kind::Oomkill, program, arguments)
    };
    let script = "/usr/sbin/oomkill.bt";
    vec![
        Tool::new("oomtrace", Kind::Oomtrace, "/oomtrace", &OOMTRACE),
        Tool::new("without ranking", Kind::Oomtrace, "/oomtrace", &no_ranking),
        // Their output is buffered when it is a pipe.
        oomkill("libbpf-tools oomkill", "stdbuf", &["-oL", "oomkill-libbpf"]),
        oomkill("bcc oomkill", "python3", &["-u", "/usr/sbin/oomkill-bpfcc"]),
        oomkill("bpftrace oomkill.bt", "bpftrace", &["-B", "line", script]),
        oomkill("empty hook", "bpftrace", &["-B", "line", "-e", EMPTY]),
    ]
}

fn measure(part: Part, rounds: usize) -> Result<()> {
    stage::run_on(Place::Elsewhere);
    let candidates = match part {
        Part::Path => &super::CANDIDATES[..],
        Part::Line => &super::CANDIDATES[..1],
    };
    let mut stages = Vec::new();
    for candidates in candidates {
        stages.push(Stage::set(*candidates)?);
        progress(&format!("{candidates} candidates"));
    }
    let mut tools = tools();
    for round in 1..=rounds {
        if part == Part::Path {
            for stage in &mut stages {
                stage.turn(part, "untraced", None)?;
            }
        }
        let mut running = Vec::new();
        for tool in tools {
            let name = tool.to_string();
            if turn(part, &tool, &mut stages).with_context(|| name.clone())? {
                running.push(tool);
            }
            progress(&format!("{round}: {name}"));
        }
        tools = running;
    }
    Ok(())
}

/// One turn of a tool; false if it does not run.
fn turn(part: Part, tool: &Tool, stages: &mut [Stage]) -> Result<bool> {
    let name = tool.to_string();
    let (running, elapsed) = match Running::start(tool) {
        Ok(started) => started,
        Err(error) => {
            let absent = format!("{error:#}").replace('\n', "; ");
            println!("RESULT {}", json!({ "tool": name, "absent": absent }));
            return Ok(false);
        }
    };
    let mut traced = Traced {
        running,
        let_off: Vec::new(),
    };
    stages[0].warm_up(&mut traced)?;
    for stage in stages {
        stage.turn(part, &name, Some(&mut traced))?;
    }
    let running = traced.running;
    if part == Part::Line {
        let status = running.proc("status")?;
        result(&name, "start", vec![elapsed.as_secs_f64() * 1e3]);
        result(&name, "resident", vec![megabytes(&status, "VmRSS")?]);
        result(&name, "peak", vec![megabytes(&status, "VmHWM")?]);
    }
    running.stop()?;
    Ok(true)
}

fn progress(what: &str) {
    println!("SCENARIO {} ok", what.replace(' ', "_"));
}

fn result(tool: &str, what: &str, values: Vec<f64>) {
    let turn = Turn {
        tool: tool.to_owned(),
        what: what.to_owned(),
        values,
    };
    println!("RESULT {}", turn.json());
}

/// The process that plays the kills of one number of candidates.
struct Stage {
    candidates: usize,
    _process: Child,
    go: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Stage {
    fn set(candidates: usize) -> Result<Self> {
        let mut process = Command::new("/proc/self/exe")
            .args(["bench", "--stage", &candidates.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the stage")?;
        let go = process.stdin.take().context("the stage's input")?;
        let output = process.stdout.take().context("the stage's output")?;
        let mut stage = Self {
            candidates,
            _process: process,
            go,
            lines: BufReader::new(output),
        };
        let line = stage.line()?;
        ensure!(line == "ready\n", "the stage broke down: {line}");
        Ok(stage)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line)
    }

    /// Measures kills that the kernel prints a report of, and then others: most of those in a storm.
    fn turn(&mut self, part: Part, tool: &str, mut traced: Option<&mut Traced<'_>>) -> Result<()> {
        // One of 10,000 lines takes an emulated processor long to print, and everybody to read.
        let with_reports = part == Part::Path && self.candidates < 10_000;
        if with_reports {
            thread::sleep(REPORTS);
        }
        let (mut reported, mut faults, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        while faults.len() < KILLS {
            let (kill, told_ns) = self.kill(traced.as_deref_mut(), PATIENCE)?;
            ensure!(told_ns.is_some() == traced.is_some(), "a kill was not told");
            let fault_ns = kill.fault_ns as f64;
            if kill.reported {
                reported.push(fault_ns);
                continue;
            }
            faults.push(fault_ns);
            lines.extend(told_ns.map(|ns| ns.saturating_sub(kill.killed_ns) as f64 / 1e3));
        }
        match part {
            Part::Path => {
                ensure!(
                    reported.is_empty() != with_reports,
                    "{} reports",
                    reported.len()
                );
                if with_reports {
                    result(tool, &fault(self.candidates, true), reported);
                }
                result(tool, &fault(self.candidates, false), faults);
            }
            Part::Line => result(tool, "line", lines),
        }
        Ok(())
    }

    /// One kill, and when the tool's line of it could be read.
    fn kill(
        &mut self,
        traced: Option<&mut Traced<'_>>,
        patience: Duration,
    ) -> Result<(Kill, Option<u64>)> {
        self.go.write_all(b".")?;
        let Some(traced) = traced else {
            return Ok((self.killed()?, None));
        };
        let mut told = traced.told(patience)?;
        let kill = self.killed()?;
        while let Some(Told { victim, line, .. }) = &told
            && victim.is_some_and(|victim| victim != kill.victim)
        {
            // One that was let off while the tool was warming up may be told late, and only once.
            let let_off = traced.let_off.iter().position(|pid| Some(*pid) == *victim);
            let let_off = let_off.with_context(|| format!("not {}: {line}", kill.victim))?;
            traced.let_off.swap_remove(let_off);
            told = traced.told(patience)?;
        }
        let Some(Told { read_ns, line, .. }) = told else {
            traced.let_off.push(kill.victim);
            return Ok((kill, None));
        };
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        let total = &event["candidates"]["total"];
        ensure!(
            total.is_null() || *total == self.candidates,
            "not {} candidates: {line}",
            self.candidates
        );
        Ok((kill, Some(read_ns)))
    }

    fn killed(&mut self) -> Result<Kill> {
        let line = self.line()?;
        Kill::parse(&line).with_context(|| format!("the stage broke down: {line}"))
    }

    /// Kills until the tool tells of one: some say that they are ready before they are.
    fn warm_up(&mut self, traced: &mut Traced<'_>) -> Result<()> {
        for _ in 0..10 {
            let (_, told_ns) = self.kill(Some(&mut *traced), Duration::from_secs(3))?;
            if told_ns.is_some() {
                return Ok(());
            }
        }
        bail!("no kill was told: {}", traced.running.complaints())
    }
}

/// A tool at work.
struct Traced<'t> {
    running: Running<'t>,
    /// Victims of which it has not told in time.
    let_off: Vec<u32>,
}

/// What a tool told of a kill.
struct Told {
    /// Whom it named, if it names anybody.
    victim: Option<u32>,
    line: String,
    read_ns: u64,
}

impl Traced<'_> {
    /// What the tool tells of the next kill.
    fn told(&mut self, patience: Duration) -> Result<Option<Told>> {
        while let Some(line) = self.running.next(patience)? {
            if let Said::Kill { .. } = self.running.tool.says(&line) {
                let read_ns = line.read_ns;
                let line = String::from_utf8_lossy(&line.text).into_owned();
                return Ok(Some(Told {
                    victim: victim(&line),
                    line,
                    read_ns,
                }));
            }
        }
        Ok(None)
    }
}

/// Whom a line names, in an event or as all tools called `oomkill` do.
fn victim(line: &str) -> Option<u32> {
    let event: Value = serde_json::from_str(line).unwrap_or_default();
    if let Some(pid) = event["victim"]["pid"].as_u64() {
        return u32::try_from(pid).ok();
    }
    let (_, pid) = line.split_once("OOM kill of PID ")?;
    pid.split_once(' ')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::victim;

    /// Whoever was killed is found in the line of each tool.
    #[test]
    fn victims() {
        assert_eq!(victim(r#"{"kind":"oom_kill","victim":{"pid":7}}"#), Some(7));
        let line = "01:02:03 Triggered by PID 1 (\"a\"), OOM kill of PID 23 (\"b\"), 4 pages";
        assert_eq!(victim(line), Some(23));
        assert_eq!(victim("Triggered by"), None);
    }
}
