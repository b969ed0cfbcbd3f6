//! Which events are wanted: by kind, and by whose kill it is.

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{
    cgroup::QosClass,
    event::{Event, Kind, OomKill, Pod, Scope, VerdictCode},
    event_log::like,
};

/// Kills whose outcome is waited for.
const MOST_AWAITED: usize = 10_000;

/// Several values of one field want any of them; different fields want all. An empty one wants
/// everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[command(next_help_heading = "Which events")]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Of this kind
    #[arg(long, value_enum, ignore_case = true, value_name = "KIND")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kind: Vec<Kind>,

    /// The victim's pod is in this namespace
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespace: Vec<String>,

    /// The victim's pod has this name or uid
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pod: Vec<String>,

    /// The victim's pod is of this QoS class
    #[arg(long, value_enum, ignore_case = true, value_name = "CLASS")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub qos: Vec<QosClass>,

    /// The victim has this name
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub comm: Vec<String>,

    /// Whose limit was hit
    #[arg(long, value_enum, ignore_case = true, value_name = "SCOPE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<Scope>,

    /// The verdict's code
    #[arg(long, value_enum, ignore_case = true, value_name = "CODE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdict: Vec<VerdictCode>,
}

impl Filter {
    /// Whether it wants everything.
    pub const fn is_empty(&self) -> bool {
        self.kind.is_empty() && !self.is_of_victims()
    }

    /// Whether it asks for something that only kills have.
    const fn is_of_victims(&self) -> bool {
        let Self {
            kind: _,
            namespace,
            pod,
            qos,
            comm,
            scope,
            verdict,
        } = self;
        !(namespace.is_empty()
            && pod.is_empty()
            && qos.is_empty()
            && comm.is_empty()
            && scope.is_empty()
            && verdict.is_empty())
    }

    /// Whether it wants this kill of the kernel's.
    fn has(&self, kill: &OomKill) -> bool {
        let victim = &kill.victim;
        let code = kill.verdict.as_ref().and_then(|verdict| verdict.code);
        self.has_pod(victim.pod.as_ref())
            && named(&self.comm, &[victim.comm.as_ref()])
            && any(&self.scope, kill.oom.scope)
            && any(&self.verdict, code)
    }

    /// Whether it wants what somebody else killed: that has a pod, and nothing else to ask for.
    fn has_other(&self, pod: Option<&Pod>) -> bool {
        self.comm.is_empty()
            && self.scope.is_empty()
            && self.verdict.is_empty()
            && self.has_pod(pod)
    }

    fn has_pod(&self, pod: Option<&Pod>) -> bool {
        let name = pod.and_then(|pod| pod.name.as_ref());
        named(
            &self.namespace,
            &[pod.and_then(|pod| pod.namespace.as_ref())],
        ) && named(&self.pod, &[name, pod.map(|pod| &pod.uid)])
            && any(&self.qos, pod.and_then(|pod| pod.qos_class))
    }
}

/// Whether one of the names is wanted; all are where no pattern is given.
fn named(patterns: &[String], names: &[Option<&String>]) -> bool {
    patterns.is_empty()
        || patterns
            .iter()
            .any(|pattern| names.iter().flatten().any(|name| like(pattern, name)))
}

/// Whether a value is one of those that are wanted; all are where none is named.
fn any<T: PartialEq>(wanted: &[T], value: Option<T>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.contains(&value))
}

/// What is wanted, and the kills whose outcome is.
#[derive(Debug)]
pub struct Wanted {
    filter: Filter,
    awaited: HashSet<String>,
    order: VecDeque<String>,
}

impl Wanted {
    /// Nothing has been seen yet.
    pub fn new(filter: Filter) -> Self {
        Self {
            filter,
            awaited: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    /// Whether this one is wanted. Records that follow a kill are where the kill was.
    pub fn has(&mut self, event: &Event) -> bool {
        let of_victims = self.filter.is_of_victims();
        let (kind, of_victim) = match event {
            Event::OomKill(kill) => (Kind::OomKill, self.has_victim(kill)),
            Event::OomMark(mark) => (Kind::OomMark, self.has_victim(mark)),
            Event::OomOutcome(outcome) => (
                Kind::OomOutcome,
                !of_victims || self.awaited.contains(&outcome.victim_event_id),
            ),
            Event::Enrichment(late) => (
                Kind::Enrichment,
                !of_victims || self.awaited.contains(&late.head.event_id),
            ),
            Event::PodEviction(eviction) => (
                Kind::PodEviction,
                self.filter.has_other(Some(&eviction.pod)),
            ),
            Event::UserspaceKill(kill) => (
                Kind::UserspaceKill,
                self.filter.has_other(kill.whose.pod.as_ref()),
            ),
            Event::Loss(_) => (Kind::Loss, !of_victims),
            Event::Status(_) => (Kind::Status, !of_victims),
        };
        of_victim && any(&self.filter.kind, Some(kind))
    }

    fn has_victim(&mut self, kill: &OomKill) -> bool {
        let has = self.filter.has(kill);
        if has && self.filter.is_of_victims() {
            let id = &kill.head.event_id;
            if self.awaited.insert(id.clone()) {
                self.order.push_back(id.clone());
            }
            if self.order.len() > MOST_AWAITED
                && let Some(oldest) = self.order.pop_front()
            {
                self.awaited.remove(&oldest);
            }
        }
        has
    }
}
