//! The bytes of a ring-buffer record to a value: sentinels become `None`, paths become paths.

#[cfg(test)]
mod tests;

use oomtrace_common::{
    Candidate, CandidateList, DecisionEnd, DecisionRecord, Exit, Header, Level, PeerKill, Reap,
    RecordKind, VICTIM_HAS_MM, VICTIM_LIVE_KILL, VictimRecord,
};
use thiserror::Error;

/// The value of a user id that could not be read (`INVALID_UID`).
const NO_UID: u32 = u32::MAX;

/// A record that is not what the programs send.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// It is shorter than its kind.
    #[error("a record of {have} bytes, where its kind takes {need}")]
    Short {
        /// Bytes there are.
        have: usize,
        /// Bytes there must be.
        need: usize,
    },
    /// No record is of this kind.
    #[error("a record of unknown kind {0}")]
    Kind(u32),
    /// Its own lengths contradict its size.
    #[error("a record whose parts do not fit its size")]
    Lengths,
}

/// A path in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelPath {
    /// From the root, `/`-separated; any bytes.
    pub bytes: Vec<u8>,
    /// Whether its outermost components are missing.
    pub cut: bool,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Process id; `None` when only the thread id is known.
    pub pid: Option<u32>,
    /// Thread id.
    pub tid: u32,
    /// Process id of the parent.
    pub ppid: Option<u32>,
    /// Real user id.
    pub uid: Option<u32>,
    /// `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// Start of the process: nanoseconds of `CLOCK_BOOTTIME`.
    pub start_ns: Option<u64>,
    /// Name of the thread: up to 15 bytes, any but NUL.
    pub comm: Vec<u8>,
    /// Its memory cgroup.
    pub cgroup: Option<CgroupRef>,
}

/// A memory cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRef {
    /// kernfs id.
    pub id: u64,
    /// 1 or 2.
    pub version: u8,
    /// Its path, where the record has one.
    pub path: Option<KernelPath>,
}

/// What an address space holds, in pages; page tables in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Mapped address space.
    pub total_vm_pages: u64,
    /// Resident anonymous pages.
    pub anon_pages: u64,
    /// Resident file pages.
    pub file_pages: u64,
    /// Resident shared-memory pages.
    pub shmem_pages: u64,
    /// Pages in swap.
    pub swap_pages: u64,
    /// Page tables, in bytes.
    pub pgtables_bytes: u64,
}

impl Memory {
    /// Resident pages of all kinds, as `get_mm_rss` counts them.
    pub const fn rss_pages(&self) -> u64 {
        self.anon_pages
            .saturating_add(self.file_pages)
            .saturating_add(self.shmem_pages)
    }
}

/// A marked task.
#[derive(Clone, Debug)]
pub struct Victim {
    /// When it was marked: nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// When the decision began, where a hook tells.
    pub decision_ns: Option<u64>,
    /// The task.
    pub task: Task,
    /// The task that ran the OOM killer.
    pub trigger: Task,
    /// What it held; `None` when its address space was gone.
    pub memory: Option<Memory>,
    /// Whether SIGKILL was sent: else it was exiting already.
    pub killed: bool,
    /// Path of its executable.
    pub exe: Option<KernelPath>,
    /// Its memory cgroup and the ancestors of that, innermost first, as far as recorded.
    pub levels: Vec<Level>,
}

impl Victim {
    /// Whether it was marked because it asked for memory while it was exiting, before any decision.
    pub const fn asked_while_exiting(&self) -> bool {
        !self.killed && self.task.tid == self.trigger.tid
    }
}

/// `oom_kill_process` was entered.
#[derive(Clone, Debug)]
pub struct Decision {
    /// When the decision began.
    pub decision_ns: u64,
    /// `enum oom_constraint`.
    pub constraint: u32,
    /// Allocation flags.
    pub gfp_mask: u32,
    /// Allocation order; -1 is SysRq.
    pub order: i32,
    /// What the decision could use, in pages.
    pub total_pages: u64,
    /// The kernel's points for the chosen task, in pages.
    pub chosen_points: i64,
    /// Process id of the chosen task.
    pub chosen_pid: Option<u32>,
    /// The kernel's words.
    pub message: Vec<u8>,
    /// The memory cgroup it is about.
    pub memcg: Option<DecisionMemcg>,
}

