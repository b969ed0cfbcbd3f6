//! `oomtrace rank`: who dies next.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    Color,
    node::{Names, Node},
};
use crate::{
    format::{self, By},
    rank::{self, Facts, Ranking},
};

const AFTER_HELP: &str = "\
It computes what the kernel would. A process has a point for each page it holds (resident, in swap,
or of page tables), and for each oom_score_adj a thousandth of what the decision can use: of the
node its memory and swap, of a cgroup its limit. The one with the most points dies. So the same
processes may stand in another order in their cgroup than on the node. `ahead` is how much more the
next would have to take to die first.

It needs no privileges, but has to see the node's processes: in a container, run it with the host's
(hostPID). Pods have names where a source of them may be asked; the runtime's socket takes root.

Examples:
  oomtrace rank                              who dies when the node runs out
  oomtrace rank --by pod                     the same by pod, or by unit
  oomtrace rank --cgroup /system.slice/nginx.service
                                             who dies when that limit is hit
  oomtrace rank --watch                      as it changes, every two seconds
  oomtrace rank --json | jq '.candidates.items[0]'

Exit status: 0 fine, 1 failed, 2 for wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Of this memory cgroup: who dies when its limit is hit. Its path as in /proc/PID/cgroup, or
    /// its directory
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,

    /// What a row is
    #[arg(long, value_enum, default_value_t = By::Process)]
    by: By,

    /// How many rows: a number or `all`
    #[arg(long, value_name = "N", default_value = "10", value_parser = super::trace::candidates)]
    candidates: usize,

    /// Write one JSON object
    #[arg(long)]
    json: bool,

    /// Again every SECS seconds: redrawn on a terminal, else a JSON object a line
    #[arg(long, value_name = "SECS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    watch: Option<u64>,

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
    let stdout = io::stdout();
    let is_terminal = stdout.is_terminal();
    let color = args.color.on(&stdout);
    let node = Node::new(&args.root);
    let names = Names::ask(&args.kubernetes, &args.root)?;
    let Some(seconds) = args.watch else {
        let ranking = read(&node, &names, args, args.candidates)?;
        let text = if args.json {
            line(&ranking)?
        } else {
            let (width, _) = size(&stdout);
            format::ranking(&ranking, args.by, width, color).into_bytes()
        };
        return super::print(&text);
    };
    let redraws = is_terminal && !args.json;
    loop {
        let text = if redraws {
            let (width, height) = size(&stdout);
            // Title, table head, legend, notes.
            let rows = args.candidates.min(height.saturating_sub(8).max(1));
            let ranking = read(&node, &names, args, rows)?;
            redrawn(&format::ranking(&ranking, args.by, width, color)).into_bytes()
        } else {
            line(&read(&node, &names, args, args.candidates)?)?
        };
        let mut out = stdout.lock();
        out.write_all(&text)?;
        out.flush()?;
        drop(out);
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Columns and lines of the terminal; where there is none, enough.
fn size(stdout: &io::Stdout) -> (usize, usize) {
    super::terminal_size(stdout).unwrap_or((*format::RANK_WIDTH.end(), 50))
}

/// The text in place of what stands on the terminal: line by line, so that nothing flickers.
fn redrawn(text: &str) -> String {
    let mut drawn = String::from("\x1b[H");
    for line in text.lines() {
        let _ = write!(drawn, "{line}\x1b[K\r\n");
    }
    drawn.push_str("\x1b[J");
    drawn
}

fn line(ranking: &Ranking) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(ranking)?;
    line.push(b'\n');
    Ok(line)
}

fn read(node: &Node, names: &Names, args: &Args, most: usize) -> Result<Ranking> {
    let memory = node.memory()?;
    let tasks = node.tasks()?;
    let swappiness = node.root.number("/proc/sys/vm/swappiness");
    let mut memcgs = HashMap::new();
    let mut domain = None;
    let mut total_bytes = memory.node_bytes();
    match (&node.hierarchy, &args.cgroup) {
        (Some(hierarchy), named) => {
            for task in &tasks {
                node.add_with_ancestors(&task.cgroup, &mut memcgs);
            }
            if let Some(named) = named {
                let path = hierarchy.path(named);
                let memcg = hierarchy.memcg(&path).with_context(|| {
                    format!(
                        "no memory cgroup {}; `cat /proc/PID/cgroup` tells that of a process",
                        named.display()
                    )
                })?;
                if let Some(bytes) = memcg.total_bytes(hierarchy.version, memory.swap, swappiness) {
                    total_bytes = bytes;
                }
                domain = Some(memcg);
            }
        }
        (None, Some(_)) => bail!("no cgroup hierarchy with the memory controller is mounted"),
        (None, None) => {}
    }
    let facts = Facts {
        node: node.event(&memory),
        kubernetes: names.status(),
        time: super::node::now(),
        whole_node: node.is_whole(),
        tasks: &tasks,
        memcgs: &memcgs,
        domain: domain.as_ref(),
        total_bytes,
        page_size: node.page_size,
        kill_allocating_task: node.root.number("/proc/sys/vm/oom_kill_allocating_task"),
        panic_on_oom: node.root.number("/proc/sys/vm/panic_on_oom"),
    };
    Ok(rank::rank(&facts, most, &|path| names.whose(path)))
}
