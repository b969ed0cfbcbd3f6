//! The container runtime, asked over its own socket by the CRI: names of pods and containers, with
//! nobody else's leave.
//!
//! Where the runtime tells of what happens (`GetContainerEvents`: CRI-O, containerd from 1.7 on)
//! that is listened to; else it is asked again from time to time, and when a new bundle appears.

mod facts;
mod proto;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use self::proto::{
    ContainerEventResponse, ContainerStatus, ContainerStatusRequest, ContainerStatusResponse,
    DELETED, GetEventsRequest, ListContainersRequest, ListContainersResponse,
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxFilter, PodSandboxStatus,
    PodSandboxStatusRequest, PodSandboxStatusResponse, VersionRequest, VersionResponse,
};
use super::Backoff;
use crate::{
    kubernetes::{
        Pods,
        cache::Cache,
        facts::{ContainerFacts, PodFacts, Source, is_pod_key},
    },
    process,
};

/// Where runtimes have their sockets.
pub const SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/var/run/cri-dockerd.sock",
];

/// A runtime that takes longer than this for an answer is taken to be stuck.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon a runtime says that it does not know of events.
const REFUSAL: Duration = Duration::from_millis(500);
/// What the kubelet takes at most (`maxMsgSize` in `pkg/kubelet/cri/remote`).
const MOST_BYTES: usize = 16 << 20;
/// After something was deleted everything is listed once more; not for each of many.
const SETTLE: Duration = Duration::from_secs(5);

