//! The order in which processes would die, compared with the kernel's own scores, and tried out.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{MIB, Needs, Outcome, Scenario};
use crate::{
    Env,
    cgroup::Cgroup,
    read,
    schema::Schema,
    tracer::{Tracer, run},
    victim::{Look, Victim},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "rank_is_the_kernels",
        shows: "Every process that the kernel scores is ranked, and no other; its points give the \
                kernel's own oom_score.",
        needs: Needs::Nothing,
        run: rank_is_the_kernels,
    },
    Scenario {
        name: "rank_foretells_the_victim",
        shows: "The first that is ranked in a cgroup is the one that dies when its limit is hit.",
        needs: Needs::Nothing,
        run: rank_foretells_the_victim,
    },
    Scenario {
        name: "rank_watches",
        shows: "With --watch an object comes again and again, and sees what has changed.",
        needs: Needs::Nothing,
        run: rank_watches,
    },
];

/// The limit of the foretold kills.
const LIMIT: u64 = 384 * MIB;
/// What the machine must have, so that it does not run out itself.
const MACHINE: u64 = 2 * LIMIT;
/// What the three hold, in MiB.
const HELD: [u64; 3] = [60, 120, 40];

fn ranking(env: &Env, args: &[&str]) -> Result<Value> {
    let output = run(
        env,
        &[&["rank", "--json", "--candidates", "all"], args].concat(),
    )?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "rank ended badly: {said}");
    serde_json::from_slice(&output.stdout).context("what rank --json prints")
}

fn items(ranking: &Value) -> Vec<Value> {
    let items = &ranking["candidates"]["items"];
    items.as_array().cloned().unwrap_or_default()
}

/// Three that hold memory, with these values of `oom_score_adj`.
fn holders(env: &Env, cgroup: &Cgroup, adjs: [i32; 3]) -> Result<Vec<Victim>> {
    let mut holders = Vec::new();
    for (mib, adj) in HELD.into_iter().zip(adjs) {
        let look = Look {
            oom_score_adj: Some(adj),
            ..Look::default()
        };
        let mut holder = Victim::start(env, cgroup, &look, &["hold", &mib.to_string()])?;
        holder.go()?;
        holder.says("holding")?;
        holders.push(holder);
    }
    Ok(holders)
}

/// What the kernel tells of a process: resident pages, pages in swap, bytes of page tables, and its
/// oom_score_adj. None when it is gone, or has no memory.
fn told(pid: u64) -> Option<[i64; 4]> {
    let stat = read(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let status = read(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<i64>().ok()
    };
    let page = i64::try_from(rustix::param::page_size()).ok()?;
    let adj = read(format!("/proc/{pid}/oom_score_adj")).ok()?;
    Some([
        fields.get(21)?.parse().ok()?,
        kilobytes("VmSwap:").unwrap_or(0) * 1024 / page,
        kilobytes("VmPTE:")? * 1024,
        adj.parse().ok()?,
    ])
}

/// The score the kernel shows, while nothing of the process changed.
fn score(pid: u64) -> Option<([i64; 4], i64)> {
    let before = told(pid)?;
    let score = read(format!("/proc/{pid}/oom_score")).ok()?.parse().ok()?;
    (told(pid)? == before).then_some((before, score))
}

fn rank_is_the_kernels(env: &Env) -> Result<Outcome> {
    let cgroup = Cgroup::new("rank")?;
    let held = holders(env, &cgroup, [0, 300, 1000])?;
    let schema = Schema::of_verb(env, "rank")?;
    let page = i64::try_from(rustix::param::page_size())?;
    let info = rustix::system::sysinfo();
    let node = (info.totalram as u64 + info.totalswap as u64) * u64::from(info.mem_unit);
    let total = i64::try_from(node)? / page;
    // Others come, go and grow meanwhile: the holders do not, and must be among the compared.
    for _ in 0..5 {
        let before = scores()?;
        let ranking = ranking(env, &[])?;
        let after = scores()?;
        schema.describes(&ranking)?;
        ensure!(ranking["total_bytes"] == node, "{}", ranking["total_bytes"]);
        let items = items(&ranking);
        let by_pid: BTreeMap<u64, &Value> = items
            .iter()
            .filter_map(|item| Some((item["pid"].as_u64()?, item)))
            .collect();
        let mut compared = Vec::new();
        for (pid, found) in &before {
            if after.get(pid) != Some(found) {
                continue;
            }
            let ([rss, swap, tables, adj], score) = *found;
            let item = by_pid.get(pid);
            let chosen = if adj < -997 {
                adj > -1000 && *pid != 1
            } else {
                score > 0
            };
            ensure!(
                item.is_some() == chosen,
                "pid {pid} with oom_score {score} and oom_score_adj {adj}: {item:?}"
            );
            let Some(item) = item else { continue };
            let points = rss + swap + tables / page + adj * (total / 1000);
            ensure!(
                item["badness_pages"] == points
                    && item["rss_bytes"] == rss * page
                    && item["swap_bytes"] == swap * page
                    && item["pgtables_bytes"] == tables
                    && item["oom_score_adj"] == adj,
                "pid {pid} has {points} points: {item}"
            );
            let shown = (1000 + points * 1000 / total) * 2 / 3;
            ensure!(
                shown == score,
                "pid {pid}: {shown}, the kernel says {score}"
            );
            compared.push(*pid);
        }
        let points = |item: &Value| item["badness_pages"].as_i64();
        ensure!(
            items
                .windows(2)
                .all(|pair| points(&pair[0]) >= points(&pair[1])),
            "they are not in order"
        );
        if held
            .iter()
            .all(|one| compared.contains(&u64::from(one.pid())))
        {
            println!("compared {} of {} processes", compared.len(), items.len());
            return Ok(Outcome::Passed);
        }
    }
    anyhow::bail!("those that hold their memory still were never the same before and after")
}

/// All processes that have memory.
fn scores() -> Result<BTreeMap<u64, ([i64; 4], i64)>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Some(score) = score(pid)
        {
            found.insert(pid, score);
        }
    }
    Ok(found)
}

