//! `oomtrace config`: the agent's configuration, looked at.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Subcommand;

use crate::config::{self, Config};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Tell whether it is right, and what is wrong, with its line
    Check {
        /// The configuration
        #[arg(value_name = "FILE", default_value = config::PATH)]
        file: PathBuf,
    },
    /// Print what holds: with defaults, with the environment, without secrets
    Show {
        /// The configuration
        #[arg(value_name = "FILE", default_value = config::PATH)]
        file: PathBuf,
    },
    /// Print a configuration to begin with
    Example,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Example => super::print(config::EXAMPLE.as_bytes()),
        What::Show { file } => super::print(Config::load(file)?.show()?.as_bytes()),
        What::Check { file } => {
            let config = Config::load(file)?;
            let mut wrong = 0;
            for sink in &config.sinks {
                if let Err(reason) = sink.target.check() {
                    anstream::eprintln!("oomtrace: sink {}: {reason}", sink.name);
                    wrong += 1;
                }
            }
            if wrong > 0 {
                return Ok(ExitCode::FAILURE);
            }
            let names: Vec<_> = config.sinks.iter().map(|sink| &*sink.name).collect();
            super::print(format!("right; sinks: {}\n", names.join(", ")).as_bytes())
        }
    }
}
