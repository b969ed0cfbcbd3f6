//! What one report says. `None` is "the report did not say", never zero.

use super::bytes::Cursor;
use super::{MemcgReport, NodeMemory, TaskTable};

/// Longest `task->comm`: `TASK_COMM_LEN` less the NUL (include/linux/sched.h).
pub(super) const COMM_MAX: usize = 15;

/// A path as the kernel printed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPath {
    /// The path; any byte but `/` and NUL may be in a name.
    pub bytes: Vec<u8>,
    /// printk cut the text: `bytes` is the front of a longer path. Where the rest of the line was
    /// lost as well ([`Report::summary_cut`]), `bytes` may run into what followed the path.
    pub cut: bool,
}

/// Why the allocation could not look elsewhere (`enum oom_constraint`, include/linux/oom.h).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint {
    /// The whole node is out of memory.
    None,
    /// Limited by a cpuset.
    Cpuset,
    /// Limited by a memory policy.
    MemoryPolicy,
    /// Limited by a memory cgroup.
    Memcg,
    /// A name this version does not know.
    Other(Vec<u8>),
}

impl Constraint {
    pub(super) fn parse(name: &[u8]) -> Self {
        match name {
            b"CONSTRAINT_NONE" => Self::None,
            b"CONSTRAINT_CPUSET" => Self::Cpuset,
            b"CONSTRAINT_MEMORY_POLICY" => Self::MemoryPolicy,
            b"CONSTRAINT_MEMCG" => Self::Memcg,
            other => Self::Other(other.to_vec()),
        }
    }
}

/// The task that asked for memory, from the header and the `CPU:` line below it
/// (`dump_stack_print_info`, lib/dump_stack.c).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trigger {
    /// Its name.
    pub comm: Option<Vec<u8>>,
    /// Its thread id.
    pub pid: Option<u32>,
    /// Its user (6.12 and later).
    pub uid: Option<u32>,
    /// The CPU it ran on.
    pub cpu: Option<u32>,
    /// Its `oom_score_adj`.
    pub oom_score_adj: Option<i16>,
}

/// The chosen task, from the `oom-kill:` line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Victim {
    /// Its name.
    pub comm: Option<Vec<u8>>,
    /// `task->pid`: a thread id if the kernel chose a thread (`vm.oom_kill_allocating_task`).
    pub pid: Option<u32>,
    /// Its user, in the initial user namespace.
    pub uid: Option<u32>,
    /// Its memory cgroup.
    pub memcg: Option<LogPath>,
}

/// One report: everything from `… invoked oom-killer` to the `oom-kill:` line, or before 5.0 to the
/// line that names the chosen task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// When its first line was printed, in microseconds since boot.
    pub time_usec: Option<u64>,
    /// Sequence number of its first record.
    pub seq: Option<u64>,
    /// Both the header and the last line were read and no record between them was lost.
    pub complete: bool,
    /// The `oom-kill:` line ended before its last fields: those are `None`.
    pub summary_cut: bool,
    /// The `oom-kill:` line can be read in more than one way: the facts in doubt are `None`, or, if
    /// its parts came in several records between which others were printed, unsure.
    pub ambiguous: bool,
    /// Who asked for memory.
    pub trigger: Trigger,
    /// The kernel's release, as in `uname -r`.
    pub kernel: Option<Vec<u8>>,
    /// `gfp_mask` of the allocation.
    pub gfp_mask: Option<u64>,
    /// Its flags by name, as printed: `GFP_KERNEL|__GFP_COMP`.
    pub gfp_flags: Option<Vec<u8>>,
    /// Power of two of the pages asked for; -1 is SysRq-f (`is_sysrq_oom`, mm/oom_kill.c).
    pub order: Option<i32>,
    /// What limited the allocation.
    pub constraint: Option<Constraint>,
    /// Memory nodes of the policy, as printed; `(null)` without one.
    pub nodemask: Option<Vec<u8>>,
    /// The trigger's cpuset: the last component of its path, or `/`.
    pub cpuset: Option<Vec<u8>>,
    /// Memory nodes the trigger may use, as printed: `0-1,3`.
    pub mems_allowed: Option<Vec<u8>>,
    /// The node (`Some(true)`) or a memory cgroup (`Some(false)`) is out of memory. `None` also on
    /// kernels built without memory cgroups.
    pub global_oom: Option<bool>,
    /// The memory cgroup whose limit was hit.
    pub oom_memcg: Option<LogPath>,
    /// Who was chosen.
    pub victim: Victim,
    /// Counters of that memory cgroup.
    pub memcg: MemcgReport,
    /// The machine's memory.
    pub node: NodeMemory,
    /// The candidates; `None` without a table (`vm.oom_dump_tasks = 0`).
    pub table: Option<TaskTable>,
    /// The table's head is that of a kernel before 4.19: `[ pid ]` instead of `[  pid  ]`.
    pub narrow_table: bool,
    /// The chosen task's points, in thousandths of what the decision could use. Printed before 5.2.
    pub score: Option<u64>,
}

