//! API servers that fail: the stream goes on, and nobody gets somebody else's name.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use oomtrace_tests::kubernetes::{
    cluster::{self, Cluster, PODS, TOKEN, pod, running},
    proxy::{ENDLESS, Fault, Proxy},
    run, wait_until,
};
use serde_json::{Value, json};

use super::{NODE, api_is, die_in, environment, expect, late_or, with_api};

/// A uid of no pod at all.
pub(super) const STRANGER: &str = "deadbeef-4b5a-6978-8796-a5b4c3d2e1f0";
/// What the tracer may hold more, whatever a server sends: twice what a line of a watch may have.
const MORE_RESIDENT: u64 = 8 << 20;

/// Makes a pod that runs, and returns its uid.
pub(super) fn make(cluster: &Cluster, node: &str, name: &str) -> Result<String> {
    let made = cluster.create(PODS, &pod(node, name))?;
    let uid = made["metadata"]["uid"].as_str().context("its uid")?;
    cluster.patch(&format!("{PODS}/{name}/status"), &running(uid))?;
    Ok(uid.to_owned())
}

/// What an event says of such a pod.
pub(super) fn facts(name: &str, uid: &str) -> [(&'static str, Value); 7] {
    [
        ("/victim/pod/uid", json!(uid)),
        ("/victim/pod/namespace", json!("default")),
        ("/victim/pod/name", json!(name)),
        ("/victim/container/name", json!("app")),
        ("/victim/container/memory_request_bytes", json!(16 << 20)),
        ("/enrichment/complete", json!(true)),
        ("/enrichment/sources", json!(["api"])),
    ]
}

/// What nobody has told of is not told.
pub(super) fn nobody(event: &Value) -> Result<()> {
    expect(
        event,
        &[
            ("/victim/pod/uid", json!(STRANGER)),
            ("/victim/pod/name", Value::Null),
            ("/victim/pod/namespace", Value::Null),
            ("/victim/container/name", Value::Null),
            ("/enrichment/complete", json!(false)),
        ],
    )
}

/// Whatever a server answers: what was known before is still told, with the reason why it may be
/// old; a pod that nobody knows gets no name; and when the server is itself again, so is the rest.
#[test]
fn an_api_server_that_misbehaves() -> Result<()> {
    let Some((env, _lock)) = environment(&[cluster::missing()])? else {
        return Ok(());
    };
    let cluster = Cluster::start()?;
    let proxy = Proxy::start(cluster.folder(), Some(cluster.port))?;
    let (kubeconfig, _) = cluster.kubeconfig_at(&proxy.address, TOKEN, "ca")?;
    let first = make(&cluster, NODE, "first")?;
    let foreign = make(&cluster, "another-node", "foreign")?;
    let kubeconfig = kubeconfig.to_str().context("a path")?;
    let mut tracer = with_api(&env, kubeconfig, &[])?;
    api_is(&mut tracer, "live", "")?;
    expect(&die_in(&env, &mut tracer, &first)?, &facts("first", &first))?;
    let mut beats = tracer.records.iter().rev();
    let held = beats.find_map(|record| record["resident_bytes"].as_u64());
    let held = held.context("no heartbeat")?;

    let chunk = |text: &str| {
        [
            ENDLESS,
            format!("{:x}\r\n{text}\r\n", text.len()).as_bytes(),
        ]
        .concat()
    };
    // A pod of this node that was cut off in the middle, and one of somebody else.
    let half = r#"{"type":"ADDED","object":{"metadata":{"name":"wro"#;
    let other = json!({"type": "MODIFIED", "object": {
        "metadata": {"name": "foreign", "namespace": "default", "uid": foreign, "resourceVersion": "1"},
        "spec": {"nodeName": "another-node", "containers": []}}});
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "code": 500}});
    let faults = [
        ("TLS", Fault::Plain),
        ("", Fault::Reset),
        ("", Fault::HalfClosed(Vec::new())),
        ("", Fault::HalfClosed(chunk(half))),
        ("no change", Fault::HalfClosed(chunk("<html>\n"))),
        ("", Fault::Says(b"\x00\x01\x02 no HTTP \r\n\r\n".to_vec())),
        ("500", Fault::answer("500 Internal Server Error", "")),
        ("429", Fault::answer("429 Too Many Requests", "")),
        ("no change", Fault::answer("200 OK", "<html>\n")),
        (
            "500 in a watch",
            Fault::answer("200 OK", &format!("{gone}\n")),
        ),
        ("", Fault::HalfClosed(chunk(&format!("{other}\n")))),
        ("4 MiB", Fault::Floods(ENDLESS.to_vec())),
    ];
    let count = faults.len();
    for (at, (error, fault)) in faults.into_iter().enumerate() {
        let what = format!("{:.200}", format!("{fault:?}"));
        (|| {
            proxy.fault(fault);
            api_is(&mut tracer, "failed", error)?;
            let event = die_in(&env, &mut tracer, &first)?;
            expect(&event, &facts("first", &first))?;
            let errors = event["enrichment"]["errors"].to_string();
            ensure!(errors.contains("api: "), "{errors}");
            nobody(&die_in(&env, &mut tracer, STRANGER)?)?;
            let event = die_in(&env, &mut tracer, &foreign)?;
            expect(&event, &[("/victim/pod/name", Value::Null)])?;
            // What happens meanwhile is there when the server is.
            let name = format!("meanwhile-{at}");
            let uid = make(&cluster, NODE, &name)?;
            proxy.fault(Fault::None);
            api_is(&mut tracer, "live", "")?;
            let event = die_in(&env, &mut tracer, &uid)?;
            expect(&late_or(&mut tracer, event)?, &facts(&name, &uid))
        })()
        .with_context(|| what)?;
    }

    // A server that ends each watch at once is not asked again at once.
    proxy.fault(Fault::answer("200 OK", ""));
    let before = proxy.requests().len();
    wait_until("it is asked", || Ok(proxy.requests().len() >= before + 3))?;
    expect(&die_in(&env, &mut tracer, &first)?, &facts("first", &first))?;
    let asked = proxy.requests().len() - before;
    ensure!(asked < 20, "asked {asked} times");

    let ended = tracer.stop()?;
    let farewell = ended.farewell()?;
    let pods = &farewell["kubernetes"]["pods"];
    ensure!(
        *pods == count + 1,
        "{pods} pods are known, not {count} and the first"
    );
    let null = ended
        .of_kind("oom_kill")
        .filter(|event| event["victim"]["pod"]["name"].is_null());
    let unresolved = null.count();
    ensure!(
        farewell["totals"]["unresolved"] == unresolved && unresolved >= 2 * count,
        "{unresolved} events have no name, {} were counted",
        farewell["totals"]["unresolved"]
    );
    let resident = farewell["resident_bytes"].as_u64();
    ensure!(
        resident < Some(held + MORE_RESIDENT),
        "{resident:?} bytes resident, {held} before"
    );
    Ok(())
}

