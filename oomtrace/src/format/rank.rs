//! The order of `oomtrace rank`, as a table.

use super::{
    draw::{NOT_WHOLE, Parts, heading, legend, silent, wrapped},
    pretty::{BOLD, DIM, Paint, WARN, shown, time_of_day},
};
use crate::{
    explain::{amount, brief},
    rank::{Group, Process, Ranking, held_bytes},
};

/// A table is at least and at most this wide.
pub const WIDTH: std::ops::RangeInclusive<usize> = 80..=140;
/// Cells of a bar, at most and at least.
const BAR: usize = 24;
const LEAST_BAR: usize = 6;

/// What a row of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// A process.
    Process,
    /// A pod; or a container or cgroup, for processes that are in no pod.
    Pod,
}

/// The table.
pub fn ranking(ranking: &Ranking, by: By, width: usize, color: bool) -> String {
    let width = width.clamp(*WIDTH.start(), *WIDTH.end());
    let paint = Paint { color };
    let mut text = heading(&title(ranking), width, paint);
    wrapped(&mut text, width, "", "", &scope(ranking));
    for note in notes(ranking) {
        let start = text.len();
        wrapped(&mut text, width, "", "", &note);
        let note = paint.on(WARN, text[start..].trim_end());
        text.truncate(start);
        text.push_str(&note);
        text.push('\n');
    }
    text.push('\n');
    let Table {
        head,
        rows,
        more,
        has_bars,
    } = match by {
        By::Process => processes(ranking, width),
        By::Pod => pods(ranking, width),
    };
    text.push_str(&paint.on(DIM, head.trim_end()));
    text.push('\n');
    for (index, row) in rows.iter().enumerate() {
        let row = row.trim_end();
        text.push_str(&if index == 0 {
            paint.on(BOLD, row)
        } else {
            row.to_owned()
        });
        text.push('\n');
    }
    if rows.is_empty() {
        text.push_str("  no process that the OOM killer could take\n");
    }
    if more > 0 {
        text.push_str(&format!("  … and {more} more\n"));
    }
    if has_bars {
        text.push_str(&paint.on(DIM, format_args!("  {}", legend(bars(ranking)))));
        text.push('\n');
    }
    text
}

fn title(ranking: &Ranking) -> String {
    let node = &ranking.node;
    let name = node.k8s_node_name.as_ref().or(node.hostname.as_ref());
    let name = name.map_or_else(String::new, |name| format!(" ── node {}", shown(name)));
    let time = &ranking.time;
    let date = time.get(..10).unwrap_or_default();
    let clock = time_of_day(time);
    let clock = clock.get(..8).unwrap_or(clock);
    format!("who dies next ── {date} {clock} UTC{name}")
}

/// Which decision it is about.
fn scope(ranking: &Ranking) -> String {
    let total = amount(ranking.total_bytes);
    let step = amount(ranking.total_bytes / 1000);
    let points =
        format!("Points are pages held + oom_score_adj × {step}, a thousandth of {total}.");
    match &ranking.cgroup {
        None => format!("If the node runs out of memory. {points}"),
        Some(domain) => {
            let path = shown(&brief(&domain.path, 100)).to_string();
            let usage = domain
                .usage_bytes
                .map_or_else(String::new, |usage| format!(", {} charged", amount(usage)));
            match domain.limit_bytes {
                Some(limit) => {
                    let limit = amount(limit);
                    format!("If {path} hits its limit of {limit}{usage}. {points}")
                }
                None => format!(
                    "{path} has no limit of its own{usage}. If the node runs out of memory, of its \
                     processes. {points}"
                ),
            }
        }
    }
}

fn notes(ranking: &Ranking) -> Vec<String> {
    let mut notes = Vec::new();
    if ranking.whole_node == Some(false) {
        notes.push(NOT_WHOLE.to_owned());
    }
    notes.extend(silent(ranking.kubernetes.as_ref()));
    if ranking.panics == Some(true) {
        notes.push("vm.panic_on_oom is set: the kernel panics, and kills nobody.".to_owned());
    } else if ranking.allocating_task_dies == Some(true) {
        notes.push(
            "vm.oom_kill_allocating_task is set: whoever asks for memory then dies, and not the \
             first of this order."
                .to_owned(),
        );
    }
    let group = ranking.candidates.items.first();
    if let Some(path) = group.and_then(|first| first.dies_with.as_ref()) {
        notes.push(format!(
            "With the first, all processes in {} die (memory.oom.group).",
            shown(&brief(path, 100))
        ));
    }
    notes
}

fn bars(ranking: &Ranking) -> impl Iterator<Item = Parts> + Clone + '_ {
    let items = &ranking.candidates.items;
    items
        .iter()
        .filter_map(|item| Parts::of(&item.candidate, Some(ranking.total_bytes)))
}

struct Table {
    head: String,
    rows: Vec<String>,
    /// How many more there are.
    more: u32,
    has_bars: bool,
}

