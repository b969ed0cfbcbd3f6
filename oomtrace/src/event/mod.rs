//! The schema: what is written, one JSON object a line.
//!
//! These types are the contract. Fields are only ever added within `v1`; unknown is `null`, never
//! 0 and never a guess; sizes are in bytes; 64-bit values that may pass 2^53 are strings. The
//! JSON Schema that `oomtrace schema` prints is generated from them.

mod gfp;
mod id;
mod killers;
mod read;
mod time;
mod verdict;

use std::sync::Arc;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use gfp::gfp_flag_names;
pub use id::{event_id, oom_id};
pub use killers::{EvictedContainer, Eviction, NodeCondition, PodEviction, UserspaceKill};
pub use time::{Clock, boottime_ns, rfc3339};
pub use verdict::{NextVictim, Survival, Verdict, VerdictCode, VerdictFlag};

use crate::cgroup::{self, Level, Placement, QosClass};

/// The value of every record's `schema`.
pub const SCHEMA: &str = "oomtrace.event/v1";

/// One record of the stream.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The OOM killer killed a process.
    OomKill(Box<OomKill>),
    /// The OOM killer marked a task that was already exiting, to let it use memory reserves. Not
    /// a kill: no signal was sent.
    OomMark(Box<OomKill>),
    /// What became of a victim.
    OomOutcome(Box<OomOutcome>),
    /// Facts about the pods of a kill that came after its record had gone out.
    Enrichment(Box<LateEnrichment>),
    /// The kubelet evicted a pod: it killed all of its processes. The kernel knows nothing of it.
    PodEviction(Box<PodEviction>),
    /// A program killed all processes of a cgroup because memory was short. The kernel knows nothing
    /// of it.
    UserspaceKill(Box<UserspaceKill>),
    /// Records were lost; how many is exact.
    Loss(Box<Loss>),
    /// The tracer itself: start, heartbeat, stop.
    Status(Box<Status>),
}

/// A kind of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// A process was killed.
    OomKill,
    /// A task that was exiting was marked.
    OomMark,
    /// What became of a victim.
    OomOutcome,
    /// What became known of a kill later.
    Enrichment,
    /// The kubelet evicted a pod.
    PodEviction,
    /// A program killed a cgroup.
    UserspaceKill,
    /// Records were lost.
    Loss,
    /// The tracer itself.
    Status,
}

impl Event {
    /// What every record begins with.
    pub fn head(&self) -> &Head {
        match self {
            Self::OomKill(event) | Self::OomMark(event) => &event.head,
            Self::OomOutcome(event) => &event.head,
            Self::Enrichment(event) => &event.head,
            Self::PodEviction(event) => &event.head,
            Self::UserspaceKill(event) => &event.head,
            Self::Loss(event) => &event.head,
            Self::Status(event) => &event.head,
        }
    }

    /// The same, to be changed.
    pub fn head_mut(&mut self) -> &mut Head {
        match self {
            Self::OomKill(event) | Self::OomMark(event) => &mut event.head,
            Self::OomOutcome(event) => &mut event.head,
            Self::Enrichment(event) => &mut event.head,
            Self::PodEviction(event) => &mut event.head,
            Self::UserspaceKill(event) => &mut event.head,
            Self::Loss(event) => &mut event.head,
            Self::Status(event) => &mut event.head,
        }
    }
}

/// What every record begins with.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Head {
    /// Name and version of the schema: `oomtrace.event/v1`.
    pub schema: String,
    /// Names this record; the same kill has the same id wherever and however often it arrives. An
    /// `enrichment` has that of its kill.
    pub event_id: String,
    /// Names this run of the tracer.
    pub run_id: String,
    /// Counts the records of this run from 0, without gaps.
    pub seq: u64,
    /// When it happened, RFC 3339, UTC, nanoseconds. Null only for an imported log without dates.
    pub time: Option<String>,
    /// The same, in nanoseconds since the Unix epoch.
    pub time_unix_ns: Option<String>,
    /// The same, on the kernel's `CLOCK_BOOTTIME`, in nanoseconds since boot. Of an imported log, on
    /// the log's own clock, which stops while the machine sleeps.
    pub boottime_ns: Option<String>,
    /// The machine.
    pub node: Arc<Node>,
    /// How the facts were obtained.
    pub source: Source,
}

