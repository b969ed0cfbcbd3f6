//! Developer commands: `cargo xtask --help`.

mod bench;
mod build_ebpf;
mod deb;
mod demo;
mod fleet;
mod image;
mod install;
mod k8s;
mod licences;
mod sh;
mod test;
mod vm;

use std::process::ExitCode;

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
    /// Prepare the real Kubernetes components that tests use
    K8s(k8s::Args),
    /// Build the container image, as an OCI archive
    Image(image::Args),
    /// Build the Debian package
    Deb(deb::Args),
    /// Measure, beside the tools people would use instead
    Bench(bench::Args),
    /// Play thousands of nodes that deliver through a broker
    Fleet(fleet::Args),
    /// Show a kill, end to end
    Demo(demo::Args),
    /// Check the licences of all dependencies
    Licences,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::BuildEbpf(args) => build_ebpf::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::K8s(args) => k8s::run(&args),
        Verb::Image(args) => image::run(&args),
        Verb::Deb(args) => deb::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Fleet(args) => fleet::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Licences => licences::run(),
    };
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
