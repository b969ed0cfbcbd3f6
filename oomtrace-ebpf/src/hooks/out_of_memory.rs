//! `bool out_of_memory(struct oom_control *oc)` (`mm/oom_kill.c`): every OOM decision, whoever
//! asks for it, is taken within. Hooked only where the return of `oom_badness` is.

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};

use crate::decision;

#[fentry(function = "out_of_memory")]
fn fentry_out_of_memory(_: FEntryContext) -> u32 {
    decision::begin();
    0
}

#[kprobe(function = "out_of_memory")]
fn kprobe_out_of_memory(_: ProbeContext) -> u32 {
    decision::begin();
    0
}
