//! `…: Killed process N (comm) total-vm:…`: one line per process killed, never rate-limited.

use super::bytes::Cursor;
use super::parser::Line;

/// One process the kernel killed (`__oom_kill_process`, mm/oom_kill.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KilledLine {
    /// When it was printed, in microseconds since boot.
    pub time_usec: Option<u64>,
    /// Sequence number of its record.
    pub seq: Option<u64>,
    /// The kernel's words, such as `Out of memory` or `Memory cgroup out of memory`; an open set.
    pub message: Vec<u8>,
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

const KILLED: &[u8] = b": Killed process ";
/// The kernel's messages are short: a bound keeps other lines cheap.
const MESSAGE_MAX: usize = 96;

impl KilledLine {
    /// Reads `line`, or `None` if it is another line. The name may hold anything, so it ends at the
    /// last place where the fixed text can start.
    pub(super) fn parse(line: &Line<'_>) -> Option<Self> {
        let text = line.text;
        let at = memchr::memmem::find(&text[..text.len().min(MESSAGE_MAX + KILLED.len())], KILLED)?;
        let mut c = Cursor(&text[at + KILLED.len()..]);
        let pid = c.narrow()?;
        c.tag(b" (")?;
        let comm_end =
            memchr::memmem::rfind(c.0, b") total-vm:").or_else(|| memchr::memrchr(b')', c.0))?;
        let mut this = Self {
            time_usec: line.time_usec,
            seq: line.seq,
            message: text[..at].to_vec(),
            pid,
            comm: c.0[..comm_end].to_vec(),
            total_vm_bytes: None,
            anon_rss_bytes: None,
            file_rss_bytes: None,
            shmem_rss_bytes: None,
            uid: None,
            pgtables_bytes: None,
            oom_score_adj: None,
        };
        let _ = this.read_tail(Cursor(&c.0[comm_end..]));
        Some(this)
    }

    /// Reads the figures up to the first that is missing.
    fn read_tail(&mut self, mut c: Cursor<'_>) -> Option<()> {
        c.tag(b") total-vm:")?;
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

    fn parse(text: &[u8]) -> Option<KilledLine> {
        KilledLine::parse(&Line {
            text,
            ..Line::default()
        })
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
}
