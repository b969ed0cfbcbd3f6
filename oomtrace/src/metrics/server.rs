//! As much of an HTTP server as Prometheus and a kubelet ask of one.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use super::Metrics;
use crate::process::thread;

/// Nobody takes longer to ask, or to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// No request is longer.
const MOST_BYTES: usize = 8 << 10;

/// Answers for as long as the program runs: one after the other, for askers are few.
pub(super) fn start(listen: SocketAddr, metrics: Arc<Metrics>) -> io::Result<()> {
    let listener = TcpListener::bind(listen)
        .map_err(|error| io::Error::new(error.kind(), format!("{listen}: {error}")))?;
    thread("oomtrace-metrics", move || {
        for stream in listener.incoming() {
            let answered = stream.and_then(|stream| answer(stream, &metrics));
            if let Err(error) = answered {
                tracing::debug!(%error, "metrics: a request was not answered");
                // Where there are no descriptors left, there will be none at once.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    })?;
    Ok(())
}

fn answer(mut stream: TcpStream, metrics: &Metrics) -> io::Result<()> {
    let request = read(&mut stream)?;
    let (status, body) = respond(&request, metrics);
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes())
}

/// The head of a request; no more is asked for.
fn read(stream: &mut TcpStream) -> io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut some = [0; 1024];
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || bytes.len() > MOST_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut some)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&some[..count]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn respond(request: &str, metrics: &Metrics) -> (&'static str, String) {
    let mut words = request.split_ascii_whitespace();
    if words.next() != Some("GET") {
        return ("405 Method Not Allowed", "only GET\n".to_owned());
    }
    let path = words.next().unwrap_or_default();
    let well = |trouble: Option<String>| match trouble {
        None => ("200 OK", "ok\n".to_owned()),
        Some(why) => ("503 Service Unavailable", why),
    };
    match path.split_once('?').map_or(path, |(path, _)| path) {
        "/metrics" => ("200 OK", metrics.text()),
        "/healthz" => well(metrics.not_alive()),
        "/readyz" => well(metrics.not_ready()),
        _ => (
            "404 Not Found",
            "there are /metrics, /healthz and /readyz\n".to_owned(),
        ),
    }
}
