#![expect(clippy::unwrap_used, reason = "tests")]

use oomtrace_common::Level;

use super::*;
use crate::{
    event::{self, Clock, Constraint, Event, Scope},
    kernel_log::{self, Counter, Limit, LogPath, TaskRow, TaskTable},
    probe::decode::{CgroupRef, DecisionMemcg, KernelPath, Memory, Task},
};

const ALL: Sources = Sources {
    log: true,
    decision_end: true,
    exits: true,
};
const LOG: Sources = Sources {
    log: true,
    decision_end: false,
    exits: true,
};
const NONE: Sources = Sources {
    log: false,
    decision_end: false,
    exits: true,
};

fn task(pid: u32, path: &str) -> Task {
    Task {
        pid: Some(pid),
        tid: pid,
        ppid: Some(1),
        uid: Some(0),
        oom_score_adj: Some(0),
        start_ns: Some(50),
        comm: format!("t{pid}").into_bytes(),
        cgroup: Some(CgroupRef {
            id: 1,
            version: 2,
            path: Some(KernelPath {
                bytes: path.into(),
                cut: false,
            }),
        }),
    }
}

fn victim(pid: u32) -> Victim {
    Victim {
        time_ns: 1_000 + u64::from(pid),
        decision_ns: None,
        task: task(pid, "/a/b"),
        trigger: task(7, "/a/c"),
        memory: Some(Memory {
            total_vm_pages: 100,
            anon_pages: 50,
            file_pages: 2,
            shmem_pages: 1,
            swap_pages: 0,
            pgtables_bytes: 8192,
        }),
        killed: true,
        exe: None,
        levels: vec![level(9), level(5), level(NO_LIMIT)],
    }
}

const NO_LIMIT: u64 = i64::MAX as u64 / 4096;

fn level(max_pages: u64) -> Level {
    Level {
        usage_pages: 5,
        max_pages,
        flags: 0,
    }
}

fn grouped(pid: u32, decision_ns: u64) -> Record {
    let mut victim = victim(pid);
    victim.decision_ns = Some(decision_ns);
    victim.levels[0].flags = LEVEL_OOM_GROUP;
    Record::Victim(Box::new(victim))
}

fn decision(decision_ns: u64, chosen: u32) -> Record {
    Record::Decision(Box::new(Decision {
        decision_ns,
        constraint: 3,
        gfp_mask: 0xcc0,
        order: 0,
        total_pages: 5,
        chosen_points: 55,
        chosen_pid: Some(chosen),
        message: b"Memory cgroup out of memory".to_vec(),
        memcg: Some(DecisionMemcg {
            cgroup: CgroupRef {
                id: 3,
                version: 2,
                path: Some(KernelPath {
                    bytes: b"/a".to_vec(),
                    cut: false,
                }),
            },
            usage_pages: 5,
            max_pages: 5,
            swap_usage_pages: 0,
            swap_max_pages: NO_LIMIT,
            oom_group: true,
        }),
    }))
}

fn killed(pid: u32) -> Output {
    Output::Killed(KilledLine {
        message: b"Memory cgroup out of memory".to_vec(),
        pid,
        comm: b"x".to_vec(),
        ..KilledLine::default()
    })
}

fn report(victim: Option<u32>) -> Output {
    let mut report = Report {
        constraint: Some(kernel_log::Constraint::Memcg),
        ..Report::default()
    };
    report.victim.pid = victim;
    report.trigger.pid = Some(7);
    report.oom_memcg = Some(LogPath {
        bytes: b"/a".to_vec(),
        cut: false,
    });
    report.memcg.memory = Some(Counter {
        usage_bytes: 20_480,
        limit: Limit::Bytes(20_480),
        failcnt: 1,
    });
    report.table = Some(TaskTable {
        rows: vec![row(41, 10), row(42, 53), row(43, 53)],
        total: 3,
    });
    Output::Report(Box::new(report))
}

fn row(pid: u32, rss: u64) -> TaskRow {
    TaskRow {
        pid,
        tgid: pid,
        rss_pages: Some(rss),
        swapents_pages: Some(0),
        pgtables_bytes: Some(8192),
        oom_score_adj: Some(0),
        name: b"x".as_slice().into(),
        ..TaskRow::default()
    }
}

