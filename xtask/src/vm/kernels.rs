//! The kernels that are tried, and where each comes from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    apt::Apt,
    machine::{AARCH64, Machine, X86_64},
};

/// A kernel and the machine it boots on: one column of the matrix. To add a kernel, add an entry.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// What `--kernel` calls it.
    pub name: &'static str,
    /// Which packages have it, as an extended regular expression; the newest is taken.
    packages: &'static str,
    /// The suites to look in.
    suites: &'static [&'static str],
    /// What it runs on.
    pub machine: &'static Machine,
    /// Added to the kernel's command line.
    pub append: &'static str,
    /// Memory of the machine.
    pub memory_mib: u32,
    /// Further options of QEMU.
    pub options: &'static [&'static str],
    /// Drivers that it does not have built in, in the order in which they are loaded.
    modules: &'static [&'static str],
}

/// All of them, oldest first.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "5.10",
        // 5.10.223, which bullseye was closed with: `mark_victim` has only a thread id there.
        packages: "^linux-image-5\\.10\\.0-32-cloud-amd64$",
        suites: &["bullseye"],
        ..DEFAULT
    },
    Kernel {
        name: "6.1",
        packages: "^linux-image-6\\.1\\.0-[0-9]+-cloud-amd64$",
        suites: &["bookworm", "bookworm-security"],
        ..DEFAULT
    },
    Kernel {
        name: "6.12",
        packages: "^linux-image-6\\.12\\.[0-9]+\\+deb12-cloud-amd64$",
        suites: &["bookworm", "bookworm-security"],
        ..DEFAULT
    },
    Kernel {
        name: "6.12-rt",
        // PREEMPT_RT: everything is preempted, the kernel log is written by threads of its own.
        packages: "^linux-image-6\\.12\\.[0-9]+\\+deb12-rt-amd64$",
        suites: &["bookworm", "bookworm-security"],
        modules: NVME,
        ..DEFAULT
    },
    Kernel {
        name: "7.3",
        packages: "^linux-binary-7\\.3\\.[0-9]+\\+deb13-cloud-amd64$",
        suites: &["trixie-backports"],
        ..DEFAULT
    },
    Kernel {
        name: "6.12-arm64",
        packages: "^linux-image-6\\.12\\.[0-9]+\\+deb12-cloud-arm64$",
        suites: &["bookworm", "bookworm-security"],
        machine: &AARCH64,
        ..DEFAULT
    },
    Kernel {
        name: "6.12-arm64-16k",
        // Pages of 16 KiB.
        packages: "^linux-image-6\\.12\\.[0-9]+\\+deb12-arm64-16k$",
        suites: &["bookworm", "bookworm-security"],
        machine: &AARCH64,
        modules: NVME,
        ..DEFAULT
    },
];

/// The driver of the disk, which only the kernels for clouds have built in.
const NVME: &[&str] = &["nvme-auth", "nvme-core", "nvme"];

const DEFAULT: Kernel = Kernel {
    name: "",
    packages: "",
    suites: &[],
    machine: &X86_64,
    append: "",
    memory_mib: 1024,
    options: &[],
    modules: &[],
};

/// A kernel that is at hand.
pub struct Image {
    /// The bootable file.
    pub file: PathBuf,
    /// The drivers to load, in order.
    pub modules: Vec<PathBuf>,
    /// The package it is from, or the file that was given.
    pub origin: String,
}

