//! The shapes of single directory names: what one component of a path can mean.

use super::{Level, QosClass, Runtime};

/// Length of a static pod's uid: the kubelet names it by the MD5 of its manifest
/// (`applyDefaults` in `pkg/kubelet/config/common.go`).
pub(super) const STATIC_HASH_LEN: usize = 32;

const CONTAINER_ID_LEN: usize = 64;

/// A position in a kubepods tree, with what the components down to it tell.
#[derive(Clone, Copy, Default)]
pub(super) struct Step<'a> {
    /// The slice that all slices of this tree are named after, `[P-]kubepods`; empty in a tree
    /// of the cgroupfs driver.
    stem: &'a [u8],
    /// Some in every pod, unless the level that tells it is unseen.
    pub(super) qos: Option<QosClass>,
    pub(super) uid: Option<&'a [u8]>,
    /// Container named by the same component as its pod (driver mismatch).
    pub(super) leaf: Option<Leaf<'a>>,
    /// A cgroupfs tree whose `kubepods` is above what is seen.
    pub(super) root_unseen: bool,
}

impl<'a> Step<'a> {
    /// The name as the start of a kubepods tree.
    ///
    /// A tree starts at kubepods. Where that is unseen it starts at the first name seen. The
    /// mismatch form stands alone: the runtime takes the slice's name for a directory's.
    pub(super) fn first(name: &'a [u8], upper_unseen: bool) -> Option<Self> {
        if name == b"kubepods" {
            return Some(Self::default());
        }
        if let Some(step) = Self::slice(name) {
            let starts = step.level() == Level::Kubepods || step.leaf.is_some();
            return (starts || upper_unseen).then_some(step);
        }
        let unseen = Self {
            root_unseen: true,
            ..Self::default()
        };
        upper_unseen.then_some(unseen)?.child(name)
    }

    /// One component further down, to the QoS class or to the pod.
    pub(super) fn child(self, name: &'a [u8]) -> Option<Self> {
        if !self.stem.is_empty() {
            // systemd puts a-b-c.slice below a-b.slice, so the parent follows from the name.
            let child = Self::slice(name)?;
            let above = match child.qos? {
                QosClass::Guaranteed => None,
                _ => child.uid.and(child.qos),
            };
            return (child.stem == self.stem && self.qos == above).then_some(child);
        }
        if let Some(uid) = name.strip_prefix(b"pod") {
            let direct = (!self.root_unseen).then_some(QosClass::Guaranteed);
            return is_pod_uid(uid, b'-').then_some(Self {
                uid: Some(uid),
                qos: self.qos.or(direct),
                ..self
            });
        }
        let qos = match name {
            b"burstable" => QosClass::Burstable,
            b"besteffort" => QosClass::BestEffort,
            _ => return None,
        };
        self.qos.is_none().then_some(Self {
            qos: Some(qos),
            ..self
        })
    }

    /// `[P-]kubepods[-<qos>][-pod<uid>].slice`, for a pod also with `:<runtime>:<id>` behind.
    fn slice(name: &'a [u8]) -> Option<Self> {
        let (name, leaf) = match split_at_byte(name, b':') {
            Some((slice, container)) => (slice, Some(Leaf::after_colon(container)?)),
            None => (name, None),
        };
        let stem = name.strip_suffix(b".slice")?;
        // The uid has no `-` here: `-` separates the levels of slices, so the kubelet writes `_`
        // (`escapeSystemdCgroupName`).
        let pod = stem
            .iter()
            .rposition(|&byte| byte == b'-')
            .map(|at| stem.split_at(at))
            .and_then(|(stem, last)| Some((stem, last.strip_prefix(b"-pod")?)))
            .filter(|(_, uid)| is_pod_uid(uid, b'_'));
        let (stem, uid) = match pod {
            Some((stem, uid)) => (stem, Some(uid)),
            None if leaf.is_some() => return None,
            None => (stem, None),
        };
        let (stem, qos) = if let Some(stem) = stem.strip_suffix(b"-burstable") {
            (stem, Some(QosClass::Burstable))
        } else if let Some(stem) = stem.strip_suffix(b"-besteffort") {
            (stem, Some(QosClass::BestEffort))
        } else {
            (stem, uid.map(|_| QosClass::Guaranteed))
        };
        (stem == b"kubepods" || stem.ends_with(b"-kubepods")).then_some(Self {
            stem,
            qos,
            uid,
            leaf,
            root_unseen: false,
        })
    }

