//! The agent's configuration, through the program.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    process::{Command, Output},
};

use tempfile::TempDir;

fn config(args: &[&str], text: &str, variables: &[(&str, &str)]) -> Output {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("c.toml");
    fs::write(&path, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oomtrace"));
    command.arg("config").args(args);
    if args != ["example"] {
        command.arg("c.toml");
    }
    command.envs(variables.iter().copied());
    command.current_dir(folder.path()).output().unwrap()
}

fn out(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const FILE: &str = "[sinks.log]\ntype = \"file\"\npath = \"events.jsonl\"\n";

/// What is wrong is told with the line it stands in.
#[test]
fn errors_have_a_line() {
    let check = |text: &str, said: &str| {
        let output = config(&["check"], text, &[]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}: {told}");
        assert!(told.contains(said), "{text}: {told}");
    };
    check(
        "[tracer]\nheartbeat = \"soon\"\n",
        "c.toml:2: not a time such as",
    );
    check(
        "[tracer]\n\nheartbaet = \"1s\"\n",
        "c.toml:3: unknown field `heartbaet`, expected one of",
    );
    check(
        "[tracer]\nring_buffer = \"5KiB\"\n",
        "c.toml:2: not a power of two",
    );
    check(
        "[tracer]\noom_score_adj = 2000\n",
        "c.toml:2: not from -1000 to 1000",
    );
    check(
        "[tracer]\nhooks = \"x\"\n",
        "c.toml:2: no hook is called \"x\"",
    );
    check("x = = 1\n", "c.toml:1: ");
    check("", "c.toml: there is no sink");
    check(
        "[sinks.a]\n",
        "c.toml:1: sinks.a has no type; there are stdout, file",
    );
    check(
        "[sinks.a]\ntype = \"kafkaesque\"\n",
        "c.toml:2: kafkaesque is no type of a sink",
    );
    check(
        "[sinks.\"A b\"]\ntype = \"stdout\"\n",
        "c.toml:1: a sink's name",
    );
    check("[sinks.a]\ntype = \"file\"\n", "missing field `path`");
    check(
        "[sinks.a]\ntype = \"stdout\"\nformat = \"xml\"\n",
        "c.toml:3: unknown variant `xml`",
    );
    check(
        "[sinks.a]\ntype = \"stdout\"\npath = \"x\"\n",
        "c.toml:3: unknown field `path`",
    );
    check(
        "[sinks.a]\ntype = \"stdout\"\nfilter = { kind = [\"oom\"] }\n",
        "c.toml:3: unknown variant `oom`",
    );
    check(
        "[sinks.a]\ntype = \"http\"\nurl = \"http://h/\"\npreset = \"otlp\"\nformat = \"ecs\"\n",
        "sinks.a: such a sink does not take this format",
    );
    check(
        "[metrics]\nlisten = \"everywhere\"\n",
        "c.toml:2: invalid socket address",
    );
    check(
        "[sinks.a]\ntype = \"stdout\"\nmemory_max = \"1KiB\"\n",
        "c.toml:1: sinks.a: memory_max is less than 64KiB",
    );
    check(
        "[spool]\nmax = 0\n[sinks.a]\ntype = \"journald\"\n",
        "c.toml:3: sinks.a: spool_max is less than 64KiB",
    );
    check(
        "[sinks.a]\ntype = \"syslog\"\naddress = \"tcp:host\"\n",
        "c.toml:3: \"tcp:host\" is not an address such as",
    );
    check(
        "[sinks.a]\ntype = \"syslog\"\naddress = \"tcp://h\"\nformat = \"pretty\"\n",
        "sinks.a: such a sink does not take this format",
    );
    check(
        "[sinks.a]\ntype = \"journald\"\nformat = \"csv\"\n",
        "sinks.a: such a sink does not take this format",
    );
    check(
        "[sinks.a]\ntype = \"http\"\nurl = \"https://me:hunter2@h/\"\n",
        "c.toml:3: an address with a password in it",
    );
    check(
        "[sinks.a]\ntype = \"http\"\nurl = \"http://h/\"\ntoken_file = \"nowhere\"\n",
        "sink a: nowhere: No such file or directory",
    );
}

/// The same for sinks that not every program has.
#[test]
#[cfg(feature = "full")]
fn errors_of_kafka_and_nats() {
    let check = |text: &str, said: &str| {
        let output = config(&["check"], text, &[]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}: {told}");
        assert!(told.contains(said), "{text}: {told}");
        assert!(!told.contains("hunter2"), "{told}");
    };
    let kafka = "[sinks.a]\ntype = \"kafka\"\nbrokers = [\"k:9092\"]\ntopic = \"t\"\n";
    check(
        &kafka.replace("k:9092", "http://me:hunter2@k"),
        "c.toml:3: not an address such as HOST:9092",
    );
    check(
        &format!("{kafka}sasl = \"gssapi\"\n"),
        "c.toml:5: unknown variant `gssapi`, expected one of",
    );
    check(
        &format!("{kafka}sasl = \"plain\"\n"),
        "sink a: sasl, username and password_file belong together",
    );
    check(
        &format!("{kafka}sasl = \"plain\"\nusername = \"u\"\npassword_file = \"nowhere\"\n"),
        "sink a: nowhere: No such file or directory",
    );
    check(
        &format!("{kafka}ca_file = \"ca.pem\"\n"),
        "sink a: certificates without tls = true",
    );
    check(
        &format!("{kafka}format = \"csv\"\n"),
        "sinks.a: such a sink does not take this format",
    );
    check(&kafka.replace("topic = \"t\"", ""), "missing field `topic`");
    let nats = "[sinks.a]\ntype = \"nats\"\nurl = \"nats://h\"\nsubject = \"s\"\n";
    check(
        &nats.replace("nats://h", "nats://me:hunter2@h"),
        "c.toml:3: an address with a password in it",
    );
    check(
        &nats.replace("\"s\"", "\"s.>\""),
        "sink a: \"s.>\" is no subject to publish to",
    );
    check(
        &format!("{nats}creds_file = \"c.toml\"\n"),
        "sink a: c.toml holds no credentials of NATS",
    );
}

/// The environment stands over the file, and is named when it is wrong.
#[test]
fn environment() {
    let variables = [
        ("OOMTRACE__TRACER__HEARTBEAT", "5m"),
        ("OOMTRACE__SINKS__LOG__PATH", "/else/where.jsonl"),
        ("OOMTRACE__SINKS__LOG__KEEP", "3"),
        ("OOMTRACE__SINKS__LOG__FILTER", "{ kind = [\"loss\"] }"),
        ("OOMTRACE__SINKS__OUT__TYPE", "stdout"),
    ];
    let shown = out(config(&["show"], FILE, &variables));
    for line in [
        "heartbeat = \"5m\"",
        "path = \"/else/where.jsonl\"",
        "keep = 3",
        "kind = [\"loss\"]",
        "[sinks.out]",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let output = config(&["show"], FILE, &[("OOMTRACE__TRACER__HEARTBEAT", "soon")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("OOMTRACE__TRACER__HEARTBEAT: not a time"),
        "{said}"
    );
}

/// What is shown can be read again and shows the same; secrets are not in it.
#[test]
fn shown_is_complete() {
    let text = format!(
        "{FILE}[sinks.siem]\ntype = \"http\"\nurl = \"http://h:1/\"\ntoken_file = \"token\"\n\
         headers = {{ X-Key = \"hunter2\" }}\n[sinks.s]\ntype = \"syslog\"\naddress = \"udp://h\"\n"
    );
    let shown = out(config(&["show"], &text, &[]));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("token_file = \"token\""), "{shown}");
    assert!(shown.contains("address = \"udp://h:514\""), "{shown}");
    assert_eq!(out(config(&["show"], &shown, &[])), shown);
}

/// The example is right, and all that stands in comments is, too.
#[test]
fn example() {
    let example = out(config(&["example"], "", &[]));
    out(config(&["show"], &example, &[]));
    // `# name = value` and `# [table]` are settings, other comments are words.
    let mut there = true;
    let settings = example.lines().map(|line| {
        // Of sinks that this program was built without.
        if line.starts_with("# [") {
            there = cfg!(feature = "full") || !matches!(line, "# [sinks.bus]" | "# [sinks.stream]");
        }
        if !there {
            return line;
        }
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let first = bare.split(' ').nth(1);
        if bare.starts_with('[') || first == Some("=") {
            bare
        } else {
            line
        }
    });
    let all: Vec<_> = settings.collect();
    let shown = out(config(&["show"], &all.join("\n"), &[]));
    for sink in [
        "[sinks.log]",
        "[sinks.syslog]",
        "[sinks.journal]",
        "[sinks.siem]",
        "[sinks.otel]",
    ] {
        assert!(shown.contains(sink), "{sink}: {shown}");
    }
}
