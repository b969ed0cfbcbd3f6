//! Elastic Common Schema 8.11. What ECS has a field for is there; the native record is below
//! `oomtrace`. docs/pipelines.md has the table.

use serde_json::{Value, json};

use super::pipeline::{Severity, Subject, add, line, message, native, prune};
use crate::event::{Container, Event, Phase, Pod, VictimState};

/// The version of ECS.
const VERSION: &str = "8.11.0";

/// Appends the event and a newline to `out`.
pub fn ecs(event: &Event, out: &mut Vec<u8>) {
    let Some(native) = native(event) else { return };
    let kind = native["kind"].as_str().unwrap_or_default();
    let (head, subject) = (event.head(), Subject::of(event));
    let node = &head.node;
    let mut record = json!({
        "@timestamp": head.time,
        "ecs": {"version": VERSION},
        "message": message(event),
        "agent": {"type": "oomtrace", "ephemeral_id": head.run_id},
        "event": {
            "id": head.event_id,
            "kind": "event",
            "action": kind.replace('_', "-"),
            "module": "oomtrace",
            "dataset": format!("oomtrace.{kind}"),
            "sequence": head.seq,
            "severity": Severity::of(event).number(),
        },
        "host": {
            "name": node.k8s_node_name.as_ref().or(node.hostname.as_ref()),
            "hostname": node.hostname,
            "id": node.machine_id,
            "boot": {"id": node.boot_id},
            "os": {"type": "linux", "kernel": node.kernel},
        },
        "process": process(&subject),
        "container": subject.container.map(container),
        "orchestrator": subject.pod.map(orchestrator),
    });
    add(&mut record, particular(event));
    prune(&mut record);
    record["oomtrace"] = native;
    line(&record, out);
}

/// What each kind of record has of its own.
fn particular(event: &Event) -> Value {
    let of_process = |kind: &str, outcome: Option<&str>, more: Value| {
        let mut event = json!({"category": ["process"], "type": [kind], "outcome": outcome});
        add(&mut event, more);
        json!({"event": event})
    };
    let ended = |reason: Value| of_process("end", Some("success"), json!({"reason": reason}));
    match event {
        Event::OomKill(kill) => ended(json!(kill.oom.message)),
        Event::OomMark(mark) => of_process("info", None, json!({"reason": mark.oom.message})),
        Event::OomOutcome(outcome) => {
            let (result, end) = match outcome.state {
                VictimState::Exited => ("success", outcome.head.time.as_ref()),
                VictimState::Stuck => ("unknown", None),
            };
            let took = json!({"duration": outcome.exit_latency_ns});
            let mut particular = of_process("info", Some(result), took);
            add(&mut particular, json!({"process": {"end": end}}));
            particular
        }
        Event::Enrichment(_) => of_process("info", None, json!({"kind": "enrichment"})),
        // They end processes that they do not name.
        Event::PodEviction(eviction) => ended(json!(eviction.eviction.message)),
        Event::UserspaceKill(kill) => ended(json!(kill.reason)),
        Event::Loss(_) => json!({"event": {"type": ["error"]}}),
        Event::Status(status) => {
            let event = match status.phase {
                Phase::Heartbeat => json!({"kind": "state"}),
                Phase::Start | Phase::Stop => json!({"reason": status.reason}),
            };
            json!({"event": event, "agent": {"version": status.version}})
        }
    }
}

fn process(subject: &Subject<'_>) -> Value {
    let mut process = json!({"pid": subject.pid, "name": subject.comm});
    if let Some(victim) = subject.victim {
        let more = json!({
            "executable": victim.exe,
            "command_line": victim.cmdline,
            "start": victim.start_time,
            "thread": {"id": victim.tid},
            "parent": {"pid": victim.ppid},
            "user": {"id": victim.uid.map(|uid| uid.to_string())},
        });
        add(&mut process, more);
    }
    process
}

fn container(container: &Container) -> Value {
    json!({
        "id": container.id,
        "name": container.name,
        "image": {"name": container.image},
        "runtime": container.runtime,
    })
}

fn orchestrator(pod: &Pod) -> Value {
    let labels: Vec<_> = pod
        .labels
        .iter()
        .map(|(key, value)| format!("{key}:{value}"))
        .collect();
    json!({
        "type": "kubernetes",
        "namespace": pod.namespace,
        "resource": {
            "type": "pod",
            "id": pod.uid,
            "name": pod.name,
            "label": Some(labels).filter(|labels| !labels.is_empty()),
            "parent": {"type": pod.owner.as_ref().map(|owner| &owner.kind)},
        },
    })
}