impl Head {
    /// When it happened, in nanoseconds since the Unix epoch.
    pub fn unix_ns(&self) -> Option<u64> {
        self.time_unix_ns.as_ref()?.parse().ok()
    }
}

/// The machine the event happened on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Host name (`uname -n`).
    pub hostname: Option<String>,
    /// `/etc/machine-id`.
    pub machine_id: Option<String>,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: Option<String>,
    /// Kernel release (`uname -r`).
    pub kernel: Option<String>,
    /// Memory the kernel manages (`MemTotal`).
    pub memory_bytes: Option<u64>,
    /// Swap space, used or not (`SwapTotal`).
    pub swap_bytes: Option<u64>,
    /// The Kubernetes node name.
    pub k8s_node_name: Option<String>,
}

/// How the facts of a record were obtained.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// Where the record comes from.
    pub kind: SourceKind,
    /// The hooks that were attached.
    pub hooks: Arc<[String]>,
    /// Further sources whose facts are in this record: `kmsg`.
    pub merged: Vec<String>,
}

/// Where a record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// Hooks in the running kernel.
    Ebpf,
    /// A kernel log.
    KernelLog,
    /// The status of a pod.
    PodStatus,
    /// The system bus (D-Bus).
    SystemBus,
}

/// One victim of one OOM decision (`oom_kill`), or a task marked while it was exiting
/// (`oom_mark`).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OomKill {
    /// What every record begins with.
    #[serde(flatten)]
    pub head: Head,
    /// Names the decision; all its victims share it.
    pub oom_id: String,
    /// The decision.
    pub oom: Oom,
    /// The task that asked for memory and so invoked the OOM killer.
    pub trigger: Trigger,
    /// The task that was taken.
    pub victim: Victim,
    /// The tasks the kernel compared.
    pub candidates: Option<Candidates>,
    /// Why this victim.
    pub verdict: Option<Verdict>,
    /// Where facts beyond the kernel's came from.
    pub enrichment: Option<Enrichment>,
}

/// What user space read of the machine's memory when it learnt what became of the victim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct After {
    /// When it was read, on the kernel's `CLOCK_BOOTTIME`, in nanoseconds since boot.
    pub boottime_ns: Option<String>,
    /// Percentage of the last ten seconds in which some task waited for memory.
    pub psi_some_avg10: Option<f64>,
    /// Percentage of the last ten seconds in which all tasks that had something to do waited for
    /// memory.
    pub psi_full_avg10: Option<f64>,
    /// How long that was since boot, in microseconds.
    pub psi_full_total_us: Option<u64>,
    /// What could be allocated without swapping, as the kernel estimates (`MemAvailable`).
    pub mem_available_bytes: Option<u64>,
    /// Free memory (`MemFree`).
    pub mem_free_bytes: Option<u64>,
    /// Free swap space (`SwapFree`).
    pub swap_free_bytes: Option<u64>,
}

/// The OOM decision.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Oom {
    /// What constrained the allocation (`enum oom_constraint`).
    pub constraint: Option<Constraint>,
    /// Whose limit was hit.
    pub scope: Option<Scope>,
    /// The kernel's words for it.
    pub message: Option<String>,
    /// The allocation's flags, in hexadecimal.
    pub gfp_mask: Option<String>,
    /// The same by name, in the kernel's own notation.
    pub gfp_flags: Option<Vec<String>>,
    /// The allocation's order: 2^order pages were asked for.
    pub order: Option<i32>,
    /// Whether somebody asked for the kill by SysRq-f.
    pub sysrq: Option<bool>,
    /// The memory the decision could use: the limit, or the node's memory and swap. Not the
    /// victim's size.
    pub total_bytes: Option<u64>,
    /// The memory cgroup whose limit was hit.
    pub memcg: Option<Memcg>,
    /// The machine's memory, as the kernel printed it with the decision; null where the limit of a
    /// memory cgroup was hit.
    pub node_memory: Option<NodeMemory>,
    /// For an `oom_mark`: which of the kernel's two paths led to it.
    pub mark_path: Option<MarkPath>,
    /// This victim's place among the victims of the decision, from 0. For a process that shares a
    /// victim's memory, the place of that victim.
    pub victim_index: Option<u32>,
    /// How many victims the decision took, not counting those that share another's memory.
    pub victim_count: Option<u32>,
}

