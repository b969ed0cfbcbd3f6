//! Loads the eBPF object, climbs the hook ladder and reads what the programs send. No other
//! module names aya.
//!
//! Nothing here looks at a kernel version. A rung is used when the functions it needs are in the
//! kernel's BTF with the prototype the programs rely on, and the kernel takes the program.

mod check;
mod counters;
pub mod decode;
mod ladder;

use std::{
    os::fd::{AsRawFd, RawFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
};
use oomtrace_common::{ABSENT, Counters, Layout};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

pub use self::ladder::{HookSet, UnknownHook};
use self::{
    counters::SharedCounters,
    decode::{DecodeError, Record},
};
use crate::{btf, event::Hook, host::Host};

/// The compiled programs. `cargo xtask build-ebpf` makes it; its source is `oomtrace-ebpf/`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/oomtrace.bpf.o");

/// What the tracer needs of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The hooks that may be used.
    pub hooks: HookSet,
    /// Size of the ring buffer; a power of two of pages.
    pub ring_bytes: u32,
    /// Whether the programs log (`-vv`).
    pub ebpf_log: bool,
    /// The kernel's BTF, where it is not in its usual place.
    pub btf: Option<&'a Path>,
}

/// Why the tracer cannot watch this kernel.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The kernel's BTF cannot be had.
    #[error(transparent)]
    NoBtf(btf::BtfError),
    /// The kernel's BTF does not tell what the programs need.
    #[error("{btf}: {error}")]
    Btf {
        /// The file that was read.
        btf: String,
        /// What is wrong. Part of the message, and therefore not its source as well.
        error: btf::BtfError,
    },
    /// The kernel refuses eBPF to this process.
    #[error("the kernel refuses {what}: {answer}\n{advice}")]
    Refused {
        /// The system call's object.
        what: String,
        /// The kernel's answer.
        answer: String,
        /// Why, as far as it can be told, and what to do.
        advice: String,
    },
    /// The layout is not the running kernel's.
    #[error(
        "{btf} does not describe the running kernel: {what}. Nothing it would show can be trusted"
    )]
    Layout {
        /// The BTF that was read.
        btf: String,
        /// What was read by it, and what is true.
        what: String,
    },
    /// Anything else that goes wrong with the object.
    #[error("{what}")]
    Object {
        /// What was tried.
        what: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The layout, as a value aya may copy into the object's read-only data.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct LayoutData(Layout);

// SAFETY: `Layout` is `repr(C)` and made of `u32` only.
unsafe impl aya::Pod for LayoutData {}

/// The attached programs.
pub struct Probe {
    ebpf: Option<Ebpf>,
    ring: RingBuf<MapData>,
    counters: SharedCounters,
    logger: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    hooks: Vec<Hook>,
}

impl Probe {
    /// Loads and attaches what the kernel takes of `request.hooks`.
    ///
    /// # Errors
    /// When the kernel has no BTF, lacks a required member, or refuses the first rung. A higher
    /// rung that does not load is a fact in [`Probe::take_hooks`], not an error.
    pub fn attach(request: &Request<'_>, host: &Host) -> Result<Self, ProbeError> {
        let page_size = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| object(file, error))?;
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        let btf_path = request.btf.unwrap_or(btf::VMLINUX.as_ref());
        let resolved = {
            let vmlinux = btf::load(btf_path).map_err(ProbeError::NoBtf)?;
            btf::Btf::parse(&vmlinux, btf::NAMES)
                .and_then(|vmlinux| {
                    btf::resolve(&vmlinux, page_size, cpus, host.kernel_or_unknown())
                })
                .map_err(|error| ProbeError::Btf {
                    btf: btf_path.display().to_string(),
                    error,
                })?
        };
        for member in &resolved.absent {
            tracing::debug!(member, "this kernel's BTF does not have an optional member");
        }

        let layout = LayoutData(resolved.layout);
        let log_level: u8 = if request.ebpf_log {
            aya_log::Level::Debug as u8
        } else {
            0
        };
        let mut ebpf = loader()
            .override_global("LAYOUT", &layout, true)
            .override_global(aya_log::LEVEL, &log_level, false)
            .map_max_entries("RECORDS", request.ring_bytes)
            .load(OBJECT)
            .map_err(|error| ladder::refused("its maps", &error, host))?;

        let mut hooks = Vec::new();
        let mut rungs = ladder::Rungs {
            ebpf: &mut ebpf,
            hooks: &mut hooks,
            allowed: request.hooks,
            functions: &resolved.functions,
            host,
        };
        if resolved.layout.rss_stat_percpu != ABSENT {
            rungs.learn(check::signal_self);
        }
        rungs.climb()?;
        check::check_layout(take_map(&mut ebpf, "CHECK")?, btf_path, cpus)?;

        let ring = take_map(&mut ebpf, "RECORDS")?;
        let ring = RingBuf::try_from(ring).map_err(|error| object("the ring buffer", error))?;
        let counters = SharedCounters::new(&take_map(&mut ebpf, "COUNTERS")?)
            .map_err(|error| object("mapping the counters", error))?;
        let logger = if request.ebpf_log {
            Some(
                aya_log::EbpfLogger::init(&mut ebpf)
                    .map_err(|error| object("the log of the programs", error))?,
            )
        } else {
            None
        };
        Ok(Self {
            ebpf: Some(ebpf),
            ring,
            counters,
            logger,
            hooks,
        })
    }

    /// The hook ladder: what is attached, and why the rest is not.
    pub fn take_hooks(&mut self) -> Vec<Hook> {
        std::mem::take(&mut self.hooks)
    }

    /// The next record, if there is one.
    pub fn next_record(&mut self) -> Option<Result<Record, DecodeError>> {
        self.ring.next().map(|bytes| decode::decode(&bytes))
    }

    /// What the programs could not send, since they were attached.
    pub fn counters(&self) -> Counters {
        self.counters.read()
    }

    /// Hands what the programs logged to the `log` crate.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Detaches all programs; what they have sent can still be read.
    pub fn detach(&mut self) {
        self.ebpf = None;
    }
}

impl AsRawFd for Probe {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// A loader that has not read the kernel's BTF.
///
/// `EbpfLoader::new` parses all of it for relocations, of which a Rust object has none; it takes
/// 15 MB and a third of the start, and goes without when the file cannot be opened. So no file can
/// be opened while it tries. This process has no other thread yet.
fn loader<'a>() -> EbpfLoader<'a> {
    let limits = getrlimit(Resource::Nofile);
    let lowered = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(0),
            ..limits
        },
    );
    let mut loader = EbpfLoader::new();
    if lowered.is_ok()
        && let Err(error) = setrlimit(Resource::Nofile, limits)
    {
        tracing::warn!("the limit on open files cannot be raised again: {error}");
    }
    loader.btf(None);
    loader
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map, ProbeError> {
    ebpf.take_map(name)
        .ok_or_else(|| object("the eBPF object", format!("it has no map {name}")))
}

fn object(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ProbeError {
    ProbeError::Object {
        what: what.to_owned(),
        source: source.into(),
    }
}
