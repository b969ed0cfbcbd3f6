//! How long the pure core takes: bytes of the programs and of the kernel log to bytes of an event.
//!
//! The input is one captured kill in a memory cgroup: the kernel's report of 80 lines, and the
//! record that the programs would have sent of it.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::{
    fs,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use oomtrace::{
    btf, cgroup,
    config::Config,
    delivery::Delivery,
    event::{Clock, Event},
    format::{Format, json},
    host,
    incident::{Assembler, Importer, Incident, Joiner, Sources},
    kernel_log::{self, Dates, KmsgRecord, LogReader, Parser},
    probe::decode::{self, Record},
};
use oomtrace_common::{
    Header, Level, MAX_LEVELS, Memory, Paths, RecordKind, Task, VICTIM_HAS_MM, VICTIM_LIVE_KILL,
    VictimRecord,
};

/// The kernel's report of the kill of process 5540.
const REPORT: &[u8] = include_bytes!("../src/kernel_log/fixtures/candidates.kmsg");
const PID: u32 = 5540;
const NOW_NS: u64 = 839_417_400_000;

/// One path of each shape.
const PATHS: [(&str, &str); 5] = [
    (
        "cgroupfs",
        "/kubepods/burstable/pod8dbc5577-d0e2-4706-8787-57d52c03ddf2/\
         14011c7d92a9e513dfd69211da0413dbf319a5e45a02b354ba6e98e10272542d",
    ),
    (
        "systemd",
        "/kubepods.slice/kubepods-burstable.slice/\
         kubepods-burstable-pod8dbc5577_d0e2_4706_8787_57d52c03ddf2.slice/\
         cri-containerd-14011c7d92a9e513dfd69211da0413dbf319a5e45a02b354ba6e98e10272542d.scope",
    ),
    (
        "mismatch",
        "/system.slice/kubepods-burstable-pod8dbc5577_d0e2_4706_8787_57d52c03ddf2.slice:\
         cri-containerd:14011c7d92a9e513dfd69211da0413dbf319a5e45a02b354ba6e98e10272542d",
    ),
    (
        "no pod",
        "/docker/14011c7d92a9e513dfd69211da0413dbf319a5e45a02b354ba6e98e10272542d",
    ),
    ("service", "/system.slice/postgresql.service"),
];

/// The record of the kill.
fn victim_record() -> Vec<u8> {
    let mut tail = Vec::new();
    let mut path = |names: &str| {
        let before = tail.len();
        for name in names.rsplit('/').filter(|name| !name.is_empty()) {
            tail.extend_from_slice(name.as_bytes());
            tail.push(0);
        }
        u32::try_from(tail.len() - before).unwrap()
    };
    let paths = Paths {
        cgroup_bytes: path(PATHS[1].1),
        trigger_bytes: path(PATHS[1].1),
        exe_bytes: path("/usr/bin/memhog"),
        cut: 0,
    };
    let task = Task {
        pid: PID,
        tid: PID,
        ppid: 1,
        uid: 0,
        oom_score_adj: 0,
        flags: 0,
        start_ns: 839_000_000_000,
        comm: *b"memhog\0\0\0\0\0\0\0\0\0\0",
        cgroup_id: 4061,
        hierarchy_id: 4,
        pad: 0,
    };
    let record = VictimRecord {
        header: Header {
            kind: RecordKind::Victim as u32,
            size: u32::try_from(size_of::<VictimRecord>() + tail.len()).unwrap(),
            time_ns: 839_417_320_000,
            decision_ns: 0,
        },
        victim: task,
        trigger: task,
        memory: Memory {
            total_vm_pages: 30_141,
            anon_pages: 6_891,
            file_pages: 1_057,
            shmem_pages: 0,
            swap_pages: 0,
            pgtables_bytes: 118_784,
        },
        flags: VICTIM_HAS_MM | VICTIM_LIVE_KILL,
        level_count: 4,
        levels: [Level {
            usage_pages: 12_288,
            max_pages: 12_288,
            flags: 0,
        }; MAX_LEVELS],
        paths,
    };
    // SAFETY: `VictimRecord` is `repr(C)` and made of integers, without implicit padding.
    let fixed = unsafe {
        std::slice::from_raw_parts((&raw const record).cast::<u8>(), size_of::<VictimRecord>())
    };
    [fixed, &tail].concat()
}

