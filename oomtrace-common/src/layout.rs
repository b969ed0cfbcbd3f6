//! Where the running kernel keeps the members the programs read.

/// Offset of a member the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Declares [`Layout`]: every member is a `u32`, and all start out [`ABSENT`].
macro_rules! layout {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Byte offsets, sizes and enum values of the running kernel, resolved from its BTF.
        ///
        /// It is handed to the programs as read-only data that is frozen before they are
        /// verified: the verifier sees constants, and branches for absent members vanish.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct Layout {
            $($(#[$doc])* pub $name: u32,)*
        }

        impl Layout {
            /// A layout in which nothing is known.
            pub const UNKNOWN: Self = Self { $($name: ABSENT,)* };

            /// The members in declaration order, by name.
            pub fn members(&self) -> impl Iterator<Item = (&'static str, u32)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

layout! {
    /// `task_struct.pid`: the thread id.
    task_pid,
    /// `task_struct.tgid`: the process id.
    task_tgid,
    /// `task_struct.comm`: 16 bytes, NUL-terminated.
    task_comm,
    /// `task_struct.flags` (`PF_*`).
    task_flags,
    /// `task_struct.real_parent`.
    task_real_parent,
    /// `task_struct.group_leader`.
    task_group_leader,
    /// `task_struct.mm`; null once the thread has exited.
    task_mm,
    /// `task_struct.signal`.
    task_signal,
    /// `task_struct.real_cred`.
    task_real_cred,
    /// `task_struct.start_boottime`: nanoseconds since boot.
    task_start_boottime,
    /// `task_struct.cgroups`: the task's `css_set`.
    task_cgroups,
    /// `task_struct.thread_node`: its place in `signal_struct.thread_head`.
    task_thread_node,
    /// `signal_struct.thread_head`: the threads of the process.
    signal_thread_head,
    /// `signal_struct.oom_score_adj`: a `short`.
    signal_oom_score_adj,
    /// `signal_struct.live`: threads that have not exited (`atomic_t`).
    signal_live,
    /// `signal_struct.oom_mm`: set once the process is an OOM victim.
    signal_oom_mm,
    /// `cred.uid`.
    cred_uid,
    /// `mm_struct.total_vm`, in pages.
    mm_total_vm,
    /// `mm_struct.pgtables_bytes`, in bytes.
    mm_pgtables_bytes,
    /// `mm_struct.exe_file`.
    mm_exe_file,
    /// `mm_struct.rss_stat` (since 6.2) or `mm_struct.rss_stat.count` (before).
    mm_rss_stat,
    /// Distance between two counters of `rss_stat`: `sizeof(struct percpu_counter)` or 8.
    rss_stat_stride,
    /// Offset of the 64-bit count within one counter of `rss_stat`.
    rss_stat_count,
    /// Offset of `counters` within one counter of `rss_stat`: what each processor has not yet added
    /// to the count. Absent before 6.2.
    rss_stat_percpu,
    /// `bpf_array.pptrs`.
    bpf_array_pptrs,
    /// How many processors there can be.
    cpus,
    /// enum value `MM_FILEPAGES`.
    mm_filepages,
    /// enum value `MM_ANONPAGES`.
    mm_anonpages,
    /// enum value `MM_SWAPENTS`.
    mm_swapents,
    /// enum value `MM_SHMEMPAGES`.
    mm_shmempages,
    /// `file.f_path.mnt`.
    file_path_mnt,
    /// `file.f_path.dentry`.
    file_path_dentry,
    /// `dentry.d_parent`.
    dentry_parent,
    /// `dentry.d_name.name`.
    dentry_name,
    /// `mount.mnt` (the embedded `vfsmount`).
    mount_mnt,
    /// `mount.mnt_parent`.
    mount_parent,
    /// `mount.mnt_mountpoint`.
    mount_mountpoint,
    /// `vfsmount.mnt_root`.
    vfsmount_root,
    /// Offset of `css_set.subsys[memory_cgrp_id]`.
    css_set_memory,
    /// `cgroup_subsys_state.cgroup`.
    css_cgroup,
    /// `cgroup_subsys_state.parent`.
    css_parent,
    /// `cgroup.kn`.
    cgroup_kn,
    /// `cgroup.root`.
    cgroup_root,
    /// `cgroup_root.hierarchy_id`: 0 is the unified (v2) hierarchy.
    cgroup_root_hierarchy_id,
    /// `kernfs_node.parent`, `__parent` since 6.15.
    kernfs_parent,
    /// `kernfs_node.name`.
    kernfs_name,
    /// `kernfs_node.id`: 64 bits.
    kernfs_id,
    /// `mem_cgroup.css`.
    memcg_css,
    /// `mem_cgroup.memory.usage`, in pages.
    memcg_memory_usage,
    /// `mem_cgroup.memory.max`, in pages.
    memcg_memory_max,
    /// `mem_cgroup.swap.usage` (v2) or `.memsw.usage` (v1), in pages: they share their place.
    memcg_swap_usage,
    /// `mem_cgroup.swap.max` (v2) or `.memsw.max` (v1), in pages.
    memcg_swap_max,
    /// `mem_cgroup.oom_group`: one byte.
    memcg_oom_group,
    /// `oom_control.memcg`.
    oc_memcg,
    /// `oom_control.gfp_mask`: 32 bits.
    oc_gfp_mask,
    /// `oom_control.order`: an `int`.
    oc_order,
    /// `oom_control.totalpages`, in pages.
    oc_totalpages,
    /// `oom_control.chosen`.
    oc_chosen,
    /// `oom_control.chosen_points`: a `long`, in pages.
    oc_chosen_points,
    /// `oom_control.constraint`: an enum.
    oc_constraint,
    /// `pt_regs`: the first argument of a function.
    regs_arg0,
    /// `pt_regs`: the second argument of a function.
    regs_arg1,
    /// `pt_regs`: the return value.
    regs_ret,
    /// 1 when `mark_victim` passes the task, 0 when it passes only its thread id.
    mark_victim_has_task,
    /// The page size, in bytes.
    page_size,
}
