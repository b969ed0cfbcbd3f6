//! Which of two pods dies when the node runs out: BestEffort `payments-api`, which holds 200 units
//! of a node of 16000, or Burstable `data-pipeline`, which holds 8000 and requests 4000, 8000 or
//! 12000.
//!
//! Points are what is held plus 16 units for each `oom_score_adj`. `payments-api` has 200 + 16000.
//! `data-pipeline` has 8000 + 12000, 8000 + 8000 or 8000 + 4000: it dies in the first case alone.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    Node,
    pods::{Inmate, Spec, burstable_adj, is},
    scenarios::{pods_are_known, watch},
};
use crate::{
    Env,
    cgroup::Cgroup,
    compare,
    kubernetes::expect,
    machine::meminfo,
    oracle::Report,
    tracer,
    victim::{Look, Victim},
};

const API: &str = "payments-api";
const PIPELINE: &str = "data-pipeline";
/// The node's memory.
const UNITS: u64 = 16_000;
/// What the last step before the kill leaves, and takes.
const LAST_MIB: u64 = 48;

pub(super) fn a_quarter(env: &Env, node: &mut Node) -> Result<()> {
    let request = node.units(4_000);
    let spared = play(env, node, request, PIPELINE)?.context("no request would have spared it")?;
    ensure!(
        (request..node.units(8_000)).contains(&spared),
        "a request of {spared} bytes"
    );
    // Is it so? A step of `oom_score_adj` more, and it lives; a step less, and it dies.
    let step = node.capacity_bytes / 1000;
    play(env, node, spared - step, PIPELINE)?;
    play(env, node, spared + step, API)?;
    Ok(())
}

pub(super) fn a_half(env: &Env, node: &mut Node) -> Result<()> {
    let spared = play(env, node, node.units(8_000), API)?;
    ensure!(spared.is_none(), "BestEffort with a request of {spared:?}");
    Ok(())
}

pub(super) fn three_quarters(env: &Env, node: &mut Node) -> Result<()> {
    play(env, node, node.units(12_000), API).map(drop)
}

/// `payments-api` dies though it holds less than it requested: `data-pipeline`, which takes much more
/// than that, is of a priority class for which the kubelet gives -997. Whoever asks for memory last
/// is the trigger: the kubelet and containerd, whose own code leaves memory and is read again then, stand
/// still meanwhile. Where it was somebody else all the same, it is tried again.
pub(super) fn bystander(env: &Env, node: &mut Node) -> Result<()> {
    for _ in 0..4 {
        if within_its_request(env, node)? {
            return Ok(());
        }
    }
    bail!("{PIPELINE} was never the trigger")
}

/// Whether `data-pipeline` was the trigger.
fn within_its_request(env: &Env, node: &Node) -> Result<bool> {
    let mut watch = watch(env, node)?;
    node.reins(&[API, PIPELINE])?;
    let (held, request, small) = (128_u64, 512 << 20, 64 << 20);
    let spec = Spec::of("app", API, &format!("hold {held}"));
    node.pod(API, &[spec.with(Some(request), None)])?;
    let all = format!("hold {}", node.capacity_bytes >> 20);
    node.pod_with(
        PIPELINE,
        &[Spec::of("app", PIPELINE, &all).with(Some(small), None)],
        &json!({"priorityClassName": "system-node-critical"}),
    )?;
    let (mut api, mut pipeline) = (Inmate::find(API)?, Inmate::find(PIPELINE)?);
    ensure!(
        (api.facts.oom_score_adj, pipeline.facts.oom_score_adj)
            == (burstable_adj(request, node.capacity_bytes), -997),
        "the kubelet gave {} and {}",
        api.facts.oom_score_adj,
        pipeline.facts.oom_score_adj
    );
    pods_are_known(&mut watch.tracer, 2)?;
    api.go()?;
    api.holds(held)?;
    node.freeze_kubelet(true)?;
    node.freeze_containerd(true)?;
    pipeline.go()?;
    let event = watch
        .tracer
        .wait_for("the first kill", |record| record["kind"] == "oom_kill");
    // It would take what became free.
    pipeline.kill()?;
    node.freeze_containerd(false)?;
    node.freeze_kubelet(false)?;
    let event = event?;
    is(&event, &api)?;
    let account = watch.log.account_of(api.facts.tid)?;
    compare::numbers(&event, &api.facts, &account, node.capacity_bytes)?;
    expect(
        &event,
        &[
            ("/oom/scope", json!("node")),
            ("/oom/constraint", json!("none")),
            ("/verdict/code", json!("node_out_of_memory")),
            ("/victim/pod/name", json!(API)),
            ("/victim/pod/qos_class", json!("Burstable")),
            ("/victim/container/memory_request_bytes", json!(request)),
            (
                "/victim/expected_oom_score_adj",
                json!(api.facts.oom_score_adj),
            ),
        ],
    )?;
    let container = &event["victim"]["container"];
    let usage = container["memory_usage_bytes"].as_u64();
    ensure!(
        usage.is_some_and(|bytes| (held << 20..request).contains(&bytes)),
        "{container}"
    );
    let by_the_pipeline = event["trigger"]["pod"]["uid"] == pipeline.pod;
    let flags: &[&str] = if by_the_pipeline {
        &["bystander", "trigger_in_another_pod"]
    } else {
        &["bystander"]
    };
    expect(&event, &[("/verdict/flags", json!(flags))])?;
    println!(
        "{}",
        json!({"verdict": event["verdict"], "trigger": event["trigger"]["comm"]})
    );
    node.remove(API, &[&api])?;
    node.remove(PIPELINE, &[&pipeline])?;
    watch.stop()?;
    Ok(by_the_pipeline)
}

