//! A kill seen from both sides: through the tracer and through the kernel log.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    Env, compare,
    oracle::{Account, KernelLog, Report},
    time::boottime_ns,
    tracer::{Ended, Tracer},
};

/// The kernel prints ten reports in five seconds (`DEFAULT_RATELIMIT_INTERVAL`) and suppresses the
/// rest. Others may use them up, so attempts are spread over several such windows.
const PAUSE: Duration = Duration::from_millis(1_500);
/// How often a kill is repeated until its report is printed.
const ATTEMPTS: u32 = 20;

/// Both sides, watching.
pub struct Watch {
    /// The tracer.
    pub tracer: Tracer,
    /// The kernel log.
    pub log: KernelLog,
    since_ns: u64,
    record: Option<PathBuf>,
}

/// One kill, from both sides.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The tracer's record.
    pub event: Value,
    /// The kernel's account.
    pub account: Account,
    /// `CLOCK_BOOTTIME` before and after.
    pub between: (u64, u64),
}

impl Seen {
    /// The kernel's report, where it was printed and the tracer did not miss it.
    pub fn report(&self) -> Option<&Report> {
        self.account.report.as_ref().filter(|_| self.is_merged())
    }

    /// Whether the event has what the kernel log tells, where the tracer reads that. It waits for it
    /// no longer than a millisecond, which is short for an emulated machine on a busy one.
    pub fn is_merged(&self) -> bool {
        !compare::log_is_hooked(&self.event)
            || self.event["source"]["merged"] == serde_json::json!(["kmsg"])
    }
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the tracer does not attach or the kernel log cannot be read.
    pub fn start(env: &Env, args: &[&str]) -> Result<Self> {
        let log = KernelLog::open()?;
        let since_ns = boottime_ns();
        Ok(Self {
            tracer: Tracer::start(env, args)?,
            log,
            since_ns,
            record: env.record.clone(),
        })
    }

    /// Waits for the kill of a process of which the kernel names the thread `tid`.
    ///
    /// # Errors
    /// When one of the sides does not tell of it.
    pub fn kill_of(&mut self, pid: u32, tid: u32) -> Result<Seen> {
        let account = self.log.account_of(tid)?;
        let event = self
            .tracer
            .wait_for(&format!("the kill of {pid}"), |record| {
                record["kind"] == "oom_kill" && record["victim"]["pid"] == pid
            })?;
        Ok(Seen {
            event,
            account,
            between: (self.since_ns, boottime_ns()),
        })
    }

    /// Waits for what became of the victim of `kill`, and compares both. Where exits are not
    /// hooked there is nothing to wait for.
    ///
    /// # Errors
    /// When it does not come, or is not the kill's.
    pub fn outcome_of(&mut self, kill: &Value) -> Result<()> {
        if !compare::exits_are_hooked(kill) {
            return Ok(());
        }
        let pid = &kill["victim"]["pid"];
        let outcome = self
            .tracer
            .wait_for(&format!("the outcome of {pid}"), |record| {
                record["kind"] == "oom_outcome"
                    && record["state"] == "exited"
                    && record["victim"]["pid"] == *pid
            })?;
        compare::outcome(kill, &outcome)?;
        let exited: u64 = outcome["boottime_ns"]
            .as_str()
            .context("no time")?
            .parse()?;
        ensure!(exited <= boottime_ns(), "it is yet to come: {outcome}");
        let tid = kill["victim"]["tid"].as_u64().context("no thread id")?;
        ensure!(
            outcome["reaped"] == false || self.log.says(&reaped(tid))?,
            "the kernel does not say so: {outcome}"
        );
        Ok(())
    }

    /// Ends the tracer, which must have accounted for every kill the kernel counted.
    ///
    /// # Errors
    /// When it does not end well, or kills are unaccounted for.
    pub fn stop(mut self) -> Result<Ended> {
        let ended = self.tracer.stop()?;
        if let Some(name) = &self.record {
            self.log.read()?;
            let mut lines = String::new();
            for record in &ended.records {
                lines += &format!("{record}\n");
            }
            fs::write(name.with_extension("kmsg"), &self.log.raw)?;
            fs::write(name.with_extension("jsonl"), lines)?;
        }
        let counts = &ended.farewell()?["reconciliation"];
        ensure!(
            counts["unaccounted"] == 0,
            "kills are unaccounted for: {counts}"
        );
        Ok(ended)
    }
}

/// What the OOM reaper says when it has taken the memory of a victim.
pub fn reaped(tid: u64) -> String {
    format!("oom_reaper: reaped process {tid} (")
}

/// Repeats a kill until the kernel has printed its report: the rate limit is shared with
/// whatever else is killed on this machine.
///
/// # Errors
/// Those of `attempt`; also when the report is suppressed time and again.
pub fn with_report<T>(mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    for _ in 0..ATTEMPTS {
        if let Some(value) = attempt().context("one kill")? {
            return Ok(value);
        }
        std::thread::sleep(PAUSE);
    }
    bail!("the kernel printed no report of {ATTEMPTS} kills")
}
