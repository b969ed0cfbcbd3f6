//! Many kills in a short time.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{MIB, Needs, Outcome, Scenario};
use crate::{
    Env,
    cgroup::Cgroup,
    compare, read,
    tracer::{Ended, Tracer},
    victim::{Look, Victim},
    wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "storm_of_500",
        shows: "500 kills as fast as one parent can cause them: each is seen once, and none is \
                lost.",
        needs: Needs::Nothing,
        run: storm_of_500,
    },
    Scenario {
        name: "storm_5000",
        shows: "5,000 kills in one storm: what is seen and what is declared lost is what the kernel \
                counted.",
        needs: Needs::ToBeAskedFor,
        run: storm_5000,
    },
    Scenario {
        name: "a_trigger_outlives_its_victims",
        shows: "One task asks for memory again and again, and another one dies each time: the next \
                is not taken for one that shares the memory of the last.",
        needs: Needs::Nothing,
        run: a_trigger_outlives_its_victims,
    },
    Scenario {
        name: "losses_are_counted",
        shows: "When the tracer stands still and its buffer is small, records are lost; how many \
                is exact.",
        needs: Needs::Nothing,
        run: losses_are_counted,
    },
];

/// The kernel frees some of what it needed for a process only after a while, so 500 of them need
/// room.
const STORM_LIMIT: u64 = 12 * MIB;

/// Causes `kills` kills, one child of the same parent after another, and names the victims.
fn storm(env: &Env, kills: usize) -> Result<BTreeSet<u64>> {
    let cgroup = Cgroup::new("storm")?;
    cgroup.limit(STORM_LIMIT)?;
    let look = Look {
        comm: Some(b"storm"),
        ..Look::default()
    };
    let mut parent = Victim::start(env, &cgroup, &look, &["storm", &kills.to_string()])?;
    parent.go()?;
    let victims = parent.says_while("killed", oom_kills)?;
    parent.go()?;
    parent.end()?;
    ensure!(victims.len() == kills, "{} victims", victims.len());
    Ok(victims.into_iter().map(u64::from).collect())
}

/// The kernel's count.
pub(super) fn oom_kills() -> Result<u64> {
    read("/proc/vmstat")?
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
        .context("/proc/vmstat has no oom_kill")
}

/// The kernel's counter around a run of the tracer.
pub(super) struct Counted {
    /// Growth while the tracer certainly watched.
    pub least: u64,
    /// Growth while it may have watched.
    pub most: u64,
}

impl Counted {
    /// Whether the tracer's count of what the kernel counted agrees. Only kills of others at the
    /// very start or end of the run can make `least` and `most` differ.
    pub fn agrees(&self, ended: &Ended) -> Result<()> {
        let counts = &ended.farewell()?["reconciliation"];
        let kernel = counts["kernel_oom_kills"]
            .as_u64()
            .context("kernel_oom_kills")?;
        ensure!(
            (self.least..=self.most).contains(&kernel),
            "the kernel counted {} to {}: {counts}",
            self.least,
            self.most
        );
        let part = |name: &str| counts[name].as_u64().with_context(|| name.to_owned());
        let told = part("seen")? + part("repeated")? + part("lost")?;
        ensure!(
            told == kernel && counts["unaccounted"] == 0,
            "they do not add up: {counts}"
        );
        let kills = ended.of_kind("oom_kill").count() as u64;
        ensure!(part("seen")? == kills, "{kills} records: {counts}");
        Ok(())
    }
}

/// Storms of 500 kills, all of which the tracer accounts for; what it wrote, and the victims.
fn accounted_for(env: &Env, storms: u64) -> Result<(Ended, BTreeSet<u64>)> {
    let before = oom_kills()?;
    let tracer = Tracer::start(env, &["--heartbeat", "0"])?;
    let attached = oom_kills()?;
    let mut victims = BTreeSet::new();
    for _ in 0..storms {
        victims.append(&mut storm(env, 500)?);
    }
    let over = oom_kills()?;
    let ended = tracer.stop()?;
    Counted {
        least: over - attached,
        most: oom_kills()? - before,
    }
    .agrees(&ended)?;
    ensure!(
        over - attached >= 500 * storms,
        "the kernel counted {} kills",
        over - attached
    );
    Ok((ended, victims))
}

fn storm_5000(env: &Env) -> Result<Outcome> {
    let (ended, victims) = accounted_for(env, 10)?;
    let mut seen = BTreeSet::new();
    for kill in ended.of_kind("oom_kill") {
        let id = kill["event_id"].as_str().context("event_id")?;
        ensure!(seen.insert(id), "{id} was told twice");
    }
    let told: BTreeSet<u64> = ended
        .of_kind("oom_kill")
        .filter_map(|kill| kill["victim"]["pid"].as_u64())
        .collect();
    let missed = victims.difference(&told).count() as u64;
    let lost = &ended.farewell()?["reconciliation"]["lost"];
    ensure!(
        lost.as_u64() >= Some(missed),
        "{missed} victims are missing, and {lost} declared lost"
    );
    Ok(Outcome::Passed)
}

