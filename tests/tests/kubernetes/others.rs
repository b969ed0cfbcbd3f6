//! What is told besides kills, and what the verbs make of it: the kubelet's list, evictions, kills
//! by systemd-oomd, and pods by name in `rank` and `audit`.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use oomtrace_tests::{
    cgroup::Cgroup,
    kubernetes::{
        Server,
        cluster::{self, Cluster, PODS, TOKEN, certificates, container_id, pod, running},
        proxy::{Fault, Proxy},
        wait_until,
    },
    schema::Schema,
    tracer::{Tracer, output, run},
    victim::{Look, Victim},
};
use serde_json::{Value, json};

use super::{
    LIMIT, NODE, UID, api_is, die_in, environment, expect,
    faults::{STRANGER, facts, make, nobody},
    place, source_is, with_api,
};

/// A static pod: its uid is the hash of its configuration.
const HASH: &str = "0123456789abcdef0123456789abcdef";

/// A pod as the kubelet lists it.
fn listed(name: &str, uid: &str) -> Value {
    let mut listed = pod(NODE, name);
    listed["metadata"]["namespace"] = json!("default");
    listed["metadata"]["uid"] = json!(uid);
    listed["status"] = running(uid)["status"].clone();
    listed["status"]["qosClass"] = json!("Burstable");
    listed
}

/// The kubelet's list, from a server that has a kubelet's certificate and that list: pods and static
/// pods by name, new ones with the next list; a token that is not accepted and a wrong signer are
/// told.
#[test]
fn the_kubelets_list() -> Result<()> {
    let Some((env, _lock)) = environment(&[])? else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    certificates(at)?;
    let proxy = Proxy::start(at, None)?;
    let list = |pods: &[Value]| {
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
        Fault::answer("200 OK", &list.to_string())
    };
    let mut fixed = listed("etcd-node", HASH);
    fixed["metadata"]["annotations"] = json!({
        "kubernetes.io/config.source": "file", "kubernetes.io/config.hash": HASH});
    // The kubelet takes its certificates and its token from a kubeconfig; the API server that this
    // one names is not there.
    std::fs::write(at.join("token"), "one")?;
    let config = |ca: &str| -> Result<String> {
        let file = at.join(format!("{ca}.kubeconfig"));
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "oomtrace"}}],
            "clusters": [{"name": "lab", "cluster": {
                "server": "https://127.0.0.1:1", "certificate-authority": format!("{ca}.crt")}}],
            "users": [{"name": "oomtrace", "user": {"tokenFile": "token"}}],
        });
        std::fs::write(&file, text.to_string())?;
        Ok(file.to_str().context("a path")?.to_owned())
    };
    let address = format!("https://{}", proxy.address);
    let start = |ca: &str| {
        let config = config(ca)?;
        with_api(&env, &config, &["--kubelet", &address])
    };

    proxy.fault(Fault::answer("401 Unauthorized", "Unauthorized"));
    let mut tracer = start("ca")?;
    source_is(&mut tracer, "kubelet", "failed", "401")?;
    std::fs::write(at.join("token"), "two")?;
    proxy.fault(list(&[listed("first", UID), fixed]));
    source_is(&mut tracer, "kubelet", "live", "")?;
    let requests = proxy.requests();
    ensure!(
        requests
            .iter()
            .all(|request| request.starts_with("GET /pods ")),
        "{requests:?}"
    );
    ensure!(
        requests
            .first()
            .is_some_and(|first| first.ends_with(" one")),
        "{requests:?}"
    );
    ensure!(
        requests.last().is_some_and(|last| last.ends_with(" two")),
        "{requests:?}"
    );

    let mut expected = facts("first", UID);
    expected[6].1 = json!(["kubelet"]);
    expect(&die_in(&env, &mut tracer, UID)?, &expected)?;
    let event = die_in(&env, &mut tracer, HASH)?;
    expect(
        &event,
        &[
            ("/victim/pod/name", json!("etcd-node")),
            ("/victim/pod/uid", json!(HASH)),
            ("/victim/pod/is_static", json!(true)),
            ("/victim/container/name", json!("app")),
        ],
    )?;
    nobody(&die_in(&env, &mut tracer, STRANGER)?)?;
    tracer.stop()?;

    let mut tracer = start("other")?;
    source_is(&mut tracer, "kubelet", "failed", "certificate")?;
    let asked = proxy.requests().len();
    ensure!(
        asked == requests.len(),
        "a token went to a server that nobody has signed"
    );
    tracer.stop()?;
    Ok(())
}

