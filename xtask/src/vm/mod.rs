//! `cargo xtask vm`: other kernels, booted under QEMU with a guest that plays the scenarios.

pub mod apt;
mod document;
mod guest;
mod kernels;
mod machine;
mod results;
mod variants;

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Result, bail};

pub use self::{
    apt::{Apt, extract},
    guest::{Archive, SHIPPED, build},
    kernels::{Image, Kernel},
    machine::{AARCH64, Machine, Root, Tally, X86_64, boot},
    results::Cell,
};
use self::{
    kernels::KERNELS,
    variants::{VARIANTS, Variant},
};
use crate::{install, sh};

/// `--help` tells.
#[derive(Clone, Default, clap::Args)]
pub struct Args {
    /// 5.10, 6.1, 6.12, 6.12-rt, 7.3, 6.12-arm64, 6.12-arm64-16k, all, or a bootable kernel of your
    /// own; may be repeated
    #[arg(long, value_name = "KERNEL", default_value = "6.12")]
    kernel: Vec<String>,
    /// Variants of the machine: plain (when none is given), cgroup-v1, kprobe, log, raw-tp, no-log,
    /// 512m, lockdown, all
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    variant: Vec<String>,
    /// Only these scenarios, or `all`. When none is given, a variant plays what looks different in
    /// it, and plain machines play everything but what takes long, which `--variant all` adds
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    scenario: Vec<String>,
    /// The hooks that the tracer may use, as its own --hooks takes them
    #[arg(long, value_name = "LIST")]
    hooks: Option<String>,
    /// Added to the kernel's command line, such as oomtrace.cgroup=v1
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    append: Option<String>,
    /// Keep the kernel logs and the events of some scenarios under tests/recorded/
    #[arg(long)]
    record: bool,
    /// Boot nothing: write docs/kernels.md from what earlier boots saw
    #[arg(long)]
    document: bool,
    /// Look for newer kernels than those fetched before
    #[arg(long)]
    refresh: bool,
}

impl Args {
    /// All scenarios on these kernels.
    pub fn on(kernels: &[&str]) -> Self {
        Self {
            kernel: kernels.iter().map(|&kernel| kernel.to_owned()).collect(),
            ..Self::default()
        }
    }

    /// All kernels in all variants.
    pub fn matrix() -> Self {
        Self {
            variant: vec!["all".to_owned()],
            ..Self::on(&["all"])
        }
    }

    /// Whether a boot belongs to the matrix, and so is a result to keep.
    fn is_of_the_matrix(&self) -> bool {
        self.hooks.is_none() && self.append.is_none()
    }

    /// What the kernel's command line gets, besides what the machine needs.
    fn append_for(&self, variant: &Variant) -> String {
        let scenarios = if !self.scenario.is_empty() {
            self.scenario.join(",")
        } else if !variant.scenarios.is_empty() {
            variant.scenarios.join(",")
        } else if std::ptr::eq(variant, &VARIANTS[0])
            && self.variant.iter().any(|name| name == "all")
        {
            "all".to_owned()
        } else {
            String::new()
        };
        let hooks = self.hooks.as_deref().unwrap_or_default();
        let mut append = Vec::new();
        for (name, value) in [("scenarios", scenarios.as_str()), ("hooks", hooks)] {
            if !value.is_empty() {
                append.push(format!("oomtrace.{name}={value}"));
            }
        }
        // The guest takes the first of its options that there are several of.
        append.extend(self.append.clone());
        if self.record {
            append.push("oomtrace.record".to_owned());
        }
        append.push(variant.append.to_owned());
        append.join(" ").trim().to_owned()
    }
}

/// Boots the kernels; fails unless all is well on each.
pub fn run(args: &Args) -> Result<()> {
    if args.document {
        return document::write(&sh::target().join("vm/results"));
    }
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
    let variants = Variant::named(&args.variant)?;
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
    let mut programs = BTreeMap::new();
    for (kernel, _) in &cells {
        let machine = kernel.machine;
        if !programs.contains_key(machine.target) {
            install::packages(machine.needs)?;
            let built = guest::build(machine, &cache, &["oomtrace", "oomtrace-tests"], &[])?;
            programs.insert(machine.target, built);
        }
    }
    let mut sum = Tally::default();
    for (kernel, image) in &cells {
        let initramfs = guest::initramfs(
            &programs[kernel.machine.target],
            &image.modules,
            &cache.join(format!("initramfs-{}.cpio", kernel.name)),
        )?;
        for variant in &variants {
            let (kernel, name) = (variant.of(kernel), kernel.name);
            println!(
                "\n{name} ({}), {}: {}",
                image.origin, variant.name, variant.shows
            );
            let log = cache
                .join("log")
                .join(format!("{name}.{}.log", variant.name));
            let append = args.append_for(variant);
            let mut cell = Cell::default();
            let began = Instant::now();
            let boot = |cell: &mut Cell| {
                let root = Root::Initramfs(&initramfs);
                machine::boot(&kernel, &image.file, root, &append, &log, cell)
            };
            let mut end = boot(&mut cell);
            if let Err(error) = &end
                && cell.machine.is_none()
                && cell.scenarios.is_empty()
            {
                // Rarely an emulated processor trips over code that another one is patching
                // (`int3` in what is no probe), in the first seconds of the kernel itself.
                println!("  it died before the guest began; once more: {error:#}");
                end = boot(&mut cell);
            }
            let cell_name = format!("{name}.{}", variant.name);
            let seconds = began.elapsed().as_secs_f32();
            let tally = cell.conclude(&cell_name, end, seconds, &log, args.record)?;
            if args.is_of_the_matrix() {
                let folder = cache.join("results");
                let is_whole = args.scenario.is_empty();
                cell.write(&folder, name, &image.origin, variant.name, is_whole)?;
            }
            sum += tally;
        }
    }
    Ok(sum)
}
