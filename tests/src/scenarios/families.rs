//! Victims that are more than one process of one thread.

use anyhow::{Context, Result, ensure};

use super::{LIMIT, Needs, Outcome, Scenario, compare};
use crate::{
    Env,
    cgroup::Cgroup,
    compare::{Known, Limit, Memory},
    facts::Facts,
    victim::{Look, Victim},
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
];

fn leader_has_exited(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let cgroup = Cgroup::new("leader")?;
        cgroup.limit(LIMIT)?;
        let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
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
        let seen = watch.kill_of(pid, tid)?;
        watch.outcome_of(&seen.event)?;
        watch.stop()?;
        if seen.account.report.is_none() {
            return Ok(None);
        }
        compare(
            env,
            &seen.event,
            &Known {
                victim: &facts,
                trigger: &facts,
                limit: &Limit::of(&cgroup, LIMIT)?,
                account: &seen.account,
                memory: Memory::TableAndLine,
                between: seen.between,
            },
        )?;
        Ok(Some(()))
    })?;
    Ok(Outcome::Passed)
}

fn child_dies_parent_lives(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let cgroup = Cgroup::new("family")?;
        cgroup.limit(LIMIT)?;
        let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
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
        let seen = watch.kill_of(child, child)?;
        watch.outcome_of(&seen.event)?;
        ensure!(parent.lives()?, "the parent died");
        watch.stop()?;
        if seen.account.report.is_none() {
            return Ok(None);
        }
        compare(
            env,
            &seen.event,
            &Known {
                victim: &facts,
                trigger: &facts,
                limit: &Limit::of(&cgroup, LIMIT)?,
                account: &seen.account,
                memory: Memory::TableAndLine,
                between: seen.between,
            },
        )?;
        Ok(Some(()))
    })?;
    Ok(Outcome::Passed)
}
