//! What a kernel log tells, to the same records that the hooks make.
//!
//! A log knows less: no start times, no parents, no outcome. What it does not say is null. What
//! belongs to one decision is told by the kernel's own order: the report, the line of the victim, the
//! line that says a group is being killed, the lines of its members.

use std::{collections::HashMap, rc::Rc, sync::Arc};

use super::{
    ALLOCATING_TASK_MESSAGE,
    assemble::{
        MEMCG_MESSAGE, Ranking, constraint_of_name, limit, node_memory, number, reported_memcg,
        scope, text,
    },
};
use crate::{
    cgroup::{self, Placement},
    event::{
        Candidate, CandidateSource, Cgroup, Constraint, Container, Event, Head, Memcg, Node, Oom,
        OomKill, Pod, Role, SCHEMA, Source, SourceKind, Trigger, Victim, VictimMemory, Whose,
        rfc3339,
    },
    explain::{self, Case, Footprint, Held},
    kernel_log::{Found, KilledLine, LogPath, Origin, Output, Report, TaskRow, What},
};

/// Victims of one decision that are held until their number is known.
const MAX_VICTIMS: usize = 4096;
/// Reports that wait for the line of their victim.
const EARLIER_MAX: usize = 8;
/// How long the kernel may take from one member of a group to the next.
const GROUP_NS: u64 = 1_000_000_000;
/// Sizes a page can have.
const PAGE_SIZES: [u64; 4] = [4 << 10, 8 << 10, 16 << 10, 64 << 10];

/// Makes records of what is found in kernel logs.
#[derive(Debug)]
pub struct Importer {
    /// The machine's name, where a log does not tell.
    pub hostname: Option<String>,
    /// Names this run.
    pub run_id: String,
    /// How many candidates an event lists.
    pub max_candidates: usize,
    seq: u64,
    streams: HashMap<u64, Under>,
    unexplained: u64,
}

/// What could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A report that ends before it names a victim.
    NoVictim,
    /// A program's line that looks like the kernel's.
    Imitation,
    /// A line that is not what it ought to be.
    Broken,
}

/// A decision under way.
#[derive(Debug, Default)]
struct Under {
    origin: Arc<Origin>,
    report: Option<Rc<Report>>,
    /// When its last line was written, and which that is.
    wall_ns: Option<u64>,
    line: u64,
    kills: Vec<Logged>,
    group: Option<LogPath>,
    /// Reports whose victim has been named but not yet killed, when another report came: kernels
    /// before 4.2 print those of two memory cgroups at once.
    earlier: Vec<Under>,
}

/// A line of a victim.
#[derive(Clone, Debug)]
struct Logged {
    killed: KilledLine,
    wall_ns: Option<u64>,
    line: u64,
}

impl Importer {
    /// One that knows nothing yet.
    pub fn new(hostname: Option<String>, run_id: String, max_candidates: usize) -> Self {
        Self {
            hostname,
            run_id,
            max_candidates,
            seq: 0,
            streams: HashMap::new(),
            unexplained: 0,
        }
    }

    /// Kills whose report printed points that the formula does not give.
    pub const fn unexplained(&self) -> u64 {
        self.unexplained
    }

    /// Takes what was found, hands `out` the records it completes, and `trouble` what is wrong with
    /// it, by line.
    pub fn take(
        &mut self,
        found: Found,
        out: &mut impl FnMut(Event),
        trouble: &mut impl FnMut(u64, Problem),
    ) {
        let Found {
            stream,
            origin,
            line,
            wall_ns,
            what,
        } = found;
        let mut under = self.streams.remove(&stream).unwrap_or_default();
        under.origin = origin;
        match what {
            What::Imitation => trouble(line, Problem::Imitation),
            What::Broken => trouble(line, Problem::Broken),
            What::End => {
                self.finish(under, out, trouble);
                return;
            }
            What::Output(output) => match *output {
                Output::Report(report) => {
                    self.make_room(&mut under, out, trouble);
                    (under.report, under.wall_ns, under.line) =
                        (Some(report.into()), wall_ns, line);
                }
                Output::Killed(killed) => {
                    let logged = Logged {
                        killed,
                        wall_ns,
                        line,
                    };
                    if let Some(mut other) = under.earlier_of(&logged) {
                        other.add(logged);
                        self.finish(other, out, trouble);
                        self.streams.insert(stream, under);
                        return;
                    }
                    if !under.takes(&logged) {
                        self.make_room(&mut under, out, trouble);
                        (under.wall_ns, under.line) = (wall_ns, line);
                    }
                    under.add(logged);
                }
                Output::GroupKill(group) => {
                    let known = under.group.is_some();
                    // The line of a group follows that of the victim that was chosen.
                    if let Some(first) = under.kills.pop() {
                        if known {
                            self.finish_in_place(&mut under, out, trouble);
                            (under.wall_ns, under.line) = (first.wall_ns, first.line);
                        }
                        under.kills.push(first);
                        under.group = Some(group.memcg);
                    }
                }
                Output::Gap { .. } => self.finish_in_place(&mut under, out, trouble),
            },
        }
        if !under.is_empty() {
            self.streams.insert(stream, under);
        }
    }

