//! Kernel logs named on the command line.

use std::{
    cell::{Cell, RefCell},
    io::{self, Read},
    mem,
    panic::resume_unwind,
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use anyhow::Result;

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
        input: impl Read + Send,
        progress: &mut Progress,
        take: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        let name = shown(file);
        let Self {
            importer,
            dates,
            quiet,
            troubles,
            told,
            cut,
        } = self;
        let (dates, quiet) = (*dates, *quiet);
        let (send, batches) = sync_channel(AHEAD);
        // What was read last is made records of while more is read.
        let (result, totals) = thread::scope(|scope| {
            let reader = scope.spawn(move || read_ahead(dates, input, &send));
            let mut result = Ok(());
            for Batch { bytes, found } in &batches {
                progress.read(bytes);
                for found in found {
                    importer.take(
                        found,
                        &mut |event| {
                            if result.is_ok() {
                                result = take(event);
                            }
                        },
                        &mut |line, problem| {
                            *troubles += 1;
                            *cut += u64::from(problem != Problem::Imitation);
                            if !quiet && *told < TOLD {
                                *told += 1;
                                progress.clear();
                                let what = match problem {
                                    Problem::NoVictim => {
                                        "a report that ends before it names a victim"
                                    }
                                    Problem::Imitation => {
                                        "not the kernel's: a program wrote this line"
                                    }
                                    Problem::Broken => "this line is cut off or garbled",
                                };
                                anstream::eprintln!("oomtrace: {name}:{line}: {what}");
                            }
                        },
                    );
                }
                if result.is_err() {
                    break;
                }
            }
            drop(batches);
            (result, reader.join())
        });
        let totals = totals.unwrap_or_else(|panic| resume_unwind(panic));
        result?;
        let totals = totals?;
        self.cut += u64::from(totals.binary);
        if !self.quiet {
            progress.clear();
            tell(&name, &totals);
        }
        Ok(())
    }
}

/// What a piece of a log tells.
#[derive(Default)]
struct Batch {
    /// How long the piece is.
    bytes: usize,
    found: Vec<Found>,
}

/// Reads a log to its end, or until nobody wants more.
fn read_ahead(dates: Dates, input: impl Read, send: &SyncSender<Batch>) -> io::Result<Totals> {
    let over = Cell::new(false);
    let batch = RefCell::new(Batch::default());
    let hand_over = |next| {
        let found = mem::take(&mut batch.borrow_mut().found);
        let bytes = mem::replace(&mut batch.borrow_mut().bytes, next);
        if send.send(Batch { bytes, found }).is_err() {
            over.set(true);
        }
    };
    let input = Until { input, over: &over };
    let totals = LogReader::new(dates).read(input, hand_over, &mut |found| {
        batch.borrow_mut().found.push(found);
    });
    hand_over(0);
    totals
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
