//! A pod as the API has it, in JSON, and the list of pods as it arrives piece by piece.
//!
//! Only the fields that are used are read; the rest, which is most of it, is skipped. What does not
//! have the shape that the API server enforces is not believed.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    eviction::eviction,
    facts::{
        ContainerFacts, ContainerSpec, Memory, PodFacts, container_id, image, is_name, is_pod_key,
    },
    quantity,
};
use crate::{
    cgroup::QosClass,
    event::{ContainerRole, Eviction, NodeCondition, Owner},
};

/// What a mirror pod has the hash of its configuration in (`IsMirrorPod` in
/// `pkg/kubelet/types/pod_update.go`).
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Where a static pod comes from: `file`, `http`; `api` for others.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// What the Deployment controller labels its ReplicaSets and their pods with; the ReplicaSet is
/// named `<deployment>-<hash>`.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Containers of one pod that are looked at; more do not fit into what the API server stores.
const MOST_CONTAINERS: usize = 512;

/// A pod, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiPod {
    /// Its name, and who it belongs to.
    pub metadata: Metadata,
    spec: Spec,
    status: Status,
}

/// `metadata` of any object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// The version of the cluster's state it was read at.
    pub resource_version: String,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct OwnerReference {
    kind: String,
    name: String,
    controller: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: String,
    containers: Vec<Container>,
    init_containers: Option<Vec<Container>>,
    ephemeral_containers: Option<Vec<Container>>,
    priority: Option<i32>,
    priority_class_name: Option<String>,
    resources: Option<Resources>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    image: Option<String>,
    restart_policy: Option<String>,
    resources: Option<Resources>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    requests: Option<MemoryQuantity>,
    limits: Option<MemoryQuantity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct MemoryQuantity {
    memory: Option<Quantity>,
}

/// The API writes text, and takes numbers as well.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Quantity {
    Text(String),
    Number(u64),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    conditions: Option<Vec<Condition>>,
    qos_class: Option<String>,
    container_statuses: Option<Vec<ContainerStatus>>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

/// A condition of a pod, or of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: Option<String>,
    last_transition_time: Option<String>,
}

impl Condition {
    /// The condition of a node, if it is one.
    pub fn of_node(self) -> Option<NodeCondition> {
        let word = |text: &String| {
            (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        (word(&self.kind) && word(&self.status)).then(|| NodeCondition {
            reason: self.reason.filter(word),
            since: self.last_transition_time.filter(|time| is_time(time)),
            condition: self.kind,
            status: self.status,
        })
    }
}

/// Whether this is a time as the API writes it: RFC 3339.
fn is_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    restart_count: Option<u32>,
    last_state: Option<State>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Terminated {
    #[serde(rename = "containerID")]
    container_id: Option<String>,
}

impl Metadata {
    /// What manages it: the reference that says so (`metav1.GetControllerOf`).
    pub fn controller(&self) -> Option<Owner> {
        let mut owners = self.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true))?;
        let fits = is_name(&owner.name)
            && (1..=63).contains(&owner.kind.len())
            && owner.kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
        fits.then(|| Owner {
            kind: owner.kind.clone(),
            name: owner.name.clone(),
        })
    }

    /// The Deployment behind a ReplicaSet, where the Deployment's own label tells it: then the
    /// ReplicaSet's name is the Deployment's with that label's value behind it.
    pub fn deployment(&self, owner: &Owner) -> Option<Owner> {
        let hash = self.labels.as_ref()?.get(TEMPLATE_HASH)?;
        let name = owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')?;
        (owner.kind == "ReplicaSet" && !hash.is_empty() && is_name(name)).then(|| Owner {
            kind: "Deployment".to_owned(),
            name: name.to_owned(),
        })
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        Some(self.annotations.as_ref()?.get(name)?)
    }
}

impl ApiPod {
    /// Whether it was given to this node.
    pub fn is_on(&self, node: &str) -> bool {
        self.spec.node_name == node
    }

