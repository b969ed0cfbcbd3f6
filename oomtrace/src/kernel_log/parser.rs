//! The state machine from lines to reports.

use super::joined::{GROUP, Joined, Kind, MEMCG_STATS, TASK_IN, is_cut_length};
use super::killed::{Announced, Kill};
use super::record::Caller;
use super::report::find_header;
use super::summary::SUMMARY;
use super::table::Columns;
use super::{KilledLine, LogPath, MemcgStat, Report, TaskTable, node, summary};

/// Rows of a task table that are kept, unless [`Parser::with_max_rows`] says otherwise.
pub const DEFAULT_MAX_ROWS: usize = 4096;

/// Kills of which only the first of two lines has come.
const ANNOUNCED_MAX: usize = 8;

/// One message line of the kernel, with what its source knows about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Line<'a> {
    /// Microseconds since boot.
    pub time_usec: Option<u64>,
    /// Sequence number of the record.
    pub seq: Option<u64>,
    /// Who printed it.
    pub caller: Option<Caller>,
    /// The text continues an earlier line.
    pub continued: bool,
    /// The message, unescaped.
    pub text: &'a [u8],
}

/// What the parser found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A report, at its last line; or what there is of one ([`Report::complete`]).
    Report(Box<Report>),
    /// A process was killed.
    Killed(KilledLine),
    /// Every process of a cgroup will be killed.
    GroupKill(GroupKill),
    /// Records were lost; how many, if known.
    Gap {
        /// Records lost.
        missing: Option<u64>,
    },
}

/// `Tasks in … are going to be killed due to memory.oom.group set` (`mem_cgroup_print_oom_group`,
/// mm/memcontrol.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupKill {
    /// When it was printed, in microseconds since boot.
    pub time_usec: Option<u64>,
    /// Sequence number of its record.
    pub seq: Option<u64>,
    /// The cgroup.
    pub memcg: LogPath,
}

/// Feeds on lines, yields reports. Holds one open report at most: the kernel prints a report under
/// `oom_lock` (mm/oom_kill.c), so two never mix, though other lines may come in between.
#[derive(Debug)]
pub struct Parser {
    max_rows: usize,
    /// Reports are read whose header is missing.
    fragments: bool,
    open: Option<Open>,
    joined: Joined,
    /// The first of two lines about a kill, whose second has not come.
    announced: Vec<Announced>,
}

/// A report under way.
#[derive(Debug)]
struct Open {
    report: Box<Report>,
    caller: Option<Caller>,
    section: Section,
    /// A header came when another report was under way, and nothing says who printed which line.
    follows_cut: bool,
    /// A line that belongs to the sum of a memory cgroup's figures could not be read.
    stats_lost: bool,
    /// The line before the table was seen.
    table_comes: bool,
    /// Lines of another report are in this one: only what its last line says is certain.
    spoiled: bool,
}

/// Above the task table, since 4.19 (`dump_tasks`, mm/oom_kill.c).
const TABLE: &[u8] = b"Tasks state (memory values in pages):";

#[derive(Debug)]
enum Section {
    Head,
    /// Below `Mem-Info:`.
    Node,
    /// Below `Memory cgroup stats for`.
    Stats {
        v1: bool,
    },
    Table(Columns),
}

impl Default for Parser {
    fn default() -> Self {
        Self::with_max_rows(DEFAULT_MAX_ROWS)
    }
}

impl Parser {
    /// A parser that keeps at most `max_rows` rows of a task table. It counts them all.
    pub fn with_max_rows(max_rows: usize) -> Self {
        Self {
            max_rows,
            fragments: false,
            open: None,
            joined: Joined::default(),
            announced: Vec::new(),
        }
    }

    /// One for what people keep of logs: a report may begin below its header.
    pub(super) fn of_fragments() -> Self {
        Self {
            fragments: true,
            ..Self::default()
        }
    }

