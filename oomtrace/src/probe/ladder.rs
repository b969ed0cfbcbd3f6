//! The hook ladder: which hooks there are, what each adds, and how far up this kernel lets us.

use std::{error::Error, fmt::Write as _, io, str::FromStr};

use aya::{
    Btf, Ebpf,
    programs::{FEntry, FExit, KProbe, ProgramError, RawTracePoint},
};
use aya_obj::btf::{BtfType, Func, FuncLinkage};

use super::{ProbeError, object};
use crate::{btf::FunctionFacts, event::Hook, host::Host};

/// The groups of hooks that `--hooks` names, with what they are.
const GROUPS: [(&str, &str); 6] = [
    ("raw_tp", "the victim (always on)"),
    ("fentry", "the decision, by fentry and fexit"),
    (
        "kprobe",
        "the decision, by kprobe, where fentry is not to be had",
    ),
    (
        "candidates",
        "every candidate, with the kernel's own points",
    ),
    ("outcome", "when the victim was gone"),
    ("kmsg", "the kernel's own report, from /dev/kmsg"),
];

/// The hooks that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookSet {
    bits: u8,
}

impl HookSet {
    /// Every hook.
    pub const ALL: Self = Self { bits: 0b11_1111 };

    /// Whether the group of this name may be used.
    pub fn has(self, group: &str) -> bool {
        GROUPS
            .iter()
            .position(|(name, _)| *name == group)
            .is_some_and(|index| self.bits & (1 << index) != 0)
    }

    /// The names `--hooks` takes, with what they are.
    pub const fn groups() -> &'static [(&'static str, &'static str)] {
        &GROUPS
    }
}

/// `--hooks` named something else.
#[derive(Debug, thiserror::Error)]
#[error("no hook is called {0:?}; there are: {list}", list = GROUPS.map(|(name, _)| name).join(", "))]
pub struct UnknownHook(String);

impl FromStr for HookSet {
    type Err = UnknownHook;

    fn from_str(list: &str) -> Result<Self, UnknownHook> {
        let mut bits = 1;
        for wanted in list.split(',').map(str::trim) {
            if wanted == "all" {
                return Ok(Self::ALL);
            }
            let index = GROUPS
                .iter()
                .position(|(name, _)| *name == wanted)
                .ok_or_else(|| UnknownHook(wanted.to_owned()))?;
            bits |= 1 << index;
        }
        Ok(Self { bits })
    }
}

/// `EPERM`: a right is missing. Of a verifier's refusal the kernel says `EACCES` or `EINVAL`.
const EPERM: i32 = 1;

/// How a program is attached.
#[derive(Clone, Copy)]
enum Attach {
    RawTracePoint,
    FEntry,
    FExit,
    KProbe,
    KRetProbe,
}

impl Attach {
    /// As in `source.hooks`.
    const fn prefix(self) -> &'static str {
        match self {
            Self::RawTracePoint => "raw_tp",
            Self::FEntry => "fentry",
            Self::FExit => "fexit",
            Self::KProbe => "kprobe",
            Self::KRetProbe => "kretprobe",
        }
    }
}

/// One hook: a program of the object and where it goes.
#[derive(Clone, Copy)]
struct Rung {
    attach: Attach,
    /// The program's name in the object.
    program: &'static str,
    /// The kernel function or tracepoint.
    target: &'static str,
    adds: &'static str,
}

impl Rung {
    const fn new(
        attach: Attach,
        program: &'static str,
        target: &'static str,
        adds: &'static str,
    ) -> Self {
        Self {
            attach,
            program,
            target,
            adds,
        }
    }

    fn fact(&self, reason: Option<String>) -> Hook {
        Hook {
            name: format!("{}:{}", self.attach.prefix(), self.target),
            attached: reason.is_none(),
            adds: self.adds.to_owned(),
            reason,
        }
    }
}

