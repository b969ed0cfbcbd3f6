//! Dates and times in front of a line, as the many readers of the kernel log write them.

use jiff::{civil::DateTime, tz::Offset};

use super::bytes::Cursor;

/// What a log does not say of its dates.
#[derive(Debug, Clone, Copy)]
pub struct Dates {
    /// The year of the first date without one.
    pub year: Option<i16>,
    /// How far ahead of UTC times without a zone are.
    pub offset: Offset,
}

impl Default for Dates {
    fn default() -> Self {
        Self {
            year: None,
            offset: Offset::UTC,
        }
    }
}

/// A moment of wall-clock time, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    /// Nanoseconds since the Unix epoch.
    Unix(u64),
    Civil(Civil),
}

/// A date and a time of day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: Option<i16>,
    pub(super) month: i8,
    pub(super) day: i8,
    pub(super) hour: i8,
    pub(super) minute: i8,
    pub(super) second: i8,
    pub(super) nanosecond: i32,
    /// Seconds ahead of UTC, where the zone is written.
    pub(super) offset: Option<i32>,
    /// Nanoseconds that have passed since.
    pub(super) passed: u64,
}

impl Stamp {
    /// Nanoseconds since the Unix epoch; `None` without a year.
    pub(super) fn unix_ns(self, dates: Dates) -> Option<u64> {
        let civil = match self {
            Self::Unix(ns) => return Some(ns),
            Self::Civil(civil) => civil,
        };
        let date = DateTime::new(
            civil.year.or(dates.year)?,
            civil.month,
            civil.day,
            civil.hour,
            civil.minute,
            // A leap second.
            civil.second.min(59),
            civil.nanosecond,
        )
        .ok()?;
        let offset = match civil.offset {
            Some(seconds) => Offset::from_seconds(seconds).ok()?,
            None => dates.offset,
        };
        let ns = offset.to_timestamp(date).ok()?.as_nanosecond();
        u64::try_from(ns).ok()?.checked_add(civil.passed)
    }
}

/// A date as a person types it: RFC 3339, or `YYYY-MM-DD[ HH:MM[:SS]]`, in nanoseconds since the Unix
/// epoch.
pub fn typed(text: &str, dates: Dates) -> Option<u64> {
    let mut c = Cursor(text.as_bytes());
    let mut civil = Civil::default();
    civil.date(&mut c)?;
    if !c.0.is_empty() {
        c.tag(b" ").or_else(|| c.tag(b"T"))?;
        civil.clock(&mut c, true)?;
        civil.zone(&mut c);
    }
    c.0.is_empty().then_some(())?;
    Stamp::Civil(civil).unix_ns(dates)
}

/// Exactly `count` digits.
fn digits(c: &mut Cursor<'_>, count: usize) -> Option<u64> {
    let field = c.0.get(..count)?;
    let mut value = 0;
    for byte in field {
        byte.is_ascii_digit().then_some(())?;
        value = value * 10 + u64::from(byte - b'0');
    }
    c.0 = &c.0[count..];
    Some(value)
}

/// `.123456`, of any length, in nanoseconds. `,` as well.
fn fraction(c: &mut Cursor<'_>) -> Option<i32> {
    c.tag(b".").or_else(|| c.tag(b","))?;
    let (mut value, mut count) = (0, 0);
    while let Some(digit @ b'0'..=b'9') = c.0.first() {
        if count < 9 {
            value = value * 10 + i32::from(digit - b'0');
            count += 1;
        }
        c.0 = &c.0[1..];
    }
    (count > 0).then(|| value * 10i32.pow(9 - count))
}

impl Civil {
    /// `2026-11-21`
    fn date(&mut self, c: &mut Cursor<'_>) -> Option<()> {
        self.year = Some(i16::try_from(digits(c, 4)?).ok()?);
        c.tag(b"-")?;
        self.month = digits(c, 2)? as i8;
        c.tag(b"-")?;
        self.day = digits(c, 2)? as i8;
        Some(())
    }

