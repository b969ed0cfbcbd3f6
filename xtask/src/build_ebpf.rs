//! `cargo xtask build-ebpf`: the eBPF object is committed, so that a user needs stable Rust and
//! nothing else. Beside it lies a lock, which says from what and by what it was built.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::sh;

const OBJECT: &str = "oomtrace/bpf/oomtrace.bpf.o";
const LOCK: &str = "oomtrace/bpf/oomtrace.bpf.lock";
const CRATE: &str = "oomtrace-ebpf";
const TARGET: &str = "bpfel-unknown-none";
/// Folders whose files make the object.
const SOURCES: [&str; 2] = ["oomtrace-common", CRATE];
/// The object is in every copy of the program, and in its memory.
const MAX_BYTES: usize = 64 * 1024;

const NO_TOOLCHAIN: &str =
    "no toolchain for eBPF: it takes a nightly-capable rustc with the source \
of `core`. Two ways to get one:
  Debian:  apt-get install --no-install-recommends rustc-web cargo-web rust-web-src
  rustup:  rustup toolchain install nightly --component rust-src";

const NO_LINKER: &str = "no bpf-linker. With the LLVM that the eBPF toolchain's rustc has:
  Debian:  apt-get install --no-install-recommends llvm-22-dev libpolly-22-dev
           LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 \\
               --no-default-features --features llvm-22
  rustup:  cargo install bpf-linker";

/// `--help` tells.
#[derive(clap::Args)]
pub struct Args {
    /// Write nothing; fail unless the committed object is what the source builds. With another
    /// compiler than the lock names, only the hashes are compared and the source is compiled
    #[arg(long)]
    check: bool,
}

/// Builds the object, or checks the committed one.
pub fn run(args: &Args) -> Result<()> {
    if args.check { check() } else { build() }
}

fn build() -> Result<()> {
    let toolchain = Toolchain::find()?;
    let object = toolchain.build()?;
    let lock = Lock::of(&object, toolchain.versions)?;
    fs::write(sh::root().join(OBJECT), &object).with_context(|| format!("writing {OBJECT}"))?;
    fs::write(sh::root().join(LOCK), lock.to_string())
        .with_context(|| format!("writing {LOCK}"))?;
    println!(
        "{OBJECT}: {} bytes, built by {}",
        object.len(),
        lock.versions
    );
    Ok(())
}

fn check() -> Result<()> {
    const STALE: &str = "stale: run `cargo xtask build-ebpf` and commit oomtrace/bpf/";
    let committed =
        fs::read(sh::root().join(OBJECT)).with_context(|| format!("reading {OBJECT}"))?;
    let text = fs::read_to_string(sh::root().join(LOCK))
        .with_context(|| format!("reading {LOCK}; {STALE}"))?;
    let locked = Lock::parse(&text).with_context(|| format!("in {LOCK}; {STALE}"))?;
    ensure!(
        locked.object == sh::sha256(&committed),
        "{OBJECT} is not the object of {LOCK}; {STALE}"
    );
    ensure!(
        locked.sources == hash_sources(&sh::root())?,
        "the sources differ from those {OBJECT} was built from; {STALE}"
    );
    println!(
        "{OBJECT}: {} bytes; its hash and that of its sources match the lock",
        committed.len()
    );

    let toolchain = Toolchain::find()?;
    let built = toolchain.build()?;
    if toolchain.versions != locked.versions {
        println!(
            "the sources compile with {}; the bytes cannot be compared, for the object was built \
             by {}",
            toolchain.versions, locked.versions
        );
        return Ok(());
    }
    ensure!(
        built == committed,
        "the same sources and tools ({}) build other bytes than {OBJECT} has ({} bytes built, {} \
         committed); {STALE}",
        locked.versions,
        built.len(),
        committed.len()
    );
    println!("built again by {}: the same bytes", locked.versions);
    Ok(())
}

