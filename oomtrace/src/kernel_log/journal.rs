//! Records of the journal (`journalctl -o json`, `-o export`), and lines that are JSON in other ways:
//! what containers write is kept so by Docker, and many programs log so.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// One record.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) message: Vec<u8>,
    pub(super) writer: Writer,
    /// When, in nanoseconds since the Unix epoch.
    pub(super) wall_ns: Option<u64>,
    /// The time the kernel gave it, in microseconds since boot.
    pub(super) boot_usec: Option<u64>,
    pub(super) boot_id: Option<String>,
    pub(super) machine_id: Option<String>,
    pub(super) hostname: Option<Vec<u8>>,
}

/// Who wrote the message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Writer {
    Kernel,
    #[default]
    Program,
    /// It is not a record of the journal: the message is a line of another log.
    Wrapped,
}

/// Any of the fields that are of use, by all the names they have.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(rename = "MESSAGE")]
    journal_message: Option<Field>,
    #[serde(rename = "_TRANSPORT")]
    transport: Option<Field>,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    realtime: Option<Field>,
    #[serde(rename = "_SOURCE_MONOTONIC_TIMESTAMP")]
    source_monotonic: Option<Field>,
    #[serde(rename = "_BOOT_ID")]
    boot_id: Option<Field>,
    #[serde(rename = "_MACHINE_ID")]
    machine_id: Option<Field>,
    #[serde(rename = "_HOSTNAME")]
    hostname: Option<Field>,
    log: Option<Field>,
    #[serde(alias = "message")]
    msg: Option<Field>,
    #[serde(alias = "ts", alias = "timestamp", alias = "@timestamp")]
    time: Option<Field>,
    schema: Option<Field>,
}

