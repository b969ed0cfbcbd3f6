//! What is not in the records: losses, gaps, times when nobody watched.

use std::collections::{BTreeMap, HashMap};

use super::{node_name, words};
use crate::event::{Event, LossPlace, Phase, SourceKind};

/// Losses that are kept one by one.
const MOST_LOSSES: usize = 50;
/// Nodes that are told one by one.
const MOST_NODES: usize = 10;
/// A tracer that is restarted is away for less.
const SHORT_NS: u64 = 1_000_000_000;

/// The runs of the tracer, and what they lost.
#[derive(Debug, Default)]
pub struct Coverage {
    runs: HashMap<String, Run>,
    losses: Vec<Lost>,
    lost: u64,
    lost_kills: u64,
    uncounted: u64,
}

/// One run of the tracer.
#[derive(Debug, Default)]
struct Run {
    node: Option<String>,
    times: Option<(u64, u64)>,
    seqs: Option<(u64, u64)>,
    records: u64,
    /// Whether its records tell when it watched.
    started: bool,
    stopped: bool,
    unaccounted: i64,
}

#[derive(Debug)]
struct Lost {
    time: Option<u64>,
    text: String,
}

impl Coverage {
    pub(super) fn record(&mut self, event: &Event) {
        let head = event.head();
        // Of a kernel log there is no run; what others killed has its place among a run's records.
        if head.source.kind == SourceKind::KernelLog {
            return;
        }
        let run = match self.runs.get_mut(&head.run_id) {
            Some(run) => run,
            None => self.runs.entry(head.run_id.clone()).or_default(),
        };
        if run.node.is_none() {
            run.node = node_name(&head.node);
        }
        run.records += 1;
        let widen = |range: Option<(u64, u64)>, value: u64| {
            let (first, last) = range.unwrap_or((value, value));
            Some((first.min(value), last.max(value)))
        };
        run.seqs = widen(run.seqs, head.seq);
        let time = head.unix_ns();
        if let Some(time) = time {
            run.times = widen(run.times, time);
        }
        match event {
            Event::Status(status) => {
                run.started |= status.phase == Phase::Start;
                run.stopped |= status.phase == Phase::Stop;
                if let Some(counts) = &status.reconciliation {
                    run.unaccounted = counts.unaccounted;
                }
            }
            Event::Loss(loss) => {
                let place = match loss.place {
                    LossPlace::RingBuffer => "the ring buffer was full",
                    LossPlace::KernelLog => "the kernel overwrote its log before it was read",
                    LossPlace::Sink => "too many waited for a sink",
                };
                let what = match loss.lost {
                    Some(lost) => words::count(lost, "record"),
                    None => "an unknown number of records".to_owned(),
                };
                self.lost += loss.lost.unwrap_or(0);
                self.uncounted += u64::from(loss.lost.is_none());
                self.lost_kills += loss.lost_kills;
                let node = run.node.as_deref().unwrap_or("(unknown node)");
                self.losses.push(Lost {
                    time,
                    text: format!(
                        "{node}: {what} lost ({} of them kills): {place}",
                        loss.lost_kills
                    ),
                });
                // Twice as many are sorted out at a time.
                if self.losses.len() > 2 * MOST_LOSSES {
                    self.sort_out();
                }
            }
            _ => {}
        }
    }

    fn sort_out(&mut self) {
        self.losses.sort_by_key(|lost| std::cmp::Reverse(lost.time));
        self.losses.truncate(MOST_LOSSES);
    }

    /// When no tracer watched a node that one watched before and after.
    pub(super) fn unwatched(&self) -> Vec<(&str, u64, u64)> {
        let mut nodes: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for run in self.runs.values() {
            if let (Some(node), Some(times)) = (&run.node, run.times) {
                nodes.entry(node).or_default().push(times);
            }
        }
        let mut gaps = Vec::new();
        for (node, mut runs) in nodes {
            runs.sort_unstable();
            let mut until = None;
            for (first, last) in runs {
                if let Some(until) = until
                    && first > until + SHORT_NS
                {
                    gaps.push((node, until, first));
                }
                until = until.max(Some(last));
            }
        }
        gaps
    }

    /// Whether the records tell when somebody watched.
    pub(super) fn is_told(&self) -> bool {
        self.runs.values().any(|run| run.started)
    }

    /// What is missing, a sentence each; nothing where nothing is known to be.
    pub(super) fn gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        if self.lost > 0 || self.uncounted > 0 {
            let more = if self.uncounted > 0 {
                " and an unknown number of others"
            } else {
                ""
            };
            gaps.push(format!(
                "The tracer lost {}{more}, {} of them kills.",
                words::count(self.lost, "record"),
                self.lost_kills
            ));
        }
        let unaccounted: i64 = self.runs.values().map(|run| run.unaccounted).sum();
        if unaccounted != 0 {
            gaps.push(format!(
                "By the kernel's own counter, {unaccounted} more kills happened than were seen or \
                 declared lost."
            ));
        }
        let (mut missing, mut runs) = (0, 0);
        for run in self.runs.values() {
            let Some((first, last)) = run.seqs else {
                continue;
            };
            let holes = (last - first + 1).saturating_sub(run.records);
            missing += holes;
            runs += u64::from(holes > 0);
        }
        if missing > 0 {
            gaps.push(format!(
                "{} of {} that were written are not in the input: a file is missing, or it was filtered.",
                words::count(missing, "record"),
                words::count(runs, "run"),
            ));
        }
        gaps.extend(self.times_unwatched());
        gaps
    }

    /// How often and how long nodes were not watched, a sentence a node.
    fn times_unwatched(&self) -> Vec<String> {
        let mut nodes: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for (node, from, until) in self.unwatched() {
            nodes.entry(node).or_default().push((until - from, from));
        }
        let seconds = |ns: u64| words::duration(i64::try_from(ns / 1_000_000_000).unwrap_or(0));
        let mut lines: Vec<String> = nodes
            .iter()
            .take(MOST_NODES)
            .filter_map(|(node, times)| {
                let (longest, from) = times.iter().max()?;
                let all = times.iter().map(|(length, _)| length).sum();
                let from = words::minute(*from);
                Some(match times.len() {
                    1 => format!("{node} was not watched for {} from {from}.", seconds(all)),
                    often => format!(
                        "{node} was not watched {often} times, {} in all; the longest time was {}, from {from}.",
                        seconds(all),
                        seconds(*longest)
                    ),
                })
            })
            .collect();
        if nodes.len() > MOST_NODES {
            let rest = (nodes.len() - MOST_NODES) as u64;
            lines.push(format!(
                "And {} were not watched at times.",
                words::count(rest, "more node")
            ));
        }
        lines
    }

    /// The newest losses.
    pub(super) fn losses(&self) -> Vec<String> {
        let mut losses: Vec<&Lost> = self.losses.iter().collect();
        losses.sort_by_key(|lost| std::cmp::Reverse(lost.time));
        let when = |lost: &Lost| {
            lost.time
                .map_or_else(|| "at an unknown time".to_owned(), words::second)
        };
        losses
            .iter()
            .take(MOST_LOSSES)
            .map(|lost| format!("{}  {}", when(lost), lost.text))
            .collect()
    }
}
