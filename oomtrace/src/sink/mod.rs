//! Where the bytes go.
//!
//! [`Stdout`] is the tracer's own output, written by its own thread. The others are sinks: they take
//! batches from a queue (see [`crate::delivery`]), each on a thread of its own, and may block.

mod file;
#[cfg(feature = "http")]
mod http;
mod journald;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
mod output;
mod stdout;
mod syslog;

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};

pub use file::Settings as File;
#[cfg(feature = "http")]
pub use http::{Preset, Settings as Http};
pub use journald::Settings as Journald;
#[cfg(feature = "kafka")]
pub use kafka::Settings as Kafka;
#[cfg(feature = "nats")]
pub use nats::Settings as Nats;
pub use output::{QUEUE_BYTES, Stdout};
pub use stdout::Settings as Standard;
pub use syslog::Settings as Syslog;

#[cfg(any(feature = "http", feature = "kafka", feature = "nats"))]
use crate::config::Time;
use crate::{delivery::Item, format::Format};

/// Takes records somewhere.
pub trait Sink {
    /// Sends records, oldest first. When it returns they are the receiver's. After an error all are
    /// sent again, those that arrived included.
    ///
    /// # Errors
    /// When they have not all arrived.
    fn send(&mut self, items: &[Item]) -> Result<(), Failure>;

    /// Nothing more waits for now.
    fn rest(&mut self) {}
}

/// Why records have not arrived.
#[derive(Debug)]
pub enum Failure {
    /// It may be different later.
    Later {
        /// What is wrong.
        why: String,
        /// When the receiver wants to be asked again.
        after: Option<Duration>,
    },
    /// The receiver will never take one of them.
    Refused(String),
}

impl Failure {
    fn later(why: impl ToString) -> Self {
        Self::Later {
            why: why.to_string(),
            after: None,
        }
    }
}

/// A sink's own settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Target {
    /// Standard output.
    Stdout(Standard),
    /// A file.
    File(File),
    /// A syslog daemon.
    Syslog(Syslog),
    /// systemd's journal.
    Journald(Journald),
    /// A server that takes batches by HTTP.
    #[cfg(feature = "http")]
    Http(Box<Http>),
    /// A topic of Kafka.
    #[cfg(feature = "kafka")]
    Kafka(Box<Kafka>),
    /// A stream of NATS.
    #[cfg(feature = "nats")]
    Nats(Box<Nats>),
}

impl Target {
    /// The types there are, as the configuration names them.
    pub const KINDS: &[&str] = &[
        "stdout",
        "file",
        "syslog",
        "journald",
        #[cfg(feature = "http")]
        "http",
        #[cfg(feature = "kafka")]
        "kafka",
        #[cfg(feature = "nats")]
        "nats",
    ];

    /// The type, as the configuration names it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Stdout(_) => "stdout",
            Self::File(_) => "file",
            Self::Syslog(_) => "syslog",
            Self::Journald(_) => "journald",
            #[cfg(feature = "http")]
            Self::Http(_) => "http",
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => "kafka",
            #[cfg(feature = "nats")]
            Self::Nats(_) => "nats",
        }
    }

    /// How it writes records.
    pub fn format(&self) -> Format {
        match self {
            Self::Stdout(settings) => settings.format,
            Self::File(settings) => settings.format,
            Self::Syslog(settings) => settings.format,
            Self::Journald(settings) => settings.format,
            #[cfg(feature = "http")]
            Self::Http(settings) => settings.format,
            #[cfg(feature = "kafka")]
            Self::Kafka(settings) => settings.format,
            #[cfg(feature = "nats")]
            Self::Nats(settings) => settings.format,
        }
    }

    /// Whether it can write records so.
    pub fn takes(&self, format: Format) -> bool {
        match format {
            Format::Json => true,
            // For people, who read what it writes as it is.
            Format::Pretty | Format::Csv => matches!(self, Self::Stdout(_) | Self::File(_)),
            Format::Ecs | Format::Ocsf | Format::Falco => match self {
                #[cfg(feature = "http")]
                Self::Http(http) => !http.preset.is_otlp(),
                _ => true,
            },
        }
    }

    /// Whether records wait on disk for it where nothing else is said.
    pub const fn is_durable(&self) -> bool {
        !matches!(self, Self::Stdout(_))
    }

    /// What is wrong on this machine now: files that are missing, for example.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Stdout(_) | Self::Journald(_) => Ok(()),
            Self::File(file) => file.check(),
            Self::Syslog(syslog) => syslog.check(),
            #[cfg(feature = "http")]
            Self::Http(http) => http.check(),
            #[cfg(feature = "kafka")]
            Self::Kafka(kafka) => kafka.check(),
            #[cfg(feature = "nats")]
            Self::Nats(nats) => nats.check(),
        }
    }

    /// The sink. What is wrong with it shows when it sends.
    pub fn open(&self) -> Box<dyn Sink> {
        match self {
            Self::Stdout(settings) => Box::new(stdout::Sink::new(settings.clone())),
            Self::File(settings) => Box::new(file::Sink::new(settings.clone())),
            Self::Syslog(settings) => Box::new(syslog::Sink::new(settings.clone())),
            Self::Journald(settings) => Box::new(journald::Sink::new(settings.clone())),
            #[cfg(feature = "grpc")]
            Self::Http(settings) if settings.preset == Preset::OtlpGrpc => {
                Box::new(http::grpc::Sink::new((**settings).clone()))
            }
            #[cfg(feature = "http")]
            Self::Http(settings) => Box::new(http::Sink::new((**settings).clone())),
            #[cfg(feature = "kafka")]
            Self::Kafka(settings) => Box::new(kafka::Sink::new((**settings).clone())),
            #[cfg(feature = "nats")]
            Self::Nats(settings) => Box::new(nats::Sink::new((**settings).clone())),
        }
    }
}

