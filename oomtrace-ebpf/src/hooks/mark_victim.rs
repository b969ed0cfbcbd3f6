//! `trace_mark_victim(struct task_struct *task, uid_t uid)`, before that `(int pid)`
//! (`include/trace/events/oom.h`): a task became an OOM victim, in the context of the trigger.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_task},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use oomtrace_common::{
    LEVEL_OOM_GROUP, RecordKind, Task, VICTIM_HAS_MM, VICTIM_LIVE_KILL, VictimRecord,
};

use crate::{
    kernel::{self, Address, Place, offset},
    maps::{self, KILLED, VICTIM, WithTail},
    names::Tail,
};

#[raw_tracepoint(tracepoint = "mark_victim")]
fn mark_victim(ctx: RawTracePointContext) -> u32 {
    let by = bpf_get_current_pid_tgid();
    // SAFETY: the value is copied at once.
    let killed = unsafe { KILLED.get(by) }.copied();
    let (task, live_kill) = if offset!(mark_victim_has_task) == 1 {
        let task = Address(ctx.arg(0));
        (task, killed == Some(task.0))
    } else {
        // Only the thread id is passed. The task is the one just killed, the one chosen, or the
        // current one.
        let tid: u32 = ctx.arg(0);
        match killed.map(Address) {
            Some(task) if task.read::<u32>(offset!(task_pid)) == tid => (task, true),
            _ if tid == by as u32 => (current(), false),
            _ => (chosen(tid), false),
        }
    };
    if live_kill {
        let _ = KILLED.remove(by);
    }
    let Some(slot) = VICTIM.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: guarded by `oom_lock`, like all single-slot maps.
    let WithTail {
        state,
        record,
        tail,
    } = unsafe { &mut *slot };
    record.flags = if live_kill { VICTIM_LIVE_KILL } else { 0 };

    kernel::describe_task(task, &mut record.victim);
    if task.is_null() {
        record.victim.tid = ctx.arg(0);
    }
    kernel::describe_task(current(), &mut record.trigger);
    kernel::describe_levels(task, record);

    let mut tail = Tail::new(tail, state);
    record.paths.cut = 0;
    if !push_cgroup(&mut tail, task) {
        record.paths.cut |= 1;
    }
    record.paths.cgroup_bytes = tail.used();
    if !push_cgroup(&mut tail, current()) {
        record.paths.cut |= 2;
    }
    record.paths.trigger_bytes = tail.used() - record.paths.cgroup_bytes;
    let file = kernel::address_space(task).follow_optional(offset!(mm_exe_file));
    if !file.is_null() && !tail.push_file(file) {
        record.paths.cut |= 4;
    }
    record.paths.exe_bytes = tail.used() - record.paths.cgroup_bytes - record.paths.trigger_bytes;

    // At the end, so that what depends on the address space is not two states throughout the loops
    // above.
    let mm = kernel::address_space(task);
    if !mm.is_null() {
        record.flags |= VICTIM_HAS_MM;
    }
    kernel::describe_memory(mm, &mut record.memory);
    kernel::add_percpu_parts(mm, &mut record.memory);

    let pid = record.victim.pid;
    let size = size_of::<VictimRecord>() + tail.bounded();
    record.header = maps::header(RecordKind::Victim, size);
    if let Some(decision) = maps::decision() {
        decision.last_by = by;
        decision.last_mm = mm.0;
        decision.last_ns = record.header.time_ns;
        decision.last_group = u32::from(in_group(record));
    }
    // SAFETY: the record and the tail are filled.
    let sent = unsafe { maps::send(RecordKind::Victim, record, size) };
    // Read back, so that it is not a second state throughout the loops above.
    // SAFETY: a place in the record.
    let flags = unsafe { (&raw const record.flags).read_volatile() };
    if !sent && flags & VICTIM_LIVE_KILL != 0 {
        maps::count(|counters| unsafe { &raw mut (*counters).dropped_kills });
    }
    // Not before the record has gone: its exit must come after it.
    // SAFETY: as above.
    maps::follow(pid, unsafe {
        (&raw const record.header.time_ns).read_volatile()
    });
    super::sched_process_exit::if_gone(task, pid);
    debug!(&ctx, "mark_victim: pid {} by {}", pid, ctx.pid());
    0
}

/// The task that this decision chose, if it has this thread id; null where that is not hooked.
#[inline(always)]
fn chosen(tid: u32) -> Address {
    let chosen = maps::own_decision()
        .filter(|decision| decision.killing == 1)
        .map_or(Address(0), |decision| Address(decision.chosen));
    if chosen.read::<u32>(offset!(task_pid)) == tid {
        chosen
    } else {
        Address(0)
    }
}

/// The task that runs the OOM killer.
#[inline(always)]
fn current() -> Address {
    // SAFETY: the helper has no preconditions.
    Address(unsafe { bpf_get_current_task() })
}

#[inline(always)]
fn push_cgroup(tail: &mut Tail<'_>, task: Address) -> bool {
    tail.push_kernfs(kernel::memory_cgroup(task).follow(offset!(cgroup_kn)))
}

#[inline(always)]
fn in_group(record: &VictimRecord) -> bool {
    let mut flags = 0;
    for (index, level) in record.levels.iter().enumerate() {
        if index < record.level_count as usize {
            flags |= level.flags;
        }
    }
    flags & LEVEL_OOM_GROUP != 0
}

const _: () = assert!(size_of::<Task>() % 8 == 0);
