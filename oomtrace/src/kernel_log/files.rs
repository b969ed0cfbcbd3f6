//! Log files: what the kernel says in them of OOM kills, in one pass and little memory.
//!
//! Nearly all of a log is about something else. [`Needles`] finds the next place that could be of a
//! report, at the speed of memory; from there on lines are read, until nothing has come for a while.

use std::{
    borrow::Cow,
    io::{self, Read},
    sync::Arc,
};

use memchr::memmem::Finder;

use super::{
    date::{Dates, Stamp},
    journal::{self, Writer},
    parser::{Line, Output, Parser},
    prefix::{Outer, Rest, Style, Time, outer},
    record::Caller,
};

/// Bytes looked at in one go: they fit the cache of a processor.
const BLOCK: usize = 256 << 10;
/// The longest line that is read whole; of a longer one, the front. Entries of the journal may hold
/// more than a message.
const UNIT_MAX: usize = 64 << 10;
/// Lines without anything of use until the next needle is searched for.
const QUIET_LINES: u32 = 64;
/// The same while a report is under way: its lines may be far apart.
const QUIET_LINES_OPEN: u32 = 50_000;
/// No report takes that long, even on a serial console.
const REPORT_USEC_MAX: u64 = 300_000_000;
/// Logs of so many machines and tasks are told apart at once.
const STREAMS_MAX: usize = 256;
/// Lines that tell how lines begin.
const SAMPLE_LINES: usize = 48;
/// Bytes that tell whether a file is text.
const SAMPLE_BYTES: usize = 16 << 10;

/// The machine and its boot, as far as a log tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Host name.
    pub hostname: Option<Vec<u8>>,
    /// `/etc/machine-id`.
    pub machine_id: Option<String>,
    /// The boot's id: 32 hexadecimal digits.
    pub boot_id: Option<String>,
}

/// Something in a log.
#[derive(Debug)]
pub struct Found {
    /// What comes from one task of one machine. Those of different streams are of different kills.
    pub stream: u64,
    /// The machine.
    pub origin: Arc<Origin>,
    /// The line, from 1.
    pub line: u64,
    /// When that was written by the wall clock, in nanoseconds since the Unix epoch.
    pub wall_ns: Option<u64>,
    /// What it is.
    pub what: What,
}

/// What was found.
#[derive(Debug)]
pub enum What {
    /// A part of a report.
    Output(Box<Output>),
    /// Nothing more of this stream belongs to what came.
    End,
    /// A program's line that imitates the kernel.
    Imitation,
    /// A line that ought to be read and cannot.
    Broken,
}

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Lines.
    pub lines: u64,
    /// Lines that are longer than any log's; their front was read.
    pub long_lines: u64,
    /// Dates without a year, where none was given.
    pub dates_without_year: u64,
    /// Dates without a zone.
    pub dates_without_zone: u64,
    /// It begins as no text does.
    pub binary: bool,
}

/// Reads log files.
#[derive(Debug)]
pub struct LogReader {
    dates: Dates,
    /// The month of the last date without a year: when it falls, a year has passed.
    last_month: i8,
    totals: Totals,
    style: Style,
    export: bool,
    line: u64,
    streams: Vec<Stream>,
    /// The one whose line came last.
    at: usize,
    next_stream: u64,
    origin: Arc<Origin>,
    /// Whose the last line was: a line without a prefix continues it.
    last: Option<Last>,
    /// The minute `dmesg -H` printed last, and what has passed since.
    minute: Option<(Stamp, u64)>,
    quiet: u32,
    scratch: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Last {
    caller: Option<Caller>,
    time_usec: Option<u64>,
    wall: Option<Stamp>,
}

#[derive(Debug)]
struct Stream {
    id: u64,
    origin: Arc<Origin>,
    caller: Option<Caller>,
    parser: Parser,
    opened: Option<When>,
    header_line: u64,
}

/// On either clock.
#[derive(Debug, Clone, Copy)]
struct When {
    boot_usec: Option<u64>,
    wall_ns: Option<u64>,
}

/// A line with all that is known of it.
struct Message<'a> {
    origin: Arc<Origin>,
    wall: Option<Stamp>,
    line: Line<'a>,
    /// It continues the record before it.
    rest: bool,
}

impl LogReader {
    /// One that reads dates so.
    pub fn new(dates: Dates) -> Self {
        Self {
            dates,
            last_month: 0,
            totals: Totals::default(),
            style: Style::default(),
            export: false,
            line: 0,
            streams: Vec::new(),
            at: 0,
            next_stream: 0,
            origin: Arc::default(),
            last: None,
            minute: None,
            quiet: 0,
            scratch: Vec::new(),
        }
    }

