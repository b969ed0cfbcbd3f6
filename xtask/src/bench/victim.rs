//! Processes to be killed, and the memory cgroup they are killed in.

use std::{
    fs,
    hint::black_box,
    io::{PipeReader, Read},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

/// Small, so that a victim dies soon.
const LIMIT_BYTES: usize = 8 << 20;
/// Where a victim gives up, should there be no limit.
const APPETITE_BYTES: usize = 64 << 20;

/// The victim's own code: waits until standard input ends, then takes memory until killed.
pub fn eat() -> Result<()> {
    const BITE_BYTES: usize = 64 << 10;
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .context("waiting to be let go")?;
    let mut memory = Vec::new();
    for _ in 0..APPETITE_BYTES / BITE_BYTES {
        memory.push(black_box(vec![1_u8; BITE_BYTES]));
    }
    bail!("took {APPETITE_BYTES} bytes and was not killed")
}

/// A process that waits for the other end of its pipe to close, and is then killed.
pub struct Victim(Child);

impl Victim {
    /// Starts one in the cgroup.
    pub fn start(cgroup: &Cgroup, wait: PipeReader) -> Result<Self> {
        let victim = Self(
            Command::new("/proc/self/exe")
                .args(["bench", "--victim"])
                .stdin(wait)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("starting a victim")?,
        );
        let procs = cgroup.0.join("cgroup.procs");
        fs::write(&procs, victim.0.id().to_string())
            .with_context(|| format!("writing {}", procs.display()))?;
        Ok(victim)
    }

    /// Whether it is gone.
    pub fn is_gone(&mut self) -> Result<bool> {
        Ok(self.0.try_wait().context("asking for a victim")?.is_some())
    }

    /// Waits for its end.
    pub fn bury(mut self) -> Result<()> {
        let status = self.0.wait().context("waiting for a victim")?;
        if status.signal() != Some(Signal::KILL.as_raw()) {
            bail!("a victim was not killed but ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // No effect on one that was buried.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A memory cgroup with a small limit, made for the bench.
pub struct Cgroup(PathBuf);

/// What it is below.
const OUTERMOST: &str = "oomtrace-bench-";

impl Cgroup {
    /// Makes it.
    pub fn new() -> Result<Self> {
        Self::below(&[])
    }

    /// Makes one inside of others with these names.
    pub fn below(names: &[&str]) -> Result<Self> {
        let (root, limit) = hierarchy()?;
        let outermost = format!("{OUTERMOST}{}-{}", std::process::id(), names.len());
        let mut cgroup = Self(root);
        for name in std::iter::once(&*outermost).chain(names.iter().copied()) {
            // Of cgroup v2; the other has no such file.
            let _ = fs::write(cgroup.0.join("cgroup.subtree_control"), "+memory");
            let directory = cgroup.0.join(name);
            fs::create_dir(&directory)
                .with_context(|| format!("making the cgroup {}", directory.display()))?;
            cgroup.0 = directory;
        }
        fs::write(cgroup.0.join(limit), LIMIT_BYTES.to_string())
            .with_context(|| format!("setting {limit} of {}", cgroup.0.display()))?;
        // Where there is swap, victims must not go there.
        let _ = fs::write(cgroup.0.join("memory.swap.max"), "0");
        let _ = fs::write(
            cgroup.0.join("memory.memsw.limit_in_bytes"),
            LIMIT_BYTES.to_string(),
        );
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A dying process leaves its cgroup a moment later.
        for _ in 0..100 {
            while fs::remove_dir(&self.0).is_ok() {
                let name = self.0.file_name().unwrap_or_default();
                if name.as_encoded_bytes().starts_with(OUTERMOST.as_bytes()) || !self.0.pop() {
                    return;
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The root of the hierarchy with the memory controller, and the name of the limit there.
fn hierarchy() -> Result<(PathBuf, &'static str)> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|mount| {
            let fields: Vec<_> = mount.split(' ').collect();
            let [_, place, kind, options, ..] = fields[..] else {
                return None;
            };
            let place = Path::new(place);
            let has = |list: &str| list.split([',', ' ', '\n']).any(|name| name == "memory");
            match kind {
                "cgroup" if has(options) => Some((place.to_owned(), "memory.limit_in_bytes")),
                "cgroup2" if has(&fs::read_to_string(place.join("cgroup.controllers")).ok()?) => {
                    Some((place.to_owned(), "memory.max"))
                }
                _ => None,
            }
        })
        .context("no cgroup hierarchy with the memory controller is mounted")
}

/// The kernel's count of its kills.
pub fn counted() -> Result<u64> {
    fs::read_to_string("/proc/vmstat")
        .context("/proc/vmstat")?
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
        .context("/proc/vmstat has no oom_kill")
}
