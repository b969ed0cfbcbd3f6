//! Pods, and the processes in them that wait to be let go.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};

use super::{MANIFESTS, NAME, Node};
use crate::{facts::Facts, kubernetes::containerd::IMAGE, read, wait_for};

/// Where the reins of all processes in pods are, on the node and in each container.
pub(super) const REINS: &str = "/run/reins";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A container to be: its name, its shell script, and its memory request and limit.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) script: String,
    pub(super) request: Option<u64>,
    pub(super) limit: Option<u64>,
}

impl Spec {
    /// A container of one process, that does as `oomtrace-victim` is told.
    pub(super) fn of(name: &'static str, process: &str, mode: &str) -> Self {
        Self {
            name,
            script: format!("exec {}", victim(process, mode)),
            request: None,
            limit: None,
        }
    }

    /// What the container says it needs, and what it may take.
    pub(super) fn with(mut self, request: Option<u64>, limit: Option<u64>) -> Self {
        (self.request, self.limit) = (request, limit);
        self
    }
}

/// A shell command that runs a process of this name, held by reins of its own.
pub(super) fn victim(process: &str, mode: &str) -> String {
    let digits: String = process.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("/bin/oomtrace-victim --comm={digits} {mode} < {REINS}/{process}")
}

/// A process in a pod, as the node sees it.
#[derive(Debug)]
pub(super) struct Inmate {
    /// What `/proc` says of it.
    pub(super) facts: Facts,
    /// Its container's id.
    pub(super) container: String,
    /// Its pod's uid, as its cgroup has it.
    pub(super) pod: String,
    reins: File,
}

impl Inmate {
    /// Waits until the process of this name is there and waits.
    pub(super) fn find(process: &str) -> Result<Self> {
        let reins = wait_for(&format!("{process} to wait for its reins"), || {
            let opened = OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(Path::new(REINS).join(process));
            match opened {
                Ok(file) => Ok(Some(file)),
                // Nobody reads yet.
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                Err(error) => Err(error).with_context(|| format!("the reins of {process}")),
            }
        })?;
        let pid = wait_for(&format!("{process} to be named so"), || Ok(pid_of(process)))?;
        let cgroup = read(format!("/proc/{pid}/cgroup"))?;
        let path = cgroup
            .strip_prefix("0::")
            .with_context(|| format!("{process} has no cgroup v2: {cgroup}"))?;
        let id = fs::metadata(format!("/sys/fs/cgroup{path}"))?.ino();
        let facts = Facts::in_cgroup(pid, pid, path.to_owned(), id, 2)?;
        let mut levels = path.rsplit('/');
        let bare = |level: Option<&str>| -> Option<String> {
            let name = level?;
            let name = name.rsplit_once('-').map_or(name, |(_, rest)| rest);
            Some(name.trim_end_matches(".scope").to_owned())
        };
        let container = bare(levels.next()).context("no container")?;
        let level = levels.next().context("no pod")?;
        let (_, pod) = level.rsplit_once("pod").context("no pod")?;
        Ok(Self {
            facts,
            container,
            pod: pod.trim_end_matches(".slice").replace('_', "-"),
            reins,
        })
    }

    /// Lets it go on to where it waits next.
    pub(super) fn go(&mut self) -> Result<()> {
        self.reins.write_all(b"\n").context("letting it go")
    }

    /// Waits until it holds what it was to hold.
    pub(super) fn holds(&self, mib: u64) -> Result<()> {
        let pid = self.facts.pid;
        wait_for(&format!("{pid} to hold {mib} MiB"), || {
            Ok((rss_bytes(pid)? >= mib << 20).then_some(()))
        })
    }

    /// Ends it.
    pub(super) fn kill(&self) -> Result<()> {
        let pid = Pid::from_raw(self.facts.pid.cast_signed()).context("its process id")?;
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context("killing it"),
        }
    }

    /// Whether it is still there.
    pub(super) fn lives(&self) -> bool {
        // One that is being killed has no executable any more, and keeps its name.
        rss_bytes(self.facts.pid).is_ok_and(|bytes| bytes > 0)
    }

    /// The directory of its container's cgroup.
    pub(super) fn cgroup(&self) -> PathBuf {
        PathBuf::from(format!("/sys/fs/cgroup{}", self.facts.cgroup_path))
    }
}

fn rss_bytes(pid: u32) -> Result<u64> {
    let statm = read(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .context("statm is too short")?
        .parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

pub(super) fn pid_of(process: &str) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == process))
}

