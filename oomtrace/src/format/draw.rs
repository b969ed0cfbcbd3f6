//! What pages are drawn with: headings, wrapped text, and bars.

use std::fmt::Write;

use super::pretty::{BOLD, Paint, shown};
use crate::event::{Candidate, Kubernetes, PodSourceState};

/// A line across the page.
pub(super) fn heading(text: &str, width: usize, paint: Paint) -> String {
    let rest = width.saturating_sub(text.chars().count() + 4);
    let rule = "─".repeat(rest);
    paint.on(BOLD, format_args!("── {text} {rule}")) + "\n"
}

/// Appends text in lines no longer than `width`, except for words that are. The first line begins
/// with `first`, the others with `rest`.
pub(super) fn wrapped(out: &mut String, width: usize, first: &str, rest: &str, text: &str) {
    let mut line = first.to_owned();
    let mut length = first.chars().count();
    let mut begun = false;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let more = word.chars().count();
        if begun && length + 1 + more > width {
            let _ = writeln!(out, "{line}");
            (line, length, begun) = (rest.to_owned(), rest.chars().count(), false);
        }
        if begun {
            line.push(' ');
            length += 1;
        }
        line.push_str(word);
        length += more;
        begun = true;
    }
    let _ = writeln!(out, "{line}");
}

/// Said where not all processes of the node are seen.
pub(super) const NOT_WHOLE: &str = "Only the processes of this PID namespace are seen, not all of \
                                    the node: in a container, run it with the host's (hostPID).";

/// A sentence for each source of pods that does not answer.
pub(super) fn silent(kubernetes: Option<&Kubernetes>) -> impl Iterator<Item = String> {
    let sources = kubernetes.map_or(&[][..], |found| &found.sources).iter();
    let silent = sources.filter(|source| source.state != PodSourceState::Live);
    silent.map(|source| {
        let error = source.error.as_deref().unwrap_or("it does not answer");
        format!(
            "Pods may lack names and requests: {}: {}.",
            source.name,
            shown(error)
        )
    })
}

/// What `oom_score_adj` adds to the points, in bytes; unknown where what the decision could use is,
/// unless it is 0.
pub(super) fn share_of(oom_score_adj: i32, total_bytes: Option<u64>) -> Option<i128> {
    match (oom_score_adj, total_bytes) {
        (0, _) => Some(0),
        (adj, Some(total)) => Some(i128::from(adj) * i128::from(total) / 1000),
        (_, None) => None,
    }
}

/// The parts of the points, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    pub rss: i128,
    pub swap: i128,
    pub tables: i128,
    pub share: i128,
}

impl Parts {
    /// Those of a candidate, where all are known. `total_bytes` is what the decision could use.
    pub fn of(item: &Candidate, total_bytes: Option<u64>) -> Option<Self> {
        Some(Self {
            rss: item.rss_bytes?.into(),
            swap: item.swap_bytes?.into(),
            tables: item.pgtables_bytes?.into(),
            share: share_of(item.oom_score_adj, total_bytes)?,
        })
    }

    /// What the bar shows: memory, and what `oom_score_adj` adds to it.
    pub const fn length(self) -> i128 {
        let held = self.rss + self.swap + self.tables;
        if self.share > 0 {
            held + self.share
        } else {
            held
        }
    }

    /// The bar, `most` cells for `longest` bytes. What a negative `oom_score_adj` takes off is
    /// dotted, from the right.
    pub fn bar(self, longest: i128, most: usize) -> String {
        let most = i128::try_from(most).unwrap_or(0);
        let cells = |bytes: i128| (bytes * most + longest / 2) / longest.max(1);
        let mut ends = [0; 4];
        let mut sum = 0;
        for (end, part) in
            ends.iter_mut()
                .zip([self.rss, self.swap, self.tables, self.share.max(0)])
        {
            sum += part;
            *end = cells(sum);
        }
        let kept = cells((self.length() + self.share.min(0)).max(0));
        (0..ends[3])
            .map(|cell| match cell {
                cell if cell >= kept => '·',
                cell if cell < ends[0] => '█',
                cell if cell < ends[1] => '▓',
                cell if cell < ends[2] => '▒',
                _ => '░',
            })
            .collect()
    }
}

/// What the bars are made of, as far as it is in one of them.
pub(super) fn legend(bars: impl Iterator<Item = Parts> + Clone) -> String {
    let any = |what: fn(Parts) -> bool| bars.clone().any(what);
    [
        (any(|parts| parts.rss > 0), "█ rss"),
        (any(|parts| parts.swap > 0), "▓ swap"),
        (any(|parts| parts.tables > 0), "▒ page tables"),
        (any(|parts| parts.share > 0), "░ oom_score_adj"),
        (
            any(|parts| parts.share < 0),
            "· taken off by a negative oom_score_adj",
        ),
    ]
    .into_iter()
    .filter_map(|(is_there, what)| is_there.then_some(what))
    .collect::<Vec<_>>()
    .join("   ")
}
