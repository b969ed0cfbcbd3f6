//! `cargo xtask demo`: one kill, from its cause to the record of it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::sh;

/// What the eater is killed at.
const LIMIT: &str = "64M";
/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// `--help` tells.
#[derive(clap::Args)]
pub struct Args {}

/// Shows it.
pub fn run(_: &Args) -> Result<()> {
    ensure!(
        rustix::process::getuid().is_root(),
        "the demo makes a cgroup and traces: run it as root"
    );
    sh::run(sh::cargo().args(["build", "--release", "--locked", "-p", "oomtrace"]))?;
    let program = sh::target().join("release/oomtrace");

    println!("$ oomtrace trace &");
    let mut pretty = Tracer::start(&program, "pretty")?;
    let mut json = Tracer::start(&program, "json")?;
    let cgroup = Cgroup::new()?;

    println!(
        "\na memory cgroup of {LIMIT} with a bystander (sleep) and an eater (tail /dev/zero)\n"
    );
    let _bystander = cgroup.start("sleep 60")?;
    let mut eater = cgroup.start("tail /dev/zero")?;
    wait(|| Ok(eater.0.try_wait()?.is_some())).context("the eater was not killed")?;

    print!("{}", pretty.finish()?);
    println!("\nthe same as JSON:\n");
    let text = json.finish()?;
    let is_kill = |line: &&str| {
        serde_json::from_str::<Value>(line).is_ok_and(|event| event["kind"] == "oom_kill")
    };
    text.lines()
        .filter(is_kill)
        .for_each(|line| println!("{line}"));
    Ok(())
}

/// A process that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `oomtrace trace`, attached, until its first kill.
struct Tracer {
    process: Running,
    output: thread::JoinHandle<String>,
}

impl Tracer {
    fn start(program: &Path, format: &str) -> Result<Self> {
        let mut process = Running(
            Command::new(program)
                .args([
                    "trace",
                    "--format",
                    format,
                    "--max-events",
                    "1",
                    "--duration",
                    "60s",
                ])
                .args(["--heartbeat", "0"])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| format!("starting {}", program.display()))?,
        );
        let stdout = process.0.stdout.take().context("it has no output")?;
        let output = thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.map(|line| line + "\n").collect()
        });
        let stderr = process.0.stderr.take().context("it has no messages")?;
        let mut messages = BufReader::new(stderr).lines().map_while(Result::ok);
        let mut said = Vec::new();
        loop {
            let Some(line) = messages.next() else {
                bail!("oomtrace trace ended at once:\n{}", said.join("\n"));
            };
            let attached = line.contains("watching kernel");
            said.push(line);
            if attached {
                break;
            }
        }
        // What it says later must not block it.
        thread::spawn(move || messages.for_each(drop));
        Ok(Self { process, output })
    }

    fn finish(&mut self) -> Result<String> {
        wait(|| Ok(self.process.0.try_wait()?.is_some())).context("the kill was not seen")?;
        let output = std::mem::replace(&mut self.output, thread::spawn(String::new));
        output.join().ok().context("reading its output")
    }
}

/// A memory cgroup of our own, v1 or v2.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Result<Self> {
        let name = format!("oomtrace-demo-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory");
        if v1.join("memory.limit_in_bytes").exists() {
            let cgroup = Self(v1.join(name));
            fs::create_dir(&cgroup.0).with_context(|| format!("making {}", cgroup.0.display()))?;
            cgroup.set("memory.limit_in_bytes", LIMIT)?;
            return Ok(cgroup);
        }
        let v2 = Path::new("/sys/fs/cgroup");
        // Already so wherever there is an init system.
        let _ = fs::write(v2.join("cgroup.subtree_control"), "+memory");
        let cgroup = Self(v2.join(name));
        fs::create_dir(&cgroup.0).with_context(|| format!("making {}", cgroup.0.display()))?;
        cgroup.set("memory.max", LIMIT)?;
        Ok(cgroup)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let file = self.0.join(file);
        fs::write(&file, value).with_context(|| format!("writing {value} to {}", file.display()))
    }

    /// Starts a shell command that is in the cgroup from its first page on.
    fn start(&self, command: &str) -> Result<Running> {
        let mut child = Running(
            Command::new("sh")
                .args(["-c", &format!("read -r go; exec {command}")])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()?,
        );
        self.set("cgroup.procs", &child.0.id().to_string())?;
        child
            .0
            .stdin
            .take()
            .context("the shell has no input")?
            .write_all(b"\n")?;
        Ok(child)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Those who were in it may not be gone for a moment yet.
        let _ = wait(|| Ok(fs::remove_dir(&self.0).is_ok()));
    }
}

/// Waits until something is so.
fn wait(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(
            Instant::now() < deadline,
            "not within {} s",
            PATIENCE.as_secs()
        );
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
