//! The verdict on facts of real kills, as recorded and as they would be in a pod.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{recorded, recorded_kills};
use oomtrace::{
    cgroup::{self, Level, QosClass},
    event::{
        Candidate, CandidateSource, Cgroup, Constraint, Container, OomKill, Pod, Role, Scope,
        Verdict, VerdictCode, VerdictFlag,
    },
    explain::{self, Case, Ranked},
};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const UID: &str = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";
const OTHER_UID: &str = "0c5f3a52-7c9e-4d0b-9b58-6f2f4d1f8f10";
const ID: &str = "14011c7d92a9e513dfd69211da0413dbf319a5e45a02b354ba6e98e10272542d";
const OTHER_ID: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// The verdict on what an event has.
fn judge(event: &OomKill) -> Verdict {
    judge_with(event, PAGE)
}

fn judge_with(event: &OomKill, page_size: u64) -> Verdict {
    let candidates = event.candidates.as_ref();
    explain::verdict(&Case {
        killed: event.oom.mark_path.is_none(),
        oom: &event.oom,
        trigger: &event.trigger,
        victim: &event.victim,
        ranked: candidates.map(|candidates| Ranked {
            items: &candidates.items,
            total: candidates.total,
            whole: true,
        }),
        unowned_bytes: event
            .verdict
            .as_ref()
            .and_then(|verdict| verdict.unowned_bytes),
        capacity_bytes: event.head.node.memory_bytes,
        page_size,
    })
}

fn said(event: &OomKill) -> String {
    judge(event).summary.unwrap()
}

/// The kill of the bigger of two processes in a cgroup, because the smaller asked for memory.
fn two_in_a_cgroup() -> OomKill {
    recorded("victim_is_not_the_trigger").remove(0)
}

/// A kill because the machine was full: `big` before `middle`, which has an `oom_score_adj`.
fn full_machine() -> OomKill {
    recorded("machine_with_swap").remove(0)
}

fn pod_path(uid: &str, id: &str) -> String {
    format!("/kubepods/burstable/pod{uid}/{id}")
}

/// Moves the victim into a container.
fn in_container(event: &mut OomKill) {
    let cgroup = event.victim.cgroup.as_mut().unwrap();
    cgroup.path = Some(pod_path(UID, ID));
    cgroup.level = Some(Level::Container);
    event.victim.container = Some(Container {
        id: ID.to_owned(),
        ..Container::default()
    });
    event.victim.pod = Some(pod(UID, "payments-api-5d4f"));
}

fn pod(uid: &str, name: &str) -> Pod {
    Pod {
        uid: uid.to_owned(),
        name: Some(name.to_owned()),
        namespace: Some("prod".to_owned()),
        qos_class: Some(QosClass::Burstable),
        ..Pod::default()
    }
}

/// The limit of this cgroup was hit.
fn hits(event: &mut OomKill, path: &str) {
    let memcg = event.oom.memcg.as_mut().unwrap();
    memcg.path = Some(path.to_owned());
    event.oom.scope = Some(match cgroup::resolve(path.as_bytes()).level {
        Level::Container => Scope::Container,
        Level::Pod => Scope::Pod,
        Level::Qos => Scope::Qos,
        Level::Kubepods => Scope::Kubepods,
        Level::Slice | Level::Node => Scope::Slice,
    });
}

/// What was recorded with the verdict is what follows from the other facts of the record.
#[test]
fn recorded_verdicts_follow_from_their_facts() {
    let mut compared = 0;
    for (name, event) in recorded_kills() {
        let candidates = event.candidates.as_ref().unwrap();
        // Of longer lists the record has the first only.
        if candidates.listed == candidates.total {
            let wordless = |mut verdict: Verdict| {
                assert!(verdict.summary.take().is_some(), "{name}");
                verdict
            };
            let found = event.verdict.clone().map(wordless);
            let page_size = if name.contains("-16k.") {
                16 << 10
            } else {
                PAGE
            };
            let expected = wordless(judge_with(&event, page_size));
            assert_eq!(found, Some(expected), "{name}");
            compared += 1;
        }
    }
    assert!(compared > 10, "{compared} verdicts were compared");
}

