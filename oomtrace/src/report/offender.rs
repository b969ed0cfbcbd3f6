//! Who was killed, how often, and what may be changed about it.
//!
//! Advice is given only where the facts allow it, with its reasoning. What a container would have
//! used without its limit is not known; so a limit is never called the right one, only the next
//! to try, by the rule of the Vertical Pod Autoscaler after an OOM kill (`--oom-bump-up-ratio` and
//! `--oom-min-bump-up-bytes`, `pkg/recommender/model/aggregations_config.go`).

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Tally, words::count};
use crate::{
    cgroup::QosClass,
    event::{Container, OomKill, Pod, Role, Scope, VerdictCode, VerdictFlag, Victim},
    explain::{amount, brief},
};

const MIB: u64 = 1 << 20;
/// What the autoscaler adds at least.
const BUMP_BYTES: u64 = 100 * MIB;
/// Different limits that are remembered.
const LIMITS: usize = 8;

/// A workload: what a pod is managed by, else the pod, the container, the cgroup or the program.
#[derive(Debug, Default)]
pub struct Offender {
    /// What it is called.
    pub name: String,
    /// How often.
    pub tally: Tally,
    /// Its QoS class.
    pub class: Option<QosClass>,
    /// The first and the last kill, in nanoseconds since the Unix epoch.
    pub times: Option<(u64, u64)>,
    /// The most a victim held: resident and swapped.
    pub peak_held_bytes: Option<u64>,
    /// The most that was charged to its container, or to the cgroup whose limit was hit.
    pub peak_usage_bytes: Option<u64>,
    /// The memory request, the newest known.
    pub request_bytes: Option<u64>,
    /// Its own limits: the newest, and all.
    pub limit_bytes: Option<u64>,
    limits: BTreeSet<u64>,
    /// Decisions at its own limit, and what was charged at most then.
    own_limit: u64,
    used_at_limit_bytes: Option<u64>,
    limit_at_least_bytes: Option<u64>,
    /// Decisions of the node or of all pods.
    shared: u64,
    spared_by_request: u64,
    request_at_least_bytes: Option<u64>,
    bystander: u64,
    unowned: u64,
    unowned_bytes: Option<u64>,
    node_bytes: Option<u64>,
    /// How long victims had lived, in seconds: the shortest and the longest.
    lives: Option<(i64, i64)>,
}

/// What may be changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Advice {
    /// The change, in a few words; `None` where the facts allow none.
    pub change: Option<String>,
    /// From which facts that follows, or which are missing.
    pub reasons: Vec<String>,
}

/// What makes two victims the same workload.
pub(super) fn key(victim: &Victim) -> String {
    name(victim)
}

fn name(victim: &Victim) -> String {
    workload(
        victim.pod.as_ref(),
        victim.container.as_ref(),
        victim.cgroup.as_ref().and_then(|it| it.path.as_ref()),
        victim.comm.as_ref(),
    )
}

/// What a workload is called: the first of these that is known.
pub(super) fn workload(
    pod: Option<&Pod>,
    container: Option<&Container>,
    path: Option<&String>,
    comm: Option<&String>,
) -> String {
    if let Some(pod) = pod {
        let namespace = pod.namespace.as_deref().unwrap_or("(unknown namespace)");
        let of = match (&pod.owner, &pod.name) {
            (Some(owner), _) => format!("{namespace}/{} {}", owner.kind, owner.name),
            (None, Some(name)) => format!("{namespace}/{name}"),
            (None, None) => format!("pod {}", pod.uid),
        };
        return match container.and_then(|container| container.name.as_ref()) {
            Some(container) => format!("{of} · {container}"),
            None => of,
        };
    }
    if let Some(container) = container {
        let runtime = container.runtime.as_deref().unwrap_or("container");
        let id: String = container.id.chars().take(12).collect();
        return format!("{runtime} {id}");
    }
    match path.filter(|path| *path != "/") {
        Some(path) => brief(path, 80),
        None => comm.cloned().unwrap_or_else(|| "(unknown)".to_owned()),
    }
}