    /// Takes the next line and hands `out` what it completes.
    pub fn feed(&mut self, line: &Line<'_>, out: &mut impl FnMut(Output)) {
        if self.joined.kind.is_some() && self.joined.from(line.caller) {
            if line.continued && !self.begins_zone(line) {
                self.joined.push(line.text);
                return self.close_if_whole(out);
            }
            self.joined.interrupted |= line.caller.is_none();
        }
        let text = line.text;
        if let Some(at) = find_header(text) {
            let follows_cut = self.open.as_ref().is_some_and(|open| open.may_go_on(line));
            self.abandon(out);
            let open = self.open(line);
            open.follows_cut = follows_cut;
            open.report.read_header(text, at);
        } else if let Some(kill) = Kill::parse(line) {
            match kill {
                Kill::Announced(announced) => self.announced(announced, line, out),
                Kill::Killed(killed) => self.killed(killed, out),
            }
        } else if text.starts_with(SUMMARY) {
            self.close(true, out);
            if self
                .open
                .as_ref()
                .is_none_or(|open| open.caller != line.caller)
            {
                self.abandon(out);
                self.open(line).report.complete = false;
            }
            self.joined.start(Kind::Summary, line);
            self.close_if_whole(out);
        } else if text.starts_with(GROUP) {
            self.close(true, out);
            self.joined.start(Kind::Group, line);
            self.close_if_whole(out);
        } else {
            if self.fragments
                && self.open.is_none()
                && (text.starts_with(MEMCG_STATS)
                    || text == TABLE
                    || Columns::parse(text).is_some())
            {
                self.open(line).report.complete = false;
            }
            self.feed_open(line, out);
        }
    }

    /// A line that names the chosen task. Before 5.0 it ends the report.
    fn announced(&mut self, announced: Announced, line: &Line<'_>, out: &mut impl FnMut(Output)) {
        self.close(true, out);
        match self.open.take_if(|open| open.caller == line.caller) {
            Some(open) => out(Output::Report(open.end(&announced))),
            None => self.abandon(out),
        }
        if self.announced.len() == ANNOUNCED_MAX {
            self.announced.remove(0);
        }
        self.announced.push(announced);
    }

    fn killed(&mut self, mut killed: KilledLine, out: &mut impl FnMut(Output)) {
        self.abandon(out);
        if killed.message.is_empty() && !killed.shares_memory {
            let own = self.announced.iter().position(|a| a.pid == killed.pid);
            // Of one that was chosen a child may be taken; of several, nobody knows whose it is.
            let at = own.or_else(|| (self.announced.len() == 1).then_some(0));
            if let Some(announced) = at.map(|at| self.announced.remove(at)) {
                killed.message.clone_from(&announced.message);
                killed.announced = Some(Box::new(announced));
            }
        }
        out(Output::Killed(killed));
    }

    /// A line that continues the record before it, as some readers of the log hand them on. It cannot
    /// be the first of anything.
    pub fn feed_rest(&mut self, line: &Line<'_>, out: &mut impl FnMut(Output)) {
        self.feed_open(line, out);
    }

    /// Whether a report is under way.
    pub const fn is_open(&self) -> bool {
        self.open.is_some() || self.joined.kind.is_some()
    }

    /// Records were lost (`EPIPE`, or a jump in sequence numbers): whatever is under way ends here,
    /// since the next line may be of another report.
    pub fn gap(&mut self, missing: Option<u64>, out: &mut impl FnMut(Output)) {
        self.finish(out);
        out(Output::Gap { missing });
    }

    /// The input ends here; hands over what is under way, flagged incomplete.
    pub fn finish(&mut self, out: &mut impl FnMut(Output)) {
        self.close(false, out);
        self.abandon(out);
        self.announced.clear();
    }

