//! Long cgroup paths.

use anyhow::{Result, ensure};

use super::{LIMIT, MIB, Needs, Outcome, Scenario, dies_in, limited, merges_the_log};
use crate::{
    Env,
    cgroup::Cgroup,
    compare::{self, Known, Limit, Memory},
    facts::Facts,
    victim::{Look, Victim},
    watch::{Watch, with_report},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "deep_path",
        shows: "A cgroup twelve levels deep, whose path the kernel's own line cuts off: the event \
                has it whole.",
        needs: Needs::Nothing,
        run: deep_path,
    },
    Scenario {
        name: "long_names",
        shows: "Cgroup names of 200 bytes: they are whole in the event.",
        needs: Needs::Nothing,
        run: long_names,
    },
    Scenario {
        name: "limit_of_an_ancestor",
        shows: "The limit that was hit is an ancestor's: it is told apart from the victim's own \
                cgroup.",
        needs: Needs::Nothing,
        run: limit_of_an_ancestor,
    },
    Scenario {
        name: "limit_over_siblings",
        shows: "Below the limit that was hit is a sibling that holds more in small processes: the \
                biggest process dies, and all are candidates, each of its own cgroup.",
        needs: Needs::Nothing,
        run: limit_over_siblings,
    },
];

fn deep_path(env: &Env) -> Result<Outcome> {
    let names: Vec<String> = (1..12)
        .map(|level| format!("level-{level:02}-{}", "x".repeat(91)))
        .collect();
    let account = with_report(|| {
        let (cgroup, limit) = limited("deep", &names)?;
        dies_in(env, &cgroup, &limit, &Look::default(), &["eat"])
    })?
    .1;
    let cut = account
        .report
        .is_some_and(|report| report.constraint.pid.is_none());
    ensure!(cut, "the kernel did not cut its line: it was no fair test");
    Ok(Outcome::Passed)
}

fn long_names(env: &Env) -> Result<Outcome> {
    let names = ["a".repeat(200), "b".repeat(200)];
    with_report(|| {
        let (cgroup, limit) = limited("long", &names)?;
        dies_in(env, &cgroup, &limit, &Look::default(), &["eat"])
    })?;
    Ok(Outcome::Passed)
}

fn limit_over_siblings(env: &Env) -> Result<Outcome> {
    const LIMIT: u64 = 40 * MIB;
    let names = ["middle".to_owned(), "inner".to_owned()];
    let hold = |cgroup: &Cgroup, name: &str, mib: &str| -> Result<(Victim, Facts)> {
        let look = Look {
            comm: Some(name.as_bytes()),
            ..Look::default()
        };
        let mut process = Victim::start(env, cgroup, &look, &["hold", mib])?;
        process.go()?;
        process.says("holding")?;
        let facts = Facts::of(process.pid(), cgroup)?;
        Ok((process, facts))
    };
    with_report(|| {
        let inner = Cgroup::nested("siblings", &names)?;
        inner.limit_level(0, LIMIT)?;
        let sibling = inner.beside(0, "sibling")?;
        let outside = Cgroup::new("outside")?;
        let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
        let mut small = ["a", "b", "c", "d"]
            .map(|name| hold(&sibling, name, "6"))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let (mut bigger, _) = hold(&outside, "bigger", "48")?;
        let mut victim = Victim::start(env, &inner, &Look::default(), &["eat"])?;
        let facts = Facts::of(victim.pid(), &inner)?;
        victim.go()?;
        victim.dies()?;
        let seen = watch.kill_of(facts.pid, facts.tid)?;
        watch.outcome_of(&seen.event)?;
        ensure!(bigger.lives()?, "one outside died, too");
        for (sibling, _) in &mut small {
            ensure!(sibling.lives()?, "a sibling died, too");
        }
        watch.stop()?;
        if seen.report().is_none() {
            return Ok(None);
        }
        let known = Known {
            victim: &facts,
            trigger: &facts,
            limit: &Limit {
                path: inner.path_of(0),
                id: inner.id_of(0)?,
                bytes: LIMIT,
                oom_group: false,
            },
            account: &seen.account,
            memory: Memory::TableAndLine,
            between: seen.between,
        };
        if merges_the_log(env) {
            let siblings = small.iter().map(|(_, facts)| facts.clone());
            let all: Vec<Facts> = std::iter::once(facts.clone()).chain(siblings).collect();
            compare::whole_among(&seen.event, &known, &all)?;
            let total = &seen.event["candidates"]["total"];
            ensure!(*total == 5, "{total} candidates");
        } else {
            compare::without_report(&seen.event, &known)?;
        }
        Ok(Some(()))
    })?;
    Ok(Outcome::Passed)
}

fn limit_of_an_ancestor(env: &Env) -> Result<Outcome> {
    let names = ["middle".to_owned(), "inner".to_owned()];
    with_report(|| {
        let cgroup = Cgroup::nested("ancestor", &names)?;
        cgroup.limit_level(1, LIMIT)?;
        let limit = Limit {
            path: cgroup.path_of(1),
            id: cgroup.id_of(1)?,
            bytes: LIMIT,
            oom_group: false,
        };
        dies_in(env, &cgroup, &limit, &Look::default(), &["eat"])
    })?;
    Ok(Outcome::Passed)
}
