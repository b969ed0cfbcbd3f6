//! Many processes in one cgroup.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{MIB, Needs, Outcome, Scenario, merges_the_log};
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
        name: "twenty_die_one_after_another",
        shows: "Twenty processes of one cgroup die one after another: twenty decisions, each with \
                its own candidates.",
        needs: Needs::Nothing,
        run: twenty_die_one_after_another,
    },
    Scenario {
        name: "twenty_die_as_a_group",
        shows: "With memory.oom.group twenty processes die by one decision, and share its oom_id.",
        needs: Needs::CgroupV2,
        run: twenty_die_as_a_group,
    },
];

const COUNT: usize = 20;
/// Each of them holds this before it is its turn.
const SHARE: u64 = 2 * MIB;
const LIMIT: u64 = (COUNT as u64 + 20) * SHARE;

fn sleepers(env: &Env, cgroup: &Cgroup) -> Result<Vec<Victim>> {
    let mut sleepers = Vec::with_capacity(COUNT);
    let share = (SHARE / MIB).to_string();
    for number in 0..COUNT {
        let name = format!("member {number}");
        let look = Look {
            comm: Some(name.as_bytes()),
            // Some count for more than they hold; the eater still is far ahead.
            oom_score_adj: Some(i32::try_from(number % 3)? * 7),
            ..Look::default()
        };
        let mut sleeper = Victim::start(env, cgroup, &look, &["hold", &share])?;
        sleeper.go()?;
        sleeper.says("holding")?;
        sleepers.push(sleeper);
    }
    Ok(sleepers)
}

fn twenty_die_one_after_another(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let cgroup = Cgroup::new("twenty")?;
        cgroup.limit(LIMIT)?;
        let limit = Limit::of(&cgroup, LIMIT)?;
        let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
        let mut in_full = 0;
        let mut decisions = std::collections::BTreeSet::new();
        for mut sleeper in sleepers(env, &cgroup)? {
            let facts = Facts::of(sleeper.pid(), &cgroup)?;
            sleeper.go()?;
            sleeper.dies()?;
            let seen = watch.kill_of(facts.pid, facts.tid)?;
            if !seen.is_merged() {
                return Ok(None);
            }
            watch.outcome_of(&seen.event)?;
            let known = Known {
                victim: &facts,
                trigger: &facts,
                limit: &limit,
                account: &seen.account,
                memory: Memory::TableAndLine,
                between: seen.between,
            };
            // The kernel prints ten reports in five seconds: of the rest the event knows the
            // victim, and says null to what only the report tells.
            if seen.account.report.is_some() && merges_the_log(env) {
                in_full += 1;
                compare::whole(&seen.event, &known)?;
            } else {
                compare::without_report(&seen.event, &known)?;
            }
            decisions.insert(seen.event["oom_id"].to_string());
        }
        ensure!(decisions.len() == COUNT, "{} decisions", decisions.len());
        let ended = watch.stop()?;
        let totals = &ended.farewell()?["totals"];
        ensure!(totals["kills"].as_u64() >= Some(COUNT as u64), "{totals}");
        let counted = cgroup.oom_kills()?;
        ensure!(counted == COUNT as u64, "the cgroup counted {counted}");
        Ok((in_full > 0 || !merges_the_log(env)).then_some(()))
    })?;
    Ok(Outcome::Passed)
}

fn twenty_die_as_a_group(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let cgroup = Cgroup::new("group")?;
        cgroup.limit(LIMIT)?;
        cgroup.kill_as_a_group()?;
        let limit = Limit {
            oom_group: true,
            ..Limit::of(&cgroup, LIMIT)?
        };
        let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
        let mut members = sleepers(env, &cgroup)?;
        let facts: Vec<Facts> = members
            .iter()
            .map(|member| Facts::of(member.pid(), &cgroup))
            .collect::<Result<_>>()?;
        let eater = members.len() / 2;
        members[eater].go()?;
        for member in &mut members {
            member.dies()?;
        }
        let trigger = &facts[eater];
        let chosen = watch.kill_of(trigger.pid, trigger.tid)?;
        let report = chosen.account.report.clone();
        let mut indices = Vec::new();
        for victim in &facts {
            let mut seen = watch.kill_of(victim.pid, victim.tid)?;
            if !seen.is_merged() {
                return Ok(None);
            }
            let event = &seen.event;
            ensure!(
                event["oom_id"] == chosen.event["oom_id"] || !compare::decision_is_hooked(event),
                "{} belongs to another decision",
                victim.pid
            );
            let is_chosen = victim.pid == trigger.pid;
            if compare::decision_is_hooked(event) {
                let role = if is_chosen { "chosen" } else { "group_member" };
                ensure!(event["victim"]["role"] == role, "{role} expected: {event}");
                ensure!(event["oom"]["memcg"]["oom_group"] == true, "{event}");
                indices.extend(event["oom"]["victim_index"].as_u64());
            }
            let counted = compare::decision_end_is_hooked(event).then_some(COUNT);
            ensure!(
                event["oom"]["victim_count"] == Value::from(counted),
                "{event}"
            );
            // The kernel prints one report, before the first of them.
            seen.account.report.clone_from(&report);
            if report.is_some()
                && merges_the_log(env)
                && (is_chosen || compare::decision_is_hooked(event))
            {
                let known = Known {
                    victim,
                    trigger,
                    limit: &limit,
                    account: &seen.account,
                    memory: if is_chosen {
                        Memory::TableAndLine
                    } else {
                        Memory::Table
                    },
                    between: seen.between,
                };
                let mut event = seen.event.clone();
                if !is_chosen {
                    // What only the report tells is with the chosen one.
                    event["oom"]["memcg"]["stat"] = chosen.event["oom"]["memcg"]["stat"].clone();
                }
                compare::whole(&event, &known)?;
            }
        }
        indices.sort_unstable();
        ensure!(
            indices.is_empty() || indices.iter().copied().eq(0..COUNT as u64),
            "victim_index: {indices:?}"
        );
        let ended = watch.stop()?;
        let counts = &ended.farewell()?["reconciliation"];
        // The group scan walks over the chosen one again, and the cgroup counts it again.
        let repeated = counts["repeated"].as_u64().context("repeated")?;
        ensure!(repeated >= 1, "{counts}");
        let counted = cgroup.oom_kills()?;
        ensure!(
            counted == COUNT as u64 + repeated,
            "the cgroup counted {counted}, with {repeated} repeated"
        );
        Ok(report.map(|_| ()))
    })?;
    Ok(Outcome::Passed)
}
