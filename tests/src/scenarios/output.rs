//! Standard output: closed, full, not read; and what a person sees on it.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{LIMIT, MIB, Needs, Outcome, Scenario};
use crate::{
    Env, PATIENCE,
    cgroup::Cgroup,
    oracle::KernelLog,
    tracer::wait_at_most,
    victim::{Look, Victim},
    watch::with_report,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "closed_pipe",
        shows: "A reader that leaves ends it quietly, with exit status 0.",
        needs: Needs::Nothing,
        run: closed_pipe,
    },
    Scenario {
        name: "nobody_reads",
        shows: "When nobody reads its output, SIGTERM still ends it soon, with exit status 1 and a \
                message.",
        needs: Needs::Nothing,
        run: nobody_reads,
    },
    Scenario {
        name: "full_disk",
        shows: "When its output cannot be written, it says so and ends with exit status 1.",
        needs: Needs::Nothing,
        run: full_disk,
    },
    Scenario {
        name: "pretty",
        shows: "The readable view names the victim, the limit and the trigger, without escape \
                sequences where there is no terminal.",
        needs: Needs::Nothing,
        run: pretty,
    },
    Scenario {
        name: "pretty_is_safe",
        shows: "A name full of escape sequences does not reach a terminal as such.",
        needs: Needs::Nothing,
        run: pretty_is_safe,
    },
];

/// A tracer whose output is the scenario's own business.
struct Bare(Child);

