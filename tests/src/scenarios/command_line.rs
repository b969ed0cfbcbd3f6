//! The other verbs, and wrong usage.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{LIMIT, Needs, Outcome, Scenario};
use crate::{
    Env,
    cgroup::Cgroup,
    schema::Schema,
    tracer::{Tracer, run},
    victim::{Look, Victim},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "wrong_usage",
        shows: "Wrong usage ends with exit status 2 and a word of help.",
        needs: Needs::Nothing,
        run: wrong_usage,
    },
    Scenario {
        name: "help_man_and_completions",
        shows: "Help, manual page and completion scripts are printed.",
        needs: Needs::Nothing,
        run: help_man_and_completions,
    },
    Scenario {
        name: "schema_holds",
        shows: "Every record conforms to the schema, every field in it is named there, and the \
                check would notice.",
        needs: Needs::Nothing,
        run: schema_holds,
    },
    Scenario {
        name: "doctor",
        shows: "The doctor says that it works here; its self-test sees a kill whole.",
        needs: Needs::Nothing,
        run: doctor,
    },
];

fn wrong_usage(env: &Env) -> Result<Outcome> {
    for args in [
        &["trace", "--no-such-flag"][..],
        &["trace", "--duration", "5 parsecs"],
        &["trace", "--max-events", "0"],
        &["trace", "--ring-buffer", "3"],
        &["trace", "--hooks", "nonsense"],
        &["trace", "--quiet", "--verbose"],
        &["no-such-verb"],
        &[],
    ] {
        let output = run(env, args)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2),
            "{args:?} ended with {}",
            output.status
        );
        ensure!(
            output.stdout.is_empty(),
            "{args:?} wrote to standard output"
        );
        ensure!(said.contains("--help"), "{args:?} does not help: {said}");
    }
    Ok(Outcome::Passed)
}

fn help_man_and_completions(env: &Env) -> Result<Outcome> {
    for (args, word) in [
        (&["--help"][..], "Usage: oomtrace"),
        (&["trace", "--help"], "--max-events"),
        (
            &["explain", "--help"],
            "oomtrace trace --format json | oomtrace explain",
        ),
        (&["doctor", "--help"], "--self-test"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
        (&["man"], ".TH oomtrace"),
        (&["completions", "bash"], "complete -F _oomtrace"),
        (&["completions", "zsh"], "#compdef oomtrace"),
        (&["completions", "fish"], "complete -c oomtrace"),
    ] {
        let output = run(env, args)?;
        let printed = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{args:?} ended with {}",
            output.status
        );
        ensure!(
            printed.contains(word),
            "{args:?} does not print {word:?}:\n{printed}"
        );
    }
    Ok(Outcome::Passed)
}

fn schema_holds(env: &Env) -> Result<Outcome> {
    let schema = Schema::of(env)?;
    let cgroup = Cgroup::new("schema")?;
    cgroup.limit(LIMIT)?;
    let mut tracer = Tracer::start(env, &["--heartbeat", "1s"])?;
    let mut victim = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
    victim.go()?;
    victim.dies()?;
    tracer.wait_for("a heartbeat", |record| record["phase"] == "heartbeat")?;
    let ended = tracer.stop()?;
    for record in &ended.records {
        schema.check(record)?;
        schema.names_every_field(record)?;
    }
    let event = ended.of_kind("oom_kill").next().context("no kill")?;
    let spoilt: [fn(&mut Value); 5] = [
        |event| event["kind"] = "oom_party".into(),
        |event| event["seq"] = "41".into(),
        |event| event["oom"]["constraint"] = "whim".into(),
        |event| event["victim"]["memory"]["anon_rss_bytes"] = (-1).into(),
        |event| {
            event["victim"]["cgroup"]
                .as_object_mut()
                .map(|cgroup| cgroup.remove("path_cut"));
        },
    ];
    for (number, spoil) in spoilt.iter().enumerate() {
        let mut event = event.clone();
        spoil(&mut event);
        ensure!(
            schema.check(&event).is_err(),
            "spoilt record {number} passes: {event}"
        );
    }
    let mut event = event.clone();
    event["victim"]["shoe_size"] = 43.into();
    ensure!(
        schema.names_every_field(&event).is_err(),
        "a field without a name passes"
    );
    Ok(Outcome::Passed)
}

fn doctor(env: &Env) -> Result<Outcome> {
    let output = run(env, &["doctor", "--self-test", "--json"])?;
    let printed: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
        .context("what doctor --json prints")?;
    ensure!(
        output.status.success(),
        "it ended with {}: {printed}",
        output.status
    );
    let readable = run(env, &["doctor"])?;
    let text = String::from_utf8_lossy(&readable.stdout).into_owned();
    ensure!(
        readable.status.success(),
        "it ended with {}: {text}",
        readable.status
    );
    for word in ["raw_tp:mark_victim", "BTF", "lockdown"] {
        ensure!(text.contains(word), "it does not tell of {word}:\n{text}");
    }
    Ok(Outcome::Passed)
}
