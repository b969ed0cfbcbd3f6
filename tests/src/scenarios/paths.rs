//! Long cgroup paths.

use anyhow::{Result, ensure};

use super::{LIMIT, Needs, Outcome, Scenario, dies_in};
use crate::{Env, cgroup::Cgroup, compare::Limit, victim::Look, watch::with_report};

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
];

fn deep_path(env: &Env) -> Result<Outcome> {
    let names: Vec<String> = (1..12)
        .map(|level| format!("level-{level:02}-{}", "x".repeat(91)))
        .collect();
    let account = with_report(|| {
        let cgroup = Cgroup::nested("deep", &names)?;
        cgroup.limit(LIMIT)?;
        dies_in(
            env,
            &cgroup,
            &Limit::of(&cgroup, LIMIT)?,
            &Look::default(),
            &["eat"],
        )
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
        let cgroup = Cgroup::nested("long", &names)?;
        cgroup.limit(LIMIT)?;
        dies_in(
            env,
            &cgroup,
            &Limit::of(&cgroup, LIMIT)?,
            &Look::default(),
            &["eat"],
        )
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
