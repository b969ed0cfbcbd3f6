//! What can happen to pods of a node, one scenario each.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Node, argument, installed, kubelet_address,
    pods::{Inmate, Spec, burstable_adj, is, victim},
};
use crate::{
    Env, compare,
    kubernetes::{
        cluster::{NOBODYS_TOKEN, TOKEN},
        containerd::IMAGE,
        expect,
    },
    tracer::Tracer,
    wait_for,
    watch::{Seen, Watch},
};

const MIB: u64 = 1 << 20;

/// Something that can happen on a node.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name: words joined by `_`.
    pub name: &'static str,
    /// Plays it.
    pub run: fn(&Env, &mut Node) -> Result<()>,
}

/// All scenarios; they share the node, and leave no pod behind.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "the_kubelet_is_a_source",
        run: the_kubelet_is_a_source,
    },
    Scenario {
        name: "container_limit",
        run: container_limit,
    },
    Scenario {
        name: "limit_of_the_only_container",
        run: limit_of_the_only_container,
    },
    Scenario {
        name: "whole_container",
        run: whole_container,
    },
    Scenario {
        name: "static_pods",
        run: static_pods,
    },
    Scenario {
        name: "each_source_alone",
        run: each_source_alone,
    },
    Scenario {
        name: "deleted_pod",
        run: deleted_pod,
    },
    Scenario {
        name: "node_allocatable",
        run: node_allocatable,
    },
    Scenario {
        name: "bystander",
        run: argument::bystander,
    },
    Scenario {
        name: "request_of_a_quarter",
        run: argument::a_quarter,
    },
    Scenario {
        name: "request_of_a_half",
        run: argument::a_half,
    },
    Scenario {
        name: "request_of_three_quarters",
        run: argument::three_quarters,
    },
    Scenario {
        name: "eviction",
        run: eviction,
    },
    Scenario {
        name: "installed_by_the_chart",
        run: installed::by_the_chart,
    },
];

/// Starts to watch, with all sources, and waits until each of them has answered.
pub(super) fn watch(env: &Env, node: &Node) -> Result<Watch> {
    let args = node.all_sources()?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut watch = Watch::start(env, &args)?;
    for source in ["api", "kubelet", "cri", "bundle", "pod_logs"] {
        is_live(&mut watch.tracer, source)?;
    }
    Ok(watch)
}

fn is_live(tracer: &mut Tracer, name: &str) -> Result<()> {
    source_is(tracer, name, "live", "")
}

/// Waits until a heartbeat tells this of a source.
fn source_is(tracer: &mut Tracer, name: &str, state: &str, error: &str) -> Result<()> {
    tracer
        .wait_for(&format!("{name} to be {state} {error}"), |record| {
            let sources = record["kubernetes"]["sources"].as_array();
            sources.into_iter().flatten().any(|source| {
                let said = source["error"].as_str().unwrap_or("");
                source["name"] == name && source["state"] == state && said.contains(error)
            })
        })
        .map(drop)
}

/// Waits until each source that names pods has told of this one: the kubelet is read only now and
/// then.
pub(super) fn pods_are_known(tracer: &mut Tracer, count: usize) -> Result<()> {
    tracer
        .wait_for(&format!("{count} pods to be known"), |record| {
            record["kubernetes"]["pods"].as_u64() >= Some(count as u64)
        })
        .map(drop)
}

/// Lets a process go and die, and returns what both sides tell.
fn kill(watch: &mut Watch, inmate: &mut Inmate) -> Result<Seen> {
    inmate.go()?;
    let seen = watch.kill_of(inmate.facts.pid, inmate.facts.tid)?;
    is(&seen.event, inmate)?;
    watch.outcome_of(&seen.event)?;
    let limit = seen.event["oom"]["memcg"]["limit_bytes"].as_u64();
    let limit = limit.context("no limit")?;
    compare::numbers(&seen.event, &inmate.facts, &seen.account, limit)?;
    Ok(seen)
}

