//! `long oom_badness(struct task_struct *p, unsigned long totalpages)` (`mm/oom_kill.c`): its
//! return is the kernel's own score of a candidate.

use aya_ebpf::{
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};

use super::register;
use crate::{
    decision,
    kernel::{Address, offset},
    maps,
};

#[fexit(function = "oom_badness")]
fn fexit_oom_badness(ctx: FExitContext) -> u32 {
    // The return value follows the two arguments.
    decision::scored(Address(ctx.arg(0)), ctx.arg(2));
    0
}

#[kprobe(function = "oom_badness")]
fn kprobe_oom_badness(ctx: ProbeContext) -> u32 {
    if let Some(decision) = maps::own_decision() {
        decision.scoring = register(&ctx, offset!(regs_arg0));
    }
    0
}

#[kretprobe(function = "oom_badness")]
fn kretprobe_oom_badness(ctx: RetProbeContext) -> u32 {
    if let Some(decision) = maps::own_decision() {
        let points = register(&ctx, offset!(regs_ret)) as i64;
        decision::scored(Address(decision.scoring), points);
    }
    0
}
