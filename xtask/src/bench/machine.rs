//! The machine: is it fit to measure on, and what is it.

use std::{fs, path::Path, process::Command, thread};

use anyhow::{Context, Result, bail};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::geteuid,
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::sh;

/// Checks what the bench needs, and sees to tracefs, which bpftrace needs.
pub fn prepare() -> Result<()> {
    if !geteuid().is_root() {
        bail!("the bench loads eBPF programs and makes memory cgroups: run it as root");
    }
    if Command::new("bpftrace").arg("--version").output().is_err() {
        bail!("the bench compares with bpftrace, which is not installed: apt-get install bpftrace");
    }
    if !Path::new("/sys/kernel/tracing/events").exists() {
        mount_tracefs().context("mounting tracefs, which bpftrace needs")?;
    }
    read_at_once();
    Ok(())
}

/// Lets this process, and none of its children, run as soon as it can: when a line is there to
/// read is to be measured, not when its reader gets a turn.
fn read_at_once() {
    let own = std::process::id().to_string();
    let chrt = Command::new("chrt")
        .args(["--reset-on-fork", "--rr", "--pid", "1", &own])
        .output();
    if !chrt.is_ok_and(|output| output.status.success()) {
        eprintln!("bench: chrt failed; on a busy machine the times are longer than they are");
    }
}

/// In a mount namespace of this process's own: the machine stays as it is.
fn mount_tracefs() -> Result<()> {
    // SAFETY: this thread is the only one, and file descriptors stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    mount(
        "tracefs",
        "/sys/kernel/tracing",
        "tracefs",
        MountFlags::empty(),
        None,
    )?;
    Ok(())
}

/// What the results depend on.
pub fn facts() -> Result<String> {
    let cores = thread::available_parallelism().context("counting cores")?;
    let meminfo = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let kilobytes: u64 = meminfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        })
        .context("/proc/meminfo has no MemTotal")?;
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    let load = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let bpftrace = sh::output(Command::new("bpftrace").arg("--version"))?;
    Ok(format!(
        "{cores} cores, {} GiB, load {load} before, Linux {}; {}",
        (kilobytes + (1 << 19)) >> 20,
        kernel.trim(),
        bpftrace.trim(),
    ))
}
