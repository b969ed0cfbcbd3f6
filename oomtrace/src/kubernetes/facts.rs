//! What sources tell of pods and containers, and how much of it is believed.
//!
//! Everything here was written by somebody else, perhaps to mislead: names have the shape that the
//! API server enforces, and nothing is longer than that allows.

use std::collections::BTreeMap;

use crate::{
    cgroup::QosClass,
    event::{ContainerRole, Owner},
};

/// Where facts come from, the one that is believed first at the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The API server.
    Api,
    /// The kubelet's own list.
    Kubelet,
    /// The container runtime, by the CRI.
    Cri,
    /// OCI bundles on disk.
    Bundle,
    /// The names of folders in `/var/log/pods`.
    PodLogs,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Api,
        Self::Kubelet,
        Self::Cri,
        Self::Bundle,
        Self::PodLogs,
    ];

    /// The name used in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Kubelet => "kubelet",
            Self::Cri => "cri",
            Self::Bundle => "bundle",
            Self::PodLogs => "pod_logs",
        }
    }

    /// Whether it tells requests, limits and priorities.
    pub const fn tells_spec(self) -> bool {
        matches!(self, Self::Api | Self::Kubelet)
    }
}

/// A request and a limit of memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What is set aside.
    pub request: Option<u64>,
    /// What it may use at most.
    pub limit: Option<u64>,
}

/// A pod, as one source tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// What its cgroup is named after: its uid or, of a static pod, the hash of its configuration.
    pub key: Box<str>,
    /// `metadata.uid`; the image of a static pod has one of its own.
    pub uid: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// `status.qosClass`.
    pub qos_class: Option<QosClass>,
    /// Its priority.
    pub priority: Option<i32>,
    /// The name of its priority class.
    pub priority_class: Option<Box<str>>,
    /// What manages it.
    pub owner: Option<Owner>,
    /// Whether the source is asking who is behind that.
    pub owner_asked: bool,
    /// Its labels, those allowed.
    pub labels: BTreeMap<String, String>,
    /// Whether the kubelet made it of a file.
    pub is_static: Option<bool>,
    /// Memory of the pod as a whole.
    pub memory: Memory,
    /// Its containers, as they are to be.
    pub containers: Box<[ContainerSpec]>,
    /// Whether the kubelet evicted it.
    pub evicted: bool,
    /// Ids of the containers that the source tells of together with the pod.
    pub ids: Box<[Box<str>]>,
}

impl PodFacts {
    /// A pod of which no more than its name is told, as the runtime and files on disk do: there a
    /// static pod has no uid but its hash. `None` where Kubernetes would give no such name.
    pub fn named(uid: &str, namespace: &str, name: &str) -> Option<Self> {
        (is_pod_key(uid) && is_name(namespace) && is_name(name)).then(|| Self {
            key: uid.into(),
            uid: uid.into(),
            namespace: namespace.into(),
            name: name.into(),
            is_static: is_static_key(uid).then_some(true),
            ..Self::default()
        })
    }
}

/// A container as the pod's specification has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name.
    pub name: Box<str>,
    /// What it is for.
    pub role: ContainerRole,
    /// Its image.
    pub image: Option<Box<str>>,
    /// Its memory.
    pub memory: Memory,
}

/// A container that runs or ran, as one source tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerFacts {
    /// 64 lower-case hex digits.
    pub id: Box<str>,
    /// [`PodFacts::key`] of its pod.
    pub pod: Box<str>,
    /// Its name; a pause container has none.
    pub name: Option<Box<str>>,
    /// What it is for, where the source tells.
    pub role: Option<ContainerRole>,
    /// Its image.
    pub image: Option<Box<str>>,
    /// How often it was restarted before.
    pub restart_count: Option<u32>,
}

/// Whether this is what a pod's cgroup can be named after: a uid, or the hash of a static pod.
pub fn is_pod_key(text: &str) -> bool {
    match text.len() {
        32 => text.bytes().all(is_hex),
        36 => text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => is_hex(byte),
        }),
        _ => false,
    }
}

/// Whether a pod's key is the hash of a static pod.
fn is_static_key(text: &str) -> bool {
    text.len() == 32
}

/// Whether this is a container's id.
pub fn is_container_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(is_hex)
}

/// The id in `containerd://<id>`, or a bare one.
pub fn container_id(text: &str) -> Option<&str> {
    let id = text.rsplit_once("://").map_or(text, |(_, id)| id);
    is_container_id(id).then_some(id)
}

/// Whether this is a name that Kubernetes gives: a DNS subdomain.
pub fn is_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
}

/// An image's name: short enough, and printable.
pub fn image(text: &str) -> Option<Box<str>> {
    let fits = (1..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.into())
}

/// Whether an image is named only by its digest, which tells a reader little.
pub fn is_digest(image: &str) -> bool {
    image.starts_with("sha256:") || is_container_id(image)
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and ids count only in the shape that Kubernetes gives them.
    #[test]
    fn shapes() {
        assert!(is_pod_key("0123456789abcdef0123456789abcdef"));
        assert!(is_pod_key("01234567-89ab-cdef-0123-456789abcdef"));
        assert!(!is_pod_key("01234567_89ab_cdef_0123_456789abcdef"));
        assert!(!is_pod_key("01234567-89AB-cdef-0123-456789abcdef"));
        let id = "a".repeat(64);
        assert_eq!(container_id(&format!("containerd://{id}")), Some(&*id));
        assert_eq!(container_id(&id), Some(&*id));
        assert_eq!(container_id("containerd://short"), None);
        assert!(is_name("kube-system") && is_name("a.b-1"));
        assert!(!is_name("") && !is_name("A") && !is_name("a_b") && !is_name("a\nb"));
        assert!(!is_name(&"a".repeat(254)));
        assert!(image("registry.k8s.io/pause:3.9").is_some());
        assert!(image("a b").is_none() && image("").is_none() && image("\u{1b}[0m").is_none());
        assert!(is_digest(&format!("sha256:{id}")) && !is_digest("busybox"));
    }
}
