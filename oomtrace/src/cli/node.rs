//! The node that `rank` and `audit` look at.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    event::{self, Whose, boottime_ns, rfc3339},
    host,
    incident::Directory as _,
    kubernetes::Kubernetes,
    node::{
        Memory, Root,
        cgroups::{Hierarchy, Memcg},
        task::{self, Task},
    },
};

/// What `/proc/PID/ns/pid` of the host's processes links to: `PROC_PID_INIT_INO` of
/// `include/linux/proc_ns.h`.
const HOST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Where it is looked at.
pub(super) struct Node {
    pub root: Root,
    /// Where the memory cgroups are, if anywhere.
    pub hierarchy: Option<Hierarchy>,
    pub page_size: u64,
}

impl Node {
    pub fn new(root: &Path) -> Self {
        let root = Root::new(root.to_owned());
        Self {
            hierarchy: root.hierarchy(),
            page_size: rustix::param::page_size() as u64,
            root,
        }
    }

    pub fn memory(&self) -> Result<Memory> {
        self.root
            .memory()
            .context("reading /proc/meminfo; is /proc mounted?")
    }

    pub fn tasks(&self) -> Result<Vec<Task>> {
        let version = self.hierarchy.as_ref().map_or(2, |found| found.version);
        let mut tasks = task::all(&self.root, version, self.page_size)
            .context("reading the processes in /proc; is it mounted?")?;
        // This one will not be there any more.
        tasks.retain(|task| task.pid != std::process::id());
        Ok(tasks)
    }

    /// Whether all processes of the node are seen, and not just those of a container.
    pub fn is_whole(&self) -> Option<bool> {
        let namespace = fs::read_link(self.root.at("/proc/self/ns/pid")).ok()?;
        Some(namespace.as_os_str() == HOST_PID_NAMESPACE)
    }

    /// Reads a cgroup and those above it, where they have not been.
    pub fn add_with_ancestors(&self, path: &[u8], memcgs: &mut HashMap<Vec<u8>, Memcg>) {
        let Some(hierarchy) = &self.hierarchy else {
            return;
        };
        let mut next = Some(path);
        while let Some(path) = next
            && !memcgs.contains_key(path)
        {
            if let Some(memcg) = hierarchy.memcg(path) {
                memcgs.insert(path.to_vec(), memcg);
            }
            next = memchr::memrchr(b'/', path)
                .filter(|end| *end > 0)
                .map(|end| &path[..end]);
        }
    }

    /// What is said of it.
    pub fn event(&self, memory: &Memory) -> event::Node {
        event::Node {
            memory_bytes: Some(memory.total),
            swap_bytes: Some(memory.swap),
            ..host::node()
        }
    }
}

/// Who knows the names of this node's pods, once the sources have answered or had their time.
pub(super) struct Names(Option<Kubernetes>);

impl Names {
    /// Asks the sources; not about a node that is elsewhere.
    pub fn ask(args: &super::kubernetes::Args, root: &Path) -> Result<Self> {
        if root != Path::new("/") {
            return Ok(Self(None));
        }
        args.settled().map(Self)
    }

    /// Whose a cgroup is.
    pub fn whose(&self, path: &[u8]) -> Whose {
        match &self.0 {
            Some(sources) => sources.pods.look_up(path, false).whose,
            None => Whose::from_path(path),
        }
    }

    /// The sources and how they are doing.
    pub fn status(&self) -> Option<event::Kubernetes> {
        Some(self.0.as_ref()?.pods.status())
    }
}

/// The time, as in events.
pub(super) fn now() -> String {
    rfc3339(event::Clock::now().unix_ns(boottime_ns()))
}
