//! `cargo xtask deb`: the Debian package, of the static program and what is in `deploy/`.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};

use crate::{
    image::Arch,
    install::{self, Need},
    sh,
    vm::{self, X86_64},
};

const NEEDS: [Need; 1] = [Need {
    package: "lintian",
    has: "lintian",
}];
const MAINTAINER: &str = "oomtrace maintainers <oomtrace@users.noreply.github.com>";
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-1");
const CONFIG: &str = "etc/oomtrace/oomtrace.toml";

/// `--help` tells.
#[derive(clap::Args)]
pub struct Args {
    /// For which processors
    #[arg(long, value_enum, default_value_t = Arch::Amd64)]
    arch: Arch,
}

/// Builds the package, and has it looked at.
pub fn run(args: &Args) -> Result<()> {
    install::packages(&NEEDS)?;
    let machine = args.arch.machine();
    install::packages(machine.needs)?;
    let cache = sh::target().join("vm");
    let built = vm::build(machine, &cache, &["oomtrace"], vm::SHIPPED)?;
    // The program tells about itself where it runs.
    let here = vm::build(&X86_64, &cache, &["oomtrace"], vm::SHIPPED)?;
    let package = package(
        machine.debian,
        &built.join("oomtrace"),
        &here.join("oomtrace"),
    )?;
    println!("{}", package.display());
    if sh::find("lintian").is_some() {
        sh::run(
            Command::new("lintian")
                .args(["--fail-on", "error,warning"])
                .arg(&package),
        )?;
    }
    Ok(())
}

fn package(architecture: &str, program: &Path, here: &Path) -> Result<PathBuf> {
    let home = sh::target().join("deb");
    fs::create_dir_all(&home)?;
    let root = tempfile::tempdir_in(&home)?;
    let tree = Tree(root.path());
    let told = |args: &[&str]| sh::output(Command::new(here).args(args));
    let ours = |name: &str| {
        let file = sh::root().join(name);
        fs::read(&file).with_context(|| format!("reading {}", file.display()))
    };
    tree.put("usr/bin/oomtrace", 0o755, &fs::read(program)?)?;
    tree.put(
        "usr/lib/systemd/system/oomtrace.service",
        0o644,
        &ours("deploy/systemd/oomtrace.service")?,
    )?;
    // It may come to name what is nobody's business.
    tree.put(CONFIG, 0o640, told(&["config", "example"])?.as_bytes())?;
    tree.pack(
        "usr/share/man/man1/oomtrace.1.gz",
        told(&["man"])?.as_bytes(),
    )?;
    // The service would make it; `oomtrace config check` looks for it before.
    tree.folder("var/log/oomtrace")?;
    for (shell, place) in [
        ("bash", "bash-completion/completions/oomtrace"),
        ("zsh", "zsh/vendor-completions/_oomtrace"),
        ("fish", "fish/vendor_completions.d/oomtrace.fish"),
    ] {
        let script = told(&["completions", shell])?;
        tree.put(&format!("usr/share/{place}"), 0o644, script.as_bytes())?;
    }
    let date = sh::output(sh::pristine("git").args(["log", "-1", "--format=%aD"]))?;
    let changelog = format!(
        "oomtrace ({VERSION}) unstable; urgency=medium\n\n  * Version {}. What changed is in changelog.gz \
         beside this.\n\n -- {MAINTAINER}  {}\n",
        env!("CARGO_PKG_VERSION"),
        date.trim()
    );
    let documents = "usr/share/doc/oomtrace";
    tree.put(
        &format!("{documents}/copyright"),
        0o644,
        &ours("deploy/debian/copyright")?,
    )?;
    tree.pack(&format!("{documents}/changelog.gz"), &ours("CHANGELOG.md")?)?;
    tree.pack(
        &format!("{documents}/changelog.Debian.gz"),
        changelog.as_bytes(),
    )?;
    tree.put(
        "usr/share/lintian/overrides/oomtrace",
        0o644,
        &ours("deploy/debian/lintian-overrides")?,
    )?;
    let size = sh::output(Command::new("du").args(["-sk"]).arg(root.path()))?;
    let size = size.split_whitespace().next().context("a size")?;
    tree.put(
        "DEBIAN/control",
        0o644,
        format!(
            "Package: oomtrace\nVersion: {VERSION}\nArchitecture: {architecture}\n\
             Maintainer: {MAINTAINER}\nInstalled-Size: {size}\nSection: admin\nPriority: optional\n\
             Homepage: https://github.com/oomtrace/oomtrace\n\
             Description: records every kill of the kernel's OOM killer\n \
             It tells who died, whose limit was hit, who asked for the memory, why this one\n \
             and when it was gone: as readable lines, as JSON, and to log servers.\n"
        )
        .as_bytes(),
    )?;
    tree.put("DEBIAN/conffiles", 0o644, format!("/{CONFIG}\n").as_bytes())?;
    for script in ["postinst", "prerm", "postrm"] {
        let text = ours(&format!("deploy/debian/{script}"))?;
        tree.put(&format!("DEBIAN/{script}"), 0o755, &text)?;
    }
    let sums = "cd \"$0\" && find usr -type f -printf '%P\\n' | LC_ALL=C sort | \
                sed s,^,usr/, | xargs md5sum";
    let sums = sh::output(Command::new("sh").args(["-c", sums]).arg(root.path()))?;
    tree.put("DEBIAN/md5sums", 0o644, sums.as_bytes())?;
    let package = home.join(format!("oomtrace_{VERSION}_{architecture}.deb"));
    sh::output(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .arg(root.path())
            .arg(&package),
    )?;
    Ok(package)
}

/// What the package installs, and how.
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    /// A folder and those above it, everybody's to read.
    fn folder(&self, place: &str) -> Result<()> {
        let everybody = || fs::Permissions::from_mode(0o755);
        let mut folder = self.0.to_owned();
        fs::set_permissions(&folder, everybody())?;
        for name in Path::new(place) {
            folder.push(name);
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, everybody())?;
        }
        Ok(())
    }

    fn put(&self, place: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let file = self.0.join(place);
        if let Some((folder, _)) = place.rsplit_once('/') {
            self.folder(folder)?;
        }
        fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// The same, compressed and without a date.
    fn pack(&self, place: &str, bytes: &[u8]) -> Result<()> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes)?;
        self.put(place, 0o644, &encoder.finish()?)
    }
}
