//! Kernel logs named on the command line.

use std::{
    cell::{Cell, RefCell},
    io::{self, Read},
    panic::resume_unwind,
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use anyhow::{Context, Result};

use super::{
    events::{TOLD, shown},
    progress::Progress,
};
use crate::{
    event::Event,
    incident::{Importer, Problem},
    kernel_log::{Dates, Found, LogReader, Totals},
};

/// Batches that the reader may be ahead: memory is bounded by what so much of a log can tell.
const AHEAD: usize = 2;

/// Reads kernel logs, and tells on standard error what could not be read.
pub(super) struct Logs {
    pub(super) importer: Importer,
    dates: Dates,
    quiet: bool,
    /// What could not be read, and how much of it was told.
    pub(super) troubles: u64,
    pub(super) told: u64,
    /// Reports without an end, and lines that should have been readable; files that are no text.
    pub(super) cut: u64,
}

impl Logs {
    pub(super) const fn new(importer: Importer, dates: Dates, quiet: bool) -> Self {
        Self {
            importer,
            dates,
            quiet,
            troubles: 0,
            told: 0,
            cut: 0,
        }
    }

    /// Reads one log, to its end or to the first error of `take`.
    pub(super) fn read(
        &mut self,
        file: &Path,
        input: impl Read + Send + 'static,
        progress: &mut Progress,
        take: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        let name = shown(file);
        let dates = self.dates;
        let (send, batches) = sync_channel(AHEAD);
        // What was read last is made records of while more is read. Where nobody wants more, the
        // reader may be waiting for input, and is not waited for.
        let reader = thread::Builder::new()
            .spawn(move || read_ahead(dates, input, &send))
            .context("starting a thread that reads")?;
        for Batch { bytes, found } in batches {
            progress.read(bytes);
            for found in found {
                let mut result = Ok(());
                self.importer.take(
                    found,
                    &mut |event| {
                        if result.is_ok() {
                            result = take(event);
                        }
                    },
                    &mut |line, problem| {
                        self.troubles += 1;
                        self.cut += u64::from(problem != Problem::Imitation);
                        if !self.quiet && self.told < TOLD {
                            self.told += 1;
                            progress.clear();
                            anstream::eprintln!("oomtrace: {name}:{line}: {}", what(problem));
                        }
                    },
                );
                result?;
            }
        }
        let totals = reader.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        self.cut += u64::from(totals.binary);
        if !self.quiet {
            progress.clear();
            tell(&name, &totals);
        }
        Ok(())
    }
}

/// What a piece of a log tells.
struct Batch {
    /// How long the piece is.
    bytes: usize,
    found: Vec<Found>,
}

/// Reads a log to its end, or until nobody wants more.
fn read_ahead(dates: Dates, input: impl Read, send: &SyncSender<Batch>) -> io::Result<Totals> {
    let over = Cell::new(false);
    let found = RefCell::new(Vec::new());
    let hand_over = |bytes| {
        let found = found.take();
        if send.send(Batch { bytes, found }).is_err() {
            over.set(true);
        }
    };
    let input = Until { input, over: &over };
    let totals = LogReader::new(dates).read(input, hand_over, &mut |it| {
        found.borrow_mut().push(it);
    });
    // What the end of the input completes.
    hand_over(0);
    totals
}

/// What could not be read, in words.
const fn what(problem: Problem) -> &'static str {
    match problem {
        Problem::NoVictim => "a report that ends before it names a victim",
        Problem::Imitation => "not the kernel's: a program wrote this line",
        Problem::Broken => "this line is cut off or garbled",
    }
}

/// What is unsure about a whole log.
fn tell(name: &str, totals: &Totals) {
    if totals.dates_without_year > 0 {
        anstream::eprintln!(
            "oomtrace: {name}: its dates have no year, so the time of kills is unknown; `oomtrace import --year` gives it"
        );
    } else if totals.dates_without_zone > 0 {
        anstream::eprintln!(
            "oomtrace: {name}: its dates have no zone; `oomtrace import --utc-offset` gives it, else they are UTC"
        );
    }
    if totals.binary {
        anstream::eprintln!("oomtrace: {name}: this is no text; is it a log?");
    }
    if totals.long_lines > 0 {
        anstream::eprintln!(
            "oomtrace: {name}: {} lines of more than 64 KiB, of which the front was read",
            totals.long_lines
        );
    }
}

/// An input that ends when nobody wants more.
struct Until<'a, R> {
    input: R,
    over: &'a Cell<bool>,
}

impl<R: Read> Read for Until<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.over.get() {
            return Ok(0);
        }
        self.input.read(buffer)
    }
}