    /// Whether the next line about a zone begins, which a kernel without `CONFIG_NUMA` prints as a
    /// continuation of the one before it.
    fn begins_zone(&self, line: &Line<'_>) -> bool {
        self.joined.kind == Some(Kind::Zone)
            && !self.joined.text.ends_with(b" ")
            && node::begins(line.text)
    }

    fn open(&mut self, line: &Line<'_>) -> &mut Open {
        let report = Box::new(Report {
            time_usec: line.time_usec,
            seq: line.seq,
            complete: true,
            ..Report::default()
        });
        self.open.insert(Open {
            report,
            caller: line.caller,
            section: Section::Head,
            follows_cut: false,
            stats_lost: false,
            table_comes: false,
            spoiled: false,
        })
    }

    /// Hands over an open report that will not get its `oom-kill:` line.
    fn abandon(&mut self, out: &mut impl FnMut(Output)) {
        self.close(true, out);
        if let Some(mut open) = self.open.take() {
            open.report.complete = false;
            out(Output::Report(open.report));
        }
    }

    fn close_if_whole(&mut self, out: &mut impl FnMut(Output)) {
        let report = self.open.as_ref().map(|open| &*open.report);
        let whole = match self.joined.kind {
            None => false,
            Some(Kind::Summary) => summary::is_whole(report, &self.joined),
            Some(Kind::MemcgStats) => self.joined.memcg_stats_path().is_some(),
            // Its end cannot be seen.
            Some(Kind::TaskIn) => false,
            Some(Kind::Group) => self.joined.group_path().is_some(),
            Some(Kind::Zone) => node::is_whole(&self.joined.text),
        };
        if whole && self.joined.may_be_whole() {
            self.close(true, out);
        }
    }

    /// Ends the line under way. `certain`: no piece of it was lost.
    fn close(&mut self, certain: bool, out: &mut impl FnMut(Output)) {
        let joined = &self.joined;
        match joined.kind {
            None => return,
            Some(Kind::Summary) => {
                if let Some(mut open) = self.open.take() {
                    if open.spoiled {
                        *open.report = open.report.without_facts();
                    }
                    summary::read_into(&mut open.report, joined);
                    open.report.complete &= certain;
                    out(Output::Report(open.report));
                }
            }
            Some(Kind::MemcgStats) => {
                if let Some(open) = &mut self.open
                    && !joined.mixed
                {
                    open.memcg_stats(joined);
                }
            }
            Some(Kind::TaskIn) => {
                if let (Some(open), Some((task, limit))) = (&mut self.open, joined.task_in_paths())
                {
                    open.spoiled |= open.report.oom_memcg.is_some();
                    open.report.victim.memcg = Some(task);
                    open.report.oom_memcg = Some(limit);
                }
            }
            Some(Kind::Zone) => {
                if let Some(open) = &mut self.open
                    && certain
                    && !joined.mixed
                {
                    let _ = open.report.node.read_zone_line(&joined.text);
                }
            }
            Some(Kind::Group) => {
                if let Some(memcg) = joined.group_path() {
                    let (time_usec, seq) = (joined.time_usec, joined.seq);
                    out(Output::GroupKill(GroupKill {
                        time_usec,
                        seq,
                        memcg,
                    }));
                }
            }
        }
        self.joined.clear();
    }

    /// Lines that mean something only inside a report.
    fn feed_open(&mut self, line: &Line<'_>, out: &mut impl FnMut(Output)) {
        let Some(open) = self.open.as_mut().filter(|open| open.caller == line.caller) else {
            return;
        };
        if line.text.starts_with(MEMCG_STATS) {
            open.section = Section::Stats { v1: false };
            self.close(true, out);
            self.joined.start(Kind::MemcgStats, line);
            self.close_if_whole(out);
        } else if line.text.starts_with(TASK_IN) {
            self.close(true, out);
            self.joined.start(Kind::TaskIn, line);
        } else if matches!(open.section, Section::Node) && node::begins(line.text) {
            self.close(true, out);
            self.joined.start(Kind::Zone, line);
            self.close_if_whole(out);
        } else if open.read(line.text, self.max_rows).is_some()
            && matches!(
                self.joined.kind,
                Some(Kind::MemcgStats | Kind::TaskIn | Kind::Zone)
            )
        {
            self.close(true, out);
        }
    }
}

