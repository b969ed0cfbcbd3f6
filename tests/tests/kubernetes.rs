//! Pods by name, with real parts: containerd and runc, kube-apiserver and etcd, on this machine.
//!
//! They need root and what `cargo xtask k8s` prepares; `cargo xtask test` does that before, and then
//! none is skipped. Kills belong to the whole machine, so they
//! run one at a time, also across processes.

#[path = "kubernetes/churn.rs"]
mod churn;
#[path = "kubernetes/faults.rs"]
mod faults;
#[path = "kubernetes/install.rs"]
mod install;
#[path = "kubernetes/others.rs"]
mod others;

use std::{env, fs::File, process::Command};

use anyhow::{Context, Result, ensure};
use oomtrace_tests::{
    Env,
    cgroup::Cgroup,
    kubernetes::{
        cluster::{self, Cluster, NOBODYS_TOKEN, TOKEN, container_id, deployed_pod},
        containerd::{self, Container, Containerd},
        expect,
    },
    tracer::{Tracer, output},
    victim::{Look, Victim},
};
use serde_json::{Value, json};

const NODE: &str = "node-under-test";
const LIMIT: u64 = 32 << 20;
/// Kills after which a pod must be known that the API server was told of.
const ATTEMPTS: u32 = 5;
const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

/// Names of pod and container are in the event itself, from the runtime's socket and the bundles,
/// for a container that started after the tracer did; a restarted one is a container of its own.
#[test]
fn containerd_names_the_victim() -> Result<()> {
    let Some((env, _lock)) = environment(&[containerd::missing()])? else {
        return Ok(());
    };
    let mut containerd = Containerd::start(true)?;
    let mut tracer = Tracer::start(&env, &["--cri", containerd.socket(), "--pod-labels", "app"])?;
    let pod = containerd.pod("shop", "checkout", UID)?;
    for (attempt, name) in [(0, "app"), (1, "app"), (0, "db")] {
        let container = containerd.container(&pod, name, attempt, LIMIT)?;
        let kill = kill(&mut tracer, &container)?;
        expect(
            &kill,
            &[
                ("/victim/pod/uid", json!(UID)),
                ("/victim/pod/namespace", json!("shop")),
                ("/victim/pod/name", json!("checkout")),
                ("/victim/pod/labels", json!({"app": "checkout"})),
                ("/victim/pod/qos_class", json!("Burstable")),
                ("/victim/container/name", json!(name)),
                ("/victim/container/restart_count", json!(attempt)),
                (
                    "/victim/container/image",
                    json!("localhost/oomtrace-busybox:1"),
                ),
                ("/oom/scope", json!("container")),
                ("/oom/memcg/limit_bytes", json!(LIMIT)),
                ("/trigger/pod/name", json!("checkout")),
                ("/enrichment/complete", json!(true)),
                ("/enrichment/sources", json!(["cri", "bundle"])),
                ("/enrichment/errors", json!([])),
            ],
        )?;
    }
    // A pod that is no more is known by its name for a while; another one never gets it.
    let other = containerd.pod("shop", "other", "99999999-4b5a-6978-8796-a5b4c3d2e1f0")?;
    let container = containerd.container(&other, "app", 0, LIMIT)?;
    containerd.remove(&pod)?;
    let kill = kill(&mut tracer, &container)?;
    expect(&kill, &[("/victim/pod/name", json!("other"))])?;
    let ended = tracer.stop()?;
    let sources = &ended.farewell()?["kubernetes"]["sources"];
    for source in sources.as_array().context("no sources")? {
        if source["name"] != "pod_logs" {
            ensure!(source["state"] == "live", "{source}");
        }
    }
    Ok(())
}

