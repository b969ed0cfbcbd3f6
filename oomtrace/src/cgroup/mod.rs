//! Whose cgroup is this: the pod, the container and the level that a cgroup path names.
//!
//! One function of bytes answers for both paths of an OOM kill: the victim's (who died) and the
//! one whose limit was hit (the scope of the kill). It reads nothing but the path.
//!
//! Any process that may make cgroups may give them any name, so a name counts only in the full
//! shape that the kubelet or the container runtime gives it; everything else stays unresolved.
//! Shapes (`P` is the kubelet's `--cgroup-root`, as under kind):
//!
//! ```text
//! cgroupfs  …/kubepods[/burstable|/besteffort]/pod<uid>/[<runtime>-]<id>
//! systemd   …/[P-]kubepods.slice[/[P-]kubepods-<qos>.slice]/[P-]kubepods[-<qos>]-pod<uid_>.slice/<runtime>-<id>.scope
//! mismatch  …/[P-]kubepods[-<qos>]-pod<uid_>.slice:<runtime>:<id>     kubelet on systemd, runtime on cgroupfs
//! no pod    …/<runtime>-<id>.scope   …/docker/<id>   …/k8s.io/<id>
//! ```
//!
//! Sources: the kubelet's `pkg/kubelet/cm/{cgroup_manager,pod_container_manager,qos_container_manager}_linux.go`,
//! and the `slice:prefix:id` form of `linux.cgroupsPath` that runc turns into directories.

mod name;
#[cfg(test)]
mod tests;

use std::iter::Peekable;

use clap::ValueEnum;
use name::{Leaf, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a cgroup path tells. `None` means that the path does not tell it, not that there is none.
///
/// A path is a claim, not a proof: a privileged container can make directories below its own
/// cgroup that look like another pod's. The innermost tree is reported, because that is the
/// right one under kind, minikube and k3s; what lies above it is one more call away, on the
/// first [`prefix_len`](Self::prefix_len) bytes. If that call names a pod which this node's
/// kubelet knows, that outer pod is the one to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Level of the cgroup that the whole path names.
    pub level: Level,
    /// QoS class of the pod, or of the pods at [`Level::Qos`].
    pub qos_class: Option<QosClass>,
    /// The pod.
    pub pod: Option<PodRef>,
    /// The container; a pod's pause container looks like any other.
    pub container: Option<ContainerRef>,
    /// Set in the cgroup of conmon, the monitor which this runtime keeps beside each container.
    /// It is no container, and its level is [`Level::Slice`].
    pub conmon: Option<Runtime>,
    /// Length in bytes of the part of the path above the innermost kubepods tree; 0 when the
    /// tree is the first thing seen. `None` outside of such a tree.
    pub prefix_len: Option<usize>,
    /// Components above the first one are missing: the path was cut, or is relative (`/../…`).
    pub outer_missing: bool,
}

impl Placement {
    /// Of a path that is whole, or whose outermost components may be missing (`cut`): the first
    /// component must be whole, and a leading `/` does not matter. What only the missing part could
    /// tell is not told: a `pod<uid>` seen first has no QoS class.
    pub fn of(path: &[u8], cut: bool) -> Self {
        place(path, cut)
    }
}

/// The kind of cgroup a path names; for the cgroup whose limit was hit, the scope of the kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A container, or any cgroup below one.
    Container,
    /// A pod.
    Pod,
    /// All Burstable or all BestEffort pods.
    Qos,
    /// All pods: the limit is the node's allocatable memory.
    Kubepods,
    /// Any other cgroup: a service, a user's session, an unknown directory inside a pod.
    Slice,
    /// The root cgroup.
    Node,
}

/// Quality-of-service class of a pod, as its place in the tree tells it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    ValueEnum,
)]
#[value(rename_all = "verbatim")]
pub enum QosClass {
    /// Directly below kubepods.
    Guaranteed,
    /// Below `burstable`.
    Burstable,
    /// Below `besteffort`.
    BestEffort,
}

impl QosClass {
    /// The name that `status.qosClass` of the Kubernetes API uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// A pod as its cgroup names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Lower case, with `-` as in the API, also where the path has systemd's `_`.
    pub uid: String,
    /// What to compare the uid with.
    pub uid_kind: UidKind,
}

/// Where the uid of a pod's cgroup is found in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UidKind {
    /// `metadata.uid`; shape 8-4-4-4-12.
    Uuid,
    /// 32 hex digits: the kubelet's hash of a static pod's manifest. The API has it in the
    /// annotation `kubernetes.io/config.hash`; `metadata.uid` there is another one.
    StaticHash,
}

/// A container as its cgroup names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// 64 lower-case hex digits.
    pub id: String,
    /// `None` for a bare id: containerd and docker both make those.
    pub runtime: Option<Runtime>,
}

