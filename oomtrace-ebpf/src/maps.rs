//! The maps, and the one way records leave: [`send`].

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns, generated::bpf_ringbuf_output},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use oomtrace_common::{
    CANDIDATE_SLOTS, CandidateList, Counters, CpuOffsets, DATA_BYTES, DATA_SLACK, DecisionRecord,
    Header, RecordKind, SelfCheck, VictimRecord,
};

/// What changes while a tail is filled.
///
/// It is kept in map memory and not in registers: the verifier then knows nothing of it, so that
/// the paths through a loop end in the same state and need not all be walked.
#[repr(C)]
pub struct TailState {
    /// Bytes that are filled.
    pub used: u32,
    pub pad: u32,
    /// Where a file's path is followed: the addresses of a `dentry` and a `vfsmount`.
    pub dentry: u64,
    pub mount: u64,
}

/// A record that ends in a tail, with room for it.
#[repr(C)]
pub struct WithTail<T> {
    pub state: TailState,
    pub record: T,
    pub tail: [u8; DATA_BYTES + DATA_SLACK],
}

/// What is known of the decision under way. Guarded by `oom_lock`.
#[repr(C)]
pub struct Decision {
    /// `pid_tgid` of the task that runs the OOM killer; 0 when none is known to.
    pub owner: u64,
    /// When it entered `out_of_memory`, or `oom_kill_process` where only that is hooked.
    pub began_ns: u64,
    /// 1 from the entry of `oom_kill_process` to its return.
    pub killing: u32,
    /// 1 when the victim marked last is in a cgroup with `memory.oom.group`.
    pub last_group: u32,
    /// The task that was chosen, from the entry of `oom_kill_process` on.
    pub chosen: u64,
    /// The task that marked a victim last, and that victim's address space.
    pub last_by: u64,
    pub last_mm: u64,
    /// When that was.
    pub last_ns: u64,
}

/// Candidates are looked through for the lowest by blocks of so many.
pub const BLOCK: usize = 8;

/// The lowest of some candidates.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Lowest {
    pub points: i64,
    pub order: u32,
    pub slot: u32,
}

/// The scoring of candidates under way. Guarded by `oom_lock`.
#[repr(C)]
pub struct Scoring {
    /// The task that decides; 0 when none does.
    pub by: u64,
    /// The task `oom_badness` is scoring, for the kprobe that sees only its return.
    pub task: u64,
    /// Who makes room when the list is full; until then `points` are `i64::MIN`.
    pub lowest: Lowest,
    /// The same for each block of the list.
    pub blocks: [Lowest; CANDIDATE_SLOTS / BLOCK],
    pub list: CandidateList,
}

/// Sized by the loader.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(512 * 1024, 0);

/// Mapped by user space, which reads it without a system call.
#[map]
pub static COUNTERS: Array<Counters> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static DECISION: Array<Decision> = Array::with_max_entries(1, 0);

#[map]
pub static VICTIM: Array<WithTail<VictimRecord>> = Array::with_max_entries(1, 0);

#[map]
pub static DECIDED: Array<WithTail<DecisionRecord>> = Array::with_max_entries(1, 0);

#[map]
pub static SCORING: Array<Scoring> = Array::with_max_entries(1, 0);

/// The task each sender last killed as the kernel itself, by the sender's `pid_tgid`. The mark
/// of an OOM victim follows at once; other senders of such signals leave entries to be evicted.
#[map]
pub static KILLED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(512, 0);

/// Victims that have not exited yet, by process id.
#[map]
pub static DYING: HashMap<u32, u64> = HashMap::with_max_entries(4096, 0);

/// A per-processor value, to learn from where processors have theirs.
#[map]
pub static SAMPLE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static CPU_OFFSETS: Array<CpuOffsets> = Array::with_max_entries(1, 0);

/// The layout, put to the test at start.
#[map]
pub static CHECK: Array<SelfCheck> = Array::with_max_entries(1, 0);

/// The decision under way, if the current task is the one that takes it.
#[inline(always)]
pub fn own_decision() -> Option<&'static mut Decision> {
    let decision = decision()?;
    (decision.owner == bpf_get_current_pid_tgid()).then_some(decision)
}

/// The state of the decision under way, whoever takes it.
#[inline(always)]
pub fn decision() -> Option<&'static mut Decision> {
    // SAFETY: the map has this slot for as long as the program is loaded, and `oom_lock`
    // serialises its users (see the crate's documentation).
    DECISION.get_ptr_mut(0).map(|slot| unsafe { &mut *slot })
}

/// The scoring under way, whoever does it.
#[inline(always)]
pub fn scoring() -> Option<&'static mut Scoring> {
    // SAFETY: as above.
    SCORING.get_ptr_mut(0).map(|slot| unsafe { &mut *slot })
}

/// A header of this moment, for the decision under way.
#[inline(always)]
pub fn header(kind: RecordKind, size: usize) -> Header {
    Header {
        kind: kind as u32,
        size: size as u32,
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_boot_ns() },
        decision_ns: own_decision().map_or(0, |decision| decision.began_ns),
    }
}

/// Sends the first `size` bytes at `record`; counts the record as dropped when the ring is full.
///
/// # Safety
/// `size` bytes at `record` are initialised.
#[inline(always)]
pub unsafe fn send<T>(kind: RecordKind, record: *const T, size: usize) -> bool {
    // SAFETY: the caller vouches for the bytes; the map is a ring buffer.
    let sent = unsafe {
        bpf_ringbuf_output(
            (&raw const RECORDS).cast_mut().cast(),
            record.cast_mut().cast(),
            size as u64,
            0,
        )
    } == 0;
    if !sent {
        count(|counters| unsafe { &raw mut (*counters).dropped[kind as usize] });
    }
    sent
}

/// Follows a process until its last thread has exited.
#[inline(always)]
pub fn follow(pid: u32, time_ns: u64) {
    if pid != 0 && DYING.insert(pid, time_ns, 0).is_err() {
        count(|counters| unsafe { &raw mut (*counters).unfollowed });
    }
}

/// Adds one to a counter.
#[inline(always)]
pub fn count(which: impl FnOnce(*mut Counters) -> *mut u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // The BPF target of rustc has atomics, but no read-modify-write ones.
        // SAFETY: the slot lives as long as the program, and is only ever added to like this.
        unsafe {
            core::arch::asm!(
                "lock *(u64 *)({counter} + 0) += {one}",
                counter = in(reg) which(counters),
                one = in(reg) 1u64,
            );
        }
    }
}
