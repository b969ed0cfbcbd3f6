//! What stands in front of the kernel's text in a line of a log file.
//!
//! Every reader of the kernel log puts its own things there: dmesg a time in one of six notations,
//! syslog and the journal a date, a host and a tag, Kubernetes a date and a stream. They nest. A line
//! is read from the outside inwards: [`outer`] takes what log collectors write, [`Style::inner`] what
//! dmesg and the kernel's console write.
//!
//! A tag other than `kernel` is a program's, and what programs write is no report. A process may name
//! itself `[  T1] x`, though, which dmesg prints where it would print a caller id. So [`Style`] is
//! found out from many lines, and no line has a prefix that its neighbours do not have.

use super::bytes::Cursor;
use super::date::{self, Stamp};
use super::record::{Caller, KmsgRecord};

/// A line without what its collector put in front.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outer<'a> {
    pub(super) stamp: Option<Stamp>,
    pub(super) host: Option<&'a [u8]>,
    pub(super) rest: Rest<'a>,
    /// Something was in front.
    pub(super) prefixed: bool,
}

/// What is left of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest<'a> {
    /// The kernel's text, perhaps with what dmesg or the console put in front.
    Text(&'a [u8]),
    /// A record of `/dev/kmsg`.
    Record(KmsgRecord<'a>),
    /// A program's text.
    Program,
}

impl Default for Rest<'_> {
    fn default() -> Self {
        Self::Text(b"")
    }
}

/// How lines of a log begin, as most of them do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// Anything at all. A line that has nothing continues the one before.
    pub(super) prefixed: bool,
    /// A time in brackets.
    pub(super) bracket: bool,
    /// A caller id, with a space between it and the time: dmesg of util-linux 2.39 and later.
    spaced_caller: bool,
    /// A host and a tag behind the time: `journalctl -o short-monotonic`.
    host_behind: bool,
}

/// The kernel's text, and what was in front of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Inner<'a> {
    pub(super) time: Time,
    pub(super) host: Option<&'a [u8]>,
    pub(super) caller: Option<Caller>,
    /// `None` for a program's.
    pub(super) text: Option<&'a [u8]>,
}

/// A time in brackets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Time {
    #[default]
    None,
    /// Microseconds since boot.
    Boot(u64),
    /// A date; `None` where its month is in a language that is not known.
    Date(Option<Stamp>),
    /// Dates without seconds and the nanoseconds that have passed since the line before:
    /// `dmesg -H` begins every minute with the one and goes on with the other.
    Minute(Option<Stamp>),
    Passed(u64),
    /// A time of which nothing can be made.
    Useless,
}

/// Takes away what a log collector put in front of the line.
pub(super) fn outer(line: &[u8]) -> Outer<'_> {
    let mut this = Outer::default();
    let mut c = Cursor(line);
    if let Some((stamp, text)) = cri(line) {
        // What a container wrote may be anything that is read here.
        let inner = outer(text);
        return Outer {
            stamp: inner.stamp.or(Some(stamp)),
            prefixed: true,
            ..inner
        };
    }
    if line.first().is_some_and(u8::is_ascii_digit)
        && let Some(record) = record(line)
    {
        this.prefixed = true;
        this.rest = Rest::Record(record);
        return this;
    }
    let mut priority = None;
    if let Some(number) = angle(&mut c) {
        this.prefixed = true;
        if number >> 3 != 0 {
            // Facility 0 is the kernel, and nobody else can use it.
            this.rest = Rest::Program;
            return this;
        }
        priority = Some(number);
        if c.tag(b"1 ").is_some() {
            return rfc5424(c, this);
        }
    }
    let letter = matches!(c.0.first(), Some(b'I' | b'W' | b'E' | b'F'))
        && c.0.get(1).is_some_and(u8::is_ascii_digit);
    if letter {
        let mut at = Cursor(&c.0[1..]);
        if let Some(stamp) = date::klog(&mut at)
            && let Some(text) = behind_bracket(at)
        {
            return Outer {
                stamp: Some(stamp),
                rest: Rest::Text(text),
                prefixed: true,
                ..this
            };
        }
    }
    let stamp = match c.0.first() {
        Some(b'0'..=b'9') => match date::iso(&mut c) {
            Some((stamp, true)) => {
                // Of those, only dmesg writes a comma, and nothing but the text behind it.
                let _ = c.tag(b" ");
                return Outer {
                    stamp: Some(stamp),
                    rest: Rest::Text(c.0),
                    prefixed: true,
                    ..this
                };
            }
            Some((stamp, false)) => Some(stamp),
            None => date::unix(&mut c),
        },
        Some(b'[' | b' ') | None => None,
        Some(_) => date::bsd(&mut c).or_else(|| date::journal_full(&mut c)),
    };
    let Some(stamp) = stamp else {
        // `kern  :warn  : [  123.456789] …`, dmesg -x
        if let Some(text) = decoded(c.0) {
            this.prefixed = true;
            this.rest = text;
        } else if priority.is_some() && !c.0.starts_with(b"[") {
            this.rest = tagged(c.0, &mut this.host).unwrap_or(Rest::Text(c.0));
        } else {
            this.rest = Rest::Text(c.0);
        }
        return this;
    };
    c.spaces();
    this.stamp = Some(stamp);
    this.prefixed = true;
    this.rest = tagged(c.0, &mut this.host).unwrap_or(Rest::Program);
    this
}