/// Container runtime, from the prefix of the cgroup's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// `cri-containerd`.
    Containerd,
    /// `crio`.
    CriO,
    /// `docker`.
    Docker,
    /// `libpod`.
    Podman,
}

impl Runtime {
    /// The name used in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

/// Resolves a path that is complete, or relative to a cgroup namespace (`/../…`, what the
/// kernel's `cgroup_path_ns` writes for a cgroup outside of the reader's).
///
/// Takes any bytes; linear in their number.
pub fn resolve(path: &[u8]) -> Placement {
    place(path, false)
}

/// What the walk has found so far, borrowed from the path.
#[derive(Clone, Copy, Default)]
struct Found<'a> {
    /// Deepest level reached of a kubepods tree.
    tree: Option<Step<'a>>,
    /// What is right below the pod or, outside of a tree, the outermost container.
    leaf: Option<Leaf<'a>>,
    /// There is something below the pod which is no [`Leaf`].
    strayed: bool,
    prefix_len: Option<usize>,
}

fn place(path: &[u8], cut: bool) -> Placement {
    let mut names = components(path).peekable();
    let mut outer_missing = cut;
    while names.next_if(|&(_, name)| name == b"..").is_some() {
        outer_missing = true;
    }
    let top = names.peek().map(|&(start, _)| start);
    let mut found = Found::default();

    // The kernel writes `..` in front only. With one elsewhere the path does not name what its
    // components say, and nothing in it is believed.
    if names.clone().all(|(_, name)| name != b"..") {
        let mut parent: &[u8] = b"";
        while let Some((start, name)) = names.next() {
            let is_top = top == Some(start);
            let mut below = names.clone();
            if let Some(tree) = Step::first(name, is_top && outer_missing)
                .and_then(|first| descend(first, &mut below))
            {
                let prefix_len = if is_top { 0 } else { start.saturating_sub(1) };
                found = Found {
                    prefix_len: Some(prefix_len),
                    ..tree
                };
                names = below;
            } else if found.tree.is_none() && found.leaf.is_none() {
                // The outermost container is the one this node's runtime knows.
                found.leaf = Leaf::without_pod(parent, name);
            }
            parent = name;
        }
    }

    let level = match (found.leaf, found.tree) {
        (Some(Leaf::Container { .. }), _) => Level::Container,
        (None, Some(step)) if !found.strayed => step.level(),
        (None, None) if top.is_none() && !outer_missing && !path.is_empty() => Level::Node,
        _ => Level::Slice,
    };
    let (container, conmon) = match found.leaf {
        Some(Leaf::Container { id, runtime }) => {
            let id = text(id);
            (Some(ContainerRef { id, runtime }), None)
        }
        Some(Leaf::Conmon(runtime)) => (None, Some(runtime)),
        None => (None, None),
    };
    Placement {
        level,
        qos_class: found.tree.and_then(|step| step.qos),
        pod: found.tree.and_then(|step| step.uid).map(|uid| PodRef {
            uid: text(uid),
            uid_kind: if uid.len() == name::STATIC_HASH_LEN {
                UidKind::StaticHash
            } else {
                UidKind::Uuid
            },
        }),
        container,
        conmon,
        prefix_len: found.prefix_len,
        outer_missing,
    }
}

/// Follows a kubepods tree from its first step to what is right below the pod, or to the end of
/// the path. `None` if a component above the pod is not one the kubelet makes.
///
/// Reads four components at most, so that trying it at every component stays linear.
fn descend<'a>(
    mut step: Step<'a>,
    names: &mut Peekable<impl Iterator<Item = (usize, &'a [u8])>>,
) -> Option<Found<'a>> {
    while step.uid.is_none()
        && let Some((_, name)) = names.next()
    {
        step = step.child(name)?;
    }
    if step.root_unseen && step.uid.is_none() {
        return None; // a lone `burstable` can be anything
    }
    let mut leaf = step.leaf;
    let mut strayed = false;
    if leaf.is_none()
        && let Some(&(_, name)) = names.peek()
    {
        leaf = Leaf::in_pod(name);
        // A stray name is left to the caller: it may be the root of a nested tree.
        strayed = leaf.is_none();
        if !strayed {
            names.next();
        }
    }
    Some(Found {
        tree: Some(step),
        leaf,
        strayed,
        prefix_len: None,
    })
}

/// Components of a path, each with its offset.
fn components(path: &[u8]) -> impl Iterator<Item = (usize, &[u8])> + Clone {
    let mut next = 0;
    path.split(|&byte| byte == b'/')
        .map(move |name| {
            let start = next;
            next += name.len() + 1;
            (start, name)
        })
        .filter(|(_, name)| !name.is_empty())
}

/// A validated id or uid as the API writes it.
fn text(ascii: &[u8]) -> String {
    let api = |&byte: &u8| if byte == b'_' { '-' } else { char::from(byte) };
    ascii.iter().map(api).collect()
}