fn next_kill(joiner: &mut Joiner, now_ns: u64) -> Option<Kill> {
    match joiner.next(now_ns)? {
        Incident::Kill(kill) => Some(kill),
        Incident::Outcome(outcome) => panic!("{outcome:?}"),
    }
}

fn assembler() -> Assembler {
    Assembler {
        node: Arc::default(),
        hooks: Arc::new([]),
        run_id: "run".to_owned(),
        page_size: 4096,
        max_candidates: 10,
        directory: None,
        cgroups: None,
    }
}

use std::sync::Arc;

fn assemble(kill: &Kill) -> event::OomKill {
    match assembler().kill(kill, Clock::now(), (1 << 30, 0)) {
        Event::OomKill(event) | Event::OomMark(event) => *event,
        other => panic!("{other:?}"),
    }
}

/// The report and its line come before the record: the kill is complete when the record comes.
#[test]
fn log_before_record() {
    let mut joiner = Joiner::new(LOG);
    joiner.log(report(Some(42)), 0);
    joiner.log(killed(42), 0);
    assert!(joiner.next(0).is_none());
    joiner.record(Record::Victim(Box::new(victim(42))), 0);
    let kill = next_kill(&mut joiner, 0).unwrap();
    assert!(kill.report.is_some() && kill.killed_line.is_some());
    assert_eq!(kill.count, Some(1));
}

/// The record comes first: the kill waits for its line, and not longer than it must.
#[test]
fn record_before_log() {
    let mut joiner = Joiner::new(LOG);
    joiner.log(report(Some(42)), 0);
    joiner.record(Record::Victim(Box::new(victim(42))), 0);
    assert!(joiner.next(LOG_PATIENCE_NS - 1).is_none());
    assert_eq!(joiner.deadline_ns(), Some(LOG_PATIENCE_NS));
    joiner.log(killed(42), 0);
    assert!(next_kill(&mut joiner, 0).unwrap().report.is_some());
}

/// No line ever comes: the kill goes out with the report that names it, or with none.
#[test]
fn log_that_never_comes() {
    let mut joiner = Joiner::new(LOG);
    joiner.log(report(Some(42)), 0);
    joiner.record(Record::Victim(Box::new(victim(42))), 0);
    assert!(
        next_kill(&mut joiner, LOG_PATIENCE_NS)
            .unwrap()
            .report
            .is_some()
    );
    joiner.record(Record::Victim(Box::new(victim(43))), 0);
    let kill = next_kill(&mut joiner, LOG_PATIENCE_NS).unwrap();
    assert!(kill.report.is_none() && kill.killed_line.is_none());
}

/// A report that names another victim is not this kill's, and a report is used once.
#[test]
fn reports_do_not_leak() {
    let mut joiner = Joiner::new(LOG);
    joiner.log(report(Some(41)), 0);
    joiner.log(killed(42), 0);
    joiner.record(Record::Victim(Box::new(victim(42))), 0);
    let kill = next_kill(&mut joiner, 0).unwrap();
    assert!(kill.report.is_none() && kill.killed_line.is_some());

    joiner.log(report(Some(43)), 0);
    joiner.log(killed(43), 0);
    joiner.log(killed(44), 0);
    for pid in [43, 44] {
        joiner.record(Record::Victim(Box::new(victim(pid))), 0);
        assert_eq!(
            next_kill(&mut joiner, 0).unwrap().report.is_some(),
            pid == 43
        );
    }
}

/// A report is of no use when records between it and the next line were lost.
#[test]
fn a_gap_ends_a_report() {
    let mut joiner = Joiner::new(LOG);
    joiner.log(report(Some(42)), 0);
    joiner.log(Output::Gap { missing: Some(3) }, 0);
    joiner.log(killed(42), 0);
    joiner.record(Record::Victim(Box::new(victim(42))), 0);
    assert!(next_kill(&mut joiner, 0).unwrap().report.is_none());
}

/// A line whose kill was lost does not wait for a later process of the same id.
#[test]
fn old_lines_are_forgotten() {
    let mut joiner = Joiner::new(LOG);
    joiner.log(report(Some(42)), 0);
    joiner.log(killed(42), 0);
    joiner.record(Record::Victim(Box::new(victim(42))), LINE_PATIENCE_NS);
    let kill = next_kill(&mut joiner, LINE_PATIENCE_NS + LOG_PATIENCE_NS).unwrap();
    assert!(kill.report.is_none() && kill.killed_line.is_none());
}

