//! An incident to a record of the stream: the decision's hooks first, then the kernel's report,
//! and null where neither knows.

use std::sync::Arc;

use oomtrace_common::Level;

use super::{Cgroups, Directory, Kill, Known, Outcome, Scored};
use crate::{
    cgroup::{self, Placement},
    event::{
        After, Candidate, CandidateSource, Candidates, Cgroup, Clock, Constraint, Container,
        Enrichment, Event, Head, MarkPath, Memcg, MemcgStat, Node, NodeMemory, Oom, OomKill,
        OomOutcome, OutcomeVictim, Pod, SCHEMA, Scope, Source, SourceKind, Trigger, Victim,
        VictimMemory, VictimState, Whose, ZoneMemory, event_id, gfp_flag_names, oom_id, rfc3339,
    },
    explain::{self, Case, Footprint, Ranked},
    kernel_log::{self, Report, TaskRow},
    probe::decode::{CgroupRef, Decision, KernelPath, Memory, Task},
};

/// `PAGE_COUNTER_MAX` (`include/linux/page_counter.h`) is `LONG_MAX` over the page size; a limit
/// this high is none.
const NO_LIMIT_BYTES: u64 = i64::MAX as u64 / 2;

/// What `out_of_memory` (`mm/oom_kill.c`) calls a decision on a memory cgroup.
pub(super) const MEMCG_MESSAGE: &[u8] = b"Memory cgroup out of memory";

/// Makes events of incidents; holds what is the same for all of them.
#[derive(Debug)]
pub struct Assembler {
    /// The machine.
    pub node: Arc<Node>,
    /// The hooks in use.
    pub hooks: Arc<[String]>,
    /// Names this run.
    pub run_id: String,
    /// The page size, in bytes.
    pub page_size: u64,
    /// How many candidates an event lists.
    pub max_candidates: usize,
    /// Who knows the names of pods.
    pub directory: Option<Arc<dyn Directory>>,
    /// Where the candidates are, of which the kernel tells an id only.
    pub cgroups: Option<Box<dyn Cgroups>>,
}

impl Assembler {
    /// The head of a record. Its `seq` is set when it is written.
    pub fn head(&self, event_id: String, boottime_ns: u64, clock: Clock) -> Head {
        let unix_ns = clock.unix_ns(boottime_ns);
        Head {
            schema: SCHEMA.to_owned(),
            event_id,
            run_id: self.run_id.clone(),
            seq: 0,
            time: Some(rfc3339(unix_ns)),
            time_unix_ns: Some(unix_ns.to_string()),
            boottime_ns: Some(boottime_ns.to_string()),
            node: Arc::clone(&self.node),
            source: Source {
                kind: SourceKind::Ebpf,
                hooks: Arc::clone(&self.hooks),
                merged: Vec::new(),
            },
        }
    }

    fn boot_id(&self) -> &str {
        self.node.boot_id.as_deref().unwrap_or("")
    }

    fn kill_id(&self, time_ns: u64, pid: u32, start_ns: Option<u64>) -> String {
        event_id(self.boot_id(), time_ns, pid, start_ns.unwrap_or(0))
    }

    /// What became of a victim, with the machine's memory as it is now.
    pub fn outcome(&self, outcome: &Outcome, clock: Clock, after: Option<After>) -> Event {
        let kill_id = self.kill_id(outcome.kill_ns, outcome.pid, outcome.start_ns);
        let (name, state) = if outcome.exited {
            ("outcome", VictimState::Exited)
        } else {
            ("stuck", VictimState::Stuck)
        };
        Event::OomOutcome(Box::new(OomOutcome {
            head: self.head(format!("{kill_id}-{name}"), outcome.time_ns, clock),
            oom_id: oom_id(self.boot_id(), outcome.decision_ns),
            victim_event_id: kill_id,
            victim: OutcomeVictim {
                pid: outcome.pid,
                comm: Some(text(&outcome.comm)),
            },
            state,
            exit_latency_ns: outcome
                .exited
                .then(|| outcome.time_ns.saturating_sub(outcome.kill_ns)),
            reaped: outcome.reaped,
            reap_skipped: outcome.reap_skipped,
            after,
        }))
    }

