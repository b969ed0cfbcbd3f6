//! systemd's journal, in its own protocol: a datagram of fields, or a sealed file of them where they
//! are too many.

use std::{
    fs::File,
    io::{self, IoSlice, Write as _},
    mem::MaybeUninit,
    os::{fd::AsFd as _, unix::net::UnixDatagram},
    path::PathBuf,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr},
};
use serde::{Deserialize, Serialize};

use super::{Brief, Failure, encode, parse};
use crate::{
    delivery::Item,
    format::{self, Format},
};

/// Where the journal listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The journal's socket.
    pub socket: PathBuf,
    /// How records are written, in the field `OOMTRACE_RECORD`.
    pub format: Format,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: "/run/systemd/journal/socket".into(),
            format: Format::default(),
        }
    }
}

/// The journal.
pub(super) struct Sink {
    settings: Settings,
    socket: Option<UnixDatagram>,
}

impl Sink {
    pub(super) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            socket: None,
        }
    }

    fn entry(&self, item: &Item) -> Result<Vec<u8>, Failure> {
        let brief: Brief<'_> = parse(item)?;
        let mut record = Vec::new();
        encode(self.settings.format, item, &mut record)?;
        let mut entry = Vec::with_capacity(record.len() + 512);
        let message = format::message(&parse(item)?);
        field(&mut entry, "MESSAGE", message.as_bytes());
        field(
            &mut entry,
            "PRIORITY",
            brief.severity().to_string().as_bytes(),
        );
        field(&mut entry, "SYSLOG_IDENTIFIER", b"oomtrace");
        field(&mut entry, "OOMTRACE_KIND", brief.kind.as_bytes());
        field(&mut entry, "OOMTRACE_EVENT_ID", brief.event_id.as_bytes());
        field(&mut entry, "OOMTRACE_RECORD", record.trim_ascii_end());
        Ok(entry)
    }

    fn write(&mut self, entry: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => UnixDatagram::unbound()?,
        };
        match socket.send_to(entry, &self.settings.socket) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                self.write_as_file(&socket, entry)?;
            }
            sent => {
                sent?;
            }
        }
        self.socket = Some(socket);
        Ok(())
    }

    fn write_as_file(&self, socket: &UnixDatagram, entry: &[u8]) -> io::Result<()> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("oomtrace", flags)?);
        file.write_all(entry)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        let descriptors = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        message.push(SendAncillaryMessage::ScmRights(&descriptors));
        let address = SocketAddrUnix::new(&self.settings.socket)?;
        let nothing = [IoSlice::new(&[])];
        sendmsg_addr(socket, &address, &nothing, &mut message, SendFlags::empty())?;
        Ok(())
    }
}

impl super::Sink for Sink {
    fn send(&mut self, items: &[Item]) -> Result<(), Failure> {
        for item in items {
            let entry = self.entry(item)?;
            self.write(&entry).map_err(|error| {
                Failure::later(format!("{}: {error}", self.settings.socket.display()))
            })?;
        }
        Ok(())
    }
}

fn field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value);
    entry.push(b'\n');
}