impl Bare {
    fn start(env: &Env, args: &[&str], stdout: Stdio) -> Result<Self> {
        let mut command = Command::new(&env.oomtrace);
        command.arg("trace").args(args);
        if let Some(hooks) = &env.hooks {
            command.args(["--hooks", hooks]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .context("starting oomtrace")?;
        Ok(Self(child))
    }

    /// Waits until it says on standard error that it watches, and gives back the rest.
    fn watches(&mut self) -> Result<impl Read + use<>> {
        let mut stderr = BufReader::new(self.0.stderr.take().context("its standard error")?);
        let mut line = String::new();
        loop {
            line.clear();
            let length = stderr.read_line(&mut line).context("its standard error")?;
            ensure!(length > 0, "it ended before it watched");
            if line.contains("watching kernel") {
                return Ok(stderr);
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.0.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("its id")?;
        kill_process(pid, signal).context("signalling oomtrace")
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn kill_one(env: &Env, look: &Look<'_>) -> Result<u32> {
    let cgroup = Cgroup::new("output")?;
    cgroup.limit(LIMIT)?;
    let mut victim = Victim::start(env, &cgroup, look, &["eat"])?;
    victim.go()?;
    victim.dies()?;
    Ok(victim.pid())
}

fn rest_of(mut stderr: impl Read) -> Result<String> {
    let mut text = String::new();
    stderr
        .read_to_string(&mut text)
        .context("its standard error")?;
    Ok(text)
}

fn closed_pipe(env: &Env) -> Result<Outcome> {
    let mut tracer = Bare::start(
        env,
        &["--format", "json", "--heartbeat", "1s"],
        Stdio::piped(),
    )?;
    let stderr = tracer.watches()?;
    let mut out = BufReader::new(tracer.0.stdout.take().context("its output")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    ensure!(line.contains("\"start\""), "the first line is {line:?}");
    drop(out);
    let status = wait_at_most(&mut tracer.0, PATIENCE)?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    let said = rest_of(stderr)?;
    ensure!(said.is_empty(), "it was not quiet: {said:?}");
    Ok(Outcome::Passed)
}

fn nobody_reads(env: &Env) -> Result<Outcome> {
    let mut tracer = Bare::start(
        env,
        &["--format", "json", "--heartbeat", "0"],
        Stdio::piped(),
    )?;
    let stderr = tracer.watches()?;
    let pipe = tracer.0.stdout.take().context("its output")?;
    // The least a pipe can hold is a page; every kill fills more than 1 KiB of it.
    let page = rustix::param::page_size();
    rustix::pipe::fcntl_setpipe_size(&pipe, page).context("making the pipe small")?;
    for _ in 0..page / 1024 {
        kill_one(env, &Look::default())?;
    }
    tracer.signal(Signal::TERM)?;
    let status = wait_at_most(&mut tracer.0, PATIENCE)?;
    ensure!(status.code() == Some(1), "it ended with {status}");
    let said = rest_of(stderr)?;
    ensure!(
        said.contains("standard output") && said.contains("nobody reads"),
        "it said {said:?}"
    );
    drop(pipe);
    Ok(Outcome::Passed)
}

fn full_disk(env: &Env) -> Result<Outcome> {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .context("/dev/full")?;
    let mut tracer = Bare::start(env, &["--format", "json"], full.into())?;
    let status = wait_at_most(&mut tracer.0, PATIENCE)?;
    let said = rest_of(tracer.0.stderr.take().context("its standard error")?)?;
    ensure!(status.code() == Some(1), "it ended with {status}: {said}");
    let last = said.lines().last().unwrap_or_default();
    ensure!(
        last.starts_with("oomtrace: ")
            && last.contains("standard output")
            && last.contains("No space left on device"),
        "it said {said:?}"
    );
    Ok(Outcome::Passed)
}

/// The readable view of the death of a process that looks so.
fn seen_by_a_person(env: &Env, color: &str, look: &Look<'_>) -> Result<(String, u32)> {
    let args = ["--format", "pretty", "--color", color, "--heartbeat", "0"];
    let mut tracer = Bare::start(env, &args, Stdio::piped())?;
    let _stderr = tracer.watches()?;
    let pid = kill_one(env, look)?;
    tracer.signal(Signal::TERM)?;
    let mut text = Vec::new();
    let mut out = tracer.0.stdout.take().context("its output")?;
    let status = wait_at_most(&mut tracer.0, PATIENCE)?;
    ensure!(status.success(), "it ended with {status}");
    out.read_to_end(&mut text)?;
    Ok((String::from_utf8(text).context("it is not UTF-8")?, pid))
}

fn pretty(env: &Env) -> Result<Outcome> {
    let look = Look {
        comm: Some(b"hungry-one"),
        ..Look::default()
    };
    let text = with_report(|| {
        let mut log = KernelLog::open()?;
        let (text, pid) = seen_by_a_person(env, "auto", &look)?;
        let report = log.account_of(pid)?.report;
        ensure!(
            text.contains(&pid.to_string()),
            "it does not tell the pid, {pid}:\n{text}"
        );
        Ok(report.map(|_| text))
    })?;
    let control = text.chars().find(|char| char.is_control() && *char != '\n');
    ensure!(
        control.is_none(),
        "it has the control character {control:?}: {text:?}"
    );
    for word in ["hungry-one", "trigger", "limit", "was killed because"] {
        ensure!(text.contains(word), "it does not tell {word:?}:\n{text}");
    }
    if super::merges_the_log(env) {
        let full = format!("{0}.0 MiB of {0}.0 MiB (100 %)", LIMIT / MIB);
        ensure!(text.contains(&full), "it does not tell {full:?}:\n{text}");
    }
    let (colored, _) = seen_by_a_person(env, "always", &look)?;
    ensure!(
        colored.contains('\u{1b}'),
        "--color always has no colours: {colored:?}"
    );
    Ok(Outcome::Passed)
}

fn pretty_is_safe(env: &Env) -> Result<Outcome> {
    // Clears the screen, sets the title, moves to another line.
    for name in [
        b"\x1b[2J\x1b[31mX\rY\x07".as_slice(),
        b"\xc2\x9b31m\x1b]0;t\x07\n!",
        b"a\x08\x7f\x0b\x0c",
    ] {
        let look = Look {
            comm: Some(name),
            ..Look::default()
        };
        let (text, _) = seen_by_a_person(env, "always", &look)?;
        let plain = without_colors(&text)
            .with_context(|| format!("an escape sequence that is no colour in {text:?}"))?;
        let control = plain
            .chars()
            .find(|char| char.is_control() && *char != '\n');
        ensure!(
            control.is_none(),
            "the control character {control:?} in {text:?}"
        );
        ensure!(
            !text.contains("\u{1b}[31mX"),
            "the victim chose its colour: {text:?}"
        );
    }
    Ok(Outcome::Passed)
}

/// Takes colour sequences (`ESC [ digits and semicolons m`) away; none if there is any other.
fn without_colors(text: &str) -> Option<String> {
    let mut parts = text.split('\u{1b}');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let end = part.find(|char: char| !matches!(char, '[' | ';' | '0'..='9'))?;
        let rest = part[end..]
            .strip_prefix('m')
            .filter(|_| part.starts_with('['))?;
        plain.push_str(rest);
    }
    Some(plain)
}