    /// A kill or a mark, of a node with this much memory and swap at the moment.
    pub fn kill(
        &mut self,
        kill: &Kill,
        clock: Clock,
        (memory_bytes, swap_bytes): (u64, u64),
    ) -> Event {
        if self.node.memory_bytes != Some(memory_bytes) || self.node.swap_bytes != Some(swap_bytes)
        {
            let node = Arc::make_mut(&mut self.node);
            (node.memory_bytes, node.swap_bytes) = (Some(memory_bytes), Some(swap_bytes));
        }
        let task = &kill.victim.task;
        let mut head = self.head(
            self.kill_id(
                kill.victim.time_ns,
                task.pid.unwrap_or(task.tid),
                task.start_ns,
            ),
            kill.victim.time_ns,
            clock,
        );
        if kill.report.is_some() || kill.killed_line.is_some() {
            head.source.merged.push("kmsg".to_owned());
        }
        let node_pages = (memory_bytes + swap_bytes) / self.page_size;
        let oom = self.oom(kill, memory_bytes + swap_bytes, swap_bytes);
        let total_pages = oom.total_bytes.map(|bytes| bytes / self.page_size);
        let mut ranking = self.ranking(kill, total_pages);
        let (trigger, trigger_enrichment) = self.trigger(kill);
        let (victim, victim_enrichment) = self.victim(kill, &ranking, node_pages, clock);
        if let Some(ranking) = &mut ranking {
            for (cgroup, container, pod) in [
                (&victim.cgroup, &victim.container, &victim.pod),
                (&trigger.cgroup, &trigger.container, &trigger.pod),
            ] {
                if let Some(id) = cgroup.as_ref().and_then(|cgroup| cgroup.id.as_ref()) {
                    ranking.place(id, container.as_ref(), pod.as_ref());
                }
            }
            self.place_others(ranking, [&victim.cgroup, &trigger.cgroup]);
        }
        let verdict = explain::verdict(&Case {
            killed: kill.victim.killed,
            oom: &oom,
            trigger: &trigger,
            victim: &victim,
            ranked: ranking.as_ref().and_then(Ranking::ranked),
            unowned_bytes: self.unowned_bytes(kill, oom.memcg.as_ref()),
            capacity_bytes: Some(memory_bytes),
            page_size: self.page_size,
        });
        let event = Box::new(OomKill {
            head,
            oom_id: oom_id(self.boot_id(), kill.began_ns),
            oom,
            trigger,
            victim,
            candidates: ranking.map(|ranking| ranking.listed(self.max_candidates)),
            verdict: Some(verdict),
            enrichment: Enrichment::of_both(victim_enrichment, trigger_enrichment),
        });
        if kill.victim.killed {
            Event::OomKill(event)
        } else {
            Event::OomMark(event)
        }
    }

    fn oom(&self, kill: &Kill, node_bytes: u64, node_swap_bytes: u64) -> Oom {
        let Kill {
            decision, report, ..
        } = kill;
        let (decision, report) = (decision.as_deref(), report.as_deref());
        let constraint = match (decision, report) {
            (Some(decision), _) => constraint_of_number(decision.constraint),
            (None, Some(report)) => report.constraint.as_ref().and_then(constraint_of_name),
            // `out_of_memory` says this of a memory cgroup's limit and of nothing else.
            (None, None) => (kill.message() == Some(MEMCG_MESSAGE)).then_some(Constraint::Memcg),
        };
        let memcg = self.memcg(kill, constraint);
        let gfp_mask = decision
            .map(|decision| u64::from(decision.gfp_mask))
            .or_else(|| report.and_then(|report| report.gfp_mask));
        let order = decision
            .map(|decision| decision.order)
            .or_else(|| report.and_then(|report| report.order));
        let total_bytes = match (decision, constraint) {
            (Some(decision), _) => decision.total_pages.checked_mul(self.page_size),
            (None, Some(Constraint::None)) => Some(node_bytes),
            (None, Some(Constraint::Memcg)) => memcg
                .as_ref()
                .and_then(|memcg| memcg.limit_bytes)
                .and_then(|limit| {
                    explain::limit_total_pages(limit, node_swap_bytes, self.page_size)?
                        .checked_mul(self.page_size)
                }),
            (None, _) => None,
        };
        Oom {
            constraint,
            scope: self.scope(constraint, memcg.as_ref()),
            message: kill.message().map(text),
            gfp_mask: gfp_mask.map(|mask| format!("{mask:#x}")),
            gfp_flags: gfp_mask.map(|mask| {
                match report.and_then(|report| report.gfp_flags.as_deref()) {
                    Some(names) => text(names).split('|').map(str::to_owned).collect(),
                    None => gfp_flag_names(mask as u32),
                }
            }),
            order,
            sysrq: order.map(|order| order == -1),
            total_bytes,
            memcg,
            node_memory: report.and_then(|report| node_memory(&report.node, Some(self.page_size))),
            mark_path: if kill.victim.killed {
                None
            } else if kill.victim.asked_while_exiting() {
                Some(MarkPath::AllocatingTask)
            } else {
                Some(MarkPath::ChosenTask)
            },
            victim_index: kill.index,
            victim_count: kill.count,
        }
    }

