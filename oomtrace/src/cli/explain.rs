//! `oomtrace explain`: events to pages for people.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Color;
use crate::{
    event::{Enrichment, Event, LateEnrichment, OomKill, Role},
    format::{self, Decision},
};

const AFTER_HELP: &str = "\
A page has what happened, the ranking of the candidates with what their points are made of, why it
was this one, what would have spared it, and commands to look further. All victims of one decision
are on one page. It needs no privileges and no access to the node.

Examples:
  oomtrace trace --format json | oomtrace explain         a page for every kill, as it happens
  oomtrace explain /var/log/oomtrace.jsonl | less         what happened in the night
  grep payments-api /var/log/oomtrace.jsonl | oomtrace explain
  kubectl -n monitoring logs ds/oomtrace | oomtrace explain

Lines that are no event are named on standard error and passed over; one event may also be spread
over several lines, as `jq` prints it.

Exit status: 0 when something could be read, 1 when nothing could, 2 for wrong usage.";

/// Decisions that wait for the rest of their victims and outcomes.
const MOST_OPEN: usize = 64;
/// An event is not longer than this.
const MOST_BYTES: usize = 8 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Events as `oomtrace trace --format json` writes them; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,

    /// When to use colours
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    color: Color,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let stdout = io::stdout();
    let width = rustix::termios::tcgetwinsize(&stdout)
        .map_or(*format::WIDTH.end(), |size| usize::from(size.ws_col));
    let color = args.color.on(&stdout);
    let mut out = stdout.lock();
    let mut book = Book {
        open: VecDeque::new(),
        write: |decision: &Decision| {
            out.write_all(format::page(decision, width, color).as_bytes())?;
            out.flush()
        },
    };
    let read = read(open(&args.file)?, &mut |event| book.take(event))?;
    book.close()?;
    if read.events == 0 {
        anstream::eprintln!("oomtrace: no event was read from {}", args.file.display());
        return Ok(ExitCode::FAILURE);
    }
    if read.kills == 0 {
        anstream::eprintln!("oomtrace: no OOM kill in {} records", read.events);
    }
    Ok(ExitCode::SUCCESS)
}

fn open(file: &Path) -> Result<Box<dyn BufRead>> {
    if file.as_os_str() == "-" {
        if io::stdin().is_terminal() {
            anstream::eprintln!("oomtrace: reading events from the terminal; end with Ctrl-D");
        }
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    /// Records of all kinds.
    events: u64,
    /// Kills and marks among them.
    kills: u64,
}

/// Reads events: JSON objects, each on a line of its own or spread over several. What is something
/// else is named on standard error and passed over.
fn read(mut input: impl BufRead, take: &mut impl FnMut(Event) -> io::Result<()>) -> Result<Count> {
    let mut count = Count::default();
    let mut pending = Pending::default();
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX);
        let length = input
            .by_ref()
            .take(most)
            .read_until(b'\n', &mut line)
            .context("reading")?;
        if length == 0 {
            pending.give_up();
            break;
        }
        match pending.add(&line, number) {
            Found::Nothing => {}
            Found::Other => count.events += 1,
            Found::Event(event) => {
                count.events += 1;
                count.kills += u64::from(matches!(*event, Event::OomKill(_) | Event::OomMark(_)));
                take(*event).context("standard output")?;
            }
        }
    }
    Ok(count)
}

/// The beginning of an object that is spread over several lines.
#[derive(Default)]
struct Pending {
    text: Vec<u8>,
    first_line: u64,
}

/// What a line was, or ended.
enum Found {
    /// Nothing yet, or nothing that can be read.
    Nothing,
    /// A record that is not explained.
    Other,
    /// An event.
    Event(Box<Event>),
}

/// What an object must have to be a record.
#[derive(Deserialize)]
struct Kind {
    kind: String,
}