    /// `16:20:11`, with a fraction or not; `16:20` where that is enough.
    fn clock(&mut self, c: &mut Cursor<'_>, short: bool) -> Option<()> {
        self.hour = digits(c, 2)? as i8;
        c.tag(b":")?;
        self.minute = digits(c, 2)? as i8;
        if c.tag(b":").is_none() {
            return short.then_some(());
        }
        self.second = digits(c, 2)? as i8;
        let before = *c;
        match fraction(c) {
            Some(nanosecond) => self.nanosecond = nanosecond,
            None => *c = before,
        }
        Some(())
    }

    /// `Z`, `+01:00`, `+0100`, or nothing.
    fn zone(&mut self, c: &mut Cursor<'_>) {
        if c.tag(b"Z").is_some() {
            self.offset = Some(0);
            return;
        }
        let mut zone = *c;
        let sign = match zone.0.first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return,
        };
        zone.0 = &zone.0[1..];
        let mut read = || {
            let hours = digits(&mut zone, 2)?;
            let _ = zone.tag(b":");
            Some((hours * 60 + digits(&mut zone, 2)?) as i32 * 60)
        };
        if let Some(seconds) = read() {
            self.offset = Some(sign * seconds);
            *c = zone;
        }
    }
}

/// `2026-11-21T16:20:11.123456+01:00`. Whether its fraction is written with a comma, as by dmesg.
pub(super) fn iso(c: &mut Cursor<'_>) -> Option<(Stamp, bool)> {
    let (mut at, mut civil) = (*c, Civil::default());
    civil.date(&mut at)?;
    at.tag(b"T").or_else(|| at.tag(b" "))?;
    let comma = at.0.get(8) == Some(&b',');
    civil.clock(&mut at, false)?;
    civil.zone(&mut at);
    *c = at;
    Some((Stamp::Civil(civil), comma))
}

/// `Nov 21 16:20:11`, with a fraction or a year or not.
pub(super) fn bsd(c: &mut Cursor<'_>) -> Option<Stamp> {
    let (mut at, mut civil) = (*c, Civil::default());
    civil.month = month(word(&mut at)?)?;
    civil.day = day(&mut at)?;
    at.tag(b" ")?;
    let year = at;
    match digits(&mut at, 4).filter(|_| at.tag(b" ").is_some()) {
        Some(year) => civil.year = i16::try_from(year).ok(),
        None => at = year,
    }
    civil.clock(&mut at, false)?;
    *c = at;
    Some(Stamp::Civil(civil))
}

/// `Sat 2026-11-21 16:20:11[.123456] UTC`
pub(super) fn journal_full(c: &mut Cursor<'_>) -> Option<Stamp> {
    let (mut at, mut civil) = (*c, Civil::default());
    let day = word(&mut at)?;
    (2..=16).contains(&day.len()).then_some(())?;
    civil.date(&mut at)?;
    at.tag(b" ")?;
    civil.clock(&mut at, false)?;
    at.tag(b" ")?;
    let end = memchr::memchr(b' ', at.0)?;
    match &at.0[..end] {
        b"UTC" | b"GMT" => civil.offset = Some(0),
        // The name of a zone says too little of it.
        name if name.iter().all(u8::is_ascii_alphabetic) && end <= 5 => {}
        name => {
            let mut zone = Cursor(name);
            civil.zone(&mut zone);
            zone.0.is_empty().then_some(())?;
        }
    }
    at.0 = &at.0[end..];
    *c = at;
    Some(Stamp::Civil(civil))
}

/// `1795304231.017382`
pub(super) fn unix(c: &mut Cursor<'_>) -> Option<Stamp> {
    let mut at = *c;
    let seconds = digits(&mut at, 10)?;
    let nanoseconds = u64::try_from(fraction(&mut at)?).ok()?;
    *c = at;
    Some(Stamp::Unix(seconds * 1_000_000_000 + nanoseconds))
}

/// `1121 16:20:11.123456`, as klog has it behind the letter of the level.
pub(super) fn klog(c: &mut Cursor<'_>) -> Option<Stamp> {
    let (mut at, mut civil) = (*c, Civil::default());
    civil.month = digits(&mut at, 2)? as i8;
    civil.day = digits(&mut at, 2)? as i8;
    at.tag(b" ")?;
    civil.clock(&mut at, false)?;
    *c = at;
    Some(Stamp::Civil(civil))
}

