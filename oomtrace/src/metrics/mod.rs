//! What a running agent tells those who watch it: metrics for Prometheus, and whether it is well.
//!
//! All numbers come from the records that were written and from the sinks' own status; nothing is
//! looked up for them. A name that others choose is a label only where there are few.

mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use clap::ValueEnum;

use crate::{
    delivery::Sinks,
    event::{Event, LossPlace, PodSourceState, SinkState, SinkStatus, Status, VictimState},
};

/// So many namespaces have a label of their own; kills in others are counted together.
const NAMESPACES: usize = 100;
/// The label of those others; no namespace can be called so.
const OTHERS: &str = "_other";

/// What was counted.
#[derive(Debug)]
pub struct Metrics {
    counts: Mutex<Counts>,
    sinks: Sinks,
    /// How often a status record comes; `None` for never.
    heartbeat: Option<Duration>,
}

#[derive(Debug, Default)]
struct Counts {
    /// By scope, QoS class and namespace.
    kills: BTreeMap<[String; 3], u64>,
    marks: u64,
    stuck: u64,
    /// By resource and namespace.
    evictions: BTreeMap<[String; 2], u64>,
    /// By killer and reason.
    userspace_kills: BTreeMap<[String; 2], u64>,
    /// Records and kills, by place.
    lost: BTreeMap<&'static str, [u64; 2]>,
    last_kill: Option<f64>,
    /// The last status record, and when it came.
    status: Option<(Status, Instant)>,
}

impl Metrics {
    /// Counts nothing yet, and answers at an address.
    ///
    /// # Errors
    /// When the address cannot be listened at.
    pub fn serve(
        listen: SocketAddr,
        sinks: Sinks,
        heartbeat: Option<Duration>,
    ) -> io::Result<Arc<Self>> {
        let metrics = Arc::new(Self {
            counts: Mutex::default(),
            sinks,
            heartbeat,
        });
        server::start(listen, Arc::clone(&metrics))?;
        Ok(metrics)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a record.
    pub fn count(&self, event: &Event) {
        self.counts().count(event);
    }

    /// All metrics, as text.
    fn text(&self) -> String {
        let mut page = Page::default();
        // Formatting into a string does not fail.
        let _ = self.counts().write(&mut page);
        let _ = of_sinks(&self.sinks.status(), &mut page);
        page.text
    }

    /// Why the agent is not alive: it is said to be stuck when three status records have not come.
    fn not_alive(&self) -> Option<String> {
        let heartbeat = self.heartbeat?;
        let last = self.counts().status.as_ref().map(|(_, at)| at.elapsed())?;
        (last > heartbeat * 3).then(|| format!("no status record for {} s\n", last.as_secs()))
    }

    /// Why the agent does not do all it should.
    fn not_ready(&self) -> Option<String> {
        if self.counts().status.is_none() {
            return Some("not started yet\n".to_owned());
        }
        let mut why = String::new();
        for sink in self.sinks.status() {
            for error in [&sink.error, &sink.spool_error].into_iter().flatten() {
                let _ = writeln!(why, "sink {}: {error}", sink.name);
            }
        }
        (!why.is_empty()).then_some(why)
    }
}

impl Counts {
    fn count(&mut self, event: &Event) {
        match event {
            Event::OomKill(kill) => {
                let pod = kill.victim.pod.as_ref();
                let namespace = self.namespace(pod.and_then(|pod| pod.namespace.as_deref()));
                let class = pod.and_then(|pod| pod.qos_class);
                let key = [name(kill.oom.scope), name(class), namespace];
                *self.kills.entry(key).or_default() += 1;
                self.last_kill = kill.head.unix_ns().map(|ns| ns as f64 / 1e9);
            }
            Event::OomMark(_) => self.marks += 1,
            Event::OomOutcome(outcome) => {
                self.stuck += u64::from(outcome.state == VictimState::Stuck);
            }
            Event::PodEviction(eviction) => {
                let namespace = self.namespace(eviction.pod.namespace.as_deref());
                // Kubelets know a handful of them.
                let resource = eviction.eviction.resource.clone().unwrap_or_default();
                *self.evictions.entry([resource, namespace]).or_default() += 1;
            }
            Event::UserspaceKill(kill) => {
                let key = [kill.killer.clone(), kill.reason.clone()];
                *self.userspace_kills.entry(key).or_default() += 1;
            }
            Event::Enrichment(_) => {}
            Event::Loss(loss) => {
                let place = match loss.place {
                    LossPlace::RingBuffer => "ring_buffer",
                    LossPlace::KernelLog => "kernel_log",
                    LossPlace::Sink => "sink",
                };
                let [records, kills] = self.lost.entry(place).or_default();
                *records += loss.lost.unwrap_or(0);
                *kills += loss.lost_kills;
            }
            Event::Status(status) => self.status = Some(((**status).clone(), Instant::now())),
        }
    }

