//! A Kubernetes node in a virtual machine: a disk with Debian's packages, what was built, and the
//! guest that starts it all and plays what can happen to pods. The API server is outside: emulated
//! it takes minutes to start.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Args, SUITE, bin};
use crate::{
    image, install, sh,
    vm::{self, Apt, Cell, Image, Kernel, Root, Tally},
};

/// What the node runs, and the guest uses.
const PACKAGES: [&str; 10] = [
    "busybox-static",
    "containerd",
    "coreutils",
    "curl",
    "dash",
    "findutils",
    "mount",
    "runc",
    "systemd",
    "tar",
];
/// Programs of the workspace.
const PROGRAMS: [&str; 3] = ["oomtrace", "oomtrace-guest", "oomtrace-victim"];

const MEMORY_MIB: u32 = 2048;
/// The driver of the network card.
const MODULES: &[&str] = &["vmxnet3"];
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
    let mut kernel = *Kernel::named(&args.kernel).context("no kernel of this name")?;
    (kernel.memory_mib, kernel.modules) = (MEMORY_MIB, MODULES);
    let image = kernel.fetch(&cache, false)?;
    install::packages(kernel.machine.needs)?;
    let built = vm::build(
        kernel.machine,
        &cache,
        &["oomtrace", "oomtrace-tests"],
        vm::SHIPPED,
    )?;
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
        println!("an API server, and the node's disk");
        let cluster = Cluster::start(&built)?;
        let disk = disk(&kernel, &image, &built, &cluster, &cache)?;
        let mut cell = Cell::default();
        let began = Instant::now();
        let end = vm::boot(
            &kernel,
            &image.file,
            Root::Disk(&disk, cluster.port),
            &append,
            &log,
            &mut cell,
        );
        let seconds = began.elapsed().as_secs_f32();
        sum += cell.conclude(&name, end, seconds, &log, args.record)?;
    }
    Ok(sum)
}

/// `oomtrace-cluster`, which ends with its input.
struct Cluster {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Cluster {
    fn start(built: &Path) -> Result<Self> {
        let mut child = Command::new(built.join("oomtrace-cluster"))
            .env("CARGO_TARGET_DIR", sh::target())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the API server")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let told: Value = serde_json::from_str(&line).context("the API server did not start")?;
        let port = told["port"].as_u64().and_then(|port| port.try_into().ok());
        Ok(Self {
            child,
            port: port.context("no port")?,
            folder: told["folder"].as_str().context("no folder")?.into(),
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Waiting closes its input.
        let _ = self.child.wait();
    }
}

/// Makes the disk: packages, which are unpacked once, and what else differs from boot to boot.
fn disk(
    kernel: &Kernel,
    image: &Image,
    built: &Path,
    cluster: &Cluster,
    cache: &Path,
) -> Result<PathBuf> {
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
        fs::write(&note, packages)?;
    }
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
        // Read for each pod.
        ("etc/resolv.conf", ""),
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
    let copy = |file: &Path, place: &str| {
        let name = file.file_name().context("a file's name")?;
        fs::create_dir_all(root.join(place))?;
        fs::copy(file, root.join(place).join(name))
            .with_context(|| format!("copying {}", file.display()))
    };
    for program in PROGRAMS {
        copy(&built.join(program), "usr/bin")?;
    }
    copy(&bin().join("kubelet"), "usr/bin")?;
    // Where a pod of the chart gets them from.
    let container = image::of(kernel.machine, &built.join("oomtrace"))?;
    for file in [&container, &cluster.folder.join("chart.json")] {
        copy(file, "usr/share/oomtrace-test")?;
    }
    for name in ["ca.crt", "server.crt", "server.key"] {
        copy(&cluster.folder.join(name), "etc/kubernetes/pki")?;
    }
    let _ = fs::remove_dir_all(root.join("modules"));
    for module in &image.modules {
        copy(module, "modules")?;
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
