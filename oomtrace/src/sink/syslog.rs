//! Syslog: RFC 5424 over a Unix socket, UDP (RFC 5426), TCP (RFC 6587, octet counting) or TLS
//! (RFC 5425).
//!
//! Syslog has no receipts. Over TCP and TLS, records count as delivered when the receiver's kernel
//! has them all and the connection still stands; what the receiver itself loses from there on is
//! lost.

use std::{
    fmt, io,
    io::Write as _,
    net::{TcpStream, ToSocketAddrs as _, UdpSocket},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Brief, Failure, encode, parse, together};
use crate::{
    config::{Size, Time},
    delivery::Item,
    event::Event,
    format::Format,
};

/// How often it is looked whether the receiver's kernel has everything.
const LOOK: Duration = Duration::from_millis(1);

#[cfg(not(feature = "tls"))]
const WITHOUT_TLS: &str = "this program was built without the feature tls";

/// Where to send, and as what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `unix:///dev/log`, `udp://HOST:514`, `tcp://HOST:601`, `tls://HOST:6514`.
    pub address: Address,
    /// How records are written.
    #[serde(default)]
    pub format: Format,
    /// The facility.
    #[serde(default)]
    pub facility: Facility,
    /// The name of the program in the header.
    #[serde(default = "app_name")]
    pub app_name: String,
    /// The longest message that the receiver takes. Events that are longer list fewer candidates.
    #[serde(default = "max_message")]
    pub max_message: Size,
    /// How long to wait for the receiver.
    #[serde(default = "timeout")]
    pub timeout: Time,
    /// Certificates of those who may sign the receiver's; those of the system else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The name that the receiver's certificate must have, where that is not the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

fn app_name() -> String {
    "oomtrace".to_owned()
}

const fn max_message() -> Size {
    Size(8192)
}

const fn timeout() -> Time {
    Time(Duration::from_secs(10))
}

