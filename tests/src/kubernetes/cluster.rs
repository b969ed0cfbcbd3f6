//! A kube-apiserver with its etcd, on loopback, and what is in it. No scheduler and no controllers:
//! pods are bound by hand.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Server, run, target, wait_until};

/// Where `cargo xtask k8s` leaves what it builds.
fn built() -> PathBuf {
    target().join("k8s/bin/kube-apiserver")
}

/// The token that may do everything.
pub const ADMIN: &str = "admin-token";
/// The token that may do what oomtrace needs, and nothing else.
pub const TOKEN: &str = "oomtrace-token";
/// A token that is somebody's who may do nothing.
pub const NOBODYS_TOKEN: &str = "nobodys-token";

/// Address and port of the API server for a node in a virtual machine.
pub const FROM_THE_NODE: (&str, u16) = ("10.0.2.100", 6443);
/// The address of such a node.
pub const NODE: &str = "10.0.2.15";

/// A cluster.
pub struct Cluster {
    client: Client,
    _folder: tempfile::TempDir,
    etcd: Server,
    api: Option<Server>,
    etcd_port: u16,
    /// Where the API server listens.
    pub port: u16,
}

/// Whoever may do everything.
pub struct Client {
    folder: PathBuf,
    address: String,
}

impl std::ops::Deref for Cluster {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// What is missing to run one, if anything.
pub fn missing() -> Option<String> {
    let built = built();
    [built.as_path(), Path::new("/usr/bin/etcd")]
        .into_iter()
        .find(|file| !file.exists())
        .map(|file| {
            format!(
                "{} is not there; `cargo xtask k8s` makes it",
                file.display()
            )
        })
}

impl Cluster {
    /// Starts one.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("oomtrace-api")
            .tempdir_in("/tmp")?;
        let at = folder.path();
        certificates(at)?;
        fs::write(
            at.join("tokens.csv"),
            format!(
                "{ADMIN},admin,1,\"system:masters\"\n{TOKEN},oomtrace,2\n{NOBODYS_TOKEN},nobody,3\n"
            ),
        )?;
        let [etcd_port, peer_port, port] = free_ports()?;
        let mut etcd = Command::new("/usr/bin/etcd");
        etcd.arg("--data-dir").arg(at.join("etcd"));
        for (flag, port) in [
            ("--listen-client-urls", etcd_port),
            ("--advertise-client-urls", etcd_port),
            ("--listen-peer-urls", peer_port),
        ] {
            etcd.args([flag, &format!("http://127.0.0.1:{port}")]);
        }
        let mut cluster = Self {
            client: Client::new(at, &format!("127.0.0.1:{port}")),
            etcd: Server::start(etcd, at.join("etcd.log"))?,
            api: None,
            _folder: folder,
            etcd_port,
            port,
        };
        cluster.start_api()?;
        cluster.grant("oomtrace-tests", &rights())?;
        Ok(cluster)
    }

    /// Starts the API server, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_api(&mut self) -> Result<()> {
        let at = &self.client.folder;
        let mut api = Command::new(built());
        for (flag, value) in [
            (
                "etcd-servers",
                format!("http://127.0.0.1:{}", self.etcd_port),
            ),
            ("bind-address", "127.0.0.1".to_owned()),
            // Without one it takes that of the default route, which need not be there.
            ("advertise-address", "192.0.2.1".to_owned()),
            ("secure-port", self.port.to_string()),
            ("authorization-mode", "RBAC".to_owned()),
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
            ("service-cluster-ip-range", "10.0.0.0/24".to_owned()),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc".to_owned(),
            ),
        ] {
            api.arg(format!("--{flag}={value}"));
        }
        for (flag, file) in [
            ("tls-cert-file", "server.crt"),
            ("tls-private-key-file", "server.key"),
            ("service-account-key-file", "server.key"),
            ("service-account-signing-key-file", "server.key"),
            ("token-auth-file", "tokens.csv"),
            ("cert-dir", "certs"),
        ] {
            api.arg(format!("--{flag}={}", at.join(file).display()));
        }
        self.api = Some(Server::start(api, at.join("api.log"))?);
        wait_until("the API server is ready", || {
            self.etcd.lives()?;
            if let Some(api) = &mut self.api {
                api.lives()?;
            }
            // It makes this one when it is ready, and refuses pods before.
            Ok(self.client.curl("GET", "/readyz", None)? == "ok"
                && self
                    .client
                    .curl("GET", "/api/v1/namespaces/default", None)
                    .is_ok())
        })
    }

    /// Ends the API server.
    pub fn stop_api(&mut self) {
        self.api = None;
    }

    /// Stops the API server where it is, or lets it go on: its connections stay open.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.api.as_ref().context("no API server")?.freeze(frozen)
    }
}

