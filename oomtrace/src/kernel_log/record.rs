//! One record of `/dev/kmsg`.

use super::{bytes::Cursor, parser::Line};

/// The context that printed a record (`caller=` with `CONFIG_PRINTK_CALLER`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A task, by thread id (`T123`).
    Thread(u32),
    /// An interrupt on this CPU (`C1`).
    Cpu(u32),
}

/// Why bytes are not a `/dev/kmsg` record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No `;` ends the header.
    #[error("kernel log record without a `;` after its header")]
    NoHeader,
    /// A header field is not the number it must be.
    #[error("kernel log record with an unreadable {0} in its header")]
    Field(&'static str),
}

/// One record as read from `/dev/kmsg`: `<prio>,<seq>,<usec>,<flag>[,caller=…];<text>`, then
/// ` KEY=value` lines, which are left out here (`info_print_ext_header` and `msg_print_ext_body` in
/// kernel/printk/printk.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KmsgRecord<'a> {
    /// syslog severity, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// syslog facility. 0 is the kernel; what user space writes to `/dev/kmsg` is always 1 or more
    /// (`devkmsg_write` in kernel/printk/printk.c).
    pub facility: u32,
    /// Sequence number of the record since boot.
    pub seq: u64,
    /// Microseconds since boot on the log's clock (`local_clock`).
    pub time_usec: u64,
    /// The record continues the line of an earlier one (flag `c`, `LOG_CONT`).
    pub continued: bool,
    /// Who printed it, where the kernel says so.
    pub caller: Option<Caller>,
    /// The text as read, with `\xNN` for backslash, control and non-ASCII bytes.
    pub escaped_text: &'a [u8],
}

impl<'a> KmsgRecord<'a> {
    /// Reads one record: what one `read` of `/dev/kmsg` returned.
    ///
    /// # Errors
    /// [`RecordError`] when the header is not that of a record. Header fields that are not known
    /// are skipped: the kernel may add some.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let broken = |name| match memchr::memchr(b';', bytes) {
            Some(_) => RecordError::Field(name),
            None => RecordError::NoHeader,
        };
        let mut c = Cursor(bytes);
        let prio = field(&mut c).and_then(|prio| u32::try_from(prio).ok());
        let prio = prio.ok_or_else(|| broken("priority"))?;
        let seq = field(&mut c).ok_or_else(|| broken("sequence number"))?;
        let time_usec = field(&mut c).ok_or_else(|| broken("time"))?;
        let rest = c.until(b";").ok_or(RecordError::NoHeader)?;
        let mut fields = rest.split(|&b| b == b',');
        let continued = fields.next() == Some(b"c");
        let caller = fields
            .find_map(|f| f.strip_prefix(b"caller="))
            .and_then(caller);
        let body = c.0;
        let text_end = memchr::memchr(b'\n', body).unwrap_or(body.len());
        Ok(Self {
            level: (prio & 7) as u8,
            facility: prio >> 3,
            seq,
            time_usec,
            continued,
            caller,
            escaped_text: &body[..text_end],
        })
    }

    /// The message as the kernel printed it. `scratch` is used only if something is escaped.
    pub fn text<'s>(&self, scratch: &'s mut Vec<u8>) -> &'s [u8]
    where
        'a: 's,
    {
        let Some(mut at) = memchr::memchr(b'\\', self.escaped_text) else {
            return self.escaped_text;
        };
        scratch.clear();
        let mut rest = self.escaped_text;
        loop {
            scratch.extend_from_slice(&rest[..at]);
            let escape = &rest[at..];
            if let [b'\\', b'x', high, low, ..] = escape
                && let (Some(high), Some(low)) = (hex(*high), hex(*low))
            {
                scratch.push(high << 4 | low);
                rest = &escape[4..];
            } else {
                scratch.push(b'\\');
                rest = &escape[1..];
            }
            match memchr::memchr(b'\\', rest) {
                Some(next) => at = next,
                None => break,
            }
        }
        scratch.extend_from_slice(rest);
        scratch
    }

    /// The record as a line for [`Parser`](super::Parser), or `None` when user space wrote it:
    /// anybody who may write to `/dev/kmsg` could imitate a report.
    pub fn kernel_line<'s>(&self, scratch: &'s mut Vec<u8>) -> Option<Line<'s>>
    where
        'a: 's,
    {
        (self.facility == 0).then(|| Line {
            time_usec: Some(self.time_usec),
            seq: Some(self.seq),
            caller: self.caller,
            continued: self.continued,
            text: self.text(scratch),
        })
    }
}

/// A number of the header, and the comma behind it if there is one.
fn field(c: &mut Cursor<'_>) -> Option<u64> {
    let value = c.unsigned()?;
    (c.tag(b",").is_some() || c.0.starts_with(b";")).then_some(value)
}

fn caller(value: &[u8]) -> Option<Caller> {
    let (kind, id) = value.split_first()?;
    let mut c = Cursor(id);
    let id = u32::try_from(c.unsigned()?)
        .ok()
        .filter(|_| c.0.is_empty())?;
    match kind {
        b'T' => Some(Caller::Thread(id)),
        b'C' => Some(Caller::Cpu(id)),
        _ => None,
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|d| d as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header fields, dictionary lines and unknown header fields.
    #[test]
    fn header() {
        let record = KmsgRecord::parse(
            b"12,345,6789,c,caller=T42,new=1;a\\x0ab\\x5cx41\\q\\x4\n SUBSYSTEM=pci\n",
        )
        .unwrap();
        assert_eq!((record.level, record.facility), (4, 1));
        assert_eq!((record.seq, record.time_usec), (345, 6789));
        assert!(record.continued);
        assert_eq!(record.caller, Some(Caller::Thread(42)));
        let mut scratch = Vec::new();
        assert_eq!(record.text(&mut scratch), b"a\nb\\x41\\q\\x4");
    }

    /// An escaped backslash does not start a second escape.
    #[test]
    fn escape_is_decoded_once() {
        let record = KmsgRecord::parse(b"6,1,1,-,caller=C3;\\x5cx0a\\xff").unwrap();
        assert_eq!(record.caller, Some(Caller::Cpu(3)));
        assert_eq!(record.text(&mut Vec::new()), b"\\x0a\xff");
    }

    /// Only facility 0 becomes a line.
    #[test]
    fn user_space_records_are_not_lines() {
        let mut scratch = Vec::new();
        let user = KmsgRecord::parse(b"12,1,1,-;oom-kill:constraint=CONSTRAINT_NONE\n").unwrap();
        assert_eq!(user.kernel_line(&mut scratch), None);
        let kernel = KmsgRecord::parse(b"7,1,1,-;x\n").unwrap();
        assert_eq!(kernel.kernel_line(&mut scratch).unwrap().text, b"x");
    }

    /// What is not a record is an error that names the field.
    #[test]
    fn broken_headers() {
        assert_eq!(KmsgRecord::parse(b"no header"), Err(RecordError::NoHeader));
        assert_eq!(
            KmsgRecord::parse(b";x"),
            Err(RecordError::Field("priority"))
        );
        assert_eq!(
            KmsgRecord::parse(b"6;x"),
            Err(RecordError::Field("sequence number"))
        );
        assert_eq!(
            KmsgRecord::parse(b"6,1,-5;x"),
            Err(RecordError::Field("time"))
        );
    }
}
