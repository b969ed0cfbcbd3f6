//! `oomtrace explain`: events to pages for people.

use std::{
    collections::VecDeque,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};

use super::{Color, events::Count};
use crate::{
    event::{Event, OomKill, Role},
    format::{self, Decision},
};

const AFTER_HELP: &str = "\
A page has what happened, the ranking of the candidates with what their points are made of, why it
was this one, what would have spared it, and commands to look further. All victims of one decision
are on one page; pods that the kubelet evicted and cgroups that systemd-oomd killed have pages, too.
It needs no privileges and no access to the node.

Examples:
  oomtrace trace --format json | oomtrace explain         a page for every kill, as it happens
  oomtrace explain /var/log/oomtrace.jsonl | less         what happened in the night
  grep payments-api /var/log/oomtrace.jsonl | oomtrace explain
  kubectl -n monitoring logs ds/oomtrace | oomtrace explain
  dmesg | oomtrace explain                                what happened before it was installed

Kernel logs are known by their content and read as by `oomtrace import`, whose options for dates they may
need: oomtrace import --year 2026 kern.log --format json | oomtrace explain

Lines that are no event are named on standard error and passed over; one event may also be spread
over several lines, as `jq` prints it.

Exit status: 0 when something could be read, 1 when nothing could, 2 for wrong usage.";

/// Decisions that wait for the rest of their victims and outcomes.
const MOST_OPEN: usize = 64;

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Event logs and kernel logs, packed or not, and directories of event logs; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,

    /// When to use colours
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    color: Color,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let stdout = io::stdout();
    let width = super::terminal_size(&stdout).map_or(*format::WIDTH.end(), |(width, _)| width);
    let color = args.color.on(&stdout);
    let mut out = stdout.lock();
    let mut book = Book {
        open: VecDeque::new(),
        write: |page: &Page| {
            out.write_all(page.text(width, color).as_bytes())?;
            out.flush()
        },
    };
    let mut count = Count::default();
    let mut pages = 0_u64;
    count.read(&args.files, &mut |event, _| {
        if let Some(event) = event {
            pages += u64::from(has_page(&event));
            book.take(event).context("standard output")?;
        }
        Ok(())
    })?;
    book.close()?;
    count.any()?;
    if pages == 0 {
        anstream::eprintln!("oomtrace: no OOM kill in {} records", count.events);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether there is something to explain.
const fn has_page(event: &Event) -> bool {
    matches!(
        event,
        Event::OomKill(_) | Event::OomMark(_) | Event::PodEviction(_) | Event::UserspaceKill(_)
    )
}

/// What a page is about: a decision of the kernel, or what somebody else did.
#[derive(Default)]
struct Page {
    decision: Decision,
    other: Option<Event>,
}

impl Page {
    fn text(&self, width: usize, color: bool) -> String {
        match &self.other {
            Some(event) => format::page_of_other(event, width, color),
            None => format::page(&self.decision, width, color),
        }
    }

    fn is_complete(&self) -> bool {
        self.other.is_some() || is_complete(&self.decision)
    }
}

/// The pages that are not written yet, in the order they came; those of decisions by their id.
struct Book<W> {
    open: VecDeque<(String, Page)>,
    write: W,
}

impl<W: FnMut(&Page) -> io::Result<()>> Book<W> {
    fn take(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::OomKill(kill) => self.decision(&kill.oom_id).kills.push(*kill),
            Event::OomMark(mark) => self.decision(&mark.oom_id).marks.push(*mark),
            Event::OomOutcome(outcome) => {
                // The page of its kill may have been written, or the kill is not in the input.
                if let Some(decision) = self.find(&outcome.oom_id) {
                    decision.outcomes.push(*outcome);
                }
            }
            Event::Enrichment(late) => {
                if let Some(decision) = self.find(&late.oom_id) {
                    let mut kills = decision.kills.iter_mut().chain(&mut decision.marks);
                    if let Some(kill) = kills.find(|kill| kill.head.event_id == late.head.event_id)
                    {
                        kill.enrich(*late);
                    }
                }
            }
            Event::PodEviction(_) | Event::UserspaceKill(_) => {
                let page = Page {
                    other: Some(event),
                    ..Page::default()
                };
                self.open.push_back((String::new(), page));
            }
            Event::Loss(_) | Event::Status(_) => {}
        }
        while self.open.len() > MOST_OPEN
            || self
                .open
                .front()
                .is_some_and(|(_, page)| page.is_complete())
        {
            self.write_first()?;
        }
        Ok(())
    }

    fn find(&mut self, id: &str) -> Option<&mut Decision> {
        let mut open = self.open.iter_mut();
        let (_, page) = open.find(|(open, _)| open == id)?;
        Some(&mut page.decision)
    }

    fn decision(&mut self, id: &str) -> &mut Decision {
        let at = self.open.iter().position(|(open, _)| open == id);
        let at = at.unwrap_or_else(|| {
            self.open.push_back((id.to_owned(), Page::default()));
            self.open.len() - 1
        });
        &mut self.open[at].1.decision
    }

    fn write_first(&mut self) -> io::Result<()> {
        match self.open.pop_front() {
            Some((_, page)) => (self.write)(&page),
            None => Ok(()),
        }
    }

    fn close(mut self) -> io::Result<()> {
        while !self.open.is_empty() {
            self.write_first()?;
        }
        Ok(())
    }
}

/// Whether nothing more will come: all victims are there, what became of each, and whose they were.
fn is_complete(decision: &Decision) -> bool {
    let Decision {
        kills,
        marks,
        outcomes,
    } = decision;
    let counted = |kill: &&OomKill| kill.victim.role != Some(Role::MmSharer);
    let number = kills.iter().filter(counted).count() + marks.len();
    let count = kills
        .iter()
        .chain(marks)
        .find_map(|kill| kill.oom.victim_count);
    let there = count.is_some_and(|count| number >= count as usize);
    let told = |kill: &OomKill| {
        // Without this hook there are no outcomes.
        let mut hooks = kill.head.source.hooks.iter();
        !hooks.any(|hook| hook == "raw_tp:sched_process_exit")
            || outcomes
                .iter()
                .any(|outcome| outcome.victim_event_id == kill.head.event_id)
    };
    let known = |kill: &OomKill| {
        let enrichment = kill.enrichment.as_ref();
        enrichment.is_none_or(|enrichment| enrichment.complete)
    };
    there
        && kills
            .iter()
            .chain(marks)
            .all(|kill| told(kill) && known(kill))
}
