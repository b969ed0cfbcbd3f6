//! Event logs: what `oomtrace trace --format json` wrote, read back.
//!
//! Bytes go in, events come out; one event is held at a time. A log may have been written by a
//! newer oomtrace, cut off by a full disk, filtered by `jq` or mixed with other text: what is no
//! event is told and passed over.

mod files;
mod tail;

use std::io::{self, BufRead};

use serde::Deserialize;

use crate::event::Event;

pub use files::{expand, like};
pub use tail::Tail;

/// An event is not longer than this.
const MOST_BYTES: usize = 8 << 20;

/// Reads events: JSON objects, each on a line of its own or spread over several.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
    /// The line was the end of nothing: it is to be read as a beginning.
    again: bool,
    text: Vec<u8>,
    first_line: u64,
    bytes: usize,
}

/// What was read.
#[derive(Debug)]
pub enum Item {
    /// An event.
    Event(Box<Event>),
    /// A record of a kind that this version does not know.
    Unknown,
    /// Something that is no record.
    Trouble {
        /// The line it begins at.
        line: u64,
        /// What is wrong with it. It may quote the input.
        what: String,
    },
}

/// What an object must have to be a record.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    kind: std::borrow::Cow<'a, str>,
}

impl<R: BufRead> Reader<R> {
    /// A reader at the beginning of `input`.
    pub const fn new(input: R) -> Self {
        Self {
            input,
            line: Vec::new(),
            number: 0,
            again: false,
            text: Vec::new(),
            first_line: 0,
            bytes: 0,
        }
    }

    /// How many bytes of text were read since this was last asked.
    pub const fn bytes(&mut self) -> usize {
        std::mem::replace(&mut self.bytes, 0)
    }

    /// The JSON text of the item that was read last, as it stands in the log.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// Those of the input.
    pub fn item(&mut self) -> io::Result<Option<Item>> {
        self.text.clear();
        loop {
            if !self.again && self.read_line()? == 0 {
                if self.text.is_empty() {
                    return Ok(None);
                }
                self.text.clear();
                return Ok(self.trouble(self.first_line, "it ends within a JSON object"));
            }
            self.again = false;
            let line = self.line.trim_ascii();
            let begins = self.text.is_empty();
            if begins {
                if line.is_empty() {
                    continue;
                }
                if !line.starts_with(b"{") {
                    return Ok(self.trouble(self.number, "not a JSON object"));
                }
                self.first_line = self.number;
            }
            self.text.extend_from_slice(&self.line);
            let full = self.text.len() >= MOST_BYTES;
            // Only here can an object end.
            if !line.ends_with(b"}") && !full {
                continue;
            }
            match parse(&self.text) {
                Ok(item) => return Ok(Some(item)),
                Err(error) if error.is_eof() && !full => {}
                Err(error) => {
                    self.text.clear();
                    // The line may be an event of its own, after one that was cut off.
                    self.again = !begins;
                    return Ok(self.trouble(self.first_line, &error.to_string()));
                }
            }
        }
    }

    fn read_line(&mut self) -> io::Result<usize> {
        self.line.clear();
        let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX);
        let length = io::Read::take(&mut self.input, most).read_until(b'\n', &mut self.line)?;
        self.number += 1;
        self.bytes += length;
        Ok(length)
    }

    fn trouble(&self, line: u64, what: &str) -> Option<Item> {
        Some(Item::Trouble {
            line,
            what: what.to_owned(),
        })
    }
}

/// A record. The kind is read first: to read the fields straight into their type is twice as fast
/// as to keep them all until the kind is known.
fn parse(text: &[u8]) -> serde_json::Result<Item> {
    let read;
    let kind = match first_kind(text) {
        Some(kind) => kind,
        None => {
            read = serde_json::from_slice::<Kind<'_>>(text)?.kind;
            read.as_bytes()
        }
    };
    let event = match kind {
        b"oom_kill" => Event::OomKill(serde_json::from_slice(text)?),
        b"oom_mark" => Event::OomMark(serde_json::from_slice(text)?),
        b"oom_outcome" => Event::OomOutcome(serde_json::from_slice(text)?),
        b"enrichment" => Event::Enrichment(serde_json::from_slice(text)?),
        b"pod_eviction" => Event::PodEviction(serde_json::from_slice(text)?),
        b"userspace_kill" => Event::UserspaceKill(serde_json::from_slice(text)?),
        b"loss" => Event::Loss(serde_json::from_slice(text)?),
        b"status" => Event::Status(serde_json::from_slice(text)?),
        _ => return Ok(Item::Unknown),
    };
    Ok(Item::Event(Box::new(event)))
}

