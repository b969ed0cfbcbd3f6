//! The other killers: what the kernel knows nothing of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Enrichment, Head, Pod, Whose};
use crate::cgroup::Level;

/// The kubelet evicted a pod, as the pod's status tells.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PodEviction {
    /// What every record begins with; the time is that at which the status was seen.
    #[serde(flatten)]
    pub head: Head,
    /// The pod.
    pub pod: Pod,
    /// What its status tells.
    #[serde(flatten)]
    pub eviction: Eviction,
    /// The node's conditions, as the API server had them when this was written.
    pub node_conditions: Option<Vec<NodeCondition>>,
    /// Where the facts came from.
    pub enrichment: Option<Enrichment>,
}

/// What a pod's status tells of its eviction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Eviction {
    /// What the node ran short of: `memory`, `ephemeral-storage`, `pids`, …
    pub resource: Option<String>,
    /// The kubelet's words.
    pub message: Option<String>,
    /// When the kubelet decided it; only newer ones tell.
    pub evicted_at: Option<String>,
    /// How much was to be left.
    pub threshold_bytes: Option<u64>,
    /// How much was left.
    pub available_bytes: Option<u64>,
    /// The containers that used more than they requested, where the kubelet names them.
    pub containers: Vec<EvictedContainer>,
}

/// A container that used more than it requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvictedContainer {
    /// Its name.
    pub name: String,
    /// What it used of the resource: of memory its working set.
    pub usage_bytes: Option<u64>,
    /// What it requested.
    pub request_bytes: Option<u64>,
}

/// A condition of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeCondition {
    /// `MemoryPressure`, `DiskPressure`, `PIDPressure`, `Ready`, …
    pub condition: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in a word.
    pub reason: Option<String>,
    /// Since when.
    pub since: Option<String>,
}

/// A program killed all processes of a cgroup because memory was short.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UserspaceKill {
    /// What every record begins with; the time is that at which it was told.
    #[serde(flatten)]
    pub head: Head,
    /// The program: `systemd-oomd`.
    pub killer: String,
    /// Why, in its words: `memory-pressure`, `memory-used`.
    pub reason: String,
    /// The cgroup.
    pub cgroup_path: String,
    /// What kind of cgroup that is.
    pub level: Level,
    /// Whose it is.
    #[serde(flatten)]
    pub whose: Whose,
    /// Where the facts came from that the path does not tell.
    pub enrichment: Option<Enrichment>,
}
