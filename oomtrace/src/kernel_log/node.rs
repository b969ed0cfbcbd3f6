//! The machine's memory at a decision that no memory cgroup caused (`show_free_areas` and
//! `__show_mem`, mm/show_mem.c; once in mm/page_alloc.c and lib/show_mem.c).
//!
//! ```text
//! active_anon:N inactive_anon:N …                                 pages, seven lines or so in one record
//! Node 0 DMA32 free:NkB [boost:NkB] min:NkB low:NkB high:NkB …    a zone
//! lowmem_reserve[]: N N N …                                       pages, of that zone
//! Node 0 DMA32: N*4kB (UM) N*8kB … = NkB                          its free blocks, by order
//! ```
//!
//! Only zones that the allocation could use are printed: those of the nodes of its policy or cpuset,
//! and on newer kernels none above what its flags allow. Kernels without `CONFIG_NUMA` leave `Node 0` out.

use super::bytes::Cursor;

/// Zones of one report that are kept.
const ZONES_MAX: usize = 64;
/// Orders of free blocks that are read; `MAX_PAGE_ORDER` is 10 by default and below this anywhere.
const ORDERS_MAX: usize = 32;
/// `MAX_NR_ZONES` (include/linux/mmzone.h) is 6 at most.
const ZONE_TYPES_MAX: usize = 16;

const LOWMEM_RESERVE: &[u8] = b"lowmem_reserve[]:";

/// The machine's memory; empty for a memcg kill. Counts are of the whole machine, zones those that
/// the allocation could use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeMemory {
    /// Pages present.
    pub ram_pages: Option<u64>,
    /// Pages the kernel keeps for itself.
    pub reserved_pages: Option<u64>,
    /// Size of swap.
    pub swap_total_bytes: Option<u64>,
    /// Unused swap.
    pub swap_free_bytes: Option<u64>,
    /// What memory is used for.
    pub usage: MemoryUsage,
    /// The zones, at most 64 of them.
    pub zones: Vec<Zone>,
    /// The zones printed, kept or not.
    pub zones_total: u64,
    /// Size of a page: the smallest block of a zone.
    pub page_bytes: Option<u64>,
}

/// What memory is used for, in pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Anonymous and shared memory, recently used.
    pub active_anon_pages: Option<u64>,
    /// Anonymous and shared memory, not recently used.
    pub inactive_anon_pages: Option<u64>,
    /// Anonymous and shared memory that reclaim is just looking at.
    pub isolated_anon_pages: Option<u64>,
    /// Page cache without shared memory, recently used.
    pub active_file_pages: Option<u64>,
    /// Page cache without shared memory, not recently used.
    pub inactive_file_pages: Option<u64>,
    /// Page cache that reclaim is just looking at.
    pub isolated_file_pages: Option<u64>,
    /// Pages that cannot be reclaimed, such as locked ones; in none of the lists above.
    pub unevictable_pages: Option<u64>,
    /// Slab that can be reclaimed.
    pub slab_reclaimable_pages: Option<u64>,
    /// Slab that cannot.
    pub slab_unreclaimable_pages: Option<u64>,
    /// Shared memory and tmpfs; in the anonymous lists as well.
    pub shmem_pages: Option<u64>,
    /// Page tables.
    pub pagetables_pages: Option<u64>,
    /// Free.
    pub free_pages: Option<u64>,
}

