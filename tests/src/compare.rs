//! An event beside the kernel's own account of the same kill, number by number.

pub mod whole_machine;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    btf::Btf,
    cgroup::Cgroup,
    facts::Facts,
    oracle::{Account, Killed, Report, Row},
    read,
    time::unix_ns,
};

/// Collects what differs, so that one run tells all of it.
#[derive(Debug, Default)]
pub struct Differences {
    looked_at: usize,
    found: Vec<String>,
}

impl Differences {
    /// Notes it when a field is not as it must be.
    pub fn expect(&mut self, name: &str, found: &Value, expected: impl Into<Value>) {
        let expected = expected.into();
        self.looked_at += 1;
        if *found != expected {
            self.found
                .push(format!("{name} is {found}, expected {expected}"));
        }
    }

    /// Notes it when a number is further from the expected one than `slack`.
    pub fn near(&mut self, name: &str, found: &Value, expected: u64, slack: u64) {
        self.looked_at += 1;
        if found
            .as_u64()
            .is_none_or(|found| found.abs_diff(expected) > slack)
        {
            self.found
                .push(format!("{name} is {found}, expected {expected} ± {slack}"));
        }
    }

    /// Notes it when something does not hold.
    pub fn hold(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        self.looked_at += 1;
        if !holds {
            self.found.push(otherwise());
        }
    }

    /// The verdict.
    ///
    /// # Errors
    /// When anything differed, or nothing was looked at.
    pub fn none(self, event: &Value) -> Result<()> {
        if self.looked_at == 0 {
            bail!("nothing was compared");
        }
        if self.found.is_empty() {
            return Ok(());
        }
        bail!("{}\nin {event}", self.found.join("\n"))
    }
}

/// The cgroup whose limit was hit.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Its path.
    pub path: String,
    /// Its kernfs id.
    pub id: u64,
    /// Its limit.
    pub bytes: u64,
    /// Whether its processes are killed together.
    pub oom_group: bool,
}

impl Limit {
    /// The limit of a cgroup itself.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn of(cgroup: &Cgroup, bytes: u64) -> Result<Self> {
        Ok(Self {
            path: cgroup.path(),
            id: cgroup.id()?,
            bytes,
            oom_group: false,
        })
    }
}

/// Which of the kernel's numbers of the victim's memory are those at the kill. The task table is
/// printed before it and the line "Killed process" after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Both: the victim is the trigger, and stands still meanwhile.
    TableAndLine,
    /// The table: the victim sleeps until SIGKILL wakes it, and may have given back some of its
    /// memory when the line is printed.
    Table,
}

/// A kill, and all that is known of it from elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The victim.
    pub victim: &'a Facts,
    /// The trigger.
    pub trigger: &'a Facts,
    /// The limit.
    pub limit: &'a Limit,
    /// The kernel's account.
    pub account: &'a Account,
    /// Which numbers of it to take.
    pub memory: Memory,
    /// `CLOCK_BOOTTIME` before and after.
    pub between: (u64, u64),
}

impl<'a> Known<'a> {
    const fn death(&self) -> Death<'a> {
        Death {
            victim: self.victim,
            account: self.account,
            memory: self.memory,
            between: self.between,
        }
    }
}

/// What is known of a victim, whatever it died of.
#[derive(Clone, Copy, Debug)]
struct Death<'a> {
    victim: &'a Facts,
    account: &'a Account,
    memory: Memory,
    between: (u64, u64),
}

/// Those that the kernel compared.
#[derive(Clone, Copy, Debug)]
struct Contest<'a> {
    /// What the decision could use; none where that is not known on the hooks in use.
    total_bytes: Option<u64>,
    /// Whether the victims are killed together, so that the chosen one may be another.
    group: bool,
    /// Processes of ours, which stand still meanwhile.
    players: &'a [Facts],
    /// By how many bytes the memory of others may change meanwhile; none where all are like ours.
    others: Option<u64>,
}

/// Compares an event with all that is known of the kill. The account must have its report.
///
/// # Errors
/// When anything differs; the message lists all of it.
pub fn whole(event: &Value, known: &Known<'_>) -> Result<()> {
    whole_among(event, known, std::slice::from_ref(known.victim))
}

/// As [`whole`], where candidates are in several cgroups: `players` are all of them.
///
/// # Errors
/// When anything differs; the message lists all of it.
pub fn whole_among(event: &Value, known: &Known<'_>, players: &[Facts]) -> Result<()> {
    let report = known
        .account
        .report
        .as_ref()
        .context("the account has no report")?;
    let mut differences = Differences::default();
    let all = &mut differences;
    victim(all, event, &known.death());
    let row = row_of(report, known.victim)?;
    memory_of_table(all, event, row);
    oom(all, event, known, report)?;
    identity(all, &event["trigger"], "trigger", known.trigger);
    trigger(all, event, report);
    let contest = Contest {
        total_bytes: Some(known.limit.bytes),
        group: known.limit.oom_group,
        players,
        others: None,
    };
    candidates(all, event, known.victim, &contest, report);
    unowned(all, event, report);
    differences.none(event)
}

