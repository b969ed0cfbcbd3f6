//! The machines that are emulated, and one boot of one: from the start of QEMU to the guest's last
//! word.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{kernels::Kernel, results::Cell};
use crate::{install::Need, sh};

/// A guest that says nothing for so long hangs: a scenario may run out of patience several times.
const STALL: Duration = Duration::from_secs(300);
/// A guest that takes longer than this is broken, whatever it says.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Size of the disk to swap to: soon full, so that memory then runs out.
const DISK_BYTES: u64 = 96 << 20;

/// A kind of machine.
pub struct Machine {
    /// Debian's name of the architecture.
    pub debian: &'static str,
    /// Rust's name of the target.
    pub target: &'static str,
    /// The emulator, and the package that has it.
    pub qemu: &'static str,
    /// Which board and processor it shall be.
    options: &'static [&'static str],
    /// The console on its serial line.
    console: &'static str,
    /// Links programs for it.
    pub linker: &'static str,
    /// What it takes to emulate it and to build for it.
    pub needs: &'static [Need],
}

/// A PC.
pub const X86_64: Machine = Machine {
    debian: "amd64",
    target: "x86_64-unknown-linux-gnu",
    qemu: "qemu-system-x86_64",
    options: &[],
    console: "ttyS0",
    linker: "cc",
    needs: &[Need {
        package: "qemu-system-x86",
        has: "qemu-system-x86_64",
    }],
};

/// QEMU's own board of 64-bit Arm.
pub const AARCH64: Machine = Machine {
    debian: "arm64",
    target: "aarch64-unknown-linux-gnu",
    qemu: "qemu-system-aarch64",
    // The pointer authentication that Arm specifies takes most of the emulator's time.
    options: &["-M", "virt", "-cpu", "max,pauth-impdef=on"],
    console: "ttyAMA0",
    linker: "aarch64-linux-gnu-gcc",
    needs: &[
        Need {
            package: "qemu-system-arm",
            has: "qemu-system-aarch64",
        },
        Need {
            package: "gcc-aarch64-linux-gnu",
            has: "aarch64-linux-gnu-gcc",
        },
        Need {
            package: "libc6-dev-arm64-cross",
            has: "/usr/aarch64-linux-gnu/lib/libc.a",
        },
    ],
};

/// What the guest counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Scenarios that went well.
    pub passed: usize,
    /// Scenarios that did not.
    pub failed: usize,
    /// Scenarios that this kernel cannot play.
    pub skipped: usize,
}

/// A line of the guest's protocol.
#[derive(Debug, PartialEq, Eq)]
enum Word<'a> {
    /// What the machine is.
    Machine(Value),
    /// How a scenario went: its name and the rest.
    Scenario(&'a str, &'a str),
    /// A line of a file to keep.
    Recorded(&'a str, &'a str),
    /// The guest is through.
    Done(Tally),
    /// The kernel is not well.
    Panic,
}

/// Boots a kernel and follows the guest; what it says on the serial line is kept in `log`, and what
/// came of it noted in `cell`.
pub fn boot(
    kernel: &Kernel,
    image: &Path,
    initramfs: &Path,
    append: &str,
    log: &Path,
    cell: &mut Cell,
) -> Result<Tally> {
    let machine = kernel.machine;
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let swap = Scratch(log.with_extension("disk"));
    let mut command = Command::new(machine.qemu);
    command
        // KVM is not taken even where it is: nested, stock kernels have been seen to hang on it.
        .args([
            "-accel",
            "tcg",
            "-smp",
            "2",
            "-nographic",
            "-no-reboot",
            // Nor a network card, whose firmware would have to be there.
            "-nic",
            "none",
        ])
        .args(memory(kernel.memory_mib))
        .args(disk(&swap.0)?)
        .args(machine.options)
        .args(kernel.options)
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-append")
        .arg(format!(
            "console={} panic=-1 quiet {} {append}",
            machine.console, kernel.append
        ));
    let mut copy = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    writeln!(copy, "$ {}", sh::show(&command))?;
    let mut qemu = Emulator(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(copy.try_clone()?))
            .spawn()
            .with_context(|| format!("starting {}", machine.qemu))?,
    );
    let serial = qemu.0.stdout.take().context("QEMU has no output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(serial).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });

    let began = Instant::now();
    let mut last = began;
    let mut done = None;
    loop {
        let line = match lines.recv_timeout(STALL.min(TIMEOUT.saturating_sub(began.elapsed()))) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if began.elapsed() >= TIMEOUT => {
                bail!("no end after {} s", TIMEOUT.as_secs())
            }
            Err(RecvTimeoutError::Timeout) => bail!("no output for {} s", STALL.as_secs()),
        };
        copy.write_all(&line)?;
        copy.write_all(b"\n")?;
        match parse(String::from_utf8_lossy(&line).trim()) {
            Some(Word::Machine(told)) => {
                cell.machine = Some(told);
                last = Instant::now();
            }
            Some(Word::Scenario(name, how)) => {
                let seconds = last.elapsed().as_secs_f32();
                println!("  {name:<32} {seconds:>6.1} s  {how}");
                cell.note(name, how, seconds);
                last = Instant::now();
            }
            Some(Word::Recorded(file, line)) => cell.record(file, line),
            Some(Word::Done(tally)) => done = Some(tally),
            Some(Word::Panic) => bail!("{}", String::from_utf8_lossy(&line).trim()),
            None => {}
        }
    }
    let status = qemu.0.wait()?;
    done.with_context(|| format!("the machine stopped before the guest was through ({status})"))
}

