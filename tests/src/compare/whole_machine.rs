//! Kills that no memory cgroup's limit caused: the machine, or some of its memory nodes, ran out.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Contest, Death, Differences, Memory, candidates, candidates_are_hooked, decision_is_hooked,
    identity, log_is_hooked, memory_of_table, page, row_of, sorted, trigger, victim,
};
use crate::{
    facts::Facts,
    oracle::{Account, MachineMemory, Report, Zone},
};

/// By how much memory of processes that do not stand still may change while the kernel prints.
const RESTLESS: u64 = 2 << 20;

/// What ran out.
#[derive(Clone, Copy, Debug)]
pub struct Shortage {
    /// The event's `constraint`.
    pub constraint: &'static str,
    /// The same in the kernel's words.
    pub printed: &'static str,
    /// The event's `scope`.
    pub scope: &'static str,
    /// What the decision could use.
    pub total_bytes: u64,
    /// Whether somebody asked for it by SysRq-f.
    pub sysrq: bool,
}

impl Shortage {
    /// The machine ran out of its memory and swap.
    pub const fn of_the_machine(total_bytes: u64) -> Self {
        Self {
            constraint: "none",
            printed: "CONSTRAINT_NONE",
            scope: "node",
            total_bytes,
            sysrq: false,
        }
    }
}

/// A kill, and all that is known of it from elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The victim.
    pub victim: &'a Facts,
    /// Processes of ours, the victim among them. All but the trigger stand still.
    pub ours: &'a [Facts],
    /// What ran out.
    pub shortage: Shortage,
    /// The kernel's account of the victim.
    pub account: &'a Account,
    /// The kernel's report of the decision.
    pub report: &'a Report,
    /// Whether the victims are killed together, so that the chosen one may be another.
    pub group: bool,
    /// Whether the kernel compared the candidates.
    pub compared: bool,
    /// `CLOCK_BOOTTIME` before and after.
    pub between: (u64, u64),
}

/// Compares an event with all that is known of the kill.
///
/// # Errors
/// When anything differs; the message lists all of it.
pub fn whole(event: &Value, known: &Known<'_>) -> Result<()> {
    let mut differences = Differences::default();
    let all = &mut differences;
    let Known {
        victim: facts,
        report,
        ..
    } = known;
    let death = Death {
        victim: facts,
        account: known.account,
        // It sleeps until SIGKILL wakes it, also where it is the trigger of another.
        memory: Memory::Table,
        between: known.between,
    };
    victim(all, event, &death);
    let logged = log_is_hooked(event);
    decision(all, event, known, logged || decision_is_hooked(event));
    who_asked(all, event, known);
    if logged {
        memory_of_table(all, event, row_of(report, facts)?);
        node_memory(all, &event["oom"]["node_memory"], &report.memory);
    } else {
        let found = &event["oom"]["node_memory"];
        all.expect("oom.node_memory", found, Value::Null);
    }
    if known.compared && (logged || candidates_are_hooked(event)) {
        let still: Vec<Facts> = known
            .ours
            .iter()
            .filter(|facts| Some(facts.tid) != report.trigger_tid)
            .cloned()
            .collect();
        let total_is_known = decision_is_hooked(event) || known.shortage.constraint == "none";
        let contest = Contest {
            total_bytes: total_is_known.then_some(known.shortage.total_bytes),
            group: known.group,
            players: &still,
            others: Some(RESTLESS),
        };
        candidates(all, event, facts, &contest, report);
        let unowned = &event["verdict"]["unowned_bytes"];
        all.expect("verdict.unowned_bytes", unowned, Value::Null);
    } else {
        for (name, found) in [
            ("candidates", &event["candidates"]),
            ("victim_rank", &event["verdict"]["victim_rank"]),
            ("survival", &event["verdict"]["survival"]),
        ] {
            all.expect(name, found, Value::Null);
        }
        // Of the one it chose, the kernel hands the points to what it calls.
        let handed =
            known.compared && decision_is_hooked(event) && event["victim"]["role"] == "chosen";
        let pages = known.shortage.total_bytes / page();
        let points = match handed {
            true => Some(row_of(report, facts)?.badness(pages)),
            false => None,
        };
        let found = &event["victim"]["badness_pages"];
        all.expect("badness_pages", found, points);
    }
    differences.none(event)
}

