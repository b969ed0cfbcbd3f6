//! The native format: one object a line.

use bytes::{BufMut, BytesMut};

use crate::event::Event;

/// Appends the event and a newline to `out`.
pub fn json(event: &Event, out: &mut BytesMut) {
    let before = out.len();
    // Writing to memory cannot fail, and the types have string keys only.
    if serde_json::to_writer(out.writer(), event).is_err() {
        out.truncate(before);
        return;
    }
    out.put_u8(b'\n');
}
