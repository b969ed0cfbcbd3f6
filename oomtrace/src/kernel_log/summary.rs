//! The `oom-kill:` line (`dump_oom_victim`, mm/oom_kill.c):
//!
//! ```text
//! oom-kill:constraint=C,nodemask=N,cpuset=NAME,mems_allowed=N
//!   (,oom_memcg=PATH|,global_oom)[,task_memcg=PATH],task=COMM,pid=N,uid=N
//! ```
//!
//! NAME, PATH and COMM may hold commas and the words above. What tells them apart: a cgroup name
//! has no `/` and a path starts with one; COMM is at most 15 bytes; the last fields are numbers; the
//! victim's cgroup lies below the one that ran out; the task table knows the victim's name.

use memchr::memmem::{find, rfind, rfind_iter};
use std::ops::Range;

use super::bytes::Cursor;
use super::joined::{Joined, is_below};
use super::report::{COMM_MAX, Constraint, LogPath, Report};

pub(super) const SUMMARY: &[u8] = b"oom-kill:constraint=";

const TASK_MEMCG: &[u8] = b",task_memcg=";
const TASK: &[u8] = b",task=";

/// Which cgroups the line names; each with the text that says so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Memcg,
    Global,
    /// A kernel without memory cgroups.
    NoMemcg,
    /// The line ends here.
    Cut,
}

const SCOPES: [(&[u8], Scope); 3] = [
    (b",oom_memcg=", Scope::Memcg),
    (b",global_oom,task_memcg=", Scope::Global),
    (TASK, Scope::NoMemcg),
];

/// Whether the line has its last fields and they name a candidate of the table, if there is a whole
/// table. A piece of a line can end in a name that looks like the last fields.
pub(super) fn is_whole(report: Option<&Report>, joined: &Joined) -> bool {
    let Some(tail) = Tail::find(&joined.text, SUMMARY.len(), joined) else {
        return false;
    };
    match report.and_then(|r| r.table.as_ref()) {
        Some(table) if table.rows.len() as u64 == table.total => {
            table.rows_of(tail.pid).next().is_some()
        }
        _ => true,
    }
}

/// Puts the line's facts into the report whose table came before it.
pub(super) fn read_into(report: &mut Report, joined: &Joined) {
    let line = &joined.text[..];
    report.ambiguous |= joined.mixed;
    report.summary_cut = true;

    let mut c = Cursor(line);
    if c.tag(SUMMARY).is_none() {
        return;
    }
    let Some(constraint) = c.until(b",nodemask=") else {
        return;
    };
    report.constraint = Some(Constraint::parse(constraint));
    let Some(nodemask) = c.until(b",cpuset=") else {
        return;
    };
    report.nodemask = Some(nodemask.to_vec());
    let Some(head) = Head::find(line, line.len() - c.0.len()) else {
        return;
    };
    report.cpuset = Some(line[head.cpuset].to_vec());
    report.mems_allowed = Some(line[head.mems_allowed].to_vec());
    report.global_oom = match head.scope {
        Scope::Memcg => Some(false),
        Scope::Global => Some(true),
        Scope::NoMemcg | Scope::Cut => None,
    };

    // From here the line is PATH,task_memcg=PATH,task=COMM or the end of it.
    let start = head.end;
    let Some(tail) = Tail::find(line, start, joined) else {
        let (oom, task) = match head.scope {
            Scope::Memcg => split_memcgs(report, joined, start..line.len()),
            Scope::Global => (None, Some(start..line.len())),
            Scope::NoMemcg | Scope::Cut => (None, None),
        };
        // Whichever path comes last runs to the end of what is left of the line.
        let cut = |range: Range<usize>| {
            let mut path = path(joined, range.clone())?;
            path.cut |= range.end == line.len();
            Some(path)
        };
        report.oom_memcg = oom.and_then(cut);
        report.victim.memcg = task.and_then(cut);
        return;
    };
    report.summary_cut = false;
    report.victim.pid = Some(tail.pid);
    report.victim.uid = Some(tail.uid);

    let comm = match head.scope {
        Scope::NoMemcg | Scope::Cut => Some(start..tail.at),
        Scope::Memcg | Scope::Global => find_comm(report, line, start, tail),
    };
    // With the name in doubt, the victim's path is too, but not what comes before both.
    let paths_end = match &comm {
        Some(comm) => comm.start.saturating_sub(TASK.len()).max(start),
        None => rfind_comm_marks(line, start, tail).last().unwrap_or(start),
    };
    let (oom, task) = match head.scope {
        Scope::Memcg => split_memcgs(report, joined, start..paths_end),
        Scope::Global => (None, Some(start..paths_end)),
        Scope::NoMemcg | Scope::Cut => (None, None),
    };
    let in_doubt = comm.is_none() || (head.scope == Scope::Memcg && oom.is_none());
    report.ambiguous |= in_doubt;
    report.oom_memcg = oom.and_then(|range| path(joined, range));
    report.victim.memcg = task
        .filter(|_| comm.is_some())
        .and_then(|range| path(joined, range));
    report.victim.comm = comm.map(|range| line[range].to_vec());
}

