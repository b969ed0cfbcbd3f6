//! The results, as a table for people and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::{
    measure::{Measure, Target},
    stats::Summary,
    tool::Tool,
};

/// All there is to say.
pub struct Report {
    /// What the results depend on.
    pub facts: String,
    /// The tools that were measured; oomtrace is the first, its peer the second.
    pub tools: Vec<Tool>,
    /// The tools that were not, and why.
    pub absent: Vec<String>,
    /// The results.
    pub measures: Vec<Measure>,
}

impl Report {
    /// Every number.
    pub fn json(&self) -> Value {
        let measure = |measure: &Measure| {
            let Measure {
                what,
                unit,
                of,
                targets,
            } = measure;
            let tools: serde_json::Map<_, _> = self
                .tools
                .iter()
                .zip(of)
                .filter_map(|(tool, summary)| Some((tool.to_string(), summary.as_ref()?.json())))
                .collect();
            let targets: Vec<_> = targets
                .iter()
                .map(|target| json!({ "target": target.to_string(), "met": target.met(of) }))
                .collect();
            json!({ "what": what, "unit": unit, "tools": tools, "targets": targets })
        };
        json!({
            "machine": self.facts,
            "absent": self.absent,
            "measures": self.measures.iter().map(measure).collect::<Vec<_>>(),
        })
    }
}

/// A table that is Markdown, too.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}.\n", self.facts)?;
        let mut rows = vec![vec!["median (99th percentile, greatest; runs)".to_owned()]];
        rows[0].extend(self.tools.iter().map(Tool::to_string));
        rows[0].extend(["ratio", "target"].map(str::to_owned));
        for Measure {
            what,
            unit,
            of,
            targets,
        } in &self.measures
        {
            let mut row = vec![if unit.is_empty() {
                (*what).to_owned()
            } else {
                format!("{what}, {unit}")
            }];
            row.extend(
                of.iter()
                    .map(|summary| summary.as_ref().map(Summary::to_string).unwrap_or_default()),
            );
            row.push(
                ratio(of)
                    .map(|ratio| format!("{ratio:.2}"))
                    .unwrap_or_default(),
            );
            let judged = targets.iter().map(|target| {
                let met = match target.met(of) {
                    Some(true) => "met",
                    Some(false) => "**not met**",
                    None => "unknown",
                };
                format!("{target}: {met}")
            });
            row.push(judged.collect::<Vec<_>>().join("; "));
            rows.push(row);
        }
        write_table(f, &rows)?;
        for reason in &self.absent {
            writeln!(f, "\nNot measured: {reason}")?;
        }
        Ok(())
    }
}

/// Writes a table whose first row is its head.
pub fn write_table(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..rows[0].len())
        .map(|column| width(column).unwrap_or(0))
        .collect();
    for (index, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            write!(f, "| {cell:width$} ")?;
        }
        writeln!(f, "|")?;
        if index == 0 {
            for width in &widths {
                write!(f, "| {} ", "-".repeat(*width))?;
            }
            writeln!(f, "|")?;
        }
    }
    Ok(())
}

impl Target {
    fn met(self, of: &[Option<Summary>]) -> Option<bool> {
        let ours = (*of.first()?)?;
        Some(match self {
            Self::Ratio(most) => ratio(of)? <= most,
            Self::Median(most) => ours.median <= most,
            Self::P99(most) => ours.p99 <= most,
            Self::Max(most) => ours.max <= most,
            Self::Zero => ours.min == 0.0 && ours.max == 0.0,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ratio(most) => write!(f, "ratio ≤ {most:.2}"),
            Self::Median(most) => write!(f, "≤ {most}"),
            Self::P99(most) => write!(f, "99th ≤ {most}"),
            Self::Max(most) => write!(f, "all ≤ {most}"),
            Self::Zero => f.write_str("0"),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            n,
            min: _,
            median,
            p99,
            max,
        } = self;
        if *n == 1 {
            return f.write_str(&number(*median));
        }
        write!(
            f,
            "{} ({}, {}; {n})",
            number(*median),
            number(*p99),
            number(*max)
        )
    }
}

/// oomtrace's median over its peer's.
fn ratio(of: &[Option<Summary>]) -> Option<f64> {
    let [ours, peer, ..] = of else { return None };
    let ratio = (*ours)?.median / (*peer)?.median;
    ratio.is_finite().then_some(ratio)
}

/// Three significant digits, and no fraction that is none.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        whole if whole.fract() == 0.0 || whole >= 100.0 => 0,
        tens if tens >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}
