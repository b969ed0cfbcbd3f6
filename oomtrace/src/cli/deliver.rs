//! `oomtrace deliver`: events that are there already, into the sinks of a configuration.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use tracing_subscriber::filter::LevelFilter;

use super::events::Count;
use crate::{
    config::{self, Config, duration},
    delivery::Delivery,
    event::Event,
    format,
};

/// How often a full queue is looked at again.
const LOOK: Duration = Duration::from_millis(1);

const AFTER_HELP: &str = "\
It fills a new receiver with what is in event logs, and tries a configuration without a kill. It
waits for sinks that are slow, and ends when all have got everything. If it is stopped before, what
it read waits on disk, and the next run delivers it first.

An agent that runs has its spools to itself: give another directory by
OOMTRACE__SPOOL__DIRECTORY.

Examples:
  oomtrace deliver --config siem.toml /var/log/oomtrace/
  oomtrace import /var/log/kern.log* | oomtrace deliver --config siem.toml

Exit status: 0 when all was delivered, 1 when not, 2 for wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Event logs, packed or not, and directories of them; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,

    /// The configuration
    #[arg(long, value_name = "FILE", default_value = config::PATH)]
    config: PathBuf,

    /// At the end, wait no longer than this for what is not delivered: 30s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    super::init_logging(LevelFilter::WARN);
    let config = Config::load(&args.config)?;
    let delivery = Delivery::start(config.sinks).context("starting the sinks")?;
    let mut bytes = Vec::new();
    let mut room = 0;
    let mut take = |event: Option<Event>, _: &[u8]| -> Result<()> {
        let Some(event) = event else {
            anstream::eprintln!("oomtrace: a record of a kind that this version does not know");
            return Ok(());
        };
        bytes.clear();
        format::json(&event, &mut bytes);
        // Nothing is to be lost: the queues are filled to a half.
        while room < bytes.len() {
            room = delivery.room().unwrap_or(0) / 2;
            // One that is too long for any queue is let through.
            if room < bytes.len() && !delivery.is_empty() {
                std::thread::sleep(LOOK);
            } else {
                room = room.max(bytes.len());
            }
        }
        room -= bytes.len();
        delivery.push(bytes.trim_ascii_end());
        Ok(())
    };
    let mut count = Count::default();
    let read = count.read(&args.files, &mut take);
    let left = delivery.close(args.timeout);
    for left in &left {
        anstream::eprintln!("oomtrace: {left}");
    }
    read?;
    if count.unreadable > 0 || !left.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
