//! The manual and the program say the same.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;

fn doc(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn oomtrace(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_oomtrace"))
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The names of all properties in a JSON Schema.
fn properties(schema: &Value, into: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members {
                if name == "properties" {
                    into.extend(value.as_object().unwrap().keys().cloned());
                }
                properties(value, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| properties(item, into)),
        _ => {}
    }
}

/// Every field of the schema is explained in docs/fields.md, and every name explained there is a
/// field.
#[test]
fn every_field_is_explained() {
    let mut names = BTreeSet::new();
    for of in ["events", "rank", "audit"] {
        let schema = oomtrace(&["schema", "--of", of]);
        properties(&serde_json::from_str(&schema).unwrap(), &mut names);
    }
    assert!(
        names.len() > 80,
        "the schema has only {} names",
        names.len()
    );
    let text = doc("fields.md");
    // Names in the first column of the tables: `a.b`, `.c`, `d[].e`.
    let explained: BTreeSet<String> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| {
            let first = line.split(" | ").next().expect("a column").to_owned();
            first
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .flat_map(|name| {
            name.split('.')
                .map(|part| part.trim_end_matches("[]").to_owned())
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
        })
        .chain(
            text.lines()
                .filter_map(|line| Some(line.strip_prefix("### `")?.split('`').next()?.to_owned())),
        )
        .collect();
    let missing: Vec<_> = names.difference(&explained).collect();
    assert!(
        missing.is_empty(),
        "not explained in docs/fields.md: {missing:?}"
    );
    let unknown: Vec<_> = explained.difference(&names).collect();
    assert!(
        unknown.is_empty(),
        "docs/fields.md explains what is no field: {unknown:?}"
    );
}

/// Every option of `import` is in docs/postmortem.md.
#[test]
fn every_option_of_import_is_explained() {
    let text = doc("postmortem.md");
    let help = oomtrace(&["import", "--help"]);
    let options = help
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .filter(|word| !["--help", "--version"].contains(word));
    let options: BTreeSet<_> = options.collect();
    assert!(options.len() > 8, "{options:?}");
    for option in options {
        assert!(
            text.contains(option),
            "docs/postmortem.md does not explain {option}"
        );
    }
}

/// Every code of a finding is explained in docs/fields.md, and in the help of `audit`.
#[test]
fn every_finding_is_explained() {
    let schema: Value = serde_json::from_str(&oomtrace(&["schema", "--of", "audit"])).unwrap();
    let codes = schema["$defs"]["Code"]["oneOf"].as_array().unwrap();
    assert_eq!(codes.len(), 14);
    let (text, help) = (doc("fields.md"), oomtrace(&["audit", "--help"]));
    for code in codes {
        let code = code["const"].as_str().unwrap();
        assert!(text.contains(&format!("`{code}`")), "{code}");
        assert!(help.contains(&format!("  {code} ")), "{code}");
    }
}

/// Every option of `trace`, `rank` and `audit` is in docs/usage.md, and every verb in the README or the manual works.
#[test]
fn every_option_is_explained() {
    let usage = doc("usage.md");
    let help: String = ["trace", "rank", "audit"]
        .map(|verb| oomtrace(&[verb, "--help"]))
        .concat();
    let options: BTreeSet<_> = help
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-'))
        .filter(|word| word.starts_with("--") && word.len() > 2 && *word != "--help")
        .filter(|word| *word != "--version")
        .collect();
    assert!(options.len() > 10, "{options:?}");
    for option in options {
        // -v is short enough to stand alone.
        let shown = if option == "--verbose" { "-v" } else { option };
        assert!(
            usage.contains(shown),
            "docs/usage.md does not explain {option}"
        );
    }
    for verb in [
        "trace",
        "explain",
        "import",
        "rank",
        "audit",
        "doctor",
        "schema",
        "completions",
        "man",
    ] {
        assert!(usage.contains(&format!("`oomtrace {verb}")), "{verb}");
        oomtrace(&[verb, "--help"]);
    }
}
