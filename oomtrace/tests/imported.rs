//! `oomtrace import`, through the program itself: what it makes of recorded kernel logs, in every form
//! in which people keep them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    cell::Cell,
    collections::BTreeMap,
    env, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{oomtrace, unpacked_bytes};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

/// 2026-11-21T16:20:11Z: when the machine of a rendered log was started.
const BOOT_USEC: u64 = 1_795_278_011_000_000;

fn import(args: &[&str], input: &[u8]) -> Output {
    oomtrace(&[&["import"], args].concat(), input)
}

fn events(args: &[&str], input: &[u8]) -> Vec<Value> {
    let args = [&["--format", "json", "--candidates", "all"], args].concat();
    let output = import(&args, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The logs that were recorded on real kernels, and the events of the same kills.
fn recorded(cells: &str) -> Vec<(String, Vec<u8>, Vec<Value>)> {
    let logs = common::files_of(cells, ".kmsg.gz");
    assert!(!logs.is_empty(), "nothing is recorded");
    let read = |log: &PathBuf| {
        let name = log.to_string_lossy().into_owned();
        let kills = common::unpacked(Path::new(&name.replace(".kmsg.gz", ".jsonl.gz")));
        let kills = kills
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|event| event["kind"] == "oom_kill");
        (name.clone(), unpacked_bytes(log), kills.collect())
    };
    logs.iter().map(read).collect()
}

/// Every value that is not null, by its path.
fn facts(value: &Value, path: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (name, value) in members {
                facts(value, &format!("{path}.{name}"), into);
            }
        }
        Value::Array(items) if path.ends_with("zones") => {
            for (at, value) in items.iter().enumerate() {
                facts(value, &format!("{path}[{at}]"), into);
            }
        }
        other => {
            into.insert(path.to_owned(), other.clone());
        }
    }
}

/// The import of a recorded log says what the tracer said of the same kill, in every field that the log
/// holds; and the log holds most of them. A tracer that lacks hooks or the log may know less.
#[test]
fn imported_is_what_was_traced() {
    for (name, log, traced) in recorded("") {
        let imported = events(&[], &log);
        assert_eq!(imported.len(), traced.len(), "{name}: kills");
        let whole = name.contains(".plain/");
        // From 6.2 to 7.0 the log leaves out what processors keep to themselves, and so does what
        // follows from it; the tracer adds it. Up to 6.1 tasks keep some back in turn, and a victim
        // that is not the trigger may run on: what the hooks read and the log prints lie apart.
        let nearly = !whole || name.contains("6.12") || name.contains("machine_");
        // It counts what a candidate holds less closely when it scores than when it prints.
        let loosely = name.contains("7.3");
        for live in &traced {
            let tid = &live["victim"]["tid"];
            let logged = imported.iter().find(|event| event["victim"]["tid"] == *tid);
            let logged = logged.unwrap_or_else(|| panic!("{name}: no kill of {tid}"));
            let (mut told, mut known) = (BTreeMap::new(), BTreeMap::new());
            facts(logged, "", &mut told);
            facts(live, "", &mut known);
            for (path, value) in &told {
                // Names of the event, its clock and its source, and lists that differ in length.
                let own = [".event_id", ".oom_id", ".run_id", ".seq", ".boottime_ns"];
                let lists = [
                    ".candidates.items",
                    ".candidates.listed",
                    ".candidates.source",
                ];
                if own.contains(&path.as_str())
                    || lists.contains(&path.as_str())
                    || path.starts_with(".source.")
                    || ((loosely || !whole) && path == ".verdict.summary")
                    // Each kernel prints them in an order of its own.
                    || (!whole && path == ".oom.gfp_flags")
                    // Where nothing tells a group, each victim is the first of its own.
                    || (live["oom"]["victim_count"].is_null() && path == ".oom.victim_index")
                {
                    continue;
                }
                let known = match known.get(path) {
                    None if !whole => continue,
                    known => known,
                };
                let kept_back = ["_rss_bytes", "swap_bytes", "unowned_bytes", "usage_bytes"];
                if nearly && kept_back.iter().any(|name| path.ends_with(name)) {
                    let (told, known) = (value.as_u64().unwrap(), known.unwrap().as_u64().unwrap());
                    assert!(
                        told.abs_diff(known) < 4 << 20,
                        "{name} {path}: {told} and {known}"
                    );
                    continue;
                }
                assert_eq!(Some(value), known, "{name}: kill of {tid}: {path}");
            }
            for needed in [
                ".oom.constraint",
                ".oom.scope",
                ".oom.message",
                ".oom.gfp_mask",
                ".oom.order",
                ".oom.victim_index",
                ".oom.victim_count",
                ".trigger.comm",
                ".trigger.tid",
                ".victim.role",
                ".victim.pid",
                ".victim.comm",
                ".victim.uid",
                ".victim.oom_score_adj",
                ".victim.memory.anon_rss_bytes",
                ".victim.memory.pgtables_bytes",
            ] {
                assert!(told.contains_key(needed), "{name}: {needed} is not told");
            }
            assert_eq!(logged["source"]["kind"], "kernel_log");
            assert_eq!(logged["source"]["merged"], Value::Array(Vec::new()));
            // On the log's clock, which the hooks do not read.
            let ns = |event: &Value| {
                event["boottime_ns"]
                    .as_str()
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            };
            assert!(
                ns(logged).abs_diff(ns(live)) < 5_000_000_000,
                "{name}: time"
            );
            // The kernel's points, where it was hooked, and those of the table are the same.
            for item in live["candidates"]["items"].as_array().into_iter().flatten() {
                let items = logged["candidates"]["items"].as_array().unwrap();
                let same = items.iter().find(|other| other["pid"] == item["pid"]);
                let same = same.unwrap_or_else(|| panic!("{name}: no candidate {}", item["pid"]));
                for (field, value) in same.as_object().unwrap() {
                    let known = &item[field];
                    let near = match field.as_str() {
                        "rss_bytes" | "swap_bytes" => 4 << 20,
                        "badness_pages" if !whole => 4 << 8,
                        _ => 0,
                    };
                    if (loosely || !whole) && near > 0 {
                        let apart = value.as_i64().unwrap().abs_diff(known.as_i64().unwrap());
                        assert!(apart < near, "{name}: {field}: {value} and {known}");
                    } else if !value.is_null() {
                        assert_eq!(value, known, "{name}: candidate {}: {field}", item["pid"]);
                    }
                }
            }
        }
    }
}

