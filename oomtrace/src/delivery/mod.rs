//! Delivery: records in, any number of sinks out, each at its own pace.
//!
//! The tracer hands records over and never waits. A thread puts each into the queues of the sinks
//! that want it; a thread a sink takes from its queue and sends. So a sink that is slow or dead holds
//! up nobody else. A queue is on disk (see [`spool`]) or in bounded memory; what does not fit is
//! counted, and told by a `loss` record.
//!
//! Queues on disk are served first: a record that a queue in memory has got, as that of standard
//! output, is in all spools.

mod inlet;
pub mod queue;
pub mod spool;
mod worker;

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    ops::AddAssign,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    event::{Event, SinkStatus},
    filter::{Filter, Wanted},
    process::thread,
    sink::Target,
};
use inlet::{Inlet, Message};
use queue::{Limits, Queue};

/// A record as JSON, without a newline; shared by all queues it is in.
pub type Item = Arc<[u8]>;

/// How often a stopping program looks whether all is delivered.
const LOOK: Duration = Duration::from_millis(2);

/// Whether a record is a kill: its kind stands first.
fn is_kill(record: &[u8]) -> bool {
    record.starts_with(br#"{"kind":"oom_kill""#)
}

/// Takes what is oldest, until there are `most`, or `most_bytes` are reached. Returns the bytes, too.
fn take_some<T>(
    from: &mut VecDeque<T>,
    most: usize,
    most_bytes: usize,
    size: impl Fn(&T) -> usize,
) -> (Vec<T>, usize) {
    let mut taken = Vec::new();
    let mut bytes = 0;
    while taken.len() < most
        && bytes < most_bytes
        && let Some(next) = from.pop_front()
    {
        bytes += size(&next);
        taken.push(next);
    }
    (taken, bytes)
}

/// How much was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Records.
    pub records: u64,
    /// How many of them were kills.
    pub kills: u64,
}

impl AddAssign for Lost {
    fn add_assign(&mut self, more: Self) {
        self.records += more.records;
        self.kills += more.kills;
    }
}

/// What a sink lost.
#[derive(Clone, Debug)]
pub struct SinkLoss {
    /// Its name.
    pub sink: String,
    /// Since this was last told.
    pub lost: Lost,
    /// Records, in this run.
    pub total: u64,
}

/// A sink, as the configuration wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkSettings {
    /// Its name.
    pub name: String,
    /// Which records it gets.
    pub filter: Filter,
    /// How much may wait for it.
    pub limits: Limits,
    /// Where it sends, and how.
    pub target: Target,
}

/// A sink at work.
struct Outlet {
    settings: SinkSettings,
    queue: Arc<Queue>,
    wanted: Option<Wanted>,
    worker: JoinHandle<()>,
    /// It is no longer wanted, and delivers what it has.
    leaving: bool,
}

/// What the thread that fills the queues shares with the tracer.
#[derive(Debug, Default)]
struct Shared {
    inlet: Inlet,
    /// Name, type and queue of each sink.
    sinks: Mutex<Vec<(String, &'static str, Arc<Queue>)>>,
    /// Something was lost.
    lost: Notify,
}

/// All sinks.
#[derive(Debug)]
pub struct Delivery {
    shared: Arc<Shared>,
    /// When it ends it leaves the workers.
    thread: JoinHandle<Vec<JoinHandle<()>>>,
}

/// The sinks, to be looked at from another thread.
#[derive(Clone, Debug)]
pub struct Sinks(Arc<Shared>);

impl Sinks {
    /// How they are doing.
    pub fn status(&self) -> Vec<SinkStatus> {
        let sinks = self.0.sinks();
        let status = sinks
            .iter()
            .map(|(name, kind, queue)| queue.status(name, kind));
        status.collect()
    }
}

/// What a sink had not got when it was stopped.
#[derive(Debug)]
pub struct Left {
    /// Its name.
    pub sink: String,
    /// Records.
    pub records: u64,
    /// Whether they are on disk, for the next run.
    pub spooled: bool,
    /// Why.
    pub error: Option<String>,
}

impl fmt::Display for Left {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sink, records, .. } = self;
        write!(
            formatter,
            "sink {sink}: {records} records are not delivered"
        )?;
        if self.spooled {
            write!(formatter, "; they wait on disk")?;
        }
        match &self.error {
            Some(error) => write!(formatter, ": {error}"),
            None => Ok(()),
        }
    }
}

