//! Puts the layout to the test before anything is believed: this process sends itself a signal, the
//! program at `signal_generate` describes the sender by the layout and by the kernel's own helpers,
//! and the two must agree, and agree with `/proc`.

use std::{fs, path::Path};

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

/// Compares what the layout read from `btf` shows of a task with what the kernel says of it. `cpus`
/// is the number of processors there can be.
///
/// # Errors
/// When they differ, or no answer comes.
pub fn check_layout(map: Map, btf: &Path, cpus: u32) -> Result<(), ProbeError> {
    const WHAT: &str = "checking the layout";
    let failed = |error| object(WHAT, error);
    let mut map: Array<_, Slot> = Array::try_from(map).map_err(failed)?;
    let mut slot = map.get(&0, 0).map_err(failed)?;
    slot.0.state = CHECK_ARMED;
    map.set(0, slot, 0).map_err(failed)?;
    let before = Own::read();
    signal_self();
    let after = Own::read();
    let Slot(check) = map.get(&0, 0).map_err(failed)?;
    if check.state != CHECK_DONE {
        return Err(object(
            WHAT,
            "the program at signal_generate did not answer",
        ));
    }
    match difference(&check).or_else(|| difference_from_proc(&check, &before, &after, cpus)) {
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
        memory: _,
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

/// What `/proc` says of this process, as far as it does.
#[derive(Default)]
struct Own {
    pid: Option<i64>,
    ppid: Option<i64>,
    oom_score_adj: Option<i64>,
    start_ticks: Option<i64>,
    mapped_kb: Option<i64>,
    pgtables_kb: Option<i64>,
    /// Anonymous, file and shared.
    resident_kb: [Option<i64>; 3],
}

impl Own {
    fn read() -> Self {
        let text = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
        let status = text("status").unwrap_or_default();
        let field = |name: &str| {
            let value = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.trim().trim_end_matches(" kB").parse().ok()
        };
        // In a time namespace the start is shown on another clock.
        let shifted = text("timens_offsets").is_some_and(|offsets| {
            let mut boottime = offsets.lines().filter(|line| line.starts_with("boottime"));
            boottime.any(|line| line.split_whitespace().skip(1).any(|number| number != "0"))
        });
        let start_ticks = text("stat").filter(|_| !shifted).and_then(|stat| {
            let (_, fields) = stat.rsplit_once(") ")?;
            fields.split(' ').nth(19)?.parse().ok()
        });
        Self {
            pid: field("Pid"),
            ppid: field("PPid"),
            oom_score_adj: text("oom_score_adj").and_then(|adj| adj.trim().parse().ok()),
            start_ticks,
            mapped_kb: field("VmSize"),
            pgtables_kb: field("VmPTE"),
            resident_kb: ["RssAnon", "RssFile", "RssShmem"].map(field),
        }
    }
}

/// What the layout shows otherwise than `/proc` did before and after, between which it may change.
fn difference_from_proc(check: &SelfCheck, before: &Own, after: &Own, cpus: u32) -> Option<String> {
    let SelfCheck { task, memory, .. } = check;
    let page = rustix::param::page_size() as u64;
    let cpus = u64::from(cpus);
    // What processors keep of a counter (`percpu_counter_batch`, lib/percpu_counter.c), or threads
    // (`TASK_RSS_EVENTS_THRESH`, mm/memory.c, before 6.2), is in one of the two and not in the other.
    let kept_pages = cpus.saturating_mul(cpus.saturating_mul(2).max(64));
    let kept_kb = (kept_pages.saturating_mul(page) / 1024).cast_signed();
    let kb = |pages: u64| (pages.wrapping_mul(page) / 1024).cast_signed();
    // In a pid namespace `/proc` shows other ids.
    let same_ids = before.pid == Some(task.pid.into());
    let ppid = |own: &Own| own.ppid.filter(|_| same_ids);
    let resident = |kind: usize| (before.resident_kb[kind], after.resident_kb[kind]);
    let facts = [
        (
            "parent's pid",
            task.ppid.into(),
            (ppid(before), ppid(after)),
            0,
        ),
        (
            "oom_score_adj",
            task.oom_score_adj.into(),
            (before.oom_score_adj, after.oom_score_adj),
            0,
        ),
        (
            "start (in ticks)",
            (task.start_ns / 10_000_000).cast_signed(),
            (before.start_ticks, after.start_ticks),
            0,
        ),
        (
            "mapped memory (in kB)",
            kb(memory.total_vm_pages),
            (before.mapped_kb, after.mapped_kb),
            0,
        ),
        (
            "page tables (in kB)",
            (memory.pgtables_bytes / 1024).cast_signed(),
            (before.pgtables_kb, after.pgtables_kb),
            0,
        ),
        (
            "anonymous memory (in kB)",
            kb(memory.anon_pages.max(0).cast_unsigned()),
            resident(0),
            kept_kb,
        ),
        (
            "file memory (in kB)",
            kb(memory.file_pages.max(0).cast_unsigned()),
            resident(1),
            kept_kb,
        ),
        (
            "shared memory (in kB)",
            kb(memory.shmem_pages.max(0).cast_unsigned()),
            resident(2),
            kept_kb,
        ),
    ];
    for (what, read, truth, slack) in facts {
        let (Some(before), Some(after)) = truth else {
            continue;
        };
        let possible =
            before.min(after).saturating_sub(slack)..=before.max(after).saturating_add(slack);
        if !possible.contains(&read) {
            return Some(format!(
                "a task's {what} is {after}, and would be read as {read}"
            ));
        }
    }
    None
}
