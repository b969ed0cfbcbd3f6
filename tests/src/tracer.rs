//! The program under test, running.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Env, PATIENCE, schema::Schema};

/// `oomtrace trace --format json`, attached.
pub struct Tracer {
    child: Child,
    lines: mpsc::Receiver<Vec<u8>>,
    stderr: Option<JoinHandle<String>>,
    /// What it has written so far.
    pub records: Vec<Value>,
    schema: Schema,
}

/// What is left of a tracer that has ended.
#[derive(Debug)]
pub struct Ended {
    /// All it wrote.
    pub records: Vec<Value>,
    /// What it said on standard error.
    pub stderr: String,
    /// How it ended.
    pub status: ExitStatus,
}

impl Tracer {
    /// Starts it with `args` and waits until it is attached.
    ///
    /// # Errors
    /// When it does not attach.
    pub fn start(env: &Env, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(&env.oomtrace);
        command.args(["trace", "--format", "json"]).args(args);
        if let Some(hooks) = &env.hooks
            && !args.contains(&"--hooks")
        {
            command.args(["--hooks", hooks]);
        }
        Self::spawn(env, command)
    }

    /// Starts it as `command` says and waits until it is attached.
    ///
    /// # Errors
    /// When it does not attach.
    pub fn spawn(env: &Env, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().context("its output")?;
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut pipe = child.stderr.take().context("its standard error")?;
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = pipe.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut tracer = Self {
            child,
            lines,
            stderr: Some(stderr),
            records: Vec::new(),
            schema: Schema::of(env)?,
        };
        let first = tracer.wait_for("its first record", |_| true);
        match first {
            Ok(first) if first["kind"] == "status" && first["phase"] == "start" => Ok(tracer),
            Ok(first) => bail!("its first record is not the start: {first}"),
            Err(error) => {
                let _ = tracer.child.kill();
                let stderr = tracer.said();
                Err(error.context(format!("oomtrace did not attach; it said: {stderr}")))
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first record, old or new, that `wanted` takes.
    ///
    /// # Errors
    /// When none comes in time, or one breaks the contract: not UTF-8, not JSON, not of the
    /// schema.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        if let Some(record) = self.records.iter().find(|record| wanted(record)) {
            return Ok(record.clone());
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                .with_context(|| format!("waiting for {what}"))?;
            let record = self.take(&line)?;
            if wanted(&record) {
                return Ok(record);
            }
        }
    }

    /// A record that is wanted, if it has come by now.
    ///
    /// # Errors
    /// When a line is not valid JSON, or not what the schema says.
    pub fn poll(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Option<Value>> {
        while let Ok(line) = self.lines.try_recv() {
            self.take(&line)?;
        }
        Ok(self.records.iter().find(|record| wanted(record)).cloned())
    }

    fn take(&mut self, line: &[u8]) -> Result<Value> {
        let text = std::str::from_utf8(line).context("a record is not UTF-8")?;
        let record: Value =
            serde_json::from_str(text).with_context(|| format!("no JSON: {text:?}"))?;
        self.schema
            .check(&record)
            .with_context(|| format!("against the schema: {text}"))?;
        self.records.push(record.clone());
        Ok(record)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(pid(self.child.id())?, signal).context("signalling oomtrace")
    }

    /// Ends it by SIGTERM.
    ///
    /// # Errors
    /// As [`Tracer::ended`]; also when it does not end well.
    pub fn stop(self) -> Result<Ended> {
        self.signal(Signal::TERM)?;
        let ended = self.ended()?;
        ensure!(
            ended.status.success(),
            "oomtrace ended with {}: {}",
            ended.status,
            ended.stderr
        );
        Ok(ended)
    }

    /// Waits for its end and takes what it wrote.
    ///
    /// # Errors
    /// When it does not end, or a record breaks the contract: its form, or a gap in `seq`.
    pub fn ended(mut self) -> Result<Ended> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.take(&line)?;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("oomtrace does not end"),
            }
        }
        let status = self.child.wait().context("waiting for oomtrace")?;
        let stderr = self.said();
        let records = std::mem::take(&mut self.records);
        for (expected, record) in records.iter().enumerate() {
            ensure!(
                record["seq"] == expected,
                "record {expected} has seq {}",
                record["seq"]
            );
        }
        Ok(Ended {
            records,
            stderr,
            status,
        })
    }

    fn said(&mut self) -> String {
        self.stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::CONT);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Ended {
    /// The records of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.records
            .iter()
            .filter(move |record| record["kind"] == kind)
    }

    /// The last record, which says that the tracer stops and why.
    ///
    /// # Errors
    /// When it is another.
    pub fn farewell(&self) -> Result<&Value> {
        let last = self.records.last().context("it wrote nothing")?;
        ensure!(
            last["kind"] == "status" && last["phase"] == "stop",
            "the last record is not the stop: {last}"
        );
        Ok(last)
    }
}

/// Runs `oomtrace` with `args` to its end.
///
/// # Errors
/// When it does not start or does not end.
pub fn run(env: &Env, args: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new(&env.oomtrace);
    command.args(args);
    output(command)
}

/// Runs a command to its end, which must come.
///
/// # Errors
/// When it does not start or does not end within [`PATIENCE`].
pub fn output(mut command: Command) -> Result<std::process::Output> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let victim = pid(child.id())?;
    let (done, waiting) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = waiting.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = kill_process(victim, Signal::KILL);
        }
        late
    });
    let output = child.wait_with_output().context("waiting for it")?;
    drop(done);
    let late = watchdog.join().unwrap_or(true);
    ensure!(
        !late,
        "{command:?} did not end within {} s",
        PATIENCE.as_secs()
    );
    Ok(output)
}

/// Waits for the end of a child, at most `patience`.
///
/// # Errors
/// When it does not end; it is then killed.
pub fn wait_at_most(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().context("waiting for a child")? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("it did not end within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Has `prepare` run in the child between fork and exec.
pub fn before_exec(
    command: &mut Command,
    prepare: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the callers' closures make system calls only; they neither allocate nor lock.
    unsafe {
        command.pre_exec(prepare);
    }
}

fn pid(number: u32) -> Result<Pid> {
    i32::try_from(number)
        .ok()
        .and_then(Pid::from_raw)
        .context("not a process id")
}
