//! Which members the programs read, and what they assume about each.

use oomtrace_common::{ABSENT, Layout};

use super::{Array, Btf, BtfError, Member};

/// The names [`resolve`] looks up, for [`Btf::parse`] to collect on its way.
pub const NAMES: &[&str] = &[
    "bpf_array",
    "btf_trace_mark_victim",
    "cgroup",
    "cgroup_root",
    "cgroup_subsys_state",
    "cred",
    "css_set",
    "dentry",
    "file",
    "kernfs_node",
    "mem_cgroup",
    "mm_struct",
    "mount",
    "oom_badness",
    "oom_control",
    "oom_kill_process",
    "out_of_memory",
    "percpu_counter",
    "pt_regs",
    "signal_struct",
    "task_struct",
    "vfsmount",
];

/// Size of a pointer, of a `long` and of the atomic counters built on it.
const LONG: u32 = 8;
/// Size of an `int`, of an enum and of an id.
const INT: u32 = 4;
/// `TASK_COMM_LEN`.
const COMM: u32 = 16;
/// General registers in the `regs` of an aarch64 `struct pt_regs`. Other architectures have a
/// `regs` too, of another length, with the arguments elsewhere.
const AARCH64_REGS: u32 = 31;

/// What the kernel's BTF says about everything the programs rely on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// For the programs.
    pub layout: Layout,
    /// The members of `layout` that this kernel does not have. What they would tell is unknown;
    /// everything else works.
    pub absent: Vec<&'static str>,
    /// Which functions can be hooked.
    pub functions: FunctionFacts,
}

/// The BTF type ids of the functions that can be hooked: those with the parameters the hook relies
/// on (mm/oom_kill.c).
///
/// A function that is there may still be inlined everywhere and never fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionFacts {
    /// `oom_kill_process(struct oom_control *, const char *)`.
    pub oom_kill_process: Option<u32>,
    /// `oom_badness(struct task_struct *, unsigned long)`.
    pub oom_badness: Option<u32>,
    /// `out_of_memory(struct oom_control *)`.
    pub out_of_memory: Option<u32>,
}

/// Fills a [`Layout`] from the kernel's BTF, which was parsed with [`NAMES`].
///
/// `page_size` is the system's, `cpus` the number of processors it can have; `kernel_release` is
/// for messages.
///
/// # Errors
/// [`BtfError::Kernel`], around what is wrong: a required member is missing, or any member is not
/// as wide or not of the shape the programs read.
pub fn resolve(
    btf: &Btf<'_>,
    page_size: u32,
    cpus: u32,
    kernel_release: &str,
) -> Result<Resolved, BtfError> {
    let resolve = || {
        let layout = layout(btf, page_size, cpus)?;
        let absent = layout.members().filter(|&(_, value)| value == ABSENT);
        Ok(Resolved {
            absent: absent.map(|(name, _)| name).collect(),
            functions: functions(btf)?,
            layout,
        })
    };
    resolve().map_err(|error| BtfError::Kernel {
        release: kernel_release.to_owned(),
        error: Box::new(error),
    })
}

