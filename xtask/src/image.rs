//! `cargo xtask image`: the container image, from one static program, by buildah and without a
//! registry.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    install::{self, Need},
    sh,
    vm::{self, AARCH64, Machine, X86_64},
};

const NEEDS: [Need; 1] = [Need {
    package: "buildah",
    has: "buildah",
}];

/// `--help` tells.
#[derive(clap::Args)]
pub struct Args {
    /// For which processors
    #[arg(long, value_enum, default_value_t = Arch::Amd64)]
    arch: Arch,
}

/// Processors, by Debian's names, which are those of container images.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    pub const fn machine(self) -> &'static Machine {
        match self {
            Self::Amd64 => &X86_64,
            Self::Arm64 => &AARCH64,
        }
    }
}

/// Builds the program and the image.
pub fn run(args: &Args) -> Result<()> {
    let machine = args.arch.machine();
    install::packages(machine.needs)?;
    let built = vm::build(
        machine,
        &sh::target().join("vm"),
        &["oomtrace"],
        vm::SHIPPED,
    )?;
    println!("{}", of(machine, &built.join("oomtrace"))?.display());
    Ok(())
}

/// Makes the image of a static program; returns the OCI archive. Its name in it is the one that the
/// Helm chart asks for.
pub fn of(machine: &Machine, program: &Path) -> Result<PathBuf> {
    install::packages(&NEEDS)?;
    let home = sh::target().join("image");
    let context = home.join("root");
    fs::create_dir_all(&context)?;
    fs::copy(program, context.join("oomtrace"))
        .with_context(|| format!("copying {}", program.display()))?;
    let archive = home.join(format!("oomtrace-{}.tar", machine.debian));
    // buildah writes to no archive that is there.
    let _ = fs::remove_file(&archive);
    let storage = tempfile::tempdir_in(&home)?;
    let buildah = || {
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(storage.path().join("root"))
            .arg("--runroot")
            .arg(storage.path().join("run"))
            .args(["--storage-driver", "vfs"]);
        command
    };
    let name = format!("localhost/oomtrace:{}", env!("CARGO_PKG_VERSION"));
    let containerfile = sh::root().join("deploy/Containerfile");
    sh::output(
        buildah()
            .args(["build", "--isolation", "chroot", "--arch", machine.debian])
            // The same program makes the same image.
            .args(["--timestamp", "0", "--tag", &name, "--file"])
            .arg(containerfile)
            .arg(&context),
    )?;
    let place = format!("oci-archive:{}:{name}", archive.display());
    sh::output(buildah().args(["push", &name, &place]))?;
    Ok(archive)
}