    /// Another decision comes. Whether the one before is over is not known if its last line is missing.
    fn make_room(
        &mut self,
        under: &mut Under,
        out: &mut impl FnMut(Event),
        trouble: &mut impl FnMut(u64, Problem),
    ) {
        if under.awaits_its_line() && under.earlier.len() < EARLIER_MAX {
            under.put_aside();
        } else {
            self.finish_in_place(under, out, trouble);
        }
    }

    fn finish_in_place(
        &mut self,
        under: &mut Under,
        out: &mut impl FnMut(Event),
        trouble: &mut impl FnMut(u64, Problem),
    ) {
        let next = Under {
            origin: Arc::clone(&under.origin),
            earlier: std::mem::take(&mut under.earlier),
            ..Under::default()
        };
        self.finish(std::mem::replace(under, next), out, trouble);
    }

    /// Nothing more comes of this decision.
    fn finish(
        &mut self,
        mut under: Under,
        out: &mut impl FnMut(Event),
        trouble: &mut impl FnMut(u64, Problem),
    ) {
        for earlier in std::mem::take(&mut under.earlier) {
            self.finish_one(earlier, out, trouble);
        }
        self.finish_one(under, out, trouble);
    }

    fn finish_one(
        &mut self,
        mut under: Under,
        out: &mut impl FnMut(Event),
        trouble: &mut impl FnMut(u64, Problem),
    ) {
        if under.kills.is_empty() {
            let Some(report) = &under.report else { return };
            let victim = &report.victim;
            let Some(pid) = victim.pid else {
                trouble(under.line, Problem::NoVictim);
                return;
            };
            under.kills.push(Logged {
                killed: KilledLine {
                    time_usec: report.time_usec,
                    pid,
                    comm: victim.comm.clone().unwrap_or_default(),
                    uid: victim.uid,
                    ..KilledLine::default()
                },
                wall_ns: under.wall_ns,
                line: under.line,
            });
        }
        let decision = Decision::new(&under);
        self.unexplained += u64::from(decision.formula == Formula::DoesNotExplain);
        let ranking = decision.ranking();
        for at in 0..under.kills.len() {
            let event = self.event(&under, &decision, ranking.as_ref(), at);
            out(event);
        }
    }

    fn event(
        &mut self,
        under: &Under,
        decision: &Decision<'_>,
        ranking: Option<&Ranking>,
        at: usize,
    ) -> Event {
        let logged = &under.kills[at];
        let killed = &logged.killed;
        let first = at == 0;
        let victim = decision.victim(under, killed, first, ranking);
        let oom = decision.oom(under, at);
        let trigger = decision.trigger();
        let compared = first && decision.chose(killed);
        let verdict = decision.page_size.map(|page_size| {
            explain::verdict(&Case {
                killed: true,
                oom: &oom,
                trigger: &trigger,
                victim: &victim,
                ranked: ranking.filter(|_| compared).and_then(Ranking::ranked),
                unowned_bytes: decision.unowned_bytes(),
                capacity_bytes: decision.memory_bytes(),
                page_size,
            })
        });
        let seq = self.seq;
        self.seq += 1;
        Event::OomKill(Box::new(OomKill {
            head: self.head(under, decision, logged, seq),
            oom_id: id(under, &under.kills[0], "-oom"),
            oom,
            trigger,
            victim,
            candidates: ranking.map(|ranking| ranking.listed(self.max_candidates)),
            verdict,
            enrichment: None,
        }))
    }

