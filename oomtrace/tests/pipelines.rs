//! The formats of pipelines, through the program: recorded kills, and records made of them for the
//! kinds that are not recorded, against golden files, the schemas' requirements and the table in
//! docs/pipelines.md.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use common::{files, lines, oomtrace, unpacked};
use oomtrace::event::Event;
use serde_json::{Value, json};

const FORMATS: [&str; 3] = ["ecs", "ocsf", "falco"];

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The records, written by the program in this format, as text.
fn written(records: &[Value], format: &str) -> String {
    let input: String = records.iter().map(|record| format!("{record}\n")).collect();
    let output = oomtrace(&["show", "--format", format], input.as_bytes());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*said), (Some(0), ""), "{format}");
    String::from_utf8(output.stdout).unwrap()
}

/// The same, parsed; one for each.
fn converted(records: &[Value], format: &str) -> Vec<Value> {
    let text = written(records, format);
    let converted: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(converted.len(), records.len(), "{format}");
    converted
}

fn parsed(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn the_first(records: &[Value], kind: &str) -> Value {
    let record = records.iter().find(|record| record["kind"] == kind);
    record.unwrap_or_else(|| panic!("no {kind}")).clone()
}

/// A kill as in a pod, its late enrichment, and what else is not recorded: each is a recorded record
/// with other facts put in.
fn made() -> Vec<Value> {
    let recorded = parsed(&lines("victim_is_not_the_trigger"));
    let kill = the_first(&recorded, "oom_kill");
    let container = |digit: &str, image: &str| {
        json!({"id": digit.repeat(64), "name": "app", "role": "main", "runtime": "containerd",
            "image": image, "memory_request_bytes": 1 << 20, "memory_limit_bytes": 1 << 25,
            "memory_usage_bytes": 1 << 25, "restart_count": 3})
    };
    let pod = |uid: &str| {
        json!({"uid": uid, "name": "web-0", "namespace": "shop", "qos_class": "Burstable",
            "qos_source": "pod_status", "priority": 0, "priority_class": null,
            "owner": {"kind": "StatefulSet", "name": "web"},
            "labels": {"app": "web", "app.kubernetes.io/name": "web"}, "is_static": false,
            "memory_request_bytes": null, "memory_limit_bytes": null})
    };
    let mut in_pod = kill.clone();
    in_pod["oom"]["scope"] = json!("container");
    in_pod["node"]["k8s_node_name"] = json!("node-7");
    in_pod["node"]["machine_id"] = json!("0123456789abcdef0123456789abcdef");
    in_pod["victim"]["cmdline"] = json!("app --serve");
    in_pod["victim"]["comm"] = json!("ha\u{202e}\u{1b}[2J\"\n");
    let image = "registry.example/web@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    in_pod["victim"]["container"] = container("a", image);
    in_pod["victim"]["pod"] = pod("6c1f29b0-4d21-4a39-9a5e-0f5f3f6f2c11");
    in_pod["trigger"]["container"] = container("b", "registry.example/web:1");
    in_pod["trigger"]["pod"] = pod("0f5f3f6f2c116c1f29b04d214a399a5e");
    in_pod["verdict"]["summary"] = Value::Null;
    let mut late = json!({"kind": "enrichment", "oom_id": kill["oom_id"]});
    let head = [
        "schema",
        "event_id",
        "run_id",
        "seq",
        "time",
        "time_unix_ns",
        "boottime_ns",
        "node",
        "source",
    ];
    let with_head = |mut record: Value| {
        for name in head {
            record[name] = kill[name].clone();
        }
        record
    };
    late["victim"] =
        json!({"container": in_pod["victim"]["container"], "pod": in_pod["victim"]["pod"]});
    late["trigger"] = json!({"container": null, "pod": null});
    late["enrichment"] = json!({"complete": true, "sources": ["cri"], "age_ms": 12, "errors": []});
    let mut mark = kill.clone();
    mark["kind"] = json!("oom_mark");
    mark["oom"]["mark_path"] = json!("chosen_task");
    let mut stuck = the_first(&recorded, "oom_outcome");
    stuck["state"] = json!("stuck");
    stuck["exit_latency_ns"] = Value::Null;
    let mut heartbeat = the_first(&recorded, "status");
    heartbeat["phase"] = json!("heartbeat");
    let with_source = |mut record: Value, kind: &str| {
        record["source"] = json!({"kind": kind, "hooks": [], "merged": []});
        record
    };
    let eviction = json!({"kind": "pod_eviction", "pod": in_pod["victim"]["pod"], "resource": "memory",
        "message": "The node was low on resource: memory.", "evicted_at": "2026-11-21T16:20:10Z",
        "threshold_bytes": 100 << 20, "available_bytes": 90 << 20,
        "containers": [{"name": "app", "usage_bytes": 1 << 25, "request_bytes": 1 << 20}],
        "node_conditions": [{"condition": "MemoryPressure", "status": "True",
            "reason": "KubeletHasInsufficientMemory", "since": "2026-11-21T16:20:00Z"}],
        "enrichment": late["enrichment"]});
    let of_oomd = json!({"kind": "userspace_kill", "killer": "systemd-oomd", "reason": "memory-pressure",
        "cgroup_path": "/kubepods/burstable/pod6c1f29b0-4d21-4a39-9a5e-0f5f3f6f2c11", "level": "pod",
        "container": in_pod["victim"]["container"], "pod": in_pod["victim"]["pod"],
        "enrichment": late["enrichment"]});
    let loss = json!({"kind": "loss", "place": "ring_buffer", "lost": 12, "lost_kills": 3,
        "lost_total": 12, "reconciliation": null});
    vec![
        in_pod,
        with_source(with_head(eviction), "pod_status"),
        with_source(with_head(of_oomd), "system_bus"),
        with_head(late),
        mark,
        stuck,
        heartbeat,
        with_head(loss),
    ]
}

/// Every recorded record, and the made ones.
fn all() -> Vec<Value> {
    let recorded = files(".jsonl.gz");
    assert!(recorded.len() > 30, "{}", recorded.len());
    let mut records: Vec<_> = recorded
        .iter()
        .flat_map(|file| parsed(&unpacked(file)))
        .collect();
    records.extend(made());
    let kinds: BTreeSet<_> = records
        .iter()
        .map(|record| record["kind"].as_str().unwrap())
        .collect();
    let schema: Value = serde_json::from_slice(&oomtrace(&["schema"], b"").stdout).unwrap();
    let of_schema: BTreeSet<_> = schema["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| kind["properties"]["kind"]["const"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, of_schema, "a kind of records is not tested");
    records
}

/// What is written is what was written before. `OOMTRACE_BLESS=1` writes the golden files anew.
#[test]
fn golden() {
    let mut records = parsed(&lines("machine_without_swap"));
    records.extend(made());
    for format in FORMATS {
        let text = written(&records, format);
        let path = format!("tests/golden/{format}.jsonl");
        if std::env::var_os("OOMTRACE_BLESS").is_some() {
            fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path), &text).unwrap();
        }
        for (line, golden) in text.lines().zip(file(&path).lines()) {
            assert_eq!(line, golden, "{path}; see CONTRIBUTING.md");
        }
        assert_eq!(text.lines().count(), file(&path).lines().count(), "{path}");
    }
}