/// One word for each kind of decision.
#[test]
fn codes() {
    let pod = format!("/kubepods/burstable/pod{UID}");
    for (path, expected) in [
        (pod_path(UID, ID).as_str(), VerdictCode::ContainerLimit),
        (&pod, VerdictCode::PodLimit),
        ("/kubepods/burstable", VerdictCode::QosLimit),
        ("/kubepods", VerdictCode::NodeAllocatable),
        ("/system.slice/nginx.service", VerdictCode::SliceLimit),
    ] {
        let mut event = two_in_a_cgroup();
        hits(&mut event, path);
        assert_eq!(judge(&event).code, Some(expected), "{path}");
        // The biggest part of it in no process weighs more than whose limit it was.
        let usage = event.oom.memcg.as_ref().unwrap().usage_bytes.unwrap();
        for (unowned, is_most) in [(usage / 2, false), (usage / 2 + 1, true)] {
            event.verdict.as_mut().unwrap().unowned_bytes = Some(unowned);
            let is = judge(&event).code == Some(VerdictCode::UnownedMemory);
            assert_eq!(is, is_most, "{path}");
        }
    }
    let mut event = full_machine();
    for (scope, expected) in [
        (Some(Scope::Node), Some(VerdictCode::NodeOutOfMemory)),
        (Some(Scope::Cpuset), Some(VerdictCode::Cpuset)),
        (Some(Scope::MemoryPolicy), Some(VerdictCode::MemoryPolicy)),
        (None, None),
    ] {
        event.oom.scope = scope;
        assert_eq!(judge(&event).code, expected);
    }
    event.oom.sysrq = Some(true);
    let manual = judge(&event);
    assert_eq!(manual.code, Some(VerdictCode::Manual));
    assert_eq!(manual.survival, None, "no memory would have helped");
    event.oom.mark_path = Some(oomtrace::event::MarkPath::ChosenTask);
    assert_eq!(judge(&event).code, Some(VerdictCode::AlreadyExiting));
}

/// A flag needs its facts: with them it is there, without any of them it is not.
#[test]
fn flags() {
    let has = |event: &OomKill, flag| judge(event).flags.contains(&flag);
    let mut event = two_in_a_cgroup();
    in_container(&mut event);
    hits(&mut event, &pod_path(UID, ID));
    assert_eq!(judge(&event).flags, []);

    // The trigger in another pod, in the same, in none.
    for (uid, expected) in [(Some(OTHER_UID), true), (Some(UID), false), (None, false)] {
        let mut event = event.clone();
        event.trigger.pod = uid.map(|uid| pod(uid, "other"));
        assert_eq!(has(&event, VerdictFlag::TriggerInAnotherPod), expected);
    }

    // The parent among those of the container, elsewhere, not there.
    let other = event.candidates.as_ref().unwrap().items[1].clone();
    let mut child = event.clone();
    child.victim.ppid = Some(other.pid);
    assert!(has(&child, VerdictFlag::ChildDied));
    child.oom.victim_count = Some(2);
    assert!(
        !has(&child, VerdictFlag::ChildDied),
        "the parent may be one of them"
    );
    child.oom.victim_count = Some(1);
    hits(&mut child, "/kubepods");
    assert!(
        has(&child, VerdictFlag::ChildDied),
        "it is in the same cgroup"
    );
    child.candidates.as_mut().unwrap().items[1].cgroup_id = Some("1".to_owned());
    assert!(!has(&child, VerdictFlag::ChildDied));

    for (adj, expected_adj, expected) in [
        (0, None, false),
        (0, Some(0), false),
        (0, Some(938), true),
        (-998, Some(-997), false),
    ] {
        let mut event = event.clone();
        event.victim.oom_score_adj = Some(adj);
        event.victim.expected_oom_score_adj = expected_adj;
        assert_eq!(has(&event, VerdictFlag::AdjDiffers), expected, "{adj}");
    }

    // A group that is larger than the container, and one within it.
    let mut group = event.clone();
    group.oom.victim_count = Some(3);
    assert!(has(&group, VerdictFlag::WholeContainerKilled));
    group.victim.role = Some(Role::GroupMember);
    assert!(has(&group, VerdictFlag::WholeContainerKilled));
    group.victim.cgroup.as_mut().unwrap().path = Some(pod_path(UID, ID) + "/worker");
    assert!(!has(&group, VerdictFlag::WholeContainerKilled));

    // The limit of the pod and of the container, in whole pages.
    let limit = event.oom.memcg.as_ref().unwrap().limit_bytes.unwrap();
    hits(&mut event, &format!("/kubepods/burstable/pod{UID}"));
    for (own, expected) in [
        (None, false),
        (Some(limit), true),
        (Some(limit + PAGE - 1), true),
        (Some(limit - 1), false),
    ] {
        event.victim.container.as_mut().unwrap().memory_limit_bytes = own;
        assert_eq!(has(&event, VerdictFlag::OnlyContainerOfPod), expected);
    }
}

