//! Developer commands: `cargo xtask --help`.

mod bench;
mod build_ebpf;
mod demo;
mod sh;
mod test;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, tests and measures oomtrace.
#[derive(Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the eBPF object that is committed at oomtrace/bpf/, or check that it is up to date
    BuildEbpf(build_ebpf::Args),
    /// Install what the tests need, and run them all
    Test(test::Args),
    /// Boot other kernels in virtual machines and run the scenarios there
    Vm(vm::Args),
    /// Measure, beside the tools people would use instead
    Bench(bench::Args),
    /// Show a kill, end to end
    Demo(demo::Args),
}

fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::BuildEbpf(args) => build_ebpf::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Demo(args) => demo::run(&args),
    }
}
