//! Whole reports: captured ones, whose facts were compared by eye, and what may happen to them on
//! the way. The captures are raw `/dev/kmsg` records of kernel 6.18 with cgroup v1.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A process over its cgroup's limit and two more below the same limit.
const CANDIDATES: &[u8] = include_bytes!("fixtures/candidates.kmsg");
/// Three kills in a cgroup below the limit, `/a,task_memcg=/b,task=init,pid=1,uid=0`; the names
/// hold `,task=`, `) total-vm:`, a newline, bytes that are not UTF-8, and printk's own prefix.
const HOSTILE_NAMES: &[u8] = include_bytes!("fixtures/hostile_names.kmsg");
/// A cgroup path over 1 kB: cut three times, and its lines in pieces.
const DEEP_PATH: &[u8] = include_bytes!("fixtures/deep_path.kmsg");

/// A line that owns its text.
#[derive(Debug, Clone)]
struct Owned {
    seq: u64,
    caller: Option<Caller>,
    continued: bool,
    text: Vec<u8>,
}

fn lines(capture: &[u8]) -> Vec<Owned> {
    let mut scratch = Vec::new();
    capture
        .split_inclusive(|&b| b == b'\n')
        .map(|record| {
            let record = KmsgRecord::parse(record).unwrap();
            let line = record.kernel_line(&mut scratch).unwrap();
            let text = line.text.to_vec();
            Owned {
                seq: record.seq,
                caller: line.caller,
                continued: line.continued,
                text,
            }
        })
        .collect()
}

fn feed(parser: &mut Parser, lines: &[Owned]) -> Vec<Output> {
    let mut out = Vec::new();
    for line in lines {
        let line = Line {
            time_usec: Some(line.seq * 10),
            seq: Some(line.seq),
            caller: line.caller,
            continued: line.continued,
            text: &line.text,
        };
        parser.feed(&line, &mut |output| out.push(output));
    }
    out
}

fn run(lines: &[Owned]) -> Vec<Output> {
    let mut parser = Parser::default();
    let mut out = feed(&mut parser, lines);
    parser.finish(&mut |output| out.push(output));
    out
}

fn report(output: &Output) -> &Report {
    match output {
        Output::Report(report) => report,
        other => panic!("not a report: {other:?}"),
    }
}

fn killed(output: &Output) -> &KilledLine {
    match output {
        Output::Killed(killed) => killed,
        other => panic!("not a killed line: {other:?}"),
    }
}

fn text_line(text: &str) -> Owned {
    Owned {
        seq: 1,
        caller: None,
        continued: false,
        text: text.into(),
    }
}

fn whole_path(path: &[u8]) -> Option<LogPath> {
    Some(LogPath {
        bytes: path.to_vec(),
        cut: false,
    })
}