/// Compares the numbers of an event with the kernel's report, whoever the victim is. `total_bytes` is
/// what the decision could use.
///
/// # Errors
/// When anything differs; the message lists all of it.
pub fn numbers(event: &Value, facts: &Facts, account: &Account, total_bytes: u64) -> Result<()> {
    let report = account.report.as_ref().context("no report")?;
    let mut differences = Differences::default();
    let all = &mut differences;
    let row = row_of(report, facts)?;
    memory_of_table(all, event, row);
    trigger(all, event, report);
    request(all, &event["oom"], report);
    let points = row.badness(total_bytes / page());
    all.expect("oom.total_bytes", &event["oom"]["total_bytes"], total_bytes);
    all.expect("badness", &event["victim"]["badness_pages"], points);
    if report.constraint.constraint == "CONSTRAINT_MEMCG" {
        counters(all, event, report)?;
        let contest = Contest {
            total_bytes: Some(total_bytes),
            group: false,
            players: std::slice::from_ref(facts),
            // Those who wait, and hold next to nothing.
            others: Some(1 << 20),
        };
        candidates(all, event, facts, &contest, report);
    }
    differences.none(event)
}

/// Compares an event with what is known where the kernel's report is missing: the victim, the
/// trigger, and the line "Killed process".
///
/// # Errors
/// When anything differs; the message lists all of it.
pub fn without_report(event: &Value, known: &Known<'_>) -> Result<()> {
    let mut differences = Differences::default();
    let all = &mut differences;
    victim(all, event, &known.death());
    identity(all, &event["trigger"], "trigger", known.trigger);
    if !decision_is_hooked(event) {
        let oom = &event["oom"];
        for (name, field) in [
            ("gfp_mask", &oom["gfp_mask"]),
            ("gfp_flags", &oom["gfp_flags"]),
            ("order", &oom["order"]),
            ("sysrq", &oom["sysrq"]),
            ("candidates", &event["candidates"]),
            ("victim_rank", &event["verdict"]["victim_rank"]),
            ("survival", &event["verdict"]["survival"]),
            ("badness_pages", &event["victim"]["badness_pages"]),
        ] {
            all.expect(name, field, Value::Null);
        }
        if log_is_hooked(event) {
            limit_by_the_line(all, oom, known.limit);
        } else {
            for name in ["constraint", "scope", "message", "total_bytes", "memcg"] {
                all.expect(name, &oom[name], Value::Null);
            }
        }
    }
    differences.none(event)
}

/// The line "Killed process" tells that it was the limit of a memory cgroup; where only one
/// level of the victim's cgroup has a limit, it was that one.
fn limit_by_the_line(all: &mut Differences, oom: &Value, limit: &Limit) {
    all.expect("constraint", &oom["constraint"], "memcg");
    all.expect("scope", &oom["scope"], "slice");
    all.expect("total_bytes", &oom["total_bytes"], limit.bytes);
    let memcg = &oom["memcg"];
    all.expect("memcg.path", &memcg["path"], limit.path.as_str());
    all.expect("memcg.limit_bytes", &memcg["limit_bytes"], limit.bytes);
    all.expect("memcg.stat", &memcg["stat"], Value::Null);
    // The kernel prints no usage to compare with; but a limit is hit when it is used up.
    let usage = memcg["usage_bytes"].as_u64().unwrap_or_default();
    let most_of_it = limit.bytes / 100 * 95;
    all.hold((most_of_it..=limit.bytes).contains(&usage), || {
        format!(
            "memcg.usage_bytes is {usage}, and the limit {}",
            limit.bytes
        )
    });
}

/// Whether a hook on the decision itself is attached.
pub fn decision_is_hooked(event: &Value) -> bool {
    has_hook(event, "oom_kill_process", &["fentry:", "kprobe:"])
}

/// Whether the kernel log is read.
pub fn log_is_hooked(event: &Value) -> bool {
    event["source"]["hooks"]
        .as_array()
        .is_some_and(|hooks| hooks.iter().any(|hook| hook == "kmsg"))
}

/// Whether exits are hooked, and so the outcome of a kill is told.
pub fn exits_are_hooked(event: &Value) -> bool {
    has_hook(event, "sched_process_exit", &["raw_tp:"])
}

/// Whether a hook on the end of the decision is attached.
pub fn decision_end_is_hooked(event: &Value) -> bool {
    has_hook(event, "oom_kill_process", &["fexit:", "kretprobe:"])
}

/// Whether the kernel's scores of candidates are hooked, by hooks that fire.
pub fn candidates_are_hooked(event: &Value) -> bool {
    has_hook(event, "oom_badness", &["fexit:", "kretprobe:"])
}

fn has_hook(event: &Value, function: &str, kinds: &[&str]) -> bool {
    event["source"]["hooks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|name| {
            kinds
                .iter()
                .any(|kind| name.strip_prefix(kind).is_some_and(|of| of == function))
        })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// By how many bytes the kernel's own report may be wrong about each kind of resident memory.
///
/// From 6.2 on every processor keeps some pages of a counter to itself (`percpu_counter_batch` in
/// lib/percpu_counter.c). oomtrace adds them; the kernel's report does so since 7.1, where the two
/// must agree again. Before 6.2 every thread keeps some, and adds them when it exits, which may be
/// between the report and the mark.
fn reports_error() -> u64 {
    match kernel_version() {
        version if version < (6, 2) => threads_share(),
        version if version < (7, 1) => processors_share(),
        _ => 0,
    }
}

/// What a thread may keep to itself of one counter, in bytes, where nobody can add it
/// (`TASK_RSS_EVENTS_THRESH` in mm/memory.c, before 6.2).
pub fn threads_share() -> u64 {
    if kernel_version() < (6, 2) {
        64 * page()
    } else {
        0
    }
}

/// By how many bytes a candidate's memory, for which they are not added, may be off the report.
fn candidates_error() -> u64 {
    if kernel_version() >= (7, 1) {
        3 * processors_share()
    } else {
        0
    }
}

