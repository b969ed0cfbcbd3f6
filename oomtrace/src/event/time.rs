//! Time: the kernel's boot clock to UTC.

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// How far the wall clock is ahead of the boot clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    ahead_ns: i128,
}

impl Clock {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self {
            ahead_ns: nanoseconds(ClockId::Realtime) - nanoseconds(ClockId::Boottime),
        }
    }

    /// Nanoseconds since the Unix epoch of a moment on the boot clock.
    pub fn unix_ns(self, boottime_ns: u64) -> u64 {
        u64::try_from(i128::from(boottime_ns) + self.ahead_ns).unwrap_or(0)
    }
}

/// Nanoseconds since boot, suspend included, at this moment (`CLOCK_BOOTTIME`).
pub fn boottime_ns() -> u64 {
    u64::try_from(nanoseconds(ClockId::Boottime)).unwrap_or(0)
}

fn nanoseconds(clock: ClockId) -> i128 {
    let time = clock_gettime(clock);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// RFC 3339, UTC, with nine fraction digits.
pub fn rfc3339(unix_ns: u64) -> String {
    Timestamp::from_nanosecond(i128::from(unix_ns))
        .map_or_else(|_| String::new(), |time| format!("{time:.9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times are UTC and always have nine fraction digits.
    #[test]
    fn formats_utc() {
        assert_eq!(
            rfc3339(1_709_164_800_000_000_000),
            "2024-02-29T00:00:00.000000000Z"
        );
        assert_eq!(
            rfc3339(1_767_225_599_120_000_000),
            "2025-12-31T23:59:59.120000000Z"
        );
    }
}
