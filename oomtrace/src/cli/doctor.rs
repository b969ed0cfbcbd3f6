//! `oomtrace doctor`: what works on this machine, why the rest does not, and, with
//! `--self-test`, the proof.

mod self_test;

use std::{fmt::Write as _, process::ExitCode};

use anyhow::Result;
use serde::Serialize;
use tracing_subscriber::filter::LevelFilter;

use crate::{
    event::{self, Hook, PodSourceState},
    host::Host,
    kernel_log::KmsgReader,
    probe::{HookSet, Probe, Request},
};

pub(super) use self_test::victim;

const AFTER_HELP: &str = "\
The self-test makes a memory cgroup of its own, lets a child of its own be OOM-killed in it, and
compares the event with what it knows of that child. Nothing else on the machine is touched.

Exit status: 0 when oomtrace works here, 1 when it does not.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Write JSON
    #[arg(long)]
    json: bool,

    /// Let a child be OOM-killed in a cgroup of its own, and check that the event comes out whole
    #[arg(long)]
    self_test: bool,

    #[command(flatten)]
    kubernetes: super::kubernetes::Args,
}

/// All that was found.
#[derive(Serialize)]
struct Diagnosis {
    works: bool,
    host: Host,
    error: Option<String>,
    hooks: Vec<Hook>,
    kernel_log: Option<String>,
    kubernetes: Option<event::Kubernetes>,
    self_test: Option<self_test::Outcome>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    super::init_logging(LevelFilter::ERROR);
    let host = Host::read();
    let request = Request {
        hooks: HookSet::ALL,
        ring_bytes: 64 * 1024,
        ebpf_log: false,
        btf: None,
    };
    let (hooks, error) = match Probe::attach(&request, &host) {
        Ok(mut probe) => (probe.take_hooks(), None),
        Err(error) => (
            Vec::new(),
            Some(format!("{:#}", anyhow::Error::from(error))),
        ),
    };
    let kernel_log = KmsgReader::open().err().map(|error| error.to_string());
    let sources = args.kubernetes.settled()?;
    let kubernetes = sources.map(|sources| sources.pods.status());
    let self_test = (args.self_test && error.is_none()).then(self_test::run);
    let works = error.is_none()
        && self_test
            .as_ref()
            .is_none_or(|outcome| outcome.checks.iter().all(|check| check.passed));
    let diagnosis = Diagnosis {
        works,
        host,
        error,
        hooks,
        kernel_log,
        kubernetes,
        self_test,
    };
    let text = if args.json {
        serde_json::to_string_pretty(&diagnosis)? + "\n"
    } else {
        diagnosis.text()
    };
    super::print(text.as_bytes())?;
    Ok(if works {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Diagnosis {
    fn text(&self) -> String {
        let Host {
            kernel,
            architecture,
            btf,
            lockdown,
            seccomp,
            missing_capabilities,
            may_raise_limits: _,
            tracefs,
            memory_controller,
            dmesg_restrict,
            oom_dump_tasks,
            panic_on_oom,
        } = &self.host;
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
        let yes = |value: Option<bool>| match value {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        let mut text = String::new();
        let mut row = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:<20} {value}");
        };
        row(
            "kernel",
            &format!("{} {}", known(kernel), known(architecture)),
        );
        row(
            "BTF",
            if *btf {
                "yes"
            } else {
                "no: the kernel was built without it"
            },
        );
        row(
            "lockdown",
            lockdown
                .as_deref()
                .unwrap_or("unknown: securityfs does not tell"),
        );
        row("seccomp filter", if *seccomp { "yes" } else { "no" });
        row(
            "capabilities",
            &if missing_capabilities.is_empty() {
                "all that are needed".to_owned()
            } else {
                format!("missing: {}", missing_capabilities.join(", "))
            },
        );
        row("tracefs", tracefs.unwrap_or("not mounted (not needed)"));
        row(
            "memory controller",
            match memory_controller {
                crate::host::MemoryController::V1 => "cgroup v1",
                crate::host::MemoryController::V2 => "cgroup v2",
                crate::host::MemoryController::Hybrid => "cgroup v1, with cgroup v2 beside it",
                crate::host::MemoryController::None => "not mounted",
            },
        );
        row(
            "kernel log",
            self.kernel_log.as_deref().unwrap_or("readable"),
        );
        row("dmesg restricted", yes(*dmesg_restrict));
        row("task table in log", yes(*oom_dump_tasks));
        if panic_on_oom.is_some_and(|mode| mode != 0) {
            row(
                "panic_on_oom",
                "set: the kernel panics where it would kill, and nothing is seen",
            );
        }

        text.push_str("\nhooks\n");
        for hook in &self.hooks {
            let mark = if hook.attached { "yes" } else { "no " };
            let _ = writeln!(text, "  {mark}  {:<30} {}", hook.name, hook.adds);
            if let Some(reason) = &hook.reason {
                let _ = writeln!(text, "       {reason}");
            }
        }
        if let Some(error) = &self.error {
            let _ = writeln!(text, "  none could be attached: {error}");
        }
        text.push_str("\npods\n");
        let sources = self.kubernetes.iter().flat_map(|found| &found.sources);
        for source in sources {
            let live = source.state == PodSourceState::Live;
            let mark = if live { "yes" } else { "no " };
            let _ = writeln!(text, "  {mark}  {:<30} {}", source.name, source.address);
            if !live {
                let error = source.error.as_deref().unwrap_or("it does not answer");
                let _ = writeln!(text, "       {error}");
            }
        }
        match &self.kubernetes {
            Some(found) => {
                let _ = writeln!(
                    text,
                    "  {} pods, {} containers",
                    found.pods, found.containers
                );
            }
            None => text.push_str("  no source was found; not needed outside of Kubernetes\n"),
        }
        if let Some(outcome) = &self.self_test {
            text.push_str("\nself-test\n");
            for check in &outcome.checks {
                let mark = if check.passed { "ok    " } else { "FAILED" };
                let _ = writeln!(text, "  {mark}  {}: {}", check.name, check.found);
            }
        }
        let _ = writeln!(
            text,
            "\n{}",
            if self.works {
                "oomtrace works here"
            } else {
                "oomtrace does not work here"
            }
        );
        text
    }
}
