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

/// An address in the kernel; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address(pub u64);

impl Address {
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Reads a `T` at this address plus `offset`; zeros when the member is absent, the address is
    /// null or the memory cannot be read.
    ///
    /// The helper itself writes the zeros, so there is nothing to branch on, which keeps the
    /// programs short and the verifier's work linear.
    #[inline(always)]
    pub fn read<T: Number>(self, offset: u32) -> T {
        let mut value = T::ZERO;
        if offset != ABSENT {
            // SAFETY: the helper refuses addresses that cannot be read.
            unsafe {
                bpf_probe_read_kernel(
                    (&raw mut value).cast(),
                    size_of::<T>() as u32,
                    (self.0 + u64::from(offset)) as *const _,
                );
            }
        }
        value
    }

    /// Reads a pointer.
    #[inline(always)]
    pub fn follow(self, offset: u32) -> Self {
        Self(self.read(offset))
    }

    /// The address `offset` bytes before this one, of what this is embedded in.
    #[inline(always)]
    pub fn container(self, offset: u32) -> Self {
        if offset == ABSENT || self.is_null() {
            Self(0)
        } else {
            Self(self.0 - u64::from(offset))
        }
    }

    /// The address `offset` bytes behind this one, of what is embedded there.
    #[inline(always)]
    pub fn member(self, offset: u32) -> Self {
        if offset == ABSENT || self.is_null() {
            Self(0)
        } else {
            Self(self.0 + u64::from(offset))
        }
    }
}

/// What can be read: any bytes are a value.
pub trait Number: Copy {
    const ZERO: Self;
}

macro_rules! numbers {
    ($($type:ty = $zero:expr),*) => {
        $(impl Number for $type {
            const ZERO: Self = $zero;
        })*
    };
}
numbers!(
    u8 = 0,
    i16 = 0,
    i32 = 0,
    u32 = 0,
    i64 = 0,
    u64 = 0,
    [u8; 16] = [0; 16]
);

/// Describes `task`; what cannot be read stays 0.
#[inline(always)]
pub fn describe_task(task: Address, out: &mut Task) {
    out.pid = task.read(offset!(task_tgid));
    out.tid = task.read(offset!(task_pid));
    out.flags = task.read(offset!(task_flags));
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
pub fn uid(task: Address) -> u32 {
    let cred = task.follow(offset!(task_real_cred));
    if cred.is_null() {
        u32::MAX
    } else {
        cred.read(offset!(cred_uid))
    }
}

/// `task->signal->oom_score_adj`.
#[inline(always)]
pub fn oom_score_adj(task: Address) -> i32 {
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
pub fn memory_css(task: Address) -> Address {
    task.follow(offset!(task_cgroups))
        .follow(offset!(css_set_memory))
}

/// The task's cgroup in the hierarchy of the memory controller.
#[inline(always)]
pub fn memory_cgroup(task: Address) -> Address {
    memory_css(task).follow(offset!(css_cgroup))
}

/// The address space of a task, or what the OOM killer remembered of it.
#[inline(always)]
pub fn address_space(task: Address) -> Address {
    let mm = task.follow(offset!(task_mm));
    if mm.is_null() {
        task.follow(offset!(task_signal))
            .follow(offset!(signal_oom_mm))
    } else {
        mm
    }
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
fn rss(mm: Address, counter: u32) -> i64 {
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
pub fn describe_memory(mm: Address, out: &mut Memory) {
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
    let mut css = memory_css(task);
    for level in &mut out.levels {
        let memcg = css.container(offset!(memcg_css));
        if memcg.is_null() {
            break;
        }
        level.usage_pages = memcg.read(offset!(memcg_memory_usage));
        level.max_pages = memcg.read(offset!(memcg_memory_max));
        level.flags = if memcg.read::<u8>(offset!(memcg_oom_group)) == 1 {
            LEVEL_OOM_GROUP
        } else {
            0
        };
        out.level_count += 1;
        css = css.follow(offset!(css_parent));
    }
}
