//! `oomtrace show`, through the program, on events recorded on real kernels.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use common::{files, lines, others, recorded, unpacked};
use serde_json::Value;

fn show(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_oomtrace"))
        .arg("show")
        .args(args)
        .output()
        .unwrap()
}

/// What is shown; nothing is to be said on standard error.
fn shown(args: &[&str]) -> String {
    let output = show(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*said), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn kinds(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).unwrap();
            value["kind"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// A recorded file is shown as it was written, packed or not.
#[test]
fn as_it_was_written() {
    for file in files(".jsonl.gz") {
        assert_eq!(shown(&[file.to_str().unwrap()]), unpacked(&file));
    }
}

/// Each filter lets through what it names, with the outcome, and nothing else.
#[test]
fn filters() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let all = lines("machine_with_swap") + &lines("twenty_die_as_a_group");
    fs::write(&file, &all).unwrap();
    let file = file.to_str().unwrap();
    let with = |args: &[&str]| kinds(&shown(&[&[file], args].concat()));
    assert_eq!(with(&[]).len(), all.lines().count());
    let count = |args: &[&str], kind: &str| {
        let kinds = with(args);
        (kinds.iter().filter(|it| *it == kind).count(), kinds.len())
    };
    assert_eq!(count(&["--scope", "node"], "oom_kill"), (1, 2));
    assert_eq!(count(&["--scope", "slice"], "oom_outcome"), (20, 40));
    assert_eq!(
        count(&["--scope", "slice", "--scope", "NODE"], "oom_kill"),
        (21, 42)
    );
    assert_eq!(
        count(&["--verdict", "node_out_of_memory"], "oom_kill"),
        (1, 2)
    );
    assert_eq!(count(&["--comm", "big"], "oom_kill"), (1, 2));
    assert_eq!(count(&["--comm", "b*"], "oom_kill"), (1, 2));
    assert_eq!(count(&["--kind", "status"], "status"), (4, 4));
    assert_eq!(
        count(&["--scope", "node", "--kind", "oom_outcome"], "oom_outcome"),
        (1, 1)
    );
    for nothing in [
        ["--qos", "Burstable"],
        ["--namespace", "*"],
        ["--pod", "x"],
        ["--until", "2001-01-01"],
        ["--since", "2101-01-01 00:00"],
    ] {
        assert_eq!(with(&nothing), [""; 0], "{nothing:?}");
    }
    let kill = recorded("machine_with_swap").remove(0);
    let time = kill.head.time.unwrap();
    assert!(with(&["--since", &time]).contains(&"oom_kill".to_owned()));
    for wrong in [
        ["--since", "soon"],
        ["--scope", "moon"],
        ["--format", "xml"],
    ] {
        assert_eq!(show(&wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// A table has a row for each kill, as many fields in each, and numbers as the event has them.
#[test]
fn csv() {
    for file in files(".jsonl.gz") {
        let text = shown(&[file.to_str().unwrap(), "--format", "csv"]);
        let mut rows = text.split_terminator("\r\n").map(fields);
        let header = rows.next().unwrap();
        let kills: Vec<Value> = unpacked(&file)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|event: &Value| event["kind"] == "oom_kill")
            .collect();
        let rows: Vec<_> = rows.collect();
        assert_eq!(rows.len(), kills.len());
        let at = |name: &str| header.iter().position(|it| it == name).unwrap();
        for (row, kill) in rows.iter().zip(&kills) {
            assert_eq!(row.len(), header.len());
            assert_eq!(row[at("time")], kill["time"].as_str().unwrap());
            assert_eq!(
                row[at("victim_comm")],
                kill["victim"]["comm"].as_str().unwrap()
            );
            assert_eq!(row[at("scope")], kill["oom"]["scope"].as_str().unwrap());
            for (name, value) in [
                ("victim_pid", &kill["victim"]["pid"]),
                ("victim_oom_score_adj", &kill["victim"]["oom_score_adj"]),
                (
                    "anon_rss_bytes",
                    &kill["victim"]["memory"]["anon_rss_bytes"],
                ),
                ("total_bytes", &kill["oom"]["total_bytes"]),
                ("candidates", &kill["candidates"]["total"]),
            ] {
                assert_eq!(
                    row[at(name)],
                    value.to_string().replace("null", ""),
                    "{name}"
                );
            }
        }
    }
}

/// Whoever else kills has rows and is found by pod; what only the kernel tells is empty.
#[test]
fn who_else_kills() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    fs::write(&file, others() + &lines("single_process")).unwrap();
    let file = file.to_str().unwrap();
    let text = shown(&[file, "--format", "csv"]);
    let mut rows = text.split_terminator("\r\n").map(fields);
    let header = rows.next().unwrap();
    let rows: Vec<_> = rows.collect();
    assert!(rows.iter().all(|row| row.len() == header.len()), "{text}");
    let column = |name: &str| {
        let at = header.iter().position(|it| it == name).unwrap();
        rows.iter().map(|row| &*row[at]).collect::<Vec<_>>()
    };
    let expected = [
        "pod_eviction",
        "pod_eviction",
        "userspace_kill",
        "userspace_kill",
        "oom_kill",
    ];
    assert_eq!(column("kind"), expected);
    let killers = [
        "kubelet",
        "kubelet",
        "systemd-oomd",
        "systemd-oomd",
        "kernel",
    ];
    assert_eq!(column("killer"), killers);
    assert_eq!(column("pod"), ["now", "meanwhile", "", "", ""]);
    assert_eq!(column("qos_class")[..4], ["Burstable"; 4]);
    assert_eq!(column("victim_comm")[..4], [""; 4]);
    assert_eq!(column("verdict")[..4], [""; 4]);
    let summary = "The kubelet evicted pod default/now because the node was low on memory.";
    assert_eq!(column("summary")[0], summary);
    let cgroups = column("cgroup_path");
    assert_eq!(cgroups[..2], [""; 2]);
    assert!(
        cgroups[2].starts_with("/kubepods/burstable/pod"),
        "{cgroups:?}"
    );
    assert_eq!(
        cgroups[4],
        recorded("single_process")[0]
            .victim
            .cgroup
            .as_ref()
            .unwrap()
            .path
            .as_ref()
            .unwrap()
    );

    let with = |args: &[&str]| kinds(&shown(&[&[file], args].concat()));
    assert_eq!(with(&["--namespace", "default"]), ["pod_eviction"; 2]);
    assert_eq!(with(&["--pod", "n?w"]), ["pod_eviction"]);
    assert_eq!(
        with(&["--qos", "burstable", "--kind", "userspace_kill"]),
        ["userspace_kill"; 2]
    );
    assert_eq!(
        with(&["--namespace", "default", "--scope", "container"]),
        [""; 0]
    );
}

/// The fields of a row, read as RFC 4180 says.
fn fields(row: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = row.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                fields.last_mut().unwrap().push('"');
                chars.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().unwrap().push(other),
        }
    }
    fields
}

/// A rotated set is read oldest first, whatever its files are packed with; a torn last line is named
/// and the rest is shown.
#[test]
fn rotated_sets() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let [old, middle, new] = ["single_process", "shared_memory", "machine_with_swap"].map(lines);
    let pack = |program: &str, text: &str, to: &Path| {
        let mut child = Command::new(program)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(File::create(to).unwrap())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success(), "{program}");
    };
    pack("gzip", &old, &path("events.jsonl.2.gz"));
    pack("xz", &middle, &path("events.jsonl.1.xz"));
    let (whole, torn) = new.trim_end().rsplit_once('\n').unwrap();
    fs::write(
        path("events.jsonl"),
        format!("{whole}\n{}", &torn[..torn.len() / 2]),
    )
    .unwrap();
    let expected = format!("{old}{middle}{whole}\n");
    for names in [
        vec![folder.path().to_owned()],
        vec![path("events.jsonl*")],
        vec![
            path("events.jsonl"),
            path("events.jsonl.1.xz"),
            path("events.jsonl.2.gz"),
        ],
    ] {
        let names: Vec<_> = names.iter().map(|name| name.to_str().unwrap()).collect();
        let output = show(&names);
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout == expected.as_bytes(), "{names:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let line = whole.lines().count() + 1;
        assert!(
            said.ends_with(&format!(
                "events.jsonl:{line}: it ends within a JSON object\n"
            )),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let output = show(&[path("nothing*").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
}

/// A growing file is followed: across a line that comes in two parts, a rotation and a truncation.
#[test]
fn follow() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let text = lines("single_process");
    let events: Vec<&str> = text.lines().collect();
    fs::write(&file, format!("{}\n", events[0])).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_oomtrace"))
        .args(["show", "--follow", "--format", "json"])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut expect = |event: &str| assert_eq!(lines.next().unwrap().unwrap(), event);
    expect(events[0]);
    let append = |text: &str| {
        let mut file = OpenOptions::new().append(true).open(&file).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let (front, back) = events[1].split_at(events[1].len() / 2);
    append(front);
    append(&format!("{back}\n"));
    expect(events[1]);
    // What is written to the old file after it was renamed is not lost.
    let old = OpenOptions::new().append(true).open(&file);
    fs::rename(&file, folder.path().join("events.jsonl.1")).unwrap();
    writeln!(old.unwrap(), "{}", events[2]).unwrap();
    fs::write(&file, format!("{}\n", events[3])).unwrap();
    expect(events[2]);
    expect(events[3]);
    // Truncated in place, and written anew.
    fs::write(&file, format!("{}\n", events[2])).unwrap();
    expect(events[2]);
    child.kill().unwrap();
    child.wait().unwrap();
}