    fn head(&self, under: &Under, decision: &Decision<'_>, logged: &Logged, seq: u64) -> Head {
        let boot_ns = logged
            .killed
            .time_usec
            .map(|usec| usec.saturating_mul(1000));
        let hostname = under.origin.hostname.as_deref().map(text);
        let report = decision.report;
        let node = Node {
            hostname: hostname.or_else(|| self.hostname.clone()),
            machine_id: under.origin.machine_id.clone(),
            boot_id: under.origin.boot_id.as_deref().map(dashed),
            kernel: report.and_then(|report| report.kernel.as_deref().map(text)),
            memory_bytes: decision.memory_bytes(),
            swap_bytes: report.and_then(|report| report.node.swap_total_bytes),
            k8s_node_name: None,
        };
        Head {
            schema: SCHEMA.to_owned(),
            event_id: id(under, logged, ""),
            run_id: self.run_id.clone(),
            seq,
            time: logged.wall_ns.map(rfc3339),
            time_unix_ns: logged.wall_ns.map(|ns| ns.to_string()),
            boottime_ns: boot_ns.map(|ns| ns.to_string()),
            node: Arc::new(node),
            source: Source {
                kind: SourceKind::KernelLog,
                hooks: Arc::new([]),
                merged: Vec::new(),
            },
        }
    }
}

impl Under {
    fn is_empty(&self) -> bool {
        self.report.is_none() && self.kills.is_empty() && self.earlier.is_empty()
    }

    /// Whether the line of the victim is still to come, on a kernel that prints two.
    fn awaits_its_line(&self) -> bool {
        let victim = |report: &Report| report.victim.pid.is_some() && report.score.is_some();
        self.kills.is_empty() && self.report.as_deref().is_some_and(victim)
    }

    fn put_aside(&mut self) {
        let mut earlier = std::mem::take(&mut self.earlier);
        let next = Self {
            origin: Arc::clone(&self.origin),
            ..Self::default()
        };
        earlier.push(std::mem::replace(self, next));
        self.earlier = earlier;
    }

    /// The earlier report that names this victim.
    fn earlier_of(&mut self, logged: &Logged) -> Option<Self> {
        let pid = Some(logged.killed.pid);
        let names =
            |under: &Self| under.report.as_ref().and_then(|report| report.victim.pid) == pid;
        let at = self.earlier.iter().position(names)?;
        Some(self.earlier.remove(at))
    }

    /// Whether the line belongs to this decision.
    fn takes(&self, logged: &Logged) -> bool {
        let killed = &logged.killed;
        let report = self.report.as_deref();
        let table = report.and_then(|report| report.table.as_ref());
        let row = table.and_then(|table| row_of(&table.rows, killed.pid));
        let Some(first) = self.kills.first() else {
            let Some(report) = report else { return true };
            return match report.victim.pid {
                // It names the victim, or a task whose child or other thread was taken.
                Some(pid) => {
                    let announced = killed.announced.as_ref();
                    let possible = table.is_none() || row.is_some();
                    pid == killed.pid
                        || (possible && announced.is_some_and(|chosen| chosen.pid == pid))
                        || row.is_some_and(|row| row.pid == pid || row.tgid == pid)
                }
                // Its end is missing. It is of this kill if that one was a candidate.
                None => row.is_some_and(|row| *row.name == killed.comm[..]),
            };
        };
        if killed.shares_memory {
            return true;
        }
        if self.group.is_none() || self.kills.len() >= MAX_VICTIMS {
            return false;
        }
        let near = |from: Option<u64>, to: Option<u64>, most: u64| {
            from.zip(to)
                .is_none_or(|(from, to)| to.saturating_sub(from) <= most)
        };
        let last = self.kills.last().unwrap_or(first);
        let soon = near(last.killed.time_usec, killed.time_usec, GROUP_NS / 1000)
            && near(last.wall_ns, logged.wall_ns, GROUP_NS);
        let whole = table.filter(|table| {
            let has_first = row_of(&table.rows, first.killed.pid).is_some();
            has_first && table.rows.len() as u64 == table.total
        });
        soon && first.killed.message == killed.message && (whole.is_none() || row.is_some())
    }

    fn add(&mut self, logged: Logged) {
        // The kernel walks over the first of a group again.
        let repeated = self.group.is_some()
            && self
                .kills
                .first()
                .is_some_and(|first| first.killed.pid == logged.killed.pid);
        if !repeated {
            self.kills.push(logged);
        }
    }
}

