//! The Helm chart, rendered by Helm's own engine, which comes as a Python module.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{
    cluster::{Client, FROM_THE_NODE},
    run, target,
};

/// The namespace of the release.
pub const NAMESPACE: &str = "kube-system";
/// Where the chart, rendered for a node in a virtual machine, and the image are there.
pub const ON_THE_NODE: &str = "/usr/share/oomtrace-test";

fn helm() -> PathBuf {
    target().join("helm")
}

/// What is missing to render it, if anything.
pub fn missing() -> Option<String> {
    let module = helm().join("helm_python");
    (!module.exists()).then(|| {
        let module = module.display();
        format!("{module} is not there; `cargo xtask k8s` makes it")
    })
}

/// The objects of a release of the chart, with these values.
///
/// # Errors
/// When Helm finds anything wrong, or says nothing that is YAML.
pub fn render(values: &Value) -> Result<Vec<Value>> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/oomtrace");
    let texts = run(Command::new("python3")
        .args(["-c", include_str!("chart.py")])
        .arg(chart)
        .args([NAMESPACE, &values.to_string()])
        .env("PYTHONPATH", helm()))?;
    let texts: BTreeMap<String, String> = serde_json::from_str(&texts)?;
    let mut objects = Vec::new();
    for (name, text) in texts {
        if !name.ends_with(".yaml") {
            continue;
        }
        objects.extend(documents(&text).with_context(|| format!("{name}: {text}"))?);
    }
    Ok(objects)
}

/// The objects of a file of YAML.
///
/// # Errors
/// When it is none.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let object = Value::deserialize(document)?;
        objects.extend(Some(object).filter(|object| !object.is_null()));
    }
    Ok(objects)
}

/// The values for a node in a virtual machine: it has no network plugin, so no services and none of
/// their addresses; and the image is there.
pub fn values_of_the_node() -> Value {
    let (host, port) = FROM_THE_NODE;
    json!({
        "image": {"pullPolicy": "Never"},
        "hostNetwork": true,
        "kubelet": true,
        "env": [
            {"name": "KUBERNETES_SERVICE_HOST", "value": host},
            {"name": "KUBERNETES_SERVICE_PORT", "value": port.to_string()},
            {"name": "OOMTRACE__TRACER__HEARTBEAT", "value": "1s"},
            {"name": "OOMTRACE__SINKS__KEPT__TYPE", "value": "file"},
            {"name": "OOMTRACE__SINKS__KEPT__PATH", "value": "/var/lib/oomtrace/events.jsonl"},
        ],
    })
}

/// Gives an API server objects, and returns what it made of them. With `dry`, it makes none.
///
/// # Errors
/// When it refuses one, or drops a field of one: it knows no such field.
pub fn install(client: &Client, objects: &[Value], dry: bool) -> Result<Vec<Value>> {
    let dry = if dry { "?dryRun=All" } else { "" };
    let made = objects.iter().map(|object| {
        let what = format!("{} {}", object["kind"], object["metadata"]["name"]);
        let made = client.create(&format!("{}{dry}", path(object)?), object);
        let made = made.with_context(|| what.clone())?;
        within(object, &made, "").context(what)?;
        Ok(made)
    });
    made.collect()
}

/// Where objects of such a kind are.
///
/// # Errors
/// When it names no kind.
pub fn path(object: &Value) -> Result<String> {
    let version = object["apiVersion"].as_str().context("no apiVersion")?;
    let kind = object["kind"].as_str().context("no kind")?;
    let group = if version == "v1" { "api" } else { "apis" };
    let namespace = object["metadata"]["namespace"].as_str();
    let namespace = namespace.map_or_else(String::new, |name| format!("namespaces/{name}/"));
    let kinds = kind.to_lowercase() + "s";
    Ok(format!("/{group}/{version}/{namespace}{kinds}"))
}

/// All that one has is in the other.
fn within(asked: &Value, made: &Value, at: &str) -> Result<()> {
    match asked {
        Value::Object(fields) => fields
            .iter()
            .try_for_each(|(name, value)| within(value, &made[name], &format!("{at}/{name}"))),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, value)| within(value, &made[index], &format!("{at}/{index}"))),
        value => {
            anyhow::ensure!(value == made, "{at} is {made}, not {value}");
            Ok(())
        }
    }
}