fn parse_report(parser: &mut Parser, scratch: &mut Vec<u8>) -> Vec<kernel_log::Output> {
    let mut outputs = Vec::new();
    for record in REPORT.split_inclusive(|byte| *byte == b'\n') {
        if let Some(line) = KmsgRecord::parse(record).unwrap().kernel_line(scratch) {
            parser.feed(&line, &mut |output| outputs.push(output));
        }
    }
    outputs
}

fn assembler() -> Assembler {
    Assembler {
        node: Arc::new(host::node()),
        hooks: ["raw_tp:mark_victim", "raw_tp:signal_generate", "kmsg"]
            .map(String::from)
            .into(),
        run_id: host::random_uuid().unwrap(),
        page_size: 4096,
        max_candidates: 10,
        directory: None,
        cgroups: None,
    }
}

/// What the tracer does with a record and a report.
fn join(
    record: Record,
    outputs: Vec<kernel_log::Output>,
    assembler: &mut Assembler,
    clock: Clock,
) -> Event {
    let mut joiner = Joiner::new(Sources {
        log: true,
        decision_end: false,
        exits: true,
    });
    joiner.record(record, NOW_NS);
    for output in outputs {
        joiner.log(output, NOW_NS);
    }
    match joiner.next(NOW_NS) {
        Some(Incident::Kill(kill)) => assembler.kill(&kill, clock, (25 << 30, 0)),
        other => panic!("no kill came out but {other:?}"),
    }
}

/// The event of the kill.
fn kill() -> Event {
    let record = decode::decode(&victim_record()).unwrap();
    let outputs = parse_report(&mut Parser::default(), &mut Vec::new());
    join(record, outputs, &mut assembler(), Clock::now())
}

fn core(criterion: &mut Criterion) {
    let record = victim_record();
    let mut scratch = Vec::new();
    let mut assembler = assembler();
    let clock = Clock::now();
    let decoded = || decode::decode(&record).unwrap();
    let outputs = || parse_report(&mut Parser::default(), &mut Vec::new());
    let event = join(decoded(), outputs(), &mut assembler, clock);
    let mut out = Vec::new();

    criterion.bench_function("decode a victim", |bench| {
        bench.iter(|| decode::decode(black_box(&record)));
    });
    criterion.bench_function("parse a report of the kernel log", |bench| {
        let mut parser = Parser::default();
        bench.iter(|| parse_report(&mut parser, &mut scratch));
    });
    criterion.bench_function("join and assemble", |bench| {
        bench.iter_batched(
            || (decoded(), outputs()),
            |(record, outputs)| join(record, outputs, &mut assembler, clock),
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("write json", |bench| {
        bench.iter(|| {
            out.clear();
            json(black_box(&event), &mut out);
        });
    });
    criterion.bench_function("write pretty", |bench| {
        bench.iter(|| {
            out.clear();
            Format::Pretty.write(black_box(&event), true, &mut out);
        });
    });
    for (name, format) in [
        ("write ecs", Format::Ecs),
        ("write ocsf", Format::Ocsf),
        ("write falco", Format::Falco),
    ] {
        criterion.bench_function(name, |bench| {
            bench.iter(|| {
                out.clear();
                format.write(black_box(&event), false, &mut out);
            });
        });
    }
    criterion.bench_function("record and report to bytes", |bench| {
        let mut parser = Parser::default();
        bench.iter(|| {
            out.clear();
            let outputs = parse_report(&mut parser, &mut scratch);
            let event = join(decoded(), outputs, &mut assembler, clock);
            json(&event, &mut out);
        });
    });
}

fn cgroups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resolve a cgroup");
    for (shape, path) in PATHS {
        group.bench_function(shape, |bench| {
            bench.iter(|| cgroup::resolve(black_box(path.as_bytes())));
        });
    }
    group.finish();
}

/// Logs in memory: one without a report, as nearly all of a log is, and one of nothing else.
fn logs(criterion: &mut Criterion) {
    let plain: Vec<u8> = (0..200_000)
        .flat_map(|n| {
            let (minute, worker) = (n / 60 % 60, n % 97);
            let line = format!(
                "Nov 21 16:{minute:02}:{:02} node-7 app[{n}]: request {n} handled by worker {worker}, status 200\n",
                n % 60
            );
            line.into_bytes()
        })
        .collect();
    let dense = REPORT.repeat(1_000);
    let mut group = criterion.benchmark_group("import");
    group.sample_size(20);
    for (name, log) in [("no reports", plain), ("reports only", dense)] {
        group.throughput(Throughput::Bytes(log.len() as u64));
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let mut importer = Importer::new(None, String::new(), 10);
                let mut out = Vec::new();
                let mut kills = 0;
                LogReader::new(Dates::default())
                    .read(black_box(&log[..]), |_| (), &mut |found| {
                        importer.take(
                            found,
                            &mut |event| {
                                kills += 1;
                                out.clear();
                                json(&event, &mut out);
                            },
                            &mut |_, _| (),
                        );
                    })
                    .unwrap();
                kills
            });
        });
    }
    group.finish();
}