fn storm_of_500(env: &Env) -> Result<Outcome> {
    let (ended, victims) = accounted_for(env, 1)?;
    ensure!(
        ended
            .of_kind("loss")
            .all(|loss| loss["place"] == "kernel_log"),
        "records were lost"
    );
    ensure!(
        ended.farewell()?["totals"]["lost"] == 0,
        "{}",
        ended.farewell()?["totals"]
    );

    let ours = |kind| {
        ended
            .of_kind(kind)
            .filter(|record| {
                record["victim"]["pid"]
                    .as_u64()
                    .is_some_and(|pid| victims.contains(&pid))
            })
            .collect::<Vec<_>>()
    };
    let (kills, outcomes) = (ours("oom_kill"), ours("oom_outcome"));
    ensure!(kills.len() == 500, "{} records of 500 victims", kills.len());
    let ids: BTreeSet<&str> = kills
        .iter()
        .filter_map(|kill| kill["event_id"].as_str())
        .collect();
    let decisions: BTreeSet<&str> = kills
        .iter()
        .filter_map(|kill| kill["oom_id"].as_str())
        .collect();
    ensure!(
        (ids.len(), decisions.len()) == (500, 500),
        "an id is not unique"
    );
    let told = kills
        .first()
        .is_some_and(|kill| compare::exits_are_hooked(kill));
    let expected = if told { 500 } else { 0 };
    ensure!(
        outcomes.len() == expected,
        "{} outcomes of 500 victims",
        outcomes.len()
    );
    for kill in kills {
        ensure!(
            kill["victim"]["comm"] == "storm" && kill["victim"]["memory"].is_object(),
            "{kill}"
        );
        if told {
            let id = &kill["event_id"];
            let outcome = outcomes
                .iter()
                .find(|outcome| outcome["victim_event_id"] == *id);
            compare::outcome(kill, outcome.context("a kill without an outcome")?)?;
        }
    }
    Ok(Outcome::Passed)
}

fn a_trigger_outlives_its_victims(env: &Env) -> Result<Outcome> {
    const KILLS: usize = 30;
    let tracer = Tracer::start(env, &["--heartbeat", "0"])?;
    let cgroup = Cgroup::new("outlives")?;
    cgroup.limit(STORM_LIMIT)?;
    let mut trigger = Victim::start(
        env,
        &cgroup,
        &Look::default(),
        &["outlives", &KILLS.to_string()],
    )?;
    trigger.runs_on_the_first_processor(true)?;
    trigger.go()?;
    let victims: Vec<u64> = trigger
        .says_while("killed", oom_kills)?
        .into_iter()
        .map(u64::from)
        .collect();
    trigger.go()?;
    trigger.end()?;
    let ended = tracer.stop()?;
    let told: Vec<u64> = ended
        .of_kind("oom_kill")
        .filter_map(|kill| kill["victim"]["pid"].as_u64())
        .filter(|pid| victims.contains(pid))
        .collect();
    ensure!(told == victims, "told of {told:?} and not of {victims:?}");
    let totals = &ended.farewell()?["totals"];
    ensure!(totals["mm_sharers"] == 0, "they share nothing: {totals}");
    Ok(Outcome::Passed)
}

fn losses_are_counted(env: &Env) -> Result<Outcome> {
    let before = oom_kills()?;
    // The smallest there is.
    let page_kib = (rustix::param::page_size() / 1024).to_string();
    let mut tracer = Tracer::start(env, &["--heartbeat", "0", "--ring-buffer", &page_kib])?;
    let attached = oom_kills()?;
    tracer.signal(Signal::STOP)?;
    let status = format!("/proc/{}/stat", tracer.pid());
    wait_for("the tracer to stand still", || {
        Ok(read(&status)?.contains(") T ").then_some(()))
    })?;
    let victims = storm(env, 100)?;
    tracer.signal(Signal::CONT)?;
    tracer.wait_for("the loss", |record| {
        record["kind"] == "loss" && record["place"] == "ring_buffer"
    })?;
    let over = oom_kills()?;
    let ended = tracer.stop()?;
    Counted {
        least: over - attached,
        most: oom_kills()? - before,
    }
    .agrees(&ended)?;

    let losses: Vec<_> = ended
        .of_kind("loss")
        .filter(|loss| loss["place"] == "ring_buffer")
        .collect();
    let sum = |field: &str| -> u64 { losses.iter().filter_map(|loss| loss[field].as_u64()).sum() };
    let (lost, lost_kills) = (sum("lost"), sum("lost_kills"));
    let kills = ended.of_kind("oom_kill").count() as u64;
    let counted = over - attached;
    let counts = &ended.farewell()?["reconciliation"];
    ensure!(lost_kills > 0, "nothing was lost: it was no fair test");
    ensure!(
        counts["lost"] == lost_kills,
        "the losses tell of {lost_kills}: {counts}"
    );
    ensure!(
        kills + lost_kills >= counted,
        "{kills} kills and {lost_kills} lost make less than {counted}"
    );
    let total = &losses.last().context("no loss")?["lost_total"];
    ensure!(*total == lost, "lost_total is {total} and not {lost}");
    ensure!(
        ended.farewell()?["totals"]["lost"] == lost,
        "{}",
        ended.farewell()?["totals"]
    );
    let seen: Vec<u64> = ended
        .of_kind("oom_kill")
        .filter_map(|kill| kill["victim"]["pid"].as_u64())
        .filter(|pid| victims.contains(pid))
        .collect();
    let once: BTreeSet<u64> = seen.iter().copied().collect();
    ensure!(seen.len() == once.len(), "a victim was seen twice");
    Ok(Outcome::Passed)
}
