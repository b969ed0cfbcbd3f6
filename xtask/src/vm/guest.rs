//! What runs in the virtual machine: static programs in an initramfs.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{apt::Apt, machine::Machine};
use crate::sh;

/// Where each program of the workspace goes.
const PROGRAMS: [(&str, &str); 3] = [
    ("oomtrace-guest", "init"),
    ("oomtrace", "bin/oomtrace"),
    ("oomtrace-victim", "bin/oomtrace-victim"),
];
const FOLDERS: [&str; 8] = ["bin", "dev", "etc", "modules", "proc", "run", "sys", "tmp"];

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const MODULE: u32 = 0o100_644;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Packs the programs that were built, and the kernel's modules, as `file`.
pub fn initramfs(programs: &Path, modules: &[PathBuf], file: &Path) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.add(folder, DIRECTORY, (0, 0), &[]);
    }
    for (program, place) in PROGRAMS {
        archive.add_program(&programs.join(program), place)?;
    }
    for (index, module) in modules.iter().enumerate() {
        // The guest loads them in the order of their names.
        archive.add_file(module, &format!("modules/{index}"), MODULE)?;
    }
    archive.write(file)
}

/// The features of what is shipped: all sinks.
pub const SHIPPED: &[&str] = &["--features", "oomtrace/full"];

/// Builds all programs of these packages; returns the folder that has them.
pub fn build(
    machine: &Machine,
    cache: &Path,
    packages: &[&str],
    features: &[&str],
) -> Result<PathBuf> {
    let build = cache.join("build");
    let variable = |name: &str| {
        let target = machine.target.to_uppercase().replace('-', "_");
        format!("CARGO_TARGET_{target}_{name}")
    };
    let (mut cargo, sysroot) = toolchain(machine, cache)?;
    sh::run(
        cargo
            .args(["build", "--release", "--locked", "--bins"])
            .args(packages.iter().flat_map(|package| ["-p", package]))
            .args(features)
            .args(["--target", machine.target])
            .arg("--target-dir")
            .arg(&build)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env(variable("LINKER"), machine.linker)
            .env(
                variable("RUSTFLAGS"),
                // There are no shared libraries in the machine.
                format!("-C target-feature=+crt-static {sysroot}"),
            ),
    )?;
    Ok(build.join(machine.target).join("release"))
}

/// A cargo that builds for `machine`, and what to tell its compiler: the cargo at hand, where its
/// compiler has the machine's standard library (`rustup target add`). Else Debian's compiler, and
/// the standard library of its arm64 twin.
fn toolchain(machine: &Machine, cache: &Path) -> Result<(Command, String)> {
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--print", "target-libdir", "--target", machine.target]);
    if Path::new(sh::output(&mut rustc)?.trim()).exists() {
        return Ok((sh::cargo(), String::new()));
    }
    let version = sh::output(Command::new("dpkg-query").args([
        "--show",
        "--showformat=${Version}",
        "rustc-web",
    ]))
    .with_context(|| {
        format!(
            "the compiler has no standard library for {target}: `rustup target add {target}`, or \
             on Debian apt-get install --no-install-recommends rustc-web cargo-web",
            target = machine.target
        )
    })?;
    let libraries = cache.join("std");
    let folder = libraries.join(format!("{}-{version}", machine.debian));
    if !folder.exists() {
        let apt = Apt::new(&cache.join("apt"), machine.debian, &["bookworm-security"])?;
        let unpacked = libraries.join("unpacked");
        apt.unpack(&format!("libstd-rust-web-dev={version}"), &unpacked)?;
        fs::rename(&unpacked, &folder)?;
    }
    let mut cargo = sh::pristine("/usr/bin/cargo");
    cargo.env("RUSTC", "/usr/bin/rustc");
    Ok((cargo, format!("--sysroot={}", folder.join("usr").display())))
}

/// A cpio archive in the "newc" format (`Documentation/driver-api/early-userspace/buffer-format.rst`
/// in the kernel source).
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_size = name.len() as u32 + 1;
        // ino, mode, uid, gid, nlink, mtime, filesize, device of the file, device of a node,
        // namesize, check
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(data);
        self.align();
    }

    /// Adds a program.
    pub fn add_program(&mut self, file: &Path, place: &str) -> Result<()> {
        self.add_file(file, place, EXECUTABLE)
    }

    fn add_file(&mut self, file: &Path, place: &str, mode: u32) -> Result<()> {
        let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        self.add(place, mode, (0, 0), &bytes);
        Ok(())
    }

    /// Adds what is in a folder.
    pub fn add_tree(&mut self, root: &Path, within: &Path) -> Result<()> {
        for entry in fs::read_dir(root.join(within))? {
            let entry = entry?;
            let place = within.join(entry.file_name());
            let name = place.to_str().context("a name that is not UTF-8")?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                self.add(name, DIRECTORY, (0, 0), &[]);
                self.add_tree(root, &place)?;
            } else if metadata.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.add(name, SYMLINK, (0, 0), target.as_os_str().as_encoded_bytes());
            } else {
                self.add_file(&entry.path(), name, metadata.mode())?;
            }
        }
        Ok(())
    }

    /// Writes the archive.
    pub fn write(mut self, file: &Path) -> Result<PathBuf> {
        // The kernel opens it for init's output.
        self.add("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
        fs::write(file, self.finish()).with_context(|| format!("writing {}", file.display()))?;
        Ok(file.to_owned())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}
