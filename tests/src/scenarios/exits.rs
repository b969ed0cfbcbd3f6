//! Victims that take their time to exit, and tasks that were exiting before they were chosen.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Needs, Outcome, Scenario, compare, limited};
use crate::{
    Env,
    cgroup::Cgroup,
    compare::{self as comparison, HeldBack, Known, Limit, Mark, Memory},
    facts::Facts,
    held::Held,
    marks::Marks,
    time::boottime_ns,
    victim::{Look, Victim},
    wait_for,
    watch::{Seen, Watch, reaped, with_report},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "stuck_victim",
        shows: "A victim that does not exit: the OOM reaper takes its memory, after ten seconds it \
                is called stuck, and its exit is told when it comes.",
        needs: Needs::Nothing,
        run: stuck_victim,
    },
    Scenario {
        name: "reaper_is_kept_out",
        shows: "A victim whose address space somebody else has locked: the OOM reaper gives up, \
                and the outcome says so.",
        needs: Needs::Nothing,
        run: reaper_is_kept_out,
    },
    Scenario {
        name: "chosen_task_was_exiting",
        shows: "The task that is chosen has been killed by somebody else and is still there: a \
                mark and no kill.",
        needs: Needs::Nothing,
        run: chosen_task_was_exiting,
    },
    Scenario {
        name: "allocating_task_was_exiting",
        shows: "A task that exits asks for memory when there is none: a mark, and no decision.",
        needs: Needs::Machine,
        run: allocating_task_was_exiting,
    },
];

/// A sleeper that holds most of a cgroup's memory, and an eater that takes more than is left.
struct Pair {
    cgroup: Cgroup,
    limit: Limit,
    watch: Watch,
    sleeper: Victim,
    eater: Victim,
    victim: Facts,
    trigger: Facts,
}

impl Pair {
    fn start(env: &Env, label: &str) -> Result<Self> {
        Self::holding(env, label, "hold")
    }

    /// With another mode of the sleeper's.
    fn holding(env: &Env, label: &str, mode: &str) -> Result<Self> {
        let (cgroup, limit) = limited(label, &[])?;
        let watch = Watch::start(env, &["--heartbeat", "0"])?;
        let mut sleeper = Victim::start(env, &cgroup, &Look::default(), &[mode, "16"])?;
        sleeper.go()?;
        sleeper.says("holding")?;
        let look = Look {
            comm: Some(b"eater"),
            ..Look::default()
        };
        let eater = Victim::start(env, &cgroup, &look, &["hold", "9"])?;
        Ok(Self {
            limit,
            victim: Facts::of(sleeper.pid(), &cgroup)?,
            trigger: Facts::of(eater.pid(), &cgroup)?,
            cgroup,
            watch,
            sleeper,
            eater,
        })
    }

    /// Compares the kill of the sleeper in full; false if the kernel did not print its report.
    fn compare(&self, env: &Env, seen: &Seen) -> Result<bool> {
        if seen.report().is_none() {
            return Ok(false);
        }
        compare(
            env,
            &seen.event,
            &Known {
                victim: &self.victim,
                trigger: &self.trigger,
                limit: &self.limit,
                account: &seen.account,
                memory: Memory::Table,
                between: seen.between,
            },
        )?;
        Ok(true)
    }

    /// Lets the sleeper exit, and takes the record of that.
    fn exits(&mut self, held: Held) -> Result<(Value, (u64, u64))> {
        let before = boottime_ns();
        held.let_go()?;
        self.sleeper.dies()?;
        let after = boottime_ns();
        let outcome = self.outcome("exited")?;
        Ok((outcome, (before, after)))
    }

    fn outcome(&mut self, state: &str) -> Result<Value> {
        let pid = self.victim.pid;
        self.watch
            .tracer
            .wait_for(&format!("the outcome {state} of {pid}"), |record| {
                record["kind"] == "oom_outcome"
                    && record["state"] == state
                    && record["victim"]["pid"] == pid
            })
    }
}