/// Every fact of a real report against its text.
#[test]
fn candidates() {
    let out = run(&lines(CANDIDATES));
    assert_eq!(out.len(), 2);
    let counter = |kb: u64, limit, failcnt| {
        Some(Counter {
            usage_bytes: kb << 10,
            limit,
            failcnt,
        })
    };
    let row = |tgid, rss, anon, file, pgtables, adj, name: &[u8]| TaskRow {
        pid: tgid,
        tgid,
        uid: Some(0),
        total_vm_pages: Some(if tgid == 5540 { 30141 } else { 4540 }),
        rss_pages: Some(rss),
        rss_anon_pages: Some(anon),
        rss_file_pages: Some(file),
        rss_shmem_pages: Some(0),
        pgtables_bytes: Some(pgtables),
        swapents_pages: Some(0),
        oom_score_adj: Some(adj),
        name: name.into(),
    };
    let expected = Report {
        time_usec: Some(3500),
        seq: Some(350),
        complete: true,
        summary_cut: false,
        ambiguous: false,
        trigger: Trigger {
            comm: Some(b"memhog".to_vec()),
            pid: Some(5540),
            uid: Some(0),
            cpu: Some(0),
            oom_score_adj: Some(0),
        },
        gfp_mask: Some(0xcc0),
        gfp_flags: Some(b"GFP_KERNEL".to_vec()),
        order: Some(0),
        constraint: Some(Constraint::Memcg),
        nodemask: Some(b"(null)".to_vec()),
        cpuset: Some(b"/".to_vec()),
        mems_allowed: Some(b"0".to_vec()),
        global_oom: Some(false),
        oom_memcg: whole_path(b"/oomtrace-klog-5497"),
        victim: Victim {
            comm: Some(b"memhog".to_vec()),
            pid: Some(5540),
            uid: Some(0),
            memcg: whole_path(b"/oomtrace-klog-5497"),
        },
        memcg: MemcgReport {
            path: whole_path(b"/oomtrace-klog-5497"),
            memory: counter(20480, Limit::Bytes(20 << 20), 49),
            swap: None,
            memsw: counter(20480, Limit::Unlimited, 0),
            kmem: counter(44, Limit::Unlimited, 0),
            stat: MemcgStat {
                anon_bytes: Some(20926464),
                file_bytes: Some(0),
                shmem_bytes: Some(0),
                file_mapped_bytes: Some(0),
                unevictable_bytes: Some(0),
                swap_bytes: Some(0),
                ..MemcgStat::default()
            },
        },
        node: NodeMemory::default(),
        table: Some(TaskTable {
            rows: vec![
                row(5538, 2921, 1899, 1022, 77824, 0, b"idle 0"),
                row(5539, 2921, 1899, 1022, 77824, 500, b"idle 1"),
                row(5540, 7948, 6891, 1057, 118784, 0, b"memhog"),
            ],
            total: 3,
        }),
    };
    assert_eq!(*report(&out[0]), expected);
    let k = killed(&out[1]);
    assert_eq!(
        (k.seq, &k.message[..]),
        (Some(429), &b"Memory cgroup out of memory"[..])
    );
    assert_eq!((k.pid, &k.comm[..], k.uid), (5540, &b"memhog"[..], Some(0)));
    assert_eq!(
        (k.total_vm_bytes, k.anon_rss_bytes),
        (Some(120564 << 10), Some(27564 << 10))
    );
    assert_eq!(
        (k.file_rss_bytes, k.shmem_rss_bytes),
        (Some(4228 << 10), Some(0))
    );
    assert_eq!(
        (k.pgtables_bytes, k.oom_score_adj),
        (Some(116 << 10), Some(0))
    );
}

/// Names that imitate a report are read byte for byte, wherever they appear.
#[test]
fn hostile_names() {
    let out = run(&lines(HOSTILE_NAMES));
    let victims: [(u32, &[u8]); 3] = [
        (15366, b"a,task=x,pid=1"),
        (15367, b"z) total-vm:1kB"),
        (15368, b"\x01cn\nm\xff\"\\) [1"),
    ];
    assert_eq!(out.len(), 6);
    for (pair, (pid, comm)) in out.chunks(2).zip(victims) {
        let (r, k) = (report(&pair[0]), killed(&pair[1]));
        assert!(r.complete && !r.ambiguous && !r.summary_cut);
        assert_eq!(r.trigger.comm.as_deref(), Some(comm));
        assert_eq!((r.trigger.pid, r.trigger.cpu.is_some()), (Some(pid), true));
        assert_eq!(r.victim.comm.as_deref(), Some(comm));
        assert_eq!((r.victim.pid, r.victim.uid), (Some(pid), Some(0)));
        assert_eq!(r.oom_memcg, whole_path(b"/oomtrace-klog-15322"));
        assert_eq!(
            r.victim.memcg,
            whole_path(b"/oomtrace-klog-15322/a,task_memcg=/b,task=init,pid=1,uid=0")
        );
        let table = r.table.as_ref().unwrap();
        assert_eq!((table.total, &*table.rows[0].name), (1, comm));
        assert_eq!(
            (k.pid, &k.comm[..], k.total_vm_bytes),
            (pid, comm, Some(120676 << 10))
        );
    }
}

/// A path over 1 kB is marked cut; the facts behind it come in records of their own and are kept.
#[test]
fn deep_path() {
    let out = run(&lines(DEEP_PATH));
    assert_eq!(out.len(), 2);
    let r = report(&out[0]);
    assert!(r.complete && !r.ambiguous && !r.summary_cut);
    assert_eq!(
        (r.victim.comm.as_deref(), r.victim.pid),
        (Some(&b"memhog"[..]), Some(7167))
    );
    for path in [&r.oom_memcg, &r.victim.memcg, &r.memcg.path] {
        let path = path.as_ref().unwrap();
        assert!(path.cut && path.bytes.len() == 1021);
        assert!(
            path.bytes
                .starts_with(b"/oomtrace-klog-7126/0-deep,task=evil")
        );
    }
    assert_eq!(r.memcg.stat.anon_bytes, Some(20926464));
    assert_eq!(killed(&out[1]).pid, 7167);
}