/// Where a syslog daemon listens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// Datagrams.
    Udp(String),
    /// A stream.
    Tcp(String),
    /// A stream that nobody else can read or write.
    Tls(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not an address such as unix:///dev/log, udp://HOST:514, \
                 tcp://HOST:601 or tls://HOST:6514"
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let with_port = |port: u16| {
            let bare = rest
                .rsplit_once(':')
                .is_none_or(|(_, end)| end.ends_with(']'));
            let whole = if bare {
                format!("{rest}:{port}")
            } else {
                rest.to_owned()
            };
            let (host, port) = whole.rsplit_once(':').ok_or_else(wrong)?;
            let fine = !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok();
            if fine { Ok(whole) } else { Err(wrong()) }
        };
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "udp" => Ok(Self::Udp(with_port(514)?)),
            "tcp" => Ok(Self::Tcp(with_port(601)?)),
            "tls" => Ok(Self::Tls(with_port(6514)?)),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::Udp(to) => write!(formatter, "udp://{to}"),
            Self::Tcp(to) => write!(formatter, "tcp://{to}"),
            Self::Tls(to) => write!(formatter, "tls://{to}"),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What kind of program sends (RFC 5424, 6.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Facility {
    /// The kernel's, which daemons usually do not take from others.
    Kern = 0,
    /// Users'.
    User = 1,
    /// A daemon's.
    #[default]
    Daemon = 3,
    /// Security.
    Auth = 4,
    /// The same, private.
    Authpriv = 10,
    /// Local use.
    Local0 = 16,
    /// Local use.
    Local1 = 17,
    /// Local use.
    Local2 = 18,
    /// Local use.
    Local3 = 19,
    /// Local use.
    Local4 = 20,
    /// Local use.
    Local5 = 21,
    /// Local use.
    Local6 = 22,
    /// Local use.
    Local7 = 23,
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), String> {
        together(("cert_file", &self.cert_file), ("key_file", &self.key_file))?;
        match &self.address {
            Address::Tls(_) => self.check_tls(),
            _ => Ok(()),
        }
    }

    #[cfg(feature = "tls")]
    fn check_tls(&self) -> Result<(), String> {
        let made = self.credentials().tls();
        made.map(drop).map_err(|error| error.to_string())
    }

    #[cfg(not(feature = "tls"))]
    fn check_tls(&self) -> Result<(), String> {
        Err(WITHOUT_TLS.to_owned())
    }

    #[cfg(feature = "tls")]
    fn credentials(&self) -> crate::tls::Credentials {
        crate::tls::Credentials::of_files(
            &self.ca_file,
            &self.cert_file,
            &self.key_file,
            &self.server_name,
        )
    }
}

/// What the receiver is reached by.
enum Connection {
    Unix(UnixDatagram),
    UnixStream(UnixStream),
    Udp(UdpSocket),
    Tcp(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tls::Stream>),
}

/// A syslog daemon.
pub(super) struct Sink {
    settings: Settings,
    connection: Option<Connection>,
    bytes: Vec<u8>,
}

impl Sink {
    pub(super) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            connection: None,
            bytes: Vec::new(),
        }
    }

    fn connect(&self) -> io::Result<Connection> {
        match &self.settings.address {
            Address::Unix(path) => unix(path, self.settings.timeout.0),
            Address::Udp(to) => {
                let to = resolve(to)?;
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(to)?;
                Ok(Connection::Udp(socket))
            }
            Address::Tcp(to) => Ok(Connection::Tcp(self.tcp(to)?)),
            #[cfg(feature = "tls")]
            Address::Tls(to) => {
                let stream = tls::connect(self.tcp(to)?, to, &self.settings.credentials())?;
                Ok(Connection::Tls(Box::new(stream)))
            }
            #[cfg(not(feature = "tls"))]
            Address::Tls(_) => Err(io::Error::other(WITHOUT_TLS)),
        }
    }

    fn tcp(&self, to: &str) -> io::Result<TcpStream> {
        let timeout = self.settings.timeout.0;
        let stream = TcpStream::connect_timeout(&resolve(to)?, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(stream)
    }

    /// Sends all, and waits until the receiver has it as far as can be known.
    fn send_all(&mut self, messages: &[Vec<u8>]) -> Result<(), Failure> {
        // It may have been closed while there was nothing to send.
        let kept = self.connection.take();
        let kept = kept.and_then(|mut kept| kept.stands().then_some(kept));
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().map_err(|error| self.later(&error))?,
        };
        match &mut connection {
            Connection::Unix(socket) => each(messages, |message| socket.send(message))?,
            Connection::Udp(socket) => each(messages, |message| socket.send(message))?,
            stream => {
                self.bytes.clear();
                for message in messages {
                    self.bytes
                        .extend_from_slice(format!("{} ", message.len()).as_bytes());
                    self.bytes.extend_from_slice(message);
                }
                let sent = stream
                    .write(&self.bytes)
                    .and_then(|()| stream.wait_for_receipt(self.settings.timeout.0));
                sent.map_err(|error| self.later(&error))?;
            }
        }
        self.connection = Some(connection);
        Ok(())
    }

    fn later(&self, error: &io::Error) -> Failure {
        Failure::later(format!("{}: {error}", self.settings.address))
    }

    fn message(&self, item: &Item) -> Result<Vec<u8>, Failure> {
        let brief: Brief<'_> = parse(item)?;
        let settings = &self.settings;
        let priority = settings.facility as u8 * 8 + brief.severity();
        let mut message = format!(
            "<{priority}>1 {} {} {} {} {} - ",
            brief.time.as_deref().map_or("-".into(), to_microseconds),
            word(brief.hostname(), 255),
            word(&settings.app_name, 48),
            std::process::id(),
            word(&brief.kind, 32),
        )
        .into_bytes();
        let header = message.len();
        let most = usize::try_from(settings.max_message.0).unwrap_or(usize::MAX);
        encode(settings.format, item, &mut message)?;
        trim(&mut message);
        if message.len() <= most {
            return Ok(message);
        }
        let full = message.len();
        let mut event: Event = parse(item)?;
        while shorten(&mut event) {
            message.truncate(header);
            settings.format.write(&event, false, &mut message);
            trim(&mut message);
            if message.len() <= most {
                return Ok(message);
            }
        }
        Err(Failure::Refused(format!(
            "a message of {full} bytes; max_message is {most}"
        )))
    }
}

impl super::Sink for Sink {
    fn send(&mut self, items: &[Item]) -> Result<(), Failure> {
        let messages: Result<Vec<_>, _> = items.iter().map(|item| self.message(item)).collect();
        self.send_all(&messages?)
    }

    fn rest(&mut self) {
        self.bytes = Vec::new();
    }
}

fn resolve(to: &str) -> io::Result<std::net::SocketAddr> {
    let mut addresses = to.to_socket_addrs()?;
    addresses
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no address"))
}

fn unix(path: &Path, timeout: Duration) -> io::Result<Connection> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(timeout))?;
    match socket.connect(path) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => {
            let stream = UnixStream::connect(path)?;
            stream.set_write_timeout(Some(timeout))?;
            Ok(Connection::UnixStream(stream))
        }
        connected => connected.map(|()| Connection::Unix(socket)),
    }
}

/// Datagrams, one after the other.
fn each(messages: &[Vec<u8>], send: impl Fn(&[u8]) -> io::Result<usize>) -> Result<(), Failure> {
    for message in messages {
        match send(message) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                return Err(Failure::Refused(format!(
                    "a message of {} bytes is too long for a datagram; see max_message",
                    message.len()
                )));
            }
            Err(error) => return Err(Failure::later(error)),
        }
    }
    Ok(())
}