/// How a task that was already exiting came to be marked (`task_will_free_mem` in
/// `mm/oom_kill.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MarkPath {
    /// It asked for memory itself: `out_of_memory` lets it go before it looks for a victim.
    AllocatingTask,
    /// The kernel chose it: `oom_kill_process` finds that it need not be killed.
    ChosenTask,
}

/// What constrained the allocation (`enum oom_constraint` in `include/linux/oom.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// Nothing: the node ran out.
    None,
    /// The memory nodes of a cpuset.
    Cpuset,
    /// A NUMA memory policy.
    MemoryPolicy,
    /// The limit of a memory cgroup.
    Memcg,
}

/// Whose limit was hit.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Scope {
    /// A container's.
    Container,
    /// A pod's.
    Pod,
    /// A QoS class's.
    Qos,
    /// All pods' together: node allocatable.
    Kubepods,
    /// Another cgroup's.
    Slice,
    /// The node's.
    Node,
    /// A cpuset's memory nodes.
    Cpuset,
    /// A NUMA memory policy's nodes.
    MemoryPolicy,
}

/// The memory cgroup whose limit was hit.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Memcg {
    /// Its path from the root of the memory controller's hierarchy.
    pub path: Option<String>,
    /// Whether the outermost part of `path` is missing, because the path is too long.
    pub path_cut: bool,
    /// Its kernfs id: the inode number of its directory.
    pub id: Option<String>,
    /// Memory charged to it.
    pub usage_bytes: Option<u64>,
    /// Its limit; null also when it has none.
    pub limit_bytes: Option<u64>,
    /// Swap charged to it (cgroup v2).
    pub swap_usage_bytes: Option<u64>,
    /// Its swap limit (cgroup v2); null also when it has none.
    pub swap_limit_bytes: Option<u64>,
    /// Memory and swap charged to it (cgroup v1).
    pub memsw_usage_bytes: Option<u64>,
    /// Its limit on memory and swap together (cgroup v1); null also when it has none.
    pub memsw_limit_bytes: Option<u64>,
    /// Whether all its processes are killed together (`memory.oom.group`).
    pub oom_group: Option<bool>,
    /// What its memory is used for, as the kernel printed it with the decision.
    pub stat: Option<MemcgStat>,
}

/// What a memory cgroup's memory is used for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemcgStat {
    /// Anonymous memory.
    pub anon_bytes: Option<u64>,
    /// Page cache, shared memory included.
    pub file_bytes: Option<u64>,
    /// Shared memory and tmpfs.
    pub shmem_bytes: Option<u64>,
    /// All kernel memory (cgroup v2).
    pub kernel_bytes: Option<u64>,
    /// Slab.
    pub slab_bytes: Option<u64>,
}

/// The machine's memory at the decision. Sums are of the whole machine; zones are those that the
/// allocation could use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeMemory {
    /// Free.
    pub free_bytes: Option<u64>,
    /// Anonymous memory and shared memory that is not locked: what is reclaimed by swapping.
    pub anon_bytes: Option<u64>,
    /// Page cache that is not locked, without shared memory: what is reclaimed without swapping.
    pub file_bytes: Option<u64>,
    /// Locked, and otherwise not to be reclaimed; in neither of the two.
    pub unevictable_bytes: Option<u64>,
    /// Shared memory and tmpfs; counted in `anon_bytes` or `unevictable_bytes` as well.
    pub shmem_bytes: Option<u64>,
    /// Slab that can be reclaimed.
    pub slab_reclaimable_bytes: Option<u64>,
    /// Slab that cannot.
    pub slab_unreclaimable_bytes: Option<u64>,
    /// Page tables.
    pub pagetables_bytes: Option<u64>,
    /// Free swap space.
    pub swap_free_bytes: Option<u64>,
    /// Swap space.
    pub swap_total_bytes: Option<u64>,
    /// Size of a page, in which orders count.
    pub page_bytes: Option<u64>,
    /// How many zones were printed.
    pub zones_total: u32,
    /// The first 64 of them.
    pub zones: Vec<ZoneMemory>,
}

