//! The lower rungs of the hook ladder.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{LIMIT, Needs, Outcome, Scenario, limited};
use crate::{
    Env,
    cgroup::Cgroup,
    compare::{self, Known, Memory},
    facts::Facts,
    victim::{Look, Victim},
    watch::{Watch, with_report},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "first_rung_alone",
        shows: "With the first rung alone the victim's facts are right, and what only higher rungs \
                tell is null.",
        needs: Needs::AllHooks,
        run: first_rung_alone,
    },
    Scenario {
        name: "kprobes_instead_of_fentry",
        shows: "Where fentry is not to be had, kprobes tell the same.",
        needs: Needs::AllHooks,
        run: kprobes_instead_of_fentry,
    },
    Scenario {
        name: "hooks_are_in_every_event",
        shows: "What is attached is in the start record and in every event; why a rung is missing \
                is said.",
        needs: Needs::AllHooks,
        run: hooks_are_in_every_event,
    },
];

fn first_rung_alone(env: &Env) -> Result<Outcome> {
    let (cgroup, limit) = limited("rung", &[])?;
    let mut watch = Watch::start(env, &["--heartbeat", "12s", "--hooks", "raw_tp"])?;
    let mut victim = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
    let facts = Facts::of(victim.pid(), &cgroup)?;
    victim.go()?;
    victim.dies()?;
    let seen = watch.kill_of(facts.pid, facts.tid)?;
    let event = &seen.event;
    ensure!(
        event["source"]["merged"] == serde_json::json!([]),
        "{}",
        event["source"]
    );
    ensure!(event["oom"]["message"].is_null(), "{}", event["oom"]);
    let known = Known {
        victim: &facts,
        trigger: &facts,
        limit: &limit,
        account: &seen.account,
        memory: Memory::TableAndLine,
        between: seen.between,
    };
    compare::without_report(event, &known)?;
    // What became of the victim nobody watched: not even that it would not die may be said. The
    // heartbeat comes when a victim would be reported as stuck, after ten seconds.
    watch
        .tracer
        .wait_for("the heartbeat", |record| record["phase"] == "heartbeat")?;
    let ended = watch.stop()?;
    let outcome = ended.of_kind("oom_outcome").next();
    ensure!(
        outcome.is_none() || compare::exits_are_hooked(event),
        "no hook tells it: {outcome:?}"
    );
    Ok(Outcome::Passed)
}

fn kprobes_instead_of_fentry(env: &Env) -> Result<Outcome> {
    if !Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        return Ok(Outcome::Skipped("this kernel has no kprobes".to_owned()));
    }
    with_report(|| {
        let (cgroup, limit) = limited("kprobes", &[])?;
        let hooks = "kprobe,candidates,outcome,kmsg";
        let mut watch = Watch::start(env, &["--heartbeat", "0", "--hooks", hooks])?;
        let mut victim = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
        let facts = Facts::of(victim.pid(), &cgroup)?;
        victim.go()?;
        victim.dies()?;
        let seen = watch.kill_of(facts.pid, facts.tid)?;
        watch.outcome_of(&seen.event)?;
        watch.stop()?;
        let hooks = seen.event["source"]["hooks"].as_array();
        for hook in ["kprobe:oom_kill_process", "kretprobe:oom_kill_process"] {
            ensure!(
                hooks.is_some_and(|hooks| hooks.iter().any(|name| name == hook)),
                "no {hook}: {}",
                seen.event["source"]
            );
        }
        if seen.report().is_none() {
            return Ok(None);
        }
        compare::whole(
            &seen.event,
            &Known {
                victim: &facts,
                trigger: &facts,
                limit: &limit,
                account: &seen.account,
                memory: Memory::TableAndLine,
                between: seen.between,
            },
        )?;
        Ok(Some(()))
    })?;
    Ok(Outcome::Passed)
}

fn hooks_are_in_every_event(env: &Env) -> Result<Outcome> {
    let cgroup = Cgroup::new("hooks")?;
    cgroup.limit(LIMIT)?;
    let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
    let mut victim = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
    victim.go()?;
    victim.dies()?;
    watch.kill_of(victim.pid(), victim.pid())?;
    let ended = watch.stop()?;
    let start = ended.records.first().context("no start")?;
    let ladder = start["hooks"].as_array().context("no hooks")?;
    let attached: Vec<_> = ladder
        .iter()
        .filter(|hook| hook["attached"] == true)
        .map(|hook| hook["name"].clone())
        .collect();
    ensure!(
        attached.iter().any(|name| name == "raw_tp:mark_victim"),
        "{start}"
    );
    let never_fires = |name: &serde_json::Value| {
        name.as_str()
            .is_some_and(|name| name.ends_with(":oom_badness"))
            && !compare::candidates_are_hooked(&ended.records[1])
    };
    for record in &ended.records {
        // That a hook never fires is found out at the first kill, and said from then on.
        let told = record["source"]["hooks"].as_array();
        let fewer: Vec<_> = attached
            .iter()
            .filter(|name| !never_fires(name))
            .cloned()
            .collect();
        ensure!(
            told == Some(&attached) || (record["seq"] != 0 && told == Some(&fewer)),
            "not {attached:?}: {record}"
        );
    }
    for hook in ladder {
        let reason = hook["reason"].as_str();
        ensure!(
            (hook["attached"] == true) == reason.is_none() && reason != Some(""),
            "a rung that is missing has a reason, and only it: {hook}"
        );
    }
    Ok(Outcome::Passed)
}
