//! `oomtrace schema`: the contract, from the types that keep it.

use std::process::ExitCode;

use anyhow::Result;

use crate::event::Event;

pub(super) fn run() -> Result<ExitCode> {
    let schema = schemars::schema_for!(Event);
    let mut text = serde_json::to_vec_pretty(&schema)?;
    text.push(b'\n');
    super::print(&text)
}