/// One record of a log.
struct Record {
    level: u64,
    usec: u64,
    continued: bool,
    text: String,
}

/// Reads `/dev/kmsg` records; the tests' own reader, and only of what was recorded.
fn records(log: &[u8]) -> Vec<Record> {
    let log = String::from_utf8(log.to_vec()).unwrap();
    let mut records: Vec<Record> = Vec::new();
    for line in log.lines().filter(|line| !line.starts_with(' ')) {
        let (head, text) = line.split_once(';').unwrap();
        let fields: Vec<_> = head.split(',').collect();
        let record = Record {
            level: fields[0].parse().unwrap(),
            usec: fields[2].parse().unwrap(),
            continued: fields[3] == "c",
            text: text.replace("\\x0a", "\n").replace("\\x5c", "\\"),
        };
        match records.last_mut() {
            // What readers of the log do with a record that goes on.
            Some(last) if record.continued => last.text += &record.text,
            _ => records.push(record),
        }
    }
    records
}

fn civil(usec: u64, format: &str) -> String {
    let time = jiff::Timestamp::from_microsecond(i64::try_from(BOOT_USEC + usec).unwrap()).unwrap();
    time.to_zoned(jiff::tz::TimeZone::UTC)
        .strftime(format)
        .to_string()
}

/// Lines behind the first of a record are set in.
fn set_in(text: &str) -> String {
    text.replace('\n', "\n                ")
}

