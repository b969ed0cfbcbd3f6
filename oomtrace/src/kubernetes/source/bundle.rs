//! OCI bundles: for each container that runs, the runtime keeps a folder with its `config.json`,
//! and writes into it whose container it is.
//!
//! The folder appears before the container runs, and the kernel tells when: so a container is known
//! before it can be killed, also from a runtime that does not tell of what happens.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::inotify;
use serde::Deserialize;
use tokio::{io::unix::AsyncFd, time::sleep};

use super::Quick;
use crate::{
    event::ContainerRole,
    kubernetes::{
        Pods,
        facts::{ContainerFacts, PodFacts, Source, image, is_container_id, is_name, is_pod_key},
    },
};

/// A configuration that is larger is none.
const MOST_BYTES: u64 = 1 << 20;
/// How long the configuration of a new folder is waited for, step by step.
const WAITS_MS: [u64; 6] = [0, 2, 10, 50, 250, 1000];
/// How soon the folder of all bundles is looked for again when it is not there.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Where a runtime keeps its bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundles {
    /// The folder that has one for each container.
    pub root: PathBuf,
    /// Where the configuration is in it.
    file: &'static str,
}

impl Bundles {
    /// The bundles of the runtime that has this socket. containerd's are beside it.
    pub fn of_socket(socket: &Path) -> Option<Self> {
        if socket.file_name() == Some(OsStr::new("crio.sock")) {
            return Some(Self {
                root: "/run/containers/storage/overlay-containers".into(),
                file: "userdata/config.json",
            });
        }
        Some(Self {
            root: socket
                .parent()?
                .join("io.containerd.runtime.v2.task/k8s.io"),
            file: "config.json",
        })
    }

    /// Keeps the cache up to date for ever.
    pub async fn run(self, pods: Arc<Pods>, quick: Arc<Quick>) {
        loop {
            if let Err(error) = self.follow(&pods, &quick).await {
                pods.failed(Source::Bundle, &error.to_string());
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether the runtime keeps bundles here: the folder above them is there from the start, the
    /// one that has them comes with the first container.
    pub fn are_here(&self) -> bool {
        self.root.exists() || self.root.parent().is_some_and(Path::exists)
    }

    async fn follow(&self, pods: &Arc<Pods>, quick: &Arc<Quick>) -> io::Result<()> {
        if let Some(above) = self.root.parent()
            && !self.root.exists()
        {
            let watched = Watched::new(above)?;
            pods.live(Source::Bundle);
            while !self.root.exists() {
                watched.next().await?;
            }
        }
        let watched = Watched::new(&self.root)?;
        let generation = pods.cache().begin();
        for entry in std::fs::read_dir(&self.root)? {
            if let Some(id) = entry?.file_name().to_str() {
                self.read(pods, id);
            }
        }
        pods.told_all(Source::Bundle, generation);
        loop {
            for (name, there) in watched.next().await? {
                let Some(id) = name.to_str().filter(|id| is_container_id(id)) else {
                    continue;
                };
                pods.answered(Source::Bundle);
                if there {
                    let (bundles, pods, quick) =
                        (self.clone(), Arc::clone(pods), Arc::clone(quick));
                    let id = id.to_owned();
                    tokio::spawn(async move { bundles.read_new(&pods, &quick, &id).await });
                } else {
                    pods.put(|cache, now_ns| {
                        cache.container_gone(Source::Bundle, id, now_ns);
                        false
                    });
                }
            }
        }
    }

    /// Reads the configuration of a folder that has just appeared, and asks the runtime for the
    /// rest.
    async fn read_new(&self, pods: &Pods, quick: &Quick, id: &str) {
        for wait in WAITS_MS {
            sleep(Duration::from_millis(wait)).await;
            if self.read(pods, id) {
                break;
            }
        }
        quick.ask_runtime(pods, id).await;
    }

    /// Takes in one bundle. Returns whether there was one.
    pub fn read(&self, pods: &Pods, id: &str) -> bool {
        if !is_container_id(id) {
            return false;
        }
        let Some((pod, container)) = self.config(id).ok().and_then(|bytes| facts(id, &bytes))
        else {
            return false;
        };
        pods.put(|cache, now_ns| {
            cache.container(Source::Bundle, container, now_ns);
            pod.is_some_and(|pod| cache.pod(Source::Bundle, pod, now_ns))
        });
        true
    }

    fn config(&self, id: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.root.join(id).join(self.file))?
            .take(MOST_BYTES)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

#[derive(Deserialize)]
struct Config {
    annotations: HashMap<String, String>,
}

/// What a bundle's configuration tells. containerd and CRI-O each have their own annotations.
fn facts(id: &str, config: &[u8]) -> Option<(Option<PodFacts>, ContainerFacts)> {
    let Config { annotations } = serde_json::from_slice(config).ok()?;
    let told = |names: [&str; 2]| {
        let mut found = names.iter().filter_map(|name| annotations.get(*name));
        found.next().map(String::as_str)
    };
    let kind = told([
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri-o.ContainerType",
    ])?;
    let uid = told(["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"])?;
    let namespace = told([
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.pod.namespace",
    ]);
    let pod = told(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]);
    let name = told([
        "io.kubernetes.cri.container-name",
        "io.kubernetes.container.name",
    ]);
    if !is_pod_key(uid) {
        return None;
    }
    let pause = kind == "sandbox";
    let container = ContainerFacts {
        id: id.into(),
        pod: uid.into(),
        name: name.filter(|name| !pause && is_name(name)).map(Into::into),
        role: pause.then_some(ContainerRole::Pause),
        image: told([
            "io.kubernetes.cri.image-name",
            "io.kubernetes.cri-o.ImageName",
        ])
        .filter(|_| !pause)
        .and_then(image),
        restart_count: None,
    };
    let pod = namespace
        .zip(pod)
        .and_then(|(namespace, pod)| PodFacts::named(uid, namespace, pod));
    Some((pod, container))
}

/// A folder that is watched for what appears in it and goes.
pub struct Watched {
    inotify: AsyncFd<OwnedFd>,
}

impl Watched {
    /// Watches a folder. Within a tokio runtime.
    ///
    /// # Errors
    /// When it is not there, or there are too many watches.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
        };
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).map_err(|error| named(error.into()))?;
        let events = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::ONLYDIR;
        inotify::add_watch(&inotify, folder, events).map_err(|error| named(error.into()))?;
        // SAFETY: the descriptor is owned, and closed only after it was taken out.
        let inotify = unsafe { AsyncFd::register(inotify) }.map_err(io::Error::from)?;
        Ok(Self { inotify })
    }

