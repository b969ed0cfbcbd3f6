//! What would have spared the victim, by the kernel's formula over the candidates.
//!
//! Everything else is taken to be as it was: the others' memory and `oom_score_adj`, and what was
//! asked for.

use super::{
    kubelet::request_for,
    verdict::{Case, Ranked},
};
use crate::{
    cgroup::QosClass,
    event::{Candidate, Constraint, NextVictim, Role, Survival},
};

/// The lowest `oom_score_adj` of a task that is compared: one at -1000 is not.
const LEAST_ADJ: i64 = -999;

pub(super) fn survival(case: &Case<'_>) -> Option<Survival> {
    if !case.killed || case.oom.sysrq == Some(true) {
        return None;
    }
    let rivals = rivals(case);
    let instead = rivals.and_then(|(victim, others)| {
        let next = others.first()?;
        Some((sparing_adj(victim, next, case.total_pages()?)?, next))
    });
    let survival = Survival {
        oom_score_adj: instead.map(|(adj, _)| adj),
        next_victim: instead.map(|(_, next)| NextVictim {
            pid: next.pid,
            comm: next.comm.clone(),
            pod_uid: next.pod_uid.clone(),
        }),
        memory_request_bytes: rivals.and_then(|rivals| sparing_request(case, rivals)),
        limit_at_least_bytes: sparing_limit(case),
    };
    let Survival {
        oom_score_adj,
        next_victim: _,
        memory_request_bytes,
        limit_at_least_bytes,
    } = &survival;
    let known =
        oom_score_adj.is_some() || memory_request_bytes.is_some() || limit_at_least_bytes.is_some();
    known.then_some(survival)
}

/// The victim and those behind it, highest points first, where it died for its own points: those
/// that die with another do not. None where the one that comes next may be missing.
fn rivals<'a>(case: &Case<'a>) -> Option<(&'a Candidate, &'a [Candidate])> {
    let Ranked { items, whole, .. } = case.ranked?;
    let (first, others) = items.split_first()?;
    let alone = case.victim.role == Some(Role::Chosen) && case.oom.victim_count == Some(1);
    (alone && whole && Some(first.pid) == case.victim.pid && first.rank == 1)
        .then_some((first, others))
}

/// The highest `oom_score_adj` with which the victim has fewer points than the other. Among equals
/// the kernel takes the one it looks at later (`oom_evaluate_task` in `mm/oom_kill.c`), so only
/// fewer points are sure to spare it.
fn sparing_adj(victim: &Candidate, other: &Candidate, total_pages: u64) -> Option<i32> {
    let step = i64::try_from(total_pages / 1000).ok()?;
    let share = i64::from(victim.oom_score_adj).checked_mul(step)?;
    let held = victim.badness_pages?.checked_sub(share)?;
    let room = other.badness_pages?.checked_sub(held)?.checked_sub(1)?;
    let adj = room.checked_div_euclid(step)?;
    i32::try_from(adj).ok().filter(|_| adj >= LEAST_ADJ)
}

/// The memory request that would have made a process of another container die. The kubelet gives
/// all processes of a container the same `oom_score_adj`, so those of its own do not count as
/// others.
fn sparing_request(case: &Case<'_>, (victim, others): (&Candidate, &[Candidate])) -> Option<u64> {
    let Case { victim: task, .. } = case;
    let class = task.pod.as_ref().and_then(|pod| pod.qos_class);
    // One that the process gave itself does not follow from a request.
    let given = task
        .expected_oom_score_adj
        .is_none_or(|expected| task.oom_score_adj == Some(expected));
    if class != Some(QosClass::Burstable) || !given {
        return None;
    }
    let other = others
        .iter()
        .find(|other| same_container(victim, other) != Some(true))
        .filter(|other| same_container(victim, other) == Some(false))?;
    let adj = sparing_adj(victim, other, case.total_pages()?)?;
    request_for(adj, case.capacity_bytes?)
}

/// Whether two candidates are of one container, as far as known.
fn same_container(one: &Candidate, other: &Candidate) -> Option<bool> {
    if one.cgroup_id.is_some() && one.cgroup_id == other.cgroup_id {
        return Some(true);
    }
    let id = one.container_id.as_ref().zip(other.container_id.as_ref());
    let uid = one.pod_uid.as_ref().zip(other.pod_uid.as_ref());
    match (id, uid) {
        (Some((one, other)), _) => Some(one == other),
        (None, Some((one, other))) if one != other => Some(false),
        _ => None,
    }
}