    /// The memory cgroup the decision is about.
    fn memcg(&self, kill: &Kill, constraint: Option<Constraint>) -> Option<Memcg> {
        let report = kill.report.as_deref();
        let stat = report
            .map(stat)
            .filter(|stat| *stat != MemcgStat::default());
        if let Some(decision) = kill.decision.as_deref() {
            let memcg = decision.memcg.as_ref()?;
            let bytes = |pages: u64| pages.checked_mul(self.page_size);
            let limit = |pages| self.limit_bytes(pages);
            let v2 = memcg.cgroup.version == 2;
            let (swap_usage, swap_limit) =
                (bytes(memcg.swap_usage_pages), limit(memcg.swap_max_pages));
            return Some(Memcg {
                path: memcg.cgroup.path.as_ref().map(|path| text(&path.bytes)),
                path_cut: memcg.cgroup.path.as_ref().is_some_and(|path| path.cut),
                id: Some(memcg.cgroup.id.to_string()),
                usage_bytes: bytes(memcg.usage_pages),
                limit_bytes: limit(memcg.max_pages),
                swap_usage_bytes: swap_usage.filter(|_| v2),
                swap_limit_bytes: swap_limit.filter(|_| v2),
                memsw_usage_bytes: swap_usage.filter(|_| !v2),
                memsw_limit_bytes: swap_limit.filter(|_| !v2),
                oom_group: Some(memcg.oom_group),
                stat,
            });
        }
        if constraint != Some(Constraint::Memcg) {
            return None;
        }
        let Some(report) = report else {
            // Only a cgroup with a limit can hit it: where there is one, it is that one.
            let (path, level) = self.only_level(kill, |_, limit_bytes| limit_bytes.is_some())?;
            return Some(Memcg {
                path: Some(text(path)),
                usage_bytes: level.usage_pages.checked_mul(self.page_size),
                limit_bytes: self.limit_bytes(level.max_pages),
                ..Memcg::default()
            });
        };
        let limit_bytes = limit(&report.memcg.memory);
        let stats_path = &report.memcg.path;
        let printed = [report.oom_memcg.as_ref(), stats_path.as_ref()]
            .into_iter()
            .flatten();
        let whole = printed.clone().find(|path| !path.cut);
        // A path that was cut off is that of the one level which begins as printed and has the
        // limit that was printed.
        let path = whole.map(|path| path.bytes.as_slice()).or_else(|| {
            let begins = |path: &[u8]| {
                printed
                    .clone()
                    .all(|printed| path.starts_with(&printed.bytes))
            };
            let (path, _) =
                self.only_level(kill, |path, limit| limit == limit_bytes && begins(path))?;
            Some(path)
        });
        Some(reported_memcg(report, path))
    }