/// The same report when the last record is lost: what comes after the path is unknown, and the fake
/// fields inside the path are not taken for it.
#[test]
fn deep_path_without_its_end() {
    let mut lines = lines(DEEP_PATH);
    let last = lines.iter().rposition(|line| line.continued).unwrap();
    lines.remove(last);
    let out = run(&lines);
    let r = report(&out[0]);
    assert!(r.summary_cut);
    assert_eq!(r.victim.comm, None);
    assert_eq!((r.victim.pid, r.victim.uid), (None, None));
    assert!(r.victim.memcg.as_ref().unwrap().cut);
}

/// Until its line is whole a report is held back, then given out at once.
#[test]
fn report_at_its_last_record() {
    for capture in [CANDIDATES, DEEP_PATH] {
        let all = lines(capture);
        let (killed, rest) = all.split_last().unwrap();
        let mut parser = Parser::default();
        assert!(feed(&mut parser, &rest[..rest.len() - 1]).is_empty());
        assert_eq!(feed(&mut parser, &rest[rest.len() - 1..]).len(), 1);
        assert_eq!(feed(&mut parser, std::slice::from_ref(killed)).len(), 1);
    }
}

/// A cgroup's name that ends a record early, with fake last fields: the table knows no such pid, so
/// the parser waits for the rest.
#[test]
fn split_behind_fake_fields() {
    let mut lines = lines(CANDIDATES);
    let at = lines
        .iter()
        .position(|l| l.text.starts_with(b"oom-kill:"))
        .unwrap();
    let mut end = lines[at].clone();
    let real = end
        .text
        .split_off(end.text.len() - b",task=memhog,pid=5540,uid=0".len());
    end.text.extend_from_slice(b",task=init,pid=1,uid=0");
    lines[at] = end;
    lines.insert(
        at + 1,
        Owned {
            continued: true,
            text: real,
            ..lines[at].clone()
        },
    );
    lines.insert(at + 1, text_line("usb 1-1: new device"));
    let out = run(&lines);
    assert_eq!(out.len(), 2);
    let r = report(&out[0]);
    assert_eq!(
        (r.victim.pid, r.victim.comm.as_deref()),
        (Some(5540), Some(&b"memhog"[..]))
    );
    assert_eq!(
        r.victim.memcg,
        whole_path(b"/oomtrace-klog-5497,task=init,pid=1,uid=0")
    );
    // Nobody can tell whose continuation it was.
    assert!(r.ambiguous);
}

/// A record almost full, without a table: its last fields may be part of a name, so they wait for
/// the record behind it.
#[test]
fn full_record_behind_fake_fields() {
    let front = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/";
    let first = text_line(&format!("{front}{},task=init,pid=1,uid=0", "x".repeat(850)));
    let second = Owned {
        continued: true,
        ..text_line(",task=t,pid=5,uid=6")
    };
    let out = run(&[first.clone(), second]);
    assert_eq!(out.len(), 1);
    let victim = &report(&out[0]).victim;
    assert_eq!(
        (victim.pid, victim.uid, victim.comm.as_deref()),
        (Some(5), Some(6), Some(&b"t"[..]))
    );
    assert!(run(&[first]).len() == 1);
}