/// One zone of one memory node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    /// The memory node; `None` where the kernel knows no nodes.
    pub node: Option<u32>,
    /// `DMA`, `DMA32`, `Normal`, `HighMem`, `Movable`, `Device`.
    pub name: String,
    /// Free.
    pub free_bytes: Option<u64>,
    /// By how much the watermarks are raised for now, against fragmentation; they include it
    /// (`wmark_pages`, include/linux/mmzone.h). Newer kernels print it.
    pub boost_bytes: Option<u64>,
    /// The watermark below which an ordinary allocation may not go.
    pub min_bytes: Option<u64>,
    /// The watermark at which `kswapd` is woken.
    pub low_bytes: Option<u64>,
    /// The watermark at which it stops.
    pub high_bytes: Option<u64>,
    /// Kept for urgent allocations of high order.
    pub reserved_highatomic_bytes: Option<u64>,
    /// What of that is free. The newest kernels print it.
    pub free_highatomic_bytes: Option<u64>,
    /// Free memory that only movable allocations may use.
    pub free_cma_bytes: Option<u64>,
    /// Present.
    pub present_bytes: Option<u64>,
    /// Of that, managed by the page allocator.
    pub managed_bytes: Option<u64>,
    /// What must stay free above `min` for an allocation that could be served by a zone of the
    /// type of that place (`__zone_watermark_ok`, mm/page_alloc.c).
    pub lowmem_reserve_pages: Option<Vec<u64>>,
    /// Free blocks of each order: 2^order pages. Counted later than `free_bytes`.
    pub free_by_order: Option<Vec<u64>>,
}

/// The node and the name in front of a line about a zone.
struct ZoneName<'a> {
    node: Option<u32>,
    name: &'a str,
}

impl<'a> ZoneName<'a> {
    fn read(c: &mut Cursor<'a>) -> Option<Self> {
        let node = match c.tag(b"Node ") {
            Some(()) => {
                let node = c.narrow()?;
                c.tag(b" ")?;
                Some(node)
            }
            None => None,
        };
        let len = c.0.iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let name = std::str::from_utf8(&c.0[..len]).ok()?;
        c.0 = &c.0[len..];
        (1..=16).contains(&len).then_some(Self { node, name })
    }
}

/// Whether a line about a zone begins here. Pieces of it may follow: such lines are printed with
/// `KERN_CONT`.
pub(super) fn begins(text: &[u8]) -> bool {
    match text.first() {
        Some(b'N') if text.starts_with(b"Node ") => true,
        Some(b'l') => text.starts_with(LOWMEM_RESERVE),
        // Without `CONFIG_NUMA`.
        Some(b'D' | b'N' | b'H' | b'M') => {
            let mut c = Cursor(text);
            ZoneName::read(&mut c).is_some()
                && (c.tag(b" free:").is_some() || c.tag(b": ").is_some())
        }
        _ => false,
    }
}

/// Whether nothing more belongs to the line. Its pieces end in a space, but for those of
/// `lowmem_reserve[]:`, whose end cannot be seen.
pub(super) fn is_whole(text: &[u8]) -> bool {
    !text.ends_with(b" ") && !text.starts_with(LOWMEM_RESERVE)
}

impl NodeMemory {
    /// Reads a whole line about a zone.
    pub(super) fn read_zone_line(&mut self, text: &[u8]) -> Option<()> {
        let mut c = Cursor(text);
        if c.tag(LOWMEM_RESERVE).is_some() {
            // It follows the line of its zone, which may be one too many.
            let zone = self.zones.last_mut()?;
            if self.zones_total <= ZONES_MAX as u64 && zone.lowmem_reserve_pages.is_none() {
                zone.lowmem_reserve_pages = Some(numbers(c)?);
            }
            return Some(());
        }
        let name = ZoneName::read(&mut c)?;
        if c.tag(b": ").is_some() {
            let (page_bytes, counts) = blocks(c)?;
            let zone = self.zone(&name)?;
            zone.free_by_order.get_or_insert(counts);
            self.page_bytes.get_or_insert(page_bytes);
            return Some(());
        }
        if !c.0.starts_with(b" free:") {
            return None;
        }
        if self.zone(&name).is_some() {
            return Some(());
        }
        self.zones_total += 1;
        if self.zones.len() < ZONES_MAX {
            let mut zone = Zone {
                node: name.node,
                name: name.name.to_owned(),
                ..Zone::default()
            };
            zone.read_fields(c.0);
            self.zones.push(zone);
        }
        Some(())
    }

