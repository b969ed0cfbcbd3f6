//! What an event log tells, all events together: `oomtrace report`.
//!
//! Events go in one by one and are counted; only the newest decisions are kept whole. Retries and
//! files that are given twice do not count twice: an event is known by its id.

mod chart;
mod coverage;
mod html;
mod offender;
mod plain;
mod words;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
};

pub use coverage::Coverage;
pub use html::html;
pub use offender::{Advice, Offender};
pub use plain::{Markup, plain};
pub use words::count;

use crate::{
    event::{Event, Head, LateEnrichment, Node, OomKill, OomOutcome, Role, Scope, VictimState},
    format::{Decision, csv::name},
};

/// Everything that is told.
#[derive(Debug)]
pub struct Report {
    hasher: RandomState,
    events: HashSet<u64>,
    /// Decisions that killed, and those that marked a task.
    decisions: HashSet<u64>,
    marked: HashSet<u64>,
    /// How many decisions are kept whole.
    most: usize,
    /// The newest decisions, by the time of their first victim.
    newest: BTreeMap<(u64, String), Decision>,
    /// Those among them, by their id.
    keys: HashMap<String, u64>,
    /// Kills of which more is to be known, and what they count.
    waiting: VecDeque<(OomKill, Tally)>,
    /// When kills happened, and which.
    times: Vec<(u64, Class)>,
    without_time: u64,
    kills: u64,
    sharers: u64,
    marks: u64,
    duplicates: u64,
    unknown: u64,
    imported: u64,
    slowest_exit_ns: Option<u64>,
    stuck: HashSet<String>,
    nodes: Table,
    namespaces: Table,
    classes: Table,
    scopes: Table,
    verdicts: Table,
    offenders: HashMap<String, Offender>,
    coverage: Coverage,
}

/// Kills that wait for more.
const MOST_WAITING: usize = 1000;

/// How often something was concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Decisions whose victim was of it.
    pub decisions: u64,
    /// Processes that died.
    pub kills: u64,
}

/// Tallies by name; `None` is what is not known.
type Table = HashMap<Option<String>, Tally>;

/// What ran out, roughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Limit,
    Kubepods,
    Node,
    Unknown,
}

impl Class {
    const ALL: [Self; 4] = [Self::Limit, Self::Kubepods, Self::Node, Self::Unknown];

    const fn of(scope: Option<Scope>) -> Self {
        match scope {
            Some(Scope::Container | Scope::Pod | Scope::Slice) => Self::Limit,
            Some(Scope::Qos | Scope::Kubepods) => Self::Kubepods,
            Some(Scope::Node | Scope::Cpuset | Scope::MemoryPolicy) => Self::Node,
            None => Self::Unknown,
        }
    }

    /// How victims died, behind a number of them.
    const fn how(self) -> &'static str {
        match self {
            Self::Limit => "died at a limit of a container, pod or cgroup",
            Self::Kubepods => "died when pods together reached what the node gives them",
            Self::Node => "died when the node ran out of memory",
            Self::Unknown => "died for an unknown reason",
        }
    }

    const fn says(self) -> &'static str {
        match self {
            Self::Limit => "a limit of a container, pod or cgroup",
            Self::Kubepods => "what all pods may use together",
            Self::Node => "the node's memory",
            Self::Unknown => "unknown",
        }
    }
}

