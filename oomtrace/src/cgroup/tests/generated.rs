//! Paths made from random parts together with the right answer, and paths made to do harm.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{
    super::{PodRef, resolve},
    resolve_cut,
};
use super::{ContainerRef, ID, Level, Placement, QosClass, Runtime, UID, UNRESOLVED, UidKind, at};

/// A kubepods tree before it is written down, and where in it the path ends.
#[derive(Clone, Debug)]
struct Case {
    driver: Driver,
    root: &'static str,
    qos: QosClass,
    uid: String,
    id: String,
    runtime: Option<Runtime>,
    end: End,
    above: String,
    below: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Driver {
    Cgroupfs,
    Systemd,
    Mismatch,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Kubepods,
    Qos,
    Pod,
    Stranger,
    Conmon,
    Container,
}

impl Case {
    /// The components of the tree from its root down, with the index of the pod's.
    fn components(&self) -> (Vec<String>, usize) {
        let class = match self.qos {
            QosClass::Guaranteed => None,
            QosClass::Burstable => Some("burstable"),
            QosClass::BestEffort => Some("besteffort"),
        };
        let prefix = self.runtime.map(|runtime| match runtime {
            Runtime::Containerd => "cri-containerd",
            Runtime::CriO => "crio",
            Runtime::Docker => "docker",
            Runtime::Podman => "libpod",
        });
        let id = &self.id;
        let leaf = match (self.end, prefix, self.driver) {
            (End::Conmon, _, Driver::Systemd) => format!("crio-conmon-{id}.scope"),
            (End::Conmon, _, _) => format!("crio-conmon-{id}"),
            (End::Stranger, _, _) => "stranger".to_owned(),
            (_, None, _) => id.clone(),
            (_, Some(prefix), Driver::Systemd) => format!("{prefix}-{id}.scope"),
            (_, Some(prefix), _) => format!("{prefix}-{id}"),
        };
        let root = self.root;
        let of_class = class.map_or(root.to_owned(), |class| format!("{root}-{class}"));
        let slice = format!("{of_class}-pod{}.slice", self.uid.replace('-', "_"));
        let mut tree = match self.driver {
            Driver::Mismatch => {
                return (
                    vec![format!("{slice}:{}:{id}", prefix.unwrap_or("docker"))],
                    0,
                );
            }
            Driver::Cgroupfs => vec!["kubepods".to_owned()],
            Driver::Systemd => vec![format!("{root}.slice")],
        };
        if class.is_some() {
            tree.push(match self.driver {
                Driver::Cgroupfs => class.unwrap_or_default().to_owned(),
                _ => format!("{of_class}.slice"),
            });
        }
        let pod = tree.len();
        tree.push(match self.driver {
            Driver::Cgroupfs => format!("pod{}", self.uid),
            _ => slice,
        });
        tree.push(leaf);
        tree.truncate(match self.end {
            End::Kubepods => 1,
            End::Qos => pod,
            End::Pod => pod + 1,
            _ => pod + 2,
        });
        (tree, pod)
    }

    fn ends_in_container(&self) -> bool {
        self.end == End::Container || self.driver == Driver::Mismatch
    }