const VICTIM: Rung = Rung::new(
    Attach::RawTracePoint,
    "mark_victim",
    "mark_victim",
    "the victim and the trigger",
);
const SIGNAL: Rung = Rung::new(
    Attach::RawTracePoint,
    "signal_generate",
    "signal_generate",
    "whether it was a kill or only a mark",
);
/// Where the decision is hooked, that tells as much, and sooner.
const REPORT: Rung = Rung::new(
    Attach::RawTracePoint,
    "console",
    "console",
    "that the kernel begins to print its report, so that it is read meanwhile",
);
/// Not a rung but its ground: learns where processors keep their parts of counters.
const CPU_OFFSETS: Rung = Rung::new(
    Attach::RawTracePoint,
    "learn_cpu_offsets",
    "signal_generate",
    "the parts of memory counters that processors keep",
);
const OUTCOME: [Rung; 4] = [
    Rung::new(
        Attach::RawTracePoint,
        "sched_process_exit",
        "sched_process_exit",
        "when the victim was gone",
    ),
    Rung::new(
        Attach::RawTracePoint,
        "start_task_reaping",
        "start_task_reaping",
        "that the OOM reaper began",
    ),
    Rung::new(
        Attach::RawTracePoint,
        "finish_task_reaping",
        "finish_task_reaping",
        "that the OOM reaper freed the memory",
    ),
    Rung::new(
        Attach::RawTracePoint,
        "skip_task_reaping",
        "skip_task_reaping",
        "that the OOM reaper had nothing to free",
    ),
];

const DECISION: &str = "constraint, limit, usage and points of the decision";
const DECISION_END: &str = "that all victims of the decision are known";
const SCORE: &str = "every candidate with the kernel's own points";
const SCORE_BEGIN: &str = "where the scoring of candidates begins";

const FENTRY_DECISION: [Rung; 2] = [
    Rung::new(
        Attach::FExit,
        "fexit_oom_kill_process",
        "oom_kill_process",
        DECISION_END,
    ),
    Rung::new(
        Attach::FEntry,
        "fentry_oom_kill_process",
        "oom_kill_process",
        DECISION,
    ),
];
const FENTRY_CANDIDATES: [Rung; 2] = [
    Rung::new(Attach::FExit, "fexit_oom_badness", "oom_badness", SCORE),
    Rung::new(
        Attach::FEntry,
        "fentry_out_of_memory",
        "out_of_memory",
        SCORE_BEGIN,
    ),
];
const KPROBE_DECISION: [Rung; 2] = [
    Rung::new(
        Attach::KRetProbe,
        "kretprobe_oom_kill_process",
        "oom_kill_process",
        DECISION_END,
    ),
    Rung::new(
        Attach::KProbe,
        "kprobe_oom_kill_process",
        "oom_kill_process",
        DECISION,
    ),
];
const KPROBE_CANDIDATES: [Rung; 3] = [
    Rung::new(
        Attach::KRetProbe,
        "kretprobe_oom_badness",
        "oom_badness",
        SCORE,
    ),
    Rung::new(Attach::KProbe, "kprobe_oom_badness", "oom_badness", SCORE),
    Rung::new(
        Attach::KProbe,
        "kprobe_out_of_memory",
        "out_of_memory",
        SCORE_BEGIN,
    ),
];

/// The climb.
pub struct Rungs<'a> {
    pub ebpf: &'a mut Ebpf,
    pub hooks: &'a mut Vec<Hook>,
    pub allowed: HookSet,
    pub functions: &'a FunctionFacts,
    pub host: &'a Host,
}

