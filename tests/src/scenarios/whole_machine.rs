//! The whole machine runs out of memory. Only on a machine of one's own: the kernel may take
//! anybody.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{Needs, Outcome, Scenario};
use crate::{
    Env,
    cgroup::Cgroup,
    compare::whole_machine::{self, Known, Shortage},
    facts::Facts,
    machine::{Swap, meminfo, share_of_available},
    victim::{Look, Victim},
    watch::{Watch, with_report},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "machine_without_swap",
        shows: "The whole machine runs out of memory, without swap: scope, zones, and the ranking \
                of everybody are the kernel's.",
        needs: Needs::Machine,
        run: machine_without_swap,
    },
    Scenario {
        name: "machine_with_swap",
        shows: "The whole machine runs out of memory and swap: what is in swap counts.",
        needs: Needs::Machine,
        run: machine_with_swap,
    },
];

/// A process that takes a share of the machine's memory and stands still.
struct Player {
    process: Victim,
    facts: Facts,
}

impl Player {
    fn start(env: &Env, cgroup: &Cgroup, name: &str, adj: i32, mib: u64) -> Result<Self> {
        let look = Look {
            comm: Some(name.as_bytes()),
            oom_score_adj: Some(adj),
            ..Look::default()
        };
        let process = Victim::start(env, cgroup, &look, &["hold", &mib.to_string()])?;
        let facts = Facts::of(process.pid(), cgroup)?;
        Ok(Self { process, facts })
    }

    fn holding(mut self) -> Result<Self> {
        self.process.go()?;
        self.process.says("holding")?;
        Ok(self)
    }
}

/// All the memory there is, and swap.
fn everything() -> Result<u64> {
    Ok(meminfo("MemTotal")? + meminfo("SwapTotal")?)
}

fn machine_without_swap(env: &Env) -> Result<Outcome> {
    ensure!(meminfo("SwapTotal")? == 0, "somebody left swap behind");
    with_report(|| machine_runs_out(env))?;
    Ok(Outcome::Passed)
}

fn machine_with_swap(env: &Env) -> Result<Outcome> {
    let _swap = Swap::on()?;
    with_report(|| {
        let Some(event) = machine_runs_out(env)? else {
            return Ok(None);
        };
        let swapped = event["victim"]["memory"]["swap_bytes"].as_u64();
        ensure!(
            swapped > Some(0),
            "nothing was in swap: it was no fair test"
        );
        Ok(Some(()))
    })?;
    Ok(Outcome::Passed)
}

/// A big process dies because another one takes what is left. The event, compared in full; none
/// where the kernel did not print its report.
fn machine_runs_out(env: &Env) -> Result<Option<Value>> {
    let cgroup = Cgroup::new("machine")?;
    let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
    let mib = share_of_available;
    let (big, middle, much) = (mib(45)?, mib(15)?, mib(60)?);
    let mut big = Player::start(env, &cgroup, "big", 0, big)?.holding()?;
    let middle = Player::start(env, &cgroup, "middle", 50, middle)?.holding()?;
    let mut eater = Player::start(env, &cgroup, "eater", -500, much)?;
    eater.process.go()?;
    big.process.dies()?;
    let seen = watch.kill_of(big.facts.pid, big.facts.tid)?;
    watch.outcome_of(&seen.event)?;
    // The kernel takes another one if the first gives its memory back too late.
    if eater.process.says("holding").is_err() {
        return Ok(None);
    }
    watch.stop()?;
    let Some(report) = &seen.account.report else {
        return Ok(None);
    };
    let ours = [&big, &middle, &eater].map(|player| player.facts.clone());
    whole_machine::whole(
        &seen.event,
        &Known {
            victim: &big.facts,
            ours: &ours,
            shortage: Shortage::of_the_machine(everything()?),
            account: &seen.account,
            report,
            group: false,
            compared: true,
            between: seen.between,
        },
    )?;
    Ok(Some(seen.event))
}
