//! The view for a person: a kill in a few aligned lines, who, whose limit, why, by whom.
//!
//! Names are any bytes their owners chose. Nothing of them reaches a terminal that could move its
//! cursor, change its colours or turn the direction of the text.

use std::fmt::{self, Display, Write};

use anstyle::{AnsiColor, Style};

use crate::event::{
    Candidates, Constraint, Container, Event, EvictedContainer, Head, LateEnrichment, Loss,
    LossPlace, Memcg, Oom, OomKill, OomOutcome, Phase, Pod, PodEviction, Role, Scope, Status,
    Trigger, UserspaceKill, Victim, VictimMemory, VictimState,
};
use crate::explain::{amount, brief};
use crate::report::count;

const ALARM: Style = AnsiColor::Red.on_default().bold();
pub(super) const WARN: Style = AnsiColor::Yellow.on_default();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const BOLD: Style = Style::new().bold();

/// Appends what a person wants to see of the event to `out`: nothing for a heartbeat.
pub fn pretty(event: &Event, color: bool, out: &mut Vec<u8>) {
    let page = Paint { color };
    let text = match event {
        Event::OomKill(kill) => page.kill(kill),
        Event::OomMark(mark) => page.mark(mark),
        Event::OomOutcome(outcome) => page.outcome(outcome),
        Event::Enrichment(late) => page.late(late),
        Event::PodEviction(eviction) => page.eviction(eviction),
        Event::UserspaceKill(kill) => page.userspace_kill(kill),
        Event::Loss(loss) => page.loss(loss),
        Event::Status(status) => page.status(status),
    };
    out.extend_from_slice(text.as_bytes());
}

/// Writes in colour, or not.
#[derive(Clone, Copy)]
pub(crate) struct Paint {
    pub(crate) color: bool,
}

impl Paint {
    pub(super) fn on(self, style: Style, text: impl Display) -> String {
        if self.color {
            format!("{style}{text}{style:#}")
        } else {
            text.to_string()
        }
    }

    fn line(self, text: &mut String, label: &str, value: &str) {
        if !value.is_empty() {
            let _ = writeln!(
                text,
                "  {}  {value}",
                self.on(DIM, format_args!("{label:<8}"))
            );
        }
    }

    fn kill(self, event: &OomKill) -> String {
        let OomKill {
            head,
            oom,
            trigger,
            victim,
            candidates,
            ..
        } = event;
        let mut text = format!(
            "{}  {}  {} {}  {}\n",
            self.on(DIM, clock(head)),
            self.on(ALARM, "KILLED"),
            self.on(BOLD, comm(victim.comm.as_deref())),
            pid(victim.pid, victim.tid),
            what_ran_out(oom),
        );
        self.line(&mut text, "why", &why(event));
        self.line(&mut text, "who", &self.who(victim, oom));
        self.line(
            &mut text,
            "pod",
            &place(victim.pod.as_ref(), victim.container.as_ref()),
        );
        if victim.pod.is_none() {
            self.line(
                &mut text,
                "cgroup",
                &path(victim.cgroup.as_ref().and_then(|c| c.path.as_ref())),
            );
        }
        self.line(&mut text, "limit", &self.limit(oom));
        self.line(&mut text, "memory", &memory(victim.memory.as_ref()));
        self.line(&mut text, "score", &self.score(event, candidates.as_ref()));
        self.line(&mut text, "trigger", &who_asked(trigger, victim, oom));
        text.push('\n');
        text
    }

    pub(super) fn who(self, victim: &Victim, oom: &Oom) -> String {
        let mut parts = Vec::new();
        if let Some(exe) = &victim.exe {
            parts.push(shown(exe).to_string());
        }
        parts.extend(victim.uid.map(|uid| format!("uid {uid}")));
        parts.extend(victim.ppid.map(|ppid| format!("parent {ppid}")));
        match (victim.role, oom.victim_count) {
            (Some(Role::GroupMember), _) => {
                parts.push(self.on(WARN, "killed with its group"));
            }
            (Some(Role::MmSharer), _) => {
                parts.push(self.on(WARN, "killed with the victim whose memory it shares"));
            }
            (_, Some(count)) if count > 1 => {
                parts.push(self.on(WARN, format_args!("chosen; {count} die with its group")));
            }
            _ => {}
        }
        parts.join("  ")
    }

