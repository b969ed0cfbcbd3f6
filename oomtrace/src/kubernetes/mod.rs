//! Whose container was it: names, owners, requests and limits for the pods and containers that
//! cgroup paths name.
//!
//! Sources (the container runtime, the kubelet, the API server, files on disk) run on a thread of
//! their own and feed a cache, so that a kill is answered at once from what is known by then. A
//! kill that could not be answered in full is asked about once, and what is learnt within ten
//! seconds follows as a record of its own.
//!
//! The cache and everything that reads what sources send are functions of values; sockets and
//! files are in [`source`].

mod ask;
pub mod cache;
mod eviction;
pub mod facts;
pub mod pod;
pub mod quantity;
pub mod source;

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc};

use cache::Cache;
use facts::{ContainerFacts, PodFacts, Source};

use crate::{
    event::{self, Eviction, NodeCondition, PodSource, PodSourceState, boottime_ns},
    incident::{Directory, Evicted, Known, News, Question},
    process,
};

/// Kills that are asked about at the same time.
const MOST_QUESTIONS: usize = 64;
/// Evictions that wait to be told.
const MOST_EVICTIONS: usize = 1024;

/// Which sources to use.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Look for sources where they usually are.
    pub find: bool,
    /// The container runtime's socket.
    pub cri: Option<PathBuf>,
    /// The kubelet, as `https://HOST:10250`.
    pub kubelet: Option<String>,
    /// How to reach the API server, where that is not told by the pod this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// This node's name in the API.
    pub node_name: Option<String>,
    /// The labels that are kept.
    pub labels: Vec<String>,
    /// How often a source is asked that does not tell of changes by itself.
    pub period: Duration,
}

/// What is known of pods and containers, shared between the tracer and the sources.
#[derive(Debug, Default)]
pub struct Pods {
    cache: Mutex<Cache>,
    /// The cache has changed.
    changed: Notify,
    /// A pod or a container is there that the kubelet has not told of yet.
    new_pod: Notify,
    /// Pods that were evicted, and that nobody has been told of.
    evicted: Mutex<VecDeque<(Box<str>, Eviction)>>,
    /// There is one.
    new_eviction: Notify,
}

impl Pods {
    /// The cache. Held for moments only, and never while anything is waited for.
    pub fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Cache, u64) -> bool) {
        let new = change(&mut self.cache(), boottime_ns());
        self.changed.notify_waiters();
        if new {
            self.new_pod.notify_one();
        }
    }

    /// A source tells of a pod in full, with its status. Returns whether the pod is new.
    fn put_whole(
        &self,
        source: Source,
        (facts, containers): (PodFacts, Vec<ContainerFacts>),
        eviction: Option<Eviction>,
    ) -> bool {
        let key = facts.key.clone();
        let mut cache = self.cache();
        // What the first list has was so before this program began.
        let news = cache.knows_statuses() && !cache.is_evicted(&key);
        let new = cache.whole_pod(source, facts, containers, boottime_ns());
        drop(cache);
        self.changed.notify_waiters();
        if let Some(eviction) = eviction.filter(|_| news) {
            let mut evicted = self.evicted();
            if evicted.len() < MOST_EVICTIONS {
                evicted.push_back((key, eviction));
            }
            drop(evicted);
            self.new_eviction.notify_one();
        }
        new
    }

    /// Pods that were evicted, and that nobody has been told of.
    fn evicted(&self) -> MutexGuard<'_, VecDeque<(Box<str>, Eviction)>> {
        self.evicted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a pod was evicted that nobody has been told of.
    async fn any_evicted(&self) {
        while self.evicted().is_empty() {
            self.new_eviction.notified().await;
        }
    }

    /// The first of them; with the node's conditions, where they are known.
    fn first_evicted(
        &self,
        waiting: &mut VecDeque<(Box<str>, Eviction)>,
        node_conditions: Option<Vec<NodeCondition>>,
    ) -> Option<News> {
        let (key, eviction) = waiting.pop_front()?;
        let (pod, enrichment) = self.cache().pod_of(&key, boottime_ns());
        Some(News::Evicted(Box::new(Evicted {
            pod,
            eviction,
            node_conditions,
            enrichment: Some(enrichment),
        })))
    }

    /// A source has been found.
    fn found(&self, source: Source, address: String) {
        let health = cache::Health {
            address,
            state: PodSourceState::Starting,
            answered_ns: None,
            error: None,
        };
        self.cache().set_health(source, health);
    }

    /// A source has answered.
    fn answered(&self, source: Source) {
        if let Some(health) = self.cache().health_mut(source) {
            health.answered_ns = Some(boottime_ns());
        }
    }

    /// A source has told all it knows since a generation began; the rest has gone.
    fn told_all(&self, source: Source, generation: u64) {
        self.put(|cache, now_ns| {
            cache.end(source, generation, now_ns);
            false
        });
        self.live(source);
    }

    /// A source answers.
    fn live(&self, source: Source) {
        if let Some(health) = self.cache().health_mut(source) {
            if health.state != PodSourceState::Live {
                tracing::info!("pods: {} at {}", source.name(), health.address);
            }
            health.state = PodSourceState::Live;
            health.answered_ns = Some(boottime_ns());
            health.error = None;
        }
    }

    /// A source does not answer.
    fn failed(&self, source: Source, error: &str) {
        if let Some(health) = self.cache().health_mut(source) {
            // Said once, not at every attempt.
            if health.error.as_deref() != Some(error) {
                tracing::warn!("pods: {} at {}: {error}", source.name(), health.address);
            }
            health.state = PodSourceState::Failed;
            health.error = Some(error.to_owned());
        }
    }

    /// The sources and how they are doing.
    pub fn status(&self) -> event::Kubernetes {
        self.cache().status(boottime_ns())
    }
}