    /// Names that appeared (`true`) or went, in order.
    ///
    /// # Errors
    /// When the folder itself has gone, or so much happened that the kernel lost some of it: then
    /// everything must be read again.
    pub async fn next(&self) -> io::Result<Vec<(Box<OsStr>, bool)>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
            let mut names = Vec::new();
            loop {
                match reader.next() {
                    Ok(event) => {
                        let events = event.events();
                        let lost = inotify::ReadFlags::QUEUE_OVERFLOW
                            | inotify::ReadFlags::DELETE_SELF
                            | inotify::ReadFlags::IGNORED;
                        if events.intersects(lost) {
                            return Err(io::Error::other("the watch on the folder ended"));
                        }
                        let appeared = inotify::ReadFlags::CREATE | inotify::ReadFlags::MOVED_TO;
                        if let Some(name) = event.file_name() {
                            let name = OsStr::from_bytes(name.to_bytes());
                            names.push((name.into(), events.intersects(appeared)));
                        }
                    }
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if !names.is_empty() {
                return Ok(names);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    const UID: &str = "11111111-2222-3333-4444-555555555555";

    fn config(annotations: &[(&str, &str)]) -> Vec<u8> {
        let annotations: HashMap<_, _> = annotations.iter().copied().collect();
        serde_json::json!({"ociVersion": "1.0", "annotations": annotations, "linux": {}})
            .to_string()
            .into_bytes()
    }

    /// Both runtimes' annotations tell the same.
    #[test]
    fn containers_of_both_runtimes() {
        for annotations in [
            [
                ("io.kubernetes.cri.container-type", "container"),
                ("io.kubernetes.cri.container-name", "app"),
                ("io.kubernetes.cri.image-name", "shop/app:1"),
                ("io.kubernetes.cri.sandbox-uid", UID),
                ("io.kubernetes.cri.sandbox-name", "checkout"),
                ("io.kubernetes.cri.sandbox-namespace", "shop"),
            ],
            [
                ("io.kubernetes.cri-o.ContainerType", "container"),
                ("io.kubernetes.container.name", "app"),
                ("io.kubernetes.cri-o.ImageName", "shop/app:1"),
                ("io.kubernetes.pod.uid", UID),
                ("io.kubernetes.pod.name", "checkout"),
                ("io.kubernetes.pod.namespace", "shop"),
            ],
        ] {
            let (pod, container) = facts("id", &config(&annotations)).expect("a container");
            let pod = pod.expect("its pod");
            assert_eq!(
                (&*pod.key, &*pod.namespace, &*pod.name),
                (UID, "shop", "checkout")
            );
            assert_eq!(container.name.as_deref(), Some("app"));
            assert_eq!(container.image.as_deref(), Some("shop/app:1"));
            assert_eq!((&*container.pod, container.role), (UID, None));
        }
    }

    /// A pause container has no name and no image of its own.
    #[test]
    fn pause() {
        let annotations = [
            ("io.kubernetes.cri.container-type", "sandbox"),
            ("io.kubernetes.cri.sandbox-uid", UID),
        ];
        let (pod, container) = facts("id", &config(&annotations)).expect("a container");
        assert_eq!((pod, container.role), (None, Some(ContainerRole::Pause)));
    }

    proptest! {
        /// No file does harm, and what is no bundle of the CRI's is none.
        #[test]
        fn any_file(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,60}") {
            prop_assert_eq!(facts("id", &bytes), None);
            let uid = ("io.kubernetes.cri.sandbox-uid", text.as_str());
            let kind = ("io.kubernetes.cri.container-type", "container");
            prop_assert_eq!(facts("id", &config(&[uid, kind])), None);
        }
    }
}
