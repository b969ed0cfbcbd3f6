//! Memory cgroups of a test's own: made, limited, and removed together with what is left in them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{PATIENCE, read};

/// The hierarchy that has the memory controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub root: PathBuf,
    /// 1 or 2.
    pub version: u8,
}

/// Finds the hierarchy that has the memory controller.
///
/// # Errors
/// When none is mounted.
pub fn hierarchy() -> Result<Hierarchy> {
    for mount in read("/proc/self/mounts")?.lines() {
        let mut fields = mount.split(' ').skip(1);
        let (Some(place), Some(kind), Some(options)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let root = PathBuf::from(place);
        if kind == "cgroup" && options.split(',').any(|option| option == "memory") {
            return Ok(Hierarchy { root, version: 1 });
        }
        if kind == "cgroup2"
            && read(root.join("cgroup.controllers"))
                .is_ok_and(|list| list.split_whitespace().any(|name| name == "memory"))
        {
            return Ok(Hierarchy { root, version: 2 });
        }
    }
    bail!("no cgroup hierarchy with the memory controller is mounted")
}

/// A memory cgroup. Dropping it kills what is in it and removes it, together with the levels
/// above that were made for it.
#[derive(Debug)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    directory: PathBuf,
    /// Outermost first; the last is `directory`.
    made: Vec<PathBuf>,
    /// Where cpusets were allowed for it, and are not to stay.
    cpusets: Option<PathBuf>,
}

impl Cgroup {
    /// Makes a cgroup right below the root of the hierarchy.
    ///
    /// # Errors
    /// When the hierarchy is missing or refuses.
    pub fn new(label: &str) -> Result<Self> {
        Self::nested(label, &[])
    }

    /// Makes a cgroup below the root, and in it one inside the other those named `inner`.
    ///
    /// # Errors
    /// When the hierarchy is missing or refuses.
    pub fn nested(label: &str, inner: &[String]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let hierarchy = hierarchy()?;
        if hierarchy.version == 2 {
            allow_below(&hierarchy.root, "memory")?;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let outer = format!("oomtrace-test-{}-{number}-{label}", std::process::id());
        let mut cgroup = Self {
            directory: hierarchy.root.clone(),
            hierarchy,
            made: Vec::new(),
            cpusets: None,
        };
        for name in std::iter::once(&outer).chain(inner) {
            if cgroup.hierarchy.version == 2 && !cgroup.made.is_empty() {
                allow_below(&cgroup.directory, "memory")?;
            }
            cgroup.directory.push(name);
            fs::create_dir(&cgroup.directory)
                .with_context(|| format!("making the cgroup {}", cgroup.directory.display()))?;
            cgroup.made.push(cgroup.directory.clone());
            // Before 5.11 a limit of cgroup v1 counts below it only where that was asked for.
            let hierarchical = cgroup.directory.join("memory.use_hierarchy");
            if hierarchical.exists() {
                write(&hierarchical, "1")?;
            }
        }
        Ok(cgroup)
    }

    /// Makes another one below a level of this one.
    ///
    /// # Errors
    /// When the hierarchy refuses.
    pub fn beside(&self, level: usize, name: &str) -> Result<Self> {
        if self.version() == 2 {
            allow_below(&self.made[level], "memory")?;
        }
        let directory = self.made[level].join(name);
        fs::create_dir(&directory)
            .with_context(|| format!("making the cgroup {}", directory.display()))?;
        Ok(Self {
            hierarchy: self.hierarchy.clone(),
            made: vec![directory.clone()],
            cpusets: None,
            directory,
        })
    }

    /// 1 or 2.
    pub const fn version(&self) -> u8 {
        self.hierarchy.version
    }

    /// Its path from the root of the hierarchy, as the kernel names it.
    pub fn path(&self) -> String {
        self.path_of(self.made.len() - 1)
    }

    /// The path of a level; 0 is the outermost that was made.
    pub fn path_of(&self, level: usize) -> String {
        self.made[level]
            .strip_prefix(&self.hierarchy.root)
            .map(|below| format!("/{}", below.display()))
            .unwrap_or_default()
    }

    /// Its kernfs id: the inode number of its directory.
    ///
    /// # Errors
    /// When it is gone.
    pub fn id(&self) -> Result<u64> {
        self.id_of(self.made.len() - 1)
    }

    /// The kernfs id of a level.
    ///
    /// # Errors
    /// When it is gone.
    pub fn id_of(&self, level: usize) -> Result<u64> {
        let directory = &self.made[level];
        Ok(fs::metadata(directory)
            .with_context(|| format!("looking at {}", directory.display()))?
            .ino())
    }

    /// Limits its memory.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit(&self, bytes: u64) -> Result<()> {
        self.limit_level(self.made.len() - 1, bytes)
    }

