//! The memory cgroups of the node.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::{Root, task::memory_cgroup};
use crate::incident::Cgroups;

/// From here on a limit is none: what the files of cgroup v1 show then is the largest signed number,
/// rounded down to pages.
const NO_LIMIT: u64 = 1 << 62;

/// The hierarchy that has the memory controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// 1 or 2.
    pub version: u8,
    /// Where it is mounted.
    pub mount: PathBuf,
}

impl Hierarchy {
    /// Finds it in `/proc/self/mounts`. `controllers` tells those of a cgroup v2 hierarchy.
    pub(super) fn find(mounts: &str, controllers: impl Fn(&Path) -> String) -> Option<Self> {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let mount = PathBuf::from(place);
            let version = match kind {
                "cgroup" if options.split(',').any(|name| name == "memory") => 1,
                "cgroup2"
                    if controllers(&mount)
                        .split_whitespace()
                        .any(|name| name == "memory") =>
                {
                    2
                }
                _ => return None,
            };
            Some(Self { version, mount })
        })
    }

    /// Where a cgroup's files are. `None` for one outside of what is mounted.
    pub fn directory(&self, path: &[u8]) -> Option<PathBuf> {
        if path.split(|&byte| byte == b'/').any(|name| name == b"..") {
            return None;
        }
        let below = path.strip_prefix(b"/").unwrap_or(path);
        Some(self.mount.join(OsStr::from_bytes(below)))
    }

    /// The path of a cgroup that is named as the kernel does, or by its directory.
    pub fn path(&self, named: &Path) -> Vec<u8> {
        let below = named
            .strip_prefix(&self.mount)
            .or_else(|_| named.strip_prefix("/"))
            .unwrap_or(named);
        let below = below.as_os_str().as_bytes();
        let below = below.strip_suffix(b"/").unwrap_or(below);
        [b"/", below].concat()
    }

    /// Reads a cgroup; `None` when there is none.
    pub fn memcg(&self, path: &[u8]) -> Option<Memcg> {
        let directory = self.directory(path)?;
        let id = fs::metadata(&directory).ok()?.ino();
        let read = |file: &str| fs::read_to_string(directory.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        let names = Files::of(self.version);
        let stat = read("memory.stat");
        let field = |name| number_of(stat.as_deref()?, name);
        Some(Memcg {
            path: path.to_vec(),
            id,
            limit_bytes: read(names.limit).and_then(|text| limit(&text)),
            with_swap: read(names.swap_limit).and_then(|text| limit(&text)),
            swappiness: number("memory.swappiness"),
            usage_bytes: number(names.usage),
            inactive_file_bytes: field(names.inactive_file),
            kills_as_a_group: read("memory.oom.group").is_some_and(|text| text.trim() == "1"),
            kills_nobody: read("memory.oom_control")
                .and_then(|text| number_of(&text, "oom_kill_disable"))
                == Some(1),
        })
    }

    /// All cgroups, parents first.
    pub fn all(&self) -> Vec<Memcg> {
        let mut found = Vec::new();
        let mut open = vec![b"/".to_vec()];
        while let Some(path) = open.pop() {
            let Some(directory) = self.directory(&path) else {
                continue;
            };
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let mut below: Vec<Vec<u8>> = entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| {
                    let up = path.strip_suffix(b"/").unwrap_or(&path);
                    [up, b"/", entry.file_name().as_bytes()].concat()
                })
                .collect();
            below.sort_unstable_by(|one, other| other.cmp(one));
            open.append(&mut below);
            found.extend(self.memcg(&path));
        }
        found
    }
}

/// Where the memory cgroups of processes are, by kernfs id. What was found is remembered: an id is
/// not given twice while the machine runs (`kernfs_new_node` in `fs/kernfs/dir.c`).
#[derive(Debug)]
pub struct Paths {
    root: Root,
    hierarchy: Option<Hierarchy>,
    known: HashMap<u64, Vec<u8>>,
}

/// Cgroups that are remembered.
const MOST_PATHS: usize = 1024;

impl Paths {
    /// Those of a node.
    pub fn new(root: Root) -> Self {
        Self {
            hierarchy: root.hierarchy(),
            root,
            known: HashMap::new(),
        }
    }

