//! A big event log, made of recorded events: other ids, times, nodes, pods and sizes.

use std::{io::Write, sync::Arc};

use oomtrace::{
    cgroup::QosClass,
    event::{Container, Event, Node, OomKill, Owner, Pod, Scope, VerdictCode, rfc3339},
};

use crate::common::{lines, recorded};

/// When the first of them happens.
pub const FIRST_NS: u64 = 1_795_219_200_000_000_000;

/// Writes so many events: kills in containers of a small cluster, some on full nodes, each with the
/// outcome behind it.
pub fn write(count: u64, out: &mut impl Write) {
    let limit = recorded("victim_is_not_the_trigger").remove(0);
    let node = recorded("machine_with_swap").remove(0);
    let outcome = lines("single_process")
        .lines()
        .find_map(|line| match serde_json::from_str(line).unwrap() {
            Event::OomOutcome(outcome) => Some(outcome),
            _ => None,
        })
        .unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |most: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % most
    };
    for at in 0..count.div_ceil(2) {
        // Most of them at certain hours, and of a few workloads.
        let day = next(14) * 86_400 + (9 + next(3) * 4) * 3_600 + next(5_000);
        let time = FIRST_NS + day * 1_000_000_000 + next(1_000_000_000);
        let on_node = next(9) == 0;
        let mut kill = if on_node { node.clone() } else { limit.clone() };
        place(&mut kill, next(12) * next(4), next(40), on_node);
        kill.head.node = Arc::new(Node {
            k8s_node_name: Some(format!("node-{}", next(8) * next(2))),
            memory_bytes: Some(16 << 30),
            ..(*kill.head.node).clone()
        });
        let id = format!("crowd-{at}");
        kill.head.time = Some(rfc3339(time));
        kill.head.time_unix_ns = Some(time.to_string());
        kill.head.event_id.clone_from(&id);
        kill.oom_id = format!("{id}-oom");
        kill.head.run_id = "crowd".to_owned();
        kill.head.seq = 2 * at;
        let mut gone = outcome.clone();
        gone.head = kill.head.clone();
        gone.head.event_id = format!("{id}-outcome");
        gone.head.seq += 1;
        gone.oom_id.clone_from(&kill.oom_id);
        gone.victim_event_id = id;
        for event in [Event::OomKill(Box::new(kill)), Event::OomOutcome(gone)]
            .iter()
            .take(usize::try_from(count - 2 * at).unwrap())
        {
            serde_json::to_writer(&mut *out, event).unwrap();
            out.write_all(b"\n").unwrap();
        }
    }
}

fn place(kill: &mut OomKill, app: u64, replica: u64, on_node: bool) {
    let name = ["payments-api", "search", "report-worker", "web", "cache"]
        .get(usize::try_from(app).unwrap())
        .map_or_else(|| format!("job-{app}"), |name| (*name).to_owned());
    let limit = (128 + 64 * (app % 7)) << 20;
    let victim = &mut kill.victim;
    victim.pod = Some(Pod {
        uid: format!("6c1f29b0-4d21-4a39-9a5e-{app:06}{replica:06}"),
        name: Some(format!("{name}-{replica:x}")),
        namespace: Some(["prod", "batch", "staging"][usize::try_from(app % 3).unwrap()].to_owned()),
        qos_class: Some(match app % 5 {
            0 => QosClass::BestEffort,
            1 => QosClass::Guaranteed,
            _ => QosClass::Burstable,
        }),
        owner: Some(Owner {
            kind: "Deployment".to_owned(),
            name: name.clone(),
        }),
        ..Pod::default()
    });
    victim.container = Some(Container {
        id: format!("{app:032x}{replica:032x}"),
        name: Some("app".to_owned()),
        memory_usage_bytes: Some(limit),
        memory_limit_bytes: Some(limit),
        ..Container::default()
    });
    victim.comm = Some(name.chars().take(15).collect());
    if !on_node {
        kill.oom.scope = Some(Scope::Container);
        let memcg = kill.oom.memcg.as_mut().unwrap();
        memcg.usage_bytes = Some(limit);
        memcg.limit_bytes = Some(limit);
        let verdict = kill.verdict.as_mut().unwrap();
        verdict.code = Some(VerdictCode::ContainerLimit);
    }
}
