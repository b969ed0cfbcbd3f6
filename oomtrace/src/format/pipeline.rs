//! What the formats of pipelines have in common: a record's subject, its weight, one sentence, and
//! the native record that rides along.

use serde_json::{Map, Value};

use crate::{
    event::{Container, Event, Phase, Pod, Scope, Victim, VictimState},
    explain::process,
};

/// How much a record matters. An OOM kill is no attack: nothing here is high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// Nothing died by it.
    Informational,
    /// Somebody reached a limit of its own.
    Low,
    /// Somebody died for others, or does not die, or the record of kills has a gap.
    Medium,
}

impl Severity {
    pub(super) fn of(event: &Event) -> Self {
        match event {
            Event::OomKill(kill) => match kill.oom.scope {
                Some(Scope::Container | Scope::Pod | Scope::Slice) | None => Self::Low,
                Some(
                    Scope::Qos
                    | Scope::Kubepods
                    | Scope::Node
                    | Scope::Cpuset
                    | Scope::MemoryPolicy,
                ) => Self::Medium,
            },
            Event::OomOutcome(outcome) => match outcome.state {
                VictimState::Exited => Self::Informational,
                VictimState::Stuck => Self::Medium,
            },
            // Of the node's memory, of which others had taken too much.
            Event::PodEviction(_) | Event::UserspaceKill(_) => Self::Medium,
            Event::Loss(loss) => match loss.lost_kills {
                0 => Self::Low,
                _ => Self::Medium,
            },
            Event::OomMark(_) | Event::Enrichment(_) | Event::Status(_) => Self::Informational,
        }
    }

    /// Falco's `priority`, and OpenTelemetry's `severity_text`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Informational => "Informational",
            Self::Low => "Notice",
            Self::Medium => "Warning",
        }
    }

    /// OCSF's `severity_id`, and ECS's `event.severity`.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Informational => 1,
            Self::Low => 2,
            Self::Medium => 3,
        }
    }
}

/// Whom a record is about.
#[derive(Default)]
pub(super) struct Subject<'a> {
    pub(super) pid: Option<u32>,
    pub(super) comm: Option<&'a String>,
    /// What only the record of a kill or mark tells.
    pub(super) victim: Option<&'a Victim>,
    pub(super) container: Option<&'a Container>,
    pub(super) pod: Option<&'a Pod>,
}

impl<'a> Subject<'a> {
    pub(super) fn of(event: &'a Event) -> Self {
        match event {
            Event::OomKill(kill) | Event::OomMark(kill) => {
                let victim = &kill.victim;
                Self {
                    pid: victim.pid,
                    comm: victim.comm.as_ref(),
                    victim: Some(victim),
                    container: victim.container.as_ref(),
                    pod: victim.pod.as_ref(),
                }
            }
            Event::OomOutcome(outcome) => Self {
                pid: Some(outcome.victim.pid),
                comm: outcome.victim.comm.as_ref(),
                ..Self::default()
            },
            Event::Enrichment(late) => Self {
                container: late.victim.container.as_ref(),
                pod: late.victim.pod.as_ref(),
                ..Self::default()
            },
            Event::PodEviction(eviction) => Self {
                pod: Some(&eviction.pod),
                ..Self::default()
            },
            Event::UserspaceKill(kill) => Self {
                container: kill.whose.container.as_ref(),
                pod: kill.whose.pod.as_ref(),
                ..Self::default()
            },
            Event::Loss(_) | Event::Status(_) => Self::default(),
        }
    }

    fn name(&self) -> String {
        process(self.comm.map(String::as_str), self.pid)
    }
}

