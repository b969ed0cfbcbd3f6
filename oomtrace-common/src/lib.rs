//! What the eBPF programs and user space share, and nothing else: the [`Layout`] of kernel
//! structures that user space resolves from BTF and hands to the programs, and the records the
//! programs send back through the ring buffer.
//!
//! Every type is `repr(C)`, made of integers only, without implicit padding, so any bytes of the
//! right length are a valid value.
#![no_std]

mod layout;
mod record;

pub use layout::{ABSENT, Layout};
pub use record::{
    CANDIDATE_SLOTS, CHECK_ARMED, CHECK_DONE, Candidate, CandidateList, Counters, CpuOffsets,
    DATA_BYTES, DATA_SLACK, DecisionEnd, DecisionRecord, Exit, Header, LEVEL_OOM_GROUP, Level,
    MAX_CPUS, MAX_LEVELS, Memory, NAME_BYTES, Paths, PeerKill, Reap, RecordKind, ReportBegin,
    SelfCheck, TASK_COMM_BYTES, Task, VICTIM_HAS_MM, VICTIM_LIVE_KILL, VictimRecord,
};