/// `Sat Nov 21 16:20:11 2026`, in any language whose months are known; without, in any language at all,
/// it is a date, too, but not known which.
pub(super) fn ctime(text: &[u8]) -> Option<Option<Stamp>> {
    let mut civil = Civil::default();
    let (mut clock, mut name, mut number) = (false, None, None);
    let mut words = text.split(|&b| b == b' ').filter(|word| !word.is_empty());
    let _weekday = words.next()?;
    for word in words {
        let mut c = Cursor(word);
        if word.len() >= 8 && word[2] == b':' {
            civil.clock(&mut c, false)?;
            clock = c.0.is_empty();
        } else if word.len() == 4 && digits(&mut c, 4).is_some_and(|year| year >= 1970) {
            let mut c = Cursor(word);
            civil.year = i16::try_from(digits(&mut c, 4)?).ok();
        } else if word[0].is_ascii_digit() && word.len() <= 3 && number.is_none() {
            number = c.unsigned();
        } else if name.is_none() {
            name = Some(word);
        }
    }
    (clock && civil.year.is_some()).then_some(())?;
    let date = name.and_then(month).zip(number).map(|(month, day)| {
        civil.month = month;
        civil.day = i8::try_from(day).unwrap_or(0);
        Stamp::Civil(civil)
    });
    Some(date)
}

/// `Nov21 16:20`, `11月21 16:20`, as dmesg -H has it. Where the month is in a language that is not
/// known it is a date, too, but not known which.
pub(super) fn human(text: &[u8]) -> Option<Option<Stamp>> {
    let mut civil = Civil::default();
    let space = memchr::memrchr(b' ', text)?;
    let mut c = Cursor(&text[space + 1..]);
    civil.clock(&mut c, true)?;
    c.0.is_empty().then_some(())?;
    let date = text[..space].trim_ascii();
    let name = date.iter().rposition(|b| !b.is_ascii_digit())?;
    let (name, number) = date.split_at(name + 1);
    civil.day = day(&mut Cursor(number))?;
    let known = month(name.trim_ascii());
    Some(known.map(|month| {
        civil.month = month;
        Stamp::Civil(civil)
    }))
}

/// A word and the space behind it.
fn word<'a>(c: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let end = memchr::memchr(b' ', &c.0[..c.0.len().min(24)])?;
    let word = &c.0[..end];
    c.0 = &c.0[end + 1..];
    Some(word)
}

/// `21`, ` 1`, `1`
fn day(c: &mut Cursor<'_>) -> Option<i8> {
    c.spaces();
    let day = i8::try_from(c.unsigned()?).ok()?;
    (1..=31).contains(&day).then_some(day)
}

