//! Real parts of Kubernetes on this machine: a containerd with pods of its own, and an API server
//! with its etcd. Each has folders, sockets and ports of its own, and ends with its value.

pub mod chart;
pub mod cluster;
pub mod containerd;
mod cri;
pub mod proxy;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::PATIENCE;

/// Where `cargo xtask k8s` leaves what it makes.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

/// A program that is ended with its value.
pub struct Server {
    child: Child,
    name: String,
}

impl Server {
    /// Starts it; what it says goes to a file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, log: PathBuf) -> Result<Self> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)?;
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { child, name })
    }

    /// Stops it where it is, or lets it go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("its process id")?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Whether it is still there.
    ///
    /// # Errors
    /// When it has ended.
    pub fn lives(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}", self.name),
        }
    }

    /// Ends it.
    pub fn end(&mut self) {
        let _ = self.freeze(false);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until something is so.
///
/// # Errors
/// When it does not become so.
pub fn wait_until(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match so() {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            return Err(error.unwrap_or_else(|| anyhow::anyhow!("it is not so")))
                .with_context(|| format!("waiting until {what}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command and returns what it wrote.
///
/// # Errors
/// When it fails.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Compares fields of a record, by JSON pointer.
///
/// # Errors
/// When one is another.
pub fn expect(record: &Value, expected: &[(&str, Value)]) -> Result<()> {
    for (pointer, value) in expected {
        let found = record.pointer(pointer).unwrap_or(&Value::Null);
        ensure!(
            found == value,
            "{pointer} is {found}, not {value}: {record}"
        );
    }
    Ok(())
}
