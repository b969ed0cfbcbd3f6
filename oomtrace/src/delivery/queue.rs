//! What waits for one sink: on disk where it has a spool, and in bounded memory where it has none,
//! or where the disk does not take it.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Item, Lost, is_kill, spool::Spool, take_some};
use crate::event::{SinkState, SinkStatus};

/// How long a disk that fails is left alone.
const DISK_AGAIN: Duration = Duration::from_secs(2);
/// Records that are handed to a sink at once, at most.
const BATCH: usize = 512;
/// Bytes that are, unless one record is longer.
const BATCH_BYTES: usize = 256 << 10;

/// Where a spool is, and how large it may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// Its folder.
    pub folder: PathBuf,
    /// Its bound.
    pub most_bytes: u64,
    /// Whether records are to survive a loss of power.
    pub sync: bool,
}

/// How much may wait for a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// On disk; `None` for memory alone.
    pub spool: Option<SpoolSettings>,
    /// In memory.
    pub memory_bytes: usize,
}

/// The queue of one sink.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    spool: Option<Spool>,
    disk_again: Option<Instant>,
    disk_error: Option<String>,
    memory: VecDeque<Item>,
    memory_bytes: usize,
    /// Which worker may take; others end.
    worker: u64,
    /// Nothing more will come.
    closed: bool,
    /// What a worker holds.
    taken: usize,
    /// Since when a worker has been trying to deliver what it holds.
    trying: Option<Instant>,
    error: Option<String>,
    delivered: u64,
    retries: u64,
    set_aside: u64,
    lost: Lost,
    /// Of these, what nobody was told of yet.
    untold: Lost,
}

/// What a worker is to deliver.
#[derive(Debug)]
pub struct Batch {
    /// Oldest first.
    pub items: Vec<Item>,
    spooled: bool,
}