    /// Limits the memory of a level.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit_level(&self, level: usize, bytes: u64) -> Result<()> {
        let directory = &self.made[level];
        let file = if self.version() == 2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        write(&directory.join(file), &bytes.to_string())?;
        // Where there is swap, victims must not go there: these files may be missing otherwise.
        let swap = directory.join("memory.swap.max");
        if swap.exists() {
            write(&swap, "0")?;
        }
        Ok(())
    }

    /// Has the kernel kill all its processes together (cgroup v2).
    ///
    /// # Errors
    /// On cgroup v1, which cannot.
    pub fn kill_as_a_group(&self) -> Result<()> {
        ensure!(self.version() == 2, "memory.oom.group is of cgroup v2");
        write(&self.directory.join("memory.oom.group"), "1")
    }

    /// How many kills the kernel has counted in it and below: `oom_kill` in `memory.events` (v2) or
    /// `memory.oom_control` (v1).
    ///
    /// # Errors
    /// When there is no such count.
    pub fn oom_kills(&self) -> Result<u64> {
        let file = self.directory.join(if self.version() == 2 {
            "memory.events"
        } else {
            "memory.oom_control"
        });
        read(&file)?
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
            .with_context(|| format!("{} has no oom_kill", file.display()))
    }

    /// Has its processes take memory of one memory node alone (cgroup v2; of a cgroup right below
    /// the root).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bind_to_node(&mut self, node: u32) -> Result<()> {
        let root = &self.hierarchy.root;
        if allow_below(root, "cpuset")? {
            self.cpusets = Some(root.join("cgroup.subtree_control"));
        }
        write(&self.directory.join("cpuset.mems"), &node.to_string())
    }

    /// Moves a process in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn admit(&self, pid: u32) -> Result<()> {
        write(&self.directory.join("cgroup.procs"), &pid.to_string())
    }

    /// The processes in it.
    ///
    /// # Errors
    /// When it is gone.
    pub fn members(&self) -> Result<Vec<u32>> {
        Ok(read(self.directory.join("cgroup.procs"))?
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // With cpusets allowed, the kernel rewrites its page allocator's code for the first cgroup that
        // is made and the last that goes. An emulated processor may run into that and panic (seen once
        // on 6.12), so later tests do without.
        if let Some(file) = self.cpusets.take() {
            let _ = fs::write(file, "-cpuset");
        }
        let deadline = Instant::now() + PATIENCE;
        while let Some(directory) = self.made.last() {
            if fs::remove_dir(directory).is_ok() || !directory.exists() {
                self.made.pop();
                continue;
            }
            if Instant::now() > deadline {
                eprintln!("{} cannot be removed", directory.display());
                return;
            }
            // Whatever is in here was put here by this test. A dying process leaves its cgroup a
            // moment after its death.
            let members = read(directory.join("cgroup.procs")).unwrap_or_default();
            for pid in members
                .lines()
                .filter_map(|line| line.parse().ok().and_then(Pid::from_raw))
            {
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Whether it had not been allowed before.
fn allow_below(directory: &Path, controller: &str) -> Result<bool> {
    let file = directory.join("cgroup.subtree_control");
    if read(&file)?
        .split_whitespace()
        .any(|name| name == controller)
    {
        return Ok(false);
    }
    write(&file, &format!("+{controller}"))?;
    Ok(true)
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {text:?} to {}", file.display()))
}
