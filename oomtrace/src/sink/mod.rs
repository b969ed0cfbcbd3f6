//! Where the bytes go.

mod stdout;

pub use stdout::{QUEUE_BYTES, Stdout};
