//! The measurements.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rustix::{
    fs::{Advice, fadvise},
    process::{Resource, getrlimit},
};

use super::{
    stats::Summary,
    tool::{Kind, Line, Running, Said, Tool, boottime_ns},
    victim::{Cgroup, Victim, counted},
};
use crate::sh;

/// How long a kill may take to be told.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often an idle time is looked for.
const IDLE_TRIES: usize = 10;

/// How much is measured.
pub struct Plan {
    starts: usize,
    brisk: Pace,
    reported: Pace,
    idle: Duration,
    storms: usize,
    storm_kills: usize,
}

/// Kills one after another.
struct Pace {
    rounds: usize,
    kills: usize,
    pause: Duration,
}

impl Plan {
    /// Enough for a median and a 99th percentile.
    pub fn full() -> Self {
        Self {
            starts: 20,
            brisk: Pace {
                rounds: 12,
                kills: 20,
                pause: Duration::from_millis(50),
            },
            // The kernel prints ten reports in five seconds (`oom_rs` in `oom_kill_process`,
            // mm/oom_kill.c).
            reported: Pace {
                rounds: 6,
                kills: 12,
                pause: Duration::from_millis(600),
            },
            idle: Duration::from_secs(30),
            storms: 3,
            storm_kills: 500,
        }
    }

    /// Just enough to see that it works.
    pub fn quick() -> Self {
        Self {
            starts: 5,
            brisk: Pace {
                rounds: 2,
                kills: 20,
                pause: Duration::from_millis(50),
            },
            reported: Pace {
                rounds: 1,
                kills: 8,
                pause: Duration::from_millis(600),
            },
            idle: Duration::from_secs(5),
            storms: 1,
            storm_kills: 500,
        }
    }
}

/// What a measurement is to be like.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// The median is at most this many times the peer's.
    Ratio(f64),
    /// The median is at most this.
    Median(f64),
    /// The 99th percentile is at most this.
    P99(f64),
    /// The greatest is at most this.
    Max(f64),
    /// All are zero.
    Zero,
}

/// One thing, measured of all tools.
pub struct Measure {
    /// What.
    pub what: &'static str,
    /// In which unit.
    pub unit: &'static str,
    /// The values, in the order of the tools; `None` where a tool cannot be measured.
    pub of: Vec<Option<Summary>>,
    /// The targets of oomtrace.
    pub targets: Vec<Target>,
}

/// The values of one measure under way: one list a tool.
struct Values {
    what: &'static str,
    unit: &'static str,
    targets: Vec<Target>,
    of: Vec<Vec<f64>>,
}

impl Values {
    fn new(what: &'static str, unit: &'static str, tools: usize, targets: &[Target]) -> Self {
        Self {
            what,
            unit,
            targets: targets.to_vec(),
            of: vec![Vec::new(); tools],
        }
    }

    fn push(&mut self, tool: usize, value: f64) {
        self.of[tool].push(value);
    }
}

impl From<Values> for Measure {
    fn from(
        Values {
            what,
            unit,
            targets,
            of,
        }: Values,
    ) -> Self {
        Self {
            what,
            unit,
            of: of.into_iter().map(Summary::of).collect(),
            targets,
        }
    }
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// From the start to the last hook.
    Start,
    /// From the kill to the pipe, a few kills with a report among many without; memory.
    Latency,
    /// The same where each kill has a report.
    Report,
    /// The same with the names of 250 pods at hand, and without.
    Pods,
    /// What nothing costs.
    Idle,
    /// Many kills at once.
    Storm,
    /// The program's file.
    Size,
}

/// Measures everything, or one part.
pub fn all(plan: &Plan, only: Option<Part>, tools: &[Tool]) -> Result<Vec<Measure>> {
    let cgroup = Cgroup::new()?;
    let mut measures = Vec::new();
    for part in Part::value_variants() {
        if only.is_some_and(|only| only != *part) {
            continue;
        }
        eprintln!("bench: {part:?}");
        let values = match part {
            Part::Start => starts(plan.starts, tools),
            Part::Latency => latencies(&plan.brisk, &BRISK, &cgroup, tools),
            Part::Report => {
                // The part before has used up the kernel's reports of these five seconds.
                thread::sleep(Duration::from_secs(6));
                latencies(&plan.reported, &REPORTED, &cgroup, tools)
            }
            Part::Pods => pods(&plan.brisk, tools),
            Part::Idle => idle(plan.idle, tools),
            Part::Storm => storms(plan, &cgroup, tools),
            Part::Size => sizes(tools.len()),
        };
        measures.extend(values.with_context(|| format!("{part:?}"))?);
    }
    Ok(measures.into_iter().map(Measure::from).collect())
}

