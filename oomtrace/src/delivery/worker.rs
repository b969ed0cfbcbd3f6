//! Sends what waits for one sink, until it has got it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::{Item, SinkSettings, queue::Queue};
use crate::{backoff::Backoff, sink::Failure};

/// What was refused is kept up to this, twice.
const ASIDE_BYTES: u64 = 1 << 20;

/// Delivers until told to end.
pub fn run(queue: &Queue, name: u64, settings: &SinkSettings) {
    let mut sink = settings.target.open();
    let mut backoff = Backoff::default();
    let mut failing = false;
    while let Some(batch) = queue.take(name) {
        let mut rest = &batch.items[..];
        // Fewer once some were refused, to find out which.
        let mut size = rest.len();
        while !rest.is_empty() {
            size = size.min(rest.len());
            match sink.send(&rest[..size]) {
                Ok(()) => {
                    queue.done(&batch, size, false);
                    rest = &rest[size..];
                    size *= 2;
                    backoff.reset();
                    if std::mem::take(&mut failing) {
                        tracing::info!("sink {}: works again", settings.name);
                    }
                }
                Err(Failure::Refused(why)) if size == 1 => {
                    tracing::warn!("sink {}: an event is set aside: {why}", settings.name);
                    set_aside(settings, &rest[0]);
                    queue.done(&batch, 1, true);
                    rest = &rest[1..];
                    size = rest.len();
                }
                Err(Failure::Refused(_)) => size = size.div_ceil(2),
                Err(Failure::Later { why, after }) => {
                    // Said once, not at every attempt.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("sink {}: {why}; trying again", settings.name);
                    }
                    let wait = backoff.next_wait().max(after.unwrap_or_default());
                    if !queue.failed(name, &why, wait) {
                        queue.give_back(&batch, rest);
                        return;
                    }
                }
            }
        }
        drop(batch);
        if !queue.waits() {
            sink.rest();
        }
    }
}

/// Keeps what the receiver will never take, beside the spool.
fn set_aside(settings: &SinkSettings, item: &Item) {
    let Some(spool) = &settings.limits.spool else {
        return;
    };
    if let Err(error) = keep(&spool.folder.join("refused.jsonl"), item) {
        tracing::warn!("{}: refused.jsonl: {error}", spool.folder.display());
    }
}

fn keep(path: &Path, item: &Item) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() + item.len() as u64 > ASIDE_BYTES) {
        fs::rename(path, path.with_extension("jsonl.1"))?;
    }
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).mode(0o600).open(path)?;
    file.write_all(&[item, &b"\n"[..]].concat())
}
