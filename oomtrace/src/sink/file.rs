//! A file that rotates.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::SystemTime,
};

use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};

use super::{Failure, encode};
use crate::{
    config::{Size, Time},
    delivery::Item,
    format::Format,
    process,
};

/// How much of a file's end is looked at for a line that was cut off.
const TAIL: u64 = 1 << 20;

/// Where the file is and when it rotates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The file.
    pub path: PathBuf,
    /// How records are written.
    #[serde(default)]
    pub format: Format,
    /// A file does not become larger.
    #[serde(default = "rotate_size")]
    pub rotate_size: Size,
    /// A file holds no more than one of these periods, counted in UTC; 0 for no such bound.
    #[serde(default)]
    pub rotate_every: Time,
    /// How many old files are kept.
    #[serde(default = "keep")]
    pub keep: u32,
    /// How long they are kept at most; 0 for no such bound.
    #[serde(default)]
    pub keep_for: Time,
    /// Whether old files are packed by gzip.
    #[serde(default)]
    pub compress: bool,
    /// Whether records are to survive a loss of power before they count as delivered.
    #[serde(default)]
    pub fsync: bool,
}

const fn rotate_size() -> Size {
    Size(100 << 20)
}

const fn keep() -> u32 {
    7
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), String> {
        let folder = folder(&self.path);
        if folder.is_dir() {
            return Ok(());
        }
        Err(format!("{} is no directory", folder.display()))
    }

    /// An old file, packed or not.
    fn old(&self, number: u32, packed: bool) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}{}", if packed { ".gz" } else { "" }));
        name.into()
    }
}

fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| *parent != Path::new(""))
        .unwrap_or(Path::new("."))
}

/// The file that is written.
struct Open {
    file: fs::File,
    /// Which file that is, whatever its name is by now.
    identity: (u64, u64),
    written: SystemTime,
}

