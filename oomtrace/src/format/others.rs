//! Pages and sentences about what the kernel has no part in: pods that the kubelet evicted, cgroups
//! that systemd-oomd killed.

use super::{
    commands::{of_eviction, of_userspace_kill},
    page::Page,
    pretty::{path, place, shown},
};
use crate::{
    event::{Event, EvictedContainer, NodeCondition, PodEviction, UserspaceKill},
    explain::amount,
};

/// The page about such a record; empty for another one.
pub fn page_of_other(event: &Event, width: usize, color: bool) -> String {
    let mut page = Page::new(width, color);
    match event {
        Event::PodEviction(event) => eviction(&mut page, event),
        Event::UserspaceKill(event) => userspace_kill(&mut page, event),
        _ => {}
    }
    page.text
}

/// What happened, in a sentence.
pub(crate) fn what_was_evicted(event: &PodEviction) -> String {
    let PodEviction { pod, eviction, .. } = event;
    let who = match (&pod.namespace, &pod.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => pod.uid.clone(),
    };
    let why = eviction
        .resource
        .as_ref()
        .map(|resource| format!(" because the node was low on {resource}"));
    let left = match (eviction.available_bytes, eviction.threshold_bytes) {
        (Some(available), Some(threshold)) => format!(
            ": {} were left, {} were to be",
            amount(available),
            amount(threshold)
        ),
        _ => String::new(),
    };
    format!(
        "The kubelet evicted pod {who}{}{left}.",
        why.unwrap_or_default()
    )
}

/// What happened, in a sentence.
pub(crate) fn what_was_killed(event: &UserspaceKill) -> String {
    let UserspaceKill {
        killer,
        reason,
        cgroup_path,
        ..
    } = event;
    format!("{killer} killed all processes of cgroup {cgroup_path}: {reason}.")
}

/// What a container used and requested.
pub(crate) fn over(container: &EvictedContainer) -> String {
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), amount);
    format!(
        "{} used {}, requested {}",
        shown(&container.name),
        known(container.usage_bytes),
        known(container.request_bytes)
    )
}

fn eviction(page: &mut Page, event: &PodEviction) {
    let PodEviction {
        head,
        pod,
        eviction,
        node_conditions,
        ..
    } = event;
    let memory = eviction.resource.as_deref() == Some("memory");
    page.about("Eviction", head, Some(&what_was_evicted(event)));
    page.row("pod", &place(Some(pod), None));
    if let Some(owner) = &pod.owner {
        page.row(
            "owner",
            &format!("{} {}", shown(&owner.kind), shown(&owner.name)),
        );
    }
    if let Some(priority) = pod.priority {
        let class = pod.priority_class.as_ref();
        let class = class.map(|class| format!(" ({})", shown(class)));
        page.row(
            "priority",
            &format!("{priority}{}", class.unwrap_or_default()),
        );
    }
    for container in &eviction.containers {
        page.row("over", &over(container));
    }
    let trouble = |condition: &&NodeCondition| {
        (condition.condition == "Ready") != (condition.status == "True")
    };
    for condition in node_conditions.iter().flatten().filter(trouble) {
        let NodeCondition {
            condition,
            status,
            reason,
            since,
        } = condition;
        let mut text = format!("{} is {}", shown(condition), shown(status));
        for (joint, more) in [(" since ", since), (": ", reason)] {
            text.extend(more.iter().map(|more| format!("{joint}{}", shown(more))));
        }
        page.row("node", &text);
    }
    if let Some(when) = &eviction.evicted_at {
        page.row("decided", &shown(when).to_string());
    }
    page.text.push('\n');

    let mut why = vec![
        "The kernel had no part in it: the kubelet ends pods before the node runs out, and nothing of \
         that is in the kernel log."
            .to_owned(),
    ];
    let mut ways = Vec::new();
    if memory {
        why.push(
            "Of all pods it takes first those that use more memory than they request, among them those \
             of the lowest priority, among these the one that is furthest above its request. The QoS \
             class does not count."
                .to_owned(),
        );
        if eviction.containers.is_empty() {
            why.push("It names no container that used more than it requested.".to_owned());
        }
        for container in &eviction.containers {
            if let (Some(usage), Some(request)) = (container.usage_bytes, container.request_bytes) {
                why.push(format!(
                    "{} used {} more than it requested.",
                    shown(&container.name),
                    amount(usage.saturating_sub(request))
                ));
                ways.push(format!(
                    "A memory request of {} or more for {}: then pods that use more than they request \
                     would have gone before, if there were any. Which there were, no record tells.",
                    amount(usage),
                    shown(&container.name)
                ));
            }
        }
        ways.push("A higher priority than that of other pods above their requests.".to_owned());
    }
    page.list("Why this one", &why);
    page.list("What would have spared it", &ways);
    page.commands(&of_eviction(event));
}

fn userspace_kill(page: &mut Page, event: &UserspaceKill) {
    let UserspaceKill {
        head,
        killer,
        reason,
        cgroup_path,
        whose,
        ..
    } = event;
    page.about(
        &format!("Kill by {}", shown(killer)),
        head,
        Some(&what_was_killed(event)),
    );
    page.row("pod", &place(whose.pod.as_ref(), whose.container.as_ref()));
    page.row("cgroup", &path(Some(cgroup_path)));
    page.text.push('\n');
    // oomd.conf(5) and systemd.resource-control(5).
    let mut why = vec![
        "The kernel had no part in it: a program sent SIGKILL to the whole cgroup before the memory ran \
         out."
            .to_owned(),
    ];
    let limit = match reason.as_str() {
        "memory-pressure" => {
            why.push(
                "All tasks of a cgroup that it watches waited for memory for more of the time than the \
                 limit allows. Of the cgroups below that one it takes first the one with the most \
                 reclaim activity."
                    .to_owned(),
            );
            Some("ManagedOOMMemoryPressureLimit= of the unit that is watched")
        }
        "memory-used" => {
            why.push(
                "Of both memory and swap of the node more was used than the limit allows. It takes \
                 first the cgroup that holds the most swap."
                    .to_owned(),
            );
            Some("SwapUsedLimit= in oomd.conf")
        }
        _ => None,
    };
    page.list("Why this one", &why);
    let mut ways = vec![
        "ManagedOOMPreference=avoid or =omit of its unit: then it goes last, or never.".to_owned(),
    ];
    ways.extend(limit.map(|limit| format!("A higher limit: {limit}.")));
    page.list("What would have spared it", &ways);
    page.commands(&of_userspace_kill(event));
}
