//! The shape of Falco's alerts, for consumers that read those: Falco's names for what Falco has a
//! name for, and the native record flattened below `oomtrace.`. docs/pipelines.md has the table.

use serde_json::{Map, Value, json};

use super::pipeline::{Severity, Subject, line, message, native, prune};
use crate::event::Event;

/// Appends the event and a newline to `out`.
pub fn falco(event: &Event, out: &mut Vec<u8>) {
    let Some(native) = native(event) else { return };
    let (head, subject) = (event.head(), Subject::of(event));
    let Subject {
        pid,
        comm,
        victim,
        container,
        pod,
    } = subject;
    let mut fields = json!({
        "evt.time": head.unix_ns(),
        "evt.hostname": head.node.hostname,
        "proc.pid": pid,
        "proc.name": comm,
        "proc.exepath": victim.map(|victim| &victim.exe),
        "proc.cmdline": victim.map(|victim| &victim.cmdline),
        "proc.ppid": victim.map(|victim| victim.ppid),
        "thread.tid": victim.map(|victim| victim.tid),
        "user.uid": victim.map(|victim| victim.uid),
        "container.id": container.map(|container| &container.id),
        "container.name": container.map(|container| &container.name),
        "container.image": container.map(|container| &container.image),
        "k8s.ns.name": pod.map(|pod| &pod.namespace),
        "k8s.pod.name": pod.map(|pod| &pod.name),
        "k8s.pod.uid": pod.map(|pod| &pod.uid),
    });
    prune(&mut fields);
    if let Value::Object(fields) = &mut fields {
        flatten("oomtrace", &native, fields);
    }
    let mut record = json!({
        "time": head.time,
        "rule": rule(event),
        "priority": Severity::of(event).name(),
        "source": "oomtrace",
        "hostname": head.node.hostname,
        "tags": ["oomtrace", native["kind"]],
        "output": message(event),
    });
    prune(&mut record);
    record["output_fields"] = fields;
    line(&record, out);
}

const fn rule(event: &Event) -> &'static str {
    match event {
        Event::OomKill(_) => "OOM kill",
        Event::OomMark(_) => "OOM mark",
        Event::OomOutcome(_) => "OOM outcome",
        Event::Enrichment(_) => "OOM kill enrichment",
        Event::PodEviction(_) => "Pod eviction",
        Event::UserspaceKill(_) => "Userspace kill",
        Event::Loss(_) => "oomtrace loss",
        Event::Status(_) => "oomtrace status",
    }
}

/// Adds what is in `value` by its path: consumers take text and numbers, and a list of them as text.
/// Lists of objects have no place.
fn flatten(path: &str, value: &Value, into: &mut Map<String, Value>) {
    let text = |item: &Value| match item {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                flatten(&format!("{path}.{name}"), member, into);
            }
        }
        Value::Array(items) => {
            let texts: Vec<_> = items.iter().filter_map(text).collect();
            if !texts.is_empty() {
                into.insert(path.to_owned(), texts.join(",").into());
            }
        }
        _ => {
            into.insert(path.to_owned(), value.clone());
        }
    }
}
