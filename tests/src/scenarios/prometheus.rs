//! The agent's numbers in a real Prometheus, as the dashboard and the alerts ask for them.

use std::{fs, net::TcpListener, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Needs, Outcome, Scenario,
    agent::{agent, configure},
    output::kill_one,
};
use crate::{
    Env,
    kubernetes::{Server, run, wait_until},
    may_skip,
    victim::Look,
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "prometheus_watches_the_agent",
    shows: "A real Prometheus reads /metrics of the agent; every panel of the dashboard has its numbers, \
            and the alerts on a kill and on a dead sink are raised.",
    needs: Needs::Nothing,
    run: prometheus_watches_the_agent,
}];

const MONITORING: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../deploy/helm/oomtrace/monitoring"
);
/// What the dashboard asks for, and nothing of it happens here.
const QUIET: [&str; 6] = [
    "Evictions by the kubelet",
    "Kills by user space",
    "Hooks that are missing",
    "Pods that are known",
    "Sources of names that do not answer",
    "Marks and victims that were stuck",
];

fn prometheus_watches_the_agent(env: &Env) -> Result<Outcome> {
    if !Path::new("/usr/bin/prometheus").exists() {
        return may_skip("prometheus is not installed").map(Outcome::Skipped);
    }
    let folder = tempfile::tempdir().context("a folder")?;
    let path = |name: &str| folder.path().join(name);
    let free = || -> Result<_> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string()) };
    let (address, server) = (free()?, free()?);
    let more = format!(
        "[metrics]\nlisten = \"{address}\"\n\
         [sinks.dead]\ntype = \"syslog\"\naddress = \"unix://{}\"\n",
        path("nobody").display()
    );
    configure(env, folder.path(), "1s", &more)?;
    fs::write(
        path("prometheus.yml"),
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{MONITORING}/oomtrace.rules.yml]\n\
             scrape_configs:\n- job_name: oomtrace\n  honor_labels: true\n\
             \x20 static_configs: [{{targets: ['{address}']}}]\n"
        ),
    )?;
    let mut tracer = agent(env, &path("config.toml"))?;
    let mut prometheus = Command::new("/usr/bin/prometheus");
    prometheus
        .arg(format!(
            "--config.file={}",
            path("prometheus.yml").display()
        ))
        .arg(format!("--storage.tsdb.path={}", path("data").display()))
        .arg(format!("--web.listen-address={server}"));
    let mut prometheus = Server::start(prometheus, path("prometheus.log"))?;
    let mut ask = |expression: &str| -> Result<Vec<Value>> {
        prometheus.lives()?;
        let answer = run(Command::new("curl")
            .args(["--silent", "--show-error", "--fail-with-body"])
            .args(["--noproxy", "*", "--get"])
            .args(["--data-urlencode", &format!("query={expression}")])
            .arg(format!("http://{server}/api/v1/query")))?;
        let answer: Value = serde_json::from_str(&answer)?;
        let found = answer["data"]["result"].as_array();
        Ok(found.with_context(|| answer.to_string())?.clone())
    };
    wait_until("Prometheus has read the agent", || {
        Ok(!ask("up{job=\"oomtrace\"} == 1")?.is_empty())
    })?;
    let pid = kill_one(env, &Look::default())?;
    tracer.wait_for("the kill", |record| {
        record["kind"] == "oom_kill" && record["victim"]["pid"] == pid
    })?;
    let board = fs::read_to_string(format!("{MONITORING}/oomtrace.json"))?;
    let board: Value = serde_json::from_str(&board)?;
    for panel in board["panels"].as_array().context("panels")? {
        let title = panel["title"].as_str().unwrap_or_default();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let mut expression = target["expr"].as_str().context("expr")?.to_owned();
            for (variable, value) in [
                ("$__rate_interval", "1m"),
                ("$__range", "1h"),
                ("$instance", ".*"),
                ("$namespace", ".*"),
            ] {
                expression = expression.replace(variable, value);
            }
            if QUIET.contains(&title) {
                // It is understood, at least.
                ask(&expression).context(expression)?;
                continue;
            }
            let what = format!("\"{title}\" has an answer: {expression}");
            wait_until(&what, || Ok(!ask(&expression)?.is_empty()))?;
        }
    }
    for (alert, state) in [("OomKill", "firing"), ("OomtraceSinkFailing", "pending")] {
        let expression = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"{state}\"}}");
        wait_until(&format!("{alert} is {state}"), || {
            Ok(!ask(&expression)?.is_empty())
        })?;
    }
    // As many as the stream has.
    let kills = tracer.records.iter().filter(|it| it["kind"] == "oom_kill");
    let kills = kills.count().to_string();
    let counted = ask("sum(oomtrace_oom_kills_total)")?;
    ensure!(counted[0]["value"][1] == kills, "{kills}: {counted:?}");
    tracer.stop()?;
    Ok(Outcome::Passed)
}
