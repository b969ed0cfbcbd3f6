//! A Kubernetes node of one's own, in a virtual machine: containerd and a kubelet, which registers
//! with an API server outside, and pods in which real processes are killed.

mod argument;
mod installed;
mod pods;
mod scenarios;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::json;

pub use self::scenarios::{SCENARIOS, Scenario};
use crate::{
    Env,
    kubernetes::{
        Server,
        cluster::{ADMIN, Client, FROM_THE_NODE, NODE, TOKEN},
        containerd::{IMAGE, image, import},
        run, wait_until,
    },
    machine::meminfo,
};

/// The node's name.
pub const NAME: &str = "node-under-test";
/// Its certificate, which is the API server's, too, and that of the signer.
const CERTIFICATES: &str = "/etc/kubernetes/pki";
const SOCKET: &str = "/run/containerd/containerd.sock";
const MANIFESTS: &str = "/etc/kubernetes/manifests";
const LOGS: &str = "/var/log/node";

/// Who makes the cgroups of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// The kubelet and runc.
    Cgroupfs,
    /// systemd, which they ask.
    Systemd,
}

impl Driver {
    /// The driver of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "cgroupfs" => Ok(Self::Cgroupfs),
            "systemd" => Ok(Self::Systemd),
            _ => bail!("no cgroup driver {name:?}"),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// A node that runs.
pub struct Node {
    /// The API server that it registered with.
    pub cluster: Client,
    /// What the kubelet takes for the node's memory.
    pub capacity_bytes: u64,
    driver: Driver,
    kubelet: Option<Server>,
    containerd: Server,
}

impl Node {
    /// Starts everything.
    ///
    /// # Errors
    /// When something does not start; what it said is in [`said`].
    pub fn start(env: &Env, driver: Driver) -> Result<Self> {
        // What runs the node outlives what happens on it, as on a real one.
        fs::write("/proc/self/oom_score_adj", "-999").context("protecting the node")?;
        for folder in [LOGS, MANIFESTS, pods::REINS, "/etc/containerd"] {
            fs::create_dir_all(folder).with_context(|| format!("making {folder}"))?;
        }
        for words in [
            "link set lo up",
            "link set eth0 up",
            &format!("addr add {NODE}/24 dev eth0"),
        ] {
            run(Command::new("busybox").arg("ip").args(words.split(' ')))?;
        }
        println!("containerd");
        let mut containerd = containerd(driver)?;
        let image = image(Path::new("/root"), &[&env.victim])?;
        import(&mut containerd, Path::new(SOCKET), &image)?;
        let mut node = Self {
            cluster: Client::new(
                Path::new(CERTIFICATES),
                &format!("{}:{}", FROM_THE_NODE.0, FROM_THE_NODE.1),
            ),
            capacity_bytes: meminfo("MemTotal")?,
            driver,
            kubelet: None,
            containerd,
        };
        println!("kubelet");
        node.start_kubelet(0, 0)?;
        // What docs/kubernetes.md says that it takes to ask a kubelet.
        node.cluster.grant(
            "oomtrace-kubelet",
            &json!([{"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": ["get"]}]),
        )?;
        wait_until("the node is registered", || {
            let node = node.cluster.get(&format!("/api/v1/nodes/{NAME}"))?;
            Ok(!node["status"]["allocatable"]["memory"].is_null())
        })?;
        Ok(node)
    }

    /// Starts the kubelet, or starts it anew: pods go on. So much memory is kept for the system: the
    /// pods together get the rest. It evicts when they leave less than `free_bytes` of that.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_kubelet(&mut self, reserved_bytes: u64, free_bytes: u64) -> Result<()> {
        self.kubelet = None;
        let at = self.cluster.folder();
        let config = at.join("kubelet.json");
        let never = "0%";
        let free = match free_bytes {
            0 => never.to_owned(),
            bytes => bytes.to_string(),
        };
        fs::write(
            &config,
            json!({
                "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
                "staticPodPath": MANIFESTS, "fileCheckFrequency": "1s",
                "address": NODE,
                "tlsCertFile": at.join("server.crt"), "tlsPrivateKeyFile": at.join("server.key"),
                "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}},
                "authorization": {"mode": "Webhook"},
                "cgroupDriver": self.driver.name(),
                "systemReserved": {"memory": reserved_bytes.to_string()},
                // The kernel is to kill, not the kubelet, unless that is asked for.
                "evictionPressureTransitionPeriod": "1s",
                "evictionHard": {
                    "memory.available": free, "nodefs.available": never,
                    "nodefs.inodesFree": never, "imagefs.available": never,
                },
                "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
                "failSwapOn": false, "makeIPTablesUtilChains": false, "resolvConf": "",
            })
            .to_string(),
        )?;
        let (admin, _) = self.cluster.kubeconfig(ADMIN, "ca")?;
        let mut kubelet = Command::new("/usr/bin/kubelet");
        for (flag, value) in [
            ("config", config.display().to_string()),
            ("kubeconfig", admin.display().to_string()),
            ("hostname-override", NAME.to_owned()),
            ("node-ip", NODE.to_owned()),
            ("container-runtime", "remote".to_owned()),
            ("container-runtime-endpoint", format!("unix://{SOCKET}")),
        ] {
            kubelet.arg(format!("--{flag}={value}"));
        }
        self.kubelet = Some(Server::start(kubelet, Path::new(LOGS).join("kubelet"))?);
        Ok(())
    }

