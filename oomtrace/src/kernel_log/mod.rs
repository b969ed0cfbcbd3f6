//! The kernel's own report of an out-of-memory kill.
//!
//! When the kernel kills, it writes a report to its log: who asked for memory, the state of the
//! limit that was hit, every candidate, the victim. This module turns those lines into values:
//!
//! bytes of `/dev/kmsg` → [`KmsgRecord`] → [`Line`] → [`Parser`] → [`Output`]
//!
//! Only [`KmsgReader`] touches the system. The grammar is that of kernels 2.6.32 to 7.x
//! (`dump_header`, `dump_tasks` and `__oom_kill_process` in mm/oom_kill.c,
//! `mem_cgroup_print_oom_meminfo` in mm/memcontrol.c, `__show_mem` in mm/show_mem.c, and what they
//! were called before). What a kernel prints is told by the lines, never by its version.
//!
//! A process chooses its own name and the names of its cgroups, so it can imitate parts of a
//! report. Every line is therefore read from its fixed parts inwards, and a fact with two possible
//! readings is `None`, not a guess.

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")
)]

mod bytes;
mod date;
mod files;
mod joined;
mod journal;
mod killed;
mod live;
mod memcg;
mod node;
mod parser;
mod prefix;
mod record;
mod report;
mod summary;
mod table;
#[cfg(test)]
mod tests;
mod unpack;

pub use date::{Dates, typed};
pub use files::{Found, LogReader, Origin, Totals, What, is_log};
pub use killed::{Announced, KilledLine};
pub use live::{BUFFER_BYTES, Entry, KmsgReader};
pub use memcg::{Counter, Limit, MemcgReport, MemcgStat};
pub use node::{MemoryUsage, NodeMemory, Zone};
pub use parser::{DEFAULT_MAX_ROWS, GroupKill, Line, Output, Parser};
pub use record::{Caller, KmsgRecord, RecordError};
pub use report::{Constraint, LogPath, Report, Trigger, Victim};
pub use table::{TaskRow, TaskTable};
pub use unpack::unpack;