fn json_text(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

type Form = (&'static str, bool, Box<dyn Fn(&Record) -> Vec<u8>>);

/// Every form, whether it has the kernel's own clock, and how it writes a record.
fn forms() -> Vec<Form> {
    let form = |name, clock, write: fn(&Record) -> String| -> Form {
        (
            name,
            clock,
            Box::new(move |record| (write(record) + "\n").into_bytes()),
        )
    };
    vec![
        form("dmesg", true, |r| {
            format!(
                "[{:5}.{:06}] {}",
                r.usec / 1_000_000,
                r.usec % 1_000_000,
                set_in(&r.text)
            )
        }),
        form("dmesg -r", true, |r| {
            format!(
                "<{}>[{:5}.{:06}] {}",
                r.level,
                r.usec / 1_000_000,
                r.usec % 1_000_000,
                set_in(&r.text)
            )
        }),
        form("dmesg with callers", true, |r| {
            let (seconds, micros) = (r.usec / 1_000_000, r.usec % 1_000_000);
            format!("[{seconds:5}.{micros:06}] [ T4711] {}", set_in(&r.text))
        }),
        form("console with callers", true, |r| {
            let (seconds, micros) = (r.usec / 1_000_000, r.usec % 1_000_000);
            format!("[{seconds:5}.{micros:06}][ T4711] {}", set_in(&r.text))
        }),
        form("dmesg -x", true, |r| {
            let (seconds, micros) = (r.usec / 1_000_000, r.usec % 1_000_000);
            format!(
                "kern  :warn  : [{seconds:5}.{micros:06}] {}",
                set_in(&r.text)
            )
        }),
        form("dmesg -T", false, |r| {
            format!(
                "[{}] {}",
                civil(r.usec, "%a %b %e %H:%M:%S %Y"),
                set_in(&r.text)
            )
        }),
        // Saturdays and months have other names elsewhere.
        form("dmesg -T, German", false, |r| {
            let date = civil(r.usec, "Sa %b %e %H:%M:%S %Y");
            format!("[{date}] {}", set_in(&r.text))
        }),
        form("dmesg -T, Japanese", false, |r| {
            let date = civil(r.usec, "土 %m月 %e %H:%M:%S %Y");
            format!("[{date}] {}", set_in(&r.text))
        }),
        form("dmesg -T, of a language nobody knows", false, |r| {
            let date = civil(r.usec, "Qa Qqq %e %H:%M:%S %Y");
            format!("[{date}] {}", set_in(&r.text))
        }),
        form("dmesg -d", true, |r| {
            let (seconds, micros) = (r.usec / 1_000_000, r.usec % 1_000_000);
            format!(
                "[{seconds:5}.{micros:06} <    0.000020>] {}",
                set_in(&r.text)
            )
        }),
        relative("dmesg -H", "%b%d"),
        relative("dmesg -H, French", "%b. %d"),
        relative("dmesg -H, Japanese", "%m月%d"),
        form("dmesg iso", false, |r| {
            format!(
                "{} {}",
                civil(r.usec, "%Y-%m-%dT%H:%M:%S,%6f+00:00"),
                set_in(&r.text)
            )
        }),
        form("journal short", false, |r| {
            format!(
                "{} node-7 kernel: {}",
                civil(r.usec, "%b %d %H:%M:%S"),
                set_in(&r.text)
            )
        }),
        form("journal short-precise", false, |r| {
            let date = civil(r.usec, "%b %d %H:%M:%S.%6f");
            format!("{date} node-7 kernel: {}", set_in(&r.text))
        }),
        form("journal short-iso", false, |r| {
            let date = civil(r.usec, "%Y-%m-%dT%H:%M:%S+0000");
            format!("{date} node-7 kernel: {}", set_in(&r.text))
        }),
        form("journal short-full", false, |r| {
            let date = civil(r.usec, "%a %Y-%m-%d %H:%M:%S UTC");
            format!("{date} node-7 kernel: {}", set_in(&r.text))
        }),
        form("journal short-unix", false, |r| {
            let usec = BOOT_USEC + r.usec;
            let (seconds, micros) = (usec / 1_000_000, usec % 1_000_000);
            format!("{seconds}.{micros:06} node-7 kernel: {}", set_in(&r.text))
        }),
        form("journal short-monotonic", true, |r| {
            let (seconds, micros) = (r.usec / 1_000_000, r.usec % 1_000_000);
            format!(
                "[{seconds:5}.{micros:06}] node-7 kernel: {}",
                set_in(&r.text)
            )
        }),
        form("journal json", true, |r| {
            format!(
                "{{\"__REALTIME_TIMESTAMP\":\"{}\",\"_SOURCE_MONOTONIC_TIMESTAMP\":\"{}\",\"MESSAGE\":{},\"_TRANSPORT\":\"kernel\",\"_HOSTNAME\":\"node-7\",\"PRIORITY\":\"4\"}}",
                BOOT_USEC + r.usec,
                r.usec,
                json_text(&r.text)
            )
        }),
        (
            "journal export",
            true,
            Box::new(|r: &Record| {
                let mut entry = format!(
                "__CURSOR=s=1\n__REALTIME_TIMESTAMP={}\n_TRANSPORT=kernel\n_HOSTNAME=node-7\n_SOURCE_MONOTONIC_TIMESTAMP={}\n",
                BOOT_USEC + r.usec,
                r.usec
            )
            .into_bytes();
                if r.text.contains('\n') {
                    entry.extend_from_slice(b"MESSAGE\n");
                    entry.extend_from_slice(&(r.text.len() as u64).to_le_bytes());
                    entry.extend_from_slice(r.text.as_bytes());
                } else {
                    entry.extend_from_slice(b"MESSAGE=");
                    entry.extend_from_slice(r.text.as_bytes());
                }
                entry.extend_from_slice(b"\nPRIORITY=4\n\n");
                entry
            }),
        ),
        form("syslog", true, |r| {
            let (seconds, micros) = (r.usec / 1_000_000, r.usec % 1_000_000);
            let text = r.text.replace('\n', "#012");
            let date = civil(r.usec, "%b %e %H:%M:%S");
            format!("{date} node-7 kernel: [{seconds:5}.{micros:06}] {text}")
        }),
        form("rsyslog's own", false, |r| {
            let text = r.text.replace('\n', "#012");
            format!(
                "{} node-7 kernel: {text}",
                civil(r.usec, "%Y-%m-%dT%H:%M:%S.%6f+00:00")
            )
        }),
        form("syslog of RFC 5424", false, |r| {
            let text = r.text.replace('\n', "#012");
            let date = civil(r.usec, "%Y-%m-%dT%H:%M:%S.%6fZ");
            format!("<{}>1 {date} node-7 kernel - - - {text}", r.level)
        }),
        form("Kubernetes", true, |r| {
            let (seconds, micros) = (r.usec / 1_000_000, r.usec % 1_000_000);
            let date = civil(r.usec, "%Y-%m-%dT%H:%M:%S.%9fZ");
            let text = r.text.replace('\n', &format!("\n{date} stdout F     "));
            format!("{date} stdout F [{seconds:5}.{micros:06}] {text}")
        }),
        form("Docker", true, |r| {
            let (seconds, micros) = (r.usec / 1_000_000, r.usec % 1_000_000);
            let date = civil(r.usec, "%Y-%m-%dT%H:%M:%S.%9fZ");
            let lines = r.text.split('\n').enumerate().map(|(at, line)| {
                let front = if at == 0 {
                    format!("[{seconds:5}.{micros:06}] ")
                } else {
                    "    ".to_owned()
                };
                let log = json_text(&format!("{front}{line}\n"));
                format!("{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"{date}\"}}")
            });
            lines.collect::<Vec<_>>().join("\n")
        }),
    ]
}

/// `dmesg -H`: the minute where one begins, else what has passed since the line before.
fn relative(name: &'static str, date: &'static str) -> Form {
    let last = Cell::new(None);
    let write = move |r: &Record| {
        let minute = civil(r.usec, &format!("{date} %H:%M"));
        let before = last.replace(Some((minute.clone(), r.usec)));
        let time = match before {
            Some((same, usec)) if same == minute => {
                let passed = r.usec - usec;
                format!("{:>+4}.{:06}", passed / 1_000_000, passed % 1_000_000)
            }
            _ => minute,
        };
        format!("[{time}] {}\n", set_in(&r.text)).into_bytes()
    };
    (name, false, Box::new(write))
}

/// How near a time in such a log is to that of its kill; `None` where there is none.
fn near_usec(form: &str) -> Option<u64> {
    match form {
        // The second that a minute begins with is not told.
        "dmesg -H" | "dmesg -H, French" | "dmesg -H, Japanese" => Some(60_000_000),
        "dmesg iso" => Some(1_000_000),
        "dmesg -T, of a language nobody knows" => None,
        "console with callers" | "journal short-monotonic" => None,
        other => {
            (!other.starts_with("dmesg") || other.starts_with("dmesg -T")).then_some(1_000_000)
        }
    }
}

/// What must be the same whatever a log is kept in.
fn essence(event: &Value, clock: bool) -> Value {
    let mut event = event.clone();
    for name in ["event_id", "oom_id", "run_id", "time", "time_unix_ns"] {
        event[name] = Value::Null;
    }
    event["node"]["hostname"] = Value::Null;
    if !clock {
        event["boottime_ns"] = Value::Null;
    }
    event
}

/// Rendered in every form that people keep logs in, with the lines of others in between, the same log
/// gives the same records.
#[test]
fn every_form_says_the_same() {
    for (name, log, _) in recorded(".plain") {
        let mut records = records(&log);
        // What comes before has the minute, where only its first line tells that.
        let before = ["eth0: link becomes ready", "random: crng init done"];
        for text in before {
            let usec = records[0].usec - 1_500;
            records.insert(
                0,
                Record {
                    level: 6,
                    usec,
                    continued: false,
                    text: text.to_owned(),
                },
            );
        }
        let expected = events(&[], &log);
        for (form, clock, write) in forms() {
            let text: Vec<u8> = records.iter().flat_map(&write).collect();
            let found = events(&["--year", "2026"], &text);
            assert_eq!(found.len(), expected.len(), "{name} as {form}: kills");
            for (found, expected) in found.iter().zip(&expected) {
                let told = essence(found, clock);
                assert_eq!(told, essence(expected, clock), "{name} as {form}");
                let time = found["time_unix_ns"].as_str();
                assert_eq!(
                    time.is_some(),
                    near_usec(form).is_some(),
                    "{name} as {form}"
                );
                if let Some((time, near)) = time.zip(near_usec(form)) {
                    let usec = time.parse::<u64>().unwrap() / 1000;
                    let boot_ns = expected["boottime_ns"].as_str().unwrap();
                    let boot_usec = boot_ns.parse::<u64>().unwrap() / 1000;
                    assert!(
                        usec.abs_diff(BOOT_USEC + boot_usec) <= near,
                        "{form}: {time}"
                    );
                }
            }
        }
    }
}

fn packed(text: &[u8], program: &str) -> Option<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take()?;
    let text = text.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&text).unwrap());
    let output = child.wait_with_output().ok()?;
    writer.join().unwrap();
    output.status.success().then_some(output.stdout)
}

