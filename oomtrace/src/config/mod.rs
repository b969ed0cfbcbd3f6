//! The agent's configuration: a TOML file, and the environment over it.
//!
//! What is wrong is told with its line. Secrets do not stand in it: it names the files they are in.

mod values;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

pub use values::{Count, Size, Time, duration, ring_bytes};

use crate::{
    delivery::{
        SinkSettings,
        queue::{Limits, SpoolSettings},
    },
    filter::Filter,
    kubernetes,
    probe::HookSet,
    sink::Target,
};

/// Where the file is, if nothing else is said.
pub const PATH: &str = "/etc/oomtrace/oomtrace.toml";
/// A file to begin with.
pub const EXAMPLE: &str = include_str!("example.toml");
/// What the names of variables begin with that stand over the file.
const PREFIX: &str = "OOMTRACE__";
/// A queue that is smaller has no room for what tells of its losses.
const LEAST: Size = Size(64 << 10);
/// What all sinks have.
const COMMON: [&str; 5] = ["type", "filter", "spool", "spool_max", "memory_max"];

/// What is wrong with a configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    /// The file, or the variable.
    pub place: String,
    /// The line.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}:{line}: {}", self.place, self.reason),
            None => write!(formatter, "{}: {}", self.place, self.reason),
        }
    }
}

impl std::error::Error for Error {}

/// A configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What is not a sink.
    pub agent: Agent,
    /// The sinks, by name.
    pub sinks: Vec<SinkSettings>,
}

/// What is not a sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// How kills are watched.
    pub tracer: Tracer,
    /// What pods are known from.
    #[cfg(feature = "kubernetes")]
    pub pods: Pods,
    /// Where records wait for their sinks.
    pub spool: Spool,
    /// Whom the agent tells how it is doing.
    pub metrics: Metrics,
}

impl Agent {
    /// This node's name in Kubernetes.
    pub fn node_name(&self) -> Option<String> {
        #[cfg(feature = "kubernetes")]
        {
            let named = self.pods.node_name.clone();
            let named = named.or_else(|| std::env::var("NODE_NAME").ok());
            named.filter(|name| !name.is_empty())
        }
        #[cfg(not(feature = "kubernetes"))]
        None
    }

    /// What pods are known from; `None` for nothing.
    pub fn kubernetes(&self) -> Option<kubernetes::Options> {
        #[cfg(feature = "kubernetes")]
        {
            let pods = &self.pods;
            pods.find.then(|| kubernetes::Options {
                find: true,
                cri: pods.cri.clone(),
                kubelet: pods.kubelet.clone(),
                kubeconfig: pods.kubeconfig.clone(),
                node_name: self.node_name(),
                labels: pods.labels.clone(),
                period: self.tracer.heartbeat.0.max(Time::seconds(60).0),
            })
        }
        #[cfg(not(feature = "kubernetes"))]
        None
    }
}

/// How kills are watched: the options of `oomtrace trace` of the same names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tracer {
    /// A status record this often; 0 for never.
    pub heartbeat: Time,
    /// How many candidates an event lists.
    pub candidates: Count,
    /// The tracer's own `oom_score_adj`.
    pub oom_score_adj: OomScoreAdj,
    /// Size of the ring buffer.
    pub ring_buffer: RingBuffer,
    /// The groups of hooks that may be used.
    pub hooks: Hooks,
    /// The kernel's BTF, where it is not in its usual place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub btf: Option<PathBuf>,
}

impl Default for Tracer {
    fn default() -> Self {
        Self {
            heartbeat: Time::seconds(60),
            candidates: Count(10),
            oom_score_adj: OomScoreAdj(-999),
            ring_buffer: RingBuffer(512 << 10),
            hooks: Hooks("all".to_owned(), HookSet::ALL),
            btf: None,
        }
    }
}

/// An `oom_score_adj`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i32")]
pub struct OomScoreAdj(pub i32);

impl TryFrom<i32> for OomScoreAdj {
    type Error = &'static str;

    fn try_from(value: i32) -> Result<Self, Self::Error> {
        let fine = (-1000..=1000).contains(&value);
        fine.then_some(Self(value)).ok_or("not from -1000 to 1000")
    }
}

/// The size of the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Size", into = "Size")]
pub struct RingBuffer(pub u32);

impl TryFrom<Size> for RingBuffer {
    type Error = String;

    fn try_from(size: Size) -> Result<Self, String> {
        ring_bytes(size.0).map(Self)
    }
}

impl From<RingBuffer> for Size {
    fn from(size: RingBuffer) -> Self {
        Self(size.0.into())
    }
}

/// The groups of hooks that may be used, as they were named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hooks(String, pub HookSet);

impl TryFrom<String> for Hooks {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let hooks = text.parse::<HookSet>().map_err(|error| error.to_string())?;
        Ok(Self(text, hooks))
    }
}

impl From<Hooks> for String {
    fn from(hooks: Hooks) -> Self {
        hooks.0
    }
}