/// What was told of a kill is what the API server has of the pod.
fn as_the_api_has_it(node: &Node, inmate: &Inmate, told: &Value) -> Result<()> {
    let victim = &told["victim"];
    let name = victim["pod"]["name"].as_str().context("no name")?;
    let id = format!("containerd://{}", inmate.container);
    let (pod, status) = wait_for(&format!("the API server to have {id}"), || {
        let pod = node.seen(name)?;
        let statuses = pod["status"]["containerStatuses"].as_array();
        let status = statuses.into_iter().flatten().find(|status| {
            status["containerID"] == id || status["lastState"]["terminated"]["containerID"] == id
        });
        let status = status.cloned();
        Ok(status.map(|status| (pod, status)))
    })?;
    let later = u64::from(status["containerID"] != id);
    let restarts = status["restartCount"].as_u64().context("restartCount")?;
    let containers = pod["spec"]["containers"].as_array();
    let container = containers
        .and_then(|all| all.iter().find(|it| it["name"] == status["name"]))
        .context("no such container")?;
    let memory = |what: &str| {
        let bytes = container["resources"][what]["memory"].as_str();
        bytes.map_or(Ok(Value::Null), |text| quantity(text).map(Value::from))
    };
    expect(
        told,
        &[
            (
                "/victim/pod/namespace",
                pod["metadata"]["namespace"].clone(),
            ),
            ("/victim/pod/uid", pod["metadata"]["uid"].clone()),
            ("/victim/pod/qos_class", pod["status"]["qosClass"].clone()),
            ("/victim/pod/priority", pod["spec"]["priority"].clone()),
            ("/victim/container/name", status["name"].clone()),
            ("/victim/container/image", container["image"].clone()),
            ("/victim/container/restart_count", json!(restarts - later)),
            (
                "/victim/container/memory_request_bytes",
                memory("requests")?,
            ),
            ("/victim/container/memory_limit_bytes", memory("limits")?),
        ],
    )
}

/// An amount of memory, as the API server writes it.
fn quantity(text: &str) -> Result<u64> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30)];
    let unit = units.iter().find(|(unit, _)| text.ends_with(unit));
    let (unit, shift) = unit.copied().unwrap_or(("", 0));
    let number: u64 = text
        .trim_end_matches(unit)
        .parse()
        .context(text.to_owned())?;
    Ok(number << shift)
}

/// The event, or, where the sources had not told all by then, what followed.
fn in_full(tracer: &mut Tracer, event: &Value) -> Result<Value> {
    if event["enrichment"]["complete"] == true {
        return Ok(event.clone());
    }
    let id = event["event_id"].clone();
    tracer.wait_for("the enrichment", |record| {
        record["kind"] == "enrichment" && record["event_id"] == id
    })
}

/// The kernel's own report names this memory cgroup for the limit, and the event does.
fn limit_is_of(seen: &Seen, path: &str) -> Result<()> {
    expect(
        &seen.event,
        &[
            ("/oom/memcg/path", json!(path)),
            ("/oom/constraint", json!("memcg")),
        ],
    )?;
    let report = seen.account.report.as_ref().context("no report")?;
    let line = String::from_utf8_lossy(&report.constraint.rest);
    ensure!(
        line.contains(&format!("oom_memcg={path},")),
        "not of {path}: {line}"
    );
    Ok(())
}

/// The kubelet tells of pods only to those who may ask: the right that the documentation names is
/// what it takes.
fn the_kubelet_is_a_source(env: &Env, node: &mut Node) -> Result<()> {
    let (kubeconfig, token) = node.cluster.kubeconfig(NOBODYS_TOKEN, "ca")?;
    let args = node.sources(&kubeconfig)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut tracer = Tracer::start(env, &args)?;
    source_is(&mut tracer, "kubelet", "failed", "403")?;
    // The token is read anew each time.
    fs::write(token, TOKEN)?;
    is_live(&mut tracer, "kubelet")?;
    tracer.stop()?;
    // Without a token nobody is told anything.
    let mut tracer = Tracer::start(env, &["--kubelet", &kubelet_address(), "--heartbeat", "1s"])?;
    source_is(&mut tracer, "kubelet", "failed", "")?;
    tracer.stop()?;
    Ok(())
}