    pub(crate) fn limit(self, oom: &Oom) -> String {
        let Some(memcg) = &oom.memcg else {
            return match oom.constraint {
                Some(Constraint::None) => format!(
                    "the node's memory and swap, {}{}",
                    bytes(oom.total_bytes),
                    lowest_zone(oom)
                ),
                Some(Constraint::Cpuset) => {
                    format!("the memory nodes of a cpuset{}", lowest_zone(oom))
                }
                Some(Constraint::MemoryPolicy) => {
                    format!("the nodes of a memory policy{}", lowest_zone(oom))
                }
                Some(Constraint::Memcg) => self.on(
                    WARN,
                    "which cgroup's is unknown: the kernel's report is missing",
                ),
                None => self.on(WARN, "unknown: the kernel's report is missing"),
            };
        };
        let Memcg {
            path: memcg_path,
            usage_bytes,
            limit_bytes,
            ..
        } = memcg;
        let mut text = format!("{} of {}", bytes(*usage_bytes), bytes(*limit_bytes));
        if let (Some(usage), Some(limit @ 1..)) = (usage_bytes, limit_bytes) {
            let percent = u128::from(*usage) * 100 / u128::from(*limit);
            let _ = write!(text, " ({percent} %)");
        }
        let _ = write!(text, "  {}", path(memcg_path.as_ref()));
        text
    }

    fn score(self, event: &OomKill, candidates: Option<&Candidates>) -> String {
        let victim = &event.victim;
        let mut text = match victim.badness_pages {
            Some(pages) => format!("{pages} pages"),
            None => "points unknown".to_owned(),
        };
        if let (Some(verdict), Some(candidates)) = (&event.verdict, candidates) {
            if let Some(rank) = verdict.victim_rank {
                let _ = write!(text, ", rank {rank} of {}", candidates.total);
            }
            if let (Some(next), Some(margin)) = (verdict.runner_up_pid, verdict.margin_pages) {
                let name = candidates.items.iter().find(|item| item.pid == next);
                let name = comm(name.map(|item| item.comm.as_str()));
                let _ = write!(text, ", {margin} ahead of {name} {}", pid(Some(next), None));
            }
        }
        if let Some(adj) = victim.oom_score_adj {
            let _ = write!(text, "  oom_score_adj {adj}");
        }
        if let Some(score) = victim.oom_score {
            let _ = write!(text, "  oom_score {score}");
        }
        text
    }

    fn mark(self, event: &OomKill) -> String {
        let OomKill { head, victim, .. } = event;
        format!(
            "{}  {}  {} {}  was already exiting; it may use memory reserves to finish\n\n",
            self.on(DIM, clock(head)),
            self.on(WARN, "MARKED"),
            self.on(BOLD, comm(victim.comm.as_deref())),
            pid(victim.pid, victim.tid),
        )
    }

    fn outcome(self, event: &OomOutcome) -> String {
        let OomOutcome {
            head,
            victim,
            state,
            exit_latency_ns,
            reaped,
            ..
        } = event;
        let (label, what) = match (state, exit_latency_ns) {
            (VictimState::Exited, Some(latency)) => (
                self.on(DIM, "gone"),
                format!("{:.1} ms after the kill", *latency as f64 / 1e6),
            ),
            (VictimState::Exited, None) => (self.on(DIM, "gone"), String::new()),
            (VictimState::Stuck, _) => (
                self.on(ALARM, "STUCK"),
                "still there 10 s after the kill".to_owned(),
            ),
        };
        let how = if *reaped {
            "; the OOM reaper freed its memory"
        } else {
            ""
        };
        format!(
            "{}  {label}    {} {}  {what}{how}\n\n",
            self.on(DIM, clock(head)),
            comm(victim.comm.as_deref()),
            pid(Some(victim.pid), None),
        )
    }

