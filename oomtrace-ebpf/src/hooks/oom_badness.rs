//! `long oom_badness(struct task_struct *p, unsigned long totalpages)` (`mm/oom_kill.c`): its
//! return is the kernel's own score of a candidate.

use aya_ebpf::{
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};

use oomtrace_common::Candidate;

use super::register;
use crate::{
    decision::{self, describe_candidate},
    kernel::{self, Address, Place, Typed, offset},
};

#[fexit(function = "oom_badness")]
fn fexit_oom_badness(ctx: FExitContext) -> u32 {
    let Some(scoring) = decision::own_scoring() else {
        return 0;
    };
    let task = Typed(ctx.arg(0));
    // The return value follows the two arguments.
    decision::scored(scoring, ctx.arg(2), |item| {
        if task.follow(offset!(task_mm)).is_null() {
            // The verifier does not know the types along a list.
            by_address(item, task.address());
        } else {
            describe_candidate(item, task, task);
        }
    });
    0
}

#[kprobe(function = "oom_badness")]
fn kprobe_oom_badness(ctx: ProbeContext) -> u32 {
    if let Some(scoring) = decision::own_scoring() {
        scoring.task = register(&ctx, offset!(regs_arg0));
    }
    0
}

#[kretprobe(function = "oom_badness")]
fn kretprobe_oom_badness(ctx: RetProbeContext) -> u32 {
    if let Some(scoring) = decision::own_scoring() {
        let points = register(&ctx, offset!(regs_ret)) as i64;
        let task = Address(scoring.task);
        decision::scored(scoring, points, |item| by_address(item, task));
    }
    0
}

#[inline(always)]
fn by_address(item: &mut Candidate, task: Address) {
    describe_candidate(item, task, kernel::thread_with_mm(task));
}
