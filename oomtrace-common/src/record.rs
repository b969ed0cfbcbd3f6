//! Records the programs write to the ring buffer, and the map values they keep.
//!
//! A record starts with a [`Header`]. Records with names of any length end in a tail: the bytes
//! that [`Paths`] describes, in its order.

/// `TASK_COMM_LEN` in `include/linux/sched.h`.
pub const TASK_COMM_BYTES: usize = 16;
/// Longest kernfs or file name with its NUL: `NAME_MAX + 1`.
pub const NAME_BYTES: usize = 256;
/// Room for the tail of one record: three paths of ordinary length, or one of `PATH_MAX`.
pub const DATA_BYTES: usize = 8192;
/// Room behind the tail, so that a name may be copied to any place within it.
pub const DATA_SLACK: usize = NAME_BYTES;
/// How many levels of the victim's memory cgroup are described, from its own upwards.
pub const MAX_LEVELS: usize = 16;
/// How many of the highest-scored candidates of a decision are kept.
pub const CANDIDATE_SLOTS: usize = 64;

/// What a record is; the first word of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RecordKind {
    /// [`VictimRecord`].
    Victim = 1,
    /// [`DecisionRecord`].
    Decision = 2,
    /// [`DecisionEnd`].
    DecisionEnd = 3,
    /// [`CandidateList`].
    Candidates = 4,
    /// [`Exit`].
    Exit = 5,
    /// [`Reap`].
    Reap = 6,
    /// [`PeerKill`].
    PeerKill = 7,
    /// [`ReportBegin`].
    ReportBegin = 8,
}

impl RecordKind {
    /// How many kinds there are, plus one: the length of a table indexed by kind.
    pub const COUNT: usize = 9;

    /// The kind with this number.
    pub const fn from_u32(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::Victim,
            2 => Self::Decision,
            3 => Self::DecisionEnd,
            4 => Self::Candidates,
            5 => Self::Exit,
            6 => Self::Reap,
            7 => Self::PeerKill,
            8 => Self::ReportBegin,
            _ => return None,
        })
    }
}

/// How every record begins.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    /// A [`RecordKind`].
    pub kind: u32,
    /// Length of the whole record, tail included, in bytes.
    pub size: u32,
    /// When it happened: nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// When the decision it belongs to began, on the same clock; 0 where no hook tells.
    pub decision_ns: u64,
}

/// A task, read from its `task_struct`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Task {
    /// Process id (`tgid`); 0 when the task could not be read.
    pub pid: u32,
    /// Thread id (`pid` in the kernel).
    pub tid: u32,
    /// Process id of the parent.
    pub ppid: u32,
    /// Real user id, in the initial user namespace.
    pub uid: u32,
    /// `signal->oom_score_adj`.
    pub oom_score_adj: i32,
    /// `PF_*` flags.
    pub flags: u32,
    /// When the process (its leader) started: nanoseconds of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
    /// Name of the thread, NUL-terminated.
    pub comm: [u8; TASK_COMM_BYTES],
    /// kernfs id of the memory-controller cgroup; 0 when it could not be read.
    pub cgroup_id: u64,
    /// `cgroup_root.hierarchy_id` of that cgroup: 0 is cgroup v2.
    pub hierarchy_id: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// What an address space holds.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Memory {
    /// Mapped address space, in pages.
    pub total_vm_pages: u64,
    /// Resident anonymous pages; the kernel's counter, which may be below zero for a moment.
    pub anon_pages: i64,
    /// Resident file pages.
    pub file_pages: i64,
    /// Resident shared-memory pages.
    pub shmem_pages: i64,
    /// Pages in swap.
    pub swap_pages: i64,
    /// Page tables, in bytes.
    pub pgtables_bytes: u64,
}

/// [`Level::flags`]: `memory.oom.group` is set here.
pub const LEVEL_OOM_GROUP: u64 = 1;

/// One level of a memory cgroup.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Level {
    /// Pages charged.
    pub usage_pages: u64,
    /// The limit, in pages (`PAGE_COUNTER_MAX` = none).
    pub max_pages: u64,
    /// `LEVEL_*` flags.
    pub flags: u64,
}

/// The paths in a record's tail, in this order. A path is its component names, innermost first,
/// each followed by NUL.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Paths {
    /// Bytes of the victim's (or, in a decision, the limit's) memory cgroup path.
    pub cgroup_bytes: u32,
    /// Bytes of the trigger's memory cgroup path.
    pub trigger_bytes: u32,
    /// Bytes of the victim's executable path.
    pub exe_bytes: u32,
    /// Bit 0, 1, 2: the path of that place is cut, its outermost components are missing.
    pub cut: u32,
}

/// [`VictimRecord::flags`]: the address space was still there, so [`VictimRecord::memory`] holds.
pub const VICTIM_HAS_MM: u32 = 1;
/// [`VictimRecord::flags`]: the OOM killer sent SIGKILL just before the mark, so this is a kill.
pub const VICTIM_LIVE_KILL: u32 = 2;

/// A task was marked as an OOM victim (`mark_victim` in `include/trace/events/oom.h`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VictimRecord {
    /// Kind [`RecordKind::Victim`].
    pub header: Header,
    /// The marked task; `tid` alone is known when its `task_struct` was not.
    pub victim: Task,
    /// The task that ran the OOM killer.
    pub trigger: Task,
    /// The victim's memory.
    pub memory: Memory,
    /// `VICTIM_*` flags.
    pub flags: u32,
    /// How many of `levels` are filled.
    pub level_count: u32,
    /// The victim's memory cgroup and its ancestors, innermost first.
    pub levels: [Level; MAX_LEVELS],
    /// The tail.
    pub paths: Paths,
}

