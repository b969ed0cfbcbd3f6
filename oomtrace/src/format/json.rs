//! The native format: one object a line.

use crate::event::Event;

/// Appends the event and a newline to `out`.
pub fn json(event: &Event, out: &mut Vec<u8>) {
    let before = out.len();
    // Writing to memory cannot fail, and the types have string keys only.
    if serde_json::to_writer(&mut *out, event).is_err() {
        out.truncate(before);
        return;
    }
    out.push(b'\n');
}
