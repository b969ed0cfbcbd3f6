//! The API server: the pods of this node, listed once and then watched.
//!
//! A watch goes on from where the last one ended, also over hours without an answer; when the
//! server says that it no longer knows that point (410 Gone), the list is made anew. What was known
//! stays known meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    Backoff,
    http::{Error, Server},
};
use crate::{
    event::{NodeCondition, Owner},
    kubernetes::{
        Pods,
        facts::{PodFacts, Source, is_name},
        pod::{ApiPod, Condition, Items, Metadata},
    },
    process,
};

/// Pods of a page.
const PAGE: u32 = 100;
/// Between two pieces of a list.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a watch lasts.
const WATCH_SECONDS: u32 = 290;
/// A watch that ends sooner is followed by a pause.
const BRIEF: Duration = Duration::from_secs(1);
/// The server sends a bookmark every minute or so; when nothing comes for much longer the connection
/// is dead and nobody has told.
const QUIET: Duration = Duration::from_secs(150);
/// A line of a watch has one pod.
const MOST_BYTES: usize = 4 << 20;
/// An eviction is told without the node's conditions after this.
const AT_ONCE: Duration = Duration::from_secs(5);
/// ReplicaSets that are remembered, and that wait to be asked about.
const MOST_OWNERS: usize = 1024;

/// The API server as a source.
pub struct Api {
    server: Server,
    node: String,
    labels: Arc<[String]>,
    pods: Arc<Pods>,
    owners: Arc<Owners>,
    to_ask: mpsc::Sender<Asked>,
}

/// How a watch ended, other than by an error.
enum Ended {
    /// It was to last so long.
    Over,
    /// The point where it was to begin is known no longer.
    Gone,
}

impl Api {
    /// The pods of a node.
    pub fn new(server: Server, node: String, labels: Arc<[String]>, pods: Arc<Pods>) -> Self {
        let owners = Arc::new(Owners {
            server: server.clone(),
            known: Mutex::default(),
        });
        let (to_ask, asked) = mpsc::channel(MOST_OWNERS);
        tokio::spawn(Arc::clone(&owners).run(asked, Arc::clone(&pods)));
        Self {
            server,
            node,
            labels,
            pods,
            owners,
            to_ask,
        }
    }

    /// Keeps the cache up to date for ever.
    pub async fn run(self) {
        let mut backoff = Backoff::default();
        let mut at: Option<String> = None;
        // The first list may come from the server's memory; after it said Gone that may be too old.
        let mut recent = false;
        loop {
            let Some(version) = &mut at else {
                match self.list(recent).await {
                    Ok(version) => at = Some(version),
                    Err(error) => {
                        self.pods.failed(Source::Api, &error.to_string());
                        sleep(backoff.next_wait()).await;
                    }
                }
                continue;
            };
            let (began, from) = (Instant::now(), version.clone());
            let ended = self.watch(version).await;
            // A server that ends each watch at once must not be asked again at once.
            let lasted = began.elapsed() >= BRIEF;
            if lasted || *version != from {
                backoff.reset();
            }
            match ended {
                Ok(Ended::Over) if lasted => continue,
                Ok(Ended::Over) => {}
                Ok(Ended::Gone) => {
                    tracing::debug!("pods: api: the watch cannot go on; listing anew");
                    (at, recent) = (None, true);
                }
                Err(error) => self.pods.failed(Source::Api, &error.to_string()),
            }
            sleep(backoff.next_wait()).await;
        }
    }

    fn address(&self, more: &str) -> String {
        format!(
            "/api/v1/pods?fieldSelector=spec.nodeName%3D{}{more}",
            self.node
        )
    }