impl Connection {
    /// Whether the receiver has not closed it.
    fn stands(&mut self) -> bool {
        match self {
            Self::Unix(_) | Self::Udp(_) => true,
            Self::UnixStream(stream) => is_open(stream.as_raw_fd()),
            Self::Tcp(stream) => is_open(stream.as_raw_fd()),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => tls::is_open(stream),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.send(bytes).map(drop),
            Self::Udp(socket) => socket.send(bytes).map(drop),
            Self::UnixStream(stream) => stream.write_all(bytes),
            Self::Tcp(stream) => stream.write_all(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Waits until the receiver's kernel has acknowledged every byte.
    fn wait_for_receipt(&mut self, timeout: Duration) -> io::Result<()> {
        let fd = match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.sock.as_raw_fd(),
            _ => return Ok(()),
        };
        let deadline = Instant::now() + timeout;
        loop {
            if !self.stands() {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionReset,
                    "the receiver closed the connection",
                ));
            }
            if unacknowledged(fd)? == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the receiver does not take what is sent",
                ));
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Whether the other end has not closed a socket. What it said is not taken.
fn is_open(fd: RawFd) -> bool {
    let mut byte = [0_u8];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the buffer is one byte long, and the descriptor is open while its owner is borrowed.
    let got = unsafe { libc::recv(fd, byte.as_mut_ptr().cast(), 1, flags) };
    got > 0 || got < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}

/// How many bytes a TCP socket has not been told of that they arrived (`SIOCOUTQ` in tcp(7)).
fn unacknowledged(fd: RawFd) -> io::Result<i32> {
    let mut bytes = 0;
    // SAFETY: this request writes one int, and the descriptor is open while its owner is borrowed.
    let done = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    if done == 0 {
        Ok(bytes)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A time as RFC 5424 allows it: with six digits of a second at most (6.2.3).
fn to_microseconds(time: &str) -> std::borrow::Cow<'_, str> {
    match time.split_once('.') {
        Some((seconds, fraction)) if fraction.len() > 7 && fraction.ends_with('Z') => {
            format!("{seconds}.{}Z", &fraction[..6]).into()
        }
        _ => time.into(),
    }
}

/// A part of the header: printable ASCII without spaces, and `-` where there is none.
fn word(text: &str, most: usize) -> String {
    let fine = |character: &char| character.is_ascii_graphic();
    let word: String = text.chars().filter(fine).take(most).collect();
    if word.is_empty() {
        "-".to_owned()
    } else {
        word
    }
}

/// Takes the newline away.
fn trim(message: &mut Vec<u8>) {
    while message.last() == Some(&b'\n') {
        message.pop();
    }
}

/// Takes away half of what a reader misses least; false when there is nothing of it left.
fn shorten(event: &mut Event) -> bool {
    let (Event::OomKill(kill) | Event::OomMark(kill)) = event else {
        return false;
    };
    if let Some(memory) = &mut kill.oom.node_memory
        && !memory.zones.is_empty()
    {
        memory.zones.clear();
        return true;
    }
    let Some(candidates) = &mut kill.candidates else {
        return false;
    };
    let left = candidates.items.len() / 2;
    let shorter = left < candidates.items.len();
    candidates.items.truncate(left);
    candidates.listed = u32::try_from(left).unwrap_or(u32::MAX);
    shorter
}

#[cfg(feature = "tls")]
mod tls {
    use std::{io, net::TcpStream, sync::Arc};

    use tokio_rustls::rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

    use crate::tls::{Credentials, explain};

    pub(super) type Stream = StreamOwned<ClientConnection, TcpStream>;

    /// Greets the receiver, and looks who it is.
    pub(super) fn connect(
        mut stream: TcpStream,
        to: &str,
        credentials: &Credentials,
    ) -> io::Result<Stream> {
        let host = to.rsplit_once(':').map_or(to, |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        let name = credentials
            .server_name
            .as_deref()
            .unwrap_or(host)
            .to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let config = Arc::new(credentials.tls().map_err(io::Error::other)?);
        let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection
                .complete_io(&mut stream)
                .map_err(|error| io::Error::other(explain(&error, credentials)))?;
        }
        Ok(StreamOwned::new(connection, stream))
    }

    /// Whether the receiver has not said goodbye.
    pub(super) fn is_open(stream: &mut Stream) -> bool {
        if stream.sock.set_nonblocking(true).is_err() {
            return false;
        }
        let open = loop {
            match stream.conn.read_tls(&mut stream.sock) {
                Ok(0) => break false,
                Ok(_) => match stream.conn.process_new_packets() {
                    Ok(state) if !state.peer_has_closed() => {}
                    _ => break false,
                },
                Err(error) => break error.kind() == io::ErrorKind::WouldBlock,
            }
        };
        open && stream.sock.set_nonblocking(false).is_ok()
    }
}
