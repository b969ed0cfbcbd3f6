//! Lines that the kernel prints in pieces.
//!
//! Lines with a cgroup path, and those about a zone, are printed with `pr_cont`, piece by piece. As long as the pieces fit
//! one record of about 1 kB they are one record. A piece that does not fit, or that another CPU's
//! record got in front of, becomes a record of its own, flagged `c` (`vprintk_store` in
//! kernel/printk/printk.c). A single piece that is too long, such as a path, is cut without a mark.

use super::parser::Line;
use super::record::Caller;
use super::report::LogPath;

/// Which line is being put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `oom-kill:constraint=…`
    Summary,
    /// `Memory cgroup stats for …:`; up to 5.2 the figures follow in the line.
    MemcgStats,
    /// `Task in … killed as a result of limit of …`, up to 4.18.
    TaskIn,
    /// `Tasks in … are going to be killed due to memory.oom.group set`
    Group,
    /// A line about a zone (`show_free_areas`, mm/show_mem.c).
    Zone,
}

pub(super) const MEMCG_STATS: &[u8] = b"Memory cgroup stats for ";
pub(super) const GROUP: &[u8] = b"Tasks in ";
pub(super) const TASK_IN: &[u8] = b"Task in ";
const LIMIT_OF: &[u8] = b" killed as a result of limit of ";
const GROUP_END: &[u8] = b" are going to be killed due to memory.oom.group set";

/// A line under way: its pieces so far, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub(super) kind: Option<Kind>,
    pub(super) text: Vec<u8>,
    /// Offsets in `text` where printk cut a piece short.
    pub(super) cuts: Vec<usize>,
    pub(super) time_usec: Option<u64>,
    pub(super) seq: Option<u64>,
    /// A line of unknown origin came between two pieces: the later may not belong here.
    pub(super) mixed: bool,
    pub(super) interrupted: bool,
    caller: Option<Caller>,
    last_piece: usize,
}

/// Two paths of 1 kB, a name of 255 bytes and the fixed text fit; more is not the kernel's.
const TEXT_MAX: usize = 8192;
const PIECES_MAX: usize = 32;

impl Joined {
    pub(super) fn start(&mut self, kind: Kind, line: &Line<'_>) {
        self.clear();
        self.kind = Some(kind);
        self.time_usec = line.time_usec;
        self.seq = line.seq;
        self.caller = line.caller;
        self.push(line.text);
    }

    pub(super) fn clear(&mut self) {
        self.kind = None;
        self.text.clear();
        self.cuts.clear();
        self.mixed = false;
        self.interrupted = false;
    }

    pub(super) fn from(&self, caller: Option<Caller>) -> bool {
        self.caller == caller
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.mixed |= self.interrupted;
        let room = TEXT_MAX - self.text.len();
        self.text.extend_from_slice(&piece[..piece.len().min(room)]);
        self.last_piece = piece.len();
        if (is_cut_length(piece.len()) || piece.len() > room) && self.cuts.len() < PIECES_MAX {
            self.cuts.push(self.text.len());
        }
    }

    /// No piece can be missing unless another CPU got in between: what is still to come is short
    /// and would have fitted the record.
    pub(super) fn may_be_whole(&self) -> bool {
        // The longest last piece, `,task=…,pid=…,uid=…`, and printk's prefix and NUL are under 60
        // bytes; the shortest record limit is 976 (`cut_length`).
        self.last_piece < 900
    }

    /// The path of a [`Kind::MemcgStats`] line, if it is whole.
    pub(super) fn memcg_stats_path(&self) -> Option<LogPath> {
        self.path(MEMCG_STATS, b":")
    }

    /// The path of a [`Kind::MemcgStats`] line that has the figures, and those.
    pub(super) fn memcg_stats_inline(&self) -> Option<(LogPath, &[u8])> {
        let rest = self.text.strip_prefix(MEMCG_STATS)?;
        let at = memchr::memmem::rfind(rest, b": cache:")?;
        let path = &rest[..at];
        let cut = self.cut_at(MEMCG_STATS.len() + at);
        let whole = !is_cut_length(self.last_piece) && path.starts_with(b"/");
        whole.then(|| {
            let bytes = path.to_vec();
            (LogPath { bytes, cut }, &rest[at + 1..])
        })
    }

    /// The paths of a [`Kind::TaskIn`] line: the victim's cgroup, and the one that ran out. Of
    /// several readings, the only one where the first lies below the second.
    pub(super) fn task_in_paths(&self) -> Option<(LogPath, LogPath)> {
        let rest = self.text.strip_prefix(TASK_IN)?;
        if self.mixed || is_cut_length(self.last_piece) {
            return None;
        }
        let mut readings = memchr::memmem::find_iter(rest, LIMIT_OF).filter_map(|at| {
            let (task, limit) = (&rest[..at], &rest[at + LIMIT_OF.len()..]);
            is_below(task, limit).then_some((task, limit))
        });
        let (task, limit) = readings.next().filter(|_| readings.next().is_none())?;
        let path = |bytes: &[u8]| LogPath {
            bytes: bytes.to_vec(),
            cut: false,
        };
        Some((path(task), path(limit)))
    }

    /// The path of a [`Kind::Group`] line, if it is whole.
    pub(super) fn group_path(&self) -> Option<LogPath> {
        self.path(GROUP, GROUP_END)
    }

    fn path(&self, front: &[u8], back: &[u8]) -> Option<LogPath> {
        let path = self.text.strip_prefix(front)?.strip_suffix(back)?;
        // Where the path was cut there may still have been room for what follows it (seen on 5.10).
        let cut = self.cut_at(front.len() + path.len())
            || is_cut_length(self.last_piece.saturating_sub(back.len()));
        path.starts_with(b"/").then(|| LogPath {
            bytes: path.to_vec(),
            cut,
        })
    }

    pub(super) fn cut_at(&self, end: usize) -> bool {
        self.cuts.contains(&end)
    }
}

/// Whether `path` is `ancestor` or lies below it.
pub(super) fn is_below(path: &[u8], ancestor: &[u8]) -> bool {
    let rest = if ancestor == b"/" {
        return path.starts_with(b"/");
    } else {
        path.strip_prefix(ancestor)
    };
    ancestor.starts_with(b"/") && rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Lengths of a record that printk cut: the limit less the NUL and the stripped two-byte prefix. The
/// limit (`LOG_LINE_MAX`, `PRINTKRB_RECORD_MAX` in kernel/printk/) is 976 or 992 up to 6.3, with and
/// without `CONFIG_PRINTK_CALLER`, then 1024. A few bytes of slack: to doubt a whole line is
/// harmless, to believe a cut one is not.
pub(super) fn is_cut_length(len: usize) -> bool {
    matches!(len, 973..=976 | 989..=992 | 1021..=1024)
}
