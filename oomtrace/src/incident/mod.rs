//! Joins what belongs to one OOM decision: the records of the programs and the kernel's own
//! report, whichever comes first.
//!
//! A pure state machine. It is fed records and parts of the kernel log together with the time, and
//! gives back [`Incident`]s in order. What it holds is bounded.
//!
//! The kernel prints its report before it marks the victim, and the line "Killed process …" just
//! after. So once that line has been read, everything the log has to say is there; where it does
//! not come (the log can be cut or switched off), the kill goes out without it after
//! [`LOG_PATIENCE_NS`].

mod assemble;
mod directory;
mod imported;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
};

use oomtrace_common::LEVEL_OOM_GROUP;

pub use self::{
    assemble::Assembler,
    directory::{Answered, Cgroups, Directory, Evicted, Known, News, Question},
    imported::{Importer, Problem},
};
use crate::{
    event::Role,
    kernel_log::{KilledLine, LogPath, Output, Report},
    probe::decode::{Decision, ReapStep, Record, ScoredTask, Task, Victim},
};

/// How long a kill waits for its line in the kernel log. The line follows within microseconds,
/// unless the killer is kept from running just then: by the hypervisor, or on a kernel that is
/// preempted anywhere by the tracer itself.
pub const LOG_PATIENCE_NS: u64 = 20_000_000;
/// How long a group waits, after each that was heard of, to learn how many it is of. The kernel
/// prints a line for each, and where it prints to a serial console that takes milliseconds.
pub const GROUP_PATIENCE_NS: u64 = 1_000_000_000;
/// After this long a victim that has not exited is reported as stuck.
pub const STUCK_NS: u64 = 10_000_000_000;
/// How long a line of the kernel log waits for its kill: after that, the kill was lost.
const LINE_PATIENCE_NS: u64 = 5_000_000_000;

/// What `out_of_memory` (`mm/oom_kill.c`) calls a decision by `vm.oom_kill_allocating_task`: it
/// takes the task that asked, without comparing any.
const ALLOCATING_TASK_MESSAGE: &[u8] = b"Out of memory (oom_kill_allocating_task)";

/// Kills under way; more than can wait at once even in a storm.
const MAX_PENDING: usize = 1024;
/// Lines of the kernel log whose kill has not come yet.
const MAX_LINES: usize = 256;
/// Victims whose exit has not been seen.
const MAX_FOLLOWED: usize = 4096;
/// Victims that have exited and may be the first of a group.
const MAX_GONE: usize = 256;
/// Decisions whose victims may still come.
const MAX_DECISIONS: usize = 8;

/// What the hooks in place will tell.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// The kernel log is read.
    pub log: bool,
    /// The end of a decision is hooked.
    pub decision_end: bool,
    /// The exit of victims is hooked.
    pub exits: bool,
}

/// The candidates of a decision, as the kernel scored them.
#[derive(Clone, Debug)]
pub struct Scored {
    /// How many there were.
    pub total: u32,
    /// Tasks that could not be chosen.
    pub spared: u32,
    /// Those with the highest points, highest first.
    pub items: Vec<ScoredTask>,
}

/// A victim with all that is known of the decision.
#[derive(Debug)]
pub struct Kill {
    /// The victim's record.
    pub victim: Rc<Victim>,
    /// The decision.
    pub decision: Option<Rc<Decision>>,
    /// Its candidates.
    pub scored: Option<Rc<Scored>>,
    /// The kernel's report of it.
    pub report: Option<Rc<Report>>,
    /// The kernel's words, from the line "Killed process …".
    pub killed_line: Option<KilledLine>,
    /// When the decision began, or its first mark where no hook tells: what names it.
    pub began_ns: u64,
    /// Why it is among the victims, as far as known.
    pub role: Option<Role>,
    /// The victim's place in the decision, from 0; none where records of others were lost.
    pub index: Option<u32>,
    /// How many victims the decision has.
    pub count: Option<u32>,
}

/// What became of a victim.
#[derive(Debug)]
pub struct Outcome {
    /// When it was killed.
    pub kill_ns: u64,
    /// When this was found out.
    pub time_ns: u64,
    /// Whether its last thread has exited; else it has not for [`STUCK_NS`].
    pub exited: bool,
    /// Process id.
    pub pid: u32,
    /// When it started.
    pub start_ns: Option<u64>,
    /// When its decision began; as in the kill's `oom_id`.
    pub decision_ns: u64,
    /// Name.
    pub comm: Vec<u8>,
    /// The OOM reaper freed its memory.
    pub reaped: bool,
    /// The OOM reaper could not get at its memory, or found it gone.
    pub reap_skipped: bool,
}

