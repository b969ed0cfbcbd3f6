//! The grammar of the report (`dump_header`, `dump_tasks`, `mem_cgroup_print_oom_meminfo` and
//! `__oom_kill_process` in `mm/oom_kill.c` and `mm/memcontrol.c`).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::{Account, MachineMemory};
use crate::facts::Facts;

/// One report.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The line "X invoked oom-killer".
    pub header: Header,
    /// Thread id of the task that asked, from the stack trace's heading.
    pub trigger_tid: Option<u32>,
    /// What it says of the memory cgroup.
    pub memcg: MemcgLines,
    /// What it says of the machine's memory.
    pub memory: MachineMemory,
    /// The task table.
    pub rows: Vec<Row>,
    /// The line "oom-kill:".
    pub constraint: ConstraintLine,
}

impl Report {
    /// What the processes of the task table hold in memory.
    pub fn held_bytes(&self) -> u64 {
        let page = rustix::param::page_size() as u64;
        self.rows
            .iter()
            .map(|row| row.rss * page + row.pgtables_bytes)
            .sum()
    }
}

/// "X invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0".
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// Name of the trigger.
    pub comm: Vec<u8>,
    /// The mask, as printed.
    pub gfp_mask: String,
    /// Its names.
    pub gfp_flags: Vec<String>,
    /// The order.
    pub order: i64,
    /// `oom_score_adj` of the trigger.
    pub oom_score_adj: i64,
}

/// "memory: usage 32768kB, limit 32768kB, failcnt 21".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Charged.
    pub usage_bytes: u64,
    /// The limit; none where the kernel prints its largest number.
    pub limit_bytes: Option<u64>,
}

/// What the report says of the memory cgroup.
#[derive(Clone, Debug, Default)]
pub struct MemcgLines {
    /// Counters by their name: `memory`, `swap`, `memory+swap`, `kmem`.
    pub counters: BTreeMap<String, Counter>,
    /// The statistics by their name.
    pub stat: BTreeMap<String, u64>,
}

/// A row of the task table.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Thread id.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// Real user id.
    pub uid: u32,
    /// Mapped pages.
    pub total_vm: u64,
    /// Resident pages.
    pub rss: u64,
    /// The split of `rss` into anonymous, file and shared, from 6.8 on.
    pub split: Option<[u64; 3]>,
    /// Page tables, in bytes.
    pub pgtables_bytes: u64,
    /// Pages in swap.
    pub swapents: u64,
    /// `oom_score_adj`.
    pub oom_score_adj: i64,
    /// Name.
    pub name: Vec<u8>,
}

impl Row {
    /// The points of `oom_badness`, in pages.
    pub fn badness(&self, total_pages: u64) -> i64 {
        let page = rustix::param::page_size() as u64;
        let held = self.rss + self.swapents + self.pgtables_bytes / page;
        held.cast_signed() + self.oom_score_adj * (total_pages / 1000).cast_signed()
    }
}

/// "oom-kill:constraint=CONSTRAINT_MEMCG,…,task=x,pid=1,uid=0".
#[derive(Clone, Debug, Default)]
pub struct ConstraintLine {
    /// `CONSTRAINT_MEMCG`, …
    pub constraint: String,
    /// What follows, as printed.
    pub rest: Vec<u8>,
    /// `pid`; none where the line is cut.
    pub pid: Option<u32>,
    /// `uid`; none where the line is cut.
    pub uid: Option<u32>,
}

impl ConstraintLine {
    /// Whether it is about the limit of this memory cgroup and about this victim; where it is cut,
    /// as far as it goes.
    pub fn names(&self, oom_memcg: &str, victim: &Facts) -> bool {
        self.ends(&format!("oom_memcg={oom_memcg}"), victim)
    }

    /// Whether it is about no memory cgroup's limit, and about this victim.
    pub fn names_of_machine(&self, victim: &Facts) -> bool {
        self.ends("global_oom", victim)
    }

    fn ends(&self, whose: &str, victim: &Facts) -> bool {
        // The task that was chosen is the first thread, also where another one is then taken.
        let Facts {
            pid,
            uid,
            leader_comm,
            cgroup_path,
            ..
        } = victim;
        let mut expected = format!("{whose},task_memcg={cgroup_path},task=").into_bytes();
        expected.extend(leader_comm);
        expected.extend(format!(",pid={pid},uid={uid}").bytes());
        let start = whose.split('=').next().unwrap_or_default();
        let Some(at) = find(&self.rest, format!(",{start}").as_bytes()) else {
            return false;
        };
        let printed = &self.rest[at + 1..];
        if self.pid.is_some() {
            printed == expected
        } else {
            expected.starts_with(printed)
        }
    }
}

