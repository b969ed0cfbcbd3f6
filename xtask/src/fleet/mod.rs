//! `cargo xtask fleet`: thousands of nodes, whose records go through a real broker.
//!
//! Each node is a process `oomtrace deliver` with a spool of its own, which plays one of the recorded
//! runs under that node's name. Some are killed in the middle, and the broker goes away in the
//! middle, too. What is in the broker at the end is compared with what the nodes had.

mod broker;
mod node;

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::{
    broker::{Broker, Through},
    node::{Backlog, Cost, Node, Recording},
};
use crate::{install, sh, test};

/// How often it is told how far it is.
const TELL: Duration = Duration::from_secs(5);
/// Loads what arrived into the table of `deploy/fleet`, and counts.
const STORE: &str = include_str!("store.py");
const STORE_PACKAGES: [&str; 2] = ["chdb==4.4.0", "chdb-core==26.9.0"];

/// `--help` tells.
#[derive(clap::Args)]
pub struct Args {
    /// How many nodes there are
    #[arg(long, default_value_t = 5000)]
    nodes: u32,

    /// What is in the middle
    #[arg(long, value_enum, default_value_t = Through::Nats)]
    through: Through,

    /// How many nodes deliver at the same time
    #[arg(long, value_name = "N", default_value_t = 32)]
    at_once: u32,

    /// How often the broker goes away
    #[arg(long, value_name = "N", default_value_t = 5)]
    outages: u32,

    /// Each of so many nodes is killed (SIGKILL) while it delivers, and starts again
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    killed: u32,

    /// At the end, how fast one node delivers so many records that waited on its disk, to an empty broker
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    backlog: usize,

    /// Put what arrived into ClickHouse's table of deploy/fleet, too
    #[arg(long)]
    store: bool,

    /// Write the result into docs/fleet.md
    #[arg(long)]
    document: bool,
}

/// Plays the fleet.
pub fn run(args: &Args) -> Result<()> {
    install::receivers()?;
    if args.store {
        install::python(&STORE_PACKAGES)?;
    }
    let program = program()?;
    let recordings = recordings()?;
    let home = sh::target().join("fleet");
    fs::create_dir_all(&home)?;
    let home = tempfile::tempdir_in(&home)?;
    let broker = Broker::start(args.through, home.path())?;
    let begun = Instant::now();
    let cost = deliver(args, &program, &recordings, &broker, home.path())?;
    let took = begun.elapsed();
    println!("reading what has arrived");
    let arrived = home.path().join("arrived.jsonl");
    broker.read(&arrived)?;
    let told = (0..args.nodes).map(|number| Node::new(number, &recordings));
    let found = compare(told, &arrived)?;
    drop(broker);
    println!(
        "one node with {} records that wait, and an empty broker",
        args.backlog
    );
    let fresh = tempfile::tempdir_in(home.path())?;
    let broker = Broker::start(args.through, fresh.path())?;
    let mut nodes = (0..).map(|number| Node::new(number, &recordings));
    let backlog = node::backlog(&mut nodes, args.backlog, &program, &broker, home.path())?;
    let table = table(args, &found, &cost, took, &backlog);
    println!("\n{table}");
    ensure!(
        found.missing == 0 && found.strange == 0 && found.disordered == 0,
        "{} records are missing, {} of them are not what was sent, {} out of order",
        found.missing,
        found.strange,
        found.disordered
    );
    if args.store {
        store(&arrived, &found)?;
    }
    if args.document {
        let name = format!("fleet-{}", args.through);
        sh::put_between_markers(&sh::root().join("docs/fleet.md"), &name, &table)?;
    }
    Ok(())
}

/// The program with all sinks: the one that `OOMTRACE_BIN` names, or a new one.
fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("OOMTRACE_BIN") {
        return Ok(path.into());
    }
    test::shipped()
}

/// What was recorded of the plain machines with all kernels.
fn recordings() -> Result<Vec<Recording>> {
    let mut all = Vec::new();
    for variant in fs::read_dir(sh::root().join("tests/recorded"))? {
        let variant = variant?.path();
        if variant.extension().is_none_or(|it| it != "plain") {
            continue;
        }
        for file in fs::read_dir(variant)? {
            let file = file?.path();
            if file.to_string_lossy().ends_with(".jsonl.gz") {
                all.push(file);
            }
        }
    }
    all.sort();
    ensure!(!all.is_empty(), "nothing is recorded");
    all.iter().map(|file| Recording::read(file)).collect()
}

