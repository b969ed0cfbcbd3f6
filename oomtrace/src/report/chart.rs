//! Charts as SVG: rectangles, no text, so that they may be stretched to any width.

use std::fmt::Write;

use super::{Class, html::Escaped};

/// Units of a chart's width.
const WIDTH: u64 = 1000;

/// A bar of parts, each with its class and its share of `whole`.
pub(super) fn bar(parts: &[(&str, u64)], whole: u64, label: &str) -> String {
    let mut svg = format!(
        r#"<svg class="bar" viewBox="0 0 {WIDTH} 10" preserveAspectRatio="none" role="img" aria-label="{}">"#,
        Escaped(label)
    );
    let place = |value: u64| {
        let place = u128::from(value) * u128::from(WIDTH) / u128::from(whole.max(1));
        u64::try_from(place).unwrap_or(WIDTH).min(WIDTH)
    };
    let mut sum = 0_u64;
    for (class, value) in parts {
        let from = place(sum);
        sum = sum.saturating_add(*value);
        let width = place(sum) - from;
        if width > 0 {
            let _ = write!(
                svg,
                r#"<rect class="{class}" x="{from}" width="{width}" height="10"/>"#
            );
        }
    }
    svg + "</svg>"
}

/// Kills over time.
pub(super) struct Timeline {
    first: u64,
    step: u64,
    /// Kills by class, in each bucket.
    buckets: Vec<[u64; Class::ALL.len()]>,
}

/// Sizes of buckets, in seconds.
const STEPS: [u64; 15] = [
    1, 5, 15, 60, 300, 900, 3_600, 10_800, 21_600, 43_200, 86_400, 259_200, 604_800, 2_592_000,
    31_536_000,
];
/// Buckets are not more, and not fewer.
const MOST: u64 = 60;
const FEWEST: u64 = 30;

impl Timeline {
    pub(super) fn new(times: &[(u64, Class)]) -> Option<Self> {
        let seconds = |ns: u64| ns / 1_000_000_000;
        let first = seconds(times.iter().map(|(time, _)| *time).min()?);
        let last = seconds(times.iter().map(|(time, _)| *time).max()?);
        let step = STEPS
            .into_iter()
            .find(|step| last / step - first / step < MOST)
            .unwrap_or((last - first) / MOST + 1);
        let needed = last / step - first / step + 1;
        // A few kills stand in the middle.
        let before = FEWEST.saturating_sub(needed) / 2;
        let first = (first / step).saturating_sub(before);
        let count = needed.max(FEWEST).max(last / step - first + 1);
        let mut buckets = vec![[0; Class::ALL.len()]; usize::try_from(count).ok()?];
        for (time, class) in times {
            let at = usize::try_from(seconds(*time) / step - first).ok()?;
            if let Some(bucket) = buckets.get_mut(at) {
                bucket[*class as usize] += 1;
            }
        }
        Some(Self {
            first: first * step,
            step,
            buckets,
        })
    }

    /// What is counted.
    pub(super) fn what(&self) -> &'static str {
        if self.classes().all(Class::is_of_kernel) {
            "kill"
        } else {
            "event"
        }
    }

    /// The most kills in a bucket.
    pub(super) fn most(&self) -> u64 {
        let sums = self.buckets.iter().map(|bucket| bucket.iter().sum());
        sums.max().unwrap_or(0)
    }

    /// Which classes there are.
    pub(super) fn classes(&self) -> impl Iterator<Item = Class> {
        Class::ALL.into_iter().filter(|class| {
            self.buckets
                .iter()
                .any(|bucket| bucket[*class as usize] > 0)
        })
    }

    pub(super) const fn step_s(&self) -> u64 {
        self.step
    }

    /// Where a bucket begins, in nanoseconds since the Unix epoch.
    pub(super) const fn begin_ns(&self, bucket: usize) -> u64 {
        (self.first + bucket as u64 * self.step) * 1_000_000_000
    }

    pub(super) const fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Kills in each bucket.
    pub(super) fn kills(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|bucket| bucket.iter().sum())
    }

    /// The chart; `unwatched` are times when nobody watched.
    pub(super) fn svg(&self, unwatched: &[(&str, u64, u64)]) -> String {
        let most = self.most().max(1);
        let wide = self.buckets.len() as u64 * 10;
        let mut svg = format!(
            r#"<svg class="timeline" viewBox="0 0 {wide} 100" preserveAspectRatio="none" role="img" aria-label="{}s over time">"#,
            self.what()
        );
        let place = |ns: u64| {
            let since = (ns / 1_000_000_000).saturating_sub(self.first);
            (since * 10 / self.step).min(wide)
        };
        for (node, from, until) in unwatched {
            let (from, until) = (place(*from), place(*until));
            if until > from {
                let width = until - from;
                let _ = write!(
                    svg,
                    r#"<rect class="unwatched" x="{from}" width="{width}" height="100"><title>{} was not watched</title></rect>"#,
                    Escaped(node)
                );
            }
        }
        for (at, bucket) in self.buckets.iter().enumerate() {
            let total: u64 = bucket.iter().sum();
            if total == 0 {
                continue;
            }
            let when = super::words::second(self.begin_ns(at));
            let what = super::words::count(total, self.what());
            let _ = write!(svg, "<g><title>{when}: {what}</title>");
            let mut sum = 0;
            for (class, kills) in bucket.iter().enumerate().filter(|(_, kills)| **kills > 0) {
                let below = sum * 1000 / most;
                sum += kills;
                // One kill is seen beside a thousand.
                let height = (sum * 1000 / most - below).max(15);
                let (x, y) = (at * 10 + 1, 1000_u64.saturating_sub(below + height));
                let _ = write!(
                    svg,
                    r#"<rect class="k{class}" x="{x}" y="{}.{}" width="8" height="{}.{}"/>"#,
                    y / 10,
                    y % 10,
                    height / 10,
                    height % 10
                );
            }
            svg.push_str("</g>");
        }
        svg + "</svg>"
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// However many kills and however far apart: few buckets, and every kill in one.
    #[test]
    fn every_kill_is_in_a_bucket() {
        const SECOND: u64 = 1_000_000_000;
        let now = 1_795_310_847 * SECOND;
        for times in [
            vec![now],
            vec![0],
            vec![now, now + SECOND],
            (0..1000).map(|at| now + at * 3601 * SECOND).collect(),
            vec![0, now],
            vec![u64::MAX, 0],
        ] {
            let times: Vec<_> = times.into_iter().map(|at| (at, Class::Node)).collect();
            let line = Timeline::new(&times).unwrap();
            let sum: u64 = line.kills().sum();
            assert_eq!(sum, times.len() as u64);
            assert!(line.len() <= 60 && line.len() >= 30, "{}", line.len());
        }
        assert!(Timeline::new(&[]).is_none());
    }

    /// Parts lie side by side and do not go beyond the whole.
    #[test]
    fn bars() {
        let svg = bar(&[("a", 50), ("b", 25), ("none", 0), ("c", 100)], 100, "<x>");
        assert!(
            svg.contains(r#"<rect class="a" x="0" width="500""#),
            "{svg}"
        );
        assert!(
            svg.contains(r#"<rect class="b" x="500" width="250""#),
            "{svg}"
        );
        assert!(
            svg.contains(r#"<rect class="c" x="750" width="250""#),
            "{svg}"
        );
        assert!(
            !svg.contains("none\" x") && svg.contains("&lt;x&gt;"),
            "{svg}"
        );
    }
}
