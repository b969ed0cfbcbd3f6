//! Many pods: that come and go while others die, and that are none of this node's business.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use oomtrace_tests::{
    kubernetes::cluster::{self, Cluster, PODS, TOKEN, at_once, pod, running},
    tracer::Tracer,
};
use serde_json::Value;

use super::{
    NODE, api_is, die_in, environment, expect,
    faults::{STRANGER, nobody},
    late_or, resident, wait_for_quiet,
};

/// Pods in a batch; each batch has the names of the one before.
const BATCH: usize = 50;
const BATCHES: usize = 20;

fn name(n: usize) -> String {
    format!("pod-{n}")
}

/// Makes pods on a node, and returns their uids.
fn make(cluster: &Cluster, node: &str, numbers: std::ops::Range<usize>) -> Result<Vec<String>> {
    let create = numbers.map(|n| ("POST", PODS.to_owned(), pod(node, &name(n))));
    let made = cluster.all(&create.collect::<Vec<_>>())?;
    made.iter()
        .map(|pod| Some(pod["metadata"]["uid"].as_str()?.to_owned()))
        .collect::<Option<_>>()
        .with_context(|| format!("a pod without a uid: {made:?}"))
}

/// A thousand pods come and go, each with the name of one that went before, and some die: each has
/// its own name or none, also after it was deleted, and those without are counted.
#[test]
fn a_thousand_pods_come_and_go() -> Result<()> {
    let Some((env, _lock)) = environment(&[cluster::missing()])? else {
        return Ok(());
    };
    let cluster = Cluster::start()?;
    let (kubeconfig, _) = cluster.kubeconfig(TOKEN, "ca")?;
    let kubeconfig = kubeconfig.to_str().context("a path")?;
    let args = [
        "--kubeconfig",
        kubeconfig,
        "--node-name",
        NODE,
        "--heartbeat",
        "1s",
    ];
    let mut tracer = Tracer::start(&env, &args)?;
    api_is(&mut tracer, "live", "")?;
    let mut names: HashMap<String, String> = HashMap::new();
    let mut before: Vec<String> = Vec::new();
    let mut fresh = Vec::new();
    let began = Instant::now();
    for _ in 0..BATCHES {
        let uids = make(&cluster, NODE, 0..BATCH)?;
        for (n, uid) in uids.iter().enumerate() {
            names.insert(uid.clone(), name(n));
        }
        // One that has just come, at once; one whose container runs; one that has gone; and one that
        // never was.
        fresh.push(die_in(&env, &mut tracer, &uids[0])?);
        cluster.patch(&format!("{PODS}/{}/status", name(0)), &running(&uids[0]))?;
        cluster.patch(&format!("{PODS}/{}/status", name(1)), &running(&uids[1]))?;
        die_in(&env, &mut tracer, &uids[1])?;
        if let Some(uid) = before.get(2) {
            expect(
                &die_in(&env, &mut tracer, uid)?,
                &[("/victim/pod/name", name(2).into())],
            )?;
        }
        nobody(&die_in(&env, &mut tracer, STRANGER)?)?;
        let delete = (0..BATCH).map(|n| ("DELETE", format!("{PODS}/{}", name(n)), at_once()));
        cluster.all(&delete.collect::<Vec<_>>())?;
        before = uids;
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    println!("{:.0} pods a minute", (BATCH * BATCHES) as f64 / minutes);
    for event in fresh {
        let told = late_or(&mut tracer, event)?;
        expect(&told, &[("/victim/pod/name", name(0).into())])?;
    }
    tracer.wait_for("all pods", |record| {
        record["kubernetes"]["pods"].as_u64() == Some((BATCH * BATCHES) as u64)
    })?;
    let ended = tracer.stop()?;
    let (mut kills, mut unresolved) = (0, 0);
    let mut nameless = HashSet::new();
    for record in &ended.records {
        let kind = &record["kind"];
        if kind != "oom_kill" && kind != "enrichment" {
            continue;
        }
        let uid = record["victim"]["pod"]["uid"].as_str().context("a uid")?;
        let told = record["victim"]["pod"]["name"].as_str();
        let own = names.get(uid).map(String::as_str);
        ensure!(
            told.is_none() || told == own,
            "{uid} is {own:?}, not {told:?}"
        );
        let id = record["event_id"].as_str().context("an id")?;
        if kind == "oom_kill" {
            kills += 1;
            if told.is_none() {
                unresolved += 1;
                nameless.insert(id);
            }
        } else if told.is_some() {
            nameless.remove(id);
        }
        if own.is_none() {
            nameless.remove(id);
        }
    }
    println!("{kills} kills: {unresolved} without a name at first, {BATCHES} of them of no pod");
    ensure!(kills == 4 * BATCHES - 1, "{kills} kills");
    let counted = &ended.farewell()?["totals"]["unresolved"];
    ensure!(
        *counted == unresolved,
        "{counted} are counted as unresolved, not {unresolved}"
    );
    ensure!(nameless.is_empty(), "without a name for ever: {nameless:?}");
    Ok(())
}

/// Pods of other nodes cost nothing: with ten thousand of them the tracer holds what it held
/// without.
#[test]
fn pods_of_other_nodes_cost_nothing() -> Result<()> {
    let Some((env, _lock)) = environment(&[cluster::missing()])? else {
        return Ok(());
    };
    /// Pages that are in use by chance.
    const NOISE: u64 = 1 << 20;
    let cluster = Cluster::start()?;
    let (kubeconfig, _) = cluster.kubeconfig(TOKEN, "ca")?;
    let kubeconfig = kubeconfig.to_str().context("a path")?;
    let uids = make(&cluster, NODE, 0..250)?;
    let measure = || -> Result<u64> {
        let args = [
            "--kubeconfig",
            kubeconfig,
            "--node-name",
            NODE,
            "--heartbeat",
            "1s",
        ];
        let mut tracer = Tracer::start(&env, &args)?;
        tracer.wait_for("all pods", |record| {
            record["kubernetes"]["pods"].as_u64() == Some(250)
        })?;
        let event = die_in(&env, &mut tracer, &uids[7])?;
        let event = late_or(&mut tracer, event)?;
        expect(&event, &[("/victim/pod/name", Value::from(name(7)))])?;
        wait_for_quiet(&mut tracer)?;
        resident(tracer)
    };
    let alone = measure()?;
    for thousand in 1..=10 {
        make(
            &cluster,
            "another-node",
            thousand * 1000..(thousand + 1) * 1000,
        )?;
    }
    let among = measure()?;
    println!("resident: {alone} bytes with 250 pods, {among} with 10000 more on another node");
    ensure!(
        among <= alone + NOISE,
        "{among} bytes, {alone} without the others"
    );
    Ok(())
}