/// Packed, with other ends of lines, in another encoding: the same records.
#[test]
fn every_wrapping_says_the_same() {
    let (_, log, _) = recorded(".plain").remove(0);
    let text: Vec<u8> = records(&log)
        .iter()
        .flat_map(|r| (forms()[0].2)(r))
        .collect();
    let expected: Vec<_> = events(&[], &text)
        .iter()
        .map(|e| essence(e, true))
        .collect();
    assert!(!expected.is_empty());
    let string = String::from_utf8(text.clone()).unwrap();
    let units = || std::iter::once(0xfeff).chain(string.encode_utf16());
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(&text).unwrap();
    let mut wrapped = vec![
        ("CRLF", string.replace('\n', "\r\n").into_bytes()),
        ("UTF-16", units().flat_map(u16::to_le_bytes).collect()),
        ("UTF-16, big", units().flat_map(u16::to_be_bytes).collect()),
        ("UTF-8 with a mark", [b"\xef\xbb\xbf", &text[..]].concat()),
        ("gzip", gz.finish().unwrap()),
        ("no last newline", text[..text.len() - 1].to_vec()),
        (
            "NULs and a long line before",
            [
                &vec![0; 300_000],
                &b"\n"[..],
                &vec![b'x'; 10 << 20],
                b"\n",
                &text,
            ]
            .concat(),
        ),
        (
            "binary around",
            [&b"\x7fELF\0\x01\n\xff\xfe\n"[..], &text, b"\0\0\n\x80"].concat(),
        ),
    ];
    for program in ["xz", "zstd"] {
        match packed(&text, program) {
            Some(packed) => wrapped.push((program, packed)),
            None => eprintln!("skipped: there is no {program} to pack with"),
        }
    }
    for (name, bytes) in wrapped {
        let found: Vec<_> = events(&[], &bytes)
            .iter()
            .map(|e| essence(e, true))
            .collect();
        assert_eq!(found, expected, "{name}");
    }
}

