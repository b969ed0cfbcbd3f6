//! The report for tickets (Markdown) and mails (text).

use std::fmt::Write;

use super::{
    OTHERS, Offender, Other, Report, Table, Tally,
    chart::Timeline,
    html::plain_notes,
    ranked,
    words::{self, count, grouped},
};
use crate::{
    explain::amount,
    format::{WIDTH, page, pretty::shown},
};

/// Rows of a table; the rest is summed up.
const ROWS: usize = 10;
/// How wide a bar is.
const BAR: u64 = 40;

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Markup {
    /// For a ticket.
    Markdown,
    /// For a mail or a terminal.
    Text,
}

/// The report.
pub fn plain(report: &Report, markup: Markup, made: &str) -> String {
    let mut out = Writer {
        markup,
        text: String::new(),
    };
    out.title(1, "Out-of-memory report");
    out.prose(&words::period(report));
    out.prose(&words::headline(report).join(" "));
    let gaps = report.coverage.gaps();
    out.title(
        2,
        if gaps.is_empty() {
            "Is anything missing?"
        } else {
            "Something is missing"
        },
    );
    let notes = gaps.iter().cloned().chain(plain_notes(report));
    out.list(notes.chain(report.coverage.losses().into_iter().take(ROWS)));
    if let Some(line) = Timeline::new(&report.times) {
        out.timeline(&line);
    }
    out.offenders(&report.offenders());
    out.others(&report.others());
    for (title, table) in [
        ("verdict", &report.verdicts),
        ("scope", &report.scopes),
        ("QoS class", &report.classes),
        ("namespace", &report.namespaces),
        ("node", &report.nodes),
    ] {
        out.group(title, table);
    }
    if report.newest().next().is_some() {
        out.title(2, "Decisions, the newest first");
    }
    for decision in report.newest() {
        out.verbatim(&page(decision, *WIDTH.end(), false));
    }
    let all = report.decisions.len();
    if all > report.newest.len() {
        let rest = (all - report.newest.len()) as u64;
        out.prose(&format!("And {} before.", count(rest, "decision")));
    }
    out.prose(&format!("{made}. Times are UTC."));
    out.text
}

struct Writer {
    markup: Markup,
    text: String,
}

impl Writer {
    fn title(&mut self, level: usize, title: &str) {
        let _ = match self.markup {
            Markup::Markdown => write!(self.text, "{} {title}\n\n", "#".repeat(level)),
            Markup::Text => {
                let line = if level == 1 { "=" } else { "-" };
                write!(self.text, "{title}\n{}\n\n", line.repeat(title.len()))
            }
        };
    }

    /// Text in which nothing is markup.
    fn escaped(&self, text: &str) -> String {
        let text = shown(text).to_string();
        match self.markup {
            Markup::Text => text,
            Markup::Markdown => text
                .chars()
                .flat_map(|character| {
                    let special = "\\`*_{}[]<>#|~&!@$".contains(character);
                    special.then_some('\\').into_iter().chain([character])
                })
                .collect(),
        }
    }

    fn prose(&mut self, text: &str) {
        let text = self.escaped(text);
        let _ = write!(self.text, "{text}\n\n");
    }

    fn list(&mut self, lines: impl Iterator<Item = String>) {
        for line in lines {
            let line = self.escaped(&line);
            let _ = writeln!(self.text, "- {line}");
        }
        self.text.push('\n');
    }

    /// A name, which is any text.
    fn name(&self, name: &str) -> String {
        let name = shown(name).to_string();
        match self.markup {
            Markup::Text => name,
            Markup::Markdown => {
                let fence = "`".repeat(ticks(&name) + 1);
                let pad = if name.contains('`') { " " } else { "" };
                format!("{fence}{pad}{}{pad}{fence}", name.replace('|', "\\|"))
            }
        }
    }

    /// Text as it is.
    fn verbatim(&mut self, text: &str) {
        let _ = match self.markup {
            Markup::Text => write!(self.text, "{text}"),
            Markup::Markdown => {
                let fence = "`".repeat(ticks(text).max(2) + 1);
                write!(self.text, "{fence}text\n{}\n{fence}\n\n", text.trim_end())
            }
        };
    }

