//! Kernel logs as damage leaves them: whatever comes, reading ends, without a panic, and says no more
//! than was there.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::recorded_file;
use oomtrace::{
    event::Event,
    incident::Importer,
    kernel_log::{Dates, LogReader, unpack},
};
use proptest::{collection::vec, prelude::*, sample::Index};

fn import(bytes: &[u8]) -> Vec<Event> {
    let mut importer = Importer::new(None, String::new(), usize::MAX);
    let mut events = Vec::new();
    let Ok(input) = unpack(bytes) else {
        return events;
    };
    let mut reader = LogReader::new(Dates::default());
    let _ = reader.read(input, |_| (), &mut |found| {
        importer.take(found, &mut |event| events.push(event), &mut |_, _| ());
    });
    events
}

/// Lines of several kernels, as records and as dmesg prints them.
fn corpus() -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    for name in [
        "5.10.plain/single_process.kmsg.gz",
        "7.3.plain/machine_with_swap.kmsg.gz",
        "6.12.plain/twenty_die_as_a_group.kmsg.gz",
    ] {
        for line in recorded_file(name).split(|b| *b == b'\n') {
            lines.push(line.to_vec());
            let text = line
                .iter()
                .position(|b| *b == b';')
                .map(|at| &line[at + 1..]);
            lines.extend(text.map(|text| [b"[   12.345678] ", text].concat()));
        }
    }
    // Those of older kernels, in their own words.
    let old = "old invoked oom-killer: gfp_mask=0x280da, order=0, oom_adj=0, oom_score_adj=0
old cpuset=/ mems_allowed=0
Pid: 9, comm: old Not tainted 3.2.0 #1
Task in /a/b killed as a result of limit of /a
memory: usage 20480kB, limit 20480kB, failcnt 1204
memory+swap: usage 40940kB, limit 40960kB, failcnt 6
Memory cgroup stats for /a: cache:0KB rss:20260KB rss_huge:0KB mapped_file:0KB swap:20460KB
[ pid ]   uid  tgid total_vm      rss nr_ptes nr_pmds swapents oom_score_adj name
[    9]     0     9   530382     5191      34       4     5489             0 old
Memory cgroup out of memory: Kill process 9 (old) score 1046 or sacrifice child
Killed process 9 (old) total-vm:2121528kB, anon-rss:18624kB, file-rss:2140kB, shmem-rss:0kB";
    lines.extend(old.lines().map(|line| line.as_bytes().to_vec()));
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Any bytes, packed or not, for whatever they may be taken.
    #[test]
    fn any_bytes(start in 0usize..8, bytes in vec(any::<u8>(), 0..4096)) {
        let starts: [&[u8]; 8] = [
            b"", b"\x1f\x8b\x08\0", b"\xfd7zXZ\0\0\x04", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xfe\xff",
            b"__CURSOR=oom-kill\nMESSAGE\n", b"{\"MESSAGE\":[",
        ];
        import(&[starts[start], &bytes].concat());
    }

    /// Lines cut, changed, dropped, repeated, shuffled and glued: no panic, and no more kills than
    /// lines that can tell of one.
    #[test]
    fn mangled_lines(edits in vec((any::<Index>(), any::<Index>(), any::<u8>(), 0u8..10), 0..400)) {
        let all = corpus();
        let mut log = Vec::new();
        for (from, at, byte, edit) in edits {
            let from = from.index(all.len());
            let run = if edit == 0 { 60 } else { 1 };
            for line in all.iter().skip(from).take(run) {
                let mut line = line.clone();
                let at = at.index(line.len() + 1);
                match edit {
                    1 => line.truncate(at),
                    2 => drop(line.drain(..at)),
                    3 if at < line.len() => line[at] = byte,
                    4 => line.insert(at, byte),
                    5 => line.push(b'\r'),
                    6 => line.resize(line.len() + 70_000, byte),
                    _ => {}
                }
                log.extend_from_slice(&line);
                if edit != 7 {
                    log.push(b'\n');
                }
            }
        }
        let count = |needle: &[u8]| memchr::memmem::find_iter(&log, needle).count();
        let most = count(b"Kill") + count(b"oom-kill:");
        let events = import(&log);
        prop_assert!(events.len() <= most, "{} kills of {most} lines", events.len());
        let again: Vec<_> = import(&log).iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        let events: Vec<_> = events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        prop_assert_eq!(events, again);
    }

    /// Two reports through one another, without a word of who printed which line: no kill gets facts
    /// that only the other has.
    #[test]
    fn mixed_reports(order in vec(any::<bool>(), 60)) {
        let report = |pid: u32, limit: u32| -> Vec<String> {
            let text = format!("t{pid} invoked oom-killer: gfp_mask=0xd0, order=0, oom_score_adj=0
CPU: 0 PID: {pid} Comm: t{pid} Not tainted 3.13.0 #1
Task in /{pid} killed as a result of limit of /{pid}
memory: usage {limit}kB, limit {limit}kB, failcnt 7
[ pid ]   uid  tgid total_vm      rss nr_ptes swapents oom_score_adj name
[ {pid}]     5  {pid}     1000      {limit}       1        0             0 t{pid}
Memory cgroup out of memory: Kill process {pid} (t{pid}) score 1000 or sacrifice child
Killed process {pid} (t{pid}) total-vm:4000kB, anon-rss:{limit}kB, file-rss:0kB");
            text.lines().map(str::to_owned).collect()
        };
        let (mut one, mut two) = (report(1111, 40).into_iter(), report(2222, 80).into_iter());
        let mut log = String::new();
        for first in order {
            let line = if first { one.next() } else { two.next() };
            log += &line.map(|line| line + "\n").unwrap_or_default();
        }
        log.extend(one.chain(two).map(|line| line + "\n"));
        for event in import(log.as_bytes()) {
            let Event::OomKill(kill) = event else { continue };
            let pid = kill.victim.pid.unwrap();
            let limit = if pid == 1111 { 40 } else { 80 } * 1024;
            let memory = kill.victim.memory.unwrap();
            prop_assert_eq!(memory.anon_rss_bytes, Some(limit));
            prop_assert!(kill.trigger.tid.is_none_or(|tid| tid == pid), "trigger: {}", log);
            if let Some(memcg) = kill.oom.memcg {
                prop_assert!(memcg.limit_bytes.is_none_or(|bytes| bytes == limit), "limit: {}", log);
                let path = memcg.path.as_deref();
                prop_assert!(path.is_none_or(|path| path == format!("/{pid}")), "path: {}", log);
            }
            let rows = kill.candidates.map(|candidates| candidates.items).unwrap_or_default();
            prop_assert!(rows.iter().all(|row| row.pid == pid), "rows: {}", log);
        }
    }
}