/// Runs both pods, asks who would die, lets the node run out of memory, and compares; `dies` must
/// be who dies. Returns the request that is said would have spared it.
fn play(env: &Env, node: &Node, request: u64, dies: &str) -> Result<Option<u64>> {
    let mut watch = watch(env, node)?;
    node.reins(&[API, PIPELINE])?;
    let mib = |units: u64| node.units(units) >> 20;
    let (small, big) = (mib(200), mib(8_000));
    node.pod(API, &[Spec::of("app", API, &format!("hold {small}"))])?;
    let pipeline = Spec::of("app", PIPELINE, &format!("hold {big}"));
    node.pod(PIPELINE, &[pipeline.with(Some(request), None)])?;
    let mut api = Inmate::find(API)?;
    let mut pipeline = Inmate::find(PIPELINE)?;
    pods_are_known(&mut watch.tracer, 2)?;
    api.go()?;
    api.holds(small)?;
    pipeline.go()?;
    pipeline.holds(big)?;

    // What is foretold.
    let told = tracer::run(env, &["rank", "--json"])?;
    let rank: Value = serde_json::from_slice(&told.stdout).context("rank")?;
    let foretold = &rank["candidates"]["items"][0];

    // What is.
    let cgroup = Cgroup::new("rest")?;
    let rest = (meminfo("MemAvailable")? >> 20).saturating_sub(LAST_MIB);
    let mut eater = Victim::start(
        env,
        &cgroup,
        &Look {
            comm: Some(b"the rest"),
            oom_score_adj: Some(-1000),
            ..Look::default()
        },
        &["hold", &rest.to_string()],
    )?;
    eater.go()?;
    // It may not come to say so.
    let _ = eater.says("holding");
    let _ = eater.go();
    let event = watch
        .tracer
        .wait_for("the first kill", |record| record["kind"] == "oom_kill");
    eater.kill()?;
    let event = event?;
    let (victim, other) = match dies {
        API => (&api, &pipeline),
        _ => (&pipeline, &api),
    };
    is(&event, victim)?;
    let account = watch.log.account_of(victim.facts.tid)?;
    let report = account.report.context("no report")?;
    ensure!(
        report.constraint.names_of_machine(&victim.facts),
        "{:?}",
        report.constraint
    );
    let adj = |inmate: &Inmate| inmate.facts.oom_score_adj;
    ensure!(
        (adj(&api), adj(&pipeline)) == (1000, burstable_adj(request, node.capacity_bytes)),
        "the kubelet gave {} and {}",
        adj(&api),
        adj(&pipeline)
    );

    // What is said of it.
    expect(
        &event,
        &[
            ("/oom/scope", json!("node")),
            ("/oom/constraint", json!("none")),
            ("/oom/total_bytes", json!(node.capacity_bytes)),
            ("/verdict/code", json!("node_out_of_memory")),
            ("/verdict/victim_rank", json!(1)),
            ("/verdict/runner_up_pid", json!(other.facts.pid)),
            ("/victim/expected_oom_score_adj", json!(adj(victim))),
            ("/victim/pod/name", json!(dies)),
        ],
    )?;
    let total_pages = node.capacity_bytes / rustix::param::page_size() as u64;
    let (points, others) = (
        points(&report, victim, total_pages)?,
        points(&report, other, total_pages)?,
    );
    expect(
        &event,
        &[
            ("/victim/badness_pages", json!(points)),
            ("/verdict/margin_pages", json!(points - others)),
            ("/verdict/survival/next_victim/pid", json!(other.facts.pid)),
            ("/verdict/survival/next_victim/pod_uid", json!(other.pod)),
        ],
    )?;
    // The highest value with which it has fewer points.
    let step = (total_pages / 1000).cast_signed();
    let spared = (-999..=1000)
        .rev()
        .find(|value| points + (value - adj(victim)) * step < others)
        .context("nothing spares it")?;
    let survival = &event["verdict"]["survival"];
    ensure!(
        survival["oom_score_adj"] == spared,
        "{spared} spares it: {survival}"
    );
    let request_bytes = survival["memory_request_bytes"].as_u64();
    if let Some(bytes) = request_bytes {
        let gives = |bytes| burstable_adj(bytes, node.capacity_bytes);
        ensure!(
            gives(bytes) <= spared && gives(bytes - 1) > spared,
            "a request of {bytes} gives {}, and {spared} spares it",
            gives(bytes)
        );
    }
    ensure!(
        foretold["pid"] == victim.facts.pid && foretold["pod_uid"] == victim.pod,
        "rank foretold {foretold}"
    );
    println!(
        "{}",
        json!({
            "request_units": request * UNITS / node.capacity_bytes,
            "unit_bytes": node.units(1),
            "capacity_bytes": node.capacity_bytes,
            "total_pages": total_pages,
            "died": dies,
            "points_pages": points, "others_points_pages": others,
            "oom_score_adj": adj(victim), "others_oom_score_adj": adj(other),
            "survival": survival,
            "summary": event["verdict"]["summary"],
            "rank": [foretold, rank["candidates"]["items"][1]],
        })
    );
    drop(eater);
    drop(cgroup);
    node.remove(API, &[&api])?;
    node.remove(PIPELINE, &[&pipeline])?;
    watch.stop()?;
    Ok(request_bytes)
}

/// The points of a process by the kernel's own table.
fn points(report: &Report, inmate: &Inmate, total_pages: u64) -> Result<i64> {
    let row = report.rows.iter().find(|row| row.tgid == inmate.facts.pid);
    Ok(row
        .with_context(|| format!("{} is not in the table", inmate.facts.pid))?
        .badness(total_pages))
}

impl Node {
    /// So many parts of the node's memory.
    fn units(&self, count: u64) -> u64 {
        self.capacity_bytes / UNITS * count
    }
}