/// The kind, where it comes first, as oomtrace writes it, and is one that is known.
fn first_kind(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_prefix(b"{\"kind\":\"")?;
    let kind = &rest[..memchr::memchr(b'"', rest)?];
    let known = [
        &b"oom_kill"[..],
        b"oom_mark",
        b"oom_outcome",
        b"enrichment",
        b"pod_eviction",
        b"userspace_kill",
        b"loss",
        b"status",
    ];
    known.contains(&kind).then_some(kind)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn items(text: &str) -> Vec<String> {
        let mut reader = Reader::new(text.as_bytes());
        let mut items = Vec::new();
        while let Some(item) = reader.item().unwrap() {
            items.push(match item {
                Item::Event(_) => "event".to_owned(),
                Item::Unknown => String::from_utf8(reader.text().to_vec()).unwrap(),
                Item::Trouble { line, what } => format!("{line}: {what}"),
            });
        }
        items
    }

    /// An object may be on one line or on several; what is none is named by the line it begins at,
    /// and an object behind one that was cut off is not lost with it.
    #[test]
    fn lines() {
        assert_eq!(items("\n \n"), [""; 0]);
        assert_eq!(
            items("{\"kind\":\"new\"}\nx\n{\n\"kind\":\n\"newer\"\n}\n"),
            [
                "{\"kind\":\"new\"}\n",
                "2: not a JSON object",
                "{\n\"kind\":\n\"newer\"\n}\n"
            ]
        );
        let cut = items("{\"kind\":\"oom_k\n{\"kind\":\"new\"}\n{\"kind\"");
        assert_eq!(cut.len(), 3, "{cut:?}");
        assert!(cut[0].starts_with("1: "), "{cut:?}");
        assert_eq!(
            cut[1..],
            ["{\"kind\":\"new\"}\n", "3: it ends within a JSON object"]
        );
        assert!(items("{\"kind\":\"oom_kill\"}")[0].starts_with("1: missing field"));
    }

    /// The other killers' records are read as they were written.
    #[test]
    fn other_killers() {
        let head = r#""schema":"oomtrace.event/v1","event_id":"x","run_id":"r","seq":1,"time":null,
            "time_unix_ns":null,"boottime_ns":null,"node":{"hostname":null,"machine_id":null,
            "boot_id":null,"kernel":null,"memory_bytes":null,"swap_bytes":null,
            "k8s_node_name":null},"#;
        let eviction = format!(
            r#"{{"kind":"pod_eviction",{head}"source":{{"kind":"pod_status","hooks":[],"merged":[]}},
            "pod":{{"uid":"u","name":"n","namespace":"s","qos_class":null,"qos_source":null,
            "priority":null,"priority_class":null,"owner":null,"labels":{{}},"is_static":null,
            "memory_request_bytes":null,"memory_limit_bytes":null}},"resource":"memory",
            "message":"m","evicted_at":null,"threshold_bytes":1,"available_bytes":2,
            "containers":[{{"name":"app","usage_bytes":3,"request_bytes":4}}],
            "node_conditions":[{{"condition":"MemoryPressure","status":"True","reason":null,
            "since":null}}],"enrichment":null}}"#
        );
        let kill = format!(
            r#"{{"kind":"userspace_kill",{head}"source":{{"kind":"system_bus","hooks":[],
            "merged":[]}},"killer":"systemd-oomd","reason":"memory-used","cgroup_path":"/a",
            "level":"slice","container":null,"pod":null,"enrichment":null}}"#
        );
        for text in [eviction, kill] {
            let Item::Event(event) = parse(text.as_bytes()).unwrap() else {
                panic!("not known: {text}");
            };
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_value(&*event).unwrap(), read);
        }
    }
}