impl Kernel {
    /// The kernel of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KERNELS.iter().find(|kernel| kernel.name == name)
    }

    /// A kernel the user brings.
    pub const fn given() -> Self {
        Self {
            name: "given",
            ..DEFAULT
        }
    }

    /// Fetches the kernel, or takes what was fetched before.
    pub fn fetch(&self, cache: &Path, refresh: bool) -> Result<Image> {
        let folder = cache.join("kernels").join(self.name);
        let (file, note) = (folder.join("vmlinuz"), folder.join("package"));
        let modules: Vec<_> = self
            .modules
            .iter()
            .map(|name| folder.join(name).with_extension("ko"))
            .collect();
        let is_here = [&file, &note]
            .into_iter()
            .chain(&modules)
            .all(|file| file.exists());
        if is_here && !refresh {
            let origin = fs::read_to_string(&note)?;
            return Ok(Image {
                file,
                modules,
                origin: origin.trim().to_owned(),
            });
        }
        let context = || {
            format!(
                "fetching kernel {}; `--kernel PATH` takes a bootable kernel of your own",
                self.name
            )
        };
        let package = self.download(&folder, cache).with_context(context)?;
        fs::write(&note, &package)?;
        Ok(Image {
            file,
            modules,
            origin: package,
        })
    }

    /// The kernel of this name, or in this file, ready to boot.
    pub fn find(name: &str, cache: &Path) -> Result<(Self, Image)> {
        match Self::named(name) {
            Some(kernel) => Ok((*kernel, kernel.fetch(cache, false)?)),
            None => Ok((Self::given(), given(name)?)),
        }
    }

    /// Downloads the headers that belong to the kernel, if there are any.
    pub fn headers(&self, image: &Image, cache: &Path) -> Result<Vec<PathBuf>> {
        let flavour = format!("-cloud-{}", self.machine.debian);
        let Some(version) = image
            .origin
            .strip_prefix("linux-image-")
            .or_else(|| image.origin.strip_prefix("linux-binary-"))
            .and_then(|rest| rest.strip_suffix(&flavour))
        else {
            return Ok(Vec::new());
        };
        let apt = Apt::new(&cache.join("apt"), self.machine.debian, self.suites)?;
        [flavour.as_str(), "-common"]
            .iter()
            .map(|part| {
                let folder = cache.join("headers").join(self.name).join(part);
                apt.download(&format!("linux-headers-{version}{part}"), &folder)
            })
            .collect()
    }

    fn download(&self, folder: &Path, cache: &Path) -> Result<String> {
        let apt = Apt::new(&cache.join("apt"), self.machine.debian, self.suites)?;
        let mut names = apt.search(self.packages)?;
        names.sort_by_key(|name| numbers(name));
        let package = names.pop().with_context(|| {
            format!("no package {} in {}", self.packages, self.suites.join(", "))
        })?;
        let _ = fs::remove_dir_all(folder);
        let unpacked = folder.join("unpacked");
        apt.unpack(&package, &unpacked)?;
        let take = |prefix: &str, name: &str| -> Result<()> {
            let found = find(&unpacked, prefix)?
                .with_context(|| format!("the package {package} has no file {prefix}*"))?;
            Ok(fs::rename(&found, folder.join(name))?)
        };
        take("vmlinuz", "vmlinuz")?;
        for name in self.modules {
            // Its name goes on with how it is packed, which the kernel finds out.
            let name = format!("{name}.ko");
            take(&name, &name)?;
        }
        fs::remove_dir_all(&unpacked)?;
        Ok(package)
    }
}

/// The file that was given for a kernel.
pub fn given(path: &str) -> Result<Image> {
    let file = PathBuf::from(path);
    if !file.is_file() {
        let names: Vec<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
        bail!(
            "--kernel {path}: neither a file nor one of {}, all",
            names.join(", ")
        );
    }
    Ok(Image {
        file,
        modules: Vec::new(),
        origin: path.to_owned(),
    })
}

/// The numbers in a package's name: `6.12.9` is older than `6.12.100`.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// A file whose name begins so.
fn find(folder: &Path, prefix: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if let Some(found) = find(&entry.path(), prefix)? {
                return Ok(Some(found));
            }
        } else if kind.is_file() && entry.file_name().to_string_lossy().starts_with(prefix) {
            ensure!(
                entry.metadata()?.len() > 0,
                "{} is empty",
                entry.path().display()
            );
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}
