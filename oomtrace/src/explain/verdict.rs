//! The verdict: what kind of decision it was, and what else is worth knowing of it. Unknown facts
//! lead to no claim.

use super::{
    kubelet::{GUARANTEED_ADJ, SANDBOX_ADJ},
    summary,
    survival::survival,
};
use crate::{
    cgroup,
    event::{Candidate, Oom, Role, Scope, Trigger, Verdict, VerdictCode, VerdictFlag, Victim},
};

/// All that is known of a victim.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// False where it was only marked.
    pub killed: bool,
    /// The decision.
    pub oom: &'a Oom,
    /// Who asked for memory.
    pub trigger: &'a Trigger,
    /// The victim.
    pub victim: &'a Victim,
    /// The candidates; none where they were not compared, or their order is not known.
    pub ranked: Option<Ranked<'a>>,
    /// What is charged to the memory cgroup and in no process of it.
    pub unowned_bytes: Option<u64>,
    /// The node's memory, which the kubelet's formula divides by.
    pub capacity_bytes: Option<u64>,
    /// Size of a page.
    pub page_size: u64,
}

/// The candidates, highest points first.
#[derive(Clone, Copy, Debug)]
pub struct Ranked<'a> {
    /// Those that are known.
    pub items: &'a [Candidate],
    /// How many there were.
    pub total: u32,
    /// Whether none that is missing can have more points than one that is here.
    pub whole: bool,
}

impl Case<'_> {
    /// What the decision could use, in pages.
    pub(super) fn total_pages(&self) -> Option<u64> {
        self.oom.total_bytes?.checked_div(self.page_size)
    }

    /// Whether the victim died with others of its cgroup (`memory.oom.group`).
    pub(super) fn died_with_group(&self) -> bool {
        self.killed
            && match self.victim.role {
                Some(Role::GroupMember) => true,
                Some(Role::Chosen) => self.oom.victim_count > Some(1),
                _ => false,
            }
    }
}

/// The verdict on a victim.
pub fn verdict(case: &Case<'_>) -> Verdict {
    let items = case.ranked.map_or(&[][..], |ranked| ranked.items);
    let at = items
        .iter()
        .position(|item| Some(item.pid) == case.victim.pid);
    let item = at.and_then(|at| items.get(at));
    let next = at.and_then(|at| items.get(at + 1));
    let code = code(case);
    let flags = flags(case);
    let margin = |next: &Candidate| item?.badness_pages?.checked_sub(next.badness_pages?);
    Verdict {
        code,
        summary: Some(summary::summary(case, code, &flags)),
        flags,
        victim_rank: item.map(|item| item.rank),
        runner_up_pid: next.map(|next| next.pid),
        margin_pages: next.and_then(margin),
        unowned_bytes: case.unowned_bytes,
        survival: survival(case),
    }
}

fn code(case: &Case<'_>) -> Option<VerdictCode> {
    if !case.killed {
        return Some(VerdictCode::AlreadyExiting);
    }
    if case.oom.sysrq == Some(true) {
        return Some(VerdictCode::Manual);
    }
    let usage = case.oom.memcg.as_ref().and_then(|memcg| memcg.usage_bytes);
    if let (Some(unowned), Some(usage)) = (case.unowned_bytes, usage)
        && unowned > usage / 2
    {
        return Some(VerdictCode::UnownedMemory);
    }
    Some(match case.oom.scope? {
        Scope::Container => VerdictCode::ContainerLimit,
        Scope::Pod => VerdictCode::PodLimit,
        Scope::Qos => VerdictCode::QosLimit,
        Scope::Kubepods => VerdictCode::NodeAllocatable,
        Scope::Slice => VerdictCode::SliceLimit,
        Scope::Node => VerdictCode::NodeOutOfMemory,
        Scope::Cpuset => VerdictCode::Cpuset,
        Scope::MemoryPolicy => VerdictCode::MemoryPolicy,
    })
}

