//! Records on disk until they are delivered: a log in segments that is only ever appended to, and a
//! file that tells how far delivery has come.
//!
//! A segment is named by the number of its first record. A record is its length, a checksum, and
//! its bytes. A process that is killed leaves at most a torn record at the end of the last segment:
//! the checksum tells it, nobody was promised it, and a new process begins a new segment.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt as _, FileExt, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FlockOperation, flock};

use super::{Item, Lost};

/// Length and checksum.
const HEADER: usize = 8;
/// No record is longer: a length beyond it is none.
const MOST_RECORD: usize = 16 << 20;
/// A spool has about this many segments when it is full: as much is given up at once.
const SEGMENTS: u64 = 8;
/// The bounds of a segment's size.
const SEGMENT_BYTES: [u64; 2] = [16 << 10, 8 << 20];
/// What segments are called after their number.
const ENDING: &str = ".spool";
/// Serial number, `done`, `declared`, checksum, and room.
const SLOT: usize = 32;

/// A file of records.
#[derive(Debug)]
struct Segment {
    first: u64,
    count: u64,
    /// Those of whole records.
    bytes: u64,
}

impl Segment {
    const fn end(&self) -> u64 {
        self.first + self.count
    }
}

/// The spool of one sink.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    _lock: File,
    most_bytes: u64,
    /// Oldest first; none is empty but the one that is written.
    segments: VecDeque<Segment>,
    /// The last segment, where this process has begun it.
    writer: Option<File>,
    /// The segment that is read, and how far.
    reader: Option<(u64, File)>,
    offset: u64,
    /// The next record to be read.
    cursor: u64,
    /// All records before this one are delivered or declared lost. Those from here to `cursor` are
    /// being delivered, or declared lost.
    done: u64,
    /// How many of these are declared lost.
    declared: u64,
    position: File,
    serial: u64,
    buffer: Vec<u8>,
}