    /// Lists the pods of the node. Returns the state of the cluster that was listed.
    async fn list(&self, recent: bool) -> Result<String, Error> {
        let generation = self.pods.cache().begin();
        let mut page = format!("&limit={PAGE}");
        if !recent {
            page.push_str("&resourceVersion=0");
        }
        let version = loop {
            let mut body = self.server.get(&self.address(&page)).await?;
            let mut items = Items::default();
            while let Some(piece) = body.next(PATIENCE).await? {
                items
                    .feed(&piece, &mut |item| {
                        if let Ok(pod) = serde_json::from_slice(item) {
                            self.take(&pod);
                        }
                    })
                    .map_err(|error| Error::Answer(error.to_string()))?;
            }
            let list = items
                .end()
                .map_err(|error| Error::Answer(error.to_string()))?;
            match list.more.filter(|more| !more.is_empty()) {
                Some(more) => page = format!("&limit={PAGE}&continue={}", escaped(&more)),
                None => break list.resource_version,
            }
        };
        if version.is_empty() {
            return Err(Error::Answer("a list without a resourceVersion".to_owned()));
        }
        self.pods.told_all(Source::Api, generation);
        process::release_memory();
        Ok(version)
    }

    /// Follows what changes from a state of the cluster on.
    async fn watch(&self, at: &mut String) -> Result<Ended, Error> {
        let more = format!(
            "&watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}",
            escaped(at)
        );
        let mut body = match self.server.get(&self.address(&more)).await {
            Err(Error::Status { status: 410, .. }) => return Ok(Ended::Gone),
            body => body?,
        };
        self.pods.live(Source::Api);
        let mut line = Vec::new();
        loop {
            let piece = match body.next(QUIET).await {
                Ok(Some(piece)) => piece,
                Ok(None) | Err(Error::Slow(_)) => return Ok(Ended::Over),
                Err(error) => return Err(error),
            };
            let mut pieces = piece.split(|byte| *byte == b'\n').peekable();
            while let Some(piece) = pieces.next() {
                if line.len() + piece.len() > MOST_BYTES {
                    return Err(Error::Answer("a pod of more than 4 MiB".to_owned()));
                }
                line.extend_from_slice(piece);
                // What is behind the last newline goes on in the next piece.
                if pieces.peek().is_some() && !line.trim_ascii().is_empty() {
                    if let Some(ended) = self.change(&line, at)? {
                        return Ok(ended);
                    }
                    line.clear();
                }
            }
        }
    }

    /// Takes in one change.
    fn change(&self, line: &[u8], at: &mut String) -> Result<Option<Ended>, Error> {
        let change: Change = serde_json::from_slice(line)
            .map_err(|error| Error::Answer(format!("a watch with what is no change: {error}")))?;
        self.pods.answered(Source::Api);
        let object = change.object.get();
        let unreadable =
            |error: serde_json::Error| Error::Answer(format!("{}: {error}", change.kind));
        match &*change.kind {
            "ERROR" => {
                let status: Status = serde_json::from_str(object).map_err(unreadable)?;
                if status.code == 410 {
                    return Ok(Some(Ended::Gone));
                }
                return Err(Error::Status {
                    status: status.code,
                    reason: " in a watch",
                });
            }
            "BOOKMARK" => {
                let bookmark: Bookmark = serde_json::from_str(object).map_err(unreadable)?;
                at.clone_from(&bookmark.metadata.resource_version);
            }
            kind => {
                let pod: ApiPod = serde_json::from_str(object).map_err(unreadable)?;
                if kind == "DELETED" {
                    if let Some((facts, _)) = pod.facts(&[]) {
                        self.pods.put(|cache, now_ns| {
                            cache.pod_gone(Source::Api, &facts, now_ns);
                            false
                        });
                    }
                } else {
                    self.take(&pod);
                }
                if !pod.metadata.resource_version.is_empty() {
                    at.clone_from(&pod.metadata.resource_version);
                }
            }
        }
        Ok(None)
    }

