//! Kernels that do not show what oomtrace needs, or show something else. What fails is named, with
//! the reason and the remedy, by `trace` and by `doctor` alike; nothing is made up.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    thread::{Uid, UnshareFlags},
};
use serde_json::Value;

use super::{LIMIT, Needs, Outcome, Scenario};
use crate::{
    Env,
    btf::Btf,
    cgroup::Cgroup,
    tracer::{self, Tracer, before_exec},
    victim::{Look, Victim},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "no_btf",
        shows: "On a kernel that does not show its BTF it says so, and takes it from a file.",
        needs: Needs::Nothing,
        run: no_btf,
    },
    Scenario {
        name: "btf_that_is_none",
        shows: "A file that is no BTF, or half of one, is refused by name.",
        needs: Needs::Nothing,
        run: btf_that_is_none,
    },
    Scenario {
        name: "btf_that_lies",
        shows: "BTF that does not describe the running kernel is found out before anything is \
                believed.",
        needs: Needs::Nothing,
        run: btf_that_lies,
    },
    Scenario {
        name: "no_tracefs",
        shows: "Without tracefs every hook is there that is there with it.",
        needs: Needs::AllHooks,
        run: no_tracefs,
    },
    Scenario {
        name: "lockdown_is_told_apart",
        shows: "Where lockdown forbids to read the kernel's memory, it says so and what to do.",
        needs: Needs::Lockdown,
        run: lockdown_is_told_apart,
    },
];

const BTF: &CStr = c"/sys/kernel/btf";
const VMLINUX: &CStr = c"/sys/kernel/btf/vmlinux";

/// Makes the mounts of a process its own.
fn leave_mounts() -> io::Result<()> {
    // SAFETY: file descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
    let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change(c"/", all)?)
}

/// Hides what is below a directory.
fn hide(directory: &CStr) -> io::Result<()> {
    let empty: Option<&CStr> = None;
    Ok(mount(
        c"none",
        directory,
        c"tmpfs",
        MountFlags::empty(),
        empty,
    )?)
}

/// Neither `trace` with `args` nor `doctor` work where `prepare` has prepared for them; both give
/// the same reason, which has all of `words` in it.
pub(super) fn refused(
    program: &Path,
    prepare: impl FnMut() -> io::Result<()> + Clone + Send + Sync + 'static,
    words: &[&str],
) -> Result<String> {
    let mut trace = Command::new(program);
    trace.args(["trace", "--format", "json"]);
    before_exec(&mut trace, prepare.clone());
    let reason = fails(trace, words)?;

    let mut doctor = Command::new(program);
    doctor.args(["doctor", "--json"]);
    before_exec(&mut doctor, prepare);
    let output = tracer::output(doctor)?;
    let told: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
        .context("what doctor --json prints")?;
    ensure!(
        output.status.code() == Some(1) && told["works"] == false,
        "doctor ended with {}: {told}",
        output.status
    );
    let error = told["error"].as_str().unwrap_or_default();
    ensure!(
        without_names(error) == without_names(&reason),
        "trace says {reason:?}, and doctor {error:?}"
    );
    Ok(reason)
}

/// Without what is in backquotes: which map is refused first is a matter of chance.
fn without_names(text: &str) -> String {
    text.split('`').step_by(2).collect()
}

/// The command fails without a record, for a reason that has all of `words` in it.
fn fails(command: Command, words: &[&str]) -> Result<String> {
    let output = tracer::output(command)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(1),
        "it ended with {}: {said}",
        output.status
    );
    ensure!(output.stdout.is_empty(), "it wrote records");
    let (_, reason) = said
        .split_once("oomtrace: ")
        .with_context(|| format!("it gave no reason: {said}"))?;
    for word in words {
        ensure!(reason.contains(word), "it does not tell of {word}: {said}");
    }
    Ok(reason.trim_end().to_owned())
}

/// The tracer sees a kill.
fn sees_a_kill(env: &Env, mut tracer: Tracer) -> Result<()> {
    let cgroup = Cgroup::new("input")?;
    cgroup.limit(LIMIT)?;
    let mut victim = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
    victim.go()?;
    victim.dies()?;
    let pid = victim.pid();
    tracer.wait_for("the kill", |record| {
        record["kind"] == "oom_kill" && record["victim"]["pid"] == pid
    })?;
    let ended = tracer.stop()?;
    let counts = &ended.farewell()?["reconciliation"];
    ensure!(counts["unaccounted"] == 0, "{counts}");
    Ok(())
}

fn no_btf(env: &Env) -> Result<Outcome> {
    let prepare = || {
        leave_mounts()?;
        hide(BTF)
    };
    let words = ["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF", "--btf"];
    refused(&env.oomtrace, prepare, &words)?;

    let directory = tempfile::tempdir().context("a directory for the copy")?;
    let copy = directory.path().join("btf");
    fs::write(&copy, Btf::of_this_kernel()?.bytes)?;
    let mut command = Command::new(&env.oomtrace);
    command
        .args(["trace", "--format", "json", "--heartbeat", "0", "--btf"])
        .arg(&copy);
    before_exec(&mut command, prepare);
    sees_a_kill(env, Tracer::spawn(env, command)?)?;
    Ok(Outcome::Passed)
}

fn trace_with_btf(env: &Env, file: &Path) -> Command {
    let mut command = Command::new(&env.oomtrace);
    command
        .args(["trace", "--format", "json", "--btf"])
        .arg(file);
    command
}