/// Which formula a report goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Formula {
    /// That of 5.9 and later.
    Modern,
    /// One before, as told by the report's shape.
    Older,
    /// The report printed a score that none gives, or has not the columns they need.
    DoesNotExplain,
}

/// What a report tells, with what follows from it.
struct Decision<'a> {
    report: Option<&'a Report>,
    message: Option<&'a [u8]>,
    /// The task that was chosen, and its printed score.
    chosen: Option<(u32, Option<u64>)>,
    page_size: Option<u64>,
    total_pages: Option<u64>,
    /// The chosen one's points, where the printed score tells them of several readings.
    points: Option<i64>,
    formula: Formula,
    constraint: Option<Constraint>,
}

impl<'a> Decision<'a> {
    fn new(under: &'a Under) -> Self {
        let report = under.report.as_deref();
        let killed = under.kills.first().map(|first| &first.killed);
        let announced = killed.and_then(|killed| killed.announced.as_ref());
        let message = killed
            .map(|killed| killed.message.as_slice())
            .filter(|message| !message.is_empty());
        let chosen = announced
            .map(|chosen| (chosen.pid, chosen.score))
            .or_else(|| Some((report?.victim.pid?, report?.score)))
            .or_else(|| Some((killed?.pid, None)));
        let mut this = Self {
            report,
            message,
            chosen,
            page_size: page_size(report, killed),
            total_pages: None,
            points: None,
            formula: Formula::Modern,
            constraint: None,
        };
        this.constraint = this.stated_constraint();
        this.settle();
        this
    }

