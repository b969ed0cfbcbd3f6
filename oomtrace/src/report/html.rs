//! The report as one page: no network, no script, nothing but this file.
//!
//! Names are any bytes their owners chose. All text goes through [`Escaped`].

use std::fmt::{self, Display, Write};

use super::{
    Class, Offender, Report, Table, Tally,
    chart::{Timeline, bar},
    ranked,
    words::{self, count, grouped},
};
use crate::{
    event::{Candidates, OomKill},
    explain::amount,
    format::{
        Decision,
        csv::name,
        page::{Row, how_it_ended, order, signed, what_would_have_spared, why},
        pretty::{self, Paint, is_hidden, shown},
    },
};

const STYLE: &str = include_str!("style.css");
/// Rows of a table of names; the rest is summed up.
const ROWS: usize = 10;
/// Rows of the table of workloads.
const OFFENDERS: usize = 25;
/// Rows of a ranking.
const CANDIDATES: usize = 15;
/// Decisions that are shown without a click.
const OPEN: usize = 3;

/// Text that means nothing in HTML and SVG, and hides nothing.
pub(super) struct Escaped<T>(pub(super) T);

impl<T: AsRef<str>> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .as_ref()
            .chars()
            .try_for_each(|character| match character {
                '&' => f.write_str("&amp;"),
                '<' => f.write_str("&lt;"),
                '>' => f.write_str("&gt;"),
                '"' => f.write_str("&quot;"),
                '\'' => f.write_str("&#39;"),
                hidden if is_hidden(hidden) => write!(f, "{}", hidden.escape_unicode()),
                other => f.write_char(other),
            })
    }
}

/// The page. `made` says when and by what it was made.
pub fn html(report: &Report, made: &str) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>OOM report: {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        Escaped(words::period(report))
    );
    heading(report, &mut page);
    missing(report, &mut page);
    timeline(report, &mut page);
    offenders(report, &mut page);
    groups(report, &mut page);
    decisions(report, &mut page);
    let _ = write!(
        page,
        "<footer><p>{}. Times are UTC. A decision is one call of the kernel's OOM killer; it may kill several \
         processes. Unknown is shown as “?” or “unknown”, never as zero.</p></footer>\n</body>\n</html>\n",
        Escaped(made)
    );
    page
}

fn heading(report: &Report, page: &mut String) {
    let _ = write!(
        page,
        "<header><h1>Out-of-memory report</h1><p class=\"period\">{}</p><p class=\"lead\">{}</p>",
        Escaped(words::period(report)),
        Escaped(words::headline(report).join(" "))
    );
    let exit = report
        .slowest_exit_ns
        .map(|ns| format!("{:.1} ms", ns as f64 / 1e6));
    let nodes = report.nodes.keys().flatten().count() as u64;
    page.push_str("<dl class=\"tiles\">");
    for (label, value) in [
        ("processes killed", Some(grouped(report.kills))),
        ("decisions", Some(grouped(report.decisions.len() as u64))),
        ("workloads", Some(grouped(report.offenders.len() as u64))),
        ("nodes", (nodes > 0).then(|| grouped(nodes))),
        ("slowest exit", exit),
        (
            "not kills (marks)",
            (report.marks > 0).then(|| grouped(report.marks)),
        ),
        (
            "shared a victim's memory",
            (report.sharers > 0).then(|| grouped(report.sharers)),
        ),
    ] {
        if let Some(value) = value {
            let _ = write!(page, "<div><dd>{value}</dd><dt>{label}</dt></div>");
        }
    }
    page.push_str("</dl></header>\n");
}

/// What is known not to be in the records, or not known.
fn missing(report: &Report, page: &mut String) {
    let gaps = report.coverage.gaps();
    let notes = plain_notes(report);
    let losses = report.coverage.losses();
    if gaps.is_empty() {
        page.push_str("<section class=\"note\"><h2>Is anything missing?</h2><ul>");
    } else {
        page.push_str("<section class=\"note bad\"><h2>Something is missing</h2><ul>");
    }
    for line in gaps.iter().chain(&notes) {
        let _ = write!(page, "<li>{}</li>", Escaped(line));
    }
    page.push_str("</ul>");
    if !losses.is_empty() {
        page.push_str("<details><summary>Losses one by one</summary><ul>");
        for line in &losses {
            let _ = write!(page, "<li>{}</li>", Escaped(line));
        }
        page.push_str("</ul></details>");
    }
    page.push_str("</section>\n");
}