fn flags(case: &Case<'_>) -> Vec<VerdictFlag> {
    let Case {
        oom,
        trigger,
        victim,
        ..
    } = case;
    let items = case.ranked.map_or(&[][..], |ranked| ranked.items);
    let pods = trigger.pod.as_ref().zip(victim.pod.as_ref());
    [
        (bystander(victim, items), VerdictFlag::Bystander),
        (
            oom.sysrq != Some(true)
                && pods.is_some_and(|(trigger, victim)| trigger.uid != victim.uid),
            VerdictFlag::TriggerInAnotherPod,
        ),
        (child_died(case, items), VerdictFlag::ChildDied),
        (adj_differs(victim), VerdictFlag::AdjDiffers),
        (
            case.died_with_group() && is_whole_container(victim),
            VerdictFlag::WholeContainerKilled,
        ),
        (
            oom.scope == Some(Scope::Pod) && is_only_container(case),
            VerdictFlag::OnlyContainerOfPod,
        ),
    ]
    .into_iter()
    .filter_map(|(holds, flag)| holds.then_some(flag))
    .collect()
}

/// Whether the victim's container used less than its request while a process of another container
/// alone held more than that one's.
pub fn bystander(victim: &Victim, candidates: &[Candidate]) -> bool {
    let Some(container) = &victim.container else {
        return false;
    };
    let usage = container
        .memory_usage_bytes
        .zip(container.memory_request_bytes);
    usage.is_some_and(|(used, request)| used < request)
        && candidates.iter().any(|other| {
            let elsewhere = other
                .container_id
                .as_ref()
                .is_some_and(|id| *id != container.id);
            let over = held_bytes(other).zip(other.memory_request_bytes);
            elsewhere && over.is_some_and(|(held, request)| held > request)
        })
}

/// What a candidate held.
pub(super) fn held_bytes(candidate: &Candidate) -> Option<u64> {
    candidate
        .rss_bytes?
        .checked_add(candidate.swap_bytes?)?
        .checked_add(candidate.pgtables_bytes?)
}

/// Whether the victim's parent is a process of the same container, and lives. The first process of
/// a container is the child of its runtime, which is outside of it.
fn child_died(case: &Case<'_>, candidates: &[Candidate]) -> bool {
    let Case { oom, victim, .. } = case;
    let (Some(cgroup), Some(_)) = (&victim.cgroup, &victim.container) else {
        return false;
    };
    // Every candidate is in the cgroup whose limit was hit.
    let limit = oom.memcg.as_ref().and_then(|memcg| memcg.path.as_ref());
    let own_limit = oom.scope == Some(Scope::Container) && limit == cgroup.path.as_ref();
    let alone = case.killed && oom.victim_count == Some(1) && victim.role == Some(Role::Chosen);
    alone
        && candidates.iter().any(|other| {
            let same = cgroup.id.is_some() && other.cgroup_id == cgroup.id;
            Some(other.pid) == victim.ppid && (same || own_limit)
        })
}

/// Whether the kernel's value is another than the kubelet's.
fn adj_differs(victim: &Victim) -> bool {
    let values = victim.oom_score_adj.zip(victim.expected_oom_score_adj);
    values.is_some_and(|(adj, expected)| {
        adj != expected && (adj, expected) != (SANDBOX_ADJ, GUARANTEED_ADJ)
    })
}

/// Whether a group that the victim is in has all of its container: it does where the victim is in
/// the container's own cgroup, and not in one that the container made in itself.
fn is_whole_container(victim: &Victim) -> bool {
    let cgroup = victim.cgroup.as_ref().filter(|cgroup| !cgroup.path_cut);
    cgroup
        .and_then(|cgroup| cgroup.path.as_deref()?.rsplit_once('/'))
        .is_some_and(|(parent, _)| {
            victim.container.is_some() && cgroup::resolve(parent.as_bytes()).container.is_none()
        })
}

/// Whether the limit of the pod is that of the victim's container. The kernel keeps whole pages.
fn is_only_container(case: &Case<'_>) -> bool {
    let pages = |bytes: Option<u64>| bytes?.checked_div(case.page_size);
    let container = case.victim.container.as_ref();
    let own = container.and_then(|container| pages(container.memory_limit_bytes));
    let pod = case.oom.memcg.as_ref();
    own.is_some() && own == pod.and_then(|memcg| pages(memcg.limit_bytes))
}