    fn namespace(&self, namespace: Option<&str>) -> String {
        let namespace = namespace.unwrap_or_default();
        let known = || self.kills.keys().map(|[.., it]| it);
        let evicted = || self.evictions.keys().map(|[.., it]| it);
        let all: BTreeSet<_> = known().chain(evicted()).collect();
        if all.len() < NAMESPACES || all.iter().any(|it| *it == namespace) {
            namespace.to_owned()
        } else {
            OTHERS.to_owned()
        }
    }

    fn write(&self, page: &mut Page) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.about("oomtrace_build_info", "gauge", "The version of oomtrace.")?;
        page.value(&version, 1)?;
        page.about(
            "oomtrace_oom_kills_total",
            "counter",
            "Processes the kernel's OOM killer killed, by whose limit was hit and whose process it was.",
        )?;
        for ([scope, qos, namespace], count) in &self.kills {
            page.value(
                &[("scope", scope), ("qos", qos), ("namespace", namespace)],
                count,
            )?;
        }
        page.about(
            "oomtrace_oom_marks_total",
            "counter",
            "Exiting tasks that were let use memory reserves; not kills.",
        )?;
        page.value(&[], self.marks)?;
        page.about(
            "oomtrace_stuck_victims_total",
            "counter",
            "Victims that were still there 10 s after.",
        )?;
        page.value(&[], self.stuck)?;
        page.about(
            "oomtrace_pod_evictions_total",
            "counter",
            "Pods the kubelet evicted.",
        )?;
        for ([resource, namespace], count) in &self.evictions {
            page.value(&[("resource", resource), ("namespace", namespace)], count)?;
        }
        page.about(
            "oomtrace_userspace_kills_total",
            "counter",
            "Cgroups that a program killed because memory was short.",
        )?;
        for ([killer, reason], count) in &self.userspace_kills {
            page.value(&[("killer", killer), ("reason", reason)], count)?;
        }
        for (index, (name, help)) in [
            (
                "oomtrace_lost_records_total",
                "Records that were lost, by where.",
            ),
            ("oomtrace_lost_kills_total", "How many of them were kills."),
        ]
        .into_iter()
        .enumerate()
        {
            page.about(name, "counter", help)?;
            for place in ["ring_buffer", "kernel_log", "sink"] {
                let lost = self.lost.get(place).map_or(0, |lost| lost[index]);
                page.value(&[("place", place)], lost)?;
            }
        }
        if let Some(time) = self.last_kill {
            page.about(
                "oomtrace_last_oom_kill_timestamp_seconds",
                "gauge",
                "When the last kill was.",
            )?;
            page.value(&[], time)?;
        }
        match &self.status {
            Some((status, _)) => of_status(status, page),
            None => Ok(()),
        }
    }
}

fn of_status(status: &Status, page: &mut Page) -> fmt::Result {
    if let Some(ns) = status.head.unix_ns() {
        page.about(
            "oomtrace_status_timestamp_seconds",
            "gauge",
            "When the last status record was written.",
        )?;
        page.value(&[], ns as f64 / 1e9)?;
    }
    page.about(
        "oomtrace_hook_attached",
        "gauge",
        "Whether a hook is in use.",
    )?;
    for hook in status.hooks.iter() {
        page.value(&[("hook", &hook.name)], u8::from(hook.attached))?;
    }
    if let Some(counts) = &status.reconciliation {
        page.about(
            "oomtrace_unaccounted_kills",
            "gauge",
            "What the kernel counted, less what was seen or declared lost; 0 where all is well.",
        )?;
        page.value(&[], counts.unaccounted)?;
    }
    if let Some(kubernetes) = &status.kubernetes {
        page.about(
            "oomtrace_pod_source_up",
            "gauge",
            "Whether a source of names of pods answers.",
        )?;
        for source in &kubernetes.sources {
            let up = u8::from(source.state == PodSourceState::Live);
            page.value(&[("source", &source.name)], up)?;
        }
        page.about("oomtrace_pods", "gauge", "Pods that are known.")?;
        page.value(&[], kubernetes.pods)?;
    }
    if let Some(bytes) = status.resident_bytes {
        page.about("oomtrace_resident_bytes", "gauge", "Memory of the agent.")?;
        page.value(&[], bytes)?;
    }
    Ok(())
}