/// A runtime that does not answer holds up nothing: the event comes without names, says so, and the
/// names follow as an enrichment of the same event when it answers again.
#[test]
fn a_stuck_runtime_holds_up_nothing() -> Result<()> {
    let Some((env, _lock)) = environment(&[containerd::missing()])? else {
        return Ok(());
    };
    // Away from its bundles: nothing else tells the names.
    let mut containerd = Containerd::start(false)?;
    let pod = containerd.pod("shop", "checkout", UID)?;
    let container = containerd.container(&pod, "app", 0, LIMIT)?;
    containerd.freeze(true)?;
    let mut tracer = Tracer::start(&env, &["--cri", containerd.socket()])?;
    let event = kill(&mut tracer, &container)?;
    expect(
        &event,
        &[
            ("/victim/pod/uid", json!(UID)),
            ("/victim/pod/name", Value::Null),
            ("/victim/container/id", json!(container.id)),
            ("/enrichment/complete", json!(false)),
        ],
    )?;
    containerd.freeze(false)?;
    let id = event["event_id"].clone();
    let late = tracer.wait_for("the enrichment", |record| {
        record["kind"] == "enrichment" && record["event_id"] == id
    })?;
    expect(
        &late,
        &[
            ("/oom_id", event["oom_id"].clone()),
            ("/victim/pod/namespace", json!("shop")),
            ("/victim/pod/name", json!("checkout")),
            ("/victim/container/name", json!("app")),
            ("/enrichment/complete", json!(true)),
            ("/enrichment/sources", json!(["cri"])),
        ],
    )?;
    let ended = tracer.stop()?;
    ensure!(
        ended.farewell()?["totals"]["unresolved"] == 1,
        "not counted as unresolved"
    );
    Ok(())
}

/// A tracer that stops leaves no kill without its last word: what the runtime says by then, or that
/// nothing more is known.
#[test]
fn the_end_answers_what_was_asked() -> Result<()> {
    let Some((env, _lock)) = environment(&[containerd::missing()])? else {
        return Ok(());
    };
    let mut containerd = Containerd::start(false)?;
    let pod = containerd.pod("shop", "checkout", UID)?;
    for (attempt, answers) in [(0, false), (1, true)] {
        let container = containerd.container(&pod, "app", attempt, LIMIT)?;
        containerd.freeze(true)?;
        let mut tracer = Tracer::start(&env, &["--cri", containerd.socket()])?;
        let event = kill(&mut tracer, &container)?;
        expect(&event, &[("/enrichment/complete", json!(false))])?;
        if answers {
            containerd.freeze(false)?;
        }
        let ended = tracer.stop()?;
        containerd.freeze(false)?;
        ended.farewell()?;
        let late: Vec<&Value> = ended.of_kind("enrichment").collect();
        let [late] = late[..] else {
            anyhow::bail!("{} enrichments", late.len());
        };
        let name = |name: &str| answers.then(|| name.to_owned());
        expect(
            late,
            &[
                ("/event_id", event["event_id"].clone()),
                ("/oom_id", event["oom_id"].clone()),
                ("/victim/pod/uid", json!(UID)),
                ("/victim/pod/name", json!(name("checkout"))),
                ("/victim/container/id", json!(container.id)),
                ("/victim/container/name", json!(name("app"))),
                ("/enrichment/complete", json!(answers)),
            ],
        )?;
        // One that has answered about this container may still owe its list of all.
        let errors = late["enrichment"]["errors"].to_string();
        ensure!(answers || errors.contains("cri: "), "{errors}");
    }
    Ok(())
}

