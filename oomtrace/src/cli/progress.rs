//! How far reading files has come, on a terminal, when it takes longer than a second.

use std::{
    fs,
    io::{self, IsTerminal, Read, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(200);

/// The bar.
pub(super) struct Progress {
    /// Bytes of the files as they are, and how many of those have been read.
    total: Option<u64>,
    packed: Arc<AtomicU64>,
    text: u64,
    started: Instant,
    shown: Option<Instant>,
    on: bool,
}

impl Progress {
    pub(super) fn new(files: &[PathBuf], quiet: bool) -> Self {
        let size = |file: &PathBuf| {
            let data = fs::metadata(file).ok().filter(|_| file != Path::new("-"))?;
            data.is_file().then_some(data.len())
        };
        Self {
            total: files.iter().map(size).sum(),
            packed: Arc::default(),
            text: 0,
            started: Instant::now(),
            shown: None,
            on: !quiet && io::stderr().is_terminal(),
        }
    }

    /// Where the bytes of the files are counted.
    pub(super) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.packed)
    }

    /// So many more bytes of text were read.
    pub(super) fn read(&mut self, bytes: usize) {
        self.text += bytes as u64;
        if !self.on || self.started.elapsed() < PATIENCE {
            return;
        }
        if self.shown.is_some_and(|shown| shown.elapsed() < EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let seconds = self.started.elapsed().as_secs_f64();
        let (text, rate) = (self.text as f64 / 1e6, self.text as f64 / 1e6 / seconds);
        let share = self.total.filter(|total| *total > 0).map(|total| {
            let percent = (self.packed.load(Relaxed) * 100 / total).min(100);
            let full = usize::try_from(percent / 5).unwrap_or(0);
            format!("[{:<20}] {percent:3} %  ", "=".repeat(full))
        });
        let share = share.unwrap_or_default();
        let line = format!("\r{share}{text:.0} MB  {rate:.0} MB/s\x1b[K");
        let _ = io::stderr().write_all(line.as_bytes());
    }

    /// Takes the bar away.
    pub(super) fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// Counts what is read.
pub(super) struct Counted<R> {
    input: R,
    count: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    pub(super) const fn new(input: R, count: Arc<AtomicU64>) -> Self {
        Self { input, count }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}
