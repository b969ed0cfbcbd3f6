//! A containerd of our own, and pods in it. It runs as root, without a kubelet.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{
    Server,
    cri::{
        ContainerConfig, ContainerMetadata, CreateContainerRequest, Cri, HOST_NETWORK, Id,
        ImageSpec, LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
        LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Nothing, PodSandboxConfig,
        PodSandboxMetadata, RunPodSandboxRequest,
    },
    run, wait_until,
};

/// The one image there is, also for pause containers: busybox that sleeps.
pub const IMAGE: &str = "localhost/oomtrace-busybox:1";
/// Where busybox comes from, linked statically.
const BUSYBOX: &str = "/bin/busybox";

/// A containerd.
pub struct Containerd {
    server: Server,
    cri: Cri,
    folder: tempfile::TempDir,
    cgroups: String,
    socket: PathBuf,
    pods: Vec<Pod>,
}

/// A pod that runs.
#[derive(Clone)]
pub struct Pod {
    /// Id of its pause container.
    pub id: String,
    /// Its uid.
    pub uid: String,
    config: PodSandboxConfig,
}

/// A container that runs.
pub struct Container {
    /// Its id.
    pub id: String,
    root: PathBuf,
}

/// What is missing to run one, if anything.
pub fn missing() -> Option<String> {
    ["/usr/bin/containerd", "/usr/sbin/runc", BUSYBOX]
        .into_iter()
        .find(|file| !Path::new(file).exists())
        .map(|file| format!("{file} is not there; `cargo xtask k8s` installs it"))
}

impl Containerd {
    /// Starts one. Its socket is beside its bundles, as usual, or away from them.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(beside_bundles: bool) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("oomtrace-cd")
            .tempdir_in("/tmp")?;
        let at = folder.path();
        let state = at.join("state");
        let socket = if beside_bundles {
            state.join("c.sock")
        } else {
            at.join("c.sock")
        };
        let config = at.join("config.toml");
        // Without CAP_SYS_RESOURCE the pause container cannot have -998.
        fs::write(
            &config,
            format!(
                "version = 2\nroot = {root:?}\nstate = {state:?}\n[grpc]\naddress = {socket:?}\n\
                 [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {IMAGE:?}\n\
                 restrict_oom_score_adj = true\ndisable_apparmor = true\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n",
                root = at.join("root"),
            ),
        )?;
        let mut command = Command::new("/usr/bin/containerd");
        command.arg("--config").arg(&config);
        let mut server = Server::start(command, at.join("log"))?;
        wait_until("containerd has its socket", || {
            server.lives()?;
            Ok(socket.exists())
        })?;
        import(&mut server, &socket, &image(at, &[])?)?;
        let cri = Cri::new(&socket)?;
        wait_until("containerd answers", || {
            cri.call("Version", Nothing {}).map(|_: Nothing| true)
        })?;
        Ok(Self {
            server,
            cri,
            cgroups: format!("oomtrace-test-{}", std::process::id()),
            folder,
            socket,
            pods: Vec::new(),
        })
    }

    /// Its socket.
    pub fn socket(&self) -> &str {
        self.socket.to_str().unwrap_or_default()
    }

    /// Stops it where it is, or lets it go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.server.freeze(frozen)
    }

    /// Runs a Burstable pod, in the place that the kubelet would give it.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn pod(&mut self, namespace: &str, name: &str, uid: &str) -> Result<Pod> {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.to_owned(),
                namespace: namespace.to_owned(),
            }),
            labels: labels(namespace, name, uid)
                .into_iter()
                .chain([("app".to_owned(), name.to_owned())])
                .collect(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}/kubepods/burstable/pod{uid}", self.cgroups),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(HOST_NETWORK),
                }),
            }),
        };
        let Id { id } = self.cri.call(
            "RunPodSandbox",
            RunPodSandboxRequest {
                config: Some(config.clone()),
            },
        )?;
        let pod = Pod {
            id,
            uid: uid.to_owned(),
            config,
        };
        self.pods.push(pod.clone());
        Ok(pod)
    }

    /// Runs a container that waits for [`Container::go`] and then takes memory until it is killed.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn container(&self, pod: &Pod, name: &str, attempt: u32, limit: u64) -> Result<Container> {
        let metadata = pod.config.metadata.clone().context("the pod's name")?;
        let mut labels = labels(&metadata.namespace, &metadata.name, &metadata.uid);
        labels.push(("io.kubernetes.container.name".to_owned(), name.to_owned()));
        let script =
            "while [ ! -e /go ]; do /bin/busybox sleep 0.02; done; /bin/busybox tail /dev/zero";
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
                attempt,
            }),
            image: Some(ImageSpec {
                image: IMAGE.to_owned(),
            }),
            command: [BUSYBOX, "sh", "-c", script].map(str::to_owned).into(),
            labels: labels.into_iter().collect(),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    memory_limit_in_bytes: limit.cast_signed(),
                }),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(HOST_NETWORK),
                }),
            }),
        };
        let Id { id } = self.cri.call(
            "CreateContainer",
            CreateContainerRequest {
                pod_sandbox_id: pod.id.clone(),
                config: Some(config),
                sandbox_config: Some(pod.config.clone()),
            },
        )?;
        let _: Nothing = self.cri.call("StartContainer", Id { id: id.clone() })?;
        let root = self
            .folder
            .path()
            .join("state/io.containerd.runtime.v2.task/k8s.io")
            .join(&id)
            .join("rootfs");
        ensure!(root.is_dir(), "{} is not there", root.display());
        Ok(Container { id, root })
    }

    /// Removes a pod and what runs in it.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn remove(&self, pod: &Pod) -> Result<()> {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            let _: Nothing = self.cri.call(method, Id { id: pod.id.clone() })?;
        }
        Ok(())
    }
}

