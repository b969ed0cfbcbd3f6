//! The whole machine runs out of memory. Only on a machine of one's own: the kernel may take
//! anybody.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Needs, Outcome, Scenario, merges_the_log};
use crate::{
    Env,
    cgroup::Cgroup,
    compare::{
        self,
        whole_machine::{self, Known, Shortage},
    },
    facts::Facts,
    machine::{Setting, Swap, meminfo, present, share_of_available, share_of_node},
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
    Scenario {
        name: "sysrq",
        shows: "SysRq-f: the one who asked is a worker of the kernel, and nothing ran out.",
        needs: Needs::Machine,
        run: sysrq,
    },
    Scenario {
        name: "allocating_task_dies",
        shows: "vm.oom_kill_allocating_task: who asked dies, and nobody was compared.",
        needs: Needs::Machine,
        run: allocating_task_dies,
    },
    Scenario {
        name: "group_dies_for_the_machine",
        shows: "The machine runs out and a cgroup with memory.oom.group is chosen: all of it dies \
                by one decision, but for a process at -1000.",
        needs: Needs::MachineWithCgroupV2,
        run: group_dies_for_the_machine,
    },
    Scenario {
        name: "memory_policy",
        shows: "A process bound to one memory node by its policy finds it exhausted: who is bound \
                elsewhere was no candidate, however big.",
        needs: Needs::Machine,
        run: memory_policy,
    },
    Scenario {
        name: "cpuset",
        shows: "A cgroup bound to one memory node by its cpuset exhausts it: who is bound \
                elsewhere was no candidate, however big.",
        needs: Needs::MachineWithCgroupV2,
        run: cpuset,
    },
];

/// A process that takes a share of the machine's memory and stands still.
struct Player {
    process: Victim,
    facts: Facts,
}

impl Player {
    fn start(env: &Env, cgroup: &Cgroup, name: &str, adj: i32, mib: u64) -> Result<Self> {
        Self::bound(env, cgroup, None, name, adj, mib)
    }

    /// One whose memory policy binds it to a memory node.
    fn bound(
        env: &Env,
        cgroup: &Cgroup,
        node: Option<u32>,
        name: &str,
        adj: i32,
        mib: u64,
    ) -> Result<Self> {
        let look = Look {
            comm: Some(name.as_bytes()),
            oom_score_adj: Some(adj),
            policy: node,
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
        // The kernel may have swapped out others alone: that was no fair test.
        let swapped = event["victim"]["memory"]["swap_bytes"].as_u64();
        Ok((swapped > Some(0)).then_some(()))
    })?;
    Ok(Outcome::Passed)
}

/// A big process dies because another one takes what is left. The event, compared in full; none
/// where the kernel did not print its report.
fn machine_runs_out(env: &Env) -> Result<Option<Value>> {
    let cgroup = Cgroup::new("machine")?;
    let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
    let mib = share_of_available;
    let available = (meminfo("MemAvailable")?, meminfo("SwapFree")?);
    let (big, middle, much) = (mib(45)?, mib(15)?, mib(70)?);
    let mut big = Player::start(env, &cgroup, "big", 0, big)?.holding()?;
    let middle = Player::start(env, &cgroup, "middle", 50, middle)?.holding()?;
    let mut eater = Player::start(env, &cgroup, "eater", -500, much)?;
    eater.process.go()?;
    big.process.dies().with_context(|| {
        format!(
            "bytes available before, in memory and swap: {available:?}; now that it is gone: {:?}, {:?}",
            meminfo("MemAvailable"),
            meminfo("SwapFree")
        )
    })?;
    let seen = watch.kill_of(big.facts.pid, big.facts.tid)?;
    watch.outcome_of(&seen.event)?;
    // The kernel takes another one if the first gives its memory back too late.
    if eater.process.says("holding").is_err() {
        return Ok(None);
    }
    watch.stop()?;
    let Some(report) = seen.report() else {
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

fn sysrq(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let cgroup = Cgroup::new("sysrq")?;
        let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
        let mut big = Player::start(env, &cgroup, "big", 0, 64)?.holding()?;
        let mut middle = Player::start(env, &cgroup, "middle", 9, 40)?.holding()?;
        fs::write("/proc/sysrq-trigger", "f").context("SysRq-f")?;
        big.process.dies()?;
        let seen = watch.kill_of(big.facts.pid, big.facts.tid)?;
        watch.outcome_of(&seen.event)?;
        ensure!(middle.process.lives()?, "another one died, too");
        watch.stop()?;
        let Some(report) = seen.report() else {
            return Ok(None);
        };
        whole_machine::whole(
            &seen.event,
            &Known {
                victim: &big.facts,
                ours: &[&big, &middle].map(|player| player.facts.clone()),
                shortage: Shortage {
                    sysrq: true,
                    ..Shortage::of_the_machine(everything()?)
                },
                account: &seen.account,
                report,
                group: false,
                compared: true,
                between: seen.between,
            },
        )?;
        ensure!(report.header.order == -1, "{:?}", report.header);
        let trigger = &seen.event["trigger"];
        let is_worker = trigger["comm"]
            .as_str()
            .is_some_and(|comm| comm.starts_with("kworker/"));
        ensure!(
            is_worker && trigger["uid"] == 0 && trigger["cgroup"]["path"] == "/",
            "no worker of the kernel: {trigger}"
        );
        Ok(Some(()))
    })?;
    Ok(Outcome::Passed)
}

