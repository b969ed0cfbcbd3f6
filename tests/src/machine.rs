//! A machine of one's own. Where memory runs out for the whole machine, or in one of its nodes, the
//! kernel may take anybody: that is played only where nobody else is.

use std::{fs, os::unix::fs::MetadataExt};

use anyhow::{Context, Result, ensure};

use crate::read;

/// `PROC_PID_INIT_INO` in `include/linux/proc_ns.h`: the pid namespace of the machine itself.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether this process is the first of the machine, not just of a container.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn is_own() -> Result<bool> {
    let namespace = fs::metadata("/proc/self/ns/pid").context("looking at the pid namespace")?;
    Ok(std::process::id() == 1 && namespace.ino() == INITIAL_PID_NAMESPACE)
}

/// A number of `/proc/meminfo`, in bytes.
///
/// # Errors
/// When there is no such line.
pub fn meminfo(name: &str) -> Result<u64> {
    let kb: u64 = read("/proc/meminfo")?
        .lines()
        .find_map(|line| {
            let number = line.strip_prefix(name)?.strip_prefix(':')?;
            number.trim().strip_suffix(" kB")?.parse().ok()
        })
        .with_context(|| format!("/proc/meminfo has no {name}"))?;
    Ok(kb * 1024)
}

/// A share of the memory that can still be taken, in MiB.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn share_of_available(percent: u64) -> Result<u64> {
    Ok((meminfo("MemAvailable")? >> 20) * percent / 100)
}

/// A kernel setting that is put back when this is dropped.
#[derive(Debug)]
pub struct Setting {
    file: &'static str,
    before: String,
}

impl Setting {
    /// Changes a file below `/proc/sys`.
    ///
    /// # Errors
    /// When it may not be changed.
    pub fn set(file: &'static str, value: &str) -> Result<Self> {
        ensure!(is_own()?, "this is nobody's own machine");
        let before = read(file)?;
        fs::write(file, value).with_context(|| format!("writing {value:?} to {file}"))?;
        Ok(Self { file, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.file, &self.before) {
            eprintln!("{} cannot be put back: {error}", self.file);
        }
    }
}