    /// The path without its first `unseen` tree components (and without what is above the tree
    /// if there are any), and what is right for it if the reader knows that they are missing.
    fn path(&self, unseen: usize) -> (String, Placement) {
        let (tree, pod) = self.components();
        let mut path = if unseen == 0 {
            self.above.clone()
        } else {
            String::new()
        };
        for name in &tree[unseen..] {
            path.push('/');
            path.push_str(name);
        }
        if self.ends_in_container() {
            path.push_str(self.below);
        }

        let runtime = match (self.driver, self.runtime) {
            (Driver::Mismatch, None) => Some(Runtime::Docker),
            (_, runtime) => runtime,
        };
        let full = Placement {
            level: match self.end {
                _ if self.ends_in_container() => Level::Container,
                End::Qos if pod == 2 => Level::Qos,
                End::Kubepods | End::Qos => Level::Kubepods,
                End::Pod => Level::Pod,
                _ => Level::Slice,
            },
            qos_class: (tree.len() >= 2 || pod == 0).then_some(self.qos),
            pod: (tree.len() > pod).then(|| PodRef {
                uid: self.uid.clone(),
                uid_kind: if self.uid.contains('-') {
                    UidKind::Uuid
                } else {
                    UidKind::StaticHash
                },
            }),
            container: self.ends_in_container().then(|| ContainerRef {
                id: self.id.clone(),
                runtime,
            }),
            conmon: (self.end == End::Conmon && self.driver != Driver::Mismatch)
                .then_some(Runtime::CriO),
            prefix_len: Some(if unseen == 0 { self.above.len() } else { 0 }),
            outer_missing: false,
        };
        let right = if unseen > pod {
            // The pod is not seen: a name with a runtime in it still tells a container.
            let container = full.container.filter(|_| self.runtime.is_some());
            Placement {
                level: container
                    .as_ref()
                    .map_or(Level::Slice, |_| Level::Container),
                container,
                conmon: full.conmon,
                ..UNRESOLVED
            }
        } else if self.driver == Driver::Cgroupfs && unseen > 0 && tree.len() <= pod {
            UNRESOLVED // a lone `burstable`
        } else if self.driver == Driver::Cgroupfs && unseen == pod {
            Placement {
                qos_class: None,
                ..full
            }
        } else {
            full
        };
        (path, right)
    }
}

fn hex(len: usize) -> impl Strategy<Value = String> {
    vec(select(&b"0123456789abcdef"[..]), len).prop_map(|id| String::from_utf8(id).unwrap())
}

fn pod_uid() -> impl Strategy<Value = String> {
    (hex(32), any::<bool>()).prop_map(|(hash, is_static)| {
        if is_static {
            return hash;
        }
        [0..8, 8..12, 12..16, 16..20, 20..32]
            .map(|part| &hash[part])
            .join("-")
    })
}

fn above() -> impl Strategy<Value = String> {
    (0..7, hex(64), pod_uid()).prop_map(|(kind, id, uid)| match kind {
        0 => String::new(),
        1 => "/kubelet".to_owned(),
        2 => "/kubelet.slice".to_owned(),
        3 => "/system.slice/k3s.service".to_owned(),
        4 => format!("/docker/{id}"),
        5 => format!("/system.slice/docker-{id}.scope/kubelet"),
        _ => format!("/kubepods/burstable/pod{uid}/{id}"),
    })
}

fn case() -> impl Strategy<Value = Case> {
    let runtimes = [
        None,
        Some(Runtime::Containerd),
        Some(Runtime::CriO),
        Some(Runtime::Docker),
        Some(Runtime::Podman),
    ];
    (
        select(vec![Driver::Cgroupfs, Driver::Systemd, Driver::Mismatch]),
        select(vec!["kubepods", "kubelet-kubepods", "a-b-kubepods"]),
        select(vec![
            QosClass::Guaranteed,
            QosClass::Burstable,
            QosClass::BestEffort,
        ]),
        pod_uid(),
        hex(64),
        select(runtimes.to_vec()),
        select(vec![
            End::Kubepods,
            End::Qos,
            End::Pod,
            End::Stranger,
            End::Conmon,
            End::Container,
            End::Container,
        ]),
        above(),
        select(vec!["", "/init.scope", "/kube-proxy", "/a/b/c"]),
    )
        .prop_map(
            |(driver, root, qos, uid, id, runtime, end, above, below)| Case {
                driver,
                root,
                qos,
                uid,
                id,
                runtime,
                end,
                above,
                below,
            },
        )
}

/// One way to spoil a path.
#[derive(Clone, Debug)]
enum Damage {
    Replace(u8),
    Insert(u8),
    Remove,
    Truncate,
    Behead,
    Repeat,
}

fn damage() -> impl Strategy<Value = (prop::sample::Index, Damage)> {
    let byte = prop_oneof![any::<u8>(), select(&b"/-_:.09afAg"[..])];
    let damage = (0..6, byte).prop_map(|(kind, byte)| match kind {
        0 => Damage::Replace(byte),
        1 => Damage::Insert(byte),
        2 => Damage::Remove,
        3 => Damage::Truncate,
        4 => Damage::Behead,
        _ => Damage::Repeat,
    });
    (any::<prop::sample::Index>(), damage)
}

fn spoil(path: &mut Vec<u8>, (index, damage): (prop::sample::Index, Damage)) {
    if path.is_empty() {
        return;
    }
    let at = index.index(path.len());
    match damage {
        Damage::Replace(byte) => path[at] = byte,
        Damage::Insert(byte) => path.insert(at, byte),
        Damage::Remove => {
            path.remove(at);
        }
        Damage::Truncate => path.truncate(at),
        Damage::Behead => {
            path.drain(..at);
        }
        Damage::Repeat => path.extend_from_within(at..),
    }
}

fn contains(path: &[u8], part: &str) -> bool {
    path.windows(part.len())
        .any(|window| window == part.as_bytes())
}

/// Whatever the path, the answer is made of nothing but what stands in it.
fn assert_told_by(path: &[u8], placement: &Placement) {
    if let Some(pod) = &placement.pod {
        let dashed = format!("pod{}", pod.uid);
        assert!(
            contains(path, &dashed)
                || contains(path, &format!("{}.slice", dashed.replace('-', "_"))),
            "{placement:?}"
        );
        let shape: Vec<usize> = pod.uid.split('-').map(str::len).collect();
        assert!(
            matches!(shape[..], [8, 4, 4, 4, 12] | [32]),
            "{placement:?}"
        );
    }
    if let Some(container) = &placement.container {
        assert!(contains(path, &container.id), "{placement:?}");
        assert_eq!(container.id.len(), 64);
    }
    let class = match placement.qos_class {
        None => "",
        Some(QosClass::Guaranteed) => "kubepods",
        Some(QosClass::Burstable) => "burstable",
        Some(QosClass::BestEffort) => "besteffort",
    };
    assert!(class.is_empty() || contains(path, class), "{placement:?}");
    assert_eq!(
        placement.level == Level::Container,
        placement.container.is_some()
    );
    assert!(placement.level != Level::Pod || placement.pod.is_some());
    assert!(placement.prefix_len.unwrap_or(0) <= path.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    /// Every shape a kubelet and a runtime make, whole, cut or relative, gives what it was made of.
    #[test]
    fn generated_paths(case in case(), unseen in 0_usize..4) {
        let (whole, right) = case.path(0);
        prop_assert_eq!(at(&whole), right, "{}", whole);

        let unseen = unseen % case.components().0.len();
        let (path, right) = case.path(unseen);
        let right = Placement { outer_missing: true, ..right };
        prop_assert_eq!(resolve_cut(path.as_bytes()), right.clone(), "{}", path);
        prop_assert_eq!(resolve_cut(&path.as_bytes()[1..]).pod, right.clone().pod, "{}", path);
        if unseen > 0 {
            prop_assert_eq!(at(&format!("/../..{path}")), right, "{}", path);
        }
    }

    /// A uid with one byte that cannot be there resolves to no pod, and an id to no container.
    #[test]
    fn broken_ids(case in case(), at_byte in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let case = Case { above: String::new(), ..case };
        let path = case.path(0).0.into_bytes();
        for id in [case.uid.replace('-', "_"), case.uid.clone(), case.id] {
            let Some(start) = path.windows(id.len()).position(|window| window == id.as_bytes()) else {
                continue;
            };
            let is_uid = id.len() < 64;
            let within = at_byte.index(id.len());
            let is_hex = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if is_hex && !matches!(id.as_bytes()[within], b'-' | b'_') || id.as_bytes()[within] == byte {
                continue;
            }
            let mut broken = path.clone();
            broken[start + within] = byte;
            for placement in [resolve(&broken), resolve_cut(&broken)] {
                if is_uid {
                    prop_assert_eq!(placement.pod, None);
                } else {
                    prop_assert_eq!(placement.container, None);
                }
            }
        }
    }

    /// Spoiled and spliced paths never panic, and never give an id that does not stand in them.
    #[test]
    fn spoiled_paths(cases in vec(case(), 1..3), damages in vec(damage(), 0..8)) {
        let mut path: Vec<u8> = cases.iter().flat_map(|case| case.path(0).0.into_bytes()).collect();
        for damage in damages {
            spoil(&mut path, damage);
            assert_told_by(&path, &resolve(&path));
            assert_told_by(&path, &resolve_cut(&path));
        }
    }

    /// Random bytes, and random sequences of meaningful names, never panic.
    #[test]
    fn random_bytes(
        bytes in vec(any::<u8>(), 0..300),
        names in vec(
            select(vec!["", "..", "/", "kubepods", "kubepods.slice", "burstable", "-", ":", "pod", UID, ID, ".slice", ".scope", "crio", "\u{fffd}"]),
            0..20,
        ),
    ) {
        for path in [bytes, names.concat().into_bytes(), names.join("/").into_bytes()] {
            assert_told_by(&path, &resolve(&path));
            assert_told_by(&path, &resolve_cut(&path));
        }
    }
}
