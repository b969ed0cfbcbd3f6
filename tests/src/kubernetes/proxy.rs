//! Stands before a real API server, and does what a real one cannot be made to do. Bytes pass as
//! they are until a fault is set: then connections that are open end as the fault has it, and
//! requests get what it answers.
//!
//! Without a server behind it, it answers each request with a text: as much of a kubelet as one
//! list is.

use std::{path::Path, sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
    server::TlsStream,
};

/// What goes wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// No TLS is spoken.
    Plain,
    /// Requests get these bytes, and the connection ends as it should.
    Says(Vec<u8>),
    /// Requests get these bytes, and then no more: this half of the connection is closed, the other
    /// stays open. Open connections become such ones.
    HalfClosed(Vec<u8>),
    /// Connections are reset.
    Reset,
    /// Requests get these bytes, and then the letter `a` for ever.
    Floods(Vec<u8>),
}

impl Fault {
    /// An answer of this status, with this body.
    pub fn answer(status: &str, body: &str) -> Self {
        Self::Says(
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        )
    }
}

/// The head of an answer whose end nobody knows.
pub const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                             Transfer-Encoding: chunked\r\n\r\n";

/// A proxy, or a server with one answer.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    faults: watch::Sender<Fault>,
    requests: watch::Receiver<Vec<String>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a connection is served with.
#[derive(Clone)]
struct Shared {
    acceptor: TlsAcceptor,
    upstream: Option<(TlsConnector, u16)>,
    faults: watch::Receiver<Fault>,
    requests: Arc<watch::Sender<Vec<String>>>,
}

impl Proxy {
    /// One with the certificate `server.crt` of a folder. Behind it is a server on loopback whose
    /// certificate `ca.crt` has signed, or nothing.
    ///
    /// # Errors
    /// When it cannot listen, or there are no certificates.
    pub fn start(folder: &Path, upstream: Option<u16>) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let certificates = |file: &str| -> Result<Vec<CertificateDer<'static>>> {
            let path = folder.join(file);
            let all = CertificateDer::pem_file_iter(&path)?.collect::<Result<_, _>>();
            all.with_context(|| path.display().to_string())
        };
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                certificates("server.crt")?,
                PrivateKeyDer::from_pem_file(folder.join("server.key"))?,
            )?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates("ca.crt")?);
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (faults, seen) = watch::channel(Fault::None);
        let (requests, told) = watch::channel(Vec::new());
        let shared = Shared {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            upstream: upstream.map(|port| (TlsConnector::from(Arc::new(client)), port)),
            faults: seen,
            requests: Arc::new(requests),
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = TcpListener::from_std(listener) else {
                    return;
                };
                let accept = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        let shared = shared.clone();
                        tokio::spawn(async move {
                            // Connections end as they do; the other side tells what it saw.
                            let _ = shared.serve(stream).await;
                        });
                    }
                };
                tokio::select! {
                    _ = stopped => {}
                    () = accept => {}
                }
            });
        });
        Ok(Self {
            port,
            faults,
            requests: told,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Sets what goes wrong from now on; open connections feel it, too.
    pub fn fault(&self, fault: Fault) {
        self.faults.send_replace(fault);
    }

    /// The requests so far: the first line of each, and its token.
    pub fn requests(&self) -> Vec<String> {
        self.requests.borrow().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    async fn serve(mut self, mut stream: TcpStream) -> Result<()> {
        let fault = self.faults.borrow_and_update().clone();
        match fault {
            Fault::Plain => {
                stream
                    .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    .await?;
                return Ok(());
            }
            Fault::Reset => return reset(&stream),
            _ => {}
        }
        let mut stream = self.acceptor.accept(stream).await?;
        let head = request(&mut stream).await?;
        self.requests.send_modify(|all| all.push(summary(&head)));
        match (fault, &self.upstream) {
            (Fault::None, Some((connector, port))) => {
                let upstream = TcpStream::connect(("127.0.0.1", *port)).await?;
                let name = ServerName::try_from("localhost")?;
                let mut upstream = connector.connect(name, upstream).await?;
                upstream.write_all(&head).await?;
                let ended = tokio::select! {
                    _ = self.faults.changed() => false,
                    _ = copy_bidirectional(&mut stream, &mut upstream) => true,
                };
                if ended {
                    return Ok(());
                }
                let fault = self.faults.borrow_and_update().clone();
                match fault {
                    Fault::HalfClosed(_) => self.half_close(stream, b"").await,
                    Fault::Reset => reset(stream.get_ref().0),
                    _ => Ok(()),
                }
            }
            (Fault::Says(bytes), _) => {
                stream.write_all(&bytes).await?;
                Ok(stream.shutdown().await?)
            }
            (Fault::HalfClosed(bytes), _) => self.half_close(stream, &bytes).await,
            (Fault::Floods(bytes), _) => {
                stream.write_all(&bytes).await?;
                let chunk = [b"4000\r\n".as_slice(), &[b'a'; 0x4000], b"\r\n"].concat();
                while !self.faults.has_changed()? {
                    stream.write_all(&chunk).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Says nothing more and goes on listening, until the fault is another.
    async fn half_close(&mut self, mut stream: TlsStream<TcpStream>, bytes: &[u8]) -> Result<()> {
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        Ok(self.faults.changed().await?)
    }
}

/// The head of a request. None of those that are made has a body.
async fn request(stream: &mut TlsStream<TcpStream>) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer).await? {
            0 => anyhow::bail!("it ended within a request"),
            length => head.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(head)
}

fn summary(head: &[u8]) -> String {
    let head = String::from_utf8_lossy(head).into_owned();
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let token = lines.find_map(|line| line.strip_prefix("authorization: Bearer "));
    format!("{first} {}", token.unwrap_or("-"))
}

/// Lets the connection end by a reset, which is what the kernel sends when it does not linger.
fn reset(stream: &TcpStream) -> Result<()> {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    Ok(())
}
