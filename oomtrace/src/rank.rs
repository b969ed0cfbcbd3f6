//! Who dies next: the processes of the node, or of one memory cgroup, in the order in which the
//! kernel would take them now.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    cgroup::{self, Level, QosClass},
    event::{Candidate, Kubernetes, Node, Whose},
    explain::points,
    node::{
        Names,
        cgroups::{Memcg, is_within},
        task::{Spared, Task},
    },
};

/// The version of what is written.
pub const SCHEMA: &str = "oomtrace.rank/v1";

/// The order, and what it was computed from.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Ranking {
    /// `oomtrace.rank/v1`.
    pub schema: &'static str,
    /// When it was read.
    pub time: String,
    /// The machine.
    pub node: Node,
    /// Whether all processes of the node are seen; false in a container with a PID namespace of its
    /// own.
    pub whole_node: Option<bool>,
    /// The cgroup that was asked for; null for the whole node.
    pub cgroup: Option<Domain>,
    /// What pods are known from; null where nothing was asked for or found.
    pub kubernetes: Option<Kubernetes>,
    /// What the decision could use: of the node its memory and swap, of a cgroup its limit and the
    /// swap it may have.
    pub total_bytes: u64,
    /// `vm.oom_kill_allocating_task`: when the node runs out, the process that asks for memory dies,
    /// and not the first of this order.
    pub allocating_task_dies: Option<bool>,
    /// The kernel panics instead of killing (`vm.panic_on_oom`).
    pub panics: Option<bool>,
    /// Those that are passed over.
    pub skipped: Skipped,
    /// Processes, the one that dies first before the others.
    pub candidates: List<Process>,
    /// The same by pod, or by container or cgroup for processes that are in no pod: in the order in
    /// which their first process comes.
    pub pods: List<Group>,
}

/// The first of a longer list.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct List<T> {
    /// How many there are.
    pub total: u32,
    /// How many are listed.
    pub listed: u32,
    /// The first of them.
    pub items: Vec<T>,
}

impl<T> List<T> {
    fn of(mut items: Vec<T>, most: usize) -> Self {
        let count = |items: &Vec<T>| u32::try_from(items.len()).unwrap_or(u32::MAX);
        let total = count(&items);
        items.truncate(most);
        Self {
            total,
            listed: count(&items),
            items,
        }
    }
}

/// The cgroup whose limit is taken to be hit.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Domain {
    /// Its path, from the root of the hierarchy.
    pub path: String,
    /// What kind of cgroup it is.
    pub level: Level,
    /// Its limit; null where it has none, and then the order is that of the whole node's processes
    /// with the others left out.
    pub limit_bytes: Option<u64>,
    /// What is charged to it.
    pub usage_bytes: Option<u64>,
}

/// How many processes are passed over, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Skipped {
    /// Threads of the kernel's own.
    pub kernel_threads: u32,
    /// The first process.
    pub init: u32,
    /// Those with an `oom_score_adj` of -1000.
    pub oom_score_adj: u32,
    /// Those that exit, and zombies.
    pub no_memory: u32,
    /// Others with an `oom_score` of 0: their memory has been reaped, or is their parent's still.
    pub other: u32,
}

/// A process that can be taken.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Process {
    /// As in events.
    #[serde(flatten)]
    pub candidate: Candidate,
    /// Its memory cgroup.
    pub cgroup: String,
    /// Namespace and name of its pod, joined by `/`.
    pub pod: Option<String>,
    /// The QoS class of its pod.
    pub qos_class: Option<QosClass>,
    /// The name of its container.
    pub container: Option<String>,
    /// By how much it is ahead of the next: if that one takes so much more, it dies first. Null for
    /// the last.
    pub ahead_bytes: Option<u64>,
    /// The cgroup whose processes all die with it (`memory.oom.group`).
    pub dies_with: Option<String>,
}

/// A pod; or a container or cgroup that is in none.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Group {
    /// From 1, the one that loses a process first.
    pub rank: u32,
    /// Its pod.
    pub pod_uid: Option<String>,
    /// Namespace and name of the pod, joined by `/`.
    pub pod: Option<String>,
    /// The QoS class of the pod.
    pub qos_class: Option<QosClass>,
    /// The container, of processes that are in no pod.
    pub container_id: Option<String>,
    /// The cgroup of its first process.
    pub cgroup: String,
    /// How many processes of it can be taken.
    pub processes: u32,
    /// What they hold together; pages that they share count for each.
    pub held_bytes: u64,
    /// The process that comes first.
    pub first_pid: u32,
    /// Its name.
    pub first_comm: String,
    /// Its `oom_score_adj`.
    pub oom_score_adj: i32,
    /// Its points.
    pub badness_pages: i64,
    /// By how much it is ahead of the first process of the next group.
    pub ahead_bytes: Option<u64>,
}

