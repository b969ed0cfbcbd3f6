//! The counters of the memory cgroup that ran out (`mem_cgroup_print_oom_meminfo`,
//! mm/memcontrol.c).

use super::LogPath;
use super::bytes::Cursor;

/// A limit as the kernel keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// So many bytes.
    Bytes(u64),
    /// No limit (`PAGE_COUNTER_MAX`, include/linux/page_counter.h).
    Unlimited,
}

/// One page counter: use, limit, and how often the limit was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// In use.
    pub usage_bytes: u64,
    /// The limit.
    pub limit: Limit,
    /// Times a charge hit the limit.
    pub failcnt: u64,
}

/// What `memory.stat` says of the cgroup and everything below it, in bytes. Empty where the kernel
/// did not print the figure or cut it off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemcgStat {
    /// Anonymous memory (v1: `total_rss`).
    pub anon_bytes: Option<u64>,
    /// Page cache, shared memory included (v1: `total_cache`).
    pub file_bytes: Option<u64>,
    /// Shared memory.
    pub shmem_bytes: Option<u64>,
    /// Mapped page cache (v1: `total_mapped_file`).
    pub file_mapped_bytes: Option<u64>,
    /// Memory that cannot be reclaimed, such as locked pages.
    pub unevictable_bytes: Option<u64>,
    /// All kernel memory (v2, 5.18 and later; v1 has [`MemcgReport::kmem`]).
    pub kernel_bytes: Option<u64>,
    /// Kernel stacks (v2).
    pub kernel_stack_bytes: Option<u64>,
    /// Page tables (v2).
    pub pagetables_bytes: Option<u64>,
    /// Slab (v2).
    pub slab_bytes: Option<u64>,
    /// Socket buffers (v2).
    pub sock_bytes: Option<u64>,
    /// Swap (v1: `total_swap`; v2 has [`MemcgReport::swap`]).
    pub swap_bytes: Option<u64>,
}

/// The memory cgroup's part of a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemcgReport {
    /// Its path, from `Memory cgroup stats for …:`.
    pub path: Option<LogPath>,
    /// `memory:`
    pub memory: Option<Counter>,
    /// `swap:` (v2).
    pub swap: Option<Counter>,
    /// `memory+swap:` (v1).
    pub memsw: Option<Counter>,
    /// `kmem:` (v1).
    pub kmem: Option<Counter>,
    /// Where the memory went.
    pub stat: MemcgStat,
}

impl MemcgReport {
    /// Reads `memory: usage 20480kB, limit 20480kB, failcnt 39` and its kind.
    pub(super) fn read_counter(&mut self, text: &[u8]) -> Option<()> {
        let mut c = Cursor(text);
        let slot = if c.tag(b"memory: usage ").is_some() {
            &mut self.memory
        } else if c.tag(b"swap: usage ").is_some() {
            &mut self.swap
        } else if c.tag(b"memory+swap: usage ").is_some() {
            &mut self.memsw
        } else {
            c.tag(b"kmem: usage ")?;
            &mut self.kmem
        };
        let usage_bytes = c.kb_as_bytes()?;
        c.tag(b", limit ")?;
        let limit = limit(c.kb_as_bytes()?);
        c.tag(b", failcnt ")?;
        *slot = Some(Counter {
            usage_bytes,
            limit,
            failcnt: c.unsigned()?,
        });
        Some(())
    }

    /// Reads what 3.8 to 5.2 have behind the path, ` cache:0KB rss:20260KB …`. There is a line for
    /// the cgroup and one for each below it, without what is below that, so they are added up.
    pub(super) fn add_stats(&mut self, text: &[u8]) -> Option<()> {
        for field in text.split(|&b| b == b' ').filter(|field| !field.is_empty()) {
            let mut c = Cursor(field);
            let slot = match c.until(b":")? {
                b"cache" => &mut self.stat.file_bytes,
                b"rss" => &mut self.stat.anon_bytes,
                b"shmem" => &mut self.stat.shmem_bytes,
                b"mapped_file" => &mut self.stat.file_mapped_bytes,
                b"unevictable" => &mut self.stat.unevictable_bytes,
                b"swap" => &mut self.stat.swap_bytes,
                _ => continue,
            };
            let bytes = c.unsigned()?.checked_mul(1024)?;
            (c.0 == b"KB").then_some(())?;
            *slot = Some(slot.unwrap_or(0).checked_add(bytes)?);
        }
        Some(())
    }

    /// Reads the stat lines in one record: one from 6.4 on, all of them before, and then cut
    /// (`last_line_cut`) like any long record.
    /// `v1` is set at the first key only v1 has.
    pub(super) fn read_stats(
        &mut self,
        text: &[u8],
        last_line_cut: bool,
        v1: &mut bool,
    ) -> Option<()> {
        let mut lines = text.split(|&b| b == b'\n');
        if last_line_cut {
            // Half a number is a wrong number.
            lines.next_back();
        }
        lines
            .filter_map(|line| self.stat.read_line(line, v1))
            .last()
    }
}

