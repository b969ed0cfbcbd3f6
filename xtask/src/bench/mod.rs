//! `cargo xtask bench`: oomtrace beside the tools people would use instead.
//!
//! Real kills, the real binary, a real pipe. The tools take turns within one run, so what the
//! machine does meanwhile hits all alike; the ratios hold elsewhere, the absolute values do not.
//! Slow is a result: the command fails only when something cannot be measured.

mod logs;
mod machine;
mod measure;
mod report;
mod stats;
mod tool;
mod victim;
mod vm;

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;

use self::{measure::Plan, report::Report, tool::Tool};
use crate::sh;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Fewer and shorter runs: shows that the bench works, not how fast anything is
    #[arg(long)]
    quick: bool,

    /// Measure only this
    #[arg(long, value_name = "WHAT")]
    only: Option<measure::Part>,

    /// Write all results to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Put the table into docs/performance.md
    #[arg(long, conflicts_with = "only")]
    markdown: bool,

    /// How fast kernel logs are read, beside grep and a script
    #[arg(long, conflicts_with_all = ["only", "vm"])]
    logs: bool,

    /// In a virtual machine, where all hooks can be had, beside all tools of the kind
    #[arg(long)]
    vm: bool,

    /// The machine's kernel, as `cargo xtask vm` takes it
    #[arg(long, value_name = "KERNEL", default_value = "6.12", requires = "vm")]
    kernel: String,

    /// Be a victim
    #[arg(long, hide = true)]
    victim: bool,

    /// Be the first process of the virtual machine
    #[arg(long, value_name = "PART", hide = true, requires = "rounds")]
    guest: Option<vm::Part>,

    /// How often each tool takes its turn there
    #[arg(long, hide = true)]
    rounds: Option<usize>,

    /// Be the stage, with so many candidates
    #[arg(long, hide = true)]
    stage: Option<usize>,
}

/// Measures.
pub fn run(args: &Args) -> Result<()> {
    if args.victim {
        return victim::eat();
    }
    if let (Some(part), Some(rounds)) = (args.guest, args.rounds) {
        return vm::run_guest(part, rounds);
    }
    if let Some(candidates) = args.stage {
        return vm::run_stage(candidates);
    }
    if args.vm {
        let report = vm::run(&args.kernel, args.quick)?;
        return args.hand_over("bench-vm", &report.to_string(), &report.json());
    }
    if !args.logs {
        machine::prepare()?;
    }
    sh::run(
        Command::new("cargo")
            .args(["build", "--release", "--locked", "--package", "oomtrace"])
            .current_dir(sh::root()),
    )?;
    if args.logs {
        let report = logs::run(args.quick)?;
        return args.hand_over("bench-logs", &report.to_string(), &report.json());
    }
    let tools = Tool::all(&sh::target().join("release/oomtrace"));
    let facts = machine::facts()?;
    let plan = if args.quick {
        Plan::quick()
    } else {
        Plan::full()
    };
    let report = Report {
        facts,
        measures: measure::all(&plan, args.only, &tools.present)?,
        tools: tools.present,
        absent: tools.absent,
    };
    args.hand_over("bench", &report.to_string(), &report.json())
}

impl Args {
    /// Shows the results, and puts them where they are wanted.
    fn hand_over(&self, marker: &str, table: &str, json: &Value) -> Result<()> {
        println!("{table}");
        if let Some(file) = &self.json {
            fs::write(file, format!("{json:#}\n"))
                .with_context(|| format!("writing {}", file.display()))?;
        }
        if self.markdown {
            sh::put_between_markers(&sh::root().join("docs/performance.md"), marker, table)?;
        }
        Ok(())
    }
}