/// What is to be known about the input.
pub(super) fn plain_notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    if report.coverage.is_told() && report.coverage.gaps().is_empty() {
        notes.push(
            "Nothing is known to be: the tracer declared no losses, its count equals the kernel's, and its \
             records are without gaps."
                .to_owned(),
        );
    }
    if !report.coverage.is_told() && report.imported < report.kills {
        notes.push(
            "There are no status records in the input, so it cannot be told whether the tracer was running \
             all the time."
                .to_owned(),
        );
    }
    if report.imported > 0 {
        notes.push(format!(
            "{} from kernel logs, which may not be whole; what they do not print is unknown here.",
            match report.imported {
                1 => "1 kill is".to_owned(),
                kills => format!("{} kills are", grouped(kills)),
            }
        ));
    }
    if report.without_time > 0 {
        notes.push(format!(
            "{} without a time, and not in the timeline.",
            match report.without_time {
                1 => "1 kill is".to_owned(),
                kills => format!("{} kills are", grouped(kills)),
            }
        ));
    }
    if report.duplicates > 0 {
        notes.push(format!(
            "{} in the input twice; each counts once.",
            match report.duplicates {
                1 => "1 record is".to_owned(),
                records => format!("{} records are", grouped(records)),
            }
        ));
    }
    if report.unknown > 0 {
        notes.push(format!(
            "{} of a kind that this version does not know.",
            count(report.unknown, "record")
        ));
    }
    if notes.is_empty() && report.coverage.gaps().is_empty() {
        notes.push("There are no records in the input that could tell.".to_owned());
    }
    notes
}

fn timeline(report: &Report, page: &mut String) {
    let Some(line) = Timeline::new(&report.times) else {
        return;
    };
    let step = i64::try_from(line.step_s()).unwrap_or(i64::MAX);
    let _ = write!(
        page,
        "<section><h2>When</h2><p class=\"hint\">Kills in {} each; the highest bar is {}.</p><figure>{}<div class=\"axis\">",
        words::duration(step),
        count(line.most(), "kill"),
        line.svg(&report.coverage.unwatched())
    );
    let when = if line.step_s() < 60 {
        words::second
    } else {
        words::minute
    };
    for at in [0, line.len() / 2, line.len()] {
        let _ = write!(page, "<span>{}</span>", when(line.begin_ns(at)));
    }
    page.push_str("</div><figcaption class=\"legend\">");
    for class in line.classes() {
        let _ = write!(
            page,
            "<span class=\"k{}\">{}</span>",
            class as usize,
            class.says()
        );
    }
    if !report.coverage.unwatched().is_empty() {
        page.push_str("<span class=\"unwatched\">a node was not watched</span>");
    }
    page.push_str("</figcaption></figure></section>\n");
}

fn offenders(report: &Report, page: &mut String) {
    let list = report.offenders();
    if list.is_empty() {
        return;
    }
    page.push_str(
        "<section><h2>Who, and what to change</h2><div class=\"scroll\"><table class=\"cards\"><thead><tr><th>workload</th>\
         <th class=\"n\">decisions</th><th class=\"n\">killed</th><th class=\"n\">peak use</th><th class=\"n\">limit</th>\
         <th class=\"n\">request</th><th>to change, and why</th></tr></thead><tbody>",
    );
    for offender in list.iter().take(OFFENDERS) {
        offender_row(offender, page);
    }
    page.push_str("</tbody></table></div>");
    if list.len() > OFFENDERS {
        let rest = &list[OFFENDERS..];
        let kills = rest.iter().map(|it| it.tally.kills).sum();
        let _ = write!(
            page,
            "<p class=\"hint\">And {} with {}, the most frequent of them {}.</p>",
            count(rest.len() as u64, "more workload"),
            count(kills, "kill"),
            match rest[0].tally.decisions {
                1 => "once".to_owned(),
                often => format!("{} times", grouped(often)),
            }
        );
    }
    page.push_str("</section>\n");
}

