//! A machine of one's own. Where memory runs out for the whole machine, or in one of its nodes, the
//! kernel may take anybody: that is played only where nobody else is.

use std::{ffi::CString, fs, io, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{read, wait_for};

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

/// A share of the memory and swap that can still be taken, in MiB.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn share_of_available(percent: u64) -> Result<u64> {
    let available = meminfo("MemAvailable")? + meminfo("SwapFree")?;
    Ok((available >> 20) * percent / 100)
}

/// How much memory a memory node has (`node_present_pages` in the kernel), in bytes.
///
/// # Errors
/// When there is no such node, though this machine should have it.
pub fn present(node: u32) -> Result<u64> {
    let text = read("/proc/zoneinfo")?;
    let heading = format!("Node {node}, ");
    let mut pages = None;
    let mut here = false;
    for line in text.lines() {
        if line.starts_with("Node ") {
            here = line.starts_with(&heading);
        } else if let Some(number) = line.trim_start().strip_prefix("present ")
            && here
        {
            *pages.get_or_insert(0) += number.trim().parse::<u64>()?;
        }
    }
    let pages = pages.with_context(|| format!("this machine has no memory node {node}"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// A share of a memory node's free memory, in MiB.
///
/// # Errors
/// When there is no such node, though this machine should have it.
pub fn share_of_node(node: u32, percent: u64) -> Result<u64> {
    let text = read(format!("/sys/devices/system/node/node{node}/meminfo"))?;
    let kb: u64 = text
        .lines()
        .find_map(|line| {
            let (_, number) = line.split_once(" MemFree:")?;
            number.trim().strip_suffix(" kB")?.parse().ok()
        })
        .with_context(|| format!("memory node {node} does not tell its free memory"))?;
    Ok((kb >> 10) * percent / 100)
}

/// The disk that the virtual machine has for it.
const SWAP_DISK: &str = "/dev/nvme0n1";
/// How much of it is used: soon full.
const SWAP_BYTES: u64 = 64 << 20;

/// Swap space, for as long as this lives.
#[derive(Debug)]
pub struct Swap(CString);

impl Swap {
    /// Writes a swap header to the disk (`union swap_header` in `include/linux/swap.h`) and
    /// swaps to it.
    ///
    /// # Errors
    /// When the disk is missing, though this machine should have it, or is refused.
    pub fn on() -> Result<Self> {
        ensure!(is_own()?, "this is nobody's own machine");
        let page = rustix::param::page_size();
        let last_page = u32::try_from(SWAP_BYTES / page as u64 - 1)?;
        let mut header = vec![0; page];
        header[page - 10..].copy_from_slice(b"SWAPSPACE2");
        let version = 1_u32;
        header[1024..1028].copy_from_slice(&version.to_ne_bytes());
        header[1028..1032].copy_from_slice(&last_page.to_ne_bytes());
        wait_for("the disk to swap to", || {
            Ok(Path::new(SWAP_DISK).exists().then_some(()))
        })?;
        fs::write(SWAP_DISK, header).with_context(|| format!("writing to {SWAP_DISK}"))?;
        let disk = CString::new(SWAP_DISK)?;
        // SAFETY: a string that ends in NUL.
        let result = unsafe { libc::swapon(disk.as_ptr(), 0) };
        ensure!(result == 0, "swapon: {}", io::Error::last_os_error());
        Ok(Self(disk))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // SAFETY: as above.
        if unsafe { libc::swapoff(self.0.as_ptr()) } != 0 {
            eprintln!("swapoff: {}", io::Error::last_os_error());
        }
    }
}

/// Where a tmpfs is mounted that anything can be written to.
///
/// # Errors
/// When this machine should have one and has not.
pub fn tmpfs() -> Result<Option<&'static str>> {
    let found = ["/tmp", "/dev/shm"].into_iter().find(|directory| {
        rustix::fs::statfs(*directory).is_ok_and(|fs| fs.f_type == libc::TMPFS_MAGIC)
    });
    ensure!(found.is_some() || !is_own()?, "there is no tmpfs");
    Ok(found)
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
