//! `trace_sched_process_exit(struct task_struct *p[, bool group_dead])`
//! (`include/trace/events/sched.h`): a thread exits.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use oomtrace_common::{ABSENT, Exit, RecordKind};

use crate::{
    kernel::{Address, Place, offset},
    maps::{self, DYING},
};

#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn sched_process_exit(ctx: RawTracePointContext) -> u32 {
    let task = Address(ctx.arg(0));
    let pid: u32 = task.read(offset!(task_tgid));
    // SAFETY: the value is not used.
    if unsafe { DYING.get(pid) }.is_none() || threads_left(task) != 0 {
        return 0;
    }
    gone(pid);
    0
}

/// `do_exit` counts a thread out of `signal->live` before it comes by here.
#[inline(always)]
fn threads_left(task: Address) -> i32 {
    task.follow(offset!(task_signal)).read(offset!(signal_live))
}

/// Looks whether a victim came by here before it was followed. SIGKILL is sent before the mark, and
/// from 6.16 on an exiting task comes by here before `exit_mm`, which waits for the mark.
#[inline(always)]
pub fn if_gone(task: Address, pid: u32) {
    if pid != 0 && offset!(signal_live) != ABSENT && threads_left(task) == 0 {
        gone(pid);
    }
}

/// Tells that a process is gone, unless that was told.
#[inline(always)]
fn gone(pid: u32) {
    if DYING.remove(pid).is_err() {
        return;
    }
    let size = size_of::<Exit>();
    let record = Exit {
        header: maps::header(RecordKind::Exit, size),
        pid,
        pad: 0,
    };
    // SAFETY: a whole record.
    unsafe { maps::send(RecordKind::Exit, &raw const record, size) };
}