/// A task that was exiting is a mark, and waits for no line.
#[test]
fn marks_do_not_wait() {
    let mut joiner = Joiner::new(LOG);
    let mut marked = victim(42);
    marked.killed = false;
    joiner.record(Record::Victim(Box::new(marked)), 0);
    let kill = next_kill(&mut joiner, 0).unwrap();
    let event = assembler().kill(&kill, Clock::now(), (1 << 30, 0));
    assert!(matches!(event, Event::OomMark(_)));
}

/// Once a decision or its report has begun more is awaited, until the kill is out or nobody expects
/// it any more.
#[test]
fn more_is_awaited() {
    let sources = Sources {
        log: true,
        decision_end: false,
        exits: true,
    };
    let mut joiner = Joiner::new(sources);
    assert!(!joiner.awaits_more());
    for begin in [Record::ReportBegin, decision(900, 42)] {
        joiner.record(begin, 0);
        assert!(joiner.awaits_more());
        joiner.expect_no_more();
        assert!(!joiner.awaits_more());
    }
    joiner.record(Record::ReportBegin, 0);
    joiner.record(Record::Victim(Box::new(victim(42))), 0);
    assert!(joiner.awaits_more(), "for its line in the log");
    assert!(next_kill(&mut joiner, LOG_PATIENCE_NS).is_some());
    assert!(!joiner.awaits_more());
}

/// All victims of a group share the decision, and know their place and how many they are; a process
/// that shares a victim's memory is reported beside it.
#[test]
fn a_group_is_one_decision() {
    let mut joiner = Joiner::new(Sources {
        log: false,
        decision_end: true,
        exits: true,
    });
    joiner.record(decision(900, 42), 0);
    joiner.record(grouped(42, 900), 0);
    joiner.record(
        Record::PeerKill {
            time_ns: 7,
            task: task(44, "/a/b"),
        },
        0,
    );
    joiner.record(grouped(43, 900), 0);
    assert!(joiner.next(0).is_none(), "the decision has not ended");
    joiner.record(Record::DecisionEnd { decision_ns: 900 }, 0);
    let kills: Vec<_> = std::iter::from_fn(|| next_kill(&mut joiner, 0)).collect();
    let events: Vec<_> = kills.iter().map(assemble).collect();
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.victim.pid, event.victim.role, event.oom.victim_index))
        .collect();
    assert_eq!(
        told,
        [
            (Some(42), Some(event::Role::Chosen), Some(0)),
            (Some(44), Some(event::Role::MmSharer), Some(0)),
            (Some(43), Some(event::Role::GroupMember), Some(1)),
        ]
    );
    for event in &events {
        assert_eq!(event.oom_id, events[0].oom_id);
        assert_eq!(event.oom.victim_count, Some(2), "a sharer is not counted");
    }
    assert_eq!(events[1].victim.memory, events[0].victim.memory);
    assert_ne!(events[1].head.event_id, events[0].head.event_id);
    assert_eq!(events[0].victim.badness_pages, Some(55));
    assert_eq!(
        events[2].victim.badness_pages, None,
        "the kernel did not score it for us"
    );
}

/// A process that shares the victim's memory knows of the decision what the victim knows, whether
/// the kernel's report came before it or after.
#[test]
fn a_sharer_knows_the_decision() {
    for report_first in [true, false] {
        let mut joiner = Joiner::new(Sources {
            log: true,
            decision_end: true,
            exits: true,
        });
        joiner.record(decision(900, 42), 0);
        let mut victim = victim(42);
        victim.decision_ns = Some(900);
        joiner.record(Record::Victim(Box::new(victim)), 0);
        let log = |joiner: &mut Joiner| {
            joiner.log(report(Some(42)), 0);
            joiner.log(killed(42), 0);
            next_kill(joiner, 0).unwrap()
        };
        let early = report_first.then(|| log(&mut joiner));
        let task = task(44, "/a/b");
        joiner.record(Record::PeerKill { time_ns: 7, task }, 0);
        let first = early.unwrap_or_else(|| log(&mut joiner));
        let sharer = next_kill(&mut joiner, 0).unwrap();
        assert_eq!((first.count, sharer.count), (Some(1), Some(1)));
        assert!(first.report.is_some() && sharer.report.is_some());
        assert!(sharer.killed_line.is_none());
    }
}

