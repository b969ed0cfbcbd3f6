//! What the kernel had no part in: pods that the kubelet evicted, cgroups that systemd-oomd killed.

use super::{Class, offender::workload};
use crate::{
    event::{EvictedContainer, PodEviction, UserspaceKill},
    format::others::over,
};

/// A workload that somebody else than the kernel killed, and why.
#[derive(Debug)]
pub struct Other {
    /// What it is called, as an [`Offender`](super::Offender) is.
    pub name: String,
    /// By whom and why.
    pub how: String,
    /// How often.
    pub times: u64,
    /// The last time, in nanoseconds since the Unix epoch.
    pub last_ns: Option<u64>,
    pub(super) class: Class,
    /// The container that was furthest above its request.
    worst: Option<EvictedContainer>,
}

impl Other {
    pub(super) fn of_eviction(event: &PodEviction) -> Self {
        let resource = event.eviction.resource.as_ref();
        let why = resource.map(|resource| format!(": the node was low on {resource}"));
        Self {
            name: workload(Some(&event.pod), None, None, None),
            how: format!("evicted{}", why.unwrap_or_default()),
            times: 1,
            last_ns: event.head.unix_ns(),
            class: Class::Evicted,
            worst: event
                .eviction
                .containers
                .iter()
                .max_by_key(|it| above(it))
                .cloned(),
        }
    }

    pub(super) fn of_userspace_kill(event: &UserspaceKill) -> Self {
        let UserspaceKill {
            head,
            killer,
            reason,
            cgroup_path,
            whose,
            ..
        } = event;
        Self {
            name: workload(
                whose.pod.as_ref(),
                whose.container.as_ref(),
                Some(cgroup_path),
                None,
            ),
            how: format!("killed by {killer}: {reason}"),
            times: 1,
            last_ns: head.unix_ns(),
            class: Class::Userspace,
            worst: None,
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.times += other.times;
        self.last_ns = self.last_ns.max(other.last_ns);
        self.worst = self
            .worst
            .take()
            .into_iter()
            .chain(other.worst)
            .max_by_key(above);
    }

    /// What it used at most above its request, if that is known.
    pub fn over(&self) -> Option<String> {
        self.worst.as_ref().map(over)
    }
}

/// How much more it used than it requested.
fn above(container: &EvictedContainer) -> Option<u64> {
    container.usage_bytes?.checked_sub(container.request_bytes?)
}