/// `<6>`
fn angle(c: &mut Cursor<'_>) -> Option<u32> {
    let mut at = *c;
    at.tag(b"<")?;
    let number = at.narrow()?;
    at.tag(b">")?;
    *c = at;
    Some(number)
}

/// A record as `/dev/kmsg` gives it.
fn record(line: &[u8]) -> Option<KmsgRecord<'_>> {
    let head = &line[..line.len().min(96)];
    let end = memchr::memchr(b';', head)?;
    memchr::memchr(b',', &head[..end])?;
    KmsgRecord::parse(line).ok()
}

/// `2026-11-21T16:20:11.123456789Z stderr F text` (`ReadLogs` in the kubelet's pkg/kubelet/kuberuntime).
fn cri(line: &[u8]) -> Option<(Stamp, &[u8])> {
    let mut c = Cursor(line);
    if !line.first()?.is_ascii_digit() || line.get(10) != Some(&b'T') {
        return None;
    }
    let (stamp, _) = date::iso(&mut c)?;
    c.tag(b" stderr ").or_else(|| c.tag(b" stdout "))?;
    c.tag(b"F ").or_else(|| c.tag(b"P "))?;
    Some((stamp, c.0))
}

/// The text behind `] `, near.
fn behind_bracket(mut c: Cursor<'_>) -> Option<&[u8]> {
    let near = &c.0[..c.0.len().min(96)];
    let end = memchr::memmem::find(near, b"] ")?;
    c.0 = &c.0[end + 2..];
    Some(c.0)
}

/// What is behind `<6>1 `.
fn rfc5424<'a>(mut c: Cursor<'a>, mut this: Outer<'a>) -> Outer<'a> {
    this.rest = Rest::Program;
    if let Some((stamp, _)) = date::iso(&mut c) {
        this.stamp = Some(stamp);
    } else if c.tag(b"-").is_none() {
        return this;
    }
    let _ = c.tag(b" ");
    let (Some(host), Some(app)) = (c.until(b" "), c.until(b" ")) else {
        return this;
    };
    this.host = Some(host).filter(|host| *host != b"-");
    // The process and the kind of message.
    let (Some(_), Some(_)) = (c.until(b" "), c.until(b" ")) else {
        return this;
    };
    while c.0.starts_with(b"[") {
        if c.until(b"]").is_none() {
            return this;
        }
    }
    let _ = c.tag(b"-");
    let _ = c.tag(b" ");
    let _ = c.tag(b"\xef\xbb\xbf");
    if app == b"kernel" {
        this.rest = Rest::Text(c.0);
    }
    this
}

/// `HOST kernel: text`, `kernel: text`, `HOST kern.warn kernel: text`. A line that has the kernel's own
/// time or level behind the date needs no tag: VMware writes what its guests print so. `None` without a
/// tag.
fn tagged<'a>(text: &'a [u8], host: &mut Option<&'a [u8]>) -> Option<Rest<'a>> {
    let mut c = Cursor(text);
    for place in 0..3 {
        if is_kernel_front(c.0) {
            return Some(Rest::Text(c.0));
        }
        let near = &c.0[..c.0.len().min(256)];
        let end = memchr::memchr(b' ', near).unwrap_or(near.len());
        let word = &near[..end];
        if word == b"kernel:" {
            let text = c.0.get(end + 1..).unwrap_or_default();
            return Some(Rest::Text(text));
        }
        if word.ends_with(b":") {
            return Some(Rest::Program);
        }
        match place {
            0 => *host = Some(word),
            // `kern.warn`
            1 if word.starts_with(b"kern.") => {}
            _ => break,
        }
        c.0 = c.0.get(end + 1..)?;
    }
    *host = None;
    // `In(05) vcpu-5 - Guest: <6>[39291577.009360] text`
    let near = &text[..text.len().min(64)];
    let guest = b" Guest: ";
    let at = memchr::memmem::find(near, guest)?;
    let rest = &text[at + guest.len()..];
    is_kernel_front(rest).then_some(Rest::Text(rest))
}