    /// Takes in a pod.
    fn take(&self, pod: &ApiPod) {
        // A server that does not know the selector sends everybody's.
        let Some((mut facts, containers)) =
            pod.facts(&self.labels).filter(|_| pod.is_on(&self.node))
        else {
            tracing::debug!("pods: api tells of what is no pod of this node");
            return;
        };
        let replica_set = pod
            .metadata
            .controller()
            .filter(|owner| owner.kind == "ReplicaSet");
        if let Some(replica_set) = replica_set {
            let key = (facts.namespace.to_string(), replica_set.name);
            match self.owners.known(&key) {
                Some(owner) => facts.owner = owner.or(facts.owner),
                // When there are too many, the label's word is all there is.
                None => {
                    let pod = facts.clone();
                    facts.owner_asked = self.to_ask.try_send(Asked { key, pod }).is_ok();
                }
            }
        }
        let eviction = pod.eviction();
        let whole = (facts, containers);
        if self.pods.put_whole(Source::Api, whole, eviction) {
            self.pods.new_pod.notify_one();
        }
    }
}

/// The conditions of a node. `None` where they may not be read.
pub async fn node_conditions(server: &Server, node: &str) -> Option<Vec<NodeCondition>> {
    #[derive(Deserialize)]
    struct Node {
        status: NodeStatus,
    }
    #[derive(Deserialize)]
    struct NodeStatus {
        conditions: Vec<Condition>,
    }
    let read = async {
        let body = server.get(&format!("/api/v1/nodes/{node}")).await?;
        let body = body.all(PATIENCE, MOST_BYTES).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Answer(error.to_string()))
    };
    match timeout(AT_ONCE, read).await {
        Ok(Ok(Node { status })) => {
            let conditions = status.conditions.into_iter();
            Some(conditions.filter_map(Condition::of_node).collect())
        }
        Ok(Err(error)) => {
            tracing::debug!("pods: api: the node's conditions: {error}");
            None
        }
        Err(_) => None,
    }
}

/// Who is behind ReplicaSets, as far as that may be read.
struct Owners {
    server: Server,
    known: Mutex<HashMap<(String, String), Option<Owner>>>,
}

/// A ReplicaSet that a pod has.
struct Asked {
    key: (String, String),
    pod: PodFacts,
}

impl Owners {
    /// `None` where it was not asked yet; within, `None` where there is no answer to be had.
    fn known(&self, key: &(String, String)) -> Option<Option<Owner>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned()
    }

    async fn run(self: Arc<Self>, mut asked: mpsc::Receiver<Asked>, pods: Arc<Pods>) {
        while let Some(Asked { key, pod }) = asked.recv().await {
            let owner = match self.known(&key) {
                Some(owner) => owner,
                None => match self.ask(&key).await {
                    Ok(owner) => self.remember(key, owner),
                    // Not there, or not to be read: that will not change soon.
                    Err(Error::Status { .. }) => self.remember(key, None),
                    // Asked again when the pod changes.
                    Err(_) => None,
                },
            };
            pods.put(|cache, _| {
                cache.set_owner(Source::Api, &pod, owner.as_ref());
                false
            });
        }
    }

    fn remember(&self, key: (String, String), owner: Option<Owner>) -> Option<Owner> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_OWNERS {
            known.clear();
        }
        known.insert(key, owner.clone());
        owner
    }

    /// Who is behind a ReplicaSet: its controller, or itself.
    async fn ask(&self, (namespace, name): &(String, String)) -> Result<Option<Owner>, Error> {
        if !is_name(namespace) || !is_name(name) {
            return Ok(None);
        }
        let path = format!("/apis/apps/v1/namespaces/{namespace}/replicasets/{name}");
        let body = self
            .server
            .get(&path)
            .await?
            .all(PATIENCE, MOST_BYTES)
            .await?;
        let set: Object =
            serde_json::from_slice(&body).map_err(|error| Error::Answer(error.to_string()))?;
        Ok(Some(set.metadata.controller().unwrap_or(Owner {
            kind: "ReplicaSet".to_owned(),
            name: name.clone(),
        })))
    }
}

#[derive(Deserialize)]
struct Change<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
struct Status {
    code: u16,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

/// Its object is a pod with nothing but a version.
type Bookmark = Object;

/// A value in a query.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