/// Owner, request, limit and class come from the API server; a wrong token, a server that is killed
/// and started again, one that hangs, and a wrong signer are told, and nothing else breaks.
#[test]
fn api_server() -> Result<()> {
    let missing = [containerd::missing(), cluster::missing()];
    let Some((env, _lock)) = environment(&missing)? else {
        return Ok(());
    };
    let mut cluster = Cluster::start()?;
    let mut containerd = Containerd::start(true)?;
    let first = deployed_pod(&cluster, NODE, "first")?;
    deployed_pod(&cluster, "another-node", "elsewhere")?;

    // A token that may do nothing, then one that nobody knows, then the right one: read anew each
    // time.
    let (kubeconfig, token) = cluster.kubeconfig(NOBODYS_TOKEN, "ca")?;
    let kubeconfig = kubeconfig.to_str().context("a path")?.to_owned();
    let mut tracer = with_api(
        &env,
        &kubeconfig,
        &["--cri", containerd.socket(), "--pod-labels", "app", "-v"],
    )?;
    api_is(&mut tracer, "failed", "403")?;
    std::fs::write(&token, "unknown")?;
    api_is(&mut tracer, "failed", "401")?;
    std::fs::write(&token, TOKEN)?;
    api_is(&mut tracer, "live", "")?;

    let pod = containerd.pod("default", "first", &first)?;
    let container = containerd.container(&pod, "app", 0, LIMIT)?;
    let event = kill(&mut tracer, &container)?;
    let of_the_api = |name: &str| {
        [
            ("/node/k8s_node_name", json!(NODE)),
            ("/victim/pod/namespace", json!("default")),
            ("/victim/pod/name", json!(name)),
            ("/victim/pod/labels", json!({"app": name})),
            (
                "/victim/pod/owner",
                json!({"kind": "Deployment", "name": format!("{name}-deployment")}),
            ),
            ("/victim/pod/qos_class", json!("Burstable")),
            ("/victim/pod/qos_source", json!("pod_status")),
            ("/victim/pod/priority", json!(0)),
            ("/victim/pod/is_static", json!(false)),
            ("/victim/container/name", json!("app")),
            ("/victim/container/role", json!("main")),
            (
                "/victim/container/image",
                json!("localhost/oomtrace-busybox:1"),
            ),
            ("/victim/container/memory_request_bytes", json!(16 << 20)),
            ("/victim/container/memory_limit_bytes", json!(LIMIT)),
            ("/enrichment/complete", json!(true)),
            ("/enrichment/sources", json!(["api", "cri", "bundle"])),
        ]
    };
    expect(&event, &of_the_api("first"))?;
    expect(&event, &[("/enrichment/errors", json!([]))])?;

    // Killed: what was known stays known, and says how old it is and why.
    for n in 0..3 {
        // What the watch does not see, so that it is behind the state that the server begins with.
        deployed_pod(&cluster, "another-node", &format!("elsewhere-{n}"))?;
    }
    cluster.stop_api();
    api_is(&mut tracer, "failed", "refused")?;
    let container = containerd.container(&pod, "app", 1, LIMIT)?;
    let event = kill(&mut tracer, &container)?;
    expect(&event, &of_the_api("first"))?;
    let errors = event["enrichment"]["errors"].to_string();
    ensure!(errors.contains("api: "), "{errors}");

    // Started again, with a past that it does not remember: what happened meanwhile is there.
    cluster.start_api()?;
    let second = deployed_pod(&cluster, NODE, "second")?;
    api_is(&mut tracer, "live", "")?;
    known(
        &mut tracer,
        &mut containerd,
        "second",
        &second,
        &of_the_api("second"),
    )?;

    // While it hangs nothing else does; then the watch goes on.
    cluster.freeze(true)?;
    let container = containerd.container(&pod, "app", 2, LIMIT)?;
    expect(&kill(&mut tracer, &container)?, &of_the_api("first"))?;
    cluster.freeze(false)?;
    let third = deployed_pod(&cluster, NODE, "third")?;
    known(
        &mut tracer,
        &mut containerd,
        "third",
        &third,
        &of_the_api("third"),
    )?;

    // Deleted pods are still known.
    let container = containerd.container(&pod, "app", 3, LIMIT)?;
    cluster.delete("/api/v1/namespaces/default/pods/first")?;
    expect(&kill(&mut tracer, &container)?, &of_the_api("first"))?;
    let ended = tracer.stop()?;
    let pods = &ended.farewell()?["kubernetes"]["pods"];
    ensure!(
        *pods == 3,
        "{pods} pods are known: those of this node are 3"
    );
    ensure!(
        ended.stderr.contains("the watch cannot go on"),
        "the server never said 410 Gone: {}",
        ended.stderr
    );

    // Somebody else's certificate.
    let (kubeconfig, _) = cluster.kubeconfig(TOKEN, "other")?;
    let kubeconfig = kubeconfig.to_str().context("a path")?;
    let mut tracer = with_api(&env, kubeconfig, &[])?;
    api_is(&mut tracer, "failed", "certificate")?;
    tracer.stop()?;
    Ok(())
}

