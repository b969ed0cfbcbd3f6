//! A page of plain text about one decision: what happened, the ranking, why this one, what would
//! have spared it, and what to look at next.
//!
//! As in the short view, names are any bytes their owners chose and nothing of them reaches a
//! terminal as such. What is printed as a command may be pasted into a shell: names in it are
//! quoted, and a command that would need a name with control characters is left out.

use std::fmt::Write;

use anstyle::Style;

use super::{
    commands::{Command, commands},
    draw::{Parts, heading, legend, share_of, wrapped},
    pretty::{self, BOLD, DIM, Paint, WARN, bytes, clock, comm, pid, shown},
};
use crate::{
    cgroup::QosClass,
    event::{
        Candidate, Candidates, Constraint, Oom, OomKill, OomOutcome, Role, Scope, Survival,
        VerdictCode, VerdictFlag, VictimState,
    },
    explain::amount,
};

/// A page is at least and at most this wide.
pub const WIDTH: std::ops::RangeInclusive<usize> = 60..=100;
/// Rows of the ranking, and victims of a group, that are shown.
const ROWS: usize = 15;

/// One decision with all that is known of it.
#[derive(Debug, Default)]
pub struct Decision {
    /// Its victims.
    pub kills: Vec<OomKill>,
    /// Tasks that were only marked.
    pub marks: Vec<OomKill>,
    /// What became of them.
    pub outcomes: Vec<OomOutcome>,
}

impl Decision {
    /// The victim the page is about: the one that was chosen, where it is here.
    pub fn main(&self) -> Option<&OomKill> {
        let chosen = |kill: &&OomKill| kill.victim.role == Some(Role::Chosen);
        let kills = || self.kills.iter();
        kills()
            .find(chosen)
            .or_else(|| kills().next())
            .or_else(|| self.marks.first())
    }
}

/// The page.
pub fn page(decision: &Decision, width: usize, color: bool) -> String {
    let Some(event) = decision.main() else {
        return String::new();
    };
    let mut page = Page {
        width: width.clamp(*WIDTH.start(), *WIDTH.end()),
        paint: Paint { color },
        text: String::new(),
    };
    page.heading(decision, event);
    page.facts(decision, event);
    if let Some(candidates) = event.candidates.as_ref().filter(|list| list.listed > 0) {
        page.ranking(event, candidates);
    }
    page.list("Why this one", &why(event));
    if !decision.kills.is_empty() {
        page.list("What would have spared it", &what_would_have_spared(event));
    }
    page.commands(&commands(event));
    page.text
}

struct Page {
    width: usize,
    paint: Paint,
    text: String,
}

impl Page {
    fn heading(&mut self, decision: &Decision, event: &OomKill) {
        let what = match decision.kills.len() {
            0 => "OOM mark: not a kill".to_owned(),
            1 => "OOM kill".to_owned(),
            count => format!("OOM kill of {count} processes"),
        };
        let head = &event.head;
        let clock = clock(head);
        let date = head.time.as_ref().and_then(|time| time.get(..10));
        let when = date.map_or_else(|| clock.clone(), |date| format!("{date} {clock} UTC"));
        let node = &head.node;
        let name = node.k8s_node_name.as_ref().or(node.hostname.as_ref());
        let mut line = format!("{what} ── {when}");
        if let Some(name) = name {
            let _ = write!(line, " ── node {}", shown(name));
        }
        self.text.push_str(&heading(&line, self.width, self.paint));
        self.text.push('\n');
        let verdict = event.verdict.as_ref();
        if let Some(summary) = verdict.and_then(|verdict| verdict.summary.as_deref()) {
            self.wrapped("", "", &shown(summary).to_string());
            self.text.push('\n');
        }
    }