fn processes(ranking: &Ranking, width: usize) -> Table {
    let list = &ranking.candidates;
    let longest = bars(ranking).map(Parts::length).max().unwrap_or(0);
    let name = |item: &Process| format!("{} {}", shown(&item.candidate.comm), item.candidate.pid);
    let wide = widest(list.items.iter().map(name), 12, 26);
    let line = |[rank, process, points, adj, held, ahead]: [&str; 6]| {
        format!("{rank:>3}  {process:<wide$}{points:>10}{adj:>6}{held:>10}{ahead:>10}  ")
    };
    let head = line(["", "process", "points", "adj", "held", "ahead"]);
    // The bar takes what is left.
    let room = width.saturating_sub(head.chars().count());
    let places = widest(list.items.iter().map(whose), 5, 60);
    let bar = room.saturating_sub(places + 2).min(BAR);
    let bar = if bar < LEAST_BAR { 0 } else { bar + 2 };
    let room = room - bar;
    let row = |item: &Process| {
        let candidate = &item.candidate;
        let points = candidate.badness_pages.unwrap_or(0);
        let numbers = line([
            &candidate.rank.to_string(),
            &cut(&name(item), wide),
            &points.to_string(),
            &candidate.oom_score_adj.to_string(),
            &amount(held_bytes(candidate)),
            &item.ahead_bytes.map_or_else(String::new, amount),
        ]);
        let parts = Parts::of(candidate, Some(ranking.total_bytes)).filter(|_| bar > 0);
        let drawn = parts.map_or_else(String::new, |parts| parts.bar(longest, bar - 2));
        format!("{numbers}{drawn:<bar$}{}", brief(&whose(item), room))
    };
    Table {
        head: format!("{head}{:<bar$}whose", ""),
        rows: list.items.iter().map(row).collect(),
        more: list.total - list.listed,
        has_bars: bar > 0 && !list.items.is_empty(),
    }
}

/// Pod and container of a process, or its cgroup.
fn whose(item: &Process) -> String {
    let candidate = &item.candidate;
    let Some(uid) = &candidate.pod_uid else {
        return shown(&item.cgroup).to_string();
    };
    let front = |id: &String, length| id.get(..length).map(str::to_owned);
    let pod = item.pod.clone().or_else(|| front(uid, 8));
    let id = candidate.container_id.as_ref();
    let container = item.container.clone();
    let container = container.or_else(|| id.and_then(|id| front(id, 12)));
    let class = item.qos_class.map(|class| class.name().to_owned());
    let parts: Vec<String> = [class, pod, container].into_iter().flatten().collect();
    shown(&parts.join("  ")).to_string()
}

fn pods(ranking: &Ranking, width: usize) -> Table {
    let list = &ranking.pods;
    let first = |group: &Group| format!("{} {}", shown(&group.first_comm), group.first_pid);
    let wide = widest(list.items.iter().map(first), 13, 26);
    let in_pods = list.items.iter().any(|group| group.qos_class.is_some());
    let (qos, qos_wide) = if in_pods { ("QoS", 12) } else { ("", 0) };
    let line = |[rank, class, first, points, adj, ahead, count, held, whose]: [&str; 9]| {
        format!(
            "{rank:>3}  {class:<qos_wide$}{first:<wide$}{points:>10}{adj:>6}{ahead:>10}{count:>7}{held:>10}  \
             {whose}"
        )
    };
    let head = line([
        "",
        qos,
        "dies first",
        "points",
        "adj",
        "ahead",
        "procs",
        "held",
        "whose",
    ]);
    let room = width.saturating_sub(line([""; 9]).chars().count()).max(12);
    let row = |group: &Group| {
        // The front of a uid is enough to find it.
        let uid = group.pod_uid.as_deref();
        let uid = uid.map(|uid| uid.get(..8).filter(|_| uid.len() > room).unwrap_or(uid));
        let whose = group.pod.as_deref().or(uid).unwrap_or(&group.cgroup);
        line([
            &group.rank.to_string(),
            group.qos_class.map_or("", |class| class.name()),
            &cut(&first(group), wide),
            &group.badness_pages.to_string(),
            &group.oom_score_adj.to_string(),
            &group.ahead_bytes.map_or_else(String::new, amount),
            &group.processes.to_string(),
            &amount(group.held_bytes),
            &shown(&brief(whose, room)).to_string(),
        ])
    };
    Table {
        head,
        rows: list.items.iter().map(row).collect(),
        more: list.total - list.listed,
        has_bars: false,
    }
}

fn widest(texts: impl Iterator<Item = String>, least: usize, most: usize) -> usize {
    let longest = texts.map(|text| text.chars().count()).max().unwrap_or(0);
    longest.clamp(least, most)
}

/// The front of a text; the process id at its end is kept.
fn cut(text: &str, most: usize) -> String {
    let over = text.chars().count().saturating_sub(most);
    match text.rsplit_once(' ').filter(|_| over > 0) {
        Some((name, pid)) => {
            let keep = name.chars().count().saturating_sub(over + 1);
            let name: String = name.chars().take(keep).collect();
            format!("{name}… {pid}")
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The process id stays whole, and the width is kept.
    #[test]
    fn long_names_are_cut() {
        assert_eq!(cut("a name 123", 10), "a name 123");
        assert_eq!(cut("a long name 123", 10), "a lon… 123");
    }
}
