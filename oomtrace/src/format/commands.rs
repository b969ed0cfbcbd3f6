//! What to look at after a kill: commands for just this pod, container, cgroup or node, made of
//! facts that are known. They only read.

use super::pretty::shown;
use crate::event::{Container, OomKill, Pod, PodEviction, UserspaceKill, VerdictCode};

/// A command.
pub(super) struct Command {
    /// The line to type.
    pub line: String,
    /// What it shows.
    pub shows: &'static str,
}

/// The commands that fit this kill.
pub(super) fn commands(event: &OomKill) -> Vec<Command> {
    let OomKill {
        head,
        oom,
        victim,
        verdict,
        ..
    } = event;
    let code = verdict.as_ref().and_then(|verdict| verdict.code);
    let mut list = List(Vec::new());
    match (&victim.pod, &victim.container) {
        (Some(pod), container) => pod_commands(&mut list, pod, container.as_ref()),
        (None, Some(container)) => container_commands(&mut list, container),
        (None, None) => unit_commands(&mut list, event),
    }
    let node = head.node.k8s_node_name.as_deref().and_then(word);
    if matches!(
        code,
        Some(VerdictCode::NodeAllocatable | VerdictCode::NodeOutOfMemory | VerdictCode::QosLimit)
    ) && victim.pod.is_some()
    {
        list.add(
            node.map(|node| format!("kubectl describe node {node}")),
            "what the node may give, and what was requested of it",
        );
    }
    if let Some(directory) = cgroup_directory(event) {
        let counter = if version(event) == Some(1) {
            "memory.oom_control"
        } else {
            "memory.events"
        };
        list.add(
            word(&format!("{directory}/{counter}")).map(|file| format!("cat {file}")),
            "how often this limit was hit (oom_kill); on the node",
        );
        if code == Some(VerdictCode::UnownedMemory) {
            list.add(
                word(&format!("{directory}/memory.stat")).map(|file| {
                    format!("grep -E '^(total_)?(anon|rss|shmem|file|cache|kernel|slab) ' {file}")
                }),
                "what is charged: shmem is tmpfs",
            );
            list.add(
                Some("df -h -t tmpfs".to_owned()),
                "which tmpfs is full; in the container",
            );
        }
    }
    match code {
        Some(VerdictCode::NodeOutOfMemory) => {
            list.add(Some("free -m".to_owned()), "what is free now; on the node");
            list.add(
                Some("ps -eo pid,rss,comm --sort=-rss | head -15".to_owned()),
                "who holds the most now",
            );
        }
        Some(VerdictCode::Cpuset | VerdictCode::MemoryPolicy) => {
            list.add(
                Some("numactl --hardware".to_owned()),
                "what each memory node has free",
            );
        }
        Some(VerdictCode::Manual) => {
            list.add(
                Some("journalctl -k -g sysrq".to_owned()),
                "when SysRq was used",
            );
        }
        _ => {}
    }
    if oom.constraint.is_none() || oom.scope.is_none() {
        list.add(
            Some("journalctl -k -g 'oom|Killed process'".to_owned()),
            "the kernel's own report",
        );
    }
    list.0
}

/// The commands that fit this eviction.
pub(super) fn of_eviction(event: &PodEviction) -> Vec<Command> {
    let PodEviction { head, pod, .. } = event;
    let mut list = List(Vec::new());
    let names = pod.namespace.as_deref().and_then(word);
    list.add(
        names
            .zip(pod.name.as_deref().and_then(word))
            .map(|(namespace, name)| format!("kubectl -n {namespace} describe pod {name}")),
        "its requests, its priority, and the kubelet's words, while it exists",
    );
    list.add(
        Some("kubectl get events -A --field-selector reason=Evicted".to_owned()),
        "who else was evicted",
    );
    let node = head.node.k8s_node_name.as_deref().and_then(word);
    list.add(
        node.map(|node| format!("kubectl describe node {node}")),
        "the node's conditions, what it may give, and what was requested of it",
    );
    list.0
}

/// The commands that fit this kill by systemd-oomd.
pub(super) fn of_userspace_kill(event: &UserspaceKill) -> Vec<Command> {
    let mut list = List(Vec::new());
    list.add(
        Some("oomctl".to_owned()),
        "which cgroups systemd-oomd watches, and how near their limits are",
    );
    list.add(
        Some("journalctl -u systemd-oomd -n 50".to_owned()),
        "its own words: pressure, and what the candidates held",
    );
    if let Some(unit) = unit_of(&event.cgroup_path) {
        list.add(
            Some(format!(
                "systemctl show {unit} -p ManagedOOMSwap,ManagedOOMMemoryPressure,\
                 ManagedOOMMemoryPressureLimit,ManagedOOMPreference,Result"
            )),
            "what it may do to the unit, and how that ended",
        );
        list.add(
            Some(format!("journalctl -u {unit} -n 50")),
            "its last words",
        );
    }
    list.0
}

struct List(Vec<Command>);

impl List {
    fn add(&mut self, line: Option<String>, shows: &'static str) {
        self.0.extend(line.map(|line| Command { line, shows }));
    }
}