/// A pod that is evicted while oomtrace looks is told once, with the kubelet's numbers and the node's
/// conditions, also where that happened while the API server was away; one that was evicted before
/// is not.
#[test]
fn evictions() -> Result<()> {
    let Some((env, _lock)) = environment(&[cluster::missing()])? else {
        return Ok(());
    };
    let mut cluster = Cluster::start()?;
    cluster.create(
        "/api/v1/nodes",
        &json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}),
    )?;
    cluster.patch(
        &format!("/api/v1/nodes/{NODE}/status"),
        &json!({"status": {"conditions": [{
        "type": "MemoryPressure", "status": "True", "reason": "KubeletHasInsufficientMemory",
        "lastTransitionTime": "2026-01-02T03:04:05Z"}]}}),
    )?;
    let evict = |cluster: &Cluster, name: &str| {
        let message = "The node was low on resource: memory. Container app was using 20Mi, which \
                       exceeds its request of 16Mi. ";
        let status =
            json!({"status": {"phase": "Failed", "reason": "Evicted", "message": message}});
        cluster.patch(&format!("{PODS}/{name}/status"), &status)
    };
    let (kubeconfig, _) = cluster.kubeconfig(TOKEN, "ca")?;
    let kubeconfig = kubeconfig.to_str().context("a path")?.to_owned();
    make(&cluster, NODE, "before")?;
    evict(&cluster, "before")?;
    let uid = make(&cluster, NODE, "now")?;
    make(&cluster, NODE, "meanwhile")?;
    make(&cluster, "another-node", "elsewhere")?;
    let mut tracer = with_api(&env, &kubeconfig, &[])?;
    api_is(&mut tracer, "live", "")?;
    evict(&cluster, "elsewhere")?;
    evict(&cluster, "now")?;
    let record = tracer.wait_for("the eviction", |record| record["kind"] == "pod_eviction")?;
    expect(
        &record,
        &[
            ("/event_id", json!(format!("{uid}-eviction"))),
            ("/source/kind", json!("pod_status")),
            ("/pod/uid", json!(uid)),
            ("/pod/namespace", json!("default")),
            ("/pod/name", json!("now")),
            ("/pod/qos_class", json!("Burstable")),
            ("/resource", json!("memory")),
            (
                "/containers",
                json!([{"name": "app", "usage_bytes": 20 << 20, "request_bytes": 16 << 20}]),
            ),
            ("/evicted_at", Value::Null),
            ("/threshold_bytes", Value::Null),
            (
                "/node_conditions",
                json!([{
                    "condition": "MemoryPressure", "status": "True",
                    "reason": "KubeletHasInsufficientMemory", "since": "2026-01-02T03:04:05Z",
                }]),
            ),
            ("/enrichment/sources", json!(["api"])),
        ],
    )?;
    // The rest of its status changes; that is no other eviction.
    cluster.patch(
        &format!("{PODS}/now/status"),
        &json!({"status": {"podIP": "10.0.0.7"}}),
    )?;
    cluster.stop_api();
    api_is(&mut tracer, "failed", "")?;
    cluster.start_api()?;
    evict(&cluster, "meanwhile")?;
    tracer.wait_for("the other eviction", |record| {
        record["kind"] == "pod_eviction" && record["pod"]["name"] == "meanwhile"
    })?;
    let ended = tracer.stop()?;
    ensure!(
        ended.of_kind("pod_eviction").count() == 2,
        "told of others, or twice"
    );
    Ok(())
}

/// An eviction that waits for the node's conditions is told without them when the tracer stops.
#[test]
fn an_eviction_at_the_end() -> Result<()> {
    let Some((env, _lock)) = environment(&[cluster::missing()])? else {
        return Ok(());
    };
    let cluster = Cluster::start()?;
    let proxy = Proxy::start(cluster.folder(), Some(cluster.port))?;
    proxy.fault(Fault::Holds("GET /api/v1/nodes/"));
    let (kubeconfig, _) = cluster.kubeconfig_at(&proxy.address, TOKEN, "ca")?;
    let kubeconfig = kubeconfig.to_str().context("a path")?;
    let uid = make(&cluster, NODE, "now")?;
    let mut tracer = with_api(&env, kubeconfig, &[])?;
    api_is(&mut tracer, "live", "")?;
    let status = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
    cluster.patch(&format!("{PODS}/now/status"), &status)?;
    wait_until("its node is asked for", || {
        let asked = |request: &String| request.starts_with("GET /api/v1/nodes/");
        Ok(proxy.requests().iter().any(asked))
    })?;
    let ended = tracer.stop()?;
    ended.farewell()?;
    let evictions: Vec<&Value> = ended.of_kind("pod_eviction").collect();
    let [eviction] = evictions[..] else {
        anyhow::bail!("{} evictions", evictions.len());
    };
    expect(
        eviction,
        &[
            ("/event_id", json!(format!("{uid}-eviction"))),
            ("/pod/name", json!("now")),
            ("/node_conditions", Value::Null),
        ],
    )
}