impl Node {
    /// Makes the reins of processes, by name.
    pub(super) fn reins(&self, processes: &[&str]) -> Result<()> {
        for process in processes {
            let file = Path::new(REINS).join(process);
            let _ = fs::remove_file(&file);
            mknodat(CWD, &file, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                .with_context(|| format!("making {}", file.display()))?;
        }
        Ok(())
    }

    /// Gives the API server a pod of this node; returns its uid.
    pub(super) fn pod(&self, name: &str, containers: &[Spec]) -> Result<String> {
        self.pod_with(name, containers, &json!({}))
    }

    /// The same, with these in its specification.
    pub(super) fn pod_with(&self, name: &str, containers: &[Spec], more: &Value) -> Result<String> {
        let mut manifest = manifest(name, containers);
        for (key, value) in more.as_object().into_iter().flatten() {
            manifest["spec"][key] = value.clone();
        }
        let pod = self.cluster.create(PODS, &manifest)?;
        let uid = pod["metadata"]["uid"].as_str().context("the pod's uid")?;
        Ok(uid.to_owned())
    }

    /// Gives the kubelet a static pod.
    pub(super) fn static_pod(&self, name: &str, containers: &[Spec]) -> Result<()> {
        let mut manifest = manifest(name, containers);
        // It is this node's anyway.
        manifest["spec"]
            .as_object_mut()
            .context("no spec")?
            .remove("nodeName");
        fs::write(
            Path::new(MANIFESTS).join(format!("{name}.json")),
            manifest.to_string(),
        )
        .context("writing a manifest")
    }

    /// Takes a static pod away, and waits until its process is gone.
    pub(super) fn no_static_pod(&self, name: &str, inmate: &Inmate) -> Result<()> {
        fs::remove_file(Path::new(MANIFESTS).join(format!("{name}.json")))?;
        gone(inmate)
    }

    /// The pod, as the API server has it.
    pub(super) fn seen(&self, name: &str) -> Result<Value> {
        self.cluster.get(&format!("{PODS}/{name}"))
    }

    /// Deletes a pod, at once.
    pub(super) fn delete(&self, name: &str) -> Result<()> {
        self.cluster.delete(&format!("{PODS}/{name}"))
    }

    /// Deletes a pod, and waits until its processes are gone.
    pub(super) fn remove(&self, name: &str, inmates: &[&Inmate]) -> Result<()> {
        self.delete(name)?;
        inmates.iter().try_for_each(|inmate| gone(inmate))
    }
}

fn gone(inmate: &Inmate) -> Result<()> {
    wait_for("the processes of a pod to be gone", || {
        Ok((!inmate.cgroup().exists()).then_some(()))
    })
}

fn manifest(name: &str, containers: &[Spec]) -> Value {
    let amounts = |amount: Option<u64>| match amount {
        Some(bytes) => json!({"memory": bytes.to_string()}),
        None => json!({}),
    };
    let containers: Vec<Value> = containers
        .iter()
        .map(|container| {
            let mut resources = json!({
                "requests": amounts(container.request), "limits": amounts(container.limit),
            });
            // Guaranteed takes both to be the same, of processors, too.
            if container.request.is_some() && container.request == container.limit {
                for what in ["requests", "limits"] {
                    resources[what]["cpu"] = "500m".into();
                }
            }
            json!({
                "name": container.name, "image": IMAGE, "imagePullPolicy": "Never",
                "command": ["/bin/busybox", "sh", "-c", container.script],
                "resources": resources,
                "volumeMounts": [{"name": "reins", "mountPath": REINS}],
            })
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "nodeName": NAME, "hostNetwork": true, "dnsPolicy": "Default",
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            "containers": containers,
            "volumes": [{"name": "reins", "hostPath": {"path": REINS, "type": "Directory"}}],
        },
    })
}

/// What the kubelet makes of a request (`GetContainerOOMScoreAdjust` in
/// `pkg/kubelet/qos/policy.go`): of a Burstable container.
pub(super) fn burstable_adj(request: u64, capacity: u64) -> i64 {
    let share = i64::try_from(u128::from(request) * 1000 / u128::from(capacity)).unwrap_or(1000);
    match 1000 - share {
        1000 => 999,
        adj => adj.max(3),
    }
}

/// Asserts that a killed process is this one.
pub(super) fn is(event: &Value, inmate: &Inmate) -> Result<()> {
    for (pointer, value) in [
        ("/victim/pid", json!(inmate.facts.pid)),
        ("/victim/uid", json!(inmate.facts.uid)),
        ("/victim/oom_score_adj", json!(inmate.facts.oom_score_adj)),
        ("/victim/cgroup/path", json!(inmate.facts.cgroup_path)),
        ("/victim/container/id", json!(inmate.container)),
        ("/victim/pod/uid", json!(inmate.pod)),
    ] {
        let found = event.pointer(pointer).unwrap_or(&Value::Null);
        if *found != value {
            bail!("{pointer} is {found}, not {value}: {event}");
        }
    }
    ensure!(event["kind"] == "oom_kill", "no kill: {event}");
    Ok(())
}