/// Where the header's fixed text starts. The name in front of it is the trigger's own choice, but
/// at most [`COMM_MAX`] bytes long.
pub(super) fn find_header(text: &[u8]) -> Option<usize> {
    // It begins with a space, and few lines have one so early.
    memchr::memchr_iter(b' ', &text[..text.len().min(COMM_MAX + 1)])
        .find(|at| text[*at..].starts_with(INVOKED))
}

const INVOKED: &[u8] = b" invoked oom-killer: gfp_mask=";

impl Report {
    /// A report of which only the end will be certain.
    pub(super) fn without_facts(&self) -> Self {
        Self {
            time_usec: self.time_usec,
            seq: self.seq,
            kernel: self.kernel.clone(),
            ambiguous: true,
            ..Self::default()
        }
    }

    /// Reads the header, whose fixed text is at `at` (`dump_header`, mm/oom_kill.c).
    pub(super) fn read_header(&mut self, text: &[u8], at: usize) {
        self.trigger.comm = Some(text[..at].to_vec());
        let mut c = Cursor(&text[at + INVOKED.len()..]);
        // `%#x` prints 0 without its 0x.
        let _ = c.tag(b"0x");
        let digits = c.0.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        self.gfp_mask = std::str::from_utf8(&c.0[..digits])
            .ok()
            .and_then(|s| u64::from_str_radix(s, 16).ok());
        c.0 = &c.0[digits..];
        if c.tag(b"(").is_some() {
            self.gfp_flags = c.until(b")").map(<[u8]>::to_vec);
        }
        // 4.10 to 4.18 have it here.
        if c.tag(b", nodemask=").is_some() {
            let end = memchr::memchr(b' ', c.0).unwrap_or(c.0.len());
            let nodemask = &c.0[..end];
            self.nodemask = Some(nodemask.strip_suffix(b",").unwrap_or(nodemask).to_vec());
        }
        self.order = c.until(b" order=").and_then(|_| c.narrow());
        self.trigger.oom_score_adj = c.until(b", oom_score_adj=").and_then(|_| c.narrow());
    }

    /// Reads `COMM cpuset=NAME mems_allowed=LIST`, the line below the header before 5.0.
    pub(super) fn read_cpuset_line(&mut self, text: &[u8]) -> Option<()> {
        const MEMS: &[u8] = b" mems_allowed=";
        let name = text
            .strip_prefix(self.trigger.comm.as_deref()?)?
            .strip_prefix(b" cpuset=")?;
        let end = memchr::memmem::rfind(name, MEMS)?;
        self.cpuset.get_or_insert_with(|| name[..end].to_vec());
        self.mems_allowed
            .get_or_insert_with(|| name[end + MEMS.len()..].to_vec());
        Some(())
    }