/// A zone of a memory node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ZoneMemory {
    /// The memory node; null where the kernel is built without NUMA.
    pub node: Option<u32>,
    /// `DMA`, `DMA32`, `Normal`, `HighMem`, `Movable`, `Device`.
    pub zone: String,
    /// Free.
    pub free_bytes: Option<u64>,
    /// The watermark below which an ordinary allocation may not go.
    pub min_bytes: Option<u64>,
    /// The watermark below which memory is reclaimed in the background.
    pub low_bytes: Option<u64>,
    /// The watermark at which that ends.
    pub high_bytes: Option<u64>,
    /// By how much the three are raised for now, against fragmentation.
    pub boost_bytes: Option<u64>,
    /// What the page allocator manages.
    pub managed_bytes: Option<u64>,
    /// Kept for urgent allocations of high order.
    pub reserved_highatomic_bytes: Option<u64>,
    /// What of the free memory only movable allocations may use.
    pub free_cma_bytes: Option<u64>,
    /// What must stay free above `min_bytes`, for allocations that could have used a zone of a higher
    /// type: by type, from the lowest (DMA).
    pub lowmem_reserve_bytes: Option<Vec<u64>>,
    /// How many free blocks there are of 2^0, 2^1, … pages.
    pub free_by_order: Option<Vec<u64>>,
}

/// The task that invoked the OOM killer.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Trigger {
    /// Process id.
    pub pid: Option<u32>,
    /// Thread id.
    pub tid: Option<u32>,
    /// Name of the thread.
    pub comm: Option<String>,
    /// Real user id.
    pub uid: Option<u32>,
    /// Its `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// Its memory cgroup.
    pub cgroup: Option<Cgroup>,
    /// Its container.
    pub container: Option<Container>,
    /// Its pod.
    pub pod: Option<Pod>,
}

/// The task that was taken.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Victim {
    /// Why it is among the victims.
    pub role: Option<Role>,
    /// Process id.
    pub pid: Option<u32>,
    /// Id of the thread that was marked.
    pub tid: Option<u32>,
    /// Process id of the parent.
    pub ppid: Option<u32>,
    /// Name of that thread.
    pub comm: Option<String>,
    /// Path of the executable in the victim's mount namespace.
    pub exe: Option<String>,
    /// Command line; off.
    pub cmdline: Option<String>,
    /// Real user id.
    pub uid: Option<u32>,
    /// When the process started, RFC 3339, UTC.
    pub start_time: Option<String>,
    /// Its `oom_score_adj` at the kill.
    pub oom_score_adj: Option<i32>,
    /// The kernel's points for it in this decision, in pages.
    pub badness_pages: Option<i64>,
    /// What `/proc/PID/oom_score` would have shown: badness against the whole node, 0 to 2000.
    pub oom_score: Option<i64>,
    /// Its memory.
    pub memory: Option<VictimMemory>,
    /// Its memory cgroup.
    pub cgroup: Option<Cgroup>,
    /// Its container.
    pub container: Option<Container>,
    /// Its pod.
    pub pod: Option<Pod>,
    /// The `oom_score_adj` the kubelet's formula gives its container.
    pub expected_oom_score_adj: Option<i32>,
}

/// Why a task is among the victims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The kernel chose it.
    Chosen,
    /// It is in the cgroup that is killed as a whole.
    GroupMember,
    /// It shares the memory of another victim. The kernel kills it without counting it.
    MmSharer,
}

/// What the victim's address space held when it was marked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VictimMemory {
    /// Mapped address space.
    pub total_vm_bytes: Option<u64>,
    /// Resident anonymous memory.
    pub anon_rss_bytes: Option<u64>,
    /// Resident file pages.
    pub file_rss_bytes: Option<u64>,
    /// Resident shared memory.
    pub shmem_rss_bytes: Option<u64>,
    /// Memory in swap.
    pub swap_bytes: Option<u64>,
    /// Page tables.
    pub pgtables_bytes: Option<u64>,
}