/// Where there is no swap nothing is in it, and no number is approximate.
fn if_swapping(event: &Value, error: u64) -> u64 {
    if event["node"]["swap_bytes"] == 0 {
        0
    } else {
        error
    }
}

/// What all processors together may keep to themselves of one counter, in bytes.
fn processors_share() -> u64 {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    cpus * (2 * cpus).max(32) * page()
}

/// Charges that processors hold in advance (`MEMCG_CHARGE_BATCH` in mm/memcontrol.c) come and go
/// between the decision and its report.
fn charges_in_flight() -> u64 {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    cpus * 64 * page()
}

/// Major and minor number of the kernel.
pub fn kernel_version() -> (u32, u32) {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn page() -> u64 {
    rustix::param::page_size() as u64
}

/// What is known without the report.
fn victim(all: &mut Differences, event: &Value, known: &Death<'_>) {
    let Death {
        victim: facts,
        account,
        memory,
        ..
    } = known;
    let victim = &event["victim"];
    identity(all, victim, "victim", facts);
    all.expect("kind", &event["kind"], "oom_kill");
    all.expect("victim.ppid", &victim["ppid"], facts.ppid);
    all.expect("victim.exe", &victim["exe"], facts.exe.as_str());
    all.expect("victim.cmdline", &victim["cmdline"], Value::Null);
    let expected_adj = &victim["expected_oom_score_adj"];
    all.expect("expected_oom_score_adj", expected_adj, Value::Null);
    all.expect("schema", &event["schema"], "oomtrace.event/v1");
    times(all, event, facts, known.between);

    let Killed {
        message,
        pid,
        comm,
        uid,
        oom_score_adj,
        ..
    } = &account.killed;
    all.expect("the line's pid", &victim["tid"], *pid);
    all.expect("the line's name", &victim["comm"], text(comm));
    all.expect("the line's UID", &victim["uid"], *uid);
    all.expect(
        "the line's oom_score_adj",
        &victim["oom_score_adj"],
        *oom_score_adj,
    );
    all.hold(!comm.is_empty() || facts.comm.is_empty(), || {
        "the line has no name".to_owned()
    });
    let merged: Vec<&str> = ["kmsg"]
        .into_iter()
        .filter(|_| log_is_hooked(event))
        .collect();
    all.expect("source.merged", &event["source"]["merged"], merged.clone());
    if !merged.is_empty() || decision_is_hooked(event) {
        all.expect("oom.message", &event["oom"]["message"], message.as_str());
    }
    if *memory == Memory::TableAndLine {
        memory_of_line(all, &victim["memory"], &account.killed);
    }
    node(all, event);
}

/// What a victim and a trigger have in common.
fn identity(all: &mut Differences, found: &Value, who: &str, facts: &Facts) {
    let name = |field: &str| format!("{who}.{field}");
    all.expect(&name("pid"), &found["pid"], facts.pid);
    all.expect(&name("tid"), &found["tid"], facts.tid);
    all.expect(&name("uid"), &found["uid"], facts.uid);
    all.expect(&name("comm"), &found["comm"], text(&facts.comm));
    all.expect(
        &name("oom_score_adj"),
        &found["oom_score_adj"],
        facts.oom_score_adj,
    );
    let cgroup = json!({
        "path": facts.cgroup_path,
        "path_cut": false,
        "level": if facts.cgroup_path == "/" { "node" } else { "slice" },
        "id": facts.cgroup_id.to_string(),
        "version": facts.cgroup_version,
        "conmon": null,
    });
    all.expect(&name("cgroup"), &found["cgroup"], cgroup);
    all.expect(&name("container"), &found["container"], Value::Null);
    all.expect(&name("pod"), &found["pod"], Value::Null);
}

/// When it happened, when the victim started, and the name made of both.
fn times(all: &mut Differences, event: &Value, victim: &Facts, between: (u64, u64)) {
    let number = |value: &Value| value.as_str().and_then(|text| text.parse::<i128>().ok());
    let date = |value: &Value| value.as_str().and_then(|text| unix_ns(text).ok());
    let (Some(boot), Some(unix)) = (
        number(&event["boottime_ns"]),
        number(&event["time_unix_ns"]),
    ) else {
        all.hold(false, || "the event has no time".to_owned());
        return;
    };
    let (before, after) = between;
    all.hold(
        (i128::from(before)..=i128::from(after)).contains(&boot),
        || format!("boottime_ns is {boot}, not between {before} and {after}"),
    );
    all.hold(date(&event["time"]) == Some(unix), || {
        format!("time is {}, and time_unix_ns {unix}", event["time"])
    });
    let Some(start) = date(&event["victim"]["start_time"]).map(|start| start - (unix - boot))
    else {
        all.hold(false, || "the victim has no start_time".to_owned());
        return;
    };
    // USER_HZ is 100 everywhere.
    all.hold(start / 10_000_000 == i128::from(victim.start_ticks), || {
        format!(
            "the victim started at {start} ns, not in tick {}",
            victim.start_ticks
        )
    });
    let boot_id = read("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .replace('-', "");
    let id = format!("{boot_id}-{boot:x}-{:x}-{start:x}", victim.pid);
    all.expect("event_id", &event["event_id"], id);
}

fn node(all: &mut Differences, event: &Value) {
    let node = &event["node"];
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    let bytes = |name: &str| {
        meminfo.lines().find_map(|line| {
            let kb = line
                .strip_prefix(name)?
                .strip_prefix(':')?
                .trim()
                .strip_suffix(" kB")?;
            Some(kb.parse::<u64>().ok()? * 1024)
        })
    };
    all.expect(
        "node.memory_bytes",
        &node["memory_bytes"],
        bytes("MemTotal"),
    );
    all.expect("node.swap_bytes", &node["swap_bytes"], bytes("SwapTotal"));
    let machine_id = read("/etc/machine-id").ok().filter(|id| !id.is_empty());
    all.expect("node.machine_id", &node["machine_id"], machine_id);
    let file = |name: &str| read(format!("/proc/sys/kernel/{name}")).ok();
    all.expect("node.hostname", &node["hostname"], file("hostname"));
    all.expect("node.kernel", &node["kernel"], file("osrelease"));
    all.expect("node.boot_id", &node["boot_id"], file("random/boot_id"));
}

fn memory_of_line(all: &mut Differences, memory: &Value, line: &Killed) {
    let error = reports_error();
    for (name, kb, slack) in [
        ("total_vm_bytes", line.total_vm_kb, 0),
        ("anon_rss_bytes", line.anon_rss_kb, error),
        ("file_rss_bytes", line.file_rss_kb, error),
        ("shmem_rss_bytes", line.shmem_rss_kb, error),
        ("pgtables_bytes", line.pgtables_kb, 0),
    ] {
        all.near(
            &format!("the line's {name}"),
            &memory[name],
            kb * 1024,
            slack,
        );
    }
}

fn memory_of_table(all: &mut Differences, event: &Value, row: &Row) {
    let memory = &event["victim"]["memory"];
    all.expect(
        "the table's total_vm",
        &memory["total_vm_bytes"],
        row.total_vm * page(),
    );
    all.near(
        "the table's swapents",
        &memory["swap_bytes"],
        row.swapents * page(),
        if_swapping(event, reports_error()),
    );
    all.expect(
        "the table's pgtables",
        &memory["pgtables_bytes"],
        row.pgtables_bytes,
    );
    let split = ["anon_rss_bytes", "file_rss_bytes", "shmem_rss_bytes"];
    if let Some(pages) = row.split {
        for (name, pages) in split.into_iter().zip(pages) {
            all.near(
                &format!("the table's {name}"),
                &memory[name],
                pages * page(),
                reports_error(),
            );
        }
    }
    let rss: u64 = split.iter().filter_map(|name| memory[name].as_u64()).sum();
    all.near(
        "the table's rss",
        &json!(rss),
        row.rss * page(),
        3 * reports_error(),
    );
    all.hold(rss > 0, || "the victim holds nothing".to_owned());
}

fn oom(all: &mut Differences, event: &Value, known: &Known<'_>, report: &Report) -> Result<()> {
    let Limit {
        path,
        id,
        bytes,
        oom_group,
    } = known.limit;
    let oom = &event["oom"];
    all.hold(report.constraint.constraint == "CONSTRAINT_MEMCG", || {
        format!("the report is about {}", report.constraint.constraint)
    });
    let victim = known.victim;
    // With a group the chosen one may be another member.
    all.hold(*oom_group || report.constraint.names(path, victim), || {
        format!(
            "the report is not about this kill: {:?}",
            text(&report.constraint.rest)
        )
    });
    all.expect("oom.constraint", &oom["constraint"], "memcg");
    all.expect("oom.scope", &oom["scope"], "slice");
    request(all, oom, report);
    all.expect("oom.sysrq", &oom["sysrq"], false);
    all.expect("oom.total_bytes", &oom["total_bytes"], *bytes);
    all.expect("oom.node_memory", &oom["node_memory"], Value::Null);
    if !oom_group {
        all.expect("oom.victim_index", &oom["victim_index"], 0);
        all.expect("oom.victim_count", &oom["victim_count"], 1);
    }

    let memcg = &oom["memcg"];
    let hooked = decision_is_hooked(event);
    all.expect("oom.memcg.path", &memcg["path"], path.as_str());
    all.expect("oom.memcg.path_cut", &memcg["path_cut"], false);
    all.expect("oom.memcg.id", &memcg["id"], hooked.then(|| id.to_string()));
    all.expect(
        "oom.memcg.oom_group",
        &memcg["oom_group"],
        hooked.then_some(*oom_group),
    );
    let limit = report.memcg.counters.get("memory");
    let limit = limit.and_then(|memory| memory.limit_bytes);
    all.expect("the report's limit", &json!(limit), *bytes);
    counters(all, event, report)
}

/// What was asked of the allocator.
fn request(all: &mut Differences, oom: &Value, report: &Report) {
    let header = &report.header;
    all.expect("oom.gfp_mask", &oom["gfp_mask"], header.gfp_mask.as_str());
    let printed = json!(header.gfp_flags);
    all.expect(
        "oom.gfp_flags",
        &sorted(&oom["gfp_flags"]),
        sorted(&printed),
    );
    all.expect("oom.order", &oom["order"], header.order);
}

/// Names of flags in one order: every kernel prints them in its own. Anything else as it is.
fn sorted(names: &Value) -> Value {
    let mut names = names.clone();
    if let Value::Array(names) = &mut names {
        names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    names
}

/// What the memory cgroup counts.
fn counters(all: &mut Differences, event: &Value, report: &Report) -> Result<()> {
    let memcg = &event["oom"]["memcg"];
    let hooked = decision_is_hooked(event);
    let lines = &report.memcg;
    let memory = lines
        .counters
        .get("memory")
        .context("the report has no memory counter")?;
    let usage_error = if hooked { charges_in_flight() } else { 0 };
    all.near(
        "oom.memcg.usage_bytes",
        &memcg["usage_bytes"],
        memory.usage_bytes,
        usage_error,
    );
    all.expect(
        "oom.memcg.limit_bytes",
        &memcg["limit_bytes"],
        memory.limit_bytes,
    );
    for (ours, kernels) in [("swap", "swap"), ("memsw", "memory+swap")] {
        let counter = lines.counters.get(kernels);
        let limit = counter.and_then(|counter| counter.limit_bytes);
        let usage = &memcg[format!("{ours}_usage_bytes")];
        match counter {
            Some(counter) => all.near(kernels, usage, counter.usage_bytes, usage_error),
            None => all.expect(kernels, usage, Value::Null),
        }
        all.expect(kernels, &memcg[format!("{ours}_limit_bytes")], limit);
    }
    // What it is used for stands in the log alone.
    if !log_is_hooked(event) {
        all.expect("memcg.stat", &memcg["stat"], Value::Null);
        return Ok(());
    }
    // v2 names what it counts below a cgroup as v1 names what it counts in it alone.
    let stat = |v2: &str, v1: &str| lines.stat.get(v1).or_else(|| lines.stat.get(v2)).copied();
    all.expect(
        "stat.anon_bytes",
        &memcg["stat"]["anon_bytes"],
        stat("anon", "total_rss"),
    );
    all.expect(
        "stat.file_bytes",
        &memcg["stat"]["file_bytes"],
        stat("file", "total_cache"),
    );
    all.expect(
        "stat.shmem_bytes",
        &memcg["stat"]["shmem_bytes"],
        stat("shmem", "total_shmem"),
    );
    all.expect(
        "stat.kernel_bytes",
        &memcg["stat"]["kernel_bytes"],
        lines.stat.get("kernel").copied(),
    );
    all.expect(
        "stat.slab_bytes",
        &memcg["stat"]["slab_bytes"],
        lines.stat.get("slab").copied(),
    );
    all.hold(memcg["stat"]["anon_bytes"].as_u64() > Some(0), || {
        format!("the cgroup holds no memory: {}", memcg["stat"])
    });
    Ok(())
}

fn trigger(all: &mut Differences, event: &Value, report: &Report) {
    let trigger = &event["trigger"];
    all.expect("the report's trigger", &trigger["tid"], report.trigger_tid);
    all.expect(
        "the report's trigger",
        &trigger["comm"],
        text(&report.header.comm),
    );
    let adj = report.header.oom_score_adj;
    all.expect("the report's trigger", &trigger["oom_score_adj"], adj);
}

/// What would have spared the victim, which is the first of `ranked`: found by trying.
fn survival(all: &mut Differences, event: &Value, total_bytes: Option<u64>, ranked: &[&Row]) {
    let sparing = &event["verdict"]["survival"];
    let died_alone = event["oom"]["sysrq"] == false && event["oom"]["victim_count"] == 1;
    let known = total_bytes.filter(|_| died_alone).zip(ranked.get(1));
    let found = known.and_then(|(bytes, next)| {
        let pages = bytes / page();
        (-999..=1000).rev().find(|adj| {
            let other = Row {
                oom_score_adj: *adj,
                ..ranked[0].clone()
            };
            other.badness(pages) < next.badness(pages)
        })
    });
    all.expect("survival.oom_score_adj", &sparing["oom_score_adj"], found);
    let next = known.filter(|_| found.is_some()).map(|(_, row)| row.tgid);
    all.expect("survival.next_victim", &sparing["next_victim"]["pid"], next);
}

/// The decision in one word.
fn code(all: &mut Differences, event: &Value) {
    let (oom, verdict) = (&event["oom"], &event["verdict"]);
    let usage = oom["memcg"]["usage_bytes"].as_u64();
    let unowned = verdict["unowned_bytes"].as_u64();
    let expected = match oom["scope"].as_str() {
        _ if oom["sysrq"] == true => Some("manual"),
        _ if usage.is_some() && unowned > usage.map(|bytes| bytes / 2) => Some("unowned_memory"),
        Some("container") => Some("container_limit"),
        Some("pod") => Some("pod_limit"),
        Some("kubepods") => Some("node_allocatable"),
        Some("slice") => Some("slice_limit"),
        Some("node") => Some("node_out_of_memory"),
        Some(scope) => Some(scope),
        None => None,
    };
    all.expect("verdict.code", &verdict["code"], expected);
    let summary = verdict["summary"].as_str().unwrap_or_default();
    let victim = format!("(pid {}", event["victim"]["pid"]);
    all.hold(summary.contains(&victim), || {
        format!("the summary does not name the victim: {summary:?}")
    });
}

/// Where the order of the candidates is not known, nothing is said that follows from it.
fn unranked(all: &mut Differences, verdict: &Value) {
    for name in ["victim_rank", "runner_up_pid", "margin_pages"] {
        all.expect(&format!("verdict.{name}"), &verdict[name], Value::Null);
    }
    let sparing = &verdict["survival"]["oom_score_adj"];
    all.expect("verdict.survival", sparing, Value::Null);
}

/// The row of the task table about a process.
fn row_of<'r>(report: &'r Report, facts: &Facts) -> Result<&'r Row> {
    report
        .rows
        .iter()
        .find(|row| row.pid == facts.tid)
        .with_context(|| format!("the task table has no {}", facts.tid))
}

fn candidates(
    all: &mut Differences,
    event: &Value,
    facts: &Facts,
    contest: &Contest<'_>,
    report: &Report,
) {
    let points = |row: &Row| match contest.total_bytes {
        Some(bytes) => Some(row.badness(bytes / page())),
        None => (row.oom_score_adj == 0).then(|| row.badness(0)),
    };
    // Highest points first; of equals the later one, which the kernel takes.
    let mut ranked: Vec<(Option<i64>, &Row)> = report
        .rows
        .iter()
        .filter(|row| row.oom_score_adj != -1000)
        .map(|row| (points(row), row))
        .collect();
    // Where the points of one are not known, neither is its place.
    let is_ranked = ranked.iter().all(|(points, _)| points.is_some());
    if is_ranked {
        ranked.reverse();
        ranked.sort_by_key(|(points, _)| std::cmp::Reverse(*points));
    }

    let victim = &event["victim"];
    let Some(row) = report.rows.iter().find(|row| row.pid == facts.tid) else {
        all.hold(false, || format!("the task table has no {}", facts.tid));
        return;
    };
    if !contest.group {
        all.expect("badness", &victim["badness_pages"], points(row));
        all.expect("victim.role", &victim["role"], "chosen");
    }
    if !contest.group && is_ranked {
        let first = ranked.first().map(|(_, row)| row.pid);
        all.hold(first == Some(facts.tid), || {
            format!("by the table the kernel would have chosen {first:?}")
        });
        all.expect("verdict.victim_rank", &event["verdict"]["victim_rank"], 1);
        let next = ranked.get(1);
        all.expect(
            "verdict.runner_up",
            &event["verdict"]["runner_up_pid"],
            next.map(|(_, row)| row.tgid),
        );
        let margin = next
            .zip(ranked.first())
            .and_then(|((next, _), (first, _))| Some((*first)? - (*next)?));
        all.expect("verdict.margin", &event["verdict"]["margin_pages"], margin);
        let rows: Vec<&Row> = ranked.iter().map(|(_, row)| *row).collect();
        survival(all, event, contest.total_bytes, &rows);
    }
    code(all, event);
    if !is_ranked {
        unranked(all, &event["verdict"]);
    }
    let node = node_pages(event);
    let score = node.and_then(|node| Some((node, u64::try_from(oom_score(row, node)).ok()?)));
    match score {
        Some((node, score)) => {
            // Each of the four counters that make the points may be off, and so may the rounding.
            let error = 4 * reports_error() / page();
            let slack = error.min(1) + error * 1000 / node * 2 / 3;
            all.near("oom_score", &victim["oom_score"], score, slack);
        }
        None => all.expect("oom_score", &victim["oom_score"], Value::Null),
    }

    let found = &event["candidates"];
    let source = if candidates_are_hooked(event) {
        "kernel"
    } else {
        "kernel_log"
    };
    all.expect("candidates.source", &found["source"], source);
    all.expect("candidates.total", &found["total"], ranked.len());
    all.expect("candidates.listed", &found["listed"], ranked.len().min(10));
    let items: Vec<Value> = found["items"].as_array().cloned().unwrap_or_default();
    all.hold(items.len() == ranked.len().min(10), || {
        format!("{} items", items.len())
    });
    for (rank, (item, (points, row))) in (1..).zip(items.iter().zip(&ranked)) {
        let name = |field: &str| format!("candidate {rank}, {field}");
        let player = contest
            .players
            .iter()
            .find(|player| player.pid == row.tgid)
            // One alone stands for all: they are in its cgroup.
            .or(match contest.players {
                [alone] if contest.others.is_none() => Some(alone),
                _ => None,
            });
        all.hold(player.is_some() || contest.others.is_some(), || {
            format!("{} is nobody of ours", row.tgid)
        });
        let slack = if player.is_some() {
            0
        } else {
            contest.others.unwrap_or_default()
        };
        all.expect(
            &name("rank"),
            &item["rank"],
            if is_ranked { rank } else { 0 },
        );
        all.expect(&name("pid"), &item["pid"], row.tgid);
        all.expect(&name("comm"), &item["comm"], text(&row.name));
        all.hold(
            item["badness_pages"].as_i64().zip(*points).map_or(
                item["badness_pages"].is_null() && points.is_none(),
                |(found, points)| found.abs_diff(points) <= slack / page(),
            ),
            || {
                let found = &item["badness_pages"];
                format!("{} is {found}, expected {points:?}", name("badness"))
            },
        );
        all.expect(
            &name("oom_score_adj"),
            &item["oom_score_adj"],
            row.oom_score_adj,
        );
        let sampling = if source == "kernel" {
            candidates_error()
        } else {
            0
        };
        for (field, bytes, error) in [
            ("rss_bytes", row.rss * page(), sampling),
            // One counter, of which the resident memory is three.
            (
                "swap_bytes",
                row.swapents * page(),
                if_swapping(event, sampling / 3),
            ),
            ("pgtables_bytes", row.pgtables_bytes, 0),
        ] {
            all.near(&name(field), &item[field], bytes, error + slack);
        }
        if let (Some(player), "kernel") = (player, source) {
            let id = player.cgroup_id.to_string();
            all.expect(&name("cgroup_id"), &item["cgroup_id"], id);
        }
    }
}

/// What of the usage is in no process.
fn unowned(all: &mut Differences, event: &Value, report: &Report) {
    let usage = report
        .memcg
        .counters
        .get("memory")
        .map_or(0, |counter| counter.usage_bytes);
    all.near(
        "verdict.unowned_bytes",
        &event["verdict"]["unowned_bytes"],
        usage.saturating_sub(report.held_bytes()),
        if decision_is_hooked(event) {
            charges_in_flight()
        } else {
            0
        },
    );
}

fn node_pages(event: &Value) -> Option<u64> {
    let node = &event["node"];
    Some((node["memory_bytes"].as_u64()? + node["swap_bytes"].as_u64()?) / page())
}

/// `proc_oom_score` in `fs/proc/base.c`.
fn oom_score(row: &Row, node_pages: u64) -> i64 {
    let scaled = row.badness(node_pages) * 1000 / node_pages.cast_signed();
    (1000 + scaled).max(0) * 2 / 3
}

/// Compares the record of a process that died because it shared the victim's memory with the
/// record of the victim.
///
/// # Errors
/// When anything differs.
pub fn mm_sharer(event: &Value, victims: &Value, facts: &Facts, known: &Known<'_>) -> Result<()> {
    let mut differences = Differences::default();
    let all = &mut differences;
    let victim = &event["victim"];
    all.expect("kind", &event["kind"], "oom_kill");
    all.expect("role", &victim["role"], "mm_sharer");
    identity(all, victim, "victim", facts);
    identity(all, &event["trigger"], "trigger", known.trigger);
    all.expect("ppid", &victim["ppid"], facts.ppid);
    all.expect("exe", &victim["exe"], facts.exe.as_str());
    times(all, event, facts, known.between);
    all.expect("oom_id", &event["oom_id"], victims["oom_id"].clone());
    let memory = victims["victim"]["memory"].clone();
    all.expect("memory", &victim["memory"], memory);
    for name in ["victim_index", "victim_count"] {
        all.expect(name, &event["oom"][name], victims["oom"][name].clone());
    }
    if decision_is_hooked(event) {
        all.expect("oom", &event["oom"], victims["oom"].clone());
        let candidates = &victims["candidates"];
        all.expect("candidates", &event["candidates"], candidates.clone());
    }
    differences.none(event)
}

/// A task that was marked and not killed, because it was exiting.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    /// The task.
    pub victim: &'a Facts,
    /// What it had resident.
    pub resident_bytes: u64,
    /// The task that asked for memory.
    pub trigger: &'a Facts,
    /// The limit for which it was chosen; none where it asked for memory itself, and nobody was
    /// chosen.
    pub limit: Option<&'a Limit>,
    /// `CLOCK_BOOTTIME` before and after.
    pub between: (u64, u64),
}

