//! The processes of the node, as the OOM killer counts them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Root;
use crate::{explain::Footprint, host};

/// `PF_KTHREAD` of `include/linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;
/// Below this a process that can be chosen may have an `oom_score` of 0.
const LEAST_TELLING_ADJ: i32 = -997;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// When it was started, in clock ticks since boot.
    pub started: u64,
    /// What it holds.
    pub held: Footprint,
    /// Its `oom_score_adj`.
    pub oom_score_adj: i32,
    /// Its memory cgroup, from the root of the hierarchy.
    pub cgroup: Vec<u8>,
    /// Why the OOM killer would not take it.
    pub spared: Option<Spared>,
}

/// Why the OOM killer passes a process over (`oom_badness` in `mm/oom_kill.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spared {
    /// It is a thread of the kernel's.
    Kernel,
    /// It is the first process.
    Init,
    /// Its `oom_score_adj` is -1000.
    Adj,
    /// It has no memory any more: it exits, or is a zombie.
    NoMemory,
    /// The kernel says so, by an `oom_score` of 0: its memory has been reaped already, or is its
    /// parent's until it calls exec.
    Other,
}

/// All processes. One pass: those that are born or die meanwhile are there or not.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn all(root: &Root, cgroup_version: u8, page_size: u64) -> std::io::Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for entry in fs::read_dir(root.at("/proc"))? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Gone since the directory was read.
        tasks.extend(Task::read(&entry.path(), pid, cgroup_version, page_size));
    }
    Ok(tasks)
}

impl Task {
    /// Reads `/proc/PID`; `None` when it is gone.
    pub fn read(directory: &Path, pid: u32, cgroup_version: u8, page_size: u64) -> Option<Self> {
        let read = |file: &str| fs::read(directory.join(file)).ok();
        let number = |file: &str| String::from_utf8(read(file)?).ok()?.trim().parse().ok();
        let stat = Stat::parse(&read("stat")?)?;
        let oom_score_adj: i32 = number("oom_score_adj").and_then(|n: i64| n.try_into().ok())?;
        let mut task = Self {
            pid,
            comm: stat.comm.clone(),
            started: stat.started,
            held: Footprint {
                rss_pages: stat.rss_pages,
                swap_pages: 0,
                pgtables_bytes: 0,
            },
            oom_score_adj,
            cgroup: Vec::new(),
            spared: None,
        };
        if stat.flags & PF_KTHREAD != 0 {
            task.spared = Some(Spared::Kernel);
            return Some(task);
        }
        task.cgroup = memory_cgroup(&read("cgroup")?, cgroup_version).unwrap_or_default();
        let memory = Held::parse(&read("status")?)
            .map(|held| (stat.rss_pages, held))
            .or_else(|| of_a_thread(directory));
        if let Some((rss_pages, held)) = memory {
            task.held = Footprint {
                rss_pages,
                swap_pages: held.swap_bytes / page_size.max(1),
                pgtables_bytes: held.pgtables_bytes,
            };
        }
        let score: Option<i64> = number("oom_score");
        task.spared = match (memory, oom_score_adj, score) {
            (None, ..) => Some(Spared::NoMemory),
            (_, -1000, _) => Some(Spared::Adj),
            // In another PID namespace the first process is one like any other.
            (.., Some(0) | None) if pid == 1 => Some(Spared::Init),
            (_, LEAST_TELLING_ADJ.., Some(0)) => Some(Spared::Other),
            _ => None,
        };
        Some(task)
    }
}

