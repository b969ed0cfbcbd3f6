//! `trace_signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task,
//! int group, int result)` (`include/trace/events/signal.h`).
//!
//! `__oom_kill_process` sends SIGKILL just before it marks the victim, and a task that was
//! already exiting is marked without: this is what tells a kill from a mark on every kernel. It
//! also hands over the task where `mark_victim` passes only a thread id.

use aya_ebpf::{
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{bpf_get_current_task, bpf_map_lookup_percpu_elem},
    },
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use oomtrace_common::{CHECK_ARMED, CHECK_DONE, MAX_CPUS, PeerKill, RecordKind};

use crate::{
    kernel::{self, Address, Place, offset},
    maps::{self, CHECK, CPU_OFFSETS, KILLED, RECORDS, SAMPLE},
};

const SIGKILL: i32 = 9;
const SIGURG: i32 = 23;
/// `SEND_SIG_PRIV` (`include/linux/sched/signal.h`): the kernel itself sends.
const SEND_SIG_PRIV: u64 = 1;
/// `PF_EXITING` (`include/linux/sched.h`).
const PF_EXITING: u32 = 4;

#[raw_tracepoint(tracepoint = "signal_generate")]
fn signal_generate(ctx: RawTracePointContext) -> u32 {
    let signal: i32 = ctx.arg(0);
    let task = Address(ctx.arg(2));
    if signal == SIGURG {
        check_layout(task);
    }
    if signal != SIGKILL || ctx.arg::<u64>(1) != SEND_SIG_PRIV {
        return 0;
    }
    let by = bpf_get_current_pid_tgid();
    let _ = KILLED.insert(by, task.0, 0);

    let Some(decision) = maps::decision() else {
        return 0;
    };
    // A dying pid namespace kills its members the same way, from an exiting task.
    let current = current();
    if decision.last_by != by || current.read_optional::<u32>(offset!(task_flags)) & PF_EXITING != 0
    {
        return 0;
    }
    let marked = !kernel::oom_mm(task).is_null();
    if marked && (decision.killing == 1 || decision.last_group == 1) {
        // A group kill walks over the victim it began with once more.
        maps::count(|counters| unsafe { &raw mut (*counters).repeated_kills });
        return 0;
    }
    if decision.last_mm == 0 || task.read::<u64>(offset!(task_mm)) != decision.last_mm {
        return 0;
    }
    // The next victim of the same trigger may have its address space where the last one's was; where
    // the decision is not hooked, that it is younger tells.
    if task.read::<u64>(offset!(task_start_boottime)) > decision.last_ns {
        return 0;
    }
    let size = size_of::<PeerKill>();
    let Some(mut entry) = RECORDS.reserve::<PeerKill>(0) else {
        maps::count(|counters| unsafe {
            &raw mut (*counters).dropped[RecordKind::PeerKill as usize]
        });
        return 0;
    };
    // SAFETY: every member is written before the record is submitted.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    record.header = maps::header(RecordKind::PeerKill, size);
    kernel::describe_task(task, &mut record.task);
    maps::follow(record.task.pid, record.header.time_ns);
    entry.submit(0);
    0
}

/// The task that sends.
#[inline(always)]
fn current() -> Address {
    // SAFETY: the helper has no preconditions.
    Address(unsafe { bpf_get_current_task() })
}

/// Describes a task that sends itself a signal by the layout, and by the kernel's helpers: user
/// space compares the two before it believes anything else.
#[inline(always)]
fn check_layout(task: Address) {
    let Some(slot) = CHECK.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the slot lives as long as the program; user space reads it when `state` is done.
    let check = unsafe { &mut *slot };
    if check.state != CHECK_ARMED || task != current() {
        return;
    }
    check.pid_tgid = bpf_get_current_pid_tgid();
    check.uid_gid = bpf_get_current_uid_gid();
    check.comm = bpf_get_current_comm().unwrap_or([0; 16]);
    kernel::describe_task(task, &mut check.task);
    kernel::describe_memory(kernel::address_space(task), &mut check.memory);
    check.state = CHECK_DONE;
}

/// Learns where each processor has its memory, once, from a map whose per-processor pointer and
/// per-processor addresses can both be had. A program of its own: its helper is from 5.19.
#[raw_tracepoint(tracepoint = "signal_generate")]
fn learn_cpu_offsets(ctx: RawTracePointContext) -> u32 {
    if ctx.arg::<i32>(0) != SIGURG || Address(ctx.arg(2)) != current() {
        return 0;
    }
    let Some(slot) = CPU_OFFSETS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the slot lives as long as the program; it is filled once, before the first kill.
    let cpus = unsafe { &mut *slot };
    let count = offset!(cpus) as usize;
    if cpus.known != 0 || count > MAX_CPUS {
        return 0;
    }
    let sample = (&raw const SAMPLE).cast_mut();
    let scratch = &raw mut cpus.offsets[0];
    // SAFETY: a place in the slot.
    let array = Address(unsafe { number(sample.cast(), scratch) });
    let pointer = array.follow_optional(offset!(bpf_array_pptrs));
    let mut cpu = 0;
    while cpu < count && cpu < MAX_CPUS {
        let key = 0_u32;
        // SAFETY: a map and a key of it.
        let place = unsafe {
            bpf_map_lookup_percpu_elem(sample.cast(), (&raw const key).cast(), cpu as u32)
        };
        if place.is_null() || pointer.is_null() {
            return 0;
        }
        let offset = &raw mut cpus.offsets[cpu];
        // SAFETY: as above.
        unsafe { offset.write(number(place.cast(), offset).wrapping_sub(pointer.0)) };
        cpu += 1;
    }
    cpus.known = count as u64;
    0
}

/// A pointer as a number, which the verifier lets one compute with: by way of memory.
///
/// # Safety
/// `scratch` is map memory.
#[inline(always)]
unsafe fn number(pointer: *const u8, scratch: *mut u64) -> u64 {
    // SAFETY: the caller vouches for it.
    unsafe {
        scratch.write_volatile(pointer as u64);
        scratch.read_volatile()
    }
}
