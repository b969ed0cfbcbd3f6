//! Paths written by hand, and those collected from real nodes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod generated;

use std::path::PathBuf;

use super::{ContainerRef, Level, Placement, QosClass, Runtime, UidKind, resolve};

const UID: &str = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";
const ID: &str = "14011c7d92a9e513dfd69211da0413dbf319a5e45a02b354ba6e98e10272542d";

/// The answer for a cgroup of which the path tells nothing.
const UNRESOLVED: Placement = Placement {
    level: Level::Slice,
    qos_class: None,
    pod: None,
    container: None,
    conmon: None,
    prefix_len: None,
    outer_missing: false,
};

fn resolve_cut(path: &[u8]) -> Placement {
    Placement::of(path, true)
}

fn at(path: &str) -> Placement {
    resolve(path.as_bytes())
}

fn container(id: &str, runtime: Option<Runtime>) -> Option<ContainerRef> {
    let id = id.to_owned();
    Some(ContainerRef { id, runtime })
}

fn uid(placement: &Placement) -> Option<&str> {
    placement.pod.as_ref().map(|pod| pod.uid.as_str())
}

/// The root is the node, an empty path is nothing, and unknown cgroups are slices.
#[test]
fn cgroups_outside_of_kubernetes() {
    assert_eq!(
        at("/"),
        Placement {
            level: Level::Node,
            ..UNRESOLVED
        }
    );
    for path in [
        "",
        "/system.slice",
        "/system.slice/sshd.service",
        "/burstable",
        "/docker",
    ] {
        assert_eq!(at(path), UNRESOLVED, "{path}");
    }
    for path in ["/..", "/../..", "/../foo"] {
        let unseen = Placement {
            outer_missing: true,
            ..UNRESOLVED
        };
        assert_eq!(at(path), unseen, "{path}");
    }
    assert_eq!(resolve_cut(b"/").level, Level::Slice);
}

/// The levels whose limit can be hit: kubepods has no class, the QoS level has one.
#[test]
fn levels_above_the_pod() {
    for (path, level, qos_class) in [
        ("/kubepods", Level::Kubepods, None),
        ("/kubepods.slice", Level::Kubepods, None),
        (
            "/kubelet.slice/kubelet-kubepods.slice",
            Level::Kubepods,
            None,
        ),
        ("/kubepods/burstable", Level::Qos, Some(QosClass::Burstable)),
        (
            "/kubepods.slice/kubepods-besteffort.slice",
            Level::Qos,
            Some(QosClass::BestEffort),
        ),
    ] {
        let placement = at(path);
        assert_eq!(
            (placement.level, placement.qos_class),
            (level, qos_class),
            "{path}"
        );
        assert_eq!((placement.pod, placement.container), (None, None), "{path}");
    }
}

/// Containers of Docker, Podman and containerd that are no pod's, and their conmon.
#[test]
fn containers_without_a_pod() {
    for (path, runtime) in [
        (format!("/docker/{ID}"), Runtime::Docker),
        (
            format!("/docker/{ID}/docker/{}", "0".repeat(64)),
            Runtime::Docker,
        ),
        (format!("/k8s.io/{ID}"), Runtime::Containerd),
        (
            format!("/system.slice/docker-{ID}.scope/a.service"),
            Runtime::Docker,
        ),
        (
            format!("/system.slice/docker-{ID}.scope/kubepods/foo"),
            Runtime::Docker,
        ),
        (
            format!("/machine.slice/libpod-{ID}.scope/container"),
            Runtime::Podman,
        ),
        (format!("/kubepods/burstable/podx/crio-{ID}"), Runtime::CriO),
    ] {
        let expected = Placement {
            level: Level::Container,
            container: container(ID, Some(runtime)),
            ..UNRESOLVED
        };
        assert_eq!(at(&path), expected, "{path}");
    }
    let conmon = at(&format!("/machine.slice/libpod-conmon-{ID}.scope/x"));
    assert_eq!(
        conmon,
        Placement {
            conmon: Some(Runtime::Podman),
            ..UNRESOLVED
        }
    );
    for path in [
        format!("/{ID}"),
        format!("/foo/{ID}"),
        "/k8s.io/web".to_owned(),
    ] {
        assert_eq!(at(&path), UNRESOLVED, "{path}");
    }
}

