//! Reads kernel structures by the [`Layout`] that user space resolved.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use oomtrace_common::{ABSENT, LEVEL_OOM_GROUP, Layout, Memory, Task, VictimRecord};

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

/// An address in the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address(pub u64);

impl Address {
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Reads a `T` at this address plus `offset`; `None` when the member is absent or the memory
    /// cannot be read.
    #[inline(always)]
    pub fn read<T>(self, offset: u32) -> Option<T> {
        if offset == ABSENT || self.is_null() {
            return None;
        }
        // SAFETY: the helper refuses addresses that cannot be read.
        unsafe { bpf_probe_read_kernel((self.0 + u64::from(offset)) as *const T) }.ok()
    }

    /// Reads a pointer; a null one is `None`.
    #[inline(always)]
    pub fn follow(self, offset: u32) -> Option<Self> {
        let target = Self(self.read(offset)?);
        (!target.is_null()).then_some(target)
    }
}

/// Describes `task`; what cannot be read stays 0.
#[inline(always)]
pub fn describe_task(task: Address, out: &mut Task) {
    out.pid = task.read(offset!(task_tgid)).unwrap_or(0);
    out.tid = task.read(offset!(task_pid)).unwrap_or(0);
    out.flags = task.read(offset!(task_flags)).unwrap_or(0);
    out.ppid = task
        .follow(offset!(task_real_parent))
        .and_then(|parent| parent.read(offset!(task_tgid)))
        .unwrap_or(0);
    out.uid = task
        .follow(offset!(task_real_cred))
        .and_then(|cred| cred.read(offset!(cred_uid)))
        .unwrap_or(u32::MAX);
    out.oom_score_adj = oom_score_adj(task);
    out.start_ns = task
        .follow(offset!(task_group_leader))
        .and_then(|leader| leader.read(offset!(task_start_boottime)))
        .unwrap_or(0);
    out.comm = task.read(offset!(task_comm)).unwrap_or([0; 16]);
    let cgroup = memory_cgroup(task);
    out.cgroup_id = cgroup
        .and_then(|cgroup| cgroup.follow(offset!(cgroup_kn)))
        .and_then(|kn| kn.read(offset!(kernfs_id)))
        .unwrap_or(0);
    out.hierarchy_id = cgroup.and_then(hierarchy_id).unwrap_or(0);
    out.pad = 0;
}

/// `task->signal->oom_score_adj`.
#[inline(always)]
pub fn oom_score_adj(task: Address) -> i32 {
    task.follow(offset!(task_signal))
        .and_then(|signal| signal.read::<i16>(offset!(signal_oom_score_adj)))
        .unwrap_or(0)
        .into()
}

/// `cgroup->root->hierarchy_id`.
#[inline(always)]
pub fn hierarchy_id(cgroup: Address) -> Option<u32> {
    cgroup.follow(offset!(cgroup_root))?.read(offset!(cgroup_root_hierarchy_id))
}

/// The task's css of the memory controller: `task->cgroups->subsys[memory_cgrp_id]`.
#[inline(always)]
pub fn memory_css(task: Address) -> Option<Address> {
    task.follow(offset!(task_cgroups))?.follow(offset!(css_set_memory))
}

/// The task's cgroup in the hierarchy of the memory controller.
#[inline(always)]
pub fn memory_cgroup(task: Address) -> Option<Address> {
    memory_css(task)?.follow(offset!(css_cgroup))
}

/// The address space of a task, or what the OOM killer remembered of it.
#[inline(always)]
pub fn address_space(task: Address) -> Option<Address> {
    task.follow(offset!(task_mm)).or_else(|| {
        task.follow(offset!(task_signal))?.follow(offset!(signal_oom_mm))
    })
}

/// One counter of `mm->rss_stat`.
#[inline(always)]
fn rss(mm: Address, counter: u32) -> i64 {
    let place = offset!(mm_rss_stat) + counter * offset!(rss_stat_stride);
    mm.read(place + offset!(rss_stat_count)).unwrap_or(0)
}

/// Describes an address space.
#[inline(always)]
pub fn describe_memory(mm: Address, out: &mut Memory) {
    out.total_vm_pages = mm.read(offset!(mm_total_vm)).unwrap_or(0);
    out.anon_pages = rss(mm, offset!(mm_anonpages));
    out.file_pages = rss(mm, offset!(mm_filepages));
    out.shmem_pages = rss(mm, offset!(mm_shmempages));
    out.swap_pages = rss(mm, offset!(mm_swapents));
    out.pgtables_bytes = mm.read(offset!(mm_pgtables_bytes)).unwrap_or(0);
}

/// Describes the task's memory cgroup and its ancestors, innermost first.
#[inline(always)]
pub fn describe_levels(task: Address, out: &mut VictimRecord) {
    out.level_count = 0;
    if offset!(memcg_css) == ABSENT {
        return;
    }
    let Some(mut css) = memory_css(task) else { return };
    for level in &mut out.levels {
        let memcg = Address(css.0 - u64::from(offset!(memcg_css)));
        level.usage_pages = memcg.read(offset!(memcg_memory_usage)).unwrap_or(0);
        level.max_pages = memcg.read(offset!(memcg_memory_max)).unwrap_or(0);
        let group = memcg.read::<u8>(offset!(memcg_oom_group)).unwrap_or(0) == 1;
        level.flags = if group { LEVEL_OOM_GROUP } else { 0 };
        out.level_count += 1;
        let Some(parent) = css.follow(offset!(css_parent)) else { break };
        css = parent;
    }
}
