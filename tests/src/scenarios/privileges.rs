//! With less than root.

use std::{io, process::Command};

use anyhow::{Result, ensure};
use rustix::{
    process::{Resource, Rlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets, Gid, Uid},
};

use super::{LIMIT, Needs, Outcome, Scenario, bad_input::refused};
use crate::{
    Env,
    cgroup::Cgroup,
    compare,
    tracer::{Tracer, before_exec},
    victim::{Look, Victim},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "not_root",
        shows: "Without privileges it names the capabilities it lacks and how to grant them.",
        needs: Needs::Nothing,
        run: not_root,
    },
    Scenario {
        name: "one_capability_is_too_few",
        shows: "With CAP_BPF alone it names CAP_PERFMON, and does not ask for what it has.",
        needs: Needs::Nothing,
        run: one_capability_is_too_few,
    },
    Scenario {
        name: "three_capabilities_suffice",
        shows: "CAP_BPF, CAP_PERFMON and CAP_SYSLOG are enough for a user who is not root.",
        needs: Needs::Nothing,
        run: three_capabilities_suffice,
    },
    Scenario {
        name: "seccomp_is_told_apart",
        shows: "Where a seccomp filter forbids bpf(2), it says so and does not blame capabilities.",
        needs: Needs::Nothing,
        run: seccomp_is_told_apart,
    },
];

const NOBODY: u32 = 65_534;

fn become_nobody() -> io::Result<()> {
    let (gid, uid) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

fn become_nobody_with(capabilities: CapabilitySet) -> io::Result<()> {
    rustix::thread::set_keep_capabilities(true)?;
    become_nobody()?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: capabilities,
            permitted: capabilities,
            inheritable: capabilities,
        },
    )?;
    for one in capabilities.iter() {
        rustix::thread::configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

fn not_root(env: &Env) -> Result<Outcome> {
    let (_directory, copy) = env.public_copy()?;
    let reason = refused(&copy, become_nobody, &["CAP_BPF", "CAP_PERFMON", "setcap"])?;
    ensure!(!reason.contains("seccomp"), "it blames seccomp: {reason}");
    Ok(Outcome::Passed)
}

/// Becomes nobody with these capabilities, and may lock as much memory as it likes where maps count
/// as such: before 5.11. The limit is low for users.
fn nobody_with(capabilities: CapabilitySet) -> impl Fn() -> io::Result<()> + Clone + Send + Sync {
    let generous = compare::kernel_version() < (5, 11);
    move || {
        if generous {
            let none = Rlimit {
                current: None,
                maximum: None,
            };
            setrlimit(Resource::Memlock, none)?;
        }
        become_nobody_with(capabilities)
    }
}

fn one_capability_is_too_few(env: &Env) -> Result<Outcome> {
    let (_directory, copy) = env.public_copy()?;
    let prepare = nobody_with(CapabilitySet::BPF);
    let reason = refused(&copy, prepare, &["lacks CAP_PERFMON", "setcap"])?;
    for word in ["lacks CAP_BPF", "and CAP_BPF", "seccomp", "locked memory"] {
        ensure!(!reason.contains(word), "it blames {word}: {reason}");
    }
    Ok(Outcome::Passed)
}

fn three_capabilities_suffice(env: &Env) -> Result<Outcome> {
    let (_directory, copy) = env.public_copy()?;
    let mut command = Command::new(copy);
    command.args(["trace", "--format", "json"]);
    let three = CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::SYSLOG;
    before_exec(&mut command, nobody_with(three));
    let mut tracer = Tracer::spawn(env, command)?;
    let status = crate::read(format!("/proc/{}/status", tracer.pid()))?;
    ensure!(
        status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}")),
        "it is another user: {status}"
    );
    let kmsg = tracer.records[0]["hooks"].as_array().is_some_and(|hooks| {
        hooks
            .iter()
            .any(|hook| hook["name"] == "kmsg" && hook["attached"] == true)
    });
    ensure!(
        kmsg,
        "it does not read the kernel log: {}",
        tracer.records[0]
    );

    let cgroup = Cgroup::new("three")?;
    cgroup.limit(LIMIT)?;
    let mut victim = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
    victim.go()?;
    victim.dies()?;
    let pid = victim.pid();
    let event = tracer.wait_for("the kill", |record| {
        record["kind"] == "oom_kill" && record["victim"]["pid"] == pid
    })?;
    ensure!(event["victim"]["comm"] == "oomtrace-victim", "{event}");
    ensure!(event["source"]["merged"][0] == "kmsg", "{event}");
    tracer.stop()?;
    Ok(Outcome::Passed)
}

/// `LD nr; JEQ bpf; RET EPERM; RET ALLOW` (`struct sock_filter`).
fn forbid_bpf() -> io::Result<()> {
    let (load, equals, give) = (0x20, 0x15, 0x06);
    let nr = u32::try_from(libc::SYS_bpf).map_err(io::Error::other)?;
    let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut filter = [
        libc::sock_filter {
            code: load,
            jt: 0,
            jf: 0,
            k: 0,
        },
        libc::sock_filter {
            code: equals,
            jt: 0,
            jf: 1,
            k: nr,
        },
        libc::sock_filter {
            code: give,
            jt: 0,
            jf: 0,
            k: errno,
        },
        libc::sock_filter {
            code: give,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ALLOW,
        },
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the filter outlives the call, which copies it.
    let refused = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if refused == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn seccomp_is_told_apart(env: &Env) -> Result<Outcome> {
    let reason = refused(&env.oomtrace, forbid_bpf, &["seccomp"])?;
    ensure!(
        !reason.contains("CAP_BPF"),
        "it blames capabilities: {reason}"
    );
    Ok(Outcome::Passed)
}