/// Compares the record of a mark with what is known of it. The kernel prints nothing about it.
///
/// # Errors
/// When anything differs.
pub fn mark(event: &Value, known: &Mark<'_>) -> Result<()> {
    let mut differences = Differences::default();
    let all = &mut differences;
    all.expect("kind", &event["kind"], "oom_mark");
    all.expect("source.merged", &event["source"]["merged"], json!([]));
    identity(all, &event["trigger"], "trigger", known.trigger);
    let path = match known.limit {
        Some(_) => "chosen_task",
        None => "allocating_task",
    };
    let oom = &event["oom"];
    all.expect("oom.mark_path", &oom["mark_path"], path);
    all.expect("oom.node_memory", &oom["node_memory"], Value::Null);
    marked(all, event, known)?;
    match known.limit.filter(|_| decision_is_hooked(event)) {
        Some(limit) => {
            all.expect("constraint", &oom["constraint"], "memcg");
            all.expect("scope", &oom["scope"], "slice");
            all.expect("total_bytes", &oom["total_bytes"], limit.bytes);
            all.expect("sysrq", &oom["sysrq"], false);
            let memcg = &oom["memcg"];
            all.expect("memcg.path", &memcg["path"], limit.path.as_str());
            all.expect("memcg.id", &memcg["id"], limit.id.to_string());
            all.expect("memcg.limit_bytes", &memcg["limit_bytes"], limit.bytes);
            all.expect("memcg.oom_group", &memcg["oom_group"], limit.oom_group);
            all.expect("memcg.stat", &memcg["stat"], Value::Null);
        }
        None => {
            for name in [
                "constraint",
                "scope",
                "message",
                "gfp_mask",
                "gfp_flags",
                "order",
                "sysrq",
                "total_bytes",
                "memcg",
            ] {
                all.expect(name, &oom[name], Value::Null);
            }
        }
    }
    let candidates = &event["candidates"];
    if known.limit.is_some() && candidates_are_hooked(event) {
        all.expect("candidates.source", &candidates["source"], "kernel");
        let first = &candidates["items"][0];
        all.expect("the first candidate", &first["pid"], known.victim.pid);
        let points = &first["badness_pages"];
        let found = &event["victim"]["badness_pages"];
        all.expect("badness_pages", found, points.clone());
        all.expect("rank", &event["verdict"]["victim_rank"], 1);
        let next = &event["verdict"]["runner_up_pid"];
        all.expect("runner_up_pid", next, known.trigger.pid);
    } else {
        all.expect("candidates", candidates, Value::Null);
        unranked(all, &event["verdict"]);
    }
    let code = &event["verdict"]["code"];
    all.expect("verdict.code", code, "already_exiting");
    differences.none(event)
}