/// A memory cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cgroup {
    /// Path from the root of the memory controller's hierarchy.
    pub path: Option<String>,
    /// Whether the outermost part of `path` is missing, because the path is too long.
    pub path_cut: bool,
    /// What kind of cgroup that is.
    pub level: Option<Level>,
    /// kernfs id: the inode number of the cgroup's directory.
    pub id: Option<String>,
    /// 1 or 2.
    pub version: Option<u8>,
    /// The runtime whose conmon lives in it: a monitor beside a container, and no container.
    pub conmon: Option<String>,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Container {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name in the pod.
    pub name: Option<String>,
    /// What it is for.
    pub role: Option<ContainerRole>,
    /// What runs it: `containerd`, `cri-o`, `docker`, `podman`.
    pub runtime: Option<String>,
    /// Its image.
    pub image: Option<String>,
    /// Its memory request.
    pub memory_request_bytes: Option<u64>,
    /// Its memory limit; null also when it has none.
    pub memory_limit_bytes: Option<u64>,
    /// Memory charged to it at the kill.
    pub memory_usage_bytes: Option<u64>,
    /// How often it was restarted.
    pub restart_count: Option<u32>,
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContainerRole {
    /// One of the pod's containers.
    Main,
    /// Runs to its end before the others start.
    Init,
    /// An init container that keeps running beside the others (`restartPolicy: Always`).
    Sidecar,
    /// Added to the running pod, as by `kubectl debug`.
    Ephemeral,
    /// The pause container, which holds the pod's namespaces.
    Pause,
}

/// A Kubernetes pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pod {
    /// Its uid; for a static pod the hash of its configuration.
    pub uid: String,
    /// Its name.
    pub name: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its QoS class.
    pub qos_class: Option<QosClass>,
    /// Where the QoS class is known from.
    pub qos_source: Option<QosSource>,
    /// Its priority.
    pub priority: Option<i32>,
    /// The name of its priority class.
    pub priority_class: Option<String>,
    /// What manages it.
    pub owner: Option<Owner>,
    /// Its labels, those allowed.
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Whether the kubelet made it of a file: the API server knows only an image of it. The kubelet
    /// counts it as critical.
    pub is_static: Option<bool>,
    /// The memory request of the pod as a whole; null also where only containers have some.
    pub memory_request_bytes: Option<u64>,
    /// The memory limit of the pod as a whole; null also where only containers have some.
    pub memory_limit_bytes: Option<u64>,
}

/// Where a pod's QoS class is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QosSource {
    /// Where the kubelet put its cgroup.
    CgroupPath,
    /// Its status.
    PodStatus,
}

/// What manages a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    /// `Deployment`, `StatefulSet`, …
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// The tasks the kernel compared in the decision.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Candidates {
    /// Where they are known from.
    pub source: CandidateSource,
    /// How many there were.
    pub total: u32,
    /// How many are listed.
    pub listed: u32,
    /// Those with the highest points, highest first.
    pub items: Vec<Candidate>,
}

/// Where the candidates are known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CandidateSource {
    /// The kernel's own evaluation (`oom_badness`).
    Kernel,
    /// The task table in the kernel log, scored by the kernel's formula.
    KernelLog,
}

/// A task the kernel compared.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// From 1, the one with the highest points.
    pub rank: u32,
    /// Process id.
    pub pid: u32,
    /// Name.
    pub comm: String,
    /// Points, in pages.
    pub badness_pages: Option<i64>,
    /// Its `oom_score_adj`.
    pub oom_score_adj: i32,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
    /// Memory in swap.
    pub swap_bytes: Option<u64>,
    /// Page tables.
    pub pgtables_bytes: Option<u64>,
    /// kernfs id of its memory cgroup.
    pub cgroup_id: Option<String>,
    /// Its container.
    pub container_id: Option<String>,
    /// Its pod.
    pub pod_uid: Option<String>,
    /// The memory request of its container.
    pub memory_request_bytes: Option<u64>,
}

/// Where facts beyond the kernel's came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enrichment {
    /// Whether all that was to be known was at hand.
    pub complete: bool,
    /// The sources that answered.
    pub sources: Vec<String>,
    /// How old the oldest answer is, in milliseconds.
    pub age_ms: Option<u64>,
    /// What failed.
    pub errors: Vec<String>,
}

/// What was learnt of the pods of a kill within ten seconds after its record had gone out.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LateEnrichment {
    /// What every record begins with; its `event_id` is the kill's.
    #[serde(flatten)]
    pub head: Head,
    /// Names the decision.
    pub oom_id: String,
    /// The victim's container and pod.
    pub victim: Whose,
    /// Those of the task that asked for memory.
    pub trigger: Whose,
    /// Where the facts came from.
    pub enrichment: Enrichment,
}