    /// What its status tells of an eviction by the kubelet (`Reason` in
    /// `pkg/kubelet/eviction/helpers.go`).
    pub fn eviction(&self) -> Option<Eviction> {
        let Status {
            phase,
            reason,
            message,
            conditions,
            ..
        } = &self.status;
        if phase.as_deref() != Some("Failed") || reason.as_deref() != Some("Evicted") {
            return None;
        }
        let mut conditions = conditions.iter().flatten();
        let disrupted = conditions.find(|condition| {
            condition.kind == "DisruptionTarget"
                && condition.reason.as_deref() == Some("TerminationByKubelet")
        });
        let at = disrupted.and_then(|condition| condition.last_transition_time.clone());
        Some(Eviction {
            evicted_at: at.filter(|time| is_time(time)),
            ..eviction(message.as_deref().unwrap_or_default())
        })
    }

    /// The pod and its containers, with these labels. `None` where it is not what the API server
    /// would let through.
    pub fn facts(&self, allowed: &[String]) -> Option<(PodFacts, Vec<ContainerFacts>)> {
        let Metadata {
            name,
            namespace,
            uid,
            ..
        } = &self.metadata;
        // The image of a static pod: cgroups are named after the hash, not after its uid.
        let mirror = self.metadata.annotation(MIRROR);
        let key = mirror.unwrap_or(uid);
        if !is_pod_key(key) || !is_pod_key(uid) || !is_name(name) || !is_name(namespace) {
            return None;
        }
        let source = self.metadata.annotation(CONFIG_SOURCE);
        let is_static = mirror.is_some() || source.is_some_and(|source| source != "api");
        let owner = self.metadata.controller();
        let labels = self.metadata.labels.iter().flatten();
        let facts = PodFacts {
            key: key.into(),
            uid: uid.as_str().into(),
            namespace: namespace.as_str().into(),
            name: name.as_str().into(),
            qos_class: match self.status.qos_class.as_deref() {
                Some("Guaranteed") => Some(QosClass::Guaranteed),
                Some("Burstable") => Some(QosClass::Burstable),
                Some("BestEffort") => Some(QosClass::BestEffort),
                _ => None,
            },
            priority: self.spec.priority,
            priority_class: self
                .spec
                .priority_class_name
                .as_deref()
                .filter(|name| is_name(name))
                .map(Into::into),
            owner: owner.map(|owner| self.metadata.deployment(&owner).unwrap_or(owner)),
            owner_asked: false,
            labels: labels
                .filter(|(name, value)| allowed.contains(name) && value.len() <= 63)
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            is_static: Some(is_static),
            memory: memory(self.spec.resources.as_ref()),
            containers: self.spec.containers(),
            evicted: self.eviction().is_some(),
            ids: Box::default(),
        };
        let containers = self.status.containers(key);
        Some((facts, containers))
    }
}

impl Spec {
    fn containers(&self) -> Box<[ContainerSpec]> {
        let init = self.init_containers.iter().flatten().map(|container| {
            let keeps_running = container.restart_policy.as_deref() == Some("Always");
            let role = if keeps_running {
                ContainerRole::Sidecar
            } else {
                ContainerRole::Init
            };
            (role, container)
        });
        let main = self.containers.iter().map(|it| (ContainerRole::Main, it));
        let ephemeral = self.ephemeral_containers.iter().flatten();
        let ephemeral = ephemeral.map(|it| (ContainerRole::Ephemeral, it));
        main.chain(init)
            .chain(ephemeral)
            .filter(|(_, container)| is_name(&container.name))
            .take(MOST_CONTAINERS)
            .map(|(role, container)| ContainerSpec {
                name: container.name.as_str().into(),
                role,
                image: container.image.as_deref().and_then(image),
                memory: memory(container.resources.as_ref()),
            })
            .collect()
    }
}

