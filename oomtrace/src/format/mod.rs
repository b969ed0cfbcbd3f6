//! Events to bytes. Pure functions; nothing here knows where the bytes go.

mod audit;
mod commands;
pub(crate) mod csv;
pub(crate) mod draw;
mod json;
pub(crate) mod others;
pub(crate) mod page;
pub(crate) mod pretty;
mod rank;

pub use audit::audit;
pub use csv::{csv, csv_eviction, csv_header, csv_userspace_kill};
pub use json::json;
pub use others::page_of_other;
pub use page::{Decision, WIDTH, page};
pub use pretty::pretty;
pub use rank::{By, WIDTH as RANK_WIDTH, ranking};

use crate::event::Event;

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line: every field, for programs.
    Json,
    /// A few aligned lines a kill, for people.
    Pretty,
}

impl Format {
    /// Appends the event to `out`.
    pub fn write(self, event: &Event, color: bool, out: &mut Vec<u8>) {
        match self {
            Self::Json => json(event, out),
            Self::Pretty => pretty(event, color, out),
        }
    }
}
