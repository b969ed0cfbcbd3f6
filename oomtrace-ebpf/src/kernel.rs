//! Reads kernel structures by the [`Layout`] that user space resolved.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use oomtrace_common::{ABSENT, LEVEL_OOM_GROUP, Layout, MAX_CPUS, Memory, Task, VictimRecord};

use crate::maps::CPU_OFFSETS;

/// The running kernel's layout: frozen by the loader, so the verifier sees constants.
#[unsafe(no_mangle)]
pub static LAYOUT: Layout = Layout::UNKNOWN;

/// The offset in a member of [`LAYOUT`]; volatile, or the compiler would fold in what the object
/// file holds.
macro_rules! offset {
    ($member:ident) => {
        // SAFETY: a plain static.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::LAYOUT.$member) }
    };
}
pub(crate) use offset;

/// A place in the kernel's memory, and a way to read there.
pub trait Place: Copy {
    /// Reads a `T` at this place plus `offset`; zeros when the place is null or the memory cannot be
    /// read. The member must be there on every kernel: a branch less for each keeps the programs
    /// quick to load.
    fn read<T: Number>(self, offset: u32) -> T;

    /// Reads a pointer.
    fn follow(self, offset: u32) -> Self;

    /// Whether there is no such place.
    fn is_null(self) -> bool;

    /// The place as a number.
    fn address(self) -> Address;

    /// [`Self::read`], or zeros when the kernel has no such member.
    #[inline(always)]
    fn read_optional<T: Number>(self, offset: u32) -> T {
        if offset == ABSENT {
            T::ZERO
        } else {
            self.read(offset)
        }
    }
}

/// An address in the kernel; 0 is none. It is read by a helper.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address(pub u64);

impl Place for Address {
    /// The helper itself writes the zeros, so there is nothing to branch on, which keeps the
    /// programs short and the verifier's work linear.
    #[inline(always)]
    fn read<T: Number>(self, offset: u32) -> T {
        let mut value = T::ZERO;
        // SAFETY: the helper refuses addresses that cannot be read.
        unsafe {
            bpf_probe_read_kernel(
                (&raw mut value).cast(),
                size_of::<T>() as u32,
                (self.0.wrapping_add(u64::from(offset))) as *const _,
            );
        }
        value
    }

    #[inline(always)]
    fn follow(self, offset: u32) -> Self {
        Self(self.read(offset))
    }

    #[inline(always)]
    fn is_null(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    fn address(self) -> Address {
        self
    }
}

impl Address {
    /// Reads a pointer that not every kernel has; null then.
    #[inline(always)]
    pub fn follow_optional(self, offset: u32) -> Self {
        Self(self.read_optional(offset))
    }

    /// The address `offset` bytes before this one, of what this is embedded in.
    #[inline(always)]
    pub const fn container(self, offset: u32) -> Self {
        Self(self.0.wrapping_sub(offset as u64))
    }

    /// The address `offset` bytes behind this one, of what is embedded there. Nothing can be read
    /// there when this is null: the first and the last pages are nobody's.
    #[inline(always)]
    pub const fn member(self, offset: u32) -> Self {
        Self(self.0.wrapping_add(offset as u64))
    }
}

/// A pointer whose type the verifier knows: an argument of a tracing program, or what such a
/// pointer leads to. It is read without a helper, at a tenth of the cost; the kernel makes zeros
/// of what cannot be read.
#[derive(Clone, Copy)]
pub struct Typed(pub u64);

impl Place for Typed {
    #[inline(always)]
    fn read<T: Number>(self, offset: u32) -> T {
        // SAFETY: the verifier lets nothing but members of the type be read.
        unsafe { T::load(self.0 + u64::from(offset)) }
    }

    #[inline(always)]
    fn follow(self, offset: u32) -> Self {
        Self(self.read(offset))
    }

