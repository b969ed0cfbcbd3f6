//! `oom_badness` of the kernels before 5.9, as far as their reports let it be computed again.
//!
//! | kernel | what counts, in pages | task table |
//! | --- | --- | --- |
//! | 2.6.36 to 3.4 | thousandths of the total | neither swap nor page tables: not computable |
//! | 3.5 to 3.13 | rss + swap + `nr_ptes`; 30 off the `oom_score_adj` of an administrator | from 3.7 all |
//! | 3.14 to 4.16 | the same; 3 % of its own off for an administrator; from 4.0 with `nr_pmds` | all |
//! | 4.17 to 5.8 | rss + swap + page tables | all |
//!
//! All of them raise what is below 1 to 1. The score they print is points × 1000 / total. An
//! administrator is a task with `CAP_SYS_ADMIN`, which no report tells: root in a container has it not.
//! So the points of root's tasks have several readings, of which the printed score can confirm one.

/// What a task table says of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Resident, swapped and page-table pages.
    pub pages: u64,
    /// `oom_score_adj`.
    pub oom_score_adj: i32,
    /// Its user is root, or not known.
    pub root: bool,
}

/// Points as the kernels from 3.5 to 4.18 may have computed them, without and with the bonus for
/// administrators. Empty where they cannot be computed, or the task cannot be chosen.
pub fn readings(held: Held, total_pages: u64) -> Vec<i64> {
    let points = |pages: u64, adj: i32| -> Option<i64> {
        let share = i64::try_from(total_pages / 1000).ok()?;
        let share = i64::from(adj).checked_mul(share)?;
        Some(share.checked_add_unsigned(pages)?.max(1))
    };
    let Held {
        pages,
        oom_score_adj: adj,
        root,
    } = held;
    if adj == -1000 {
        return Vec::new();
    }
    let mut readings: Vec<i64> = points(pages, adj).into_iter().collect();
    if root {
        let bonus = pages.checked_mul(3).map(|pages| pages / 100);
        readings.extend(bonus.and_then(|bonus| points(pages.saturating_sub(bonus), adj)));
        readings.extend(points(pages, adj - 30));
    }
    readings.dedup();
    readings
}

/// The score those kernels print.
pub fn score(points: i64, total_pages: u64) -> Option<u64> {
    let points = u64::try_from(points).ok()?;
    points.checked_mul(1000)?.checked_div(total_pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(pages: u64, oom_score_adj: i32, root: bool) -> Held {
        Held {
            pages,
            oom_score_adj,
            root,
        }
    }

    /// Three printed scores: of a user's task, of one with an `oom_score_adj`, of root in a container.
    #[test]
    fn printed_scores() {
        let total = 434_726;
        let readings_of = |task| readings(task, total);
        assert_eq!(readings_of(held(399_598, 0, false)), [399_598]);
        assert_eq!(score(399_598, total), Some(919));
        assert_eq!(readings_of(held(1_000, 500, false)), [1_000 + 434 * 500]);
        let root = readings(held(10_718, 0, true), 10_240);
        assert_eq!(root, [10_718, 10_397, 10_418]);
        assert_eq!(score(root[0], 10_240), Some(1_046));
    }

    /// Nothing is below 1, and what cannot be chosen has no points.
    #[test]
    fn bounds() {
        assert_eq!(readings(held(10, -500, false), 1_000_000), [1]);
        assert!(readings(held(10, -1000, true), 1_000_000).is_empty());
        assert_eq!(score(-1, 5), None);
        assert_eq!(score(1, 0), None);
        assert!(readings(held(u64::MAX, 1000, true), u64::MAX).is_empty());
    }
}