/// The memory cgroup a decision is about.
#[derive(Clone, Debug)]
pub struct DecisionMemcg {
    /// Which one.
    pub cgroup: CgroupRef,
    /// Charged pages.
    pub usage_pages: u64,
    /// The limit, in pages.
    pub max_pages: u64,
    /// Pages charged to `swap` (v2) or `memsw` (v1).
    pub swap_usage_pages: u64,
    /// Their limit.
    pub swap_max_pages: u64,
    /// `memory.oom.group`.
    pub oom_group: bool,
}

/// A candidate, as the kernel scored it.
#[derive(Clone, Debug)]
pub struct ScoredTask {
    /// Process id.
    pub pid: u32,
    /// Points, in pages.
    pub points: i64,
    /// `oom_score_adj`.
    pub oom_score_adj: i32,
    /// Name.
    pub comm: Vec<u8>,
    /// kernfs id of its memory cgroup.
    pub cgroup_id: Option<u64>,
    /// What it holds; `None` when its leader had exited.
    pub memory: Option<Memory>,
}

/// A decoded record.
#[derive(Clone, Debug)]
pub enum Record {
    /// A task was marked.
    Victim(Box<Victim>),
    /// A decision was taken.
    Decision(Box<Decision>),
    /// A decision is complete.
    DecisionEnd {
        /// When it began.
        decision_ns: u64,
    },
    /// The candidates of the decision that comes next.
    Candidates {
        /// When the decision began.
        decision_ns: u64,
        /// How many there were.
        total: u32,
        /// Tasks that could not be chosen.
        spared: u32,
        /// Those with the highest points, highest first; among equals the later one first, as the
        /// kernel chooses.
        items: Vec<ScoredTask>,
    },
    /// The last thread of a victim exited.
    Exit {
        /// When.
        time_ns: u64,
        /// Which process.
        pid: u32,
    },
    /// The OOM reaper worked on a victim.
    Reap {
        /// Thread id of the victim.
        tid: u32,
        /// What it did.
        step: ReapStep,
    },
    /// The OOM killer sent SIGKILL to a process that shares the victim's memory.
    PeerKill {
        /// When.
        time_ns: u64,
        /// Its target.
        task: Task,
    },
    /// The kernel begins to print its report of a decision.
    ReportBegin,
}

/// What the OOM reaper did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReapStep {
    /// It began.
    Start,
    /// It freed the memory.
    Finish,
    /// It could not get at the memory, or it was gone.
    Skip,
}

/// Decodes a record.
///
/// # Errors
/// When the bytes are not a record of this version's programs.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let header: Header = read(bytes)?;
    let bytes = bytes
        .get(..header.size as usize)
        .ok_or(DecodeError::Short {
            have: bytes.len(),
            need: header.size as usize,
        })?;
    let kind = RecordKind::from_u32(header.kind).ok_or(DecodeError::Kind(header.kind))?;
    Ok(match kind {
        RecordKind::Victim => Record::Victim(Box::new(victim(bytes)?)),
        RecordKind::Decision => Record::Decision(Box::new(decision(bytes)?)),
        RecordKind::DecisionEnd => Record::DecisionEnd {
            decision_ns: read::<DecisionEnd>(bytes)?.header.decision_ns,
        },
        RecordKind::Candidates => candidates(bytes)?,
        RecordKind::Exit => {
            let Exit {
                header,
                pid,
                pad: _,
            } = read(bytes)?;
            Record::Exit {
                time_ns: header.time_ns,
                pid,
            }
        }
        RecordKind::Reap => {
            let Reap {
                header: _,
                tid,
                step,
            } = read(bytes)?;
            let step = match step {
                1 => ReapStep::Start,
                2 => ReapStep::Finish,
                3 => ReapStep::Skip,
                _ => return Err(DecodeError::Lengths),
            };
            Record::Reap { tid, step }
        }
        RecordKind::PeerKill => {
            let PeerKill {
                header,
                task: target,
            } = read(bytes)?;
            Record::PeerKill {
                time_ns: header.time_ns,
                task: task(&target, None),
            }
        }
        RecordKind::ReportBegin => Record::ReportBegin,
    })
}