/// Names that are almost those of a pod resolve to no pod.
#[test]
fn near_misses_are_unresolved() {
    let systemd = UID.replace('-', "_");
    let upper = UID.to_uppercase();
    let hash = "0".repeat(31);
    for path in [
        format!("/pod{UID}/{ID}"),
        format!("/burstable/pod{UID}/{ID}"),
        format!("/kubepods/pod{upper}/{ID}"),
        format!("/kubepods/pod{systemd}/{ID}"),
        format!("/kubepods/pod{UID}0/{ID}"),
        format!("/kubepods/pod{hash}/{ID}"),
        format!("/kubepods/{UID}/{ID}"),
        format!("/kubepods/guaranteed/pod{UID}/{ID}"),
        format!("/kubepods/burstable/besteffort/pod{UID}/{ID}"),
        format!("/xkubepods/burstable/pod{UID}/{ID}"),
        format!("/kubepods/burstable/../pod{UID}/{ID}"),
        format!("/kubepods.slice/kubepods-pod{UID}.slice/{ID}"),
        format!("/kubepods.slice/kubepods-pod{systemd}/{ID}"),
        format!("/xkubepods.slice/xkubepods-pod{systemd}.slice/{ID}"),
        // Slices whose parent systemd would not have given them.
        format!("/kubepods-burstable-pod{systemd}.slice/{ID}"),
        format!("/kubepods.slice/kubepods-burstable-pod{systemd}.slice/{ID}"),
        format!("/kubepods.slice/kubepods-burstable.slice/kubepods-pod{systemd}.slice/{ID}"),
        format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-besteffort-pod{systemd}.slice/{ID}"
        ),
        format!("/kubepods.slice/p-kubepods-pod{systemd}.slice/{ID}"),
        // Mismatch form with a part that is not what it must be.
        format!("/kubepods-pod{systemd}.slice:rkt:{ID}"),
        format!("/kubepods-pod{systemd}.slice:docker:{ID}0"),
        format!("/kubepods-pod{systemd}.slice:docker"),
        format!("/kubepods-burstable.slice:docker:{ID}"),
    ] {
        assert_eq!(at(&path), UNRESOLVED, "{path}");
    }
}

/// Below a pod only the full shape of a container's name is a container; the pod stays known.
#[test]
fn strangers_in_a_pod() {
    let long = format!("{ID}0");
    let bare_scope = format!("{ID}.scope");
    for name in [
        "init.scope",
        &ID[1..],
        &long,
        &bare_scope,
        &ID.to_uppercase(),
        "x/docker",
    ] {
        let placement = at(&format!("/kubepods/pod{UID}/{name}/{ID}"));
        assert_eq!(uid(&placement), Some(UID), "{name}");
        assert_eq!(placement.level, Level::Slice, "{name}");
        assert_eq!(placement.container, None, "{name}");
    }
}

/// Without the upper components, only what the remaining names tell is told.
#[test]
fn cut_paths_do_not_guess_the_class() {
    let lone = resolve_cut(format!("pod{UID}/{ID}").as_bytes());
    assert_eq!((uid(&lone), lone.qos_class), (Some(UID), None));
    assert_eq!(lone.container, container(ID, None));

    let below_class = resolve_cut(format!("besteffort/pod{UID}/{ID}").as_bytes());
    assert_eq!(below_class.qos_class, Some(QosClass::BestEffort));

    let slice = format!("kubepods-pod{}.slice", UID.replace('-', "_"));
    let named = resolve_cut(slice.as_bytes());
    assert_eq!(named.qos_class, Some(QosClass::Guaranteed));

    let lone_class = resolve_cut(b"burstable");
    assert_eq!(
        (lone_class.level, lone_class.qos_class),
        (Level::Slice, None)
    );
}