/// "MESSAGE: Killed process 1 (x) total-vm:…".
#[derive(Clone, Debug, Default)]
pub struct Killed {
    /// What comes before "Killed process".
    pub message: String,
    /// Thread id.
    pub pid: u32,
    /// Name.
    pub comm: Vec<u8>,
    /// Mapped, in kB.
    pub total_vm_kb: u64,
    /// Anonymous, in kB.
    pub anon_rss_kb: u64,
    /// File, in kB.
    pub file_rss_kb: u64,
    /// Shared, in kB.
    pub shmem_rss_kb: u64,
    /// Real user id.
    pub uid: u32,
    /// Page tables, in kB.
    pub pgtables_kb: u64,
    /// `oom_score_adj`.
    pub oom_score_adj: i64,
}

/// The accounts in a log.
pub(super) fn accounts(lines: &[Vec<u8>]) -> Result<Vec<Account>> {
    let mut accounts = Vec::new();
    let mut open: Option<Open> = None;
    let mut complete: Option<Report> = None;
    for line in lines {
        if let Some(at) = find(line, b" invoked oom-killer: ") {
            complete = None;
            open = Some(Open::new(header(&line[..at], &line[at..])?));
        } else if let Some(rest) = line.strip_prefix(b"oom-kill:constraint=") {
            if let Some(Open { mut report, .. }) = open.take() {
                report.constraint = constraint(rest)?;
                complete = Some(report);
            }
        } else if let Some(at) = find(line, b": Killed process ") {
            open = None;
            let killed = killed(line, at)?;
            accounts.push(Account {
                report: complete.take(),
                killed,
            });
        } else if let Some(open) = &mut open {
            open.line(line)?;
        }
    }
    Ok(accounts)
}

/// A report that is still being printed.
struct Open {
    report: Report,
    columns: Vec<String>,
    in_stat: bool,
}