fn offender_row(offender: &Offender, page: &mut String) {
    let Offender {
        name,
        tally,
        class,
        times,
        peak_held_bytes,
        peak_usage_bytes,
        request_bytes,
        limit_bytes,
        ..
    } = offender;
    let mut about: Vec<String> = class.iter().map(|class| class.name().to_owned()).collect();
    if let Some((first, last)) = times {
        about.push(if first == last {
            words::minute(*first)
        } else {
            format!("{} to {}", words::minute(*first), words::minute(*last))
        });
    }
    about.extend(offender.lives().map(|lives| format!("had lived {lives}")));
    let badge = if tally.decisions > 1 {
        " <span class=\"badge\">repeat</span>"
    } else {
        ""
    };
    let peak = match (peak_usage_bytes, peak_held_bytes) {
        (Some(usage), _) => amount(*usage),
        (None, Some(held)) => format!("{} (process)", amount(*held)),
        (None, None) => "?".to_owned(),
    };
    let known = |bytes: &Option<u64>| bytes.map_or_else(|| "–".to_owned(), amount);
    let advice = offender.advice();
    let change = advice
        .change
        .as_ref()
        .map(|change| format!("<strong>{}</strong><br>", Escaped(change)));
    let _ = write!(
        page,
        "<tr><th scope=\"row\"><span class=\"name\">{}</span>{badge}<small>{}</small></th>\
         <td class=\"n\" data-label=\"decisions\">{}</td><td class=\"n\" data-label=\"killed\">{}</td>\
         <td class=\"n\" data-label=\"peak use\">{peak}</td><td class=\"n\" data-label=\"limit\">{}</td>\
         <td class=\"n\" data-label=\"request\">{}</td><td class=\"advice\">{}<span>{}.</span></td></tr>",
        Escaped(name),
        Escaped(about.join(" · ")),
        grouped(tally.decisions),
        grouped(tally.kills),
        known(limit_bytes),
        known(request_bytes),
        change.unwrap_or_default(),
        Escaped(advice.reasons.join("; ")),
    );
}

fn groups(report: &Report, page: &mut String) {
    if report.kills + report.sharers == 0 {
        return;
    }
    page.push_str("<section><h2>Where</h2><div class=\"grid\">");
    for (title, table) in [
        ("By verdict", &report.verdicts),
        ("By scope: whose limit", &report.scopes),
        ("By QoS class", &report.classes),
        ("By namespace", &report.namespaces),
        ("By node", &report.nodes),
    ] {
        group(title, &ranked(table), page);
    }
    let workloads: Table = report
        .offenders
        .iter()
        .map(|(name, it)| (Some(name.clone()), it.tally))
        .collect();
    group("By workload", &ranked(&workloads), page);
    page.push_str("</div></section>\n");
}

fn group(title: &str, rows: &[(&str, Tally)], page: &mut String) {
    let most = rows.first().map_or(0, |(_, tally)| tally.kills);
    let _ = write!(page, "<div class=\"card\"><h3>{title}</h3><table>");
    let mut row = |name: &str, tally: Tally, whole: u64| {
        let label = count(tally.kills, "kill");
        let _ = write!(
            page,
            "<tr><th scope=\"row\">{}{}</th><td class=\"n\" title=\"{} in {}\">{}</td></tr>",
            Escaped(name),
            bar(&[("all", tally.kills)], whole, &label),
            label,
            count(tally.decisions, "decision"),
            grouped(tally.kills),
        );
    };
    for (name, tally) in rows.iter().take(ROWS) {
        row(name, *tally, most);
    }
    if let Some(rest) = rows.get(ROWS..).filter(|rest| !rest.is_empty()) {
        let mut sum = Tally::default();
        rest.iter().for_each(|(_, tally)| sum.add(*tally));
        row(
            &format!("{} more", grouped(rest.len() as u64)),
            sum,
            most.max(sum.kills),
        );
    }
    page.push_str("</table></div>");
}

fn decisions(report: &Report, page: &mut String) {
    let shown_count = report.newest().count() as u64;
    if shown_count == 0 {
        return;
    }
    let all = report.decisions.len().max(report.newest.len()) as u64;
    let what = if all > shown_count {
        format!(
            "The newest {} of {}; all of them are counted above.",
            grouped(shown_count),
            grouped(all)
        )
    } else {
        "All of them, the newest first.".to_owned()
    };
    let _ = write!(
        page,
        "<section><h2>Decisions</h2><p class=\"hint\">{what} Points decide: what a process holds, and what its \
         oom_score_adj adds or takes off.</p><p class=\"legend\"><span class=\"rss\">rss</span><span class=\"swap\">swap</span>\
         <span class=\"tables\">page tables</span><span class=\"adj\">added by oom_score_adj</span>\
         <span class=\"off\">taken off by oom_score_adj</span></p>"
    );
    for (at, decision) in report.newest().enumerate() {
        if let Some(event) = decision.main() {
            one(decision, event, at < OPEN, page);
        }
    }
    page.push_str("</section>\n");
}

