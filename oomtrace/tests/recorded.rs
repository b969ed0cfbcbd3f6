//! Kernel logs and events recorded on real kernels (`cargo xtask vm --record`): what the parser reads
//! of the log is what the event of the same kill said.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{collections::BTreeMap, path::Path};

use common::unpacked;
use oomtrace::{
    event::{Constraint, Event, OomKill},
    kernel_log::{self, KilledLine, KmsgRecord, Output, Parser, Report},
};

/// One scenario of one cell.
struct Recorded {
    name: String,
    reports: Vec<Report>,
    /// By the thread id the kernel names.
    killed: BTreeMap<u32, KilledLine>,
    kills: Vec<OomKill>,
}

fn recorded() -> Vec<Recorded> {
    let files = common::files(".kmsg.gz");
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Recorded {
    let mut recorded = Recorded {
        name: file.display().to_string(),
        reports: Vec::new(),
        killed: BTreeMap::new(),
        kills: Vec::new(),
    };
    let mut parser = Parser::default();
    let mut scratch = Vec::new();
    let log = unpacked(file);
    // A line that begins with a space is of the dictionary of the record before it.
    for line in log.lines().filter(|line| !line.starts_with(' ')) {
        let record = KmsgRecord::parse(line.as_bytes()).unwrap();
        let line = record.kernel_line(&mut scratch).unwrap();
        parser.feed(&line, &mut |output| match output {
            Output::Report(report) => recorded.reports.push(*report),
            Output::Killed(line) => {
                recorded.killed.insert(line.pid, line);
            }
            Output::GroupKill(_) | Output::Gap { .. } => {}
        });
    }
    let events = file.to_string_lossy().replace(".kmsg.gz", ".jsonl.gz");
    for line in unpacked(Path::new(&events)).lines() {
        if let Event::OomKill(kill) = serde_json::from_str(line).unwrap() {
            recorded.kills.push(*kill);
        }
    }
    recorded
}

/// Every kill has its line and every line its kill, with the same name, score and sizes; what a
/// report says of the allocation and of the ranking is in the event it was joined with.
#[test]
fn log_and_events_agree() {
    let all = recorded();
    assert!(!all.is_empty(), "nothing is recorded");
    for Recorded {
        name,
        reports,
        killed,
        kills,
    } in &all
    {
        assert!(!reports.is_empty(), "{name}: no report");
        assert!(!kills.is_empty(), "{name}: no kill");
        assert_eq!(kills.len(), killed.len(), "{name}: kills and lines");
        for kill in kills {
            let victim = &kill.victim;
            let line = &killed[&victim.tid.unwrap()];
            let comm = String::from_utf8_lossy(&line.comm);
            assert_eq!(victim.comm.as_deref(), Some(&*comm), "{name}");
            let adj = line.oom_score_adj.map(i32::from);
            assert_eq!(victim.oom_score_adj, adj, "{name}: oom_score_adj");
            let memory = victim.memory.as_ref().unwrap();
            let kib = |bytes: Option<u64>| bytes.map(|bytes| bytes / 1024 * 1024);
            assert_eq!(kib(memory.total_vm_bytes), line.total_vm_bytes, "{name}");
            assert_eq!(kib(memory.pgtables_bytes), line.pgtables_bytes, "{name}");
        }
        for report in reports {
            assert!(report.complete, "{name}: an incomplete report");
            let chosen = report.victim.pid;
            let kill = kills.iter().find(|kill| kill.victim.tid == chosen).unwrap();
            let mask = report.gfp_mask.map(|mask| format!("{mask:#x}"));
            assert_eq!(kill.oom.gfp_mask, mask, "{name}");
            assert_eq!(kill.oom.order, report.order, "{name}");
            let memcg = report.constraint == Some(kernel_log::Constraint::Memcg);
            assert_eq!(
                memcg,
                kill.oom.constraint == Some(Constraint::Memcg),
                "{name}"
            );
            let tid = kill.trigger.tid;
            assert!(
                report.trigger.pid.is_none_or(|pid| tid == Some(pid)),
                "{name}"
            );
            let rows = &report.table.as_ref().unwrap().rows;
            let candidates = &kill.candidates.as_ref().unwrap().items;
            for candidate in candidates {
                let row = rows.iter().find(|row| row.tgid == candidate.pid);
                let row = row.unwrap_or_else(|| panic!("{name}: {} has no row", candidate.pid));
                let adj = row.oom_score_adj.map(i32::from);
                assert_eq!(
                    adj,
                    Some(candidate.oom_score_adj),
                    "{name}: {}",
                    candidate.pid
                );
            }
        }
    }
}
