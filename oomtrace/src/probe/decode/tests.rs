#![expect(clippy::unwrap_used, reason = "tests")]

use oomtrace_common::{MAX_LEVELS, Memory as RawMemory, Paths, Task as RawTask};
use proptest::prelude::*;

use super::*;

fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` types have no padding.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}

/// A record of zeros.
fn zeros<T: Plain>() -> T {
    read(&vec![0; size_of::<T>()]).unwrap()
}

fn comm(name: &[u8]) -> [u8; 16] {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name);
    comm
}

fn raw_task(pid: u32, name: &[u8]) -> RawTask {
    RawTask {
        pid,
        tid: pid + 1,
        ppid: 1,
        uid: 1000,
        oom_score_adj: -5,
        flags: 0,
        start_ns: 77,
        comm: comm(name),
        cgroup_id: 4061,
        hierarchy_id: 0,
        pad: 0,
    }
}

/// A victim's record with its tail: names innermost first, each with NUL.
fn victim_bytes(change: impl FnOnce(&mut VictimRecord)) -> Vec<u8> {
    let (cgroup, trigger, exe) = (b"leaf\0mid\0top\0", b"", b"sleep\0bin\0usr\0");
    let mut record: VictimRecord = zeros();
    record.victim = raw_task(42, b"a\xff)\n");
    record.trigger = raw_task(7, b"trigger");
    record.trigger.hierarchy_id = 4;
    record.memory = RawMemory {
        total_vm_pages: 10,
        anon_pages: 5,
        file_pages: -3,
        shmem_pages: 2,
        swap_pages: 1,
        pgtables_bytes: 4096,
    };
    record.flags = VICTIM_HAS_MM | VICTIM_LIVE_KILL;
    record.level_count = 2;
    record.paths = Paths {
        cgroup_bytes: cgroup.len() as u32,
        trigger_bytes: trigger.len() as u32,
        exe_bytes: exe.len() as u32,
        cut: 0b100,
    };
    let size = size_of::<VictimRecord>() + cgroup.len() + trigger.len() + exe.len();
    record.header = Header {
        kind: RecordKind::Victim as u32,
        size: size as u32,
        time_ns: 123,
        decision_ns: 0,
    };
    change(&mut record);
    [bytes_of(&record), cgroup, trigger, exe].concat()
}

fn victim_of(bytes: &[u8]) -> Victim {
    match decode(bytes).unwrap() {
        Record::Victim(victim) => *victim,
        other => panic!("{other:?}"),
    }
}

/// Every fact of a victim's record arrives: paths the right way round, names as they are, and a
/// counter that is below zero for a moment as zero.
#[test]
fn a_victim_is_decoded() {
    let victim = victim_of(&victim_bytes(|_| {}));
    assert_eq!(
        (victim.time_ns, victim.decision_ns, victim.killed),
        (123, None, true)
    );
    assert_eq!(victim.task.pid, Some(42));
    assert_eq!(victim.task.tid, 43);
    assert_eq!(victim.task.uid, Some(1000));
    assert_eq!(victim.task.oom_score_adj, Some(-5));
    assert_eq!(victim.task.start_ns, Some(77));
    assert_eq!(victim.task.comm, b"a\xff)\n");
    let cgroup = victim.task.cgroup.unwrap();
    assert_eq!((cgroup.id, cgroup.version), (4061, 2));
    assert_eq!(cgroup.path.unwrap().bytes, b"/top/mid/leaf");
    let cgroup = victim.trigger.cgroup.unwrap();
    assert_eq!(cgroup.version, 1);
    assert_eq!(cgroup.path.unwrap().bytes, b"/", "the root has no names");
    let exe = victim.exe.unwrap();
    assert_eq!((&exe.bytes[..], exe.cut), (&b"/usr/bin/sleep"[..], true));
    let memory = victim.memory.unwrap();
    assert_eq!(memory.file_pages, 0);
    assert_eq!(memory.rss_pages(), 7);
    assert_eq!(victim.levels.len(), 2);
}

/// What the programs could not read is unknown, not zero.
#[test]
fn sentinels_become_none() {
    let victim = victim_of(&victim_bytes(|record| {
        record.victim = zeros();
        record.victim.tid = 43;
        record.victim.uid = u32::MAX;
        record.flags = 0;
        record.level_count = 0;
    }));
    assert!(!victim.killed);
    assert_eq!(victim.memory, None);
    assert_eq!(
        victim.task,
        Task {
            pid: None,
            tid: 43,
            ppid: None,
            uid: None,
            oom_score_adj: None,
            start_ns: None,
            comm: Vec::new(),
            cgroup: None
        }
    );
}

/// Lengths that contradict the record's size are refused.
#[test]
fn lengths_must_fit() {
    for bytes in [
        victim_bytes(|record| record.paths.exe_bytes += 1),
        victim_bytes(|record| record.paths.cgroup_bytes = u32::MAX),
        victim_bytes(|record| record.level_count = MAX_LEVELS as u32 + 1),
    ] {
        assert_eq!(decode(&bytes).unwrap_err(), DecodeError::Lengths);
    }
    let long = victim_bytes(|record| record.header.size += 1);
    assert!(matches!(
        decode(&long).unwrap_err(),
        DecodeError::Short { .. }
    ));
    let kind = victim_bytes(|record| record.header.kind = 99);
    assert_eq!(decode(&kind).unwrap_err(), DecodeError::Kind(99));
}

/// A decision on the node has no memory cgroup; one on a cgroup has its counters.
#[test]
fn a_decision_is_decoded() {
    let mut record: DecisionRecord = zeros();
    record.header.kind = RecordKind::Decision as u32;
    record.header.decision_ns = 9;
    record.message[..3].copy_from_slice(b"abc");
    record.chosen_points = -7;
    record.order = -1;
    record.max_pages = 11;
    record.paths.cgroup_bytes = 4;
    record.header.size = (size_of::<DecisionRecord>() + 4) as u32;
    for has_memcg in [0, 1] {
        record.has_memcg = has_memcg;
        let Record::Decision(decision) = decode(&[bytes_of(&record), b"top\0"].concat()).unwrap()
        else {
            panic!("not a decision");
        };
        assert_eq!(decision.message, b"abc");
        assert_eq!((decision.chosen_points, decision.order), (-7, -1));
        assert_eq!(decision.memcg.is_some(), has_memcg == 1);
        if let Some(memcg) = decision.memcg {
            assert_eq!(memcg.max_pages, 11);
            assert_eq!(memcg.cgroup.path.unwrap().bytes, b"/top");
        }
    }
}

/// As many candidates as were filled are read, and a count that does not fit is refused.
#[test]
fn candidates_are_decoded() {
    let mut item: Candidate = zeros();
    (item.pid, item.points, item.comm) = (5, 99, comm(b"x"));
    let fixed = core::mem::offset_of!(CandidateList, items);
    let mut make = |total: u32, listed: u32, items: usize| {
        let mut bytes = vec![0; fixed];
        let header = Header {
            kind: RecordKind::Candidates as u32,
            size: (fixed + items * size_of::<Candidate>()) as u32,
            time_ns: 0,
            decision_ns: 3,
        };
        bytes[..size_of::<Header>()].copy_from_slice(bytes_of(&header));
        bytes[size_of::<Header>()..][..4].copy_from_slice(&total.to_ne_bytes());
        bytes[size_of::<Header>() + 4..][..4].copy_from_slice(&listed.to_ne_bytes());
        bytes[size_of::<Header>() + 8..][..4].copy_from_slice(&7_u32.to_ne_bytes());
        for order in 0..items {
            item.order = order as u32;
            bytes.extend_from_slice(bytes_of(&item));
        }
        bytes
    };
    let Record::Candidates {
        decision_ns,
        total,
        spared,
        items,
    } = decode(&make(40, 2, 2)).unwrap()
    else {
        panic!("not candidates");
    };
    assert_eq!((decision_ns, total, spared, items.len()), (3, 40, 7, 2));
    assert_eq!(
        (items[0].pid, items[0].points, &items[0].comm[..]),
        (5, 99, &b"x"[..])
    );
    assert_eq!(decode(&make(40, 3, 2)).unwrap_err(), DecodeError::Lengths);
    assert_eq!(
        decode(&make(40, u32::MAX, 0)).unwrap_err(),
        DecodeError::Lengths
    );
}

/// The highest points stand first; among equals the one scored later, which the kernel would take.
#[test]
fn candidates_are_in_the_kernels_order() {
    let fixed = core::mem::offset_of!(CandidateList, items);
    let mut bytes = vec![0; fixed];
    for (pid, points, order) in [(1, 5, 3), (2, 9, 0), (3, 5, 4), (4, 7, 1)] {
        let mut item: Candidate = zeros();
        (item.pid, item.points, item.order) = (pid, points, order);
        bytes.extend_from_slice(bytes_of(&item));
    }
    let header = Header {
        kind: RecordKind::Candidates as u32,
        size: bytes.len() as u32,
        time_ns: 0,
        decision_ns: 0,
    };
    bytes[..size_of::<Header>()].copy_from_slice(bytes_of(&header));
    bytes[core::mem::offset_of!(CandidateList, listed)..][..4]
        .copy_from_slice(&4_u32.to_ne_bytes());
    let Record::Candidates { items, .. } = decode(&bytes).unwrap() else {
        panic!("not candidates");
    };
    let pids: Vec<u32> = items.iter().map(|item| item.pid).collect();
    assert_eq!(pids, [2, 4, 3, 1]);
}

proptest! {
    /// Any bytes are a record or an error; nothing panics, and no path is longer than its record.
    #[test]
    fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..2048), kind in 0_u32..9) {
        if let Some(start) = bytes.get_mut(..4) {
            start.copy_from_slice(&kind.to_ne_bytes());
        }
        let length = bytes.len() as u32;
        if let Some(size) = bytes.get_mut(4..8) {
            size.copy_from_slice(&length.to_ne_bytes());
        }
        if let Ok(Record::Victim(victim)) = decode(&bytes)
            && let Some(path) = victim.task.cgroup.and_then(|cgroup| cgroup.path)
        {
            prop_assert!(path.bytes.len() <= bytes.len() + 1);
        }
    }

    /// A victim's record with bytes changed or cut off is read or refused.
    #[test]
    fn damaged_victims(at in 0_usize..1024, value: u8, keep in 0_usize..2048) {
        let mut bytes = victim_bytes(|_| {});
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(keep);
        let _ = decode(&bytes);
    }
}
