//! Where the running kernel keeps things, read from its BTF (`/sys/kernel/btf/vmlinux`).
//!
//! The eBPF programs carry no relocations: user space resolves every offset they need here, once
//! at start, and hands them over as one [`Layout`](oomtrace_common::Layout). A wrong offset would
//! report nonsense without any error, so everything the programs assume about a member (that it
//! exists, how wide it is, that its definition is unambiguous) is checked, and a failed check says
//! which member of which struct on which kernel.
//!
//! `format` knows the bytes, [`Btf`] answers questions about them, [`resolve`] asks for what the
//! programs need.

mod format;
mod layout;
mod reader;
#[cfg(test)]
mod tests;

pub use layout::{FunctionFacts, NAMES, Resolved, resolve};
pub use reader::{Array, Btf, Member};

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::{ptr, slice};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Where the kernel shows its own BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Distribution kernels carry 5 to 15 MB; a path that names something else must not fill memory.
const MAX_BYTES: u64 = 256 << 20;

/// A BTF file in memory.
pub enum Bytes {
    /// Mapped: kernels from 6.16 on allow it for their own, which spares a copy.
    Mapped(Mapping),
    /// Read.
    Read(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping.bytes(),
            Self::Read(bytes) => bytes,
        }
    }
}

/// A file mapped into memory.
pub struct Mapping {
    start: *mut c_void,
    len: usize,
}

impl Mapping {
    fn new(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping; nothing of this process is replaced.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::PRIVATE,
                file,
                0,
            )?
        };
        Ok(Self { start, len })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `new` mapped so many bytes, and the kernel's BTF does not change.
        unsafe { slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

/// Maps the kernel's own BTF, or reads a BTF file whole.
///
/// # Errors
/// [`BtfError::Missing`] if there is no such file, [`BtfError::Unreadable`] if it cannot be read,
/// [`BtfError::Malformed`] if it is larger than any kernel's BTF.
pub fn load(path: &Path) -> Result<Bytes, BtfError> {
    let unreadable = |source| BtfError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => BtfError::Missing {
            path: path.to_owned(),
        },
        _ => unreadable(error),
    })?;
    // sysfs knows the size, which saves the vector from growing by doubling.
    let len = file.metadata().map_err(unreadable)?.len().min(MAX_BYTES);
    let len = usize::try_from(len).unwrap_or_default();
    // An ordinary file may be cut short while it is mapped.
    if path == Path::new(VMLINUX)
        && let Ok(mapping) = Mapping::new(&file, len)
    {
        return Ok(Bytes::Mapped(mapping));
    }
    let mut bytes = Vec::with_capacity(len.saturating_add(1));
    file.take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 == MAX_BYTES {
        return Err(BtfError::Malformed("the file is larger than 256 MiB"));
    }
    Ok(Bytes::Read(bytes))
}

/// Why BTF could not be read, or does not describe what the programs need.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file does not exist.
    #[error("{}: no such file{}", path.display(), why_missing(path))]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file exists but cannot be read.
    #[error("{}: cannot read the kernel's BTF", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes break the format's own rules.
    #[error("malformed BTF: {0}")]
    Malformed(&'static str),
    /// The BTF was written on a machine of the other byte order.
    #[error("BTF of the other byte order: it does not belong to this machine's kernel")]
    ForeignEndian,
    /// A type of a kind this reader does not know, and no layout section that says how long it is.
    #[error("BTF type {id} is of unknown kind {kind}, and nothing tells how to skip it")]
    UnknownKind {
        /// The kind's number.
        kind: u8,
        /// The type's id.
        id: u32,
    },
    /// No definition of that struct or union.
    #[error("BTF has no struct {name}")]
    NoStruct {
        /// The struct.
        name: String,
    },
    /// The struct has no such member.
    #[error("BTF has no member \"{member}\" in struct {name}")]
    NoMember {
        /// The struct.
        name: String,
        /// The member, or the path to it.
        member: String,
    },
    /// No enum has that enumerator.
    #[error("BTF has no enumerator {enumerator}{}", in_enum(name.as_deref()))]
    NoEnumerator {
        /// The enum, if it was asked for by name.
        name: Option<String>,
        /// The enumerator.
        enumerator: String,
    },
    /// Several definitions of one name disagree.
    #[error("BTF is ambiguous: the definitions of {name} disagree about {about}")]
    Ambiguous {
        /// The name with several definitions.
        name: String,
        /// What they disagree about.
        about: String,
    },
    /// The member does not begin at a byte, or is narrower than its type.
    #[error("member \"{member}\" of struct {name} is a bit-field")]
    BitField {
        /// The struct.
        name: String,
        /// The member.
        member: String,
    },
    /// The member is not as wide as the programs read it.
    #[error("member \"{member}\" of struct {name} has {found} bytes instead of {expected}")]
    WrongSize {
        /// The struct.
        name: String,
        /// The member.
        member: String,
        /// What the programs read.
        expected: u32,
        /// What the kernel has.
        found: u32,
    },
    /// The member, function or tracepoint exists, in a shape this program does not know.
    #[error("{what} has an unknown shape: {found}")]
    UnknownShape {
        /// What was looked at.
        what: String,
        /// What it looks like.
        found: String,
    },
    /// `memory_cgrp_id` does not exist.
    #[error("the kernel was built without the memory controller (CONFIG_MEMCG)")]
    NoMemoryController,
    /// One of the above, with the kernel it is about.
    #[error("kernel {release}: {error}")]
    Kernel {
        /// The kernel's release, as `uname -r` prints it.
        release: String,
        /// What is wrong. Part of the message, and therefore not its source as well.
        error: Box<BtfError>,
    },
}

/// Why the kernel does not show its BTF, and what to do about it.
fn why_missing(path: &Path) -> &'static str {
    if path == Path::new(VMLINUX) {
        ": the kernel was built without CONFIG_DEBUG_INFO_BTF, or sysfs is not mounted\nuse a kernel \
         with BTF, or give `oomtrace trace` this kernel's own in a file by --btf"
    } else {
        ""
    }
}

/// The end of a message about an enumerator.
fn in_enum(name: Option<&str>) -> String {
    name.map(|name| format!(" in enum {name}"))
        .unwrap_or_default()
}