impl Report {
    /// One that keeps so many decisions whole.
    pub fn new(most: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            events: HashSet::new(),
            decisions: HashSet::new(),
            marked: HashSet::new(),
            most,
            newest: BTreeMap::new(),
            keys: HashMap::new(),
            waiting: VecDeque::new(),
            times: Vec::new(),
            without_time: 0,
            kills: 0,
            sharers: 0,
            marks: 0,
            duplicates: 0,
            unknown: 0,
            imported: 0,
            slowest_exit_ns: None,
            stuck: HashSet::new(),
            nodes: Table::new(),
            namespaces: Table::new(),
            classes: Table::new(),
            scopes: Table::new(),
            verdicts: Table::new(),
            offenders: HashMap::new(),
            coverage: Coverage::default(),
        }
    }

    /// Counts an event; `None` is one of a kind that is not known.
    pub fn take(&mut self, event: Option<Event>) {
        let Some(event) = event else {
            self.unknown += 1;
            return;
        };
        let head = event.head();
        // What became known of a kill later has the kill's id.
        let late = matches!(event, Event::Enrichment(_));
        if !self
            .events
            .insert(self.hasher.hash_one((&head.event_id, late)))
        {
            self.duplicates += 1;
            return;
        }
        self.coverage.record(&event);
        match event {
            Event::OomKill(kill) => self.kill(*kill),
            Event::OomMark(mark) => {
                self.marks += 1;
                let id = self.hasher.hash_one(&mark.oom_id);
                let new = self.marked.insert(id) && !self.decisions.contains(&id);
                if let Some(decision) = self.decision(&mark.oom_id, &mark.head, new) {
                    decision.marks.push(*mark);
                }
            }
            Event::OomOutcome(outcome) => self.outcome(*outcome),
            Event::Enrichment(late) => self.enrich(*late),
            Event::PodEviction(_) | Event::UserspaceKill(_) | Event::Loss(_) | Event::Status(_) => {
            }
        }
    }

    /// Nothing more comes.
    pub fn finish(&mut self) {
        while let Some((kill, tally)) = self.waiting.pop_front() {
            self.count(&kill, tally);
        }
    }

    fn enrich(&mut self, late: LateEnrichment) {
        let is_it = |kill: &OomKill| kill.head.event_id == late.head.event_id;
        let at = self.waiting.iter().position(|(kill, _)| is_it(kill));
        if let Some((mut kill, tally)) = at.and_then(|at| self.waiting.remove(at)) {
            kill.enrich(late.clone());
            self.count(&kill, tally);
        }
        if let Some(decision) = self.decision(&late.oom_id, &late.head, false) {
            let mut kills = decision.kills.iter_mut().chain(&mut decision.marks);
            if let Some(kill) = kills.find(|kill| is_it(kill)) {
                kill.enrich(late.clone());
            }
        }
    }

    fn kill(&mut self, kill: OomKill) {
        let OomKill {
            head,
            oom_id,
            victim,
            enrichment,
            ..
        } = &kill;
        let sharer = victim.role == Some(Role::MmSharer);
        let id = self.hasher.hash_one(oom_id);
        let first = self.decisions.insert(id);
        let tally = Tally {
            decisions: first.into(),
            kills: (!sharer).into(),
        };
        let new = first && !self.marked.contains(&id);
        if enrichment.as_ref().is_some_and(|it| !it.complete) {
            self.waiting.push_back((kill.clone(), tally));
            if self.waiting.len() > MOST_WAITING
                && let Some((kill, tally)) = self.waiting.pop_front()
            {
                self.count(&kill, tally);
            }
        } else {
            self.count(&kill, tally);
        }
        if let Some(decision) = self.decision(oom_id, head, new) {
            decision.kills.push(kill);
        }
    }

    fn count(&mut self, kill: &OomKill, tally: Tally) {
        let OomKill {
            head,
            oom,
            victim,
            verdict,
            ..
        } = kill;
        let sharer = victim.role == Some(Role::MmSharer);
        self.kills += tally.kills;
        self.sharers += u64::from(sharer);
        self.imported += u64::from(head.source.kind == crate::event::SourceKind::KernelLog);
        match head.unix_ns() {
            Some(time) if !sharer => self.times.push((time, Class::of(oom.scope))),
            Some(_) => {}
            None => self.without_time += 1,
        }
        let pod = victim.pod.as_ref();
        let code = verdict.as_ref().and_then(|verdict| verdict.code);
        for (table, name) in [
            (&mut self.nodes, node_name(&head.node)),
            (
                &mut self.namespaces,
                match pod {
                    Some(pod) => pod.namespace.clone(),
                    None => Some("(in no pod)".to_owned()),
                },
            ),
            (
                &mut self.classes,
                match pod {
                    Some(pod) => pod.qos_class.map(|class| class.name().to_owned()),
                    None => Some("(in no pod)".to_owned()),
                },
            ),
            (&mut self.scopes, oom.scope.and_then(|scope| name(&scope))),
            (&mut self.verdicts, code.and_then(|code| name(&code))),
        ] {
            table.entry(name).or_default().add(tally);
        }
        self.offenders
            .entry(offender::key(victim))
            .or_insert_with(|| Offender::new(victim))
            .add(kill, tally);
    }

    fn outcome(&mut self, outcome: OomOutcome) {
        match outcome.state {
            VictimState::Exited => {
                self.stuck.remove(&outcome.victim_event_id);
                self.slowest_exit_ns = self.slowest_exit_ns.max(outcome.exit_latency_ns);
            }
            VictimState::Stuck => {
                self.stuck.insert(outcome.victim_event_id.clone());
            }
        }
        if let Some(time) = self.keys.get(&outcome.oom_id)
            && let Some(decision) = self.newest.get_mut(&(*time, outcome.oom_id.clone()))
        {
            decision.outcomes.push(outcome);
        }
    }

    /// Where a decision is kept, if it is among the newest. One that is not new was, and is no more.
    fn decision(&mut self, id: &str, head: &Head, new: bool) -> Option<&mut Decision> {
        let time = match self.keys.get(id) {
            Some(time) => *time,
            None if !new => return None,
            None => {
                let time = head.unix_ns().unwrap_or(0);
                self.keys.insert(id.to_owned(), time);
                self.newest
                    .insert((time, id.to_owned()), Decision::default());
                while self.newest.len() > self.most {
                    let ((_, oldest), _) = self.newest.pop_first()?;
                    self.keys.remove(&oldest);
                }
                time
            }
        };
        self.newest.get_mut(&(time, id.to_owned()))
    }

    /// The newest decisions, the newest first.
    fn newest(&self) -> impl Iterator<Item = &Decision> {
        self.newest.values().rev().filter(|it| it.main().is_some())
    }

    /// Whoever was killed, most often first.
    fn offenders(&self) -> Vec<&Offender> {
        let mut list: Vec<_> = self.offenders.values().collect();
        list.sort_by(|a, b| {
            let key = |it: &Offender| std::cmp::Reverse((it.tally.decisions, it.tally.kills));
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        list
    }

    /// From the first kill to the last.
    fn span(&self) -> Option<(u64, u64)> {
        let times = || self.times.iter().map(|(time, _)| *time);
        Some((times().min()?, times().max()?))
    }
}

impl Tally {
    const fn add(&mut self, more: Self) {
        self.decisions += more.decisions;
        self.kills += more.kills;
    }
}

/// A table's rows, most kills first.
fn ranked(table: &Table) -> Vec<(&str, Tally)> {
    let mut rows: Vec<_> = table
        .iter()
        .map(|(name, tally)| (name.as_deref().unwrap_or("(unknown)"), *tally))
        .collect();
    rows.sort_by(|a, b| b.1.kills.cmp(&a.1.kills).then_with(|| a.0.cmp(b.0)));
    rows
}

fn node_name(node: &Node) -> Option<String> {
    node.k8s_node_name.clone().or_else(|| node.hostname.clone())
}