/// What pods are known from: the options of `oomtrace trace` of the same names.
#[cfg(feature = "kubernetes")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pods {
    /// Whether sources are looked for, and used.
    pub find: bool,
    /// The container runtime's socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cri: Option<PathBuf>,
    /// The kubelet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<String>,
    /// The API server's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// This node's name in the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Labels of pods that events may show.
    pub labels: Vec<String>,
}

#[cfg(feature = "kubernetes")]
impl Default for Pods {
    fn default() -> Self {
        Self {
            find: true,
            cri: None,
            kubelet: None,
            kubeconfig: None,
            node_name: None,
            labels: Vec::new(),
        }
    }
}

/// Where records wait for their sinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spool {
    /// Each sink has a folder in it.
    pub directory: PathBuf,
    /// The bound of each, where its sink does not say another.
    pub max: Size,
    /// Whether records are to survive a loss of power.
    pub fsync: bool,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            directory: "/var/lib/oomtrace/spool".into(),
            max: Size(64 << 20),
            fsync: true,
        }
    }
}

/// Whom the agent tells how it is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where `/metrics`, `/healthz` and `/readyz` are; nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

/// What all sinks have.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Common {
    filter: Filter,
    spool: Option<bool>,
    spool_max: Option<Size>,
    memory_max: Option<Size>,
}

/// Where something is wrong, and what.
type Trouble = (Option<Range<usize>>, String);

impl Config {
    /// Reads a file, and the environment over it.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Error {
            place: place.clone(),
            line: None,
            reason: match error.kind() {
                io::ErrorKind::NotFound => {
                    format!("{error}; `oomtrace config example` prints one to begin with")
                }
                _ => error.to_string(),
            },
        })?;
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with(PREFIX).then_some(())?;
            Some((name, value.into_string().ok()?))
        });
        let mut variables: Vec<_> = variables.collect();
        variables.sort();
        Self::parse(&text, &variables, &place)
    }

    /// Reads the text of a file, and variables over it; `place` is the file's name.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str, variables: &[(String, String)], place: &str) -> Result<Self, Error> {
        read(text, variables).map_err(|(span, reason)| {
            let reason = reason.trim().replace('\n', "; ");
            let at = span.map(|span| span.start);
            match at {
                Some(at) if at > text.len() => Error {
                    place: variables
                        .get(at - text.len() - 1)
                        .map_or_else(|| "environment".to_owned(), |(name, _)| name.clone()),
                    line: None,
                    reason,
                },
                at => Error {
                    place: place.to_owned(),
                    line: at.map(|at| 1 + text[..at].matches('\n').count()),
                    reason,
                },
            }
        })
    }

    /// What holds, as TOML: with everything that was not said, and without secrets.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn show(&self) -> Result<String, toml::ser::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            #[serde(flatten)]
            target: &'a Target,
            spool: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            spool_max: Option<Size>,
            memory_max: Size,
            #[serde(skip_serializing_if = "Filter::is_empty")]
            filter: &'a Filter,
        }
        #[derive(Serialize)]
        struct All<'a> {
            #[serde(flatten)]
            agent: &'a Agent,
            sinks: BTreeMap<&'a str, Shown<'a>>,
        }
        let shown = |sink: &SinkSettings| {
            let spool = sink.limits.spool.as_ref();
            let memory = u64::try_from(sink.limits.memory_bytes).unwrap_or(u64::MAX);
            spool.map_or((false, None, Size(memory)), |spool| {
                (true, Some(Size(spool.most_bytes)), Size(memory))
            })
        };
        toml::to_string(&All {
            agent: &self.agent,
            sinks: self
                .sinks
                .iter()
                .map(|sink| {
                    let (spool, spool_max, memory_max) = shown(sink);
                    let all = Shown {
                        target: &sink.target,
                        spool,
                        spool_max,
                        memory_max,
                        filter: &sink.filter,
                    };
                    (sink.name.as_str(), all)
                })
                .collect(),
        })
    }
}

fn read(text: &str, variables: &[(String, String)]) -> Result<Config, Trouble> {
    let parsed = DeTable::parse(text).map_err(trouble)?;
    let mut root = parsed.into_inner();
    for (index, (name, value)) in variables.iter().enumerate() {
        // Behind the text: that is how it is known again.
        let at = text.len() + 1 + index;
        set(&mut root, name, value, at..at)?;
    }
    let sinks = root.remove("sinks");
    let agent: Agent = value(Spanned::new(0..0, DeValue::Table(root)))?;
    let mut all = Vec::new();
    if let Some(sinks) = sinks {
        let span = sinks.span();
        let DeValue::Table(sinks) = sinks.into_inner() else {
            return Err((Some(span), "sinks are tables: [sinks.NAME]".to_owned()));
        };
        for (name, settings) in sinks {
            all.push(sink(&agent, &name, settings)?);
        }
    }
    if all.is_empty() {
        return Err((
            None,
            "there is no sink: a table [sinks.NAME] makes one".to_owned(),
        ));
    }
    Ok(Config { agent, sinks: all })
}