/// The part up to the paths.
struct Head {
    cpuset: Range<usize>,
    mems_allowed: Range<usize>,
    scope: Scope,
    end: usize,
}

impl Head {
    /// `start` is where the cpuset's name starts (`cpuset_print_current_mems_allowed`,
    /// kernel/cgroup/cpuset.c): `/`, or a name without any `/`. So the text up to the first `/` ends
    /// in the kernel's own words, and the last `,mems_allowed=` in it is the kernel's.
    fn find(line: &[u8], start: usize) -> Option<Self> {
        const MEMS: &[u8] = b",mems_allowed=";
        let root = usize::from(line[start..].starts_with(b"/,"));
        let slash =
            memchr::memchr(b'/', &line[start + root..]).map_or(line.len(), |at| start + root + at);
        rfind_iter(&line[start..slash], MEMS).find_map(|at| {
            let cpuset = start..start + at;
            let list = cpuset.end + MEMS.len();
            let is_list = |b: &&u8| b.is_ascii_digit() || matches!(b, b'-' | b',');
            let mut end = list + line[list..].iter().take_while(is_list).count();
            while end > list && line[end - 1] == b',' {
                end -= 1;
            }
            let rest = &line[end..];
            let (text, scope) = SCOPES
                .into_iter()
                .find(|(text, _)| rest.starts_with(text))
                .or_else(|| rest.is_empty().then_some((b"", Scope::Cut)))?;
            Some(Self {
                cpuset,
                mems_allowed: list..end,
                scope,
                end: end + text.len(),
            })
        })
    }
}

/// `,pid=N,uid=N` at the end of the line.
#[derive(Clone, Copy)]
struct Tail {
    at: usize,
    pid: u32,
    uid: u32,
}

impl Tail {
    fn find(line: &[u8], start: usize, joined: &Joined) -> Option<Self> {
        // A line cut at its end may end in a name that looks like these fields.
        if joined.cut_at(line.len()) {
            return None;
        }
        let uid_at = start + rfind(&line[start..], b",uid=")?;
        let mut c = Cursor(&line[uid_at + 5..]);
        let uid = c.uid().filter(|_| c.0.is_empty())?;
        let at = start + rfind(&line[start..uid_at], b",pid=")?;
        let mut c = Cursor(&line[at + 5..uid_at]);
        let pid = c.narrow().filter(|_| c.0.is_empty())?;
        Some(Self { at, pid, uid })
    }
}

/// Places of `,task=` that leave a name of possible length, from the right.
fn rfind_comm_marks(line: &[u8], start: usize, tail: Tail) -> impl Iterator<Item = usize> {
    rfind_iter(&line[start..tail.at], TASK)
        .map(move |at| start + at)
        .take_while(move |at| tail.at - (at + TASK.len()) <= COMM_MAX)
}

/// The victim's name. Of several readings, the one the task table confirms.
fn find_comm(report: &Report, line: &[u8], start: usize, tail: Tail) -> Option<Range<usize>> {
    let range = |at: usize| at + TASK.len()..tail.at;
    let mut readings = rfind_comm_marks(line, start, tail).map(range);
    let first = readings.next()?;
    if readings.next().is_none() {
        return Some(first);
    }
    let table = report.table.as_ref()?;
    let mut confirmed = rfind_comm_marks(line, start, tail).map(range).filter(|r| {
        table
            .rows_of(tail.pid)
            .any(|row| *row.name == line[r.clone()])
    });
    confirmed.next().filter(|_| confirmed.next().is_none())
}