    /// The facts of the kill, a line each.
    fn facts(&mut self, decision: &Decision, event: &OomKill) {
        let OomKill {
            oom,
            trigger,
            victim,
            ..
        } = event;
        let who = format!(
            "{} {}  {}",
            comm(victim.comm.as_deref()),
            pid(victim.pid, victim.tid),
            self.paint.who(victim, oom)
        );
        self.row("victim", &who);
        let place = pretty::place(victim.pod.as_ref(), victim.container.as_ref());
        self.row("pod", &place);
        if let Some(usage) = victim.container.as_ref().and_then(|c| c.memory_usage_bytes) {
            let limit = victim.container.as_ref().and_then(|c| c.memory_limit_bytes);
            let limit = limit.map_or("no limit".to_owned(), |limit| {
                format!("limit {}", amount(limit))
            });
            self.row("container", &format!("{} charged, {limit}", amount(usage)));
        }
        if victim.pod.is_none() {
            let path = victim
                .cgroup
                .as_ref()
                .and_then(|cgroup| cgroup.path.as_ref());
            self.row("cgroup", &pretty::path(path));
        }
        self.row("limit hit", &self.paint.limit(oom));
        self.row("held", &pretty::memory(victim.memory.as_ref()));
        self.row("trigger", &pretty::who_asked(trigger, victim, oom));
        if decision.kills.len() > 1 {
            self.others(decision, event);
        }
        if let Some(outcome) = decision
            .outcomes
            .iter()
            .rfind(|outcome| outcome.victim_event_id == event.head.event_id)
        {
            self.row("outcome", &how_it_ended(outcome));
        }
        self.text.push('\n');
    }

    /// Who died with it.
    fn others(&mut self, decision: &Decision, event: &OomKill) {
        let others = decision
            .kills
            .iter()
            .filter(|kill| kill.head.event_id != event.head.event_id);
        let mut names: Vec<_> = others
            .map(|kill| {
                format!(
                    "{} {}",
                    comm(kill.victim.comm.as_deref()),
                    pid(kill.victim.pid, None)
                )
            })
            .collect();
        let more = names.len().saturating_sub(ROWS);
        names.truncate(ROWS);
        if more > 0 {
            names.push(format!("and {more} more"));
        }
        let label = format!("  {:<11}", "died too");
        self.wrapped(&label, &" ".repeat(label.len()), &names.join(", "));
    }

    fn row(&mut self, label: &str, value: &str) {
        if !value.is_empty() {
            let label = self.paint.on(DIM, format_args!("{label:<11}"));
            let _ = writeln!(self.text, "  {label}{}", value.trim_end());
        }
    }

    fn title(&mut self, title: &str) {
        let _ = writeln!(self.text, "{}", self.paint.on(BOLD, title));
    }

    fn list(&mut self, title: &str, items: &[String]) {
        if items.is_empty() {
            return;
        }
        self.title(title);
        for item in items {
            self.wrapped("  - ", "    ", item);
        }
        self.text.push('\n');
    }

    fn commands(&mut self, commands: &[Command]) {
        if commands.is_empty() {
            return;
        }
        self.title("What to check next");
        for Command { line, shows } in commands {
            let shows = self.paint.on(DIM, format_args!("# {shows}"));
            let _ = writeln!(self.text, "  {shows}\n  {line}");
        }
        self.text.push('\n');
    }

    fn wrapped(&mut self, first: &str, rest: &str, text: &str) {
        wrapped(&mut self.text, self.width, first, rest, text);
    }

    /// The candidates, a row each: what their points are made of, as numbers and as a bar.
    fn ranking(&mut self, event: &OomKill, candidates: &Candidates) {
        let Candidates {
            total,
            listed,
            items,
            ..
        } = candidates;
        let order = order(items);
        let plural = if *total == 1 { "" } else { "s" };
        self.title(&format!("Ranking: {total} candidate{plural}, {order}"));
        let rows: Vec<Row<'_>> = items
            .iter()
            .take(ROWS)
            .map(|item| Row::of(item, &event.oom))
            .collect();
        let columns = Columns::of(&rows, self.width);
        let _ = writeln!(
            self.text,
            "  {}",
            self.paint.on(DIM, columns.header().trim_end())
        );
        for row in &rows {
            let is_victim = Some(row.item.pid) == event.victim.pid;
            let style = if is_victim { WARN } else { Style::new() };
            let mark = if is_victim { '>' } else { ' ' };
            let line = columns.row(row);
            let line = self
                .paint
                .on(style, format_args!("{mark} {}", line.trim_end()));
            let _ = writeln!(self.text, "{line}");
        }
        let listed = (*listed as usize).min(rows.len());
        let more = (*total as usize).saturating_sub(listed);
        if more > 0 {
            let _ = writeln!(self.text, "  … and {more} more");
        }
        if columns.bar > 0 {
            let _ = writeln!(
                self.text,
                "  {}",
                self.paint
                    .on(DIM, legend(rows.iter().filter_map(|row| row.parts)))
            );
        }
        self.text.push('\n');
    }
}

