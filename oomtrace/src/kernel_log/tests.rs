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
        pgtables_pages: None,
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
        kernel: Some(b"6.18.44-fc-v669".to_vec()),
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
        narrow_table: false,
        score: None,
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

/// On 5.10 the colon behind a path that was cut has room in the same record.
#[test]
fn cut_path_with_its_colon() {
    let path = format!("/{}", "deep/".repeat(300));
    for (len, cut) in [(989, true), (991, true), (900, false), (100, false)] {
        let record = |continued, text: &str| Owned {
            continued,
            ..text_line(text)
        };
        let out = run(&[
            text_line("x invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0"),
            record(false, "Memory cgroup stats for "),
            record(true, &format!("{}:", &path[..len])),
            text_line("anon 4096"),
            text_line("Tasks state (memory values in pages):"),
        ]);
        let r = report(&out[0]);
        let found = r.memcg.path.as_ref().unwrap();
        assert_eq!((found.bytes.len(), found.cut), (len, cut));
        assert_eq!(r.memcg.stat.anon_bytes, Some(4096));
    }
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
    assert_eq!(r.node.usage.inactive_anon_pages, Some(2));
    assert_eq!(r.victim.comm.as_deref(), Some(&b"npm start"[..]));
    let row = &r.table.as_ref().unwrap().rows[0];
    assert_eq!((row.swapents_pages, row.rss_anon_pages), (Some(9), None));
    assert_eq!(r.memcg, MemcgReport::default());
}

/// The memory of a node as the kernel's formats have it: per printk, its pieces, where `|` stands
/// between what follows with `KERN_CONT`.
const MEMORY: &str = r"Mem-Info:
active_anon:1 inactive_anon:2 isolated_anon:0\n active_file:3 inactive_file:4 isolated_file:0\n unevictable:5 dirty:6 writeback:0\n slab_reclaimable:7 slab_unreclaimable:8\n mapped:9 shmem:10 pagetables:11\n sec_pagetables:0 bounce:0\n kernel_misc_reclaimable:0\n free:12 free_pcp:13 free_cma:0
Node 0 active_anon:4kB inactive_anon:8kB active_file:12kB kernel_stack:16kB all_unreclaimable? yes
Node 0 |DMA32 free:40kB boost:0kB min:44kB low:48kB high:52kB reserved_highatomic:0KB present:64kB managed:60kB free_cma:0kB
lowmem_reserve[]:| 0| 5| 6
Node 0 |Normal free:36kB boost:4kB min:40kB low:50kB high:60kB reserved_highatomic:0KB present:64kB managed:60kB free_cma:0kB
lowmem_reserve[]:| 0| 0| 0
Node 0 |DMA32: |2*4kB |(UM) |4*8kB |(M) |0*16kB |= 40kB
Node 0 |Normal: |9*4kB |(UME) |0*8kB |0*16kB |= 36kB
Node 0 hugepages_total=0 hugepages_free=0 hugepages_surp=0 hugepages_size=2048kB
7 total pagecache pages
Free swap  = 0kB
Total swap = 1020kB
99 pages RAM";

/// What [`MEMORY`] says.
fn memory() -> NodeMemory {
    let zone = |name: &str,
                boost_kb: u64,
                watermarks_kb: [u64; 4],
                reserve: [u64; 3],
                blocks: [u64; 3]| {
        let [free, min, low, high] = watermarks_kb.map(|kb| Some(kb << 10));
        Zone {
            node: Some(0),
            name: name.to_owned(),
            free_bytes: free,
            boost_bytes: Some(boost_kb << 10),
            min_bytes: min,
            low_bytes: low,
            high_bytes: high,
            reserved_highatomic_bytes: Some(0),
            free_highatomic_bytes: None,
            free_cma_bytes: Some(0),
            present_bytes: Some(64 << 10),
            managed_bytes: Some(60 << 10),
            lowmem_reserve_pages: Some(reserve.to_vec()),
            free_by_order: Some(blocks.to_vec()),
        }
    };
    NodeMemory {
        ram_pages: Some(99),
        reserved_pages: None,
        swap_total_bytes: Some(1020 << 10),
        swap_free_bytes: Some(0),
        usage: MemoryUsage {
            active_anon_pages: Some(1),
            inactive_anon_pages: Some(2),
            isolated_anon_pages: Some(0),
            active_file_pages: Some(3),
            inactive_file_pages: Some(4),
            isolated_file_pages: Some(0),
            unevictable_pages: Some(5),
            slab_reclaimable_pages: Some(7),
            slab_unreclaimable_pages: Some(8),
            shmem_pages: Some(10),
            pagetables_pages: Some(11),
            free_pages: Some(12),
        },
        zones: vec![
            zone("DMA32", 0, [40, 44, 48, 52], [0, 5, 6], [2, 4, 0]),
            zone("Normal", 4, [36, 40, 50, 60], [0, 0, 0], [9, 0, 0]),
        ],
        zones_total: 2,
        page_bytes: Some(4096),
    }
}