/// The kernel's own BTF; nothing where it has none.
fn layouts(criterion: &mut Criterion) {
    let Ok(bytes) = btf::load(btf::VMLINUX.as_ref()) else {
        return;
    };
    let mut group = criterion.benchmark_group("the kernel's BTF");
    group.sample_size(20);
    group.bench_function("load", |bench| {
        bench.iter(|| btf::load(btf::VMLINUX.as_ref()))
    });
    group.bench_function("parse", |bench| {
        bench.iter(|| btf::Btf::parse(black_box(&bytes), btf::NAMES).map(drop));
    });
    let parsed = btf::Btf::parse(&bytes, btf::NAMES).unwrap();
    group.bench_function("resolve", |bench| {
        bench.iter(|| btf::resolve(black_box(&parsed), 4096, 2, "this kernel").map(drop));
    });
    group.finish();
}

/// From events to a file that holds them, through the queues of the agent.
fn files(criterion: &mut Criterion) {
    const EVENTS: u64 = 20_000;
    let event = kill();
    let mut group = criterion.benchmark_group("deliver to a file");
    group.throughput(Throughput::Elements(EVENTS));
    group.sample_size(10);
    for (name, spool) in [("through memory", false), ("through a spool", true)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().display();
        let text = format!(
            "[spool]\ndirectory = '{folder}'\nmax = '1GiB'\nfsync = false\n\
             [sinks.file]\ntype = 'file'\npath = '{folder}/events.jsonl'\n\
             spool = {spool}\nmemory_max = '1GiB'\n"
        );
        let sinks = Config::parse(&text, &[], "the bench").unwrap().sinks;
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let delivery = Delivery::start(sinks.clone()).unwrap();
                let mut out = Vec::new();
                for _ in 0..EVENTS {
                    out.clear();
                    json(&event, &mut out);
                    while !delivery.has_room() {
                        std::thread::yield_now();
                    }
                    delivery.push(out.trim_ascii_end());
                }
                assert!(delivery.close(None).is_empty());
            });
        });
    }
}

/// One record at a time: until it is in the file.
fn latency(criterion: &mut Criterion) {
    let event = kill();
    let mut bytes = Vec::new();
    json(&event, &mut bytes);
    let mut group = criterion.benchmark_group("deliver one to a file");
    for (name, dead) in [("alone", false), ("beside a dead sink", true)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let folder = folder.path().display();
        let mut text = format!(
            "[spool]\ndirectory = '{folder}'\nfsync = false\n\
             [sinks.file]\ntype = 'file'\npath = '{folder}/events.jsonl'\nrotate_size = '64GiB'\n"
        );
        if dead {
            text += &format!("[sinks.dead]\ntype = 'syslog'\naddress = 'unix://{folder}/none'\n");
        }
        let sinks = Config::parse(&text, &[], "the bench").unwrap().sinks;
        let delivery = Delivery::start(sinks).unwrap();
        let mut length = 0;
        let mut all = Vec::new();
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let begun = Instant::now();
                delivery.push(bytes.trim_ascii_end());
                length += bytes.len() as u64;
                while fs::metadata(&path).map_or(0, |file| file.len()) < length {
                    std::thread::yield_now();
                }
                all.push(begun.elapsed());
            });
        });
        all.sort_unstable();
        // Criterion tells of means only.
        let at = |percent| all.get(all.len() * percent / 100).copied();
        let [middle, high] = [50, 99].map(|percent| at(percent).unwrap_or_default());
        println!(
            "median {middle:?}, 99th percentile {high:?}, of {}",
            all.len()
        );
        drop(delivery.close(Some(Duration::ZERO)));
    }
}

criterion_group!(benches, core, cgroups, logs, layouts, files, latency);
criterion_main!(benches);
