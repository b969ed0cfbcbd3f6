//! Clocks and dates, as far as the comparisons need them.

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME` in nanoseconds: the clock of the events.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// `2026-11-21T16:20:11.123456789Z` in nanoseconds since the Unix epoch.
///
/// # Errors
/// When the text has another shape.
pub fn unix_ns(text: &str) -> Result<i128> {
    let parse = || -> Option<i128> {
        let (date, rest) = text.strip_suffix('Z')?.split_once('T')?;
        let (clock, fraction) = rest.split_once('.').unwrap_or((rest, "0"));
        let mut date = date.splitn(3, '-').map(str::parse::<i128>);
        let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
        let mut clock = clock.splitn(3, ':').map(str::parse::<i128>);
        let (hour, minute, second) = (
            clock.next()?.ok()?,
            clock.next()?.ok()?,
            clock.next()?.ok()?,
        );
        let nanos: i128 = format!("{fraction:0<9}").parse().ok()?;
        // Days since 1970-01-01; the year is taken to begin in March, so that the leap day is
        // its last.
        let (y, m) = if month > 2 {
            (year, month - 3)
        } else {
            (year - 1, month + 9)
        };
        let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 719_469;
        Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + nanos)
    };
    parse().with_context(|| format!("{text:?} is not a time in RFC 3339, UTC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dates around leap days, and fractions of any length.
    #[test]
    fn reads_rfc_3339() -> Result<()> {
        assert_eq!(unix_ns("1970-01-01T00:00:00Z")?, 0);
        assert_eq!(unix_ns("2000-02-29T12:00:00.5Z")?, 951_825_600_500_000_000);
        assert_eq!(
            unix_ns("2026-11-21T16:20:11.123456789Z")?,
            1_795_278_011_123_456_789
        );
        assert!(unix_ns("2026-11-21").is_err());
        Ok(())
    }
}