/// One of two containers reaches its limit; it is a child of the container's first process, and
/// neither the kubelet nor the API server is ever told.
fn container_limit(env: &Env, node: &mut Node) -> Result<()> {
    let mut watch = watch(env, node)?;
    node.reins(&["worker", "sidecar"])?;
    let (request, limit) = (16 * MIB, 32 * MIB);
    let uid = node.pod(
        "checkout",
        &[
            Spec {
                name: "app",
                script: format!("{}; /bin/busybox sleep 100000", victim("worker", "eat")),
                request: Some(request),
                limit: Some(limit),
            },
            Spec::of("sidecar", "sidecar", "eat").with(Some(8 * MIB), Some(limit)),
        ],
    )?;
    let (mut worker, sidecar) = (Inmate::find("worker")?, Inmate::find("sidecar")?);
    ensure!(worker.pod == uid, "the kubelet put it into {}", worker.pod);
    pods_are_known(&mut watch.tracer, 1)?;
    let seen = kill(&mut watch, &mut worker)?;
    limit_is_of(&seen, &worker.facts.cgroup_path)?;
    let adj = burstable_adj(request, node.capacity_bytes);
    expect(
        &seen.event,
        &[
            ("/oom/scope", json!("container")),
            ("/oom/memcg/limit_bytes", json!(limit)),
            ("/victim/oom_score_adj", json!(adj)),
            ("/victim/expected_oom_score_adj", json!(adj)),
            ("/verdict/code", json!("container_limit")),
            ("/verdict/flags", json!(["child_died"])),
            ("/trigger/pod/uid", json!(uid)),
            ("/node/k8s_node_name", json!(super::NAME)),
        ],
    )?;
    let full = in_full(&mut watch.tracer, &seen.event)?;
    expect(&full, &of_the_pod("checkout", "app", "Burstable"))?;
    expect(
        &full,
        &[
            ("/victim/container/memory_request_bytes", json!(request)),
            ("/victim/container/memory_limit_bytes", json!(limit)),
            ("/victim/pod/is_static", json!(false)),
            ("/enrichment/errors", json!([])),
        ],
    )?;
    as_the_api_has_it(node, &worker, &full)?;
    ensure!(sidecar.lives(), "the other container died, too");
    let status = wait_for("the kubelet to tell of the containers", || {
        let pod = node.seen("checkout")?;
        let running = pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
        Ok(running.then_some(pod["status"].clone()))
    })?;
    let of_app = status["containerStatuses"]
        .as_array()
        .and_then(|all| all.iter().find(|it| it["name"] == "app"))
        .context("no status of the container")?;
    expect(
        of_app,
        &[
            ("/restartCount", json!(0)),
            ("/lastState", json!({})),
            (
                "/containerID",
                json!(format!("containerd://{}", worker.container)),
            ),
        ],
    )?;
    ensure!(status["qosClass"] == "Burstable", "{status}");
    node.remove("checkout", &[&worker, &sidecar])?;
    watch.stop()?;
    Ok(())
}