    fn rows(&self) -> &'a [TaskRow] {
        self.report
            .and_then(|report| report.table.as_ref())
            .map_or(&[], |table| &table.rows)
    }

    /// Whether it was this task that was chosen, not a child of the one that was.
    fn chose(&self, killed: &KilledLine) -> bool {
        self.chosen.is_some_and(|(pid, _)| {
            let row = row_of(self.rows(), killed.pid);
            pid == killed.pid || row.is_some_and(|row| row.tgid == pid || row.pid == pid)
        })
    }

    /// The constraint, from what the report says of it. Before 5.0 it does not say whether the whole
    /// node was out of memory; but a machine of one node has nothing else that could be.
    fn stated_constraint(&self) -> Option<Constraint> {
        let report = self.report;
        if let Some(name) = report.and_then(|report| report.constraint.as_ref()) {
            return constraint_of_name(name);
        }
        match self.message {
            Some(MEMCG_MESSAGE) => return Some(Constraint::Memcg),
            Some(b"No available memory in cpuset") => return Some(Constraint::Cpuset),
            Some(b"No available memory (MPOL_BIND)") => return Some(Constraint::MemoryPolicy),
            Some(b"Out of memory") => {}
            _ => {
                // A decision on a memory cgroup prints it, and no other does.
                return report?.memcg.memory.map(|_| Constraint::Memcg);
            }
        }
        let report = report?;
        let no_cpuset = report.cpuset.as_deref() == Some(b"/");
        let one_node = report
            .mems_allowed
            .as_ref()
            .is_some_and(|list| list.iter().all(u8::is_ascii_digit));
        let no_policy = report.nodemask.as_deref() == Some(b"(null)");
        (no_cpuset && (one_node || no_policy)).then_some(Constraint::None)
    }

    /// Finds the total and the formula by which the printed score comes out.
    fn settle(&mut self) {
        let Some(report) = self.report else { return };
        let node_pages = self.node_pages();
        let score = self.chosen.and_then(|(_, score)| score);
        self.formula = match score {
            None if !report.narrow_table => Formula::Modern,
            _ => Formula::Older,
        };
        let mut totals = match self.constraint {
            Some(Constraint::None) => Vec::from_iter(node_pages),
            Some(Constraint::Memcg) => self.memcg_totals(score.is_some()),
            // With a score to confirm it.
            _ => Vec::from_iter(node_pages.filter(|_| score.is_some())),
        };
        let Some(table) = &report.table else {
            if totals.len() == 1 && score.is_none() {
                self.total_pages = totals.pop();
            }
            return;
        };
        let computable = |row: &TaskRow| self.held(row).is_some();
        if !table.rows.iter().all(computable) {
            self.formula = Formula::DoesNotExplain;
            return;
        }
        let chosen = self
            .chosen
            .and_then(|(pid, _)| row_of(&table.rows, pid))
            .and_then(|row| self.held(row));
        if let (Some(score), Some(held)) = (score, chosen) {
            let mut fitting: Vec<(u64, i64)> = totals
                .iter()
                .flat_map(|total| {
                    let readings = explain::readings(held, *total);
                    readings.into_iter().map(|points| (*total, points))
                })
                .filter(|(total, points)| explain::score(*points, *total) == Some(score))
                .collect();
            fitting.dedup();
            let Some(&(total, points)) = fitting.first() else {
                if !totals.is_empty() {
                    self.formula = Formula::DoesNotExplain;
                }
                return;
            };
            if fitting.iter().all(|(other, _)| *other == total) {
                self.total_pages = Some(total);
                // Only the whole node has just this total.
                self.constraint = self.constraint.or(Some(Constraint::None));
            }
            if fitting.iter().all(|(_, other)| *other == points) {
                self.points = Some(points);
            }
        } else if totals.len() == 1 && self.constraint.is_some() {
            self.total_pages = totals.pop();
        }
    }

    fn node_pages(&self) -> Option<u64> {
        let node = &self.report?.node;
        let swap = node.swap_total_bytes?.checked_div(self.page_size?)?;
        node.ram_pages?
            .checked_sub(node.reserved_pages?)?
            .checked_add(swap)
    }

    fn memory_bytes(&self) -> Option<u64> {
        let node = &self.report?.node;
        node.ram_pages?
            .checked_sub(node.reserved_pages?)?
            .checked_mul(self.page_size?)
    }

    /// What a decision on a memory cgroup may have had for its total (`mem_cgroup_get_max`,
    /// mm/memcontrol.c): the limit, and what swap it may use. How much swap there is is not printed,
    /// so it is known where the cgroup may use none; or where a score tells which it was.
    fn memcg_totals(&self, confirmed: bool) -> Vec<u64> {
        let Some(report) = self.report else {
            return Vec::new();
        };
        let memcg = &report.memcg;
        let (Some(limit_bytes), Some(page_size)) = (limit(&memcg.memory), self.page_size) else {
            return Vec::new();
        };
        let (swap, memsw) = (limit(&memcg.swap), limit(&memcg.memsw));
        let mut totals = vec![limit_bytes];
        if confirmed {
            totals.extend(memsw.filter(|memsw| *memsw > limit_bytes));
            totals.extend(swap.and_then(|swap| limit_bytes.checked_add(swap)));
            totals.dedup();
        } else if swap != Some(0) && memsw != Some(limit_bytes) {
            totals.clear();
        }
        totals.iter().map(|bytes| bytes / page_size).collect()
    }

    fn held(&self, row: &TaskRow) -> Option<Held> {
        let page_tables = row
            .pgtables_pages
            .or_else(|| row.pgtables_bytes?.checked_div(self.page_size?))?;
        Some(Held {
            pages: row
                .rss_pages?
                .checked_add(row.swapents_pages?)?
                .checked_add(page_tables)?,
            oom_score_adj: row.oom_score_adj?.into(),
            // From 4.19 on, and so with a wide table, nobody has a bonus.
            root: row.uid.is_none_or(|uid| uid == 0)
                && self.report.is_some_and(|report| report.narrow_table),
        })
    }

    /// The lowest and the highest points a task may have had.
    fn points(&self, row: &TaskRow) -> Option<(i64, i64)> {
        match self.formula {
            Formula::DoesNotExplain => None,
            Formula::Modern => {
                let held = Footprint {
                    rss_pages: row.rss_pages?,
                    swap_pages: row.swapents_pages?,
                    pgtables_bytes: row.pgtables_bytes?,
                };
                let adj = row.oom_score_adj?.into();
                let points = explain::points(held, adj, self.total_pages, self.page_size?)?;
                Some((points, points))
            }
            Formula::Older => {
                let chosen = self
                    .chosen
                    .is_some_and(|(pid, _)| row.tgid == pid || row.pid == pid);
                if let Some(points) = self.points.filter(|_| chosen) {
                    return Some((points, points));
                }
                let readings = explain::readings(self.held(row)?, self.total_pages?);
                Some((*readings.iter().min()?, *readings.iter().max()?))
            }
        }
    }

    /// The candidates, highest points first. Where the points of some have several readings, only
    /// those have a rank that have it by all of them.
    fn ranking(&self) -> Option<Ranking> {
        if self.message == Some(ALLOCATING_TASK_MESSAGE) {
            return None;
        }
        let table = self.report?.table.as_ref()?;
        let whole = table.rows.len() as u64 == table.total;
        // A table without the one that was chosen has lost rows, and nobody knows which: `grep oom`
        // leaves those of processes that are named so.
        let (chosen, _) = self.chosen?;
        if whole && row_of(&table.rows, chosen).is_none() {
            return None;
        }
        // 2.6.35 and before have nothing that this could be.
        if table.rows.iter().any(|row| row.oom_score_adj.is_none()) {
            return None;
        }
        let mut rows: Vec<_> = table
            .rows
            .iter()
            .filter(|row| row.oom_score_adj != Some(-1000))
            .map(|row| (row, self.points(row)))
            .collect();
        let skipped = (table.rows.len() - rows.len()) as u64;
        let total = table.total.saturating_sub(skipped);
        let known = rows.iter().all(|(_, points)| points.is_some());
        // There was no choice.
        let ranked = known || (rows.len() == 1 && total == 1);
        if known {
            // Among equals the kernel takes the later one.
            rows.reverse();
            rows.sort_by_key(|(_, points)| std::cmp::Reverse(points.map(|(_, high)| high)));
        }
        let items = rows.iter().map(|(row, points)| Candidate {
            rank: 0,
            pid: row.tgid,
            comm: text(&row.name),
            badness_pages: points.filter(|(low, high)| low == high).map(|(low, _)| low),
            oom_score_adj: row.oom_score_adj.map_or(0, i32::from),
            rss_bytes: self.bytes(row.rss_pages),
            swap_bytes: self.bytes(row.swapents_pages),
            pgtables_bytes: row
                .pgtables_bytes
                .or_else(|| self.bytes(row.pgtables_pages)),
            cgroup_id: None,
            container_id: None,
            pod_uid: None,
            memory_request_bytes: None,
        });
        let mut items: Vec<_> = items.collect();
        if ranked {
            items = number(items);
            let points: Vec<_> = rows.iter().filter_map(|(_, points)| *points).collect();
            if known && points.iter().any(|(low, high)| low != high) {
                unrank(&mut items, &points);
            }
        }
        Some(Ranking {
            source: CandidateSource::KernelLog,
            total: u32::try_from(total).unwrap_or(u32::MAX),
            items,
            whole,
        })
    }

    fn bytes(&self, pages: Option<u64>) -> Option<u64> {
        pages?.checked_mul(self.page_size?)
    }

    /// What is charged to the memory cgroup and in no process of it.
    fn unowned_bytes(&self) -> Option<u64> {
        let report = self.report?;
        let table = report.table.as_ref()?;
        if table.rows.len() as u64 != table.total || self.constraint != Some(Constraint::Memcg) {
            return None;
        }
        let held = table.rows.iter().map(|row| {
            let tables = row
                .pgtables_bytes
                .or_else(|| self.bytes(row.pgtables_pages))?;
            self.bytes(row.rss_pages)?.checked_add(tables)
        });
        let held: Option<u64> = held.sum();
        Some(report.memcg.memory?.usage_bytes.saturating_sub(held?))
    }

    fn oom(&self, under: &Under, at: usize) -> Oom {
        let report = self.report;
        let memcg = self.memcg(under);
        let gfp_mask = report.and_then(|report| report.gfp_mask);
        let order = report.and_then(|report| report.order);
        let sharers = |kills: &[Logged]| {
            kills
                .iter()
                .filter(|kill| kill.killed.shares_memory)
                .count()
        };
        let counted = |kills: &[Logged]| u32::try_from(kills.len() - sharers(kills)).ok();
        let kill = &under.kills[at];
        let full = under.kills.len() >= MAX_VICTIMS;
        Oom {
            constraint: self.constraint,
            scope: scope(self.constraint, memcg.as_ref().and_then(level)),
            message: self.message.map(text),
            gfp_mask: gfp_mask.map(|mask| format!("{mask:#x}")),
            // What the bits mean changed over time; so only names that were printed.
            gfp_flags: report
                .and_then(|report| report.gfp_flags.as_deref())
                .map(|names| text(names).split('|').map(str::to_owned).collect()),
            order,
            sysrq: order.map(|order| order == -1),
            total_bytes: self.bytes(self.total_pages),
            memcg,
            node_memory: report.and_then(|report| node_memory(&report.node, self.page_size)),
            mark_path: None,
            victim_index: if kill.killed.shares_memory {
                counted(&under.kills[..at]).and_then(|before| before.checked_sub(1))
            } else {
                counted(&under.kills[..at])
            },
            victim_count: counted(&under.kills).filter(|_| !full && !kill.killed.shares_memory),
        }
    }

    fn memcg(&self, under: &Under) -> Option<Memcg> {
        if self.constraint != Some(Constraint::Memcg) {
            return None;
        }
        let report = self.report?;
        let printed = [report.oom_memcg.as_ref(), report.memcg.path.as_ref()];
        let path = printed.into_iter().flatten().find(|path| !path.cut);
        let path = path.map(|path| path.bytes.as_slice());
        let group = under.group.as_ref().filter(|group| !group.cut);
        let mut memcg = reported_memcg(report, path);
        if path.is_some() && group.map(|group| group.bytes.as_slice()) == path {
            memcg.oom_group = Some(true);
        }
        Some(memcg)
    }

    /// 1 or 2, by the counters that only one of the two has.
    fn version(&self) -> Option<u8> {
        let memcg = &self.report?.memcg;
        match (memcg.memsw, memcg.swap) {
            (Some(_), None) => Some(1),
            (None, Some(_)) => Some(2),
            _ => None,
        }
    }

    fn trigger(&self) -> Trigger {
        let Some(report) = self.report else {
            return Trigger::default();
        };
        let tid = report.trigger.pid;
        let row = tid.and_then(|tid| row_of(self.rows(), tid));
        // The kernel prints the name of the innermost cpuset, which may be a container's.
        let cpuset = report.cpuset.as_deref().filter(|name| *name != b"/");
        let container = cpuset
            .and_then(|name| Whose::of(&Placement::of(&[b"/", name].concat(), true)).container);
        Trigger {
            pid: row.map(|row| row.tgid),
            tid,
            comm: report.trigger.comm.as_deref().map(text),
            uid: report.trigger.uid,
            oom_score_adj: report.trigger.oom_score_adj.map(i32::from),
            cgroup: None,
            container,
            pod: None,
        }
    }

    fn victim(
        &self,
        under: &Under,
        killed: &KilledLine,
        first: bool,
        ranking: Option<&Ranking>,
    ) -> Victim {
        let row = row_of(self.rows(), killed.pid);
        let chosen = first && self.chose(killed);
        let role = if killed.shares_memory {
            Some(Role::MmSharer)
        } else if !first {
            Some(Role::GroupMember)
        } else {
            // Without a report, it may be a member of a group whose lines are missing.
            (chosen
                && (self.report.is_some() || killed.announced.is_some() || under.group.is_some()))
            .then_some(Role::Chosen)
        };
        let (cgroup, container, pod) = self.place(chosen);
        let pid = row.map_or(killed.pid, |row| row.tgid);
        let points = ranking.and_then(|ranking| {
            let item = ranking.items.iter().find(|item| item.pid == pid)?;
            item.badness_pages
        });
        let comm = Some(&killed.comm)
            .filter(|comm| !comm.is_empty())
            .map(|comm| text(comm));
        let adj = killed.oom_score_adj.or_else(|| row?.oom_score_adj);
        let memory = VictimMemory {
            total_vm_bytes: killed
                .total_vm_bytes
                .or_else(|| self.bytes(row?.total_vm_pages)),
            anon_rss_bytes: killed
                .anon_rss_bytes
                .or_else(|| self.bytes(row?.rss_anon_pages)),
            file_rss_bytes: killed
                .file_rss_bytes
                .or_else(|| self.bytes(row?.rss_file_pages)),
            shmem_rss_bytes: killed
                .shmem_rss_bytes
                .or_else(|| self.bytes(row?.rss_shmem_pages)),
            swap_bytes: self.bytes(row.and_then(|row| row.swapents_pages)),
            pgtables_bytes: killed
                .pgtables_bytes
                .or_else(|| row?.pgtables_bytes)
                .or_else(|| self.bytes(row?.pgtables_pages)),
        };
        let nothing = VictimMemory {
            total_vm_bytes: None,
            anon_rss_bytes: None,
            file_rss_bytes: None,
            shmem_rss_bytes: None,
            swap_bytes: None,
            pgtables_bytes: None,
        };
        Victim {
            role,
            pid: Some(pid),
            tid: Some(killed.pid),
            ppid: None,
            comm,
            exe: None,
            cmdline: None,
            uid: killed.uid.or_else(|| row?.uid),
            start_time: None,
            oom_score_adj: adj.map(i32::from),
            badness_pages: points,
            oom_score: None,
            memory: (memory != nothing).then_some(memory),
            cgroup,
            container,
            pod,
            expected_oom_score_adj: None,
        }
    }

    /// Where the chosen task was. Of others, the log does not tell.
    fn place(&self, chosen: bool) -> (Option<Cgroup>, Option<Container>, Option<Pod>) {
        let path = self
            .report
            .filter(|_| chosen)
            .and_then(|report| report.victim.memcg.as_ref())
            .filter(|path| !path.cut);
        let Some(path) = path else {
            return (None, None, None);
        };
        let placement = cgroup::resolve(&path.bytes);
        let Whose { container, pod } = Whose::of(&placement);
        let cgroup = Cgroup {
            path: Some(text(&path.bytes)),
            path_cut: false,
            level: Some(placement.level),
            id: None,
            version: self.version(),
            conmon: placement.conmon.map(|runtime| runtime.name().to_owned()),
        };
        (Some(cgroup), container, pod)
    }
}