/// Has all nodes deliver, and the broker go away now and then.
fn deliver(
    args: &Args,
    program: &Path,
    recordings: &[Recording],
    broker: &Broker,
    home: &Path,
) -> Result<Cost> {
    let (next, done) = (AtomicU32::new(0), AtomicU32::new(0));
    let failed = OnceLock::new();
    let over = || done.load(Ordering::Relaxed) >= args.nodes || failed.get().is_some();
    let work = || {
        let mut cost = Cost::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= args.nodes || failed.get().is_some() {
                return cost;
            }
            let node = Node::new(number, recordings);
            let killed = number % args.killed == args.killed - 1;
            match node.deliver(program, &broker.sink(), home, killed) {
                Ok(one) => cost += one,
                Err(error) => {
                    let _ = failed.set(error.context(format!("node {number}")));
                }
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    let cost = thread::scope(|scope| -> Result<Cost> {
        let workers: Vec<_> = (0..args.at_once).map(|_| scope.spawn(work)).collect();
        scope.spawn(|| {
            while !over() {
                thread::sleep(TELL);
                let done = done.load(Ordering::Relaxed);
                println!("{done} of {} nodes have delivered", args.nodes);
            }
        });
        for outage in 1..=args.outages {
            let at = args.nodes / (args.outages + 1) * outage;
            while done.load(Ordering::Relaxed) < at && !over() {
                thread::sleep(Duration::from_millis(50));
            }
            println!("outage {outage} of {}: {}", args.outages, broker.outage()?);
        }
        let mut cost = Cost::default();
        for worker in workers {
            cost += worker.join().unwrap_or_default();
        }
        Ok(cost)
    })?;
    failed.into_inner().map_or(Ok(cost), Err)
}

/// What has arrived.
#[derive(Default)]
struct Found {
    /// What the nodes had.
    sent: usize,
    /// Messages in the broker.
    arrived: usize,
    /// Of these, again.
    again: usize,
    missing: usize,
    /// Not as they were sent.
    strange: usize,
    /// First of each, but before one that was sent before it.
    disordered: usize,
}

/// A node's records, and which of them have been found.
struct Expected {
    node: Node,
    ids: Vec<String>,
    seen: HashSet<usize>,
}

/// Compares what nodes had with what is there: JSON lines, in the order of arrival for each node.
fn compare(nodes: impl Iterator<Item = Node>, arrived: &Path) -> Result<Found> {
    let mut found = Found::default();
    let mut expected = HashMap::new();
    for node in nodes {
        let ids = node
            .lines()
            .map(|line| Ok(id(&serde_json::from_str(line)?)));
        let ids = ids.collect::<Result<Vec<_>>>()?;
        found.sent += ids.len();
        let seen = HashSet::new();
        expected.insert(node.name(), Expected { node, ids, seen });
    }
    for line in BufReader::new(File::open(arrived)?).lines() {
        found.arrived += 1;
        let event: Value = serde_json::from_str(&line?).context("what arrived is no event")?;
        let name = event["node"]["hostname"].as_str().unwrap_or_default();
        let id = id(&event);
        let place = expected.get_mut(name).and_then(|it| {
            let place = it.ids.iter().position(|known| *known == id)?;
            let sent: Value = serde_json::from_str(it.node.lines().nth(place)?).ok()?;
            contains(&event, &sent).then_some((place, &mut it.seen))
        });
        match place {
            None => found.strange += 1,
            Some((place, seen)) if seen.contains(&place) => found.again += 1,
            Some((place, seen)) => {
                found.disordered += usize::from(place != seen.len());
                seen.insert(place);
            }
        }
    }
    let seen: usize = expected.values().map(|it| it.seen.len()).sum();
    found.missing = found.sent - seen;
    Ok(found)
}

/// What names a record.
fn id(event: &Value) -> String {
    format!("{} {}", event["kind"], event["event_id"])
}

/// Whether all fields that were sent are there. A recording may be older than the program, which then
/// writes fields that it does not have.
fn contains(arrived: &Value, sent: &Value) -> bool {
    match (arrived, sent) {
        (Value::Object(arrived), Value::Object(sent)) => sent.iter().all(|(name, value)| {
            arrived
                .get(name)
                .is_some_and(|arrived| contains(arrived, value))
        }),
        (Value::Array(arrived), Value::Array(sent)) => {
            arrived.len() == sent.len()
                && arrived
                    .iter()
                    .zip(sent)
                    .all(|(arrived, sent)| contains(arrived, sent))
        }
        _ => arrived == sent,
    }
}

fn table(args: &Args, found: &Found, cost: &Cost, took: Duration, backlog: &Backlog) -> String {
    let nodes = f64::from(args.nodes);
    let row = |what: &str, value: String| format!("| {what} | {value} |\n");
    let mut table = format!("| {} | |\n| --- | --- |\n", args.through.title());
    for (what, value) in [
        ("nodes", args.nodes.to_string()),
        (
            "of these killed while they delivered",
            cost.killed.to_string(),
        ),
        ("outages of the broker", args.outages.to_string()),
        ("records sent", found.sent.to_string()),
        ("messages in the broker", found.arrived.to_string()),
        ("arrived again", found.again.to_string()),
        ("missing", found.missing.to_string()),
        ("out of order", found.disordered.to_string()),
        (
            "processor time of a node",
            format!("{:.1} ms", cost.cpu.as_secs_f64() * 1e3 / nodes),
        ),
        (
            "of a record",
            format!("{:.2} ms", cost.cpu.as_secs_f64() * 1e3 / found.sent as f64),
        ),
        (
            "most memory of a node",
            format!("{:.1} MB", cost.resident_kib as f64 / 1024.0),
        ),
        ("all of it took", format!("{} s", took.as_secs())),
        (
            "one node with a backlog: records a second",
            format!("{:.0}", backlog.records as f64 / backlog.took.as_secs_f64()),
        ),
        (
            "its processor time a record",
            format!(
                "{:.0} µs",
                backlog.cost.cpu.as_secs_f64() * 1e6 / backlog.records as f64
            ),
        ),
    ] {
        table += &row(what, value);
    }
    table
}

/// Puts all into the table, where what came twice falls together.
fn store(arrived: &Path, found: &Found) -> Result<()> {
    let folder = sh::root().join("deploy/fleet/clickhouse");
    let counted = sh::output(
        Command::new(install::python_of_receivers())
            .args(["-c", STORE])
            .arg(folder)
            .arg(arrived),
    )?;
    println!("{counted}");
    let last = counted.lines().last().unwrap_or_default();
    let expected = format!("{} rows, {} records", found.arrived, found.sent);
    ensure!(
        last == expected,
        "ClickHouse has {last}, and not {expected}"
    );
    Ok(())
}