    /// Reads one log to its end and hands `out` what it finds, in order. `read` hears how many bytes
    /// have been looked at.
    ///
    /// # Errors
    /// Those of `input`. What was found before has been handed out.
    pub fn read(
        &mut self,
        mut input: impl Read,
        mut read: impl FnMut(usize),
        out: &mut impl FnMut(Found),
    ) -> io::Result<Totals> {
        self.totals = Totals::default();
        (self.line, self.last_month, self.quiet) = (0, 0, 0);
        (self.last, self.minute) = (None, None);
        let mut block = Block::default();
        let mut needles = Needles::new();
        let mut active = false;
        let result = loop {
            // What came before an error is read all the same.
            let (more, error) = match block.fill(&mut input) {
                Ok(more) => (more, None),
                Err(error) => (false, Some(error)),
            };
            if self.line == 0 && !block.bytes().is_empty() {
                self.export = is_export(block.bytes());
                self.totals.binary = is_binary(block.bytes());
            }
            let units = block.units(self.export, !more);
            self.totals.long_lines += u64::from(units.cut);
            let bytes = &block.bytes()[..units.end];
            self.block(bytes, &mut needles, &mut active, out);
            read(bytes.len() + block.skipped);
            // The rest of the line is not looked at, and neither is its end.
            self.line += u64::from(units.cut && !active);
            block.consume(units, self.export);
            block.skipped = 0;
            if !more {
                break error.map_or(Ok(()), Err);
            }
        };
        self.end(out);
        self.totals.lines = self.line;
        result.map(|()| self.totals)
    }

    /// Whole lines or entries.
    fn block(
        &mut self,
        bytes: &[u8],
        needles: &mut Needles,
        active: &mut bool,
        out: &mut impl FnMut(Found),
    ) {
        needles.reset();
        let end_of_unit: &[u8] = if self.export { b"\n\n" } else { b"\n" };
        let mut at = 0;
        while at < bytes.len() {
            if !*active {
                let Some(found) = needles.next(bytes, at) else {
                    self.line += memchr::memchr_iter(b'\n', &bytes[at..]).count() as u64;
                    return;
                };
                let start = memchr::memmem::rfind(&bytes[at..found], end_of_unit)
                    .map_or(at, |end| at + end + end_of_unit.len());
                self.line += memchr::memchr_iter(b'\n', &bytes[at..start]).count() as u64;
                self.activate(bytes, start);
                (*active, at) = (true, start);
            }
            let length = if self.export {
                memchr::memmem::find(&bytes[at..], end_of_unit).map(|end| end + 1)
            } else {
                memchr::memchr(b'\n', &bytes[at..])
            };
            let length = length.unwrap_or(bytes.len() - at);
            self.line += 1;
            self.quiet += 1;
            self.unit(&bytes[at..at + length], out);
            if self.export {
                let lines = memchr::memchr_iter(b'\n', &bytes[at..at + length]).count();
                self.line += lines as u64;
            }
            at += length + 1;
            if self.quiet > QUIET_LINES {
                let open = self.streams.iter().any(|stream| stream.parser.is_open());
                if !open || self.quiet > QUIET_LINES_OPEN {
                    self.end(out);
                    *active = false;
                }
            }
        }
    }

    /// A place that could be of a report: how do lines begin here?
    fn activate(&mut self, bytes: &[u8], start: usize) {
        (self.quiet, self.last, self.minute) = (0, None, None);
        let before = bytes[..start].rsplit(|&b| b == b'\n');
        let behind = bytes[start..].split(|&b| b == b'\n');
        let sample = before
            .take(SAMPLE_LINES / 2)
            .chain(behind.take(SAMPLE_LINES))
            .map(tidy);
        let sample: Vec<_> = sample.map(without_wrapping).collect();
        self.style = Style::of(sample.iter().map(|line| tidy(line)));
        let (before, behind) = bytes.split_at(start);
        let first = behind.split(|&b| b == b'\n').next();
        if let Some(Time::Passed(_)) = first.map(|line| self.time_of(line)) {
            self.minute = self.minute_of(before);
        }
    }

    /// The time that dmesg put in front of a line.
    fn time_of(&self, line: &[u8]) -> Time {
        let mut plain = Vec::new();
        self.style
            .inner(without_colours(tidy(line), &mut plain))
            .time
    }