/// The marked task itself.
fn marked(all: &mut Differences, event: &Value, known: &Mark<'_>) -> Result<()> {
    let facts = known.victim;
    let victim = &event["victim"];
    all.expect("victim.tid", &victim["tid"], facts.tid);
    let chosen = known.limit.map(|_| "chosen");
    all.expect("victim.role", &victim["role"], chosen);
    // Where the tracepoint does not pass the task, the decision alone tells more than its thread id.
    let by_thread_id =
        known.limit.is_some() && !Btf::of_this_kernel()?.passes_a_pointer("mark_victim")?;
    if by_thread_id && !decision_is_hooked(event) && victim["pid"].is_null() {
        for name in ["pid", "comm", "uid", "exe", "cgroup", "memory"] {
            all.expect(&format!("victim.{name}"), &victim[name], Value::Null);
        }
        return Ok(());
    }
    identity(all, victim, "victim", facts);
    all.expect("victim.ppid", &victim["ppid"], facts.ppid);
    all.expect("victim.exe", &victim["exe"], facts.exe.as_str());
    times(all, event, facts, known.between);
    let rss = ["anon_rss_bytes", "file_rss_bytes", "shmem_rss_bytes"]
        .iter()
        .filter_map(|name| victim["memory"][name].as_u64())
        .sum::<u64>();
    all.near(
        "resident memory",
        &json!(rss),
        known.resident_bytes,
        // Like the report, /proc leaves out what processors keep to themselves.
        3 * processors_share().max(reports_error()),
    );
    Ok(())
}

