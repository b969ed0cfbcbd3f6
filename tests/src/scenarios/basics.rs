//! One process, one limit.

use anyhow::{Context, Result, ensure};

use super::{LIMIT, MIB, Needs, Outcome, Scenario, compare, dies_in, eater_dies, limited};
use crate::{
    Env,
    cgroup::Cgroup,
    compare::{Known, Memory, candidates_are_hooked, log_is_hooked},
    facts::Facts,
    machine,
    oracle::{Account, KernelLog},
    tracer::Tracer,
    victim::{Look, Victim},
    watch::{Watch, with_report},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "single_process",
        shows: "A process that hits its cgroup's limit: every number is the kernel's.",
        needs: Needs::Nothing,
        run: single_process,
    },
    Scenario {
        name: "shared_memory",
        shows: "A victim with anonymous, file and shared memory: each is told apart.",
        needs: Needs::Nothing,
        run: shared_memory,
    },
    Scenario {
        name: "oom_score_adj",
        shows: "A victim with an oom_score_adj: its points have its share of the limit in them.",
        needs: Needs::Nothing,
        run: oom_score_adj,
    },
    Scenario {
        name: "another_user",
        shows: "A victim that is not root's: its user id is in the event.",
        needs: Needs::Nothing,
        run: another_user,
    },
    Scenario {
        name: "no_swap",
        shows: "Where there is no swap, the victim has none and neither has the node.",
        needs: Needs::Nothing,
        run: no_swap,
    },
    Scenario {
        name: "victim_is_not_the_trigger",
        shows: "A big sleeper dies because a small process allocates: both are told apart.",
        needs: Needs::Nothing,
        run: victim_is_not_the_trigger,
    },
    Scenario {
        name: "files_fill_the_limit",
        shows: "A limit is filled by a file on tmpfs whose writer has long exited: a small victim, \
                and the event says how much is in no process.",
        needs: Needs::Nothing,
        run: files_fill_the_limit,
    },
    Scenario {
        name: "pipes_fill_the_limit",
        shows: "A limit is filled by the kernel's own memory: a small victim, and the event says \
                how much is in no process.",
        needs: Needs::Nothing,
        run: pipes_fill_the_limit,
    },
    Scenario {
        name: "kill_9_is_no_oom_kill",
        shows: "A process killed by SIGKILL leaves no record.",
        needs: Needs::Nothing,
        run: kill_9_is_no_oom_kill,
    },
    Scenario {
        name: "as_many_candidates_as_asked_for",
        shows: "All candidates are counted and as many listed as --candidates says, the first by \
                the kernel's own table.",
        needs: Needs::Nothing,
        run: as_many_candidates_as_asked_for,
    },
];

fn single_process(env: &Env) -> Result<Outcome> {
    let (_, account) = eater_dies(env, "single", &Look::default(), &["eat"])?;
    let anon = account.killed.anon_rss_kb * 1024;
    ensure!(
        anon > LIMIT / 2,
        "the victim had {anon} bytes only: it was no fair test"
    );
    Ok(Outcome::Passed)
}

fn shared_memory(env: &Env) -> Result<Outcome> {
    let (_, account) = eater_dies(env, "shared", &Look::default(), &["share", "5"])?;
    let killed = account.killed;
    // In an initramfs the program's own pages are shared memory, too.
    ensure!(
        killed.shmem_rss_kb >= 5 << 10 && killed.anon_rss_kb > 0,
        "not of both kinds: {killed:?}"
    );
    Ok(Outcome::Passed)
}

fn oom_score_adj(env: &Env) -> Result<Outcome> {
    let look = Look {
        oom_score_adj: Some(437),
        ..Look::default()
    };
    let (_, account) = eater_dies(env, "adj", &look, &["eat"])?;
    ensure!(account.killed.oom_score_adj == 437, "{:?}", account.killed);
    Ok(Outcome::Passed)
}

