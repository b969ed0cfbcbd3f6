//! What the guest measured, as a table for people and as JSON.

use std::fmt;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{CANDIDATES, Turn, guest};
use crate::bench::{report::write_table, stats::Summary};

/// The page fault with 1,000 candidates shall take at most so many times as long as untraced.
const TARGET: f64 = 1.05;
/// Whom [`TARGET`] is for.
const OURS: &str = "oomtrace";
/// Who measures nothing but the kernel.
const UNTRACED: &str = "untraced";

/// All there is to say.
pub struct Report {
    /// What the results depend on.
    pub facts: String,
    /// What was measured.
    pub(super) turns: Vec<Turn>,
    /// The tools that do not run there, and why.
    pub absent: Vec<String>,
}

impl Report {
    /// Takes the results out of what the guest said.
    pub(super) fn read(&mut self, log: &str) -> Result<()> {
        for line in log.lines() {
            let Some((_, json)) = line.split_once("RESULT ") else {
                continue;
            };
            let value: Value = serde_json::from_str(json).context("a result of the guest")?;
            if let Some(reason) = value["absent"].as_str() {
                let tool = value["tool"].as_str().unwrap_or_default();
                self.absent.push(format!("{tool}: {reason}"));
            } else {
                let turn = Turn::parse(&value).with_context(|| format!("a result: {json}"))?;
                self.turns.push(turn);
            }
        }
        Ok(())
    }

    /// Every number.
    pub fn json(&self) -> Value {
        json!({
            "machine": self.facts,
            "absent": self.absent,
            "turns": self.turns.iter().map(Turn::json).collect::<Vec<_>>(),
        })
    }

    /// The tools, in the order in which they took turns.
    fn tools(&self) -> Vec<&str> {
        let mut tools = Vec::new();
        for turn in &self.turns {
            if !tools.contains(&turn.tool.as_str()) {
                tools.push(turn.tool.as_str());
            }
        }
        tools
    }

    fn turns<'t>(&'t self, tool: &'t str, what: &'t str) -> impl Iterator<Item = &'t Turn> {
        self.turns
            .iter()
            .filter(move |turn| turn.tool == tool && turn.what == what)
    }

    /// All turns together.
    fn summary(&self, tool: &str, what: &str) -> Option<Summary> {
        let values = self.turns(tool, what).flat_map(|turn| &turn.values);
        Summary::of(values.copied().collect())
    }

    /// Turn by turn, how many times the median is that of the untraced kernel.
    fn ratios(&self, tool: &str, what: &str) -> Option<Summary> {
        let median = |turn: &Turn| Some(Summary::of(turn.values.clone())?.median);
        let pairs = self.turns(tool, what).zip(self.turns(UNTRACED, what));
        let ratios = pairs.map(|(turn, untraced)| Some(median(turn)? / median(untraced)?));
        Summary::of(ratios.collect::<Option<_>>()?)
    }

    /// What one more candidate costs.
    fn slope(&self, tool: &str, reported: bool, fewer: usize, more: usize) -> Option<f64> {
        let median = |candidates| {
            let what = guest::fault(candidates, reported);
            Some(self.summary(tool, &what)?.median)
        };
        Some((median(more)? - median(fewer)?) / (more - fewer) as f64)
    }

    fn row(&self, name: String, cell: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let cells = self.tools().into_iter();
        let mut row = vec![name];
        row.extend(cells.map(|tool| cell(tool).unwrap_or_default()));
        row
    }
}

