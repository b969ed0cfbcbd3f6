//! Kills by systemd-oomd, which it tells on the system bus: the signal `Killed` of
//! `org.freedesktop.oom1.Manager`, since systemd 252.
//!
//! As much of D-Bus as one match rule takes: names, types and layout are those of the D-Bus
//! specification. The bus passes only signals of whoever owns the name `org.freedesktop.oom1`.

use std::{env, io, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::mpsc,
    time::{sleep, timeout},
};

/// Where the bus listens.
const SOCKET: &str = "/run/dbus/system_bus_socket";
/// What the bus must have answered by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon a bus that went away is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// A signal with a cgroup's path and a word is shorter.
const MOST_BYTES: usize = 16 << 10;
/// Kills that wait to be taken.
const MOST_KILLS: usize = 64;

const RULE: &str = "type='signal',sender='org.freedesktop.oom1',path='/org/freedesktop/oom1',\
                    interface='org.freedesktop.oom1.Manager',member='Killed'";

/// Types of messages.
const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
/// Fields of a message's header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A cgroup was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Killed {
    /// Its path.
    pub cgroup: String,
    /// Why: `memory-pressure`, `memory-used`.
    pub reason: String,
}

/// Listens for ever, where there is a bus; without one nothing ever wakes for it. Within a tokio
/// runtime.
pub fn listen() -> mpsc::Receiver<Killed> {
    let (sender, kills) = mpsc::channel(MOST_KILLS);
    tokio::spawn(async move {
        loop {
            match follow(&sender).await {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::debug!("systemd-oomd: there is no system bus: {error}");
                    return;
                }
                Err(error) => tracing::debug!("systemd-oomd: {error}"),
            }
            sleep(LOOK_AGAIN).await;
        }
    });
    kills
}

/// The bus of the system, or the one that the environment names.
fn socket() -> PathBuf {
    let address = env::var("DBUS_SYSTEM_BUS_ADDRESS").ok();
    let path = address.as_deref().and_then(|address| {
        let (path, _) = address.split_once(',').unwrap_or((address, ""));
        path.strip_prefix("unix:path=")
    });
    PathBuf::from(path.unwrap_or(SOCKET))
}

/// Passes on what is told until the bus closes; returns when nobody takes it any more.
async fn follow(kills: &mpsc::Sender<Killed>) -> io::Result<()> {
    let mut bus = BufReader::new(UnixStream::connect(socket()).await?);
    timeout(PATIENCE, greet(&mut bus)).await??;
    tracing::debug!("systemd-oomd: listening on the system bus");
    loop {
        let message = read(&mut bus).await?;
        if let Some(killed) = message.killed()
            && kills.send(killed).await.is_err()
        {
            return Ok(());
        }
    }
}

