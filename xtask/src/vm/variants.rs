//! The variants of a machine that kernels are tried on: one row of the matrix each.

use anyhow::{Result, bail};

use super::kernels::Kernel;

/// A variant of a machine. To add one, add an entry.
///
/// A kernel that cannot play a variant is found out by trying: the guest says why.
pub struct Variant {
    /// What `--variant` calls it.
    pub name: &'static str,
    /// What it shows, in one sentence.
    pub shows: &'static str,
    /// Added to the kernel's command line.
    pub append: &'static str,
    /// Memory of the machine, where it is not the kernel's.
    memory_mib: Option<u32>,
    /// Further options of QEMU.
    options: &'static [&'static str],
    /// The scenarios it is for; none for all.
    pub scenarios: &'static [&'static str],
}

/// What looks different by another hook, or in another hierarchy of cgroups. `--scenario all` plays
/// all there are.
const BY_HOOKS: &[&str] = &[
    "single_process",
    "shared_memory",
    "victim_is_not_the_trigger",
    "files_fill_the_limit",
    "kill_9_is_no_oom_kill",
    "leader_has_exited",
    "mm_sharer",
    "long_names",
    "limit_of_an_ancestor",
    "names_that_imitate_the_log",
    "twenty_die_one_after_another",
    "twenty_die_as_a_group",
    "a_trigger_outlives_its_victims",
    "losses_are_counted",
    "stuck_victim",
    "chosen_task_was_exiting",
    "machine_without_swap",
    "sysrq",
    "allocating_task_dies",
    "group_dies_for_the_machine",
    "cpuset",
];

/// All of them; the first is what is taken where none is asked for.
pub const VARIANTS: &[Variant] = &[
    Variant {
        name: "plain",
        shows: "cgroup v2, and every hook that the kernel has",
        ..DEFAULT
    },
    Variant {
        name: "cgroup-v1",
        shows: "the memory controller in a cgroup v1 hierarchy, with cgroup v2 beside it, as \
                systemd mounts them in its hybrid mode",
        append: "oomtrace.cgroup=v1",
        scenarios: BY_HOOKS,
        ..DEFAULT
    },
    Variant {
        name: "kprobe",
        shows: "the decision by kprobe, where tracing programs are not to be had",
        append: "oomtrace.hooks=kprobe,candidates,outcome,kmsg",
        scenarios: BY_HOOKS,
        ..DEFAULT
    },
    Variant {
        name: "log",
        shows: "raw tracepoints and the kernel log, where the decision cannot be hooked",
        append: "oomtrace.hooks=outcome,kmsg",
        scenarios: BY_HOOKS,
        ..DEFAULT
    },
    Variant {
        name: "raw-tp",
        shows: "raw tracepoints alone",
        append: "oomtrace.hooks=outcome",
        scenarios: BY_HOOKS,
        ..DEFAULT
    },
    Variant {
        name: "no-log",
        shows: "every hook, but not the kernel log",
        append: "oomtrace.hooks=fentry,kprobe,candidates,outcome",
        scenarios: BY_HOOKS,
        ..DEFAULT
    },
    Variant {
        name: "512m",
        shows: "a machine that a few processes can fill",
        memory_mib: Some(512),
        scenarios: &["alive_in_the_storm", "alive_without_protection"],
        ..DEFAULT
    },
    Variant {
        name: "lockdown",
        shows: "a kernel that lets nobody read its memory",
        append: "lockdown=confidentiality",
        scenarios: &["lockdown_is_told_apart"],
        ..DEFAULT
    },
];

const DEFAULT: Variant = Variant {
    name: "",
    shows: "",
    append: "",
    memory_mib: None,
    options: &[],
    scenarios: &[],
};

impl Variant {
    /// The variants of these names.
    pub fn named(names: &[String]) -> Result<Vec<&'static Self>> {
        if names.is_empty() {
            return Ok(VARIANTS.iter().take(1).collect());
        }
        let mut found = Vec::new();
        for name in names {
            if name == "all" {
                return Ok(VARIANTS.iter().collect());
            }
            match VARIANTS.iter().find(|variant| variant.name == name) {
                Some(variant) => found.push(variant),
                None => {
                    let names: Vec<_> = VARIANTS.iter().map(|variant| variant.name).collect();
                    bail!("--variant {name}: none of {}, all", names.join(", "));
                }
            }
        }
        Ok(found)
    }

    /// A kernel on a machine of this variant.
    pub fn of(&self, kernel: &Kernel) -> Kernel {
        let mut kernel = *kernel;
        kernel.memory_mib = self.memory_mib.unwrap_or(kernel.memory_mib);
        kernel.options = self.options;
        kernel
    }
}