fn one(decision: &Decision, event: &OomKill, open: bool, page: &mut String) {
    let OomKill {
        head,
        oom,
        trigger,
        victim,
        candidates,
        verdict,
        ..
    } = event;
    let when = head
        .unix_ns()
        .map_or_else(|| pretty::clock(head), words::second);
    let code = verdict.as_ref().and_then(|verdict| verdict.code);
    let chip = code
        .and_then(|code| name(&code))
        .or_else(|| name(&oom.scope?));
    let chip = chip.map(|chip| {
        let class = Class::of(oom.scope) as usize;
        format!(
            "<span class=\"chip k{class}\">{}</span>",
            chip.replace('_', " ")
        )
    });
    let died = match decision.kills.len() {
        0 => "<span class=\"chip\">not a kill</span>".to_owned(),
        1 => String::new(),
        several => format!("<span class=\"chip\">{several} died</span>"),
    };
    let _ = write!(
        page,
        "<details class=\"decision\"{}><summary><time>{}</time> <b>{}</b> {}{died}</summary>",
        if open { " open" } else { "" },
        Escaped(&when),
        Escaped(victim.comm.as_deref().unwrap_or("(name unknown)")),
        chip.unwrap_or_default(),
    );
    if let Some(summary) = verdict.as_ref().and_then(|it| it.summary.as_ref()) {
        let _ = write!(page, "<p class=\"lead\">{}</p>", Escaped(summary));
    }
    let node = super::node_name(&head.node);
    let node = [
        node,
        head.node.kernel.as_ref().map(|it| format!("Linux {it}")),
    ];
    let outcome = decision
        .outcomes
        .iter()
        .rfind(|outcome| outcome.victim_event_id == head.event_id);
    let cgroup = victim.cgroup.as_ref().and_then(|it| it.path.as_ref());
    let others = others(decision, event);
    page.push_str("<dl class=\"facts\">");
    for (label, value) in [
        (
            "pod",
            pretty::place(victim.pod.as_ref(), victim.container.as_ref()),
        ),
        (
            "cgroup",
            match (&victim.pod, cgroup) {
                (None, Some(_)) => pretty::path(cgroup),
                _ => String::new(),
            },
        ),
        ("limit hit", Paint { color: false }.limit(oom)),
        ("held", pretty::memory(victim.memory.as_ref())),
        ("trigger", pretty::who_asked(trigger, victim, oom)),
        ("died too", others),
        ("outcome", outcome.map(how_it_ended).unwrap_or_default()),
        (
            "node",
            node.into_iter().flatten().collect::<Vec<_>>().join(", "),
        ),
    ] {
        if !value.is_empty() {
            let _ = write!(page, "<dt>{label}</dt><dd>{}</dd>", Escaped(value));
        }
    }
    page.push_str("</dl>");
    if let Some(list) = candidates.as_ref().filter(|list| list.listed > 0) {
        ranking(event, list, page);
    }
    items("Why this one", &why(event), page);
    if !decision.kills.is_empty() {
        items(
            "What would have spared it",
            &what_would_have_spared(event),
            page,
        );
    }
    page.push_str("</details>\n");
}

/// Who died with it.
fn others(decision: &Decision, event: &OomKill) -> String {
    let mut names: Vec<_> = decision
        .kills
        .iter()
        .filter(|kill| kill.head.event_id != event.head.event_id)
        .map(|kill| {
            let victim = &kill.victim;
            format!(
                "{} {}",
                pretty::comm(victim.comm.as_deref()),
                pretty::pid(victim.pid, None)
            )
        })
        .collect();
    let more = names.len().saturating_sub(CANDIDATES);
    names.truncate(CANDIDATES);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

fn items(title: &str, lines: &[String], page: &mut String) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(page, "<h4>{title}</h4><ul>");
    for line in lines {
        let _ = write!(page, "<li>{}</li>", Escaped(line));
    }
    page.push_str("</ul>");
}