/// A bystander used less than it asked for, while another used more than that.
#[test]
fn bystanders() {
    let mut event = full_machine();
    in_container(&mut event);
    let container = event.victim.container.as_mut().unwrap();
    container.memory_usage_bytes = Some(400 * MIB);
    container.memory_request_bytes = Some(401 * MIB);
    let other = &mut event.candidates.as_mut().unwrap().items[1];
    other.container_id = Some(OTHER_ID.to_owned());
    other.memory_request_bytes = Some(100 * MIB);
    assert_eq!(judge(&event).flags, [VerdictFlag::Bystander]);
    let pid = event.victim.pid.unwrap();
    assert_eq!(
        said(&event),
        format!(
            "big (pid {pid}) in pod prod/payments-api-5d4f was killed because the node ran out of \
             memory (1.0 GiB with swap). Its container used less than its memory request, while \
             another was over its own."
        )
    );
    let spoilt: [fn(&mut OomKill); 4] = [
        |event| {
            event
                .victim
                .container
                .as_mut()
                .unwrap()
                .memory_request_bytes = Some(400 * MIB)
        },
        |event| event.victim.container.as_mut().unwrap().memory_usage_bytes = None,
        |event| event.candidates.as_mut().unwrap().items[1].memory_request_bytes = Some(MIB << 10),
        |event| event.candidates.as_mut().unwrap().items[1].container_id = Some(ID.to_owned()),
    ];
    for (number, spoil) in spoilt.iter().enumerate() {
        let mut event = event.clone();
        spoil(&mut event);
        assert_eq!(judge(&event).flags, [], "{number}");
    }
}

