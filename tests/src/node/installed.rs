//! oomtrace as its users install it on a cluster: the image, and the pod of the chart.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    CERTIFICATES, NAME, Node, SOCKET,
    pods::{Inmate, Spec, burstable_adj, is, pid_of},
};
use crate::{
    Env, compare,
    kubernetes::{
        chart::{self, NAMESPACE, ON_THE_NODE},
        containerd::{IMAGE, import},
        expect,
    },
    oracle::KernelLog,
    read,
    schema::Schema,
    wait_for,
};

const MIB: u64 = 1 << 20;
const POD: &str = "oomtrace-of-the-node";
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the chart lets it do, of what root may: `CAP_IPC_LOCK`, `CAP_PERFMON`, `CAP_BPF`.
const CAPABILITIES: u64 = 1 << 14 | 1 << 38 | 1 << 39;

/// The pod names the victim in another one, with no more rights than the chart gives it.
pub(super) fn by_the_chart(env: &Env, node: &mut Node) -> Result<()> {
    let image = Path::new(ON_THE_NODE).join("oomtrace-amd64.tar");
    import(&mut node.containerd, Path::new(SOCKET), &image)?;
    let objects: Vec<Value> =
        serde_json::from_str(&read(Path::new(ON_THE_NODE).join("chart.json"))?)?;
    chart::install(&node.cluster, &objects, false)?;
    let daemons = objects.iter().find(|it| it["kind"] == "DaemonSet");
    let template = &daemons.context("no DaemonSet")?["spec"]["template"];
    let pod = start(node, template)?;
    let mut records = Records::of(env, &pod)?;
    let attached = records.wait_for("it to be attached", |it| it["phase"] == "start")?;
    for source in ["api", "kubelet", "cri", "bundle", "pod_logs"] {
        records.wait_for(&format!("{source} to answer"), |it| {
            let sources = it["kubernetes"]["sources"].as_array();
            let mut sources = sources.into_iter().flatten();
            sources.any(|it| it["name"] == source && it["state"] == "live")
        })?;
    }

    // A neighbour dies.
    let mut log = KernelLog::open()?;
    node.reins(&["neighbour"])?;
    let (request, limit) = (16 * MIB, 32 * MIB);
    let uid = node.pod(
        "checkout",
        &[Spec::of("app", "neighbour", "eat").with(Some(request), Some(limit))],
    )?;
    let mut inmate = Inmate::find("neighbour")?;
    ensure!(inmate.pod == uid, "the kubelet put it into {}", inmate.pod);
    records.wait_for("both pods to be known", |it| {
        it["kubernetes"]["pods"].as_u64() >= Some(2)
    })?;
    inmate.go()?;
    let account = log.account_of(inmate.facts.tid)?;
    let event = records.wait_for("the kill", |it| it["kind"] == "oom_kill")?;
    is(&event, &inmate)?;
    compare::numbers(&event, &inmate.facts, &account, limit)?;
    let adj = burstable_adj(request, node.capacity_bytes);
    expect(
        &event,
        &[
            ("/node/k8s_node_name", json!(NAME)),
            ("/victim/pod/namespace", json!("default")),
            ("/victim/pod/name", json!("checkout")),
            ("/victim/pod/qos_class", json!("Burstable")),
            ("/victim/pod/labels", json!({"app": "checkout"})),
            ("/victim/container/name", json!("app")),
            ("/victim/container/image", json!(IMAGE)),
            ("/victim/container/memory_request_bytes", json!(request)),
            ("/victim/container/memory_limit_bytes", json!(limit)),
            ("/victim/expected_oom_score_adj", json!(adj)),
            ("/verdict/code", json!("pod_limit")),
            ("/trigger/pod/uid", json!(uid)),
        ],
    )?;
    let id = event["event_id"].clone();
    records.wait_for("the outcome", |it| {
        it["kind"] == "oom_outcome" && it["victim"]["pid"] == event["victim"]["pid"]
    })?;
    let kept = read("/var/lib/oomtrace/events.jsonl")?;
    ensure!(
        kept.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .any(|it| it["event_id"] == id && it["kind"] == "oom_kill"),
        "the node has no record of it"
    );

    // With what rights.
    let tracer = pid_of("oomtrace").context("no process")?;
    let status = read(format!("/proc/{tracer}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|line| line.trim_start_matches(':').trim())
            .with_context(|| format!("no {name} in {status}"))
    };
    let bits = |name: &str| -> Result<u64> { Ok(u64::from_str_radix(field(name)?, 16)?) };
    ensure!(
        bits("CapBnd")? == CAPABILITIES && bits("CapEff")? == 0 && bits("CapPrm")? == 0,
        "{status}"
    );
    ensure!(
        field("NoNewPrivs")? == "1" && field("Seccomp")? == "2",
        "{status}"
    );
    let adj = read(format!("/proc/{tracer}/oom_score_adj"))?;
    ensure!(adj == "-997", "its own oom_score_adj is {adj}");
    let locked: u64 = field("VmLck")?.trim_end_matches(" kB").parse()?;
    ensure!(locked > 0, "its memory is not locked");
    let resident: u64 = field("VmRSS")?.trim_end_matches(" kB").parse()?;
    ensure!(resident < 20 << 10, "{resident} kB");
    let cgroup = read(format!("/proc/{tracer}/cgroup"))?;
    let cgroup = format!("/sys/fs/cgroup{}", cgroup.trim_start_matches("0::"));
    let memory = |file: &str| read(Path::new(&cgroup).join(file));
    println!(
        "{}",
        json!({
            "hooks": attached["hooks"], "merged": event["source"]["merged"],
            "candidates": event["candidates"], "resident_kb": resident, "locked_kb": locked,
            "memory.current": memory("memory.current")?, "memory.peak": memory("memory.peak")?,
        })
    );
    node.remove("checkout", &[&inmate])?;
    node.cluster
        .delete(&format!("{}/{POD}", chart::path(&pod)?))?;
    records.wait_for("its end", |it| it["phase"] == "stop")?;
    Ok(())
}

/// Runs the pod that a DaemonSet's controller would make of its template, with what the admission of
/// service accounts would add; and waits until it is ready.
fn start(node: &Node, template: &Value) -> Result<Value> {
    let mut pod = template.clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = POD.into();
    pod["metadata"]["namespace"] = NAMESPACE.into();
    pod["spec"]["nodeName"] = NAME.into();
    let ca = read(Path::new(CERTIFICATES).join("ca.crt"))?;
    let ca = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-root-ca.crt", "namespace": NAMESPACE},
        "data": {"ca.crt": ca},
    });
    node.cluster.create(&chart::path(&ca)?, &ca)?;
    let add = |list: &mut Value, item: Value| {
        let list = list.as_array_mut().context("no list")?;
        list.push(item);
        anyhow::Ok(())
    };
    add(
        &mut pod["spec"]["volumes"],
        json!({"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt"}},
        ]}}),
    )?;
    add(
        &mut pod["spec"]["containers"][0]["volumeMounts"],
        json!({"name": "token", "mountPath": TOKEN, "readOnly": true}),
    )?;
    let pods = chart::path(&pod)?;
    node.cluster.create(&pods, &pod)?;
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
    };
    let mut last = Value::Null;
    let ready = wait_for("the pod to be ready", || {
        last = node.cluster.get(&format!("{pods}/{POD}"))?;
        Ok(is_ready(&last).then(|| last.clone()))
    });
    ready.with_context(|| format!("{}: {}", last["status"], said(&last).unwrap_or_default()))
}