/// Says who this is, and what is wanted.
async fn greet(bus: &mut BufReader<UnixStream>) -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
    let hello = format!("\0AUTH EXTERNAL {uid}\r\n");
    bus.write_all(hello.as_bytes()).await?;
    let mut line = String::new();
    bus.read_line(&mut line).await?;
    if !line.starts_with("OK ") {
        return Err(io::Error::other("the bus does not let us in"));
    }
    bus.write_all(b"BEGIN\r\n").await?;
    bus.write_all(&call(1, "Hello", None)).await?;
    bus.write_all(&call(2, "AddMatch", Some(RULE))).await?;
    // Answers come in order; the bus may tell our name in between.
    for _ in 0..2 {
        loop {
            match read(bus).await?.kind {
                ANSWER => break,
                ERROR => return Err(io::Error::other("the bus refuses")),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A call of the bus itself.
fn call(serial: u32, member: &str, argument: Option<&str>) -> Vec<u8> {
    let mut fields = Vec::new();
    let mut add = |code: u8, kind: u8, value: &str| {
        pad(&mut fields, 8);
        fields.extend([code, 1, kind, 0]);
        if kind == b'g' {
            fields.push(value.len() as u8);
            fields.extend(value.bytes());
            fields.push(0);
        } else {
            put_string(&mut fields, value);
        }
    };
    add(PATH, b'o', "/org/freedesktop/DBus");
    add(INTERFACE, b's', "org.freedesktop.DBus");
    add(MEMBER, b's', member);
    add(DESTINATION, b's', "org.freedesktop.DBus");
    let mut body = Vec::new();
    if let Some(argument) = argument {
        add(SIGNATURE, b'g', "s");
        put_string(&mut body, argument);
    }
    let mut message = vec![b'l', CALL, 0, 1];
    for number in [body.len() as u32, serial, fields.len() as u32] {
        message.extend(number.to_le_bytes());
    }
    message.extend(fields);
    pad(&mut message, 8);
    message.extend(body);
    message
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    pad(bytes, 4);
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.bytes());
    bytes.push(0);
}

/// A message that came.
#[derive(Debug)]
struct Message {
    kind: u8,
    big: bool,
    fields: Vec<u8>,
    body: Vec<u8>,
}

async fn read(bus: &mut BufReader<UnixStream>) -> io::Result<Message> {
    let mut start = [0; 16];
    bus.read_exact(&mut start).await?;
    let big = match start[0] {
        b'l' => false,
        b'B' => true,
        _ => return Err(io::Error::other("what came is no message")),
    };
    let mut numbers = Reader::new(&start, big);
    numbers.at = 4;
    let (body, _, fields) = (numbers.u32(), numbers.u32(), numbers.u32());
    let length = |number: Option<u32>| usize::try_from(number.unwrap_or(u32::MAX));
    let too_long = |_| io::Error::other("a message that is too long");
    let body = length(body).map_err(too_long)?;
    let fields = length(fields).map_err(too_long)?;
    if body > MOST_BYTES || fields > MOST_BYTES {
        return Err(io::Error::other("a message that is too long"));
    }
    let mut message = Message {
        kind: start[1],
        big,
        fields: vec![0; fields.next_multiple_of(8)],
        body: vec![0; body],
    };
    bus.read_exact(&mut message.fields).await?;
    message.fields.truncate(fields);
    bus.read_exact(&mut message.body).await?;
    Ok(message)
}

impl Message {
    /// What it tells, if it is the signal.
    fn killed(&self) -> Option<Killed> {
        let (mut path, mut interface, mut member, mut signature) = (None, None, None, None);
        let mut fields = Reader::new(&self.fields, self.big);
        while fields.at < self.fields.len() {
            fields.align(8);
            let code = fields.byte()?;
            let value = match fields.signature()? {
                "s" | "o" => fields.string()?,
                "g" => fields.signature()?,
                "u" => {
                    fields.u32()?;
                    continue;
                }
                _ => return None,
            };
            match code {
                PATH => path = Some(value),
                INTERFACE => interface = Some(value),
                MEMBER => member = Some(value),
                SIGNATURE => signature = Some(value),
                // The rule is for what is told to all: what is sent to us alone may be anybody's.
                DESTINATION => return None,
                _ => {}
            }
        }
        let is_it = self.kind == SIGNAL
            && path == Some("/org/freedesktop/oom1")
            && interface == Some("org.freedesktop.oom1.Manager")
            && member == Some("Killed")
            && signature == Some("ss");
        let mut body = Reader::new(&self.body, self.big);
        is_it.then_some(())?;
        Some(Killed {
            cgroup: body.string()?.to_owned(),
            reason: body.string()?.to_owned(),
        })
    }
}

/// Reads values where they are.
struct Reader<'a> {
    bytes: &'a [u8],
    big: bool,
    at: usize,
}

impl<'a> Reader<'a> {
    const fn new(bytes: &'a [u8], big: bool) -> Self {
        Self { bytes, big, at: 0 }
    }

    const fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if self.big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    fn string(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.text(length)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = self.byte()?;
        self.text(length.into())
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        let text = std::str::from_utf8(self.take(length)?).ok();
        (self.byte()? == 0).then_some(text?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The signal as the bus passes it on.
    fn signal(interface: &str, destination: Option<&str>) -> Message {
        let mut fields = Vec::new();
        let mut add = |code: u8, kind: u8, value: &str| {
            pad(&mut fields, 8);
            fields.extend([code, 1, kind, 0]);
            put_string(&mut fields, value);
        };
        add(PATH, b'o', "/org/freedesktop/oom1");
        add(INTERFACE, b's', interface);
        add(MEMBER, b's', "Killed");
        add(7, b's', ":1.42");
        if let Some(destination) = destination {
            add(DESTINATION, b's', destination);
        }
        pad(&mut fields, 8);
        fields.extend([SIGNATURE, 1, b'g', 0, 2, b's', b's', 0]);
        let mut body = Vec::new();
        put_string(&mut body, "/system.slice/x.service");
        put_string(&mut body, "memory-pressure");
        Message {
            kind: SIGNAL,
            big: false,
            fields,
            body,
        }
    }

    /// The signal is read; another's, and one that was sent to us alone, is not.
    #[test]
    fn what_counts() {
        let killed = Killed {
            cgroup: "/system.slice/x.service".to_owned(),
            reason: "memory-pressure".to_owned(),
        };
        let manager = "org.freedesktop.oom1.Manager";
        assert_eq!(signal(manager, None).killed(), Some(killed));
        assert_eq!(signal("org.example", None).killed(), None);
        assert_eq!(signal(manager, Some(":1.7")).killed(), None);
    }

    proptest! {
        /// No message does harm.
        #[test]
        fn any_message(
            fields in prop::collection::vec(any::<u8>(), 0..200),
            body in prop::collection::vec(any::<u8>(), 0..100),
            big in any::<bool>(),
            cut in 0usize..200,
        ) {
            let _ = Message { kind: SIGNAL, big, fields, body: body.clone() }.killed();
            let mut whole = signal("org.freedesktop.oom1.Manager", None);
            whole.body = body;
            let _ = whole.killed();
            whole.fields.truncate(cut);
            let _ = whole.killed();
        }
    }
}
