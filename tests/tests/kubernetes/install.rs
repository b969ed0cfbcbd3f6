//! The Helm chart: rendered by Helm, taken by a real API server.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use oomtrace_tests::kubernetes::{
    chart,
    cluster::{self, Cluster, rights},
    expect, run, wait_until,
};
use serde_json::{Value, json};

use super::environment;

const OPERATOR: &str = include_str!("operator.yaml");
const RULES: &str = include_str!("../../../deploy/helm/oomtrace/monitoring/oomtrace.rules.yml");
const DASHBOARD: &str = include_str!("../../../deploy/helm/oomtrace/monitoring/oomtrace.json");

/// The API server takes what the chart makes, in each of its shapes, and drops no field of it.
#[test]
fn the_chart_is_taken() -> Result<()> {
    let Some((env, _lock)) = environment(&[cluster::missing(), chart::missing()])? else {
        return Ok(());
    };
    let cluster = Cluster::start()?;
    // The operator itself is in no package registry.
    let kinds = chart::documents(OPERATOR)?;
    chart::install(&cluster, &kinds, false)?;
    for kind in &kinds {
        let name = kind["metadata"]["name"].as_str().context("no name")?;
        let at = format!("{}/{name}", chart::path(kind)?);
        wait_until("the kind to be there", || {
            let conditions = cluster.get(&at)?["status"]["conditions"].take();
            let mut conditions = conditions.as_array().into_iter().flatten();
            Ok(conditions.any(|it| it["type"] == "Established" && it["status"] == "True"))
        })?;
    }
    let most = json!({
        "kubelet": true, "hostNetwork": true, "secrets": ["siem"],
        "imagePullSecrets": [{"name": "registry"}], "podLabels": {"a": "b"},
        "podAnnotations": {"c": "d"}, "env": [{"name": "TZ", "value": "UTC"}],
        "podSecurityContext": {"seLinuxOptions": {"type": "spc_t"}},
        "metrics": {"service": true, "podMonitor": {"enabled": true}, "rules": {"enabled": true}},
        "dashboard": {"enabled": true},
    });
    let least = json!({
        "api": false, "spool": "", "hostPaths": [], "metrics": {"enabled": false},
        "serviceAccount": {"create": false, "name": "somebodys"}, "priorityClassName": "",
    });
    let all = [json!({}), most, least];
    let mut made = Vec::new();
    for values in &all {
        let objects = chart::render(values)?;
        for rules in objects.iter().filter(|it| it["kind"] == "PrometheusRule") {
            ensure!(
                rules["spec"] == serde_yaml_ng::from_str::<Value>(RULES)?,
                "{rules}"
            );
        }
        chart::install(&cluster, &objects, true)?;
        made.push(objects);
    }
    let [plain, most, least] = &made[..] else {
        unreachable!("as many as there are values");
    };
    let of = |objects: &[Value], kind: &str| {
        let object = objects.iter().find(|it| it["kind"] == kind);
        object.cloned().with_context(|| format!("no {kind}"))
    };
    chart::install(&cluster, plain, false)?;
    ensure!(
        of(plain, "ClusterRole")?["rules"] == rights(),
        "other rights"
    );
    ensure!(of(least, "ClusterRole").is_err(), "rights for nothing");
    let dashboard = most
        .iter()
        .find(|it| !it["data"]["oomtrace.json"].is_null());
    let dashboard = &dashboard.context("no dashboard")?["data"]["oomtrace.json"];
    ensure!(dashboard == DASHBOARD, "another dashboard");

    // As tight as the manual says.
    let pod = of(plain, "DaemonSet")?["spec"]["template"]["spec"].clone();
    expect(
        &pod,
        &[
            ("/hostPID", Value::Null),
            ("/hostNetwork", Value::Null),
            ("/priorityClassName", json!("system-node-critical")),
            (
                "/containers/0/securityContext",
                json!({
                    "runAsUser": 0, "runAsGroup": 0, "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"], "add": ["BPF", "PERFMON", "IPC_LOCK"]},
                    "seccompProfile": {"type": "RuntimeDefault"},
                }),
            ),
        ],
    )?;

    // The agent takes the configuration.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oomtrace.toml");
    let text = of(plain, "ConfigMap")?["data"]["oomtrace.toml"].clone();
    fs::write(&file, text.as_str().context("no configuration")?)?;
    run(Command::new(&env.oomtrace)
        .args(["config", "check"])
        .arg(&file))?;

    // A value that is misspelt is told.
    ensure!(
        chart::render(&json!({"capabilites": []})).is_err(),
        "it is taken"
    );
    Ok(())
}