fn starts(count: usize, tools: &[Tool]) -> Result<Vec<Values>> {
    let target = [Target::Ratio(1.0 / 3.0)];
    let mut warm = Values::new("start to attached", "ms", tools.len(), &target);
    let mut cold = Values::new("the same, files not in memory", "ms", tools.len(), &target);
    for (values, evict) in [(&mut warm, false), (&mut cold, true)] {
        for _ in 0..count {
            for (index, tool) in tools.iter().enumerate() {
                if evict {
                    evict_files(tool)?;
                }
                let (running, elapsed) = Running::start(tool)?;
                values.push(index, elapsed.as_secs_f64() * 1e3);
                running.stop()?;
            }
        }
    }
    Ok(vec![warm, cold])
}

/// Drops the program and its libraries from the page cache, where nobody else uses them: the
/// start of somebody who has not started it today.
fn evict_files(tool: &Tool) -> Result<()> {
    let (running, _) = Running::start(tool)?;
    let maps = running.proc("maps")?;
    running.stop()?;
    let files: BTreeSet<_> = maps
        .lines()
        .filter_map(|line| Some(&line[line.find(" /")? + 1..]))
        .collect();
    for path in files {
        // Not every mapping is of a file that can be opened.
        if let Ok(file) = File::open(path) {
            fadvise(&file, 0, None, Advice::DontNeed)
                .with_context(|| format!("dropping {path} from the page cache"))?;
        }
    }
    Ok(())
}

/// The names of what [`latencies`] measures.
struct Names {
    steady: &'static str,
    first: &'static str,
    /// Whether memory is measured, too.
    memory: bool,
    /// Whether whole events are counted.
    whole: bool,
}

const BRISK: Names = Names {
    steady: "kill to pipe, 50 ms apart",
    first: "kill to pipe, first after start",
    memory: true,
    whole: false,
};

const REPORTED: Names = Names {
    steady: "kill to pipe, each with a report",
    first: "the same, first after start",
    memory: false,
    whole: true,
};

fn latencies(pace: &Pace, names: &Names, cgroup: &Cgroup, tools: &[Tool]) -> Result<Vec<Values>> {
    let new = |what, unit, targets: &[_]| Values::new(what, unit, tools.len(), targets);
    let mut steady = new(
        names.steady,
        "µs",
        &[Target::Ratio(1.0), Target::P99(1000.0)],
    );
    let mut first = new(names.first, "µs", &[]);
    let mut whole = new("of these, with the candidates", "%", &[]);
    let mut told_whole = (0_u32, 0_u32);
    let mut resident = new(
        "resident memory after 20 kills",
        "MB",
        &[Target::Median(8.0)],
    );
    let mut shared = new("the same, proportional (PSS)", "MB", &[]);
    let mut peak = new("peak of resident memory", "MB", &[Target::Max(32.0)]);
    for _ in 0..pace.rounds {
        for (index, tool) in tools.iter().enumerate() {
            let (mut running, _) = Running::start(tool)?;
            for kill in 0..=pace.kills {
                thread::sleep(pace.pause);
                let told = kill_one(cgroup, &mut running)?;
                if let Some(latency_ns) = told.latency_ns {
                    let values = if kill == 0 { &mut first } else { &mut steady };
                    values.push(index, latency_ns as f64 / 1e3);
                }
                if tool.kind == Kind::Oomtrace {
                    told_whole.0 += u32::from(told.whole);
                    told_whole.1 += 1;
                }
            }
            let status = running.proc("status")?;
            resident.push(index, megabytes(&status, "VmRSS")?);
            peak.push(index, megabytes(&status, "VmHWM")?);
            if let Ok(rollup) = running.proc("smaps_rollup") {
                shared.push(index, megabytes(&rollup, "Pss")?);
            }
            running.stop()?;
        }
    }
    let mut values = vec![steady, first];
    if names.whole {
        whole.push(0, f64::from(told_whole.0) / f64::from(told_whole.1) * 100.0);
        values.push(whole);
    }
    if names.memory {
        values.extend([resident, shared, peak]);
    }
    Ok(values)
}

/// Pods that are known.
const PODS: usize = 250;