/// When records were lost, how many victims there were is not claimed, nor waited for, and neither
/// is the place of those that come later.
#[test]
fn lost_records_make_the_count_unknown() {
    let mut joiner = Joiner::new(Sources {
        log: false,
        decision_end: true,
        exits: true,
    });
    joiner.record(decision(900, 42), 0);
    joiner.record(grouped(42, 900), 0);
    joiner.lost();
    let kill = next_kill(&mut joiner, 0).unwrap();
    assert_eq!((kill.index, kill.count), (Some(0), None));
    joiner.record(grouped(43, 900), 0);
    joiner.record(Record::DecisionEnd { decision_ns: 900 }, 0);
    let kill = next_kill(&mut joiner, 0).unwrap();
    assert_eq!((kill.index, kill.count), (None, None));
}

/// A group whose end is not heard of goes out after a while, its size unknown.
#[test]
fn a_group_without_end() {
    let mut joiner = Joiner::new(ALL);
    joiner.record(decision(900, 42), 0);
    joiner.record(grouped(42, 900), 0);
    joiner.log(killed(42), 0);
    assert!(joiner.next(GROUP_PATIENCE_NS - 1).is_none());
    // Another of them is a sign that it goes on.
    joiner.record(grouped(43, 900), GROUP_PATIENCE_NS - 1);
    joiner.log(killed(43), GROUP_PATIENCE_NS - 1);
    let over = 2 * GROUP_PATIENCE_NS - 1;
    assert!(joiner.next(over - 1).is_none());
    assert_eq!(joiner.deadline_ns(), Some(over));
    assert_eq!(next_kill(&mut joiner, over).unwrap().count, None);
}

/// The outcome follows its kill, even when the exit is heard of first, and tells of the reaper.
#[test]
fn outcomes_follow_their_kill() {
    let mut joiner = Joiner::new(LOG);
    joiner.record(Record::Victim(Box::new(victim(42))), 0);
    joiner.record(
        Record::Reap {
            tid: 42,
            step: ReapStep::Finish,
        },
        0,
    );
    joiner.record(
        Record::Exit {
            time_ns: 5_042,
            pid: 42,
        },
        0,
    );
    joiner.record(
        Record::Exit {
            time_ns: 9_999,
            pid: 42,
        },
        0,
    );
    assert!(joiner.next(0).is_none());
    joiner.log(killed(42), 0);
    let kill = next_kill(&mut joiner, 0).unwrap();
    let Some(Incident::Outcome(outcome)) = joiner.next(0) else {
        panic!("no outcome")
    };
    assert!(outcome.reaped && !outcome.reap_skipped);
    let Event::OomOutcome(event) = assembler().outcome(&outcome, Clock::now(), None) else {
        panic!("not an outcome")
    };
    assert_eq!(event.exit_latency_ns, Some(4_000));
    assert_eq!(event.victim_event_id, assemble(&kill).head.event_id);
    assert_eq!(event.oom_id, assemble(&kill).oom_id);
    assert!(joiner.next(u64::MAX).is_none());
}

/// What waits is bounded: in a flood of victims without a log nothing is held, and nothing lost.
#[test]
fn a_flood_is_not_hoarded() {
    let mut joiner = Joiner::new(LOG);
    let flood = 3 * MAX_FOLLOWED as u32;
    let mut seen = 0;
    for pid in 1..=flood {
        joiner.log(killed(1_000_000 + pid), 0);
        joiner.record(Record::Victim(Box::new(victim(pid))), 0);
        seen += u32::from(joiner.next(0).is_some());
        assert!(joiner.pending.len() <= MAX_PENDING && joiner.lines.len() <= MAX_LINES);
    }
    while let Some(incident) = joiner.next(u64::MAX) {
        seen += u32::from(matches!(incident, Incident::Kill(_)));
    }
    assert_eq!(seen, flood);
    assert_eq!(joiner.unfollowed(), u64::from(flood) - MAX_FOLLOWED as u64);
}

