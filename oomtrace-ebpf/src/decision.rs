//! What the fentry and the kprobe variants of a hook have in common.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns};
use oomtrace_common::{CANDIDATE_SLOTS, CandidateList, DecisionEnd, DecisionRecord, RecordKind};

use crate::{
    kernel::{self, Address, offset},
    maps::{self, CANDIDATES, DECIDED, WithTail},
    names::Tail,
};

/// `LONG_MIN`: `oom_badness` says the task cannot be chosen.
const NOT_ELIGIBLE: i64 = i64::MIN;

/// `out_of_memory` was entered: candidates are scored from here on.
#[inline(always)]
pub fn begin() {
    let Some(decision) = maps::decision() else {
        return;
    };
    decision.owner = bpf_get_current_pid_tgid();
    // SAFETY: the helper has no preconditions.
    decision.began_ns = unsafe { bpf_ktime_get_boot_ns() };
    decision.killing = 0;
    if let Some(list) = candidates() {
        clear(list);
    }
}

#[inline(always)]
fn clear(list: &mut CandidateList) {
    list.total = 0;
    list.listed = 0;
    list.spared = 0;
    list.pad = 0;
}

#[inline(always)]
fn candidates() -> Option<&'static mut CandidateList> {
    // SAFETY: guarded by `oom_lock`, like all single-slot maps.
    CANDIDATES.get_ptr_mut(0).map(|list| unsafe { &mut *list })
}

/// `oom_badness` returned `points` for `task`. It also serves `/proc/PID/oom_score`, so only the
/// task that decides counts.
#[inline(always)]
pub fn scored(task: Address, points: i64) {
    if maps::own_decision().is_none_or(|own| own.killing == 1) {
        return;
    }
    let Some(decision) = maps::decision() else {
        return;
    };
    let Some(list) = candidates() else { return };
    if points == NOT_ELIGIBLE {
        list.spared = list.spared.wrapping_add(1);
        return;
    }
    list.total = list.total.wrapping_add(1);
    let listed = list.listed as usize;
    let place = if listed < CANDIDATE_SLOTS {
        list.listed += 1;
        listed
    } else if points < decision.lowest_points {
        return;
    } else {
        // Among equals the later one stays, as in the kernel's own choice.
        decision.lowest_slot as usize
    };
    let Some(item) = list.items.get_mut(place) else {
        return;
    };
    item.points = points;
    item.pid = task.read(offset!(task_tgid));
    item.oom_score_adj = kernel::oom_score_adj(task);
    item.cgroup_id = kernel::memory_cgroup(task)
        .follow(offset!(cgroup_kn))
        .read(offset!(kernfs_id));
    // The kernel scores, and names, the thread that has the address space.
    let thread = kernel::thread_with_mm(task);
    item.comm = thread.read(offset!(task_comm));
    let mm = thread.follow(offset!(task_mm));
    kernel::describe_memory(mm, &mut item.memory);
    if mm.is_null() {
        item.comm = task.read(offset!(task_comm));
        item.memory.total_vm_pages = u64::MAX;
    }
    if list.listed as usize == CANDIDATE_SLOTS {
        find_lowest(decision, list);
    }
}

/// Finds the lowest of the full list. Its result is kept in map memory, step by step, for the
/// same reason as [`Tail`]'s length.
#[inline(always)]
fn find_lowest(decision: *mut maps::Decision, list: &CandidateList) {
    // SAFETY: `decision` points to a map slot.
    let (lowest, slot) = unsafe {
        (
            &raw mut (*decision).lowest_points,
            &raw mut (*decision).lowest_slot,
        )
    };
    // SAFETY: as above.
    unsafe { lowest.write_volatile(i64::MAX) };
    for (index, item) in list.items.iter().enumerate() {
        // SAFETY: as above.
        unsafe {
            if item.points < lowest.read_volatile() {
                lowest.write_volatile(item.points);
                slot.write_volatile(index as u32);
            }
        }
    }
}

