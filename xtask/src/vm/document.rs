//! `cargo xtask vm --document`: what the matrix saw, as tables in docs/kernels.md.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{kernels::KERNELS, variants::VARIANTS};
use crate::sh;

/// The rungs, with the names of the hooks that serve each: the first that is attached is shown.
const RUNGS: [(&str, &[&str]); 7] = [
    ("victim", &["raw_tp:mark_victim"]),
    (
        "decision",
        &["fentry:oom_kill_process", "kprobe:oom_kill_process"],
    ),
    (
        "its end",
        &["fexit:oom_kill_process", "kretprobe:oom_kill_process"],
    ),
    (
        "candidates",
        &["fexit:oom_badness", "kretprobe:oom_badness"],
    ),
    ("exit", &["raw_tp:sched_process_exit"]),
    ("kernel log", &["kmsg"]),
    ("counter", &["vmstat:oom_kill"]),
];

/// The results, by variant and kernel.
type Cells = BTreeMap<(String, String), Value>;

/// Writes the tables.
pub fn write(results: &Path) -> Result<()> {
    let cells = read(results)?;
    let mut notes = Notes::default();
    let mut text = hooks(&cells, &mut notes)?;
    for variant in VARIANTS {
        let kernels: Vec<_> = KERNELS
            .iter()
            .filter_map(|kernel| {
                let cell = cells.get(&(variant.name.to_owned(), kernel.name.to_owned()))?;
                Some((kernel.name, cell))
            })
            .collect();
        if !kernels.is_empty() {
            writeln!(text, "### `{}`: {}\n", variant.name, variant.shows)?;
            scenarios(&kernels, &mut text, &mut notes)?;
        }
    }
    text += &notes.text();
    sh::put_between_markers(&sh::root().join("docs/kernels.md"), "matrix", &text)
}

fn read(results: &Path) -> Result<Cells> {
    let mut cells = Cells::new();
    let entries = fs::read_dir(results)
        .with_context(|| format!("{}: no machine was booted yet", results.display()))?;
    for entry in entries {
        let file = entry?.path();
        let cell: Value = serde_json::from_slice(&fs::read(&file)?)
            .with_context(|| format!("reading {}", file.display()))?;
        let name = |field: &str| cell[field].as_str().unwrap_or_default().to_owned();
        cells.insert((name("variant"), name("kernel")), cell);
    }
    ensure!(!cells.is_empty(), "{} is empty", results.display());
    Ok(cells)
}

/// One row a kernel: which hook serves each rung.
fn hooks(cells: &Cells, notes: &mut Notes) -> Result<String> {
    let mut text = "### The hooks that each kernel takes\n\n| kernel | release |".to_owned();
    for (rung, _) in RUNGS {
        write!(text, " {rung} |")?;
    }
    writeln!(text, "\n|{}", " --- |".repeat(RUNGS.len() + 2))?;
    for kernel in KERNELS {
        let Some(cell) = cells.get(&(VARIANTS[0].name.to_owned(), kernel.name.to_owned())) else {
            continue;
        };
        let machine = &cell["machine"];
        let release = machine["release"].as_str().unwrap_or("?");
        write!(text, "| {} | {release} |", kernel.name)?;
        for (_, names) in RUNGS {
            write!(text, " {} |", rung(&machine["hooks"], names, notes))?;
        }
        text.push('\n');
    }
    text.push('\n');
    Ok(text)
}

fn rung(hooks: &Value, names: &[&str], notes: &mut Notes) -> String {
    let known = hooks.as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |name: &&str| known.iter().find(|hook| hook["name"] == **name);
    if let Some(hook) = names
        .iter()
        .filter_map(of)
        .find(|hook| hook["attached"] == true)
    {
        let name = hook["name"].as_str().unwrap_or_default();
        return format!("`{}`", name.split(':').next().unwrap_or_default());
    }
    let reason = names
        .iter()
        .find_map(of)
        .and_then(|hook| hook["reason"].as_str());
    format!("no{}", notes.mark(reason.unwrap_or("unknown")))
}