impl Pending {
    fn add(&mut self, line: &[u8], number: u64) -> Found {
        let text = line.trim_ascii();
        let begins = self.text.is_empty();
        if begins {
            if text.is_empty() {
                return Found::Nothing;
            }
            if !text.starts_with(b"{") {
                complain(number, "not a JSON object");
                return Found::Nothing;
            }
            self.first_line = number;
        }
        self.text.extend_from_slice(line);
        // Only here can an object end.
        if !text.ends_with(b"}") && self.text.len() < MOST_BYTES {
            return Found::Nothing;
        }
        match parse(&self.text) {
            Ok(found) => {
                self.text.clear();
                found
            }
            Err(error) if error.is_eof() && self.text.len() < MOST_BYTES => Found::Nothing,
            Err(error) => {
                self.text.clear();
                complain(self.first_line, &error.to_string());
                // The line may be an event of its own, after one that was cut off.
                if begins {
                    Found::Nothing
                } else {
                    self.add(line, number)
                }
            }
        }
    }

    fn give_up(&self) {
        if !self.text.is_empty() {
            complain(self.first_line, "it ends within a JSON object");
        }
    }
}

fn parse(text: &[u8]) -> serde_json::Result<Found> {
    let Kind { kind } = serde_json::from_slice(text)?;
    Ok(match kind.as_str() {
        "oom_kill" | "oom_mark" | "oom_outcome" | "enrichment" => {
            Found::Event(Box::new(serde_json::from_slice(text)?))
        }
        _ => Found::Other,
    })
}

fn complain(line: u64, what: &str) {
    // It may quote the input.
    anstream::eprintln!("oomtrace: line {line}: {}", what.escape_debug());
}

/// The decisions whose page is not written yet, in the order they came.
struct Book<W> {
    open: VecDeque<(String, Decision)>,
    write: W,
}

impl<W: FnMut(&Decision) -> io::Result<()>> Book<W> {
    fn take(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::OomKill(kill) => self.decision(&kill.oom_id).kills.push(*kill),
            Event::OomMark(mark) => self.decision(&mark.oom_id).marks.push(*mark),
            Event::OomOutcome(outcome) => {
                // The page of its kill may have been written, or the kill is not in the input.
                let mut open = self.open.iter_mut();
                if let Some((_, decision)) = open.find(|(id, _)| *id == outcome.oom_id) {
                    decision.outcomes.push(*outcome);
                }
            }
            Event::Enrichment(late) => {
                let LateEnrichment {
                    head,
                    victim,
                    trigger,
                    enrichment,
                    ..
                } = *late;
                let mut kills = self
                    .open
                    .iter_mut()
                    .flat_map(|(_, decision)| decision.kills.iter_mut().chain(&mut decision.marks));
                if let Some(kill) = kills.find(|kill| kill.head.event_id == head.event_id) {
                    let held = kill.victim.container.take();
                    (kill.victim.container, kill.victim.pod) = (victim.container, victim.pod);
                    // These the kernel told at the kill.
                    if let (Some(container), Some(held)) = (&mut kill.victim.container, held) {
                        container.memory_usage_bytes = held.memory_usage_bytes;
                        container.memory_limit_bytes = held.memory_limit_bytes;
                    }
                    (kill.trigger.container, kill.trigger.pod) = (trigger.container, trigger.pod);
                    // Nothing more will come, whether that is all or not.
                    kill.enrichment = Some(Enrichment {
                        complete: true,
                        ..enrichment
                    });
                }
            }
            Event::Loss(_) | Event::Status(_) => {}
        }
        while self.open.len() > MOST_OPEN
            || self
                .open
                .front()
                .is_some_and(|(_, decision)| is_complete(decision))
        {
            self.write_first()?;
        }
        Ok(())
    }

    fn decision(&mut self, id: &str) -> &mut Decision {
        let at = self.open.iter().position(|(open, _)| open == id);
        let at = at.unwrap_or_else(|| {
            self.open.push_back((id.to_owned(), Decision::default()));
            self.open.len() - 1
        });
        &mut self.open[at].1
    }

    fn write_first(&mut self) -> io::Result<()> {
        match self.open.pop_front() {
            Some((_, decision)) => (self.write)(&decision),
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