/// A node OOM as 5.10 prints it: totals, no memcg, the old columns; from the kernel's formats.
#[test]
fn node_report() {
    let text = "kworker/1:0 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=-1, oom_score_adj=0
CPU: 1 PID: 77 Comm: kworker/1:0 Not tainted 5.10.223 #1
Mem-Info:
active_anon:1 inactive_anon:2 isolated_anon:0
Free swap  = 4kB
Total swap = 1020kB
2097022 pages RAM
0 pages HighMem/MovableOnly
67366 pages reserved
Tasks state (memory values in pages):
[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name
[    116]  1000   116  2628942  1995298 16052224        9          1000 npm start
oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0-1,global_oom,task_memcg=/user.slice,task=npm start,pid=116,uid=1000";
    let out = run(&text.lines().map(text_line).collect::<Vec<_>>());
    let r = report(&out[0]);
    assert!(r.complete);
    assert_eq!(
        (r.order, r.global_oom, &r.constraint),
        (Some(-1), Some(true), &Some(Constraint::None))
    );
    assert_eq!((r.trigger.pid, r.trigger.uid), (Some(77), None));
    assert_eq!(
        (r.node.ram_pages, r.node.swap_total_bytes),
        (Some(2097022), Some(1020 << 10))
    );
    assert_eq!(r.victim.comm.as_deref(), Some(&b"npm start"[..]));
    let row = &r.table.as_ref().unwrap().rows[0];
    assert_eq!((row.swapents_pages, row.rss_anon_pages), (Some(9), None));
    assert_eq!(r.memcg, MemcgReport::default());
}

/// `memory.oom.group`: the line and its order among the others; a path with spaces; in two pieces.
#[test]
fn group_kill() {
    let end = " are going to be killed due to memory.oom.group set";
    let out = run(&[text_line(&format!("Tasks in /a b are going{end}"))]);
    let group = GroupKill {
        time_usec: Some(10),
        seq: Some(1),
        memcg: whole_path(b"/a b are going").unwrap(),
    };
    assert_eq!(out, [Output::GroupKill(group.clone())]);

    let rest = Owned {
        continued: true,
        ..text_line(&format!("/a b are going{end}"))
    };
    let out = run(&[text_line("Tasks in "), rest]);
    assert_eq!(out, [Output::GroupKill(group)]);
    assert_eq!(run(&[text_line("Tasks in a hurry")]), []);
}

/// A second header ends the first report, and a gap ends any: incomplete, and nothing carried over.
#[test]
fn unfinished_reports() {
    let all = lines(CANDIDATES);
    let mut twice = all[..70].to_vec();
    twice.extend_from_slice(&all);
    let out = run(&twice);
    assert_eq!(out.len(), 3);
    assert!(!report(&out[0]).complete && report(&out[1]).complete);
    assert_eq!(out[1..], run(&all));

    let mut parser = Parser::default();
    let mut out = feed(&mut parser, &all[..77]);
    parser.gap(Some(3), &mut |output| out.push(output));
    out.extend(feed(&mut parser, &all[77..]));
    assert_eq!(out.len(), 4);
    let (first, second) = (report(&out[0]), report(&out[2]));
    assert!(!first.complete && first.table.as_ref().unwrap().total == 2);
    assert_eq!(out[1], Output::Gap { missing: Some(3) });
    assert!(!second.complete && second.table.is_none() && second.trigger == Trigger::default());
    assert_eq!(second.victim.pid, Some(5540));
}

/// Rows over the cap are counted, not kept.
#[test]
fn row_cap() {
    let mut parser = Parser::with_max_rows(2);
    let out = feed(&mut parser, &lines(CANDIDATES));
    let table = report(&out[0]).table.as_ref().unwrap();
    assert_eq!((table.rows.len(), table.total), (2, 3));
}

/// Continuations without end stay within bounds.
#[test]
fn endless_line() {
    let mut parser = Parser::default();
    feed(&mut parser, &[text_line("Tasks in ")]);
    let piece = Owned {
        continued: true,
        ..text_line(&"/x".repeat(511))
    };
    for _ in 0..1000 {
        assert_eq!(feed(&mut parser, std::slice::from_ref(&piece)), []);
    }
    assert!(format!("{parser:?}").len() < 100_000);
}

fn captures() -> Vec<Vec<Owned>> {
    [CANDIDATES, HOSTILE_NAMES, DEEP_PATH].map(lines).to_vec()
}

/// One report without a header that printk took for a continuation.
fn plain_report() -> impl Strategy<Value = Vec<Owned>> {
    (0..2usize).prop_map(|i| lines([CANDIDATES, DEEP_PATH][i]))
}

fn some_lines() -> impl Strategy<Value = Vec<Owned>> {
    (0..3usize, vec(0u8..10, 240)).prop_map(|(i, dice)| {
        let mut dice = dice.into_iter();
        let mut lines = captures().swap_remove(i);
        lines.retain(|_| dice.next() != Some(0));
        lines
    })
}

fn reports_from(out: &[Output], seq: u64) -> Vec<&Output> {
    out.iter()
        .filter(|output| matches!(output, Output::Report(r) if r.seq >= Some(seq)))
        .collect()
}

proptest! {
    /// Any bytes: a record or an error, and no panic from either on.
    #[test]
    fn any_bytes(records in vec(vec(any::<u8>(), 0..80), 0..40)) {
        let (mut parser, mut scratch) = (Parser::default(), Vec::new());
        for bytes in &records {
            if let Ok(record) = KmsgRecord::parse(bytes) {
                record.text(&mut scratch);
            }
            for continued in [false, true] {
                parser.feed(&Line { continued, text: bytes, ..Line::default() }, &mut |_| ());
            }
        }
    }

    /// Captured lines, cut, changed, repeated and shuffled: no panic, no unbounded table, and never
    /// a complete report without a header and a summary of its own.
    #[test]
    fn mangled(
        edits in vec((0usize..3, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0u8..8), 0..300),
    ) {
        let all = captures();
        let mut mangled = Vec::new();
        for (which, from, at, byte, edit) in edits {
            let run = from.index(all[which].len());
            let len = if edit == 0 { 40 } else { 1 };
            let mut part: Vec<Owned> = all[which].iter().skip(run).take(len).cloned().collect();
            let line = &mut part[0];
            let at = at.index(line.text.len() + 1);
            match edit {
                1 => line.text.truncate(at),
                2 => drop(line.text.drain(..at)),
                3 if at < line.text.len() => line.text[at] = byte,
                4 => line.continued ^= true,
                5 => line.caller = Some(Caller::Cpu(u32::from(byte % 2))),
                _ => {}
            }
            mangled.append(&mut part);
        }
        let mut parser = Parser::with_max_rows(2);
        let mut out = feed(&mut parser, &mangled);
        parser.gap(None, &mut |output| out.push(output));
        for output in &out {
            if let Output::Report(r) = output {
                prop_assert!(r.table.as_ref().is_none_or(|t| t.rows.len() <= 2));
                prop_assert!(!r.complete || (r.trigger.comm.is_some() && (r.summary_cut || r.victim.pid.is_some())));
            }
        }
    }

    /// Whatever lines of report A came before, report B reads as if it were alone.
    #[test]
    fn nothing_leaks_after_a_header(a in some_lines(), b in plain_report(), keep in vec(0u8..10, 240)) {
        let b = renumber(b);
        let mut dice = keep.into_iter();
        let b: Vec<Owned> =
            b.into_iter().enumerate().filter(|(i, _)| *i == 0 || dice.next() != Some(0)).map(|(_, l)| l).collect();
        let alone = run(&b);
        let both = run(&[a, b].concat());
        prop_assert_eq!(reports_from(&both, FAR), reports_from(&alone, FAR));
    }

    /// After a gap not even a header is needed for that.
    #[test]
    fn nothing_leaks_over_a_gap(a in some_lines(), b in some_lines()) {
        let b = renumber(b);
        let mut parser = Parser::default();
        feed(&mut parser, &a);
        parser.gap(None, &mut |_| ());
        let mut after = feed(&mut parser, &b);
        parser.finish(&mut |output| after.push(output));
        prop_assert_eq!(after, run(&b));
    }

    /// Lines of other callers between those of a report change nothing, whatever they say.
    #[test]
    fn other_callers(
        mut lines in plain_report(),
        foreign in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()), 0..60),
    ) {
        for line in &mut lines {
            line.caller = Some(Caller::Thread(1));
        }
        let alone = run(&lines);
        // Everything but what starts or ends a report by itself.
        let pool: Vec<Owned> = captures().concat().into_iter().filter(|line| {
            let has = |words: &[u8]| memchr::memmem::find(&line.text, words).is_some();
            !has(b"invoked oom-killer") && !has(b"Killed process") && !line.text.starts_with(b"oom-kill:")
        }).collect();
        for (from, to, continued) in foreign {
            let line = Owned { caller: Some(Caller::Cpu(0)), continued, ..from.get(&pool).clone() };
            lines.insert(to.index(lines.len()), line);
        }
        prop_assert_eq!(run(&lines), alone);
    }
}

/// Sequence numbers above those of every capture.
const FAR: u64 = 1_000_000;

fn renumber(mut lines: Vec<Owned>) -> Vec<Owned> {
    for line in &mut lines {
        line.seq += FAR;
    }
    lines
}