/// What is known of the decision if it is seen at all, by a hook or in the log.
fn decision(all: &mut Differences, event: &Value, known: &Known<'_>, seen: bool) {
    let Known {
        shortage, report, ..
    } = known;
    let oom = &event["oom"];
    let printed = &report.constraint;
    all.hold(printed.constraint == shortage.printed, || {
        format!("the report is about {}", printed.constraint)
    });
    all.hold(
        known.group || printed.names_of_machine(known.victim),
        || format!("the report is not about this kill: {printed:?}"),
    );
    let total_is_known = decision_is_hooked(event) || shortage.constraint == "none";
    let header = &report.header;
    for (name, expected) in [
        ("constraint", json!(shortage.constraint)),
        ("scope", json!(shortage.scope)),
        ("gfp_mask", json!(header.gfp_mask)),
        ("gfp_flags", json!(header.gfp_flags)),
        ("order", json!(header.order)),
        ("sysrq", json!(shortage.sysrq)),
        (
            "total_bytes",
            json!(total_is_known.then_some(shortage.total_bytes)),
        ),
    ] {
        let expected = if seen { expected } else { Value::Null };
        all.expect(
            &format!("oom.{name}"),
            &sorted(&oom[name]),
            sorted(&expected),
        );
    }
    all.expect("oom.memcg", &oom["memcg"], Value::Null);
    all.expect("oom.mark_path", &oom["mark_path"], Value::Null);
    if !known.group {
        all.expect("oom.victim_index", &oom["victim_index"], 0);
        all.expect("oom.victim_count", &oom["victim_count"], 1);
    }
}

/// Any task may be the one that finds memory exhausted; the report names it.
fn who_asked(all: &mut Differences, event: &Value, known: &Known<'_>) {
    trigger(all, event, known.report);
    let tid = known.report.trigger_tid;
    if let Some(facts) = known.ours.iter().find(|facts| Some(facts.tid) == tid) {
        identity(all, &event["trigger"], "trigger", facts);
    }
}

/// The machine's memory as the report has it.
fn node_memory(all: &mut Differences, found: &Value, printed: &MachineMemory) {
    let bytes = |names: &[&str]| -> Option<u64> {
        let pages = names.iter().map(|name| printed.pages.get(*name));
        Some(pages.sum::<Option<u64>>()? * page())
    };
    for (name, names) in [
        ("free_bytes", &["free"][..]),
        (
            "anon_bytes",
            &["active_anon", "inactive_anon", "isolated_anon"],
        ),
        (
            "file_bytes",
            &["active_file", "inactive_file", "isolated_file"],
        ),
        ("unevictable_bytes", &["unevictable"]),
        ("shmem_bytes", &["shmem"]),
        ("slab_reclaimable_bytes", &["slab_reclaimable"]),
        ("slab_unreclaimable_bytes", &["slab_unreclaimable"]),
        ("pagetables_bytes", &["pagetables"]),
    ] {
        let expected = bytes(names);
        all.hold(expected.is_some(), || {
            format!("the report has no {names:?}")
        });
        all.expect(&format!("node_memory.{name}"), &found[name], expected);
    }
    for (name, expected) in [
        ("swap_free_bytes", printed.swap_free_bytes),
        ("swap_total_bytes", printed.swap_total_bytes),
    ] {
        all.hold(expected.is_some(), || format!("the report has no {name}"));
        all.expect(&format!("node_memory.{name}"), &found[name], expected);
    }
    all.expect("node_memory.page_bytes", &found["page_bytes"], page());
    let zones = &printed.zones;
    all.hold(!zones.is_empty(), || "the report has no zones".to_owned());
    all.expect("zones_total", &found["zones_total"], zones.len());
    let listed = found["zones"].as_array().map_or(0, Vec::len);
    all.hold(listed == zones.len(), || {
        format!("{listed} zones are listed")
    });
    for (index, printed) in zones.iter().enumerate() {
        zone(all, &found["zones"][index], printed);
    }
}

fn zone(all: &mut Differences, found: &Value, printed: &Zone) {
    let name = |field: &str| format!("zone {} {}, {field}", printed.node, printed.name);
    all.expect(&name("node"), &found["node"], printed.node);
    all.expect(&name("zone"), &found["zone"], printed.name.as_str());
    for field in [
        "free",
        "min",
        "low",
        "high",
        "boost",
        "managed",
        "reserved_highatomic",
        "free_cma",
    ] {
        let bytes = printed.bytes.get(field).copied();
        // Added to the report after 5.10.
        all.hold(bytes.is_some() || field == "boost", || {
            format!("the report has no {}", name(field))
        });
        all.expect(&name(field), &found[format!("{field}_bytes")], bytes);
    }
    let reserve: Vec<u64> = printed
        .lowmem_reserve
        .iter()
        .map(|pages| pages * page())
        .collect();
    all.expect(&name("reserve"), &found["lowmem_reserve_bytes"], reserve);
    let blocks = || printed.blocks.iter();
    all.hold(
        !printed.blocks.is_empty()
            && (0..)
                .zip(blocks())
                .all(|(order, (_, bytes))| *bytes == page() << order),
        || format!("the report's {} are {:?}", name("blocks"), printed.blocks),
    );
    let counts: Vec<u64> = blocks().map(|(count, _)| *count).collect();
    all.expect(&name("blocks"), &found["free_by_order"], counts);
}