/// A list that is cut off, at its first page or at a later one, is none: nothing has gone, and
/// nothing is half known.
#[test]
fn a_list_that_is_cut_off() -> Result<()> {
    let Some((env, _lock)) = environment(&[cluster::missing()])? else {
        return Ok(());
    };
    let cluster = Cluster::start()?;
    let proxy = Proxy::start(cluster.folder(), Some(cluster.port))?;
    let (kubeconfig, _) = cluster.kubeconfig_at(&proxy.address, TOKEN, "ca")?;
    let first = make(&cluster, NODE, "first")?;
    let item = json!({
        "metadata": {"name": "listed", "namespace": "default", "uid": STRANGER},
        "spec": {"nodeName": NODE, "containers": [{"name": "app"}]}});
    let whole = json!({"metadata": {"resourceVersion": "1"}, "items": [item]}).to_string();
    // It ends as HTTP has it, in the middle of the pod.
    proxy.fault(Fault::answer(
        "200 OK",
        &whole[..whole.find("containers").context("it")?],
    ));
    let kubeconfig = kubeconfig.to_str().context("a path")?;
    let mut tracer = with_api(&env, kubeconfig, &[])?;
    api_is(&mut tracer, "failed", "ended in the middle")?;
    nobody(&die_in(&env, &mut tracer, STRANGER)?)?;
    // Without the state it was read at, a list is none either.
    let without = json!({"metadata": {}, "items": []}).to_string();
    proxy.fault(Fault::answer("200 OK", &without));
    api_is(&mut tracer, "failed", "resourceVersion")?;
    proxy.fault(Fault::None);
    api_is(&mut tracer, "live", "")?;
    expect(&die_in(&env, &mut tracer, &first)?, &facts("first", &first))?;
    tracer.stop()?;
    Ok(())
}