/// What fails.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The call failed.
    #[error("{}: {}", .0.code(), text(.0.message()))]
    Call(#[from] Box<Status>),
    /// The socket cannot be reached.
    #[error("{0}")]
    Connect(String),
    /// Nothing came.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Slow,
    /// The events ended.
    #[error("the runtime closed the stream of events")]
    Closed,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

/// The runtime's words, of which only so many are repeated.
fn text(message: &str) -> String {
    message
        .chars()
        .filter(|letter| !letter.is_control())
        .take(200)
        .collect()
}

/// A container runtime.
#[derive(Clone, Debug)]
pub struct Cri {
    socket: PathBuf,
    labels: Arc<[String]>,
    channel: Channel,
}

impl Cri {
    /// The runtime at a socket; connects when it is used. Within a tokio runtime.
    ///
    /// # Errors
    /// When the path cannot be a socket's.
    pub fn new(socket: &Path, labels: Arc<[String]>) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(|error| error.to_string())?
            .connect_timeout(PATIENCE);
        Ok(Self {
            socket: socket.to_owned(),
            labels,
            channel: endpoint.connect_lazy(),
        })
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Error>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MOST_BYTES);
        let path = PathAndQuery::from_static(method);
        let call = async {
            grpc.ready()
                .await
                .map_err(|error| Error::Connect(innermost(&error)))?;
            let codec = ProstCodec::default();
            Ok(grpc
                .unary(Request::new(request), path, codec)
                .await?
                .into_inner())
        };
        timeout(PATIENCE, call).await.map_err(|_| Error::Slow)?
    }

    /// Keeps the cache up to date for ever.
    pub async fn run(self, pods: Arc<Pods>, period: Duration) {
        let mut backoff = Backoff::default();
        loop {
            let error = match self.follow(&pods, period, &mut backoff).await {
                Ok(()) => continue,
                Err(error) => error,
            };
            pods.failed(Source::Cri, &format!("{}: {error}", self.socket.display()));
            sleep(backoff.next_wait()).await;
        }
    }

    /// Lists everything, then follows what changes until something fails or a new list is due.
    async fn follow(
        &self,
        pods: &Pods,
        period: Duration,
        backoff: &mut Backoff,
    ) -> Result<(), Error> {
        let request = VersionRequest {};
        let version: VersionResponse = self
            .call("/runtime.v1.RuntimeService/Version", request)
            .await?;
        // Listened to before the list is made, so that nothing falls between. The runtime sends
        // nothing at all before the first event, but says at once where it knows no events.
        let events = self.events();
        tokio::pin!(events);
        let early = timeout(REFUSAL, &mut events).await;
        self.list(pods).await?;
        backoff.reset();
        pods.live(Source::Cri);
        let VersionResponse {
            runtime_name,
            runtime_version,
        } = version;
        tracing::debug!("{} {}", text(&runtime_name), text(&runtime_version));
        let mut events = match early {
            Ok(Err(Error::Call(status))) if status.code() == Code::Unimplemented => {
                sleep(period).await;
                return Ok(());
            }
            Ok(events) => events?,
            Err(_) => events.await?,
        };
        loop {
            let event = events.message().await?.ok_or(Error::Closed)?;
            pods.answered(Source::Cri);
            if self.take(pods, event) {
                sleep(SETTLE).await;
                self.list(pods).await?;
            }
        }
    }

    async fn events(&self) -> Result<tonic::Streaming<ContainerEventResponse>, Error> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MOST_BYTES);
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/GetContainerEvents");
        grpc.ready()
            .await
            .map_err(|error| Error::Connect(innermost(&error)))?;
        let request = Request::new(GetEventsRequest {});
        let stream = grpc
            .server_streaming(request, path, ProstCodec::default())
            .await?;
        Ok(stream.into_inner())
    }

    async fn list(&self, pods: &Pods) -> Result<(), Error> {
        let sandboxes: ListPodSandboxResponse = self
            .call(
                "/runtime.v1.RuntimeService/ListPodSandbox",
                ListPodSandboxRequest::default(),
            )
            .await?;
        let containers: ListContainersResponse = self
            .call(
                "/runtime.v1.RuntimeService/ListContainers",
                ListContainersRequest::default(),
            )
            .await?;
        pods.put(|cache, now_ns| {
            let generation = cache.begin();
            let new = self.put_pods(cache, &sandboxes, now_ns);
            for container in &containers.containers {
                let (metadata, image) = (container.metadata.as_ref(), container.image.as_ref());
                let facts = facts::container(&container.id, metadata, image, &container.labels);
                put_container(cache, facts, now_ns);
            }
            cache.end(Source::Cri, generation, now_ns);
            new
        });
        drop((sandboxes, containers));
        process::release_memory();
        Ok(())
    }

    /// Takes in an event. Returns whether something was deleted.
    fn take(&self, pods: &Pods, event: ContainerEventResponse) -> bool {
        let deleted = event.container_event_type == DELETED;
        pods.put(|cache, now_ns| {
            let mut new = false;
            if let Some(status) = &event.pod_sandbox_status {
                new = put_pod(cache, self.of_pod_status(status), now_ns);
            }
            for status in &event.containers_statuses {
                put_container(cache, of_status(status), now_ns);
            }
            if deleted {
                cache.container_gone(Source::Cri, &event.container_id, now_ns);
            }
            new
        });
        deleted
    }

    fn of_pod_status(&self, status: &PodSandboxStatus) -> Option<(PodFacts, ContainerFacts)> {
        let metadata = status.metadata.as_ref();
        facts::pod(&status.id, metadata, &status.labels, &self.labels)
    }

    /// Takes in a list of pods. Returns whether one of them is new.
    fn put_pods(&self, cache: &mut Cache, list: &ListPodSandboxResponse, now_ns: u64) -> bool {
        let mut new = false;
        for item in &list.items {
            let metadata = item.metadata.as_ref();
            let facts = facts::pod(&item.id, metadata, &item.labels, &self.labels);
            new |= put_pod(cache, facts, now_ns);
        }
        new
    }

    /// Asks for one container, or for the pod whose pause container it is.
    pub async fn ask_container(&self, pods: &Pods, id: &str) {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
        };
        let method = "/runtime.v1.RuntimeService/ContainerStatus";
        let answer: Result<ContainerStatusResponse, _> = self.call(method, request).await;
        match answer {
            Ok(answer) => {
                let Some(status) = answer.status else { return };
                pods.put(|cache, now_ns| {
                    put_container(cache, of_status(&status), now_ns);
                    false
                });
                // A new pod's pause container is not told of until it runs.
                if let Some(uid) = status
                    .labels
                    .get(facts::POD_UID)
                    .filter(|uid| is_pod_key(uid))
                    && !pods.cache().has_pod(Source::Cri, uid)
                {
                    self.ask_pod(pods, uid).await;
                }
            }
            Err(Error::Call(status)) if status.code() == Code::NotFound => {
                let request = PodSandboxStatusRequest {
                    pod_sandbox_id: id.to_owned(),
                };
                let method = "/runtime.v1.RuntimeService/PodSandboxStatus";
                let answer: Result<PodSandboxStatusResponse, _> = self.call(method, request).await;
                if let Ok(PodSandboxStatusResponse {
                    status: Some(status),
                }) = answer
                {
                    pods.put(|cache, now_ns| put_pod(cache, self.of_pod_status(&status), now_ns));
                }
            }
            Err(error) => tracing::debug!("pods: cri: container {id}: {error}"),
        }
    }

    /// Asks for one pod.
    pub async fn ask_pod(&self, pods: &Pods, uid: &str) {
        let label = (facts::POD_UID.to_owned(), uid.to_owned());
        let request = ListPodSandboxRequest {
            filter: Some(PodSandboxFilter {
                label_selector: [label].into(),
            }),
        };
        let method = "/runtime.v1.RuntimeService/ListPodSandbox";
        let answer: Result<ListPodSandboxResponse, _> = self.call(method, request).await;
        match answer {
            Ok(answer) => pods.put(|cache, now_ns| self.put_pods(cache, &answer, now_ns)),
            Err(error) => tracing::debug!("pods: cri: pod {uid}: {error}"),
        }
    }
}

fn of_status(status: &ContainerStatus) -> Option<ContainerFacts> {
    let (metadata, image) = (status.metadata.as_ref(), status.image.as_ref());
    facts::container(&status.id, metadata, image, &status.labels)
}

/// Takes in a pod and its pause container, if they are any. Returns whether the pod is new.
fn put_pod(cache: &mut Cache, facts: Option<(PodFacts, ContainerFacts)>, now_ns: u64) -> bool {
    let Some((pod, pause)) = facts else {
        return false;
    };
    cache.container(Source::Cri, pause, now_ns);
    cache.pod(Source::Cri, pod, now_ns)
}

/// Takes in a container, if it is one.
fn put_container(cache: &mut Cache, facts: Option<ContainerFacts>, now_ns: u64) {
    if let Some(facts) = facts {
        cache.container(Source::Cri, facts, now_ns);
    }
}

/// What went wrong in the end: tonic says "transport error" of everything.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    text(&error.to_string())
}