impl Container {
    /// Lets it take memory.
    ///
    /// # Errors
    /// When it is gone.
    pub fn go(&self) -> Result<()> {
        fs::write(self.root.join("go"), "").context("letting the container go")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.freeze(false);
        for pod in &self.pods {
            let _ = self.remove(pod);
        }
        self.server.end();
        // runc removes a container's own cgroup; those above it are the kubelet's business.
        let hierarchies = fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        let roots = hierarchies
            .map(|entry| entry.path())
            .chain([PathBuf::from("/sys/fs/cgroup")]);
        for root in roots {
            remove_cgroups(&root.join(&self.cgroups));
        }
    }
}

fn remove_cgroups(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

/// What the kubelet labels everything with.
fn labels(namespace: &str, name: &str, uid: &str) -> Vec<(String, String)> {
    [("name", name), ("namespace", namespace), ("uid", uid)]
        .map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.to_owned()))
        .into()
}

/// Gives a containerd that has just been started an image.
///
/// # Errors
/// When it does not take it.
pub fn import(server: &mut Server, socket: &Path, image: &Path) -> Result<()> {
    wait_until("containerd takes the image", || {
        server.lives()?;
        run(Command::new("ctr")
            .args(["--namespace", "k8s.io", "--address"])
            .arg(socket)
            .args(["images", "import", "--snapshotter", "native"])
            .arg(image))
        .map(|_| true)
    })
}

/// An image with busybox and these programs in its `/bin`, as `docker save` writes it.
///
/// # Errors
/// When a program is missing.
pub fn image(folder: &Path, programs: &[&Path]) -> Result<PathBuf> {
    let at = folder.join("image");
    fs::create_dir_all(at.join("root/bin"))?;
    for program in [Path::new(BUSYBOX)].iter().chain(programs) {
        let name = program.file_name().context("a program's name")?;
        fs::copy(program, at.join("root/bin").join(name))?;
    }
    let tar = |folder: &Path, file: &str, what: &[&str]| {
        run(Command::new("tar")
            .arg("-C")
            .arg(folder)
            .arg("-cf")
            .arg(at.join(file))
            .args(what))
    };
    tar(&at.join("root"), "layer.tar", &["."])?;
    let sum = run(Command::new("sha256sum").arg(at.join("layer.tar")))?;
    let sum = sum.split_whitespace().next().context("a checksum")?;
    fs::write(
        at.join("config.json"),
        serde_json::json!({
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
            "os": "linux",
            "config": {"Entrypoint": [BUSYBOX, "sleep", "1000000"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
        })
        .to_string(),
    )?;
    fs::write(
        at.join("manifest.json"),
        serde_json::json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}])
            .to_string(),
    )?;
    tar(
        &at,
        "image.tar",
        &["manifest.json", "config.json", "layer.tar"],
    )?;
    Ok(at.join("image.tar"))
}
