//! What came of a boot, for people who read it later and for `--document`.

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use super::machine::Tally;
use crate::sh;

/// How a scenario went.
#[derive(Debug)]
pub struct Played {
    /// Its name.
    pub name: String,
    /// `ok`, `skip` or `FAIL`.
    pub outcome: String,
    /// Why, if it is not ok.
    pub reason: Option<String>,
    /// How long it took.
    pub seconds: f32,
}

/// One boot: a cell of the matrix.
#[derive(Debug, Default)]
pub struct Cell {
    /// What the guest tells of the machine: the kernel's release, and the hooks.
    pub machine: Option<Value>,
    /// The scenarios, in order.
    pub scenarios: Vec<Played>,
    /// Why it did not come to its end, if it did not.
    pub error: Option<String>,
    /// What the guest printed to be kept, by file.
    recorded: BTreeMap<String, String>,
}

impl Cell {
    /// Takes a line of a file to keep.
    pub fn record(&mut self, file: &str, line: &str) {
        let text = self.recorded.entry(file.to_owned()).or_default();
        *text += line;
        text.push('\n');
    }

    /// Takes in how the boot ended, tells what came of it, and returns the counts; what was to be
    /// kept is written below tests/recorded/, under `name`.
    pub fn conclude(
        &mut self,
        name: &str,
        end: Result<Tally>,
        seconds: f32,
        log: &Path,
        record: bool,
    ) -> Result<Tally> {
        let told = self.tally();
        self.error = match end {
            Ok(counted) if counted == told => None,
            Ok(counted) => Some(format!(
                "the guest counted {counted:?}, and told of {told:?}"
            )),
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(error) = &self.error {
            println!("  FAIL: {error}");
        }
        let tally = self.tally();
        println!(
            "{name}: {} passed, {} failed, {} skipped in {seconds:.0} s; serial log: {}",
            tally.passed,
            tally.failed,
            tally.skipped,
            log.display()
        );
        if record {
            self.write_recorded(&sh::root().join("tests/recorded").join(name))?;
        }
        Ok(tally)
    }

    /// Whether the kernel printed between the bytes of the guest.
    fn is_spoiled(&self, scenario: &str) -> bool {
        let events = self.recorded.get(&format!("{scenario}.jsonl"));
        let mut lines = events.iter().flat_map(|text| text.lines());
        lines.any(|line| serde_json::from_str::<Value>(line).is_err())
    }

    /// Writes the files to keep.
    fn write_recorded(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        for (name, text) in &self.recorded {
            let scenario = name.split('.').next().unwrap_or(name);
            if self.is_spoiled(scenario) {
                println!("  {name} is not kept: the kernel printed in between");
                continue;
            }
            let file = folder.join(format!("{name}.gz"));
            // Without a time of its own, so that the same bytes make the same file.
            let mut packed = GzEncoder::new(Vec::new(), Compression::best());
            packed.write_all(text.as_bytes())?;
            fs::write(&file, packed.finish()?)
                .with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(())
    }

    /// The counts; a machine that died counts as a scenario that failed.
    pub fn tally(&self) -> Tally {
        let count = |outcome: &str| {
            let played = self.scenarios.iter();
            played.filter(|played| played.outcome == outcome).count()
        };
        Tally {
            passed: count("ok"),
            failed: count("FAIL") + usize::from(self.error.is_some()),
            skipped: count("skip"),
        }
    }

    /// Notes a line of the guest about a scenario: `ok`, `skip: why`, `FAIL: why`.
    pub fn note(&mut self, name: &str, how: &str, seconds: f32) {
        let (outcome, reason) = how
            .split_once(": ")
            .map_or((how, None), |(outcome, reason)| (outcome, Some(reason)));
        self.scenarios.push(Played {
            name: name.to_owned(),
            outcome: outcome.to_owned(),
            reason: reason.map(str::to_owned),
            seconds,
        });
    }

    /// Writes the cell to a file of its own. Where it was a boot for some scenarios, these are put
    /// in the place of what an earlier boot of the same kernel saw of them.
    pub fn write(
        &self,
        folder: &Path,
        kernel: &str,
        package: &str,
        variant: &str,
        is_whole: bool,
    ) -> Result<()> {
        let scenarios: Vec<_> = self
            .scenarios
            .iter()
            .map(|played| {
                json!({
                    "name": played.name,
                    "outcome": played.outcome,
                    "reason": played.reason,
                    "seconds": tenths(played.seconds),
                })
            })
            .collect();
        let mut cell = json!({
            "kernel": kernel,
            "package": package,
            "variant": variant,
            "machine": self.machine,
            "error": self.error,
            "scenarios": scenarios,
        });
        fs::create_dir_all(folder)?;
        let file = folder.join(format!("{kernel}.{variant}.json"));
        if !is_whole && let Ok(bytes) = fs::read(&file) {
            let before: Value = serde_json::from_slice(&bytes)
                .with_context(|| format!("reading {}", file.display()))?;
            if before["package"] == package {
                cell = merged(before, cell);
            }
        }
        fs::write(&file, serde_json::to_string_pretty(&cell)? + "\n")
            .with_context(|| format!("writing {}", file.display()))
    }
}

/// An earlier boot's cell, with the scenarios of a later one.
fn merged(mut cell: Value, later: Value) -> Value {
    let played = |cell: &Value| cell["scenarios"].as_array().cloned().unwrap_or_default();
    let mut scenarios = played(&cell);
    for new in played(&later) {
        match scenarios.iter_mut().find(|old| old["name"] == new["name"]) {
            Some(old) => *old = new,
            None => scenarios.push(new),
        }
    }
    cell["scenarios"] = scenarios.into();
    // What the earlier boot did not come to is missing among its scenarios.
    cell["error"] = later["error"].clone();
    if !later["machine"].is_null() {
        cell["machine"] = later["machine"].clone();
    }
    cell
}

fn tenths(seconds: f32) -> f64 {
    (f64::from(seconds) * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was played again takes the place of what was seen before, and nothing else does.
    #[test]
    fn later_boots() {
        let played = |name: &str, outcome: &str| json!({ "name": name, "outcome": outcome });
        let before = json!({
            "machine": {"release": "1"},
            "error": "no end",
            "scenarios": [played("a", "ok"), played("b", "FAIL")],
        });
        let later = json!({
            "machine": null,
            "error": null,
            "scenarios": [played("b", "ok"), played("c", "skip")],
        });
        let expected = json!({
            "machine": {"release": "1"},
            "error": null,
            "scenarios": [played("a", "ok"), played("b", "ok"), played("c", "skip")],
        });
        assert_eq!(merged(before, later), expected);
    }
}