impl Open {
    /// Whether lines of this report may come after the header of another: kernels before 4.2 print
    /// reports of two memory cgroups at once. A report is printed within less than a second, and
    /// where there are caller ids they tell.
    fn may_go_on(&self, line: &Line<'_>) -> bool {
        let passed = line.time_usec.zip(self.report.time_usec);
        let passed = passed.map(|(now, then)| now.saturating_sub(then));
        line.caller.is_none() && passed.is_none_or(|usec| usec < 1_000_000)
    }

    /// The report, at the line that names the chosen task.
    fn end(mut self, announced: &Announced) -> Box<Report> {
        let report = &mut self.report;
        // Lines of the report before it may be in this one.
        self.spoiled |= self.follows_cut;
        if self.spoiled {
            **report = report.without_facts();
        }
        report.victim.pid = Some(announced.pid);
        report.victim.comm = Some(announced.comm.clone());
        report.score = announced.score;
        self.report
    }

    /// A line `Memory cgroup stats for …`.
    fn memcg_stats(&mut self, joined: &Joined) {
        let memcg = &mut self.report.memcg;
        if let Some((path, stats)) = joined.memcg_stats_inline() {
            memcg.path.get_or_insert(path);
            if !self.stats_lost && memcg.add_stats(stats).is_none() {
                self.stats_lost = true;
            }
        } else if let Some(path) = joined.memcg_stats_path() {
            memcg.path = Some(path);
            return;
        } else {
            self.stats_lost = true;
        }
        if self.stats_lost {
            memcg.stat = MemcgStat::default();
        }
    }

    fn read(&mut self, text: &[u8], max_rows: usize) -> Option<()> {
        let report = &mut *self.report;
        match (text.first()?, &mut self.section) {
            (b'[', Section::Table(columns)) => {
                let Some(row) = columns.row(text) else {
                    self.spoiled |= Columns::parse(text).is_some();
                    return None;
                };
                let table = report.table.get_or_insert_default();
                table.total += 1;
                if table.rows.len() < max_rows {
                    table.rows.push(row);
                }
                Some(())
            }
            (b'[', section) => {
                // Since 4.19 the table has a line above its head; without it somebody has picked
                // lines, and nobody knows how many candidates there were.
                let columns = Columns::parse(text).filter(|c| c.narrow || self.table_comes)?;
                report.narrow_table = columns.narrow;
                *section = Section::Table(columns);
                report.table = Some(TaskTable::default());
                Some(())
            }
            (_, Section::Head)
                if report.cpuset.is_none() && report.read_cpuset_line(text).is_some() =>
            {
                Some(())
            }
            (b'C' | b'P', Section::Head) => report.read_cpu_line(text),
            (b'm' | b's' | b'k', Section::Head) => report.memcg.read_counter(text),
            (b'M', Section::Head) if text == b"Mem-Info:" => {
                self.section = Section::Node;
                Some(())
            }
            (b'M', _) if text == b"Mem-Info:" => {
                self.spoiled = true;
                None
            }
            (b'T', _) if text == TABLE => {
                self.table_comes = true;
                Some(())
            }
            (b'F' | b'T' | b'0'..=b'9', Section::Head | Section::Node) => {
                report.node.read_total(text)
            }
            (b' ' | b'a' | b'f' | b'k' | b'm' | b's' | b'u', Section::Node) => {
                report.node.read_usage(text)
            }
            (_, Section::Stats { v1 }) => {
                let cut = text.contains(&b'\n') && is_cut_length(text.len());
                report.memcg.read_stats(text, cut, v1)
            }
            _ => None,
        }
    }
}