fn pod_commands(list: &mut List, pod: &Pod, container: Option<&Container>) {
    let names = (
        pod.namespace.as_deref().and_then(word),
        pod.name.as_deref().and_then(word),
    );
    if let (Some(namespace), Some(name)) = names {
        let of = format!("kubectl -n {namespace}");
        list.add(
            Some(format!("{of} describe pod {name}")),
            "limits, requests, restarts, last state",
        );
        list.add(
            Some(format!("{of} top pod {name} --containers")),
            "what each container uses now",
        );
        let container = container
            .and_then(|container| container.name.as_deref())
            .and_then(word);
        list.add(
            container
                .map(|container| format!("{of} logs {name} -c {container} --previous --tail=50")),
            "its last words, if the container was restarted",
        );
        return;
    }
    // A static pod has the hash of its configuration here.
    let field = if pod.uid.contains('-') {
        "UID:.metadata.uid"
    } else {
        "HASH:.metadata.annotations.kubernetes\\.io/config\\.hash"
    };
    list.add(
        word(&pod.uid).map(|uid| {
            format!(
                "kubectl get pods -A -o custom-columns='NAMESPACE:.metadata.namespace,\
                 NAME:.metadata.name,{field}' | grep {uid}"
            )
        }),
        "the pod's name, while it exists",
    );
    let id = container.and_then(|container| word(container.id.get(..12)?));
    list.add(
        id.map(|id| format!("crictl inspect {id}")),
        "the container, while it exists; on the node",
    );
}

fn container_commands(list: &mut List, container: &Container) {
    let Some(id) = container.id.get(..12).and_then(word) else {
        return;
    };
    let tool = match container.runtime.as_deref() {
        Some("docker") => "docker",
        Some("podman") => "podman",
        _ => "crictl",
    };
    list.add(
        Some(format!("{tool} inspect {id}")),
        "the container, while it exists",
    );
    list.add(
        Some(format!("{tool} stats --no-stream {id}")).filter(|_| tool != "crictl"),
        "what it uses now",
    );
}

/// The systemd unit whose limit was hit, or else the victim's.
fn unit_commands(list: &mut List, event: &OomKill) {
    let limit = event
        .oom
        .memcg
        .as_ref()
        .and_then(|memcg| memcg.path.as_deref());
    let own = event
        .victim
        .cgroup
        .as_ref()
        .and_then(|cgroup| cgroup.path.as_deref());
    let Some(unit) = [limit, own].into_iter().flatten().find_map(unit_of) else {
        return;
    };
    list.add(
        Some(format!("systemctl status {unit}")),
        "what the unit does now",
    );
    list.add(
        Some(format!(
            "systemctl show {unit} -p MemoryMax,MemoryPeak,OOMPolicy,Result"
        )),
        "its limit, its peak, and how it ended",
    );
    list.add(
        Some(format!("journalctl -u {unit} -n 50")),
        "its last words",
    );
}

/// The innermost systemd unit of a cgroup, as one word.
fn unit_of(path: &str) -> Option<String> {
    let kinds = [".service", ".scope", ".slice"];
    let mut names = path.rsplit('/');
    word(names.find(|name| kinds.iter().any(|kind| name.ends_with(kind)))?)
}

fn version(event: &OomKill) -> Option<u8> {
    event.victim.cgroup.as_ref()?.version
}

/// Where the cgroup whose limit was hit is, as hierarchies are mounted everywhere.
fn cgroup_directory(event: &OomKill) -> Option<String> {
    let memcg = event.oom.memcg.as_ref().filter(|memcg| !memcg.path_cut)?;
    let path = memcg.path.as_deref().filter(|path| path.len() > 1)?;
    let root = match version(event)? {
        1 => "/sys/fs/cgroup/memory",
        _ => "/sys/fs/cgroup",
    };
    Some(format!("{root}{path}"))
}

/// A name as one word of a shell's line; none where it could not be shown as it is, or would be
/// taken for an option.
fn word(name: &str) -> Option<String> {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_./:@%+=,".contains(char);
    if name.is_empty() || name.starts_with('-') {
        return None;
    }
    if name.chars().all(plain) {
        return Some(name.to_owned());
    }
    let visible = name.replace('\\', "");
    (shown(&visible).to_string() == visible).then(|| format!("'{}'", name.replace('\'', "'\\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name is one word to a shell, whatever is in it, or is not used.
    #[test]
    fn names_are_one_word() {
        for (name, expected) in [
            ("/kubepods/pod1", Some("/kubepods/pod1")),
            ("a b", Some("'a b'")),
            ("$(reboot)", Some("'$(reboot)'")),
            ("it's", Some("'it'\\''s'")),
            ("dev-disk\\x2d1.service", Some("'dev-disk\\x2d1.service'")),
            ("-.slice", None),
            ("", None),
            ("a\nb", None),
            ("a\u{1b}[2J", None),
            ("a\u{202e}b", None),
        ] {
            assert_eq!(word(name).as_deref(), expected, "{name:?}");
        }
    }
}