/// Without a decision's hook the report tells whose limit was hit, and scores the candidates; on
/// a tie the later one comes first.
#[test]
fn facts_from_the_report() {
    let mut joiner = Joiner::new(LOG);
    joiner.log(report(Some(43)), 0);
    joiner.log(killed(43), 0);
    joiner.record(Record::Victim(Box::new(victim(43))), 0);
    let event = assemble(&next_kill(&mut joiner, 0).unwrap());
    assert_eq!(event.oom.constraint, Some(Constraint::Memcg));
    assert_eq!(event.oom.scope, Some(Scope::Slice));
    assert_eq!(event.oom.total_bytes, Some(20_480));
    let memcg = event.oom.memcg.unwrap();
    assert_eq!(
        (memcg.path.as_deref(), memcg.limit_bytes),
        (Some("/a"), Some(20_480))
    );
    let candidates = event.candidates.unwrap();
    let ranked: Vec<_> = candidates
        .items
        .iter()
        .map(|item| (item.rank, item.pid))
        .collect();
    assert_eq!(ranked, [(1, 43), (2, 42), (3, 41)]);
    let verdict = event.verdict.unwrap();
    assert_eq!(verdict.victim_rank, Some(1));
    assert_eq!(
        (verdict.runner_up_pid, verdict.margin_pages),
        (Some(42), Some(0))
    );
    // A total of five pages has no thousandths.
    assert!(verdict.survival.is_none());
    assert_eq!(event.victim.badness_pages, Some(55));
}

/// Where neither hook nor log tells, nothing is claimed.
#[test]
fn unknown_is_null() {
    let mut joiner = Joiner::new(NONE);
    joiner.record(Record::Victim(Box::new(victim(42))), 0);
    let event = assemble(&next_kill(&mut joiner, 0).unwrap());
    let oom = event.oom;
    assert!(oom.constraint.is_none() && oom.scope.is_none() && oom.memcg.is_none());
    assert!(oom.message.is_none() && oom.order.is_none() && oom.gfp_mask.is_none());
    assert!(oom.sysrq.is_none() && oom.total_bytes.is_none());
    assert!(event.candidates.is_none());
    let verdict = event.verdict.unwrap();
    assert!(verdict.code.is_none() && verdict.flags.is_empty() && verdict.survival.is_none());
    assert!(verdict.victim_rank.is_none() && verdict.unowned_bytes.is_none());
    let summary = verdict.summary.unwrap();
    assert!(
        summary.ends_with("whose limit it was is unknown."),
        "{summary}"
    );
    assert_eq!(event.victim.badness_pages, None);
    assert!(
        event.victim.oom_score.is_some(),
        "its parts and the node's size are known"
    );
}

fn cut_report(printed: &[u8], limit_bytes: u64) -> Kill {
    let mut joiner = Joiner::new(LOG);
    let Output::Report(mut cut) = report(Some(42)) else {
        panic!("no report")
    };
    cut.oom_memcg = Some(LogPath {
        bytes: printed.to_vec(),
        cut: true,
    });
    cut.memcg.memory = Some(Counter {
        usage_bytes: 0,
        limit: Limit::Bytes(limit_bytes),
        failcnt: 1,
    });
    joiner.log(Output::Report(cut), 0);
    joiner.log(killed(42), 0);
    joiner.record(Record::Victim(Box::new(victim(42))), 0);
    next_kill(&mut joiner, 0).unwrap()
}

/// A path the log cut off is completed from the victim's own cgroup when one level alone has the
/// limit that was printed.
#[test]
fn a_cut_path_is_completed_only_when_certain() {
    let path = |kill: Kill| assemble(&kill).oom.memcg.unwrap().path;
    assert_eq!(path(cut_report(b"/a", 9 * 4096)).as_deref(), Some("/a/b"));
    assert_eq!(path(cut_report(b"/a", 5 * 4096)).as_deref(), Some("/a"));
    assert_eq!(
        path(cut_report(b"/a", 6 * 4096)),
        None,
        "no level has this limit"
    );
    assert_eq!(
        path(cut_report(b"/x", 5 * 4096)),
        None,
        "no level begins like this"
    );
    let mut ambiguous = cut_report(b"/a", 5 * 4096);
    Rc::make_mut(&mut ambiguous.victim).levels[0].max_pages = 5;
    assert_eq!(path(ambiguous), None, "two levels have this limit");
    let mut unseen = cut_report(b"/a", 5 * 4096);
    Rc::make_mut(&mut unseen.victim).levels.truncate(2);
    assert_eq!(path(unseen), None, "a level was not recorded");
}

