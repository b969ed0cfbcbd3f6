//! The manual and the program say the same.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use serde_json::Value;

fn doc(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn oomtrace(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_oomtrace"))
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The names of all properties in a JSON Schema.
fn properties(schema: &Value, into: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members {
                if name == "properties" {
                    into.extend(value.as_object().unwrap().keys().cloned());
                }
                properties(value, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| properties(item, into)),
        _ => {}
    }
}

/// Every field of the schema is explained in docs/fields.md, and every name explained there is a
/// field.
#[test]
fn every_field_is_explained() {
    let mut names = BTreeSet::new();
    for of in ["events", "rank", "audit"] {
        let schema = oomtrace(&["schema", "--of", of]);
        properties(&serde_json::from_str(&schema).unwrap(), &mut names);
    }
    assert!(
        names.len() > 80,
        "the schema has only {} names",
        names.len()
    );
    let text = doc("fields.md");
    // Names in the first column of the tables: `a.b`, `.c`, `d[].e`.
    let explained: BTreeSet<String> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| {
            let first = line.split(" | ").next().expect("a column").to_owned();
            first
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .flat_map(|name| {
            name.split('.')
                .map(|part| part.trim_end_matches("[]").to_owned())
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
        })
        .chain(
            text.lines()
                .filter_map(|line| Some(line.strip_prefix("### `")?.split('`').next()?.to_owned())),
        )
        .collect();
    let missing: Vec<_> = names.difference(&explained).collect();
    assert!(
        missing.is_empty(),
        "not explained in docs/fields.md: {missing:?}"
    );
    let unknown: Vec<_> = explained.difference(&names).collect();
    assert!(
        unknown.is_empty(),
        "docs/fields.md explains what is no field: {unknown:?}"
    );
}

/// Every option of `import` is in docs/postmortem.md.
#[test]
fn every_option_of_import_is_explained() {
    let text = doc("postmortem.md");
    let help = oomtrace(&["import", "--help"]);
    let options = help
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .filter(|word| !["--help", "--version"].contains(word));
    let options: BTreeSet<_> = options.collect();
    assert!(options.len() > 8, "{options:?}");
    for option in options {
        assert!(
            text.contains(option),
            "docs/postmortem.md does not explain {option}"
        );
    }
}

/// What docs/postmortem.md shows is what comes out, and every command in it works. They are given a
/// kernel log and the events of the same kill, recorded on a real kernel.
#[test]
fn postmortem_by_the_book() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let path = |name: &str| {
        let path = place.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    let write = |name: &str, text: &[u8]| fs::write(path(name), text).unwrap();
    let log = common::recorded_file("6.12.plain/machine_with_swap.kmsg.gz");
    let log = String::from_utf8(log).unwrap();
    let head = &common::recorded("machine_with_swap").remove(0).head;
    let boot_ns: u64 = head.boottime_ns.as_ref().unwrap().parse().unwrap();
    let boot = (head.unix_ns().unwrap() - boot_ns) / 1000;
    let (mut dmesg, mut kern, mut journal) = (String::new(), String::new(), String::new());
    for record in log.lines().filter(|line| !line.starts_with(' ')) {
        let (head, text) = record.split_once(';').unwrap();
        let usec: u64 = head.split(',').nth(2).unwrap().parse().unwrap();
        let time = oomtrace::event::rfc3339((boot + usec) * 1000);
        let text = text.replace("\\x0a", "\n");
        let message = serde_json::to_string(&text).unwrap();
        journal += &format!(
            "{{\"__REALTIME_TIMESTAMP\":\"{}\",\"_TRANSPORT\":\"kernel\",\"MESSAGE\":{message}}}\n",
            boot + usec
        );
        let text = text.replace('\n', "\n                ");
        dmesg += &format!("[{:5}.{:06}] {text}\n", usec / 1_000_000, usec % 1_000_000);
        kern += &format!("{}+00:00 node-7 kernel: {text}\n", &time[..19]);
    }
    let header = dmesg
        .lines()
        .find(|line| line.contains("invoked oom-killer"))
        .unwrap();
    write("cut.txt", format!("{header}\n").as_bytes());
    write("dmesg.txt", dmesg.as_bytes());
    write("node-7.log", kern.as_bytes());
    write("var/log/kern.log", kern.as_bytes());
    write("journal", journal.as_bytes());
    write("bin/journalctl", b"#!/bin/sh\ncat journal\n");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, dmesg.as_bytes()).unwrap();
    write("sosreport/dmesg.gz", &gz.finish().unwrap());
    let events = common::recorded_file("6.12.plain/machine_with_swap.jsonl.gz");
    for name in [
        "events.jsonl",
        "var/log/oomtrace.jsonl",
        "var/log/oomtrace/events.jsonl",
    ] {
        write(name, &events);
    }
    // Of another day, in a pod.
    let mut other = common::recorded("single_process").remove(0);
    other.victim.pod = Some(oomtrace::event::Pod {
        name: Some("payments-api-5d4f".to_owned()),
        namespace: Some("prod".to_owned()),
        ..Default::default()
    });
    let other = oomtrace::event::Event::OomKill(Box::new(other));
    write("events.jsonl.1", &serde_json::to_vec(&other).unwrap());
    let script = path("bin/journalctl");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_oomtrace"));
    let search = format!(
        "{}:{}:{}",
        script.parent().unwrap().display(),
        program.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let logs = path("var/log").display().to_string();
    // As on a terminal of a hundred columns, without colours.
    let run = |command: &str| {
        let command = command.replace("/var/log", &logs);
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command"])
            .arg(format!("stty cols 100 -opost; {command}"))
            .arg("/dev/null")
            .current_dir(place)
            .env("PATH", &search)
            .env("NO_COLOR", "1")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text.replace(&logs, "/var/log"))
    };
    let (mut shown, mut run_only) = (0, 0);
    for block in doc("postmortem.md").split("```").skip(1).step_by(2) {
        if !block.contains("\n$ ") {
            for command in block.lines().filter(|line| line.contains("oomtrace ")) {
                if !command.contains("--follow") {
                    let (status, text) = run(command);
                    assert_eq!(status, Some(0), "{command}\n{text}");
                    run_only += 1;
                }
            }
            continue;
        }
        let mut status = None;
        for step in block.split("\n$ ").skip(1) {
            let (command, expected) = step.split_once('\n').unwrap_or((step, ""));
            if command == "echo $?" {
                assert_eq!(expected.trim_end().parse().ok(), status, "{command}");
                continue;
            }
            let (code, text) = run(command);
            status = code;
            // `…` on a line stands for lines that are left out.
            let mut rest = text.as_str();
            let expected = format!("\n{}\n", expected.trim_end());
            for part in expected.split("\n…\n") {
                let part = part.trim_matches('\n');
                let at = rest.find(part);
                let at = at.unwrap_or_else(|| panic!("{command}: {part}\nis not in\n{rest}"));
                rest = &rest[at + part.len()..];
            }
            assert!(
                expected.contains('…') || rest.trim().is_empty(),
                "{command}: {rest}"
            );
            shown += 1;
        }
    }
    assert!(shown > 4 && run_only > 8, "{shown} shown, {run_only} run");
}

/// Every code of a finding is explained in docs/fields.md, and in the help of `audit`.
#[test]
fn every_finding_is_explained() {
    let schema: Value = serde_json::from_str(&oomtrace(&["schema", "--of", "audit"])).unwrap();
    let codes = schema["$defs"]["Code"]["oneOf"].as_array().unwrap();
    assert_eq!(codes.len(), 14);
    let (text, help) = (doc("fields.md"), oomtrace(&["audit", "--help"]));
    for code in codes {
        let code = code["const"].as_str().unwrap();
        assert!(text.contains(&format!("`{code}`")), "{code}");
        assert!(help.contains(&format!("  {code} ")), "{code}");
    }
}

/// Every option of `trace`, `rank` and `audit` is in docs/usage.md, and every verb in the README or the manual works.
#[test]
fn every_option_is_explained() {
    let usage = doc("usage.md");
    let help: String = ["trace", "rank", "audit"]
        .map(|verb| oomtrace(&[verb, "--help"]))
        .concat();
    let options: BTreeSet<_> = help
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-'))
        .filter(|word| word.starts_with("--") && word.len() > 2 && *word != "--help")
        .filter(|word| *word != "--version")
        .collect();
    assert!(options.len() > 10, "{options:?}");
    for option in options {
        // -v is short enough to stand alone.
        let shown = if option == "--verbose" { "-v" } else { option };
        assert!(
            usage.contains(shown),
            "docs/usage.md does not explain {option}"
        );
    }
    for verb in [
        "trace",
        "explain",
        "import",
        "rank",
        "audit",
        "doctor",
        "schema",
        "completions",
        "man",
    ] {
        assert!(usage.contains(&format!("`oomtrace {verb}")), "{verb}");
        oomtrace(&[verb, "--help"]);
    }
}