/// A candidate, and its parts in bytes where all are known.
pub(crate) struct Row<'a> {
    pub(crate) item: &'a Candidate,
    /// What `oom_score_adj` adds; unknown where what the decision could use is, unless it is 0.
    pub(crate) share: Option<i128>,
    pub(crate) parts: Option<Parts>,
}

impl<'a> Row<'a> {
    pub(crate) fn of(item: &'a Candidate, oom: &Oom) -> Self {
        let share = share_of(item.oom_score_adj, oom.total_bytes);
        let parts = Parts::of(item, oom.total_bytes);
        Self { item, share, parts }
    }
}

/// Which columns the ranking has, and how wide they are.
struct Columns {
    name: usize,
    swap: bool,
    share: bool,
    bar: usize,
    longest: i128,
}

impl Columns {
    fn of(rows: &[Row<'_>], width: usize) -> Self {
        let names = rows.iter().map(|row| Self::name(row.item).chars().count());
        let name = names.max().unwrap_or(0).clamp(7, 26);
        let swap = rows.iter().any(|row| row.item.swap_bytes != Some(0));
        let share = rows.iter().any(|row| row.share != Some(0));
        let longest = rows
            .iter()
            .filter_map(|row| row.parts)
            .map(Parts::length)
            .max();
        let mut columns = Self {
            name,
            swap,
            share,
            bar: 0,
            longest: longest.unwrap_or(0),
        };
        let numbers = columns.header().chars().count() + 2;
        if longest.is_some() {
            columns.bar = width.saturating_sub(numbers).max(8);
        }
        columns
    }

    fn name(item: &Candidate) -> String {
        format!("{} {}", shown(&item.comm), item.pid)
    }

    fn line(&self, [rank, name, points, adj, rss, swap, tables, share]: [&str; 8]) -> String {
        let mut line = format!(
            "{rank:>3}  {name:<0$}{points:>10}{adj:>6}{rss:>10}",
            self.name
        );
        if self.swap {
            let _ = write!(line, "{swap:>10}");
        }
        let _ = write!(line, "{tables:>10}");
        if self.share {
            let _ = write!(line, "{share:>11}");
        }
        line.push_str("  ");
        line
    }

    fn header(&self) -> String {
        self.line([
            "",
            "process",
            "points",
            "adj",
            "rss",
            "swap",
            "tables",
            "adj share",
        ])
    }

    fn row(&self, row: &Row<'_>) -> String {
        let item = row.item;
        let known = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), amount);
        let name: String = Self::name(item).chars().take(self.name).collect();
        let rank = if item.rank == 0 {
            "?".to_owned()
        } else {
            item.rank.to_string()
        };
        let points = item
            .badness_pages
            .map_or_else(|| "?".to_owned(), |points| points.to_string());
        let share = row.share.map_or_else(|| "?".to_owned(), signed);
        let mut line = self.line([
            &rank,
            &name,
            &points,
            &item.oom_score_adj.to_string(),
            &known(item.rss_bytes),
            &known(item.swap_bytes),
            &known(item.pgtables_bytes),
            &share,
        ]);
        if let Some(parts) = row.parts {
            line.push_str(&parts.bar(self.longest, self.bar));
        }
        line
    }
}

pub(crate) fn signed(bytes: i128) -> String {
    let size = amount(u64::try_from(bytes.unsigned_abs()).unwrap_or(u64::MAX));
    if bytes < 0 { format!("-{size}") } else { size }
}

pub(crate) fn how_it_ended(outcome: &OomOutcome) -> String {
    let reaped = if outcome.reaped {
        "; the OOM reaper freed its memory"
    } else {
        ""
    };
    match (outcome.state, outcome.exit_latency_ns) {
        (VictimState::Exited, Some(latency)) => {
            format!("gone {:.1} ms after the kill{reaped}", latency as f64 / 1e6)
        }
        (VictimState::Exited, None) => format!("gone{reaped}"),
        (VictimState::Stuck, _) => format!("still there 10 s after the kill{reaped}"),
    }
}

