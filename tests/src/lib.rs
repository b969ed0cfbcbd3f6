//! Real kills on a running kernel, seen through the real binary, and compared number by number
//! with the kernel's own report.
//!
//! A [`scenarios::Scenario`] needs nothing but a kernel, the two binaries and root: the same ones
//! run as tests on this machine (`tests/live.rs`) and inside a virtual machine
//! (`oomtrace-guest`). The kernel's report is read by a parser of its own ([`oracle`]), so that
//! a mistake in the product's parser cannot hide itself.

pub mod btf;
pub mod cgroup;
pub mod compare;
pub mod facts;
pub mod held;
pub mod kubernetes;
pub mod machine;
pub mod marks;
pub mod node;
pub mod oracle;
pub mod scenarios;
pub mod schema;
pub mod time;
pub mod tracer;
pub mod victim;
pub mod watch;

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

/// How long anything may take that takes milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Why something is left out, where that may be.
///
/// # Errors
/// Where all that the tests need is there (`OOMTRACE_NO_SKIP`).
pub fn may_skip(why: &str) -> Result<String> {
    ensure!(env::var_os("OOMTRACE_NO_SKIP").is_none(), "{why}");
    Ok(why.to_owned())
}

/// What scenarios run with.
#[derive(Clone, Debug)]
pub struct Env {
    /// The `oomtrace` binary.
    pub oomtrace: PathBuf,
    /// The `oomtrace-victim` binary.
    pub victim: PathBuf,
    /// Passed to the tracer as `--hooks`, to force a lower rung of the ladder.
    pub hooks: Option<String>,
    /// Where a [`watch::Watch`] leaves what it saw: this name with `.kmsg` (the records of the kernel
    /// log) and with `.jsonl` (those of the tracer).
    pub record: Option<PathBuf>,
}

impl Env {
    /// A copy of the `oomtrace` binary that users other than root can reach and run.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn public_copy(&self) -> Result<(tempfile::TempDir, PathBuf)> {
        use std::os::unix::fs::PermissionsExt;
        let everybody = || std::fs::Permissions::from_mode(0o755);
        let directory = tempfile::tempdir().context("a directory for the copy")?;
        std::fs::set_permissions(directory.path(), everybody())?;
        let copy = directory.path().join("oomtrace");
        std::fs::copy(&self.oomtrace, &copy)
            .with_context(|| format!("copying {}", self.oomtrace.display()))?;
        std::fs::set_permissions(&copy, everybody())?;
        Ok((directory, copy))
    }
}

/// Waits until `found` has something; `what` is named when it does not come in time.
///
/// # Errors
/// When nothing came within [`PATIENCE`], or `found` fails.
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found()? {
            return Ok(value);
        }
        if std::time::Instant::now() > deadline {
            bail!("{what}: did not happen within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The text of a small file, without the line end.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

/// Waits for the right to kill: kills and the kernel log belong to the whole machine, so tests take
/// turns, also across processes. It lasts as long as the file is open.
///
/// # Errors
/// When the lock cannot be taken.
pub fn turn() -> Result<File> {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(env::temp_dir().join("oomtrace-live-tests.lock"))
        .context("the lock of the live tests")?;
    flock(&lock, FlockOperation::LockExclusive).context("waiting for other live tests")?;
    Ok(lock)
}

/// The program: what `OOMTRACE_BIN` names, else built as these tests were.
///
/// # Errors
/// When it does not build.
pub fn program(victim: &Path) -> Result<PathBuf> {
    env::var_os("OOMTRACE_BIN").map_or_else(|| build(victim), |path| Ok(path.into()))
}

/// Builds the program as these tests were built: same profile, same place.
fn build(victim: &Path) -> Result<PathBuf> {
    let directory = victim.parent().context("where binaries are")?;
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => bail!("{} tells no profile", directory.display()),
    };
    let target = directory.parent().context("the target directory")?;
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "oomtrace",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("running cargo")?;
    ensure!(
        status.success(),
        "building oomtrace: cargo ended with {status}"
    );
    Ok(directory.join("oomtrace"))
}