/// What docs/kubernetes.md says that oomtrace needs of the API server, and nothing else.
pub fn rights() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
    ])
}

impl Client {
    /// One of the API server at this address. The folder has `ca.crt`, the certificate of its
    /// signer, and gets what is written.
    pub fn new(folder: &Path, address: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            address: address.to_owned(),
        }
    }

    /// Where certificates and tokens are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a kubeconfig that takes its token from a file, and returns both.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, token: &str, ca: &str) -> Result<(PathBuf, PathBuf)> {
        self.kubeconfig_at(&self.address, token, ca)
    }

    /// The same for what listens at another address.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_at(
        &self,
        address: &str,
        token: &str,
        ca: &str,
    ) -> Result<(PathBuf, PathBuf)> {
        // A token may be longer than a file's name.
        let mut hasher = DefaultHasher::new();
        token.hash(&mut hasher);
        let name = format!("{:x}@{address}.{ca}", hasher.finish());
        let (config, file) = (
            self.folder.join(format!("{name}.kubeconfig")),
            self.folder.join(format!("{name}.token")),
        );
        fs::write(&file, token)?;
        fs::write(
            &config,
            json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "lab",
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "oomtrace"}}],
                "clusters": [{"name": "lab", "cluster": {
                    "server": format!("https://{address}"),
                    "certificate-authority": format!("{ca}.crt"),
                }}],
                "users": [{"name": "oomtrace", "user": {"tokenFile": file}}],
            })
            .to_string(),
        )?;
        Ok((config, file))
    }

    /// Makes an object, and returns it.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        Ok(serde_json::from_str(&self.curl(
            "POST",
            path,
            Some(object),
        )?)?)
    }

    /// Merges a change into an object.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn patch(&self, path: &str, change: &Value) -> Result<()> {
        self.curl("PATCH", path, Some(change)).map(drop)
    }

    /// Deletes an object at once.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.curl("DELETE", path, Some(&at_once())).map(drop)
    }

    /// Makes many changes over one connection, and returns what the server answered to each.
    ///
    /// # Errors
    /// When the server refuses one.
    pub fn all(&self, changes: &[(&str, String, Value)]) -> Result<Vec<Value>> {
        let file = self.folder.join("changes.curl");
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let changes = changes.iter().map(|(method, path, body)| {
            format!(
                "request = {method}\nurl = \"https://{}{path}\"\ncacert = \"{}\"\n\
                 header = \"Authorization: Bearer {ADMIN}\"\n\
                 header = \"Content-Type: {}\"\nnoproxy = \"*\"\nsilent\nshow-error\n\
                 fail-with-body\ndata = \"{}\"\n",
                self.address,
                self.folder.join("ca.crt").display(),
                content_type(method),
                quoted(&body.to_string()),
            )
        });
        fs::write(&file, changes.collect::<Vec<_>>().join("next\n"))?;
        let answers = run(Command::new("curl").arg("--config").arg(&file))?;
        let answers = serde_json::Deserializer::from_str(&answers).into_iter();
        Ok(answers.collect::<Result<_, _>>()?)
    }

    /// Reads an object.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.curl("GET", path, None)?)?)
    }

    fn curl(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let mut command = Command::new("curl");
        command
            .args([
                "--silent",
                "--show-error",
                "--fail-with-body",
                "--max-time",
                "20",
            ])
            .args(["--noproxy", "*", "--request", method])
            .arg("--cacert")
            .arg(self.folder.join("ca.crt"))
            .args(["--header", &format!("Authorization: Bearer {ADMIN}")]);
        if let Some(body) = body {
            command
                .args([
                    "--header",
                    &format!("Content-Type: {}", content_type(method)),
                ])
                .args(["--data", &body.to_string()]);
        }
        run(command.arg(format!("https://{}{path}", self.address)))
    }

    /// Gives oomtrace more rights, by a role of this name.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn grant(&self, name: &str, rules: &Value) -> Result<()> {
        let group = "/apis/rbac.authorization.k8s.io/v1";
        let kind = |kind: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind});
        let mut role = kind("ClusterRole");
        role["metadata"] = json!({"name": name});
        role["rules"] = rules.clone();
        self.create(&format!("{group}/clusterroles"), &role)?;
        let mut binding = kind("ClusterRoleBinding");
        binding["metadata"] = json!({"name": name});
        binding["roleRef"] =
            json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
        binding["subjects"] =
            json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "oomtrace"}]);
        self.create(&format!("{group}/clusterrolebindings"), &binding)?;
        Ok(())
    }
}

