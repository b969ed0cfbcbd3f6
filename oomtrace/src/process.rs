//! What the tracer does to its own process, so that it lives through what it reports and can do
//! no more than it must.

use std::{fs, io, thread::JoinHandle};

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{Resource, Rlimit, setpriority_process, setrlimit},
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// Keeps the OOM killer away from the tracer as far as it is allowed, and returns the value that
/// holds now. Lowering it takes `CAP_SYS_RESOURCE`.
pub fn set_oom_score_adj(wanted: Option<i32>) -> Option<i32> {
    if let Some(wanted) = wanted
        && let Err(error) = fs::write(OOM_SCORE_ADJ, wanted.to_string())
    {
        tracing::warn!(
            "{OOM_SCORE_ADJ}: cannot be set to {wanted}: {error}; it takes CAP_SYS_RESOURCE. The \
             tracer itself may become a victim"
        );
    }
    fs::read_to_string(OOM_SCORE_ADJ).ok()?.trim().parse().ok()
}

/// Asks to run before others when the processors are busy, by the highest niceness. Takes
/// `CAP_SYS_NICE`.
///
/// Not real-time scheduling: it would wake the tracer on the processor that kills, where the kernel
/// does not let go of it before the victim has exited, while another one is idle.
pub fn run_early() {
    if let Err(error) = setpriority_process(None, -20) {
        tracing::debug!(%error, "no higher priority; records may come late on a busy machine");
    }
}

/// Takes that back for the calling thread.
fn run_normally() {
    if let Err(error) = setpriority_process(None, 0) {
        tracing::debug!(%error, "a thread keeps the tracer's priority");
    }
}

/// A thread whose work can wait, with a small stack: what is touched of it stays locked in memory.
///
/// # Errors
/// When it cannot be started.
pub fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    // The system takes no more.
    let name: String = name.chars().take(15).collect();
    std::thread::Builder::new()
        .name(name)
        .stack_size(512 << 10)
        .spawn(move || {
            run_normally();
            work()
        })
}

/// Gives memory that was needed for the start only back to the system.
pub fn release_memory() {
    // SAFETY: the function has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Locks the tracer's memory, so that it need not be paged in while the node is short of it.
///
/// Pages are locked as they are touched, which keeps what is never used out of memory. What is
/// mapped later is locked, too, but only where there is no limit on that: once the capabilities are
/// given up the kernel would refuse to map more than the limit (`mlock_future_ok` in `mm/mmap.c`),
/// and the tracer would die of it.
pub fn lock_memory() -> bool {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let mut flags = MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT;
    if setrlimit(Resource::Memlock, unlimited).is_ok() {
        flags |= MlockAllFlags::FUTURE;
    }
    match mlockall(flags) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(
                "the tracer's memory cannot be locked: {error}; it takes CAP_IPC_LOCK or a higher \
                 `ulimit -l`. It works, but may be slow when the node is out of memory"
            );
            false
        }
    }
}

/// Gives up all capabilities: once the hooks are attached and the kernel log is open, none is
/// needed.
pub fn drop_capabilities() {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    if let Err(error) = set_capabilities(None, none) {
        tracing::warn!("the capabilities of this process cannot be dropped: {error}");
    }
}