/// What kind of cgroup the limit is on.
fn level(memcg: &Memcg) -> Option<cgroup::Level> {
    Some(Placement::of(memcg.path.as_ref()?.as_bytes(), memcg.path_cut).level)
}

/// The row of a process or thread.
fn row_of(rows: &[TaskRow], pid: u32) -> Option<&TaskRow> {
    rows.iter()
        .find(|row| row.pid == pid)
        .or_else(|| rows.iter().find(|row| row.tgid == pid))
}

/// The size of a page: printed with the zones; else what makes the victim's row say the same as its
/// line. The process may have mapped something in between.
fn page_size(report: Option<&Report>, killed: Option<&KilledLine>) -> Option<u64> {
    let report = report?;
    if let Some(size) = report.node.page_bytes {
        return Some(size);
    }
    let (table, killed) = (report.table.as_ref()?, killed?);
    let pages = row_of(&table.rows, killed.pid)?.total_vm_pages?;
    let bytes = killed.total_vm_bytes?;
    PAGE_SIZES.into_iter().find(|size| {
        let by_row = u128::from(pages) * u128::from(*size) * 5;
        (u128::from(bytes) * 4..=u128::from(bytes) * 6).contains(&by_row)
    })
}

/// Takes the rank from those that another may be level with. Sorted by the highest points.
fn unrank(items: &mut [Candidate], points: &[(i64, i64)]) {
    let mut lowest_before = i64::MAX;
    let mut highest_after = vec![i64::MIN; points.len()];
    for at in (1..points.len()).rev() {
        highest_after[at - 1] = highest_after[at].max(points[at].1);
    }
    for ((item, (low, high)), after) in items.iter_mut().zip(points).zip(highest_after) {
        if lowest_before <= *high || after >= *low {
            item.rank = 0;
        }
        lowest_before = lowest_before.min(*low);
    }
}

