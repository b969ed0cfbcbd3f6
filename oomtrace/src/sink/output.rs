//! Standard output, which may be slow, or gone.
//!
//! A pipe or a terminal whose reader does not read must not stop the tracer from seeing signals,
//! so it is written without blocking, through a bounded queue. When the queue is full the tracer
//! stops taking records; the ring buffer then fills, and what does not fit is counted there.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::{
        fd::{AsFd, AsRawFd},
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
        Self::over(File::from(io::stdout().as_fd().try_clone_to_owned()?))
    }

    fn over(file: File) -> io::Result<Self> {
        let pollable = file.metadata()?.file_type().is_fifo() || file.is_terminal();
        // Setting O_NONBLOCK on the descriptor itself would change it for everybody who shares
        // it, the shell included; opened anew it is ours alone.
        let reopened = pollable.then(|| {
            OpenOptions::new()
                .write(true)
                .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
                .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
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

    /// Queues bytes to be written.
    pub fn push(&mut self, bytes: &[u8]) {
        self.queue.extend_from_slice(bytes);
    }

    /// How many bytes wait to be written.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits to be written.
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
        match &self.target {
            Target::Polled(file) => write_some(file.get_ref(), &mut self.queue),
            Target::Blocking(file) => write_some(file, &mut self.queue),
        }
        .map(drop)
    }

    /// Waits until more can be written, and writes it.
    ///
    /// # Errors
    /// As [`Stdout::flush_some`].
    pub async fn flush_when_writable(&mut self) -> io::Result<()> {
        match &self.target {
            Target::Polled(file) => {
                let mut ready = file.writable().await?;
                // The system tells of a pipe that has room only once it was full: that there is
                // room may be forgotten only when there is none.
                if !write_some(file.get_ref(), &mut self.queue)? {
                    ready.clear_ready();
                }
            }
            Target::Blocking(file) => {
                write_some(file, &mut self.queue)?;
            }
        }
        Ok(())
    }
}

/// Writes what can be written now; false when there was no room for all.
fn write_some(mut file: &File, queue: &mut BytesMut) -> io::Result<bool> {
    while !queue.is_empty() {
        match file.write(queue) {
            Ok(written) => queue.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // A long queue is not kept once it is written.
    if queue.capacity() > QUEUE_BYTES / 8 {
        *queue = BytesMut::new();
    }
    Ok(true)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{io::Read, os::fd::OwnedFd, time::Duration};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    /// A pipe that was full and then emptied takes what comes later, too: that it has room is told
    /// once, and must not be forgotten.
    #[test]
    fn room_is_not_forgotten() {
        let (mut reader, writer) = io::pipe().unwrap();
        runtime().block_on(async {
            let mut output = Stdout::over(File::from(OwnedFd::from(writer))).unwrap();
            let much = vec![b'x'; QUEUE_BYTES];
            output.push(&much);
            output.flush_some().unwrap();
            assert!(!output.is_idle(), "the pipe holds it all");
            let thread = std::thread::spawn(move || {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).unwrap();
                bytes.len()
            });
            let soon = Duration::from_secs(60);
            for _ in 0..3 {
                while !output.is_idle() {
                    tokio::time::timeout(soon, output.flush_when_writable())
                        .await
                        .unwrap()
                        .unwrap();
                }
                output.push(b"later");
            }
            output.flush_some().unwrap();
            drop(output);
            assert_eq!(thread.join().unwrap(), QUEUE_BYTES + 15);
        });
    }

    /// A reader that has gone is told as such.
    #[test]
    fn closed_pipe() {
        let (reader, writer) = io::pipe().unwrap();
        runtime().block_on(async {
            let mut output = Stdout::over(File::from(OwnedFd::from(writer))).unwrap();
            drop(reader);
            output.push(b"x");
            let error = output.flush_some().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        });
    }
}