    fn zone(&mut self, name: &ZoneName<'_>) -> Option<&mut Zone> {
        self.zones
            .iter_mut()
            .find(|zone| zone.node == name.node && zone.name == name.name)
    }

    /// Reads lines of counts: all in one record, as the kernel prints them, or one by one, as some
    /// readers of its log hand them on.
    pub(super) fn read_usage(&mut self, text: &[u8]) -> Option<()> {
        // They come before the zones. Lines behind those only look like them.
        if !self.zones.is_empty() {
            return None;
        }
        text.split(|b| matches!(b, b' ' | b'\n'))
            .filter_map(|field| self.usage.read_field(field))
            .last()
    }

    /// Reads one line of the totals at the end.
    pub(super) fn read_total(&mut self, text: &[u8]) -> Option<()> {
        let mut c = Cursor(text);
        if text.first()?.is_ascii_digit() {
            let pages = c.unsigned()?;
            match c.0 {
                b" pages RAM" => self.ram_pages = Some(pages),
                b" pages reserved" => self.reserved_pages = Some(pages),
                _ => return None,
            }
        } else if c.tag(b"Free swap  = ").is_some() {
            self.swap_free_bytes = Some(c.kb_as_bytes()?);
        } else {
            c.tag(b"Total swap = ")?;
            self.swap_total_bytes = Some(c.kb_as_bytes()?);
        }
        Some(())
    }
}

impl MemoryUsage {
    /// Reads `key:value`.
    fn read_field(&mut self, field: &[u8]) -> Option<()> {
        let mut c = Cursor(field);
        let slot = match c.until(b":")? {
            b"active_anon" => &mut self.active_anon_pages,
            b"inactive_anon" => &mut self.inactive_anon_pages,
            b"isolated_anon" => &mut self.isolated_anon_pages,
            b"active_file" => &mut self.active_file_pages,
            b"inactive_file" => &mut self.inactive_file_pages,
            b"isolated_file" => &mut self.isolated_file_pages,
            b"unevictable" => &mut self.unevictable_pages,
            b"slab_reclaimable" => &mut self.slab_reclaimable_pages,
            b"slab_unreclaimable" => &mut self.slab_unreclaimable_pages,
            b"shmem" => &mut self.shmem_pages,
            b"pagetables" => &mut self.pagetables_pages,
            b"free" => &mut self.free_pages,
            _ => return None,
        };
        let value = c.unsigned()?;
        if !c.0.is_empty() {
            return None;
        }
        slot.get_or_insert(value);
        Some(())
    }
}

impl Zone {
    /// Reads ` free:NkB min:NkB …`, of which kernels print different ones. A number without its unit
    /// was cut off.
    fn read_fields(&mut self, text: &[u8]) {
        for field in text.split(|&b| b == b' ') {
            let mut c = Cursor(field);
            let slot = match c.until(b":") {
                Some(b"free") => &mut self.free_bytes,
                Some(b"boost") => &mut self.boost_bytes,
                Some(b"min") => &mut self.min_bytes,
                Some(b"low") => &mut self.low_bytes,
                Some(b"high") => &mut self.high_bytes,
                Some(b"reserved_highatomic") => &mut self.reserved_highatomic_bytes,
                Some(b"free_highatomic") => &mut self.free_highatomic_bytes,
                Some(b"free_cma") => &mut self.free_cma_bytes,
                Some(b"present") => &mut self.present_bytes,
                Some(b"managed") => &mut self.managed_bytes,
                _ => continue,
            };
            let Some(kb) = c.unsigned() else { continue };
            // Most kernels print those of the high-order reserve with a capital K.
            if matches!(c.0, b"kB" | b"KB") {
                *slot = kb.checked_mul(1024);
            }
        }
    }
}

/// ` N N N …`
fn numbers(mut c: Cursor<'_>) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    while c.tag(b" ").is_some() {
        if numbers.len() == ZONE_TYPES_MAX {
            return None;
        }
        numbers.push(c.unsigned()?);
    }
    c.0.is_empty().then_some(numbers)
}