/// Kills in one of many pods, told with its name and without: by the bundles that a runtime keeps of
/// its containers, here written by hand.
fn pods(pace: &Pace, tools: &[Tool]) -> Result<Vec<Values>> {
    let target = [Target::Median(5000.0)];
    let mut named = Values::new("kill to pipe, 250 pods known", "µs", tools.len(), &target);
    let mut plain = Values::new("the same without pods", "µs", tools.len(), &[]);
    let folder = tempfile::tempdir().context("a folder for bundles")?;
    let uid = |n: usize| format!("00000000-0000-0000-0000-{n:012x}");
    let id = |n: usize| format!("{n:064x}");
    for n in 0..PODS {
        let bundle = folder
            .path()
            .join("io.containerd.runtime.v2.task/k8s.io")
            .join(id(n));
        fs::create_dir_all(&bundle)?;
        let annotation = |name: &str| format!("io.kubernetes.cri.{name}");
        let annotations = [
            ("container-type", "container".to_owned()),
            ("container-name", "app".to_owned()),
            ("sandbox-uid", uid(n)),
            ("sandbox-namespace", "shop".to_owned()),
            ("sandbox-name", format!("checkout-{n}")),
        ];
        let annotations = annotations.map(|(name, value)| (annotation(name), value.into()));
        let annotations: serde_json::Map<_, _> = annotations.into_iter().collect();
        let config = serde_json::json!({ "annotations": annotations });
        fs::write(bundle.join("config.json"), config.to_string())?;
    }
    let pod = format!("pod{}", uid(7));
    let cgroup = Cgroup::below(&["kubepods", "burstable", &pod, &id(7)])?;
    let socket = folder.path().join("containerd.sock");
    let oomtrace = tools.first().context("no oomtrace")?;
    let with = oomtrace.with(&["--cri".as_ref(), socket.as_os_str()]);
    let without = oomtrace.with(&["--k8s".as_ref(), "off".as_ref()]);
    for _ in 0..pace.rounds {
        for (tool, values, has_names) in [(&with, &mut named, true), (&without, &mut plain, false)]
        {
            let (mut running, _) = Running::start(tool)?;
            thread::sleep(Duration::from_millis(500));
            for kill in 0..=pace.kills {
                thread::sleep(pace.pause);
                let told = kill_one(&cgroup, &mut running)?;
                ensure!(
                    told.named == has_names,
                    "a kill with {has_names} names is not so told"
                );
                if let Some(latency_ns) = told.latency_ns.filter(|_| kill > 0) {
                    values.push(0, latency_ns as f64 / 1e3);
                }
            }
            running.stop()?;
        }
    }
    Ok(vec![named, plain])
}

/// How a kill was told.
struct Told {
    latency_ns: Option<u64>,
    whole: bool,
    named: bool,
}

/// Kills one process and waits until the tool has told of it.
fn kill_one(cgroup: &Cgroup, running: &mut Running<'_>) -> Result<Told> {
    let (wait, go) = std::io::pipe().context("a pipe")?;
    let victim = Victim::start(cgroup, wait)?;
    let before_ns = boottime_ns();
    drop(go);
    let told = loop {
        let line = running.next(PATIENCE)?.context("a kill was not told")?;
        let Said::Kill {
            hook_ns,
            whole,
            named,
        } = running.tool.says(&line)
        else {
            continue;
        };
        // Somebody else's kill may come in between.
        if hook_ns.is_none_or(|hook_ns| hook_ns >= before_ns) {
            let latency_ns = hook_ns.map(|hook_ns| line.read_ns.saturating_sub(hook_ns));
            break Told {
                latency_ns,
                whole,
                named,
            };
        }
    };
    victim.bury()?;
    Ok(told)
}

/// A value of `/proc/PID/status` or `smaps_rollup`.
pub fn megabytes(text: &str, name: &str) -> Result<f64> {
    let kilobytes: f64 = field(text, name)?.trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}

fn field<'t>(text: &'t str, name: &str) -> Result<&'t str> {
    text.lines()
        .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        .with_context(|| format!("no {name} in /proc"))
}

/// All tools at once: none has anything to do.
fn idle(span: Duration, tools: &[Tool]) -> Result<Vec<Values>> {
    let mut running = Vec::new();
    for tool in tools {
        running.push(Running::start(tool)?.0);
    }
    // What is left to do after the start.
    thread::sleep(Duration::from_secs(1));
    // Somebody else's kill would be work.
    let measured = (0..IDLE_TRIES).find_map(|_| quiet_span(span, &running).transpose());
    let (before, after) = measured.context("other processes are being killed all the time")??;
    let mut switches = Values::new(
        "idle: context switches",
        "per 30 s",
        tools.len(),
        &[Target::Zero],
    );
    let mut cpu = Values::new("idle: processor time", "ms per 30 s", tools.len(), &[]);
    let scale = 30.0 / span.as_secs_f64();
    for (index, (before, after)) in before.iter().zip(&after).enumerate() {
        switches.push(index, (after.switches - before.switches) as f64 * scale);
        cpu.push(index, (after.cpu_ns - before.cpu_ns) as f64 / 1e6 * scale);
    }
    Ok(vec![switches, cpu])
}