fn btf_that_is_none(env: &Env) -> Result<Outcome> {
    let directory = tempfile::tempdir().context("a directory for the files")?;
    let file = directory.path().join("some-file");
    let name = file.display().to_string();
    fails(trace_with_btf(env, &file), &[&name, "no such file"])?;
    let whole = Btf::of_this_kernel()?.bytes;
    let mut foreign = whole.clone();
    foreign[..2].reverse();
    for (bytes, word) in [
        (&[][..], "malformed BTF"),
        (b"[ 0.0] Linux version\n", "malformed BTF"),
        (&whole[..whole.len() / 2], "malformed BTF"),
        (&foreign, "byte order"),
    ] {
        fs::write(&file, bytes)?;
        fails(trace_with_btf(env, &file), &[&name, word])?;
    }
    Ok(Outcome::Passed)
}

/// A tracer that cannot be mistaken for another process: its user and its `oom_score_adj` are no
/// zeros that could be found anywhere.
fn stand_out() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "437")?;
    let (real, root) = (Uid::from_raw(4_711), Uid::ROOT);
    Ok(rustix::thread::set_thread_res_uid(real, root, root)?)
}

fn btf_that_lies(env: &Env) -> Result<Outcome> {
    let directory = tempfile::tempdir().context("a directory for the files")?;
    let file = directory.path().join("btf");
    let truth = Btf::of_this_kernel()?;
    // What is written here is otherwise believed.
    fs::write(&file, &truth.bytes)?;
    let mut command = trace_with_btf(env, &file);
    command.args(["--heartbeat", "0"]);
    before_exec(&mut command, stand_out);
    sees_a_kill(env, Tracer::spawn(env, command)?)?;

    let name = file.display().to_string();
    for (structure, member, other, word) in [
        ("task_struct", "pid", "real_parent", "pid"),
        ("task_struct", "tgid", "real_parent", "tgid"),
        ("task_struct", "comm", "real_parent", "comm"),
        ("task_struct", "real_cred", "signal", "uid"),
        ("task_struct", "real_parent", "group_leader", "parent"),
        ("task_struct", "signal", "sighand", "oom_score_adj"),
        ("signal_struct", "oom_score_adj", "live", "oom_score_adj"),
        ("task_struct", "start_boottime", "mm", "start"),
        ("task_struct", "mm", "real_parent", "memory"),
        ("mm_struct", "total_vm", "pgtables_bytes", "mapped memory"),
        ("mm_struct", "pgtables_bytes", "total_vm", "page tables"),
        ("cred", "uid", "gid", "uid"),
    ] {
        let mut lie = truth.clone();
        lie.misplace(structure, member, other)?;
        fs::write(&file, &lie.bytes)?;
        let mut command = trace_with_btf(env, &file);
        before_exec(&mut command, stand_out);
        fails(
            command,
            &[&name, "does not describe the running kernel", word],
        )
        .with_context(|| format!("{structure}.{member} is where {other} is"))?;
    }

    // The last of them, shown by the kernel itself.
    let lie = CString::new(file.as_os_str().as_bytes())?;
    let prepare = move || {
        leave_mounts()?;
        mount_bind(lie.as_c_str(), VMLINUX)?;
        stand_out()
    };
    let words = [
        "/sys/kernel/btf/vmlinux",
        "does not describe the running kernel",
    ];
    refused(&env.oomtrace, prepare, &words)?;
    Ok(Outcome::Passed)
}

fn no_tracefs(env: &Env) -> Result<Outcome> {
    let prepare = || {
        leave_mounts()?;
        for directory in [c"/sys/kernel/tracing", c"/sys/kernel/debug"] {
            match hide(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                hidden => hidden?,
            }
        }
        Ok(())
    };
    for hooks in ["all", "kprobe,candidates,outcome"] {
        let args = [
            "trace",
            "--format",
            "json",
            "--heartbeat",
            "0",
            "--hooks",
            hooks,
        ];
        let with = Tracer::start(env, &args[3..])?.stop()?;
        let mut command = Command::new(&env.oomtrace);
        command.args(args);
        before_exec(&mut command, prepare);
        let without = Tracer::spawn(env, command)?;
        ensure!(
            without.records[0]["hooks"] == with.records[0]["hooks"],
            "with tracefs {}, and without {}",
            with.records[0]["hooks"],
            without.records[0]["hooks"]
        );
        sees_a_kill(env, without)?;
    }
    let mut doctor = Command::new(&env.oomtrace);
    doctor.args(["doctor", "--json"]);
    before_exec(&mut doctor, prepare);
    let output = tracer::output(doctor)?;
    let told: Value = serde_json::from_slice(&output.stdout).context("what doctor prints")?;
    ensure!(
        output.status.success() && told["works"] == true && told["host"]["tracefs"].is_null(),
        "doctor ended with {}: {told}",
        output.status
    );
    Ok(Outcome::Passed)
}

fn lockdown_is_told_apart(env: &Env) -> Result<Outcome> {
    let words = ["lockdown", "confidentiality", "lockdown=integrity"];
    let reason = refused(&env.oomtrace, || Ok(()), &words)?;
    for word in ["CAP_", "seccomp"] {
        ensure!(!reason.contains(word), "it blames {word}: {reason}");
    }
    Ok(Outcome::Passed)
}