fn rank_foretells_the_victim(env: &Env) -> Result<Outcome> {
    let info = rustix::system::sysinfo();
    if (info.totalram as u64) * u64::from(info.mem_unit) < MACHINE {
        let enough = MACHINE / MIB;
        return Ok(Outcome::Skipped(format!("it needs {enough} MiB of memory")));
    }
    // Each of the three is first once. What is left for the eater is less than the first has.
    for (first, adjs) in [(0, [700, 0, 100]), (1, [0, 600, 300]), (2, [0, 0, 500])] {
        let cgroup = Cgroup::new("foretold")?;
        cgroup.limit(LIMIT)?;
        let held = holders(env, &cgroup, adjs)?;
        let mut eater = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
        let path = cgroup.path();
        let ranking = ranking(env, &["--cgroup", &path])?;
        let items = items(&ranking);
        let pids: Vec<u64> = held
            .iter()
            .chain([&eater])
            .map(|one| one.pid().into())
            .collect();
        let mut ranked: Vec<u64> = items
            .iter()
            .filter_map(|item| item["pid"].as_u64())
            .collect();
        let foretold = *ranked.first().context("nobody is ranked")?;
        ensure!(foretold == pids[first], "{foretold} first of {items:?}");
        ensure!(
            ranking["cgroup"]["limit_bytes"] == LIMIT,
            "{}",
            ranking["cgroup"]
        );
        ranked.sort_unstable();
        let mut all = pids.clone();
        all.sort_unstable();
        ensure!(ranked == all, "{ranked:?} and not {all:?} are ranked");

        let mut tracer = Tracer::start(env, &["--heartbeat", "0"])?;
        eater.go()?;
        let event = tracer.wait_for("the kill", |record| {
            let pid = record["victim"]["pid"].as_u64();
            record["kind"] == "oom_kill" && pid.is_some_and(|pid| pids.contains(&pid))
        })?;
        ensure!(
            event["victim"]["pid"] == foretold,
            "{foretold} was foretold, and not {}",
            event["victim"]
        );
        let total = &event["oom"]["total_bytes"];
        ensure!(
            total.is_null() || *total == ranking["total_bytes"],
            "the decision could use {total}, not {}",
            ranking["total_bytes"]
        );
    }
    Ok(Outcome::Passed)
}

fn rank_watches(env: &Env) -> Result<Outcome> {
    let cgroup = Cgroup::new("watched")?;
    let mut held = holders(env, &cgroup, [0, 0, 0])?;
    let path = cgroup.path();
    let mut watching = Command::new(&env.oomtrace)
        .args([
            "rank",
            "--watch",
            "1",
            "--candidates",
            "all",
            "--cgroup",
            &path,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting rank --watch")?;
    let lines = BufReader::new(watching.stdout.take().context("its output")?);
    let schema = Schema::of_verb(env, "rank")?;
    let outcome = (|| {
        let gone = u64::from(held[1].pid());
        let is_there = |object: &Value| items(object).iter().any(|item| item["pid"] == gone);
        let mut lines = lines.lines();
        let mut next = || -> Result<Value> {
            let line = lines.next().context("it ended")??;
            let object = serde_json::from_str(&line)?;
            schema.describes(&object)?;
            Ok(object)
        };
        let first = next()?;
        ensure!(is_there(&first), "{gone} is not in {first}");
        held[1].kill()?;
        held[1].end()?;
        // One may be under way.
        next()?;
        let last = next()?;
        ensure!(!is_there(&last), "{gone} is still in {last}");
        ensure!(first["time"] != last["time"], "{}", last["time"]);
        Ok(Outcome::Passed)
    })();
    watching.kill().context("ending rank --watch")?;
    watching.wait().context("waiting for rank --watch")?;
    outcome
}
