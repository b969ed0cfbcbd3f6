//! Events to bytes. Pure functions; nothing here knows where the bytes go.

mod audit;
mod commands;
pub(crate) mod csv;
pub(crate) mod draw;
mod ecs;
mod falco;
mod json;
mod ocsf;
pub(crate) mod others;
#[cfg(feature = "http")]
mod otlp;
pub(crate) mod page;
mod pipeline;
pub(crate) mod pretty;
mod rank;

use std::io::{self, IsTerminal as _};

pub use audit::audit;
pub use json::json;
pub use others::page_of_other;
#[cfg(feature = "grpc")]
pub(crate) use otlp::retry_after as otlp_retry_after;
#[cfg(feature = "http")]
pub(crate) use otlp::{Request as OtlpRequest, Response as OtlpResponse, otlp};
pub use page::{Decision, WIDTH, page};
pub use pipeline::message;
pub use rank::{By, WIDTH as RANK_WIDTH, ranking};

use serde::{Deserialize, Serialize};

use self::{
    csv::{csv, csv_eviction, csv_header, csv_userspace_kill},
    ecs::ecs,
    falco::falco,
    ocsf::ocsf,
    pretty::pretty,
};
use crate::event::Event;

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line: every field, for programs.
    #[default]
    Json,
    /// A few aligned lines a kill, for people.
    Pretty,
    /// A table for spreadsheets, of kills, marks and evictions: docs/postmortem.md names the columns.
    Csv,
    /// Elastic Common Schema 8.11, as JSON; docs/pipelines.md has the fields of this and the next two.
    Ecs,
    /// Open Cybersecurity Schema Framework 1.5, as JSON.
    Ocsf,
    /// The shape of Falco's alerts, as JSON.
    Falco,
}

impl Format {
    /// What is used where nobody asks: people look at terminals, programs at all else.
    pub fn of(stdout: &io::Stdout) -> Self {
        if stdout.is_terminal() {
            Self::Pretty
        } else {
            Self::Json
        }
    }

    /// Appends what comes before the first event to `out`.
    pub fn begin(self, out: &mut Vec<u8>) {
        if self == Self::Csv {
            csv_header(out);
        }
    }

    /// Appends the event to `out`; nothing where the format has no place for its kind.
    pub fn write(self, event: &Event, color: bool, out: &mut Vec<u8>) {
        match self {
            Self::Json => json(event, out),
            Self::Pretty => pretty(event, color, out),
            Self::Csv => match event {
                Event::OomKill(kill) => csv("oom_kill", kill, out),
                Event::OomMark(mark) => csv("oom_mark", mark, out),
                Event::PodEviction(eviction) => csv_eviction(eviction, out),
                Event::UserspaceKill(kill) => csv_userspace_kill(kill, out),
                _ => {}
            },
            Self::Ecs => ecs(event, out),
            Self::Ocsf => ocsf(event, out),
            Self::Falco => falco(event, out),
        }
    }
}