/// What any source that names pods tells of one of the `default` namespace.
fn of_the_pod(name: &str, container: &str, class: &str) -> [(&'static str, Value); 5] {
    [
        ("/victim/pod/namespace", json!("default")),
        ("/victim/pod/name", json!(name)),
        ("/victim/pod/qos_class", json!(class)),
        ("/victim/container/name", json!(container)),
        ("/victim/container/image", json!(IMAGE)),
    ]
}

/// A Guaranteed pod of one container, which is started again: for the kernel the limit is the pod's,
/// and the verdict says whose it is.
fn limit_of_the_only_container(env: &Env, node: &mut Node) -> Result<()> {
    let mut watch = watch(env, node)?;
    let limit = 40 * MIB;
    node.reins(&["only"])?;
    let uid = node.pod_with(
        "database",
        &[Spec::of("db", "only", "eat").with(Some(limit), Some(limit))],
        &json!({"restartPolicy": "OnFailure"}),
    )?;
    let mut before: Option<Inmate> = None;
    for restarts in 0..2 {
        let mut only = Inmate::find("only")?;
        ensure!(only.pod == uid, "the kubelet put it into {}", only.pod);
        ensure!(
            before.is_none_or(|before| before.container != only.container),
            "it is the same container"
        );
        pods_are_known(&mut watch.tracer, 1)?;
        let seen = kill(&mut watch, &mut only)?;
        let (of_pod, _) = only.facts.cgroup_path.rsplit_once('/').context("a path")?;
        limit_is_of(&seen, of_pod)?;
        let full = in_full(&mut watch.tracer, &seen.event)?;
        expect(&full, &of_the_pod("database", "db", "Guaranteed"))?;
        expect(
            &full,
            &[("/victim/container/restart_count", json!(restarts))],
        )?;
        expect(
            &seen.event,
            &[
                ("/oom/scope", json!("pod")),
                ("/oom/memcg/limit_bytes", json!(limit)),
                ("/victim/oom_score_adj", json!(-997)),
                ("/victim/expected_oom_score_adj", json!(-997)),
                ("/verdict/code", json!("pod_limit")),
                ("/verdict/flags", json!(["only_container_of_pod"])),
            ],
        )?;
        wait_for("the kubelet to start it again", || {
            let status = &node.seen("database")?["status"]["containerStatuses"][0];
            Ok((status["restartCount"] == restarts + 1).then_some(()))
        })?;
        let status = &node.seen("database")?["status"]["containerStatuses"][0];
        let ended = &status["lastState"]["terminated"];
        expect(
            ended,
            &[
                ("/exitCode", json!(137)),
                (
                    "/containerID",
                    json!(format!("containerd://{}", only.container)),
                ),
            ],
        )?;
        // Of the kill containerd has an event of its own, which may be later than the exit.
        ensure!(
            ended["reason"] == "OOMKilled" || ended["reason"] == "Error",
            "{ended}"
        );
        as_the_api_has_it(node, &only, &full)?;
        before = Some(only);
    }
    node.delete("database")?;
    watch.stop()?;
    Ok(())
}

/// `memory.oom.group`, as kubelets from 1.28 on set it for containers: all of it dies by one
/// decision.
fn whole_container(env: &Env, node: &mut Node) -> Result<()> {
    let mut watch = watch(env, node)?;
    node.reins(&["eater", "holder"])?;
    let limit = 48 * MIB;
    let script = format!(
        "{} & {}; /bin/busybox sleep 100000",
        victim("holder", "hold 8"),
        victim("eater", "eat")
    );
    let app = Spec {
        name: "app",
        script,
        request: None,
        limit: Some(limit),
    };
    let other = Spec::of("sidecar", "sidecar", "eat").with(None, Some(limit));
    node.reins(&["sidecar"])?;
    node.pod("batch", &[app, other])?;
    let (holder, mut eater) = (Inmate::find("holder")?, Inmate::find("eater")?);
    let sidecar = Inmate::find("sidecar")?;
    fs::write(eater.cgroup().join("memory.oom.group"), "1").context("memory.oom.group")?;
    pods_are_known(&mut watch.tracer, 1)?;
    eater.go()?;
    let seen = watch.kill_of(eater.facts.pid, eater.facts.tid)?;
    is(&seen.event, &eater)?;
    expect(
        &seen.event,
        &[
            ("/oom/scope", json!("container")),
            ("/oom/memcg/oom_group", json!(true)),
            // The shell, and both of its children.
            ("/oom/victim_count", json!(3)),
            ("/verdict/code", json!("container_limit")),
            ("/verdict/flags", json!(["whole_container_killed"])),
        ],
    )?;
    let of_holder = watch.kill_of(holder.facts.pid, holder.facts.tid)?;
    is(&of_holder.event, &holder)?;
    expect(
        &of_holder.event,
        &[
            ("/oom_id", seen.event["oom_id"].clone()),
            ("/victim/role", json!("group_member")),
        ],
    )?;
    ensure!(sidecar.lives(), "the other container died, too");
    node.remove("batch", &[&eater, &sidecar])?;
    watch.stop()?;
    Ok(())
}

/// Static pods of each class: their uid is the hash of their configuration, the API server has them
/// under another, and the kubelet gives all of them -997.
fn static_pods(env: &Env, node: &mut Node) -> Result<()> {
    let mut watch = watch(env, node)?;
    let limit = 32 * MIB;
    for (n, (class, request, of_container)) in [
        ("Guaranteed", Some(limit), Some(limit)),
        ("Burstable", Some(8 * MIB), Some(limit)),
        ("BestEffort", None, None),
    ]
    .into_iter()
    .enumerate()
    {
        let name = class.to_lowercase();
        node.reins(&[&name])?;
        node.static_pod(
            &name,
            &[Spec::of("app", &name, "eat").with(request, of_container)],
        )?;
        let mut inmate = Inmate::find(&name)?;
        let in_api = format!("{name}-{}", super::NAME);
        let mirror = wait_for("the mirror pod", || Ok(node.seen(&in_api).ok()))?;
        let hash = &mirror["metadata"]["annotations"]["kubernetes.io/config.hash"];
        ensure!(*hash == inmate.pod, "{hash} is not {}", inmate.pod);
        ensure!(mirror["metadata"]["uid"] != inmate.pod, "it is no mirror");
        pods_are_known(&mut watch.tracer, n + 1)?;
        if of_container.is_none() {
            // Nothing limits it, so somebody does who may: the container, as the runtime made it.
            fs::write(inmate.cgroup().join("memory.max"), limit.to_string())
                .context("limiting the container")?;
        }
        let seen = kill(&mut watch, &mut inmate)?;
        let full = in_full(&mut watch.tracer, &seen.event)?;
        expect(&full, &of_the_pod(&in_api, "app", class))?;
        expect(
            &full,
            &[
                ("/victim/pod/uid", json!(inmate.pod)),
                ("/victim/pod/is_static", json!(true)),
                ("/victim/oom_score_adj", json!(-997)),
            ],
        )?;
        let (scope, code) = match of_container {
            Some(_) => ("pod", "pod_limit"),
            None => ("container", "container_limit"),
        };
        expect(
            &seen.event,
            &[("/oom/scope", json!(scope)), ("/verdict/code", json!(code))],
        )?;
        node.no_static_pod(&name, &inmate)?;
    }
    watch.stop()?;
    Ok(())
}

/// The same kill through a tracer with all sources, and through one for each source alone.
fn each_source_alone(env: &Env, node: &mut Node) -> Result<()> {
    node.reins(&["app"])?;
    let (request, limit) = (16 * MIB, 32 * MIB);
    let uid = node.pod(
        "billing",
        &[Spec::of("app", "app", "eat").with(Some(request), Some(limit))],
    )?;
    let mut app = Inmate::find("app")?;
    // Nothing is at this port, so that the kubelet gets the token and the API server is not there.
    let (nobody, _) = node.cluster.kubeconfig_at("127.0.0.1:1", TOKEN, "ca")?;
    let nobody = nobody.to_str().context("a path")?.to_owned();
    let nowhere = "/run/nowhere/socket";
    let kubelet = kubelet_address();
    let mut tracers = Vec::new();
    let kinds: [(&[&str], Vec<&str>); 4] = [
        (&["pod_logs"], vec!["--cri", nowhere]),
        (&["cri", "bundle"], Vec::new()),
        (
            &["kubelet"],
            [
                ["--cri", nowhere],
                ["--kubelet", &kubelet],
                ["--kubeconfig", &nobody],
                ["--node-name", super::NAME],
            ]
            .concat(),
        ),
        (&[], vec!["--k8s", "off"]),
    ];
    for (sources, args) in kinds {
        let mut tracer = Tracer::start(env, &[&args[..], &["--heartbeat", "1s"]].concat())?;
        for source in sources {
            is_live(&mut tracer, source)?;
        }
        tracers.push((sources, tracer));
    }
    let mut watch = watch(env, node)?;
    for (sources, tracer) in &mut tracers {
        if !sources.is_empty() {
            pods_are_known(tracer, 1)?;
        }
    }
    pods_are_known(&mut watch.tracer, 1)?;
    let seen = kill(&mut watch, &mut app)?;
    expect(
        &in_full(&mut watch.tracer, &seen.event)?,
        &of_the_pod("billing", "app", "Burstable"),
    )?;
    for (sources, mut tracer) in tracers {
        let event = tracer.wait_for("the kill", |record| {
            record["kind"] == "oom_kill" && record["victim"]["pid"] == app.facts.pid
        })?;
        is(&event, &app)?;
        // Whoever has no source, or not all facts, says so.
        let full = match sources {
            [] | ["pod_logs"] => event.clone(),
            _ => in_full(&mut tracer, &event)?,
        };
        let told = full["enrichment"]["sources"].as_array();
        for source in sources {
            let mut told = told.into_iter().flatten();
            ensure!(
                told.any(|name| name == source) || *source == "bundle",
                "{source} told nothing: {full}"
            );
        }
        let known = |known: bool, value: Value| if known { value } else { Value::Null };
        let any = !sources.is_empty();
        let containers = sources.iter().any(|source| *source != "pod_logs");
        let of_api = sources.contains(&"kubelet");
        expect(
            &full,
            &[
                ("/victim/pod/uid", json!(uid)),
                ("/victim/pod/qos_class", json!("Burstable")),
                ("/victim/pod/namespace", known(any, json!("default"))),
                ("/victim/pod/name", known(any, json!("billing"))),
                ("/victim/container/name", known(containers, json!("app"))),
                ("/victim/container/image", known(containers, json!(IMAGE))),
                (
                    "/victim/container/memory_request_bytes",
                    known(of_api, json!(request)),
                ),
            ],
        )?;
        tracer.stop()?;
    }
    node.remove("billing", &[&app])?;
    watch.stop()?;
    Ok(())
}

/// A pod that the API server has already forgotten, and of which a process still dies.
fn deleted_pod(env: &Env, node: &mut Node) -> Result<()> {
    let mut watch = watch(env, node)?;
    node.reins(&["late"])?;
    let uid = node.pod(
        "short-lived",
        &[Spec::of("app", "late", "eat").with(Some(16 * MIB), Some(32 * MIB))],
    )?;
    let mut late = Inmate::find("late")?;
    pods_are_known(&mut watch.tracer, 1)?;
    node.freeze_kubelet(true)?;
    node.delete("short-lived")?;
    ensure!(node.seen("short-lived").is_err(), "it is still there");
    let seen = kill(&mut watch, &mut late);
    node.freeze_kubelet(false)?;
    let seen = seen?;
    let full = in_full(&mut watch.tracer, &seen.event)?;
    expect(&full, &of_the_pod("short-lived", "app", "Burstable"))?;
    expect(&full, &[("/victim/pod/uid", json!(uid))])?;
    wait_for("the container to be gone", || {
        Ok((!late.cgroup().exists()).then_some(()))
    })?;
    watch.stop()?;
    Ok(())
}

/// All pods together reach what the kubelet leaves them: the one without a request dies, within no
/// limit of its own.
fn node_allocatable(env: &Env, node: &mut Node) -> Result<()> {
    let allocatable = 192 * MIB;
    let limit = pods_get(node, allocatable, 0)?;
    let mut watch = watch(env, node)?;
    node.reins(&["greedy", "modest"])?;
    let modest = node.pod(
        "modest",
        &[Spec::of("app", "modest", "hold 64").with(Some(96 * MIB), None)],
    )?;
    let greedy = node.pod("greedy", &[Spec::of("app", "greedy", "eat")])?;
    let (mut holder, mut eater) = (Inmate::find("modest")?, Inmate::find("greedy")?);
    ensure!(
        (&holder.pod, &eater.pod) == (&modest, &greedy),
        "other pods"
    );
    pods_are_known(&mut watch.tracer, 2)?;
    holder.go()?;
    holder.holds(64)?;
    let seen = kill(&mut watch, &mut eater)?;
    let path = limit.strip_prefix("/sys/fs/cgroup")?;
    limit_is_of(&seen, &format!("/{}", path.display()))?;
    let full = in_full(&mut watch.tracer, &seen.event)?;
    expect(&full, &of_the_pod("greedy", "app", "BestEffort"))?;
    expect(
        &seen.event,
        &[
            ("/oom/scope", json!("kubepods")),
            ("/oom/memcg/limit_bytes", json!(allocatable)),
            ("/victim/oom_score_adj", json!(1000)),
            ("/victim/expected_oom_score_adj", json!(1000)),
            ("/verdict/code", json!("node_allocatable")),
        ],
    )?;
    ensure!(holder.lives(), "the other pod died, too");
    node.remove("greedy", &[&eater])?;
    node.remove("modest", &[&holder])?;
    watch.stop()?;
    pods_get_all(node)
}

/// Lets the kubelet limit all pods together, and evict where they leave less than `free` of that.
/// Returns their cgroup.
fn pods_get(node: &mut Node, bytes: u64, free: u64) -> Result<PathBuf> {
    node.start_kubelet(node.capacity_bytes - bytes, free)?;
    node.limit_by_systemd(&bytes.to_string())?;
    let cgroup = node.kubepods();
    wait_for("the kubelet to limit all pods", || {
        Ok((crate::read(cgroup.join("memory.max"))? == bytes.to_string()).then_some(()))
    })?;
    Ok(cgroup)
}

fn pods_get_all(node: &mut Node) -> Result<()> {
    let limit = node.kubepods().join("memory.max");
    let before = crate::read(&limit)?;
    node.start_kubelet(0, 0)?;
    node.limit_by_systemd("infinity")?;
    wait_for("the kubelet to lift the limit", || {
        Ok((crate::read(&limit)? != before).then_some(()))
    })
}

/// The kubelet evicts a pod: the kernel kills nobody, and the record says what the API server does.
fn eviction(env: &Env, node: &mut Node) -> Result<()> {
    pods_get(node, 192 * MIB, 64 * MIB)?;
    let mut watch = watch(env, node)?;
    node.reins(&["greedy"])?;
    let request = 16 * MIB;
    let uid = node.pod(
        "greedy",
        &[Spec::of("app", "greedy", "hold 150").with(Some(request), None)],
    )?;
    let mut greedy = Inmate::find("greedy")?;
    pods_are_known(&mut watch.tracer, 1)?;
    greedy.go()?;
    greedy.holds(150)?;
    let told = watch
        .tracer
        .wait_for("the eviction", |record| record["kind"] == "pod_eviction")?;
    let status = node.seen("greedy")?["status"].clone();
    expect(
        &status,
        &[("/reason", json!("Evicted")), ("/phase", json!("Failed"))],
    )?;
    let message = status["message"].as_str().context("no message")?;
    // The kubelet's own statistics may be older than what it acts on; then it names no container.
    let containers = match message.split_once("Container app was using ") {
        Some((_, rest)) => {
            let (used, _) = rest.split_once(',').context("no usage")?;
            let used = quantity(used)?;
            ensure!((150 * MIB..192 * MIB).contains(&used), "{message}");
            json!([{"name": "app", "usage_bytes": used, "request_bytes": request}])
        }
        None => json!([]),
    };
    println!("{message} {}", told["node_conditions"]);
    expect(
        &told,
        &[
            ("/event_id", json!(format!("{uid}-eviction"))),
            ("/pod/uid", json!(uid)),
            ("/pod/name", json!("greedy")),
            ("/pod/qos_class", json!("Burstable")),
            ("/message", json!(message)),
            ("/resource", json!("memory")),
            ("/containers", containers),
        ],
    )?;
    node.remove("greedy", &[&greedy])?;
    let ended = watch.stop()?;
    ensure!(ended.of_kind("oom_kill").count() == 0, "the kernel killed");
    ensure!(ended.of_kind("pod_eviction").count() == 1, "told twice");
    pods_get_all(node)
}