/// Whether text begins as the console does: a level or a time in brackets.
fn is_kernel_front(text: &[u8]) -> bool {
    let mut c = Cursor(text);
    let level = angle(&mut c);
    level.is_none_or(|level| level < 8) && matches!(boot_time(&mut c), Some(Time::Boot(_)))
}

/// What is behind `kern  :warn  : `.
fn decoded(text: &[u8]) -> Option<Rest<'_>> {
    const WIDTH: usize = b"kern  :warn  : ".len();
    let front = text.get(..WIDTH)?;
    let word = |part: &[u8]| {
        let letters = part.trim_ascii_end();
        !letters.is_empty() && letters.iter().all(u8::is_ascii_alphanumeric)
    };
    let (facility, level) = (&front[..6], &front[7..13]);
    let fits = front[6] == b':' && &front[13..] == b": " && word(facility) && word(level);
    fits.then(|| match facility {
        b"kern  " => Rest::Text(&text[WIDTH..]),
        _ => Rest::Program,
    })
}

/// `[  123.456789]`, perhaps with the time since the line before: `[  123.456789 <    0.000020>]`.
fn boot_time(c: &mut Cursor<'_>) -> Option<Time> {
    let mut at = *c;
    at.tag(b"[")?;
    at.spaces();
    let time = seconds(&mut at)?;
    end_of_time(&mut at)?;
    *c = at;
    Some(Time::Boot(time / 1000))
}

/// `123.456789`, in nanoseconds.
fn seconds(c: &mut Cursor<'_>) -> Option<u64> {
    let whole = c.unsigned()?;
    c.tag(b".")?;
    let before = c.0.len();
    let part = c.unsigned()?;
    let digits = u32::try_from(before - c.0.len()).ok()?;
    let unit = 10u64.checked_pow(9u32.checked_sub(digits)?)?;
    whole
        .checked_mul(1_000_000_000)?
        .checked_add(part.checked_mul(unit)?)
}

/// `]`, or ` <    0.000020>]`.
fn end_of_time(c: &mut Cursor<'_>) -> Option<()> {
    if c.tag(b" <").is_some() {
        c.spaces();
        let _ = c.tag(b"+");
        seconds(c)?;
        c.tag(b">")?;
    }
    c.tag(b"]")
}

/// A time in brackets, of any notation.
fn bracket(c: &mut Cursor<'_>) -> Option<Time> {
    if c.0.first() != Some(&b'[') {
        return None;
    }
    if let Some(time) = boot_time(c) {
        return Some(time);
    }
    let mut at = Cursor(&c.0[1..]);
    at.spaces();
    if at.tag(b"+").is_some() {
        let passed = seconds(&mut at)?;
        at.tag(b"]")?;
        *c = at;
        return Some(Time::Passed(passed));
    }
    if at.tag(b"<").is_some() {
        at.spaces();
        let _ = at.tag(b"+");
        seconds(&mut at)?;
        at.tag(b">]")?;
        *c = at;
        return Some(Time::Useless);
    }
    let near = &at.0[..at.0.len().min(72)];
    let end = memchr::memchr(b']', near)?;
    let inside = &near[..end];
    // With the time since the line before: a date, and that.
    let inside = match memchr::memmem::find(inside, b" <") {
        Some(at) if inside.ends_with(b">") => &inside[..at],
        _ => inside,
    };
    let time = match date::ctime(inside) {
        Some(stamp) => Time::Date(stamp),
        None => Time::Minute(date::human(inside)?),
    };
    c.0 = &at.0[end + 1..];
    Some(time)
}

/// `[ T123]`, `[    C1]`
fn caller(c: &mut Cursor<'_>) -> Option<Caller> {
    let mut at = *c;
    at.tag(b"[")?;
    at.spaces();
    let caller = if at.tag(b"T").is_some() {
        Caller::Thread(at.narrow()?)
    } else {
        at.tag(b"C")?;
        Caller::Cpu(at.narrow()?)
    };
    at.tag(b"]")?;
    *c = at;
    Some(caller)
}

