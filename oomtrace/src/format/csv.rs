//! A table of kills, by whomever, as RFC 4180 has it, that a spreadsheet may open.
//!
//! A spreadsheet takes what begins with `=`, `+`, `-`, `@`, a tab or a carriage return for a formula,
//! also when it is quoted. Victims choose their names, so such text gets an apostrophe in front.

use std::{fmt::Display, io::Write};

use serde::Serialize;

use super::others::{what_was_evicted, what_was_killed};
use crate::event::{Container, Head, OomKill, Pod, PodEviction, UserspaceKill};

/// The columns. More may be added at the end.
const COLUMNS: [&str; 38] = [
    "time",
    "kind",
    "node",
    "namespace",
    "pod",
    "pod_uid",
    "container",
    "container_id",
    "qos_class",
    "verdict",
    "scope",
    "constraint",
    "memcg_path",
    "memcg_usage_bytes",
    "memcg_limit_bytes",
    "total_bytes",
    "victim_comm",
    "victim_pid",
    "victim_uid",
    "victim_role",
    "victim_oom_score_adj",
    "victim_badness_pages",
    "victim_rank",
    "candidates",
    "anon_rss_bytes",
    "file_rss_bytes",
    "shmem_rss_bytes",
    "swap_bytes",
    "pgtables_bytes",
    "container_request_bytes",
    "container_limit_bytes",
    "trigger_comm",
    "trigger_pid",
    "summary",
    "oom_id",
    "event_id",
    "killer",
    "cgroup_path",
];

/// How many columns there are between the QoS class and the summary.
const OF_THE_KERNEL: usize = 24;

/// Appends the names of the columns.
pub fn csv_header(out: &mut Vec<u8>) {
    out.extend_from_slice(COLUMNS.join(",").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a row: of a kill, or of a mark.
pub fn csv(kind: &str, kill: &OomKill, out: &mut Vec<u8>) {
    let OomKill {
        head,
        oom_id,
        oom,
        trigger,
        victim,
        candidates,
        verdict,
        ..
    } = kill;
    let container = victim.container.as_ref();
    let memcg = oom.memcg.as_ref();
    let memory = victim.memory.as_ref();
    let verdict = verdict.as_ref();
    let mut row = Row { out, first: true };
    row.whose(kind, head, victim.pod.as_ref(), container);
    row.text(verdict.and_then(|verdict| name(&verdict.code?)));
    row.text(oom.scope.and_then(|scope| name(&scope)));
    row.text(oom.constraint.and_then(|constraint| name(&constraint)));
    row.text(memcg.and_then(|memcg| memcg.path.as_ref()));
    row.number(memcg.and_then(|memcg| memcg.usage_bytes));
    row.number(memcg.and_then(|memcg| memcg.limit_bytes));
    row.number(oom.total_bytes);
    row.text(victim.comm.as_ref());
    row.number(victim.pid);
    row.number(victim.uid);
    row.text(victim.role.and_then(|role| name(&role)));
    row.number(victim.oom_score_adj);
    row.number(victim.badness_pages);
    row.number(verdict.and_then(|verdict| verdict.victim_rank));
    row.number(candidates.as_ref().map(|candidates| candidates.total));
    row.number(memory.and_then(|memory| memory.anon_rss_bytes));
    row.number(memory.and_then(|memory| memory.file_rss_bytes));
    row.number(memory.and_then(|memory| memory.shmem_rss_bytes));
    row.number(memory.and_then(|memory| memory.swap_bytes));
    row.number(memory.and_then(|memory| memory.pgtables_bytes));
    row.number(container.and_then(|container| container.memory_request_bytes));
    row.number(container.and_then(|container| container.memory_limit_bytes));
    row.text(trigger.comm.as_ref());
    row.number(trigger.pid);
    row.text(verdict.and_then(|verdict| verdict.summary.as_ref()));
    row.text(Some(oom_id));
    row.text(Some(&head.event_id));
    row.text((kind == "oom_kill").then_some("kernel"));
    row.text(
        victim
            .cgroup
            .as_ref()
            .and_then(|cgroup| cgroup.path.as_ref()),
    );
    out.extend_from_slice(b"\r\n");
}

/// Appends the row of an eviction.
pub fn csv_eviction(event: &PodEviction, out: &mut Vec<u8>) {
    let mut row = Row { out, first: true };
    row.whose("pod_eviction", &event.head, Some(&event.pod), None);
    row.killed("kubelet", &event.head, &what_was_evicted(event), None);
}

/// Appends the row of a cgroup that a program killed.
pub fn csv_userspace_kill(event: &UserspaceKill, out: &mut Vec<u8>) {
    let UserspaceKill {
        head,
        killer,
        cgroup_path,
        whose,
        ..
    } = event;
    let mut row = Row { out, first: true };
    let (pod, container) = (whose.pod.as_ref(), whose.container.as_ref());
    row.whose("userspace_kill", head, pod, container);
    row.killed(killer, head, &what_was_killed(event), Some(cgroup_path));
}

/// The name of a value in the schema.
pub fn name(value: &impl Serialize) -> Option<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => Some(name),
        _ => None,
    }
}