/// A value as bytes: the journal writes those that are not UTF-8 as a list of numbers.
#[derive(Debug, Default)]
struct Field(Vec<u8>);

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number or bytes")
            }
            fn visit_str<E>(self, text: &str) -> Result<Field, E> {
                Ok(Field(text.as_bytes().to_vec()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Field, E> {
                Ok(Field(number.to_string().into_bytes()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Field, E> {
                Ok(Field(number.to_string().into_bytes()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Field, E> {
                Ok(Field(format!("{number:.6}").into_bytes()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
                Ok(Field::default())
            }
            fn visit_unit<E>(self) -> Result<Field, E> {
                Ok(Field::default())
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Field, A::Error> {
                let mut bytes = Vec::new();
                while let Some(item) = list.next_element::<Item>()? {
                    match item.0 {
                        Some(byte) => bytes.push(byte),
                        // A list of something else: a field that is there several times.
                        None => bytes.clear(),
                    }
                }
                Ok(Field(bytes))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
                while map
                    .next_entry::<de::IgnoredAny, de::IgnoredAny>()?
                    .is_some()
                {}
                Ok(Field::default())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A byte, or something else.
struct Item(Option<u8>);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let field = Field::deserialize(deserializer)?;
        let text = std::str::from_utf8(&field.0).ok();
        Ok(Self(text.and_then(|text| text.parse().ok())))
    }
}

/// Reads a line that is a JSON object; `None` if it is none, or has no message. That of an eviction in
/// an event log is the kubelet's.
pub(super) fn json(line: &[u8]) -> Option<Record> {
    let fields: Fields = serde_json::from_slice(line).ok()?;
    let own = |schema: &Field| schema.0.starts_with(b"oomtrace.");
    if fields.schema.as_ref().is_some_and(own) {
        return None;
    }
    fields.into_record()
}

/// Reads an entry of the export format: `KEY=value` lines; or `KEY`, the length in eight bytes, and the
/// value (systemd's docs/JOURNAL_EXPORT_FORMATS.md).
pub(super) fn export(entry: &[u8]) -> Option<Record> {
    let mut fields = Fields::default();
    let mut rest = entry;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        let (key, value) = match memchr::memchr(b'=', line) {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => {
                let (length, behind) = rest.split_first_chunk::<8>()?;
                let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
                let value = behind.get(..length)?;
                rest = behind.get(length + 1..).unwrap_or_default();
                (line, value)
            }
        };
        let slot = match key {
            b"MESSAGE" => &mut fields.journal_message,
            b"_TRANSPORT" => &mut fields.transport,
            b"__REALTIME_TIMESTAMP" => &mut fields.realtime,
            b"_SOURCE_MONOTONIC_TIMESTAMP" => &mut fields.source_monotonic,
            b"_BOOT_ID" => &mut fields.boot_id,
            b"_MACHINE_ID" => &mut fields.machine_id,
            b"_HOSTNAME" => &mut fields.hostname,
            _ => continue,
        };
        *slot = Some(Field(value.to_vec()));
    }
    fields.into_record()
}

impl Fields {
    fn into_record(self) -> Option<Record> {
        let text = |field: &Option<Field>| String::from_utf8(field.as_ref()?.0.clone()).ok();
        let number = |field: &Option<Field>| text(field)?.parse::<u64>().ok();
        if let Some(message) = self.journal_message {
            let kernel = self.transport.is_some_and(|name| name.0 == b"kernel");
            return Some(Record {
                message: message.0,
                writer: if kernel {
                    Writer::Kernel
                } else {
                    Writer::Program
                },
                wall_ns: number(&self.realtime).and_then(|usec| usec.checked_mul(1000)),
                boot_usec: number(&self.source_monotonic),
                boot_id: text(&self.boot_id).filter(|id| id.len() == 32),
                machine_id: text(&self.machine_id),
                hostname: self.hostname.map(|name| name.0),
            });
        }
        let message = self.log.or(self.msg)?.0;
        Some(Record {
            message,
            writer: Writer::Wrapped,
            wall_ns: text(&self.time).and_then(|time| wall_ns(&time)),
            ..Record::default()
        })
    }
}

/// A moment as programs write it: RFC 3339, or seconds since the epoch.
fn wall_ns(time: &str) -> Option<u64> {
    if let Ok(time) = time.parse::<jiff::Timestamp>() {
        return u64::try_from(time.as_nanosecond()).ok();
    }
    let seconds: f64 = time.parse().ok()?;
    (1e9..1e10)
        .contains(&seconds)
        .then_some((seconds * 1e6) as u64 * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same record in both formats of the journal, with a message that is not UTF-8.
    #[test]
    fn journal() {
        let expected = Record {
            message: b"a\nb\xff".to_vec(),
            writer: Writer::Kernel,
            wall_ns: Some(1_795_278_011_000_001_000),
            boot_usec: Some(42),
            boot_id: Some("20cc1b6715124f08ade04473ec10a2ea".to_owned()),
            machine_id: Some("m".to_owned()),
            hostname: Some(b"h".to_vec()),
        };
        let line = br#"{"_TRANSPORT":"kernel","MESSAGE":[97,10,98,255],"X":["a",{"b":1}],
            "__REALTIME_TIMESTAMP":"1795278011000001","_SOURCE_MONOTONIC_TIMESTAMP":"42","PRIORITY":4,
            "_BOOT_ID":"20cc1b6715124f08ade04473ec10a2ea","_MACHINE_ID":"m","_HOSTNAME":"h"}"#;
        assert_eq!(json(line), Some(expected));
        let entry =
            b"__REALTIME_TIMESTAMP=1795278011000001\n_TRANSPORT=kernel\n_HOSTNAME=h\nMESSAGE\n\
            \x04\0\0\0\0\0\0\0a\nb\xff\n_BOOT_ID=20cc1b6715124f08ade04473ec10a2ea\n_MACHINE_ID=m\n\
            _SOURCE_MONOTONIC_TIMESTAMP=42\n";
        assert_eq!(export(entry), json(line));
    }

    /// Programs' messages are told from the kernel's, and from lines of other logs.
    #[test]
    fn others() {
        let program = json(br#"{"_TRANSPORT":"syslog","MESSAGE":"x"}"#).unwrap();
        assert_eq!(program.writer, Writer::Program);
        let docker = json(br#"{"log":"x\n","stream":"stderr","time":"2026-11-21T16:20:11.5Z"}"#);
        let docker = docker.unwrap();
        assert_eq!(
            (docker.writer, &docker.message[..]),
            (Writer::Wrapped, &b"x\n"[..])
        );
        assert_eq!(docker.wall_ns, Some(1_795_278_011_500_000_000));
        let klog = json(br#"{"ts":1795278011.25,"msg":"y","v":0}"#).unwrap();
        assert_eq!(klog.wall_ns, Some(1_795_278_011_250_000_000));
        assert_eq!(json(b"{\"a\":1}"), None);
        assert_eq!(json(b"{"), None);
        assert_eq!(export(b"MESSAGE\n\xff\xff\xff\xff\xff\xff\xff\xffx"), None);
    }
}
