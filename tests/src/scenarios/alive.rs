//! The tracer lives through what it reports: a machine that runs out of memory again and again.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::{
    process::{Resource, Rlimit, setrlimit},
    thread::CapabilitySet,
};
use serde_json::Value;

use super::{
    Needs, Outcome, Scenario,
    storms::{Counted, oom_kills},
};
use crate::{
    Env,
    cgroup::Cgroup,
    tracer::{Tracer, before_exec},
    victim::{Look, Victim},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "alive_in_the_storm",
        shows: "In a small machine that a fork bomb fills time and again the tracer is not killed, \
                does not grow, and accounts for every kill.",
        needs: Needs::SmallMachine,
        run: alive_in_the_storm,
    },
    Scenario {
        name: "alive_without_protection",
        shows: "The same where it may not lower its oom_score_adj: it says so.",
        needs: Needs::SmallMachine,
        run: alive_without_protection,
    },
];

/// How many are killed at least, in as many bombs.
const BOMBS: u64 = 4;
const KILLS: u64 = 50;
/// What the tracer may have gained between its first and its last record.
const GROWTH_BYTES: u64 = 2 << 20;

const ARGS: [&str; 7] = [
    "trace",
    "--format",
    "json",
    "--heartbeat",
    "0",
    "--candidates",
    "all",
];

fn alive_in_the_storm(env: &Env) -> Result<Outcome> {
    let before = oom_kills()?;
    let tracer = Tracer::start(env, &ARGS[3..])?;
    survives(env, tracer, before, -999)?;
    Ok(Outcome::Passed)
}

fn alive_without_protection(env: &Env) -> Result<Outcome> {
    let before = oom_kills()?;
    let mut command = Command::new(&env.oomtrace);
    command.args(ARGS);
    before_exec(&mut command, || {
        // Before 5.11 maps count against the limit on locked memory, which this right overrides.
        let none = Rlimit {
            current: None,
            maximum: None,
        };
        setrlimit(Resource::Memlock, none)?;
        let right = CapabilitySet::SYS_RESOURCE;
        Ok(rustix::thread::remove_capability_from_bounding_set(right)?)
    });
    let said = survives(env, Tracer::spawn(env, command)?, before, 0)?;
    for word in ["oom_score_adj", "-999", "CAP_SYS_RESOURCE"] {
        ensure!(said.contains(word), "it does not tell of {word}: {said}");
    }
    Ok(Outcome::Passed)
}

/// The machine runs out of memory many times; returns what the tracer said on standard error.
fn survives(env: &Env, mut tracer: Tracer, before: u64, oom_score_adj: i64) -> Result<String> {
    let attached = oom_kills()?;
    let pid = tracer.pid();
    let start = tracer.wait_for("its start", |_| true)?;
    let own = &start["limits"]["oom_score_adj"];
    ensure!(*own == oom_score_adj, "its own oom_score_adj is {own}");
    let kmsg = |hook: &Value| hook["name"] == "kmsg" && hook["attached"] == true;
    ensure!(
        start["hooks"]
            .as_array()
            .is_some_and(|hooks| hooks.iter().any(kmsg)),
        "it does not read the kernel log: {start}"
    );

    // Without a limit: memory runs out for the whole machine.
    let cgroup = Cgroup::new("bomb")?;
    let look = Look {
        oom_score_adj: Some(-1000),
        ..Look::default()
    };
    for _ in 0..BOMBS {
        let mut bomb = Victim::start(env, &cgroup, &look, &["bomb", "8", &KILLS.to_string()])?;
        bomb.go()?;
        bomb.says_while("killed", oom_kills)?;
        bomb.go()?;
        ensure!(bomb.end()?.success(), "the bomb did not end well");
    }
    let over = oom_kills()?;
    let ended = tracer.stop()?;
    let counted = Counted {
        least: over - attached,
        most: oom_kills()? - before,
    };
    counted.agrees(&ended)?;
    ensure!(
        counted.least >= BOMBS * KILLS,
        "the kernel counted {} kills",
        counted.least
    );

    let nodes = ended
        .of_kind("oom_kill")
        .filter(|kill| kill["oom"]["constraint"] == "none")
        .count();
    ensure!(nodes > 0, "memory did not run out for the whole machine");
    let candidate = |kill: &Value| {
        let items = kill["candidates"]["items"].as_array();
        items.is_some_and(|items| items.iter().any(|item| item["pid"] == pid))
    };
    ensure!(
        ended.of_kind("oom_kill").any(candidate),
        "the tracer was never among the candidates: it was no fair test"
    );
    let resident = |status: &Value| status["resident_bytes"].as_u64().context("resident_bytes");
    let (first, last) = (resident(&start)?, resident(ended.farewell()?)?);
    ensure!(
        last <= first + GROWTH_BYTES,
        "it had {first} bytes at first, and {last} at last"
    );
    println!(
        "resident: {first} bytes at first, {last} at last, after {} kills",
        counted.least
    );
    Ok(ended.stderr)
}
