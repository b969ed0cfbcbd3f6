//! `/dev/kmsg`, read as it grows.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::record::{KmsgRecord, RecordError};

/// A buffer of this size holds any record (`CONSOLE_EXT_LOG_MAX`, kernel/printk/printk.c; less from
/// 6.4 on). The kernel drops a record that does not fit the buffer of a `read`.
pub const BUFFER_BYTES: usize = 8192;

/// `O_NONBLOCK` of include/uapi/asm-generic/fcntl.h: x86, arm, riscv, powerpc, s390 and loongarch.
const O_NONBLOCK: i32 = 0o4000;
/// `EPIPE` of include/uapi/asm-generic/errno-base.h: records were overwritten before they were read.
const EPIPE: i32 = 32;

/// One thing read from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A record.
    Record(KmsgRecord<'a>),
    /// Records before the next one were lost; how many, unless none was read before.
    Gap {
        /// Records lost.
        missing: Option<u64>,
    },
    /// Bytes that are no record.
    Invalid(RecordError),
}

/// Reads `/dev/kmsg` from where the log ended when it was opened. For polling, the descriptor is
/// readable when records wait.
#[derive(Debug)]
pub struct KmsgReader<F = File> {
    file: F,
    next_seq: Option<u64>,
    overrun: bool,
}

impl KmsgReader {
    /// Opens `/dev/kmsg` at its end.
    ///
    /// # Errors
    /// That of the system. `EPERM` without `CAP_SYSLOG` where `kernel.dmesg_restrict` is set.
    pub fn open() -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(O_NONBLOCK)
            .open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self::new(file))
    }
}

impl<F: Read> KmsgReader<F> {
    fn new(file: F) -> Self {
        Self {
            file,
            next_seq: None,
            overrun: false,
        }
    }

    /// Hands `f` every record there is now, in order, and a gap where some were lost.
    ///
    /// # Errors
    /// Those of `read`; `InvalidInput` if `buffer` is smaller than [`BUFFER_BYTES`].
    pub fn read_available(
        &mut self,
        buffer: &mut [u8],
        mut f: impl FnMut(Entry<'_>),
    ) -> io::Result<()> {
        if buffer.len() < BUFFER_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a /dev/kmsg buffer needs {BUFFER_BYTES} bytes, not {}",
                    buffer.len()
                ),
            ));
        }
        loop {
            let len = match self.file.read(buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // The next read returns the oldest record left; its number tells the loss.
                Err(e) if e.raw_os_error() == Some(EPIPE) => {
                    self.overrun = true;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let record = match KmsgRecord::parse(&buffer[..len]) {
                Ok(record) => record,
                Err(e) => {
                    f(Entry::Invalid(e));
                    continue;
                }
            };
            let missing = self.next_seq.map(|next| record.seq.saturating_sub(next));
            if std::mem::take(&mut self.overrun) || missing.is_some_and(|n| n > 0) {
                f(Entry::Gap { missing });
            }
            self.next_seq = Some(record.seq.saturating_add(1));
            f(Entry::Record(record));
        }
    }
}

impl<F: AsFd> AsFd for KmsgReader<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<F: AsRawFd> AsRawFd for KmsgReader<F> {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers reads like `/dev/kmsg`: one record or one error each.
    struct Script(std::vec::IntoIter<Result<&'static str, i32>>);

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            const EAGAIN: i32 = 11;
            let text = self
                .0
                .next()
                .unwrap_or(Err(EAGAIN))
                .map_err(io::Error::from_raw_os_error)?;
            buffer[..text.len()].copy_from_slice(text.as_bytes());
            Ok(text.len())
        }
    }

    /// Lost records are counted by sequence number, with and without a record read before.
    #[test]
    fn gaps() {
        let script = vec![
            Err(EPIPE),
            Ok("6,5,1,-;a\n"),
            Ok("6,6,1,-;b\n"),
            Ok("junk"),
            Err(EPIPE),
            Ok("6,10,1,-;c\n"),
            Ok("6,12,1,-;d\n"),
        ];
        let mut reader = KmsgReader::new(Script(script.into_iter()));
        let mut seen = Vec::new();
        reader
            .read_available(&mut [0; BUFFER_BYTES], |entry| {
                seen.push(match entry {
                    Entry::Record(r) => String::from_utf8(r.escaped_text.to_vec()).unwrap(),
                    Entry::Gap { missing } => format!("{missing:?}"),
                    Entry::Invalid(e) => format!("{e:?}"),
                });
            })
            .unwrap();
        assert_eq!(
            seen,
            ["None", "a", "b", "NoHeader", "Some(3)", "c", "Some(1)", "d"]
        );
    }

    /// A buffer that could lose records is refused; other errors are passed on.
    #[test]
    fn errors() {
        let mut reader = KmsgReader::new(Script(vec![Err(5)].into_iter()));
        let error = reader.read_available(&mut [0; 100], |_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = reader
            .read_available(&mut [0; BUFFER_BYTES], |_| ())
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
    }
}