    /// The one level of the victim's memory cgroup that fits, with its path. The limit that was hit
    /// is the victim's cgroup's or an ancestor's, so where one fits alone it is that one; where
    /// several do, or not all levels were recorded, there is no telling.
    fn only_level<'k>(
        &self,
        kill: &'k Kill,
        fits: impl Fn(&[u8], Option<u64>) -> bool,
    ) -> Option<(&'k [u8], Level)> {
        let path = kill.victim.task.cgroup.as_ref()?.path.as_ref()?;
        if path.cut || kill.victim.levels.len() <= depth(&path.bytes) {
            return None;
        }
        let mut ancestor = path.bytes.as_slice();
        let mut found = None;
        for level in &kill.victim.levels {
            if fits(ancestor, self.limit_bytes(level.max_pages))
                && found.replace((ancestor, *level)).is_some()
            {
                return None;
            }
            ancestor = parent(ancestor);
        }
        found
    }

    /// A limit in bytes; `None` for no limit.
    fn limit_bytes(&self, pages: u64) -> Option<u64> {
        pages
            .checked_mul(self.page_size)
            .filter(|bytes| *bytes < NO_LIMIT_BYTES)
    }

    fn trigger(&self, kill: &Kill) -> (Trigger, Option<Enrichment>) {
        let task = &kill.victim.trigger;
        let (cgroup, known) = self.place(task.cgroup.as_ref());
        let (container, pod, enrichment) = whose(known);
        let trigger = Trigger {
            pid: task.pid,
            tid: task.pid.map(|_| task.tid),
            comm: task.pid.map(|_| text(&task.comm)),
            uid: task.uid,
            oom_score_adj: task.oom_score_adj,
            cgroup,
            container,
            pod,
        };
        (trigger, enrichment)
    }

    fn victim(
        &self,
        kill: &Kill,
        ranking: &Option<Ranking>,
        node_pages: u64,
        clock: Clock,
    ) -> (Victim, Option<Enrichment>) {
        let Task {
            pid,
            tid,
            ppid,
            uid,
            oom_score_adj,
            start_ns,
            comm,
            cgroup,
        } = &kill.victim.task;
        let (cgroup, known) = self.place(cgroup.as_ref());
        let (mut container, pod, enrichment) = whose(known);
        if let (Some(container), Some(level)) = (&mut container, container_level(kill)) {
            container.memory_usage_bytes = level.usage_pages.checked_mul(self.page_size);
            // What the kernel held it to, whatever others say.
            container.memory_limit_bytes = self.limit_bytes(level.max_pages);
        }
        let memory = kill.victim.memory.as_ref();
        let chosen = kill
            .decision
            .as_deref()
            .filter(|decision| kill.compared() && chose(decision, *pid));
        let badness_pages = chosen.map(|decision| decision.chosen_points).or_else(|| {
            let pid = (*pid)?;
            ranking
                .as_ref()?
                .items
                .iter()
                .find(|item| item.pid == pid)?
                .badness_pages
        });
        let victim = Victim {
            role: kill.role,
            pid: *pid,
            tid: Some(*tid),
            ppid: *ppid,
            comm: pid.map(|_| text(comm)),
            exe: kill
                .victim
                .exe
                .as_ref()
                .filter(|path| !path.cut)
                .map(|path| text(&path.bytes)),
            cmdline: None,
            uid: *uid,
            start_time: start_ns.map(|start| rfc3339(clock.unix_ns(start))),
            oom_score_adj: *oom_score_adj,
            badness_pages,
            oom_score: memory.zip(*oom_score_adj).and_then(|(memory, adj)| {
                explain::oom_score(footprint(memory), adj, node_pages, self.page_size)
            }),
            memory: memory.map(|memory| self.memory(memory)),
            cgroup,
            expected_oom_score_adj: pod.as_ref().zip(container.as_ref()).and_then(
                |(pod, container)| explain::expected_of(pod, container, self.node.memory_bytes?),
            ),
            container,
            pod,
        };
        (victim, enrichment)
    }

    /// Whose a cgroup is.
    pub fn look_up(&self, path: &[u8], cut: bool) -> Known {
        match &self.directory {
            Some(directory) => directory.look_up(path, cut),
            None => Known::from_path(path, cut),
        }
    }

    /// A cgroup as the schema has it, and whose it is.
    fn place(&self, cgroup: Option<&CgroupRef>) -> (Option<Cgroup>, Option<Known>) {
        let Some(CgroupRef { id, version, path }) = cgroup else {
            return (None, None);
        };
        let known = path
            .as_ref()
            .map(|KernelPath { bytes, cut }| self.look_up(bytes, *cut));
        let placement = known.as_ref().map(|known| &known.placement);
        let cgroup = Cgroup {
            path: path.as_ref().map(|path| text(&path.bytes)),
            path_cut: path.as_ref().is_some_and(|path| path.cut),
            level: placement.map(|placement| placement.level),
            id: Some(id.to_string()),
            version: Some(*version),
            conmon: placement
                .and_then(|placement| placement.conmon)
                .map(|runtime| runtime.name().to_owned()),
        };
        (Some(cgroup), known)
    }

    /// Whose the candidates are that are in other cgroups than these.
    fn place_others(&mut self, ranking: &mut Ranking, placed: [&Option<Cgroup>; 2]) {
        let mut placed: Vec<String> = placed
            .into_iter()
            .filter_map(|cgroup| cgroup.as_ref()?.id.clone())
            .collect();
        for at in 0..ranking.items.len() {
            let Candidate { pid, cgroup_id, .. } = &ranking.items[at];
            let Some(id) = cgroup_id.clone().filter(|id| !placed.contains(id)) else {
                continue;
            };
            let path = id.parse().ok().and_then(|number| {
                let path = self.cgroups.as_mut()?.path(*pid, number)?;
                Some(path.to_vec())
            });
            if let Some(path) = path {
                let Whose { container, pod } = self.look_up(&path, false).whose;
                ranking.place(&id, container.as_ref(), pod.as_ref());
                placed.push(id);
            }
        }
    }

    fn scope(&self, constraint: Option<Constraint>, memcg: Option<&Memcg>) -> Option<Scope> {
        let level = memcg.and_then(|memcg| {
            let known = self.look_up(memcg.path.as_ref()?.as_bytes(), memcg.path_cut);
            Some(known.placement.level)
        });
        scope(constraint, level)
    }

    fn memory(&self, memory: &Memory) -> VictimMemory {
        let Memory {
            total_vm_pages,
            anon_pages,
            file_pages,
            shmem_pages,
            swap_pages,
            ..
        } = *memory;
        let bytes = |pages: u64| Some(pages.saturating_mul(self.page_size));
        VictimMemory {
            total_vm_bytes: bytes(total_vm_pages),
            anon_rss_bytes: bytes(anon_pages),
            file_rss_bytes: bytes(file_pages),
            shmem_rss_bytes: bytes(shmem_pages),
            swap_bytes: bytes(swap_pages),
            pgtables_bytes: Some(memory.pgtables_bytes),
        }
    }

    /// The candidates, highest points first: the kernel's own list, else the task table. Of the
    /// first only the highest are recorded, so the second is taken where more are asked for.
    fn ranking(&self, kill: &Kill, total_pages: Option<u64>) -> Option<Ranking> {
        if !kill.compared() {
            return None;
        }
        let table = kill
            .report
            .as_deref()
            .and_then(|report| report.table.as_ref());
        let enough = |scored: &Scored| {
            scored.items.len() >= self.max_candidates.min(scored.total as usize) || table.is_none()
        };
        if let Some(scored) = kill.scored.as_deref().filter(|scored| enough(scored)) {
            let items = scored.items.iter().map(|task| Candidate {
                rank: 0,
                pid: task.pid,
                comm: text(&task.comm),
                badness_pages: Some(task.points),
                oom_score_adj: task.oom_score_adj,
                rss_bytes: task
                    .memory
                    .map(|memory| memory.rss_pages().saturating_mul(self.page_size)),
                swap_bytes: task
                    .memory
                    .map(|memory| memory.swap_pages.saturating_mul(self.page_size)),
                pgtables_bytes: task.memory.map(|memory| memory.pgtables_bytes),
                cgroup_id: task.cgroup_id.map(|id| id.to_string()),
                container_id: None,
                pod_uid: None,
                memory_request_bytes: None,
            });
            return Some(Ranking {
                source: CandidateSource::Kernel,
                total: scored.total,
                items: number(items.collect()),
                whole: true,
            });
        }
        let table = table?;
        let mut rows: Vec<(&TaskRow, Option<i64>)> = table
            .rows
            .iter()
            .filter(|row| row.oom_score_adj != Some(-1000))
            .map(|row| (row, self.row_points(row, total_pages)))
            .collect();
        let skipped = table.rows.len() - rows.len();
        let whole = table.rows.len() as u64 == table.total;
        // Among equals the kernel takes the later one, and so the last stands first. Where one
        // task's points are unknown, so is the order.
        let ranked = rows.iter().all(|(_, points)| points.is_some());
        if ranked {
            rows.reverse();
            rows.sort_by_key(|(_, points)| std::cmp::Reverse(*points));
        }
        let items = rows
            .iter()
            .map(|(row, points)| Candidate {
                rank: 0,
                pid: row.tgid,
                comm: text(&row.name),
                badness_pages: *points,
                oom_score_adj: row.oom_score_adj.map_or(0, i32::from),
                rss_bytes: row
                    .rss_pages
                    .and_then(|pages| pages.checked_mul(self.page_size)),
                swap_bytes: row
                    .swapents_pages
                    .and_then(|pages| pages.checked_mul(self.page_size)),
                pgtables_bytes: row.pgtables_bytes,
                cgroup_id: None,
                container_id: None,
                pod_uid: None,
                memory_request_bytes: None,
            })
            .collect();
        let total = table.total.saturating_sub(skipped as u64);
        Some(Ranking {
            source: CandidateSource::KernelLog,
            total: u32::try_from(total).unwrap_or(u32::MAX),
            items: if ranked { number(items) } else { items },
            whole,
        })
    }

    /// What is charged to the memory cgroup and in no process of it, as far as all of them are known.
    fn unowned_bytes(&self, kill: &Kill, memcg: Option<&Memcg>) -> Option<u64> {
        let table = kill
            .report
            .as_deref()
            .and_then(|report| report.table.as_ref())
            .filter(|table| table.rows.len() as u64 == table.total);
        // The task table has those, too, that cannot be chosen; the kernel's own list does not.
        let held: Option<u64> = if let Some(table) = table {
            let held = table
                .rows
                .iter()
                .map(|row| self.held_bytes(row.rss_pages?, row.pgtables_bytes?));
            held.sum()
        } else {
            let scored = kill.scored.as_deref()?;
            if scored.items.len() != scored.total as usize || scored.spared != 0 {
                return None;
            }
            let held = scored.items.iter().map(|task| {
                let memory = task.memory?;
                self.held_bytes(memory.rss_pages(), memory.pgtables_bytes)
            });
            held.sum()
        };
        Some(memcg?.usage_bytes?.saturating_sub(held?))
    }

    fn held_bytes(&self, rss_pages: u64, pgtables_bytes: u64) -> Option<u64> {
        rss_pages
            .checked_mul(self.page_size)?
            .checked_add(pgtables_bytes)
    }

    fn row_points(&self, row: &TaskRow, total_pages: Option<u64>) -> Option<i64> {
        let held = Footprint {
            rss_pages: row.rss_pages?,
            swap_pages: row.swapents_pages?,
            pgtables_bytes: row.pgtables_bytes?,
        };
        explain::points(held, row.oom_score_adj?.into(), total_pages, self.page_size)
    }
}

