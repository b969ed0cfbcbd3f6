//! The tasks that the kernel marks as victims, as its own tracing tells: a witness where its log is
//! silent.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::read;

/// A trace of `oom:mark_victim`, for as long as this lives.
#[derive(Debug)]
pub struct Marks(PathBuf);

impl Marks {
    /// Begins to trace, beside whatever else is traced on this machine.
    ///
    /// # Errors
    /// When tracefs is not mounted, or refuses.
    pub fn start() -> Result<Self> {
        let instance = format!(
            "/sys/kernel/tracing/instances/oomtrace-test-{}",
            std::process::id()
        );
        fs::create_dir(&instance).with_context(|| format!("making {instance}"))?;
        let marks = Self(instance.into());
        let event = marks.0.join("events/oom/mark_victim/enable");
        fs::write(&event, "1").with_context(|| format!("writing to {}", event.display()))?;
        Ok(marks)
    }

    /// Whether a task has been marked, by its thread id.
    ///
    /// # Errors
    /// When the trace cannot be read.
    pub fn has(&self, tid: u32) -> Result<bool> {
        let task = format!("pid={tid}");
        Ok(read(self.0.join("trace"))?.lines().any(|line| {
            line.split_once(": mark_victim: ")
                .is_some_and(|(_, told)| told.split(' ').next() == Some(&task))
        }))
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} cannot be removed: {error}", self.0.display());
        }
    }
}
