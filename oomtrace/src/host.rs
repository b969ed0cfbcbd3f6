//! What this machine and this process are: read once, told by `doctor`, and asked when the kernel
//! refuses something.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    str::FromStr,
    sync::OnceLock,
};

use rustix::{
    process::{Resource, getrlimit},
    system::uname,
    thread::CapabilitySet,
};
use serde::Serialize;

use crate::event::{After, Node, boottime_ns};

/// Capabilities, by the feature that needs them.
const NEEDED: [(CapabilitySet, &str, &str); 3] = [
    (CapabilitySet::BPF, "CAP_BPF", "to load eBPF programs"),
    (
        CapabilitySet::PERFMON,
        "CAP_PERFMON",
        "to attach them and to let them read kernel memory",
    ),
    (
        CapabilitySet::SYSLOG,
        "CAP_SYSLOG",
        "to read the kernel log",
    ),
];

/// What the eBPF maps take, with room to spare.
const ENOUGH_LOCKED_BYTES: u64 = 16 << 20;

/// Facts about the machine and this process.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// `uname -r`.
    pub kernel: Option<String>,
    /// `uname -m`.
    pub architecture: Option<String>,
    /// Whether the kernel shows its BTF.
    pub btf: bool,
    /// The active mode of kernel lockdown: `none`, `integrity`, `confidentiality`; `None` where
    /// securityfs does not tell.
    pub lockdown: Option<String>,
    /// Whether a seccomp filter limits this process.
    pub seccomp: bool,
    /// Capabilities this process lacks, of those oomtrace uses.
    pub missing_capabilities: Vec<&'static str>,
    /// Whether this process may raise its limits (`CAP_SYS_RESOURCE`).
    pub may_raise_limits: bool,
    /// Where tracefs is mounted.
    pub tracefs: Option<&'static str>,
    /// Which hierarchy has the memory controller.
    pub memory_controller: MemoryController,
    /// `kernel.dmesg_restrict`.
    pub dmesg_restrict: Option<bool>,
    /// `vm.oom_dump_tasks`: whether the kernel's report has the task table.
    pub oom_dump_tasks: Option<bool>,
    /// `vm.panic_on_oom`.
    pub panic_on_oom: Option<u8>,
}

/// Which hierarchy has the memory controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryController {
    /// cgroup v1 alone.
    V1,
    /// cgroup v2.
    V2,
    /// cgroup v2 is mounted, but memory is with v1.
    Hybrid,
    /// None is mounted.
    None,
}

impl Host {
    /// Looks around.
    pub fn read() -> Self {
        let name = uname();
        let text = |value: &std::ffi::CStr| value.to_str().ok().map(str::to_owned);
        let effective = rustix::thread::capabilities(None)
            .map_or_else(|_| CapabilitySet::empty(), |sets| sets.effective);
        Self {
            kernel: text(name.release()),
            architecture: text(name.machine()),
            btf: Path::new(crate::btf::VMLINUX).exists(),
            lockdown: line("/sys/kernel/security/lockdown").and_then(|modes| bracketed(&modes)),
            seccomp: status_field("Seccomp").is_some_and(|mode| mode != "0"),
            missing_capabilities: NEEDED
                .iter()
                // CAP_SYS_ADMIN includes the three.
                .filter(|(capability, ..)| {
                    !effective.intersects(*capability | CapabilitySet::SYS_ADMIN)
                })
                .map(|(_, name, _)| *name)
                .collect(),
            may_raise_limits: effective.contains(CapabilitySet::SYS_RESOURCE),
            tracefs: ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
                .into_iter()
                .find(|path| Path::new(path).join("events").exists()),
            memory_controller: memory_controller(),
            dmesg_restrict: line("/proc/sys/kernel/dmesg_restrict").map(|value| value != "0"),
            oom_dump_tasks: line("/proc/sys/vm/oom_dump_tasks").map(|value| value != "0"),
            panic_on_oom: line("/proc/sys/vm/panic_on_oom").and_then(|value| value.parse().ok()),
        }
    }

    /// The kernel's release, for messages.
    pub fn kernel_or_unknown(&self) -> &str {
        self.kernel.as_deref().unwrap_or("(unknown)")
    }

