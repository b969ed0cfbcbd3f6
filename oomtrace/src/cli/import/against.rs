//! `--against`: which kills are in the logs, in an event log, or in both.

use std::{
    collections::HashMap,
    io::{self, Write},
    path::Path,
};

use anyhow::Result;

use crate::{
    cli::events::{self, Count},
    event::{Event, OomKill},
    report::count,
};

/// How far the same kill may be apart on two clocks: syslog has whole seconds.
const NEAR_NS: u64 = 2_000_000_000;

/// Kills of an event log, and those of the logs.
pub(super) struct Against {
    name: String,
    known: Vec<Known>,
    /// By the thread id the kernel names.
    by_tid: HashMap<u32, Vec<usize>>,
    only_in_logs: Vec<Known>,
    both: u64,
}

/// What identifies a kill.
struct Known {
    boot_id: Option<String>,
    boot_ns: Option<u64>,
    wall_ns: Option<u64>,
    time: Option<String>,
    tid: Option<u32>,
    comm: Option<String>,
    found: bool,
}

impl Known {
    fn new(kill: &OomKill) -> Self {
        let head = &kill.head;
        let number = |text: &Option<String>| text.as_ref()?.parse().ok();
        Self {
            boot_id: head.node.boot_id.clone(),
            boot_ns: number(&head.boottime_ns),
            wall_ns: number(&head.time_unix_ns),
            time: head.time.clone(),
            tid: kill.victim.tid,
            comm: kill.victim.comm.clone(),
            found: false,
        }
    }

    /// Whether both may be the same kill: nothing that both know differs, but for the clocks, of which
    /// one has to fit.
    fn is(&self, other: &Self) -> bool {
        let differ = |one: &Option<String>, two: &Option<String>| {
            one.as_ref()
                .zip(two.as_ref())
                .is_some_and(|(one, two)| one != two)
        };
        if differ(&self.boot_id, &other.boot_id) || differ(&self.comm, &other.comm) {
            return false;
        }
        let near = |one: Option<u64>, two: Option<u64>| {
            one.zip(two).map(|(one, two)| one.abs_diff(two) <= NEAR_NS)
        };
        let boot = near(self.boot_ns, other.boot_ns);
        let wall = near(self.wall_ns, other.wall_ns);
        boot.or(wall).is_none() || boot == Some(true) || wall == Some(true)
    }
}

impl Against {
    /// Reads an event log.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let mut this = Self {
            name: events::shown(file),
            known: Vec::new(),
            by_tid: HashMap::new(),
            only_in_logs: Vec::new(),
            both: 0,
        };
        let mut count = Count::default();
        count.read(&[file.to_owned()], &mut |event, _| {
            if let Some(Event::OomKill(kill)) = event {
                let known = Known::new(&kill);
                if let Some(tid) = known.tid {
                    this.by_tid.entry(tid).or_default().push(this.known.len());
                }
                this.known.push(known);
            }
            Ok(())
        })?;
        anyhow::ensure!(count.events > 0, "{}: no event was read", this.name);
        Ok(this)
    }

    /// A kill of the logs.
    pub(super) fn take(&mut self, kill: &OomKill) {
        let logged = Known::new(kill);
        let same = logged.tid.and_then(|tid| self.by_tid.get(&tid));
        let same = same.into_iter().flatten().copied().find(|at| {
            let known = self.known.get(*at);
            known.is_some_and(|known| !known.found && known.is(&logged))
        });
        match same.and_then(|at| self.known.get_mut(at)) {
            Some(known) => {
                known.found = true;
                self.both += 1;
            }
            None => self.only_in_logs.push(logged),
        }
    }

    /// Says what was found; whether there is a difference.
    pub(super) fn tell(&self, out: &mut impl Write) -> Result<bool> {
        let only_in_events: Vec<_> = self.known.iter().filter(|known| !known.found).collect();
        let mut list = |title: String, kills: &mut dyn Iterator<Item = &Known>| -> io::Result<()> {
            let mut kills = kills.peekable();
            if kills.peek().is_some() {
                writeln!(out, "{title}")?;
            }
            for kill in kills {
                let time = kill.time.clone().or_else(|| {
                    let ns = kill.boot_ns?;
                    Some(format!(
                        "{}.{:06} s after boot",
                        ns / 1_000_000_000,
                        ns / 1000 % 1_000_000
                    ))
                });
                let comm = kill.comm.as_deref().unwrap_or("(unknown)");
                let shown: String = comm.chars().flat_map(char::escape_default).collect();
                let pid = kill.tid.map_or("unknown".to_owned(), |tid| tid.to_string());
                let time = time.unwrap_or("at an unknown time".to_owned());
                writeln!(out, "  {time}  {shown} (pid {pid})")?;
            }
            Ok(())
        };
        list(
            "Only in the logs:".to_owned(),
            &mut self.only_in_logs.iter(),
        )?;
        list(
            format!("Only in {}:", self.name),
            &mut only_in_events.iter().copied(),
        )?;
        writeln!(
            out,
            "{} in both, {} only in the logs, {} only in {}",
            count(self.both, "kill"),
            self.only_in_logs.len(),
            only_in_events.len(),
            self.name
        )?;
        Ok(!self.only_in_logs.is_empty() || !only_in_events.is_empty())
    }
}
