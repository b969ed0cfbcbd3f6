//! The kernel's own report of a kill, read from `/dev/kmsg` and parsed here from scratch.
//!
//! The parser is for the kills a test makes itself, whose victim it knows. It asserts more than it
//! forgives: what it does not find is an error, not a default.

mod memory;
mod report;

use std::{
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

use anyhow::{Context, Result, bail};

pub use memory::{MachineMemory, Zone};
pub use report::{ConstraintLine, Counter, Header, Killed, MemcgLines, Report, Row};

use crate::wait_for;

/// The kernel log from the moment it was opened.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
    /// Messages of the kernel so far, without their prefix.
    lines: Vec<Vec<u8>>,
    /// The same, as they were read.
    pub raw: Vec<u8>,
}

/// What the kernel said of one victim.
#[derive(Clone, Debug)]
pub struct Account {
    /// The report that came before; `None` where the kernel's rate limit suppressed it.
    pub report: Option<Report>,
    /// The line "Killed process …".
    pub killed: Killed,
}

impl KernelLog {
    /// Opens `/dev/kmsg` at its end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open() -> Result<Self> {
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("opening /dev/kmsg")?;
        file.seek(SeekFrom::End(0))
            .context("going to the end of /dev/kmsg")?;
        Ok(Self {
            file,
            lines: Vec::new(),
            raw: Vec::new(),
        })
    }

    /// Takes what has been logged meanwhile.
    ///
    /// # Errors
    /// When the kernel overwrote messages before they were read.
    pub fn read(&mut self) -> Result<()> {
        let mut record = vec![0; 16 << 10];
        loop {
            match self.file.read(&mut record) {
                Ok(length) => {
                    if let Some(line) = message(&record[..length]) {
                        self.lines.push(line);
                        self.raw.extend(&record[..length]);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {
                    bail!("the kernel overwrote messages before they were read")
                }
                Err(error) => return Err(error).context("reading /dev/kmsg"),
            }
        }
    }

    /// The kernel's account of a victim, by the thread id it names.
    ///
    /// # Errors
    /// When it does not come, or has an unknown shape.
    pub fn account_of(&mut self, tid: u32) -> Result<Account> {
        wait_for(
            &format!("the kernel's line \"Killed process {tid}\""),
            || {
                self.read()?;
                Ok(self
                    .accounts()?
                    .into_iter()
                    .find(|account| account.killed.pid == tid))
            },
        )
    }

    /// Whether the kernel has said something that begins like this.
    ///
    /// # Errors
    /// When messages were overwritten.
    pub fn says(&mut self, start: &str) -> Result<bool> {
        self.read()?;
        Ok(self
            .lines
            .iter()
            .any(|line| line.starts_with(start.as_bytes())))
    }

    /// All accounts so far, in order.
    ///
    /// # Errors
    /// When one has an unknown shape.
    pub fn accounts(&self) -> Result<Vec<Account>> {
        report::accounts(&self.lines)
    }
}

/// The message of a record, if the kernel itself wrote it: `PRIORITY,SEQ,TIME,FLAGS[,…];MESSAGE`,
/// where bytes that are not printable are written as `\xNN`. Lines after the first are a
/// dictionary.
fn message(record: &[u8]) -> Option<Vec<u8>> {
    let split = record.iter().position(|byte| *byte == b';')?;
    let (prefix, rest) = record.split_at(split);
    let priority: u32 = std::str::from_utf8(prefix)
        .ok()?
        .split(',')
        .next()?
        .parse()
        .ok()?;
    // What user space writes to /dev/kmsg has another facility.
    if priority >> 3 != 0 {
        return None;
    }
    let text = rest[1..].split(|byte| *byte == b'\n').next()?;
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let escaped = text
            .get(at..at + 4)
            .filter(|four| four.starts_with(b"\\x"))
            .and_then(|four| std::str::from_utf8(&four[2..]).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 4 } else { 1 };
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the kernel's own messages count, and escaped bytes come back as they were.
    #[test]
    fn messages_of_the_kernel() {
        assert_eq!(
            message(b"6,1,2,-;a\\x0ab\\xff\\x5c\n KEY=v\n"),
            Some(b"a\nb\xff\\".to_vec())
        );
        assert_eq!(message(b"4,1,2,-,caller=T1;x;y\n"), Some(b"x;y".to_vec()));
        assert_eq!(message(b"12,1,2,-;Killed process 1\n"), None);
        // The statistics of a memory cgroup on 5.10, all in one record.
        assert_eq!(
            message(b"6,381,3153319,-;anon 25006080\\x0afile 0\\x0akernel_stack 0\n"),
            Some(b"anon 25006080\nfile 0\nkernel_stack 0".to_vec())
        );
    }
}