/// What the order of these candidates says.
pub(crate) fn order(items: &[Candidate]) -> &'static str {
    match items.iter().position(|item| item.rank == 0) {
        None => "the one with the most points dies",
        Some(0) => "their order is unknown",
        Some(_) => "the one with the most points dies; the order of some is unknown",
    }
}

/// What made it this one, from the facts.
pub(crate) fn why(event: &OomKill) -> Vec<String> {
    let OomKill {
        oom,
        victim,
        verdict,
        candidates,
        ..
    } = event;
    if is_not_explainable(event) {
        return vec![
            "Not explainable: the log does not tell the points of the candidates, or the kernel's \
             formula does not give the score that it printed."
                .to_owned(),
        ];
    }
    let mut reasons = Vec::new();
    if oom.constraint == Some(Constraint::Memcg) {
        reasons.push(
            "Only processes in the cgroup whose limit was hit could be chosen; what others use \
             did not matter."
                .to_owned(),
        );
    }
    let Some(verdict) = verdict else {
        return reasons;
    };
    if let (Some(rank), Some(points), Some(candidates)) =
        (verdict.victim_rank, victim.badness_pages, candidates)
    {
        let mut text = format!(
            "It had {points} points (pages), rank {rank} of {}",
            candidates.total
        );
        let next = candidates
            .items
            .iter()
            .find(|item| Some(item.pid) == verdict.runner_up_pid);
        if let (Some(margin), Some(next)) = (verdict.margin_pages, next) {
            let _ = write!(text, ", {margin} more than {}", name(&next.comm, next.pid));
        }
        text.push('.');
        reasons.push(text);
    }
    if let Some(total) = oom.total_bytes.filter(|_| candidates.is_some()) {
        reasons.push(format!(
            "Points are rss + swap + page tables + oom_score_adj × {} (a thousandth of the {} that \
             this decision could use).",
            amount(total / 1000),
            amount(total),
        ));
    }
    if oom.scope == Some(Scope::Node)
        && let Some(pod) = &victim.pod
    {
        let none = match pod.qos_class {
            Some(QosClass::BestEffort) => " This pod is BestEffort: it has no request at all.",
            _ => "",
        };
        reasons.push(format!(
            "The kubelet sets oom_score_adj by memory request: of Burstable and BestEffort pods, a \
             full node takes the process furthest above the request of its container, whatever its \
             limit.{none}"
        ));
    }
    if let (Some(unowned), Some(usage)) = (
        verdict.unowned_bytes,
        oom.memcg.as_ref().and_then(|memcg| memcg.usage_bytes),
    ) && unowned > usage / 10
    {
        reasons.push(format!(
            "At least {} of the {} charged is in no process: files on tmpfs (a memory-backed \
             emptyDir, /dev/shm), page cache, the kernel's own memory. Killing frees none of it.",
            amount(unowned),
            amount(usage),
        ));
    }
    reasons.extend(verdict.flags.iter().map(|flag| flag_says(*flag, event)));
    reasons
}

fn flag_says(flag: VerdictFlag, event: &OomKill) -> String {
    let OomKill {
        victim, trigger, ..
    } = event;
    match flag {
        VerdictFlag::Bystander => {
            "A bystander: its container used less than its memory request, while another was over \
             its own."
                .to_owned()
        }
        VerdictFlag::TriggerInAnotherPod => format!(
            "The memory was asked for in another pod: {}.",
            pretty::place(trigger.pod.as_ref(), trigger.container.as_ref())
        ),
        VerdictFlag::ChildDied => "It was a child of another process of its container, which lives \
             on: Kubernetes may not restart the container, nor say OOMKilled."
            .to_owned(),
        VerdictFlag::AdjDiffers => format!(
            "Its oom_score_adj is {}, the kubelet's formula gives {}: somebody else set it.",
            victim.oom_score_adj.unwrap_or_default(),
            victim.expected_oom_score_adj.unwrap_or_default(),
        ),
        VerdictFlag::WholeContainerKilled => {
            "All processes of the container died together: memory.oom.group is set, as the kubelet \
             does on cgroup v2."
                .to_owned()
        }
        VerdictFlag::OnlyContainerOfPod => {
            "The pod's limit is that of this one container, so it is the container's limit that was \
             hit."
                .to_owned()
        }
    }
}