impl Spool {
    /// Opens the spool in a folder, which is made where it is missing. Tells what is missing from
    /// it.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process uses it.
    pub fn open(folder: &Path, most_bytes: u64) -> io::Result<(Self, Lost)> {
        // What it holds is nobody else's business.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let open = |name: &str| {
            let path = folder.join(name);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).mode(0o600);
            options.truncate(false).open(path)
        };
        let lock = open("lock")?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another oomtrace uses this spool",
            )
        })?;
        let position = open("position")?;
        let mut segments = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.strip_suffix(ENDING)?.parse().ok());
            let Some(first) = number else {
                continue;
            };
            let segment = scan(&path, first)?;
            if segment.count == 0 {
                fs::remove_file(&path)?;
            } else {
                segments.push(segment);
            }
        }
        segments.sort_by_key(|segment| segment.first);
        let first = segments.first().map(|segment| segment.first);
        let (serial, done, declared) =
            read_position(&position)?.unwrap_or((0, first.unwrap_or(0), 0));
        let end = segments.last().map_or(done, |last: &Segment| last.end());
        // What stood before the segments, and was neither delivered nor declared lost.
        let missing = first.map_or(0, |first| first.saturating_sub(done));
        let done = done.max(first.unwrap_or(0)).min(end);
        let spool = Self {
            folder: folder.to_owned(),
            _lock: lock,
            most_bytes,
            segments: segments.into(),
            writer: None,
            reader: None,
            offset: 0,
            cursor: done,
            done,
            declared: 0,
            position,
            serial,
            buffer: Vec::new(),
        };
        let lost = Lost {
            records: missing.saturating_sub(declared),
            kills: 0,
        };
        Ok((spool, lost))
    }

    /// Changes the bound; it holds from the next record on.
    pub const fn set_bound(&mut self, most_bytes: u64) {
        self.most_bytes = most_bytes;
    }

    /// Its size on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// How many records are to be read.
    pub fn unread(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.end().saturating_sub(self.cursor.max(segment.first)))
            .sum()
    }

    /// Appends records, all or none. At the bound the oldest go.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append(&mut self, records: &[Item]) -> io::Result<Lost> {
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.clear();
        for record in records {
            let length = u32::try_from(record.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes();
            bytes.extend_from_slice(&length);
            bytes.extend_from_slice(&checksum(&length, record).to_le_bytes());
            bytes.extend_from_slice(record);
        }
        let appended = self.append_bytes(&bytes, records.len() as u64);
        self.buffer = bytes;
        self.buffer.shrink_to(SEGMENT_BYTES[0] as usize);
        appended
    }

    fn append_bytes(&mut self, bytes: &[u8], count: u64) -> io::Result<Lost> {
        let length = bytes.len() as u64;
        let mut lost = Lost::default();
        while self.segments.len() > 1 && self.bytes() + length > self.most_bytes {
            lost += self.give_up_oldest();
        }
        let [least, most] = SEGMENT_BYTES;
        let enough = (self.most_bytes / SEGMENTS).clamp(least, most);
        let full = self.segments.back().is_none_or(|last| last.bytes >= enough);
        if self.writer.is_none() || full {
            self.begin_segment()?;
        }
        let (Some(writer), Some(last)) = (&mut self.writer, self.segments.back_mut()) else {
            return Err(io::Error::other("no segment"));
        };
        if let Err(error) = writer.write_all(bytes) {
            // A torn record is followed by none: what comes next begins a new segment.
            if writer.set_len(last.bytes).is_err() {
                self.writer = None;
            }
            return Err(error);
        }
        last.bytes += length;
        last.count += count;
        Ok(lost)
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let first = self
            .segments
            .back()
            .map_or(self.done.max(self.cursor), Segment::end);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.path(first))?;
        // There may be one of this name with a torn record in it.
        file.set_len(0)?;
        if self.segments.back().is_some_and(|last| last.count == 0) {
            self.segments.pop_back();
        }
        self.writer = Some(file);
        self.segments.push_back(Segment {
            first,
            count: 0,
            bytes: 0,
        });
        Ok(())
    }

    /// Forgets the oldest segment. What of it is being delivered is not lost.
    fn give_up_oldest(&mut self) -> Lost {
        let Some(oldest) = self.segments.front() else {
            return Lost::default();
        };
        let from = self.cursor.max(oldest.first);
        let mut lost = Lost {
            records: oldest.end().saturating_sub(from),
            kills: 0,
        };
        if lost.records > 0 {
            let path = self.path(oldest.first);
            let mut number = oldest.first;
            let counted = fs::read(path).map(|bytes| {
                each(&bytes, |record| {
                    if number >= from && super::is_kill(record) {
                        lost.kills += 1;
                    }
                    number += 1;
                });
            });
            if let Err(error) = counted {
                tracing::debug!(%error, "a segment that is given up cannot be read");
            }
        }
        self.drop_oldest();
        if let Some(next) = self.segments.front()
            && self.cursor < next.first
        {
            (self.cursor, self.offset) = (next.first, 0);
        }
        self.declared += lost.records;
        self.write_position();
        lost
    }

    fn drop_oldest(&mut self) {
        if let Some(segment) = self.segments.pop_front() {
            if self
                .reader
                .as_ref()
                .is_some_and(|(first, _)| *first == segment.first)
            {
                self.reader = None;
            }
            if let Err(error) = fs::remove_file(self.path(segment.first)) {
                tracing::warn!(%error, "{}: a segment cannot be removed", self.folder.display());
            }
        }
    }

    /// The next records, at least one where there is one. They stay until they are
    /// [`delivered`](Self::delivered). Also tells what could not be read.
    ///
    /// # Errors
    /// Those of the system.
    pub fn read(&mut self, most: usize, most_bytes: usize) -> io::Result<(Vec<Item>, Lost)> {
        let mut items = Vec::new();
        let mut lost = Lost::default();
        while items.is_empty() {
            let cursor = self.cursor;
            let Some(segment) = self.segments.iter().find(|segment| segment.end() > cursor) else {
                break;
            };
            let (first, end, bytes) = (segment.first, segment.end(), segment.bytes);
            if cursor < first {
                lost.records += first - cursor;
                self.declared += first - cursor;
                self.cursor = first;
            }
            if self.reader.as_ref().is_none_or(|(open, _)| *open != first) {
                let file = File::open(self.path(first))?;
                self.offset = skip(&file, self.cursor - first, bytes)?;
                self.reader = Some((first, file));
            }
            let Some((_, file)) = &self.reader else {
                break;
            };
            let mut buffer = std::mem::take(&mut self.buffer);
            let mut want = most_bytes.max(HEADER);
            loop {
                let left = usize::try_from(bytes.saturating_sub(self.offset)).unwrap_or(usize::MAX);
                buffer.resize(want.min(left), 0);
                file.read_exact_at(&mut buffer, self.offset)?;
                let mut read = 0;
                while items.len() < most
                    && let Some(record) = next(&buffer[read..])
                {
                    read += HEADER + record.len();
                    items.push(Item::from(record));
                }
                self.offset += read as u64;
                self.cursor += items.len() as u64;
                if !items.is_empty() || want >= left {
                    break;
                }
                // One that is longer than that.
                want = want.saturating_mul(4);
            }
            buffer.clear();
            buffer.shrink_to(SEGMENT_BYTES[0] as usize);
            self.buffer = buffer;
            if items.is_empty() {
                // It was whole when the segment was opened.
                tracing::warn!("{}: records were damaged", self.folder.display());
                lost.records += end - self.cursor;
                self.declared += end - self.cursor;
                self.cursor = end;
                self.write_position();
            }
        }
        Ok((items, lost))
    }

    /// The oldest `count` of what was read and not yet told of are delivered.
    pub fn delivered(&mut self, count: u64) {
        self.done += count;
        if self.done + self.declared >= self.cursor {
            (self.done, self.declared) = (self.cursor, 0);
        }
        // First, so that nobody takes what is removed for lost.
        self.write_position();
        while self.segments.len() > 1
            && self
                .segments
                .front()
                .is_some_and(|oldest| oldest.end() <= self.done)
        {
            self.drop_oldest();
        }
    }

    /// What was read and is not delivered is to be read again. Tells what is no longer there.
    pub fn rewind(&mut self) -> Lost {
        let first = self
            .segments
            .front()
            .map_or(self.cursor, |oldest| oldest.first);
        let gone = first.min(self.cursor).saturating_sub(self.done);
        let lost = Lost {
            records: gone.saturating_sub(self.declared),
            kills: 0,
        };
        self.done = self.done.max(first.min(self.cursor));
        (self.cursor, self.declared, self.reader) = (self.done, 0, None);
        self.write_position();
        lost
    }

    /// A handle by which what was written can be made to survive a loss of power.
    pub fn to_sync(&self) -> Option<File> {
        self.writer.as_ref()?.try_clone().ok()
    }

    /// Delivery goes on without: then some are delivered twice.
    fn write_position(&mut self) {
        self.serial += 1;
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(&self.serial.to_le_bytes());
        slot[8..16].copy_from_slice(&self.done.to_le_bytes());
        slot[16..24].copy_from_slice(&self.declared.to_le_bytes());
        let sum = checksum(&[], &slot[..24]);
        slot[24..28].copy_from_slice(&sum.to_le_bytes());
        // The other slot stays whole, whenever this is interrupted.
        let at = self.serial % 2 * SLOT as u64;
        if let Err(error) = self.position.write_all_at(&slot, at) {
            tracing::debug!(%error, "{}: the position cannot be kept", self.folder.display());
        }
    }

    fn path(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{first:020}{ENDING}"))
    }
}

