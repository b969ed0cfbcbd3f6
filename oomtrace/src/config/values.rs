//! Times, sizes and counts as people write them.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A time: `30s`, `10m`, `2h`, `7d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time(pub Duration);

impl Time {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

/// A size in bytes: `64MiB`, `512KiB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A number, or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub usize);

/// A time as people write it; a bare number is seconds.
///
/// # Errors
/// When it is none, or negative.
pub fn duration(text: &str) -> Result<Duration, String> {
    let seconds = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        "s"
    } else {
        ""
    };
    let whole = format!("{text}{seconds}");
    let parsed = whole.parse::<jiff::SignedDuration>().ok().or_else(|| {
        let days = whole.strip_suffix('d')?.parse::<i64>().ok()?;
        Some(jiff::SignedDuration::from_hours(days.checked_mul(24)?))
    });
    parsed
        .ok_or("not a time such as 30s, 10m, 2h or 7d")?
        .try_into()
        .map_err(|_| "a time cannot be negative".to_owned())
}

/// The size of a ring buffer, in bytes.
///
/// # Errors
/// When the kernel would not take it.
pub fn ring_bytes(bytes: u64) -> Result<u32, String> {
    let page = rustix::param::page_size() as u64;
    let fine = bytes.is_power_of_two() && (page..=1 << 30).contains(&bytes);
    let bytes = u32::try_from(bytes).ok().filter(|_| fine);
    bytes.ok_or_else(|| format!("not a power of two from {} to {} KiB", page >> 10, 1 << 20))
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => 64,
        };
        let number: Option<u64> = number.parse().ok();
        number
            .and_then(|number| number.checked_mul(1_u64.checked_shl(shift)?))
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a size such as 512KiB, 64MiB or 4096"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = units
            .iter()
            .find(|(shift, _)| self.0 >> shift > 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((shift, name)) => write!(formatter, "{}{name}", self.0 >> shift),
            None => write!(formatter, "{}", self.0),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            _ if self.0.subsec_millis() > 0 => write!(formatter, "{}ms", self.0.as_millis()),
            0 => write!(formatter, "0s"),
            _ if seconds.is_multiple_of(3600) => write!(formatter, "{}h", seconds / 3600),
            _ if seconds.is_multiple_of(60) => write!(formatter, "{}m", seconds / 60),
            _ => write!(formatter, "{seconds}s"),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match u64::try_from(self.0) {
            Ok(count) if self.0 < usize::MAX => serializer.serialize_u64(count),
            _ => serializer.serialize_str("all"),
        }
    }
}

/// A text or a number, read by the text's rules.
struct Written;

impl de::Visitor<'_> for Written {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text or a number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

fn written<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    let text = deserializer.deserialize_any(Written)?;
    read(&text).map_err(de::Error::custom)
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        written(deserializer, |text| duration(text).map(Self))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        written(deserializer, str::parse)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        written(deserializer, |text| match text {
            "all" => Ok(Self(usize::MAX)),
            text => text
                .parse()
                .map(Self)
                .map_err(|_| "neither a number nor \"all\"".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times are read as people write them, and nonsense is refused.
    #[test]
    fn durations() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86400)));
        for nonsense in ["", "x", "-5s", "5 parsecs", "d"] {
            assert!(duration(nonsense).is_err(), "{nonsense:?}");
        }
    }

    /// Sizes are read as people write them, and written so that they are read back.
    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("3KiB", 3072),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        assert_eq!(Size(1000).to_string(), "1000");
        for nonsense in ["", "MiB", "-1", "64MB", "99999999999GiB"] {
            assert!(nonsense.parse::<Size>().is_err(), "{nonsense:?}");
        }
    }
}