/// A name made of what the log knows of the kill: the boot, the time on the better clock, the process,
/// and a hash of its line; without a time, of where that stands.
fn id(under: &Under, logged: &Logged, kind: &str) -> String {
    let killed = &logged.killed;
    let boot_ns = killed.time_usec.map(|usec| usec.saturating_mul(1000));
    let time_ns = boot_ns.or(logged.wall_ns);
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    hash.add(&killed.comm);
    for figure in [
        killed.total_vm_bytes,
        killed.anon_rss_bytes,
        killed.file_rss_bytes,
        killed.shmem_rss_bytes,
        killed.pgtables_bytes,
    ] {
        hash.add(&figure.unwrap_or(u64::MAX).to_le_bytes());
    }
    if boot_ns.is_none() {
        hash.add(&logged.line.to_le_bytes());
    }
    let boot = under.origin.boot_id.as_deref().unwrap_or("log");
    let (time_ns, hash) = (time_ns.unwrap_or(0), hash.0);
    format!("{boot}-{time_ns:x}-{:x}-{hash:016x}{kind}", killed.pid)
}

/// FNV-1a.
struct Hash(u64);

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The journal's boot id as the kernel writes it.
fn dashed(id: &str) -> String {
    let digits: Vec<char> = id.chars().collect();
    if digits.len() != 32 {
        return id.to_owned();
    }
    let part = |from: usize, to: usize| digits[from..to].iter().collect::<String>();
    [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ]
    .join("-")
}
