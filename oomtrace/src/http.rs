//! HTTP and HTTPS, as little of it as is needed: a connection, one request after the other, with
//! credentials that are read again for each.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderMap, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    net::{self, Stream},
    tls::{self, Credentials},
};

/// To begin an answer: a large cluster takes its time for a list.
const ANSWER: Duration = Duration::from_secs(60);

/// What fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none.
    #[error("{0:?} is not an address such as https://HOST:PORT")]
    Address(String),
    /// Certificates, keys and tokens.
    #[error(transparent)]
    Credentials(#[from] tls::Error),
    /// No connection.
    #[error(transparent)]
    Connection(#[from] net::Error),
    /// It broke.
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
    _connection: Connection,
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
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        // A token goes to nobody who has not shown who he is.
        if let Some(token) = self.credentials.token.as_ref().filter(|_| self.tls) {
            let bytes = [b"Bearer ", token.read()?.trim_ascii()].concat();
            headers.insert(header::AUTHORIZATION, sensitive(&bytes, &token.name())?);
        }
        let mut connection = self.connect().await?;
        let request = connection.request(Method::GET, path, headers, Bytes::new())?;
        let (status, _, incoming) = connection.send(request, ANSWER).await?;
        match status.as_u16() {
            200 => Ok(Body {
                incoming,
                _connection: connection,
            }),
            status => Err(Error::Status {
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

    /// Connects.
    ///
    /// # Errors
    /// When nobody is there, or it is not who it should be.
    pub async fn connect(&self) -> Result<Connection, Error> {
        let credentials = self.tls.then_some(&self.credentials);
        let stream = net::connect(&self.host, self.port, credentials).await?;
        self.greet(stream).await
    }

    async fn greet(&self, stream: Box<dyn Stream>) -> Result<Connection, Error> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(64 << 10)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(network)?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "http: a connection ended");
            }
        });
        let host = net::authority(&self.host, self.port);
        Ok(Connection { host, sender, task })
    }
}

/// A connection to a server.
pub struct Connection {
    host: String,
    sender: http1::SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// A request for this server.
    ///
    /// # Errors
    /// When the path is none.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| Error::Address(path.to_owned()))?;
        *request.headers_mut() = headers;
        let host = HeaderValue::from_str(&self.host);
        let host = host.map_err(|_| Error::Address(self.host.clone()))?;
        let agent = concat!("oomtrace/", env!("CARGO_PKG_VERSION"));
        request.headers_mut().insert(header::HOST, host);
        request
            .headers_mut()
            .insert(header::USER_AGENT, HeaderValue::from_static(agent));
        Ok(request)
    }

    /// Sends it and waits for the beginning of the answer.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<(StatusCode, HeaderMap, Incoming), Error> {
        let answer = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let response = timeout(patience, answer)
            .await
            .map_err(|_| Error::Slow(patience))?
            .map_err(network)?;
        let (head, body) = response.into_parts();
        Ok((head.status, head.headers, body))
    }
}

/// A header that is not shown.
///
/// # Errors
/// When the bytes are none; `source` names where they stand.
pub fn sensitive(bytes: &[u8], source: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_bytes(bytes)
        .map_err(|_| tls::Error::Credentials(format!("{source} holds no token")))?;
    value.set_sensitive(true);
    Ok(value)
}

fn network(error: hyper::Error) -> Error {
    let cause = std::error::Error::source(&error);
    Error::Network(match cause {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
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