/// What the containers of a pod have said.
fn said(pod: &Value) -> Result<String> {
    let folder = folder(pod)?;
    let mut text = String::new();
    for file in fs::read_dir(&folder).with_context(|| folder.clone())? {
        text += &read(file?.path())?;
    }
    Ok(text)
}

/// Where the kubelet keeps what the container says.
fn folder(pod: &Value) -> Result<String> {
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
    Ok(format!("/var/log/pods/{NAMESPACE}_{POD}_{uid}/oomtrace"))
}

/// What the container has written to standard output.
struct Records {
    file: String,
    schema: Schema,
}

impl Records {
    fn of(env: &Env, pod: &Value) -> Result<Self> {
        Ok(Self {
            file: format!("{}/0.log", folder(pod)?),
            schema: Schema::of(env)?,
        })
    }

    fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(what, || {
            Ok(self.all()?.into_iter().find(|record| wanted(record)))
        })
    }

    /// A line of the file is `TIME stdout F|P TEXT`, where P says that the record goes on.
    fn all(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let (mut records, mut line) = (Vec::new(), String::new());
        for part in text.split_inclusive('\n') {
            let mut fields = part.splitn(4, ' ').skip(1);
            let (stream, tag, part) = (fields.next(), fields.next(), fields.next());
            let Some(part) = part.and_then(|part| part.strip_suffix('\n')) else {
                continue;
            };
            if stream != Some("stdout") {
                continue;
            }
            line += part;
            if tag == Some("F") {
                let record = serde_json::from_str(&line).with_context(|| line.clone())?;
                self.schema.check(&record)?;
                records.push(record);
                line.clear();
            }
        }
        Ok(records)
    }
}