fn sink(
    agent: &Agent,
    name: &Spanned<toml::de::DeString<'_>>,
    settings: Spanned<DeValue<'_>>,
) -> Result<SinkSettings, Trouble> {
    let (name, at) = (name.get_ref().to_string(), name.span());
    let fine =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if name.is_empty() || name.len() > 32 || !name.bytes().all(fine) {
        let reason = "a sink's name has 1 to 32 of a-z, 0-9, - and _";
        return Err((Some(at), reason.to_owned()));
    }
    let span = settings.span();
    let DeValue::Table(mut own) = settings.into_inner() else {
        return Err((Some(span), format!("sinks.{name} is no table")));
    };
    let mut common = DeTable::new();
    let mut kind = None;
    for key in COMMON {
        if let Some((name, value)) = own.remove_entry(key) {
            if key == "type" {
                kind = Some(value);
            } else {
                common.insert(name, value);
            }
        }
    }
    let common: Common = value(Spanned::new(span.clone(), DeValue::Table(common)))?;
    let kinds = Target::KINDS.join(", ");
    let kind = kind.ok_or_else(|| {
        (
            Some(at.clone()),
            format!("sinks.{name} has no type; there are {kinds}"),
        )
    })?;
    let own = Spanned::new(span, DeValue::Table(own));
    let target = match kind.get_ref().as_str() {
        Some("stdout") => Target::Stdout(value(own)?),
        Some("file") => Target::File(value(own)?),
        Some("syslog") => Target::Syslog(value(own)?),
        Some("journald") => Target::Journald(value(own)?),
        #[cfg(feature = "http")]
        Some("http") => Target::Http(value(own)?),
        #[cfg(feature = "kafka")]
        Some("kafka") => Target::Kafka(value(own)?),
        #[cfg(feature = "nats")]
        Some("nats") => Target::Nats(value(own)?),
        other => {
            let other = other.unwrap_or("this");
            let reason = format!("{other} is no type of a sink; there are {kinds}");
            return Err((Some(kind.span()), reason));
        }
    };
    if !target.takes(target.format()) {
        let reason = format!("sinks.{name}: such a sink does not take this format");
        return Err((Some(at), reason));
    }
    let spooled = common.spool.unwrap_or_else(|| target.is_durable());
    let bytes = |size: Size| usize::try_from(size.0).unwrap_or(usize::MAX);
    for (key, size) in [
        ("spool_max", common.spool_max.unwrap_or(agent.spool.max)),
        ("memory_max", common.memory_max.unwrap_or(LEAST)),
    ] {
        if size.0 < LEAST.0 {
            let reason = format!("sinks.{name}: {key} is less than {LEAST}");
            return Err((Some(at), reason));
        }
    }
    Ok(SinkSettings {
        limits: Limits {
            spool: spooled.then(|| SpoolSettings {
                folder: agent.spool.directory.join(&name),
                most_bytes: common.spool_max.unwrap_or(agent.spool.max).0,
                sync: agent.spool.fsync,
            }),
            memory_bytes: common.memory_max.map_or(1 << 20, bytes),
        },
        filter: common.filter,
        target,
        name,
    })
}

/// Puts a variable's value where its name says: `OOMTRACE__SINKS__SIEM__URL`.
fn set<'a>(
    root: &mut DeTable<'a>,
    name: &'a str,
    text: &'a str,
    at: Range<usize>,
) -> Result<(), Trouble> {
    let parts: Vec<_> = name[PREFIX.len()..]
        .split("__")
        .map(str::to_lowercase)
        .collect();
    let Some((last, path)) = parts.split_last() else {
        return Ok(());
    };
    let mut table = root;
    for part in path {
        let key = key(table, part, &at);
        let next = table
            .entry(key)
            .or_insert_with(|| Spanned::new(at.clone(), DeValue::Table(DeTable::new())));
        let DeValue::Table(next) = next.get_mut() else {
            return Err((Some(at), format!("{part} is no table")));
        };
        table = next;
    }
    // A number, a list or so where it is one, and a text else.
    let value = DeValue::parse(text).map_or(DeValue::String(text.into()), Spanned::into_inner);
    let key = key(table, last, &at);
    table.remove(&key);
    table.insert(key, Spanned::new(at, value));
    Ok(())
}

/// The key that is meant: variables have no dashes.
fn key<'a>(table: &DeTable<'a>, part: &str, at: &Range<usize>) -> Spanned<toml::de::DeString<'a>> {
    let there = table
        .keys()
        .find(|key| key.get_ref().to_lowercase().replace('-', "_") == *part);
    there
        .cloned()
        .unwrap_or_else(|| Spanned::new(at.clone(), part.to_owned().into()))
}

fn value<'a, T: Deserialize<'a>>(value: Spanned<DeValue<'a>>) -> Result<T, Trouble> {
    T::deserialize(ValueDeserializer::from(value)).map_err(trouble)
}

fn trouble(error: toml::de::Error) -> Trouble {
    (error.span(), error.message().to_owned())
}
