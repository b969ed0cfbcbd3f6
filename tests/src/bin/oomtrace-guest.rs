//! Runs scenarios inside a virtual machine, as `/init` or from a shell.
//!
//! `oomtrace-guest [SCENARIO…]` prints what the machine is, `MACHINE {"release":…,"hooks":[…]}`, one
//! line a scenario, `SCENARIO name ok|skip|FAIL[: why]`, and at last `GUEST DONE passed=N failed=N
//! skipped=N`. As the first process of a machine it mounts what it needs, takes its arguments from
//! the kernel's command line, and powers off:
//!
//! - `oomtrace.scenarios=a,b`: only these; `all`: also those that take long
//! - `oomtrace.hooks=LIST`: `--hooks` of the tracer
//! - `oomtrace.record`: print what was seen of the scenarios worth keeping, `RECORDED FILE LINE`
//! - `oomtrace.cgroup=v1`: the memory controller in a cgroup v1 hierarchy
//! - `oomtrace.node=cgroupfs|systemd`: be a Kubernetes node and play what happens on one. With
//!   systemd this is a service of it, and not the first process

use std::{
    env,
    ffi::CStr,
    fs,
    io::{self, Read, Write},
    mem,
    net::UdpSocket,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use oomtrace_tests::{
    Env,
    cgroup::Cgroup,
    node::{self, Driver, Node},
    read,
    scenarios::{self, Needs, Outcome, Scenario},
    tracer::Tracer,
    victim::{Look, Victim},
};
use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
    system::RebootCommand,
};
use serde_json::{Value, json};

/// The scenarios of which the log and the records are kept: each shows the kernel's report in
/// another way.
const KEPT: [&str; 6] = [
    "single_process",
    "victim_is_not_the_trigger",
    "shared_memory",
    "twenty_die_as_a_group",
    "machine_without_swap",
    "machine_with_swap",
];

fn main() -> ExitCode {
    let line = read("/proc/cmdline").unwrap_or_default();
    let on_a_node = option(&line, "node").is_some();
    if std::process::id() != 1 && !on_a_node {
        let names: Vec<String> = env::args().skip(1).collect();
        let hooks = env::var("OOMTRACE_HOOKS").ok();
        return if run_all(&names, hooks, false) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    match boot() {
        Ok(None) => {}
        Ok(Some(lacks)) => {
            say(&format!("SCENARIO boot skip: {lacks}"));
            say("GUEST DONE passed=0 failed=0 skipped=1");
        }
        Err(error) => {
            say(&format!("SCENARIO boot FAIL: {}", one_line(&error)));
            say("GUEST DONE passed=0 failed=1 skipped=0");
        }
    }
    rustix::fs::sync();
    // A slow console (PREEMPT_RT) still has lines to write, which the machine would not wait for.
    let _ = rustix::termios::tcdrain(std::io::stdout());
    std::thread::sleep(std::time::Duration::from_secs(1));
    // The machine is over with this; if it is not, the kernel panics as init ends.
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
    ExitCode::FAILURE
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " | ")
}

/// Becomes a machine, and runs what the command line asks for; else tells what the kernel lacks for
/// that.
fn boot() -> Result<Option<&'static str>> {
    if std::process::id() == 1 {
        place("proc", "/proc", None)?;
    }
    let line = read("/proc/cmdline")?;
    let option = |name: &str| option(&line, name);
    let names: Vec<String> = option("scenarios")
        .map(|list| {
            list.split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        })
        .unwrap_or_default();
    let record = line
        .split_whitespace()
        .any(|word| word == "oomtrace.record");
    if let Some(driver) = option("node") {
        node(Driver::named(driver)?, &names, record)?;
        return Ok(None);
    }
    place("sysfs", "/sys", None)?;
    place_devices()?;
    place("tmpfs", "/tmp", None)?;
    for (kind, directory) in [
        ("securityfs", "/sys/kernel/security"),
        ("tracefs", "/sys/kernel/tracing"),
    ] {
        if Path::new(directory).exists() {
            place(kind, directory, None)?;
        }
    }
    if option("cgroup") == Some("v1") {
        place("tmpfs", "/sys/fs/cgroup", None)?;
        let memory = place("cgroup", "/sys/fs/cgroup/memory", Some(c"memory"));
        place("cgroup2", "/sys/fs/cgroup/unified", None)?;
        if let Err(error) = memory {
            return why_not_v1(error).map(Some);
        }
    } else {
        place("cgroup2", "/sys/fs/cgroup", None)?;
    }
    load("/modules")?;
    loopback().context("bringing up the loopback interface")?;
    // Messages of user space are no concern of these tests; more of the kernel's are, where it
    // lets them through. The rate limit of the OOM report itself is not adjustable.
    let _ = fs::write("/proc/sys/kernel/printk_ratelimit", "0");
    set_variables("/bin");
    run_all(&names, option("hooks").map(str::to_owned), record);
    Ok(None)
}