/// The memory of a process whose first thread has exited: another thread has it
/// (`find_lock_task_mm` in `mm/oom_kill.c`).
fn of_a_thread(directory: &Path) -> Option<(u64, Held)> {
    let threads: Vec<PathBuf> = fs::read_dir(directory.join("task"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    threads.iter().find_map(|thread| {
        let held = Held::parse(&fs::read(thread.join("status")).ok()?)?;
        let stat = Stat::parse(&fs::read(thread.join("stat")).ok()?)?;
        Some((stat.rss_pages, held))
    })
}

/// What is needed of `/proc/PID/stat` (`do_task_stat`, fs/proc/array.c).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    comm: String,
    flags: u64,
    started: u64,
    /// The kernel's quick sum, as the OOM killer reads it: `status` has an exact one on newer
    /// kernels, which may differ by some dozens of pages a processor.
    rss_pages: u64,
}

impl Stat {
    fn parse(text: &[u8]) -> Option<Self> {
        // A name may have any of the characters that are around it.
        let start = memchr::memchr(b'(', text)?;
        let end = memchr::memrchr(b')', text)?;
        let comm = text.get(start + 1..end)?;
        let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |index: usize| fields.get(index)?.parse::<i64>().ok();
        let number = |index: usize| u64::try_from(field(index)?).ok();
        Some(Self {
            comm: String::from_utf8_lossy(comm).into_owned(),
            flags: number(6)?,
            started: number(19)?,
            rss_pages: number(21)?,
        })
    }
}

/// What is needed of `/proc/PID/status` (`task_mem`, fs/proc/task_mmu.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    swap_bytes: u64,
    pgtables_bytes: u64,
}

impl Held {
    /// `None` for a task without memory.
    fn parse(text: &[u8]) -> Option<Self> {
        let field = |name: &[u8]| {
            let line = text
                .split(|&byte| byte == b'\n')
                .find_map(|line| line.strip_prefix(name))?;
            host::kilobytes(std::str::from_utf8(line).ok()?)
        };
        Some(Self {
            pgtables_bytes: field(b"VmPTE:")?,
            // Absent without CONFIG_SWAP.
            swap_bytes: field(b"VmSwap:").unwrap_or(0),
        })
    }
}

/// The path in `/proc/PID/cgroup` of the hierarchy that has the memory controller.
pub(super) fn memory_cgroup(text: &[u8], version: u8) -> Option<Vec<u8>> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let mut parts = line.splitn(3, |&byte| byte == b':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_it = match version {
            1 => controllers
                .split(|&byte| byte == b',')
                .any(|name| name == b"memory"),
            _ => id == b"0",
        };
        is_it.then(|| path.to_vec())
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A name may look like the rest of the line.
    #[test]
    fn stat() {
        let text =
            b"77 (a) R 1 (b) S 1 77 77 0 -1 4194560 100 0 0 0 1 2 3 4 20 0 1 0 5555 9000 321 \
                     18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0\n";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                comm: "a) R 1 (b".to_owned(),
                flags: 4_194_560,
                started: 5555,
                rss_pages: 321,
            })
        );
        assert_eq!(Stat::parse(b"77 (a) R 1"), None);
        assert_eq!(Stat::parse(b")("), None);
    }

    /// A task without these lines has no memory.
    #[test]
    fn status() {
        let text =
            b"Name:\tVmPTE: 1 kB\nVmRSS:\t    1764 kB\nVmPTE:\t      44 kB\nVmSwap:\t  8 kB\n";
        let held = Held::parse(text).unwrap();
        assert_eq!((held.pgtables_bytes, held.swap_bytes), (44 << 10, 8 << 10));
        assert_eq!(Held::parse(b"Name:\tkthreadd\nThreads:\t1\n"), None);
    }

    /// The line of the memory controller; a path may have colons.
    #[test]
    fn cgroup() {
        let text = b"9:name=systemd:/s\n4:cpu,memory:/a:b/c\n0::/u\n";
        assert_eq!(memory_cgroup(text, 1).as_deref(), Some(&b"/a:b/c"[..]));
        assert_eq!(memory_cgroup(text, 2).as_deref(), Some(&b"/u"[..]));
        assert_eq!(memory_cgroup(b"0::/u\n", 1), None);
    }

    /// This process, which can be chosen, and holds something.
    #[test]
    fn this_process() {
        let pid = std::process::id();
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let text = fs::read(directory.join("cgroup")).unwrap();
        let version = if memory_cgroup(&text, 1).is_some() {
            1
        } else {
            2
        };
        let task = Task::read(&directory, pid, version, 4096).unwrap();
        assert_eq!(task.spared, None);
        assert!(task.held.rss_pages > 0 && task.held.pgtables_bytes > 0);
    }
}