/// What a report says of the memory cgroup whose limit was hit.
pub(super) fn reported_memcg(report: &Report, path: Option<&[u8]>) -> Memcg {
    let kernel_log::MemcgReport {
        memory,
        swap,
        memsw,
        ..
    } = &report.memcg;
    let usage = |counter: &Option<kernel_log::Counter>| counter.map(|counter| counter.usage_bytes);
    let stat = stat(report);
    Memcg {
        path: path.map(text),
        path_cut: false,
        id: None,
        usage_bytes: usage(memory),
        limit_bytes: limit(memory),
        swap_usage_bytes: usage(swap),
        swap_limit_bytes: limit(swap),
        memsw_usage_bytes: usage(memsw),
        memsw_limit_bytes: limit(memsw),
        oom_group: None,
        stat: (stat != MemcgStat::default()).then_some(stat),
    }
}

/// The limit of a counter, if it has one.
pub(super) fn limit(counter: &Option<kernel_log::Counter>) -> Option<u64> {
    match counter.as_ref()?.limit {
        kernel_log::Limit::Bytes(bytes) => Some(bytes),
        kernel_log::Limit::Unlimited => None,
    }
}

/// The candidates of a decision, highest points first.
pub(super) struct Ranking {
    pub(super) source: CandidateSource,
    pub(super) total: u32,
    pub(super) items: Vec<Candidate>,
    /// Whether none that is missing can have more points than one that is here.
    pub(super) whole: bool,
}