/// The native record comes back out of ECS and OCSF: all of it but the labels, of which each is there.
#[test]
fn native_record_comes_back() {
    let records = all();
    for (format, pointer) in [("ecs", "/oomtrace"), ("ocsf", "/unmapped/oomtrace")] {
        for (record, converted) in records.iter().zip(converted(&records, format)) {
            let mut back = converted.pointer(pointer).unwrap().clone();
            let mut expected = record.clone();
            for pod in ["/victim/pod", "/trigger/pod", "/pod"] {
                let Some(labels) = back.pointer_mut(&format!("{pod}/labels")) else {
                    continue;
                };
                assert_eq!(labels, &json!(["app:web", "app.kubernetes.io/name:web"]));
                *labels = json!({});
                expected.pointer_mut(pod).unwrap()["labels"] = json!({});
            }
            let event = |value: Value| -> Value {
                let event: Event = serde_json::from_value(value).unwrap();
                serde_json::to_value(event).unwrap()
            };
            assert_eq!(event(back), event(expected), "{format}");
        }
    }
}

/// No member is null, nor an object with nothing in it, and what a victim calls itself stays a string.
#[test]
fn nothing_is_empty() {
    fn look(value: &Value, at: &str) {
        match value {
            Value::Null => panic!("{at} is null"),
            Value::Object(members) => {
                assert!(
                    !members.is_empty() || at.contains("oomtrace."),
                    "{at} is empty"
                );
                for (name, member) in members {
                    look(member, &format!("{at}.{name}"));
                }
            }
            Value::Array(items) => items.iter().for_each(|item| look(item, at)),
            _ => {}
        }
    }
    let records = all();
    for format in FORMATS {
        converted(&records, format)
            .iter()
            .for_each(|record| look(record, format));
        let text = written(&made(), format);
        assert!(!text.contains('\u{1b}'), "{format}: an escape");
    }
}

