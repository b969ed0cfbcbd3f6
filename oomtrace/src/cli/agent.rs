//! `oomtrace agent`: the same as `trace`, for years, into the sinks of a configuration.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use tracing_subscriber::filter::LevelFilter;

use super::trace::watch;
use crate::{
    config::{self, Config},
    tracer::{Destination, Options},
};

const AFTER_HELP: &str = "\
`oomtrace config example` prints a configuration to begin with; docs/delivery.md explains it. After
SIGHUP the sinks are as the file says, and nothing is lost. SIGTERM and SIGINT stop the agent; what is
not delivered by then waits on disk for the next one.

Exit status: 0 when it was stopped, 1 when it failed, 2 for wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = config::PATH)]
    config: PathBuf,

    /// Say more on standard error
    #[arg(short, long)]
    verbose: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    super::init_logging(if args.verbose {
        LevelFilter::DEBUG
    } else {
        LevelFilter::INFO
    });
    let config = Config::load(&args.config)?;
    let tracer = config.agent.tracer.clone();
    let heartbeat = tracer.heartbeat.0;
    watch(Options {
        duration: None,
        max_events: None,
        heartbeat: Some(heartbeat).filter(|period| !period.is_zero()),
        hooks: tracer.hooks.1,
        candidates: tracer.candidates.0,
        ring_bytes: tracer.ring_buffer.0,
        oom_score_adj: Some(tracer.oom_score_adj.0),
        ebpf_log: false,
        btf: tracer.btf,
        node_name: config.agent.node_name(),
        kubernetes: config.agent.kubernetes(),
        destination: Destination::Sinks {
            path: args.config,
            config: Box::new(config),
        },
    })
}