impl Ranking {
    /// The candidates down to the first whose rank is not known; none if it is that of all.
    pub(super) fn ranked(&self) -> Option<Ranked<'_>> {
        let unknown = self.items.iter().position(|item| item.rank == 0);
        let items = &self.items[..unknown.unwrap_or(self.items.len())];
        (unknown != Some(0)).then_some(Ranked {
            items,
            total: self.total,
            whole: self.whole,
        })
    }

    /// Whose the candidates are that are in the cgroup with this id.
    fn place(&mut self, id: &str, container: Option<&Container>, pod: Option<&Pod>) {
        let there = |item: &&mut Candidate| item.cgroup_id.as_deref() == Some(id);
        for item in self.items.iter_mut().filter(there) {
            item.container_id = container.map(|container| container.id.clone());
            item.memory_request_bytes =
                container.and_then(|container| container.memory_request_bytes);
            item.pod_uid = pod.map(|pod| pod.uid.clone());
        }
    }

    pub(super) fn listed(&self, most: usize) -> Candidates {
        let items = &self.items[..self.items.len().min(most)];
        Candidates {
            source: self.source,
            total: self.total,
            listed: u32::try_from(items.len()).unwrap_or(u32::MAX),
            items: items.to_vec(),
        }
    }
}

pub(super) fn number(mut items: Vec<Candidate>) -> Vec<Candidate> {
    for (rank, item) in (1..).zip(&mut items) {
        item.rank = rank;
    }
    items
}