/// Two memory nodes with a processor each, so that memory can run out in one of them.
fn memory(mib: u32) -> Vec<String> {
    let half = mib / 2;
    let mut options = vec!["-m".to_owned(), (2 * half).to_string()];
    for node in 0..2 {
        options.extend([
            "-object".to_owned(),
            format!("memory-backend-ram,id=memory{node},size={half}M"),
            "-numa".to_owned(),
            format!("node,nodeid={node},cpus={node},memdev=memory{node}"),
        ]);
    }
    options
}

/// An empty disk to swap to. NVMe, because most of the kernels have that driver built in.
fn disk(file: &Path) -> Result<[String; 4]> {
    File::create(file)
        .and_then(|file| file.set_len(DISK_BYTES))
        .with_context(|| format!("creating {}", file.display()))?;
    Ok([
        "-drive".to_owned(),
        format!("if=none,id=disk,format=raw,file={}", file.display()),
        "-device".to_owned(),
        "nvme,drive=disk,serial=oomtrace".to_owned(),
    ])
}

/// A file that does not outlive us.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Does not outlive us.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads a line of the serial console. Firmware may have left escape sequences before a word, and
/// the kernel puts its messages anywhere but within a write.
fn parse(line: &str) -> Option<Word<'_>> {
    if line.contains("Kernel panic - not syncing") {
        return Some(Word::Panic);
    }
    if let Some((_, rest)) = line.split_once("GUEST DONE ") {
        let count = |name: &str| {
            let mut words = rest.split_whitespace();
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        };
        return Some(Word::Done(Tally {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("skipped")?,
        }));
    }
    if let Some((_, told)) = line.split_once("MACHINE ") {
        return serde_json::from_str(told).ok().map(Word::Machine);
    }
    if let Some((_, rest)) = line.split_once("RECORDED ") {
        let (file, line) = rest.split_once(' ')?;
        return Some(Word::Recorded(file, line));
    }
    let (_, rest) = line.split_once("SCENARIO ")?;
    let (name, how) = rest.split_once(' ')?;
    ["ok", "skip", "FAIL"]
        .iter()
        .any(|word| how.starts_with(word))
        .then_some(Word::Scenario(name, how))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The guest's protocol is understood, and nothing else is taken for it.
    #[test]
    fn protocol() {
        assert_eq!(
            parse("SCENARIO single ok"),
            Some(Word::Scenario("single", "ok"))
        );
        assert_eq!(
            parse("\u{1b}[2JSCENARIO group FAIL: pid 3, not 4"),
            Some(Word::Scenario("group", "FAIL: pid 3, not 4"))
        );
        assert_eq!(
            parse("GUEST DONE passed=3 failed=1 skipped=2"),
            Some(Word::Done(Tally {
                passed: 3,
                failed: 1,
                skipped: 2
            }))
        );
        assert_eq!(
            parse("RECORDED a.kmsg 6,1,2,-;a b"),
            Some(Word::Recorded("a.kmsg", "6,1,2,-;a b"))
        );
        assert_eq!(
            parse("[ 1.0] Kernel panic - not syncing: x"),
            Some(Word::Panic)
        );
        assert_eq!(
            parse("\rMACHINE {\"release\":\"6.1\"}"),
            Some(Word::Machine(serde_json::json!({ "release": "6.1" })))
        );
        assert_eq!(parse("MACHINE {"), None);
        assert_eq!(parse("GUEST DONE passed=x failed=1 skipped=2"), None);
        assert_eq!(parse("SCENARIO single begins"), None);
        assert_eq!(parse("[    0.5] random: crng init done"), None);
    }
}