impl Status {
    fn containers(&self, pod: &str) -> Vec<ContainerFacts> {
        let statuses = [
            &self.container_statuses,
            &self.init_container_statuses,
            &self.ephemeral_container_statuses,
        ];
        let statuses = statuses.into_iter().flatten().flatten();
        let statuses = statuses.filter(|status| is_name(&status.name));
        statuses
            .take(MOST_CONTAINERS)
            .flat_map(|status| {
                let facts = |id: &Option<String>, restart_count| {
                    Some(ContainerFacts {
                        id: container_id(id.as_deref()?)?.into(),
                        pod: pod.into(),
                        name: Some(status.name.as_str().into()),
                        role: None,
                        image: None,
                        restart_count,
                    })
                };
                let count = status.restart_count;
                let now = facts(&status.container_id, count);
                // Every restart has a container of its own.
                let last = status.last_state.as_ref();
                let last = last.and_then(|state| state.terminated.as_ref());
                let before = last.and_then(|last| {
                    facts(
                        &last.container_id,
                        count.and_then(|count| count.checked_sub(1)),
                    )
                });
                let before =
                    before.filter(|before| now.as_ref().is_none_or(|now| now.id != before.id));
                [now, before].into_iter().flatten()
            })
            .collect()
    }
}

fn memory(resources: Option<&Resources>) -> Memory {
    let bytes = |quantity: Option<&MemoryQuantity>| match quantity?.memory.as_ref()? {
        Quantity::Text(text) => quantity::parse(text),
        Quantity::Number(bytes) => Some(*bytes),
    };
    let limit = bytes(resources.and_then(|resources| resources.limits.as_ref()));
    Memory {
        // What has a limit and no request gets it as request (`SetDefaults_Pod`); a static pod's
        // file is not always filled in.
        request: bytes(resources.and_then(|resources| resources.requests.as_ref())).or(limit),
        limit,
    }
}

/// Takes the elements of the `items` of a list out of a stream of JSON, so that no more than one of
/// them is in memory.
#[derive(Debug, Default)]
pub struct Items {
    /// The element under way, or what is outside of `items`.
    element: Vec<u8>,
    outside: Vec<u8>,
    depth: u32,
    in_items: bool,
    in_string: bool,
    escaped: bool,
    /// The last complete string at the top level, to know what an array is called.
    name: Vec<u8>,
}

/// An element or everything else of a list may not be larger: etcd takes 1.5 MiB.
const MOST_BYTES: usize = 4 << 20;

/// A list that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Larger than anything the API server stores.
    #[error("an object of more than {} MiB", MOST_BYTES >> 20)]
    TooLarge,
    /// No JSON of a list.
    #[error("not a list: {0}")]
    Json(#[from] serde_json::Error),
    /// It ended in the middle.
    #[error("the list ended in the middle")]
    Cut,
}

/// What a list tells besides its items.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListMeta {
    metadata: ListMetadata,
}

/// Where a list was cut into pages, and what a watch begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListMetadata {
    /// The state of the cluster that was listed.
    pub resource_version: String,
    /// Where the next page begins.
    #[serde(rename = "continue")]
    pub more: Option<String>,
}

impl Items {
    /// Takes in a piece; each element that is whole is handed over.
    ///
    /// # Errors
    /// When an element is too large to be a pod.
    pub fn feed(&mut self, piece: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), ListError> {
        for &byte in piece {
            // Depth 2 is inside of the array `items` of the list itself.
            let inside = self.in_items && self.depth >= 2;
            let target = if inside {
                &mut self.element
            } else {
                &mut self.outside
            };
            if target.len() >= MOST_BYTES {
                return Err(ListError::TooLarge);
            }
            if self.in_string {
                target.push(byte);
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ if self.depth == 1 => self.name.push(byte),
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => {
                    self.in_string = true;
                    if self.depth == 1 {
                        self.name.clear();
                    }
                    target.push(byte);
                }
                b'{' | b'[' => {
                    target.push(byte);
                    if byte == b'[' && self.depth == 1 && self.name == b"items" {
                        self.in_items = true;
                    }
                    self.depth += 1;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.in_items && self.depth == 1 {
                        self.in_items = false;
                        self.outside.push(byte);
                    } else {
                        target.push(byte);
                        if self.in_items && self.depth == 2 {
                            each(&self.element);
                            self.element.clear();
                        }
                    }
                }
                b',' if self.in_items && self.depth == 2 => {}
                _ if byte.is_ascii_whitespace() => {}
                _ => target.push(byte),
            }
        }
        Ok(())
    }

