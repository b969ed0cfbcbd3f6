//! The verdict in one or two sentences: what ran out, and why this one. Only what is known is said.

use std::fmt::Write;

use super::{
    verdict::{Case, Ranked, held_bytes},
    words::{amount, brief, process},
};
use crate::event::{Constraint, MarkPath, Role, Scope, VerdictCode, VerdictFlag, Victim};

/// What `out_of_memory` (`mm/oom_kill.c`) calls a decision that compared nobody.
const ALLOCATING_TASK: &str = "Out of memory (oom_kill_allocating_task)";
/// Paths of cgroups are shown up to this many characters.
const PATH: usize = 60;

pub(super) fn summary(case: &Case<'_>, code: Option<VerdictCode>, flags: &[VerdictFlag]) -> String {
    let Case { victim, oom, .. } = case;
    let who = process(victim.comm.as_deref(), victim.pid.or(victim.tid));
    if !case.killed {
        let when = match oom.mark_path {
            Some(MarkPath::AllocatingTask) => " when it ran into the OOM killer",
            Some(MarkPath::ChosenTask) => " when the kernel chose it",
            None => "",
        };
        return format!(
            "{who} was already exiting{when}: it may use memory reserves to finish, and no signal \
             was sent."
        );
    }
    let mut text = format!("{who}{} was killed because ", place(victim));
    what_ran_out(case, code, flags, &mut text);
    text.push('.');
    why_this_one(case, flags, &mut text);
    text
}

/// Where the victim is, by name.
fn place(victim: &Victim) -> String {
    let mut text = String::new();
    if let Some(container) = victim.container.as_ref().and_then(|c| c.name.as_ref()) {
        let _ = write!(text, " in container {container}");
    }
    let names = victim.pod.as_ref().map(|pod| (&pod.namespace, &pod.name));
    if let Some((Some(namespace), Some(name))) = names {
        let joint = if text.is_empty() { "in" } else { "of" };
        let _ = write!(text, " {joint} pod {namespace}/{name}");
    }
    text
}

fn what_ran_out(
    case: &Case<'_>,
    code: Option<VerdictCode>,
    flags: &[VerdictFlag],
    text: &mut String,
) {
    let Case { oom, .. } = case;
    let memcg = oom.memcg.as_ref();
    if code == Some(VerdictCode::Manual) {
        text.push_str("somebody asked for it by SysRq-f, whether or not memory was short");
        return;
    }
    let limit = memcg.and_then(|memcg| memcg.limit_bytes);
    let of = |amount_of: Option<u64>| {
        amount_of.map_or_else(String::new, |bytes| format!(" of {}", amount(bytes)))
    };
    let _ = match oom.scope {
        Some(Scope::Container) => {
            write!(text, "its container reached its memory limit{}", of(limit))
        }
        Some(Scope::Pod) if flags.contains(&VerdictFlag::OnlyContainerOfPod) => write!(
            text,
            "its pod reached its memory limit{}, which is the limit of this one container",
            of(limit)
        ),
        Some(Scope::Pod) => write!(text, "its pod reached its memory limit{}", of(limit)),
        Some(Scope::Qos) => {
            let class = case.victim.pod.as_ref().and_then(|pod| pod.qos_class);
            let pods = class.map_or_else(
                || "the pods of its QoS class".to_owned(),
                |class| format!("the {} pods", class.name()),
            );
            write!(
                text,
                "{pods} together reached the memory limit{} of their QoS class",
                of(limit)
            )
        }
        Some(Scope::Kubepods) => write!(
            text,
            "all pods together reached the node's allocatable memory{}, not because of a limit of \
             its own",
            of(limit)
        ),
        Some(Scope::Slice) => {
            let path = memcg.and_then(|memcg| memcg.path.as_deref());
            let path = path.map_or_else(
                || "its cgroup".to_owned(),
                |path| format!("cgroup {}", brief(path, PATH)),
            );
            write!(text, "{path} reached its memory limit{}", of(limit))
        }
        Some(Scope::Node) => {
            let swap = if oom.total_bytes == case.capacity_bytes {
                ""
            } else {
                " with swap"
            };
            let total = oom
                .total_bytes
                .map(|total| format!(" ({}{swap})", amount(total)));
            write!(
                text,
                "the node ran out of memory{}",
                total.unwrap_or_default()
            )
        }
        Some(Scope::Cpuset) => write!(text, "the memory nodes of a cpuset ran out"),
        Some(Scope::MemoryPolicy) => write!(text, "the nodes of a NUMA memory policy ran out"),
        None if oom.constraint == Some(Constraint::Memcg) => {
            write!(
                text,
                "a memory cgroup reached its limit, it is unknown which"
            )
        }
        None => write!(text, "memory ran out; whose limit it was is unknown"),
    };
    if let (Some(VerdictCode::UnownedMemory), Some(unowned)) = (code, case.unowned_bytes) {
        let _ = write!(
            text,
            ", but {} of that is in no process (files on tmpfs, page cache, kernel memory)",
            amount(unowned)
        );
    }
}

