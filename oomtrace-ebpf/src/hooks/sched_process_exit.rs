//! `trace_sched_process_exit(struct task_struct *p[, bool group_dead])`
//! (`include/trace/events/sched.h`): a thread exits.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use oomtrace_common::{Exit, RecordKind};

use crate::{
    kernel::{Address, offset},
    maps::{self, DYING},
};

#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn sched_process_exit(ctx: RawTracePointContext) -> u32 {
    let task = Address(ctx.arg(0));
    let pid: u32 = task.read(offset!(task_tgid));
    // SAFETY: the value is not used.
    if unsafe { DYING.get(pid) }.is_none() {
        return 0;
    }
    // `do_exit` has already counted this thread out of `signal->live`.
    let live: i32 = task.follow(offset!(task_signal)).read(offset!(signal_live));
    if live != 0 {
        return 0;
    }
    let _ = DYING.remove(pid);
    let size = size_of::<Exit>();
    let record = Exit {
        header: maps::header(RecordKind::Exit, size),
        pid,
        pad: 0,
    };
    // SAFETY: a whole record.
    unsafe { maps::send(RecordKind::Exit, &raw const record, size) };
    0
}