/// The value of one of our options on the kernel's command line.
fn option<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| {
        word.strip_prefix("oomtrace.")?
            .strip_prefix(name)?
            .strip_prefix('=')
    })
}

fn set_variables(path: &str) {
    for (name, value) in [("PATH", path), ("TMPDIR", "/tmp"), ("HOME", "/tmp")] {
        // SAFETY: there is one thread.
        unsafe { env::set_var(name, value) };
    }
}

/// Becomes a Kubernetes node, from a disk that has all it takes, and plays what happens on one.
fn node(driver: Driver, names: &[String], record: bool) -> Result<()> {
    if std::process::id() == 1 {
        place("sysfs", "/sys", None)?;
        place_devices()?;
        place("tmpfs", "/run", None)?;
        place("cgroup2", "/sys/fs/cgroup", None)?;
    }
    place("tracefs", "/sys/kernel/tracing", None)?;
    load("/modules")?;
    // The kernel's reports are read from /dev/kmsg; the console is slow.
    fs::write("/proc/sys/kernel/printk", "1").context("quieting the console")?;
    set_variables("/usr/bin:/usr/sbin:/bin");
    let env = environment(None);
    say(&format!("MACHINE {}", machine(&env)));
    let all = node::SCENARIOS.iter();
    if let Some(unknown) = names
        .iter()
        .find(|name| all.clone().all(|it| it.name != **name))
    {
        bail!("no scenario {unknown}");
    }
    let chosen = all.filter(|it| names.is_empty() || names.iter().any(|name| name == it.name));
    let mut tally = Tally::default();
    let mut node = match Node::start(&env, driver) {
        Ok(node) => node,
        Err(error) => {
            tally.note("node_starts", &Err(error));
            node::said().iter().for_each(|line| say(line));
            say(&tally.last_word());
            return Ok(());
        }
    };
    tally.note("node_starts", &Ok(Outcome::Passed));
    for scenario in chosen {
        let keep = record.then(|| Path::new("/tmp").join(scenario.name));
        let env = Env {
            record: keep.clone(),
            ..env.clone()
        };
        let ended = (scenario.run)(&env, &mut node).map(|()| Outcome::Passed);
        if ended.is_ok() {
            keep.iter().for_each(|keep| print_record(keep));
        }
        let failed = ended.is_err();
        tally.note(scenario.name, &ended);
        if failed {
            node::said().iter().for_each(|line| say(line));
        }
    }
    say(&tally.last_word());
    Ok(())
}

/// What was counted so far.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    /// Tells how a scenario ended.
    fn note(&mut self, name: &str, ended: &Result<Outcome>) {
        match ended {
            Ok(Outcome::Passed) => {
                self.passed += 1;
                say(&format!("SCENARIO {name} ok"));
            }
            Ok(Outcome::Skipped(reason)) => {
                self.skipped += 1;
                say(&format!("SCENARIO {name} skip: {reason}"));
            }
            Err(error) => {
                self.failed += 1;
                say(&format!("SCENARIO {name} FAIL: {}", one_line(error)));
            }
        }
    }

    fn last_word(&self) -> String {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        format!("GUEST DONE passed={passed} failed={failed} skipped={skipped}")
    }
}

/// The programs under test.
fn environment(hooks: Option<String>) -> Env {
    let program = |variable: &str, name: &str| {
        env::var_os(variable).map_or_else(|| beside(name), PathBuf::from)
    };
    Env {
        oomtrace: program("OOMTRACE_BIN", "oomtrace"),
        victim: program("OOMTRACE_VICTIM", "oomtrace-victim"),
        hooks,
        record: None,
    }
}

/// Why the memory controller could not be mounted as cgroup v1. A kernel without that has it as
/// cgroup v2, and does not know its name here.
fn why_not_v1(error: anyhow::Error) -> Result<&'static str> {
    let v2 = read("/sys/fs/cgroup/unified/cgroup.controllers")?;
    let unknown = error.downcast_ref() == Some(&Errno::INVAL);
    if unknown && v2.split(' ').any(|name| name == "memory") {
        return Ok("this kernel has no cgroup v1 memory controller (CONFIG_MEMCG_V1)");
    }
    Err(error)
}