/// `oom_kill_process(oc, message)` was entered.
#[inline(always)]
pub fn decided(oc: Address, message: Address) {
    let Some(decision) = maps::decision() else {
        return;
    };
    let current = bpf_get_current_pid_tgid();
    if decision.owner != current {
        // `out_of_memory` is not hooked.
        decision.owner = current;
        // SAFETY: the helper has no preconditions.
        decision.began_ns = unsafe { bpf_ktime_get_boot_ns() };
    }
    decision.killing = 1;
    decision.chosen = oc.follow(offset!(oc_chosen)).0;

    if let Some(list) = candidates() {
        let listed = list.listed as usize;
        if list.total > 0 && listed <= CANDIDATE_SLOTS {
            let size = core::mem::offset_of!(CandidateList, items)
                + listed * size_of::<oomtrace_common::Candidate>();
            list.header = maps::header(RecordKind::Candidates, size);
            // SAFETY: `listed` items are filled.
            unsafe { maps::send(RecordKind::Candidates, list, size) };
        }
        clear(list);
    }

    let Some(slot) = DECIDED.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: guarded by `oom_lock`, like all single-slot maps.
    let WithTail {
        used, record, tail, ..
    } = unsafe { &mut *slot };
    describe(oc, message, record);
    let mut tail = Tail::new(tail, used);
    let cgroup = oc
        .follow(offset!(oc_memcg))
        .member(offset!(memcg_css))
        .follow(offset!(css_cgroup));
    let kn = cgroup.follow(offset!(cgroup_kn));
    record.memcg_id = kn.read(offset!(kernfs_id));
    record.hierarchy_id = kernel::hierarchy_id(cgroup);
    record.paths.cut = u32::from(!tail.push_kernfs(kn));
    record.paths.cgroup_bytes = tail.used();
    record.paths.trigger_bytes = 0;
    record.paths.exe_bytes = 0;
    let size = size_of::<DecisionRecord>() + tail.bounded();
    record.header = maps::header(RecordKind::Decision, size);
    // SAFETY: the record and `used` bytes of the tail are filled.
    unsafe { maps::send(RecordKind::Decision, record, size) };
}

#[inline(always)]
fn describe(oc: Address, message: Address, record: &mut DecisionRecord) {
    record.gfp_mask = oc.read(offset!(oc_gfp_mask));
    record.order = oc.read(offset!(oc_order));
    record.constraint = oc.read(offset!(oc_constraint));
    record.total_pages = oc.read(offset!(oc_totalpages));
    record.chosen_points = oc.read(offset!(oc_chosen_points));
    record.chosen_pid = oc.follow(offset!(oc_chosen)).read(offset!(task_tgid));
    record.pad = 0;
    let memcg = oc.follow(offset!(oc_memcg));
    record.has_memcg = u32::from(!memcg.is_null());
    record.usage_pages = memcg.read(offset!(memcg_memory_usage));
    record.max_pages = memcg.read(offset!(memcg_memory_max));
    record.swap_usage_pages = memcg.read(offset!(memcg_swap_usage));
    record.swap_max_pages = memcg.read(offset!(memcg_swap_max));
    record.oom_group = memcg.read::<u8>(offset!(memcg_oom_group)).into();
    record.message = [0; 64];
    // SAFETY: the helper refuses addresses that cannot be read.
    unsafe {
        aya_ebpf::helpers::generated::bpf_probe_read_kernel_str(
            record.message.as_mut_ptr().cast(),
            64,
            message.0 as *const _,
        )
    };
}

/// `oom_kill_process` returned.
#[inline(always)]
pub fn done() {
    let Some(decision) = maps::own_decision() else {
        return;
    };
    let record = DecisionEnd {
        header: maps::header(RecordKind::DecisionEnd, size_of::<DecisionEnd>()),
    };
    decision.owner = 0;
    decision.killing = 0;
    // SAFETY: a whole record.
    unsafe {
        maps::send(
            RecordKind::DecisionEnd,
            &raw const record,
            size_of::<DecisionEnd>(),
        )
    };
}