    /// The rest of the list, once all of it has come.
    ///
    /// # Errors
    /// When it was no list, or not all of it.
    pub fn end(&self) -> Result<ListMetadata, ListError> {
        if self.depth != 0 || self.in_string || self.outside.is_empty() {
            return Err(ListError::Cut);
        }
        let list: ListMeta = serde_json::from_slice(&self.outside)?;
        Ok(list.metadata)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    const UID: &str = "11111111-2222-3333-4444-555555555555";
    const HASH: &str = "0123456789abcdef0123456789abcdef";

    fn pod() -> serde_json::Value {
        serde_json::json!({
            "metadata": {
                "name": "checkout-7d4b9c-x2x", "namespace": "shop", "uid": UID,
                "labels": {"app": "checkout", "secret": "x", "pod-template-hash": "7d4b9c"},
                "ownerReferences": [
                    {"kind": "Other", "name": "other"},
                    {"kind": "ReplicaSet", "name": "checkout-7d4b9c", "controller": true},
                ],
            },
            "spec": {
                "nodeName": "node1", "priority": 7, "priorityClassName": "high",
                "containers": [
                    {"name": "app", "image": "shop/checkout:1",
                     "resources": {"requests": {"memory": "1Gi", "cpu": "1"}, "limits": {"memory": "1536Mi"}}},
                    {"name": "bare", "image": "busybox"},
                ],
                "initContainers": [
                    {"name": "migrate", "resources": {"limits": {"memory": "64M"}}},
                    {"name": "proxy", "restartPolicy": "Always"},
                ],
                "ephemeralContainers": [{"name": "debug"}],
            },
            "status": {
                "qosClass": "Burstable",
                "containerStatuses": [{
                    "name": "app", "restartCount": 3,
                    "containerID": format!("containerd://{}", "b".repeat(64)),
                    "lastState": {"terminated": {"containerID": format!("containerd://{}", "a".repeat(64))}},
                }],
            },
        })
    }

    fn facts(value: &serde_json::Value) -> Option<(PodFacts, Vec<ContainerFacts>)> {
        let pod: ApiPod = serde_json::from_value(value.clone()).ok()?;
        pod.facts(&["app".to_owned()])
    }

    /// Everything that is used is read; labels that are not allowed are not.
    #[test]
    fn a_pod() {
        let (pod, containers) = facts(&pod()).expect("a pod");
        assert_eq!(
            (&*pod.key, &*pod.namespace, &*pod.name),
            (UID, "shop", "checkout-7d4b9c-x2x")
        );
        assert_eq!(
            (pod.priority, pod.priority_class.as_deref()),
            (Some(7), Some("high"))
        );
        assert_eq!(pod.qos_class, Some(QosClass::Burstable));
        assert_eq!(pod.is_static, Some(false));
        assert_eq!(
            pod.labels,
            BTreeMap::from([("app".to_owned(), "checkout".to_owned())])
        );
        let owner = pod.owner.expect("an owner");
        assert_eq!((&*owner.kind, &*owner.name), ("Deployment", "checkout"));
        let specs = pod.containers.iter();
        let specs: Vec<_> = specs
            .map(|spec| {
                (
                    &*spec.name,
                    spec.role,
                    spec.memory.request,
                    spec.memory.limit,
                )
            })
            .collect();
        assert_eq!(
            specs,
            [
                ("app", ContainerRole::Main, Some(1 << 30), Some(1536 << 20)),
                ("bare", ContainerRole::Main, None, None),
                (
                    "migrate",
                    ContainerRole::Init,
                    Some(64_000_000),
                    Some(64_000_000)
                ),
                ("proxy", ContainerRole::Sidecar, None, None),
                ("debug", ContainerRole::Ephemeral, None, None),
            ]
        );
        let containers = containers.iter();
        let containers: Vec<_> = containers
            .map(|it| (&it.id[..1], it.name.as_deref(), it.restart_count))
            .collect();
        assert_eq!(
            containers,
            [("b", Some("app"), Some(3)), ("a", Some("app"), Some(2))]
        );
    }

    /// The Deployment is told by its label only where the ReplicaSet's name has it.
    #[test]
    fn who_owns_it() {
        for (hash, name, kind) in [
            ("7d4b9c", "checkout-7d4b9c", "Deployment"),
            ("", "checkout-", "ReplicaSet"),
            ("other", "checkout-7d4b9c", "ReplicaSet"),
            ("7d4b9c", "7d4b9c", "ReplicaSet"),
        ] {
            let mut pod = pod();
            pod["metadata"]["labels"]["pod-template-hash"] = hash.into();
            pod["metadata"]["ownerReferences"][1]["name"] = name.into();
            let owner = facts(&pod).and_then(|(pod, _)| pod.owner);
            let found = owner.map_or("none".to_owned(), |owner| owner.kind);
            let expected = if name.ends_with('-') {
                "ReplicaSet"
            } else {
                kind
            };
            assert_eq!(found, expected, "{hash} {name}");
        }
    }

    /// The image of a static pod is found by its hash; the kubelet's own says where it is from.
    #[test]
    fn static_pods() {
        let mut mirror = pod();
        mirror["metadata"]["annotations"] = serde_json::json!({MIRROR: HASH});
        let (facts_of_mirror, _) = facts(&mirror).expect("a pod");
        assert_eq!((&*facts_of_mirror.key, &*facts_of_mirror.uid), (HASH, UID));
        assert_eq!(facts_of_mirror.is_static, Some(true));
        let mut file = pod();
        file["metadata"]["uid"] = HASH.into();
        file["metadata"]["annotations"] = serde_json::json!({CONFIG_SOURCE: "file"});
        assert_eq!(facts(&file).map(|(pod, _)| pod.is_static), Some(Some(true)));
    }

    /// What the API server would not let through is not believed, and harms nothing else.
    #[test]
    fn what_is_no_pod() {
        for (at, value) in [
            ("name", serde_json::json!("a\u{1b}[31m")),
            ("name", serde_json::json!("../../etc")),
            ("namespace", serde_json::json!("")),
            ("uid", serde_json::json!("not-a-uid")),
            ("uid", serde_json::json!(7)),
            ("annotations", serde_json::json!({MIRROR: "short"})),
        ] {
            let mut pod = pod();
            pod["metadata"][at] = value;
            assert!(facts(&pod).is_none(), "{pod}");
        }
    }

    fn split(bytes: &[u8], size: usize) -> Result<(Vec<String>, ListMetadata), ListError> {
        let (mut items, mut found) = (Items::default(), Vec::new());
        for piece in bytes.chunks(size) {
            items.feed(piece, &mut |item| {
                found.push(String::from_utf8_lossy(item).into_owned())
            })?;
        }
        Ok((found, items.end()?))
    }

    /// Whatever pieces a list comes in, its items are the same; strings that look like structure are
    /// strings.
    #[test]
    fn a_list_in_pieces() {
        let list = r#" {"kind":"PodList", "metadata":{"resourceVersion":"42","continue":"ab", "items":[1]},
            "items" : [ {"a":"]}\\\"[{", "items":[[1],{}]} , {"b" : [ ] } ], "x": "items" } "#;
        for size in 1..list.len() {
            let (items, meta) = split(list.as_bytes(), size).expect("a list");
            assert_eq!(
                items,
                [r#"{"a":"]}\\\"[{","items":[[1],{}]}"#, r#"{"b":[]}"#]
            );
            assert_eq!(
                (&*meta.resource_version, meta.more.as_deref()),
                ("42", Some("ab"))
            );
        }
        let (items, _) = split(br#"{"items":null}"#, 3).expect("a list");
        assert!(items.is_empty());
        for broken in [
            "",
            "{",
            r#"{"items":[{}"#,
            "<html>",
            r#"{"items":[]"#,
            "[]x",
        ] {
            assert!(split(broken.as_bytes(), 2).is_err(), "{broken:?}");
        }
        let huge = [br#"{"items":[""#.as_slice(), &vec![b'a'; MOST_BYTES + 1]].concat();
        assert!(matches!(split(&huge, 4096), Err(ListError::TooLarge)));
    }

    proptest! {
        /// No bytes of a server do harm.
        #[test]
        fn any_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            json in "[\\[\\]{}\",:a-z0-9\\\\ ]{0,100}",
            size in 1usize..50,
        ) {
            let _ = split(&bytes, size);
            let _ = split(json.as_bytes(), size);
            let _ = split(format!("{{\"items\":[{json}]}}").as_bytes(), size);
        }
    }
}
