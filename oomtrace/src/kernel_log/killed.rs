//! `…: Killed process N (comm) total-vm:…`: one line per process killed, never rate-limited.
//!
//! Kernels before 5.2 print two lines. The first names the task that was chosen, the second what was
//! killed, which may be a child of it:
//!
//! ```text
//! Out of memory: Kill process 7 (x) score 919 or sacrifice child
//! Killed process 7 (x) total-vm:8kB, anon-rss:4kB, file-rss:3kB[, shmem-rss:2kB]
//! Killed process 7, UID 27, (x) total-vm:…                                     Red Hat's 2.6.32
//! Killed process 7 (x) vsz:…                                                    before 2.6.36
//! Kill process 8 (y) sharing same memory                                        before 4.7
//! ```

use super::bytes::Cursor;
use super::parser::Line;

/// One process the kernel killed (`__oom_kill_process`, mm/oom_kill.c).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KilledLine {
    /// When it was printed, in microseconds since boot.
    pub time_usec: Option<u64>,
    /// Sequence number of its record.
    pub seq: Option<u64>,
    /// The kernel's words, such as `Out of memory` or `Memory cgroup out of memory`; an open set.
    /// Empty where the line that has them was not read.
    pub message: Vec<u8>,
    /// The line before it, on kernels that print two.
    pub announced: Option<Box<Announced>>,
    /// It was killed because it shares the memory of the victim before it.
    pub shares_memory: bool,
    /// `task->pid` of the victim.
    pub pid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// Address space.
    pub total_vm_bytes: Option<u64>,
    /// Anonymous memory.
    pub anon_rss_bytes: Option<u64>,
    /// File memory.
    pub file_rss_bytes: Option<u64>,
    /// Shared memory.
    pub shmem_rss_bytes: Option<u64>,
    /// User, in the initial user namespace.
    pub uid: Option<u32>,
    /// Page tables.
    pub pgtables_bytes: Option<u64>,
    /// `oom_score_adj` at the kill.
    pub oom_score_adj: Option<i16>,
}

/// The first of two lines: whom the kernel chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// The kernel's words, as in [`KilledLine::message`].
    pub message: Vec<u8>,
    /// The task that was chosen.
    pub pid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// Its points, in thousandths of what the decision could use.
    pub score: Option<u64>,
}

/// What one line says of a kill.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kill {
    Announced(Announced),
    Killed(KilledLine),
}

/// The kernel's messages are short: a bound keeps other lines cheap.
const MESSAGE_MAX: usize = 96;

impl Kill {
    /// Reads `line`, or `None` if it is another line. The name may hold anything, so it ends at the
    /// last place where the fixed text can start.
    pub(super) fn parse(line: &Line<'_>) -> Option<Self> {
        let text = line.text;
        if text.starts_with(b"Kill") {
            let mut c = Cursor(text);
            if c.tag(b"Killed process ").is_some() {
                return KilledLine::read(line, b"", c).map(Self::Killed);
            }
            c.tag(b"Kill process ")?;
            return KilledLine::read_sharer(line, c).map(Self::Killed);
        }
        // Rows and what is indented are most of a report, and none of them is a message.
        if matches!(text.first(), Some(b'[' | b' ')) {
            return None;
        }
        let front = &text[..text.len().min(MESSAGE_MAX + 2)];
        let at = memchr::memchr_iter(b':', front).find(|at| {
            let rest = &text[at + 1..];
            rest.starts_with(b" Kill") || rest.starts_with(b" kill process ")
        })?;
        let mut c = Cursor(&text[at + 2..]);
        if c.tag(b"Killed process ").is_some() {
            return KilledLine::read(line, &text[..at], c).map(Self::Killed);
        }
        c.0 = c.0.get(1..)?;
        c.tag(b"ill process ")?;
        Announced::read(&text[..at], c).map(Self::Announced)
    }
}

impl Announced {
    /// Reads `N (comm) score S or sacrifice child`; before 2.6.36 it ends in `or a child`.
    fn read(message: &[u8], mut c: Cursor<'_>) -> Option<Self> {
        let pid = c.narrow()?;
        c.tag(b" (")?;
        let end = memchr::memmem::rfind(c.0, b") score ").or_else(|| memchr::memrchr(b')', c.0))?;
        let comm = c.0[..end].to_vec();
        c.0 = &c.0[end..];
        let score = c.tag(b") score ").and_then(|()| {
            let score = c.unsigned()?;
            // A number at the end of a line that was cut off may lack digits.
            c.0.starts_with(b" ").then_some(score)
        });
        Some(Self {
            message: message.to_vec(),
            pid,
            comm,
            score,
        })
    }
}

impl KilledLine {
    /// Reads `N (comm) total-vm:…`, and `N, UID n, (comm) total-vm:…`.
    fn read(line: &Line<'_>, message: &[u8], mut c: Cursor<'_>) -> Option<Self> {
        let pid = c.narrow()?;
        let uid = match c.tag(b", UID ") {
            Some(()) => {
                let uid = c.uid()?;
                c.tag(b",")?;
                Some(uid)
            }
            None => None,
        };
        c.tag(b" (")?;
        let comm_end = [&b") total-vm:"[..], b") vsz:"]
            .into_iter()
            .find_map(|mark| memchr::memmem::rfind(c.0, mark))
            .or_else(|| memchr::memrchr(b')', c.0))?;
        let mut this = Self {
            time_usec: line.time_usec,
            seq: line.seq,
            message: message.to_vec(),
            pid,
            comm: c.0[..comm_end].to_vec(),
            uid,
            ..Self::default()
        };
        let _ = this.read_tail(Cursor(&c.0[comm_end..]));
        Some(this)
    }

