//! `oom_badness` and `proc_oom_score`, as kernels from 5.9 on compute them.

/// What counts against a task, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Resident pages of all kinds.
    pub rss_pages: u64,
    /// Pages in swap.
    pub swap_pages: u64,
    /// Page tables, in bytes.
    pub pgtables_bytes: u64,
}

/// A task's points, in pages (`oom_badness` in `mm/oom_kill.c`).
///
/// `total_pages` is what the decision could use. Where it is unknown the points still are what
/// they are for a task whose `oom_score_adj` is 0; for others they are unknown, too. A task at
/// -1000 has no points: it cannot be chosen.
pub fn points(
    held: Footprint,
    oom_score_adj: i32,
    total_pages: Option<u64>,
    page_size: u64,
) -> Option<i64> {
    let share = match (oom_score_adj, total_pages) {
        (-1000, _) => return None,
        (0, _) => 0,
        (adj, Some(total)) => i64::from(adj).checked_mul(i64::try_from(total / 1000).ok()?)?,
        (_, None) => return None,
    };
    let pages = held
        .rss_pages
        .checked_add(held.swap_pages)?
        .checked_add(held.pgtables_bytes.checked_div(page_size)?)?;
    share.checked_add_unsigned(pages)
}

/// What `/proc/PID/oom_score` shows (`proc_oom_score` in `fs/proc/base.c`): points against the
/// memory and swap of the whole node, scaled to 0..=2000.
pub fn oom_score(
    held: Footprint,
    oom_score_adj: i32,
    node_pages: u64,
    page_size: u64,
) -> Option<i64> {
    if oom_score_adj == -1000 {
        return Some(0);
    }
    let points = points(held, oom_score_adj, Some(node_pages), page_size)?;
    let scaled = points
        .checked_mul(1000)?
        .checked_div(i64::try_from(node_pages).ok()?)?;
    // The kernel divides an unsigned number here; below -1000 it would wrap around, and no task
    // gets there.
    Some((1000 + scaled).max(0) * 2 / 3)
}

/// What a decision on a memory cgroup could use, in pages (`mem_cgroup_get_max` in
/// `mm/memcontrol.c`): its limit, and of the swap as much as it may have. How much that is depends
/// on its swappiness, which is not printed; so with swap on the node the answer is unknown.
pub fn limit_total_pages(limit_bytes: u64, node_swap_bytes: u64, page_size: u64) -> Option<u64> {
    if node_swap_bytes == 0 {
        limit_bytes.checked_div(page_size)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Footprint = Footprint {
        rss_pages: 5_000,
        swap_pages: 100,
        pgtables_bytes: 90_112,
    };

    /// Each part counts, and the share is that of the decision's total, in whole thousandths.
    #[test]
    fn points_are_the_kernels() {
        assert_eq!(points(HELD, 0, None, 4096), Some(5_122));
        assert_eq!(points(HELD, 1000, Some(5_999), 4096), Some(5_122 + 5_000));
        assert_eq!(
            points(HELD, -500, Some(5_000_000), 4096),
            Some(5_122 - 2_500_000)
        );
        assert_eq!(points(HELD, 1, None, 4096), None, "the total is unknown");
        assert_eq!(
            points(HELD, -1000, Some(5_000), 4096),
            None,
            "it cannot be chosen"
        );
        assert_eq!(
            points(HELD, 0, None, 16_384),
            Some(5_105),
            "pages of another size"
        );
    }

    /// A kernel of 24 GiB shows 666 for a small task at 0, 1333 at 1000, 1 at -999 and 0 at -1000.
    #[test]
    fn oom_score_is_procs() {
        let node = 6_171_021;
        let small = Footprint {
            rss_pages: 400,
            swap_pages: 0,
            pgtables_bytes: 40_960,
        };
        assert_eq!(oom_score(small, 0, node, 4096), Some(666));
        assert_eq!(oom_score(small, 1000, node, 4096), Some(1333));
        assert_eq!(oom_score(small, -999, node, 4096), Some(1));
        assert_eq!(oom_score(small, -1000, node, 4096), Some(0));
    }

    /// Numbers no machine has are refused, not wrapped.
    #[test]
    fn absurd_numbers_are_unknown() {
        let huge = Footprint {
            rss_pages: u64::MAX,
            swap_pages: 1,
            pgtables_bytes: 0,
        };
        assert_eq!(points(huge, 0, None, 4096), None);
        assert_eq!(
            points(HELD, 1000, Some(u64::MAX), 4096),
            Some(i64::MAX).filter(|_| false)
        );
        assert_eq!(oom_score(HELD, 0, 0, 4096), None);
    }
}