    #[inline(always)]
    fn is_null(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    fn address(self) -> Address {
        Address(self.0)
    }
}

/// What can be read: any bytes are a value.
pub trait Number: Copy {
    const ZERO: Self;

    /// Reads it from memory.
    ///
    /// # Safety
    /// The memory may be read.
    unsafe fn load(address: u64) -> Self;
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl Number for $type {
            const ZERO: Self = 0;

            #[inline(always)]
            unsafe fn load(address: u64) -> Self {
                // SAFETY: the caller vouches for it.
                unsafe { (address as *const Self).read_volatile() }
            }
        })*
    };
}
numbers!(u8, i16, i32, u32, i64, u64);

impl Number for [u8; 16] {
    const ZERO: Self = [0; 16];

    #[inline(always)]
    unsafe fn load(address: u64) -> Self {
        let mut value = Self::ZERO;
        // SAFETY: the caller vouches for it.
        let halves = unsafe { [u64::load(address), u64::load(address + 8)] };
        value[..8].copy_from_slice(&halves[0].to_ne_bytes());
        value[8..].copy_from_slice(&halves[1].to_ne_bytes());
        value
    }
}

/// Describes `task`; what cannot be read stays 0.
#[inline(always)]
pub fn describe_task(task: Address, out: &mut Task) {
    out.pid = task.read(offset!(task_tgid));
    out.tid = task.read(offset!(task_pid));
    out.flags = task.read_optional(offset!(task_flags));
    out.ppid = task
        .follow(offset!(task_real_parent))
        .read(offset!(task_tgid));
    out.uid = uid(task);
    out.oom_score_adj = oom_score_adj(task);
    out.start_ns = task
        .follow(offset!(task_group_leader))
        .read(offset!(task_start_boottime));
    out.comm = task.read(offset!(task_comm));
    let cgroup = memory_cgroup(task);
    out.cgroup_id = cgroup.follow(offset!(cgroup_kn)).read(offset!(kernfs_id));
    out.hierarchy_id = hierarchy_id(cgroup);
    out.pad = 0;
}

/// `task->real_cred->uid`; `INVALID_UID` when it cannot be read.
#[inline(always)]
fn uid(task: Address) -> u32 {
    let cred = task.follow(offset!(task_real_cred));
    if cred.is_null() {
        u32::MAX
    } else {
        cred.read(offset!(cred_uid))
    }
}

/// `task->signal->oom_score_adj`.
#[inline(always)]
pub fn oom_score_adj(task: impl Place) -> i32 {
    task.follow(offset!(task_signal))
        .read::<i16>(offset!(signal_oom_score_adj))
        .into()
}

/// `cgroup->root->hierarchy_id`.
#[inline(always)]
pub fn hierarchy_id(cgroup: Address) -> u32 {
    cgroup
        .follow(offset!(cgroup_root))
        .read(offset!(cgroup_root_hierarchy_id))
}

/// The task's css of the memory controller: `task->cgroups->subsys[memory_cgrp_id]`.
#[inline(always)]
pub fn memory_css<P: Place>(task: P) -> P {
    task.follow(offset!(task_cgroups))
        .follow(offset!(css_set_memory))
}

/// The task's cgroup in the hierarchy of the memory controller.
#[inline(always)]
pub fn memory_cgroup<P: Place>(task: P) -> P {
    memory_css(task).follow(offset!(css_cgroup))
}

/// The address space of a task, or what the OOM killer remembered of it.
#[inline(always)]
pub fn address_space(task: Address) -> Address {
    let mm = task.follow(offset!(task_mm));
    if mm.is_null() { oom_mm(task) } else { mm }
}

/// The address space that the OOM killer remembered of a victim.
#[inline(always)]
pub fn oom_mm(task: Address) -> Address {
    task.follow(offset!(task_signal))
        .follow_optional(offset!(signal_oom_mm))
}

/// Threads looked at for the one that has the address space; the leader exits first in few
/// programs, and then the next thread has it.
const MAX_THREADS: usize = 16;