fn stuck_victim(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let mut pair = Pair::start(env, "stuck")?;
        let held = Held::seize(pair.victim.pid)?;
        pair.eater.go()?;
        held.stops()?;
        let seen = pair.watch.kill_of(pair.victim.pid, pair.victim.tid)?;
        // It gets what it asked for: the reaper has been there.
        pair.eater.says("holding")?;
        let tid = u64::from(pair.victim.tid);
        wait_for("the reaper's word", || {
            Ok(pair.watch.log.says(&reaped(tid))?.then_some(()))
        })?;
        if comparison::exits_are_hooked(&seen.event) {
            let stuck = pair.outcome("stuck")?;
            comparison::stuck(&seen.event, &stuck)?;
            ensure!(stuck["reaped"] == true, "it was reaped: {stuck}");
            let (outcome, ended_between) = pair.exits(held)?;
            let held = HeldBack {
                reaped: true,
                reap_skipped: false,
                ended_between,
            };
            comparison::late_outcome(&seen.event, &outcome, &held)?;
        } else {
            held.let_go()?;
            pair.sleeper.dies()?;
        }
        let compared = pair.compare(env, &seen)?;
        pair.watch.stop()?;
        Ok(compared.then_some(()))
    })?;
    Ok(Outcome::Passed)
}

fn reaper_is_kept_out(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let mut pair = Pair::holding(env, "keptout", "hold-wide")?;
        let pid = pair.victim.pid;
        let held = Held::seize(pid)?;
        let done = AtomicBool::new(false);
        let seen = thread::scope(|scope| -> Result<_> {
            // Whoever writes here locks the address space (`clear_refs_write` in
            // `fs/proc/task_mmu.c`), for as long as the walk over it takes; while several do, nobody
            // else gets in.
            let lock = || {
                while !done.load(Ordering::Relaxed) {
                    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "1");
                }
            };
            let mut keep_out = || -> Result<_> {
                pair.eater.go()?;
                held.stops()?;
                for _ in 0..3 {
                    scope.spawn(lock);
                }
                let seen = pair.watch.kill_of(pid, pair.victim.tid)?;
                let gave_up = format!("oom_reaper: unable to reap pid:{} (", pair.victim.tid);
                let came_in = reaped(pair.victim.tid.into());
                let kept_out = wait_for("the reaper's word", || {
                    let log = &mut pair.watch.log;
                    let (gave_up, came_in) = (log.says(&gave_up)?, log.says(&came_in)?);
                    Ok((gave_up || came_in).then_some(gave_up))
                })?;
                Ok(kept_out.then_some(seen))
            };
            let result = keep_out();
            done.store(true, Ordering::Relaxed);
            result
        })?;
        let Some(seen) = seen else {
            // It came in between two writers.
            return Ok(None);
        };
        if comparison::exits_are_hooked(&seen.event) {
            let (outcome, ended_between) = pair.exits(held)?;
            let held = HeldBack {
                reaped: false,
                reap_skipped: true,
                ended_between,
            };
            comparison::late_outcome(&seen.event, &outcome, &held)?;
        } else {
            held.let_go()?;
            pair.sleeper.dies()?;
        }
        let compared = pair.compare(env, &seen)?;
        pair.watch.stop()?;
        Ok(compared.then_some(()))
    })?;
    Ok(Outcome::Passed)
}

