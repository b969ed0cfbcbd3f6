//! How the tracer lives and ends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{LIMIT, Needs, Outcome, Scenario};
use crate::{
    Env,
    cgroup::Cgroup,
    tracer::{Ended, Tracer},
    victim::{Look, Victim},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "status_records",
        shows: "Start, heartbeats and stop tell what was seen, and account for every kill.",
        needs: Needs::Nothing,
        run: status_records,
    },
    Scenario {
        name: "signals_end_it_well",
        shows: "SIGINT and SIGTERM end it with a status record and exit status 0.",
        needs: Needs::Nothing,
        run: signals_end_it_well,
    },
    Scenario {
        name: "max_events",
        shows: "--max-events 1 ends it after one kill.",
        needs: Needs::Nothing,
        run: max_events,
    },
    Scenario {
        name: "duration",
        shows: "--duration 1s ends it after one second.",
        needs: Needs::Nothing,
        run: duration,
    },
    Scenario {
        name: "capabilities_are_dropped",
        shows: "Once attached it has no capabilities left, and still sees kills.",
        needs: Needs::Nothing,
        run: capabilities_are_dropped,
    },
];

/// Has one process die.
fn one_kill(env: &Env, label: &str) -> Result<u32> {
    let cgroup = Cgroup::new(label)?;
    cgroup.limit(LIMIT)?;
    let mut victim = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
    victim.go()?;
    victim.dies()?;
    Ok(victim.pid())
}

fn ended_well(ended: &Ended, reason: &str) -> Result<()> {
    ensure!(
        ended.status.code() == Some(0),
        "it ended with {}: {}",
        ended.status,
        ended.stderr
    );
    let farewell = ended.farewell()?;
    ensure!(
        farewell["reason"] == reason,
        "the reason is {}",
        farewell["reason"]
    );
    ensure!(
        farewell["reconciliation"]["unaccounted"] == 0,
        "{}",
        farewell["reconciliation"]
    );
    Ok(())
}

fn status_records(env: &Env) -> Result<Outcome> {
    let started = Instant::now();
    let mut tracer = Tracer::start(env, &["--heartbeat", "1s"])?;
    let beats = |record: &serde_json::Value| record["phase"] == "heartbeat";
    tracer.wait_for("a heartbeat", beats)?;
    ensure!(
        started.elapsed() >= Duration::from_secs(1),
        "it came too early"
    );
    let pid = one_kill(env, "status")?;
    let kill = tracer.wait_for("the kill", |record| {
        record["kind"] == "oom_kill" && record["victim"]["pid"] == pid
    })?;
    let told = tracer.wait_for("a heartbeat after the kill", |record| {
        beats(record) && record["seq"].as_u64() > kill["seq"].as_u64()
    })?;
    let ended = tracer.stop()?;
    ended_well(&ended, "SIGTERM")?;
    let before = ended
        .of_kind("oom_kill")
        .filter(|kill| kill["seq"].as_u64() < told["seq"].as_u64())
        .count();
    ensure!(
        told["totals"]["kills"] == before,
        "{before} kills: {}",
        told["totals"]
    );

    let phases: Vec<_> = ended
        .of_kind("status")
        .map(|status| status["phase"].clone())
        .collect();
    ensure!(
        phases.first().is_some_and(|phase| phase == "start")
            && phases
                .iter()
                .filter(|phase| *phase == "start" || *phase == "stop")
                .count()
                == 2,
        "{phases:?}"
    );
    let runs = ended
        .records
        .iter()
        .all(|record| record["run_id"] == ended.records[0]["run_id"]);
    ensure!(runs, "run_id changes");
    let farewell = ended.farewell()?;
    for (total, kind) in [
        ("kills", "oom_kill"),
        ("marks", "oom_mark"),
        ("outcomes", "oom_outcome"),
    ] {
        let count = ended.of_kind(kind).count();
        ensure!(
            farewell["totals"][total] == count,
            "{count} {total}: {}",
            farewell["totals"]
        );
    }
    for status in ended.of_kind("status") {
        let resident = status["resident_bytes"]
            .as_u64()
            .context("resident_bytes")?;
        ensure!(resident > 1 << 20, "{resident} bytes are resident");
        ensure!(
            status["limits"]["ring_buffer_bytes"] == 512 << 10,
            "{}",
            status["limits"]
        );
    }
    Ok(Outcome::Passed)
}

fn signals_end_it_well(env: &Env) -> Result<Outcome> {
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let tracer = Tracer::start(env, &["--heartbeat", "0"])?;
        let pid = one_kill(env, "signal")?;
        // Not waiting for the event: what happened before the signal must come out.
        tracer.signal(signal)?;
        let ended = tracer.ended()?;
        ended_well(&ended, name)?;
        let kill = ended
            .of_kind("oom_kill")
            .find(|kill| kill["victim"]["pid"] == pid);
        ensure!(kill.is_some(), "the kill before {name} is missing");
    }
    Ok(Outcome::Passed)
}

fn max_events(env: &Env) -> Result<Outcome> {
    let tracer = Tracer::start(env, &["--heartbeat", "0", "--max-events", "1"])?;
    one_kill(env, "max")?;
    let ended = tracer.ended()?;
    ended_well(&ended, "as many kills as asked for")?;
    ensure!(
        ended.of_kind("oom_kill").count() >= 1,
        "it ended without a kill"
    );
    Ok(Outcome::Passed)
}

fn duration(env: &Env) -> Result<Outcome> {
    let started = Instant::now();
    let tracer = Tracer::start(env, &["--duration", "1s"])?;
    let ended = tracer.ended()?;
    ended_well(&ended, "the duration is over")?;
    let took = started.elapsed();
    ensure!(took >= Duration::from_secs(1), "it took {took:?}");
    Ok(Outcome::Passed)
}

fn capabilities_are_dropped(env: &Env) -> Result<Outcome> {
    let mut tracer = Tracer::start(env, &["--heartbeat", "0"])?;
    let status = crate::read(format!("/proc/{}/status", tracer.pid()))?;
    for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .with_context(|| format!("status has no {name}"))?;
        ensure!(mask == "0000000000000000", "{name} is {mask}");
    }
    let pid = one_kill(env, "caps")?;
    tracer.wait_for("the kill", |record| {
        record["kind"] == "oom_kill" && record["victim"]["pid"] == pid
    })?;
    tracer.stop()?;
    Ok(Outcome::Passed)
}