/// A token of a service account that expires: the watch ends with it or goes on, the source says
/// so, and goes on with the new one as soon as the file has it.
#[test]
fn a_token_that_expires() -> Result<()> {
    let Some((env, _lock)) = environment(&[cluster::missing()])? else {
        return Ok(());
    };
    let mut cluster = Cluster::start()?;
    let account = cluster.create(
        "/api/v1/namespaces/default/serviceaccounts",
        &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "oomtrace"}}),
    )?;
    let mut binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "account"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                    "name": "oomtrace-tests"},
    });
    binding["subjects"] =
        json!([{"kind": "ServiceAccount", "name": "oomtrace", "namespace": "default"}]);
    cluster.create(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        &binding,
    )?;
    let uid = account["metadata"]["uid"].as_str().context("its uid")?;
    let first = make(&cluster, NODE, "first")?;
    let (kubeconfig, file) = cluster.kubeconfig(&signed(cluster.folder(), uid, 5)?, "ca")?;
    let kubeconfig = kubeconfig.to_str().context("a path")?.to_owned();
    let mut tracer = with_api(&env, &kubeconfig, &[])?;
    api_is(&mut tracer, "live", "")?;
    // The server ends the watch when it ends, and then does not take the old token any more.
    wait_until("the token has expired", || {
        let command = "curl --silent --noproxy '*' --output /dev/null --write-out '%{http_code}' \
                       --cacert \"$1/ca.crt\" --header \"Authorization: Bearer $(cat \"$2\")\" \"$3\"";
        let address = format!("https://127.0.0.1:{}/api/v1/pods?limit=1", cluster.port);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", command, "sh"])
            .arg(cluster.folder())
            .arg(&file)
            .arg(address);
        Ok(run(&mut shell)? == "401")
    })?;
    cluster.stop_api();
    cluster.start_api()?;
    api_is(&mut tracer, "failed", "401")?;
    expect(&die_in(&env, &mut tracer, &first)?, &facts("first", &first))?;
    let second = make(&cluster, NODE, "second")?;
    fs::write(&file, signed(cluster.folder(), uid, 3600)?)?;
    api_is(&mut tracer, "live", "")?;
    let event = die_in(&env, &mut tracer, &second)?;
    expect(&late_or(&mut tracer, event)?, &facts("second", &second))?;
    tracer.stop()?;
    Ok(())
}

/// A token of the service account, signed as the server signs, that is good for so many seconds.
fn signed(folder: &Path, uid: &str, seconds: u64) -> Result<String> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    let claims = json!({
        "iss": "https://kubernetes.default.svc", "aud": ["https://kubernetes.default.svc"],
        "sub": "system:serviceaccount:default:oomtrace",
        "iat": now, "nbf": now, "exp": now + seconds,
        "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "oomtrace", "uid": uid}},
    });
    let header = json!({"alg": "RS256", "typ": "JWT"});
    let script = "url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }\n\
                  both=$(printf %s \"$1\" | url).$(printf %s \"$2\" | url)\n\
                  printf %s \"$both.\"\n\
                  printf %s \"$both\" | openssl dgst -sha256 -sign server.key | url";
    run(Command::new("sh")
        .args(["-c", script, "sh", &header.to_string(), &claims.to_string()])
        .current_dir(folder)
        .stdin(Stdio::null()))
}