impl MemcgStat {
    /// Reads `key value`. v2's keys count the cgroups below (`memory_stats[]`, mm/memcontrol.c). So
    /// do v1's `total_` keys, but v1's plain keys do not (`memcg1_stat_format`,
    /// mm/memcontrol-v1.c). Before 6.4 the kernel printed v2's keys on v1 too.
    fn read_line(&mut self, line: &[u8], v1: &mut bool) -> Option<()> {
        let mut c = Cursor(line);
        let key = c.until(b" ")?;
        let slot = match key {
            b"cache" => {
                *v1 = true;
                return Some(());
            }
            key if *v1 && !key.starts_with(b"total_") => return None,
            b"anon" | b"total_rss" => &mut self.anon_bytes,
            b"file" | b"total_cache" => &mut self.file_bytes,
            b"shmem" | b"total_shmem" => &mut self.shmem_bytes,
            b"file_mapped" | b"total_mapped_file" => &mut self.file_mapped_bytes,
            b"unevictable" | b"total_unevictable" => &mut self.unevictable_bytes,
            b"kernel" => &mut self.kernel_bytes,
            b"kernel_stack" => &mut self.kernel_stack_bytes,
            b"pagetables" => &mut self.pagetables_bytes,
            b"slab" => &mut self.slab_bytes,
            b"sock" => &mut self.sock_bytes,
            b"total_swap" => &mut self.swap_bytes,
            _ => return None,
        };
        let value = c.unsigned()?;
        c.0.is_empty().then(|| *slot = Some(value))
    }
}

/// `PAGE_COUNTER_MAX` is `LONG_MAX` rounded down to a page; pages are 4 to 256 kB.
fn limit(bytes: u64) -> Limit {
    const UNLIMITED: u64 = i64::MAX as u64 & !0x3_ffff;
    if bytes >= UNLIMITED {
        Limit::Unlimited
    } else {
        Limit::Bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The four counters, their units, and "no limit".
    #[test]
    fn counters() {
        let mut m = MemcgReport::default();
        for line in [
            &b"memory: usage 20480kB, limit 20481kB, failcnt 39"[..],
            b"swap: usage 1kB, limit 9007199254740988kB, failcnt 0",
            b"memory+swap: usage 2kB, limit 0kB, failcnt 1",
            b"kmem: usage 3kB, limit 9007199254740928kB, failcnt 2",
        ] {
            m.read_counter(line).unwrap();
        }
        let counter = |usage_bytes, limit, failcnt| {
            Some(Counter {
                usage_bytes,
                limit,
                failcnt,
            })
        };
        assert_eq!(
            m.memory,
            counter(20480 << 10, Limit::Bytes(20481 << 10), 39)
        );
        assert_eq!(m.swap, counter(1024, Limit::Unlimited, 0));
        assert_eq!(m.memsw, counter(2048, Limit::Bytes(0), 1));
        assert_eq!(m.kmem, counter(3072, Limit::Unlimited, 2));
        assert_eq!(m.read_counter(b"memory: usage 1kB, limit"), None);
    }

    /// v2 stats of 6.4 and later: one line per record, only exact keys.
    #[test]
    fn v2_lines() {
        let mut m = MemcgReport::default();
        for line in [
            &b"anon 348016640"[..],
            b"kernel 7",
            b"slab_reclaimable 5",
            b"slab 6",
            b"file x",
        ] {
            let _ = m.read_stats(line, false, &mut false);
        }
        assert_eq!(
            m.stat,
            MemcgStat {
                anon_bytes: Some(348016640),
                kernel_bytes: Some(7),
                slab_bytes: Some(6),
                ..MemcgStat::default()
            }
        );
    }

    /// Before 6.4 all stats are one record; of a cut one, the last line is not believed.
    #[test]
    fn v2_one_record() {
        let mut m = MemcgReport::default();
        m.read_stats(b"anon 1\nfile 2\nslab 12", true, &mut false)
            .unwrap();
        assert_eq!((m.stat.file_bytes, m.stat.slab_bytes), (Some(2), None));
        m.read_stats(b"anon 1\nfile 2\nslab 12", false, &mut false)
            .unwrap();
        assert_eq!(m.stat.slab_bytes, Some(12));
    }

    /// v1's plain keys leave out the cgroups below and are not taken.
    #[test]
    fn v1_lines() {
        let (mut m, mut v1) = (MemcgReport::default(), false);
        for line in [
            &b"cache 1"[..],
            b"rss 2",
            b"shmem 3",
            b"total_cache 4",
            b"total_rss 5",
        ] {
            let _ = m.read_stats(line, false, &mut v1);
        }
        assert_eq!((m.stat.file_bytes, m.stat.anon_bytes), (Some(4), Some(5)));
        assert_eq!(m.stat.shmem_bytes, None);
    }

    /// The one-line form, of a cgroup and one below it; half a number spoils the sum.
    #[test]
    fn one_line_each() {
        let mut m = MemcgReport::default();
        m.add_stats(b" cache:1KB rss:20KB rss_huge:8KB mapped_file:0KB swap:3KB")
            .unwrap();
        m.add_stats(b" cache:2KB rss:5KB swap:0KB").unwrap();
        assert_eq!(
            m.stat,
            MemcgStat {
                anon_bytes: Some(25 << 10),
                file_bytes: Some(3 << 10),
                file_mapped_bytes: Some(0),
                swap_bytes: Some(3 << 10),
                ..MemcgStat::default()
            }
        );
        assert_eq!(m.add_stats(b" cache:1KB rss:2"), None);
    }
}