/// One row a scenario, one column a kernel.
fn scenarios(kernels: &[(&str, &Value)], text: &mut String, notes: &mut Notes) -> Result<()> {
    let played = |cell: &Value, name: &str| {
        let all = cell["scenarios"].as_array()?;
        all.iter().find(|played| played["name"] == name).cloned()
    };
    let mut names: Vec<&str> = Vec::new();
    for (_, cell) in kernels {
        for played in cell["scenarios"].as_array().into_iter().flatten() {
            let name = played["name"].as_str().unwrap_or_default();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    write!(text, "| scenario |")?;
    for (kernel, _) in kernels {
        write!(text, " {kernel} |")?;
    }
    writeln!(text, "\n|{}", " --- |".repeat(kernels.len() + 1))?;
    for name in names {
        write!(text, "| {name} |")?;
        for (_, cell) in kernels {
            let shown = played(cell, name).map_or_else(String::new, |played| {
                let reason = played["reason"].as_str().unwrap_or_default();
                match played["outcome"].as_str() {
                    Some("ok") => "ok".to_owned(),
                    Some("skip") => format!("–{}", notes.mark(reason)),
                    _ => format!("**failed**{}", notes.mark(reason)),
                }
            });
            write!(text, " {shown} |")?;
        }
        text.push('\n');
    }
    write!(text, "| *seconds* |")?;
    for (_, cell) in kernels {
        let dead = cell["error"].as_str().map(|error| notes.mark(error));
        let all = cell["scenarios"].as_array().into_iter().flatten();
        // The sum of nothing is -0.
        let seconds = all
            .filter_map(|played| played["seconds"].as_f64())
            .fold(0.0, |sum, seconds| sum + seconds);
        write!(text, " {seconds:.0}{} |", dead.unwrap_or_default())?;
    }
    text.push_str("\n\n");
    Ok(())
}

/// Reasons, each told once.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    /// The mark of a reason.
    fn mark(&mut self, reason: &str) -> String {
        let reason = reason.replace('|', "\\|");
        let at = self.0.iter().position(|known| *known == reason);
        let at = at.unwrap_or_else(|| {
            self.0.push(reason);
            self.0.len() - 1
        });
        format!(" [{}]", at + 1)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (index, reason) in self.0.iter().enumerate() {
            let _ = writeln!(text, "- [{}] {reason}", index + 1);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A kernel's hooks, a scenario that went well, one that did not and one that was not played.
    #[test]
    #[expect(clippy::unwrap_used, reason = "a test")]
    fn tables() {
        let cell = json!({
            "scenarios": [
                {"name": "single", "outcome": "ok", "reason": null, "seconds": 2.3},
                {"name": "group", "outcome": "skip", "reason": "no v2", "seconds": 0.1},
                {"name": "storm", "outcome": "FAIL", "reason": "one | two", "seconds": 10.0},
            ],
        });
        let mut notes = Notes::default();
        let mut text = String::new();
        scenarios(
            &[("6.12", &cell), ("7.3", &json!({}))],
            &mut text,
            &mut notes,
        )
        .unwrap();
        assert!(text.contains("| single | ok |  |"), "{text}");
        assert!(text.contains("| group | – [1] |  |"), "{text}");
        assert!(text.contains("| storm | **failed** [2] |  |"), "{text}");
        assert!(text.contains("| *seconds* | 12 | 0 |"), "{text}");
        assert_eq!(notes.text(), "- [1] no v2\n- [2] one \\| two\n");
        let hooks = json!([
            {"name": "fentry:oom_kill_process", "attached": false, "reason": "EPERM"},
            {"name": "kprobe:oom_kill_process", "attached": true, "reason": null},
            {"name": "fexit:oom_badness", "attached": false, "reason": "inlined"},
        ]);
        assert_eq!(rung(&hooks, RUNGS[1].1, &mut notes), "`kprobe`");
        assert_eq!(rung(&hooks, RUNGS[3].1, &mut notes), "no [3]");
    }
}