    /// A table; its first column is names.
    fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
        match self.markup {
            Markup::Markdown => {
                let _ = writeln!(self.text, "| {} |", header.join(" | "));
                let _ = writeln!(self.text, "|{}", " --- |".repeat(header.len()));
                for row in rows {
                    let _ = writeln!(self.text, "| {} |", row.join(" | "));
                }
            }
            Markup::Text => {
                let lengths: Vec<usize> = (0..header.len())
                    .map(|at| {
                        let cells = rows.iter().filter_map(|row| row.get(at));
                        let longest = cells.map(|cell| cell.chars().count()).max();
                        longest.unwrap_or(0).max(header[at].len())
                    })
                    .collect();
                let mut line = |cells: &mut dyn Iterator<Item = &str>| {
                    let mut text = String::new();
                    for (cell, length) in cells.zip(&lengths) {
                        let _ = write!(text, "{cell:<length$}  ");
                    }
                    let _ = writeln!(self.text, "  {}", text.trim_end());
                };
                line(&mut header.iter().copied());
                for row in rows {
                    line(&mut row.iter().map(String::as_str));
                }
            }
        }
        self.text.push('\n');
    }

    fn timeline(&mut self, line: &Timeline) {
        self.title(2, "When");
        let most = line.most().max(1);
        let mut text = String::new();
        for (at, kills) in line.kills().enumerate().filter(|(_, kills)| *kills > 0) {
            let cells = usize::try_from((kills * BAR / most).max(1)).unwrap_or(1);
            let when = words::second(line.begin_ns(at));
            let _ = writeln!(
                text,
                "  {when}  {:<40}  {}",
                "#".repeat(cells),
                grouped(kills)
            );
        }
        let step = i64::try_from(line.step_s()).unwrap_or(i64::MAX);
        let what = if line.what() == "kill" {
            "Kills"
        } else {
            "Kills and evictions"
        };
        self.prose(&format!("{what} in {} from", words::duration(step)));
        self.verbatim(&text);
        if self.markup == Markup::Text {
            self.text.push('\n');
        }
    }

    fn offenders(&mut self, list: &[&Offender]) {
        if list.is_empty() {
            return;
        }
        self.title(2, "Who, and what to change");
        let known = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), amount);
        let rows: Vec<Vec<String>> = list
            .iter()
            .take(ROWS)
            .map(|it| {
                vec![
                    self.name(&it.name),
                    grouped(it.tally.decisions),
                    grouped(it.tally.kills),
                    known(it.peak_usage_bytes.or(it.peak_held_bytes)),
                    known(it.limit_bytes),
                    known(it.request_bytes),
                ]
            })
            .collect();
        let header = [
            "workload",
            "decisions",
            "killed",
            "peak use",
            "limit",
            "request",
        ];
        self.table(&header, &rows);
        let advice: Vec<String> = list
            .iter()
            .take(ROWS)
            .map(|it| {
                let advice = it.advice();
                let change = advice.change.map(|change| format!("{change}: "));
                let change = change.unwrap_or_default();
                format!("{}: {change}{}.", it.name, advice.reasons.join("; "))
            })
            .collect();
        self.list(advice.into_iter());
        if list.len() > ROWS {
            let rest = (list.len() - ROWS) as u64;
            self.prose(&format!("And {}.", count(rest, "more workload")));
        }
    }

    /// What the kernel had no part in.
    fn others(&mut self, list: &[&Other]) {
        if list.is_empty() {
            return;
        }
        self.title(2, OTHERS);
        let rows: Vec<Vec<String>> = list
            .iter()
            .take(ROWS)
            .map(|it| {
                vec![
                    self.name(&it.name),
                    self.escaped(&it.how),
                    grouped(it.times),
                    it.last_ns.map_or_else(|| "?".to_owned(), words::second),
                    self.escaped(&it.over().unwrap_or_else(|| "-".to_owned())),
                ]
            })
            .collect();
        self.table(
            &["workload", "how", "times", "last", "most above its request"],
            &rows,
        );
        if list.len() > ROWS {
            let rest = (list.len() - ROWS) as u64;
            self.prose(&format!("And {}.", count(rest, "more workload")));
        }
    }

    fn group(&mut self, title: &str, table: &Table) {
        let all = ranked(table);
        // Only where there are any.
        let others = all.iter().any(|(_, tally)| tally.others > 0);
        let numbers = |tally: &Tally| {
            let others = others.then(|| grouped(tally.others));
            let numbers = [grouped(tally.decisions), grouped(tally.kills)];
            numbers.into_iter().chain(others).collect::<Vec<_>>()
        };
        let mut rows: Vec<Vec<String>> = all
            .iter()
            .take(ROWS)
            .map(|(name, tally)| [vec![self.name(name)], numbers(tally)].concat())
            .collect();
        if rows.is_empty() {
            return;
        }
        if let Some(rest) = all.get(ROWS..).filter(|rest| !rest.is_empty()) {
            let mut sum = Tally::default();
            rest.iter().for_each(|(_, tally)| sum.add(*tally));
            rows.push([vec![format!("{} more", rest.len())], numbers(&sum)].concat());
        }
        self.title(2, &format!("By {title}"));
        let header = [title, "decisions", "killed", "by others"];
        self.table(&header[..if others { 4 } else { 3 }], &rows);
    }
}

/// The longest run of backticks.
fn ticks(text: &str) -> usize {
    let runs = text.split(|character| character != '`').map(str::len);
    runs.max().unwrap_or(0)
}
