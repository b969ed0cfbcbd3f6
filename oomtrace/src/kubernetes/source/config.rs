//! Where the API server is and who asks: told by the pod this runs in, or by a kubeconfig.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::tls::{Credentials, Error, Secret};

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An API server, and as whom to talk to it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// As in `https://10.0.0.1:6443`.
    pub address: String,
    /// As whom.
    pub credentials: Credentials,
}

impl Cluster {
    /// What the pod this runs in has been told. `None` outside of one.
    pub fn of_this_pod() -> Option<Self> {
        let host = env::var("KUBERNETES_SERVICE_HOST").ok()?;
        let port = env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
        let folder = Path::new(SERVICE_ACCOUNT);
        let token = folder.join("token");
        token.exists().then(|| Self {
            address: if host.contains(':') {
                format!("https://[{host}]:{port}")
            } else {
                format!("https://{host}:{port}")
            },
            credentials: Credentials {
                ca: Some(Secret::File(folder.join("ca.crt"))),
                token: Some(Secret::File(token)),
                ..Credentials::default()
            },
        })
    }

    /// What a kubeconfig says.
    ///
    /// # Errors
    /// When it cannot be read, or wants what is not supported.
    pub fn of_file(path: &Path) -> Result<Self, Error> {
        let named = |reason: String| Error::File {
            path: path.display().to_string(),
            reason,
        };
        let text = fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        Self::of_text(&text, path.parent().unwrap_or(Path::new("."))).map_err(named)
    }

    /// What the text of a kubeconfig says; files in it are beside it.
    fn of_text(text: &str, folder: &Path) -> Result<Self, String> {
        let config: Kubeconfig =
            serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
        let named = |what: &str, name: &str| format!("it has no {what} named {name:?}");
        let context = config
            .contexts
            .into_iter()
            .find(|context| context.name == config.current_context)
            .ok_or_else(|| named("context", &config.current_context))?
            .context;
        let cluster = config
            .clusters
            .into_iter()
            .find(|cluster| cluster.name == context.cluster)
            .ok_or_else(|| named("cluster", &context.cluster))?
            .cluster;
        let user = config
            .users
            .into_iter()
            .find(|user| user.name == context.user)
            .ok_or_else(|| named("user", &context.user))?
            .user;
        if cluster.insecure_skip_tls_verify == Some(true) {
            return Err(
                "insecure-skip-tls-verify: a server that anybody can be is not asked".to_owned(),
            );
        }
        if user.exec.is_some() || user.auth_provider.is_some() || user.username.is_some() {
            return Err(
                "the user has no token and no certificate; exec, auth-provider and passwords are \
                 not supported"
                    .to_owned(),
            );
        }
        let secret = |data: Option<String>, file: Option<PathBuf>| match (data, file) {
            (Some(data), _) => STANDARD
                .decode(data.trim())
                .map(|bytes| Some(Secret::Inline(bytes)))
                .map_err(|error| format!("…-data: {error}")),
            (None, file) => Ok(file.map(|file| Secret::File(folder.join(file)))),
        };
        let certificate = secret(user.client_certificate_data, user.client_certificate)?;
        let key = secret(user.client_key_data, user.client_key)?;
        Ok(Self {
            address: cluster.server,
            credentials: Credentials {
                ca: secret(
                    cluster.certificate_authority_data,
                    cluster.certificate_authority,
                )?,
                // A file wins, as for kubectl: it may be renewed.
                token: user
                    .token_file
                    .map(|file| Secret::File(folder.join(file)))
                    .or_else(|| Some(Secret::Inline(user.token?.into_bytes()))),
                client: certificate.zip(key),
                server_name: cluster.tls_server_name,
                ..Credentials::default()
            },
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<NamedContext>,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: ClusterEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    tls_server_name: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    exec: Option<serde_yaml_ng::Value>,
    auth_provider: Option<serde_yaml_ng::Value>,
    username: Option<String>,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "tests")]

    use super::*;

    const CONFIG: &str = "
apiVersion: v1
kind: Config
current-context: here
contexts:
- name: there
  context: {cluster: x, user: y}
- name: here
  context: {cluster: lab, user: oomtrace, namespace: default}
clusters:
- name: lab
  cluster:
    server: https://127.0.0.1:6443
    certificate-authority-data: aGVsbG8=
users:
- name: oomtrace
  user:
    tokenFile: token
    token: old
";

    /// The current context names a server and a user; paths are beside the file; a file with the
    /// token wins over a token.
    #[test]
    fn kubeconfig() {
        let cluster = Cluster::of_text(CONFIG, Path::new("/etc/oomtrace")).expect("a cluster");
        assert_eq!(cluster.address, "https://127.0.0.1:6443");
        let Credentials {
            ca, token, client, ..
        } = cluster.credentials;
        assert!(matches!(ca, Some(Secret::Inline(bytes)) if bytes == b"hello"));
        assert!(
            matches!(token, Some(Secret::File(path)) if path == Path::new("/etc/oomtrace/token"))
        );
        assert!(client.is_none());
    }

    /// What is not supported is refused by name.
    #[test]
    fn refused() {
        for (from, to, reason) in [
            ("current-context: here", "current-context: gone", "gone"),
            ("aGVsbG8=", "a-b", "-data"),
            ("    tokenFile: token", "    exec: {command: x}", "exec"),
            (
                "    certificate-authority-data: aGVsbG8=",
                "    insecure-skip-tls-verify: true",
                "insecure",
            ),
            ("clusters:", "nothing:", "clusters"),
        ] {
            let text = CONFIG.replace(from, to);
            let error = Cluster::of_text(&text, Path::new("/")).expect_err(to);
            assert!(error.contains(reason), "{error}");
        }
    }
}
