//! `oomtrace show`: the events of event logs, filtered.

use std::{
    collections::{HashSet, VecDeque},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::{
    Color,
    events::{self, Count, moment},
};
use crate::{
    cgroup::QosClass,
    event::{Event, OomKill, Pod, Scope, VerdictCode},
    event_log::like,
    format::Format,
};

const AFTER_HELP: &str = "\
Options that are given more than once want any of their values; different options want all of them.
Names may have `*` for any text and `?` for any character. An outcome is shown with its kill.

Examples:
  oomtrace show /var/log/oomtrace.jsonl --since 2h
  oomtrace show /var/log/oomtrace --namespace prod --pod 'payments-*'
  oomtrace show 'events.jsonl*' --kind oom_kill --format csv > kills.csv
  oomtrace show events.jsonl --scope node --format json | oomtrace explain
  oomtrace show --follow /var/log/oomtrace.jsonl

Files may be packed by gzip, xz or zstd. The files of a rotated set are read oldest first. Lines that
are no event are named on standard error and passed over.

Exit status: 0 when something could be read, 1 when nothing could, 2 for wrong usage.";

/// Kills whose outcome is waited for.
const MOST_AWAITED: usize = 10_000;

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Event logs and kernel logs, packed or not, and directories of event logs; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,

    /// How events are written [default: pretty on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// When to use colours in the pretty format
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    color: Color,

    /// Wait for more at the end of the last file, also when it is rotated
    #[arg(short, long)]
    follow: bool,

    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which events")]
struct Filter {
    /// At or after this time: RFC 3339, `YYYY-MM-DD[ HH:MM[:SS]]` in UTC, or how long ago (2h, 3d)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<u64>,

    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<u64>,

    /// Of this kind
    #[arg(long, value_enum, ignore_case = true, value_name = "KIND")]
    kind: Vec<Kind>,

    /// The victim's pod is in this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Vec<String>,

    /// The victim's pod has this name or uid
    #[arg(long, value_name = "NAME")]
    pod: Vec<String>,

    /// The victim's pod is of this QoS class
    #[arg(long, value_enum, ignore_case = true, value_name = "CLASS")]
    qos: Vec<QosClass>,

    /// The victim has this name
    #[arg(long, value_name = "NAME")]
    comm: Vec<String>,

    /// Whose limit was hit
    #[arg(long, value_enum, ignore_case = true, value_name = "SCOPE")]
    scope: Vec<Scope>,

    /// The verdict's code
    #[arg(long, value_enum, ignore_case = true, value_name = "CODE")]
    verdict: Vec<VerdictCode>,
}

/// A kind of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Kind {
    /// A process was killed.
    OomKill,
    /// A task that was exiting was marked.
    OomMark,
    /// What became of a victim.
    OomOutcome,
    /// What became known of a kill later.
    Enrichment,
    /// The kubelet evicted a pod.
    PodEviction,
    /// A program killed a cgroup.
    UserspaceKill,
    /// Records were lost.
    Loss,
    /// The tracer itself.
    Status,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let stdout = io::stdout();
    let format = args.format.unwrap_or_else(|| Format::of(&stdout));
    let color = args.color.on(&stdout);
    let mut out = BufWriter::with_capacity(256 << 10, stdout.lock());
    let mut bytes = Vec::new();
    format.begin(&mut bytes);
    let mut wanted = Wanted::new(&args.filter);
    // Who watches wants each event at once.
    let live = args.follow || args.files.iter().any(|file| file == Path::new("-"));
    let mut take = |event: Option<Event>, text: &[u8]| -> Result<()> {
        if event.as_ref().is_some_and(|event| wanted.has(event))
            || event.is_none() && args.filter.is_empty()
        {
            match (format, &event) {
                // As it stands in the log, with what a later version may have put there.
                (Format::Json, _) => compact(text, &mut bytes),
                (_, Some(event)) => format.write(event, color, &mut bytes),
                (_, None) => {}
            }
        }
        out.write_all(&bytes).context("standard output")?;
        bytes.clear();
        if live {
            out.flush().context("standard output")?;
        }
        Ok(())
    };
    let mut count = Count::default();
    if args.follow {
        let mut files = events::files(&args.files)?;
        let last = files.pop().context("there is no file to follow")?;
        if last == Path::new("-") {
            bail!("--follow: standard input is read as it comes, without it");
        }
        if !files.is_empty() {
            count.read(&files, &mut take)?;
        }
        count.follow(&last, &mut take)?;
    } else {
        count.read(&args.files, &mut take)?;
    }
    out.write_all(&bytes).context("standard output")?;
    out.flush().context("standard output")?;
    if wanted.without_time > 0 {
        anstream::eprintln!(
            "oomtrace: {} records without a time, which --since and --until leave out",
            wanted.without_time
        );
    }
    count.any()?;
    Ok(ExitCode::SUCCESS)
}

