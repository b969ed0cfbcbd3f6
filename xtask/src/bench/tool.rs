//! The tools, and one of them at work.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fmt,
    fs::{self, File},
    io::{Read as _, Seek as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};
use serde_json::Value;

/// How long a tool may take to start, or to stop.
const PATIENCE: Duration = Duration::from_secs(300);

/// What bpftrace runs: one field, the kernel's clock at the hook. `BEGIN` tells that it is
/// attached, because bpftrace reads what its programs print only after it has attached them all.
const BPFTRACE: &str =
    r#"BEGIN { printf("ready\n") } tracepoint:oom:mark_victim { printf("%llu\n", nsecs) }"#;

/// What oomtrace is started with.
pub const OOMTRACE: [&str; 6] = ["trace", "--format", "json", "--quiet", "--heartbeat", "0"];

/// Which tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Oomtrace,
    Bpftrace,
    Oomkill,
}

/// A tool and how it is started.
#[derive(Clone, Debug)]
pub struct Tool {
    name: &'static str,
    pub kind: Kind,
    command: Vec<OsString>,
}

/// The tools of this machine.
pub struct Tools {
    /// Those that can be measured; oomtrace is the first, its peer the second.
    pub present: Vec<Tool>,
    /// Those that cannot, and why.
    pub absent: Vec<String>,
}

/// What a line of a tool's output says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is attached.
    Ready,
    /// There was a kill.
    Kill {
        /// `CLOCK_BOOTTIME` at the hook, if the tool tells.
        hook_ns: Option<u64>,
        /// Whether the event has the candidates, of which only the kernel's report knows here.
        whole: bool,
        /// Whether the event has the name of the victim's pod.
        named: bool,
    },
    /// Kills were lost.
    Lost(u64),
    /// Anything else.
    Other,
}

impl Tool {
    /// A tool, and how to start it.
    pub fn new(
        name: &'static str,
        kind: Kind,
        program: impl AsRef<OsStr>,
        arguments: &[&str],
    ) -> Self {
        let mut command = vec![program.as_ref().to_owned()];
        command.extend(arguments.iter().map(OsString::from));
        Self {
            name,
            kind,
            command,
        }
    }

    /// The same tool with more arguments.
    pub fn with(&self, arguments: &[&OsStr]) -> Self {
        let mut tool = self.clone();
        tool.command.extend(arguments.iter().map(OsString::from));
        tool
    }

    /// Finds out which tools work here.
    pub fn all(oomtrace: &Path) -> Tools {
        let ours = Self::new("oomtrace", Kind::Oomtrace, oomtrace, &OOMTRACE);
        // Line by line is the fastest that does not wait for a buffer to fill.
        let arguments = ["-B", "line", "-e", BPFTRACE];
        let peer = Self::new("bpftrace", Kind::Bpftrace, "bpftrace", &arguments);
        // Its own output is buffered when it is a pipe.
        let optional = Self::new("oomkill", Kind::Oomkill, "stdbuf", &["-oL", "oomkill"]);
        let mut tools = Tools {
            present: vec![ours, peer],
            absent: Vec::new(),
        };
        match Running::start(&optional).and_then(|(running, _)| running.stop()) {
            Ok(_) => tools.present.push(optional),
            Err(error) => {
                let reason = format!("{error:#}").replace('\n', "; ");
                tools
                    .absent
                    .push(format!("{optional} (libbpf-tools): {reason}"));
            }
        }
        tools
    }