fn of_sinks(sinks: &[SinkStatus], page: &mut Page) -> fmt::Result {
    type Number = fn(&SinkStatus) -> f64;
    let all: [(&str, &str, &str, Number); 9] = [
        (
            "oomtrace_sink_failing",
            "gauge",
            "Whether the sink failed last.",
            |it| f64::from(it.state == SinkState::Failing),
        ),
        (
            "oomtrace_sink_spool_failing",
            "gauge",
            "Whether the disk that its records should wait on fails.",
            |it| f64::from(it.spool_error.is_some()),
        ),
        (
            "oomtrace_sink_waiting_records",
            "gauge",
            "Records that wait for the sink.",
            |it| it.waiting as f64,
        ),
        (
            "oomtrace_sink_waiting_bytes",
            "gauge",
            "What its queue takes, on disk and in memory.",
            |it| it.waiting_bytes as f64,
        ),
        (
            "oomtrace_sink_lag_seconds",
            "gauge",
            "For how long what is next has been tried.",
            |it| it.trying_ms.unwrap_or(0) as f64 / 1e3,
        ),
        (
            "oomtrace_sink_delivered_total",
            "counter",
            "Records the sink has got.",
            |it| it.delivered as f64,
        ),
        (
            "oomtrace_sink_retries_total",
            "counter",
            "How often it failed.",
            |it| it.retries as f64,
        ),
        (
            "oomtrace_sink_set_aside_total",
            "counter",
            "Records it refused for good.",
            |it| it.set_aside as f64,
        ),
        (
            "oomtrace_sink_lost_total",
            "counter",
            "Records that were lost because too many waited.",
            |it| it.lost as f64,
        ),
    ];
    for (name, kind, help, number) in all {
        page.about(name, kind, help)?;
        for sink in sinks {
            page.value(&[("sink", &sink.name), ("type", &sink.kind)], number(sink))?;
        }
    }
    Ok(())
}

/// A value's name in events; empty where it is unknown.
fn name<T: ValueEnum>(value: Option<T>) -> String {
    let value = value.and_then(|value| value.to_possible_value());
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Prometheus's text format, 0.0.4.
#[derive(Default)]
struct Page {
    text: String,
    /// The metric whose values come.
    name: String,
}

impl Page {
    /// A metric begins; its values follow.
    fn about(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        name.clone_into(&mut self.name);
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    fn value(&mut self, labels: &[(&str, &str)], value: impl fmt::Display) -> fmt::Result {
        let Self { text, name } = self;
        text.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            write!(text, "{before}{label}=\"")?;
            for character in value.chars() {
                match character {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    other => text.push(other),
                }
            }
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        writeln!(text, " {value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that others choose stay what they are, on one line.
    #[test]
    fn labels() {
        let mut page = Page::default();
        let written = page
            .about("m", "gauge", "A thing.")
            .and_then(|()| page.value(&[], 1))
            .and_then(|()| page.value(&[("a", "b\\c\"\nd"), ("e", "")], 0.5));
        assert_eq!(written, Ok(()));
        let expected =
            "# HELP m A thing.\n# TYPE m gauge\nm 1\nm{a=\"b\\\\c\\\"\\nd\",e=\"\"} 0.5\n";
        assert_eq!(page.text, expected);
    }

    /// However many namespaces there are, there are not more labels.
    #[test]
    fn namespaces_are_bounded() {
        let mut counts = Counts::default();
        for number in 0..3 * NAMESPACES {
            let namespace = counts.namespace(Some(&format!("n{number}")));
            *counts
                .kills
                .entry(["".into(), "".into(), namespace])
                .or_default() += 1;
        }
        let others = ["".into(), "".into(), OTHERS.into()];
        assert_eq!(counts.kills.len(), NAMESPACES + 1);
        assert_eq!(counts.kills.get(&others), Some(&(2 * NAMESPACES as u64)));
        assert_eq!(
            counts.namespace(Some("n7")),
            "n7",
            "one that is known stays"
        );
    }
}