impl Style {
    /// What most of these lines have, of those that are the kernel's.
    pub(super) fn of<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let (mut total, mut prefixed, mut brackets, mut callers, mut hosts) = (0, 0, 0, 0, 0);
        for line in lines {
            let outer = outer(line);
            let Rest::Text(text) = outer.rest else {
                continue;
            };
            // What continues the line before tells nothing.
            if text.is_empty() || text.starts_with(b"  ") {
                continue;
            }
            total += 1;
            let mut c = Cursor(text);
            let _ = angle(&mut c);
            let time = bracket(&mut c);
            prefixed += usize::from(outer.prefixed || time.is_some());
            if time.is_none() {
                continue;
            }
            brackets += 1;
            let _ = c.tag(b" ");
            hosts += usize::from(host_and_tag(c.0).is_some());
            callers += usize::from(caller(&mut c).is_some());
        }
        Self {
            prefixed: prefixed * 2 > total,
            bracket: brackets * 2 > total,
            spaced_caller: callers * 2 > brackets,
            host_behind: hosts * 2 > brackets,
        }
    }

    /// Takes away what dmesg or the console put in front of the text.
    pub(super) fn inner<'a>(self, text: &'a [u8]) -> Inner<'a> {
        let mut this = Inner::default();
        let mut c = Cursor(text);
        if self.bracket || !text.starts_with(b"[") {
            let mut at = c;
            if angle(&mut at).is_some_and(|level| level < 8) {
                c = at;
            }
        }
        if self.bracket
            && let Some(time) = bracket(&mut c)
        {
            this.time = time;
            // The kernel itself leaves no space before a caller id.
            this.caller = caller(&mut c);
            let _ = c.tag(b" ");
            if self.host_behind
                && let Some((host, rest)) = host_and_tag(c.0)
            {
                this.host = Some(host);
                this.text = rest;
                return this;
            }
            if self.spaced_caller && this.caller.is_none() {
                this.caller = caller(&mut c);
                let _ = c.tag(b" ");
            }
        }
        this.text = Some(c.0);
        this
    }
}