/// What comes out.
#[derive(Debug)]
pub enum Incident {
    /// A kill or a mark.
    Kill(Kill),
    /// What became of it.
    Outcome(Outcome),
}

/// A kill that waits for the rest of its facts.
#[derive(Debug)]
struct Pending {
    kill: Kill,
    arrived_ns: u64,
    /// Nothing more will come from the log.
    logged: bool,
    /// How many victims the decision has is settled, if only as unknown.
    counted: bool,
    exit: Option<Outcome>,
}

#[derive(Debug)]
struct OpenDecision {
    decision: Rc<Decision>,
    scored: Option<Rc<Scored>>,
    /// The kernel's report, once it has been found to be of this decision.
    report: Option<Rc<Report>>,
    /// Its victims so far; none where records were lost.
    victims: Option<u32>,
}

/// What a victim has in common with those that share its memory.
#[derive(Debug)]
struct Sharing {
    victim: Rc<Victim>,
    decision: Option<Rc<Decision>>,
    began_ns: u64,
    index: Option<u32>,
    count: Option<u32>,
    counted: bool,
}

#[derive(Debug)]
struct LogKill {
    line: KilledLine,
    report: Option<Rc<Report>>,
    group: Option<Rc<LogGroup>>,
    arrived_ns: u64,
}

/// A group that is killed together, as the kernel log tells.
#[derive(Debug)]
struct LogGroup {
    /// The cgroup; the front of its path where `cut`.
    memcg: LogPath,
    /// Thread id of the victim it began with.
    first: u32,
    /// The report of that decision.
    report: Option<Rc<Report>>,
}

#[derive(Debug)]
struct Followed {
    kill_ns: u64,
    decision_ns: u64,
    tid: u32,
    trigger_tid: u32,
    /// How many victims of its group came after it, by the kernel log.
    members: u32,
    start_ns: Option<u64>,
    comm: Vec<u8>,
    reaped: bool,
    reap_skipped: bool,
}

/// The state machine.
#[derive(Debug)]
pub struct Joiner {
    sources: Sources,
    pending: VecDeque<Pending>,
    decisions: VecDeque<OpenDecision>,
    scored: Option<(u64, Rc<Scored>)>,
    report: Option<Rc<Report>>,
    lines: VecDeque<LogKill>,
    /// The last line "Killed process …", and the report before it.
    last_line: Option<(u32, Option<Rc<Report>>)>,
    /// The group the kernel log says is being killed.
    group: Option<Rc<LogGroup>>,
    /// The victim that came last, whose memory others may share.
    last_victim: Option<Sharing>,
    followed: HashMap<u32, Followed>,
    /// Victims that have exited: they may do so before the log tells who else is of their group.
    gone: VecDeque<Followed>,
    /// When to look whether a victim is stuck, and its process id, in order.
    stuck_checks: VecDeque<(u64, u32)>,
    /// Outcomes whose kill has gone out.
    outcomes: VecDeque<Outcome>,
    /// A decision came without the candidates it compared.
    unscored: bool,
    /// A decision is under way, and its first mark has not come.
    deciding: bool,
    /// Reports read from the log.
    reports: u64,
    /// Victims whose outcome will not be told, because too many are dying.
    unfollowed: u64,
}

impl Joiner {
    /// One that expects what `sources` tell.
    pub fn new(sources: Sources) -> Self {
        Self {
            sources,
            pending: VecDeque::new(),
            decisions: VecDeque::new(),
            scored: None,
            report: None,
            lines: VecDeque::new(),
            last_line: None,
            group: None,
            last_victim: None,
            followed: HashMap::new(),
            gone: VecDeque::new(),
            stuck_checks: VecDeque::new(),
            outcomes: VecDeque::new(),
            unscored: false,
            deciding: false,
            reports: 0,
            unfollowed: 0,
        }
    }

    /// Whether a decision came without the candidates it compared: where their scoring is hooked,
    /// the hook does not fire.
    pub const fn unscored(&self) -> bool {
        self.unscored
    }

    /// Reports read from the log, so far.
    pub const fn reports(&self) -> u64 {
        self.reports
    }

    /// Victims whose outcome is not followed, so far.
    pub const fn unfollowed(&self) -> u64 {
        self.unfollowed
    }