/// What the tools had done before and after; `None` when there was a kill meanwhile.
fn quiet_span(
    span: Duration,
    running: &[Running<'_>],
) -> Result<Option<(Vec<Activity>, Vec<Activity>)>> {
    let done = || running.iter().map(Activity::of).collect::<Result<Vec<_>>>();
    let (before, kills) = (done()?, counted()?);
    thread::sleep(span);
    let after = done()?;
    Ok((counted()? == kills).then_some((before, after)))
}

/// What a process has done so far.
struct Activity {
    switches: u64,
    cpu_ns: u64,
}

impl Activity {
    fn of(running: &Running<'_>) -> Result<Self> {
        let mut sum = Self {
            switches: 0,
            cpu_ns: 0,
        };
        for thread in running.threads()? {
            let status = running.proc(&format!("{thread}/status"))?;
            for name in ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"] {
                sum.switches += field(&status, name)?.parse::<u64>()?;
            }
            let times = running.proc(&format!("{thread}/schedstat"))?;
            let ran_ns = times.split(' ').next().unwrap_or_default();
            sum.cpu_ns += ran_ns.parse::<u64>().context("schedstat")?;
        }
        Ok(sum)
    }
}

fn storms(plan: &Plan, cgroup: &Cgroup, tools: &[Tool]) -> Result<Vec<Values>> {
    // A victim is one process and, until all are let go, nothing else: the pipe is shared.
    let processes = getrlimit(Resource::Nproc).current;
    if processes.is_some_and(|most| most < plan.storm_kills as u64) {
        bail!("only {processes:?} processes are allowed (ulimit -u)");
    }
    let new = |what, unit, targets: &[_]| Values::new(what, unit, tools.len(), targets);
    let mut killed = new("storm: killed by the kernel's count", "", &[]);
    let mut seen = new("storm: seen", "", &[]);
    let mut lost = new("storm: declared lost", "", &[Target::Zero]);
    let mut missing = new("storm: neither seen nor declared lost", "", &[Target::Zero]);
    let mut pace = new("storm: kills a second", "", &[]);
    for _ in 0..plan.storms {
        for (index, tool) in tools.iter().enumerate() {
            let (mut running, _) = Running::start(tool)?;
            let before = counted()?;
            let mut lines = storm(plan.storm_kills, cgroup, &mut running)?;
            let counted = (counted()? - before) as f64;
            lines.extend(running.stop()?);
            let told: Vec<_> = lines.iter().map(|line| tool.says(line)).collect();
            let kills = told
                .iter()
                .filter(|said| matches!(said, Said::Kill { .. }))
                .count() as f64;
            let declared = told
                .iter()
                .map(|said| {
                    if let Said::Lost(lost) = said {
                        *lost
                    } else {
                        0
                    }
                })
                .sum::<u64>() as f64;
            killed.push(index, counted);
            seen.push(index, kills);
            lost.push(index, declared);
            missing.push(index, counted - kills - declared);
            let hooks = || {
                told.iter().filter_map(|said| match said {
                    Said::Kill { hook_ns, .. } => *hook_ns,
                    _ => None,
                })
            };
            if let (Some(first), Some(last)) = (hooks().min(), hooks().max())
                && last > first
            {
                pace.push(index, (kills - 1.0) * 1e9 / (last - first) as f64);
            }
        }
    }
    Ok(vec![killed, seen, lost, missing, pace])
}

/// Lets many victims go at once, and reads the tool's lines until all are dead and it is silent.
fn storm(kills: usize, cgroup: &Cgroup, running: &mut Running<'_>) -> Result<Vec<Line>> {
    const LONGEST: Duration = Duration::from_secs(120);
    let (wait, go) = std::io::pipe().context("a pipe")?;
    let mut victims = Vec::new();
    for _ in 0..kills {
        victims.push(Victim::start(cgroup, wait.try_clone().context("a pipe")?)?);
    }
    drop((wait, go));
    let deadline = Instant::now() + LONGEST;
    let mut lines = Vec::new();
    let mut alive: Vec<_> = victims.iter_mut().collect();
    loop {
        match running.next(Duration::from_secs(1))? {
            Some(line) => lines.push(line),
            None if alive.is_empty() => break,
            None => {
                let mut left = Vec::new();
                for victim in alive {
                    if !victim.is_gone()? {
                        left.push(victim);
                    }
                }
                alive = left;
            }
        }
        ensure!(
            Instant::now() < deadline,
            "victims outlive a storm of {} s",
            LONGEST.as_secs()
        );
    }
    for victim in victims {
        victim.bury()?;
    }
    Ok(lines)
}

fn sizes(tools: usize) -> Result<Vec<Values>> {
    let kilobytes = |path: &Path| -> Result<f64> {
        let found = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
        Ok(found.len() as f64 / 1024.0)
    };
    let mut binary = Values::new("the program", "KiB", tools, &[]);
    binary.push(0, kilobytes(&sh::target().join("release/oomtrace"))?);
    let mut object = Values::new("the eBPF object in it", "KiB", tools, &[Target::Max(64.0)]);
    object.push(
        0,
        kilobytes(&sh::root().join("oomtrace/bpf/oomtrace.bpf.o"))?,
    );
    Ok(vec![binary, object])
}
