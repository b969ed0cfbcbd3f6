//! Kernel logs named on the command line.

use std::{
    cell::{Cell, RefCell},
    io::{self, Read},
    path::Path,
};

use anyhow::Result;

use super::{events::shown, progress::Progress};
use crate::{
    event::Event,
    incident::{Importer, Problem},
    kernel_log::{Dates, LogReader, Totals},
};

/// Troubles that are told one by one; of more, the number.
const TOLD: u64 = 20;

/// Reads kernel logs, and tells on standard error what could not be read.
pub(super) struct Logs {
    pub(super) importer: Importer,
    dates: Dates,
    quiet: bool,
    /// What could not be read, and how much of it was told.
    pub(super) troubles: u64,
    pub(super) told: u64,
    /// Reports without an end, and lines that should have been readable.
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
        input: impl Read,
        progress: &mut Progress,
        take: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        let name = shown(file);
        let over = Cell::new(false);
        let mut result = Ok(());
        let progress = RefCell::new(progress);
        let Self {
            importer,
            dates,
            quiet,
            troubles,
            told,
            cut,
        } = self;
        let totals = LogReader::new(*dates).read(
            Until { input, over: &over },
            |bytes| progress.borrow_mut().read(bytes),
            &mut |found| {
                importer.take(
                    found,
                    &mut |event| {
                        if result.is_ok() {
                            result = take(event);
                            over.set(result.is_err());
                        }
                    },
                    &mut |line, problem| {
                        *troubles += 1;
                        *cut += u64::from(problem != Problem::Imitation);
                        if !*quiet && *told < TOLD {
                            *told += 1;
                            progress.borrow_mut().clear();
                            let what = match problem {
                                Problem::NoVictim => "a report that ends before it names a victim",
                                Problem::Imitation => "not the kernel's: a program wrote this line",
                                Problem::Broken => "this line is cut off or garbled",
                            };
                            anstream::eprintln!("oomtrace: {name}:{line}: {what}");
                        }
                    },
                );
            },
        );
        result?;
        let totals = totals?;
        if !self.quiet {
            progress.borrow_mut().clear();
            tell(&name, &totals);
        }
        Ok(())
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
