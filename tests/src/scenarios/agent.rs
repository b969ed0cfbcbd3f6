//! The agent: real kills, into sinks of a configuration that changes while it runs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{Needs, Outcome, Scenario, output::kill_one};
use crate::{Env, PATIENCE, may_skip, tracer::Tracer, victim::Look};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "agent_reloads",
        shows: "The agent delivers every record to every sink; SIGHUP adds and takes away sinks, \
                and nothing is lost by it, also when the new configuration is wrong.",
        needs: Needs::Nothing,
        run: agent_reloads,
    },
    Scenario {
        name: "agent_is_watchable",
        shows: "/metrics counts what was killed and says how the sinks are doing, in the form that \
                Prometheus reads; /healthz and /readyz tell what is wrong.",
        needs: Needs::Nothing,
        run: agent_is_watchable,
    },
    Scenario {
        name: "agent_has_a_dead_sink",
        shows: "What does not fit into the queue of a dead sink is told, exactly and once; the other \
                sinks get everything.",
        needs: Needs::Nothing,
        run: agent_has_a_dead_sink,
    },
];

/// Writes a configuration: an agent that tells of everything on its standard output, and `more`.
pub(super) fn configure(env: &Env, folder: &Path, heartbeat: &str, more: &str) -> Result<()> {
    let hooks = env.hooks.as_deref().unwrap_or("all");
    let text = format!(
        "[tracer]\nheartbeat = {heartbeat:?}\nhooks = {hooks:?}\n[spool]\ndirectory = {:?}\n\
         [sinks.out]\ntype = \"stdout\"\n{more}",
        folder.join("spool")
    );
    Ok(fs::write(folder.join("config.toml"), text)?)
}

/// The agent, with this configuration.
pub(super) fn agent(env: &Env, config: &Path) -> Result<Tracer> {
    let mut command = Command::new(&env.oomtrace);
    command.args(["agent", "--config"]).arg(config);
    Tracer::spawn(env, command)
}