#[cfg(any(feature = "http", feature = "kafka", feature = "nats"))]
const fn patience() -> Time {
    Time(Duration::from_secs(30))
}

/// What a sink waits with for its receiver, made when it is first needed.
#[cfg(any(feature = "http", feature = "kafka", feature = "nats"))]
struct Runtime(Option<tokio::runtime::Runtime>);

#[cfg(any(feature = "http", feature = "kafka", feature = "nats"))]
impl Runtime {
    const fn new() -> Self {
        Self(None)
    }

    /// Runs it here, on this thread. Whatever it has started stands still until the next time.
    fn run<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let runtime = match self.0.take() {
            Some(runtime) => runtime,
            None => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Failure::later)?,
        };
        self.0.insert(runtime).block_on(work)
    }

    /// The same, but no longer than `patience`; `slow` tells of work that takes longer.
    #[cfg(any(feature = "grpc", feature = "kafka", feature = "nats"))]
    fn run_within<T>(
        &mut self,
        patience: Time,
        slow: impl FnOnce(String) -> Failure,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.run(async {
            let done = tokio::time::timeout(patience.0, work).await;
            done.unwrap_or_else(|_| Err(slow(format!("within {} s", patience.0.as_secs()))))
        })
    }

    /// Ends what it has started.
    #[cfg(feature = "nats")]
    fn stop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Not waiting for a name that is being looked up.
            runtime.shutdown_background();
        }
    }
}

/// Whether two settings, of which one alone is of no use, are both there or neither.
fn together<A, B>(one: (&str, &Option<A>), other: (&str, &Option<B>)) -> Result<(), String> {
    if one.1.is_some() == other.1.is_some() {
        return Ok(());
    }
    Err(format!("{} and {} belong together", one.0, other.0))
}

/// Appends a record to `out` as `format` wants it, with a newline.
fn encode(format: Format, item: &Item, out: &mut Vec<u8>) -> Result<(), Failure> {
    if format == Format::Json {
        // It is just that.
        out.extend_from_slice(item);
        out.push(b'\n');
    } else {
        format.write(&parse(item)?, false, out);
    }
    Ok(())
}

/// A record as `format` wants it, without a newline.
#[cfg(any(feature = "http", feature = "kafka", feature = "nats"))]
fn encoded(format: Format, item: &Item) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(item.len() + 1);
    encode(format, item, &mut bytes)?;
    bytes.truncate(bytes.trim_ascii_end().len());
    Ok(bytes)
}

/// What a record tells, or what of it is wanted.
fn parse<'a, T: Deserialize<'a>>(item: &'a Item) -> Result<T, Failure> {
    serde_json::from_slice(item)
        .map_err(|error| Failure::Refused(format!("it is no event: {error}")))
}

/// What an envelope tells of a record.
#[derive(Debug, Deserialize)]
struct Brief<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[cfg(any(feature = "http", feature = "kafka"))]
    #[serde(borrow)]
    time_unix_ns: Option<Cow<'a, str>>,
    #[serde(borrow)]
    node: BriefNode<'a>,
    #[cfg(feature = "kafka")]
    #[serde(borrow)]
    pod: Option<BriefPod<'a>>,
}

#[derive(Debug, Deserialize)]
struct BriefNode<'a> {
    #[serde(borrow)]
    hostname: Option<Cow<'a, str>>,
    #[cfg(feature = "kafka")]
    #[serde(borrow)]
    k8s_node_name: Option<Cow<'a, str>>,
}

#[cfg(feature = "kafka")]
#[derive(Debug, Deserialize)]
struct BriefPod<'a> {
    #[serde(borrow)]
    uid: Option<Cow<'a, str>>,
}

impl Brief<'_> {
    /// Names this record, also where a kill and what became known of it later share an `event_id`.
    #[cfg(any(feature = "http", feature = "kafka", feature = "nats"))]
    fn id(&self) -> Cow<'_, str> {
        match &*self.kind {
            "enrichment" => Cow::Owned(format!("{}-enrichment", self.event_id)),
            _ => Cow::Borrowed(&self.event_id),
        }
    }

    /// What stays in order: the records of a pod, or else those of a node.
    #[cfg(feature = "kafka")]
    fn key(&self) -> &str {
        let pod = self.pod.as_ref().and_then(|pod| pod.uid.as_deref());
        pod.or(self.node.k8s_node_name.as_deref())
            .unwrap_or_else(|| self.hostname())
    }

    fn hostname(&self) -> &str {
        self.node.hostname.as_deref().unwrap_or_default()
    }

    /// How urgent it is, in syslog's numbers.
    fn severity(&self) -> u8 {
        match &*self.kind {
            "oom_kill" | "pod_eviction" | "userspace_kill" => 3,
            "loss" => 4,
            _ => 6,
        }
    }
}
