//! What can happen, one scenario each. A scenario makes its own cgroups, victims and tracer, and
//! leaves nothing behind.

mod agent;
mod alive;
mod audit;
mod bad_input;
mod basics;
mod command_line;
mod exits;
mod families;
mod groups;
mod names;
mod output;
mod paths;
mod privileges;
mod prometheus;
mod rank;
mod rungs;
mod stopping;
mod storms;
mod survival;
mod whole_machine;

use anyhow::Result;

use crate::{
    Env,
    cgroup::Cgroup,
    compare::{self, Known, Limit, Memory},
    facts::Facts,
    machine,
    oracle::Account,
    victim::{Look, Victim},
    watch::{Watch, with_report},
};

/// How a scenario ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was as it must be.
    Passed,
    /// It makes no sense here, and why.
    Skipped(String),
}

/// Something that can happen.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name: words joined by `_`.
    pub name: &'static str,
    /// What it shows, in one sentence.
    pub shows: &'static str,
    /// What it needs of the machine beyond a memory cgroup and root.
    pub needs: Needs,
    /// Runs it.
    pub run: fn(&Env) -> Result<Outcome>,
}

/// What a scenario needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing more.
    Nothing,
    /// The memory controller in a cgroup v2 hierarchy.
    CgroupV2,
    /// A machine where nobody else can be killed.
    Machine,
    /// That, with the memory controller in a cgroup v2 hierarchy.
    MachineWithCgroupV2,
    /// That the tracer uses all hooks it can, because it chooses them itself.
    AllHooks,
    /// A machine of its own that a few processes can fill.
    SmallMachine,
    /// A kernel locked down to confidentiality.
    Lockdown,
    /// Much time: it is played only where it is asked for by name, or where everything is.
    ToBeAskedFor,
}

impl Scenario {
    /// Runs it, if what it needs is here.
    ///
    /// # Errors
    /// When something is not as it must be.
    pub fn run(&self, env: &Env) -> Result<Outcome> {
        let own = || -> Result<_> {
            Ok((!machine::is_own()?).then_some("it needs a machine of its own"))
        };
        let v2 = || -> Result<_> {
            Ok((crate::cgroup::hierarchy()?.version != 2)
                .then_some("the memory controller is not in a cgroup v2 hierarchy"))
        };
        let lacking = match self.needs {
            Needs::Nothing | Needs::ToBeAskedFor => None,
            Needs::CgroupV2 => v2()?,
            Needs::Machine => own()?,
            Needs::MachineWithCgroupV2 => own()?.or(v2()?),
            Needs::SmallMachine => (!is_small_machine())
                .then_some("it needs a machine of its own with 512 MiB at most"),
            Needs::Lockdown => (!is_locked_down()).then_some("the kernel is not locked down"),
            Needs::AllHooks => env.hooks.as_ref().map(|_| "the hooks are given"),
        };
        match lacking {
            Some(reason) => Ok(Outcome::Skipped(reason.to_owned())),
            None => (self.run)(env),
        }
    }
}

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    [
        basics::SCENARIOS,
        families::SCENARIOS,
        paths::SCENARIOS,
        names::SCENARIOS,
        groups::SCENARIOS,
        survival::SCENARIOS,
        rank::SCENARIOS,
        audit::SCENARIOS,
        storms::SCENARIOS,
        exits::SCENARIOS,
        whole_machine::SCENARIOS,
        alive::SCENARIOS,
        rungs::SCENARIOS,
        stopping::SCENARIOS,
        output::SCENARIOS,
        agent::SCENARIOS,
        prometheus::SCENARIOS,
        privileges::SCENARIOS,
        bad_input::SCENARIOS,
        command_line::SCENARIOS,
    ]
    .concat()
}

/// Whether this is the first process of a machine that can be filled.
fn is_small_machine() -> bool {
    let info = rustix::system::sysinfo();
    let bytes = info.totalram as u64 * u64::from(info.mem_unit);
    std::process::id() == 1 && bytes <= 512 * MIB
}

/// Whether nobody may read the kernel's memory.
fn is_locked_down() -> bool {
    crate::read("/sys/kernel/security/lockdown")
        .is_ok_and(|modes| modes.contains("[confidentiality]"))
}

const MIB: u64 = 1 << 20;
/// A limit that is hit at once, and leaves room for numbers to differ.
const LIMIT: u64 = 24 * MIB;

/// Whether the tracer reads the kernel log: only then can report and event be compared.
fn merges_the_log(env: &Env) -> bool {
    env.hooks
        .as_ref()
        .is_none_or(|hooks| hooks.split(',').any(|name| name == "kmsg" || name == "all"))
}

/// Compares as much as the hooks in use can tell.
fn compare(env: &Env, event: &serde_json::Value, known: &Known<'_>) -> Result<()> {
    if merges_the_log(env) {
        compare::whole(event, known)
    } else {
        compare::without_report(event, known)
    }
}

/// A cgroup, in those named `inner` if there are any, with a limit of its own.
fn limited(label: &str, inner: &[String]) -> Result<(Cgroup, Limit)> {
    let cgroup = Cgroup::nested(label, inner)?;
    cgroup.limit(LIMIT)?;
    let limit = Limit::of(&cgroup, LIMIT)?;
    Ok((cgroup, limit))
}

/// A process that eats until it is killed for the limit of its own cgroup, compared in full.
fn eater_dies(env: &Env, label: &str, look: &Look<'_>, mode: &[&str]) -> Result<(Facts, Account)> {
    with_report(|| {
        let (cgroup, limit) = limited(label, &[])?;
        dies_in(env, &cgroup, &limit, look, mode)
    })
}

/// A process that eats in `cgroup` until it is killed for `limit`, compared in full, together with
/// its outcome. None if the kernel did not print its report.
fn dies_in(
    env: &Env,
    cgroup: &Cgroup,
    limit: &Limit,
    look: &Look<'_>,
    mode: &[&str],
) -> Result<Option<(Facts, Account)>> {
    let watch = Watch::start(env, &["--heartbeat", "0"])?;
    let mut victim = Victim::start(env, cgroup, look, mode)?;
    let facts = Facts::of(victim.pid(), cgroup)?;
    victim.go()?;
    victim.dies()?;
    let account = died_of_itself(env, watch, &facts, limit)?;
    Ok(account.map(|account| (facts, account)))
}

/// Compares the kill of a task that asked for the memory itself, and its outcome. None if the
/// kernel did not print its report.
fn died_of_itself(
    env: &Env,
    mut watch: Watch,
    facts: &Facts,
    limit: &Limit,
) -> Result<Option<Account>> {
    let seen = watch.kill_of(facts.pid, facts.tid)?;
    watch.outcome_of(&seen.event)?;
    watch.stop()?;
    if seen.report().is_none() {
        return Ok(None);
    }
    compare(
        env,
        &seen.event,
        &Known {
            victim: facts,
            trigger: facts,
            limit,
            account: &seen.account,
            memory: Memory::TableAndLine,
            between: seen.between,
        },
    )?;
    Ok(Some(seen.account))
}