fn agent_is_watchable(env: &Env) -> Result<Outcome> {
    let Ok(listener) = TcpListener::bind("127.0.0.1:0") else {
        return Ok(Outcome::Skipped(
            "there is no loopback interface".to_owned(),
        ));
    };
    let address = listener.local_addr()?;
    drop(listener);
    let folder = tempfile::tempdir().context("a folder")?;
    let path = |name: &str| folder.path().join(name);
    let config = |dead: &str| {
        let more = format!("[metrics]\nlisten = \"{address}\"\n{dead}");
        configure(env, folder.path(), "1s", &more)
    };
    config(&format!(
        "[sinks.dead]\ntype = \"syslog\"\naddress = \"unix://{}\"\n",
        path("nobody").display()
    ))?;
    let mut tracer = agent(env, &path("config.toml"))?;
    let pid = kill_one(env, &Look::default())?;
    let kill = tracer.wait_for("the kill", |record| {
        record["kind"] == "oom_kill" && record["victim"]["pid"] == pid
    })?;
    let get = |path: &str| -> Result<(String, String)> {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        Ok((head[9..12].to_owned(), body.to_owned()))
    };
    let (status, text) = get("/metrics")?;
    ensure!(status == "200", "/metrics answered {status}");
    let scope = kill["oom"]["scope"].as_str().unwrap_or_default();
    let counted = format!("oomtrace_oom_kills_total{{scope=\"{scope}\",qos=\"\",namespace=\"\"}} ");
    let count = text.lines().find_map(|line| line.strip_prefix(&counted));
    let seen = tracer.records.iter().filter(|it| it["kind"] == "oom_kill");
    ensure!(
        count == Some(&seen.count().to_string()),
        "{counted}: {count:?} in\n{text}"
    );
    for line in [
        "oomtrace_hook_attached{hook=\"raw_tp:mark_victim\"} 1",
        "oomtrace_sink_failing{sink=\"dead\",type=\"syslog\"} 1",
        "oomtrace_sink_failing{sink=\"out\",type=\"stdout\"} 0",
        "oomtrace_lost_records_total{place=\"ring_buffer\"} 0",
    ] {
        ensure!(text.lines().any(|it| it == line), "no {line} in\n{text}");
    }
    promtool(&text)?;
    ensure!(
        get("/healthz")? == ("200".to_owned(), "ok\n".to_owned()),
        "it is not alive"
    );
    let (status, why) = get("/readyz")?;
    ensure!(
        status == "503" && why.starts_with("sink dead: unix://"),
        "/readyz: {status} {why}"
    );
    ensure!(get("/x")?.0 == "404", "/x is there");
    config("")?;
    tracer.signal(Signal::HUP)?;
    let deadline = Instant::now() + PATIENCE;
    while get("/readyz")?.0 != "200" {
        ensure!(Instant::now() < deadline, "it does not become ready");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // Who asks slowly holds up nobody for long.
    let mut slow = TcpStream::connect(address)?;
    slow.write_all(b"GET /metrics")?;
    ensure!(get("/healthz")?.0 == "200", "a slow request is in the way");
    tracer.stop()?;
    Ok(Outcome::Passed)
}

/// What Prometheus's own tool says of the page, where it is installed.
fn promtool(page: &str) -> Result<()> {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!(
            "{}: its check is left out",
            may_skip("promtool is not installed")?
        );
        return Ok(());
    };
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(page.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success() && output.stderr.is_empty(),
        "promtool: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn agent_has_a_dead_sink(env: &Env) -> Result<Outcome> {
    let folder = tempfile::tempdir().context("a folder")?;
    let path = |name: &str| folder.path().join(name);
    // Nobody listens there.
    let more = format!(
        "[sinks.file]\ntype = \"file\"\npath = {:?}\n\
         [sinks.dead]\ntype = \"syslog\"\naddress = \"unix://{}\"\nspool = false\n\
         memory_max = \"64KiB\"\n",
        path("file"),
        path("nobody").display()
    );
    configure(env, folder.path(), "20ms", &more)?;
    let mut tracer = agent(env, &path("config.toml"))?;
    let pid = kill_one(env, &Look::default())?;
    tracer.wait_for("the kill", |record| {
        record["kind"] == "oom_kill" && record["victim"]["pid"] == pid
    })?;
    tracer.wait_for("losses", |record| {
        record["kind"] == "loss" && record["lost_total"].as_u64() > Some(40)
    })?;
    tracer.signal(Signal::TERM)?;
    let ended = tracer.ended()?;
    ensure!(
        ended.status.code() == Some(1) && ended.stderr.contains("are on no disk"),
        "it does not tell what it leaves behind: {}",
        ended.stderr
    );
    ensure!(
        records(&path("file"))? == ended.records,
        "the file and standard output differ"
    );
    let losses = || ended.records.iter().filter(|it| it["kind"] == "loss");
    for loss in losses() {
        ensure!(
            loss["place"] == "sink" && loss["sink"] == "dead",
            "a loss at another place: {loss}"
        );
    }
    let told: u64 = losses().filter_map(|loss| loss["lost"].as_u64()).sum();
    let kills: u64 = losses()
        .filter_map(|loss| loss["lost_kills"].as_u64())
        .sum();
    let last = ended.records.last().context("a last record")?;
    let sinks = last["sinks"].as_array().context("its sinks")?;
    let dead = sinks.iter().find(|sink| sink["name"] == "dead");
    let dead = dead.context("the dead sink")?;
    ensure!(
        dead["lost"] == told && dead["state"] == "failing" && dead["delivered"] == 0,
        "{told} were told of: {dead}"
    );
    // The kill was among the first records.
    ensure!(kills == 1, "{kills} kills were told of as lost");
    ensure!(
        losses().count() * 2 < ended.records.len(),
        "losses are told of too often: {} of {} records",
        losses().count(),
        ended.records.len()
    );
    Ok(Outcome::Passed)
}

fn agent_reloads(env: &Env) -> Result<Outcome> {
    let folder = tempfile::tempdir().context("a folder")?;
    let path = |name: &str| folder.path().join(name);
    let file = |name: &str| {
        let path = path(name);
        format!("[sinks.{name}]\ntype = \"file\"\npath = {path:?}\n")
    };
    let config = |sinks: &str| configure(env, folder.path(), "1s", sinks);
    config(&(file("first") + &file("second")))?;
    let mut tracer = agent(env, &path("config.toml"))?;
    let mut pids = vec![kill_one(env, &Look::default())?];
    // The second goes, the third comes.
    config(&(file("first") + &file("third")))?;
    tracer.signal(Signal::HUP)?;
    let deadline = Instant::now() + PATIENCE;
    while records(&path("third"))?.is_empty() {
        ensure!(Instant::now() < deadline, "nothing comes to the new sink");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    pids.push(kill_one(env, &Look::default())?);
    config("nonsense")?;
    tracer.signal(Signal::HUP)?;
    pids.push(kill_one(env, &Look::default())?);
    for pid in &pids {
        tracer.wait_for("a kill", |record| {
            record["kind"] == "oom_kill" && record["victim"]["pid"] == *pid
        })?;
    }
    let ended = tracer.stop()?;
    ensure!(
        ended.stderr.contains("not reloaded: ") && ended.stderr.contains("config.toml:"),
        "it does not tell that the configuration is wrong: {}",
        ended.stderr
    );
    let (first, second, third) = (
        records(&path("first"))?,
        records(&path("second"))?,
        records(&path("third"))?,
    );
    ensure!(
        first == ended.records,
        "the file and standard output differ: {} and {} records",
        first.len(),
        ended.records.len()
    );
    let all = [second.clone(), third].concat();
    ensure!(
        all == first,
        "the sink that went and the one that came have {} records, of {}",
        all.len(),
        first.len()
    );
    ensure!(
        second.iter().any(|record| record["kind"] == "oom_kill"),
        "the first kill is not in the sink that went"
    );
    let status = ended.records.last().context("a last record")?;
    let sinks = status["sinks"].as_array().context("its sinks")?;
    ensure!(
        sinks.len() == 3 && sinks.iter().all(|sink| sink["lost"] == 0),
        "the status of the sinks is {sinks:?}"
    );
    Ok(Outcome::Passed)
}

fn records(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect()
}
