//! The node as it is now: its memory, its processes, its memory cgroups, and whose they are. What
//! `rank` and `audit` look at; all of it is in `/proc` and the cgroup file system.

pub mod cgroups;
pub mod task;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cgroups::Hierarchy;

use crate::{event::Whose, host};

/// Tells whose a cgroup path is. [`Whose::from_path`] is the least that one can tell.
pub type Names<'a> = dyn Fn(&[u8]) -> Whose + 'a;

/// Where the node's files are: `/`, or where its root is mounted.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// The files below a directory.
    pub const fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// A file of the node; `path` is absolute.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file that holds one number; `None` where it cannot be read.
    pub fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        let text = fs::read_to_string(self.at(path)).ok()?;
        text.trim().parse().ok()
    }

    /// The node's memory.
    ///
    /// # Errors
    /// When `/proc` is not mounted, or not the kernel's.
    pub fn memory(&self) -> io::Result<Memory> {
        let text = fs::read_to_string(self.at("/proc/meminfo"))?;
        Memory::parse(&text).ok_or_else(|| io::Error::other("/proc/meminfo is not what it was"))
    }

    /// Where the memory cgroups are.
    pub fn hierarchy(&self) -> Option<Hierarchy> {
        let mounts = fs::read_to_string(self.at("/proc/self/mounts")).ok()?;
        Hierarchy::find(&mounts, |place| {
            let file = self.at(place).join("cgroup.controllers");
            fs::read_to_string(file).unwrap_or_default()
        })
        .map(|hierarchy| Hierarchy {
            mount: self.at(hierarchy.mount),
            ..hierarchy
        })
    }
}

/// The node's memory, in bytes (`/proc/meminfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the kernel manages: `totalram_pages`.
    pub total: u64,
    /// Swap space, used or not: `total_swap_pages`.
    pub swap: u64,
    /// Free.
    pub free: Option<u64>,
    /// File pages that can go first.
    pub inactive_file: Option<u64>,
}

impl Memory {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            host::kilobytes(line.strip_prefix(':')?)
        };
        Some(Self {
            total: field("MemTotal")?,
            swap: field("SwapTotal")?,
            free: field("MemFree"),
            inactive_file: field("Inactive(file)"),
        })
    }

    /// What a decision for the whole node could use: what `out_of_memory` and `proc_oom_score` take.
    pub const fn node_bytes(&self) -> u64 {
        self.total.saturating_add(self.swap)
    }

    /// What the kubelet calls `memory.available`: capacity less the working set, which is what is
    /// used less inactive file pages.
    pub fn available(&self) -> Option<u64> {
        self.free?.checked_add(self.inactive_file?)
    }
}

/// How many percent of the last minute every task that had work waited for memory: `avg60` of `full`
/// in `/proc/pressure/memory`.
pub fn full_pressure(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("full "))?;
    host::pressure(line, "avg60")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes by exact names; a file without them is none.
    #[test]
    fn memory() {
        let text = "MemTotal:       1000 kB\nMemFree:         300 kB\nMemAvailable: 900 kB\n\
                    SwapCached:  1 kB\nInactive(file):   50 kB\nSwapTotal:  200 kB\n";
        let memory = Memory::parse(text);
        assert_eq!(
            memory,
            Some(Memory {
                total: 1000 << 10,
                swap: 200 << 10,
                free: Some(300 << 10),
                inactive_file: Some(50 << 10),
            })
        );
        assert_eq!(memory.and_then(|m| m.available()), Some(350 << 10));
        assert_eq!(memory.map(|m| m.node_bytes()), Some(1200 << 10));
        assert_eq!(Memory::parse("MemTotal: 1000\n"), None);
        assert_eq!(Memory::parse(""), None);
    }

    /// The line of `full`, not that of `some`.
    #[test]
    fn pressure() {
        let text = "some avg10=9.00 avg60=8.00 avg300=7.00 total=1\n\
                    full avg10=3.00 avg60=2.50 avg300=1.00 total=1\n";
        assert_eq!(full_pressure(text), Some(2.5));
        assert_eq!(full_pressure("some avg60=8.00\n"), None);
    }
}