/// Whether a line, by its place and its text, is left.
type Keep<'a> = &'a dyn Fn(usize, &str) -> bool;

/// What is left of a report tells of every kill, and nothing that the whole does not: of `grep -i oom`, of
/// the kernel's rate limit, of a log that begins or is spoiled in the middle.
#[test]
fn fragments() {
    for (name, log, _) in recorded(".plain") {
        let (_, _, dmesg) = forms().remove(0);
        let text: Vec<u8> = records(&log).iter().flat_map(&dmesg).collect();
        let whole = events(&[], &text);
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let place = |mark: &str| lines.iter().position(|line| line.contains(mark)).unwrap();
        let header = place("invoked oom-killer");
        let kill = |line: &str| line.contains("Killed process") || line.contains("] Tasks in ");
        let half = usize::midpoint(header, place("Killed process"));
        let left: [(_, Keep<'_>); 5] = [
            ("grep -i oom", &|_, line| {
                line.to_lowercase().contains("oom") || kill(line)
            }),
            ("rate limit", &|_, line| kill(line)),
            ("no header", &|at, _| at > header),
            ("half", &|at, _| at > half),
            ("no table", &|_, line| !line.contains("total_vm")),
        ];
        for (kind, keep) in left {
            let kept = lines
                .iter()
                .enumerate()
                .filter(|(at, line)| keep(*at, line));
            let text: String = kept.map(|(_, line)| format!("{line}\n")).collect();
            let found = events(&[], text.as_bytes());
            assert_eq!(found.len(), whole.len(), "{name}: {kind}");
            for found in &found {
                let tid = &found["victim"]["tid"];
                let same = whole.iter().find(|event| event["victim"]["tid"] == *tid);
                let (mut told, mut known) = (BTreeMap::new(), BTreeMap::new());
                facts(found, "", &mut told);
                facts(same.unwrap(), "", &mut known);
                for (path, value) in told {
                    let own = [".oom_id", ".run_id", ".seq", ".candidates.items"];
                    // How many died of a group, and which of them was chosen, is seen from what comes
                    // before; what happened is told in fewer words by whom knows less.
                    let own = own.contains(&path.as_str())
                        || path.starts_with(".oom.victim_")
                        || path == ".verdict.summary";
                    assert!(
                        own || known.get(&path) == Some(&value),
                        "{name}: {kind}: {path}: {value}"
                    );
                }
                let rows = |event: &Value| event["candidates"]["items"].as_array().cloned();
                let all = rows(same.unwrap()).unwrap_or_default();
                for row in rows(found).into_iter().flatten() {
                    let same = all.iter().find(|other| other["pid"] == row["pid"]).unwrap();
                    for (field, value) in row.as_object().unwrap() {
                        // A rank that is not known is 0.
                        let known = !value.is_null() && *value != 0;
                        assert!(
                            !known || *value == same[field],
                            "{name}: {kind}: {row} of {same}"
                        );
                    }
                }
            }
        }
    }
}

/// Writes a record of a machine or task.
type Front<'a> = &'a dyn Fn(&Record, &str) -> String;

/// Two machines in one syslog file, and two tasks of one machine whose ids the kernel printed, record by
/// record: each kill has its own facts.
#[test]
fn interleaved() {
    let log = |name: &str| records(&common::recorded_file(name));
    let one = log("7.3.plain/machine_with_swap.kmsg.gz");
    let two = log("5.10.plain/single_process.kmsg.gz");
    let machine = |r: &Record, of: &str| {
        let text = r.text.replace('\n', "#012");
        format!("2026-11-21T16:20:11.000000+00:00 node-{of} kernel: {text}\n")
    };
    let task = |r: &Record, of: &str| {
        let (seconds, micros) = (r.usec / 1_000_000, r.usec % 1_000_000);
        format!(
            "[{seconds:5}.{micros:06}][{:>6}] {}\n",
            format!("T{of}"),
            set_in(&r.text)
        )
    };
    for front in [&machine as Front<'_>, &task] {
        let write = |log: &[Record], of| log.iter().map(|r| front(r, of)).collect::<Vec<_>>();
        let (a, b) = (write(&one, "17"), write(&two, "4711"));
        let mut mixed = String::new();
        for at in 0..a.len().max(b.len()) {
            mixed += a.get(at).map_or("", String::as_str);
            mixed += b.get(at).map_or("", String::as_str);
        }
        let read = |text: &str| events(&[], text.as_bytes());
        let strip = |list: Vec<Value>| -> BTreeMap<String, Value> {
            let strip = |event: &Value| {
                let mut event = essence(event, true);
                event["seq"] = Value::Null;
                (event["victim"]["comm"].to_string(), event)
            };
            list.iter().map(strip).collect()
        };
        let apart = [read(&a.concat()), read(&b.concat())].concat();
        assert_eq!(apart.len(), 2);
        assert_eq!(strip(read(&mixed)), strip(apart));
    }
}

/// What is no report is told by its line, and the exit status says whether anything was readable.
#[test]
fn troubles() {
    let (_, log, _) = recorded(".plain").remove(0);
    let first = String::from_utf8(log).unwrap();
    let header = first
        .lines()
        .find(|line| line.contains("invoked oom-killer"))
        .unwrap();
    let output = import(&[], format!("6,1,1,-;hello\n{header}\n").as_bytes());
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("-:2: a report that ends before it names a victim"),
        "{errors}"
    );

    let text = "Nov 21 16:20:11 host app[1]: Out of memory: Killed process 1 (init) total-vm:1kB\n";
    let output = import(&[], text.as_bytes());
    assert!(output.status.success() && output.stdout.is_empty());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("-:1: not the kernel's"), "{errors}");

    assert_eq!(import(&[], b"nothing of the kind\n").status.code(), Some(0));
    assert_eq!(import(&["/nonexistent"], b"").status.code(), Some(1));
    // What is no log is not taken for one without a kill.
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        state.to_be_bytes()[0]
    });
    let noise: Vec<u8> = noise.take(10_000).collect();
    for (bytes, told) in [
        (&noise[..], "this is no text"),
        (b"BZh91AY&SY", "packed by bzip2"),
        (b"LPKSHHRH\0\0\0\0", "journalctl"),
    ] {
        let output = import(&[], bytes);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(told), "{errors}");
        assert_eq!(output.status.code(), Some(1), "{errors}");
    }
    let output = import(&["--since", "yesterday"], b"");
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("--since: not a time such as"), "{errors}");
    // Half an archive: what is in it is told, and that it is cut.
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(first.as_bytes()).unwrap();
    let gz = gz.finish().unwrap();
    let output = import(&["--format", "json"], &gz[..gz.len() - 6]);
    assert!(output.status.success() && !output.stdout.is_empty());
}