/// Compares the record of what became of a victim with the record of its kill or mark.
///
/// # Errors
/// When anything differs.
pub fn outcome(kill: &Value, outcome: &Value) -> Result<()> {
    let mut differences = Differences::default();
    let all = &mut differences;
    latency_of(all, kill, outcome);
    differences.none(outcome)
}

/// What became of a victim that we held, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct HeldBack {
    /// Whether the OOM reaper took its memory meanwhile.
    pub reaped: bool,
    /// Whether the OOM reaper tried in vain.
    pub reap_skipped: bool,
    /// `CLOCK_BOOTTIME` before it was let go, and after its end was seen.
    pub ended_between: (u64, u64),
}

/// Compares the record of the exit of a victim that we held back with the record of its kill or
/// mark.
///
/// # Errors
/// When anything differs.
pub fn late_outcome(kill: &Value, outcome: &Value, held: &HeldBack) -> Result<()> {
    let mut differences = Differences::default();
    let all = &mut differences;
    let (before, after) = held.ended_between;
    let began = boottime(kill).unwrap_or_default();
    let latency = latency_of(all, kill, outcome);
    all.hold(
        latency.is_some_and(|ns| (before - began..=after - began).contains(&ns)),
        || {
            format!(
                "gone after {latency:?} ns, not between {} and {}",
                before - began,
                after - began
            )
        },
    );
    all.expect("state", &outcome["state"], "exited");
    all.expect("reaped", &outcome["reaped"], held.reaped);
    all.expect("reap_skipped", &outcome["reap_skipped"], held.reap_skipped);
    differences.none(outcome)
}