fn why_this_one(case: &Case<'_>, flags: &[VerdictFlag], text: &mut String) {
    let Case { oom, victim, .. } = case;
    let before = text.len();
    text.push(' ');
    if victim.role == Some(Role::MmSharer) {
        text.push_str("It shares the memory of another victim, and died with it");
    } else if case.died_with_group() {
        let all = match oom.victim_count {
            Some(count) => format!("all {count}"),
            None => "all".to_owned(),
        };
        let what = if flags.contains(&VerdictFlag::WholeContainerKilled) {
            "processes of its container"
        } else {
            "processes of its group"
        };
        let _ = write!(
            text,
            "With memory.oom.group set, {all} {what} died together"
        );
    } else if oom.message.as_deref() == Some(ALLOCATING_TASK) {
        text.push_str(
            "With vm.oom_kill_allocating_task set, the kernel takes whoever asks for memory",
        );
    } else if flags.contains(&VerdictFlag::Bystander) {
        text.push_str(
            "Its container used less than its memory request, while another was over its own",
        );
    } else {
        ranking(case, text);
    }
    if text.len() == before + 1 {
        text.pop();
        return;
    }
    if flags.contains(&VerdictFlag::TriggerInAnotherPod) {
        let trigger = case.trigger;
        let who = process(trigger.comm.as_deref(), trigger.pid);
        let _ = write!(text, "; the memory was asked for by {who}, in another pod");
    }
    text.push('.');
}

/// What put it ahead of the candidate that comes next.
fn ranking(case: &Case<'_>, text: &mut String) {
    let Some(Ranked { items, total, .. }) = case.ranked else {
        return;
    };
    let Some(first) = items
        .first()
        .filter(|first| Some(first.pid) == case.victim.pid)
    else {
        return;
    };
    if total == 1 {
        text.push_str("No other process could be chosen");
        return;
    }
    let Some(next) = items.get(1) else { return };
    let name = process(Some(&next.comm), Some(next.pid));
    let (adj, next_adj) = (first.oom_score_adj, next.oom_score_adj);
    let Some((held, next_held)) = held_bytes(first).zip(held_bytes(next)) else {
        let _ = write!(
            text,
            "It had the most points of {total} candidates, next was {name}"
        );
        return;
    };
    let (more, less) = (amount(held), amount(next_held));
    let _ = if first.badness_pages == next.badness_pages {
        write!(
            text,
            "{name} had as many points; among equals the kernel takes the one it sees later"
        )
    } else if held < next_held {
        write!(
            text,
            "It held less memory than {name}, {more} against {less}, but its oom_score_adj of {adj} \
             against {next_adj} put it first"
        )
    } else if adj != next_adj {
        write!(
            text,
            "It held {more} with an oom_score_adj of {adj}; next was {name} with {less} and {next_adj}"
        )
    } else {
        write!(text, "It held {more}; next was {name} with {less}")
    };
}