impl Offender {
    pub(super) fn new(victim: &Victim) -> Self {
        Self {
            name: name(victim),
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, kill: &OomKill, tally: Tally) {
        let OomKill {
            head,
            oom,
            victim,
            verdict,
            ..
        } = kill;
        self.tally.add(tally);
        if let Some(time) = head.unix_ns() {
            let (first, last) = self.times.unwrap_or((time, time));
            self.times = Some((first.min(time), last.max(time)));
            if let Some(life) = life_s(victim, time) {
                let (short, long) = self.lives.unwrap_or((life, life));
                self.lives = Some((short.min(life), long.max(life)));
            }
        }
        let pod = victim.pod.as_ref();
        self.class = pod.and_then(|pod| pod.qos_class).or(self.class);
        self.node_bytes = head.node.memory_bytes.or(self.node_bytes);
        let held = victim.memory.as_ref().and_then(|memory| {
            [
                memory.file_rss_bytes,
                memory.shmem_rss_bytes,
                memory.swap_bytes,
            ]
            .into_iter()
            .try_fold(memory.anon_rss_bytes?, |sum, part| sum.checked_add(part?))
        });
        self.peak_held_bytes = self.peak_held_bytes.max(held);
        let container = victim.container.as_ref();
        let usage = container.and_then(|container| container.memory_usage_bytes);
        self.peak_usage_bytes = self.peak_usage_bytes.max(usage);
        let request = container.and_then(|container| container.memory_request_bytes);
        self.request_bytes = request.or(self.request_bytes);
        let limit = container.and_then(|container| container.memory_limit_bytes);
        self.limit_bytes = limit.or(self.limit_bytes);
        if tally.decisions == 0 || victim.role == Some(Role::MmSharer) {
            return;
        }
        let verdict = verdict.as_ref();
        let survival = verdict.and_then(|verdict| verdict.survival.as_ref());
        match oom.scope {
            Some(Scope::Container | Scope::Pod | Scope::Slice) => {
                self.own_limit += 1;
                let memcg = oom.memcg.as_ref();
                let usage = memcg.and_then(|memcg| memcg.usage_bytes);
                self.used_at_limit_bytes = self.used_at_limit_bytes.max(usage);
                self.peak_usage_bytes = self.peak_usage_bytes.max(usage);
                if let Some(limit) = memcg.and_then(|memcg| memcg.limit_bytes) {
                    self.limit_bytes = Some(limit);
                    if self.limits.len() < LIMITS {
                        self.limits.insert(limit);
                    }
                }
                let least = survival.and_then(|survival| survival.limit_at_least_bytes);
                self.limit_at_least_bytes = self.limit_at_least_bytes.max(least);
            }
            Some(Scope::Qos | Scope::Kubepods | Scope::Node) => {
                self.shared += 1;
                let request = survival.and_then(|survival| survival.memory_request_bytes);
                self.spared_by_request += u64::from(request.is_some());
                self.request_at_least_bytes = self.request_at_least_bytes.max(request);
            }
            Some(Scope::Cpuset | Scope::MemoryPolicy) | None => {}
        }
        if let Some(verdict) = verdict {
            let bystander = verdict.flags.contains(&VerdictFlag::Bystander);
            self.bystander += u64::from(bystander);
            if verdict.code == Some(VerdictCode::UnownedMemory) {
                self.unowned += 1;
                self.unowned_bytes = self.unowned_bytes.max(verdict.unowned_bytes);
            }
        }
    }

    /// How long its victims had lived.
    pub fn lives(&self) -> Option<String> {
        let (short, long) = self.lives?;
        let (short, long) = (super::words::duration(short), super::words::duration(long));
        Some(if short == long {
            short
        } else {
            format!("{short} to {long}")
        })
    }

    /// What may be changed, and why.
    pub fn advice(&self) -> Advice {
        if self.own_limit == 0 && self.shared == 0 {
            return Advice {
                change: None,
                reasons: vec!["whose limit was hit is not known, or was none of memory".to_owned()],
            };
        }
        let mut changes = Vec::new();
        let mut reasons = Vec::new();
        if self.own_limit > 0 {
            self.limit_advice(&mut changes, &mut reasons);
        }
        if self.shared > 0 {
            self.request_advice(&mut changes, &mut reasons);
        }
        Advice {
            change: (!changes.is_empty()).then(|| changes.join("; ")),
            reasons,
        }
    }

    fn limit_advice(&self, changes: &mut Vec<String>, reasons: &mut Vec<String>) {
        if self.unowned * 2 > self.own_limit {
            changes.push("less tmpfs and page cache".to_owned());
            reasons.push(format!(
                "{} of {} at its limit found most of the memory in no process{}",
                self.unowned,
                count(self.own_limit, "decision"),
                self.unowned_bytes
                    .map_or_else(String::new, |bytes| format!(", up to {}", amount(bytes))),
            ));
            return;
        }
        let Some(used) = self.used_at_limit_bytes.max(self.limit_at_least_bytes) else {
            reasons.push("its usage at the limit is not in the records".to_owned());
            return;
        };
        if let (Some(least), Some(most)) = (self.limits.first(), self.limits.last())
            && least != most
        {
            changes.push("look for what grows before raising the limit again".to_owned());
            reasons.push(format!(
                "it reached every limit that it had, from {} to {}",
                amount(*least),
                amount(*most)
            ));
            return;
        }
        let next = (used / 5 * 6)
            .max(used.saturating_add(BUMP_BYTES))
            .div_ceil(MIB)
            .saturating_mul(MIB);
        if self.node_bytes.is_some_and(|node| next > node) {
            reasons.push("a higher limit would not fit the node".to_owned());
            return;
        }
        changes.push(format!("limit {}", amount(next)));
        reasons.push(format!(
            "it needed at least {}; 20 % or 100 MiB more, whichever is more, is the next to try; what it \
             would use without a limit is not known",
            amount(used)
        ));
    }

    fn request_advice(&self, changes: &mut Vec<String>, reasons: &mut Vec<String>) {
        let shared = count(self.shared, "decision");
        if self.bystander * 2 > self.shared {
            reasons.push(format!(
                "a bystander in {} of {shared}: it used less than its request, another one more; \
                 look at that one",
                self.bystander
            ));
            return;
        }
        if let Some(request) = self.request_at_least_bytes {
            changes.push(format!(
                "request {}",
                amount(request.div_ceil(MIB).saturating_mul(MIB))
            ));
            reasons.push(format!(
                "with that the kubelet's formula would have made another container's process die in {} \
                 of {shared} in which memory was short for all",
                self.spared_by_request
            ));
        } else if let (Some(QosClass::BestEffort), Some(usage)) =
            (self.class, self.peak_usage_bytes)
        {
            changes.push(format!(
                "request {}",
                amount(usage.div_ceil(MIB).saturating_mul(MIB))
            ));
            reasons.push(
                "it has no request at all, so it is first where memory is short for all; that is the \
                 most it used"
                    .to_owned(),
            );
        } else {
            reasons.push(format!(
                "memory was short for all in {shared}, and no request of its own is known to help"
            ));
        }
    }
}

/// How long the victim had lived, in seconds.
fn life_s(victim: &Victim, died_ns: u64) -> Option<i64> {
    let born: Timestamp = victim.start_time.as_ref()?.parse().ok()?;
    let died = i64::try_from(died_ns / 1_000_000_000).ok()?;
    Some((died - born.as_second()).max(0))
}