/// The candidates, with what their points are made of.
fn ranking(event: &OomKill, candidates: &Candidates, page: &mut String) {
    let Candidates {
        total,
        listed,
        items,
        ..
    } = candidates;
    let order = order(items);
    let rows: Vec<Row<'_>> = items
        .iter()
        .take(CANDIDATES)
        .map(|item| Row::of(item, &event.oom))
        .collect();
    let lengths = rows
        .iter()
        .filter_map(|row| row.parts.map(|it| it.length()));
    let longest = u64::try_from(lengths.max().unwrap_or(0)).unwrap_or(u64::MAX);
    let _ = write!(
        page,
        "<h4>Ranking: {}, {order}</h4><table class=\"ranking\"><thead><tr><th class=\"n\">#</th><th>process</th>\
         <th class=\"bars\"></th><th class=\"n\">points</th><th class=\"n\">adj</th><th class=\"n x\">rss</th><th class=\"n x\">swap</th>\
         <th class=\"n x\">tables</th><th class=\"n x\">adj share</th></tr></thead><tbody>",
        count((*total).into(), "candidate")
    );
    for row in &rows {
        candidate(event, row, longest, page);
    }
    page.push_str("</tbody></table>");
    let more = u64::from(*total).saturating_sub((rows.len() as u64).min((*listed).into()));
    if more > 0 {
        let _ = write!(page, "<p class=\"hint\">… and {} more</p>", grouped(more));
    }
}

fn candidate(event: &OomKill, row: &Row<'_>, longest: u64, page: &mut String) {
    let item = row.item;
    let mut badges = String::new();
    let is_victim = Some(item.pid) == event.victim.pid;
    if is_victim {
        badges.push_str(" <span class=\"badge\">victim</span>");
    }
    if Some(item.pid) == event.trigger.pid {
        badges.push_str(" <span class=\"badge trigger\">trigger</span>");
    }
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), amount);
    let points = item
        .badness_pages
        .map_or_else(|| "?".to_owned(), |points| points.to_string());
    let share = row.share.map_or_else(|| "?".to_owned(), signed);
    let chart = row.parts.map(|parts| {
        let bytes = |part: i128| u64::try_from(part.max(0)).unwrap_or(u64::MAX);
        let held = [
            ("rss", bytes(parts.rss)),
            ("swap", bytes(parts.swap)),
            ("tables", bytes(parts.tables)),
            ("adj", bytes(parts.share)),
        ];
        // What is taken off lies over the end of what is held.
        let all: u64 = held
            .iter()
            .map(|(_, part)| *part)
            .fold(0, u64::saturating_add);
        let off = bytes(-parts.share).min(all);
        let label = format!("{points} points");
        let bar_of = bar(&held, longest, &label);
        if off == 0 {
            return bar_of;
        }
        let over = bar(&[("kept", all - off), ("off", off)], longest, "taken off");
        format!("<span class=\"over\">{bar_of}{over}</span>")
    });
    let rank = if item.rank == 0 {
        "?".to_owned()
    } else {
        item.rank.to_string()
    };
    let _ = write!(
        page,
        "<tr{}><td class=\"n\">{rank}</td><td class=\"who\"><span class=\"name\">{}</span> <small>{}</small>{badges}</td>\
         <td class=\"bars\">{}</td><td class=\"n\" data-label=\"points\">{points}</td><td class=\"n\" data-label=\"adj\">{}</td><td class=\"n x\">{}</td>\
         <td class=\"n x\">{}</td><td class=\"n x\">{}</td><td class=\"n x\">{share}</td></tr>",
        if is_victim { " class=\"victim\"" } else { "" },
        Escaped(shown(&item.comm).to_string()),
        item.pid,
        chart.unwrap_or_default(),
        item.oom_score_adj,
        known(item.rss_bytes),
        known(item.swap_bytes),
        known(item.pgtables_bytes),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing of a name is markup, and nothing of it hides or turns the text.
    #[test]
    fn names_are_text() {
        let name = "</svg><script>alert('1')</script>&\"\u{202e}gpj\u{1b}[2J\u{200b}";
        let text = Escaped(name).to_string();
        assert!(
            !text.contains(['<', '>', '"', '\'', '\u{202e}', '\u{1b}', '\u{200b}']),
            "{text}"
        );
        assert!(text.starts_with("&lt;/svg&gt;&lt;script&gt;"), "{text}");
        assert!(text.ends_with("\\u{202e}gpj\\u{1b}[2J\\u{200b}"), "{text}");
    }
}