impl Directory for Pods {
    fn look_up(&self, path: &[u8], cut: bool) -> Known {
        let known = self.cache().answer(path, cut, boottime_ns());
        known.unwrap_or_else(|| Known::from_path(path, cut))
    }
}

/// The sources at work.
#[derive(Debug)]
pub struct Kubernetes {
    /// What they have found out.
    pub pods: Arc<Pods>,
    questions: mpsc::Sender<Arc<Question>>,
    answers: mpsc::Receiver<News>,
    /// What was asked and is not answered.
    open: Vec<Arc<Question>>,
}

impl Kubernetes {
    /// Looks for sources and starts them, on a thread of their own. `None` where there are none.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(options: Options) -> io::Result<Option<Self>> {
        let pods = Arc::<Pods>::default();
        let plan = source::Plan::of(options, &pods);
        // One that cannot be used is told of, too.
        if pods.status().sources.is_empty() {
            return Ok(None);
        }
        let (questions, to_answer) = mpsc::channel(MOST_QUESTIONS);
        let (answered, answers) = mpsc::channel(MOST_QUESTIONS);
        let shared = Arc::clone(&pods);
        process::thread("oomtrace-pods", move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(plan.run(shared, to_answer, answered)),
                Err(error) => tracing::error!(%error, "no event loop for the sources of pods"),
            }
        })?;
        Ok(Some(Self {
            pods,
            questions,
            answers,
            open: Vec::new(),
        }))
    }

    /// Waits until every source has answered or failed, but not longer than this.
    pub fn settle(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let starting = |source: &PodSource| source.state == PodSourceState::Starting;
        while self.pods.status().sources.iter().any(starting) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks about a kill; never waits. What is learnt comes from [`next`](Self::next). Returns
    /// whether it will be.
    pub fn ask(&mut self, question: Question) -> bool {
        let question = Arc::new(question);
        let asked = self.questions.try_send(Arc::clone(&question)).is_ok();
        self.open.extend(asked.then_some(question));
        asked
    }

    /// What the sources tell next; pends for ever when the sources have ended.
    pub async fn next(&mut self) -> News {
        match self.answers.recv().await {
            Some(news) => self.received(news),
            None => std::future::pending().await,
        }
    }

    /// Whether there is more to come of what has already happened.
    pub fn awaits_more(&self) -> bool {
        !self.open.is_empty() || !self.pods.evicted().is_empty()
    }

    /// What has happened and was not told, with what is known of it by now.
    pub fn rest(&mut self) -> Vec<News> {
        let mut rest = Vec::new();
        let mut waiting = self.pods.evicted();
        while let Some(news) = self.pods.first_evicted(&mut waiting, None) {
            rest.push(news);
        }
        drop(waiting);
        while let Ok(news) = self.answers.try_recv() {
            rest.push(self.received(news));
        }
        let open = self.open.drain(..);
        rest.extend(open.map(|question| ask::answered(&self.pods, question)));
        rest
    }

    fn received(&mut self, news: News) -> News {
        if let News::Answered(answered) = &news {
            self.open
                .retain(|question| !Arc::ptr_eq(question, &answered.question));
        }
        news
    }
}