fn allocating_task_dies(env: &Env) -> Result<Outcome> {
    let _setting = Setting::set("/proc/sys/vm/oom_kill_allocating_task", "1")?;
    with_report(|| {
        let cgroup = Cgroup::new("allocating")?;
        // The tracer may be the one that asks, and only -1000 exempts it.
        let mut watch = Watch::start(env, &["--heartbeat", "0", "--oom-score-adj", "-1000"])?;
        let mib = share_of_available;
        let (big, much) = (mib(60)?, mib(60)?);
        let mut big = Player::start(env, &cgroup, "big", 0, big)?.holding()?;
        let mut eater = Player::start(env, &cgroup, "eater", 0, much)?;
        eater.process.go()?;
        // Where a task of the kernel asks, the kernel compares.
        if eater.process.says("holding").is_ok() {
            return Ok(None);
        }
        eater.process.dies()?;
        let seen = watch.kill_of(eater.facts.pid, eater.facts.tid)?;
        watch.outcome_of(&seen.event)?;
        ensure!(big.process.lives()?, "the big one died, too");
        watch.stop()?;
        let Some(report) = seen.report() else {
            return Ok(None);
        };
        whole_machine::whole(
            &seen.event,
            &Known {
                victim: &eater.facts,
                ours: &[&big, &eater].map(|player| player.facts.clone()),
                shortage: Shortage::of_the_machine(everything()?),
                account: &seen.account,
                report,
                group: false,
                compared: false,
                between: seen.between,
            },
        )?;
        ensure!(
            seen.account.killed.message == "Out of memory (oom_kill_allocating_task)",
            "the kernel compared: it was no fair test"
        );
        let event = &seen.event;
        ensure!(
            event["trigger"]["pid"] == event["victim"]["pid"]
                && event["victim"]["role"] == "chosen",
            "not the allocating task: {event}"
        );
        Ok(Some(()))
    })?;
    Ok(Outcome::Passed)
}

fn group_dies_for_the_machine(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let group = Cgroup::new("group")?;
        group.kill_as_a_group()?;
        let others = Cgroup::new("others")?;
        let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
        let mib = share_of_available;
        let (big, small, spared, much) = (mib(35)?, mib(10)?, mib(5)?, mib(70)?);
        let mut big = Player::start(env, &group, "big", 0, big)?.holding()?;
        let mut small = Player::start(env, &group, "small", 0, small)?.holding()?;
        let mut spared = Player::start(env, &group, "spared", -1000, spared)?.holding()?;
        let mut eater = Player::start(env, &others, "eater", -500, much)?;
        eater.process.go()?;
        big.process.dies()?;
        small.process.dies()?;
        let chosen = watch.kill_of(big.facts.pid, big.facts.tid)?;
        let member = watch.kill_of(small.facts.pid, small.facts.tid)?;
        for seen in [&chosen, &member] {
            watch.outcome_of(&seen.event)?;
        }
        if eater.process.says("holding").is_err() {
            return Ok(None);
        }
        ensure!(spared.process.lives()?, "the process at -1000 died, too");
        let ended = watch.stop()?;
        // The group scan walks over the chosen one again, unless that has gone meanwhile.
        let counts = &ended.farewell()?["reconciliation"];
        ensure!(
            counts["seen"] == 2 && counts["repeated"].as_u64() <= Some(1),
            "{counts}"
        );
        let (Some(report), true) = (chosen.report(), member.is_merged()) else {
            return Ok(None);
        };
        let ours = [&big, &small, &spared, &eater].map(|player| player.facts.clone());
        for (seen, victim, role, index) in [
            (&chosen, &big.facts, "chosen", 0),
            (&member, &small.facts, "group_member", 1),
        ] {
            whole_machine::whole(
                &seen.event,
                &Known {
                    victim,
                    ours: &ours,
                    shortage: Shortage::of_the_machine(everything()?),
                    account: &seen.account,
                    report,
                    group: true,
                    compared: true,
                    between: seen.between,
                },
            )
            .context(role)?;
            let event = &seen.event;
            let hooked = compare::decision_is_hooked(event);
            let count = compare::decision_end_is_hooked(event).then_some(2);
            // One rung alone does not tell what belongs together.
            ensure!(
                (!hooked && !merges_the_log(env))
                    || (event["victim"]["role"] == role
                        && event["oom_id"] == chosen.event["oom_id"]
                        && event["oom"]["victim_index"] == index
                        && event["oom"]["victim_count"] == Value::from(count)),
                "not {role} {index} of {count:?}: {event}"
            );
        }
        let rank = &chosen.event["verdict"]["victim_rank"];
        ensure!(
            *rank == 1 || chosen.event["candidates"].is_null(),
            "the chosen one has rank {rank}"
        );
        Ok(Some(()))
    })?;
    Ok(Outcome::Passed)
}