/// `--since` and `--until`, years and names that a log does not have.
#[test]
fn options() {
    let text = "Dec 31 23:59:50 host kernel: Out of memory: Killed process 7 (x) total-vm:1kB\n\
                Jan  1 00:00:10 host kernel: Out of memory: Killed process 8 (x) total-vm:1kB\n";
    let times = |args: &[&str]| -> Vec<String> {
        let found = events(args, text.as_bytes());
        found
            .iter()
            .map(|event| event["time"].as_str().unwrap_or("").to_owned())
            .collect()
    };
    assert_eq!(times(&[]), ["", ""]);
    let both = [
        "2026-12-31T23:59:50.000000000Z",
        "2027-01-01T00:00:10.000000000Z",
    ];
    assert_eq!(times(&["--year", "2026"]), both);
    assert_eq!(
        times(&["--year", "2026", "--since", "2027-01-01"]),
        both[1..]
    );
    assert_eq!(
        times(&["--year", "2026", "--until", "2027-01-01 00:00"]),
        both[..1]
    );
    assert_eq!(times(&["--since", "2027-01-01"]).len(), 0);
    assert_eq!(times(&["--year", "2000", "--since", "1h"]).len(), 0);
    let east = times(&["--year", "2026", "--utc-offset", "+02:00"]);
    assert_eq!(east[0], "2026-12-31T21:59:50.000000000Z");
    let bare = b"Out of memory: Killed process 7 (x) total-vm:1kB\n";
    assert_eq!(
        events(&["--hostname", "n"], bare)[0]["node"]["hostname"],
        "n"
    );
    assert_eq!(
        events(&["--hostname", "n"], text.as_bytes())[0]["node"]["hostname"],
        "host"
    );
}

/// `--against` knows a kill again in another form, and finds the one that is missing.
#[test]
fn against() {
    let (name, log, _) = recorded(".plain").remove(2);
    let events = name.replace(".kmsg.gz", ".jsonl.gz");
    let output = import(&["--against", &events], &log);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains(" in both, 0 only in the logs, 0 only in "),
        "{text}"
    );
    let output = import(
        &["--against", &events],
        b"[    1.000000] Out of memory: Killed process 4242 (x) total-vm:1kB\n",
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("  1.000000 s after boot  x (pid 4242)"),
        "{text}"
    );
    assert!(
        text.contains("0 kills in both, 1 only in the logs"),
        "{text}"
    );
}

