//! `/var/log/pods/<namespace>_<pod>_<uid>/`: the names of pods, for a node where nothing else may
//! be asked.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::sleep;

use super::bundle::Watched;
use crate::kubernetes::{
    Pods,
    facts::{PodFacts, Source},
};

/// Where the kubelet keeps the logs of pods (`podLogsRootDirectory`).
pub const FOLDER: &str = "/var/log/pods";
/// How soon it is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Keeps the cache up to date for ever.
pub async fn run(folder: PathBuf, pods: Arc<Pods>) {
    loop {
        if let Err(error) = follow(&folder, &pods).await {
            pods.failed(Source::PodLogs, &error.to_string());
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn follow(folder: &Path, pods: &Pods) -> io::Result<()> {
    let watched = Watched::new(folder)?;
    let generation = pods.cache().begin();
    for entry in std::fs::read_dir(folder)? {
        if let Some(pod) = entry?.file_name().to_str().and_then(facts) {
            pods.put(|cache, now_ns| cache.pod(Source::PodLogs, pod, now_ns));
        }
    }
    pods.told_all(Source::PodLogs, generation);
    loop {
        for (name, there) in watched.next().await? {
            pods.answered(Source::PodLogs);
            let Some(pod) = name.to_str().and_then(facts) else {
                continue;
            };
            pods.put(|cache, now_ns| {
                if there {
                    cache.pod(Source::PodLogs, pod, now_ns)
                } else {
                    cache.pod_gone(Source::PodLogs, &pod, now_ns);
                    false
                }
            });
        }
    }
}

/// What a folder's name tells. Neither namespaces nor pods have `_` in their names.
fn facts(name: &str) -> Option<PodFacts> {
    let mut parts = name.split('_');
    let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = parts.next().is_none();
    PodFacts::named(uid, namespace, pod).filter(|_| whole)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "tests")]

    use super::*;

    /// A folder's name is a pod's only in the full shape.
    #[test]
    fn names_of_folders() {
        let uid = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        let pod = facts(&format!("shop_checkout-7d_{uid}")).expect("a pod");
        assert_eq!(
            (&*pod.namespace, &*pod.name, &*pod.key),
            ("shop", "checkout-7d", uid)
        );
        for other in ["shop_checkout", "a_b_c", "", "___", &format!("a_b_c_{uid}")] {
            assert_eq!(facts(other), None, "{other:?}");
        }
    }
}