/// Pods are named where they rank and where they are found wanting, as in events.
#[test]
fn rank_and_audit_name_pods() -> Result<()> {
    let Some((env, _lock)) = environment(&[cluster::missing()])? else {
        return Ok(());
    };
    let cluster = Cluster::start()?;
    let (kubeconfig, _) = cluster.kubeconfig(TOKEN, "ca")?;
    let kubeconfig = kubeconfig.to_str().context("a path")?;
    let uid = make(&cluster, NODE, "first")?;
    let cgroup = place(&uid)?;
    cgroup.limit(4 * LIMIT)?;
    // More than twice the 16 MiB that are requested.
    let mut holder = Victim::start(&env, &cgroup, &Look::default(), &["hold", "48"])?;
    holder.go()?;
    holder.says("holding")?;
    let sources = ["--kubeconfig", kubeconfig, "--node-name", NODE];
    let told = |verb: &str, args: &[&str]| -> Result<Value> {
        let output = run(&env, &[&[verb, "--json"], args].concat())?;
        let told: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{verb}: {}", String::from_utf8_lossy(&output.stderr)))?;
        Schema::of_verb(&env, verb)?.describes(&told)?;
        Ok(told)
    };
    let path = cgroup.path();
    let of_cgroup = [&["--cgroup", &path, "--candidates", "all"], &sources[..]].concat();
    let ranking = told("rank", &of_cgroup)?;
    expect(
        &ranking,
        &[
            ("/kubernetes/sources/0/name", json!("api")),
            ("/kubernetes/sources/0/state", json!("live")),
            ("/candidates/items/0/pid", json!(holder.pid())),
            ("/candidates/items/0/pod", json!("default/first")),
            ("/candidates/items/0/container", json!("app")),
            ("/candidates/items/0/pod_uid", json!(uid)),
            (
                "/candidates/items/0/container_id",
                json!(container_id(&uid)),
            ),
            ("/candidates/items/0/memory_request_bytes", json!(16 << 20)),
            ("/pods/items/0/pod", json!("default/first")),
        ],
    )?;
    let wants = |audit: &Value, code: &str| {
        let findings = audit["findings"].as_array().into_iter().flatten();
        let mut wants = findings.filter(|finding| finding["subject"]["pod_uid"] == *uid);
        wants.find(|finding| finding["code"] == code).cloned()
    };
    let audit = told("audit", &sources)?;
    let finding = wants(&audit, "request_below_use").context("no request_below_use")?;
    expect(
        &finding,
        &[
            ("/subject/pod", json!("default/first")),
            ("/subject/container", json!("app")),
            ("/numbers/request_bytes", json!(16 << 20)),
        ],
    )?;
    // A process of it has 0, which the kubelet gives to no Burstable pod; what it gives is known now.
    let finding = wants(&audit, "adj_differs").context("no adj_differs")?;
    let expected = &finding["numbers"]["expected_oom_score_adj"];
    ensure!(expected.is_i64(), "{finding}");

    // Without sources the same is said of a pod without a name; with one that does not answer, too,
    // and that it does not.
    let ranking = told("rank", &["--cgroup", &path, "--k8s", "off"])?;
    expect(
        &ranking,
        &[
            ("/kubernetes", Value::Null),
            ("/candidates/items/0/pod", Value::Null),
            ("/candidates/items/0/pod_uid", json!(uid)),
        ],
    )?;
    cluster.freeze(true)?;
    let mut command = Command::new(&env.oomtrace);
    command.args(["rank", "--cgroup", &path]).args(sources);
    let text = String::from_utf8(output(command)?.stdout)?;
    cluster.freeze(false)?;
    ensure!(
        text.contains("Pods may lack names and requests: api"),
        "{text}"
    );
    Ok(())
}