    /// Why the kernel would refuse eBPF to this process, and what to do about it; `None` when
    /// nothing here explains it.
    pub fn why_refused(&self) -> Option<String> {
        let mut missing: Vec<_> = NEEDED
            .iter()
            .filter(|(_, name, _)| self.missing_capabilities.contains(name))
            .collect();
        if missing.iter().any(|(_, name, _)| *name != "CAP_SYSLOG") {
            missing.retain(|(_, name, _)| *name != "CAP_SYSLOG");
            let mut advice = String::from("this process lacks");
            for (index, (_, name, purpose)) in missing.iter().enumerate() {
                let joint = if index == 0 { "" } else { " and" };
                let _ = write!(advice, "{joint} {name} ({purpose})");
            }
            advice.push_str(
                "\nrun it as root, or grant them to the program:\n  \
                 sudo setcap cap_bpf,cap_perfmon,cap_syslog=ep \"$(command -v oomtrace)\"",
            );
            return Some(advice);
        }
        let mut advice = Vec::new();
        if self.seccomp {
            advice.push(
                "a seccomp filter limits this process, and may forbid bpf(2)\nin a container, allow \
                 that system call in its seccomp profile",
            );
        }
        let locked = getrlimit(Resource::Memlock).current;
        if !self.may_raise_limits && locked.is_some_and(|bytes| bytes < ENOUGH_LOCKED_BYTES) {
            advice.push(
                "kernels before 5.11 count eBPF maps against the limit on locked memory, which is \
                 low here\nraise it (`ulimit -l unlimited`), or grant CAP_SYS_RESOURCE, too",
            );
        }
        (!advice.is_empty()).then(|| advice.join("\nor "))
    }

    /// Why the kernel would not let eBPF programs read its memory, and what to do about it.
    pub fn why_unreadable(&self) -> String {
        let why = if self.lockdown.as_deref() == Some("confidentiality") {
            "kernel lockdown is in confidentiality mode, which forbids eBPF to read kernel memory"
        } else {
            "this kernel does not let eBPF read kernel memory, as in the confidentiality mode of \
             kernel lockdown"
        };
        format!("{why}\nboot with lockdown=integrity, or read the kernel log instead")
    }
}

/// What every event says of the machine.
pub fn node() -> Node {
    let name = uname();
    let text = |value: &std::ffi::CStr| value.to_str().ok().map(str::to_owned);
    let (memory_bytes, swap_bytes) = memory_sizes();
    Node {
        hostname: text(name.nodename()),
        machine_id: line("/etc/machine-id").filter(|id| !id.is_empty()),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        kernel: text(name.release()),
        memory_bytes: Some(memory_bytes),
        swap_bytes: Some(swap_bytes),
        k8s_node_name: None,
    }
}

/// Memory the kernel manages and swap space, in bytes: `totalram_pages` and `total_swap_pages`,
/// from which the OOM killer computes.
pub fn memory_sizes() -> (u64, u64) {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    (info.totalram as u64 * unit, info.totalswap as u64 * unit)
}

/// The kernel's count of OOM kills: `oom_kill` in `/proc/vmstat`.
pub fn vmstat_oom_kills() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

/// A random name (`/proc/sys/kernel/random/uuid`).
///
/// # Errors
/// When `/proc` is not mounted.
pub fn random_uuid() -> io::Result<String> {
    const FILE: &str = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(FILE)
        .map_err(|error| io::Error::new(error.kind(), format!("{FILE}: {error}")))?;
    Ok(text.trim_end().to_owned())
}

/// Resident memory of this process.
pub fn resident_bytes() -> Option<u64> {
    kilobytes(&status_field("VmRSS")?)
}

/// The bytes of a size as `/proc` prints it: `    1764 kB`.
pub(crate) fn kilobytes(size: &str) -> Option<u64> {
    let number = size.strip_suffix(" kB")?.trim();
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// A field of a line of pressure: `some avg10=0.01 avg60=6.02 avg300=5.59 total=32641813`
/// (`psi_show`, kernel/sched/psi.c).
pub(crate) fn pressure<T: FromStr>(line: &str, name: &str) -> Option<T> {
    line.split(' ')
        .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))?
        .parse()
        .ok()
}

/// The machine's memory at this moment; `None` where `/proc` tells nothing of it.
///
/// The files stay open: to open them, and to read them for the first time, the kernel needs memory,
/// which there may be none of. Call this once before any is short.
pub fn after() -> Option<After> {
    static FILES: OnceLock<[Option<File>; 2]> = OnceLock::new();
    let [pressure, meminfo] = FILES.get_or_init(|| {
        ["/proc/pressure/memory", "/proc/meminfo"].map(|path| File::open(path).ok())
    });
    let mut after = After::default();
    // Two lines of less than 80 bytes.
    let mut buffer = [0; 256];
    read_pressure(front(pressure.as_ref(), &mut buffer), &mut after);
    // What is wanted stands in the first 600 bytes, in some 20 lines of 28.
    let mut buffer = [0; 1024];
    read_meminfo(front(meminfo.as_ref(), &mut buffer), &mut after);
    (after != After::default()).then(|| After {
        boottime_ns: Some(boottime_ns().to_string()),
        ..after
    })
}

