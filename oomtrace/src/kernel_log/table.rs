//! The task table: one row per candidate (`dump_tasks`, mm/oom_kill.c).

use super::bytes::Cursor;

/// The candidates of one decision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskTable {
    /// The rows kept, in the kernel's order.
    pub rows: Vec<TaskRow>,
    /// The rows printed, kept or not.
    pub total: u64,
}

impl TaskTable {
    /// Rows of the process or thread `pid`. The kernel prints the id of the thread that holds the
    /// memory, which need not be the leader (`find_lock_task_mm`).
    pub(super) fn rows_of(&self, pid: u32) -> impl Iterator<Item = &TaskRow> {
        self.rows
            .iter()
            .filter(move |row| row.pid == pid || row.tgid == pid)
    }
}

/// One candidate. Columns a kernel does not print are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskRow {
    /// Thread id of the thread that holds the memory.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// User, in the initial user namespace.
    pub uid: Option<u32>,
    /// Address space, in pages.
    pub total_vm_pages: Option<u64>,
    /// Resident memory, in pages.
    pub rss_pages: Option<u64>,
    /// Its anonymous part (6.8 and later).
    pub rss_anon_pages: Option<u64>,
    /// Its file part (6.8 and later).
    pub rss_file_pages: Option<u64>,
    /// Its shared memory part (6.8 and later).
    pub rss_shmem_pages: Option<u64>,
    /// Page tables, in bytes (4.15 and later).
    pub pgtables_bytes: Option<u64>,
    /// Page tables, in pages (3.7 to 4.14): `nr_ptes`, and where there is a column of their own the
    /// levels above.
    pub pgtables_pages: Option<u64>,
    /// Swap entries, in pages.
    pub swapents_pages: Option<u64>,
    /// `oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: Option<i16>,
    /// Name, byte for byte; at most 64 bytes of it, over four times what the kernel has.
    pub name: Box<[u8]>,
}

/// Bytes of a name that are kept: a bound, should a line not be the kernel's.
const NAME_MAX: usize = 64;

/// The columns between `[  pid  ]` and `name`, by name: kernels differ.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Columns {
    columns: [Column; 16],
    len: usize,
    pub(super) narrow: bool,
}

#[derive(Debug, Clone, Copy, Default)]
enum Column {
    #[default]
    Unknown,
    Uid,
    Tgid,
    TotalVm,
    Rss,
    RssAnon,
    RssFile,
    RssShmem,
    PgtablesBytes,
    PgtablesPages,
    Swapents,
    OomScoreAdj,
}