    /// Takes a record of the programs.
    pub fn record(&mut self, record: Record, now_ns: u64) {
        match record {
            Record::Candidates {
                decision_ns,
                total,
                spared,
                items,
            } => {
                let scored = Scored {
                    total,
                    spared,
                    items,
                };
                self.scored = Some((decision_ns, Rc::new(scored)));
            }
            Record::ReportBegin => self.deciding = true,
            Record::Decision(decision) => {
                self.deciding = true;
                let scored = self
                    .scored
                    .take()
                    .filter(|(decision_ns, _)| *decision_ns == decision.decision_ns)
                    .map(|(_, scored)| scored);
                self.unscored |= scored.is_none() && decision.message != ALLOCATING_TASK_MESSAGE;
                if self.decisions.len() == MAX_DECISIONS {
                    self.decisions.pop_front();
                }
                self.decisions.push_back(OpenDecision {
                    decision: Rc::from(decision),
                    scored,
                    report: None,
                    victims: Some(0),
                });
            }
            Record::DecisionEnd { decision_ns } => self.decision_end(decision_ns),
            Record::Victim(victim) => {
                self.deciding = false;
                self.victim(Rc::from(victim), now_ns);
            }
            Record::Exit { time_ns, pid } if self.sources.exits => self.exit(pid, time_ns),
            // The mark may tell of it, too, but not of every one.
            Record::Exit { .. } => {}
            Record::Reap { tid, step } => {
                if let Some(followed) = self.followed.values_mut().find(|dying| dying.tid == tid) {
                    followed.reaped |= step == ReapStep::Finish;
                    followed.reap_skipped |= step == ReapStep::Skip;
                }
            }
            Record::PeerKill { time_ns, task } => self.mm_sharer(time_ns, task, now_ns),
        }
    }

    /// Takes a part of the kernel log.
    pub fn log(&mut self, output: Output, now_ns: u64) {
        match output {
            Output::Report(report) => {
                self.reports += 1;
                self.report = Some(Rc::from(report));
                (self.last_line, self.group) = (None, None);
            }
            Output::Killed(line) => self.killed_line(line, now_ns),
            Output::GroupKill(group) => {
                // It follows the line of the victim that was chosen.
                self.group = self.last_line.take().map(|(first, report)| {
                    Rc::new(LogGroup {
                        memcg: group.memcg,
                        first,
                        report,
                    })
                });
            }
            // What the next line belongs to is not known any more.
            Output::Gap { .. } => (self.report, self.last_line, self.group) = (None, None, None),
        }
    }

    fn killed_line(&mut self, line: KilledLine, now_ns: u64) {
        let report = self.report.take();
        let group = self.group.clone().filter(|group| group.first != line.pid);
        if group.is_none() {
            self.last_line = Some((line.pid, report.clone()));
        }
        let found = LogKill {
            line,
            report,
            group,
            arrived_ns: now_ns,
        };
        let waiting = self
            .pending
            .iter()
            .position(|pending| !pending.logged && is_of(&found.line, &pending.kill.victim));
        if let Some(at) = waiting {
            self.add_log(at, found);
        } else if !self
            .followed
            .values()
            .any(|followed| followed.tid == found.line.pid)
        {
            if self.lines.len() == MAX_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(found);
        }
    }

    /// Records of the programs were lost: how many victims a decision has is not known any more,
    /// and not waited for.
    pub fn lost(&mut self) {
        for open in &mut self.decisions {
            open.victims = None;
        }
        for pending in &mut self.pending {
            pending.counted = true;
        }
    }

    /// The next incident that is complete, or has waited long enough.
    pub fn next(&mut self, now_ns: u64) -> Option<Incident> {
        if let Some(outcome) = self.outcomes.pop_front() {
            return Some(Incident::Outcome(outcome));
        }
        if let Some(outcome) = self.stuck(now_ns) {
            return Some(Incident::Outcome(outcome));
        }
        let first = self.pending.front()?;
        let waited = now_ns.saturating_sub(first.arrived_ns);
        let complete = (first.logged || waited >= LOG_PATIENCE_NS)
            && (first.counted
                || now_ns.saturating_sub(self.group_heard_ns(first)) >= GROUP_PATIENCE_NS);
        if !complete && self.pending.len() < MAX_PENDING {
            return None;
        }
        let Pending { mut kill, exit, .. } = self.pending.pop_front()?;
        if kill.report.is_none() && kill.killed_line.is_none() {
            // The line "Killed process …" is missing, but the report before it may not be.
            kill.report = self.report.take_if(|report| names(report, &kill.victim));
        }
        self.outcomes.extend(exit);
        Some(Incident::Kill(kill))
    }