    /// Reads `N (comm) sharing same memory`.
    fn read_sharer(line: &Line<'_>, mut c: Cursor<'_>) -> Option<Self> {
        let pid = c.narrow()?;
        c.tag(b" (")?;
        let comm = c.0.strip_suffix(b") sharing same memory")?.to_vec();
        Some(Self {
            time_usec: line.time_usec,
            seq: line.seq,
            shares_memory: true,
            pid,
            comm,
            ..Self::default()
        })
    }

    /// Reads the figures up to the first that is missing.
    fn read_tail(&mut self, mut c: Cursor<'_>) -> Option<()> {
        c.tag(b") total-vm:").or_else(|| c.tag(b") vsz:"))?;
        self.total_vm_bytes = Some(c.kb_as_bytes()?);
        c.tag(b", anon-rss:")?;
        self.anon_rss_bytes = Some(c.kb_as_bytes()?);
        c.tag(b", file-rss:")?;
        self.file_rss_bytes = Some(c.kb_as_bytes()?);
        c.tag(b", shmem-rss:")?;
        self.shmem_rss_bytes = Some(c.kb_as_bytes()?);
        c.tag(b", UID:")?;
        self.uid = Some(c.uid()?);
        c.tag(b" pgtables:")?;
        self.pgtables_bytes = Some(c.kb_as_bytes()?);
        c.tag(b" oom_score_adj:")?;
        self.oom_score_adj = Some(c.narrow()?);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(text: &[u8]) -> Option<Kill> {
        Kill::parse(&Line {
            text,
            ..Line::default()
        })
    }

    fn parse(text: &[u8]) -> Option<KilledLine> {
        match kill(text)? {
            Kill::Killed(line) => Some(line),
            Kill::Announced(_) => None,
        }
    }

    /// Every figure, in bytes, and a name that imitates the tail and the front.
    #[test]
    fn all_facts() {
        let k = parse(b"Out of memory (oom_kill_allocating_task): Killed process 12 (: Killed process 1 (a) total-vm:1kB) total-vm:8kB, anon-rss:4kB, file-rss:3kB, shmem-rss:2kB, UID:4294967294 pgtables:1kB oom_score_adj:-17").unwrap();
        assert_eq!(k.message, b"Out of memory (oom_kill_allocating_task)");
        assert_eq!(
            (k.pid, k.uid, k.oom_score_adj),
            (12, Some(4294967294), Some(-17))
        );
        assert_eq!(k.comm, b": Killed process 1 (a) total-vm:1kB");
        assert_eq!(
            (k.total_vm_bytes, k.anon_rss_bytes),
            (Some(8192), Some(4096))
        );
        assert_eq!(
            (k.file_rss_bytes, k.shmem_rss_bytes),
            (Some(3072), Some(2048))
        );
        assert_eq!(k.pgtables_bytes, Some(1024));
    }

    /// A line that ends early keeps what it says; the rest is unknown.
    #[test]
    fn short_line() {
        let k = parse(b"Out of memory: Killed process 7 (x) total-vm:1kB, anon-r").unwrap();
        assert_eq!(
            (k.total_vm_bytes, k.anon_rss_bytes, k.uid),
            (Some(1024), None, None)
        );
        assert_eq!(parse(b"Out of memory: Killed process x"), None);
        assert_eq!(parse(b"Out of memory: Killed process 7 (x"), None);
    }

    /// The two lines of older kernels, in each of their forms; names that imitate them.
    #[test]
    fn two_lines() {
        let announced = |text| match kill(text) {
            Some(Kill::Announced(announced)) => announced,
            other => panic!("{other:?}"),
        };
        let a = announced(
            b"Memory cgroup out of memory: Kill process 9 (a) score 1 (b) score 1046 or sacrifice child",
        );
        assert_eq!(
            (&a.message[..], a.pid, &a.comm[..], a.score),
            (
                &b"Memory cgroup out of memory"[..],
                9,
                &b"a) score 1 (b"[..],
                Some(1046)
            )
        );
        let a = announced(b"Out of memory: kill process 9 (x) score 51234 or a child");
        assert_eq!((a.pid, a.score), (9, Some(51234)));
        let a = announced(b"Out of memory: Kill process 9 (x) score 10");
        assert_eq!((a.pid, a.score), (9, None));

        let k = parse(b"Killed process 7 (x) total-vm:8kB, anon-rss:4kB, file-rss:3kB").unwrap();
        assert_eq!(
            (k.pid, k.file_rss_bytes, k.shmem_rss_bytes),
            (7, Some(3072), None)
        );
        let k =
            parse(b"Killed process 40738, UID 27, (mysqld) total-vm:8kB, anon-rss:4kB").unwrap();
        assert_eq!(
            (k.pid, k.uid, &k.comm[..]),
            (40738, Some(27), &b"mysqld"[..])
        );
        assert_eq!(k.anon_rss_bytes, Some(4096));
        let k = parse(b"Killed process 7 (x) vsz:8kB, anon-rss:4kB, file-rss:3kB").unwrap();
        assert_eq!(k.total_vm_bytes, Some(8192));
        let k = parse(b"Kill process 8 (y) z) sharing same memory").unwrap();
        assert!(k.shares_memory && k.comm == b"y) z" && k.pid == 8);
        assert_eq!(kill(b"Killing process 8 (y) with signal SIGKILL."), None);
    }
}