fn another_user(env: &Env) -> Result<Outcome> {
    let look = Look {
        uid: Some(4_711),
        ..Look::default()
    };
    let (facts, account) = eater_dies(env, "user", &look, &["eat"])?;
    ensure!(
        (facts.uid, account.killed.uid) == (4_711, 4_711),
        "{:?}",
        account.killed
    );
    Ok(Outcome::Passed)
}

fn no_swap(env: &Env) -> Result<Outcome> {
    if crate::read("/proc/swaps")?.lines().count() > 1 {
        return Ok(Outcome::Skipped("this machine has swap".to_owned()));
    }
    let cgroup = Cgroup::new("noswap")?;
    cgroup.limit(LIMIT)?;
    let mut tracer = Tracer::start(env, &[])?;
    let mut victim = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
    victim.go()?;
    victim.dies()?;
    let pid = victim.pid();
    let event = tracer.wait_for("the kill", |record| record["victim"]["pid"] == pid)?;
    ensure!(
        event["victim"]["memory"]["swap_bytes"] == 0,
        "{}",
        event["victim"]["memory"]
    );
    ensure!(event["node"]["swap_bytes"] == 0, "{}", event["node"]);
    tracer.stop()?;
    Ok(Outcome::Passed)
}

fn victim_is_not_the_trigger(env: &Env) -> Result<Outcome> {
    with_report(|| {
        let (cgroup, limit) = limited("bystander", &[])?;
        let mut watch = Watch::start(env, &["--heartbeat", "0"])?;
        let mut sleeper = Victim::start(env, &cgroup, &Look::default(), &["hold", "16"])?;
        sleeper.go()?;
        sleeper.says("holding")?;
        let look = Look {
            comm: Some(b"small one"),
            ..Look::default()
        };
        let mut eater = Victim::start(env, &cgroup, &look, &["hold", "9"])?;
        let victim = Facts::of(sleeper.pid(), &cgroup)?;
        let trigger = Facts::of(eater.pid(), &cgroup)?;
        eater.go()?;
        sleeper.dies()?;
        // The kernel takes a second victim when the first gives its memory back a moment after it
        // has left (`MMF_OOM_SKIP` is set before the last pages are freed).
        if eater.says("holding").is_err() {
            return Ok(None);
        }
        ensure!(eater.lives()?, "the trigger died, too");
        let seen = watch.kill_of(victim.pid, victim.tid)?;
        watch.stop()?;
        if seen.report().is_none() {
            return Ok(None);
        }
        compare(
            env,
            &seen.event,
            &Known {
                victim: &victim,
                trigger: &trigger,
                limit: &limit,
                account: &seen.account,
                memory: Memory::Table,
                between: seen.between,
            },
        )?;
        // The sleeper slept since /proc was read: its score is the kernel's own number, but for
        // the pages that processors keep to themselves, which /proc leaves out.
        let score = &seen.event["victim"]["oom_score"];
        ensure!(
            score
                .as_i64()
                .is_some_and(|score| (score - victim.oom_score).abs() <= 1),
            "{score} is not {}, as in /proc",
            victim.oom_score
        );
        let anon = seen.event["victim"]["memory"]["anon_rss_bytes"].as_u64();
        let least = 16 * MIB - compare::threads_share();
        ensure!(anon >= Some(least), "the sleeper held {anon:?} bytes");
        Ok(Some(()))
    })?;
    Ok(Outcome::Passed)
}

fn files_fill_the_limit(env: &Env) -> Result<Outcome> {
    let Some(tmpfs) = machine::tmpfs()? else {
        return Ok(Outcome::Skipped("no tmpfs is mounted".to_owned()));
    };
    let (_, account) = with_report(|| {
        let (cgroup, limit) = limited("files", &[])?;
        let folder = tempfile::tempdir_in(tmpfs)?;
        let file = folder.path().join("file");
        let file = file.to_str().context("its path")?;
        let mut writer = Victim::start(env, &cgroup, &Look::default(), &["file", file, "18"])?;
        writer.go()?;
        let end = writer.end()?;
        ensure!(end.success(), "the writer ended with {end}");
        dies_in(env, &cgroup, &limit, &Look::default(), &["eat"])
    })?;
    is_in_no_process(&account)
}