const NODE_HEADER: &str =
    "x invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0";
const NODE_SUMMARY: &str = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=x,pid=1,uid=0";

/// [`MEMORY`] in a report, each printk made into records by `records`.
fn memory_report(records: impl Fn(&str) -> Vec<Owned>) -> Vec<Owned> {
    let mut lines = vec![text_line(NODE_HEADER)];
    let printks = MEMORY.lines().map(|printk| printk.replace("\\n", "\n"));
    lines.extend(printks.flat_map(|printk| records(&printk)));
    lines.push(text_line(NODE_SUMMARY));
    lines
}

/// One record for each printk.
fn whole_record(printk: &str) -> Vec<Owned> {
    vec![text_line(&printk.replace('|', ""))]
}

/// A record for each piece.
fn record_per_piece(printk: &str) -> Vec<Owned> {
    let pieces = printk.split('|').enumerate();
    pieces
        .map(|(at, piece)| Owned {
            continued: at > 0,
            ..text_line(piece)
        })
        .collect()
}

fn node_of(lines: &[Owned]) -> NodeMemory {
    report(&run(lines)[0]).node.clone()
}

/// The memory of a node, however the kernel's text comes: a record for each printk, lines, pieces;
/// with and without callers.
#[test]
fn node_memory() {
    assert_eq!(node_of(&memory_report(whole_record)), memory());
    let by_line = |printk: &str| {
        let lines = printk.replace('|', "");
        lines.lines().map(text_line).collect()
    };
    assert_eq!(node_of(&memory_report(by_line)), memory());
    let mut pieces = memory_report(record_per_piece);
    assert_eq!(node_of(&pieces), memory());
    for line in &mut pieces {
        line.caller = Some(Caller::Thread(1));
    }
    assert_eq!(node_of(&pieces), memory());
}

/// Without `CONFIG_NUMA` no node is named, and the lines are continuations of what is complete.
#[test]
fn node_memory_without_numa() {
    let no_numa = |printk: &str| match printk.strip_prefix("Node 0 |") {
        Some(rest) => vec![Owned {
            continued: true,
            ..text_line(&rest.replace('|', ""))
        }],
        None => record_per_piece(printk),
    };
    let mut expected = memory();
    for zone in &mut expected.zones {
        zone.node = None;
    }
    assert_eq!(node_of(&memory_report(no_numa)), expected);
}

/// Another's record between the pieces: with callers nothing is lost; without, what it may have
/// been mixed with is not believed.
#[test]
fn node_memory_with_others_between() {
    let foreign = Owned {
        caller: Some(Caller::Thread(2)),
        ..text_line("Node 7 Movable free:1kB min:1kB")
    };
    let with_foreign = |caller| {
        let foreign = Owned {
            caller,
            ..text_line("usb 1-1: new device")
        };
        memory_report(|printk| {
            let pieces = record_per_piece(printk);
            pieces
                .into_iter()
                .flat_map(|piece| [piece, foreign.clone()])
                .collect()
        })
    };
    let mut lines = with_foreign(Some(Caller::Thread(2)));
    for line in &mut lines {
        line.caller = line.caller.or(Some(Caller::Thread(1)));
    }
    lines.insert(9, foreign);
    assert_eq!(node_of(&lines), memory());

    let node = node_of(&with_foreign(None));
    assert_eq!(node.usage, memory().usage);
    assert_eq!(node.zones, []);
}

/// The memory of a node belongs to a report: the same lines of a failed allocation before it do not.
#[test]
fn node_memory_of_another() {
    let mut lines: Vec<Owned> = MEMORY.lines().flat_map(whole_record).collect();
    lines.extend([text_line(NODE_HEADER), text_line(NODE_SUMMARY)]);
    assert_eq!(node_of(&lines), NodeMemory::default());
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