/// `HOST TAG: text`; no text where the tag is a program's.
fn host_and_tag(text: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let mut c = Cursor(text);
    let near = &text[..text.len().min(320)];
    let space = memchr::memchr(b' ', near)?;
    let host = &near[..space];
    if host.ends_with(b":") || host.starts_with(b"[") {
        return None;
    }
    c.0 = &text[space + 1..];
    if c.tag(b"kernel: ").is_some() {
        return Some((host, Some(c.0)));
    }
    let near = &c.0[..c.0.len().min(128)];
    let end = memchr::memchr(b' ', near)?;
    let tag = near[..end].strip_suffix(b":")?;
    // `sshd[12]:`
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_./()@[]".contains(b);
    tag.iter().all(plain).then_some((host, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"[  T1] x invoked oom-killer: gfp_mask=0x1(A), order=0, oom_score_adj=0";

    fn read(line: &[u8], style: Style) -> Option<(Outer<'_>, Inner<'_>)> {
        let outer = outer(line);
        match outer.rest {
            Rest::Text(text) => Some((outer, style.inner(text))),
            _ => None,
        }
    }

    fn with(front: &str) -> Vec<u8> {
        [front.as_bytes(), TEXT].concat()
    }

    /// Every notation in front of the same hostile name gives the same text.
    #[test]
    fn notations() {
        for (front, caller) in [
            ("", None),
            ("[  123.456789] ", None),
            ("<4>[  123.456789] ", None),
            ("[  123.456789][  T77] ", Some(Caller::Thread(77))),
            ("[  123.456789 <    0.000020>] ", None),
            ("[Sat Nov 21 16:20:11 2026] ", None),
            ("[Di Aug 12 03:54:03 2025] ", None),
            ("[Nov21 16:20] ", None),
            ("[  +0.000123] ", None),
            ("2026-11-21T16:20:11,123456+01:00 ", None),
            ("kern  :warn  : [  123.456789] ", None),
            ("Nov 21 16:20:11 host kernel: ", None),
            ("Nov 21 16:20:11 kernel: [  123.456789] ", None),
            (
                "Nov 21 16:20:11 host kern.warn kernel: [  123.456789] ",
                None,
            ),
            ("<4>Nov 21 16:20:11 host kernel: ", None),
            (
                "2026-11-21T16:20:11.123456+00:00 host kernel: [  123.456789] ",
                None,
            ),
            ("2026-11-21T16:20:11+0100 host kernel: ", None),
            ("Sat 2026-11-21 16:20:11 UTC host kernel: ", None),
            ("1795278011.123456 host kernel: ", None),
            (
                "<4>1 2026-11-21T16:20:11.123456+01:00 host kernel - - - ",
                None,
            ),
            ("<4>1 - - kernel - - [a b=\"c\"][d] ", None),
            ("2026-11-21T16:20:11.123456789Z stderr F ", None),
            (
                "2026-11-21T16:20:11.123456789Z stdout F [  123.456789] ",
                None,
            ),
            ("I1121 16:20:11.123456   12345 log.go:123] ", None),
            (
                "2023-12-04T10:49:30.127Z In(05) vcpu-5 - Guest: <6>[39291577.009360] ",
                None,
            ),
        ] {
            let (line, other) = (with(front), format!("{front}CPU: 0 PID: 1 Comm: x"));
            let style = Style::of([&line[..], other.as_bytes(), other.as_bytes()].into_iter());
            let (_, inner) = read(&line, style).unwrap_or_else(|| panic!("{front}"));
            assert_eq!(inner.text, Some(TEXT), "{front}");
            assert_eq!(inner.caller, caller, "{front}");
        }
    }

    /// The host and the moment are read.
    #[test]
    fn facts() {
        let line = with("2026-11-21T16:20:11+00:00 node-7 kernel: [  123.456789] ");
        let style = Style::of([&line[..]].into_iter());
        let (outer, inner) = read(&line, style).unwrap();
        assert_eq!(outer.host, Some(&b"node-7"[..]));
        assert!(matches!(outer.stamp, Some(Stamp::Civil(_))));
        assert_eq!(inner.time, Time::Boot(123_456_789));
        let line = b"[   12.5] node-7 kernel: hello";
        let style = Style::of([&line[..]].into_iter());
        let (_, inner) = read(line, style).unwrap();
        assert_eq!(
            (inner.host, inner.text),
            (Some(&b"node-7"[..]), Some(&b"hello"[..]))
        );
        assert_eq!(inner.time, Time::Boot(12_500_000));
    }

    /// dmesg of util-linux 2.39 puts a space before the caller id. Where all lines have one it is one.
    #[test]
    fn spaced_callers() {
        let line = with("[  123.456789] [  T77] ");
        let other = b"[  123.456789] [  T77] CPU: 0".as_slice();
        let style = Style::of([&line[..], other].into_iter());
        let (_, inner) = read(&line, style).unwrap();
        assert_eq!(
            (inner.text, inner.caller),
            (Some(TEXT), Some(Caller::Thread(77)))
        );
    }

    /// What programs say is not the kernel's, however it looks.
    #[test]
    fn programs() {
        for front in [
            "Nov 21 16:20:11 host app: ",
            "Nov 21 16:20:11 host app[12]: kernel: ",
            "Nov 21 16:20:11 app: ",
            "2026-11-21T16:20:11.123456+00:00 host systemd[1]: ",
            "<14>Nov 21 16:20:11 host kernel: ",
            "<14>1 2026-11-21T16:20:11Z host kernel - - - ",
            "<4>1 2026-11-21T16:20:11Z host app - - - ",
            "12,34,56,-;",
            "user  :warn  : [  123.456789] ",
            "2026-11-21T16:20:11.123456789Z stderr F Nov 21 16:20:11 host app: ",
        ] {
            let line = with(front);
            let rest = outer(&line).rest;
            let program = match rest {
                Rest::Program => true,
                Rest::Record(record) => record.facility != 0,
                Rest::Text(_) => false,
            };
            assert!(program, "{front}: {rest:?}");
        }
    }

    /// Rows and heads of the task table are no times.
    #[test]
    fn tables() {
        for text in [
            &b"[ 1532]  1020  1532   410347   398810     788        0             0 x"[..],
            b"[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name",
            b"[ pid ]   uid  tgid total_vm      rss nr_ptes swapents oom_score_adj name",
            b"[drm] ready",
        ] {
            let style = Style {
                bracket: true,
                ..Style::default()
            };
            assert_eq!(style.inner(text).text, Some(text));
        }
    }
}
