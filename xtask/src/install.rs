//! What the tests need beyond Rust: on Debian it is installed, elsewhere it is named.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Result;

use crate::sh;

/// A package that is taken to be there when a file or a program is.
pub struct Need {
    /// Debian's name.
    pub package: &'static str,
    /// A program in `PATH`, or the absolute path of a file.
    pub has: &'static str,
}

/// What virtual machines take is in `vm::machine`.
const NEEDS: [Need; 8] = [
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

/// Installs what all tests need.
pub fn run() -> Result<()> {
    packages(&NEEDS)?;
    if sh::find("bpf-linker").is_none() {
        install_bpf_linker()?;
    }
    Ok(())
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
