//! `oomtrace audit`: what will bite when memory runs out.

use std::{io, path::PathBuf, process::ExitCode};

use anyhow::Result;

use super::{
    Color,
    node::{Names, Node},
};
use crate::{
    audit::{self, Audit, Code, Facts},
    format,
    node::{full_pressure, task::Task},
};

const AFTER_HELP: &str = "\
It looks at the memory cgroups, the processes and the settings of this node, and says what will bite
when memory runs out, why it matters, and what to do. It works on any Linux, with pods or without.

It changes nothing and needs no privileges, but has to see the node's processes: in a container, run
it with the host's (hostPID). Requests are known where the kubelet or the API server may be asked.

It finds:
  panic_on_oom             the kernel panics instead of killing
  node_memory_low          less than 100 MiB available, the kubelet's default to evict
  node_memory_pressure     10 % of the last minute nothing went on for want of memory
  near_limit               a working set at 85 % of its limit or more
  kill_disabled            a limit at which processes hang instead (cgroup v1)
  no_system_reservation    all pods together may take the whole node
  unprotected_daemon       kubelet, runtime or tracer without a low oom_score_adj
  adj_differs              an oom_score_adj that the kubelet does not give
  best_effort_pod          a pod that requests nothing
  request_below_use        a container that uses more than twice its request
  container_without_limit  one without a limit beside one that has it
  group_kill               several cgroups die together (memory.oom.group)
  kill_allocating_task     whoever asks for memory dies (vm.oom_kill_allocating_task)
  strict_overcommit        memory is refused before it runs out (vm.overcommit_memory)

Examples:
  oomtrace audit                                   what is wrong here
  oomtrace audit --json | jq -r '.findings[] | [.severity, .code, .summary] | @tsv'
  0 * * * *  oomtrace audit --ignore best_effort_pod       cron mails what was found

Exit status: 0 when nothing is found, 1 when something is, 2 for wrong usage or when it could not
look.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Do not look for these, comma-separated
    #[arg(
        long,
        value_enum,
        value_name = "CODES",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    ignore: Vec<Code>,

    /// A working set is near its limit from this percentage on
    #[arg(long, value_name = "PERCENT", default_value_t = 85,
          value_parser = clap::value_parser!(u64).range(1..=100))]
    near: u64,

    /// Write one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    kubernetes: super::kubernetes::Args,

    /// When to use colours
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    color: Color,

    /// The node's files are below this directory
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let audit = match read(args) {
        Ok(audit) => audit,
        Err(error) => {
            // 1 would say that something was found.
            anstream::eprintln!("oomtrace: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    let text = if args.json {
        let mut line = serde_json::to_vec(&audit)?;
        line.push(b'\n');
        line
    } else {
        let stdout = io::stdout();
        let width = super::terminal_size(&stdout).map_or(*format::WIDTH.end(), |(width, _)| width);
        format::audit(&audit, width, args.color.on(&stdout)).into_bytes()
    };
    super::print(&text)?;
    Ok(if audit.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read(args: &Args) -> Result<Audit> {
    let node = Node::new(&args.root);
    let names = Names::ask(&args.kubernetes, &args.root)?;
    let memory = node.memory()?;
    let tasks = node.tasks()?;
    let hierarchy = node.hierarchy.as_ref();
    let memcgs = hierarchy.map_or_else(Vec::new, |hierarchy| hierarchy.all());
    let root = &node.root;
    let is_tracer = |task: &&Task| {
        let line = || std::fs::read(root.at(format!("/proc/{}/cmdline", task.pid))).ok();
        task.comm == "oomtrace"
            && line().is_some_and(|line| line.split(|&byte| byte == 0).nth(1) == Some(b"trace"))
    };
    let tracers: Vec<u32> = tasks
        .iter()
        .filter(is_tracer)
        .map(|task| task.pid)
        .collect();
    let pressure = std::fs::read_to_string(root.at("/proc/pressure/memory")).ok();
    let facts = Facts {
        node: node.event(&memory),
        kubernetes: names.status(),
        time: super::node::now(),
        whole_node: node.is_whole(),
        memory,
        memcgs: &memcgs,
        tasks: &tasks,
        tracers: &tracers,
        psi_full_avg60: pressure.and_then(|text| full_pressure(&text)),
        panic_on_oom: root.number("/proc/sys/vm/panic_on_oom"),
        kill_allocating_task: root.number("/proc/sys/vm/oom_kill_allocating_task"),
        overcommit_memory: root.number("/proc/sys/vm/overcommit_memory"),
        near_percent: args.near,
    };
    Ok(audit::audit(&facts, &args.ignore, &|path| {
        names.whose(path)
    }))
}
