//! Processes to be killed: `oomtrace-victim`, as seen from the test.

use std::{
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::{Env, PATIENCE, cgroup::Cgroup, tracer::wait_at_most};

/// A process that waits to be let go.
pub struct Victim {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

/// How a victim is to look.
#[derive(Clone, Debug, Default)]
pub struct Look<'a> {
    /// Its user id.
    pub uid: Option<u32>,
    /// Its name.
    pub comm: Option<&'a [u8]>,
    /// Its `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// The memory node that its memory is bound to.
    pub policy: Option<u32>,
}

impl Victim {
    /// Starts one, moves it into `cgroup`, and waits until it waits.
    ///
    /// # Errors
    /// When it does not start, or may not be moved.
    pub fn start(env: &Env, cgroup: &Cgroup, look: &Look<'_>, mode: &[&str]) -> Result<Self> {
        let mut command = Command::new(&env.victim);
        if let Some(uid) = look.uid {
            command.arg(format!("--uid={uid}"));
        }
        if let Some(comm) = look.comm {
            let digits: String = comm.iter().map(|byte| format!("{byte:02x}")).collect();
            command.arg(format!("--comm={digits}"));
        }
        if let Some(adj) = look.oom_score_adj {
            command.arg(format!("--oom-score-adj={adj}"));
        }
        if let Some(node) = look.policy {
            command.arg(format!("--policy={node}"));
        }
        let mut child = command
            .args(mode)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("its output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let victim = Self {
            child,
            stdin,
            lines,
        };
        cgroup.admit(victim.pid())?;
        victim.says("ready")?;
        Ok(victim)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for it to say `word`, and takes the numbers after it.
    ///
    /// # Errors
    /// When it says something else, or nothing.
    pub fn says(&self, word: &str) -> Result<Vec<u32>> {
        self.says_while(word, || Ok(0))
    }

    /// The same, where it has much to do: it is waited for as long as `progress` grows.
    ///
    /// # Errors
    /// When it says something else, or nothing, or `progress` fails.
    pub fn says_while(
        &self,
        word: &str,
        mut progress: impl FnMut() -> Result<u64>,
    ) -> Result<Vec<u32>> {
        let mut before = progress()?;
        let line = loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => break line,
                Err(error) => {
                    let now = progress()?;
                    if error == RecvTimeoutError::Disconnected || now <= before {
                        return Err(error)
                            .with_context(|| format!("waiting for the victim to say {word:?}"));
                    }
                    before = now;
                }
            }
        };
        let mut words = line.split(' ');
        ensure!(
            words.next() == Some(word),
            "the victim said {line:?} and not {word:?}"
        );
        words
            .map(|word| {
                word.parse()
                    .with_context(|| format!("the victim said {line:?}"))
            })
            .collect()
    }

    /// Keeps it to one processor; `idle` for when nobody else wants that.
    ///
    /// # Errors
    /// When it is gone.
    pub fn runs_on_the_first_processor(&self, idle: bool) -> Result<()> {
        let pid = i32::try_from(self.pid())?;
        let ours = sched_getaffinity(None)?;
        let mut one = CpuSet::new();
        let first = (0..CpuSet::MAX_CPU).find(|cpu| ours.is_set(*cpu));
        one.set(first.context("no processor")?);
        sched_setaffinity(Pid::from_raw(pid), &one)?;
        if idle {
            let parameters = libc::sched_param { sched_priority: 0 };
            // SAFETY: the kernel only reads the parameters.
            let result =
                unsafe { libc::sched_setscheduler(pid, libc::SCHED_IDLE, &raw const parameters) };
            ensure!(
                result == 0,
                "sched_setscheduler: {}",
                io::Error::last_os_error()
            );
        }
        Ok(())
    }

    /// Lets it go.
    ///
    /// # Errors
    /// When it is gone.
    pub fn go(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("it has been let go already")?;
        stdin.write_all(b"\n").context("letting the victim go")
    }

    /// Waits until it has been killed.
    ///
    /// # Errors
    /// When it ends otherwise, or not at all.
    pub fn dies(&mut self) -> Result<()> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.end()?;
        ensure!(
            status.signal() == Some(libc::SIGKILL),
            "the victim ended with {status}"
        );
        Ok(())
    }

    /// Whether it still lives.
    ///
    /// # Errors
    /// When it is nobody's.
    pub fn lives(&mut self) -> Result<bool> {
        Ok(self
            .child
            .try_wait()
            .context("looking after the victim")?
            .is_none())
    }

    /// Kills it as anybody may.
    ///
    /// # Errors
    /// When it is gone.
    pub fn kill(&self) -> Result<()> {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .context("its id")?;
        kill_process(pid, Signal::KILL).context("killing the victim")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not come.
    pub fn end(&mut self) -> Result<ExitStatus> {
        wait_at_most(&mut self.child, PATIENCE)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