struct Row<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Row<'_> {
    /// The first columns, which every row has.
    fn whose(&mut self, kind: &str, head: &Head, pod: Option<&Pod>, container: Option<&Container>) {
        let node = head.node.k8s_node_name.as_ref();
        self.text(head.time.as_ref());
        self.text(Some(kind));
        self.text(node.or(head.node.hostname.as_ref()));
        self.text(pod.and_then(|pod| pod.namespace.as_ref()));
        self.text(pod.and_then(|pod| pod.name.as_ref()));
        self.text(pod.map(|pod| &pod.uid));
        self.text(container.and_then(|container| container.name.as_ref()));
        self.text(container.map(|container| &container.id));
        self.text(pod.and_then(|pod| name(&pod.qos_class?)));
    }

    /// The others of a kill that the kernel has no part in: what only it could tell is empty.
    fn killed(&mut self, killer: &str, head: &Head, summary: &str, cgroup: Option<&String>) {
        for _ in 0..OF_THE_KERNEL {
            self.field();
        }
        self.text(Some(summary));
        self.field();
        self.text(Some(&head.event_id));
        self.text(Some(killer));
        self.text(cgroup);
        self.out.extend_from_slice(b"\r\n");
    }

    fn field(&mut self) {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(b',');
        }
    }

    fn number(&mut self, number: Option<impl Display>) {
        self.field();
        if let Some(number) = number {
            // Writing to memory cannot fail.
            let _ = write!(self.out, "{number}");
        }
    }

    fn text(&mut self, text: Option<impl AsRef<str>>) {
        self.field();
        let Some(text) = text else { return };
        let text = text.as_ref();
        let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let quoted = formula || text.contains([',', '"', '\r', '\n']);
        if quoted {
            self.out.push(b'"');
        }
        if formula {
            self.out.push(b'\'');
        }
        for byte in text.bytes() {
            if byte == b'"' {
                self.out.push(b'"');
            }
            self.out.push(byte);
        }
        if quoted {
            self.out.push(b'"');
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        let mut out = Vec::new();
        let mut row = Row {
            out: &mut out,
            first: true,
        };
        row.text(Some(text));
        String::from_utf8(out).unwrap()
    }

    /// What a field could end with is quoted, and nothing is a formula.
    #[test]
    fn fields() {
        for (given, expected) in [
            ("nginx", "nginx"),
            ("a b", "a b"),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a\r\nb", "\"a\r\nb\""),
            ("=1+1", "\"'=1+1\""),
            ("-2", "\"'-2\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("\tx", "\"'\tx\""),
        ] {
            assert_eq!(text(given), expected);
        }
    }
}
