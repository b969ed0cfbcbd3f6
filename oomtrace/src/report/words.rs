//! Numbers and times as people write them, and the report in a few sentences.

use super::{Class, Report, ranked};
use crate::event::rfc3339;

/// `1 kill`, `12,345 kills`, `2 processes`
pub fn count(number: u64, what: &str) -> String {
    let plural = match what {
        _ if number == 1 => "",
        _ if what.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {what}{plural}", grouped(number))
}

/// `12,345`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The two biggest units.
pub(super) fn duration(seconds: i64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, size) in units {
        if rest >= size && parts.len() < 2 {
            parts.push(format!("{} {unit}", rest / size));
            rest %= size;
        } else if !parts.is_empty() {
            break;
        }
    }
    if parts.is_empty() {
        return "less than a second".to_owned();
    }
    parts.join(" ")
}

/// `2026-11-21 16:20 UTC`
pub(super) fn minute(unix_ns: u64) -> String {
    cut(unix_ns, 16)
}

/// `2026-11-21 16:20:11 UTC`
pub(super) fn second(unix_ns: u64) -> String {
    cut(unix_ns, 19)
}

fn cut(unix_ns: u64, length: usize) -> String {
    let time = rfc3339(unix_ns).replace('T', " ");
    format!("{} UTC", time.get(..length).unwrap_or(&time))
}

/// When it was, and on how many machines.
pub(super) fn period(report: &Report) -> String {
    let nodes = report.nodes.keys().flatten().count() as u64;
    let on = match nodes {
        0 => String::new(),
        1 => {
            let name = report.nodes.keys().flatten().next();
            format!(" on {}", name.map_or("", String::as_str))
        }
        _ => format!(" on {}", count(nodes, "node")),
    };
    match report.span() {
        Some((first, last)) if first == last => format!("{}{on}", second(first)),
        Some((first, last)) => format!("{} to {}{on}", minute(first), minute(last)),
        None => format!("At unknown times{on}"),
    }
}

/// What happened, in a few sentences.
pub(super) fn headline(report: &Report) -> Vec<String> {
    let mut sentences = Vec::new();
    if report.kills == 0 {
        sentences.push("The OOM killer killed nothing.".to_owned());
    } else {
        let was = if report.kills == 1 { "was" } else { "were" };
        let took = match report.decisions.len() as u64 {
            1 => "one decision".to_owned(),
            decisions => count(decisions, "decision"),
        };
        let processes = match report.kills {
            1 => "1 process".to_owned(),
            kills => format!("{} processes", grouped(kills)),
        };
        sentences.push(format!(
            "{processes} {was} killed, in {took} of the OOM killer."
        ));
        sentences.extend(what_ran_out(report));
        sentences.extend(who(report));
    }
    for (class, what) in [(Class::Evicted, "pod"), (Class::Userspace, "cgroup")] {
        let often = report.count_of(class);
        if often > 0 {
            let was = if often == 1 { "was" } else { "were" };
            sentences.push(format!("{} {was} {}.", count(often, what), class.how()));
        }
    }
    if report.marks > 0 {
        sentences.push(format!(
            "{} more to a task that was already exiting: not a kill.",
            match report.marks {
                1 => "One decision came".to_owned(),
                marks => format!("{} decisions came", grouped(marks)),
            }
        ));
    }
    if !report.stuck.is_empty() {
        sentences.push(format!(
            "{} had not exited ten seconds after the kill.",
            count(report.stuck.len() as u64, "victim")
        ));
    }
    sentences
}

fn what_ran_out(report: &Report) -> Option<String> {
    let mut counts: Vec<_> = Class::ALL
        .iter()
        .map(|class| {
            let of = |it: &&(u64, Class)| it.1 == *class;
            (report.times.iter().filter(of).count() as u64, class)
        })
        .filter(|(kills, class)| *kills > 0 && class.is_of_kernel())
        .collect();
    counts.sort_by_key(|(kills, _)| std::cmp::Reverse(*kills));
    if counts.is_empty() {
        return None;
    }
    if let [(kills, class)] = counts[..] {
        let all = if kills == 1 { "It" } else { "All of them" };
        return Some(format!("{all} {}.", class.how()));
    }
    let parts: Vec<_> = counts
        .iter()
        .map(|(kills, class)| format!("{} {}", grouped(*kills), class.how()))
        .collect();
    Some(format!("{}.", parts.join(", ")))
}

fn who(report: &Report) -> Option<String> {
    let list = report.offenders();
    let first = list.first()?;
    if list.len() == 1 {
        return Some(format!("The victim was always {}.", first.name))
            .filter(|_| report.decisions.len() > 1);
    }
    let often = first.tally.decisions;
    if often < 2 {
        return Some(format!(
            "{} different workloads were hit, each once.",
            list.len()
        ));
    }
    let nodes = ranked(&report.nodes);
    let node = nodes
        .first()
        .filter(|(_, tally)| nodes.len() > 1 && tally.kills * 2 > report.kills)
        .map(|(node, _)| format!("; more than half happened on {node}"));
    Some(format!(
        "Most often it was {}: {}{}.",
        first.name,
        count(often, "decision"),
        node.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers are grouped, durations have two units, and one is one.
    #[test]
    fn as_people_write() {
        assert_eq!(count(1, "kill"), "1 kill");
        assert_eq!(count(0, "kill"), "0 kills");
        assert_eq!(count(2, "process"), "2 processes");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        for (seconds, text) in [
            (0, "less than a second"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (3_600, "1 h"),
            (3_661, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(minute(0), "1970-01-01 00:00 UTC");
    }
}