/// Members that are no objects, by their path.
fn leaves<'a>(value: &'a Value, path: &str, into: &mut BTreeMap<String, &'a Value>) {
    let Value::Object(members) = value else {
        into.insert(path.to_owned(), value);
        return;
    };
    for (name, member) in members {
        let dot = if path.is_empty() { "" } else { "." };
        leaves(member, &format!("{path}{dot}{name}"), into);
    }
}

fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().collect())
}

fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
}

/// ECS: required fields are there; every field outside `oomtrace` is one of ECS, of its type, and
/// has one of its values.
#[test]
fn ecs_as_published() {
    let table = file("tests/schemas/ecs-8.11.0.txt");
    let fields: BTreeMap<_, _> = rows(&table)
        .map(|row| {
            let required = row.get(2) == Some(&"required");
            (
                row[0],
                (row[1], required, row[2 + usize::from(required)..].to_vec()),
            )
        })
        .collect();
    let records = all();
    let mut seen = BTreeSet::new();
    for record in &converted(&records, "ecs") {
        let mut found = BTreeMap::new();
        leaves(record, "", &mut found);
        found.retain(|name, _| !name.starts_with("oomtrace."));
        for (name, (_, required, _)) in &fields {
            assert!(
                !required || found.contains_key(*name),
                "no {name}: {record}"
            );
        }
        for (name, value) in found {
            let (kind, _, values) = fields.get(&*name).unwrap_or_else(|| panic!("{name}"));
            let items = match (kind.strip_suffix("[]"), value) {
                (Some(_), Value::Array(items)) => items.iter().collect(),
                (Some(_), _) => panic!("{name} is no list: {value}"),
                (None, _) => vec![value],
            };
            for value in items {
                let right = match kind.trim_end_matches("[]") {
                    "date" => is_time(value),
                    "long" => value.is_i64(),
                    "keyword" | "text" | "wildcard" => value.is_string(),
                    other => panic!("{other}"),
                };
                assert!(right, "{name} is no {kind}: {value}");
                let allowed = values.is_empty() || values.iter().any(|it| value == *it);
                assert!(allowed, "{name}: {value}");
            }
            seen.insert(name);
        }
    }
    let unseen: Vec<_> = fields
        .keys()
        .filter(|name| !seen.contains(**name))
        .collect();
    assert!(unseen.is_empty(), "never written: {unseen:?}");
}

/// One attribute in the table of OCSF.
struct Attribute<'a> {
    name: &'a str,
    kind: &'a str,
    required: bool,
    profile: Option<&'a str>,
    values: Vec<&'a str>,
}

