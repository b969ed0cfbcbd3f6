//! Standard output, which may be slow, or gone.
//!
//! A pipe or a terminal whose reader does not read must not stop the tracer from seeing signals,
//! so it is written without blocking, through a bounded queue. When the queue is full the tracer
//! stops taking records; the ring buffer then fills, and what does not fit is counted there.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
};

use bytes::{Buf, BytesMut};
use rustix::fs::OFlags;
use tokio::io::{Interest, unix::AsyncFd};

/// The queue in front of standard output takes no more than this.
pub const QUEUE_BYTES: usize = 1 << 20;

/// How the descriptor is written.
enum Target {
    /// Reopened so that it does not block.
    Polled(AsyncFd<File>),
    /// A file: the system takes the bytes at once.
    Blocking(File),
}

/// Standard output.
pub struct Stdout {
    target: Target,
    queue: BytesMut,
}

impl Stdout {
    /// Takes over standard output. Within a tokio runtime.
    ///
    /// # Errors
    /// When it is closed, or cannot be polled.
    pub fn new() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let kind = file.metadata()?.file_type();
        let pollable = kind.is_fifo() || io::stdout().is_terminal();
        // Setting O_NONBLOCK on the descriptor itself would change it for everybody who shares
        // it, the shell included; opened anew it is ours alone.
        let reopened = pollable.then(|| {
            OpenOptions::new()
                .write(true)
                .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
                .open("/proc/self/fd/1")
        });
        let target = match reopened {
            Some(Ok(file)) => {
                // SAFETY: the file is open until it is dropped together with its registration.
                let file = unsafe { AsyncFd::register_with_interest(file, Interest::WRITABLE) };
                Target::Polled(file.map_err(io::Error::from)?)
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "standard output cannot be opened anew; it may block");
                Target::Blocking(file)
            }
            None => Target::Blocking(file),
        };
        Ok(Self {
            target,
            queue: BytesMut::new(),
        })
    }

    /// Where to append what is to be written.
    pub const fn queue(&mut self) -> &mut BytesMut {
        &mut self.queue
    }

    /// Whether anything waits to be written.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether there is room for more.
    pub fn has_room(&self) -> bool {
        self.queue.len() < QUEUE_BYTES
    }

    /// Writes what can be written now.
    ///
    /// # Errors
    /// Those of the system; [`io::ErrorKind::BrokenPipe`] when the reader has gone.
    pub fn flush_some(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let written = match &mut self.target {
                Target::Polled(file) => file.get_ref().write(&self.queue),
                Target::Blocking(file) => file.write(&self.queue),
            };
            match written {
                Ok(written) => self.queue.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // A long queue is not kept once it is written.
        if self.queue.capacity() > QUEUE_BYTES / 8 {
            self.queue = BytesMut::new();
        }
        Ok(())
    }

    /// Waits until more can be written, and writes it.
    ///
    /// # Errors
    /// As [`Stdout::flush_some`].
    pub async fn flush_when_writable(&mut self) -> io::Result<()> {
        if let Target::Polled(file) = &mut self.target {
            file.writable().await?.clear_ready();
        }
        self.flush_some()
    }
}