/// Splits `PATH,task_memcg=PATH`. Of several readings, the one that `Memory cgroup stats for`
/// confirms, else the only one where the second path lies below the first.
fn split_memcgs(
    report: &Report,
    joined: &Joined,
    both: Range<usize>,
) -> (Option<Range<usize>>, Option<Range<usize>>) {
    let text = &joined.text[both.clone()];
    let split = |at: usize| {
        let (first, second) = (both.start, both.start + at + TASK_MEMCG.len());
        (Some(first..both.start + at), Some(second..both.end))
    };
    let whole = |path: &&LogPath| !path.cut;
    if let Some(path) = report.memcg.path.as_ref().filter(whole)
        && let Some(rest) = text.strip_prefix(&path.bytes[..])
        && rest.starts_with(TASK_MEMCG)
    {
        return split(path.bytes.len());
    }
    let Some(only) = find(text, TASK_MEMCG) else {
        return (Some(both), None);
    };
    let below = |at: &usize| is_below(&text[at + TASK_MEMCG.len()..], &text[..*at]);
    let mut readings = memchr::memmem::find_iter(text, TASK_MEMCG).filter(below);
    match (readings.next(), readings.next()) {
        (Some(at), None) => split(at),
        (None, None) if find(&text[only + 1..], TASK_MEMCG).is_none() => split(only),
        _ => (None, None),
    }
}