/// Types that any bytes of their length are a value of, and whose values are all bytes.
///
/// # Safety
/// The type is `repr(C)` and made of integers, without implicit padding.
unsafe trait Plain: Copy {}
// SAFETY: `oomtrace_common` promises it for all its types.
unsafe impl Plain for Header {}
// SAFETY: as above.
unsafe impl Plain for VictimRecord {}
// SAFETY: as above.
unsafe impl Plain for DecisionRecord {}
// SAFETY: as above.
unsafe impl Plain for DecisionEnd {}
// SAFETY: as above.
unsafe impl Plain for Candidate {}
// SAFETY: as above.
unsafe impl Plain for Exit {}
// SAFETY: as above.
unsafe impl Plain for Reap {}
// SAFETY: as above.
unsafe impl Plain for PeerKill {}
// SAFETY: as above.
unsafe impl Plain for oomtrace_common::Task {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}

fn read<T: Plain>(bytes: &[u8]) -> Result<T, DecodeError> {
    let need = size_of::<T>();
    if bytes.len() < need {
        return Err(DecodeError::Short {
            have: bytes.len(),
            need,
        });
    }
    // SAFETY: there are enough bytes, and any are a `T`.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn victim(bytes: &[u8]) -> Result<Victim, DecodeError> {
    let record: VictimRecord = read(bytes)?;
    let VictimRecord {
        header,
        victim,
        trigger,
        memory: held,
        flags,
        level_count,
        levels,
        paths,
    } = record;
    let mut tail = Tail {
        rest: &bytes[size_of::<VictimRecord>()..],
        cut: paths.cut,
    };
    let cgroup = tail.take(paths.cgroup_bytes, 0)?;
    let trigger_cgroup = tail.take(paths.trigger_bytes, 1)?;
    let exe = tail.take(paths.exe_bytes, 2)?;
    let levels = levels
        .get(..level_count as usize)
        .ok_or(DecodeError::Lengths)?
        .to_vec();
    Ok(Victim {
        time_ns: header.time_ns,
        decision_ns: non_zero(header.decision_ns),
        task: task(&victim, Some(cgroup)),
        trigger: task(&trigger, Some(trigger_cgroup)),
        memory: (flags & VICTIM_HAS_MM != 0).then(|| memory(&held)),
        killed: flags & VICTIM_LIVE_KILL != 0,
        exe: (paths.exe_bytes != 0).then_some(exe),
        levels,
    })
}

fn decision(bytes: &[u8]) -> Result<Decision, DecodeError> {
    let record: DecisionRecord = read(bytes)?;
    let DecisionRecord {
        header,
        gfp_mask,
        order,
        constraint,
        has_memcg,
        total_pages,
        chosen_points,
        chosen_pid,
        pad: _,
        usage_pages,
        max_pages,
        swap_usage_pages,
        swap_max_pages,
        memcg_id,
        hierarchy_id,
        oom_group,
        message,
        paths,
    } = record;
    let mut tail = Tail {
        rest: &bytes[size_of::<DecisionRecord>()..],
        cut: paths.cut,
    };
    let path = tail.take(paths.cgroup_bytes, 0)?;
    Ok(Decision {
        decision_ns: header.decision_ns,
        constraint,
        gfp_mask,
        order,
        total_pages,
        chosen_points,
        chosen_pid: non_zero(chosen_pid),
        message: until_nul(&message).to_vec(),
        memcg: (has_memcg != 0).then(|| DecisionMemcg {
            cgroup: CgroupRef {
                id: memcg_id,
                version: version(hierarchy_id),
                path: Some(path),
            },
            usage_pages,
            max_pages,
            swap_usage_pages,
            swap_max_pages,
            oom_group: oom_group != 0,
        }),
    })
}