    /// When the last of a decision's victims was heard of that wait.
    fn group_heard_ns(&self, first: &Pending) -> u64 {
        let same = |other: &&Pending| other.kill.began_ns == first.kill.began_ns;
        let last = self.pending.iter().rev().find(same);
        last.unwrap_or(first).arrived_ns
    }

    /// When [`Joiner::next`] may have something without further input.
    pub fn deadline_ns(&self) -> Option<u64> {
        let kill = self.pending.front().map(|first| {
            if first.counted {
                first.arrived_ns + LOG_PATIENCE_NS
            } else {
                self.group_heard_ns(first) + GROUP_PATIENCE_NS
            }
        });
        let stuck = self.stuck_checks.front().map(|(check_ns, _)| *check_ns);
        kill.into_iter().chain(stuck).min()
    }

    /// Whether kills are held back that will go out by themselves.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether more is to come within microseconds: a decision is under way, or kills are held back.
    pub fn awaits_more(&self) -> bool {
        self.deciding || self.is_waiting()
    }

    /// What was awaited has not come.
    pub const fn expect_no_more(&mut self) {
        self.deciding = false;
    }

    /// A victim that has not exited for too long.
    fn stuck(&mut self, now_ns: u64) -> Option<Outcome> {
        while let Some((check_ns, pid)) = self.stuck_checks.front().copied() {
            let followed = self.followed.get(&pid);
            // The id may be another process's by now.
            let followed = followed.filter(|followed| followed.stuck_ns() == check_ns);
            if followed.is_some() && check_ns > now_ns {
                return None;
            }
            self.stuck_checks.pop_front();
            if let Some(followed) = followed {
                return Some(followed.outcome(pid, now_ns, false));
            }
        }
        None
    }

    fn victim(&mut self, victim: Rc<Victim>, now_ns: u64) {
        let open = victim.decision_ns.and_then(|began| {
            self.decisions
                .iter_mut()
                .find(|open| open.decision.decision_ns == began)
        });
        let in_group = victim
            .levels
            .iter()
            .any(|level| level.flags & LEVEL_OOM_GROUP != 0);
        let (decision, scored, report, index) = match open {
            Some(open) => {
                let index = open.victims;
                open.victims = index.map(|index| index.saturating_add(1));
                let decision = Some(Rc::clone(&open.decision));
                (decision, open.scored.clone(), open.report.clone(), index)
            }
            None => (None, None, None, Some(0)),
        };
        let role = match &decision {
            Some(decision) if decision.chosen_pid == victim.task.pid => Some(Role::Chosen),
            Some(_) => Some(Role::GroupMember),
            // Who was exiting and asked for memory was not chosen.
            None => (!in_group && !victim.asked_while_exiting()).then_some(Role::Chosen),
        };
        let pending = Pending {
            arrived_ns: now_ns,
            // A mark leaves no line in the log.
            logged: !self.sources.log || !victim.killed,
            counted: !in_group || decision.is_none() || !self.sources.decision_end,
            exit: None,
            kill: Kill {
                began_ns: decision
                    .as_ref()
                    .map_or(victim.time_ns, |decision| decision.decision_ns),
                decision,
                scored,
                report,
                killed_line: None,
                role,
                index,
                count: (!in_group).then_some(1),
                victim,
            },
        };
        self.last_victim = Some(Sharing {
            victim: Rc::clone(&pending.kill.victim),
            decision: pending.kill.decision.clone(),
            began_ns: pending.kill.began_ns,
            index,
            count: pending.kill.count,
            counted: pending.counted,
        });
        self.follow(&pending.kill);
        self.lines
            .retain(|waiting| now_ns - waiting.arrived_ns < LINE_PATIENCE_NS);
        let line = self
            .lines
            .iter()
            .position(|waiting| is_of(&waiting.line, &pending.kill.victim));
        let found = line.and_then(|at| self.lines.remove(at));
        self.pending.push_back(pending);
        if let Some(found) = found {
            self.add_log(self.pending.len() - 1, found);
        }
    }

