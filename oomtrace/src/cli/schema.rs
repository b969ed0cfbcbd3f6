//! `oomtrace schema`: the contract, from the types that keep it.

use std::process::ExitCode;

use anyhow::Result;
use schemars::schema_for;

use crate::{audit::Audit, event::Event, rank::Ranking};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What is described
    #[arg(long, value_enum, default_value_t = Of::Events)]
    of: Of,
}

/// What has a schema.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Of {
    /// The records of `trace`.
    Events,
    /// The object of `rank`.
    Rank,
    /// The object of `audit`.
    Audit,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let schema = match args.of {
        Of::Events => schema_for!(Event),
        Of::Rank => schema_for!(Ranking),
        Of::Audit => schema_for!(Audit),
    };
    let mut text = serde_json::to_vec_pretty(&schema)?;
    text.push(b'\n');
    super::print(&text)
}