fn candidates(bytes: &[u8]) -> Result<Record, DecodeError> {
    let header: Header = read(bytes)?;
    let rest = |at: usize| bytes.get(at..).ok_or(DecodeError::Lengths);
    let total = read(rest(core::mem::offset_of!(CandidateList, total))?)?;
    let listed: u32 = read(rest(core::mem::offset_of!(CandidateList, listed))?)?;
    let spared = read(rest(core::mem::offset_of!(CandidateList, spared))?)?;
    let items = rest(core::mem::offset_of!(CandidateList, items))?;
    if items.len() != listed as usize * size_of::<Candidate>() {
        return Err(DecodeError::Lengths);
    }
    let mut items: Vec<(u32, ScoredTask)> = items
        .chunks_exact(size_of::<Candidate>())
        .map(|item| {
            let Candidate {
                points,
                cgroup_id,
                memory: held,
                pid,
                oom_score_adj,
                order,
                pad: _,
                comm,
            } = read(item)?;
            let task = ScoredTask {
                pid,
                points,
                oom_score_adj,
                comm: until_nul(&comm).to_vec(),
                cgroup_id: non_zero(cgroup_id),
                memory: (held.total_vm_pages != u64::MAX).then(|| memory(&held)),
            };
            Ok((order, task))
        })
        .collect::<Result<_, DecodeError>>()?;
    items.sort_by_key(|(order, task)| std::cmp::Reverse((task.points, *order)));
    Ok(Record::Candidates {
        decision_ns: header.decision_ns,
        total,
        spared,
        items: items.into_iter().map(|(_, task)| task).collect(),
    })
}

fn task(record: &oomtrace_common::Task, path: Option<KernelPath>) -> Task {
    let oomtrace_common::Task {
        pid,
        tid,
        ppid,
        uid,
        oom_score_adj,
        flags: _,
        start_ns,
        comm,
        cgroup_id,
        hierarchy_id,
        pad: _,
    } = *record;
    // A task that could not be read has no process id; the zeros beside it mean nothing.
    let known = pid != 0;
    Task {
        pid: non_zero(pid),
        tid,
        ppid: known.then_some(ppid),
        uid: (known && uid != NO_UID).then_some(uid),
        oom_score_adj: known.then_some(oom_score_adj),
        start_ns: non_zero(start_ns),
        comm: until_nul(&comm).to_vec(),
        cgroup: non_zero(cgroup_id).map(|id| CgroupRef {
            id,
            version: version(hierarchy_id),
            path,
        }),
    }
}

fn memory(record: &oomtrace_common::Memory) -> Memory {
    let oomtrace_common::Memory {
        total_vm_pages,
        anon_pages,
        file_pages,
        shmem_pages,
        swap_pages,
        pgtables_bytes,
    } = *record;
    // `get_mm_counter` reads a counter that is below zero for a moment as zero.
    let positive = |pages: i64| u64::try_from(pages).unwrap_or(0);
    Memory {
        total_vm_pages,
        anon_pages: positive(anon_pages),
        file_pages: positive(file_pages),
        shmem_pages: positive(shmem_pages),
        swap_pages: positive(swap_pages),
        pgtables_bytes,
    }
}

/// The default hierarchy, which is cgroup v2, has id 0 (`cgroup_init` in
/// `kernel/cgroup/cgroup.c`).
const fn version(hierarchy_id: u32) -> u8 {
    if hierarchy_id == 0 { 2 } else { 1 }
}

fn non_zero<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

/// A name without what follows its NUL.
pub fn until_nul(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The part of a record behind its fixed size.
struct Tail<'a> {
    rest: &'a [u8],
    cut: u32,
}

impl Tail<'_> {
    /// The next path, of `length` bytes.
    fn take(&mut self, length: u32, place: u32) -> Result<KernelPath, DecodeError> {
        let (names, rest) = self
            .rest
            .split_at_checked(length as usize)
            .ok_or(DecodeError::Lengths)?;
        self.rest = rest;
        let cut = self.cut & (1 << place) != 0;
        let mut bytes = Vec::with_capacity(names.len() + 1);
        let names = names.strip_suffix(&[0]).unwrap_or(names);
        if !names.is_empty() {
            // No name holds a slash: one that is nothing else is that of a root which is mounted
            // nowhere.
            for name in names
                .split(|byte| *byte == 0)
                .rev()
                .filter(|name| *name != b"/")
            {
                bytes.push(b'/');
                bytes.extend_from_slice(name);
            }
        }
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        Ok(KernelPath { bytes, cut })
    }
}