fn memory_policy(env: &Env) -> Result<Outcome> {
    let shortage = Shortage {
        constraint: "memory_policy",
        printed: "CONSTRAINT_MEMORY_POLICY",
        scope: "memory_policy",
        total_bytes: present(1)? + meminfo("SwapTotal")?,
        sysrq: false,
    };
    with_report(|| {
        let cgroup = Cgroup::new("policy")?;
        let start =
            |node, name: &str, adj, mib| Player::bound(env, &cgroup, Some(node), name, adj, mib);
        node_runs_out(env, shortage, start)
    })?;
    Ok(Outcome::Passed)
}

fn cpuset(env: &Env) -> Result<Outcome> {
    let shortage = Shortage {
        constraint: "cpuset",
        printed: "CONSTRAINT_CPUSET",
        scope: "cpuset",
        total_bytes: present(1)? + meminfo("SwapTotal")?,
        sysrq: false,
    };
    with_report(|| {
        let mut cgroups = [Cgroup::new("node0")?, Cgroup::new("node1")?];
        for (node, cgroup) in (0..).zip(&mut cgroups) {
            cgroup.bind_to_node(node)?;
        }
        let start = |node: u32, name: &str, adj, mib| {
            Player::start(env, &cgroups[node as usize], name, adj, mib)
        };
        node_runs_out(env, shortage, start)
    })?;
    Ok(Outcome::Passed)
}

/// Memory node 1 is exhausted by processes that `start` bound to it, while one bound to node 0
/// holds more than any of them.
fn node_runs_out(
    env: &Env,
    shortage: Shortage,
    start: impl Fn(u32, &str, i32, u64) -> Result<Player>,
) -> Result<Option<()>> {
    let unbound = Cgroup::new("unbound")?;
    let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
    let (much, most) = (share_of_node(1, 40)?, share_of_node(1, 75)?);
    let mut elsewhere = start(0, "elsewhere", 0, much + 30)?.holding()?;
    let mut big = start(1, "big", 0, much)?.holding()?;
    let small = Player::start(env, &unbound, "small", 0, 10)?.holding()?;
    let mut eater = start(1, "eater", -900, most)?;
    eater.process.go()?;
    big.process.dies()?;
    let seen = watch.kill_of(big.facts.pid, big.facts.tid)?;
    watch.outcome_of(&seen.event)?;
    if eater.process.says("holding").is_err() {
        return Ok(None);
    }
    ensure!(elsewhere.process.lives()?, "one bound elsewhere died, too");
    watch.stop()?;
    let Some(report) = seen.report() else {
        return Ok(None);
    };
    let ours = [&big, &small, &eater, &elsewhere].map(|player| player.facts.clone());
    whole_machine::whole(
        &seen.event,
        &Known {
            victim: &big.facts,
            ours: &ours,
            shortage,
            account: &seen.account,
            report,
            group: false,
            compared: true,
            between: seen.between,
        },
    )?;
    let is_listed = |facts: &Facts| report.rows.iter().any(|row| row.tgid == facts.pid);
    ensure!(
        is_listed(&small.facts) && !is_listed(&elsewhere.facts),
        "not the candidates that were expected: {:?}",
        report.rows
    );
    Ok(Some(()))
}