    fn late(self, event: &LateEnrichment) -> String {
        let Some(pod) = &event.victim.pod else {
            return String::new();
        };
        let whose = place(Some(pod), event.victim.container.as_ref());
        let text = if pod.name.is_some() {
            format!("the victim was in {whose}")
        } else {
            "the victim's pod is not known to any source".to_owned()
        };
        format!(
            "{}  {}    {text}\n\n",
            self.on(DIM, clock(&event.head)),
            self.on(DIM, "pod"),
        )
    }

    fn eviction(self, event: &PodEviction) -> String {
        let mut text = format!(
            "{}  {}  pod {}",
            self.on(DIM, clock(&event.head)),
            self.on(ALARM, "EVICTED"),
            place(Some(&event.pod), None),
        );
        if let Some(resource) = &event.eviction.resource {
            let _ = write!(text, ", because the node was low on {}", shown(resource));
        }
        text.push('\n');
        for EvictedContainer {
            name,
            usage_bytes,
            request_bytes,
        } in &event.eviction.containers
        {
            let bytes = |bytes: &Option<u64>| bytes.map_or("?".to_owned(), amount);
            let value = format!(
                "{} used {}, requested {}",
                shown(name),
                bytes(usage_bytes),
                bytes(request_bytes)
            );
            self.line(&mut text, "over", &value);
        }
        text.push('\n');
        text
    }

    fn userspace_kill(self, event: &UserspaceKill) -> String {
        format!(
            "{}  {}  {} killed {}: {}\n\n",
            self.on(DIM, clock(&event.head)),
            self.on(ALARM, "KILLED"),
            shown(&event.killer),
            shown(&event.cgroup_path),
            shown(&event.reason),
        )
    }

    fn loss(self, event: &Loss) -> String {
        let place = match event.place {
            LossPlace::RingBuffer => "because they came faster than they could be read",
            LossPlace::KernelLog => "of the kernel log; kills may lack what only the log tells",
            LossPlace::Sink => "that waited for a sink, because there were too many",
        };
        let lost = event
            .lost
            .map_or("an unknown number of".to_owned(), |lost| lost.to_string());
        format!(
            "{}  {}    {lost} records {place} ({} of them kills)\n\n",
            self.on(DIM, clock(&event.head)),
            self.on(ALARM, "LOST"),
            event.lost_kills,
        )
    }

    fn status(self, event: &Status) -> String {
        if event.phase != Phase::Stop {
            return String::new();
        }
        let totals = &event.totals;
        let mut text = format!(
            "{}  {}    {}, {}, {} lost",
            self.on(DIM, clock(&event.head)),
            self.on(DIM, "stop"),
            count(totals.kills, "kill"),
            count(totals.marks, "mark"),
            count(totals.lost, "record"),
        );
        match &event.reconciliation {
            Some(counts) if counts.unaccounted == 0 => {
                let _ = write!(
                    text,
                    "; the kernel counted {}, all accounted for",
                    counts.kernel_oom_kills
                );
            }
            Some(counts) => {
                let _ = write!(
                    text,
                    "; {}",
                    self.on(
                        ALARM,
                        format_args!(
                            "the kernel counted {}, {} unaccounted for",
                            counts.kernel_oom_kills, counts.unaccounted
                        )
                    )
                );
            }
            None => {}
        }
        text.push('\n');
        text
    }
}

fn why(event: &OomKill) -> String {
    let summary = event
        .verdict
        .as_ref()
        .and_then(|verdict| verdict.summary.as_deref());
    summary.map_or_else(String::new, |summary| shown(summary).to_string())
}