impl OomKill {
    /// Adds what became known later.
    pub fn enrich(&mut self, late: LateEnrichment) {
        let LateEnrichment {
            victim,
            trigger,
            enrichment,
            ..
        } = late;
        let held = self.victim.container.take();
        (self.victim.container, self.victim.pod) = (victim.container, victim.pod);
        // These the kernel told at the kill.
        if let (Some(container), Some(held)) = (&mut self.victim.container, held) {
            container.memory_usage_bytes = held.memory_usage_bytes;
            container.memory_limit_bytes = held.memory_limit_bytes;
        }
        (self.trigger.container, self.trigger.pod) = (trigger.container, trigger.pod);
        // Nothing more will come, whether that is all or not.
        self.enrichment = Some(Enrichment {
            complete: true,
            ..enrichment
        });
    }
}

/// Whose process or cgroup it is, as far as known: names, requests and limits where a source of pods
/// has told them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Whose {
    /// Its container.
    pub container: Option<Container>,
    /// Its pod.
    pub pod: Option<Pod>,
}

impl Whose {
    /// What a cgroup path alone tells: the pod's uid and QoS class, the container's id.
    pub fn from_path(path: &[u8]) -> Self {
        Self::of(&cgroup::resolve(path))
    }

    /// What one reading of a path tells.
    pub fn of(placement: &Placement) -> Self {
        Self {
            container: placement.container.as_ref().map(|container| Container {
                id: container.id.clone(),
                runtime: container.runtime.map(|runtime| runtime.name().to_owned()),
                ..Container::default()
            }),
            pod: placement.pod.as_ref().map(|pod| Pod {
                uid: pod.uid.clone(),
                qos_class: placement.qos_class,
                qos_source: placement.qos_class.map(|_| QosSource::CgroupPath),
                ..Pod::default()
            }),
        }
    }
}

/// What became of a victim.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OomOutcome {
    /// What every record begins with; its `event_id` is the kill's with `-outcome` behind it, or
    /// `-stuck`.
    #[serde(flatten)]
    pub head: Head,
    /// Names the decision.
    pub oom_id: String,
    /// The `event_id` of the kill.
    pub victim_event_id: String,
    /// The victim.
    pub victim: OutcomeVictim,
    /// What became of it.
    pub state: VictimState,
    /// From the kill to the exit of the victim's last thread, in nanoseconds.
    pub exit_latency_ns: Option<u64>,
    /// Whether the OOM reaper freed its memory before it exited.
    pub reaped: bool,
    /// Whether the OOM reaper came and could not get at its memory, or found it gone.
    pub reap_skipped: bool,
    /// The machine's memory afterwards: not what the decision saw.
    pub after: Option<After>,
}

/// What became of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VictimState {
    /// Its last thread has exited.
    Exited,
    /// It was killed ten seconds ago and has not exited. If it does, another outcome follows.
    Stuck,
}

/// The victim of an outcome.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OutcomeVictim {
    /// Process id.
    pub pid: u32,
    /// Name.
    pub comm: Option<String>,
}

/// Records were lost.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Loss {
    /// What every record begins with.
    #[serde(flatten)]
    pub head: Head,
    /// Where they were lost.
    pub place: LossPlace,
    /// The sink that did not get them; null where none did.
    #[serde(default)]
    pub sink: Option<String>,
    /// How many since the last `loss` record of this place; null where the kernel does not tell.
    pub lost: Option<u64>,
    /// How many of them were kills.
    pub lost_kills: u64,
    /// How many were lost at this place in this run, as far as known.
    pub lost_total: u64,
    /// The kernel's count beside ours.
    pub reconciliation: Option<Reconciliation>,
}

/// Where records are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossPlace {
    /// The ring buffer was full.
    RingBuffer,
    /// The kernel overwrote log records before they were read: only what they would have added
    /// to a kill is missing.
    KernelLog,
    /// Too much waited for a sink: the oldest went.
    Sink,
}

/// What the kernel counted and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reconciliation {
    /// Growth of `oom_kill` in `/proc/vmstat` since the start.
    pub kernel_oom_kills: u64,
    /// Kills seen.
    pub seen: u64,
    /// Victims the kernel counted once more, because a group kill walked over them again.
    pub repeated: u64,
    /// Kills declared lost.
    pub lost: u64,
    /// What remains: 0 when every kill is accounted for.
    pub unaccounted: i64,
}

