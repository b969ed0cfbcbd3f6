//! A process that is held at the door: traced, it stops when it exits, before it gives back its
//! memory (`PTRACE_EVENT_EXIT`). To the OOM killer it is one that takes its time.

use std::io;

use anyhow::{Context, Result, ensure};

use crate::wait_for;

/// A child that will stop, or has, when it exits. Only the thread that seized it may use this.
#[derive(Debug)]
pub struct Held {
    pid: libc::pid_t,
}

impl Held {
    /// Sees to it that a child of one thread stops when it exits.
    ///
    /// # Errors
    /// When it may not be traced.
    pub fn seize(pid: u32) -> Result<Self> {
        let pid = libc::pid_t::try_from(pid)?;
        // SAFETY: no memory is passed.
        let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, libc::PTRACE_O_TRACEEXIT) };
        ensure!(
            result == 0,
            "tracing the victim: {}",
            io::Error::last_os_error()
        );
        Ok(Self { pid })
    }

    /// Waits until it stands at the door.
    ///
    /// # Errors
    /// When it does not come there.
    pub fn stops(&self) -> Result<()> {
        wait_for("the victim's stop at its exit", || {
            let mut status = 0;
            // SAFETY: the status is ours.
            let found =
                unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL | libc::WNOHANG) };
            ensure!(found >= 0, "waiting: {}", io::Error::last_os_error());
            if found == 0 {
                return Ok(None);
            }
            ensure!(
                status >> 8 == libc::SIGTRAP | (libc::PTRACE_EVENT_EXIT << 8),
                "the victim did not stop at its exit: {status:#x}"
            );
            Ok(Some(()))
        })
    }

    /// Lets it pass.
    ///
    /// # Errors
    /// When it is gone.
    pub fn let_go(self) -> Result<()> {
        self.detach().context("letting the victim go")
    }

    fn detach(&self) -> io::Result<()> {
        // SAFETY: no memory is passed.
        match unsafe { libc::ptrace(libc::PTRACE_DETACH, self.pid, 0, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may be gone, or let go before.
        let _ = self.detach();
    }
}