    /// The minute that `dmesg -H` printed last in this text, and what has passed since.
    fn minute_of(&self, text: &[u8]) -> Option<(Stamp, u64)> {
        let mut passed = 0u64;
        for line in text.rsplit(|&b| b == b'\n') {
            match self.time_of(line) {
                Time::Passed(ns) => passed = passed.saturating_add(ns),
                Time::Minute(minute) => return Some((minute?, passed)),
                _ => {}
            }
        }
        None
    }

    fn unit(&mut self, unit: &[u8], out: &mut impl FnMut(Found)) {
        let unit = tidy(unit);
        if unit.is_empty() {
            return;
        }
        if self.export || unit.starts_with(b"{") {
            let record = if self.export {
                journal::export(unit)
            } else {
                journal::json(unit)
            };
            match record {
                Some(record) => self.record(record, out),
                None if Needles::is_of_report(unit) => self.report_line(What::Broken, out),
                None => {}
            }
            return;
        }
        let mut plain = std::mem::take(&mut self.scratch);
        let unit = without_colours(unit, &mut plain);
        self.text(outer(unit), unit, None, out);
        self.scratch = plain;
    }

    fn record(&mut self, record: journal::Record, out: &mut impl FnMut(Found)) {
        let wall = record.wall_ns.map(Stamp::Unix);
        match record.writer {
            Writer::Kernel => {
                if self.origin.hostname != record.hostname
                    || self.origin.boot_id != record.boot_id
                    || self.origin.machine_id != record.machine_id
                {
                    self.origin = Arc::new(Origin {
                        hostname: record.hostname,
                        machine_id: record.machine_id,
                        boot_id: record.boot_id,
                    });
                }
                let message = Message {
                    origin: Arc::clone(&self.origin),
                    wall,
                    line: Line {
                        time_usec: record.boot_usec,
                        text: &record.message,
                        ..Line::default()
                    },
                    rest: false,
                };
                self.feed(&message, out);
            }
            Writer::Program => {
                if Needles::is_of_report(&record.message) {
                    self.report_line(What::Imitation, out);
                }
            }
            Writer::Wrapped => {
                for line in record.message.split(|&b| b == b'\n') {
                    let line = tidy(line);
                    if !line.is_empty() {
                        self.text(outer(line), line, wall, out);
                    }
                }
            }
        }
    }

    /// A line of text.
    fn text(
        &mut self,
        outer: Outer<'_>,
        whole: &[u8],
        wall: Option<Stamp>,
        out: &mut impl FnMut(Found),
    ) {
        let stamp = outer.stamp.or(wall);
        let text = match outer.rest {
            Rest::Text(text) => text,
            Rest::Program => {
                if Needles::is_of_report(whole) {
                    self.report_line(What::Imitation, out);
                }
                return;
            }
            Rest::Record(record) => {
                let mut scratch = Vec::new();
                match record.kernel_line(&mut scratch) {
                    Some(line) => {
                        self.set_host(outer.host);
                        let message = Message {
                            origin: Arc::clone(&self.origin),
                            wall: stamp,
                            line,
                            rest: false,
                        };
                        self.feed(&message, out);
                    }
                    None if Needles::is_of_report(whole) => {
                        self.report_line(What::Imitation, out);
                    }
                    None => {}
                }
                return;
            }
        };
        let inner = self.style.inner(text);
        let Some(text) = inner.text else {
            if Needles::is_of_report(whole) {
                self.report_line(What::Imitation, out);
            }
            return;
        };
        let bare = self.style.bracket || (self.style.prefixed && !outer.prefixed);
        if bare && inner.time == Time::None {
            // A record of several lines: only the first has a prefix.
            if let Some(last) = self.last {
                let message = Message {
                    origin: Arc::clone(&self.origin),
                    wall: last.wall,
                    line: Line {
                        time_usec: last.time_usec,
                        caller: last.caller,
                        text: text.trim_ascii_start(),
                        ..Line::default()
                    },
                    rest: true,
                };
                self.feed(&message, out);
            }
            return;
        }
        self.set_host(inner.host.or(outer.host));
        let (mut time_usec, mut wall) = (None, stamp);
        match inner.time {
            Time::None | Time::Useless => {}
            Time::Boot(usec) => time_usec = Some(usec),
            Time::Date(date) => wall = date.or(wall),
            Time::Minute(minute) => {
                self.minute = minute.map(|minute| (minute, 0));
                wall = minute.or(wall);
            }
            Time::Passed(ns) => {
                if let Some((minute, passed)) = &mut self.minute {
                    *passed = passed.saturating_add(ns);
                    let mut at = *minute;
                    if let Stamp::Civil(civil) = &mut at {
                        civil.passed = *passed;
                    }
                    wall = Some(at);
                }
            }
        }
        let unescaped = unescaped(text);
        let message = Message {
            origin: Arc::clone(&self.origin),
            wall,
            line: Line {
                time_usec,
                caller: inner.caller,
                text: unescaped.as_deref().unwrap_or(text),
                ..Line::default()
            },
            rest: false,
        };
        self.feed(&message, out);
    }