/// Compares the record that a victim is stuck with the record of its kill.
///
/// # Errors
/// When anything differs.
pub fn stuck(kill: &Value, outcome: &Value) -> Result<()> {
    let mut differences = Differences::default();
    let all = &mut differences;
    same_victim(all, kill, outcome, "stuck");
    all.expect("state", &outcome["state"], "stuck");
    let latency = &outcome["exit_latency_ns"];
    all.expect("exit_latency_ns", latency, Value::Null);
    let waited = boottime(outcome)
        .zip(boottime(kill))
        .and_then(|(now, kill)| now.checked_sub(kill));
    all.hold(waited >= Some(10_000_000_000), || {
        format!("it was called stuck after {waited:?} ns")
    });
    differences.none(outcome)
}

/// The machine's memory, as read when the outcome was written.
fn afterwards(all: &mut Differences, outcome: &Value) {
    let after = &outcome["after"];
    all.hold(boottime(after) >= boottime(outcome), || {
        format!("the memory afterwards is of {:?}", boottime(after))
    });
    let total = outcome["node"]["memory_bytes"].as_u64();
    for free in [&after["mem_free_bytes"], &after["mem_available_bytes"]] {
        all.hold(free.as_u64().is_some() && free.as_u64() < total, || {
            format!("{free} bytes are free")
        });
    }
}