    /// What a line of its output says.
    pub fn says(&self, line: &Line) -> Said {
        let text = String::from_utf8_lossy(&line.text);
        match self.kind {
            Kind::Oomtrace => {
                let event: Value = serde_json::from_slice(&line.text).unwrap_or_default();
                match event["kind"].as_str() {
                    Some("status") if event["phase"] == "start" => Said::Ready,
                    Some("oom_kill") => Said::Kill {
                        hook_ns: event["boottime_ns"].as_str().and_then(|ns| ns.parse().ok()),
                        whole: !event["candidates"].is_null(),
                        named: !event["victim"]["pod"]["name"].is_null(),
                    },
                    Some("loss") => Said::Lost(event["lost_victims"].as_u64().unwrap_or(0)),
                    _ => Said::Other,
                }
            }
            Kind::Bpftrace => match text.trim() {
                "ready" => Said::Ready,
                line => line
                    .strip_prefix("Lost ")
                    .and_then(|rest| rest.strip_suffix(" events")?.parse().ok().map(Said::Lost))
                    .or_else(|| {
                        let hook_ns = Some(line.parse().ok()?);
                        Some(Said::Kill {
                            hook_ns,
                            whole: false,
                            named: false,
                        })
                    })
                    .unwrap_or(Said::Other),
            },
            Kind::Oomkill if text.starts_with("Tracing") => Said::Ready,
            Kind::Oomkill if text.contains("Triggered by") => Said::Kill {
                hook_ns: None,
                whole: false,
                named: false,
            },
            Kind::Oomkill => Said::Other,
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A line of output, and when it could be read.
pub struct Line {
    pub text: Vec<u8>,
    pub read_ns: u64,
}

/// A tool at work.
pub struct Running<'a> {
    /// Which one.
    pub tool: &'a Tool,
    child: Child,
    output: ChildStdout,
    errors: File,
    partial: Vec<u8>,
    lines: VecDeque<Line>,
}

impl<'a> Running<'a> {
    /// Starts the tool, and tells how long it took to say that it is attached.
    pub fn start(tool: &'a Tool) -> Result<(Self, Duration)> {
        let [program, arguments @ ..] = &tool.command[..] else {
            bail!("{tool} has no command")
        };
        let errors = tempfile::tempfile().context("a file for what a tool complains of")?;
        let started = Instant::now();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(
                errors
                    .try_clone()
                    .context("a file for what a tool complains of")?,
            )
            .spawn()
            .with_context(|| format!("starting {tool}"))?;
        let output = child.stdout.take().context("its output")?;
        let mut running = Self {
            tool,
            child,
            output,
            errors,
            partial: Vec::new(),
            lines: VecDeque::new(),
        };
        let mut said = String::new();
        while let Some(line) = running.next(PATIENCE)? {
            if tool.says(&line) == Said::Ready {
                return Ok((running, started.elapsed()));
            }
            said += &String::from_utf8_lossy(&line.text);
        }
        // It is over, unless it only says nothing.
        let _ = running.child.kill();
        let ended = running.child.wait().context("waiting for its end")?;
        bail!("it did not start ({ended}): {said}{}", running.complaints())
    }

    /// The next line; `None` when none comes in time, or no more will come.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Line>> {
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 1 << 16];
        while self.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).context("a time to wait")?;
            if poll(
                &mut [PollFd::new(&self.output, PollFlags::IN)],
                Some(&timeout),
            )? == 0
            {
                return Ok(None);
            }
            let length = self
                .output
                .read(&mut buffer)
                .context("reading a tool's output")?;
            let read_ns = boottime_ns();
            if length == 0 {
                return Ok(None);
            }
            for piece in buffer[..length].split_inclusive(|byte| *byte == b'\n') {
                self.partial.extend_from_slice(piece);
                if piece.ends_with(b"\n") {
                    let text = std::mem::take(&mut self.partial);
                    self.lines.push_back(Line { text, read_ns });
                }
            }
        }
        Ok(self.lines.pop_front())
    }

    /// Ends it as Ctrl-C would, and returns what it still had to say.
    pub fn stop(mut self) -> Result<Vec<Line>> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a process id")?;
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "{} does not end", self.tool);
            // bpftrace does not notice one that comes just before it begins to wait.
            kill_process(pid, Signal::INT).with_context(|| format!("stopping {}", self.tool))?;
            while let Some(line) = self.next(Duration::from_secs(1))? {
                lines.push(line);
            }
        }
        Ok(lines)
    }

    /// The contents of a file of its `/proc` directory.
    pub fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).context(path)
    }

    /// Its threads.
    pub fn threads(&self) -> Result<Vec<String>> {
        let path = format!("/proc/{}/task", self.child.id());
        fs::read_dir(&path)
            .with_context(|| path.clone())?
            .map(|entry| Ok(format!("task/{}", entry?.file_name().to_string_lossy())))
            .collect()
    }

    /// The end of what it wrote to standard error.
    pub fn complaints(&mut self) -> String {
        let mut text = String::new();
        let _ = self.errors.rewind();
        let _ = self.errors.read_to_string(&mut text);
        let lines: Vec<_> = text.trim().lines().collect();
        lines[lines.len().saturating_sub(4)..].join("\n")
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The clock of the events, now.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tool's lines are understood.
    #[test]
    fn lines() {
        let says = |kind, line: &str| {
            let line = Line {
                text: line.into(),
                read_ns: 0,
            };
            Tool::new("", kind, "", &[]).says(&line)
        };
        let kill = |hook_ns, whole| Said::Kill {
            hook_ns,
            whole,
            named: false,
        };
        let event = r#"{"kind":"oom_kill","boottime_ns":"7","candidates":{}}"#;
        assert_eq!(says(Kind::Oomtrace, event), kill(Some(7), true));
        assert_eq!(
            says(Kind::Oomtrace, r#"{"kind":"status","phase":"start"}"#),
            Said::Ready
        );
        assert_eq!(
            says(Kind::Oomtrace, r#"{"kind":"loss","lost_victims":3}"#),
            Said::Lost(3)
        );
        assert_eq!(says(Kind::Oomtrace, "no event"), Said::Other);
        assert_eq!(says(Kind::Bpftrace, "Attaching 2 probes...\n"), Said::Other);
        assert_eq!(says(Kind::Bpftrace, "ready\n"), Said::Ready);
        assert_eq!(says(Kind::Bpftrace, "123\n"), kill(Some(123), false));
        assert_eq!(says(Kind::Bpftrace, "Lost 12 events\n"), Said::Lost(12));
        assert_eq!(
            says(Kind::Oomkill, "Tracing OOM kills... Ctrl-C to end.\n"),
            Said::Ready
        );
        assert_eq!(
            says(Kind::Oomkill, "01:02:03 Triggered by PID 1"),
            kill(None, false)
        );
    }
}