    fn set_host(&mut self, host: Option<&[u8]>) {
        let known = &*self.origin;
        if known.hostname.as_deref() != host || known.boot_id.is_some() {
            self.origin = Arc::new(Origin {
                hostname: host.map(<[u8]>::to_vec),
                ..Origin::default()
            });
        }
    }

    fn feed(&mut self, message: &Message<'_>, out: &mut impl FnMut(Found)) {
        let Message {
            origin,
            wall,
            line,
            rest,
        } = message;
        let wall_ns = wall.and_then(|stamp| self.unix_ns(stamp));
        self.last = Some(Last {
            caller: line.caller,
            time_usec: line.time_usec,
            wall: *wall,
        });
        let at = self.stream(origin, line.caller, out);
        let Some(stream) = self.streams.get_mut(at) else {
            return;
        };
        let now = When {
            boot_usec: line.time_usec,
            wall_ns,
        };
        let (id, number, mut useful) = (stream.id, self.line, false);
        let mut hand_over = |output: Output, header_line: u64| {
            useful = true;
            let line = match &output {
                Output::Report(report) if report.victim.pid.is_none() => header_line,
                _ => number,
            };
            out(Found {
                stream: id,
                origin: Arc::clone(origin),
                line,
                wall_ns,
                what: What::Output(Box::new(output)),
            });
        };
        let header_line = stream.header_line;
        let begun = stream.parser.begun();
        if stream
            .opened
            .is_some_and(|opened| opened.is_long_before(now))
        {
            stream
                .parser
                .finish(&mut |output| hand_over(output, header_line));
        }
        if *rest {
            stream
                .parser
                .feed_rest(line, &mut |output| hand_over(output, header_line));
        } else {
            stream
                .parser
                .feed(line, &mut |output| hand_over(output, header_line));
        }
        let open = stream.parser.is_open();
        if open && (stream.opened.is_none() || stream.parser.begun() != begun) {
            (stream.opened, stream.header_line) = (Some(now), number);
            useful = true;
        } else if !open {
            stream.opened = None;
        }
        if useful || (open && line.text.starts_with(b"[")) {
            self.quiet = 0;
        }
    }

    /// The stream of a line.
    fn stream(
        &mut self,
        origin: &Arc<Origin>,
        caller: Option<Caller>,
        out: &mut impl FnMut(Found),
    ) -> usize {
        let is_of = |stream: &Stream| {
            let same = Arc::ptr_eq(&stream.origin, origin) || stream.origin == *origin;
            stream.caller == caller && same
        };
        if self.streams.get(self.at).is_some_and(is_of) {
            return self.at;
        }
        self.at = self.streams.iter().position(is_of).unwrap_or_else(|| {
            if self.streams.len() >= STREAMS_MAX {
                self.end(out);
            }
            self.next_stream += 1;
            self.streams.push(Stream {
                id: self.next_stream,
                origin: Arc::clone(origin),
                caller,
                parser: Parser::of_fragments(),
                opened: None,
                header_line: 0,
            });
            self.streams.len() - 1
        });
        self.at
    }

    /// Nothing more belongs to what came.
    fn end(&mut self, out: &mut impl FnMut(Found)) {
        for mut stream in self.streams.drain(..) {
            let origin = Arc::clone(&stream.origin);
            let found = |what, line| Found {
                stream: stream.id,
                origin: Arc::clone(&origin),
                line,
                wall_ns: None,
                what,
            };
            let (header_line, end) = (stream.header_line, self.line);
            stream.parser.finish(&mut |output| {
                let cut = matches!(&output, Output::Report(report) if report.victim.pid.is_none());
                out(found(
                    What::Output(Box::new(output)),
                    if cut { header_line } else { end },
                ));
            });
            out(found(What::End, end));
        }
        self.last = None;
    }