/// The sentences, as a person reads them.
#[test]
fn summaries() {
    let mut event = two_in_a_cgroup();
    let pids: Vec<u32> = event
        .candidates
        .as_ref()
        .unwrap()
        .items
        .iter()
        .map(|item| item.pid)
        .collect();
    let (victim, next) = (pids[0], pids[1]);
    let [more, less] = [0, 1].map(|at| {
        let item = &event.candidates.as_ref().unwrap().items[at];
        let parts = [item.rss_bytes, item.swap_bytes, item.pgtables_bytes];
        explain::amount(parts.into_iter().map(Option::unwrap).sum())
    });
    let held = format!(" It held {more}; next was small one (pid {next}) with {less}.");
    hits(&mut event, "/system.slice/nginx.service");
    assert_eq!(
        said(&event),
        format!(
            "oomtrace-victim (pid {victim}) was killed because cgroup /system.slice/nginx.service \
             reached its memory limit of 24.0 MiB.{held}"
        )
    );
    in_container(&mut event);
    hits(&mut event, &format!("/kubepods/burstable/pod{UID}"));
    event.victim.container.as_mut().unwrap().name = Some("app".to_owned());
    let who =
        format!("oomtrace-victim (pid {victim}) in container app of pod prod/payments-api-5d4f");
    assert_eq!(
        said(&event),
        format!("{who} was killed because its pod reached its memory limit of 24.0 MiB.{held}")
    );
    event.victim.container.as_mut().unwrap().memory_limit_bytes = Some(24 * MIB);
    assert_eq!(
        said(&event),
        format!(
            "{who} was killed because its pod reached its memory limit of 24.0 MiB, which is the \
             limit of this one container.{held}"
        )
    );
    event.verdict.as_mut().unwrap().unowned_bytes = Some(20 * MIB);
    assert_eq!(
        said(&event),
        format!(
            "{who} was killed because its pod reached its memory limit of 24.0 MiB, which is the \
             limit of this one container, but 20.0 MiB of that is in no process (files on tmpfs, \
             page cache, kernel memory).{held}"
        )
    );
    event.verdict.as_mut().unwrap().unowned_bytes = None;
    hits(&mut event, "/kubepods");
    event.trigger.pod = Some(pod(OTHER_UID, "batch"));
    assert_eq!(
        said(&event),
        format!(
            "{who} was killed because all pods together reached the node's allocatable memory of \
             24.0 MiB, not because of a limit of its own. It held {more}; next was small one (pid \
             {next}) with {less}; the memory was asked for by small one (pid {next}), in another \
             pod."
        )
    );

    // What put it first: memory, or `oom_score_adj`, or that in spite of this.
    let node = "big (pid 1067) was killed because the node ran out of memory (1.0 GiB with swap). ";
    let with = |adj: i32, next_adj: i32, next_rss: u64| {
        let mut event = full_machine();
        let items = &mut event.candidates.as_mut().unwrap().items;
        items[0].pid = 1067;
        (items[0].rss_bytes, items[0].swap_bytes) = (Some(200 * MIB), Some(0));
        (items[0].pgtables_bytes, items[1].pgtables_bytes) = (Some(0), Some(0));
        (items[1].rss_bytes, items[1].swap_bytes) = (Some(next_rss), Some(0));
        (items[0].oom_score_adj, items[1].oom_score_adj) = (adj, next_adj);
        items[1].pid = 7;
        event.victim.pid = Some(1067);
        said(&event)
    };
    assert_eq!(
        with(1000, 750, 8000 * MIB),
        format!(
            "{node}It held less memory than middle (pid 7), 200 MiB against 7.8 GiB, but its \
             oom_score_adj of 1000 against 750 put it first."
        )
    );
    assert_eq!(
        with(3, 750, 10 * MIB),
        format!(
            "{node}It held 200 MiB with an oom_score_adj of 3; next was middle (pid 7) with 10.0 MiB \
             and 750."
        )
    );
    assert_eq!(
        with(750, 3, 10 * MIB),
        format!(
            "{node}It held 200 MiB with an oom_score_adj of 750; next was middle (pid 7) with 10.0 \
             MiB and 3."
        )
    );
}

/// Of what is not known nothing is said.
#[test]
fn unknown_is_not_said() {
    let mut event = two_in_a_cgroup();
    let victim = event.victim.pid.unwrap();
    event.candidates = None;
    event.oom = oomtrace::event::Oom::default();
    event.oom.constraint = Some(Constraint::Memcg);
    event.verdict = None;
    let verdict = judge(&event);
    assert_eq!(verdict.code, None);
    assert_eq!(verdict.survival, None);
    assert_eq!(
        verdict.summary.unwrap(),
        format!(
            "oomtrace-victim (pid {victim}) was killed because a memory cgroup reached its limit, it \
             is unknown which."
        )
    );
    event.victim.comm = None;
    event.victim.pid = None;
    event.victim.tid = None;
    event.oom.constraint = None;
    assert_eq!(
        said(&event),
        "a process was killed because memory ran out; whose limit it was is unknown."
    );
}

/// A group dies whole, so that no `oom_score_adj` of one would have spared it.
#[test]
fn groups_are_not_spared() {
    let events = recorded("twenty_die_as_a_group");
    assert_eq!(events.len(), 20);
    for event in events {
        let verdict = judge(&event);
        let survival = verdict.survival.unwrap();
        assert_eq!((survival.oom_score_adj, survival.next_victim), (None, None));
        let summary = verdict.summary.unwrap();
        assert!(
            summary
                .contains("With memory.oom.group set, all 20 processes of its group died together"),
            "{summary}"
        );
    }
}

