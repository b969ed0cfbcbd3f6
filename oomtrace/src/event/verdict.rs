//! The verdict: the decision in one word, in one sentence, and what would have changed it.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why this victim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// What kind of decision it was; null where whose limit was hit is unknown.
    pub code: Option<VerdictCode>,
    /// What else is worth knowing. One that is not here does not hold, or is not known to.
    #[serde(default)]
    pub flags: Vec<VerdictFlag>,
    /// The same in one or two sentences. The words may change; programs read the fields.
    pub summary: Option<String>,
    /// The victim's place among the candidates, from 1.
    pub victim_rank: Option<u32>,
    /// The candidate that comes next.
    pub runner_up_pid: Option<u32>,
    /// By how many pages the victim is ahead of it.
    pub margin_pages: Option<i64>,
    /// What is charged to the memory cgroup and in no process of it, so that killing frees none of
    /// it: at least this much, 0 where processes hold all.
    pub unowned_bytes: Option<u64>,
    /// What would have spared the victim; null where nothing of it is known.
    pub survival: Option<Survival>,
}

/// What kind of decision it was.
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
pub enum VerdictCode {
    /// A container reached its limit.
    ContainerLimit,
    /// A pod reached its limit.
    PodLimit,
    /// The pods of a QoS class together reached the limit of the class.
    QosLimit,
    /// All pods together reached what the node may give them.
    NodeAllocatable,
    /// Another cgroup reached its limit.
    SliceLimit,
    /// The node ran out of memory.
    NodeOutOfMemory,
    /// The memory nodes of a cpuset ran out.
    Cpuset,
    /// The nodes of a NUMA memory policy ran out.
    MemoryPolicy,
    /// Somebody asked for it: SysRq-f.
    Manual,
    /// More than half of what is charged to the cgroup is in no process: files on tmpfs, page
    /// cache, the kernel's own memory. `oom.scope` tells whose limit it was.
    UnownedMemory,
    /// Not a kill: the task was already exiting.
    AlreadyExiting,
}

/// What else is worth knowing of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerdictFlag {
    /// The victim's container used less than its request, while another was over its own.
    Bystander,
    /// The task that asked for memory is in another pod.
    TriggerInAnotherPod,
    /// The victim is the child of another process of its container, which was not killed: the
    /// container goes on.
    ChildDied,
    /// `oom_score_adj` is not what the kubelet's formula gives.
    AdjDiffers,
    /// All processes of the container were killed together (`memory.oom.group`).
    WholeContainerKilled,
    /// The pod's limit is that of the victim's container, which so is the only one with memory to
    /// speak of.
    OnlyContainerOfPod,
}

/// The smallest change that would have spared the victim, everything else being as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Survival {
    /// The highest `oom_score_adj` with which it would have had fewer points than the next
    /// candidate.
    pub oom_score_adj: Option<i32>,
    /// Who would have died instead with that.
    pub next_victim: Option<NextVictim>,
    /// The memory request with which the kubelet would have given its container an
    /// `oom_score_adj` that makes a process of another container die.
    pub memory_request_bytes: Option<u64>,
    /// A limit below this would have been hit by this very allocation. What the cgroup would have
    /// asked for next is not known, so it is no recommendation.
    pub limit_at_least_bytes: Option<u64>,
}

/// Who would have died instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NextVictim {
    /// Process id.
    pub pid: u32,
    /// Name.
    pub comm: String,
    /// Its pod.
    pub pod_uid: Option<String>,
}