struct Ocsf<'a> {
    objects: BTreeMap<&'a str, Vec<Attribute<'a>>>,
    at_least_one: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Ocsf<'a> {
    fn new(table: &'a str) -> Self {
        let mut this = Self {
            objects: BTreeMap::new(),
            at_least_one: BTreeMap::new(),
        };
        for row in rows(table) {
            let (object, name) = (row[0], row[1]);
            if name == "at_least_one" {
                this.at_least_one.insert(object, row[2..].to_vec());
                continue;
            }
            let mut rest = &row[3..];
            let required = rest.first() == Some(&"required");
            let profile = rest.first().and_then(|it| it.strip_prefix("profile:"));
            if required || profile.is_some() {
                rest = &rest[1..];
            }
            this.objects.entry(object).or_default().push(Attribute {
                name,
                kind: row[2],
                required,
                profile,
                values: rest.to_vec(),
            });
        }
        this
    }

    /// Checks a value against the attributes of these objects together; the later ones go before.
    fn check(
        &self,
        objects: &[&str],
        value: &Value,
        profiles: &[Value],
        seen: &mut BTreeSet<String>,
    ) {
        let object = objects.last().unwrap();
        let members = value
            .as_object()
            .unwrap_or_else(|| panic!("{object}: {value}"));
        let attributes: BTreeMap<_, _> = objects
            .iter()
            .flat_map(|object| &self.objects[object])
            .map(|attribute| (attribute.name, attribute))
            .collect();
        for attribute in attributes.values().filter(|attribute| attribute.required) {
            let there = members.contains_key(attribute.name);
            assert!(there, "{object} without {}: {value}", attribute.name);
        }
        if let Some(names) = self.at_least_one.get(object) {
            let there = names.iter().any(|name| members.contains_key(*name));
            assert!(there, "{object} has none of {names:?}: {value}");
        }
        for (name, value) in members {
            let attribute = attributes.get(&**name);
            let Attribute {
                kind,
                profile,
                values,
                ..
            } = attribute.unwrap_or_else(|| panic!("{object} has no {name}"));
            let with_profile = profile.is_none_or(|it| profiles.iter().any(|have| have == it));
            assert!(with_profile, "{object}.{name} without its profile");
            seen.insert(format!("{object} {name}"));
            if let Some(inner) = kind.strip_prefix("object:") {
                self.check(&[inner], value, profiles, seen);
                continue;
            }
            let items = match (kind.strip_suffix("[]"), value) {
                (Some(_), Value::Array(items)) => items.iter().collect(),
                _ => vec![value],
            };
            for value in items {
                let right = match kind.trim_end_matches("[]") {
                    "integer" => value.as_i64().is_some_and(|it| i32::try_from(it).is_ok()),
                    "long" => value.is_i64(),
                    // Milliseconds: a time between 2001 and 2286 has as many digits.
                    "timestamp" => value.as_u64().is_some_and(|it| it.to_string().len() == 13),
                    "uuid" => {
                        let groups = value.as_str().unwrap().split('-').map(str::len);
                        groups.eq([8, 4, 4, 4, 12])
                    }
                    "string" => value.is_string(),
                    "any" => true,
                    other => panic!("{other}"),
                };
                assert!(right, "{object}.{name} is no {kind}: {value}");
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                let allowed = values.is_empty() || values.contains(&&*text);
                assert!(allowed, "{object}.{name}: {value}");
            }
        }
    }
}

/// OCSF: classes and objects have what they require, nothing they do not know, of the right type and
/// with the values they allow.
#[test]
fn ocsf_as_published() {
    let table = file("tests/schemas/ocsf-1.5.0.txt");
    let ocsf = Ocsf::new(&table);
    let records = all();
    let mut seen = BTreeSet::new();
    for record in &converted(&records, "ocsf") {
        let class = record["class_uid"].to_string();
        let profiles = record["metadata"]["profiles"].as_array().unwrap();
        ocsf.check(&["event", &class], record, profiles, &mut seen);
        let numbers =
            ["class_uid", "activity_id", "type_uid"].map(|name| record[name].as_u64().unwrap());
        assert_eq!(numbers[0] * 100 + numbers[1], numbers[2], "{record}");
        assert!(record["activity_name"].is_string(), "{record}");
    }
    for class in ["0", "1007", "6002", "6008"] {
        assert!(
            seen.contains(&format!("{class} class_uid")),
            "{class} is never written"
        );
    }
    for (object, attributes) in &ocsf.objects {
        for name in attributes.iter().map(|attribute| attribute.name) {
            let seen = seen.contains(&format!("{object} {name}"));
            let of_class = ["event", "product"].contains(object);
            assert!(seen || of_class, "{object}.{name} is never written");
        }
    }
}

