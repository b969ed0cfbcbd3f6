//! The kubelet's own list of pods, `/pods`: static ones included, and there when the API server is
//! not. It tells of no changes, so it is read from time to time, and when a pod is seen, or a container
//! is killed, that it has not told of.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    Backoff,
    http::{Error, Server},
};
use crate::{
    kubernetes::{
        Pods,
        facts::Source,
        pod::{ApiPod, Items},
    },
    process,
};

/// Between two pieces of the list.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pods that start together are read together.
const TOGETHER: Duration = Duration::from_secs(5);

/// Keeps the cache up to date for ever.
pub async fn run(server: Server, pods: Arc<Pods>, labels: Arc<[String]>, period: Duration) {
    let mut backoff = Backoff::default();
    loop {
        match read(&server, &pods, &labels).await {
            Ok(()) => {
                backoff.reset();
                sleep(TOGETHER).await;
                let _ = timeout(period.saturating_sub(TOGETHER), pods.new_pod.notified()).await;
            }
            Err(error) => {
                pods.failed(Source::Kubelet, &error.to_string());
                sleep(backoff.next_wait()).await;
            }
        }
    }
}

async fn read(server: &Server, pods: &Pods, labels: &[String]) -> Result<(), Error> {
    let mut body = server.get("/pods").await?;
    let generation = pods.cache().begin();
    let mut items = Items::default();
    while let Some(piece) = body.next(PATIENCE).await? {
        items
            .feed(&piece, &mut |item| {
                take(pods, Source::Kubelet, labels, item)
            })
            .map_err(|error| Error::Answer(error.to_string()))?;
    }
    items
        .end()
        .map_err(|error| Error::Answer(error.to_string()))?;
    pods.told_all(Source::Kubelet, generation);
    process::release_memory();
    Ok(())
}

/// Takes in a pod of a list, if it is one.
fn take(pods: &Pods, source: Source, labels: &[String], item: &[u8]) {
    let pod = serde_json::from_slice::<ApiPod>(item).ok();
    let Some((pod, whole)) = pod.and_then(|pod| Some((pod.facts(labels)?, pod))) else {
        tracing::debug!("pods: {} tells of what is no pod", source.name());
        return;
    };
    // A new one is what it has just told; nobody need ask it again.
    pods.put_whole(source, pod, whole.eviction());
}