fn pipes_fill_the_limit(env: &Env) -> Result<Outcome> {
    let (_, account) = eater_dies(env, "pipes", &Look::default(), &["pipes"])?;
    is_in_no_process(&account)
}

/// The event has been compared with the report; was the report about this?
fn is_in_no_process(account: &Account) -> Result<Outcome> {
    let report = account.report.as_ref().context("no report")?;
    let usage = report.memcg.counters["memory"].usage_bytes;
    let held = report.held_bytes();
    ensure!(
        usage.saturating_sub(held) >= LIMIT / 2,
        "{held} of {usage} bytes are in processes: it was no fair test"
    );
    Ok(Outcome::Passed)
}

fn kill_9_is_no_oom_kill(env: &Env) -> Result<Outcome> {
    let cgroup = Cgroup::new("sigkill")?;
    cgroup.limit(LIMIT)?;
    let mut log = KernelLog::open()?;
    let mut tracer = Tracer::start(env, &["--heartbeat", "0"])?;
    let mut victim = Victim::start(env, &cgroup, &Look::default(), &["hold", "8"])?;
    victim.go()?;
    victim.says("holding")?;
    victim.kill()?;
    victim.dies()?;
    let killed = victim.pid();
    // Records keep their order: one about the first would have come before the second's.
    let mut second = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
    second.go()?;
    second.dies()?;
    let oom_killed = second.pid();
    tracer.wait_for("the kill of the second", |record| {
        record["victim"]["pid"] == oom_killed
    })?;
    log.account_of(oom_killed)?;
    let ended = tracer.stop()?;
    let about = ended
        .records
        .iter()
        .find(|record| record["victim"]["pid"] == killed);
    ensure!(
        about.is_none(),
        "a record of what was no OOM kill: {}",
        about.context("it")?
    );
    let told = log
        .accounts()?
        .iter()
        .any(|account| account.killed.pid == killed);
    ensure!(
        !told,
        "the kernel says it was an OOM kill: it was no fair test"
    );
    Ok(Outcome::Passed)
}

fn as_many_candidates_as_asked_for(env: &Env) -> Result<Outcome> {
    for (asked, listed) in [("2", 2), ("all", 4), ("0", 0)] {
        with_report(|| {
            let (cgroup, _) = limited("asked", &[])?;
            let mut watch = Watch::start(env, &["--heartbeat", "0", "--candidates", asked])?;
            let sleepers = ["1", "2", "3"]
                .map(|mib| -> Result<Victim> {
                    let mut sleeper =
                        Victim::start(env, &cgroup, &Look::default(), &["hold", mib])?;
                    sleeper.go()?;
                    sleeper.says("holding")?;
                    Ok(sleeper)
                })
                .into_iter()
                .collect::<Result<Vec<_>>>()?;
            let mut eater = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
            let facts = Facts::of(eater.pid(), &cgroup)?;
            eater.go()?;
            eater.dies()?;
            let seen = watch.kill_of(facts.pid, facts.tid)?;
            watch.stop()?;
            let Some(report) = seen.report() else {
                return Ok(None);
            };
            let mut rows = report.rows.clone();
            rows.sort_by_key(|row| std::cmp::Reverse(row.badness(0)));
            let ranked: Vec<u64> = rows.iter().map(|row| row.tgid.into()).collect();
            ensure!(
                ranked.len() == sleepers.len() + 1,
                "not those we started: {rows:?}"
            );
            let found = &seen.event["candidates"];
            if !candidates_are_hooked(&seen.event) && !log_is_hooked(&seen.event) {
                ensure!(found.is_null(), "who told it of {found}?");
                return Ok(Some(()));
            }
            let items = found["items"].as_array().context("no items")?;
            let pids: Vec<u64> = items
                .iter()
                .filter_map(|item| item["pid"].as_u64())
                .collect();
            ensure!(
                found["total"] == ranked.len()
                    && found["listed"] == listed
                    && pids == ranked[..listed],
                "asked for {asked} of {ranked:?}: {found}"
            );
            Ok(Some(()))
        })?;
    }
    Ok(Outcome::Passed)
}