/// Falco's shape: what its consumers read is there, and its fields are flat.
#[test]
fn falco_shape() {
    let priorities = ["Informational", "Notice", "Warning"];
    let mut seen = BTreeSet::new();
    for record in &converted(&all(), "falco") {
        assert!(is_time(&record["time"]), "{record}");
        for name in ["rule", "output", "source", "hostname"] {
            assert!(record[name].is_string(), "{name}: {record}");
        }
        let priority = record["priority"].as_str().unwrap();
        assert!(priorities.contains(&priority), "{priority}");
        seen.insert(priority.to_owned());
        assert!(
            record["tags"]
                .as_array()
                .unwrap()
                .iter()
                .all(Value::is_string)
        );
        for (name, value) in record["output_fields"].as_object().unwrap() {
            assert!(!value.is_object() && !value.is_array(), "{name}: {value}");
        }
    }
    assert_eq!(seen.len(), priorities.len(), "{seen:?}");
}

/// A row of the table of fields in docs/pipelines.md.
struct Row {
    native: String,
    /// For each format the targets, and the remark.
    cells: [(Vec<String>, Option<String>); 3],
}

fn in_backticks(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn table_of_fields() -> Vec<Row> {
    let text = file("../docs/pipelines.md");
    let section = text.split("\n## Fields\n").nth(1).unwrap();
    let section = section.split("\n### ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<_> = rows
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let cell = |index: usize| {
                let (targets, remark) = match cells[index].split_once(" (") {
                    Some((targets, remark)) => (targets, Some(remark.to_owned())),
                    None => (cells[index], None),
                };
                (in_backticks(targets), remark)
            };
            assert_eq!(cells.len(), 4, "{line}");
            Row {
                native: in_backticks(cells[0]).remove(0),
                cells: [cell(1), cell(2), cell(3)],
            }
        })
        .collect();
    assert!(rows.len() > 30, "{}", rows.len());
    rows
}

fn at<'a>(record: &'a Value, path: &str) -> Option<&'a Value> {
    let pointer: String = path.split('.').map(|part| format!("/{part}")).collect();
    let value = record.pointer(&pointer)?;
    let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
    (!value.is_null() && !empty).then_some(value)
}

/// A value as text.
fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// What the table says is so: a field that is known is where the table has it, with its value; where
/// none of its fields is known, a target is not there.
#[test]
fn table_of_fields_is_right() {
    let (rows, records) = (table_of_fields(), all());
    let mut tried = BTreeSet::new();
    for (index, format) in FORMATS.into_iter().enumerate() {
        for (native, converted) in records.iter().zip(converted(&records, format)) {
            let find = |target: &str| match format {
                "falco" => converted["output_fields"]
                    .get(target)
                    .or_else(|| converted.get(target)),
                _ => at(&converted, target),
            };
            // It has no process to put them in.
            let skip = |row: &Row| {
                let facts = row.native.starts_with("victim.") || row.native.starts_with("trigger.");
                format == "ocsf" && native["kind"] == "enrichment" && facts
            };
            let mut filled = BTreeSet::new();
            let mut remarked = BTreeSet::new();
            for row in rows.iter().filter(|row| !skip(row)) {
                let (targets, remark) = &row.cells[index];
                remarked.extend(remark.as_ref().and(Some(targets)).into_iter().flatten());
                let Some(value) = at(native, &row.native) else {
                    continue;
                };
                for target in targets {
                    let what = format!("{format}: {} to {target}: {native}", row.native);
                    let only = remark.as_ref().is_some_and(|it| it.starts_with("only"));
                    match find(target) {
                        None => assert!(only, "not there: {what}"),
                        Some(found) if remark.is_none() || only => {
                            assert_eq!(text(found), text(value), "{what}");
                        }
                        Some(_) => {}
                    }
                    filled.insert(target);
                    tried.insert((index, target.clone()));
                }
            }
            for row in &rows {
                for target in &row.cells[index].0 {
                    let may_be = filled.contains(target) || remarked.contains(target);
                    assert!(
                        may_be || find(target).is_none(),
                        "{format}: whence {target}? {native}"
                    );
                }
            }
        }
        let all: BTreeSet<_> = rows.iter().flat_map(|row| &row.cells[index].0).collect();
        let never: Vec<_> = all
            .into_iter()
            .filter(|target| !tried.contains(&(index, (*target).clone())))
            .collect();
        assert!(never.is_empty(), "{format}: never tried: {never:?}");
    }
}