/// What the object was built from and by.
#[derive(Debug, PartialEq, Eq)]
struct Lock {
    sources: String,
    object: String,
    versions: Versions,
}

/// What decides the bytes, besides the sources.
#[derive(Debug, PartialEq, Eq)]
struct Versions {
    rustc: String,
    llvm: String,
    bpf_linker: String,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rustc,
            llvm,
            bpf_linker,
        } = self;
        write!(f, "rustc {rustc}, LLVM {llvm}, bpf-linker {bpf_linker}")
    }
}

impl Lock {
    fn of(object: &[u8], versions: Versions) -> Result<Self> {
        Ok(Self {
            sources: hash_sources(&sh::root())?,
            object: sh::sha256(object),
            versions,
        })
    }

    fn parse(text: &str) -> Result<Self> {
        let fields: BTreeMap<_, _> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(' '))
            .collect();
        let field = |name: &str| {
            fields
                .get(name)
                .map(|value| value.to_string())
                .ok_or(anyhow!("no line `{name} …`"))
        };
        Ok(Self {
            sources: field("sources")?,
            object: field("object")?,
            versions: Versions {
                rustc: field("rustc")?,
                llvm: field("llvm")?,
                bpf_linker: field("bpf-linker")?,
            },
        })
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sources,
            object,
            versions:
                Versions {
                    rustc,
                    llvm,
                    bpf_linker,
                },
        } = self;
        write!(
            f,
            "# Written by `cargo xtask build-ebpf`, compared by `cargo xtask build-ebpf --check`.\n\
             sources {sources}\nobject {object}\nrustc {rustc}\nllvm {llvm}\nbpf-linker {bpf_linker}\n"
        )
    }
}

/// A compiler that can build for BPF.
struct Toolchain {
    /// The command line that every call of cargo starts with.
    cargo: Vec<String>,
    /// The compiler, where cargo must be told.
    rustc: Option<PathBuf>,
    bpf_linker: PathBuf,
    versions: Versions,
}

impl Toolchain {
    /// Debian's set if it is there, else rustup's nightly.
    fn find() -> Result<Self> {
        let bpf_linker = sh::find("bpf-linker").context(NO_LINKER)?;
        let debian = Path::new("/usr/bin/rustc");
        let (cargo, rustc, mut version) = if has_core_source(sh::pristine(debian)) {
            (
                vec!["/usr/bin/cargo".to_owned()],
                Some(debian.to_owned()),
                sh::pristine(debian),
            )
        } else {
            let mut nightly = sh::pristine("rustc");
            nightly.arg("+nightly");
            if !has_core_source(nightly) {
                bail!(NO_TOOLCHAIN);
            }
            let mut version = sh::pristine("rustc");
            version.arg("+nightly");
            (
                vec!["cargo".to_owned(), "+nightly".to_owned()],
                None,
                version,
            )
        };
        let rustc_says = sh::output(version.arg("-Vv"))?;
        let linker_says = sh::output(sh::pristine(&bpf_linker).arg("--version"))?;
        let after = |prefix: &str| {
            let line = rustc_says
                .lines()
                .find_map(|line| line.strip_prefix(prefix));
            line.map(str::to_owned)
                .with_context(|| format!("rustc -Vv says no `{prefix}`"))
        };
        let versions = Versions {
            rustc: after("rustc ")?,
            llvm: after("LLVM version: ")?,
            bpf_linker: linker_says
                .trim()
                .trim_start_matches("bpf-linker ")
                .to_owned(),
        };
        Ok(Self {
            cargo,
            rustc,
            bpf_linker,
            versions,
        })
    }

