//! Misconfigurations that bite when memory runs out: found before it does.

mod checks;
#[cfg(test)]
mod tests;
mod words;

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    event::{Kubernetes, Node},
    node::{Memory, cgroups::Memcg, task::Task},
};

pub use checks::audit;

/// The version of what is written.
pub const SCHEMA: &str = "oomtrace.audit/v1";

/// What was found.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Audit {
    /// `oomtrace.audit/v1`.
    pub schema: &'static str,
    /// When it was read.
    pub time: String,
    /// The machine.
    pub node: Node,
    /// Whether all processes of the node are seen; false in a container with a PID namespace of its
    /// own.
    pub whole_node: Option<bool>,
    /// What pods are known from; null where nothing was asked for or found.
    pub kubernetes: Option<Kubernetes>,
    /// How much was looked at.
    pub looked_at: LookedAt,
    /// What was found, the gravest first.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub not_checked: Vec<NotChecked>,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LookedAt {
    /// Memory cgroups.
    pub cgroups: u32,
    /// Pods among them.
    pub pods: u32,
    /// Containers among them.
    pub containers: u32,
    /// Processes that have memory.
    pub processes: u32,
}

/// A check that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NotChecked {
    /// What it would have found.
    pub code: Code,
    /// What is not known.
    pub reason: &'static str,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Finding {
    /// What it is.
    pub code: Code,
    /// How grave it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: Subject,
    /// The numbers; those that do not belong to the code are left out.
    pub numbers: Numbers,
    /// What was found, in a sentence.
    pub summary: String,
    /// Why it matters, in a sentence.
    pub why: &'static str,
    /// What to do, in a sentence.
    pub advice: &'static str,
}

/// What can be found.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Code {
    /// The kernel panics instead of killing (`vm.panic_on_oom`).
    PanicOnOom,
    /// The node has less memory available than the kubelet's default threshold of 100 MiB.
    NodeMemoryLow,
    /// Processes of the node wait for memory.
    NodeMemoryPressure,
    /// The working set of a cgroup is near its limit.
    NearLimit,
    /// At its limit a cgroup's processes hang: nobody is killed (cgroup v1).
    KillDisabled,
    /// Nothing is kept from the pods for the system.
    NoSystemReservation,
    /// The OOM killer may well take a program that the node, or the tracing, depends on.
    UnprotectedDaemon,
    /// A process has another `oom_score_adj` than the kubelet gives its container.
    AdjDiffers,
    /// A pod without any request or limit.
    BestEffortPod,
    /// A container uses more than twice what it requests.
    RequestBelowUse,
    /// A container without a limit, in a pod where another has one.
    ContainerWithoutLimit,
    /// Several cgroups die together (`memory.oom.group`).
    GroupKill,
    /// Whoever asks for memory dies when the node runs out (`vm.oom_kill_allocating_task`).
    KillAllocatingTask,
    /// Memory is refused before it runs out (`vm.overcommit_memory` is 2).
    StrictOvercommit,
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It bites now, or takes the node with it.
    Critical,
    /// It bites when memory runs out.
    Warning,
}

/// What a finding is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Subject {
    /// The pod.
    pub pod_uid: Option<String>,
    /// Its namespace and name, joined by `/`.
    pub pod: Option<String>,
    /// The container.
    pub container_id: Option<String>,
    /// Its name.
    pub container: Option<String>,
    /// The memory cgroup.
    pub cgroup: Option<String>,
    /// The process, or the first of several.
    pub pid: Option<u32>,
    /// Its name.
    pub comm: Option<String>,
}

/// The numbers of a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(default)]
pub struct Numbers {
    /// What is charged to the cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// That less file pages that can go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_set_bytes: Option<u64>,
    /// The limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// The working set, in percent of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u64>,
    /// The memory request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// The process's `oom_score_adj`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// What the kubelet's formula gives, where all of it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_oom_score_adj: Option<i32>,
    /// How many processes it is true of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// How many cgroups with processes die together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroups: Option<u32>,
    /// The node's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What the kubelet calls `memory.available`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_bytes: Option<u64>,
    /// Percentage of the last minute in which every task that had work waited for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi_full_avg60: Option<f64>,
    /// The value of the sysctl.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysctl: Option<u64>,
}

/// What is looked at.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The machine.
    pub node: Node,
    /// What `names` know pods from.
    pub kubernetes: Option<Kubernetes>,
    /// When all was read.
    pub time: String,
    /// Its memory.
    pub memory: Memory,
    /// All memory cgroups, parents first.
    pub memcgs: &'a [Memcg],
    /// Whether `tasks` are all of the node.
    pub whole_node: Option<bool>,
    /// All processes.
    pub tasks: &'a [Task],
    /// Those that run `oomtrace trace`.
    pub tracers: &'a [u32],
    /// `avg60` of `full` in `/proc/pressure/memory`.
    pub psi_full_avg60: Option<f64>,
    /// `vm.panic_on_oom`.
    pub panic_on_oom: Option<u64>,
    /// `vm.oom_kill_allocating_task`.
    pub kill_allocating_task: Option<u64>,
    /// `vm.overcommit_memory`.
    pub overcommit_memory: Option<u64>,
    /// From this percentage of its limit on a working set is near it.
    pub near_percent: u64,
}
