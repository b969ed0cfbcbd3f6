//! The kernel side of oomtrace: one file per hook under `hooks/`, all in one object. User space
//! loads those that the running kernel takes.
//!
//! Facts come from the victim's `task_struct`, never from the current task, which is the trigger.
//! The OOM killer holds `oom_lock` from `out_of_memory` to the last mark, so at most one decision
//! is under way on the whole machine: the single-slot maps in [`maps`] need no further lock.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod decision;
mod hooks;
mod kernel;
mod maps;
mod names;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No program can reach this: what could panic does not pass the verifier.
    loop {}
}

/// GPL: `bpf_probe_read_kernel` is for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