    /// Stops the kubelet where it is, or lets it go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze_kubelet(&self, frozen: bool) -> Result<()> {
        self.kubelet.as_ref().context("no kubelet")?.freeze(frozen)
    }

    /// Stops containerd where it is, or lets it go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze_containerd(&self, frozen: bool) -> Result<()> {
        self.containerd.freeze(frozen)
    }

    /// Where systemd makes the cgroups, limits all pods together in the kubelet's stead: that of Kubernetes
    /// 1.20 writes the limit below `/kubepods` then, and the pods are in `/kubepods.slice`
    /// (`cgroupManagerImpl.Update` in `pkg/kubelet/cm/cgroup_manager_linux.go`).
    ///
    /// # Errors
    /// When systemd does not do so.
    pub fn limit_by_systemd(&self, memory_max: &str) -> Result<()> {
        match self.driver {
            Driver::Cgroupfs => Ok(()),
            Driver::Systemd => run(Command::new("systemctl")
                .args(["set-property", "--runtime", "kubepods.slice"])
                .arg(format!("MemoryMax={memory_max}")))
            .map(drop),
        }
    }

    /// The cgroup of all pods together.
    #[must_use]
    pub fn kubepods(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(match self.driver {
            Driver::Cgroupfs => "kubepods",
            Driver::Systemd => "kubepods.slice",
        })
    }

    /// What the tracer is told to use all sources.
    ///
    /// # Errors
    /// When its kubeconfig cannot be written.
    pub fn all_sources(&self) -> Result<Vec<String>> {
        let (kubeconfig, _) = self.cluster.kubeconfig(TOKEN, "ca")?;
        self.sources(&kubeconfig)
    }

    pub(super) fn sources(&self, kubeconfig: &Path) -> Result<Vec<String>> {
        Ok([
            "--kubeconfig",
            kubeconfig.to_str().context("a path")?,
            "--node-name",
            NAME,
            "--kubelet",
            &kubelet_address(),
            "--heartbeat",
            "1s",
        ]
        .map(str::to_owned)
        .into())
    }
}

/// Where the kubelet answers.
pub fn kubelet_address() -> String {
    format!("https://{NODE}:10250")
}

/// The last lines that each part of the node has said.
pub fn said() -> Vec<String> {
    let mut lines = Vec::new();
    let files = ["containerd", "kubelet"].map(|name| Path::new(LOGS).join(name));
    for file in files {
        let text = fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let all: Vec<&str> = text.lines().collect();
        lines.push(format!("{}:", file.display()));
        lines.extend(
            all.iter()
                .skip(all.len().saturating_sub(30))
                .map(|line| (*line).to_owned()),
        );
    }
    lines
}

/// A containerd where it usually is, with the image that pods get.
fn containerd(driver: Driver) -> Result<Server> {
    let config = "/etc/containerd/config.toml";
    fs::write(
        config,
        format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {IMAGE:?}\n\
             disable_apparmor = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
             runtime_type = \"io.containerd.runc.v2\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n\
             SystemdCgroup = {}\n",
            driver == Driver::Systemd
        ),
    )?;
    let mut command = Command::new("/usr/bin/containerd");
    command.args(["--config", config]);
    let mut server = Server::start(command, Path::new(LOGS).join("containerd"))?;
    wait_until("containerd has its socket", || {
        server.lives()?;
        Ok(Path::new(SOCKET).exists())
    })?;
    Ok(server)
}