/// What the order is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The machine.
    pub node: Node,
    /// When all was read.
    pub time: String,
    /// Whether `tasks` are all of the node.
    pub whole_node: Option<bool>,
    /// What `names` know pods from.
    pub kubernetes: Option<Kubernetes>,
    /// All processes.
    pub tasks: &'a [Task],
    /// All memory cgroups of the processes, and those above.
    pub memcgs: &'a HashMap<Vec<u8>, Memcg>,
    /// The cgroup that was asked for.
    pub domain: Option<&'a Memcg>,
    /// What the decision could use.
    pub total_bytes: u64,
    /// The size of a page.
    pub page_size: u64,
    /// `vm.oom_kill_allocating_task`.
    pub kill_allocating_task: Option<u64>,
    /// `vm.panic_on_oom`.
    pub panic_on_oom: Option<u64>,
}

/// Computes the order, and lists the first `most`.
pub fn rank(facts: &Facts<'_>, most: usize, names: &Names<'_>) -> Ranking {
    let mut skipped = Skipped::default();
    let mut ranked: Vec<(&Task, i64)> = Vec::new();
    for task in facts.tasks {
        if facts
            .domain
            .is_some_and(|memcg| !memcg.contains(&task.cgroup))
        {
            continue;
        }
        match task.spared {
            None => ranked.extend(points_of(task, facts).map(|points| (task, points))),
            Some(Spared::Kernel) => skipped.kernel_threads += 1,
            Some(Spared::Init) => skipped.init += 1,
            Some(Spared::Adj) => skipped.oom_score_adj += 1,
            Some(Spared::NoMemory) => skipped.no_memory += 1,
            Some(Spared::Other) => skipped.other += 1,
        }
    }
    // Among equals the kernel takes the one it looks at later, and it looks at them in the order
    // in which they were started (`oom_evaluate_task` in `mm/oom_kill.c`).
    ranked.sort_by_key(|(task, points)| std::cmp::Reverse((*points, task.started, task.pid)));
    let mut known: HashMap<&[u8], Whose> = HashMap::new();
    for (task, _) in &ranked {
        known
            .entry(&task.cgroup)
            .or_insert_with(|| names(&task.cgroup));
    }
    let processes = processes(facts, &ranked, &known);
    let pods = groups(facts, &ranked, &processes);
    let domain = facts.domain.map(|memcg| Domain {
        path: text(&memcg.path),
        level: cgroup::resolve(&memcg.path).level,
        limit_bytes: memcg.limit_bytes,
        usage_bytes: memcg.usage_bytes,
    });
    // Only 2 counts for a cgroup's limit (`check_panic_on_oom`, `out_of_memory`).
    let of_a_limit = domain
        .as_ref()
        .is_some_and(|domain| domain.limit_bytes.is_some());
    let allocating = facts
        .kill_allocating_task
        .map(|value| value != 0 && !of_a_limit);
    let panics = facts
        .panic_on_oom
        .map(|value| value > u64::from(of_a_limit));
    Ranking {
        schema: SCHEMA,
        time: facts.time.clone(),
        node: facts.node.clone(),
        whole_node: facts.whole_node,
        cgroup: domain,
        kubernetes: facts.kubernetes.clone(),
        total_bytes: facts.total_bytes,
        allocating_task_dies: allocating,
        panics,
        skipped,
        candidates: List::of(processes, most),
        pods: List::of(pods, most),
    }
}

fn points_of(task: &Task, facts: &Facts<'_>) -> Option<i64> {
    let total_pages = facts.total_bytes.checked_div(facts.page_size);
    points(task.held, task.oom_score_adj, total_pages, facts.page_size)
}

fn ahead(points: i64, next: Option<i64>, page_size: u64) -> Option<u64> {
    u64::try_from(points.checked_sub(next?)?)
        .ok()?
        .checked_mul(page_size)
}

