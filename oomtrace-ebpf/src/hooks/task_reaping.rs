//! `trace_{start,finish,skip}_task_reaping(int pid)` (`include/trace/events/oom.h`): the OOM
//! reaper takes a victim's memory before the victim gets to exit.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use oomtrace_common::{Reap, RecordKind};

use crate::maps;

#[inline(always)]
fn reap(ctx: &RawTracePointContext, step: u32) -> u32 {
    let size = size_of::<Reap>();
    let record = Reap {
        header: maps::header(RecordKind::Reap, size),
        tid: ctx.arg(0),
        step,
    };
    // SAFETY: a whole record.
    unsafe { maps::send(RecordKind::Reap, &raw const record, size) };
    0
}

#[raw_tracepoint(tracepoint = "start_task_reaping")]
fn start_task_reaping(ctx: RawTracePointContext) -> u32 {
    reap(&ctx, 1)
}

#[raw_tracepoint(tracepoint = "finish_task_reaping")]
fn finish_task_reaping(ctx: RawTracePointContext) -> u32 {
    reap(&ctx, 2)
}

#[raw_tracepoint(tracepoint = "skip_task_reaping")]
fn skip_task_reaping(ctx: RawTracePointContext) -> u32 {
    reap(&ctx, 3)
}