/// Whatever comes, memory has a bound: a table, a group, a line and a list of machines without end, with
/// so much address space that nothing of them could be kept.
#[test]
fn memory_is_bounded() {
    let header = "[    1.000000] x invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n\
        [    1.000000] [  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name\n";
    let many = |count: u32, line: &dyn Fn(u32) -> String| (0..count).map(line).collect::<String>();
    let killed = "Memory cgroup out of memory: Killed process";
    let group = "Tasks in /a are going to be killed due to memory.oom.group set";
    for (name, log) in [
        (
            "rows",
            header.to_owned()
                + &many(100_000, &|at| {
                    format!(
                        "[    1.000000] [{at:7}]     0 {at:5}    30141     7948   118784        0             0 {at}\n"
                    )
                }),
        ),
        (
            "groups",
            many(100_000, &|at| {
                format!("[    1.000000] {killed} {at} (a)\n[    1.000000] {group}\n")
            }),
        ),
        (
            "reports without an end",
            many(50_000, &|_| header.to_owned()),
        ),
        (
            "machines",
            many(100_000, &|at| {
                format!("Nov 21 16:20:11 node-{at} kernel: {killed} {at} (a)\n")
            }),
        ),
        (
            "callers",
            many(100_000, &|at| {
                format!("[    1.000000] [T{at}] {killed} {at} (a)\n")
            }),
        ),
        (
            "pieces",
            header.to_owned() + &many(100_000, &|_| "4,1,1,c;Node 0 DMA \n".to_owned()),
        ),
        ("a line", format!("{killed} 1 (") + &"a".repeat(64 << 20)),
        (
            "an entry",
            "__CURSOR=1\n_TRANSPORT=kernel\nMESSAGE=".to_owned() + &"a=b\n".repeat(8 << 20),
        ),
    ] {
        let mut program = Command::new("sh")
            .args(["-c", "ulimit -v 65536 && exec \"$0\" import - >/dev/null"])
            // glibc sets 64 MiB of it aside for each thread, unless it is told not to.
            .env("MALLOC_ARENA_MAX", "1")
            .arg(env!("CARGO_BIN_EXE_oomtrace"))
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let written = program.stdin.take().unwrap().write_all(log.as_bytes());
        let output = program.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            written.is_ok() && output.status.code().is_some(),
            "{name}: {said}"
        );
        assert!(!said.contains("allocation"), "{name}: {said}");
    }
}