    pub(super) fn level(self) -> Level {
        match (self.uid, self.qos) {
            (Some(_), _) => Level::Pod,
            (None, Some(_)) => Level::Qos,
            (None, None) => Level::Kubepods,
        }
    }
}

/// What a runtime puts into a pod's cgroup.
#[derive(Clone, Copy)]
pub(super) enum Leaf<'a> {
    Container {
        id: &'a [u8],
        runtime: Option<Runtime>,
    },
    Conmon(Runtime),
}

impl<'a> Leaf<'a> {
    /// `<id>`, `<runtime>-<id>` or `<runtime>-<id>.scope`.
    pub(super) fn in_pod(name: &'a [u8]) -> Option<Self> {
        let unit = name.strip_suffix(b".scope").unwrap_or(name);
        let (prefix, id) = unit.split_at(unit.len().checked_sub(CONTAINER_ID_LEN)?);
        if !is_container_id(id) {
            return None;
        }
        match prefix {
            b"" if unit.len() == name.len() => Some(Self::Container { id, runtime: None }),
            b"crio-conmon-" => Some(Self::Conmon(Runtime::CriO)),
            b"libpod-conmon-" => Some(Self::Conmon(Runtime::Podman)),
            _ => Self::container(runtime(prefix.strip_suffix(b"-")?)?, id),
        }
    }

    /// The same outside of a pod, where a bare id counts only in a runtime's own directory.
    pub(super) fn without_pod(parent: &[u8], name: &'a [u8]) -> Option<Self> {
        match (Self::in_pod(name)?, parent) {
            (Self::Container { id, runtime: None }, b"docker") => {
                Self::container(Runtime::Docker, id)
            }
            // containerd's directory for its namespace `k8s.io`, the one the CRI uses.
            (Self::Container { id, runtime: None }, b"k8s.io") => {
                Self::container(Runtime::Containerd, id)
            }
            (Self::Container { runtime: None, .. }, _) => None,
            (leaf, _) => Some(leaf),
        }
    }

    /// `<runtime>:<id>`.
    fn after_colon(name: &'a [u8]) -> Option<Self> {
        let (prefix, id) = split_at_byte(name, b':')?;
        Self::container(runtime(prefix)?, id)
    }

    fn container(runtime: Runtime, id: &'a [u8]) -> Option<Self> {
        is_container_id(id).then_some(Self::Container {
            id,
            runtime: Some(runtime),
        })
    }
}

/// The prefix each runtime gives to its scopes.
fn runtime(prefix: &[u8]) -> Option<Runtime> {
    match prefix {
        b"cri-containerd" => Some(Runtime::Containerd),
        b"crio" => Some(Runtime::CriO),
        b"docker" => Some(Runtime::Docker),
        b"libpod" => Some(Runtime::Podman),
        _ => None,
    }
}

fn is_container_id(name: &[u8]) -> bool {
    name.len() == CONTAINER_ID_LEN && name.iter().all(is_hex)
}

fn is_pod_uid(name: &[u8], separator: u8) -> bool {
    match name.len() {
        STATIC_HASH_LEN => name.iter().all(is_hex),
        36 => name.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == separator,
            _ => is_hex(byte),
        }),
        _ => false,
    }
}

/// The API server and the runtimes write ids in lower case only.
fn is_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The parts before and after the first `separator`.
fn split_at_byte(name: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = name.iter().position(|&byte| byte == separator)?;
    let (before, after) = name.split_at(at);
    Some((before, after.get(1..)?))
}
