//! `cargo xtask bench`: oomtrace beside the tools people would use instead.
//!
//! Real kills, the real binary, a real pipe. The tools take turns within one run, so what the
//! machine does meanwhile hits all alike; the ratios hold elsewhere, the absolute values do not.
//! Slow is a result: the command fails only when something cannot be measured.

mod machine;
mod measure;
mod report;
mod stats;
mod tool;
mod victim;

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

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

    /// Be a victim
    #[arg(long, hide = true)]
    victim: bool,
}

/// Measures.
pub fn run(args: &Args) -> Result<()> {
    if args.victim {
        return victim::eat();
    }
    machine::prepare()?;
    sh::run(
        Command::new("cargo")
            .args(["build", "--release", "--locked", "--package", "oomtrace"])
            .current_dir(sh::root()),
    )?;
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
    println!("{report}");
    if let Some(file) = &args.json {
        fs::write(file, format!("{:#}\n", report.json()))
            .with_context(|| format!("writing {}", file.display()))?;
    }
    if args.markdown {
        sh::put_between_markers(
            &sh::root().join("docs/performance.md"),
            "bench",
            &report.to_string(),
        )?;
    }
    Ok(())
}