/// A limit above two pods is hit: the candidates of both are theirs, with their requests.
#[test]
fn candidates_of_other_pods() -> Result<()> {
    let Some((env, _lock)) = environment(&[cluster::missing()])? else {
        return Ok(());
    };
    let cluster = Cluster::start()?;
    let (kubeconfig, _) = cluster.kubeconfig(TOKEN, "ca")?;
    let kubeconfig = kubeconfig.to_str().context("a path")?;
    let [one, other] = ["one", "other"].map(|name| make(&cluster, NODE, name));
    let (one, other) = (one?, other?);
    let mut tracer = with_api(&env, kubeconfig, &[])?;
    api_is(&mut tracer, "live", "")?;
    let names = |uid: &str| [format!("pod{uid}"), container_id(uid)];
    let inner = [
        vec!["kubepods".to_owned(), "burstable".to_owned()],
        names(&one).into(),
    ]
    .concat();
    let cgroup = Cgroup::nested("pods", &inner)?;
    cgroup.limit_level(1, 3 * LIMIT)?;
    let [pod, id] = names(&other);
    let beside_pod = cgroup.beside(2, &pod)?;
    let beside = beside_pod.beside(0, &id)?;
    let mut holder = Victim::start(&env, &beside, &Look::default(), &["hold", "8"])?;
    holder.go()?;
    holder.says("holding")?;
    let mut victim = Victim::start(&env, &cgroup, &Look::default(), &["eat"])?;
    let pid = victim.pid();
    victim.go()?;
    victim.dies()?;
    let event = tracer.wait_for("the kill", |record| {
        record["kind"] == "oom_kill" && record["victim"]["pid"] == pid
    })?;
    ensure!(event["oom"]["scope"] == "kubepods", "{}", event["oom"]);
    let items = event["candidates"]["items"]
        .as_array()
        .context("candidates")?;
    for (pid, uid) in [(pid, &one), (holder.pid(), &other)] {
        let item = items.iter().find(|item| item["pid"] == pid);
        let item = item.with_context(|| format!("{pid} is no candidate"))?;
        if item["cgroup_id"].is_null() {
            println!("skipped: this kernel's candidates have no cgroup");
            continue;
        }
        expect(
            item,
            &[
                ("/pod_uid", json!(uid)),
                ("/container_id", json!(container_id(uid))),
                ("/memory_request_bytes", json!(16 << 20)),
            ],
        )?;
    }
    tracer.stop()?;
    Ok(())
}