/// `oom_kill_process` was entered (`mm/oom_kill.c`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DecisionRecord {
    /// Kind [`RecordKind::Decision`].
    pub header: Header,
    /// `oc->gfp_mask`.
    pub gfp_mask: u32,
    /// `oc->order`; -1 is SysRq.
    pub order: i32,
    /// `oc->constraint`.
    pub constraint: u32,
    /// Whether the decision is on a memory cgroup.
    pub has_memcg: u32,
    /// `oc->totalpages`.
    pub total_pages: u64,
    /// `oc->chosen_points`, in pages.
    pub chosen_points: i64,
    /// Process id of `oc->chosen`; 0 when unknown.
    pub chosen_pid: u32,
    /// Explicit padding.
    pub pad: u32,
    /// Pages charged to the memory cgroup.
    pub usage_pages: u64,
    /// Its limit, in pages.
    pub max_pages: u64,
    /// Pages charged to its `swap` (v2) or `memsw` (v1) counter.
    pub swap_usage_pages: u64,
    /// The limit of that counter, in pages.
    pub swap_max_pages: u64,
    /// kernfs id of the memory cgroup.
    pub memcg_id: u64,
    /// Its `cgroup_root.hierarchy_id`.
    pub hierarchy_id: u32,
    /// Its `memory.oom.group`.
    pub oom_group: u32,
    /// `message`, NUL-terminated.
    pub message: [u8; 64],
    /// The tail.
    pub paths: Paths,
}

/// `oom_kill_process` returned: all victims of the decision are known.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DecisionEnd {
    /// Kind [`RecordKind::DecisionEnd`].
    pub header: Header,
}

/// A task the kernel scored (`oom_badness`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Candidate {
    /// The kernel's own points, in pages.
    pub points: i64,
    /// kernfs id of its memory cgroup.
    pub cgroup_id: u64,
    /// Its memory.
    pub memory: Memory,
    /// Process id.
    pub pid: u32,
    /// `signal->oom_score_adj`.
    pub oom_score_adj: i32,
    /// How many were scored before it.
    pub order: u32,
    /// Explicit padding.
    pub pad: u32,
    /// Name, NUL-terminated.
    pub comm: [u8; TASK_COMM_BYTES],
}

/// The candidates of a decision; sent just before its [`DecisionRecord`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CandidateList {
    /// Kind [`RecordKind::Candidates`].
    pub header: Header,
    /// Tasks scored that could be chosen.
    pub total: u32,
    /// How many of `items` are filled; only these are sent.
    pub listed: u32,
    /// Tasks that could not be chosen, such as those at -1000.
    pub spared: u32,
    /// Explicit padding.
    pub pad: u32,
    /// The highest-scored, in no order.
    pub items: [Candidate; CANDIDATE_SLOTS],
}

/// The last thread of a victim has exited (`do_exit` in `kernel/exit.c`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Exit {
    /// Kind [`RecordKind::Exit`].
    pub header: Header,
    /// Process id.
    pub pid: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// The OOM reaper worked on a victim (`oom_reap_task_mm` in `mm/oom_kill.c`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Reap {
    /// Kind [`RecordKind::Reap`].
    pub header: Header,
    /// Thread id of the victim.
    pub tid: u32,
    /// 1 began, 2 finished, 3 skipped: its address space was locked, or gone.
    pub step: u32,
}

/// The OOM killer sent SIGKILL to a process that shares the victim's memory. The kernel neither
/// marks nor counts it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PeerKill {
    /// Kind [`RecordKind::PeerKill`].
    pub header: Header,
    /// Its target.
    pub task: Task,
}

/// The kernel begins to print its report of a decision: the mark is not far.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ReportBegin {
    /// Kind [`RecordKind::ReportBegin`].
    pub header: Header,
}

/// [`SelfCheck::state`]: the next signal that a task sends itself is looked at.
pub const CHECK_ARMED: u64 = 1;
/// [`SelfCheck::state`]: it was.
pub const CHECK_DONE: u64 = 2;

/// A task as the layout shows it, beside what the kernel's own helpers say of the same task.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SelfCheck {
    /// `CHECK_*`.
    pub state: u64,
    /// `bpf_get_current_pid_tgid`.
    pub pid_tgid: u64,
    /// `bpf_get_current_uid_gid`.
    pub uid_gid: u64,
    /// `bpf_get_current_comm`.
    pub comm: [u8; TASK_COMM_BYTES],
    /// The task, read by the layout.
    pub task: Task,
    /// Its memory, read by the layout.
    pub memory: Memory,
}

/// How many processors' parts of a counter can be added up.
pub const MAX_CPUS: usize = 1024;

/// Where each processor's memory is, relative to a per-processor pointer (`__per_cpu_offset`).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CpuOffsets {
    /// How many are known: all there can be, or 0.
    pub known: u64,
    /// By processor.
    pub offsets: [u64; MAX_CPUS],
}

/// What the programs count; shared memory, added to atomically.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Counters {
    /// Records dropped because the ring buffer was full, by [`RecordKind`].
    pub dropped: [u64; RecordKind::COUNT],
    /// Kills among the dropped [`VictimRecord`]s; the rest were marks.
    pub dropped_kills: u64,
    /// Victims that a group kill walked over again: the kernel counts each once more.
    pub repeated_kills: u64,
    /// Victims whose exit cannot be followed, because too many are dying at once.
    pub unfollowed: u64,
}