/// What the tracer's memory is with 250 pods and all sources.
#[test]
fn memory_with_250_pods() -> Result<()> {
    let missing = [containerd::missing(), cluster::missing()];
    let Some((env, _lock)) = environment(&missing)? else {
        return Ok(());
    };
    let cluster = Cluster::start()?;
    let containerd = Containerd::start(true)?;
    let (kubeconfig, _) = cluster.kubeconfig(TOKEN, "ca")?;
    let kubeconfig = kubeconfig.to_str().context("a path")?;
    for n in 0..250 {
        deployed_pod(&cluster, NODE, &format!("pod-{n}"))?;
    }
    let without = Tracer::start(&env, &["--k8s", "off", "--heartbeat", "1s"])?;
    let without = resident(without)?;
    let mut tracer = with_api(
        &env,
        kubeconfig,
        &["--cri", containerd.socket(), "--pod-labels", "app"],
    )?;
    tracer.wait_for("all pods", |record| {
        record["kubernetes"]["pods"].as_u64() == Some(250)
    })?;
    // The owners of 250 pods are asked for one by one.
    wait_for_quiet(&mut tracer)?;
    let with = resident(tracer)?;
    println!("resident: {without} bytes without sources, {with} with 250 pods and all sources");
    ensure!(with <= 16 << 20, "more than 16 MiB: {with}");
    Ok(())
}

/// The doctor names the sources and whether they answer.
#[test]
fn doctor_tells_of_sources() -> Result<()> {
    let Some((env, _lock)) = environment(&[containerd::missing()])? else {
        return Ok(());
    };
    let containerd = Containerd::start(true)?;
    let mut command = Command::new(&env.oomtrace);
    command.args(["doctor", "--json", "--cri", containerd.socket()]);
    let told: Value = serde_json::from_slice(&output(command)?.stdout)?;
    let sources = told["kubernetes"]["sources"]
        .as_array()
        .context("no sources")?;
    for name in ["cri", "bundle"] {
        ensure!(
            sources
                .iter()
                .any(|it| it["name"] == name && it["state"] == "live"),
            "{name}: {sources:?}"
        );
    }
    containerd.freeze(true)?;
    let mut command = Command::new(&env.oomtrace);
    command.args(["doctor", "--cri", containerd.socket()]);
    let text = String::from_utf8(output(command)?.stdout)?;
    ensure!(text.contains("no   cri"), "{text}");
    Ok(())
}

/// A tracer of this node with this access to an API server, and with what else is asked for.
fn with_api(env: &Env, kubeconfig: &str, more: &[&str]) -> Result<Tracer> {
    let args = [
        "--kubeconfig",
        kubeconfig,
        "--node-name",
        NODE,
        "--heartbeat",
        "1s",
    ];
    Tracer::start(env, &[&args, more].concat())
}

/// What the tracer's memory is at its end.
fn resident(tracer: Tracer) -> Result<u64> {
    let ended = tracer.stop()?;
    let bytes = &ended.farewell()?["resident_bytes"];
    bytes.as_u64().with_context(|| format!("resident: {bytes}"))
}

/// Waits until two heartbeats in a row tell of the same memory.
fn wait_for_quiet(tracer: &mut Tracer) -> Result<()> {
    let mut last = Value::Null;
    for _ in 0..20 {
        let seq = tracer.records.len();
        let beat = tracer.wait_for("a heartbeat", |record| {
            record["phase"] == "heartbeat" && record["seq"].as_u64() >= Some(seq as u64)
        })?;
        if beat["resident_bytes"] == last {
            return Ok(());
        }
        last = beat["resident_bytes"].clone();
    }
    Ok(())
}

