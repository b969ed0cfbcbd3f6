//! What the fentry and the kprobe variants of a hook have in common.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns, generated::bpf_get_current_task,
};
use oomtrace_common::{
    CANDIDATE_SLOTS, Candidate, CandidateList, DecisionEnd, DecisionRecord, RecordKind,
};

use crate::{
    kernel::{self, Address, Place, offset},
    maps::{self, BLOCK, DECIDED, Lowest, Scoring, WithTail},
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
    if let Some(scoring) = maps::scoring() {
        scoring.by = current_task();
        clear(scoring);
    }
}

#[inline(always)]
fn clear(scoring: &mut Scoring) {
    scoring.lowest.points = i64::MIN;
    scoring.list.total = 0;
    scoring.list.listed = 0;
    scoring.list.spared = 0;
    scoring.list.pad = 0;
}

#[inline(always)]
fn current_task() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() }
}

/// The scoring under way, if the current task is the one that decides: `oom_badness` also serves
/// `/proc/PID/oom_score`.
#[inline(always)]
pub fn own_scoring() -> Option<&'static mut Scoring> {
    maps::scoring().filter(|scoring| scoring.by == current_task())
}

/// `oom_badness` returned `points` for a task, which `describe` describes. This runs for every
/// candidate: what does not get on the list must cost next to nothing.
#[inline(always)]
pub fn scored(scoring: &mut Scoring, points: i64, describe: impl FnOnce(&mut Candidate)) {
    let list = &mut scoring.list;
    if points == NOT_ELIGIBLE {
        list.spared = list.spared.wrapping_add(1);
        return;
    }
    let order = list.total;
    list.total = order.wrapping_add(1);
    // Among equals the later one stays, as in the kernel's own choice.
    if points < scoring.lowest.points {
        return;
    }
    let listed = list.listed as usize;
    let slot = if listed < CANDIDATE_SLOTS {
        list.listed += 1;
        listed
    } else {
        scoring.lowest.slot as usize % CANDIDATE_SLOTS
    };
    let item = &mut list.items[slot];
    item.points = points;
    item.order = order;
    item.pad = 0;
    describe(item);
    if listed + 1 >= CANDIDATE_SLOTS {
        lowest_of_block(scoring, slot / BLOCK);
        lowest_of_all(scoring);
    } else if slot % BLOCK == BLOCK - 1 {
        lowest_of_block(scoring, slot / BLOCK);
    }
}

/// Describes a candidate. The kernel scores, and names, the thread that has the address space.
#[inline(always)]
pub fn describe_candidate<P: Place>(item: &mut Candidate, leader: P, thread: P) {
    item.pid = leader.read(offset!(task_tgid));
    item.oom_score_adj = kernel::oom_score_adj(leader);
    item.cgroup_id = kernel::memory_cgroup(leader)
        .follow(offset!(cgroup_kn))
        .read(offset!(kernfs_id));
    let mm = thread.follow(offset!(task_mm));
    kernel::describe_memory(mm, &mut item.memory);
    item.comm = thread.read(offset!(task_comm));
    if mm.is_null() {
        item.comm = leader.read(offset!(task_comm));
        item.memory.total_vm_pages = u64::MAX;
    }
}

/// Finds who of a block makes room first. Results are kept in map memory, step by step, for the
/// same reason as [`Tail`]'s length.
#[inline(always)]
fn lowest_of_block(scoring: &mut Scoring, block: usize) {
    let lowest = &raw mut scoring.blocks[block];
    // SAFETY: a place in the map slot.
    unsafe { (&raw mut (*lowest).points).write_volatile(i64::MAX) };
    for index in 0..BLOCK {
        let slot = block * BLOCK + index;
        let Candidate { points, order, .. } = scoring.list.items[slot];
        keep_lower(
            lowest,
            Lowest {
                points,
                order,
                slot: slot as u32,
            },
        );
    }
}

/// Finds who of all makes room first.
#[inline(always)]
fn lowest_of_all(scoring: &mut Scoring) {
    let lowest = &raw mut scoring.lowest;
    // SAFETY: a place in the map slot.
    unsafe { (&raw mut (*lowest).points).write_volatile(i64::MAX) };
    for block in scoring.blocks {
        keep_lower(lowest, block);
    }
}

/// The lower one has fewer points; among equals it is the earlier one.
#[inline(always)]
fn keep_lower(lowest: *mut Lowest, other: Lowest) {
    // SAFETY: a place in the map slot.
    unsafe {
        let points = (&raw const (*lowest).points).read_volatile();
        if other.points < points
            || other.points == points && other.order < (&raw const (*lowest).order).read_volatile()
        {
            lowest.write_volatile(other);
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
    // What is killed next is not killed for the victim of an earlier decision.
    decision.last_by = 0;
    decision.chosen = oc.follow_optional(offset!(oc_chosen)).0;

    if let Some(scoring) = maps::scoring() {
        scoring.by = 0;
        let list = &mut scoring.list;
        let listed = list.listed as usize;
        if list.total > 0 && listed <= CANDIDATE_SLOTS {
            let size =
                core::mem::offset_of!(CandidateList, items) + listed * size_of::<Candidate>();
            list.header = maps::header(RecordKind::Candidates, size);
            // SAFETY: `listed` items are filled.
            unsafe { maps::send(RecordKind::Candidates, &raw const *list, size) };
        }
        clear(scoring);
    }

    let Some(slot) = DECIDED.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: guarded by `oom_lock`, like all single-slot maps.
    let WithTail {
        state,
        record,
        tail,
    } = unsafe { &mut *slot };
    describe(oc, message, record);
    let mut tail = Tail::new(tail, state);
    let cgroup = oc
        .follow_optional(offset!(oc_memcg))
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
    // SAFETY: the record and the tail are filled.
    unsafe { maps::send(RecordKind::Decision, record, size) };
}

#[inline(always)]
fn describe(oc: Address, message: Address, record: &mut DecisionRecord) {
    record.gfp_mask = oc.read_optional(offset!(oc_gfp_mask));
    record.order = oc.read_optional(offset!(oc_order));
    record.constraint = oc.read_optional(offset!(oc_constraint));
    record.total_pages = oc.read_optional(offset!(oc_totalpages));
    record.chosen_points = oc.read_optional(offset!(oc_chosen_points));
    record.chosen_pid = oc
        .follow_optional(offset!(oc_chosen))
        .read(offset!(task_tgid));
    record.pad = 0;
    let memcg = oc.follow_optional(offset!(oc_memcg));
    record.has_memcg = u32::from(!memcg.is_null());
    record.usage_pages = memcg.read_optional(offset!(memcg_memory_usage));
    record.max_pages = memcg.read_optional(offset!(memcg_memory_max));
    record.swap_usage_pages = memcg.read_optional(offset!(memcg_swap_usage));
    record.swap_max_pages = memcg.read_optional(offset!(memcg_swap_max));
    record.oom_group = memcg.read_optional::<u8>(offset!(memcg_oom_group)).into();
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
