//! `cargo xtask test`: all the tests there are, with one count at the end.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};

use crate::{
    install, k8s, sh,
    vm::{self, Tally},
};

/// The kernels that are tried in a virtual machine, besides the one at hand: the oldest, and one that
/// lets all hooks attach. The others take their time, and are in the matrix.
const VM_KERNELS: [&str; 2] = ["5.10", "6.12"];

/// `--help` tells.
#[derive(clap::Args)]
pub struct Args {
    /// Without virtual machines
    #[arg(long)]
    fast: bool,
    /// All kernels in all variants of the machine, which takes hours
    #[arg(long, conflicts_with = "fast")]
    matrix: bool,
}

/// Installs what is missing, runs the tests, and counts.
pub fn run(args: &Args) -> Result<()> {
    install::run()?;
    // Elsewhere the tests that need them say so and are skipped.
    let whole = install::can_install();
    if args.matrix {
        k8s::prepare(&[])?;
    } else if whole {
        k8s::prepare(&["kube-apiserver".to_owned()])?;
    }
    let (mut passed, mut failed) = cargo_test(args.fast, whole)?;
    if !args.fast {
        let mut tally = vm::boot_all(&if args.matrix {
            vm::Args::matrix()
        } else {
            vm::Args::on(&VM_KERNELS)
        })?;
        tally += node(args.matrix)?;
        passed += tally.passed as u64;
        failed += tally.failed as u64;
    }
    println!("\n{passed} passed, {failed} failed");
    ensure!(failed == 0, "{failed} failed");
    Ok(())
}

/// Boots a Kubernetes node, where what it runs is there.
fn node(matrix: bool) -> Result<Tally> {
    if let Some(missing) = k8s::missing() {
        println!(
            "\nskipped: the Kubernetes node: {} is not there; `cargo xtask k8s` makes it",
            missing.display()
        );
        return Ok(Tally::default());
    }
    k8s::play(if matrix {
        &[k8s::Driver::Cgroupfs, k8s::Driver::Systemd]
    } else {
        &[k8s::Driver::Cgroupfs]
    })
}

/// Builds the program with all sinks, as it is shipped.
pub fn shipped() -> Result<PathBuf> {
    let build = ["build", "--release", "--locked", "--package", "oomtrace"];
    sh::run(sh::cargo().args(build).args(vm::SHIPPED))?;
    Ok(sh::target().join("release/oomtrace"))
}

/// Runs the workspace's tests, shown as they go; returns how many passed and failed. Where the
/// `whole` of what they need is there, a test that lacks something fails.
fn cargo_test(fast: bool, whole: bool) -> Result<(u64, u64)> {
    let mut command = sh::cargo();
    if whole {
        command.env("OOMTRACE_NO_SKIP", "1");
    }
    command
        .args([
            "test",
            "--workspace",
            "--exclude",
            "oomtrace-ebpf",
            "--locked",
        ])
        .args(vm::SHIPPED)
        // One failure shall not hide the others.
        .arg("--no-fail-fast")
        // Real kills are watched by the program as it is shipped.
        .env("OOMTRACE_BIN", shipped()?)
        // How often delivery is killed at a random moment.
        .env("OOMTRACE_TEST_KILLS", if fast { "20" } else { "200" })
        .stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {}", sh::show(&command)))?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if let Some(result) = line.strip_prefix("test result: ") {
            passed += count(result, "passed");
            failed += count(result, "failed");
        }
    }
    let status = child.wait()?;
    // A test that does not compile, or that dies, is in no count.
    if !status.success() && failed == 0 {
        failed = 1;
    }
    Ok((passed, failed))
}

/// The number before a word: `ok. 12 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> u64 {
    let before = result.split(word).next().unwrap_or_default().trim_end();
    before
        .rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::count;

    /// The numbers of cargo's line are read by their words.
    #[test]
    fn cargo_line() {
        let line = "FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!((count(line, "passed"), count(line, "failed")), (12, 3));
        assert_eq!(count("ok.", "passed"), 0);
    }
}
