//! Every scenario as a test of its own, on this machine's kernel.
//!
//! They need root. Kills and the kernel log belong to the whole machine, so they run one at a
//! time, also across processes.

use std::{env, sync::OnceLock};

use anyhow::{Context, Result, bail, ensure};
use oomtrace_tests::{
    Env,
    scenarios::{self, Needs},
};

/// One test a scenario.
macro_rules! live {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() -> Result<()> {
                run(stringify!($name))
            }
        )*

        /// A scenario without a test, or a test without a scenario, is a mistake here.
        #[test]
        fn every_scenario_is_a_test() {
            let tests = [$(stringify!($name)),*];
            let names: Vec<_> = scenarios::all().iter().map(|scenario| scenario.name).collect();
            assert_eq!(names, tests);
        }
    };
}

live! {
    single_process
    shared_memory
    oom_score_adj
    another_user
    no_swap
    victim_is_not_the_trigger
    files_fill_the_limit
    pipes_fill_the_limit
    kill_9_is_no_oom_kill
    as_many_candidates_as_asked_for
    leader_has_exited
    child_dies_parent_lives
    mm_sharer
    deep_path
    long_names
    limit_of_an_ancestor
    limit_over_siblings
    names_that_imitate_the_log
    names_that_are_no_text
    twenty_die_one_after_another
    twenty_die_as_a_group
    survival
    candidates_of_other_pods
    rank_is_the_kernels
    rank_foretells_the_victim
    rank_watches
    audit_of_cgroups
    audit_of_processes
    audit_of_settings
    storm_of_500
    storm_5000
    a_trigger_outlives_its_victims
    losses_are_counted
    stuck_victim
    reaper_is_kept_out
    chosen_task_was_exiting
    allocating_task_was_exiting
    machine_without_swap
    machine_with_swap
    sysrq
    allocating_task_dies
    group_dies_for_the_machine
    memory_policy
    cpuset
    alive_in_the_storm
    alive_without_protection
    first_rung_alone
    kprobes_instead_of_fentry
    hooks_are_in_every_event
    status_records
    signals_end_it_well
    max_events
    duration
    capabilities_are_dropped
    closed_pipe
    nobody_reads
    full_disk
    pretty
    pretty_is_safe
    agent_reloads
    agent_is_watchable
    agent_has_a_dead_sink
    prometheus_watches_the_agent
    not_root
    one_capability_is_too_few
    three_capabilities_suffice
    seccomp_is_told_apart
    no_btf
    btf_that_is_none
    btf_that_lies
    no_tracefs
    lockdown_is_told_apart
    wrong_usage
    help_man_and_completions
    schema_holds
    doctor
}

fn run(name: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        ensure!(env::var_os("CI").is_none(), "these tests need root");
        println!("{name}: skipped: it needs root");
        return Ok(());
    }
    let scenario = scenarios::all()
        .into_iter()
        .find(|scenario| scenario.name == name)
        .with_context(|| format!("no scenario {name}"))?;
    if scenario.needs == Needs::ToBeAskedFor && !env::args().any(|argument| argument == name) {
        println!("{name}: skipped: it takes long, and is not asked for by name");
        return Ok(());
    }
    let env = environment()?;
    let _turn = oomtrace_tests::turn()?;
    match scenario.run(env).with_context(|| scenario.shows)? {
        scenarios::Outcome::Passed => {}
        scenarios::Outcome::Skipped(reason) => println!("{name}: skipped: {reason}"),
    }
    Ok(())
}

fn environment() -> Result<&'static Env> {
    static ENVIRONMENT: OnceLock<Result<Env, String>> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| {
        let oomtrace = oomtrace_tests::program(env!("CARGO_BIN_EXE_oomtrace-victim").as_ref());
        Ok(Env {
            oomtrace: oomtrace.map_err(|error| format!("{error:#}"))?,
            victim: env!("CARGO_BIN_EXE_oomtrace-victim").into(),
            hooks: env::var("OOMTRACE_HOOKS").ok(),
            record: None,
        })
    });
    match environment {
        Ok(environment) => Ok(environment),
        Err(error) => bail!("{error}"),
    }
}