fn chose(decision: &Decision, pid: Option<u32>) -> bool {
    pid.is_some() && decision.chosen_pid == pid
}

/// `enum oom_constraint` in `include/linux/oom.h`; an open set.
const fn constraint_of_number(number: u32) -> Option<Constraint> {
    Some(match number {
        0 => Constraint::None,
        1 => Constraint::Cpuset,
        2 => Constraint::MemoryPolicy,
        3 => Constraint::Memcg,
        _ => return None,
    })
}

pub(super) const fn constraint_of_name(name: &kernel_log::Constraint) -> Option<Constraint> {
    Some(match name {
        kernel_log::Constraint::None => Constraint::None,
        kernel_log::Constraint::Cpuset => Constraint::Cpuset,
        kernel_log::Constraint::MemoryPolicy => Constraint::MemoryPolicy,
        kernel_log::Constraint::Memcg => Constraint::Memcg,
        kernel_log::Constraint::Other(_) => return None,
    })
}

/// How far the decision reached; `level` is that of the memory cgroup.
pub(super) fn scope(constraint: Option<Constraint>, level: Option<cgroup::Level>) -> Option<Scope> {
    Some(match constraint? {
        Constraint::None => Scope::Node,
        Constraint::Cpuset => Scope::Cpuset,
        Constraint::MemoryPolicy => Scope::MemoryPolicy,
        Constraint::Memcg => match level? {
            cgroup::Level::Container => Scope::Container,
            cgroup::Level::Pod => Scope::Pod,
            cgroup::Level::Qos => Scope::Qos,
            cgroup::Level::Kubepods => Scope::Kubepods,
            // A limit on the root of a hierarchy is no limit on the node.
            cgroup::Level::Slice | cgroup::Level::Node => Scope::Slice,
        },
    })
}

fn stat(report: &Report) -> MemcgStat {
    let stat = &report.memcg.stat;
    MemcgStat {
        anon_bytes: stat.anon_bytes,
        file_bytes: stat.file_bytes,
        shmem_bytes: stat.shmem_bytes,
        kernel_bytes: stat.kernel_bytes,
        slab_bytes: stat.slab_bytes,
    }
}

/// What a report says of the machine's memory; counts of pages only where the size of a page is known.
pub(super) fn node_memory(
    node: &kernel_log::NodeMemory,
    page_size: Option<u64>,
) -> Option<NodeMemory> {
    if *node == kernel_log::NodeMemory::default() {
        return None;
    }
    let kernel_log::NodeMemory {
        ram_pages: _,
        reserved_pages: _,
        swap_total_bytes,
        swap_free_bytes,
        usage,
        zones,
        zones_total,
        page_bytes,
    } = node;
    let page_size = page_bytes.or(page_size);
    let bytes = |pages: Option<u64>| pages?.checked_mul(page_size?);
    let sum = |lists: [Option<u64>; 3]| {
        let sum = |sum: u64, list: Option<u64>| sum.checked_add(list?);
        bytes(lists.into_iter().try_fold(0, sum))
    };
    Some(NodeMemory {
        free_bytes: bytes(usage.free_pages),
        anon_bytes: sum([
            usage.active_anon_pages,
            usage.inactive_anon_pages,
            usage.isolated_anon_pages,
        ]),
        file_bytes: sum([
            usage.active_file_pages,
            usage.inactive_file_pages,
            usage.isolated_file_pages,
        ]),
        unevictable_bytes: bytes(usage.unevictable_pages),
        shmem_bytes: bytes(usage.shmem_pages),
        slab_reclaimable_bytes: bytes(usage.slab_reclaimable_pages),
        slab_unreclaimable_bytes: bytes(usage.slab_unreclaimable_pages),
        pagetables_bytes: bytes(usage.pagetables_pages),
        swap_free_bytes: *swap_free_bytes,
        swap_total_bytes: *swap_total_bytes,
        page_bytes: *page_bytes,
        zones_total: u32::try_from(*zones_total).unwrap_or(u32::MAX),
        zones: zones
            .iter()
            .map(|zone| zone_memory(zone, page_size))
            .collect(),
    })
}