/// `N*4kB (UM) N*8kB … = NkB`: the size of a block of order 0, and the counts. Only a line that adds
/// up is whole.
fn blocks(mut c: Cursor<'_>) -> Option<(u64, Vec<u64>)> {
    let mut counts = Vec::new();
    let (mut smallest, mut sum) = (None, 0u64);
    while c.tag(b"= ").is_none() {
        let count = c.unsigned()?;
        c.tag(b"*")?;
        let size = c.kb_as_bytes()?;
        c.tag(b" ")?;
        if c.tag(b"(").is_some() {
            // The migration types that have such blocks.
            c.until(b") ")?;
        }
        let smallest = *smallest.get_or_insert(size);
        if counts.len() == ORDERS_MAX || smallest.checked_mul(1 << counts.len()) != Some(size) {
            return None;
        }
        counts.push(count);
        sum = sum.checked_add(count.checked_mul(size)?)?;
    }
    (c.kb_as_bytes()? == sum && c.0.is_empty()).then_some(())?;
    Some((smallest?, counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone_lines(lines: &[&str]) -> NodeMemory {
        let mut node = NodeMemory::default();
        for line in lines {
            assert!(begins(line.as_bytes()), "{line}");
            let _ = node.read_zone_line(line.as_bytes());
        }
        node
    }

    /// The totals, in pages and bytes, and their neighbours.
    #[test]
    fn totals() {
        let mut node = NodeMemory::default();
        for line in [
            &b"Free swap  = 4kB"[..],
            b"Total swap = 8kB",
            b"2097022 pages RAM",
            b"0 pages HighMem/MovableOnly",
            b"67366 pages reserved",
            b"0 pages cma reserved",
        ] {
            let _ = node.read_total(line);
        }
        assert_eq!(
            node,
            NodeMemory {
                ram_pages: Some(2097022),
                reserved_pages: Some(67366),
                swap_total_bytes: Some(8192),
                swap_free_bytes: Some(4096),
                ..NodeMemory::default()
            }
        );
    }

    /// The counts as 5.10 and as 6.18 print them, in one record and line by line.
    #[test]
    fn usage_of_several_kernels() {
        let old = "active_anon:11 inactive_anon:12 isolated_anon:13\n \
            active_file:14 inactive_file:15 isolated_file:16\n \
            unevictable:17 dirty:1 writeback:2\n \
            slab_reclaimable:18 slab_unreclaimable:19\n \
            mapped:3 shmem:20 pagetables:21 bounce:4\n \
            free:22 free_pcp:5 free_cma:6";
        let new = "active_anon:11 inactive_anon:12 isolated_anon:13\n \
            active_file:14 inactive_file:15 isolated_file:16\n \
            unevictable:17 dirty:1 writeback:2\n \
            slab_reclaimable:18 slab_unreclaimable:19\n \
            mapped:3 shmem:20 pagetables:21\n \
            sec_pagetables:7 bounce:4\n \
            kernel_misc_reclaimable:8\n \
            free:22 free_pcp:5 free_cma:6";
        let expected = MemoryUsage {
            active_anon_pages: Some(11),
            inactive_anon_pages: Some(12),
            isolated_anon_pages: Some(13),
            active_file_pages: Some(14),
            inactive_file_pages: Some(15),
            isolated_file_pages: Some(16),
            unevictable_pages: Some(17),
            slab_reclaimable_pages: Some(18),
            slab_unreclaimable_pages: Some(19),
            shmem_pages: Some(20),
            pagetables_pages: Some(21),
            free_pages: Some(22),
        };
        for text in [old, new] {
            let mut whole = NodeMemory::default();
            whole.read_usage(text.as_bytes()).unwrap();
            assert_eq!(whole.usage, expected);
            let mut by_line = NodeMemory::default();
            for line in text.lines() {
                let _ = by_line.read_usage(line.as_bytes());
            }
            assert_eq!(by_line, whole);
        }
    }

    /// A value that is no number stays unknown, and so does what stands behind the zones.
    #[test]
    fn usage_that_is_none() {
        let mut node = NodeMemory::default();
        node.read_usage(b"active_anon:1 free:12x shmem: unevictable:-1")
            .unwrap();
        assert_eq!(node.usage.active_anon_pages, Some(1));
        assert_eq!(
            (node.usage.free_pages, node.usage.shmem_pages),
            (None, None)
        );
        assert_eq!(node.usage.unevictable_pages, None);
        node.read_zone_line(b"Node 0 DMA free:4kB").unwrap();
        assert_eq!(node.read_usage(b" free:12 shmem:7"), None);
    }

    /// A zone as 5.10 prints it (no boost), as 6.1 does, and as 7.x does (what is free of the
    /// reserve, zspages).
    #[test]
    fn zones_of_several_kernels() {
        let node = zone_lines(&[
            "Node 0 DMA free:15036kB min:352kB low:440kB high:528kB reserved_highatomic:0KB active_anon:0kB inactive_anon:0kB active_file:0kB inactive_file:0kB unevictable:0kB writepending:0kB present:15992kB managed:15360kB mlocked:0kB pagetables:0kB bounce:0kB free_pcp:0kB local_pcp:0kB free_cma:0kB",
            "lowmem_reserve[]: 0 1893 7893 7893 7893",
            "Node 0 DMA32 free:5000kB boost:2048kB min:44700kB low:55872kB high:67044kB reserved_highatomic:4096KB active_anon:884kB inactive_anon:57324kB active_file:72396kB inactive_file:89296kB unevictable:19140kB writepending:2532kB present:2080640kB managed:2010036kB mlocked:19140kB bounce:0kB free_pcp:612kB local_pcp:612kB free_cma:16kB",
            "Node 1 Normal free:6000kB boost:0kB min:1kB low:2kB high:3kB reserved_highatomic:8KB free_highatomic:4KB active_anon:0kB inactive_anon:0kB active_file:0kB inactive_file:0kB unevictable:0kB writepending:0kB zspages:12kB present:7kB managed:6kB mlocked:0kB bounce:0kB free_pcp:0kB local_pcp:0kB free_cma:0kB",
            "lowmem_reserve[]: 0 0 0 0 0",
        ]);
        let kb = |kb: u64| Some(kb << 10);
        let expected = [
            Zone {
                node: Some(0),
                name: "DMA".to_owned(),
                free_bytes: kb(15036),
                boost_bytes: None,
                min_bytes: kb(352),
                low_bytes: kb(440),
                high_bytes: kb(528),
                reserved_highatomic_bytes: kb(0),
                free_highatomic_bytes: None,
                free_cma_bytes: kb(0),
                present_bytes: kb(15992),
                managed_bytes: kb(15360),
                lowmem_reserve_pages: Some(vec![0, 1893, 7893, 7893, 7893]),
                free_by_order: None,
            },
            Zone {
                node: Some(0),
                name: "DMA32".to_owned(),
                free_bytes: kb(5000),
                boost_bytes: kb(2048),
                min_bytes: kb(44700),
                low_bytes: kb(55872),
                high_bytes: kb(67044),
                reserved_highatomic_bytes: kb(4096),
                free_highatomic_bytes: None,
                free_cma_bytes: kb(16),
                present_bytes: kb(2080640),
                managed_bytes: kb(2010036),
                lowmem_reserve_pages: None,
                free_by_order: None,
            },
            Zone {
                node: Some(1),
                name: "Normal".to_owned(),
                free_bytes: kb(6000),
                boost_bytes: kb(0),
                min_bytes: kb(1),
                low_bytes: kb(2),
                high_bytes: kb(3),
                reserved_highatomic_bytes: kb(8),
                free_highatomic_bytes: kb(4),
                free_cma_bytes: kb(0),
                present_bytes: kb(7),
                managed_bytes: kb(6),
                lowmem_reserve_pages: Some(vec![0; 5]),
                free_by_order: None,
            },
        ];
        assert_eq!(node.zones, expected);
        assert_eq!(node.zones_total, 3);
    }

    /// Free blocks, with pages of 4 and of 64 kB, go to the zone of that node and name.
    #[test]
    fn free_blocks() {
        let node = zone_lines(&[
            "Node 0 Normal free:100kB min:1kB",
            "Node 1 Normal free:100kB min:1kB",
            "Node 1 Normal: 3*4kB (UE) 0*8kB 2*16kB (UMEHCI) = 44kB",
        ]);
        assert_eq!(node.page_bytes, Some(4096));
        assert_eq!(node.zones[0].free_by_order, None);
        assert_eq!(node.zones[1].free_by_order, Some(vec![3, 0, 2]));
        let node = zone_lines(&[
            "Node 0 DMA free:100kB",
            "Node 0 DMA: 1*64kB (U) 0*128kB = 64kB",
        ]);
        assert_eq!(node.page_bytes, Some(64 << 10));
        assert_eq!(node.zones[0].free_by_order, Some(vec![1, 0]));
    }

    /// A line of blocks that lost a part does not add up, and is left out.
    #[test]
    fn free_blocks_that_do_not_add_up() {
        for line in [
            "Node 0 DMA: 3*4kB (U) 2*8kB (M) = 29kB",
            "Node 0 DMA: 3*4kB (U) 2*16kB (M) = 44kB",
            "Node 0 DMA: 3*4kB (U) 2*8kB (M) ",
            "Node 0 DMA: 3*4kB (U) 2*8kB (M) = 28",
            "Node 0 DMA: 3*4kB (U) 2*8kB (M = 28kB",
            "Node 0 DMA: 18446744073709551615*4kB (U) = 0kB",
            "Node 0 DMA: = 0kB",
        ] {
            let node = zone_lines(&["Node 0 DMA free:28kB", line]);
            assert_eq!(node.zones[0].free_by_order, None, "{line}");
        }
    }

    /// The lines about memory nodes and huge pages are not about zones; a number that was cut off is
    /// not believed.
    #[test]
    fn what_is_no_zone() {
        let node = zone_lines(&[
            "Node 0 active_anon:884kB inactive_anon:57324kB shmem_thp: 0kB all_unreclaimable? no",
            "Node 0 hugepages_total=0 hugepages_free=0 hugepages_surp=0 hugepages_size=2048kB",
            "Node 0 ",
            "lowmem_reserve[]: 0 1",
        ]);
        assert_eq!(node, NodeMemory::default());
        let node = zone_lines(&["Node 0 DMA free:28kB min:12", "lowmem_reserve[]: 0 -1"]);
        assert_eq!(node.zones[0].min_bytes, None);
        assert_eq!(node.zones[0].lowmem_reserve_pages, None);
        assert!(!begins(b"Mem-Info:") && !begins(b"Name                      Used"));
    }

    /// Kernels without `CONFIG_NUMA` name no node.
    #[test]
    fn no_numa() {
        let node = zone_lines(&["HighMem free:28kB min:12kB", "HighMem: 7*4kB (U) = 28kB"]);
        assert_eq!(
            (node.zones[0].node, &*node.zones[0].name),
            (None, "HighMem")
        );
        assert_eq!(node.zones[0].free_by_order, Some(vec![7]));
    }

    /// However many zones there are, so many are kept, all are counted, and what is said of the
    /// others does not end up with them.
    #[test]
    fn zones_are_bounded() {
        let mut node = NodeMemory::default();
        for id in 0..100 {
            let zone = format!("Node {id} Normal free:4kB");
            node.read_zone_line(zone.as_bytes()).unwrap();
            if id >= 63 {
                let reserve = format!("lowmem_reserve[]: {id}");
                node.read_zone_line(reserve.as_bytes()).unwrap();
            }
        }
        assert_eq!((node.zones.len(), node.zones_total), (64, 100));
        assert_eq!(node.zones[63].lowmem_reserve_pages, Some(vec![63]));
    }
}