impl Queue {
    /// An empty one, or what its spool holds.
    pub fn new(limits: Limits) -> Self {
        let mut state = State {
            limits,
            spool: None,
            disk_again: None,
            disk_error: None,
            memory: VecDeque::new(),
            memory_bytes: 0,
            worker: 0,
            closed: false,
            taken: 0,
            trying: None,
            error: None,
            delivered: 0,
            retries: 0,
            set_aside: 0,
            lost: Lost::default(),
            untold: Lost::default(),
        };
        state.open_spool();
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts records behind all others. Never fails: what there is no room for is counted.
    pub fn push(&self, records: &[Item]) {
        let mut state = self.state();
        state.push(records);
        drop(state);
        self.changed.notify_all();
    }

    /// Makes what was pushed survive a loss of power, where that is asked for.
    pub fn sync(&self) {
        let state = self.state();
        let wanted = state.limits.spool.as_ref().is_some_and(|spool| spool.sync);
        let file = state
            .spool
            .as_ref()
            .filter(|_| wanted)
            .and_then(Spool::to_sync);
        // That takes its time, and the worker need not wait for it.
        drop(state);
        if let Some(file) = file
            && let Err(error) = file.sync_data()
        {
            self.state().disk_failed(&error);
        }
    }

    /// Whether something waits.
    pub fn waits(&self) -> bool {
        let state = self.state();
        state.taken > 0 || state.unread() > 0
    }

    /// How much more memory takes, in bytes; a spool makes room by itself.
    pub fn room(&self) -> usize {
        let state = self.state();
        match &state.spool {
            Some(spool) if state.disk_error.is_none() => {
                let most = state
                    .limits
                    .spool
                    .as_ref()
                    .map_or(0, |limits| limits.most_bytes);
                usize::try_from(most.saturating_sub(spool.bytes())).unwrap_or(usize::MAX)
            }
            _ => state.limits.memory_bytes.saturating_sub(state.memory_bytes),
        }
    }

    /// Changes what it holds at most.
    pub fn set_limits(&self, limits: Limits) {
        let mut state = self.state();
        if state.limits == limits {
            return;
        }
        state.limits = limits;
        let most_bytes = state.limits.spool.as_ref().map(|spool| spool.most_bytes);
        match (most_bytes, &mut state.spool) {
            (Some(most_bytes), Some(spool)) => spool.set_bound(most_bytes),
            _ => {
                state.disk_again = None;
                state.open_spool();
            }
        }
    }

    /// From now on this worker takes, and the others end. Returns its name.
    pub fn new_worker(&self) -> u64 {
        let mut state = self.state();
        state.closed = false;
        state.worker += 1;
        let worker = state.worker;
        drop(state);
        self.changed.notify_all();
        worker
    }

    /// Nothing more will come: workers end when all is delivered.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Takes what is oldest, as soon as there is something; `None` when the worker is to end.
    pub fn take(&self, worker: u64) -> Option<Batch> {
        let mut state = self.state();
        loop {
            if state.worker != worker {
                return None;
            }
            if let Some(batch) = state.take() {
                state.taken = batch.items.len();
                state.trying = Some(Instant::now());
                return Some(batch);
            }
            if state.closed {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The oldest `count` of what was taken are delivered, or were set aside.
    pub fn done(&self, batch: &Batch, count: usize, set_aside: bool) {
        let mut state = self.state();
        if batch.spooled
            && let Some(spool) = &mut state.spool
        {
            spool.delivered(count as u64);
        }
        state.taken = state.taken.saturating_sub(count);
        if set_aside {
            state.set_aside += count as u64;
        } else {
            state.delivered += count as u64;
            state.error = None;
        }
        state.trying = (state.taken > 0).then(Instant::now);
        drop(state);
        self.changed.notify_all();
    }

    /// The sink fails. Waits before the next try; false when the worker is to end.
    pub fn failed(&self, worker: u64, error: &str, wait: Duration) -> bool {
        let mut state = self.state();
        state.retries += 1;
        state.error = Some(error.to_owned());
        let until = Instant::now() + wait;
        while state.worker == worker {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            (state, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        false
    }

    /// A worker that ends gives back what it could not deliver.
    pub fn give_back(&self, batch: &Batch, rest: &[Item]) {
        let mut state = self.state();
        state.taken = 0;
        state.trying = None;
        if !batch.spooled {
            for item in rest.iter().rev() {
                state.memory_bytes += item.len();
                state.memory.push_front(Item::clone(item));
            }
        } else if let Some(spool) = &mut state.spool {
            let lost = spool.rewind();
            state.lose(lost);
        }
    }

    /// How it is doing.
    pub fn status(&self, name: &str, kind: &str) -> SinkStatus {
        let state = self.state();
        SinkStatus {
            name: name.to_owned(),
            kind: kind.to_owned(),
            state: match state.error {
                Some(_) => SinkState::Failing,
                None => SinkState::Working,
            },
            error: state.error.clone(),
            waiting: state.unread() + state.taken as u64,
            waiting_bytes: state.memory_bytes as u64 + state.spool.as_ref().map_or(0, Spool::bytes),
            trying_ms: state
                .trying
                .map(|since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)),
            delivered: state.delivered,
            retries: state.retries,
            set_aside: state.set_aside,
            lost: state.lost.records,
            spooled: state.spool.is_some(),
            spool_error: state.disk_error.clone(),
        }
    }

    /// What was lost since this was last asked, and ever.
    pub fn take_lost(&self) -> Option<(Lost, u64)> {
        let mut state = self.state();
        let untold = std::mem::take(&mut state.untold);
        (untold.records > 0).then(|| (untold, state.lost.records))
    }
}

impl State {
    fn open_spool(&mut self) {
        let Some(settings) = &self.limits.spool else {
            self.spool = None;
            return;
        };
        if self.disk_again.is_some_and(|again| Instant::now() < again) {
            return;
        }
        match Spool::open(&settings.folder, settings.most_bytes) {
            Ok((spool, lost)) => {
                self.spool = Some(spool);
                (self.disk_again, self.disk_error) = (None, None);
                self.lose(lost);
            }
            Err(error) => self.disk_failed(&error),
        }
    }

    fn disk_failed(&mut self, error: &std::io::Error) {
        let folder = self
            .limits
            .spool
            .as_ref()
            .map(|spool| spool.folder.display());
        let said = folder.map_or_else(String::new, |folder| format!("{folder}: {error}"));
        // Said once, not at every attempt.
        if self.disk_error.as_ref() != Some(&said) {
            tracing::warn!("{said}; what is to be delivered is kept in memory for now");
        }
        self.disk_error = Some(said);
        self.disk_again = Some(Instant::now() + DISK_AGAIN);
    }

    fn lose(&mut self, lost: Lost) {
        self.lost += lost;
        self.untold += lost;
    }

    fn unread(&self) -> u64 {
        self.memory.len() as u64 + self.spool.as_ref().map_or(0, Spool::unread)
    }

    fn push(&mut self, records: &[Item]) {
        let not_now = |again: Instant| Instant::now() < again;
        if self.limits.spool.is_none() || self.disk_again.is_some_and(not_now) {
            self.remember(records);
        } else {
            if self.spool.is_none() {
                self.open_spool();
            }
            // Memory comes after the disk: what waits there goes first.
            if !self.memory.is_empty() {
                let (first, second) = self.memory.as_slices();
                let waiting = [first, second].concat();
                if self.write_down(&waiting) {
                    self.memory = VecDeque::new();
                    self.memory_bytes = 0;
                }
            }
            if !self.memory.is_empty() || !self.write_down(records) {
                self.remember(records);
            }
        }
    }

    /// Whether the disk took them.
    fn write_down(&mut self, records: &[Item]) -> bool {
        let Some(spool) = &mut self.spool else {
            return false;
        };
        match spool.append(records) {
            Ok(lost) => {
                (self.disk_again, self.disk_error) = (None, None);
                self.lose(lost);
                true
            }
            Err(error) => {
                self.disk_failed(&error);
                false
            }
        }
    }

    fn remember(&mut self, records: &[Item]) {
        for record in records {
            self.memory_bytes += record.len();
            self.memory.push_back(Item::clone(record));
            if self.memory_bytes <= self.limits.memory_bytes {
                continue;
            }
            // Some at once, as a spool does: the record that tells of it needs room, too.
            let fine = self.limits.memory_bytes / 8 * 7;
            while self.memory_bytes > fine
                && self.memory.len() > 1
                && let Some(oldest) = self.memory.pop_front()
            {
                self.memory_bytes -= oldest.len();
                self.lose(Lost {
                    records: 1,
                    kills: is_kill(&oldest).into(),
                });
            }
        }
    }

    fn take(&mut self) -> Option<Batch> {
        if let Some(spool) = &mut self.spool {
            match spool.read(BATCH, BATCH_BYTES) {
                Ok((items, lost)) => {
                    self.lose(lost);
                    if !items.is_empty() {
                        return Some(Batch {
                            items,
                            spooled: true,
                        });
                    }
                }
                Err(error) => self.disk_failed(&error),
            }
        }
        let (items, bytes) = take_some(&mut self.memory, BATCH, BATCH_BYTES, |item| item.len());
        self.memory_bytes -= bytes;
        (!items.is_empty()).then_some(Batch {
            items,
            spooled: false,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    fn record(number: usize) -> Item {
        let kind = if number.is_multiple_of(2) {
            "oom_kill"
        } else {
            "status"
        };
        Item::from(format!("{{\"kind\":\"{kind}\",\"n\":{number:01000}}}").as_bytes())
    }

    fn limits(spool: Option<PathBuf>) -> Limits {
        Limits {
            spool: spool.map(|folder| SpoolSettings {
                folder,
                most_bytes: 64 << 10,
                sync: true,
            }),
            memory_bytes: 64 << 10,
        }
    }

    /// All that waits, delivered.
    fn drained(queue: &Queue) -> Vec<Item> {
        let worker = queue.new_worker();
        queue.close();
        let mut all = Vec::new();
        while let Some(batch) = queue.take(worker) {
            all.extend(batch.items.iter().map(Item::clone));
            queue.done(&batch, batch.items.len(), false);
        }
        all
    }

    /// At its bound, in memory or on disk, a queue gives up the oldest, counts them exactly, and then
    /// has room for the record that tells of it: to tell of a loss does not cause the next.
    #[test]
    fn the_bound() {
        let folder = tempfile::tempdir().unwrap();
        for spool in [None, Some(folder.path().join("spool"))] {
            let queue = Queue::new(limits(spool));
            let (mut lost, mut told) = (Lost::default(), 0);
            for number in 0..500 {
                queue.push(&[record(number)]);
                while let Some((more, total)) = queue.take_lost() {
                    lost += more;
                    told += 1;
                    assert_eq!(total, lost.records);
                    assert!(queue.room() > 6 << 10, "{} after {number}", queue.room());
                }
            }
            let status = queue.status("s", "t");
            assert_eq!(
                (status.waiting + lost.records, status.lost),
                (500, lost.records)
            );
            assert!(lost.kills.abs_diff(lost.records / 2) <= told, "{lost:?}");
            assert!(told > 10 && told < 100, "{told}");
            let left = drained(&queue);
            let first = usize::try_from(lost.records).unwrap();
            assert_eq!(left, (first..500).map(record).collect::<Vec<_>>());
            assert!(!queue.waits());
        }
    }

    /// While the disk does not work, records wait in memory; they go to the disk when it works again,
    /// in their order.
    #[test]
    fn the_disk_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().join("spool");
        fs::write(&spool, "no folder").unwrap();
        let queue = Queue::new(limits(Some(spool.clone())));
        queue.push(&[record(0)]);
        let status = queue.status("s", "t");
        assert!(!status.spooled && status.waiting == 1, "{status:?}");
        assert!(status.spool_error.is_some_and(|why| why.contains("spool")));
        fs::remove_file(&spool).unwrap();
        queue.state().disk_again = None;
        queue.push(&[record(1)]);
        let status = queue.status("s", "t");
        assert!(status.spooled && status.spool_error.is_none(), "{status:?}");
        drop(queue);
        let queue = Queue::new(limits(Some(spool)));
        assert_eq!(drained(&queue), [record(0), record(1)]);
    }

    /// A worker that is replaced gives back what it has not delivered, from memory and from disk.
    #[test]
    fn given_back() {
        let folder = tempfile::tempdir().unwrap();
        for spool in [None, Some(folder.path().join("spool"))] {
            let queue = Queue::new(limits(spool));
            queue.push(&(0..5).map(record).collect::<Vec<_>>());
            let worker = queue.new_worker();
            let batch = queue.take(worker).unwrap();
            queue.done(&batch, 2, false);
            queue.new_worker();
            assert!(!queue.failed(worker, "no", Duration::from_secs(60)));
            queue.give_back(&batch, &batch.items[2..]);
            assert_eq!(drained(&queue), (2..5).map(record).collect::<Vec<_>>());
        }
    }
}
