//! What would have spared the victim, tried out.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{MIB, Needs, Outcome, Scenario};
use crate::{
    Env,
    cgroup::Cgroup,
    oracle::Row,
    tracer::Tracer,
    victim::{Look, Victim},
    wait_for,
    watch::{Watch, with_report},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "survival",
        shows: "With the oom_score_adj that is said to spare the victim another dies, the one that was \
                named; with one more the victim dies again.",
        needs: Needs::Nothing,
        run: survival,
    },
    Scenario {
        name: "candidates_of_other_pods",
        shows: "Where a limit above several pods is hit, it is told of each candidate whose it is.",
        needs: Needs::Nothing,
        run: candidates_of_other_pods,
    },
];

/// Two pods, and a container of each.
const PODS: [[&str; 2]; 2] = [
    [
        "pod6c1f29b0-4d21-4a39-9a5e-0f5f3f6f2c11",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
    [
        "pod0b1d6c1e-3f52-4a57-9a0c-6f0a1c2b3d4e",
        "0f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a09",
    ],
];

fn candidates_of_other_pods(env: &Env) -> Result<Outcome> {
    let mut tracer = Tracer::start(env, &["--k8s", "off"])?;
    let inner = ["kubepods", "burstable", PODS[0][0], PODS[0][1]];
    let cgroup = Cgroup::nested("pods", &inner.map(str::to_owned))?;
    cgroup.limit_level(1, 64 * MIB)?;
    let pod = cgroup.beside(2, PODS[1][0])?;
    let beside = pod.beside(0, PODS[1][1])?;
    let mut holder = Victim::start(env, &beside, &Look::default(), &["hold", "8"])?;
    holder.go()?;
    holder.says("holding")?;
    let mut victim = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
    let pid = victim.pid();
    victim.go()?;
    victim.dies()?;
    let event = tracer.wait_for("the kill", |record| {
        record["kind"] == "oom_kill" && record["victim"]["pid"] == pid
    })?;
    tracer.stop()?;
    let items = event["candidates"]["items"].as_array();
    for (pid, [pod, id]) in [(pid, PODS[0]), (holder.pid(), PODS[1])] {
        let Some(item) = items.and_then(|items| items.iter().find(|item| item["pid"] == pid))
        else {
            return Ok(Outcome::Skipped(
                "the candidates are not known here".to_owned(),
            ));
        };
        if item["cgroup_id"].is_null() {
            let reason = "the cgroups of candidates are not known here";
            return Ok(Outcome::Skipped(reason.to_owned()));
        }
        let uid = pod.trim_start_matches("pod");
        ensure!(
            item["container_id"] == id && item["pod_uid"] == uid,
            "{pid} is of {id} in {uid}: {item}"
        );
    }
    Ok(Outcome::Passed)
}

/// Large, so that a step of `oom_score_adj` is more than the noise of the kernel's counters.
const LIMIT: u64 = 384 * MIB;
/// What the machine must have, so that it does not run out itself.
const MACHINE: u64 = 2 * LIMIT;
/// Held by the second, whose `oom_score_adj` stays as it is.
const SECOND: u64 = 150 * MIB;
const SECOND_ADJ: i32 = 400;
/// The first holds more than the second, by some of these.
const MORE: std::ops::Range<u64> = 30..50;
/// Its `oom_score_adj` at first; none below 0 is needed, which not everybody may set.
const FIRST_ADJ: i32 = 700;
/// Taken by the third, which is never ahead: too much with both of the others, and not with one.
const THIRD: u64 = 70 * MIB;

/// One play.
struct Round {
    event: Value,
    first_died: bool,
    second: u32,
    /// By how many pages the first holds more than the second, by the kernel's table.
    ahead: i64,
}

fn survival(env: &Env) -> Result<Outcome> {
    let info = rustix::system::sysinfo();
    if (info.totalram as u64) * u64::from(info.mem_unit) < MACHINE {
        let enough = MACHINE / MIB;
        return Ok(Outcome::Skipped(format!("it needs {enough} MiB of memory")));
    }
    let pages = LIMIT / rustix::param::page_size() as u64;
    let step = i64::try_from(pages / 1000)?;
    let first = with_report(|| play(env, FIRST_ADJ))?;
    if first.event["oom"]["total_bytes"].is_null() {
        let reason = "what the decision could use is not known here";
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    ensure!(first.first_died, "the first was to die: {}", first.event);
    let survival = &first.event["verdict"]["survival"];
    let next = &survival["next_victim"]["pid"];
    ensure!(*next == first.second, "{next} is not {}", first.second);
    let adj = i32::try_from(
        survival["oom_score_adj"]
            .as_i64()
            .context("no oom_score_adj")?,
    )?;
    ensure!((0..FIRST_ADJ).contains(&adj), "it was no fair test: {adj}");

    for (adj, first_dies) in [(adj, false), (adj + 1, true)] {
        // Where the two hold so much more or less than before that it changes who is ahead, it
        // is no repetition.
        let expected = |ahead: i64| ahead + i64::from(adj) * step >= i64::from(SECOND_ADJ) * step;
        ensure!(
            expected(first.ahead) == first_dies,
            "{adj} is wrong by the kernel's table"
        );
        let round = with_report(|| {
            let round = play(env, adj)?;
            Ok(round.filter(|round| expected(round.ahead) == first_dies))
        })?;
        ensure!(
            round.first_died == first_dies,
            "with {adj} the wrong one died: {}",
            round.event
        );
    }
    Ok(Outcome::Passed)
}

/// One of two sleepers dies because a third process asks for memory. None if the kernel did not
/// print its report, or took more than one.
fn play(env: &Env, first_adj: i32) -> Result<Option<Round>> {
    let cgroup = Cgroup::new("survival")?;
    cgroup.limit(LIMIT)?;
    let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
    let start = |bytes: u64, adj: i32| {
        let look = Look {
            oom_score_adj: Some(adj),
            ..Look::default()
        };
        let mib = (bytes / MIB).to_string();
        let mut victim = Victim::start(env, &cgroup, &look, &["hold", &mib])?;
        // Where the third ran on while the first victim gives back its memory, 7.3 takes a second
        // and a third one: it no longer waits for one that exits.
        victim.runs_on_the_first_processor(bytes == THIRD)?;
        victim.go()?;
        anyhow::Ok(victim)
    };
    let mut first = start(SECOND + more() * MIB, first_adj)?;
    first.says("holding")?;
    let mut second = start(SECOND, SECOND_ADJ)?;
    second.says("holding")?;
    let third = start(THIRD, 0)?;
    if third.says("holding").is_err() {
        return Ok(None);
    }
    let (first_lives, second_lives) = wait_for("one of the two to die", || {
        let lives = (first.lives()?, second.lives()?);
        Ok((lives != (true, true)).then_some(lives))
    })?;
    if first_lives == second_lives {
        return Ok(None);
    }
    let died = if first_lives { &second } else { &first }.pid();
    let seen = watch.kill_of(died, died)?;
    watch.stop()?;
    let Some(report) = seen.report() else {
        return Ok(None);
    };
    let held = |pid: u32| {
        let row: Option<&Row> = report.rows.iter().find(|row| row.pid == pid);
        row.map(|row| row.badness(0))
    };
    // Where one was dying already when the other was chosen, it is not in the table.
    let (Some(first_held), Some(second_held)) = (held(first.pid()), held(second.pid())) else {
        return Ok(None);
    };
    Ok(Some(Round {
        first_died: !first_lives,
        second: second.pid(),
        ahead: first_held - second_held,
        event: seen.event,
    }))
}

/// How many MiB the first holds more than the second: so many that what separates the two is as far
/// as can be from a whole number of steps.
fn more() -> u64 {
    let page = rustix::param::page_size() as u64;
    let step = (LIMIT / page / 1000).max(1);
    let off = |mib: &u64| ((mib * MIB / page + 1) % step).abs_diff(step / 2);
    MORE.min_by_key(off).unwrap_or(MORE.start)
}