    /// Reads `CPU: 0 [UID: 0 ]PID: 5540 Comm: x Not tainted …`, once. Before 3.10 it is
    /// `Pid: 5540, comm: x Not tainted …`.
    pub(super) fn read_cpu_line(&mut self, text: &[u8]) -> Option<()> {
        let mut c = Cursor(text);
        let (mut cpu, mut uid) = (None, None);
        if c.tag(b"Pid: ").is_none() {
            c.tag(b"CPU: ")?;
            cpu = Some(c.narrow()?);
            uid = c.tag(b" UID: ").and_then(|()| c.uid());
            c.tag(b" PID: ")?;
        }
        let pid = c.narrow()?;
        if self.trigger.pid.is_some() {
            return Some(());
        }
        (self.trigger.cpu, self.trigger.uid, self.trigger.pid) = (cpu, uid, Some(pid));
        // printk takes a name that starts with \x01 and a level for a prefix and strips it from the
        // header (`printk_parse_prefix`, kernel/printk/printk.c). Here the name is whole.
        c.tag(b" Comm: ").or_else(|| c.tag(b", comm: "))?;
        let window = &c.0[..c.0.len().min(COMM_MAX + b" Not tainted ".len())];
        let end = [&b" Not tainted "[..], b" Tainted: "]
            .into_iter()
            .filter_map(|mark| memchr::memmem::rfind(window, mark))
            .filter(|&at| at <= COMM_MAX)
            .max();
        // Behind the name: `Not tainted RELEASE #…`, or `Tainted: ` with letters and spaces.
        let words = c.0[end.unwrap_or(c.0.len())..].split(|&b| b == b' ');
        let mut words = words.filter(|word| !word.is_empty());
        self.kernel = words
            .find(|word| word[0].is_ascii_digit())
            .map(<[u8]>::to_vec);
        if let (Some(end), Some(comm)) = (end, &mut self.trigger.comm)
            && window[..end].ends_with(comm)
        {
            *comm = window[..end].to_vec();
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &[u8]) -> Report {
        let mut report = Report::default();
        report.read_header(text, find_header(text).unwrap());
        report
    }

    /// All facts of a header, SysRq's order, and the mask 0 without 0x or flags.
    #[test]
    fn headers() {
        let r = header(
            b"a b invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=3, oom_score_adj=-999",
        );
        assert_eq!(r.trigger.comm.as_deref(), Some(&b"a b"[..]));
        assert_eq!(r.gfp_mask, Some(0x140cca));
        assert_eq!(
            r.gfp_flags.as_deref(),
            Some(&b"GFP_HIGHUSER_MOVABLE|__GFP_COMP"[..])
        );
        assert_eq!((r.order, r.trigger.oom_score_adj), (Some(3), Some(-999)));
        let r = header(b"kworker/0:1 invoked oom-killer: gfp_mask=0(), order=-1, oom_score_adj=0");
        assert_eq!((r.gfp_mask, r.order), (Some(0), Some(-1)));
    }

    /// Text that is not at the start of a line is no header.
    #[test]
    fn quoted_header_is_none() {
        let text = b"audit: comm=\"x\" said: y invoked oom-killer: gfp_mask=0x0(), order=0";
        assert_eq!(find_header(text), None);
    }

    /// The `CPU:` line with and without UID, and a name that imitates its end.
    #[test]
    fn cpu_lines() {
        let mut r = header(b"foo invoked oom-killer: gfp_mask=0x1(A), order=0, oom_score_adj=0");
        r.read_cpu_line(b"CPU: 3 UID: 7 PID: 9 Comm: \x01cfoo Not tainted 6.18 #1")
            .unwrap();
        assert_eq!(r.trigger.comm.as_deref(), Some(&b"\x01cfoo"[..]));
        assert_eq!(
            (r.trigger.cpu, r.trigger.uid, r.trigger.pid),
            (Some(3), Some(7), Some(9))
        );
        r.read_cpu_line(b"CPU: 4 PID: 10 Comm: foo Not tainted 5.10 #1")
            .unwrap();
        assert_eq!((r.trigger.cpu, r.trigger.pid), (Some(3), Some(9)));

        let mut r =
            header(b"x Tainted: y invoked oom-killer: gfp_mask=0x1(A), order=0, oom_score_adj=0");
        r.read_cpu_line(b"CPU: 0 PID: 9 Comm: x Tainted: y Tainted: G  W 5.10 #1")
            .unwrap();
        assert_eq!(r.trigger.comm.as_deref(), Some(&b"x Tainted: y"[..]));
    }

    /// What 2.6.32, 3.13, 4.8 and 4.14 print above the stack.
    #[test]
    fn older_headers() {
        let mut r = header(
            b"php fpm invoked oom-killer: gfp_mask=0x280da, order=0, oom_adj=0, oom_score_adj=7",
        );
        assert_eq!((r.gfp_mask, r.gfp_flags.clone()), (Some(0x280da), None));
        assert_eq!((r.order, r.trigger.oom_score_adj), (Some(0), Some(7)));
        r.read_cpuset_line(b"php fpm cpuset=a mems_allowed=1 mems_allowed=0-1")
            .unwrap();
        assert_eq!(r.cpuset.as_deref(), Some(&b"a mems_allowed=1"[..]));
        assert_eq!(r.mems_allowed.as_deref(), Some(&b"0-1"[..]));
        assert_eq!(r.read_cpuset_line(b"php cpuset=/ mems_allowed=0"), None);
        r.read_cpu_line(b"Pid: 23212, comm: php fpm Not tainted 2.6.32-642.11.1.el6.x86_64 #1")
            .unwrap();
        assert_eq!((r.trigger.pid, r.trigger.cpu), (Some(23212), None));
        let release = &b"2.6.32-642.11.1.el6.x86_64"[..];
        assert_eq!(r.kernel.as_deref(), Some(release));

        let mut r = header(
            b"x invoked oom-killer: gfp_mask=0x14200ca(GFP_HIGHUSER_MOVABLE), nodemask=(null),  order=2, oom_score_adj=-5",
        );
        assert_eq!(r.nodemask.as_deref(), Some(&b"(null)"[..]));
        assert_eq!((r.order, r.trigger.oom_score_adj), (Some(2), Some(-5)));
        r.read_cpu_line(b"CPU: 0 PID: 1 Comm: x Tainted: P           OE   4.14.0 #2")
            .unwrap();
        assert_eq!(r.kernel.as_deref(), Some(&b"4.14.0"[..]));
        let r = header(b"x invoked oom-killer: gfp_mask=0xd0, order=1, oom_adj=-4");
        assert_eq!((r.order, r.trigger.oom_score_adj), (Some(1), None));
    }
}