/// The record in a sentence. Its words may change.
pub fn message(event: &Event) -> String {
    let name = Subject::of(event).name();
    match event {
        Event::OomKill(kill) => {
            let verdict = kill.verdict.as_ref();
            let summary = verdict.and_then(|verdict| verdict.summary.clone());
            summary.unwrap_or_else(|| format!("{name} was killed by the kernel's OOM killer."))
        }
        Event::OomMark(_) => {
            format!("{name} was already exiting and may use memory reserves. It was not killed.")
        }
        Event::OomOutcome(outcome) => match (outcome.state, outcome.exit_latency_ns) {
            (VictimState::Exited, Some(latency)) => {
                let milliseconds = latency as f64 / 1e6;
                format!("{name} was gone {milliseconds:.1} ms after the OOM killer took it.")
            }
            (VictimState::Exited, None) => format!("{name}, which the OOM killer took, is gone."),
            (VictimState::Stuck, _) => {
                format!("{name} is still there 10 s after the OOM killer took it.")
            }
        },
        Event::Enrichment(late) => match late.victim.pod.as_ref().and_then(named) {
            Some(pod) => format!("The victim of an OOM kill was in pod {pod}."),
            None => "The pods of an OOM kill did not become known.".to_owned(),
        },
        Event::PodEviction(eviction) => {
            let pod = named(&eviction.pod).unwrap_or_else(|| eviction.pod.uid.clone());
            let resource = eviction.eviction.resource.as_ref();
            let why = resource.map(|resource| format!(": the node was low on {resource}"));
            format!("The kubelet evicted pod {pod}{}.", why.unwrap_or_default())
        }
        Event::UserspaceKill(kill) => {
            let (killer, path, reason) = (&kill.killer, &kill.cgroup_path, &kill.reason);
            format!("{killer} killed all processes of {path}: {reason}.")
        }
        Event::Loss(loss) => {
            let lost = loss.lost.map_or_else(
                || "An unknown number of".to_owned(),
                |lost| lost.to_string(),
            );
            let kills = loss.lost_kills;
            format!("{lost} records of oomtrace were lost, {kills} of them kills.")
        }
        Event::Status(status) => match status.phase {
            Phase::Start => "oomtrace watches from now on.".to_owned(),
            Phase::Heartbeat => "oomtrace still watches.".to_owned(),
            Phase::Stop => "oomtrace stopped.".to_owned(),
        },
    }
}

/// A pod's namespace and name.
fn named(pod: &Pod) -> Option<String> {
    Some(format!(
        "{}/{}",
        pod.namespace.as_ref()?,
        pod.name.as_ref()?
    ))
}

/// The native record, without what is unknown. Labels become a list of `key:value`: a receiver that
/// takes a dot in a name for a level refuses a pod that has `app` and `app.kubernetes.io/name`.
pub(super) fn native(event: &Event) -> Option<Value> {
    let mut record = serde_json::to_value(event).ok()?;
    strip(&mut record);
    Some(record)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(labels) = members.get_mut("labels") {
                *labels = list_of(labels);
            }
            members.retain(|_, member| {
                strip(member);
                !member.is_null()
            });
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn list_of(labels: &Value) -> Value {
    let labels = labels.as_object().into_iter().flatten();
    let list: Vec<_> = labels
        .filter_map(|(key, value)| Some([key, ":", value.as_str()?].concat()))
        .collect();
    match list.is_empty() {
        true => Value::Null,
        false => list.into(),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty)
}

/// Takes out what is unknown, and objects of which nothing is known.
pub(super) fn prune(value: &mut Value) {
    if let Value::Object(members) = value {
        members.values_mut().for_each(prune);
        members.retain(|_, member| !member.is_null() && !is_empty(member));
    }
}

/// Adds the members of `more`, and to objects in both theirs.
pub(super) fn add(to: &mut Value, more: Value) {
    match (to, more) {
        (Value::Object(to), Value::Object(more)) => {
            for (name, value) in more {
                add(to.entry(name).or_insert(Value::Null), value);
            }
        }
        (to, more) => *to = more,
    }
}

/// Appends the record and a newline to `out`.
pub(super) fn line(record: &Value, out: &mut Vec<u8>) {
    // As text it has no newline in it, whatever names are in it.
    out.extend_from_slice(record.to_string().as_bytes());
    out.push(b'\n');
}
