//! Debian's packages of the other tools, unpacked for the virtual machine without being installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::vm::{self, Apt, Image, Kernel};

/// The suite whose kernel is the default one.
const SUITE: &str = "trixie";
const TOOLS: [&str; 3] = ["bpfcc-tools", "bpftrace", "libbpf-tools"];
/// `stdbuf`, and the shell that bpftrace runs to look for a compiler.
const PACKAGES: [&str; 5] = [TOOLS[0], TOOLS[1], TOOLS[2], "coreutils", "dash"];

/// What was unpacked.
pub struct Userland {
    pub root: PathBuf,
    /// Of the tools.
    pub versions: String,
}

/// Unpacks the tools, what they depend on, and the headers of the kernel, with which bcc compiles.
/// What was unpacked before for the same kernel is taken again.
pub fn unpack(kernel: &Kernel, image: &Image, cache: &Path) -> Result<Userland> {
    let architecture = kernel.machine.debian;
    let folder = cache
        .join("userland")
        .join(format!("{}-{architecture}", kernel.name));
    let (root, note) = (folder.join("root"), folder.join("note"));
    if let Ok(text) = fs::read_to_string(&note)
        && let Some((origin, versions)) = text.split_once('\n')
        && origin == image.origin
    {
        let versions = versions.to_owned();
        return Ok(Userland { root, versions });
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let apt = Apt::new(&cache.join("apt"), architecture, &[SUITE])?;
    let mut packages = apt.download_all(&PACKAGES)?;
    let mut versions: Vec<_> = packages.iter().filter_map(|file| version(file)).collect();
    versions.sort();
    let versions = versions.join(", ");
    packages.extend(kernel.headers(image, cache)?);
    vm::extract(&packages, &root)?;
    fs::write(&note, format!("{}\n{versions}", image.origin))?;
    Ok(Userland { root, versions })
}

/// Name and version of one of the tools, of the file of its package.
fn version(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let (package, rest) = name.split_once('_')?;
    let (version, _) = rest.split_once('_')?;
    TOOLS
        .contains(&package)
        .then(|| format!("{package} {version}"))
}