fn boottime(record: &Value) -> Option<u64> {
    record["boottime_ns"].as_str()?.parse().ok()
}

/// The time from the kill to the exit, which the record must have right.
fn latency_of(all: &mut Differences, kill: &Value, outcome: &Value) -> Option<u64> {
    same_victim(all, kill, outcome, "outcome");
    let latency = boottime(outcome)
        .zip(boottime(kill))
        .and_then(|(exit, kill)| exit.checked_sub(kill));
    all.hold(latency.is_some(), || "it was gone before".to_owned());
    all.expect("exit_latency_ns", &outcome["exit_latency_ns"], latency);
    latency
}

fn same_victim(all: &mut Differences, kill: &Value, outcome: &Value, name: &str) {
    afterwards(all, outcome);
    let id = kill["event_id"].as_str().unwrap_or_default();
    all.expect("event_id", &outcome["event_id"], format!("{id}-{name}"));
    all.expect("victim_event_id", &outcome["victim_event_id"], id);
    all.expect("oom_id", &outcome["oom_id"], kill["oom_id"].clone());
    all.expect("run_id", &outcome["run_id"], kill["run_id"].clone());
    for field in ["pid", "comm"] {
        all.expect(
            &format!("victim.{field}"),
            &outcome["victim"][field],
            kill["victim"][field].clone(),
        );
    }
    all.hold(outcome["seq"].as_u64() > kill["seq"].as_u64(), || {
        "it came before".to_owned()
    });
}