/// Whether it was chosen among candidates whose points nobody knows.
fn is_not_explainable(event: &OomKill) -> bool {
    let unknown = |candidates: &Candidates| {
        let known = |item: &Candidate| item.badness_pages.is_some() || item.rank != 0;
        candidates.listed > 0 && !candidates.items.iter().any(known)
    };
    event.victim.role == Some(Role::Chosen) && event.candidates.as_ref().is_some_and(unknown)
}

/// What would have changed it, and why nothing can be said where it cannot.
pub(crate) fn what_would_have_spared(event: &OomKill) -> Vec<String> {
    let OomKill {
        oom,
        victim,
        verdict: Some(verdict),
        candidates,
        ..
    } = event
    else {
        return Vec::new();
    };
    let mut ways = Vec::new();
    if verdict.code == Some(VerdictCode::Manual) {
        return vec!["Nothing in its memory: somebody asked the kernel to kill.".to_owned()];
    }
    let survival = verdict.survival.as_ref();
    match survival
        .and_then(|survival| Some((survival.oom_score_adj?, survival.next_victim.as_ref()?)))
    {
        Some((adj, next)) => {
            let had = victim.oom_score_adj.map(|adj| format!(" (it had {adj})"));
            let pod = next
                .pod_uid
                .as_ref()
                .filter(|uid| victim.pod.as_ref().is_none_or(|pod| pod.uid != **uid));
            let pod = pod.map(|uid| format!(" of pod {}", shown(uid)));
            let request = if oom.scope == Some(Scope::Container) && victim.pod.is_some() {
                " A memory request would not do: it changes that of all processes of the container."
            } else {
                ""
            };
            ways.push(format!(
                "An oom_score_adj of {adj} or lower{}: then {}{} would have died.{request}",
                had.unwrap_or_default(),
                name(&next.comm, next.pid),
                pod.unwrap_or_default(),
            ));
        }
        None => ways.push(why_no_adj(event, candidates.as_ref())),
    }
    if let Some(request) = survival.and_then(|survival| survival.memory_request_bytes) {
        let container = victim.container.as_ref();
        let had = container.and_then(|container| container.memory_request_bytes);
        let had = had.map(|had| format!(" (it has {})", amount(had)));
        ways.push(format!(
            "A memory request of {} or more for its container{}: the kubelet then gives it an \
             oom_score_adj with which a process of another container would have died.",
            amount(request),
            had.unwrap_or_default(),
        ));
    }
    if let Some(Survival {
        limit_at_least_bytes: Some(least),
        ..
    }) = survival
        && let Some(limit) = oom.memcg.as_ref().and_then(|memcg| memcg.limit_bytes)
    {
        ways.push(format!(
            "A higher limit. {} more would have done for this one allocation; what would have been \
             asked for next is not known, so take the limit from what it uses at its peak.",
            bytes(least.checked_sub(limit)),
        ));
    }
    if verdict.code == Some(VerdictCode::UnownedMemory) {
        ways.push("Less in tmpfs and page cache: see above, that is most of the limit.".to_owned());
    }
    ways
}

fn why_no_adj(event: &OomKill, candidates: Option<&Candidates>) -> String {
    let OomKill { oom, victim, .. } = event;
    let Some(candidates) = candidates else {
        return "No oom_score_adj is known to: the candidates are not in the event.".to_owned();
    };
    match victim.role {
        Some(Role::GroupMember) => {
            return "No oom_score_adj of its own: it died because another of its group was chosen."
                .to_owned();
        }
        Some(Role::MmSharer) => {
            return "No oom_score_adj of its own: it died because it shares the memory of the victim."
                .to_owned();
        }
        _ => {}
    }
    if candidates.total == 1 {
        return "No oom_score_adj: there was no other process to take.".to_owned();
    }
    if oom.victim_count > Some(1) {
        return "No oom_score_adj of its own: all of its group died, whichever of it was chosen."
            .to_owned();
    }
    if is_not_explainable(event) {
        return "No oom_score_adj is known to: the points of the candidates are unknown."
            .to_owned();
    }
    "No oom_score_adj is known to: not even -999, as far as the event tells.".to_owned()
}

fn name(comm: &str, pid: u32) -> String {
    format!("{} (pid {pid})", shown(comm))
}