fn place_devices() -> Result<()> {
    // The kernel may have mounted it itself (CONFIG_DEVTMPFS_MOUNT).
    if Path::new("/dev/kmsg").exists() {
        return Ok(());
    }
    place("devtmpfs", "/dev", None)
}

/// Makes 127.0.0.1 reachable.
fn loopback() -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: zeros are a request, without a name and of no flags.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request is what this call wants, and outlives it.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn place(kind: &str, directory: &str, options: Option<&CStr>) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {directory}"))?;
    mount(kind, directory, kind, MountFlags::empty(), options)
        .with_context(|| format!("mounting {kind} on {directory}"))
}

/// `MODULE_INIT_COMPRESSED_FILE` in `include/uapi/linux/module.h`.
const COMPRESSED: i32 = 4;

/// Loads the modules in a folder, in the order of their names. Where the distributor packs them the
/// kernel unpacks them itself (`CONFIG_MODULE_DECOMPRESS`).
fn load(folder: &str) -> Result<()> {
    let mut modules = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    modules.sort();
    for module in modules {
        let mut file = fs::File::open(&module)?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic)?;
        let flags = if &magic == b"\x7fELF" { 0 } else { COMPRESSED };
        rustix::system::finit_module(file, c"", flags)
            .with_context(|| format!("loading {}", module.display()))?;
    }
    Ok(())
}

/// Runs the scenarios of these names, or all. Whether none failed.
fn run_all(names: &[String], hooks: Option<String>, record: bool) -> bool {
    let mut tally = Tally::default();
    let scenarios = match chosen(names) {
        Ok(scenarios) => scenarios,
        Err(error) => {
            tally.note("choice", &Err(error));
            Vec::new()
        }
    };
    let env = environment(hooks);
    say(&format!("MACHINE {}", machine(&env)));
    for scenario in scenarios {
        let name = scenario.name;
        let keep = (record && KEPT.contains(&name)).then(|| Path::new("/tmp").join(name));
        let env = Env {
            record: keep.clone(),
            ..env.clone()
        };
        let ended = scenario.run(&env);
        if let Ok(Outcome::Passed) = ended {
            keep.iter().for_each(|keep| print_record(keep));
        }
        tally.note(name, &ended);
    }
    say(&tally.last_word());
    tally.failed == 0
}

/// Prints what a watch left behind.
fn print_record(keep: &Path) {
    for extension in ["kmsg", "jsonl"] {
        let file = keep.with_extension(extension);
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // The log escapes what is not printable, and JSON is UTF-8.
        let bytes = fs::read(&file).unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes).lines() {
            say(&format!("RECORDED {name} {line}"));
        }
        let _ = fs::remove_file(&file);
    }
}

/// The kernel, and the hooks that the tracer has there: as it says at its end, when it knows which
/// of them never fire.
fn machine(env: &Env) -> Value {
    let release = read("/proc/sys/kernel/osrelease").ok();
    match hooks(env) {
        Ok(hooks) => json!({ "release": release, "hooks": hooks }),
        Err(error) => json!({ "release": release, "error": one_line(&error) }),
    }
}

fn hooks(env: &Env) -> Result<Value> {
    let cgroup = Cgroup::new("machine")?;
    cgroup.limit(24 << 20)?;
    let tracer = Tracer::start(env, &["--heartbeat", "0"])?;
    let mut victim = Victim::start(env, &cgroup, &Look::default(), &["eat"])?;
    victim.go()?;
    victim.dies()?;
    Ok(tracer.stop()?.farewell()?["hooks"].clone())
}

/// The scenarios of these names. Without names all but those that must be asked for.
fn chosen(names: &[String]) -> Result<Vec<Scenario>> {
    let all = scenarios::all();
    if names == ["all"] {
        return Ok(all);
    }
    if let Some(unknown) = names
        .iter()
        .find(|name| !all.iter().any(|known| known.name == **name))
    {
        bail!("no scenario {unknown}");
    }
    let wanted = |scenario: &Scenario| match names {
        [] => scenario.needs != Needs::ToBeAskedFor,
        names => names.iter().any(|name| name == scenario.name),
    };
    Ok(all.into_iter().filter(wanted).collect())
}

/// A program in `/bin`, or where this one is.
fn beside(name: &str) -> PathBuf {
    let installed = Path::new("/bin").join(name);
    if std::process::id() == 1 || installed.exists() {
        return installed;
    }
    env::current_exe().map_or(installed, |guest| guest.with_file_name(name))
}