    fn report_line(&mut self, what: What, out: &mut impl FnMut(Found)) {
        self.quiet = 0;
        out(Found {
            stream: 0,
            origin: Arc::clone(&self.origin),
            line: self.line,
            wall_ns: None,
            what,
        });
    }

    fn unix_ns(&mut self, stamp: Stamp) -> Option<u64> {
        if let Stamp::Civil(civil) = stamp {
            self.totals.dates_without_zone += u64::from(civil.offset.is_none());
            if civil.year.is_none() {
                self.totals.dates_without_year += u64::from(self.dates.year.is_none());
                // From December to January.
                if civil.month + 6 < self.last_month {
                    self.dates.year = self.dates.year.map(|year| year.saturating_add(1));
                }
                self.last_month = civil.month;
            }
        }
        stamp.unix_ns(self.dates)
    }
}

impl When {
    /// Whether a report that began at this time is over, since it would have taken too long.
    fn is_long_before(self, now: Self) -> bool {
        let boot = self.boot_usec.zip(now.boot_usec);
        let wall = self.wall_ns.zip(now.wall_ns);
        let wall = wall.map(|(from, to)| (from / 1000, to / 1000));
        // A boot clock that went back: the machine was started again.
        boot.is_some_and(|(from, to)| to < from)
            || boot
                .or(wall)
                .is_some_and(|(from, to)| to.saturating_sub(from) > REPORT_USEC_MAX)
    }
}

/// Without what may be around a line: carriage returns, NULs of a file with holes.
fn tidy(line: &[u8]) -> &[u8] {
    let mut line = line;
    while let Some((b'\r' | b'\n' | b'\0', rest)) = line.split_last() {
        line = rest;
    }
    while let Some((b'\r' | b'\0', rest)) = line.split_first() {
        line = rest;
    }
    line
}

/// The line that a JSON object holds.
fn without_wrapping(line: &[u8]) -> Cow<'_, [u8]> {
    let object = Some(line).filter(|line| line.starts_with(b"{"));
    match object.and_then(journal::json) {
        Some(record) if record.writer == Writer::Wrapped => Cow::Owned(record.message),
        _ => Cow::Borrowed(line),
    }
}

/// Without the colours of `dmesg --color=always`.
fn without_colours<'a>(line: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    if memchr::memchr(0x1b, line).is_none() {
        return line;
    }
    scratch.clear();
    let mut rest = line;
    while let Some(at) = memchr::memmem::find(rest, b"\x1b[") {
        scratch.extend_from_slice(&rest[..at]);
        let code = &rest[at + 2..];
        let end = code.iter().position(|b| !matches!(b, b'0'..=b'9' | b';'));
        rest = match end {
            Some(end) if matches!(code[end], b'm' | b'K') => &code[end + 1..],
            _ => code,
        };
    }
    scratch.extend_from_slice(rest);
    scratch
}

/// A record of several lines, in which rsyslog wrote `#012` for a newline. A name may hold that, too,
/// so only records that have no names are looked at.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let starts = [&b"active_anon:"[..], b"anon ", b"cache "];
    if !starts.iter().any(|start| text.starts_with(start)) {
        return None;
    }
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, b"#012") {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\n');
        rest = &rest[at + 4..];
    }
    (!out.is_empty()).then(|| {
        out.extend_from_slice(rest);
        out
    })
}

/// Whether a text that begins so is a log in which the kernel may have written, and not a list of JSON
/// objects of another kind. `None` where more of it must be seen; `last`: there is no more.
pub fn is_log(front: &[u8], last: bool) -> Option<bool> {
    if is_export(front) {
        return Some(true);
    }
    let whole = |line: &&[u8]| last || line.ends_with(b"\n");
    let mut lines = front.split_inclusive(|&b| b == b'\n').filter(whole);
    match lines.find(|line| line.starts_with(b"{")) {
        Some(object) => Some(journal::json(object).is_some()),
        None => last.then(|| !front.trim_ascii().is_empty()),
    }
}

/// Whether bytes are no text: holes of a file aside, control characters that no log has are many.
fn is_binary(bytes: &[u8]) -> bool {
    let (mut text, mut control) = (0, 0);
    for byte in bytes.iter().take(SAMPLE_BYTES) {
        text += usize::from(*byte != 0);
        control += usize::from(matches!(byte, 1..=8 | 14..=26 | 28..=31));
    }
    control * 32 > text
}

/// Whether it is the journal's export format, which begins with its own fields.
fn is_export(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    let Some(at) = memchr::memchr(b'=', line) else {
        return false;
    };
    let key = &line[..at];
    key.starts_with(b"__")
        && key
            .iter()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
}

