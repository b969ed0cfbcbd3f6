//! The state machine from lines to reports.

use super::joined::{GROUP, Joined, Kind, MEMCG_STATS, is_cut_length};
use super::record::Caller;
use super::report::find_header;
use super::summary::SUMMARY;
use super::table::Columns;
use super::{KilledLine, LogPath, Report, TaskTable, node, summary};

/// Rows of a task table that are kept, unless [`Parser::with_max_rows`] says otherwise.
pub const DEFAULT_MAX_ROWS: usize = 4096;

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
    /// A report, at its `oom-kill:` line; or what there is of one ([`Report::complete`]).
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
    open: Option<Open>,
    joined: Joined,
}

/// A report under way.
#[derive(Debug)]
struct Open {
    report: Box<Report>,
    caller: Option<Caller>,
    section: Section,
}

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
            open: None,
            joined: Joined::default(),
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
            self.abandon(out);
            self.open(line).report.read_header(text, at);
        } else if let Some(killed) = KilledLine::parse(line) {
            self.abandon(out);
            out(Output::Killed(killed));
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
            self.feed_open(line, out);
        }
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
                    summary::read_into(&mut open.report, joined);
                    open.report.complete &= certain;
                    out(Output::Report(open.report));
                }
            }
            Some(Kind::MemcgStats) => {
                if let Some(open) = &mut self.open
                    && !joined.mixed
                {
                    open.report.memcg.path = joined.memcg_stats_path();
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
        } else if matches!(open.section, Section::Node) && node::begins(line.text) {
            self.close(true, out);
            self.joined.start(Kind::Zone, line);
            self.close_if_whole(out);
        } else if open.read(line.text, self.max_rows).is_some()
            && matches!(self.joined.kind, Some(Kind::MemcgStats | Kind::Zone))
        {
            self.close(true, out);
        }
    }
}

impl Open {
    fn read(&mut self, text: &[u8], max_rows: usize) -> Option<()> {
        let report = &mut *self.report;
        match (text.first()?, &mut self.section) {
            (b'[', Section::Table(columns)) => {
                let row = columns.row(text)?;
                let table = report.table.get_or_insert_default();
                table.total += 1;
                if table.rows.len() < max_rows {
                    table.rows.push(row);
                }
                Some(())
            }
            (b'[', section) => {
                *section = Section::Table(Columns::parse(text)?);
                report.table = Some(TaskTable::default());
                Some(())
            }
            (b'C', Section::Head) => report.read_cpu_line(text),
            (b'm' | b's' | b'k', Section::Head) => report.memcg.read_counter(text),
            (b'M', Section::Head) if text == b"Mem-Info:" => {
                self.section = Section::Node;
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