/// A file that rotates.
pub(super) struct Sink {
    settings: Settings,
    open: Option<Open>,
    packing: Option<JoinHandle<()>>,
    /// The records, and where each ends.
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Sink {
    pub(super) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            open: None,
            packing: None,
            bytes: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Writes all, into as many files as that takes.
    fn write(&mut self) -> io::Result<()> {
        // Somebody else may have rotated it.
        let there = fs::metadata(&self.settings.path).map(|file| (file.dev(), file.ino()));
        let there = there.ok();
        if self
            .open
            .as_ref()
            .is_some_and(|open| Some(open.identity) != there)
        {
            self.open = None;
        }
        let (mut from, mut to) = (0, 0);
        for end in std::mem::take(&mut self.ends) {
            if self.is_full(to - from, end - from)? {
                self.append(from..to)?;
                self.rotate()?;
                from = to;
            }
            to = end;
        }
        self.append(from..to)
    }

    /// Writes these bytes, all or none.
    fn append(&mut self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut begun = Vec::new();
        let open = opened(&mut self.open, &self.settings.path)?;
        let length = open.file.metadata()?.len();
        if length == 0 {
            self.settings.format.begin(&mut begun);
        }
        let written = open
            .file
            .write_all(&begun)
            .and_then(|()| open.file.write_all(&self.bytes[range]));
        if let Err(error) = written {
            // All of it comes again.
            let _ = open.file.set_len(length);
            return Err(error);
        }
        open.written = SystemTime::now();
        if self.settings.fsync {
            open.file.sync_data()?;
        }
        Ok(())
    }

    /// Whether the file does not take `more` bytes, of which `have` are to be written anyway.
    fn is_full(&mut self, have: usize, more: usize) -> io::Result<bool> {
        let open = opened(&mut self.open, &self.settings.path)?;
        let length = open.file.metadata()?.len();
        let period = self.settings.rotate_every.0.as_secs();
        let of = |time: SystemTime| {
            let seconds = time.duration_since(SystemTime::UNIX_EPOCH);
            seconds.map_or(0, |seconds| seconds.as_secs() / period.max(1))
        };
        let over = period > 0 && of(open.written) != of(SystemTime::now());
        let large = length + more as u64 > self.settings.rotate_size.0;
        Ok(length + have as u64 > 0 && (over || large))
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.wait_for_packing();
        self.open = None;
        let settings = &self.settings;
        // A process that ended meanwhile has not packed it.
        let left = settings.old(1, false);
        if settings.compress && left.exists() {
            pack(&left, &settings.old(1, true))?;
        }
        for packed in [false, true] {
            gone(fs::remove_file(settings.old(settings.keep, packed)))?;
            for number in (1..settings.keep).rev() {
                let from = settings.old(number, packed);
                gone(fs::rename(from, settings.old(number + 1, packed)))?;
            }
        }
        if settings.keep == 0 {
            return fs::remove_file(&settings.path);
        }
        let old = settings.old(1, false);
        fs::rename(&settings.path, &old)?;
        if settings.keep_for.0.as_secs() > 0 {
            self.remove_old();
        }
        if self.settings.compress {
            let packed = self.settings.old(1, true);
            // It takes its time, and nobody waits for it. If it fails, the next rotation tries again.
            let packing = process::thread("oomtrace-pack", move || {
                if let Err(error) = pack(&old, &packed) {
                    tracing::warn!("{}: it cannot be packed: {error}", old.display());
                }
            });
            match packing {
                Ok(packing) => self.packing = Some(packing),
                Err(error) => tracing::warn!("no thread to pack an old file: {error}"),
            }
        }
        Ok(())
    }

    fn remove_old(&self) {
        for number in 1..=self.settings.keep {
            for packed in [false, true] {
                let path = self.settings.old(number, packed);
                let age = fs::metadata(&path)
                    .and_then(|file| file.modified())
                    .map(|time| time.elapsed().unwrap_or_default());
                if age.is_ok_and(|age| age > self.settings.keep_for.0)
                    && let Err(error) = fs::remove_file(&path)
                {
                    tracing::warn!("{}: it cannot be removed: {error}", path.display());
                }
            }
        }
    }

    fn wait_for_packing(&mut self) {
        if let Some(packing) = self.packing.take() {
            let _ = packing.join();
        }
    }
}

impl super::Sink for Sink {
    fn send(&mut self, items: &[Item]) -> Result<(), Failure> {
        self.bytes.clear();
        self.ends.clear();
        for item in items {
            encode(self.settings.format, item, &mut self.bytes)?;
            self.ends.push(self.bytes.len());
        }
        self.write()
            .map_err(|error| Failure::later(format!("{}: {error}", self.settings.path.display())))
    }

    fn rest(&mut self) {
        self.bytes = Vec::new();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.wait_for_packing();
    }
}

/// What is not there need not be moved.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The file, which is opened where it is not.
fn opened<'a>(open: &'a mut Option<Open>, path: &Path) -> io::Result<&'a mut Open> {
    let file = match open.take() {
        Some(file) => file,
        None => self::open(path)?,
    };
    Ok(open.insert(file))
}

fn open(path: &Path) -> io::Result<Open> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        mend(&mut file, metadata.len())?;
    }
    Ok(Open {
        identity: (metadata.dev(), metadata.ino()),
        written: metadata.modified()?,
        file,
    })
}

/// Ends a line that does not end. One that was cut off by a crash goes: it comes again, whole.
fn mend(file: &mut fs::File, length: u64) -> io::Result<()> {
    let from = length.saturating_sub(TAIL);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.read_to_end(&mut tail)?;
    if tail.is_empty() || tail.ends_with(b"\n") {
        return Ok(());
    }
    let start = tail
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let line = &tail[start..];
    let whole = serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
    if line.starts_with(b"{") && !whole {
        return file.set_len(from + start as u64);
    }
    file.write_all(b"\n")
}

fn pack(from: &Path, to: &Path) -> io::Result<()> {
    // Under another name until it is whole.
    let part = from.with_extension("part");
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&part)?;
    let mut packed = GzEncoder::new(file, Compression::default());
    io::copy(&mut fs::File::open(from)?, &mut packed)?;
    packed.finish()?.sync_data()?;
    fs::rename(&part, to)?;
    fs::remove_file(from)
}