/// Finds what is in reports and hardly anywhere else.
#[derive(Debug)]
struct Needles {
    finders: [Finder<'static>; NEEDLES.len()],
    /// Where each is next, in the block at hand.
    next: [Option<usize>; NEEDLES.len()],
}

/// Every kind of line a report can begin with, and those that are left when its begin is missing.
const NEEDLES: [&[u8]; 6] = [
    // ` invoked oom-killer: `, `oom-kill:constraint=`
    b"oom-kill",
    // `Killed process `, `Kill process `
    b"Kill",
    b"Tasks state",
    b"total_vm",
    b"Memory cgroup stats for ",
    // The journal's message that is no UTF-8, in JSON.
    b"\"MESSAGE\":[",
];

impl Needles {
    fn new() -> Self {
        Self {
            finders: NEEDLES.map(Finder::new),
            next: [Some(0); NEEDLES.len()],
        }
    }

    /// Another block.
    fn reset(&mut self) {
        self.next = [Some(0); NEEDLES.len()];
    }

    /// The first of them at or behind `from`.
    fn next(&mut self, bytes: &[u8], from: usize) -> Option<usize> {
        for (needle, (finder, next)) in self.finders.iter().zip(&mut self.next).enumerate() {
            let mut start = from;
            // What was found before is still the next one, unless it has been passed. At 0, nothing
            // has been searched for.
            match *next {
                None => continue,
                Some(at) if at >= from && at != 0 => continue,
                Some(_) => {}
            }
            *next = loop {
                let Some(at) = finder.find(&bytes[start..]).map(|at| start + at) else {
                    break None;
                };
                let rest = &bytes[at..];
                if needle != 1
                    || rest.starts_with(b"Killed process ")
                    || rest.starts_with(b"Kill process ")
                {
                    break Some(at);
                }
                start = at + 1;
            };
        }
        self.next.iter().flatten().min().copied()
    }

    /// Whether a line looks like one that reports of kills have.
    fn is_of_report(line: &[u8]) -> bool {
        let find = |needle: &[u8]| memchr::memmem::find(line, needle).is_some();
        find(b" invoked oom-killer: gfp_mask=")
            || find(b"oom-kill:constraint=")
            || find(b": Killed process ")
    }
}

/// A piece of the input.
#[derive(Debug, Default)]
struct Block {
    buffer: Vec<u8>,
    have: usize,
    /// The rest of a line that was too long is thrown away.
    skipping: bool,
    /// So much of it was, since this was last asked.
    skipped: usize,
}

/// Whole lines at the front of a block.
#[derive(Debug, Clone, Copy)]
struct Units {
    end: usize,
    /// The last of them is only the front of one.
    cut: bool,
}

impl Block {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.have]
    }

    /// Reads until the block is full. `false` at the end of the input.
    fn fill(&mut self, input: &mut impl Read) -> io::Result<bool> {
        self.buffer.resize(BLOCK + UNIT_MAX, 0);
        while self.have < self.buffer.len() {
            match input.read(&mut self.buffer[self.have..]) {
                Ok(0) => return Ok(false),
                Ok(count) => self.have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.skipping {
                let Some(end) = memchr::memchr(b'\n', self.bytes()) else {
                    self.skipped += std::mem::take(&mut self.have);
                    return Ok(true);
                };
                self.skipped += end + 1;
                self.drop_front(end + 1);
                self.skipping = false;
            }
        }
        Ok(true)
    }

    /// The whole lines there are; at the end of the input, everything.
    fn units(&self, export: bool, last: bool) -> Units {
        let end_of_unit: &[u8] = if export { b"\n\n" } else { b"\n" };
        let end = memchr::memmem::rfind(self.bytes(), end_of_unit).map(|at| at + end_of_unit.len());
        match end {
            _ if last => Units {
                end: self.have,
                cut: false,
            },
            Some(end) => Units { end, cut: false },
            // In the middle of what is thrown away.
            None if self.have == 0 => Units { end: 0, cut: false },
            None => Units {
                end: UNIT_MAX,
                cut: true,
            },
        }
    }

    fn consume(&mut self, units: Units, export: bool) {
        if units.cut {
            // Where it ends is not known yet.
            self.skipping = !export;
            self.have = 0;
        } else {
            self.drop_front(units.end);
        }
    }

    fn drop_front(&mut self, count: usize) {
        self.buffer.copy_within(count..self.have, 0);
        self.have -= count;
    }
}
