//! A Kubernetes node in a virtual machine: a disk with Debian's packages, what was built, and the
//! guest that starts it all and plays what can happen to pods.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result};

use super::{Args, SUITE, bin};
use crate::{
    install, sh,
    vm::{self, Apt, Cell, Kernel, Root, Tally},
};

/// What the node runs, and the guest uses.
const PACKAGES: [&str; 11] = [
    "busybox-static",
    "containerd",
    "coreutils",
    "curl",
    "dash",
    "etcd-server",
    "mount",
    "openssl",
    "runc",
    "systemd",
    "tar",
];
/// Programs of the workspace.
const PROGRAMS: [&str; 3] = ["oomtrace", "oomtrace-guest", "oomtrace-victim"];

/// Room for a node that runs etcd and an API server, too.
const MEMORY_MIB: u32 = 4096;
/// Sparse: most of it is never written.
const DISK_BYTES: u64 = 4 << 30;

/// The unit that starts the guest where systemd is the first process.
const UNIT: &str = "\
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/usr/bin/oomtrace-guest
StandardOutput=tty
TTYPath=/dev/ttyS0
OOMScoreAdjust=-999
Delegate=yes
";

/// Who makes the cgroups of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Driver {
    /// The kubelet and runc.
    Cgroupfs,
    /// systemd, which they ask.
    Systemd,
}

impl Driver {
    const fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }

    /// The first process.
    const fn init(self) -> &'static str {
        match self {
            Self::Cgroupfs => "/usr/bin/oomtrace-guest",
            Self::Systemd => "/usr/lib/systemd/systemd systemd.unit=oomtrace-guest.service",
        }
    }
}

/// Boots a node with each of the drivers that are asked for.
pub fn boot(args: &Args) -> Result<Tally> {
    let cache = sh::target().join("vm");
    let (mut kernel, image) = Kernel::find(&args.kernel, &cache)?;
    kernel.memory_mib = MEMORY_MIB;
    install::packages(kernel.machine.needs)?;
    println!("the node's disk");
    let disk = disk(&kernel, &cache)?;
    let mut sum = Tally::default();
    for driver in &args.vm {
        let name = format!("{}.node-{}", kernel.name, driver.name());
        println!(
            "\n{}, a Kubernetes node, cgroup driver {}",
            image.origin,
            driver.name()
        );
        let log = cache.join("log").join(format!("{name}.log"));
        // One memory node, so that there is one place where memory runs out.
        let mut append = format!(
            "numa=off oomtrace.node={} init={}",
            driver.name(),
            driver.init()
        );
        if !args.scenario.is_empty() {
            append += &format!(" oomtrace.scenarios={}", args.scenario.join(","));
        }
        if args.record {
            append += " oomtrace.record";
        }
        let mut cell = Cell::default();
        let began = Instant::now();
        let end = vm::boot(
            &kernel,
            &image.file,
            Root::Disk(&disk),
            &append,
            &log,
            &mut cell,
        );
        cell.seconds = began.elapsed().as_secs_f32();
        sum += cell.conclude(&name, end, &log, args.record)?;
    }
    Ok(sum)
}

/// Makes the disk: packages, which are unpacked once, and programs, which are built anew.
fn disk(kernel: &Kernel, cache: &Path) -> Result<PathBuf> {
    let architecture = kernel.machine.debian;
    let folder = cache.join("userland").join(format!("node-{architecture}"));
    let (root, note) = (folder.join("root"), folder.join("packages"));
    let packages = PACKAGES.join(" ");
    if fs::read_to_string(&note).ok().as_deref() != Some(&packages) {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let apt = Apt::new(&cache.join("apt"), architecture, &[SUITE])?;
        vm::extract(&apt.download_all(&PACKAGES)?, &root)?;
        for name in [
            "etc", "proc", "root", "run", "sys", "tmp", "var/log", "var/tmp",
        ] {
            fs::create_dir_all(root.join(name))?;
        }
        for (file, text) in [
            ("etc/hosts", "127.0.0.1 localhost\n"),
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
            ("etc/os-release", "ID=debian\n"),
            // Made by systemd where it is empty.
            ("etc/machine-id", "6f6f6d74726163656f6f6d7472616365\n"),
        ] {
            let file = root.join(file);
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        }
        fs::write(
            root.join("usr/lib/systemd/system/oomtrace-guest.service"),
            UNIT,
        )?;
        fs::write(&note, packages)?;
    }
    let built = vm::build(kernel.machine, cache, &["oomtrace", "oomtrace-tests"])?;
    let programs = PROGRAMS.iter().map(|name| built.join(name));
    for program in programs.chain(super::COMPONENTS.iter().map(|name| bin().join(name))) {
        let name = program.file_name().context("a program's name")?;
        fs::copy(&program, root.join("usr/bin").join(name))
            .with_context(|| format!("copying {}", program.display()))?;
    }
    let disk = folder.join("disk");
    File::create(&disk)?.set_len(DISK_BYTES)?;
    sh::output(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-d"])
            .args([&root, &disk]),
    )?;
    Ok(disk)
}