fn content_type(method: &str) -> &'static str {
    if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    }
}

/// How to delete, so that nobody need say that it is done.
pub fn at_once() -> Value {
    json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
}

/// Where pods are.
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// A pod that nobody owns, with one container.
pub fn pod(node: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "app", "image": "shop/app:1",
                "resources": {"requests": {"memory": "16Mi"}, "limits": {"memory": "32Mi"}},
            }],
        },
    })
}

/// The id of the container of a pod with this uid.
pub fn container_id(uid: &str) -> String {
    format!("{:0>64}", uid.replace('-', ""))
}

/// What a kubelet says of such a pod when its container runs.
pub fn running(uid: &str) -> Value {
    json!({"status": {
        "phase": "Running",
        "containerStatuses": [{
            "name": "app", "ready": true, "restartCount": 0, "image": "shop/app:1", "imageID": "",
            "containerID": format!("containerd://{}", container_id(uid)),
        }],
    }})
}

/// A pod of a ReplicaSet of a Deployment. Returns its uid.
///
/// # Errors
/// When the server refuses.
pub fn deployed_pod(cluster: &Cluster, node: &str, name: &str) -> Result<String> {
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    let labels = json!({"app": name, "pod-template-hash": "7d4b9c", "secret": "x"});
    let spec = json!({
        "nodeName": node,
        "containers": [{
            "name": "app", "image": "shop/app:1",
            "resources": {"requests": {"memory": "16Mi"}, "limits": {"memory": "32Mi"}},
        }],
    });
    // Not `<deployment>-<hash>`: only the ReplicaSet itself tells the Deployment.
    let set = cluster.create(
        sets,
        &json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": format!("{name}-set"),
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "Deployment", "name": format!("{name}-deployment"),
                    "uid": "00000000-0000-0000-0000-000000000001", "controller": true,
                }],
            },
            "spec": {
                "replicas": 0, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": labels}, "spec": {
                    "containers": [{"name": "app", "image": "shop/app:1"}]}},
            },
        }),
    )?;
    let pod = cluster.create(
        "/api/v1/namespaces/default/pods",
        &json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "labels": labels,
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-set"),
                    "uid": set["metadata"]["uid"], "controller": true,
                }],
            },
            "spec": spec,
        }),
    )?;
    let uid = pod["metadata"]["uid"].as_str().context("the pod's uid")?;
    Ok(uid.to_owned())
}

/// A signer, the server's certificate, and another signer who has signed nothing.
///
/// # Errors
/// When openssl fails.
pub fn certificates(at: &Path) -> Result<()> {
    let openssl = |args: &str| {
        run(Command::new("openssl")
            .current_dir(at)
            .args(args.split(' ')))
    };
    for name in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt"
        ))?;
    }
    openssl("req -newkey rsa:2048 -nodes -subj /CN=apiserver -keyout server.key -out server.csr")?;
    fs::write(
        at.join("san"),
        format!(
            "subjectAltName=IP:127.0.0.1,DNS:localhost,IP:{},IP:{NODE}\n",
            FROM_THE_NODE.0
        ),
    )?;
    openssl(
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.crt",
    )?;
    Ok(())
}

fn free_ports() -> Result<[u16; 3]> {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0"));
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        let listener = listener
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        *port = listener.local_addr()?.port();
    }
    ensure!(ports.iter().all(|port| *port != 0), "no free ports");
    Ok(ports)
}