/// A pod that the API server was told of just now is known in full.
fn known(
    tracer: &mut Tracer,
    containerd: &mut Containerd,
    name: &str,
    uid: &str,
    expected: &[(&str, Value)],
) -> Result<()> {
    let pod = containerd.pod("default", name, uid)?;
    let mut attempt = 0;
    loop {
        let container = containerd.container(&pod, "app", attempt, LIMIT)?;
        let event = kill(tracer, &container)?;
        let event = late_or(tracer, event)?;
        // On a slow machine the server may need longer than an enrichment waits.
        if event["enrichment"]["complete"] == true || attempt == ATTEMPTS {
            return expect(&event, expected);
        }
        attempt += 1;
    }
}

/// An event that is complete, or what followed it: the watch may just be starting again.
fn late_or(tracer: &mut Tracer, event: Value) -> Result<Value> {
    if event["enrichment"]["complete"] == true {
        return Ok(event);
    }
    let id = event["event_id"].clone();
    tracer.wait_for("the enrichment", |record| {
        record["kind"] == "enrichment" && record["event_id"] == id
    })
}

/// The cgroup that the kubelet would give the container of a Burstable pod. No runtime is needed for
/// a kill to be real.
fn place(uid: &str) -> Result<Cgroup> {
    let inner = [
        "kubepods",
        "burstable",
        &format!("pod{uid}"),
        &container_id(uid),
    ];
    let cgroup = Cgroup::nested("pod", &inner.map(str::to_owned))?;
    cgroup.limit(LIMIT)?;
    Ok(cgroup)
}

/// Lets a process in such a cgroup be killed, and returns the event.
fn die_in(env: &Env, tracer: &mut Tracer, uid: &str) -> Result<Value> {
    let cgroup = place(uid)?;
    let mut victim = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
    let pid = victim.pid();
    victim.go()?;
    victim.dies()?;
    tracer.wait_for("the kill", |record| {
        record["kind"] == "oom_kill" && record["victim"]["pid"] == pid
    })
}

/// Lets a container be killed, and returns the event.
fn kill(tracer: &mut Tracer, container: &Container) -> Result<Value> {
    container.go()?;
    tracer.wait_for("the kill", |record| {
        record["kind"] == "oom_kill" && record["victim"]["container"]["id"] == *container.id
    })
}

/// Waits until a heartbeat tells this of the API server.
fn api_is(tracer: &mut Tracer, state: &str, error: &str) -> Result<()> {
    source_is(tracer, "api", state, error)
}

/// Waits until a heartbeat tells this of a source of pods.
fn source_is(tracer: &mut Tracer, name: &str, state: &str, error: &str) -> Result<()> {
    let from = tracer.records.len() as u64;
    tracer
        .wait_for(&format!("{name} to be {state} {error}"), |record| {
            let sources = record["kubernetes"]["sources"].as_array();
            record["seq"].as_u64() >= Some(from)
                && sources.into_iter().flatten().any(|source| {
                    let said = source["error"].as_str().unwrap_or("");
                    source["name"] == name && source["state"] == state && said.contains(error)
                })
        })
        .map(drop)
}

/// The program, and the right to kill. `None` where something is missing, which is told.
fn environment(missing: &[Option<String>]) -> Result<Option<(Env, File)>> {
    if !rustix::process::geteuid().is_root() {
        ensure!(env::var_os("CI").is_none(), "these tests need root");
        println!("skipped: it needs root");
        return Ok(None);
    }
    if let Some(missing) = missing.iter().flatten().next() {
        println!("skipped: {}", oomtrace_tests::may_skip(missing)?);
        return Ok(None);
    }
    let oomtrace = oomtrace_tests::program(env!("CARGO_BIN_EXE_oomtrace-victim").as_ref())?;
    let turn = oomtrace_tests::turn()?;
    let env = Env {
        oomtrace,
        victim: env!("CARGO_BIN_EXE_oomtrace-victim").into(),
        hooks: None,
        record: None,
    };
    Ok(Some((env, turn)))
}
