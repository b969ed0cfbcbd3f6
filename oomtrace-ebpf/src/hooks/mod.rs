//! One file per hook; each names the kernel function or tracepoint and its prototype.

mod console;
mod mark_victim;
mod oom_badness;
mod oom_kill_process;
mod out_of_memory;
mod sched_process_exit;
mod signal_generate;
mod task_reaping;

use aya_ebpf::EbpfContext;

use crate::kernel::{Address, Place};

/// A register that the kprobe saved, by its place in `pt_regs`.
#[inline(always)]
fn register(ctx: &impl EbpfContext, offset: u32) -> u64 {
    Address(ctx.as_ptr() as u64).read(offset)
}