/// The argument that is told the wrong way round: on a node of 16000 MiB, BestEffort payments-api
/// uses 200, Burstable data-pipeline 8000, with requests of 4000, 8000 and 12000.
#[test]
fn who_dies_on_a_full_node() {
    let capacity = 16_000 * MIB;
    let candidate = |pid, comm: &str, id: &str, uid: &str, used: u64, adj: i32| {
        let held = explain::Footprint {
            rss_pages: used * MIB / PAGE,
            swap_pages: 0,
            pgtables_bytes: 0,
        };
        Candidate {
            rank: 0,
            pid,
            comm: comm.to_owned(),
            badness_pages: explain::points(held, adj, Some(capacity / PAGE), PAGE),
            oom_score_adj: adj,
            rss_bytes: Some(used * MIB),
            swap_bytes: Some(0),
            pgtables_bytes: Some(0),
            cgroup_id: Some(pid.to_string()),
            container_id: Some(id.to_owned()),
            pod_uid: Some(uid.to_owned()),
            memory_request_bytes: None,
        }
    };
    for (request, dies, adj, spared_by) in [
        (4_000, "data-pipeline", Some(512), Some(7_808)),
        (8_000, "payments-api", Some(987), None),
        (12_000, "payments-api", Some(737), None),
    ] {
        let of_pipeline = explain::expected_oom_score_adj(
            QosClass::Burstable,
            Some(false),
            Some(request * MIB),
            Some(capacity),
        );
        let mut items = vec![
            candidate(1, "payments-api", ID, UID, 200, 1000),
            candidate(
                2,
                "data-pipeline",
                OTHER_ID,
                OTHER_UID,
                8_000,
                of_pipeline.unwrap(),
            ),
        ];
        items.sort_by_key(|item| std::cmp::Reverse(item.badness_pages));
        for (rank, item) in (1..).zip(&mut items) {
            item.rank = rank;
        }
        assert_eq!(items[0].comm, dies, "request {request}");

        let mut event = full_machine();
        event.victim.pid = Some(items[0].pid);
        event.victim.oom_score_adj = Some(items[0].oom_score_adj);
        event.victim.container = Some(Container {
            id: items[0].container_id.clone().unwrap(),
            ..Container::default()
        });
        event.victim.pod = Some(Pod {
            qos_class: Some(if dies == "payments-api" {
                QosClass::BestEffort
            } else {
                QosClass::Burstable
            }),
            ..pod(items[0].pod_uid.as_ref().unwrap(), dies)
        });
        event.victim.cgroup = event.victim.cgroup.map(|cgroup| Cgroup {
            path: Some(pod_path(UID, ID)),
            ..cgroup
        });
        event.oom.total_bytes = Some(capacity);
        let node = std::sync::Arc::make_mut(&mut event.head.node);
        node.memory_bytes = Some(capacity);
        let other = items[1].clone();
        let candidates = event.candidates.as_mut().unwrap();
        candidates.source = CandidateSource::Kernel;
        (candidates.total, candidates.listed) = (2, 2);
        candidates.items = items;

        let survival = judge(&event).survival.unwrap();
        assert_eq!(survival.oom_score_adj, adj, "request {request}");
        let next = survival.next_victim.unwrap();
        assert_eq!(
            (next.pid, next.comm, next.pod_uid),
            (other.pid, other.comm, other.pod_uid)
        );
        assert_eq!(
            survival.memory_request_bytes,
            spared_by.map(|mib| mib * MIB),
            "request {request}"
        );

        // Whose the other is must be known, and that the kubelet's value is in force.
        event.candidates.as_mut().unwrap().items[1].container_id = None;
        event.candidates.as_mut().unwrap().items[1].pod_uid = None;
        assert_eq!(judge(&event).survival.unwrap().memory_request_bytes, None);
    }
}
