//! Puts the layout to the test before anything is believed: this process sends itself a signal, the
//! program at `signal_generate` describes the sender by the layout and by the kernel's own helpers,
//! and the two must agree.

use std::path::Path;

use aya::maps::{Array, Map};
use oomtrace_common::{CHECK_ARMED, CHECK_DONE, SelfCheck};
use rustix::process::{Signal, getpid, kill_process};

use super::{ProbeError, decode::until_nul, object};

/// The check, as a value aya may copy in and out of the map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Slot(SelfCheck);

// SAFETY: `SelfCheck` is `repr(C)` and made of integers, without padding.
unsafe impl aya::Pod for Slot {}

/// Compares what the layout read from `btf` shows of a task with what the kernel says of it.
///
/// # Errors
/// When they differ, or no answer comes.
pub fn check_layout(map: Map, btf: &Path) -> Result<(), ProbeError> {
    const WHAT: &str = "checking the layout";
    let failed = |error| object(WHAT, error);
    let mut map: Array<_, Slot> = Array::try_from(map).map_err(failed)?;
    let mut slot = map.get(&0, 0).map_err(failed)?;
    slot.0.state = CHECK_ARMED;
    map.set(0, slot, 0).map_err(failed)?;
    signal_self();
    let Slot(check) = map.get(&0, 0).map_err(failed)?;
    if check.state != CHECK_DONE {
        return Err(object(
            WHAT,
            "the program at signal_generate did not answer",
        ));
    }
    match difference(&check) {
        Some(what) => Err(ProbeError::Layout {
            btf: btf.display().to_string(),
            what,
        }),
        None => Ok(()),
    }
}

/// Sends this process a signal that does nothing to it, but that the programs see.
pub fn signal_self() {
    if let Err(error) = kill_process(getpid(), Signal::URG) {
        tracing::debug!(%error, "signalling this process");
    }
}

/// What the layout shows otherwise than the kernel.
fn difference(check: &SelfCheck) -> Option<String> {
    let SelfCheck {
        state: _,
        pid_tgid,
        uid_gid,
        comm,
        task,
    } = check;
    let numbers = [
        ("pid", task.tid, *pid_tgid as u32),
        ("tgid", task.pid, (*pid_tgid >> 32) as u32),
        ("uid", task.uid, *uid_gid as u32),
    ];
    for (member, read, truth) in numbers {
        if read != truth {
            return Some(format!(
                "a task's {member} is {truth}, and would be read as {read}"
            ));
        }
    }
    let (read, truth) = (until_nul(&task.comm), until_nul(comm));
    (read != truth).then(|| {
        format!(
            "a task's comm is {:?}, and would be read as {:?}",
            String::from_utf8_lossy(truth),
            String::from_utf8_lossy(read),
        )
    })
}
