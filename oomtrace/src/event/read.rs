//! Records, read again. Their kind stands first, so what follows is read as what it is; reading the tag of
//! an enum anywhere among the fields would keep all of them in between.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value};

use super::{Event, Kind};

impl Kind {
    fn read<'de, D: Deserializer<'de>>(self, fields: D) -> Result<Event, D::Error> {
        Ok(match self {
            Self::OomKill => Event::OomKill(Box::deserialize(fields)?),
            Self::OomMark => Event::OomMark(Box::deserialize(fields)?),
            Self::OomOutcome => Event::OomOutcome(Box::deserialize(fields)?),
            Self::Enrichment => Event::Enrichment(Box::deserialize(fields)?),
            Self::PodEviction => Event::PodEviction(Box::deserialize(fields)?),
            Self::UserspaceKill => Event::UserspaceKill(Box::deserialize(fields)?),
            Self::Loss => Event::Loss(Box::deserialize(fields)?),
            Self::Status => Event::Status(Box::deserialize(fields)?),
        })
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Event;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let mut before = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if name != "kind" {
                before.insert(name, map.next_value()?);
                continue;
            }
            let kind: Kind = map.next_value()?;
            if before.is_empty() {
                return kind.read(MapAccessDeserializer::new(map));
            }
            // Somebody has sorted them.
            while let Some((name, value)) = map.next_entry()? {
                before.insert(name, value);
            }
            return kind.read(Value::Object(before)).map_err(A::Error::custom);
        }
        Err(A::Error::missing_field("kind"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The order of the fields does not matter; a kind that is unknown or missing is told.
    #[test]
    fn kinds() {
        let text = r#"{"kind":"loss","schema":"s","event_id":"e","run_id":"r","seq":1,"time":null,
            "time_unix_ns":null,"boottime_ns":null,"node":{},"source":{"kind":"ebpf","hooks":[],
            "merged":[]},"place":"ring_buffer","sink":null,"lost":2,"lost_kills":0,"lost_total":2}"#;
        let first: Event = serde_json::from_str(text).unwrap();
        let written = serde_json::to_value(&first).unwrap();
        let sorted = text.replacen(r#""kind":"loss","#, "", 1);
        let sorted = format!(r#"{},"kind":"loss"}}"#, sorted.trim_end_matches('}'));
        let second: Event = serde_json::from_str(&sorted).unwrap();
        assert_eq!(serde_json::to_value(&second).unwrap(), written);
        let from_value: Event = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&from_value).unwrap(), written);
        for (wrong, why) in [
            (r#"{"kind":"lunch"}"#, "unknown variant `lunch`"),
            (r#"{"seq":1}"#, "missing field `kind`"),
            ("[]", "a record"),
        ] {
            let error = serde_json::from_str::<Event>(wrong).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