fn what_ran_out(oom: &Oom) -> &'static str {
    if oom.sysrq == Some(true) {
        return "because somebody asked for it (SysRq-f)";
    }
    match oom.scope {
        Some(Scope::Container) => "its container's memory limit was hit",
        Some(Scope::Pod) => "a pod's memory limit was hit",
        Some(Scope::Qos) => "a QoS class's memory limit was hit",
        Some(Scope::Kubepods) => "the pods together hit the node's allocatable memory",
        Some(Scope::Slice) => "a cgroup's memory limit was hit",
        Some(Scope::Node) => "the node ran out of memory",
        Some(Scope::Cpuset) => "a cpuset ran out of memory",
        Some(Scope::MemoryPolicy) => "the nodes of a memory policy ran out of memory",
        None if oom.constraint == Some(Constraint::Memcg) => "a memory cgroup's limit was hit",
        None => "",
    }
}

/// The zone that is lowest, measured by its own minimum.
fn lowest_zone(oom: &Oom) -> String {
    let zones = oom.node_memory.iter().flat_map(|memory| &memory.zones);
    let lowest = zones
        .filter_map(|zone| {
            let min = zone.min_bytes.filter(|min| *min > 0)?;
            Some((zone, zone.free_bytes?, min))
        })
        .min_by(|(_, free, min), (_, other_free, other_min)| {
            let share = u128::from(*free) * u128::from(*other_min);
            share.cmp(&(u128::from(*other_free) * u128::from(*min)))
        });
    let Some((zone, free, min)) = lowest else {
        return String::new();
    };
    let node = zone.node.map(|node| format!(" of node {node}"));
    format!(
        "; zone {}{} has {} free, its minimum is {}",
        shown(&zone.zone),
        node.unwrap_or_default(),
        bytes(Some(free)),
        bytes(Some(min)),
    )
}

pub(crate) fn place(pod: Option<&Pod>, container: Option<&Container>) -> String {
    let mut parts = Vec::new();
    if let Some(pod) = pod {
        match (&pod.namespace, &pod.name) {
            (Some(namespace), Some(name)) => {
                parts.push(format!("{}/{}", shown(namespace), shown(name)));
            }
            _ => parts.push(shown(&pod.uid).to_string()),
        }
        parts.extend(pod.qos_class.map(|class| class.name().to_owned()));
    }
    if let Some(container) = container {
        let name = container
            .name
            .as_deref()
            .unwrap_or(container.id.get(..12).unwrap_or_default());
        let runtime = container
            .runtime
            .as_deref()
            .map(|runtime| format!(" ({runtime})"));
        parts.push(format!(
            "container {}{}",
            shown(name),
            runtime.unwrap_or_default()
        ));
    }
    parts.join("  ")
}

pub(crate) fn memory(memory: Option<&VictimMemory>) -> String {
    let Some(memory) = memory else {
        return "already gone".to_owned();
    };
    let VictimMemory {
        total_vm_bytes: _,
        anon_rss_bytes,
        file_rss_bytes,
        shmem_rss_bytes,
        swap_bytes,
        pgtables_bytes,
    } = *memory;
    let mut text = String::new();
    for (name, amount) in [
        ("anon", anon_rss_bytes),
        ("file", file_rss_bytes),
        ("shmem", shmem_rss_bytes),
        ("swap", swap_bytes),
        ("page tables", pgtables_bytes),
    ] {
        if amount.is_none() {
            continue;
        }
        let joint = if text.is_empty() { "" } else { "  " };
        let _ = write!(text, "{joint}{name} {}", bytes(amount));
    }
    text
}

pub(crate) fn who_asked(trigger: &Trigger, victim: &Victim, oom: &Oom) -> String {
    if oom.sysrq == Some(true) {
        return "SysRq; nobody's allocation".to_owned();
    }
    if trigger.pid.is_some() && trigger.pid == victim.pid {
        return "the victim itself".to_owned();
    }
    let mut text = format!(
        "{} {}",
        comm(trigger.comm.as_deref()),
        pid(trigger.pid, trigger.tid)
    );
    let place = place(trigger.pod.as_ref(), trigger.container.as_ref());
    if trigger.pod.is_some() && trigger.pod == victim.pod {
        text.push_str("  in the same pod");
    } else if !place.is_empty() {
        let _ = write!(text, "  in {place}");
    } else if let Some(cgroup) = trigger
        .cgroup
        .as_ref()
        .and_then(|cgroup| cgroup.path.as_ref())
    {
        let _ = write!(text, "  in {}", path(Some(cgroup)));
    }
    text
}