impl Delivery {
    /// Starts the sinks.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(sinks: Vec<SinkSettings>) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let outlets = outlets(&shared, sinks, Vec::new())?;
        let theirs = Arc::clone(&shared);
        let thread = thread("oomtrace-sinks", move || run(&theirs, outlets))?;
        Ok(Self { shared, thread })
    }

    /// Hands a record over: JSON, without a newline. Never waits.
    pub fn push(&self, record: &[u8]) {
        self.shared.inlet.push(Message::Record(spool::item(record)));
    }

    /// Whether more records should be handed over.
    pub fn has_room(&self) -> bool {
        self.shared.inlet.has_room()
    }

    /// Whether all that was handed over is in the queues.
    pub fn is_idle(&self) -> bool {
        self.shared.inlet.is_idle()
    }

    /// Waits until some of what was handed over is in the queues.
    pub async fn moved(&self) {
        self.shared.inlet.moved().await;
    }

    /// How many bytes more all queues hold without losing anything, once they have got all that was
    /// handed over.
    pub fn room(&self) -> Option<usize> {
        if !self.shared.inlet.is_idle() {
            return None;
        }
        let sinks = self.shared.sinks();
        Some(
            sinks
                .iter()
                .map(|(_, _, queue)| queue.room())
                .min()
                .unwrap_or(usize::MAX),
        )
    }

    /// Whether nothing waits anywhere.
    pub fn is_empty(&self) -> bool {
        self.shared.inlet.is_idle()
            && !self
                .shared
                .sinks()
                .iter()
                .any(|(_, _, queue)| queue.waits())
    }

    /// Goes on with other sinks, after all that was handed over so far. Those that stay as they are
    /// notice nothing; those of the same name keep their queue.
    pub fn reload(&self, sinks: Vec<SinkSettings>) {
        self.shared.inlet.push(Message::Sinks(sinks));
    }

    /// Waits until a sink has lost something.
    pub async fn lost(&self) -> Vec<SinkLoss> {
        loop {
            let lost = self.take_lost();
            if !lost.is_empty() {
                return lost;
            }
            self.shared.lost.notified().await;
        }
    }

    /// What was lost since this was last asked.
    pub fn take_lost(&self) -> Vec<SinkLoss> {
        let sinks = self.shared.sinks();
        let lost = sinks.iter().filter_map(|(name, _, queue)| {
            let (lost, total) = queue.take_lost()?;
            Some(SinkLoss {
                sink: name.clone(),
                lost,
                total,
            })
        });
        lost.collect()
    }

    /// The sinks, to be looked at.
    pub fn sinks(&self) -> Sinks {
        Sinks(Arc::clone(&self.shared))
    }

    /// Ends when all is delivered, or after so long. Tells what is not.
    pub fn close(self, patience: Option<Duration>) -> Vec<Left> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let in_time = || deadline.is_none_or(|deadline| Instant::now() < deadline);
        self.shared.inlet.close();
        while !self.thread.is_finished() && in_time() {
            std::thread::sleep(LOOK);
        }
        let workers = if self.thread.is_finished() {
            self.thread.join().unwrap_or_default()
        } else {
            Vec::new()
        };
        let sinks = self.shared.sinks().clone();
        for (_, _, queue) in &sinks {
            queue.close();
        }
        // A file may still be packed when all is delivered.
        while in_time() && workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(LOOK);
        }
        sinks
            .iter()
            .map(|(name, kind, queue)| queue.status(name, kind))
            .filter(|status| status.waiting > 0)
            .map(|status| Left {
                sink: status.name,
                records: status.waiting,
                spooled: status.spooled && status.spool_error.is_none(),
                error: status.error,
            })
            .collect()
    }
}

impl Shared {
    fn sinks(&self) -> std::sync::MutexGuard<'_, Vec<(String, &'static str, Arc<Queue>)>> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills the queues until nothing more comes.
fn run(shared: &Arc<Shared>, mut outlets: Vec<Outlet>) -> Vec<JoinHandle<()>> {
    while let Some(messages) = shared.inlet.take() {
        let mut records = Vec::with_capacity(messages.len());
        for message in messages {
            match message {
                Message::Record(record) => records.push(record),
                Message::Sinks(sinks) => {
                    fill(&mut outlets, &std::mem::take(&mut records));
                    match self::outlets(shared, sinks, outlets) {
                        Ok(new) => outlets = new,
                        Err(error) => {
                            tracing::error!("the sinks cannot be started: {error}");
                            return Vec::new();
                        }
                    }
                }
            }
        }
        fill(&mut outlets, &records);
        for outlet in &outlets {
            outlet.queue.sync();
        }
        shared.lost.notify_one();
    }
    outlets.into_iter().map(|outlet| outlet.worker).collect()
}

