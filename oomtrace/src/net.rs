//! Connections, with TLS or without.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::tls::{self, Credentials};

/// To connect, and to be greeted.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name that the certificate should have.
    #[error("{0:?} is no name of a host")]
    Name(String),
    /// Certificates and keys.
    #[error(transparent)]
    Credentials(#[from] tls::Error),
    /// Nobody is there, or somebody else.
    #[error("{0}")]
    Network(String),
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs())]
    Slow(Duration),
}

/// A connection that acknowledges what it reads at once. Some servers' sockets hold back what is small, as the
/// words that open HTTP/2's window, until what went before is acknowledged; Linux puts that off for 40 ms.
struct Prompt(TcpStream);

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.0).poll_read(context, buffer);
        // tcp(7): it does not last.
        let _ = self.0.set_quickack(true);
        read
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// `HOST:PORT`, with an IPv6 address in brackets.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Connects; with credentials also looks who it is.
///
/// # Errors
/// When nobody is there, or it is not who it should be.
pub async fn connect(
    host: &str,
    port: u16,
    credentials: Option<&Credentials>,
) -> Result<Box<dyn Stream>, Error> {
    let stream = timeout(PATIENCE, TcpStream::connect((host, port)))
        .await
        .map_err(|_| Error::Slow(PATIENCE))?
        .map_err(|error| Error::Network(error.to_string()))?;
    // A request is written at once, and waited for.
    let _ = stream.set_nodelay(true);
    let stream = Prompt(stream);
    match credentials {
        Some(credentials) => secure(stream, host, credentials).await,
        None => Ok(Box::new(stream)),
    }
}

/// Begins TLS over a connection, and looks who it is.
async fn secure(
    stream: Prompt,
    host: &str,
    credentials: &Credentials,
) -> Result<Box<dyn Stream>, Error> {
    let name = credentials.server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned()).map_err(|_| Error::Name(name.to_owned()))?;
    let connector = TlsConnector::from(Arc::new(credentials.tls()?));
    let stream = timeout(PATIENCE, connector.connect(name, stream))
        .await
        .map_err(|_| Error::Slow(PATIENCE))?
        .map_err(|error| Error::Network(tls::explain(&error, credentials)))?;
    Ok(Box::new(stream))
}