pub(crate) fn pid(pid: Option<u32>, tid: Option<u32>) -> String {
    match (pid, tid) {
        (Some(pid), Some(tid)) if tid != pid => format!("(pid {pid}, thread {tid})"),
        (Some(pid), _) => format!("(pid {pid})"),
        (None, Some(tid)) => format!("(thread {tid})"),
        (None, None) => "(pid unknown)".to_owned(),
    }
}

pub(crate) fn comm(name: Option<&str>) -> String {
    name.map_or_else(
        || "(name unknown)".to_owned(),
        |name| shown(name).to_string(),
    )
}

/// A path, its middle left out when it is long.
pub(crate) fn path(path: Option<&String>) -> String {
    path.map_or_else(
        || "(path unknown)".to_owned(),
        |path| shown(&brief(path, 100)).to_string(),
    )
}

/// The time of day of an RFC 3339 time, to the millisecond.
pub(super) fn time_of_day(time: &str) -> &str {
    time.get(11..23).unwrap_or(time)
}

/// The time of day; without a date, the time since boot as dmesg has it.
pub(crate) fn clock(head: &Head) -> String {
    if let Some(time) = &head.time {
        return time_of_day(time).to_owned();
    }
    let since_boot = head.boottime_ns.as_ref().and_then(|ns| ns.parse().ok());
    since_boot.map_or("at some time".to_owned(), |ns: u64| {
        format!("[{:5}.{:06}]", ns / 1_000_000_000, ns / 1000 % 1_000_000)
    })
}

/// An amount of memory.
pub(super) fn bytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unknown".to_owned(), amount)
}

/// Control characters, and those that are not seen or turn the direction of the text.
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A name that is safe on a terminal: control characters, and those that turn the direction of
/// the text, are written out.
pub(crate) fn shown(name: &str) -> impl Display {
    struct Shown<'a>(&'a str);
    impl Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.chars().try_for_each(|character| {
                if is_hidden(character) || character == '\\' {
                    write!(f, "{}", character.escape_default())
                } else {
                    f.write_char(character)
                }
            })
        }
    }
    Shown(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Escape sequences, newlines, C1 controls and bidirectional overrides do not survive.
    #[test]
    fn names_cannot_drive_the_terminal() {
        let name = "\u{1b}[31mroot\n\u{9b}2J\u{202e}gpj.exe\\";
        let text = shown(name).to_string();
        assert_eq!(text, "\\u{1b}[31mroot\\n\\u{9b}2J\\u{202e}gpj.exe\\\\");
        assert!(!text.chars().any(char::is_control));
    }

    /// The zone named is the one lowest by its own minimum, not the smallest one; none without zones.
    #[test]
    fn lowest_zone_by_its_minimum() {
        let zone = |node, zone: &str, free: u64, min: u64| crate::event::ZoneMemory {
            node,
            zone: zone.to_owned(),
            free_bytes: Some(free << 20),
            min_bytes: Some(min << 20),
            ..crate::event::ZoneMemory::default()
        };
        let mut oom = Oom::default();
        assert_eq!(lowest_zone(&oom), "");
        oom.node_memory = Some(crate::event::NodeMemory {
            zones: vec![
                zone(Some(0), "DMA", 15, 1),
                zone(Some(0), "Movable", 0, 0),
                zone(Some(1), "Normal", 35, 36),
                zone(None, "DMA32", 60, 40),
            ],
            ..crate::event::NodeMemory::default()
        });
        assert_eq!(
            lowest_zone(&oom),
            "; zone Normal of node 1 has 35.0 MiB free, its minimum is 36.0 MiB"
        );
    }
}