impl Open {
    fn new(header: Header) -> Self {
        let report = Report {
            header,
            ..Report::default()
        };
        Self {
            report,
            columns: Vec::new(),
            in_stat: false,
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        if !self.columns.is_empty() {
            // Another message may come between the rows.
            if line.starts_with(b"[") {
                self.report.rows.push(row(&self.columns, line)?);
            }
            return Ok(());
        }
        let text = String::from_utf8_lossy(line);
        self.report.memory.line(&text)?;
        if let Some(columns) = text.strip_prefix("[  pid  ]") {
            self.columns = columns.split_whitespace().map(str::to_owned).collect();
        } else if text.starts_with("CPU: ") && self.report.trigger_tid.is_none() {
            self.report.trigger_tid = text
                .split_once(" PID: ")
                .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        } else if text.starts_with("Memory cgroup stats for ") {
            self.in_stat = true;
        } else if let Some((name, usage)) = text.split_once(": usage ") {
            let counter = counter(usage).with_context(|| format!("the line {text:?}"))?;
            self.report.memcg.counters.insert(name.to_owned(), counter);
        } else if self.in_stat {
            let mut lines: Vec<&str> = text.split('\n').collect();
            // Before 6.4 the statistics are one message of many lines, which printk cuts at its
            // limit: the last one may be half a number.
            if lines.len() > 1 {
                lines.pop();
            }
            for (name, value) in lines.iter().filter_map(|line| line.split_once(' ')) {
                if let Ok(value) = value.parse() {
                    self.report.memcg.stat.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }
}

fn header(comm: &[u8], rest: &[u8]) -> Result<Header> {
    let rest = String::from_utf8_lossy(rest);
    let (mask, after) = between(&rest, "gfp_mask=", "), order=")?;
    let (mask, names) = mask.split_once('(').context("gfp_mask without names")?;
    let (order, adj) = after
        .split_once(", oom_score_adj=")
        .context("no oom_score_adj")?;
    Ok(Header {
        comm: comm.to_vec(),
        gfp_mask: mask.to_owned(),
        gfp_flags: names.split('|').map(str::to_owned).collect(),
        order: order.parse()?,
        oom_score_adj: adj.parse()?,
    })
}

fn counter(text: &str) -> Result<Counter> {
    let (usage, rest) = text.split_once("kB, limit ").context("no limit")?;
    let (limit, _) = rest.split_once("kB").context("no unit")?;
    let limit: u64 = limit.parse()?;
    Ok(Counter {
        usage_bytes: usage.parse::<u64>()? * 1024,
        limit_bytes: limit.checked_mul(1024).filter(|bytes| *bytes < 1 << 62),
    })
}

fn row(columns: &[String], line: &[u8]) -> Result<Row> {
    let shown = || format!("the row {:?}", String::from_utf8_lossy(line));
    let close = line
        .iter()
        .position(|byte| *byte == b']')
        .with_context(shown)?;
    let pid = number(&line[1..close]).with_context(shown)?.try_into()?;
    let mut row = Row {
        pid,
        ..Row::default()
    };
    let mut split = [None; 3];
    let mut rest = &line[close + 1..];
    for column in columns {
        if column == "name" {
            row.name = rest.get(1..).unwrap_or_default().to_vec();
            break;
        }
        let start = rest
            .iter()
            .position(|byte| *byte != b' ')
            .with_context(shown)?;
        rest = &rest[start..];
        let end = rest
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(rest.len());
        let (value, after) = rest.split_at(end);
        rest = after;
        let value = number(value).with_context(shown)?;
        let unsigned = || u64::try_from(value).with_context(shown);
        match column.as_str() {
            "uid" => row.uid = value.try_into()?,
            "tgid" => row.tgid = value.try_into()?,
            "total_vm" => row.total_vm = unsigned()?,
            "rss" => row.rss = unsigned()?,
            "rss_anon" => split[0] = Some(unsigned()?),
            "rss_file" => split[1] = Some(unsigned()?),
            "rss_shmem" => split[2] = Some(unsigned()?),
            "pgtables_bytes" => row.pgtables_bytes = unsigned()?,
            "swapents" => row.swapents = unsigned()?,
            "oom_score_adj" => row.oom_score_adj = value,
            other => anyhow::bail!("the task table has a column {other:?}"),
        }
    }
    if let [Some(anon), Some(file), Some(shmem)] = split {
        row.split = Some([anon, file, shmem]);
    }
    Ok(row)
}

fn constraint(line: &[u8]) -> Result<ConstraintLine> {
    let comma = line
        .iter()
        .position(|byte| *byte == b',')
        .context("no nodemask")?;
    // The last `,pid=` and `,uid=` are the kernel's own, whatever the name before them holds.
    let tail = |name: &str| -> Option<(usize, u32)> {
        let at = rfind(line, name.as_bytes())?;
        let digits = line[at + name.len()..].split(|byte| *byte == b',').next()?;
        Some((at, std::str::from_utf8(digits).ok()?.parse().ok()?))
    };
    let uid = tail(",uid=");
    let pid = tail(",pid=");
    let whole = pid.zip(uid).filter(|((pid_at, pid), (uid_at, uid))| {
        pid_at < uid_at && line[*pid_at..] == *format!(",pid={pid},uid={uid}").as_bytes()
    });
    Ok(ConstraintLine {
        constraint: String::from_utf8_lossy(&line[..comma]).into_owned(),
        rest: line[comma..].to_vec(),
        pid: whole.map(|((_, pid), _)| pid),
        uid: whole.map(|(_, (_, uid))| uid),
    })
}

fn killed(line: &[u8], at: usize) -> Result<Killed> {
    let rest = &line[at + ": Killed process ".len()..];
    let open = find(rest, b" (").context("Killed process without a name")?;
    let close = rfind(rest, b") total-vm:").context("Killed process without total-vm")?;
    let numbers = String::from_utf8_lossy(&rest[close + 2..]).replace(',', "");
    let field = |name: &str| -> Result<i64> {
        numbers
            .split(' ')
            .find_map(|field| field.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|value| value.trim_end_matches("kB").parse().ok())
            .with_context(|| format!("no {name} in {numbers:?}"))
    };
    let kb = |name: &str| -> Result<u64> { Ok(field(name)?.try_into()?) };
    Ok(Killed {
        message: String::from_utf8_lossy(&line[..at]).into_owned(),
        pid: number(&rest[..open])?.try_into()?,
        comm: rest[open + 2..close].to_vec(),
        total_vm_kb: kb("total-vm")?,
        anon_rss_kb: kb("anon-rss")?,
        file_rss_kb: kb("file-rss")?,
        shmem_rss_kb: kb("shmem-rss")?,
        uid: field("UID")?.try_into()?,
        pgtables_kb: kb("pgtables")?,
        oom_score_adj: field("oom_score_adj")?,
    })
}

fn number(bytes: &[u8]) -> Result<i64> {
    let text = String::from_utf8_lossy(bytes);
    text.trim()
        .parse()
        .with_context(|| format!("{text:?} is not a number"))
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Result<(&'a str, &'a str)> {
    let (_, rest) = text
        .split_once(open)
        .with_context(|| format!("no {open:?} in {text:?}"))?;
    let (inner, after) = rest
        .split_once(close)
        .with_context(|| format!("no {close:?} in {text:?}"))?;
    ensure!(!inner.is_empty(), "nothing between {open:?} and {close:?}");
    Ok((inner, after))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn rfind(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .rposition(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=-5
CPU: 1 UID: 0 PID: 2137 Comm: python3 Not tainted 6.18.44 #1
memory: usage 32768kB, limit 32768kB, failcnt 21
memory+swap: usage 32768kB, limit 9007199254740988kB, failcnt 0
Memory cgroup stats for /x:
total_rss 33394688
Tasks state (memory values in pages):
[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name
[   2137]     7  2136    10823     9783     8128     1655         0   118784        2          -100 a b] c
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/x,task_memcg=/x/y,task=,pid=1,uid=9,pid=2137,uid=7
Memory cgroup out of memory: Killed process 2137 (,pid=1,uid=9) total-vm:43292kB, anon-rss:32512kB, file-rss:6620kB, shmem-rss:4kB, UID:7 pgtables:116kB oom_score_adj:-100
Memory cgroup out of memory: Killed process 9 (z) total-vm:1kB, anon-rss:2kB, file-rss:3kB, shmem-rss:4kB, UID:5 pgtables:6kB oom_score_adj:7";

    /// Before 6.4 the statistics are one record of many lines. Its last line is not believed.
    #[test]
    fn reads_statistics_in_one_record() -> Result<()> {
        let stat = b"anon 25006080\nfile 0\nkernel_stack 16384\nshmem 12".to_vec();
        let mut lines: Vec<Vec<u8>> = LOG.lines().map(|line| line.as_bytes().to_vec()).collect();
        let at = lines.iter().position(|line| line == b"total_rss 33394688");
        lines[at.context("the statistics")?] = stat;
        let report = accounts(&lines)?.remove(0).report.context("a report")?;
        let stat: Vec<_> = report.memcg.stat.into_iter().collect();
        let expected = [("anon", 25_006_080), ("file", 0), ("kernel_stack", 16_384)];
        assert_eq!(stat, expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(report.rows.len(), 1);
        Ok(())
    }

    /// Every number of a report is found, and a kill without a report has none.
    #[test]
    fn reads_a_report() -> Result<()> {
        let lines: Vec<Vec<u8>> = LOG.lines().map(|line| line.as_bytes().to_vec()).collect();
        let accounts = accounts(&lines)?;
        assert_eq!(accounts.len(), 2);
        let Account { report, killed } = &accounts[0];
        let report = report.as_ref().context("a report")?;
        assert_eq!(report.header.comm, b"python3");
        assert_eq!(report.header.gfp_mask, "0xcc0");
        assert_eq!(report.header.gfp_flags, ["GFP_KERNEL"]);
        assert_eq!((report.header.order, report.header.oom_score_adj), (0, -5));
        assert_eq!(report.trigger_tid, Some(2137));
        let memory = Counter {
            usage_bytes: 32 << 20,
            limit_bytes: Some(32 << 20),
        };
        assert_eq!(report.memcg.counters["memory"], memory);
        assert_eq!(report.memcg.counters["memory+swap"].limit_bytes, None);
        assert_eq!(report.memcg.stat["total_rss"], 33_394_688);
        let row = &report.rows[0];
        assert_eq!((row.pid, row.tgid, row.uid), (2137, 2136, 7));
        assert_eq!(
            (row.total_vm, row.rss, row.split),
            (10_823, 9_783, Some([8_128, 1_655, 0]))
        );
        assert_eq!(
            (row.pgtables_bytes, row.swapents, row.oom_score_adj),
            (118_784, 2, -100)
        );
        assert_eq!(row.name, b"a b] c");
        assert_eq!(row.badness(8192), 9_783 + 29 + 2 - 800);
        let line = &report.constraint;
        assert_eq!((line.pid, line.uid), (Some(2137), Some(7)));
        let victim = Facts {
            pid: 2137,
            uid: 7,
            leader_comm: b",pid=1,uid=9".to_vec(),
            cgroup_path: "/x/y".to_owned(),
            ..Facts::default()
        };
        assert!(line.names("/x", &victim));
        for other in [
            Facts {
                pid: 2136,
                ..victim.clone()
            },
            Facts {
                uid: 9,
                ..victim.clone()
            },
            Facts {
                leader_comm: b"x".to_vec(),
                ..victim.clone()
            },
            Facts {
                cgroup_path: "/x/z".to_owned(),
                ..victim.clone()
            },
        ] {
            assert!(!line.names("/x", &other), "{other:?}");
        }
        assert!(!line.names("/x/y", &victim));
        assert_eq!(killed.comm, b",pid=1,uid=9");
        assert_eq!((killed.pid, killed.uid, killed.pgtables_kb), (2137, 7, 116));
        let second = &accounts[1];
        assert!(second.report.is_none());
        let Killed {
            total_vm_kb,
            anon_rss_kb,
            file_rss_kb,
            shmem_rss_kb,
            ..
        } = second.killed;
        assert_eq!(
            (total_vm_kb, anon_rss_kb, file_rss_kb, shmem_rss_kb),
            (1, 2, 3, 4)
        );
        Ok(())
    }
}