/// Of a cluster inside a pod the inner pod is told, and the part above it tells the outer one.
#[test]
fn nested_in_a_pod() {
    let outer = format!("/kubepods/burstable/pod{UID}/{ID}");
    let inner = "0".repeat(32);
    let path = format!("{outer}/kubepods/besteffort/pod{inner}/{}", "1".repeat(64));
    let placement = at(&path);
    assert_eq!(uid(&placement), Some(inner.as_str()));
    assert_eq!(placement.qos_class, Some(QosClass::BestEffort));
    let above = at(&path[..placement.prefix_len.unwrap()]);
    assert_eq!(above, at(&outer));
    assert_eq!(uid(&above), Some(UID));
    // A directory that only begins like a cluster changes nothing.
    assert_eq!(
        at(&format!("{outer}/kubepods/besteffort/podx/y")),
        at(&outer)
    );
}

/// Every collected real path gives the recorded answer.
#[test]
fn real_paths() {
    let shared = std::env::var_os("OOMTRACE_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")),
        PathBuf::from,
    );
    let file = shared.join("data/cgroup_paths.jsonl");
    let lines = match std::fs::read_to_string(&file) {
        Ok(lines) => lines,
        Err(error) => {
            eprintln!(
                "skipped: the collected paths are not here: {}: {error}",
                file.display()
            );
            return;
        }
    };
    assert!(!lines.trim().is_empty());
    for line in lines.lines() {
        let sample: serde_json::Value = serde_json::from_str(line).unwrap();
        let path = sample["path"].as_str().unwrap();
        let placement = at(path);
        let name = serde_json::to_value(placement.level).unwrap();
        let mut level = name.as_str().unwrap();
        let mut runtime = placement
            .container
            .as_ref()
            .and_then(|container| container.runtime);
        let mut prefix = placement.prefix_len.map(|len| &path[..len]);
        let mut fields = vec![
            "kind",
            "qos",
            "pod_uid",
            "pod_uid_kind",
            "container_id",
            "runtime",
            "prefix",
        ];
        for key in sample["expected"].as_object().unwrap().keys() {
            assert!(
                fields.contains(&key.as_str()),
                "unknown field {key}: {line}"
            );
        }
        fields.retain(|field| sample["expected"].get(field).is_none());
        assert!(fields.is_empty(), "without {fields:?}: {line}");
        match sample["expected"]["kind"].as_str().unwrap() {
            "container" => assert!(placement.pod.is_some(), "{line}"),
            "container_no_pod" => {
                assert_eq!(placement.pod, None, "{line}");
                level = if level == "container" {
                    "container_no_pod"
                } else {
                    level
                };
            }
            "pod" => {}
            "conmon" => {
                assert_eq!(level, "slice", "{line}");
                level = "conmon";
                runtime = placement.conmon;
            }
            "host" => level = if level == "slice" { "host" } else { level },
            // The samples give a prefix to pods only; here it is told for the levels above, too.
            "qos" => prefix = None,
            "kubepods_root" => {
                level = if level == "kubepods" {
                    "kubepods_root"
                } else {
                    level
                };
                prefix = None;
            }
            kind => panic!("unknown kind {kind}: {line}"),
        }
        let answer = serde_json::json!({
            "kind": level,
            "qos": placement.qos_class.map(QosClass::name),
            "pod_uid": uid(&placement),
            "pod_uid_kind": placement.pod.as_ref().map(|pod| match pod.uid_kind {
                UidKind::Uuid => "uuid",
                UidKind::StaticHash => "static_hash",
            }),
            "container_id": placement.container.as_ref().map(|container| &container.id),
            "runtime": runtime.map(Runtime::name),
            "prefix": prefix,
        });
        assert_eq!(answer, sample["expected"], "{line}");
    }
}