fn read_position(file: &File) -> io::Result<Option<(u64, u64, u64)>> {
    let mut newest = None;
    for index in 0..2 {
        let mut slot = [0; SLOT];
        match file.read_exact_at(&mut slot, index * SLOT as u64) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(error) => return Err(error),
        }
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&slot[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let sum = checksum(&[], &slot[..24]);
        if slot[24..28] == sum.to_le_bytes() && number(0) > 0 {
            newest = newest.max(Some((number(0), number(8), number(16))));
        }
    }
    Ok(newest)
}

/// What of a segment is whole.
fn scan(path: &Path, first: u64) -> io::Result<Segment> {
    let bytes = fs::read(path)?;
    let mut count = 0;
    let length = each(&bytes, |_| count += 1);
    Ok(Segment {
        first,
        count,
        bytes: length as u64,
    })
}

/// Where the record after `count` others begins.
fn skip(file: &File, count: u64, bytes: u64) -> io::Result<u64> {
    let mut offset = 0;
    for _ in 0..count {
        let mut header = [0; 4];
        if offset + HEADER as u64 > bytes {
            break;
        }
        file.read_exact_at(&mut header, offset)?;
        offset += HEADER as u64 + u64::from(u32::from_le_bytes(header));
    }
    Ok(offset)
}

/// Calls `with` each whole record, and returns how long they are together.
fn each(bytes: &[u8], mut with: impl FnMut(&[u8])) -> usize {
    let mut at = 0;
    while let Some(record) = next(&bytes[at..]) {
        with(record);
        at += HEADER + record.len();
    }
    at
}

/// The record that `bytes` begin with, if it is whole.
fn next(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let size = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let record = rest
        .get(..size)
        .filter(|_| size > 0 && size <= MOST_RECORD)?;
    (checksum(length, record) == u32::from_le_bytes(*sum)).then_some(record)
}

fn checksum(length: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(bytes);
    hasher.finalize()
}

