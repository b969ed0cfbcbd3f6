//! The command line: one file per verb.

mod agent;
mod audit;
mod config;
mod deliver;
mod doctor;
mod events;
mod explain;
mod import;
mod kubernetes;
mod logs;
mod node;
mod progress;
mod rank;
mod report;
mod schema;
mod show;
mod trace;

use std::{io, process::ExitCode};

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::{
    filter::{LevelFilter, filter_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Records every OOM kill of this Linux kernel, and why this victim.
#[derive(Debug, Parser)]
#[command(
    name = "oomtrace",
    version,
    about,
    long_about = "Records every OOM kill of this Linux kernel: who died, whose limit was hit, who \
                  asked for the memory, and why this victim and not another. One JSON object a \
                  line, or a few readable lines on a terminal.",
    after_help = "Start here, as root:  oomtrace trace\nDoes it work here?    oomtrace doctor --self-test\nWhy did it die?       oomtrace explain /var/log/oomtrace.jsonl\nWho dies next?        oomtrace rank\nWhat will bite?       oomtrace audit",
    max_term_width = 100,
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Watch this kernel and write every OOM kill as it happens
    Trace(trace::Args),
    /// Watch for years: into files, syslog, the journal and HTTP, as a configuration says
    Agent(agent::Args),
    /// Look at the agent's configuration
    Config(config::Args),
    /// Send the events of event logs to the sinks of a configuration
    Deliver(deliver::Args),
    /// Turn events into pages for people: what happened, why this one, what would have spared it
    Explain(explain::Args),
    /// Turn kernel logs into the same records: dmesg, journal, syslog, archives
    Import(import::Args),
    /// Tell who dies next: the order in which the kernel would take processes now
    Rank(rank::Args),
    /// Find what will bite when memory runs out: limits that are near, pods without requests, …
    Audit(audit::Args),
    /// Print the events of event logs, those that you want
    Show(show::Args),
    /// Turn event logs into one page: when, who, why, how often, and what to change
    Report(report::Args),
    /// Tell what works on this machine, and why the rest does not
    Doctor(doctor::Args),
    /// Print the JSON Schema of the records
    Schema(schema::Args),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Take memory until killed: the victim of `doctor --self-test`
    #[command(hide = true)]
    SelfTestVictim,
}

/// Runs the program. 0: fine, 1: failed, 2: wrong usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.verb) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("oomtrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Trace(args) => trace::run(args),
        Verb::Agent(args) => agent::run(args),
        Verb::Config(args) => config::run(&args),
        Verb::Deliver(args) => deliver::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Import(args) => import::run(args),
        Verb::Rank(args) => rank::run(&args),
        Verb::Audit(args) => audit::run(&args),
        Verb::Show(args) => show::run(&args),
        Verb::Report(args) => report::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Schema(args) => schema::run(&args),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "oomtrace", &mut script);
            print(&script)
        }
        Verb::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            print(&page)
        }
        Verb::SelfTestVictim => doctor::victim(),
    }
}

/// When to use colours.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Color {
    /// When standard output is a terminal that has them.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    fn on(self, stdout: &io::Stdout) -> bool {
        match self {
            Self::Auto => anstream::AutoStream::choice(stdout) != anstream::ColorChoice::Never,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Columns and lines of the terminal, if standard output is one.
fn terminal_size(stdout: &io::Stdout) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(stdout).ok()?;
    Some((usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// Writes all of `bytes` to standard output.
fn print(bytes: &[u8]) -> Result<ExitCode> {
    use io::Write as _;
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// A reader that has seen enough (`| head`) is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Sends what the program has to say about itself to standard error.
fn init_logging(level: LevelFilter) {
    // The sink says what fails, and once; the client would tell of each connection and each attempt.
    let ours = filter_fn(|of| !of.target().starts_with("async_nats"));
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never)
        .with_target(false)
        .without_time()
        .finish()
        .with(ours)
        .init();
}