    fn find(&self, pid: u32, id: u64) -> Option<Vec<u8>> {
        let hierarchy = self.hierarchy.as_ref()?;
        let text = fs::read(self.root.at(format!("/proc/{pid}/cgroup"))).ok()?;
        let path = memory_cgroup(&text, hierarchy.version)?;
        // The process may be another one by now, or in another cgroup.
        let there = fs::metadata(hierarchy.directory(&path)?).ok()?.ino();
        (there == id).then_some(path)
    }
}

impl Cgroups for Paths {
    fn path(&mut self, pid: u32, id: u64) -> Option<&[u8]> {
        if !self.known.contains_key(&id) {
            let path = self.find(pid, id)?;
            if self.known.len() >= MOST_PATHS {
                self.known.clear();
            }
            self.known.insert(id, path);
        }
        self.known.get(&id).map(Vec::as_slice)
    }
}

/// How the files of a version are called.
struct Files {
    limit: &'static str,
    swap_limit: &'static str,
    usage: &'static str,
    inactive_file: &'static str,
}

impl Files {
    const fn of(version: u8) -> Self {
        if version == 1 {
            Self {
                limit: "memory.limit_in_bytes",
                swap_limit: "memory.memsw.limit_in_bytes",
                usage: "memory.usage_in_bytes",
                inactive_file: "total_inactive_file",
            }
        } else {
            Self {
                limit: "memory.max",
                swap_limit: "memory.swap.max",
                usage: "memory.current",
                inactive_file: "inactive_file",
            }
        }
    }
}

/// A memory cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memcg {
    /// From the root of the hierarchy.
    pub path: Vec<u8>,
    /// Its kernfs id.
    pub id: u64,
    /// Its limit.
    pub limit_bytes: Option<u64>,
    /// Its limit of swap (v2), or of memory and swap together (v1).
    pub with_swap: Option<u64>,
    /// Its own swappiness (v1).
    pub swappiness: Option<u64>,
    /// What is charged to it.
    pub usage_bytes: Option<u64>,
    /// File pages that can go first.
    pub inactive_file_bytes: Option<u64>,
    /// Whether all of it die together.
    pub kills_as_a_group: bool,
    /// Whether the OOM killer is off: tasks wait instead (v1).
    pub kills_nobody: bool,
}

impl Memcg {
    /// What the kubelet compares with the limit.
    pub fn working_set(&self) -> Option<u64> {
        Some(self.usage_bytes?.saturating_sub(self.inactive_file_bytes?))
    }

    /// What a decision on it could use (`mem_cgroup_get_max` in `mm/memcontrol.c`); `None` where it
    /// has no limit. `swappiness` is the node's.
    pub fn total_bytes(&self, version: u8, node_swap: u64, swappiness: Option<u64>) -> Option<u64> {
        let limit = self.limit_bytes?;
        let swappiness = if version == 1 {
            self.swappiness
        } else {
            swappiness
        };
        if node_swap == 0 || swappiness == Some(0) {
            return Some(limit);
        }
        let swap = match (version, self.with_swap) {
            (_, None) => node_swap,
            (1, Some(both)) => both.saturating_sub(limit),
            (_, Some(swap)) => swap,
        };
        Some(limit.saturating_add(swap.min(node_swap)))
    }

    /// Whether a cgroup is this one or below it.
    pub fn contains(&self, path: &[u8]) -> bool {
        is_within(path, &self.path)
    }
}

/// Whether `path` is `ancestor` or below it.
pub fn is_within(path: &[u8], ancestor: &[u8]) -> bool {
    let ancestor = ancestor.strip_suffix(b"/").unwrap_or(ancestor);
    path.strip_prefix(ancestor)
        .is_some_and(|below| below.is_empty() || below.starts_with(b"/"))
}

/// A limit as the files show it; `None` for none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT)
}