/// All members are spelled out, so that one added to `Layout` does not compile until it is here.
fn layout(btf: &Btf<'_>, page_size: u32, cpus: u32) -> Result<Layout, BtfError> {
    let kernel = Kernel(btf);
    let rss = kernel.rss_stat()?;
    let regs = kernel.pt_regs()?;
    let layout = Layout {
        task_pid: kernel.required("task_struct", "pid", INT)?,
        task_tgid: kernel.required("task_struct", "tgid", INT)?,
        task_comm: kernel.required("task_struct", "comm", COMM)?,
        task_flags: kernel.optional("task_struct", "flags", INT)?,
        task_real_parent: kernel.required("task_struct", "real_parent", LONG)?,
        task_group_leader: kernel.required("task_struct", "group_leader", LONG)?,
        task_mm: kernel.required("task_struct", "mm", LONG)?,
        task_signal: kernel.required("task_struct", "signal", LONG)?,
        task_real_cred: kernel.required("task_struct", "real_cred", LONG)?,
        task_start_boottime: kernel.required("task_struct", "start_boottime", 8)?,
        task_cgroups: kernel.required("task_struct", "cgroups", LONG)?,
        task_thread_node: kernel.optional_struct("task_struct", "thread_node")?,
        signal_thread_head: kernel.optional_struct("signal_struct", "thread_head")?,
        signal_oom_score_adj: kernel.required("signal_struct", "oom_score_adj", 2)?,
        signal_live: kernel.optional("signal_struct", "live", INT)?,
        signal_oom_mm: kernel.optional("signal_struct", "oom_mm", LONG)?,
        cred_uid: kernel.required("cred", "uid", INT)?,
        mm_total_vm: kernel.required("mm_struct", "total_vm", LONG)?,
        mm_pgtables_bytes: kernel.required("mm_struct", "pgtables_bytes", LONG)?,
        mm_exe_file: kernel.optional("mm_struct", "exe_file", LONG)?,
        mm_rss_stat: rss.offset,
        rss_stat_stride: rss.stride,
        rss_stat_count: rss.count,
        rss_stat_percpu: rss.percpu,
        bpf_array_pptrs: kernel.bpf_array_pptrs()?,
        cpus,
        mm_filepages: rss.counter(btf, "MM_FILEPAGES")?,
        mm_anonpages: rss.counter(btf, "MM_ANONPAGES")?,
        mm_swapents: rss.counter(btf, "MM_SWAPENTS")?,
        mm_shmempages: rss.counter(btf, "MM_SHMEMPAGES")?,
        file_path_mnt: kernel.optional("file", "f_path.mnt", LONG)?,
        file_path_dentry: kernel.optional("file", "f_path.dentry", LONG)?,
        dentry_parent: kernel.optional("dentry", "d_parent", LONG)?,
        dentry_name: kernel.optional("dentry", "d_name.name", LONG)?,
        mount_mnt: kernel.optional_struct("mount", "mnt")?,
        mount_parent: kernel.optional("mount", "mnt_parent", LONG)?,
        mount_mountpoint: kernel.optional("mount", "mnt_mountpoint", LONG)?,
        vfsmount_root: kernel.optional("vfsmount", "mnt_root", LONG)?,
        css_set_memory: kernel.css_set_memory()?,
        css_cgroup: kernel.required("cgroup_subsys_state", "cgroup", LONG)?,
        css_parent: kernel.optional("cgroup_subsys_state", "parent", LONG)?,
        cgroup_kn: kernel.required("cgroup", "kn", LONG)?,
        cgroup_root: kernel.required("cgroup", "root", LONG)?,
        cgroup_root_hierarchy_id: kernel.required("cgroup_root", "hierarchy_id", INT)?,
        kernfs_parent: kernel.kernfs_parent()?,
        kernfs_name: kernel.required("kernfs_node", "name", LONG)?,
        kernfs_id: kernel.required("kernfs_node", "id", 8)?,
        memcg_css: kernel.optional_struct("mem_cgroup", "css")?,
        memcg_memory_usage: kernel.optional("mem_cgroup", "memory.usage", LONG)?,
        memcg_memory_max: kernel.optional("mem_cgroup", "memory.max", LONG)?,
        memcg_swap_usage: kernel.optional("mem_cgroup", "swap.usage", LONG)?,
        memcg_swap_max: kernel.optional("mem_cgroup", "swap.max", LONG)?,
        memcg_oom_group: kernel.optional("mem_cgroup", "oom_group", 1)?,
        oc_memcg: kernel.optional("oom_control", "memcg", LONG)?,
        oc_gfp_mask: kernel.optional("oom_control", "gfp_mask", INT)?,
        oc_order: kernel.optional("oom_control", "order", INT)?,
        oc_totalpages: kernel.optional("oom_control", "totalpages", LONG)?,
        oc_chosen: kernel.optional("oom_control", "chosen", LONG)?,
        oc_chosen_points: kernel.optional("oom_control", "chosen_points", LONG)?,
        oc_constraint: kernel.optional("oom_control", "constraint", INT)?,
        regs_arg0: regs.arg0,
        regs_arg1: regs.arg1,
        regs_ret: regs.ret,
        mark_victim_has_task: mark_victim_has_task(btf)?,
        page_size,
    };
    Ok(whole_ways(layout))
}

