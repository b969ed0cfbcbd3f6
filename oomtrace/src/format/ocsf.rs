//! Open Cybersecurity Schema Framework 1.5. A kill is Process Activity: Terminate; the native record
//! is in `unmapped.oomtrace`. docs/pipelines.md has the table.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pipeline::{Severity, Subject, add, line, message, native, prune};
use crate::event::{Container, Event, Phase, Trigger, Victim, VictimState};

/// The version of OCSF.
const VERSION: &str = "1.5.0";
/// An activity that its class has no number for.
const OTHER: u64 = 99;

/// A class of events: its number, the first digit of which is its category.
#[derive(Clone, Copy)]
enum Class {
    Base = 0,
    ProcessActivity = 1007,
    ApplicationLifecycle = 6002,
    ApplicationError = 6008,
}

/// Appends the event and a newline to `out`.
pub fn ocsf(event: &Event, out: &mut Vec<u8>) {
    let Some(native) = native(event) else { return };
    let (head, subject) = (event.head(), Subject::of(event));
    let (class, activity, name) = classified(event);
    let class = class as u64;
    let container = (class == Class::ProcessActivity as u64 && subject.container.is_some())
        .then_some("container");
    let profiles: Vec<_> = ["host"].into_iter().chain(container).collect();
    let node = &head.node;
    let mut record = json!({
        "category_uid": class / 1000,
        "class_uid": class,
        "activity_id": activity,
        "activity_name": name,
        "type_uid": class * 100 + activity,
        "severity_id": Severity::of(event).number(),
        "time": head.unix_ns().map(|ns| ns / 1_000_000),
        "message": message(event),
        "metadata": {
            "version": VERSION,
            "product": {"name": "oomtrace", "vendor_name": "oomtrace"},
            "profiles": profiles,
            "uid": head.event_id,
            "event_code": native["kind"],
            "correlation_uid": native["oom_id"],
            "sequence": head.seq,
        },
        "device": {
            "type_id": 0,
            "hostname": node.hostname,
            "name": node.k8s_node_name,
            "uid": node.machine_id,
            "boot_uid": node.boot_id,
            "os": {"type_id": 200, "name": "Linux", "kernel_release": node.kernel},
        },
    });
    add(&mut record, particular(event, &subject));
    prune(&mut record);
    record["unmapped"]["oomtrace"] = native;
    line(&record, out);
}

/// The class, the activity in it, and its name.
fn classified(event: &Event) -> (Class, u64, &'static str) {
    match event {
        Event::OomKill(_) => (Class::ProcessActivity, 2, "Terminate"),
        Event::OomMark(_) => (Class::ProcessActivity, OTHER, "OOM mark"),
        Event::OomOutcome(_) => (Class::ProcessActivity, OTHER, "OOM outcome"),
        // It knows no process, only the `event_id` of the kill.
        Event::Enrichment(_) => (Class::Base, OTHER, "Enrichment"),
        // Nor do these: they kill all of a pod's, or of a cgroup's.
        Event::PodEviction(_) => (Class::Base, OTHER, "Pod eviction"),
        Event::UserspaceKill(_) => (Class::Base, OTHER, "Userspace kill"),
        Event::Loss(_) => (Class::ApplicationError, 1, "General Error"),
        Event::Status(status) => match status.phase {
            Phase::Start => (Class::ApplicationLifecycle, 3, "Start"),
            Phase::Heartbeat => (Class::ApplicationLifecycle, OTHER, "Heartbeat"),
            Phase::Stop => (Class::ApplicationLifecycle, 4, "Stop"),
        },
    }
}

/// What each kind of record has of its own.
fn particular(event: &Event, subject: &Subject<'_>) -> Value {
    match event {
        Event::OomKill(kill) | Event::OomMark(kill) => json!({
            "actor": actor(Some(&kill.trigger)),
            "process": process(subject),
        }),
        Event::OomOutcome(outcome) => {
            let mut process = process(subject);
            let (status, name) = match outcome.state {
                VictimState::Exited => {
                    let time = outcome.head.unix_ns().map(|ns| ns / 1_000_000);
                    add(&mut process, json!({"terminated_time": time}));
                    (1, "exited")
                }
                VictimState::Stuck => (OTHER, "stuck"),
            };
            json!({
                "actor": actor(None),
                "process": process,
                "status_id": status,
                "status": name,
            })
        }
        Event::Enrichment(_) | Event::Loss(_) => json!({}),
        Event::PodEviction(eviction) => json!({"status_detail": eviction.eviction.message}),
        Event::UserspaceKill(kill) => json!({"status_detail": kill.reason}),
        Event::Status(status) => json!({
            "app": {"name": "oomtrace", "vendor_name": "oomtrace", "version": status.version},
            "status_detail": status.reason,
        }),
    }
}

/// The kernel kills; the process is the one whose allocation made it.
fn actor(trigger: Option<&Trigger>) -> Value {
    let process = trigger.filter(|trigger| trigger.pid.is_some());
    json!({
        "app_name": "Linux OOM killer",
        "process": process.map(|trigger| json!({
            "pid": trigger.pid,
            "name": trigger.comm,
            "user": user(trigger.uid),
            "container": trigger.container.as_ref().map(|held| {
                container(held, trigger.pod.as_ref().map(|pod| &pod.uid))
            }),
        })),
    })
}

fn process(subject: &Subject<'_>) -> Value {
    let mut process = json!({
        "pid": subject.pid,
        "name": subject.comm,
        "container": subject.container.map(|held| {
            container(held, subject.pod.map(|pod| &pod.uid))
        }),
    });
    if let Some(victim) = subject.victim {
        add(&mut process, of_victim(victim));
    }
    process
}

fn of_victim(victim: &Victim) -> Value {
    let start = victim.start_time.as_ref();
    let start: Option<Timestamp> = start.and_then(|start| start.parse().ok());
    // What is executed is a regular file: `do_open_execat` in `fs/exec.c`.
    let file = victim.exe.as_ref().map(|path| {
        let name = path.rsplit('/').next();
        json!({"type_id": 1, "name": name, "path": path})
    });
    json!({
        "cmd_line": victim.cmdline,
        "created_time": start.map(Timestamp::as_millisecond),
        "file": file,
        "parent_process": {"pid": victim.ppid},
        "user": user(victim.uid),
    })
}

fn user(uid: Option<u32>) -> Option<Value> {
    uid.map(|uid| json!({"uid": uid.to_string()}))
}

fn container(container: &Container, pod_uid: Option<&String>) -> Value {
    // An image has to have an id: only where its name holds one.
    let image = container.image.as_ref();
    let image = image.and_then(|name| {
        let (_, digest) = name.split_once('@')?;
        Some(json!({"name": name, "uid": digest}))
    });
    json!({
        "uid": container.id,
        "name": container.name,
        "runtime": container.runtime,
        "image": image,
        "orchestrator": pod_uid.map(|_| "kubernetes"),
        "pod_uuid": pod_uid.filter(|uid| is_uuid(uid)),
    })
}

/// Whether it has the form of a UUID; the uid of a static pod is a hash.
fn is_uuid(uid: &str) -> bool {
    let groups = uid.split('-').map(str::len);
    groups.eq([8, 4, 4, 4, 12])
        && uid
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}