/// The number on the line of this name.
fn number_of(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn v2() -> Hierarchy {
        Hierarchy {
            version: 2,
            mount: PathBuf::from("/sys/fs/cgroup"),
        }
    }

    /// Where memory is: with v1 even where v2 is mounted beside it; with v2 if it has it.
    #[test]
    fn hierarchies() {
        let v1 = "cgroup /cg/cpu cgroup rw,cpu 0 0\ncgroup2 /cg/unified cgroup2 rw 0 0\n\
                  cgroup /cg/memory cgroup rw,relatime,memory 0 0\n";
        let found = Hierarchy::find(v1, |_| "cpuset".to_owned()).unwrap();
        assert_eq!(
            (found.version, found.mount.to_str()),
            (1, Some("/cg/memory"))
        );
        let found = Hierarchy::find("x /cg cgroup2 rw 0 0\n", |_| "cpu memory\n".to_owned());
        assert_eq!(found.map(|found| found.version), Some(2));
        let none = Hierarchy::find("x /cg cgroup2 rw 0 0\n", |_| "memory.x".to_owned());
        assert_eq!(none, None);
    }

    /// A cgroup may be named both ways; one outside of the mount has no directory.
    #[test]
    fn names() {
        for named in ["/a/b", "a/b", "/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a/b/"] {
            assert_eq!(v2().path(Path::new(named)), b"/a/b", "{named}");
        }
        assert_eq!(v2().path(Path::new("/sys/fs/cgroup")), b"/");
        let directory = v2().directory(b"/a/b");
        assert_eq!(directory.unwrap().to_str(), Some("/sys/fs/cgroup/a/b"));
        assert_eq!(v2().directory(b"/../a"), None);
    }

    /// Below is by components.
    #[test]
    fn below() {
        assert!(is_within(b"/a/b", b"/a") && is_within(b"/a", b"/a") && is_within(b"/a", b"/"));
        assert!(!is_within(b"/ab", b"/a") && !is_within(b"/", b"/a"));
    }

    /// No limit is none, in both versions.
    #[test]
    fn limits() {
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("4096\n"), Some(4096));
        assert_eq!(number_of("inactive_file 5\nfile 7\n", "file"), Some(7));
        assert_eq!(number_of("inactive_file 5\n", "inactive"), None);
    }

    /// Swap counts as far as it may be used.
    #[test]
    fn what_a_decision_could_use() {
        let memcg = |with_swap, swappiness| Memcg {
            path: b"/a".to_vec(),
            id: 1,
            limit_bytes: Some(100),
            with_swap,
            swappiness,
            usage_bytes: None,
            inactive_file_bytes: None,
            kills_as_a_group: false,
            kills_nobody: false,
        };
        for (version, with_swap, own, node_swap, node, expected) in [
            (2, None, None, 0, Some(60), 100),
            (2, None, None, 50, Some(60), 150),
            (2, Some(20), None, 50, Some(60), 120),
            (2, Some(0), None, 50, Some(60), 100),
            (2, None, None, 50, Some(0), 100),
            (1, Some(130), Some(60), 50, Some(0), 130),
            (1, Some(400), Some(60), 50, None, 150),
            (1, Some(400), Some(0), 50, Some(60), 100),
            (1, None, Some(60), 50, Some(60), 150),
        ] {
            let total = memcg(with_swap, own).total_bytes(version, node_swap, node);
            assert_eq!(total, Some(expected), "v{version} {with_swap:?} {own:?}");
        }
        let unlimited = Memcg {
            limit_bytes: None,
            ..memcg(None, None)
        };
        assert_eq!(unlimited.total_bytes(2, 50, Some(60)), None);
    }

    /// A path is believed where its directory has the id, and is then known without the process;
    /// another process, or another cgroup, has no path.
    #[test]
    fn paths_by_id() {
        let node = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let file = node.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        put("proc/self/mounts", "c /sys/fs/cgroup cgroup2 rw 0 0\n");
        put("sys/fs/cgroup/cgroup.controllers", "memory\n");
        put("proc/7/cgroup", "0::/kubepods/pod1\n");
        put("proc/8/cgroup", "0::/../kubepods/pod1\n");
        let directory = node.path().join("sys/fs/cgroup/kubepods/pod1");
        fs::create_dir_all(&directory).unwrap();
        let id = fs::metadata(&directory).unwrap().ino();
        let mut paths = Paths::new(Root::new(node.path().to_owned()));
        for (pid, id) in [(9, id), (8, id), (7, id + 1)] {
            assert_eq!(paths.path(pid, id), None, "{pid}");
        }
        let path = &b"/kubepods/pod1"[..];
        assert_eq!(paths.path(7, id), Some(path));
        fs::remove_dir_all(node.path().join("proc/7")).unwrap();
        assert_eq!(paths.path(7, id), Some(path));
    }
}