fn chosen_task_was_exiting(env: &Env) -> Result<Outcome> {
    let since = boottime_ns();
    let mut pair = Pair::start(env, "exiting")?;
    let tid = pair.victim.tid;
    let resident = resident_bytes(pair.victim.pid)?;
    let held = Held::seize(pair.victim.pid)?;
    pair.sleeper.kill()?;
    held.stops()?;
    pair.eater.go()?;
    // The OOM reaper has made room for it.
    pair.eater.says("holding")?;
    let mark = pair.watch.tracer.wait_for("the mark", |record| {
        record["kind"] == "oom_mark" && record["victim"]["tid"] == tid
    })?;
    let between = (since, boottime_ns());
    wait_for("the reaper's word", || {
        Ok(pair.watch.log.says(&reaped(tid.into()))?.then_some(()))
    })?;
    if comparison::exits_are_hooked(&mark) && !mark["victim"]["pid"].is_null() {
        let (outcome, ended_between) = pair.exits(held)?;
        let held = HeldBack {
            reaped: true,
            reap_skipped: false,
            ended_between,
        };
        comparison::late_outcome(&mark, &outcome, &held)?;
    } else {
        held.let_go()?;
        pair.sleeper.dies()?;
    }
    comparison::mark(
        &mark,
        &Mark {
            victim: &pair.victim,
            resident_bytes: resident,
            trigger: &pair.trigger,
            limit: Some(&pair.limit),
            between,
        },
    )?;
    ensure!(
        pair.cgroup.oom_kills()? == 0,
        "the kernel counted a kill: it was no fair test"
    );
    no_kill(pair.watch, tid)
}

/// What a task leaves of its memory node before it exits, in pages; the exit takes 2048. Nobody can
/// say how much of that is out of reach, or comes back from the kernel's caches meanwhile.
const LEFT: [u32; 4] = [1024, 896, 768, 640];
/// How many exit until one finds no memory.
const EXITS: usize = 12;

fn allocating_task_was_exiting(env: &Env) -> Result<Outcome> {
    let marks = Marks::start()?;
    let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
    for left in LEFT.into_iter().cycle().take(EXITS) {
        let cgroup = Cgroup::new("hungry")?;
        let since = boottime_ns();
        let mode = ["exit-hungry", "1", &left.to_string()];
        let mut victim = Victim::start(env, &cgroup, &Look::default(), &mode)?;
        victim.go()?;
        if victim.says("holding").is_err() {
            // It was killed: it had been left less than it seemed.
            continue;
        }
        let facts = Facts::of(victim.pid(), &cgroup)?;
        let resident = resident_bytes(victim.pid())?;
        victim.go()?;
        let end = victim.end()?;
        ensure!(end.success(), "it did not exit by itself: {end}");
        if !marks.has(facts.tid)? {
            // It found enough.
            continue;
        }
        let mark = watch.tracer.wait_for("the mark", |record| {
            record["kind"] == "oom_mark" && record["victim"]["pid"] == facts.pid
        })?;
        let between = (since, boottime_ns());
        watch.outcome_of(&mark)?;
        comparison::mark(
            &mark,
            &Mark {
                victim: &facts,
                resident_bytes: resident,
                trigger: &facts,
                limit: None,
                between,
            },
        )?;
        return no_kill(watch, facts.tid);
    }
    bail!("the kernel marked none of {EXITS} tasks that exited: it was no fair test")
}

/// Neither the tracer nor the kernel speaks of a kill.
fn no_kill(mut watch: Watch, tid: u32) -> Result<Outcome> {
    watch.log.read()?;
    let told = watch
        .log
        .accounts()?
        .iter()
        .any(|account| account.killed.pid == tid);
    ensure!(!told, "the kernel says it was a kill: it was no fair test");
    let ended = watch.stop()?;
    let kill = ended
        .of_kind("oom_kill")
        .find(|kill| kill["victim"]["tid"] == tid);
    ensure!(kill.is_none(), "a kill that was none: {kill:?}");
    let totals = &ended.farewell()?["totals"];
    ensure!(totals["marks"].as_u64() >= Some(1), "{totals}");
    Ok(Outcome::Passed)
}

/// What `/proc` says a process has resident.
fn resident_bytes(pid: u32) -> Result<u64> {
    let statm = crate::read(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split(' ').nth(1).context("statm")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}