/// A record; it is shared by the queues it is in.
pub(super) fn item(bytes: &[u8]) -> Item {
    Arc::from(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LARGE: u64 = 64 << 20;

    fn records(numbers: std::ops::Range<usize>, length: usize) -> Vec<Item> {
        let record = |number| {
            let kind = if number % 2 == 0 {
                "oom_kill"
            } else {
                "status"
            };
            item(format!("{{\"kind\":\"{kind}\",\"n\":{number:0length$}}}").as_bytes())
        };
        numbers.map(record).collect()
    }

    fn open(folder: &Path) -> (Spool, Lost) {
        Spool::open(folder, LARGE).unwrap()
    }

    /// All that can be read.
    fn rest(spool: &mut Spool) -> Vec<Item> {
        let mut all = Vec::new();
        loop {
            let (items, lost) = spool.read(7, 300).unwrap();
            assert_eq!(lost, Lost::default());
            if items.is_empty() {
                return all;
            }
            all.extend(items);
        }
    }

    /// Cut off at any byte, as by a kill: what is whole is there, and what follows goes behind it.
    #[test]
    fn cut_at_any_byte() {
        let all = records(0..6, 20);
        let whole = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(whole.path());
        spool.append(&all[..3]).unwrap();
        spool.append(&all[3..5]).unwrap();
        let name = spool.path(0);
        drop(spool);
        let bytes = fs::read(&name).unwrap();
        let ends: Vec<usize> = (1..=5)
            .map(|count| {
                all[..count]
                    .iter()
                    .map(|record| record.len() + HEADER)
                    .sum()
            })
            .collect();
        for cut in 0..=bytes.len() {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name.file_name().unwrap()), &bytes[..cut]).unwrap();
            let (mut spool, lost) = open(folder.path());
            assert_eq!(lost, Lost::default(), "{cut}");
            let there = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(spool.unread(), there as u64, "{cut}");
            spool.append(&all[5..]).unwrap();
            let expected = [&all[..there], &all[5..]].concat();
            assert_eq!(rest(&mut spool), expected, "{cut}");
            drop(spool);
            let (mut spool, _) = open(folder.path());
            assert_eq!(
                rest(&mut spool),
                expected,
                "{cut}: nothing was told of as delivered"
            );
        }
    }

    /// What is delivered does not come again, whatever is torn of the position: at most the last step
    /// is repeated.
    #[test]
    fn position_survives() {
        let folder = tempfile::tempdir().unwrap();
        let all = records(0..40, 20);
        let (mut spool, _) = open(folder.path());
        spool.append(&all).unwrap();
        for _ in 0..4 {
            let (items, _) = spool.read(5, LARGE as usize).unwrap();
            spool.delivered(items.len() as u64);
        }
        drop(spool);
        let position = folder.path().join("position");
        let bytes = fs::read(&position).unwrap();
        for at in 0..bytes.len() {
            let mut torn = bytes.clone();
            torn[at] ^= 0x55;
            fs::write(&position, &torn).unwrap();
            let (mut spool, lost) = open(folder.path());
            assert_eq!(lost, Lost::default());
            let left = rest(&mut spool);
            assert!(
                left == all[20..] || left == all[15..],
                "{at}: {}",
                left.len()
            );
        }
    }

    /// At the bound the oldest go; how many is exact, what is being delivered is not among them, and
    /// also after a crash none is unaccounted for.
    #[test]
    fn the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let bound = 256 << 10;
        let (mut spool, _) = Spool::open(folder.path(), bound).unwrap();
        let all = records(0..3000, 500);
        spool.append(&all[..10]).unwrap();
        let (held, _) = spool.read(4, LARGE as usize).unwrap();
        assert_eq!(held, all[..4]);
        let mut lost = Lost::default();
        for some in all[10..].chunks(10) {
            lost += spool.append(some).unwrap();
            assert!(spool.bytes() <= bound);
        }
        assert_eq!(spool.unread() + lost.records + 4, 3000);
        assert_eq!(lost.kills, lost.records / 2);
        drop(spool);
        // The four that were held were not told of as delivered.
        let (mut spool, missing) = Spool::open(folder.path(), bound).unwrap();
        assert_eq!(missing.records, 4);
        let left = rest(&mut spool);
        assert_eq!(left, all[3000 - left.len()..]);
        assert_eq!(left.len() as u64 + lost.records + 4, 3000);
        spool.delivered(left.len() as u64);
        drop(spool);
        let (spool, missing) = Spool::open(folder.path(), bound).unwrap();
        assert_eq!((spool.unread(), missing), (0, Lost::default()));
        assert!(spool.bytes() <= bound / SEGMENTS + 6000);
    }

    /// Two processes do not share a spool.
    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (_spool, _) = open(folder.path());
        let error = Spool::open(folder.path(), LARGE).unwrap_err();
        assert!(error.to_string().contains("another oomtrace"), "{error}");
    }

    /// What a worker could not deliver is read again.
    #[test]
    fn what_is_given_back_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let all = records(0..10, 20);
        let (mut spool, _) = open(folder.path());
        spool.append(&all).unwrap();
        spool.read(6, LARGE as usize).unwrap();
        spool.delivered(2);
        assert_eq!(spool.rewind(), Lost::default());
        assert_eq!(rest(&mut spool), all[2..]);
    }
}