    /// Adds what the log tells to the kill at this place of the queue. A report is of the whole
    /// decision, so the other victims of that get it, too.
    fn add_log(&mut self, at: usize, found: LogKill) {
        let Some(pending) = self.pending.get_mut(at) else {
            return;
        };
        pending.add_log(found, &mut self.followed, &mut self.gone);
        let (Some(decision), Some(report)) = (&pending.kill.decision, &pending.kill.report) else {
            return;
        };
        let (began, report) = (decision.decision_ns, Rc::clone(report));
        let is_same = |decision: &Decision| decision.decision_ns == began;
        for open in &mut self.decisions {
            if is_same(&open.decision) {
                open.report = Some(Rc::clone(&report));
            }
        }
        for other in &mut self.pending {
            if other.kill.decision.as_deref().is_some_and(is_same) {
                other.kill.report = Some(Rc::clone(&report));
            }
        }
    }

    /// A process was killed because it shares the memory of the victim before it: what is the
    /// address space's or the decision's is the same, what is the task's is its own.
    fn mm_sharer(&mut self, time_ns: u64, mut task: Task, now_ns: u64) {
        let Some(sharing) = &self.last_victim else {
            return;
        };
        let shared = &sharing.victim;
        let same_cgroup = match (&mut task.cgroup, &shared.task.cgroup) {
            (Some(own), Some(other)) if own.id == other.id => {
                own.path.clone_from(&other.path);
                true
            }
            _ => false,
        };
        let open = sharing.decision.as_ref().and_then(|decision| {
            self.decisions
                .iter()
                .find(|open| open.decision.decision_ns == decision.decision_ns)
        });
        let (scored, report) = open
            .map(|open| (open.scored.clone(), open.report.clone()))
            .unwrap_or_default();
        let kill = Kill {
            victim: Rc::new(Victim {
                time_ns,
                task,
                levels: if same_cgroup {
                    shared.levels.clone()
                } else {
                    Vec::new()
                },
                ..Victim::clone(shared)
            }),
            decision: sharing.decision.clone(),
            scored,
            report,
            killed_line: None,
            began_ns: sharing.began_ns,
            role: Some(Role::MmSharer),
            index: sharing.index,
            count: sharing.count,
        };
        let counted = sharing.counted;
        self.follow(&kill);
        self.pending.push_back(Pending {
            kill,
            arrived_ns: now_ns,
            // No line in the log is about it.
            logged: true,
            counted,
            exit: None,
        });
    }

    fn follow(&mut self, kill: &Kill) {
        let Some(pid) = kill.victim.task.pid else {
            return;
        };
        if !self.sources.exits {
            // Nothing tells when they are gone; the log still asks for the last of them.
            let oldest_ns = kill.victim.time_ns.saturating_sub(LINE_PATIENCE_NS);
            self.followed.retain(|_, dying| dying.kill_ns > oldest_ns);
        }
        if self.followed.len() >= MAX_FOLLOWED {
            self.unfollowed += 1;
            return;
        }
        if self.sources.exits {
            self.check_later(kill.victim.time_ns, pid);
        }
        let task = &kill.victim.task;
        self.followed.insert(
            pid,
            Followed {
                kill_ns: kill.victim.time_ns,
                decision_ns: kill.began_ns,
                tid: task.tid,
                trigger_tid: kill.victim.trigger.tid,
                members: 0,
                start_ns: task.start_ns,
                comm: task.comm.clone(),
                reaped: false,
                reap_skipped: false,
            },
        );
    }

    /// Looks in a while whether a victim is stuck.
    fn check_later(&mut self, kill_ns: u64, pid: u32) {
        if self.stuck_checks.len() >= 2 * MAX_FOLLOWED {
            self.stuck_checks.retain(|(check_ns, pid)| {
                let followed = self.followed.get(pid);
                followed.is_some_and(|dying| dying.stuck_ns() == *check_ns)
            });
        }
        self.stuck_checks
            .push_back((kill_ns.saturating_add(STUCK_NS), pid));
    }

    fn decision_end(&mut self, decision_ns: u64) {
        let Some(at) = self
            .decisions
            .iter()
            .position(|open| open.decision.decision_ns == decision_ns)
        else {
            return;
        };
        let Some(open) = self.decisions.remove(at) else {
            return;
        };
        for pending in &mut self.pending {
            let decision = pending.kill.decision.as_ref();
            if decision.is_some_and(|decision| decision.decision_ns == decision_ns) {
                pending.counted = true;
                pending.kill.count = open.victims;
            }
        }
    }