fn processes(
    facts: &Facts<'_>,
    ranked: &[(&Task, i64)],
    known: &HashMap<&[u8], Whose>,
) -> Vec<Process> {
    let page_size = facts.page_size;
    let nobody = Whose::default();
    (1..)
        .zip(ranked)
        .map(|(rank, &(task, points))| {
            let Whose { pod, container } = known.get(&task.cgroup[..]).unwrap_or(&nobody);
            let next = ranked.get(rank as usize).map(|(_, points)| *points);
            let id = facts.memcgs.get(&task.cgroup).map(|memcg| memcg.id);
            Process {
                candidate: Candidate {
                    rank,
                    pid: task.pid,
                    comm: task.comm.clone(),
                    badness_pages: Some(points),
                    oom_score_adj: task.oom_score_adj,
                    rss_bytes: task.held.rss_pages.checked_mul(page_size),
                    swap_bytes: task.held.swap_pages.checked_mul(page_size),
                    pgtables_bytes: Some(task.held.pgtables_bytes),
                    cgroup_id: id.map(|id| id.to_string()),
                    container_id: container.as_ref().map(|container| container.id.clone()),
                    pod_uid: pod.as_ref().map(|pod| pod.uid.clone()),
                    memory_request_bytes: container
                        .as_ref()
                        .and_then(|container| container.memory_request_bytes),
                },
                cgroup: text(&task.cgroup),
                pod: pod.as_ref().and_then(|pod| {
                    let (namespace, name) = (pod.namespace.as_ref()?, pod.name.as_ref()?);
                    Some(format!("{namespace}/{name}"))
                }),
                qos_class: pod.as_ref().and_then(|pod| pod.qos_class),
                container: container
                    .as_ref()
                    .and_then(|container| container.name.clone()),
                ahead_bytes: ahead(points, next, page_size),
                dies_with: dies_with(task, facts).map(|path| text(&path)),
            }
        })
        .collect()
}

/// The outermost cgroup that dies as a whole, of those below the one whose limit is hit and that one
/// itself (`mem_cgroup_get_oom_group` in `mm/memcontrol.c`).
fn dies_with(task: &Task, facts: &Facts<'_>) -> Option<Vec<u8>> {
    let top = facts
        .domain
        .filter(|memcg| memcg.limit_bytes.is_some())
        .map_or(&b"/"[..], |memcg| &memcg.path);
    let mut ancestors: Vec<&[u8]> = std::iter::successors(Some(&task.cgroup[..]), |path| {
        let end = memchr::memrchr(b'/', path).filter(|end| *end > 0)?;
        Some(&path[..end])
    })
    .filter(|path| *path != b"/" && is_within(path, top))
    .collect();
    ancestors.reverse();
    ancestors
        .into_iter()
        .find(|path| {
            let memcg = facts.memcgs.get(*path);
            memcg.is_some_and(|memcg| memcg.kills_as_a_group)
        })
        .map(<[u8]>::to_vec)
}

fn groups(facts: &Facts<'_>, ranked: &[(&Task, i64)], processes: &[Process]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (&(task, points), process) in ranked.iter().zip(processes) {
        let candidate = &process.candidate;
        let key = candidate
            .pod_uid
            .as_ref()
            .or(candidate.container_id.as_ref())
            .unwrap_or(&process.cgroup);
        let place = *places.entry(key).or_insert_with(|| {
            groups.push(Group {
                rank: u32::try_from(groups.len() + 1).unwrap_or(u32::MAX),
                pod_uid: candidate.pod_uid.clone(),
                pod: process.pod.clone(),
                qos_class: process.qos_class,
                container_id: candidate
                    .container_id
                    .clone()
                    .filter(|_| candidate.pod_uid.is_none()),
                cgroup: process.cgroup.clone(),
                processes: 0,
                held_bytes: 0,
                first_pid: task.pid,
                first_comm: task.comm.clone(),
                oom_score_adj: task.oom_score_adj,
                badness_pages: points,
                ahead_bytes: None,
            });
            groups.len() - 1
        });
        let held = held_bytes(candidate);
        groups[place].processes += 1;
        groups[place].held_bytes = groups[place].held_bytes.saturating_add(held);
    }
    for place in 0..groups.len() {
        let next = groups.get(place + 1).map(|group| group.badness_pages);
        groups[place].ahead_bytes = ahead(groups[place].badness_pages, next, facts.page_size);
    }
    groups
}