impl Rungs<'_> {
    /// Attaches everything that is allowed and can be had. The victim's hook comes last, so that
    /// whatever it sees, the others have seen too.
    pub fn climb(&mut self) -> Result<(), ProbeError> {
        self.load(&VICTIM, None)
            .map_err(|error| refused("the hook mark_victim", &error, self.host))?;

        self.optional(&OUTCOME, self.allow("outcome"), None);
        if self.decision() {
            self.skip(
                [REPORT].iter(),
                "the decision itself is hooked, which tells as much",
            );
        } else {
            self.optional(&[REPORT], self.allow("kmsg"), None);
        }

        for rung in [&SIGNAL, &VICTIM] {
            if rung.program != VICTIM.program {
                self.load(rung, None)
                    .map_err(|error| refused("the hook signal_generate", &error, self.host))?;
            }
            self.attach(rung).map_err(|error| {
                refused(&format!("the hook {}", rung.target), &error, self.host)
            })?;
            self.hooks.insert(0, rung.fact(None));
        }
        Ok(())
    }

    /// Lets `signal` be sent while a program looks on that learns from it and goes again. Kernels
    /// that do not take it (before 5.19) keep no such parts of counters.
    pub fn learn(&mut self, signal: impl FnOnce()) {
        match self
            .load(&CPU_OFFSETS, None)
            .and_then(|()| self.attach(&CPU_OFFSETS))
        {
            Ok(()) => signal(),
            Err(error) => {
                tracing::debug!(
                    "counters are taken without {}: {}",
                    CPU_OFFSETS.adds,
                    explain(&error)
                );
            }
        }
        self.unload(&CPU_OFFSETS);
    }

    /// Rungs 2 to 4: by fentry, else by kprobe. Whether the decision is hooked.
    fn decision(&mut self) -> bool {
        if self.functions.oom_kill_process.is_none() {
            let reason = "this kernel has no function oom_kill_process(struct oom_control *, \
                          const char *) that can be hooked";
            self.skip(FENTRY_DECISION.iter().chain(&FENTRY_CANDIDATES), reason);
            return false;
        }
        let tracing = self.tracing_programs();
        let btf = tracing.is_ok().then(|| function_ids(self.functions));
        if self.optional(&FENTRY_DECISION, tracing, btf.as_ref()) {
            self.candidates(&FENTRY_CANDIDATES, btf.as_ref());
        } else if self.optional(&KPROBE_DECISION, self.allow("kprobe"), None) {
            self.candidates(&KPROBE_CANDIDATES, None);
        } else {
            let reason = "the decision itself cannot be hooked";
            self.skip(FENTRY_CANDIDATES.iter().take(1), reason);
            return false;
        }
        true
    }

    /// Whether tracing programs may be had at all: told by one with a wrong function, which the
    /// kernel does not take either, but for another reason. It spares the right one's id.
    fn tracing_programs(&mut self) -> Result<(), String> {
        self.allow("fentry")?;
        let [_, trial] = &FENTRY_DECISION;
        let wrong = function_ids(&FunctionFacts {
            oom_kill_process: Some(1),
            oom_badness: None,
            out_of_memory: None,
        });
        match self.load(trial, Some(&wrong)) {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(EPERM) =>
            {
                Err(format!("the kernel refuses tracing programs: {io_error}"))
            }
            loaded => {
                if loaded.is_ok() {
                    self.unload(trial);
                }
                Ok(())
            }
        }
    }

    fn candidates(&mut self, rungs: &[Rung], btf: Option<&Btf>) {
        if self.functions.oom_badness.is_some() && self.functions.out_of_memory.is_some() {
            self.optional(rungs, self.allow("candidates"), btf);
        } else {
            let reason = "this kernel has no function oom_badness(struct task_struct *, unsigned \
                          long) that can be hooked";
            self.skip(rungs.iter(), reason);
        }
    }

    fn skip<'r>(&mut self, rungs: impl Iterator<Item = &'r Rung>, reason: &str) {
        self.hooks
            .extend(rungs.map(|rung| rung.fact(Some(reason.to_owned()))));
    }

    fn allow(&self, group: &str) -> Result<(), String> {
        let allowed = self.allowed.has(group).then_some(());
        allowed.ok_or_else(|| "not among --hooks".to_owned())
    }

    /// Attaches all of `rungs`, if they are allowed, or none; says why not in the hooks' facts.
    fn optional(&mut self, rungs: &[Rung], allowed: Result<(), String>, btf: Option<&Btf>) -> bool {
        if let Err(reason) = allowed {
            self.skip(rungs.iter(), &reason);
            return false;
        }
        // One after another: where one cannot be attached, the next need not be loaded.
        let attached = rungs.iter().try_for_each(|rung| {
            self.load(rung, btf)?;
            self.attach(rung)
        });
        match attached {
            Ok(()) => {
                self.hooks.extend(rungs.iter().map(|rung| rung.fact(None)));
                true
            }
            Err(error) => {
                for rung in rungs {
                    self.unload(rung);
                }
                self.skip(rungs.iter(), &explain(&error));
                false
            }
        }
    }

    fn load(&mut self, rung: &Rung, btf: Option<&Btf>) -> Result<(), ProgramError> {
        let Some(program) = self.ebpf.program_mut(rung.program) else {
            return Err(ProgramError::NotLoaded);
        };
        match (rung.attach, btf) {
            (Attach::RawTracePoint, _) => <&mut RawTracePoint>::try_from(program)?.load(),
            (Attach::KProbe | Attach::KRetProbe, _) => <&mut KProbe>::try_from(program)?.load(),
            (Attach::FEntry, Some(btf)) => <&mut FEntry>::try_from(program)?.load(rung.target, btf),
            (Attach::FExit, Some(btf)) => <&mut FExit>::try_from(program)?.load(rung.target, btf),
            (Attach::FEntry | Attach::FExit, None) => Err(ProgramError::NotLoaded),
        }
    }

    fn attach(&mut self, rung: &Rung) -> Result<(), ProgramError> {
        let Some(program) = self.ebpf.program_mut(rung.program) else {
            return Err(ProgramError::NotLoaded);
        };
        match rung.attach {
            Attach::RawTracePoint => <&mut RawTracePoint>::try_from(program)?
                .attach(rung.target)
                .map(drop),
            Attach::FEntry => <&mut FEntry>::try_from(program)?.attach().map(drop),
            Attach::FExit => <&mut FExit>::try_from(program)?.attach().map(drop),
            Attach::KProbe | Attach::KRetProbe => <&mut KProbe>::try_from(program)?
                .attach(rung.target, 0)
                .map(drop),
        }
    }

    /// Takes a program back out of the kernel; one that is not loaded stays as it is.
    fn unload(&mut self, rung: &Rung) {
        let Some(program) = self.ebpf.program_mut(rung.program) else {
            return;
        };
        let _ = match rung.attach {
            Attach::RawTracePoint => {
                <&mut RawTracePoint>::try_from(program).and_then(RawTracePoint::unload)
            }
            Attach::FEntry => <&mut FEntry>::try_from(program).and_then(FEntry::unload),
            Attach::FExit => <&mut FExit>::try_from(program).and_then(FExit::unload),
            Attach::KProbe | Attach::KRetProbe => {
                <&mut KProbe>::try_from(program).and_then(KProbe::unload)
            }
        };
    }
}