/// When nobody reads the records any more, it ends, though more of the log may come.
#[test]
fn nobody_reads() {
    let log: Vec<u8> = recorded(".plain")
        .into_iter()
        .flat_map(|(_, log, _)| log)
        .collect();
    let mut program = Command::new(env!("CARGO_BIN_EXE_oomtrace"))
        .args(["import", "--format", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(program.stdout.take());
    let mut input = program.stdin.take().unwrap();
    for _ in 0..(4 << 20) / log.len() {
        // Once it has ended, nobody takes them.
        if input.write_all(&log).is_err() {
            break;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(90);
    let ended = std::iter::repeat_with(|| program.try_wait().unwrap())
        .inspect(|_| std::thread::sleep(Duration::from_millis(10)))
        .take_while(|_| Instant::now() < deadline)
        .find_map(|status| status);
    let _ = program.kill();
    assert!(ended.is_some(), "it waits for more");
    drop(input);
}

/// On a terminal, a bar tells how far it is with what takes longer than a second; and goes away.
#[test]
fn progress() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    // More than can be read in a second, and no byte of it on the disk.
    fs::File::create(&log).unwrap().set_len(32 << 30).unwrap();
    let program = env!("CARGO_BIN_EXE_oomtrace");
    let command = format!("{program} import {} >/dev/null", log.display());
    let mut terminal = Command::new("script")
        .args(["--quiet", "--command", &command, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = String::new();
    let mut bytes = std::io::BufReader::new(terminal.stdout.take().unwrap()).bytes();
    while !seen.ends_with("MB/s") {
        let byte = bytes.next().unwrap_or_else(|| panic!("no bar in {seen:?}"));
        seen.push(char::from(byte.unwrap()));
    }
    let bar = seen.rsplit('\r').next().unwrap();
    assert!(
        bar.starts_with('[') && bar.contains("] ") && bar.contains(" %  "),
        "{bar:?}"
    );
    // What is left is less than was there.
    fs::File::options()
        .write(true)
        .open(&log)
        .unwrap()
        .set_len(0)
        .unwrap();
    seen.extend(bytes.map(|byte| char::from(byte.unwrap())));
    assert!(terminal.wait().unwrap().success());
    // The bar goes away before anything else is said.
    let (_, said) = seen.rsplit_once("\r\x1b[K").unwrap();
    assert!(
        said.starts_with("oomtrace: ") && said.ends_with("oomtrace: 0 kills\r\n"),
        "{seen:?}"
    );
}

/// Reports of older kernels, which cannot be recorded any more: public ones, beside the repository or
/// where `OOMTRACE_SHARED` says.
#[test]
fn public_reports() {
    let shared = env::var_os("OOMTRACE_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")),
        PathBuf::from,
    );
    let folder = shared.join("data/oom_reports");
    if !folder.exists() {
        eprintln!("skipped: there is no folder {}", folder.display());
        return;
    }
    let read = |name: &str| {
        let bytes = fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        events(&[], &bytes)
    };
    let one = |name: &str| read(name).remove(0);
    let score = |event: &Value| {
        let points = event["victim"]["badness_pages"].as_u64().unwrap();
        points * 1000 / (event["oom"]["total_bytes"].as_u64().unwrap() / 4096)
    };

    let e = one("cadvisor_4.8_docker_memhog_a.txt");
    assert_eq!(
        (score(&e), &e["oom"]["total_bytes"]),
        (1046, &(40960 * 1024).into())
    );
    assert_eq!(e["oom"]["scope"], "container");
    assert_eq!(e["oom"]["memcg"]["stat"]["anon_bytes"], 20260 * 1024);
    assert_eq!(e["victim"]["container"]["runtime"], "docker");

    let e = one("cadvisor_3.13_global_badsysprogram.txt");
    assert_eq!((score(&e), &e["victim"]["pid"]), (919, &1532.into()));
    assert_eq!(e["oom"]["total_bytes"], 434_726 * 4096);
    assert_eq!(
        (&e["oom"]["scope"], &e["verdict"]["victim_rank"]),
        (&"node".into(), &1.into())
    );

    let e = one("ooma_rhel7_3.10_global.txt");
    assert_eq!(
        (score(&e), &e["victim"]["pid"], &e["trigger"]["tid"]),
        (651, &6576.into(), &29481.into())
    );
    assert_eq!(e["verdict"]["runner_up_pid"], 27502);
    let java = e["candidates"]["items"][1]["badness_pages"]
        .as_u64()
        .unwrap();
    assert_eq!(
        java * 1000 / (e["oom"]["total_bytes"].as_u64().unwrap() / 4096),
        286
    );
    assert_eq!(
        e["oom"]["node_memory"]["file_bytes"],
        (1263 + 1167 + 32) * 4096
    );

    let e = one("luke_rhel6_2.6.32_global_php-fpm_mysqld.txt");
    assert_eq!(
        (&e["victim"]["pid"], &e["victim"]["uid"]),
        (&40738.into(), &27.into())
    );
    assert_eq!(
        (&e["verdict"]["victim_rank"], &e["victim"]["badness_pages"]),
        (&Value::Null, &Value::Null)
    );
    let log = folder.join("luke_rhel6_2.6.32_global_php-fpm_mysqld.txt");
    let page = oomtrace(&["explain", log.to_str().unwrap()], b"").stdout;
    let page = String::from_utf8(page).unwrap();
    assert!(page.contains("Not explainable: "), "{page}");
    assert_eq!(e["node"]["hostname"], "new-db1");

    let e = one("ooma_proxmox_cgroup_v2.txt");
    assert_eq!(e["oom"]["memcg"]["path"], "/lxc/39004");
    assert_eq!(e["time"], "2025-08-12T03:54:03.000000000Z");
    let items = e["candidates"]["items"].as_array().unwrap();
    let total = e["oom"]["total_bytes"].as_u64().unwrap() / 4096;
    let scores = items
        .iter()
        .map(|item| item["badness_pages"].as_i64().unwrap() * 1000 / total as i64);
    assert_eq!(scores.take(2).collect::<Vec<_>>(), [410, 232]);
    assert_eq!(e["oom"]["memcg"]["stat"]["shmem_bytes"], 687_980_544);

    let e = one("ooma_ubuntu2110_manual_sysrq.txt");
    assert_eq!(
        (&e["oom"]["sysrq"], &e["oom"]["order"]),
        (&true.into(), &(-1).into())
    );

    let e = one("openshift_crio_4.18_el8_podlimit_mimir.txt");
    assert_eq!(
        (&e["oom"]["scope"], &e["victim"]["container"]["runtime"]),
        (&"pod".into(), &"cri-o".into())
    );
    assert_eq!(
        e["victim"]["pod"]["uid"],
        "58dc1221-d430-496e-951d-e8cb23caaead"
    );
    assert_eq!(
        (&e["candidates"]["total"], &e["verdict"]["victim_rank"]),
        (&1.into(), &1.into())
    );

    let e = one("npd_legacy_memcg_two_line.txt");
    assert_eq!(
        (&e["oom"]["constraint"], &e["victim"]["comm"]),
        (&"memcg".into(), &"heapster".into())
    );
    let e = one("k8s_besteffort_victim_of_global_oom.txt");
    assert_eq!(
        (&e["oom"]["scope"], &e["victim"]["pod"]["qos_class"]),
        (&"node".into(), &"BestEffort".into())
    );
    assert_eq!(e["trigger"]["comm"], "apport");
    assert_eq!(read("sapcc_two_oomkill_lines.txt").len(), 2);

    // Wherever the kernel printed a score, the points give it; or there are none.
    let mut equal = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        if !text.contains(") score ") {
            continue;
        }
        let found = events(&[], text.as_bytes());
        for line in text.lines().filter(|line| line.contains(") score ")) {
            let number = |mark: &str| -> u64 {
                let rest = line.split_once(mark).unwrap().1;
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
                rest[..end].parse().unwrap()
            };
            let (pid, printed) = (number("Kill process "), number(") score "));
            let event = found.iter().find(|event| event["victim"]["pid"] == pid);
            let event = event.unwrap_or_else(|| panic!("{line}"));
            if event["victim"]["badness_pages"].is_null() {
                assert!(event["verdict"]["victim_rank"].is_null(), "{line}");
            } else {
                assert_eq!(score(event), printed, "{line}");
                equal += 1;
            }
        }
    }
    assert_eq!(
        equal, 3,
        "4.8, 3.13 and 3.10 printed one and all that it takes"
    );

    let photon = fs::read(folder.join("photon_4.19_memcg_comm_with_space.txt")).unwrap();
    let output = import(&[], &photon);
    assert_eq!(output.status.code(), Some(1), "it names no victim");
}