/// The tracer itself.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// What every record begins with.
    #[serde(flatten)]
    pub head: Head,
    /// Which moment of its life.
    pub phase: Phase,
    /// Version of the tracer.
    pub version: String,
    /// The hook ladder: what is attached, and why the rest is not.
    pub hooks: Arc<[Hook]>,
    /// What bounds it.
    pub limits: Limits,
    /// What it saw.
    pub totals: Totals,
    /// The kernel's count beside ours.
    pub reconciliation: Option<Reconciliation>,
    /// What pods are known from; null where nothing was asked for or found.
    pub kubernetes: Option<Kubernetes>,
    /// The agent's sinks; null where records go to standard output alone.
    #[serde(default)]
    pub sinks: Option<Vec<SinkStatus>>,
    /// Resident memory of the tracer.
    pub resident_bytes: Option<u64>,
    /// Why it stops.
    pub reason: Option<String>,
}

/// A moment in the tracer's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It watches from now on.
    Start,
    /// It still does.
    Heartbeat,
    /// It stopped; all it saw has been written.
    Stop,
}

/// One rung of the hook ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hook {
    /// As in `source.hooks`.
    pub name: String,
    /// Whether it is in use.
    pub attached: bool,
    /// What it adds to an event.
    pub adds: String,
    /// Why it is not in use.
    pub reason: Option<String>,
}

/// What pods are known from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kubernetes {
    /// The sources in use.
    pub sources: Vec<PodSource>,
    /// Pods known, deleted ones included.
    pub pods: u64,
    /// Containers known, removed ones included.
    pub containers: u64,
    /// Pods and containers that were not taken in, because as many as are kept were running.
    pub refused: u64,
}

/// A source of facts about pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PodSource {
    /// `api`, `kubelet`, `cri`, `bundle`, `pod_logs`.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// Whether it answers.
    pub state: PodSourceState,
    /// How long ago it last answered.
    pub age_ms: Option<u64>,
    /// What failed last.
    pub error: Option<String>,
}

/// Whether a source answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PodSourceState {
    /// It has not answered yet.
    Starting,
    /// It told all it knows, and tells what changes.
    Live,
    /// It does not answer; what it told before is kept.
    Failed,
}

/// Where the agent sends records, and how far that has come in this run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SinkStatus {
    /// As the configuration names it.
    pub name: String,
    /// `stdout`, `file`, `syslog`, `journald`, `http`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it takes records.
    pub state: SinkState,
    /// What is wrong with it.
    pub error: Option<String>,
    /// Records that wait for it.
    pub waiting: u64,
    /// What its queue takes, on disk and in memory.
    pub waiting_bytes: u64,
    /// For how long what is next has been tried; null where nothing waits.
    pub trying_ms: Option<u64>,
    /// Records it has got.
    pub delivered: u64,
    /// How often it failed.
    pub retries: u64,
    /// Records it refused for good.
    pub set_aside: u64,
    /// Records that were lost, because too much waited.
    pub lost: u64,
    /// Whether records wait on disk.
    pub spooled: bool,
    /// What is wrong with the disk they should wait on.
    pub spool_error: Option<String>,
}

/// Whether a sink takes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// It took the last ones, or got none yet.
    Working,
    /// It did not.
    Failing,
}

/// What bounds the tracer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Size of the ring buffer.
    pub ring_buffer_bytes: u64,
    /// Size of the output queue.
    pub output_queue_bytes: u64,
    /// Candidates listed in an event at most.
    pub candidates: u32,
    /// Whether the tracer's memory is locked, so that it cannot be paged out.
    pub memory_locked: bool,
    /// The tracer's own `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
}

/// What the tracer saw in this run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// `oom_kill` records of victims that the kernel counts.
    pub kills: u64,
    /// `oom_kill` records of processes that shared a victim's memory, which it does not count.
    pub mm_sharers: u64,
    /// `oom_mark` records.
    pub marks: u64,
    /// `oom_outcome` records.
    pub outcomes: u64,
    /// Victims whose outcome is not told, because too many were dying at once.
    pub unfollowed: u64,
    /// Records lost.
    pub lost: u64,
    /// Kills in a pod whose name was not known when the record went out.
    #[serde(default)]
    pub unresolved: u64,
    /// Kernel OOM reports read from the log.
    pub kernel_reports: u64,
}
