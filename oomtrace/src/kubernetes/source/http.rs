//! HTTPS, as little of it as the API server and the kubelet need: one GET over one connection, with
//! a token that is read again each time.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, crypto,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

/// To connect, and to be greeted.
const CONNECT: Duration = Duration::from_secs(10);
/// To begin an answer: a large cluster takes its time for a list.
const ANSWER: Duration = Duration::from_secs(60);

/// Certificates that everybody trusts, where no others are named.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none.
    #[error("{0:?} is not an address such as https://HOST:PORT")]
    Address(String),
    /// A file that is needed.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// What stands in for a file inside of a kubeconfig.
    #[error("{0}")]
    Credentials(String),
    /// No connection, or it broke.
    #[error("{0}")]
    Network(String),
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// It answered that it will not.
    #[error("it answered {status}{reason}")]
    Status {
        /// The number.
        status: u16,
        /// What that means here.
        reason: &'static str,
    },
    /// What it said makes no sense.
    #[error("{0}")]
    Answer(String),
}

/// Bytes of a file, or that stood in another one.
#[derive(Clone)]
pub enum Secret {
    /// Read whenever it is used: it may be renewed.
    File(PathBuf),
    /// As they are.
    Inline(Vec<u8>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.name())
    }
}

impl Secret {
    fn read(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::File(path) => fs::read(path).map_err(|error| file(path, error)),
            Self::Inline(bytes) => Ok(bytes.clone()),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Inline(_) => "the kubeconfig".to_owned(),
        }
    }
}

/// Who is talked to, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Certificates of those who may sign the server's; those of the system else.
    pub ca: Option<Secret>,
    /// The bearer token.
    pub token: Option<Secret>,
    /// The client's certificate, and its key.
    pub client: Option<(Secret, Secret)>,
    /// The name that the server's certificate must have, where that is not the host's.
    pub server_name: Option<String>,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Server {
    tls: bool,
    host: String,
    port: u16,
    credentials: Credentials,
}

/// A body, and the connection it comes over.
pub struct Body {
    incoming: Incoming,
    connection: JoinHandle<()>,
}

impl Drop for Body {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Server {
    /// A server at an address such as `https://10.0.0.1:6443`.
    ///
    /// # Errors
    /// When it is no such address.
    pub fn new(address: &str, credentials: Credentials) -> Result<Self, Error> {
        let wrong = || Error::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let host = uri.host().ok_or_else(wrong)?;
        Ok(Self {
            tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            credentials,
        })
    }

    /// Asks for a path; an answer other than 200 is an error.
    ///
    /// # Errors
    /// When there is no answer, or another one.
    pub async fn get(&self, path: &str) -> Result<Body, Error> {
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let stream = timeout(CONNECT, connect)
            .await
            .map_err(|_| Error::Slow(CONNECT))?
            .map_err(|error| Error::Network(error.to_string()))?;
        if !self.tls {
            return self.get_over(stream, path).await;
        }
        let name = self.credentials.server_name.as_ref().unwrap_or(&self.host);
        let name = ServerName::try_from(name.clone()).map_err(|_| Error::Address(name.clone()))?;
        let connector = TlsConnector::from(Arc::new(self.credentials.tls()?));
        let stream = timeout(CONNECT, connector.connect(name, stream))
            .await
            .map_err(|_| Error::Slow(CONNECT))?
            .map_err(|error| Error::Network(format!("TLS: {error}")))?;
        self.get_over(stream, path).await
    }

    async fn get_over<S>(&self, stream: S, path: &str) -> Result<Body, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let network = |error: hyper::Error| Error::Network(error.to_string());
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(64 << 10)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(network)?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "pods: a connection ended");
            }
        });
        let mut request = Request::get(path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(
                header::USER_AGENT,
                concat!("oomtrace/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::ACCEPT, "application/json");
        // A token goes to nobody who has not shown who he is.
        if let Some(token) = self.credentials.token.as_ref().filter(|_| self.tls) {
            let bytes = token.read()?;
            let mut value =
                header::HeaderValue::from_bytes(&[b"Bearer ", bytes.trim_ascii()].concat())
                    .map_err(|_| Error::Credentials(format!("{} holds no token", token.name())))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| Error::Answer(error.to_string()))?;
        let response = timeout(ANSWER, sender.send_request(request))
            .await
            .map_err(|_| Error::Slow(ANSWER))?
            .map_err(network)?;
        let status = response.status().as_u16();
        let body = Body {
            incoming: response.into_body(),
            connection,
        };
        match status {
            200 => Ok(body),
            _ => Err(Error::Status {
                status,
                reason: match status {
                    401 => ": the token is not accepted",
                    403 => ": not allowed; see docs/kubernetes.md for the rights it takes",
                    410 => ": Gone",
                    _ => "",
                },
            }),
        }
    }
}

impl Body {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the connection broke, or nothing came for so long.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = timeout(patience, self.incoming.frame())
                .await
                .map_err(|_| Error::Slow(patience))?;
            match frame
                .transpose()
                .map_err(|error| Error::Network(error.to_string()))?
            {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// All of a small answer.
    ///
    /// # Errors
    /// When it does not come whole, or has more than `most` bytes.
    pub async fn all(mut self, patience: Duration, most: usize) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        while let Some(piece) = self.next(patience).await? {
            if all.len() + piece.len() > most {
                return Err(Error::Answer(format!(
                    "an answer of more than {most} bytes"
                )));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

impl Credentials {
    /// Read anew for each connection: certificates are renewed while the program runs.
    fn tls(&self) -> Result<ClientConfig, Error> {
        let ca = self.ca.clone().unwrap_or(Secret::File(SYSTEM_ROOTS.into()));
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates(&ca)?);
        if added == 0 {
            return Err(Error::Credentials(format!(
                "{} holds no certificate",
                ca.name()
            )));
        }
        let failed =
            |error: tokio_rustls::rustls::Error| Error::Credentials(format!("TLS: {error}"));
        let config =
            ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(failed)?
                .with_root_certificates(roots);
        let Some((certificate, key)) = &self.client else {
            return Ok(config.with_no_client_auth());
        };
        let parsed = PrivateKeyDer::from_pem_slice(&key.read()?)
            .map_err(|_| Error::Credentials(format!("{} holds no key", key.name())))?;
        config
            .with_client_auth_cert(certificates(certificate)?, parsed)
            .map_err(failed)
    }
}

fn certificates(pem: &Secret) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(&pem.read()?)
        .collect::<Result<_, _>>()
        .map_err(|_| Error::Credentials(format!("{} holds what is no certificate", pem.name())))
}

fn file(path: &Path, error: impl ToString) -> Error {
    Error::File {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}