fn group_victim(pid: u32) -> Record {
    let mut victim = victim(pid);
    victim.levels[0].flags = LEVEL_OOM_GROUP;
    Record::Victim(Box::new(victim))
}

fn group_kill(path: &str) -> Output {
    Output::GroupKill(kernel_log::GroupKill {
        time_usec: None,
        seq: None,
        memcg: LogPath {
            bytes: path.into(),
            cut: false,
        },
    })
}

/// Where the decision cannot be hooked the kernel log tells which kills are one group: its members
/// get the decision, its report and their place; how many they are stays unknown.
#[test]
fn a_group_by_the_log() {
    let mut joiner = Joiner::new(LOG);
    joiner.record(group_victim(42), 0);
    joiner.log(report(Some(42)), 0);
    joiner.log(killed(42), 0);
    let chosen = assemble(&next_kill(&mut joiner, 0).unwrap());
    assert_eq!(chosen.victim.role, Some(event::Role::Chosen));
    // It is gone before the others are killed.
    let (time_ns, pid) = (0, 42);
    joiner.record(Record::Exit { time_ns, pid }, 0);
    assert!(joiner.next(0).is_some());
    joiner.log(group_kill("/a"), 0);
    joiner.log(killed(42), 0);
    joiner.log(killed(43), 0);
    for pid in [43, 44] {
        joiner.record(group_victim(pid), 0);
        joiner.log(killed(44), 0);
        let member = assemble(&next_kill(&mut joiner, 0).unwrap());
        assert_eq!(member.oom_id, chosen.oom_id);
        assert_eq!(member.victim.role, Some(event::Role::GroupMember));
        assert_eq!(member.oom.victim_index, Some(pid - 42));
        assert_eq!(member.oom.victim_count, None);
        assert_eq!(member.oom.constraint, Some(Constraint::Memcg));
    }
}

/// A kill after a group that lies elsewhere, or that another task asked for, is none of it.
#[test]
fn a_group_takes_in_no_stranger() {
    for stranger in ["path", "trigger"] {
        let mut joiner = Joiner::new(LOG);
        joiner.record(group_victim(42), 0);
        joiner.log(report(Some(42)), 0);
        joiner.log(killed(42), 0);
        let chosen = assemble(&next_kill(&mut joiner, 0).unwrap());
        joiner.log(group_kill("/a/b"), 0);
        let mut other = victim(43);
        if stranger == "path" {
            other.task = task(43, "/a/bc");
        } else {
            other.trigger = task(8, "/a/c");
        }
        joiner.log(killed(43), 0);
        joiner.record(Record::Victim(Box::new(other)), 0);
        let other = assemble(&next_kill(&mut joiner, 0).unwrap());
        assert_ne!(other.oom_id, chosen.oom_id, "{stranger}");
        assert!(other.candidates.is_none(), "{stranger}: not its report");
    }
}

/// A victim that does not exit is reported as stuck once, and its exit still is when it comes.
#[test]
fn stuck_victims() {
    let mut joiner = Joiner::new(NONE);
    joiner.record(Record::Victim(Box::new(victim(42))), 0);
    joiner.record(Record::Victim(Box::new(victim(43))), 0);
    joiner.record(
        Record::Exit {
            time_ns: 5_000,
            pid: 42,
        },
        0,
    );
    assert!(next_kill(&mut joiner, 0).is_some());
    assert!(matches!(joiner.next(0), Some(Incident::Outcome(outcome)) if outcome.pid == 42));
    assert!(next_kill(&mut joiner, 0).is_some());
    let due = 1_043 + STUCK_NS;
    assert!(joiner.next(due - 1).is_none());
    assert_eq!(joiner.deadline_ns(), Some(due));
    let Some(Incident::Outcome(stuck)) = joiner.next(due) else {
        panic!("not stuck")
    };
    assert!(stuck.pid == 43 && !stuck.exited);
    assert!(joiner.next(u64::MAX).is_none());
    assert_eq!(joiner.deadline_ns(), None);
    joiner.record(
        Record::Exit {
            time_ns: due + 1,
            pid: 43,
        },
        0,
    );
    assert!(matches!(joiner.next(0), Some(Incident::Outcome(outcome)) if outcome.exited));
}