/// The thread of a process that has its address space (`find_lock_task_mm` in `mm/oom_kill.c`);
/// null when there is none, or it is far down the list.
#[inline(always)]
pub fn thread_with_mm(leader: Address) -> Address {
    if !leader.follow(offset!(task_mm)).is_null() {
        return leader;
    }
    if offset!(signal_thread_head) == ABSENT || offset!(task_thread_node) == ABSENT {
        return Address(0);
    }
    let mut node = leader
        .follow(offset!(task_signal))
        .follow(offset!(signal_thread_head));
    for _ in 0..MAX_THREADS {
        let thread = node.container(offset!(task_thread_node));
        if !thread.follow(offset!(task_mm)).is_null() {
            return thread;
        }
        // `list_head.next` is its first member.
        node = node.follow(0);
    }
    Address(0)
}

/// One counter of `mm->rss_stat`.
#[inline(always)]
fn rss(mm: impl Place, counter: u32) -> i64 {
    let place = offset!(mm_rss_stat) + counter * offset!(rss_stat_stride);
    mm.read(place + offset!(rss_stat_count))
}

/// Adds what the processors have not yet added to the counters of `mm->rss_stat`
/// (`percpu_counter_sum` in `lib/percpu_counter.c`).
#[inline(always)]
pub fn add_percpu_parts(mm: Address, memory: &mut Memory) {
    if offset!(rss_stat_percpu) == ABSENT {
        return;
    }
    let Some(cpus) = CPU_OFFSETS.get(0) else {
        return;
    };
    if cpus.known == 0 {
        return;
    }
    for (counter, pages) in [
        (offset!(mm_anonpages), &raw mut memory.anon_pages),
        (offset!(mm_filepages), &raw mut memory.file_pages),
        (offset!(mm_shmempages), &raw mut memory.shmem_pages),
        (offset!(mm_swapents), &raw mut memory.swap_pages),
    ] {
        let place = offset!(mm_rss_stat) + counter * offset!(rss_stat_stride);
        let parts = mm.follow(place + offset!(rss_stat_percpu));
        let mut cpu = 0;
        while cpu < offset!(cpus) as usize && cpu < MAX_CPUS {
            let part: i32 = Address(parts.0.wrapping_add(cpus.offsets[cpu])).read(0);
            // In map memory, so that the verifier carries no sum from turn to turn.
            // SAFETY: a member of the record.
            unsafe { pages.write_volatile(pages.read_volatile() + i64::from(part)) };
            cpu += 1;
        }
    }
}

/// Describes an address space.
#[inline(always)]
pub fn describe_memory(mm: impl Place, out: &mut Memory) {
    out.total_vm_pages = mm.read(offset!(mm_total_vm));
    out.anon_pages = rss(mm, offset!(mm_anonpages));
    out.file_pages = rss(mm, offset!(mm_filepages));
    out.shmem_pages = rss(mm, offset!(mm_shmempages));
    out.swap_pages = rss(mm, offset!(mm_swapents));
    out.pgtables_bytes = mm.read(offset!(mm_pgtables_bytes));
}

/// Describes the task's memory cgroup and its ancestors, innermost first.
#[inline(always)]
pub fn describe_levels(task: Address, out: &mut VictimRecord) {
    out.level_count = 0;
    // With the limits goes the way to them.
    if offset!(memcg_memory_max) == ABSENT {
        return;
    }
    let mut css = memory_css(task);
    for level in &mut out.levels {
        if css.is_null() {
            break;
        }
        let memcg = css.container(offset!(memcg_css));
        level.usage_pages = memcg.read(offset!(memcg_memory_usage));
        level.max_pages = memcg.read(offset!(memcg_memory_max));
        level.flags =
            u64::from(memcg.read_optional::<u8>(offset!(memcg_oom_group))) & LEVEL_OOM_GROUP;
        out.level_count += 1;
        css = css.follow(offset!(css_parent));
    }
}