/// A JSON text on one line.
fn compact(text: &[u8], out: &mut Vec<u8>) {
    let (mut quoted, mut escaped) = (false, false);
    for byte in text.trim_ascii() {
        if quoted || !byte.is_ascii_whitespace() {
            out.push(*byte);
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    out.push(b'\n');
}

impl Filter {
    /// Whether it wants everything.
    const fn is_empty(&self) -> bool {
        let Self {
            since, until, kind, ..
        } = self;
        since.is_none() && until.is_none() && kind.is_empty() && !self.is_of_victims()
    }

    /// Whether it asks for something that only kills have.
    const fn is_of_victims(&self) -> bool {
        let Self {
            since: _,
            until: _,
            kind: _,
            namespace,
            pod,
            qos,
            comm,
            scope,
            verdict,
        } = self;
        !(namespace.is_empty()
            && pod.is_empty()
            && qos.is_empty()
            && comm.is_empty()
            && scope.is_empty()
            && verdict.is_empty())
    }

    /// Whether it wants this kill of the kernel's.
    fn has(&self, kill: &OomKill) -> bool {
        let victim = &kill.victim;
        let code = kill.verdict.as_ref().and_then(|verdict| verdict.code);
        self.has_pod(victim.pod.as_ref())
            && named(&self.comm, &[victim.comm.as_ref()])
            && any(&self.scope, kill.oom.scope)
            && any(&self.verdict, code)
    }

    /// Whether it wants what somebody else killed: that has a pod, and nothing else to ask for.
    fn has_other(&self, pod: Option<&Pod>) -> bool {
        self.comm.is_empty()
            && self.scope.is_empty()
            && self.verdict.is_empty()
            && self.has_pod(pod)
    }

    fn has_pod(&self, pod: Option<&Pod>) -> bool {
        let name = pod.and_then(|pod| pod.name.as_ref());
        named(
            &self.namespace,
            &[pod.and_then(|pod| pod.namespace.as_ref())],
        ) && named(&self.pod, &[name, pod.map(|pod| &pod.uid)])
            && any(&self.qos, pod.and_then(|pod| pod.qos_class))
    }
}

/// Whether one of the names is wanted; all are where no pattern is given.
fn named(patterns: &[String], names: &[Option<&String>]) -> bool {
    patterns.is_empty()
        || patterns
            .iter()
            .any(|pattern| names.iter().flatten().any(|name| like(pattern, name)))
}

/// Whether a value is one of those that are wanted; all are where none is named.
fn any<T: PartialEq>(wanted: &[T], value: Option<T>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.contains(&value))
}

/// What is wanted, and the kills whose outcome is.
struct Wanted<'a> {
    filter: &'a Filter,
    awaited: HashSet<String>,
    order: VecDeque<String>,
    without_time: u64,
}

impl<'a> Wanted<'a> {
    fn new(filter: &'a Filter) -> Self {
        Self {
            filter,
            awaited: HashSet::new(),
            order: VecDeque::new(),
            without_time: 0,
        }
    }

    fn has(&mut self, event: &Event) -> bool {
        let filter = self.filter;
        let (kind, of_victim) = match event {
            Event::OomKill(kill) => (Kind::OomKill, self.has_victim(kill)),
            Event::OomMark(mark) => (Kind::OomMark, self.has_victim(mark)),
            Event::OomOutcome(outcome) => (
                Kind::OomOutcome,
                !filter.is_of_victims() || self.awaited.contains(&outcome.victim_event_id),
            ),
            Event::Enrichment(late) => (
                Kind::Enrichment,
                !filter.is_of_victims() || self.awaited.contains(&late.head.event_id),
            ),
            Event::PodEviction(eviction) => {
                (Kind::PodEviction, filter.has_other(Some(&eviction.pod)))
            }
            Event::UserspaceKill(kill) => (
                Kind::UserspaceKill,
                filter.has_other(kill.whose.pod.as_ref()),
            ),
            Event::Loss(_) => (Kind::Loss, !filter.is_of_victims()),
            Event::Status(_) => (Kind::Status, !filter.is_of_victims()),
        };
        of_victim && any(&filter.kind, Some(kind)) && self.in_time(event)
    }

    fn has_victim(&mut self, kill: &OomKill) -> bool {
        let has = self.filter.has(kill);
        if has && self.filter.is_of_victims() {
            let id = &kill.head.event_id;
            if self.awaited.insert(id.clone()) {
                self.order.push_back(id.clone());
            }
            if self.order.len() > MOST_AWAITED
                && let Some(oldest) = self.order.pop_front()
            {
                self.awaited.remove(&oldest);
            }
        }
        has
    }

    fn in_time(&mut self, event: &Event) -> bool {
        let Filter { since, until, .. } = self.filter;
        if since.is_none() && until.is_none() {
            return true;
        }
        let Some(time) = event.head().unix_ns() else {
            self.without_time += 1;
            return false;
        };
        since.is_none_or(|since| time >= since) && until.is_none_or(|until| time < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Space between the parts of an object goes, space in strings stays.
    #[test]
    fn on_one_line() {
        let mut out = Vec::new();
        compact(
            b"{\n  \"a b\": [1,\n 2],\n \"c\\\" d\": \"e\\\\\" }\n",
            &mut out,
        );
        assert_eq!(out, b"{\"a b\":[1,2],\"c\\\" d\":\"e\\\\\"}\n");
    }
}