/// What counts of the memory of a candidate.
pub fn held_bytes(candidate: &Candidate) -> u64 {
    [
        candidate.rss_bytes,
        candidate.swap_bytes,
        candidate.pgtables_bytes,
    ]
    .into_iter()
    .flatten()
    .fold(0, u64::saturating_add)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Footprint;

    const MIB: u64 = 1 << 20;
    const POD: &str = "/kubepods.slice/kubepods-burstable.slice/\
                       kubepods-burstable-pod6c1f29b0_4d21_4a39_9a5e_0f5f3f6f2c11.slice";

    fn task(pid: u32, mib: u64, adj: i32, cgroup: &str) -> Task {
        Task {
            pid,
            comm: format!("task {pid}"),
            started: pid.into(),
            held: Footprint {
                rss_pages: mib * 256,
                swap_pages: 0,
                pgtables_bytes: 0,
            },
            oom_score_adj: adj,
            cgroup: cgroup.as_bytes().to_vec(),
            spared: None,
        }
    }

    fn memcg(path: &str, limit: Option<u64>, group: bool) -> Memcg {
        Memcg {
            path: path.as_bytes().to_vec(),
            id: 7,
            limit_bytes: limit,
            with_swap: None,
            swappiness: None,
            usage_bytes: None,
            inactive_file_bytes: None,
            kills_as_a_group: group,
            kills_nobody: false,
        }
    }

    fn ranking(tasks: &[Task], memcgs: &[Memcg], domain: Option<&Memcg>, total: u64) -> Ranking {
        let memcgs = memcgs
            .iter()
            .map(|memcg| (memcg.path.clone(), memcg.clone()))
            .collect();
        let facts = Facts {
            node: Node::default(),
            time: String::new(),
            whole_node: Some(true),
            kubernetes: None,
            tasks,
            memcgs: &memcgs,
            domain,
            total_bytes: total,
            page_size: 4096,
            kill_allocating_task: Some(1),
            panic_on_oom: Some(1),
        };
        rank(&facts, usize::MAX, &Whose::from_path)
    }

    fn order(ranking: &Ranking) -> Vec<u32> {
        let items = &ranking.candidates.items;
        items.iter().map(|item| item.candidate.pid).collect()
    }

    /// Memory and adj decide together; among equals the later one comes first; those that the
    /// kernel passes over are counted.
    #[test]
    fn the_order() {
        let mut tasks = vec![
            task(10, 100, 0, "/a"),
            task(11, 10, 200, "/a"),
            task(12, 100, 0, "/b"),
            task(13, 900, -999, "/b"),
            task(14, 900, 0, "/b"),
        ];
        tasks[4].spared = Some(Spared::Adj);
        let ranking = ranking(&tasks, &[], None, 1000 * MIB);
        assert_eq!(order(&ranking), [11, 12, 10, 13]);
        assert_eq!(ranking.skipped.oom_score_adj, 1);
        let ahead: Vec<_> = ranking
            .candidates
            .items
            .iter()
            .map(|item| item.ahead_bytes)
            .collect();
        // A thousandth of the total is 256 pages.
        assert_eq!(ahead, [Some(110 * MIB), Some(0), Some(199 * MIB), None]);
        assert_eq!(ranking.allocating_task_dies, Some(true));
        assert_eq!(ranking.panics, Some(true));
    }

    /// Of a cgroup only what is in it counts, and its own limit; the knobs of the node do not.
    #[test]
    fn of_a_cgroup() {
        let tasks = [
            task(10, 10, 0, "/a"),
            task(11, 5, 100, "/a/b"),
            task(12, 100, 0, "/ab"),
        ];
        let domain = memcg("/a", Some(100 * MIB), false);
        let ranking = ranking(&tasks, &[], Some(&domain), 100 * MIB);
        assert_eq!(order(&ranking), [11, 10]);
        assert_eq!(ranking.allocating_task_dies, Some(false));
        assert_eq!(ranking.panics, Some(false));
    }

    /// A pod stands where its first process stands, and its members are counted.
    #[test]
    fn by_pod() {
        let id = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let container = format!("{POD}/cri-containerd-{id}.scope");
        let tasks = [
            task(10, 30, 0, &container),
            task(11, 50, 0, "/system.slice/x.service"),
            task(12, 60, 0, &format!("{container}/init.scope")),
        ];
        let ranking = ranking(&tasks, &[], None, 1000 * MIB);
        let pods = &ranking.pods.items;
        assert_eq!(pods.len(), 2);
        assert_eq!(
            pods[0].pod_uid.as_deref(),
            Some("6c1f29b0-4d21-4a39-9a5e-0f5f3f6f2c11")
        );
        assert_eq!((pods[0].processes, pods[0].held_bytes), (2, 90 * MIB));
        assert_eq!(pods[0].first_pid, 12);
        assert_eq!(pods[0].ahead_bytes, Some(10 * MIB));
        assert_eq!(pods[0].qos_class, Some(QosClass::Burstable));
        assert_eq!(pods[1].cgroup, "/system.slice/x.service");
    }

    /// The outermost group dies, of those that are not above the limit.
    #[test]
    fn groups_die_together() {
        let tasks = [task(10, 30, 0, "/a/b/c")];
        let memcgs = [
            memcg("/a", Some(MIB), true),
            memcg("/a/b", Some(MIB), false),
            memcg("/a/b/c", None, true),
        ];
        let dies_with = |domain| {
            let ranking = ranking(&tasks, &memcgs, domain, MIB);
            ranking.candidates.items[0].dies_with.clone()
        };
        assert_eq!(dies_with(None).as_deref(), Some("/a"));
        assert_eq!(dies_with(Some(&memcgs[0])).as_deref(), Some("/a"));
        assert_eq!(dies_with(Some(&memcgs[1])).as_deref(), Some("/a/b/c"));
    }
}
