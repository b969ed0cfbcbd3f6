//! `static void oom_kill_process(struct oom_control *oc, const char *message)`
//! (`mm/oom_kill.c`): the decision, and at its return the end of it.

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};

use super::register;
use crate::{
    decision,
    kernel::{Address, offset},
};

#[fentry(function = "oom_kill_process")]
fn fentry_oom_kill_process(ctx: FEntryContext) -> u32 {
    decision::decided(Address(ctx.arg(0)), Address(ctx.arg(1)));
    0
}

#[fexit(function = "oom_kill_process")]
fn fexit_oom_kill_process(_: FExitContext) -> u32 {
    decision::done();
    0
}

#[kprobe(function = "oom_kill_process")]
fn kprobe_oom_kill_process(ctx: ProbeContext) -> u32 {
    decision::decided(
        Address(register(&ctx, offset!(regs_arg0))),
        Address(register(&ctx, offset!(regs_arg1))),
    );
    0
}

#[kretprobe(function = "oom_kill_process")]
fn kretprobe_oom_kill_process(_: RetProbeContext) -> u32 {
    decision::done();
    0
}
