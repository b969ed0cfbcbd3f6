//! What an audit finds: made, found, put right, and not found any more.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{MIB, Needs, Outcome, Scenario};
use crate::{
    Env,
    cgroup::{Cgroup, hierarchy},
    read,
    schema::Schema,
    tracer::{Tracer, run},
    victim::{Look, Victim},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "audit_of_cgroups",
        shows: "Limits that are near, missing or without a kill are found in pods and services, and \
                not once they are put right.",
        needs: Needs::Nothing,
        run: audit_of_cgroups,
    },
    Scenario {
        name: "audit_of_processes",
        shows: "An oom_score_adj that the kubelet does not give is found, and so is a tracer without \
                protection.",
        needs: Needs::Nothing,
        run: audit_of_processes,
    },
    Scenario {
        name: "audit_of_settings",
        shows: "Settings of the kernel that change who dies are found, and not once they are put \
                right.",
        needs: Needs::Machine,
        run: audit_of_settings,
    },
];

const ID: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const OTHER_ID: &str = "0f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a09";
/// What is held, and a limit that is near.
const HELD: &str = "58";
const NEAR: u64 = 64 * MIB;
const FAR: u64 = 256 * MIB;

/// The findings, after a look at exit status and schema.
fn findings(env: &Env) -> Result<Vec<Value>> {
    let output = run(env, &["audit", "--json"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    let audit: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("what audit --json prints; it said {said}"))?;
    Schema::of_verb(env, "audit")?.describes(&audit)?;
    let found = audit["findings"].as_array().cloned().unwrap_or_default();
    ensure!(
        output.status.code() == Some(i32::from(!found.is_empty())),
        "{} with {} findings",
        output.status,
        found.len()
    );
    Ok(found)
}

/// The one of this code about this cgroup.
fn about(env: &Env, code: &str, path: &str) -> Result<Option<Value>> {
    let found = findings(env)?;
    let is_it = |one: &&Value| one["code"] == code && one["subject"]["cgroup"] == path;
    Ok(found.iter().find(is_it).cloned())
}

fn is_found(env: &Env, code: &str, path: &str) -> Result<Value> {
    about(env, code, path)?.with_context(|| format!("{code} of {path} is not found"))
}

fn is_not_found(env: &Env, code: &str, path: &str) -> Result<()> {
    let found = about(env, code, path)?;
    ensure!(
        found.is_none(),
        "it is put right, and still found: {found:?}"
    );
    Ok(())
}

/// `/kubepods/CLASS/podUID/ID` below a cgroup of the test's own.
fn container(label: &str, class: &str) -> Result<Cgroup> {
    // Nobody else on this machine may have the same.
    let uid = format!("{:08x}-0000-4000-8000-000000000000", std::process::id());
    let names = ["kubepods", class, &format!("pod{uid}"), ID].map(str::to_owned);
    Cgroup::nested(label, &names)
}

fn holder(env: &Env, cgroup: &Cgroup, adj: i32) -> Result<Victim> {
    let look = Look {
        oom_score_adj: Some(adj),
        ..Look::default()
    };
    let mut holder = Victim::start(env, cgroup, &look, &["hold", HELD])?;
    holder.go()?;
    holder.says("holding")?;
    Ok(holder)
}

fn audit_of_cgroups(env: &Env) -> Result<Outcome> {
    let cgroup = container("audit", "besteffort")?;
    let path = cgroup.path();
    let (kubepods, pod) = (cgroup.path_of(1), cgroup.path_of(3));
    let _held = holder(env, &cgroup, 1000)?;

    is_found(env, "best_effort_pod", &pod)?;
    is_not_found(env, "near_limit", &path)?;
    cgroup.limit(NEAR)?;
    let near = is_found(env, "near_limit", &path)?;
    let numbers = &near["numbers"];
    ensure!(
        numbers["limit_bytes"] == NEAR && numbers["percent"].as_u64() >= Some(85),
        "{near}"
    );
    let working_set = numbers["working_set_bytes"].as_u64();
    ensure!(
        working_set >= Some(58 * MIB) && working_set <= Some(NEAR),
        "{near}"
    );
    ensure!(near["subject"]["container_id"] == ID, "{near}");
    cgroup.limit(FAR)?;
    is_not_found(env, "near_limit", &path)?;

    is_found(env, "no_system_reservation", &kubepods)?;
    cgroup.limit_level(1, 2 * FAR)?;
    is_not_found(env, "no_system_reservation", &kubepods)?;

    let beside = cgroup.beside(3, OTHER_ID)?;
    is_not_found(env, "container_without_limit", &beside.path())?;
    let _other = holder(env, &beside, 1000)?;
    is_found(env, "container_without_limit", &beside.path())?;
    beside.limit(FAR)?;
    is_not_found(env, "container_without_limit", &beside.path())?;

    let service = Cgroup::new("audit.service")?;
    let _held = holder(env, &service, 0)?;
    service.limit(NEAR)?;
    is_found(env, "near_limit", &service.path())?;
    service.limit(FAR)?;
    is_not_found(env, "near_limit", &service.path())?;

    if cgroup.version() == 1 {
        let switch = file(&service.path(), "memory.oom_control")?;
        fs::write(&switch, "1").context("memory.oom_control")?;
        is_found(env, "kill_disabled", &service.path())?;
        fs::write(&switch, "0").context("memory.oom_control")?;
        is_not_found(env, "kill_disabled", &service.path())?;
    } else {
        // Two containers of the pod die together.
        let switch = file(&pod, "memory.oom.group")?;
        fs::write(&switch, "1").context("memory.oom.group")?;
        is_found(env, "group_kill", &pod)?;
        fs::write(&switch, "0").context("memory.oom.group")?;
        is_not_found(env, "group_kill", &pod)?;
    }

    // As text it says the same; what is ignored is nothing.
    let output = run(env, &["audit", "--color", "never"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("best_effort_pod"), "{text}");
    let mut codes: Vec<String> = findings(env)?
        .iter()
        .filter_map(|one| one["code"].as_str().map(str::to_owned))
        .collect();
    codes.dedup();
    let output = run(env, &["audit", "--ignore", &codes.join(",")])?;
    ensure!(
        output.status.code() == Some(0),
        "{} with {codes:?}",
        output.status
    );
    Ok(Outcome::Passed)
}

fn file(path: &str, name: &str) -> Result<PathBuf> {
    Ok(hierarchy()?.root.join(&path[1..]).join(name))
}

fn audit_of_processes(env: &Env) -> Result<Outcome> {
    let cgroup = container("audit", "burstable")?;
    let path = cgroup.path();
    let held = holder(env, &cgroup, 500)?;
    is_not_found(env, "adj_differs", &path)?;
    let odd = holder(env, &cgroup, 1000)?;
    let found = is_found(env, "adj_differs", &path)?;
    ensure!(
        found["subject"]["pid"] == odd.pid() && found["numbers"]["oom_score_adj"] == 1000,
        "{found}"
    );
    ensure!(found["numbers"]["processes"] == 1, "{found}");
    drop(odd);
    is_not_found(env, "adj_differs", &path)?;
    drop(held);

    for (adj, expected) in [("0", true), ("-999", false)] {
        let tracer = Tracer::start(env, &["--oom-score-adj", adj])?;
        let is_it = |one: &Value| {
            one["code"] == "unprotected_daemon" && one["subject"]["pid"] == tracer.pid()
        };
        let own = read(format!("/proc/{}/oom_score_adj", tracer.pid()))?;
        // Not everybody may set it.
        if own != adj {
            println!("a tracer at {adj} is left out: its oom_score_adj may not be set here");
        } else {
            let found = findings(env)?;
            ensure!(found.iter().any(is_it) == expected, "{adj}: {found:?}");
        }
        tracer.stop()?;
    }
    Ok(Outcome::Passed)
}

fn audit_of_settings(env: &Env) -> Result<Outcome> {
    for (name, value, code) in [
        ("oom_kill_allocating_task", "1", "kill_allocating_task"),
        ("panic_on_oom", "1", "panic_on_oom"),
        ("overcommit_memory", "2", "strict_overcommit"),
    ] {
        let file = format!("/proc/sys/vm/{name}");
        let before = read(&file)?;
        // With strict overcommit nothing could be started here.
        fs::write("/proc/sys/vm/overcommit_ratio", "100").context("overcommit_ratio")?;
        let is_there = || -> Result<bool> {
            let found = findings(env)?;
            Ok(found.iter().any(|one| one["code"] == code))
        };
        ensure!(!is_there()?, "{code} is found before it is set");
        fs::write(&file, value).with_context(|| file.clone())?;
        let found = is_there();
        fs::write(&file, before).with_context(|| file.clone())?;
        ensure!(found?, "{code} is not found");
        ensure!(!is_there()?, "{code} is still found");
    }
    Ok(Outcome::Passed)
}