/// The paths of all fields in a JSON Schema.
fn fields(schema: &Value, node: &Value, path: &str, into: &mut BTreeSet<String>) {
    if let Some(name) = node["$ref"].as_str() {
        let definition = &schema["$defs"][name.rsplit('/').next().unwrap()];
        fields(schema, definition, path, into);
    }
    for inner in node["anyOf"].as_array().into_iter().flatten() {
        fields(schema, inner, path, into);
    }
    if node["items"].is_object() {
        fields(schema, &node["items"], path, into);
    }
    for (name, inner) in node["properties"].as_object().into_iter().flatten() {
        let dot = if path.is_empty() { "" } else { "." };
        let path = format!("{path}{dot}{name}");
        fields(schema, inner, &path, into);
        into.insert(path);
    }
}

/// Every native field is in the table of docs/pipelines.md or named as one that is not mapped, not in
/// both, and every name there is a field.
#[test]
fn every_field_is_mapped_or_named() {
    let schema: Value = serde_json::from_slice(&oomtrace(&["schema"], b"").stdout).unwrap();
    let mut all = BTreeSet::new();
    for kind in schema["oneOf"].as_array().unwrap() {
        fields(&schema, kind, "", &mut all);
    }
    let mapped: BTreeSet<_> = table_of_fields()
        .into_iter()
        .map(|row| row.native)
        .collect();
    let manual = file("../docs/pipelines.md");
    let section = manual
        .split("### Only in the native part\n")
        .nth(1)
        .unwrap();
    let list = section.find("\n- ").unwrap();
    let named: BTreeSet<_> = in_backticks(&section[list..]).into_iter().collect();
    let below = |path: &str, names: &BTreeSet<String>| {
        names.iter().any(|name| {
            let rest = path.strip_prefix(name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let above = |path: &str| all.iter().any(|name| name.starts_with(&format!("{path}.")));
    assert!(all.len() > 200, "{}", all.len());
    for path in &all {
        let found = (below(path, &mapped), below(path, &named));
        // An enrichment's own `victim` and `trigger` are those of its kill.
        assert!(
            found.0 || found.1 || above(path),
            "{path} is not in docs/pipelines.md"
        );
        assert!(found != (true, true), "{path} is there twice");
    }
    for name in mapped.iter().chain(&named) {
        assert!(
            all.contains(name),
            "docs/pipelines.md names {name}, which is no field"
        );
    }
}

/// All verbs write the same.
#[test]
fn one_writer() {
    let log = common::recorded_file("6.12.plain/single_process.kmsg.gz");
    let native = oomtrace(&["import", "--format", "json"], &log);
    for format in FORMATS {
        let imported = oomtrace(&["import", "--format", format], &log);
        assert!(imported.status.success());
        let (mut direct, mut shown) = (
            parsed(&String::from_utf8(imported.stdout).unwrap()),
            converted(
                &parsed(&String::from_utf8(native.stdout.clone()).unwrap()),
                format,
            ),
        );
        // Each run has a name of its own.
        for record in direct.iter_mut().chain(&mut shown) {
            for pointer in [
                "/agent/ephemeral_id",
                "/oomtrace/run_id",
                "/unmapped/oomtrace/run_id",
                "/output_fields/oomtrace.run_id",
            ] {
                if let Some(id) = record.pointer_mut(pointer) {
                    *id = Value::Null;
                }
            }
        }
        assert_eq!(direct, shown, "{format}");
        assert_eq!(direct.len(), 1);
    }
}