    /// Builds the object outside of the source tree.
    fn build(&self) -> Result<Vec<u8>> {
        let target = sh::target().join("ebpf");
        let (program, arguments) = self.cargo.split_first().context("no cargo")?;
        let mut command = sh::pristine(program);
        command
            .args(arguments)
            .args([
                "build",
                "--locked",
                "--profile",
                "ebpf",
                "-p",
                CRATE,
                "--target",
                TARGET,
            ])
            .args(["-Z", "build-std=core", "--target-dir"])
            .arg(&target)
            // Debian's compiler is a stable one, and BPF is a target of nightly's.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", remap());
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc);
        }
        // rustc looks the linker up by name.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let linker = self.bpf_linker.parent().map(Path::to_owned);
        let path = std::env::join_paths(linker.into_iter().chain(std::env::split_paths(&path)))?;
        sh::run(command.env("PATH", path))?;

        let file = target.join(TARGET).join("ebpf").join(CRATE);
        let object = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        ensure!(
            object.len() < MAX_BYTES,
            "the eBPF object has {} bytes; it must stay below {MAX_BYTES}",
            object.len()
        );
        Ok(object)
    }
}

/// Keeps the builder's folders out of the object.
fn remap() -> String {
    let cargo_home = sh::cargo_bin().and_then(|bin| bin.parent().map(Path::to_owned));
    [(Some(sh::root()), "/oomtrace"), (cargo_home, "/cargo")]
        .into_iter()
        .filter_map(|(from, to)| Some(format!("--remap-path-prefix={}={to}", from?.display())))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether this rustc exists and the source of `core` is beside it.
fn has_core_source(mut rustc: Command) -> bool {
    let sysroot = sh::output(rustc.args(["--print", "sysroot"]));
    sysroot.is_ok_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
    })
}

/// Hashes all that makes the object: the sources, the profile, and the locked dependencies.
fn hash_sources(root: &Path) -> Result<String> {
    let mut listed = String::new();
    for folder in SOURCES {
        let mut files = Vec::new();
        list_files(&root.join(folder), &mut files)?;
        files.sort();
        for file in files {
            let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            let name = file.strip_prefix(root)?.display();
            listed += &format!("{name} {}\n", sh::sha256(&bytes));
        }
    }
    let read =
        |name: &str| fs::read_to_string(root.join(name)).with_context(|| format!("reading {name}"));
    listed += &relevant_manifest(&read("Cargo.toml")?);
    listed += &locked_dependencies(&read("Cargo.lock")?);
    Ok(sh::sha256(listed.as_bytes()))
}

fn list_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list_files(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The lines of the workspace's manifest that decide how the object is built.
fn relevant_manifest(manifest: &str) -> String {
    let mut section = "";
    let mut relevant = String::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let keep = match section {
            "[profile.release]" | "[profile.ebpf]" => !line.is_empty() && !line.starts_with('#'),
            "[workspace.package]" => line.starts_with("edition"),
            "[workspace.dependencies]" => ["aya-ebpf ", "aya-log-ebpf "]
                .iter()
                .any(|name| line.starts_with(name)),
            _ => false,
        };
        if keep {
            relevant += line;
            relevant.push('\n');
        }
    }
    relevant
}

/// The packages of `Cargo.lock` that the object is built from, whole and sorted.
fn locked_dependencies(lock: &str) -> String {
    let mut packages: BTreeMap<&str, String> = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let name = package
            .lines()
            .find_map(|line| line.strip_prefix("name = "));
        // Several versions of one name go together.
        let all = packages
            .entry(name.unwrap_or_default().trim_matches('"'))
            .or_default();
        *all += package.trim();
        all.push('\n');
    }
    let mut taken = BTreeMap::new();
    let mut waiting = vec![CRATE];
    while let Some(name) = waiting.pop() {
        let Some(package) = packages.get(name) else {
            continue;
        };
        if taken.insert(name, package.as_str()).is_none() {
            // ` "name",` or, where several versions are locked, ` "name version",`.
            waiting.extend(
                package
                    .lines()
                    .filter_map(|line| line.strip_prefix(" \"")?.split(['"', ' ']).next()),
            );
        }
    }
    taken
        .into_values()
        .fold(String::new(), |text, package| text + package)
}