/// The whole lines at the front of a file.
fn front<'a>(file: Option<&File>, buffer: &'a mut [u8]) -> &'a str {
    let read = file.and_then(|file| file.read_at(buffer, 0).ok());
    let text = buffer.get(..read.unwrap_or(0)).unwrap_or_default();
    let end = memchr::memrchr(b'\n', text).unwrap_or(0);
    std::str::from_utf8(&text[..end]).unwrap_or_default()
}

/// Reads `/proc/pressure/memory`: a line of `some` and one of `full`.
fn read_pressure(text: &str, after: &mut After) {
    for line in text.lines() {
        if line.starts_with("some ") {
            after.psi_some_avg10 = pressure(line, "avg10");
        } else if line.starts_with("full ") {
            after.psi_full_avg10 = pressure(line, "avg10");
            after.psi_full_total_us = pressure(line, "total");
        }
    }
}

/// Reads `MemFree:  16861264 kB` and its kind (`meminfo_proc_show`, fs/proc/meminfo.c).
fn read_meminfo(text: &str, after: &mut After) {
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let slot = match name {
            "MemFree" => &mut after.mem_free_bytes,
            "MemAvailable" => &mut after.mem_available_bytes,
            "SwapFree" => &mut after.swap_free_bytes,
            _ => continue,
        };
        *slot = kilobytes(value);
    }
}

fn status_field(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    text.lines().find_map(|line| {
        Some(
            line.strip_prefix(name)?
                .strip_prefix(':')?
                .trim()
                .to_owned(),
        )
    })
}

fn line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

/// The word in brackets: the chosen one of a list that the kernel shows.
fn bracketed(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn memory_controller() -> MemoryController {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let (mut v1, mut v2, mut v2_mounted) = (false, false, false);
    for mount in mounts.lines() {
        let mut fields = mount.split(' ');
        let (place, kind, options) = (fields.nth(1), fields.next(), fields.next());
        match kind {
            Some("cgroup") => {
                v1 |= options.is_some_and(|list| list.split(',').any(|name| name == "memory"));
            }
            Some("cgroup2") => {
                v2_mounted = true;
                v2 |= place
                    .and_then(|place| line(&format!("{place}/cgroup.controllers")))
                    .is_some_and(|list| list.split(' ').any(|name| name == "memory"));
            }
            _ => {}
        }
    }
    match (v1, v2, v2_mounted) {
        (true, _, true) => MemoryController::Hybrid,
        (true, _, false) => MemoryController::V1,
        (false, true, _) => MemoryController::V2,
        (false, false, _) => MemoryController::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this machine says of its memory, twice: the second time from the files that stayed open.
    #[test]
    fn memory_after() {
        for _ in 0..2 {
            let (total, _) = memory_sizes();
            let after = after().unwrap_or_default();
            assert!(after.mem_free_bytes.is_some_and(|free| free < total));
            assert!(after.mem_available_bytes.is_some_and(|free| free < total));
            assert!(after.swap_free_bytes.is_some() && after.boottime_ns.is_some());
        }
    }

    /// Both lines of the pressure file, and the file of a kernel that shows less.
    #[test]
    fn pressure() {
        let mut after = After::default();
        read_pressure(
            "some avg10=12.34 avg60=6.02 avg300=5.59 total=32641813\n\
             full avg10=0.00 avg60=1.42 avg300=1.65 total=12848023",
            &mut after,
        );
        let expected = After {
            psi_some_avg10: Some(12.34),
            psi_full_avg10: Some(0.0),
            psi_full_total_us: Some(12_848_023),
            ..After::default()
        };
        assert_eq!(after, expected);
        let mut after = After::default();
        read_pressure("some avg10= total=x\nother avg10=1.00", &mut after);
        assert_eq!(after, After::default());
    }

    /// Exact names and units only.
    #[test]
    fn meminfo() {
        let mut after = After::default();
        read_meminfo(
            "MemTotal:       24684084 kB\nMemFree:        16861264 kB\nMemFreeX: 1 kB\n\
             MemAvailable:   23664392\nSwapFree:              0 kB",
            &mut after,
        );
        let expected = After {
            mem_free_bytes: Some(16_861_264 << 10),
            swap_free_bytes: Some(0),
            ..After::default()
        };
        assert_eq!(after, expected);
    }
}