fn zone_memory(zone: &kernel_log::Zone, page_size: Option<u64>) -> ZoneMemory {
    let kernel_log::Zone {
        node,
        name,
        free_bytes,
        boost_bytes,
        min_bytes,
        low_bytes,
        high_bytes,
        reserved_highatomic_bytes,
        free_highatomic_bytes: _,
        free_cma_bytes,
        present_bytes: _,
        managed_bytes,
        lowmem_reserve_pages,
        free_by_order,
    } = zone;
    let bytes = |pages: &u64| pages.checked_mul(page_size?);
    ZoneMemory {
        node: *node,
        zone: name.clone(),
        free_bytes: *free_bytes,
        min_bytes: *min_bytes,
        low_bytes: *low_bytes,
        high_bytes: *high_bytes,
        boost_bytes: *boost_bytes,
        managed_bytes: *managed_bytes,
        reserved_highatomic_bytes: *reserved_highatomic_bytes,
        free_cma_bytes: *free_cma_bytes,
        lowmem_reserve_bytes: lowmem_reserve_pages
            .as_ref()
            .and_then(|reserve| reserve.iter().map(bytes).collect()),
        free_by_order: free_by_order.clone(),
    }
}

fn whose(known: Option<Known>) -> (Option<Container>, Option<Pod>, Option<Enrichment>) {
    known.map_or((None, None, None), |known| {
        (known.whose.container, known.whose.pod, known.enrichment)
    })
}

const fn footprint(memory: &Memory) -> Footprint {
    Footprint {
        rss_pages: memory.rss_pages(),
        swap_pages: memory.swap_pages,
        pgtables_bytes: memory.pgtables_bytes,
    }
}

/// Any bytes to text: what is not UTF-8 becomes U+FFFD.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The level of the victim's memory cgroup that is its container's own: the outermost of those that
/// belong to the container.
fn container_level(kill: &Kill) -> Option<Level> {
    let path = kill.victim.task.cgroup.as_ref()?.path.as_ref()?;
    let mut ancestor = path.bytes.as_slice();
    let mut found = None;
    for level in &kill.victim.levels {
        if Placement::of(ancestor, path.cut).level != cgroup::Level::Container {
            return found;
        }
        found = Some(*level);
        ancestor = parent(ancestor);
    }
    // The levels that were recorded end within the container.
    None
}

/// The path one level up; that of the root is empty.
fn parent(path: &[u8]) -> &[u8] {
    path.iter()
        .rposition(|byte| *byte == b'/')
        .map_or(&[], |slash| &path[..slash])
}

/// How many components a path has.
fn depth(path: &[u8]) -> usize {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages become bytes by the page size of the report; a list that was not printed leaves its sum
    /// unknown; orders stay counts.
    #[test]
    fn node_memory_in_bytes() {
        let node = kernel_log::NodeMemory {
            page_bytes: Some(65536),
            usage: kernel_log::MemoryUsage {
                active_anon_pages: Some(1),
                inactive_anon_pages: Some(2),
                isolated_anon_pages: Some(3),
                active_file_pages: Some(4),
                inactive_file_pages: Some(5),
                free_pages: Some(u64::MAX),
                shmem_pages: Some(7),
                ..kernel_log::MemoryUsage::default()
            },
            zones: vec![kernel_log::Zone {
                node: Some(1),
                name: "Normal".to_owned(),
                min_bytes: Some(9),
                lowmem_reserve_pages: Some(vec![0, 2]),
                free_by_order: Some(vec![3, 4]),
                ..kernel_log::Zone::default()
            }],
            zones_total: 1,
            ..kernel_log::NodeMemory::default()
        };
        let expected = NodeMemory {
            anon_bytes: Some(6 << 16),
            shmem_bytes: Some(7 << 16),
            page_bytes: Some(65536),
            zones_total: 1,
            zones: vec![ZoneMemory {
                node: Some(1),
                zone: "Normal".to_owned(),
                min_bytes: Some(9),
                lowmem_reserve_bytes: Some(vec![0, 2 << 16]),
                free_by_order: Some(vec![3, 4]),
                ..ZoneMemory::default()
            }],
            ..NodeMemory::default()
        };
        assert_eq!(node_memory(&node, Some(4096)), Some(expected));
        let nothing = kernel_log::NodeMemory::default();
        assert_eq!(node_memory(&nothing, Some(4096)), None);
    }
}