/// What systemd-oomd tells on the bus is told, with the pod; what another says in its place is not.
/// The bus is a real one; somebody else has systemd-oomd's name on it.
#[test]
fn kills_by_systemd_oomd() -> Result<()> {
    let daemon = Path::new("/usr/bin/dbus-daemon");
    let missing = (!daemon.exists()).then(|| "dbus-daemon is not there".to_owned());
    let Some((env, _lock)) = environment(&[missing])? else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let (socket, config) = (folder.path().join("bus"), folder.path().join("bus.conf"));
    std::fs::write(
        &config,
        format!(
            "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/>\
             <allow send_type=\"*\"/><allow send_destination=\"*\"/><allow eavesdrop=\"false\"/>\
             </policy></busconfig>",
            socket.display()
        ),
    )?;
    let mut command = Command::new(daemon);
    command
        .arg("--nofork")
        .arg("--nopidfile")
        .arg(format!("--config-file={}", config.display()));
    let mut bus = Server::start(command, folder.path().join("log"))?;
    wait_until("the bus listens", || {
        bus.lives()?;
        Ok(UnixStream::connect(&socket).is_ok())
    })?;
    let mut command = Command::new(&env.oomtrace);
    command.args(["trace", "--format", "json", "--k8s", "off", "-v"]);
    command.env(
        "DBUS_SYSTEM_BUS_ADDRESS",
        format!("unix:path={}", socket.display()),
    );
    let mut tracer = Tracer::spawn(&env, command)?;

    let mut impostor = Peer::connect(&socket)?;
    let mut oomd = Peer::connect(&socket)?;
    oomd.call(
        "RequestName",
        &[Argument::Text("org.freedesktop.oom1"), Argument::Number(0)],
    )?;
    let path = format!("/kubepods/burstable/pod{UID}/{}", container_id(UID));
    // Nobody tells when the tracer listens: so it is told until it does.
    let deadline = std::time::Instant::now() + oomtrace_tests::PATIENCE;
    let told = loop {
        impostor.killed("/wrong.slice", "memory-used")?;
        oomd.killed(&path, "memory-pressure")?;
        if let Some(told) = tracer.poll(|record| record["kind"] == "userspace_kill")? {
            break told;
        }
        ensure!(std::time::Instant::now() < deadline, "it is not told");
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    expect(
        &told,
        &[
            ("/source/kind", json!("system_bus")),
            ("/killer", json!("systemd-oomd")),
            ("/reason", json!("memory-pressure")),
            ("/cgroup_path", json!(path)),
            ("/level", json!("container")),
            ("/pod/uid", json!(UID)),
            ("/pod/qos_class", json!("Burstable")),
            ("/container/id", json!(container_id(UID))),
        ],
    )?;
    let ended = tracer.stop()?;
    let mut kills = ended.of_kind("userspace_kill");
    ensure!(
        kills.all(|kill| kill["cgroup_path"] == *path),
        "somebody else was believed"
    );
    Ok(())
}

/// Somebody on a bus.
struct Peer {
    stream: BufReader<UnixStream>,
    serial: u32,
}

enum Argument<'a> {
    Text(&'a str),
    Number(u32),
}

impl Peer {
    fn connect(socket: &Path) -> Result<Self> {
        let mut stream = BufReader::new(UnixStream::connect(socket)?);
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        stream
            .get_mut()
            .write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        ensure!(line.starts_with("OK "), "{line}");
        stream.get_mut().write_all(b"BEGIN\r\n")?;
        let mut peer = Self { stream, serial: 0 };
        peer.call("Hello", &[])?;
        Ok(peer)
    }

    /// Calls the bus, and waits for its answer.
    fn call(&mut self, member: &str, arguments: &[Argument<'_>]) -> Result<()> {
        let bus = [
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "org.freedesktop.DBus",
        ];
        self.send(1, bus, member, arguments)?;
        loop {
            let mut start = [0; 16];
            self.stream.read_exact(&mut start)?;
            let number = |at: usize| {
                u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]])
            };
            let rest = number(12).next_multiple_of(8) + number(4);
            self.stream.read_exact(&mut vec![0; rest as usize])?;
            ensure!(start[1] != 3, "{member}: the bus refuses");
            if start[1] == 2 {
                return Ok(());
            }
        }
    }

    fn killed(&mut self, cgroup: &str, reason: &str) -> Result<()> {
        let oomd = ["/org/freedesktop/oom1", "org.freedesktop.oom1.Manager", ""];
        self.send(
            4,
            oomd,
            "Killed",
            &[Argument::Text(cgroup), Argument::Text(reason)],
        )
    }

    /// Sends a message to an object of an interface, and to a name if there is one.
    fn send(
        &mut self,
        kind: u8,
        [path, interface, name]: [&str; 3],
        member: &str,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        self.serial += 1;
        let pad =
            |bytes: &mut Vec<u8>, to: usize| bytes.resize(bytes.len().next_multiple_of(to), 0);
        let text = |bytes: &mut Vec<u8>, text: &str| {
            pad(bytes, 4);
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.bytes());
            bytes.push(0);
        };
        let mut fields = Vec::new();
        for (code, kind, value) in [
            (1, b'o', path),
            (2, b's', interface),
            (3, b's', member),
            (6, b's', name),
        ] {
            if !value.is_empty() {
                pad(&mut fields, 8);
                fields.extend([code, 1, kind, 0]);
                text(&mut fields, value);
            }
        }
        let mut body = Vec::new();
        let mut signature = String::new();
        for argument in arguments {
            match argument {
                Argument::Text(value) => {
                    signature.push('s');
                    text(&mut body, value);
                }
                Argument::Number(number) => {
                    signature.push('u');
                    pad(&mut body, 4);
                    body.extend(number.to_le_bytes());
                }
            }
        }
        if !signature.is_empty() {
            pad(&mut fields, 8);
            fields.extend([8, 1, b'g', 0, signature.len() as u8]);
            fields.extend(signature.bytes());
            fields.push(0);
        }
        let mut message = vec![b'l', kind, 0, 1];
        for number in [body.len() as u32, self.serial, fields.len() as u32] {
            message.extend(number.to_le_bytes());
        }
        message.extend(fields);
        pad(&mut message, 8);
        message.extend(body);
        Ok(self.stream.get_mut().write_all(&message)?)
    }
}