    fn exit(&mut self, pid: u32, exit_ns: u64) {
        let Some(followed) = self.followed.remove(&pid) else {
            return;
        };
        let outcome = followed.outcome(pid, exit_ns, true);
        if self.sources.log {
            if self.gone.len() == MAX_GONE {
                self.gone.pop_front();
            }
            self.gone.push_back(followed);
        }
        let waiting = self
            .pending
            .iter_mut()
            .find(|pending| pending.kill.victim.task.pid == Some(pid) && pending.exit.is_none());
        match waiting {
            Some(pending) => pending.exit = Some(outcome),
            None => self.outcomes.push_back(outcome),
        }
    }
}

impl Followed {
    /// When it counts as stuck.
    const fn stuck_ns(&self) -> u64 {
        self.kill_ns.saturating_add(STUCK_NS)
    }

    fn outcome(&self, pid: u32, time_ns: u64, exited: bool) -> Outcome {
        Outcome {
            kill_ns: self.kill_ns,
            time_ns,
            exited,
            pid,
            start_ns: self.start_ns,
            decision_ns: self.decision_ns,
            comm: self.comm.clone(),
            reaped: self.reaped,
            reap_skipped: self.reap_skipped,
        }
    }
}

impl Pending {
    fn add_log(
        &mut self,
        found: LogKill,
        followed: &mut HashMap<u32, Followed>,
        gone: &mut VecDeque<Followed>,
    ) {
        let LogKill {
            line,
            report,
            group,
            ..
        } = found;
        self.logged = true;
        let kill = &mut self.kill;
        kill.killed_line = Some(line);
        let report = report.filter(|report| names(report, &kill.victim));
        kill.report = report.or(kill.report.take());
        if kill.report.is_some() && kill.role.is_none() {
            kill.role = Some(Role::Chosen);
        }
        if kill.decision.is_none()
            && let Some(group) = group
        {
            kill.join_group(&group, followed, gone);
        }
    }
}

impl Kill {
    /// The kernel's words for the decision.
    fn message(&self) -> Option<&[u8]> {
        let decision = self.decision.as_deref();
        decision
            .map(|decision| decision.message.as_slice())
            .or_else(|| {
                self.killed_line
                    .as_ref()
                    .map(|line| line.message.as_slice())
            })
    }

    /// Whether the kernel compared candidates.
    fn compared(&self) -> bool {
        self.message() != Some(ALLOCATING_TASK_MESSAGE)
    }

    /// Joins the decision whose group the kernel log says is being killed, where everything else
    /// says so, too: the same task asked for memory, and the victim is in that cgroup.
    fn join_group(
        &mut self,
        group: &LogGroup,
        followed: &mut HashMap<u32, Followed>,
        gone: &mut VecDeque<Followed>,
    ) {
        // The one that went last, if an id was given away twice.
        let gone = gone.iter_mut().rev();
        let first = followed
            .values_mut()
            .chain(gone)
            .find(|dying| dying.tid == group.first);
        let path = self
            .victim
            .task
            .cgroup
            .as_ref()
            .and_then(|cgroup| cgroup.path.as_ref());
        let (Some(first), Some(path)) = (first, path) else {
            return;
        };
        if first.trigger_tid != self.victim.trigger.tid || !is_below(&path.bytes, &group.memcg) {
            return;
        }
        first.members += 1;
        self.began_ns = first.decision_ns;
        self.index = Some(first.members);
        self.role = Some(Role::GroupMember);
        self.report = group.report.clone();
        if let Some(own) = self.victim.task.pid.and_then(|pid| followed.get_mut(&pid)) {
            own.decision_ns = self.began_ns;
        }
    }
}

/// Whether a cgroup is the one the kernel log names, or below it.
fn is_below(path: &[u8], memcg: &LogPath) -> bool {
    let Some(rest) = path.strip_prefix(memcg.bytes.as_slice()) else {
        return false;
    };
    memcg.cut || rest.is_empty() || rest.starts_with(b"/") || memcg.bytes == b"/"
}

/// Whether a line "Killed process …" is about this victim.
fn is_of(line: &KilledLine, victim: &Victim) -> bool {
    line.pid == victim.task.tid && victim.killed
}

/// Whether a report is about the decision that took this victim. It names the task that was
/// chosen, of which the victim may be another thread; where its end is cut off, the task that
/// asked for memory.
fn names(report: &Report, victim: &Victim) -> bool {
    match report.victim.pid {
        Some(pid) => pid == victim.task.tid || Some(pid) == victim.task.pid,
        None => report.trigger.pid == Some(victim.trigger.tid),
    }
}
