//! OpenTelemetry's log records, as OTLP carries them by HTTP and by gRPC: protobuf. What the semantic conventions
//! have a name for is an attribute of that name; the native record is flattened below `oomtrace.`.

mod proto;

use std::sync::Arc;
#[cfg(feature = "grpc")]
use std::time::Duration;

use serde_json::{Value, json};

use self::proto::{
    AnyValue, KeyValue, KeyValues, Kind, LogRecord, Resource, ResourceLogs, Scope, ScopeLogs,
    Values,
};
pub use self::proto::{Request, Response};
use super::pipeline::{Severity, Subject, message, native, prune};
use crate::event::{Event, Node};

/// A request to take these events (`ExportLogsServiceRequest`), each of which is let go before the next one is
/// read.
pub fn otlp<E>(events: impl Iterator<Item = Result<Event, E>>) -> Result<Request, E> {
    // Those of one machine are together, mostly all.
    let mut of_nodes: Vec<(Arc<Node>, Vec<LogRecord>)> = Vec::new();
    for event in events {
        let event = event?;
        let node = &event.head().node;
        match of_nodes.last_mut() {
            Some((last, records)) if last == node => records.extend(record(&event)),
            _ => of_nodes.push((node.clone(), record(&event).into_iter().collect())),
        }
    }
    let resource_logs = of_nodes
        .into_iter()
        .map(|(node, log_records)| ResourceLogs {
            resource: Some(resource(&node)),
            scope_logs: vec![ScopeLogs {
                scope: Some(Scope {
                    name: "oomtrace".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                log_records,
            }],
        });
    Ok(Request {
        resource_logs: resource_logs.collect(),
    })
}

/// When a receiver wants to be asked again, in what gRPC tells of a failure (`RetryInfo`).
#[cfg(feature = "grpc")]
pub fn retry_after(details: &[u8]) -> Option<Duration> {
    use prost::Message as _;
    let status = proto::RpcStatus::decode(details).ok()?;
    let info = status
        .details
        .iter()
        .find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let info = proto::RetryInfo::decode(&*info.value).ok()?;
    let delay = info.retry_delay.unwrap_or_default();
    let seconds = u64::try_from(delay.seconds).unwrap_or(0);
    let nanos = u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999);
    Some(Duration::new(seconds, nanos))
}

fn resource(node: &Node) -> Resource {
    let attributes = json!({
        "service.name": "oomtrace",
        "host.name": node.hostname,
        "host.id": node.machine_id,
        "os.type": "linux",
        "os.version": node.kernel,
        "k8s.node.name": node.k8s_node_name,
    });
    Resource {
        attributes: key_values(attributes),
    }
}

fn record(event: &Event) -> Option<LogRecord> {
    let native = native(event)?;
    let event_name = format!("oomtrace.{}", native["kind"].as_str().unwrap_or_default());
    let Subject {
        pid,
        comm,
        victim,
        container,
        pod,
    } = Subject::of(event);
    let mut attributes = key_values(json!({
        "process.pid": pid,
        "process.executable.name": comm,
        "process.executable.path": victim.map(|victim| &victim.exe),
        "process.command_line": victim.map(|victim| &victim.cmdline),
        "process.parent_pid": victim.map(|victim| victim.ppid),
        "process.creation.time": victim.map(|victim| &victim.start_time),
        "process.user.id": victim.map(|victim| victim.uid),
        "container.id": container.map(|container| &container.id),
        "container.image.name": container.map(|container| &container.image),
        "k8s.container.name": container.map(|container| &container.name),
        "k8s.container.restart_count": container.map(|container| container.restart_count),
        "k8s.namespace.name": pod.map(|pod| &pod.namespace),
        "k8s.pod.name": pod.map(|pod| &pod.name),
        "k8s.pod.uid": pod.map(|pod| &pod.uid),
    }));
    for (key, value) in pod.iter().flat_map(|pod| &pod.labels) {
        let key = format!("k8s.pod.label.{key}");
        flatten(key, value.as_str().into(), &mut attributes);
    }
    flatten("oomtrace".to_owned(), native, &mut attributes);
    let severity = Severity::of(event);
    Some(LogRecord {
        time_unix_nano: event.head().unix_ns().unwrap_or(0),
        severity_number: match severity {
            Severity::Informational => 9,
            Severity::Low => 10,
            Severity::Medium => 13,
        },
        severity_text: severity.name().to_owned(),
        body: any(message(event).into()),
        attributes,
        event_name,
    })
}

/// Adds what is known, of objects by its path; lists stay lists.
fn flatten(path: String, value: Value, into: &mut Vec<KeyValue>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                flatten([&path, ".", &name].concat(), member, into);
            }
        }
        value => {
            let known = any(value).map(|value| KeyValue {
                key: path,
                value: Some(value),
            });
            into.extend(known);
        }
    }
}

/// What is known of these.
fn key_values(mut attributes: Value) -> Vec<KeyValue> {
    prune(&mut attributes);
    match attributes {
        Value::Object(members) => members
            .into_iter()
            .map(|(key, value)| KeyValue {
                key,
                value: any(value),
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn any(value: Value) -> Option<AnyValue> {
    let kind = match value {
        Value::Null => return None,
        Value::Bool(value) => Kind::Bool(value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Kind::Int(number),
            None => Kind::Double(number.as_f64()?),
        },
        Value::String(text) => Kind::String(text),
        Value::Array(items) => Kind::Array(Values {
            values: items.into_iter().filter_map(any).collect(),
        }),
        object @ Value::Object(_) => Kind::Object(KeyValues {
            values: key_values(object),
        }),
    };
    Some(AnyValue { kind: Some(kind) })
}