/// A path, or `None` where the kernel printed `(name too long)` or `(error)` instead
/// (`pr_cont_kernfs_path`, fs/kernfs/dir.c).
fn path(joined: &Joined, range: Range<usize>) -> Option<LogPath> {
    let cut = joined.cut_at(range.end);
    let bytes = joined.text[range].to_vec();
    bytes.starts_with(b"/").then_some(LogPath { bytes, cut })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_log::joined::Kind;
    use crate::kernel_log::{Line, TaskRow, TaskTable};

    fn read(report: Report, text: &[u8]) -> Report {
        let (mut report, mut joined) = (report, Joined::default());
        joined.start(
            Kind::Summary,
            &Line {
                text,
                ..Line::default()
            },
        );
        read_into(&mut report, &joined);
        report
    }

    fn with_row(pid: u32, name: &[u8]) -> Report {
        let row = TaskRow {
            pid,
            tgid: pid,
            name: name.into(),
            ..TaskRow::default()
        };
        let table = Some(TaskTable {
            rows: vec![row],
            total: 1,
        });
        Report {
            table,
            ..Report::default()
        }
    }

    fn bytes(path: &Option<LogPath>) -> Option<&[u8]> {
        path.as_ref().map(|p| &p.bytes[..])
    }

    /// All facts of a memory cgroup's kill; node lists hold commas; a uid printed as negative.
    #[test]
    fn memcg() {
        let r = read(
            Report::default(),
            b"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=0-1,3,cpuset=x.scope,mems_allowed=0,2-3,oom_memcg=/a,task_memcg=/a/b,task=my app,pid=42,uid=-2",
        );
        assert_eq!(r.constraint, Some(Constraint::Memcg));
        assert_eq!(r.nodemask.as_deref(), Some(&b"0-1,3"[..]));
        assert_eq!(r.cpuset.as_deref(), Some(&b"x.scope"[..]));
        assert_eq!(r.mems_allowed.as_deref(), Some(&b"0,2-3"[..]));
        assert_eq!(r.global_oom, Some(false));
        assert_eq!(
            (bytes(&r.oom_memcg), bytes(&r.victim.memcg)),
            (Some(&b"/a"[..]), Some(&b"/a/b"[..]))
        );
        assert_eq!(r.victim.comm.as_deref(), Some(&b"my app"[..]));
        assert_eq!((r.victim.pid, r.victim.uid), (Some(42), Some(4294967294)));
        assert!(!r.ambiguous && !r.summary_cut);
    }

    /// A node kill: no cgroup ran out; the root path; an unknown constraint.
    #[test]
    fn global() {
        let r = read(
            Report::default(),
            b"oom-kill:constraint=CONSTRAINT_BPF,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=a,pid=1,uid=0",
        );
        assert_eq!(
            r.constraint,
            Some(Constraint::Other(b"CONSTRAINT_BPF".to_vec()))
        );
        assert_eq!((r.global_oom, &r.oom_memcg), (Some(true), &None));
        assert_eq!(
            (r.cpuset.as_deref(), bytes(&r.victim.memcg)),
            (Some(&b"/"[..]), Some(&b"/"[..]))
        );
    }

    /// A kernel without memory cgroups, and a name with a slash.
    #[test]
    fn no_memcg() {
        let r = read(
            Report::default(),
            b"oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,task=a,task=b/c,pid=1,uid=0",
        );
        assert_eq!((r.global_oom, r.victim.memcg), (None, None));
        assert_eq!(r.victim.comm.as_deref(), Some(&b"a,task=b/c"[..]));
    }

    /// A cpuset's name that imitates everything after it.
    #[test]
    fn hostile_cpuset() {
        let r = read(
            Report::default(),
            b"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=7,global_oom,task_memcg=,mems_allowed=0,oom_memcg=/a,task_memcg=/a,task=t,pid=2,uid=3",
        );
        assert_eq!(
            r.cpuset.as_deref(),
            Some(&b"x,mems_allowed=7,global_oom,task_memcg="[..])
        );
        assert_eq!(
            (r.mems_allowed.as_deref(), r.global_oom),
            (Some(&b"0"[..]), Some(false))
        );
        assert_eq!(bytes(&r.oom_memcg), Some(&b"/a"[..]));
    }

    const HOSTILE_COMM: &[u8] = b"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=y,task=x,pid=9,uid=0";

    /// Two readings of the name: the table decides.
    #[test]
    fn hostile_comm_by_table() {
        let r = read(with_row(9, b"y,task=x"), HOSTILE_COMM);
        assert_eq!(r.victim.comm.as_deref(), Some(&b"y,task=x"[..]));
        assert_eq!(bytes(&r.victim.memcg), Some(&b"/a/b"[..]));
        let r = read(with_row(9, b"x"), HOSTILE_COMM);
        assert_eq!(r.victim.comm.as_deref(), Some(&b"x"[..]));
        assert_eq!(bytes(&r.victim.memcg), Some(&b"/a/b,task=y"[..]));
        assert!(!r.ambiguous);
    }

    /// Two readings and no table: the name and its path are unknown, the rest is not.
    #[test]
    fn hostile_comm_without_table() {
        for report in [Report::default(), with_row(9, b"z"), with_row(8, b"x")] {
            let r = read(report, HOSTILE_COMM);
            assert!(r.ambiguous);
            assert_eq!((&r.victim.comm, &r.victim.memcg), (&None, &None));
            assert_eq!(
                (bytes(&r.oom_memcg), r.victim.pid),
                (Some(&b"/a"[..]), Some(9))
            );
        }
    }

    const HOSTILE_PATH: &[u8] = b"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task_memcg=/a,task_memcg=/a/b,task=t,pid=9,uid=0";

    /// Paths that hold `,task_memcg=/`: the stats line's path decides, else nothing does.
    #[test]
    fn hostile_path() {
        let r = read(Report::default(), HOSTILE_PATH);
        assert!(r.ambiguous);
        assert_eq!((&r.oom_memcg, &r.victim.memcg), (&None, &None));
        assert_eq!(r.victim.comm.as_deref(), Some(&b"t"[..]));

        let mut report = Report::default();
        report.memcg.path = Some(LogPath {
            bytes: b"/a,task_memcg=/a/b".to_vec(),
            cut: false,
        });
        let r = read(report, HOSTILE_PATH);
        assert_eq!(bytes(&r.oom_memcg), Some(&b"/a,task_memcg=/a/b"[..]));
        assert_eq!(bytes(&r.victim.memcg), Some(&b"/a,task_memcg=/a/b"[..]));
        assert!(!r.ambiguous);
    }

    /// Of two places to split, only one puts the victim below the cgroup that ran out.
    #[test]
    fn path_below() {
        let r = read(
            Report::default(),
            b"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/x,task_memcg=/b,task=t,pid=9,uid=0",
        );
        assert_eq!(bytes(&r.oom_memcg), Some(&b"/a"[..]));
        assert_eq!(bytes(&r.victim.memcg), Some(&b"/a/x,task_memcg=/b"[..]));
    }

    /// A line cut at any byte never yields a pid, a uid or a name, and never panics.
    #[test]
    fn truncated_anywhere() {
        for end in 0..HOSTILE_COMM.len() - b",pid=9,uid=".len() {
            let r = read(Report::default(), &HOSTILE_COMM[..end]);
            assert!(r.summary_cut);
            assert_eq!(
                (r.victim.pid, r.victim.uid, r.victim.comm),
                (None, None, None)
            );
            assert!(r.oom_memcg.is_none_or(|p| p.bytes == b"/a" || p.cut));
            assert!(r.victim.memcg.is_none_or(|p| p.cut));
        }
    }

    /// A record cut at printk's limit: the fake last fields inside a path are not believed.
    #[test]
    fn cut_with_fake_tail() {
        let mut line = HOSTILE_COMM[..HOSTILE_COMM.len() - 26].to_vec();
        let tail = b",task=init,pid=1,uid=0";
        line.resize(1021 - tail.len(), b'x');
        line.extend_from_slice(tail);
        let r = read(Report::default(), &line);
        assert!(r.summary_cut);
        assert_eq!((r.victim.pid, r.victim.comm), (None, None));
        assert!(r.victim.memcg.unwrap().cut);
        assert_eq!(bytes(&r.oom_memcg), Some(&b"/a"[..]));
    }
}
