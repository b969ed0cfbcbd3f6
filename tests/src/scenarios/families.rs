//! Victims that are more than one process of one thread.

use anyhow::{Context, Result, ensure};

use super::{Needs, Outcome, Scenario, compare, died_of_itself, limited};
use crate::{
    Env,
    compare::{self as comparison, Known, Memory},
    facts::Facts,
    victim::{Look, Victim},
    wait_for,
    watch::{Watch, with_report},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "leader_has_exited",
        shows: "A worker thread in a process whose leader has exited: pid is the process, tid the \
                thread, and the memory is not null.",
        needs: Needs::Nothing,
        run: leader_has_exited,
    },
    Scenario {
        name: "child_dies_parent_lives",
        shows: "A child dies while its parent lives in the same cgroup: the event is about the \
                child.",
        needs: Needs::Nothing,
        run: child_dies_parent_lives,
    },
    Scenario {
        name: "mm_sharer",
        shows: "A process that shares the victim's memory dies with it, though the kernel neither \
                says nor counts it: a record of its own, with the same oom_id.",
        needs: Needs::Nothing,
        run: mm_sharer,
    },
];

fn leader_has_exited(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let (cgroup, limit) = limited("leader", &[])?;
        let watch = Watch::start(env, &["--heartbeat", "0"])?;
        let mut victim = Victim::start(env, &cgroup, &Look::default(), &["leader-exits"])?;
        let pid = victim.pid();
        victim.go()?;
        let tid = *victim
            .says("worker")?
            .first()
            .context("the worker did not tell its id")?;
        ensure!(tid != pid, "the worker is the leader");
        let facts = Facts::of_thread(pid, tid, &cgroup)?;
        ensure!(
            facts.comm == b"worker",
            "the worker is named {:?}",
            facts.comm
        );
        victim.go()?;
        victim.dies()?;
        died_of_itself(env, watch, &facts, &limit)
    })?;
    Ok(Outcome::Passed)
}

fn child_dies_parent_lives(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let (cgroup, limit) = limited("family", &[])?;
        let watch = Watch::start(env, &["--heartbeat", "0"])?;
        let mut parent = Victim::start(env, &cgroup, &Look::default(), &["parent"])?;
        parent.go()?;
        let child = *parent
            .says("child")?
            .first()
            .context("the child did not tell its id")?;
        let facts = Facts::of(child, &cgroup)?;
        ensure!(facts.ppid == parent.pid(), "the child has another parent");
        parent.go()?;
        parent.says("survived")?;
        ensure!(parent.lives()?, "the parent died");
        died_of_itself(env, watch, &facts, &limit)
    })?;
    Ok(Outcome::Passed)
}

fn mm_sharer(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let (cgroup, limit) = limited("sharer", &[])?;
        let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
        let mut eater = Victim::start(env, &cgroup, &Look::default(), &["shared-mm"])?;
        eater.go()?;
        let other = *eater
            .says("sharer")?
            .first()
            .context("it did not tell the other's id")?;
        let both = [Facts::of(eater.pid(), &cgroup)?, Facts::of(other, &cgroup)?];
        eater.go()?;
        eater.dies()?;
        // They have the same points; the kernel says which one it took.
        let chosen = wait_for("the kernel's word", || {
            watch.log.read()?;
            let accounts = watch.log.accounts()?;
            Ok(accounts
                .iter()
                .find_map(|account| both.iter().find(|facts| facts.tid == account.killed.pid)))
        })?;
        let sharer = both
            .iter()
            .find(|facts| facts.pid != chosen.pid)
            .context("the other one")?;
        let seen = watch.kill_of(chosen.pid, chosen.tid)?;
        let event = watch.tracer.wait_for("the other's record", |record| {
            record["kind"] == "oom_kill" && record["victim"]["pid"] == sharer.pid
        })?;
        for event in [&seen.event, &event] {
            watch.outcome_of(event)?;
        }
        watch.log.read()?;
        let told = watch.log.accounts()?;
        ensure!(
            !told.iter().any(|account| account.killed.pid == sharer.tid),
            "the kernel says that it killed {}: it was no fair test",
            sharer.pid
        );
        let ended = watch.stop()?;
        let totals = &ended.farewell()?["totals"];
        ensure!(totals["mm_sharers"] == 1, "{totals}");
        if seen.report().is_none() {
            return Ok(None);
        }
        let known = Known {
            victim: chosen,
            trigger: &both[0],
            limit: &limit,
            account: &seen.account,
            memory: Memory::Table,
            between: seen.between,
        };
        compare(env, &seen.event, &known)?;
        comparison::mm_sharer(&event, &seen.event, sharer, &known)?;
        Ok(Some(()))
    })?;
    Ok(Outcome::Passed)
}
