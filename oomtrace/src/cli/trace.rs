//! `oomtrace trace`: the main job.

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::ArgAction;
use tracing_subscriber::filter::LevelFilter;

use super::Color;
use crate::{
    config::{duration, ring_bytes},
    format::Format,
    host::Host,
    probe::HookSet,
    tracer::{Destination, Options, Tracer},
};

/// What `--help` says below the options.
const AFTER_HELP: &str = "\
Examples:
  oomtrace trace                              watch; stop with Ctrl-C
  oomtrace trace --format json > kills.jsonl  keep an event log
  oomtrace trace --duration 10m --max-events 1
  oomtrace trace --format json | jq 'select(.kind == \"oom_kill\") | .victim.comm'

It takes root, or CAP_BPF and CAP_PERFMON, and CAP_SYSLOG for the kernel log. Once attached it
drops all of them. Records go to standard output, everything else to standard error.

Exit status: 0 when it was stopped or its reader has gone, 1 when it failed, 2 for wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// How records are written [default: pretty on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// When to use colours in the pretty format
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    color: Color,

    /// Stop after this long: 30s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,

    /// Stop after this many kills
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_events: Option<u64>,

    /// Write a status record this often; 0 for never
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    heartbeat: Duration,

    /// How many candidates an event lists, or `all` that were recorded
    #[arg(long, value_name = "N", default_value = "10", value_parser = candidates)]
    candidates: usize,

    /// The tracer's own oom_score_adj: the OOM killer takes others first. Where it may not be set
    /// there is a warning
    #[arg(long, value_name = "ADJ", default_value_t = -999, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    oom_score_adj: i32,

    /// Size of the ring buffer between kernel and tracer, in KiB; a power of two
    #[arg(long, value_name = "KIB", default_value_t = 512, value_parser = ring_kib)]
    ring_buffer: u32,

    /// Use only these groups of hooks, comma-separated: raw_tp (always on), fentry, kprobe,
    /// candidates, outcome, kmsg. To see what a lesser kernel would tell
    #[arg(long, value_name = "LIST", default_value = "all")]
    hooks: HookSet,

    /// Read the kernel's BTF from this file, for a kernel that does not show its own. It is
    /// compared with the running kernel before anything is believed
    #[arg(long, value_name = "FILE")]
    btf: Option<PathBuf>,

    #[command(flatten)]
    kubernetes: super::kubernetes::Args,

    /// Say nothing on standard error but errors
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,

    /// Say more on standard error; twice, and the programs in the kernel log, too
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    super::init_logging(match (args.quiet, args.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    });
    let stdout = io::stdout();
    let format = args.format.unwrap_or_else(|| Format::of(&stdout));
    let color = args.color.on(&stdout);
    let options = Options {
        destination: Destination::Stdout { format, color },
        duration: args.duration,
        max_events: args.max_events,
        heartbeat: Some(args.heartbeat).filter(|period| !period.is_zero()),
        hooks: args.hooks,
        candidates: args.candidates,
        ring_bytes: args.ring_buffer * 1024,
        oom_score_adj: Some(args.oom_score_adj),
        ebpf_log: args.verbose > 1,
        btf: args.btf,
        node_name: args.kubernetes.node_name(),
        kubernetes: args.kubernetes.options(args.heartbeat),
    };
    watch(options)
}

/// Watches until told to stop.
pub(super) fn watch(options: Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the event loop")?;
    runtime.block_on(async {
        let host = Host::read();
        let tracer = Tracer::start(options, &host)?;
        let attached: Vec<_> = tracer
            .hooks()
            .iter()
            .filter(|hook| hook.attached)
            .map(|hook| hook.name.as_str())
            .collect();
        tracing::info!(
            "watching kernel {} by {}; stop with Ctrl-C",
            host.kernel_or_unknown(),
            attached.join(", ")
        );
        for hook in tracer.hooks().iter().filter(|hook| !hook.attached) {
            let reason = hook.reason.as_deref().unwrap_or_default();
            tracing::debug!("without {}: {reason}", hook.name);
        }
        tracer.run().await
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn candidates(text: &str) -> Result<usize, String> {
    if text == "all" {
        return Ok(usize::MAX);
    }
    text.parse()
        .map_err(|_| "neither a number nor `all`".to_owned())
}

fn ring_kib(text: &str) -> Result<u32, String> {
    let kib: u64 = text.parse().map_err(|_| "not a number")?;
    ring_bytes(kib.saturating_mul(1024)).map(|bytes| bytes / 1024)
}