impl Columns {
    /// Reads the table's header line.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let wide = text.strip_prefix(b"[  pid  ]");
        let names = wide.or_else(|| text.strip_prefix(b"[ pid ]"))?;
        let names = names.strip_suffix(b" name")?;
        let mut this = Self {
            narrow: wide.is_none(),
            ..Self::default()
        };
        for name in names.split(|&b| b == b' ').filter(|name| !name.is_empty()) {
            *this.columns.get_mut(this.len)? = match name {
                b"uid" => Column::Uid,
                b"tgid" => Column::Tgid,
                b"total_vm" => Column::TotalVm,
                b"rss" => Column::Rss,
                b"rss_anon" => Column::RssAnon,
                b"rss_file" => Column::RssFile,
                b"rss_shmem" => Column::RssShmem,
                b"pgtables_bytes" => Column::PgtablesBytes,
                b"nr_ptes" | b"nr_pmds" | b"nr_puds" => Column::PgtablesPages,
                b"swapents" => Column::Swapents,
                b"oom_score_adj" => Column::OomScoreAdj,
                _ => Column::Unknown,
            };
            this.len += 1;
        }
        Some(this)
    }

    /// Reads one row. The name is all that follows one space after the last column.
    pub(super) fn row(&self, text: &[u8]) -> Option<TaskRow> {
        let mut c = Cursor(text);
        c.tag(b"[")?;
        c.spaces();
        let pid = c.narrow()?;
        c.tag(b"]")?;
        let mut row = TaskRow {
            pid,
            ..TaskRow::default()
        };
        let mut tgid = None;
        for column in self.columns.get(..self.len)? {
            c.spaces();
            match column {
                Column::Unknown => drop(c.signed()?),
                Column::Uid => row.uid = Some(c.uid()?),
                Column::Tgid => tgid = Some(c.narrow()?),
                Column::TotalVm => row.total_vm_pages = Some(c.unsigned()?),
                Column::Rss => row.rss_pages = Some(c.unsigned()?),
                Column::RssAnon => row.rss_anon_pages = Some(c.unsigned()?),
                Column::RssFile => row.rss_file_pages = Some(c.unsigned()?),
                Column::RssShmem => row.rss_shmem_pages = Some(c.unsigned()?),
                Column::PgtablesBytes => row.pgtables_bytes = Some(c.unsigned()?),
                Column::PgtablesPages => {
                    let pages = c.unsigned()?;
                    row.pgtables_pages = Some(row.pgtables_pages.unwrap_or(0).checked_add(pages)?);
                }
                Column::Swapents => row.swapents_pages = Some(c.unsigned()?),
                Column::OomScoreAdj => row.oom_score_adj = Some(c.narrow()?),
            }
        }
        c.tag(b" ")?;
        row.tgid = tgid?;
        row.name = c.0[..c.0.len().min(NAME_MAX)].into();
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &[u8] =
        b"[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name";
    const NEW: &[u8] = b"[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name";

    /// 5.10 to 6.7: no rss parts; a uid printed as negative; a name with spaces and brackets.
    #[test]
    fn old_columns() {
        let columns = Columns::parse(OLD).unwrap();
        let row = columns
            .row(b"[    114]    -2   113     7500     4676    90112       17          -998  [x] 1 \n")
            .unwrap();
        assert_eq!((row.pid, row.tgid, row.uid), (114, 113, Some(4294967294)));
        assert_eq!(
            (row.total_vm_pages, row.rss_pages),
            (Some(7500), Some(4676))
        );
        assert_eq!(
            (row.rss_anon_pages, row.pgtables_bytes),
            (None, Some(90112))
        );
        assert_eq!(
            (row.swapents_pages, row.oom_score_adj),
            (Some(17), Some(-998))
        );
        assert_eq!(&*row.name, b" [x] 1 \n");
    }

    /// 6.8 and later, a wide pid, an empty name.
    #[test]
    fn new_columns() {
        let columns = Columns::parse(NEW).unwrap();
        let row = columns
            .row(b"[4194303]     0 4194303    30141     7948     6891     1057         3   118784        0             0 ")
            .unwrap();
        assert_eq!(row.pid, 4194303);
        assert_eq!(row.rss_anon_pages, Some(6891));
        assert_eq!(
            (row.rss_file_pages, row.rss_shmem_pages),
            (Some(1057), Some(3))
        );
        assert_eq!(&*row.name, b"");
    }

    /// A column this version does not know is skipped, a line that is no row refused.
    #[test]
    fn unknown_column() {
        let columns = Columns::parse(b"[  pid  ]   uid  new tgid name").unwrap();
        let row = columns.row(b"[      1]     0   77     1 init").unwrap();
        assert_eq!((row.tgid, &*row.name), (1, &b"init"[..]));
        assert_eq!(columns.row(b"[      1]     0   77"), None);
        assert_eq!(columns.row(b"[drm] ready"), None);
    }

    /// The tables of 2.6.36, 3.10 and 4.8: processor and `oom_adj`; page tables in pages, whose
    /// levels are one sum.
    #[test]
    fn narrow_tables() {
        let row = |head: &[u8], row: &[u8]| {
            let columns = Columns::parse(head).unwrap();
            assert!(columns.narrow);
            columns.row(row).unwrap()
        };
        let r = row(
            b"[ pid ]   uid  tgid total_vm      rss cpu oom_adj oom_score_adj name",
            b"[40738]    27 40738  1606079     3287   0     -17         -1000 mysqld",
        );
        assert_eq!((r.rss_pages, r.oom_score_adj), (Some(3287), Some(-1000)));
        assert_eq!((r.swapents_pages, r.pgtables_pages), (None, None));
        let r = row(
            b"[ pid ]   uid  tgid total_vm      rss nr_ptes swapents oom_score_adj name",
            b"[ 1532]  1020  1532   410347   398810     788        3             0 badsysprogram",
        );
        assert_eq!((r.pgtables_pages, r.swapents_pages), (Some(788), Some(3)));
        assert_eq!(r.pgtables_bytes, None);
        let r = row(
            b"[ pid ]   uid  tgid total_vm      rss nr_ptes nr_pmds swapents oom_score_adj name",
            b"[ 1381]     0  1381   530382     5191      34       4     5489             0 gunpowder-memho",
        );
        assert_eq!((r.pgtables_pages, r.swapents_pages), (Some(38), Some(5489)));
    }
}