/// The least limit that this allocation would not have hit: what was charged, and what was asked
/// for.
fn sparing_limit(case: &Case<'_>) -> Option<u64> {
    let memcg = case.oom.memcg.as_ref();
    let memcg = memcg.filter(|_| case.oom.constraint == Some(Constraint::Memcg))?;
    let pages = 1_u64.checked_shl(u32::try_from(case.oom.order?).ok()?)?;
    let needed = memcg
        .usage_bytes?
        .checked_add(pages.checked_mul(case.page_size)?)?;
    // On cgroup v1 it may be another limit that was hit, that of memory and swap together.
    (needed > memcg.limit_bytes?).then_some(needed)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::explain) fn candidate(pid: u32, points: i64, adj: i32) -> Candidate {
        Candidate {
            rank: 0,
            pid,
            comm: format!("task {pid}"),
            badness_pages: Some(points),
            oom_score_adj: adj,
            rss_bytes: None,
            swap_bytes: None,
            pgtables_bytes: None,
            cgroup_id: None,
            container_id: None,
            pod_uid: None,
            memory_request_bytes: None,
        }
    }

    /// A task as the kernel sees it: what it holds, in pages, and its `oom_score_adj`.
    #[derive(Clone, Copy, Debug)]
    struct Contender {
        held: i64,
        adj: i64,
    }

    impl Contender {
        /// `oom_badness`.
        fn points(self, total: i64) -> i64 {
            self.held + self.adj * (total / 1000)
        }
    }

    /// `select_bad_process`: who dies when the tasks are looked at in this order.
    fn chosen(tasks: &[Contender], order: &[usize], total: i64) -> usize {
        let mut best = (usize::MAX, i64::MIN);
        for &at in order {
            let points = tasks[at].points(total);
            if points < best.1 {
                continue;
            }
            best = (at, points);
        }
        best.0
    }

    fn contenders() -> impl Strategy<Value = Vec<Contender>> {
        let held = prop_oneof![0..200_i64, 0..5_000_000_i64];
        let adj = prop_oneof![Just(0), -999..=1000_i64];
        let one = (held, adj).prop_map(|(held, adj)| Contender { held, adj });
        proptest::collection::vec(one, 2..12)
    }

    proptest! {
        /// With the `oom_score_adj` found the kernel takes another, whichever it looks at first;
        /// with one more it still takes the victim, if it looks at it last. Where none is found,
        /// not even the lowest is sure to spare it.
        #[test]
        fn the_kernel_would_take_another(tasks in contenders(), total in 1000..8_000_000_i64) {
            let forwards: Vec<usize> = (0..tasks.len()).collect();
            let victim = chosen(&tasks, &forwards, total);
            let mut ranked: Vec<(u32, Contender)> = (0..).zip(tasks.clone()).collect();
            ranked.reverse();
            ranked.sort_by_key(|(_, task)| std::cmp::Reverse(task.points(total)));
            prop_assert_eq!(ranked[0].0 as usize, victim);
            let listed = |at: usize| {
                let (pid, task) = ranked[at];
                candidate(pid, task.points(total), i32::try_from(task.adj).unwrap())
            };
            let found = sparing_adj(&listed(0), &listed(1), total.unsigned_abs());

            let with = |adj: i64, order: &[usize]| {
                let mut tasks = tasks.clone();
                tasks[victim].adj = adj;
                chosen(&tasks, order, total)
            };
            let mut last: Vec<usize> = forwards.clone();
            last.retain(|at| *at != victim);
            let first: Vec<usize> = [victim].into_iter().chain(last.clone()).collect();
            last.push(victim);
            match found {
                Some(adj) => {
                    let adj = i64::from(adj);
                    prop_assert!(adj <= tasks[victim].adj);
                    for order in [&first, &last, &forwards] {
                        prop_assert_ne!(with(adj, order), victim);
                    }
                    prop_assert_eq!(with(adj + 1, &last), victim);
                }
                None => prop_assert_eq!(with(LEAST_ADJ, &last), victim),
            }
        }
    }

    /// Numbers by hand: 1000 pages a point of 1000, and a tie is not enough.
    #[test]
    fn fewer_points_than_the_next() {
        let next = candidate(2, 2_298, 0);
        for (points, adj, total, expected) in [
            (4_366, 0, 6_144, Some(-345)),
            (2_298, 0, 6_144, Some(-1)),
            (2_298, 7, 6_144, Some(6)),
            (2_299, 0, 1_000_000, Some(-1)),
            (9_000_000, 0, 6_144, None),
            (4_366, 0, 999, None),
        ] {
            let found = sparing_adj(&candidate(1, points, adj), &next, total);
            assert_eq!(found, expected, "{points} {adj} {total}");
        }
        let mut unknown = next;
        unknown.badness_pages = None;
        assert_eq!(sparing_adj(&candidate(1, 1, 0), &unknown, 6_144), None);
        let absurd = candidate(1, i64::MIN, 1000);
        assert_eq!(
            sparing_adj(&absurd, &candidate(2, i64::MAX, 0), 6_144),
            None
        );
    }

    /// Containers are told apart by what is known of both, and else not.
    #[test]
    fn whose_container() {
        let with = |cgroup: Option<&str>, container: Option<&str>, pod: Option<&str>| Candidate {
            cgroup_id: cgroup.map(str::to_owned),
            container_id: container.map(str::to_owned),
            pod_uid: pod.map(str::to_owned),
            ..candidate(1, 0, 0)
        };
        let one = with(Some("1"), Some("a"), Some("p"));
        for (other, expected) in [
            (with(Some("1"), None, None), Some(true)),
            (with(Some("2"), None, None), None),
            (with(Some("2"), Some("a"), Some("p")), Some(true)),
            (with(Some("2"), Some("b"), Some("p")), Some(false)),
            (with(None, None, Some("q")), Some(false)),
            (with(None, None, Some("p")), None),
            (with(None, None, None), None),
        ] {
            assert_eq!(same_container(&one, &other), expected, "{other:?}");
        }
    }
}