/// Tables that are Markdown, too.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}.\n", self.facts)?;
        let head = |name: &str| self.row(name.to_owned(), |tool| Some(tool.to_owned()));

        for reported in [true, false] {
            let with = if reported { "with" } else { "without" };
            let mut rows = vec![head(&format!("the page fault, {with} the kernel's report"))];
            for candidates in CANDIDATES {
                let what = guest::fault(candidates, reported);
                let name = format!("{} candidates", thousands(candidates as f64));
                rows.push(self.row(name, |tool| {
                    if tool == UNTRACED {
                        let Summary { n, median, .. } = self.summary(tool, &what)?;
                        return Some(format!("{} ({n})", thousands(median)));
                    }
                    let Summary {
                        min, median, max, ..
                    } = self.ratios(tool, &what)?;
                    Some(format!("× {median:.3} ({min:.3} to {max:.3})"))
                }));
            }
            for pair in CANDIDATES.windows(2) {
                let [fewer, more] = [pair[0], pair[1]];
                let slope = |tool: &str| self.slope(tool, reported, fewer, more);
                let name = format!(
                    "each of them, from {} to {}",
                    thousands(fewer as f64),
                    thousands(more as f64)
                );
                rows.push(self.row(name, |tool| {
                    Some(if tool == UNTRACED {
                        format!("{:.0}", slope(tool)?)
                    } else {
                        format!("{:+.0}", slope(tool)? - slope(UNTRACED)?)
                    })
                }));
            }
            // Not every number of candidates was measured with the report.
            rows.retain(|row| row.iter().skip(1).any(|cell| !cell.is_empty()));
            write_table(f, &rows)?;
            if let Some(ratio) = self.ratios(OURS, &guest::fault(CANDIDATES[1], reported)) {
                let met = if ratio.median <= TARGET {
                    "met"
                } else {
                    "**not met**"
                };
                let candidates = thousands(CANDIDATES[1] as f64);
                writeln!(
                    f,
                    "\nTarget of oomtrace: with {candidates} candidates at most × {TARGET}: {met}.\n"
                )?;
            }
        }

        let mut rows = vec![head("median (99th percentile, greatest; runs)")];
        for (what, name) in guest::LINE {
            let row = self.row(name.to_owned(), |tool| {
                Some(self.summary(tool, what)?.to_string())
            });
            rows.push(row);
        }
        // The kernel alone has nothing to tell.
        for row in &mut rows {
            row.remove(1);
        }
        write_table(f, &rows)?;
        for reason in &self.absent {
            writeln!(f, "\nNot measured: {reason}")?;
        }
        Ok(())
    }
}

/// A whole number that can be read.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the guest says becomes ratios and costs; what else is on the serial line does not.
    #[test]
    #[expect(clippy::unwrap_used, reason = "a test")]
    fn results() {
        let mut report = Report {
            facts: String::new(),
            turns: Vec::new(),
            absent: Vec::new(),
        };
        let mut log = "[ 1.0] a kernel message\n".to_owned();
        for (tool, turns) in [
            (UNTRACED, [[100, 1000], [200, 2000]]),
            (OURS, [[110, 2000], [220, 5000]]),
        ] {
            for [ten, thousand] in turns {
                for (candidates, value) in [(10, ten), (1_000, thousand)] {
                    let what = guest::fault(candidates, false);
                    let turn = json!({ "tool": tool, "what": what, "values": [value] });
                    log += &format!("\u{1b}[0mRESULT {turn}\n");
                }
            }
        }
        log += "RESULT {\"tool\":\"x\",\"absent\":\"no shell\"}\n";
        report.read(&log).unwrap();
        assert_eq!(report.absent, ["x: no shell"]);
        assert_eq!(report.tools(), [UNTRACED, OURS]);
        let ratios = report.ratios(OURS, &guest::fault(1_000, false)).unwrap();
        assert_eq!((ratios.min, ratios.max), (2.0, 2.5));
        assert_eq!(
            report.slope(UNTRACED, false, 10, 1_000),
            Some(900.0 / 990.0)
        );
        assert!(report.to_string().contains("at most × 1.05: **not met**"));
        assert!(report.read("RESULT {\"tool\":\"x\"}").is_err());
    }

    /// Digits are grouped by three.
    #[test]
    fn grouped() {
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(10_000.4), "10,000");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
    }
}
