//! What is in `deploy/`, looked at by the programs that read it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn deploy(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("deploy").join(name)
}

/// Runs a program; false where it is not installed.
fn run(program: &str, args: &[&str], folder: &Path) -> bool {
    let Ok(output) = Command::new(program)
        .args(args)
        .current_dir(folder)
        .output()
    else {
        common::place::missing(program);
        return false;
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    true
}

/// Prometheus reads the rules, and they fire when they should.
#[test]
fn alerts() {
    let folder = deploy("helm/oomtrace/monitoring");
    run(
        "promtool",
        &["check", "rules", "oomtrace.rules.yml"],
        &folder,
    );
    run("promtool", &["test", "rules", "oomtrace.test.yml"], &folder);
}

/// Names that begin with `oomtrace_`.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|it: char| it != '_' && !it.is_ascii_alphanumeric());
    words.filter(|word| word.starts_with("oomtrace_")).collect()
}

/// The manual has all metrics there are, and the rules ask for no others.
#[test]
fn what_there_is() {
    let source = include_str!("../src/metrics/mod.rs");
    let there = metrics(source);
    let manual = include_str!("../../docs/delivery.md");
    assert_eq!(metrics(manual), there);
    let rules = fs::read_to_string(deploy("helm/oomtrace/monitoring/oomtrace.rules.yml")).unwrap();
    let missing: Vec<_> = metrics(&rules).difference(&there).copied().collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// systemd knows every line of the unit, and it is as tight as the manual says.
#[test]
fn unit() {
    let folder = deploy("systemd");
    let args = ["security", "--offline=true", "--threshold=28", "--no-pager"];
    run(
        "systemd-analyze",
        &[&args[..], &["oomtrace.service"]].concat(),
        &folder,
    );
}

/// The manual's metrics, each with its labels.
fn manual() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let manual = include_str!("../../docs/delivery.md");
    let rows = manual
        .lines()
        .filter(|line| line.starts_with("| `oomtrace_"));
    let row = |line: &'static str| {
        let mut cells = line.split('|').skip(1);
        let names = metrics(cells.next().unwrap());
        let quoted = cells.next().unwrap().split('`').skip(1).step_by(2);
        let labels: BTreeSet<_> = quoted.collect();
        names.into_iter().map(move |name| (name, labels.clone()))
    };
    rows.flat_map(row).collect()
}

/// The dashboard shows metrics and labels that there are, and Prometheus understands what it asks.
#[test]
fn dashboard() {
    // Which target a series came from.
    const TARGET: [&str; 1] = ["instance"];
    let text = fs::read_to_string(deploy("helm/oomtrace/monitoring/oomtrace.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&text).unwrap();
    let manual = manual();
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    let mut shown = BTreeSet::new();
    let panels = board["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    for target in targets.flatten() {
        let expression = target["expr"].as_str().unwrap();
        let asked = metrics(expression);
        assert!(!asked.is_empty(), "{expression}");
        for name in &asked {
            let labels = manual.get(name).unwrap_or_else(|| panic!("no {name}"));
            let there = |label: &str| TARGET.contains(&label) || labels.contains(label);
            let legend = target["legendFormat"].as_str().unwrap();
            let legend = legend
                .split("{{")
                .skip(1)
                .map(|it| it.split_once("}}").unwrap().0);
            for label in selected(expression, name)
                .into_iter()
                .chain(grouped(expression))
                .chain(legend)
            {
                assert!(there(label), "{name} has no {label}: {target}");
            }
        }
        shown.extend(asked.into_iter().map(str::to_owned));
        let mut expression = expression.to_owned();
        for (variable, value) in [
            ("$__rate_interval", "5m"),
            ("$__range", "1d"),
            ("$instance", ".*"),
            ("$namespace", ".*"),
        ] {
            expression = expression.replace(variable, value);
        }
        assert!(
            !expression.contains('$'),
            "an unknown variable: {expression}"
        );
        let number = rules.lines().count();
        rules += &format!(
            "  - record: panel{number}\n    expr: {}\n",
            serde_json::json!(expression)
        );
    }
    let missing: Vec<_> = manual
        .keys()
        .filter(|name| !shown.contains(**name))
        .collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.yml"), rules).unwrap();
    run("promtool", &["check", "rules", "rules.yml"], folder.path());
}

/// The labels by which an expression selects series of a metric.
fn selected<'a>(expression: &'a str, name: &str) -> Vec<&'a str> {
    let mut labels = Vec::new();
    for (at, _) in expression.match_indices(&format!("{name}{{")) {
        let (inside, _) = expression[at + name.len() + 1..].split_once('}').unwrap();
        let words = inside.split('"').step_by(2);
        labels.extend(
            words
                .map(|it| it.trim_matches([',', '=', '~', '!']))
                .filter(|it| !it.is_empty()),
        );
    }
    labels
}

/// The labels by which an expression groups.
fn grouped(expression: &str) -> Vec<&str> {
    let groups = expression.split(" by (").skip(1);
    groups
        .flat_map(|it| it.split_once(')').unwrap().0.split(", "))
        .collect()
}