/// The programs look at the first member of a way only: without the others it is absent, too.
const fn whole_ways(mut layout: Layout) -> Layout {
    if layout.file_path_mnt == ABSENT
        || layout.file_path_dentry == ABSENT
        || layout.dentry_parent == ABSENT
        || layout.dentry_name == ABSENT
        || layout.mount_mnt == ABSENT
        || layout.mount_parent == ABSENT
        || layout.mount_mountpoint == ABSENT
        || layout.vfsmount_root == ABSENT
    {
        layout.mm_exe_file = ABSENT;
    }
    if layout.memcg_css == ABSENT
        || layout.css_parent == ABSENT
        || layout.memcg_memory_usage == ABSENT
    {
        layout.memcg_memory_max = ABSENT;
    }
    layout
}

fn functions(btf: &Btf<'_>) -> Result<FunctionFacts, BtfError> {
    // Only the first parameter's type is compared: compilers spell `unsigned long` differently.
    let id = |function: &str, first: &str, count: usize| match btf.parameters(function) {
        Ok(Some(found)) if found.len() == count && found[0] == first => btf.func_id(function),
        // Static functions of one name with different parameters: no telling which one is hooked.
        Ok(_) | Err(BtfError::Ambiguous { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    Ok(FunctionFacts {
        oom_kill_process: id("oom_kill_process", "struct oom_control *", 2)?,
        oom_badness: id("oom_badness", "struct task_struct *", 2)?,
        out_of_memory: id("out_of_memory", "struct oom_control *", 1)?,
    })
}

/// `TP_PROTO(int pid)` at first, `TP_PROTO(struct task_struct *task, uid_t uid)` since 6.8 and in
/// stable updates of older series: the version tells nothing (include/trace/events/oom.h).
fn mark_victim_has_task(btf: &Btf<'_>) -> Result<u32, BtfError> {
    let unknown = |found: String| BtfError::UnknownShape {
        what: "tracepoint mark_victim".to_owned(),
        found,
    };
    let Some(parameters) = btf.parameters("btf_trace_mark_victim")? else {
        return Err(unknown("it is not in BTF".to_owned()));
    };
    // The first one is the tracepoint's own `void *__data`.
    let kinds: Vec<&str> = parameters.iter().map(String::as_str).collect();
    match kinds[..] {
        ["void *", "struct task_struct *", ..] => Ok(1),
        ["void *", "int"] => Ok(0),
        _ => Err(unknown(format!("({})", parameters.join(", ")))),
    }
}

/// Where `mm_struct` keeps its counters of resident pages.
struct RssStat {
    offset: u32,
    stride: u32,
    count: u32,
    /// Where the processors' parts are.
    percpu: u32,
    len: u32,
}

impl RssStat {
    /// The index of a counter, an `MM_*` enumerator (include/linux/mm_types_task.h).
    fn counter(&self, btf: &Btf<'_>, name: &str) -> Result<u32, BtfError> {
        let index = btf.enum_value(None, name)?;
        match u32::try_from(index) {
            Ok(index) if index < self.len => Ok(index),
            _ => Err(BtfError::UnknownShape {
                what: format!("enumerator {name}"),
                found: format!("{index}, of {} counters", self.len),
            }),
        }
    }
}

/// Where a function finds its arguments and leaves its result.
struct Regs {
    arg0: u32,
    arg1: u32,
    ret: u32,
}

/// The questions to BTF, in the layout's terms.
struct Kernel<'a>(&'a Btf<'a>);

impl Kernel<'_> {
    /// The offset of a member of `size` bytes.
    fn required(&self, name: &str, member: &str, size: u32) -> Result<u32, BtfError> {
        self.sized(name, member, size).map(|member| member.offset)
    }

    /// The same, or [`ABSENT`].
    fn optional(&self, name: &str, member: &str, size: u32) -> Result<u32, BtfError> {
        or_absent(self.required(name, member, size))
    }

    /// The offset of an embedded struct, whose size says nothing.
    fn optional_struct(&self, name: &str, member: &str) -> Result<u32, BtfError> {
        or_absent(self.0.member(name, member).map(|member| member.offset))
    }

    fn sized(&self, name: &str, member: &str, expected: u32) -> Result<Member, BtfError> {
        let found = self.0.member(name, member)?;
        if found.size != expected {
            return Err(BtfError::WrongSize {
                name: name.to_owned(),
                member: member.to_owned(),
                expected,
                found: found.size,
            });
        }
        Ok(found)
    }

    /// An array of `struct percpu_counter` since 6.2 (f1a7941243c1), before that a
    /// `struct mm_rss_stat { atomic_long_t count[]; }`.
    fn rss_stat(&self) -> Result<RssStat, BtfError> {
        let (name, member) = ("mm_struct", "rss_stat");
        let counters = self.0.member(name, member)?;
        let Some(array) = self.0.array(counters)? else {
            let counters = self.0.member(name, "rss_stat.count")?;
            return match self.0.array(counters)? {
                Some(array) if array.element_size == LONG => Ok(RssStat {
                    offset: counters.offset,
                    stride: LONG,
                    count: 0,
                    percpu: ABSENT,
                    len: array.len,
                }),
                other => Err(unknown_member(name, "rss_stat.count", other.as_ref())),
            };
        };
        if array.element != "struct percpu_counter" {
            return Err(unknown_member(name, member, Some(&array)));
        }
        Ok(RssStat {
            offset: counters.offset,
            stride: array.element_size,
            count: self.required("percpu_counter", "count", 8)?,
            percpu: self.optional("percpu_counter", "counters", LONG)?,
            len: array.len,
        })
    }

    /// Where a per-processor array map keeps its pointers: a flexible array, whose size says nothing.
    fn bpf_array_pptrs(&self) -> Result<u32, BtfError> {
        or_absent(
            self.0
                .member("bpf_array", "pptrs")
                .map(|member| member.offset),
        )
    }

    /// The memory controller's place in `css_set.subsys` (include/linux/cgroup-defs.h).
    fn css_set_memory(&self) -> Result<u32, BtfError> {
        let id = match self
            .0
            .enum_value(Some("cgroup_subsys_id"), "memory_cgrp_id")
        {
            Err(BtfError::NoEnumerator { .. }) => return Err(BtfError::NoMemoryController),
            id => id?,
        };
        let subsys = self.0.member("css_set", "subsys")?;
        let array = self.0.array(subsys)?;
        match (&array, u32::try_from(id)) {
            (Some(array), Ok(id)) if array.element_size == LONG && id < array.len => {
                Ok(subsys.offset + id * LONG)
            }
            _ => Err(unknown_member("css_set", "subsys", array.as_ref())),
        }
    }

    /// `parent` became `__parent` in 6.15.
    fn kernfs_parent(&self) -> Result<u32, BtfError> {
        match self.required("kernfs_node", "__parent", LONG) {
            Err(BtfError::NoMember { .. }) => self.required("kernfs_node", "parent", LONG),
            other => other,
        }
    }

    /// The calling conventions of x86-64 and aarch64, told apart by their registers.
    fn pt_regs(&self) -> Result<Regs, BtfError> {
        let general = match self.0.member("pt_regs", "regs") {
            Ok(member) => self.0.array(member)?.map(|array| (member.offset, array)),
            Err(BtfError::NoStruct { .. } | BtfError::NoMember { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(match general {
            Some((x0, array)) if (array.element_size, array.len) == (LONG, AARCH64_REGS) => Regs {
                arg0: x0,
                arg1: x0 + LONG,
                ret: x0,
            },
            _ => Regs {
                arg0: self.optional("pt_regs", "di", LONG)?,
                arg1: self.optional("pt_regs", "si", LONG)?,
                ret: self.optional("pt_regs", "ax", LONG)?,
            },
        })
    }
}

/// [`ABSENT`] for what the kernel does not have; other errors stay errors.
fn or_absent(offset: Result<u32, BtfError>) -> Result<u32, BtfError> {
    match offset {
        Err(BtfError::NoStruct { .. } | BtfError::NoMember { .. }) => Ok(ABSENT),
        other => other,
    }
}

/// The member is there, but holds `found`.
fn unknown_member(name: &str, member: &str, found: Option<&Array>) -> BtfError {
    BtfError::UnknownShape {
        what: format!("member \"{member}\" of struct {name}"),
        found: found.map_or("not an array".to_owned(), |array| {
            format!(
                "an array of {} elements of {} bytes ({})",
                array.len, array.element_size, array.element
            )
        }),
    }
}