/// In a storm the kernel prints no reports. Its words still tell that a cgroup's limit was hit,
/// and where one ancestor alone has a limit, which.
#[test]
fn a_limit_without_a_report() {
    let memcg = |levels: Vec<Level>| {
        let mut joiner = Joiner::new(LOG);
        joiner.log(killed(42), 0);
        let mut victim = victim(42);
        victim.levels = levels;
        joiner.record(Record::Victim(Box::new(victim)), 0);
        let event = assemble(&next_kill(&mut joiner, 0).unwrap());
        assert_eq!(event.oom.constraint, Some(Constraint::Memcg));
        event.oom.memcg
    };
    let one = memcg(vec![level(NO_LIMIT), level(9), level(NO_LIMIT)]).unwrap();
    assert_eq!(one.path.as_deref(), Some("/a"));
    assert_eq!(
        (one.usage_bytes, one.limit_bytes),
        (Some(5 * 4096), Some(9 * 4096))
    );
    assert!(
        memcg(vec![level(7), level(9), level(NO_LIMIT)]).is_none(),
        "two have one"
    );
    assert!(
        memcg(vec![level(7), level(NO_LIMIT)]).is_none(),
        "a level was not recorded"
    );
}

/// Where exits are not hooked, nothing is said of what became of a victim.
#[test]
fn no_outcome_without_its_hook() {
    let mut joiner = Joiner::new(Sources {
        exits: false,
        ..NONE
    });
    joiner.record(Record::Victim(Box::new(victim(42))), 0);
    assert!(next_kill(&mut joiner, 0).is_some());
    assert!(joiner.next(u64::MAX).is_none());
    assert_eq!(joiner.deadline_ns(), None);
}

/// Finds a cgroup by those of its processes that are there, and keeps how often it was asked.
#[derive(Debug)]
struct Asked {
    there: Vec<u32>,
    asked: Rc<std::cell::Cell<usize>>,
}

impl Cgroups for Asked {
    fn path(&mut self, pid: u32, _: u64) -> Option<&[u8]> {
        self.asked.set(self.asked.get() + 1);
        let path = b"/kubepods/pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        self.there.contains(&pid).then_some(path)
    }
}

/// Of a cgroup that is dying, with however many candidates, two are looked for; one that is found by
/// its second process is found, and not looked for again.
#[test]
fn candidates_that_have_gone() {
    let candidate = |pid: u32, cgroup: u64| ScoredTask {
        pid,
        comm: b"x".to_vec(),
        points: 100 - i64::from(pid),
        oom_score_adj: 0,
        memory: None,
        cgroup_id: Some(cgroup),
    };
    let items = (10..50).map(|pid| candidate(pid, 5));
    let items = items.chain((50..64).map(|pid| candidate(pid, 6)));
    let mut joiner = Joiner::new(NONE);
    joiner.record(
        Record::Candidates {
            decision_ns: 900,
            total: 54,
            spared: 0,
            items: items.collect(),
        },
        0,
    );
    joiner.record(decision(900, 10), 0);
    let mut victim = victim(10);
    victim.decision_ns = Some(900);
    joiner.record(Record::Victim(Box::new(victim)), 0);
    let kill = next_kill(&mut joiner, 0).unwrap();
    let asked = Rc::default();
    let mut assembler = Assembler {
        max_candidates: usize::MAX,
        cgroups: Some(Box::new(Asked {
            there: (51..64).collect(),
            asked: Rc::clone(&asked),
        })),
        ..assembler()
    };
    let Event::OomKill(event) = assembler.kill(&kill, Clock::now(), (1 << 30, 0)) else {
        panic!("it is no kill");
    };
    assert_eq!(asked.get(), 4);
    let candidates = event.candidates.unwrap();
    assert_eq!(candidates.items.len(), 54);
    for item in &candidates.items {
        assert_eq!(item.pod_uid.is_some(), item.pid >= 50, "{item:?}");
    }
}
