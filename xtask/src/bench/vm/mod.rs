//! `cargo xtask bench --vm`: all tools of the kind, on a kernel that lets all of them in.
//!
//! Two boots. In the first, time is counted in instructions: what the tools add to the kernel's OOM
//! path. The second is for what takes two processors and the emulator's own time: how soon a kill is
//! told, how long a start takes, and memory.

mod guest;
mod report;
mod stage;
mod userland;

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

pub use self::{guest::run as run_guest, report::Report, stage::run as run_stage};
use crate::{
    install, sh,
    vm::{self, Archive, Cell, Kernel},
};

/// How many candidates a decision compares.
const CANDIDATES: [usize; 3] = [10, 1_000, 10_000];
/// The candidates and the packages are in memory.
const MEMORY_MIB: u32 = 6144;

/// One memory node, and room in the kernel's log for a report of 10,000 tasks.
const APPEND: &str = "numa=off log_buf_len=8M";

/// Which half of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The OOM path.
    Path,
    /// From a kill to its line, starts and memory.
    Line,
}

impl Part {
    /// Options of the emulator. Where instructions are counted, an instruction takes a nanosecond,
    /// there is one processor, and times of waiting are skipped.
    const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Path => &[
                "-cpu",
                "max",
                // The second memory node keeps its processor, which is never there.
                "-smp",
                "1,maxcpus=2",
                "-icount",
                "shift=0,sleep=off",
            ],
            Self::Line => &["-cpu", "max"],
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Line => "line",
        }
    }
}

/// What was measured of a tool in one turn.
#[derive(Clone, Debug, PartialEq)]
struct Turn {
    tool: String,
    what: String,
    values: Vec<f64>,
}

impl Turn {
    fn json(&self) -> Value {
        let Self { tool, what, values } = self;
        json!({ "tool": tool, "what": what, "values": values })
    }

    fn parse(value: &Value) -> Option<Self> {
        let values = value["values"].as_array()?;
        Some(Self {
            tool: value["tool"].as_str()?.to_owned(),
            what: value["what"].as_str()?.to_owned(),
            values: values.iter().map(Value::as_f64).collect::<Option<_>>()?,
        })
    }
}

/// Boots the machine twice, and collects what the guest says.
pub fn run(kernel: &str, quick: bool) -> Result<Report> {
    let cache = sh::target().join("vm");
    let (mut kernel, image) = Kernel::find(kernel, &cache)?;
    install::packages(kernel.machine.needs)?;
    eprintln!("bench: {} and packages", image.origin);
    let userland = userland::unpack(&kernel, &image, &cache)?;
    let programs = vm::build(kernel.machine, &cache, &["oomtrace", "xtask"], &[])?;
    let mut archive = Archive::default();
    archive.add_tree(&userland.root, Path::new(""))?;
    archive.add_program(&programs.join("xtask"), "init")?;
    archive.add_program(&programs.join("oomtrace"), "oomtrace")?;
    let initramfs = archive.write(&cache.join("initramfs-bench.cpio"))?;
    let emulator = sh::output(Command::new(kernel.machine.qemu).arg("--version"))?;
    let emulator = emulator.lines().next().unwrap_or_default();
    let mut report = Report {
        facts: format!("{}; {emulator}; {}", image.origin, userland.versions),
        turns: Vec::new(),
        absent: Vec::new(),
    };
    kernel.memory_mib = MEMORY_MIB;
    let rounds = if quick { 1 } else { 3 };
    for part in [Part::Path, Part::Line] {
        kernel.options = part.options();
        let name = part.name();
        println!("{name}");
        let log = cache.join(format!("log/bench-{name}.log"));
        let append = format!("{APPEND} -- bench --guest {name} --rounds {rounds}");
        let tally = vm::boot(
            &kernel,
            &image.file,
            vm::Root::Initramfs(&initramfs),
            &append,
            &log,
            &mut Cell::default(),
        )?;
        ensure!(tally.failed == 0, "it is in {}", log.display());
        let log = fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
        report.read(&String::from_utf8_lossy(&log))?;
    }
    Ok(report)
}
