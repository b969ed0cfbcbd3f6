//! `cargo xtask vm`: other kernels, booted under QEMU with a guest that plays the scenarios.

mod apt;
mod guest;
mod kernels;
mod machine;

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Result, bail};

use self::kernels::{Image, KERNELS, Kernel};
pub use self::machine::Tally;
use crate::sh;

/// `--help` tells.
#[derive(Clone, Default, clap::Args)]
pub struct Args {
    /// 5.10, 6.1, 6.12, 6.12-rt, 7.3, all, or a bootable kernel of your own; may be repeated
    #[arg(long, value_name = "KERNEL", default_value = "6.12")]
    kernel: Vec<String>,
    /// Only these scenarios
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    scenario: Vec<String>,
    /// The hooks that the tracer may use, as its own --hooks takes them
    #[arg(long, value_name = "LIST")]
    hooks: Option<String>,
    /// Added to the kernel's command line, such as oomtrace.cgroup=v1
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    append: Option<String>,
    /// Look for newer kernels than those fetched before
    #[arg(long)]
    refresh: bool,
}

impl Args {
    /// All scenarios on one kernel.
    pub fn on(kernel: &str) -> Self {
        Self {
            kernel: vec![kernel.to_owned()],
            ..Self::default()
        }
    }
}

/// Boots the kernels; fails unless all is well on each.
pub fn run(args: &Args) -> Result<()> {
    let tally = boot_all(args)?;
    println!(
        "\n{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    if tally.failed > 0 {
        bail!("{} failed", tally.failed);
    }
    Ok(())
}

/// Boots the kernels. One that cannot be fetched is an error; one on which the machine dies counts
/// as a failed scenario.
pub fn boot_all(args: &Args) -> Result<Tally> {
    let cache = sh::target().join("vm");
    let given = Kernel::given();
    let mut cells: Vec<(&Kernel, Image)> = Vec::new();
    for name in &args.kernel {
        let named: Vec<_> = if name == "all" {
            KERNELS.iter().collect()
        } else {
            Kernel::named(name).into_iter().collect()
        };
        if named.is_empty() {
            cells.push((&given, kernels::given(name)?));
        }
        for kernel in named {
            println!("kernel {}", kernel.name);
            cells.push((kernel, kernel.fetch(&cache, args.refresh)?));
        }
    }
    println!("guest programs");
    let mut append = String::new();
    if !args.scenario.is_empty() {
        append += &format!("oomtrace.scenarios={} ", args.scenario.join(","));
    }
    if let Some(hooks) = &args.hooks {
        append += &format!("oomtrace.hooks={hooks} ");
    }
    append += args.append.as_deref().unwrap_or_default();
    let mut archives = BTreeMap::new();
    for (kernel, _) in &cells {
        let machine = kernel.machine;
        if !archives.contains_key(machine.target) {
            archives.insert(machine.target, guest::initramfs(machine, &cache)?);
        }
    }
    let mut sum = Tally::default();
    for (kernel, image) in cells {
        let initramfs = &archives[kernel.machine.target];
        println!("\n{} ({})", kernel.name, image.origin);
        let log = cache.join("log").join(format!("{}.log", kernel.name));
        let began = Instant::now();
        let tally = machine::boot(kernel, &image.file, initramfs, append.trim(), &log)
            .unwrap_or_else(|error| {
                println!("  FAIL: {error:#}");
                Tally {
                    failed: 1,
                    ..Tally::default()
                }
            });
        println!(
            "{}: {} passed, {} failed, {} skipped in {:.0} s; serial log: {}",
            kernel.name,
            tally.passed,
            tally.failed,
            tally.skipped,
            began.elapsed().as_secs_f32(),
            log.display()
        );
        sum.passed += tally.passed;
        sum.failed += tally.failed;
        sum.skipped += tally.skipped;
    }
    Ok(sum)
}