/// BTF in which the functions have the type ids they have in the kernel's, and nothing else is.
///
/// aya finds the id of a function to hook by its name. The kernel's whole BTF would tell it, too,
/// at the price of 15 MB and 20 ms.
fn function_ids(functions: &FunctionFacts) -> Btf {
    let FunctionFacts {
        oom_kill_process,
        oom_badness,
        out_of_memory,
    } = *functions;
    let mut wanted: Vec<(u32, &str)> = [
        (oom_kill_process, "oom_kill_process"),
        (oom_badness, "oom_badness"),
        (out_of_memory, "out_of_memory"),
    ]
    .into_iter()
    .filter_map(|(id, name)| Some((id?, name)))
    .collect();
    wanted.sort_unstable();
    let mut btf = Btf::new();
    let mut next = 1;
    for (id, name) in wanted {
        while next < id {
            next = btf.add_type(BtfType::Unknown) + 1;
        }
        let name = btf.add_string(name);
        next = btf.add_type(BtfType::Func(Func::new(name, 0, FuncLinkage::Static))) + 1;
    }
    btf
}

/// An error and its causes in one line; of a verifier's log the last line that says something.
fn explain(error: &(dyn Error + 'static)) -> String {
    if let Some(ProgramError::LoadError {
        io_error,
        verifier_log,
    }) = error.downcast_ref()
    {
        let log = verifier_log.to_string();
        let said = verifiers_refusal(&log);
        return said.map_or_else(
            || format!("the kernel refuses the program: {io_error}"),
            |line| format!("the kernel refuses the program: {io_error}; the verifier says: {line}"),
        );
    }
    let mut text = error.to_string();
    for cause in causes(error).skip(1).map(ToString::to_string) {
        // Some errors tell their cause themselves.
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

/// The line of a verifier's log that says what is wrong: the last one before the statistics, and
/// before the explanations that newer kernels (seen on 7.3) give of it.
fn verifiers_refusal(log: &str) -> Option<&str> {
    let log = log.split("\nVerification failed: ").next()?;
    let is_statistics = |line: &str| {
        let kinds = ["processed ", "stack depth ", "verification time "];
        kinds.iter().any(|kind| line.starts_with(kind))
    };
    log.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !is_statistics(line))
}

/// An error, what caused it, what caused that, and so on.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// An error of the first rung, with the reason and the remedy where it is that something is not
/// permitted, and where they can be told.
pub fn refused(what: &str, error: &(dyn Error + 'static), host: &Host) -> ProbeError {
    let answer = explain(error);
    let denied = causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.raw_os_error() == Some(EPERM));
    let advice = if cannot_read(&answer) {
        Some(host.why_unreadable())
    } else {
        host.why_refused().filter(|_| denied)
    };
    match advice {
        Some(advice) => ProbeError::Refused {
            what: what.to_owned(),
            answer,
            advice,
        },
        None => object(what, answer),
    }
}

/// Whether the verifier does not give the programs the helper that reads kernel memory, of which it
/// says that it is unknown, or that such programs cannot use it (`check_helper_call`,
/// kernel/bpf/verifier.c).
fn cannot_read(answer: &str) -> bool {
    ["unknown func ", "cannot use helper "]
        .iter()
        .any(|refusal| answer.contains(&format!("{refusal}bpf_probe_read")))
}

#[cfg(test)]
mod tests {
    use aya_obj::btf::BtfKind;

    use super::*;

    /// Functions are found at the ids they have in the kernel, whatever their order; those the
    /// kernel does not have are not found.
    #[test]
    #[expect(clippy::unwrap_used, reason = "a test")]
    fn functions_keep_their_ids() {
        let btf = function_ids(&FunctionFacts {
            oom_kill_process: Some(70_000),
            oom_badness: Some(3),
            out_of_memory: None,
        });
        let id = |name| btf.id_by_type_name_kind(name, BtfKind::Func);
        assert_eq!(id("oom_kill_process").unwrap(), 70_000);
        assert_eq!(id("oom_badness").unwrap(), 3);
        assert!(id("out_of_memory").is_err());
    }

    /// What the verifier says is found before what it adds: statistics, and explanations.
    #[test]
    fn refusals() {
        let log = "151: (85) call bpf_probe_read#4\n\
                   program of this type cannot use helper bpf_probe_read#4\n";
        let said = Some("program of this type cannot use helper bpf_probe_read#4");
        for rest in [
            "",
            "processed 37 insns (limit 1000000) max_states_per_insn 0 total_states 3\n",
            "verification time 71448 usec\nstack depth 168+0\nprocessed 37 insns\n",
            "\nVerification failed: Policy: Operation is not allowed\n\nSuggestion:\n  Use it.\n",
        ] {
            assert_eq!(verifiers_refusal(&format!("{log}{rest}")), said);
        }
        assert!(said.is_some_and(cannot_read));
        assert!(!cannot_read(
            "R1 type=scalar expected=fp for bpf_probe_read"
        ));
        assert_eq!(verifiers_refusal("processed 37 insns\n"), None);
    }

    /// `--hooks` takes the names it lists, and says so of others.
    #[test]
    #[expect(clippy::unwrap_used, reason = "a test")]
    fn hook_lists() {
        let set: HookSet = "kmsg, outcome".parse().unwrap();
        assert!(set.has("raw_tp") && set.has("kmsg") && set.has("outcome") && !set.has("fentry"));
        assert_eq!("all".parse::<HookSet>().unwrap(), HookSet::ALL);
        assert!(
            "ptrace"
                .parse::<HookSet>()
                .unwrap_err()
                .to_string()
                .contains("fentry")
        );
    }
}