fn fill(outlets: &mut [Outlet], records: &[Item]) {
    if records.is_empty() {
        return;
    }
    // Read once for all filters, and only if there is one.
    let mut events: Option<Vec<Option<Event>>> = None;
    for outlet in outlets.iter_mut().filter(|outlet| !outlet.leaving) {
        let Some(wanted) = &mut outlet.wanted else {
            outlet.queue.push(records);
            continue;
        };
        let events = events.get_or_insert_with(|| {
            let read = |record: &Item| serde_json::from_slice(record).ok();
            records.iter().map(read).collect()
        });
        let chosen: Vec<_> = records
            .iter()
            .zip(events)
            .filter(|(_, event)| event.as_ref().is_some_and(|event| wanted.has(event)))
            .map(|(record, _)| Item::clone(record))
            .collect();
        if !chosen.is_empty() {
            outlet.queue.push(&chosen);
        }
    }
}

/// The sinks that are wanted, from those that are there.
fn outlets(
    shared: &Arc<Shared>,
    sinks: Vec<SinkSettings>,
    old: Vec<Outlet>,
) -> io::Result<Vec<Outlet>> {
    let mut old: HashMap<_, _> = old
        .into_iter()
        .map(|outlet| (outlet.settings.name.clone(), outlet))
        .collect();
    let mut new = Vec::new();
    for settings in sinks {
        let before = old.remove(&settings.name);
        if let Some(outlet) = &before {
            outlet.queue.set_limits(settings.limits.clone());
        }
        new.push(match before {
            Some(outlet) if outlet.settings.target == settings.target && !outlet.leaving => {
                Outlet {
                    // Kills that an unchanged filter has seen stay known to it.
                    wanted: if outlet.settings.filter == settings.filter {
                        outlet.wanted
                    } else {
                        wanted(&settings)
                    },
                    settings,
                    ..outlet
                }
            }
            Some(outlet) => begin(settings, outlet.queue, Some(outlet.worker))?,
            None => {
                let queue = Arc::new(Queue::new(settings.limits.clone()));
                begin(settings, queue, None)?
            }
        });
    }
    // Those that are no longer wanted deliver what they have, and may come back.
    for outlet in old.into_values() {
        outlet.queue.close();
        if !outlet.worker.is_finished() {
            new.push(Outlet {
                leaving: true,
                ..outlet
            });
        }
    }
    new.sort_by_key(|outlet| outlet.settings.limits.spool.is_none());
    *shared.sinks() = new
        .iter()
        .filter(|outlet| !outlet.leaving)
        .map(|outlet| {
            let settings = &outlet.settings;
            (
                settings.name.clone(),
                settings.target.kind(),
                Arc::clone(&outlet.queue),
            )
        })
        .collect();
    Ok(new)
}

fn wanted(settings: &SinkSettings) -> Option<Wanted> {
    (!settings.filter.is_empty()).then(|| Wanted::new(settings.filter.clone()))
}

fn begin(
    settings: SinkSettings,
    queue: Arc<Queue>,
    before: Option<JoinHandle<()>>,
) -> io::Result<Outlet> {
    let name = queue.new_worker();
    let (theirs, clone) = (Arc::clone(&queue), settings.clone());
    let worker = thread(&format!("oomtrace-{}", settings.name), move || {
        // Two would send at the same time.
        if let Some(before) = before {
            let _ = before.join();
        }
        worker::run(&theirs, name, &clone);
    })?;
    Ok(Outlet {
        wanted: wanted(&settings),
        settings,
        queue,
        worker,
        leaving: false,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config::{Config, Time};

    fn sinks(folder: &Path, sinks: &str) -> Vec<SinkSettings> {
        let spool = folder.join("spool");
        let text = format!("[spool]\ndirectory = {spool:?}\n{sinks}");
        Config::parse(&text, &[], "test").unwrap().sinks
    }

    /// A sink that was taken away while its receiver was dead has kept what it had, and delivers it
    /// when it comes back.
    #[test]
    fn a_sink_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not-yet/events");
        let file = format!("[sinks.file]\ntype = \"file\"\npath = {path:?}\n");
        let other = "[sinks.other]\ntype = \"journald\"\nsocket = \"/nowhere\"\nspool = false\n";
        let delivery = Delivery::start(sinks(folder.path(), &file)).unwrap();
        delivery.push(b"{\"n\":1}");
        delivery.reload(sinks(folder.path(), other));
        delivery.reload(sinks(folder.path(), &format!("{file}keep = 3\n")));
        delivery.push(b"{\"n\":2}");
        fs::create_dir(folder.path().join("not-yet")).unwrap();
        let left = delivery.close(Some(Time::seconds(60).0));
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(fs::read_to_string(path).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
    }
}