/// A month by the name that `strftime` has for `%b` in the languages most in use, without the full
/// stop. Names that stand for different months in two languages are in none.
fn month(name: &[u8]) -> Option<i8> {
    const NAMES: [&[&str]; 12] = [
        &[
            "jan", "janv", "ene", "gen", "янв", "sty", "led", "1月", "oca",
        ],
        &[
            "feb", "févr", "fév", "fev", "фев", "lut", "úno", "2月", "şub",
        ],
        &[
            "mar", "mär", "mrz", "märz", "mars", "mrt", "мар", "bře", "3月",
        ],
        &[
            "apr", "avr", "avril", "abr", "апр", "kwi", "dub", "4月", "nis",
        ],
        &[
            "may", "mai", "mag", "mei", "maj", "май", "мая", "kvě", "5月",
        ],
        &[
            "jun", "juin", "giu", "июн", "июня", "cze", "6月", "haz", "juni",
        ],
        &["jul", "juil", "lug", "июл", "июля", "lip", "7月", "juli"],
        &["aug", "août", "aoû", "ago", "авг", "sie", "8月", "ağu"],
        &["sep", "sept", "set", "сен", "wrz", "9月", "eyl"],
        &["oct", "okt", "ott", "out", "окт", "paź", "10月", "eki"],
        &["nov", "ноя", "11月", "kas"],
        &[
            "dec", "dez", "dic", "déc", "дек", "gru", "pro", "12月", "ara",
        ],
    ];
    let name = std::str::from_utf8(name).ok()?.trim_end_matches('.');
    let lower = name.to_lowercase();
    let at = NAMES
        .iter()
        .position(|names| names.contains(&lower.as_str()))?;
    Some(at as i8 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: u64 = 1_000_000_000;
    /// 2026-11-21T16:20:11Z
    const MOMENT: u64 = 1_795_278_011 * NS;

    fn unix_ns(stamp: Option<Stamp>) -> Option<u64> {
        stamp?.unix_ns(Dates {
            year: Some(2026),
            offset: Offset::UTC,
        })
    }

    /// One moment as each of them writes it.
    #[test]
    fn one_moment() {
        for text in [
            "2026-11-21T16:20:11Z",
            "2026-11-21T17:20:11+01:00",
            "2026-11-21 11:20:11-0500",
            "2026-11-21T16:20:11,000000+00:00",
        ] {
            let mut c = Cursor(text.as_bytes());
            let (stamp, comma) = iso(&mut c).unwrap();
            assert_eq!(
                (unix_ns(Some(stamp)), c.0),
                (Some(MOMENT), &b""[..]),
                "{text}"
            );
            assert_eq!(comma, text.contains(','));
        }
        for text in [
            "Nov 21 16:20:11",
            "nov. 21 16:20:11",
            "Nov 21 2026 16:20:11",
        ] {
            assert_eq!(
                unix_ns(bsd(&mut Cursor(text.as_bytes()))),
                Some(MOMENT),
                "{text}"
            );
        }
        for text in [
            "Sat Nov 21 16:20:11 2026",
            "Sa Nov 21 16:20:11 2026",
            "sam. nov. 21 16:20:11 2026",
            "土 11月 21 16:20:11 2026",
        ] {
            assert_eq!(
                unix_ns(ctime(text.as_bytes()).unwrap()),
                Some(MOMENT),
                "{text}"
            );
        }
        let unknown = ctime("Xx Yyy 21 16:20:11 2026".as_bytes());
        assert_eq!(unknown, Some(None), "a date, but no known month");
        let full = |text: &str| unix_ns(journal_full(&mut Cursor(text.as_bytes())));
        assert_eq!(full("Sat 2026-11-21 16:20:11 UTC host"), Some(MOMENT));
        assert_eq!(
            full("Sat 2026-11-21 16:20:11.5 UTC host"),
            Some(MOMENT + NS / 2)
        );
        assert_eq!(full("Sa 2026-11-21 19:20:11 +03 host"), None);
        assert_eq!(full("Sa 2026-11-21 19:20:11 +0300 host"), Some(MOMENT));
        assert_eq!(
            unix_ns(unix(&mut Cursor(b"1795278011.000000 host"))),
            Some(MOMENT)
        );
        assert_eq!(
            unix_ns(klog(&mut Cursor(b"1121 16:20:11.000000 1"))),
            Some(MOMENT)
        );
        for text in ["Nov21 16:20", "nov. 21 16:20", "11月21 16:20"] {
            let stamp = human(text.as_bytes()).unwrap();
            assert_eq!(unix_ns(stamp), Some(MOMENT - 11 * NS), "{text}");
        }
        let unknown = human(b"Yyy21 16:20");
        assert_eq!(unknown, Some(None), "a date, but no known month");
        assert_eq!(
            typed("2026-11-21 16:20", Dates::default()),
            Some(MOMENT - 11 * NS)
        );
        assert_eq!(
            typed("2026-11-21T16:20:11Z", Dates::default()),
            Some(MOMENT)
        );
        assert_eq!(
            typed("2026-11-21", Dates::default()),
            Some(MOMENT / NS / 86400 * 86400 * NS)
        );
    }

    /// What is no date, and dates that no calendar has.
    #[test]
    fn no_dates() {
        assert_eq!(ctime(b"  123.456789"), None);
        assert_eq!(ctime(b" 1532"), None);
        assert_eq!(human(b"Nov21"), None);
        assert_eq!(human(b"drm 16:20"), None);
        assert_eq!(bsd(&mut Cursor(b"Memory cgroup 16:20:11")), None);
        assert_eq!(iso(&mut Cursor(b"2026-11-21T1x:20:11Z")), None);
        assert_eq!(unix_ns(bsd(&mut Cursor(b"Feb 30 16:20:11"))), None);
        assert_eq!(typed("yesterday", Dates::default()), None);
        assert_eq!(
            bsd(&mut Cursor(b"Nov 21 16:20:11"))
                .unwrap()
                .unix_ns(Dates::default()),
            None
        );
    }
}
