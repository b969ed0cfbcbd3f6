//! The checks: functions of what was read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Audit, Code, Facts, Finding, LookedAt, NotChecked, Numbers, SCHEMA, Severity, Subject,
};
use crate::{
    cgroup::{self, Level, QosClass},
    event::{Pod, Whose},
    explain::{GUARANTEED_ADJ, SANDBOX_ADJ, amount, expected_of},
    node::{
        Names,
        cgroups::Memcg,
        task::{Spared, Task},
    },
};

/// The kubelet's default for `memory.available` of `evictionHard`.
const EVICTION_BYTES: u64 = 100 << 20;
/// Of a minute, in which nothing could go on for want of memory.
const MOST_PRESSURE: f64 = 10.0;
/// From here on a working set is so near its limit that it bites now.
const CRITICAL_PERCENT: u64 = 95;
/// A request is far below the use where this many of it fit in.
const MOST_REQUESTS: u64 = 2;
/// What the kubelet gives Burstable pods; older ones began at 2.
const BURSTABLE_ADJ: std::ops::RangeInclusive<i32> = 2..=999;
/// A daemon with more than this is not protected.
const PROTECTED_ADJ: i32 = -500;
/// What a node's pods cannot do without.
const DAEMONS: [&str; 4] = ["kubelet", "containerd", "crio", "dockerd"];

/// Makes all checks but those of the codes in `ignore`.
pub fn audit(facts: &Facts<'_>, ignore: &[Code], names: &Names<'_>) -> Audit {
    let tree = Tree::of(facts, names);
    let mut findings = tree.node();
    findings.extend(tree.near_limits());
    findings.extend(tree.cgroups());
    findings.extend(tree.pods());
    findings.extend(tree.adjs());
    findings.extend(tree.daemons());
    findings.retain(|finding| !ignore.contains(&finding.code));
    findings.sort_by(|one, other| {
        let key = |finding: &Finding| (finding.severity, finding.code);
        let path = |finding: &Finding| finding.subject.cgroup.clone();
        (key(one), path(one)).cmp(&(key(other), path(other)))
    });
    let mut not_checked = tree.not_checked();
    not_checked.retain(|check| !ignore.contains(&check.code));
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Audit {
        schema: SCHEMA,
        time: facts.time.clone(),
        node: facts.node.clone(),
        whole_node: facts.whole_node,
        kubernetes: facts.kubernetes.clone(),
        looked_at: LookedAt {
            cgroups: count(facts.memcgs.len()),
            pods: count(tree.pods.len()),
            containers: count(tree.containers.len()),
            processes: count(tree.living().count()),
        },
        findings,
        not_checked,
    }
}

/// A pod, as its cgroups tell.
struct PodGroup<'a> {
    memcg: &'a Memcg,
    whose: Whose,
    containers: Vec<&'a Memcg>,
}

/// The cgroups, by what they are.
struct Tree<'a> {
    facts: &'a Facts<'a>,
    whose: HashMap<&'a [u8], Whose>,
    pods: BTreeMap<String, PodGroup<'a>>,
    /// By container id.
    containers: BTreeMap<String, &'a Memcg>,
    /// Those of all pods together.
    kubepods: Vec<&'a Memcg>,
}

impl<'a> Tree<'a> {
    fn of(facts: &'a Facts<'a>, names: &Names<'_>) -> Self {
        let mut tree = Self {
            facts,
            whose: HashMap::new(),
            pods: BTreeMap::new(),
            containers: BTreeMap::new(),
            kubepods: Vec::new(),
        };
        for memcg in facts.memcgs {
            let whose = names(&memcg.path);
            let level = cgroup::resolve(&memcg.path).level;
            let uid = whose.pod.as_ref().map(|pod| pod.uid.clone());
            match (level, uid) {
                (Level::Kubepods, _) => tree.kubepods.push(memcg),
                (Level::Pod, Some(uid)) => {
                    tree.pods.entry(uid).or_insert_with(|| PodGroup {
                        memcg,
                        whose: whose.clone(),
                        containers: Vec::new(),
                    });
                }
                (Level::Container, uid) => {
                    let id = whose.container.as_ref().map(|found| found.id.clone());
                    // Parents come first: what follows is below the container.
                    if let Some(id) = id
                        && !tree.containers.contains_key(&id)
                    {
                        tree.containers.insert(id, memcg);
                        if let Some(pod) = uid.and_then(|uid| tree.pods.get_mut(&uid)) {
                            pod.containers.push(memcg);
                        }
                    }
                }
                _ => {}
            }
            tree.whose.insert(&memcg.path, whose);
        }
        // A cgroup may have come since the others were listed.
        for task in facts.tasks {
            tree.whose
                .entry(&task.cgroup)
                .or_insert_with(|| names(&task.cgroup));
        }
        tree
    }

    /// Processes that have memory.
    fn living(&self) -> impl Iterator<Item = &'a Task> {
        self.facts
            .tasks
            .iter()
            .filter(|task| !matches!(task.spared, Some(Spared::Kernel | Spared::NoMemory)))
    }

    fn whose(&self, path: &[u8]) -> Whose {
        self.whose.get(path).cloned().unwrap_or_default()
    }

    fn subject(&self, memcg: &Memcg) -> Subject {
        subject(&self.whose(&memcg.path), &memcg.path)
    }

    /// The node as a whole.
    fn node(&self) -> Vec<Finding> {
        let Facts {
            memory,
            psi_full_avg60,
            panic_on_oom,
            kill_allocating_task,
            overcommit_memory,
            ..
        } = *self.facts;
        let mut found = Vec::new();
        let mut sysctl = |code, severity, name, value: Option<u64>, is_bad: fn(u64) -> bool| {
            if let Some(value) = value.filter(|value| is_bad(*value)) {
                let numbers = Numbers {
                    sysctl: Some(value),
                    ..Numbers::default()
                };
                let summary = format!("{name} is {value}.");
                found.push(finding(
                    code,
                    severity,
                    Subject::default(),
                    numbers,
                    summary,
                ));
            }
        };
        sysctl(
            Code::PanicOnOom,
            Severity::Critical,
            "vm.panic_on_oom",
            panic_on_oom,
            |value| value != 0,
        );
        sysctl(
            Code::KillAllocatingTask,
            Severity::Warning,
            "vm.oom_kill_allocating_task",
            kill_allocating_task,
            |value| value != 0,
        );
        sysctl(
            Code::StrictOvercommit,
            Severity::Warning,
            "vm.overcommit_memory",
            overcommit_memory,
            |value| value == 2,
        );
        if let Some(available) = memory.available().filter(|free| *free < EVICTION_BYTES) {
            found.push(finding(
                Code::NodeMemoryLow,
                Severity::Critical,
                Subject::default(),
                Numbers {
                    memory_bytes: Some(memory.total),
                    available_bytes: Some(available),
                    ..Numbers::default()
                },
                format!(
                    "The node has {} of {} available.",
                    amount(available),
                    amount(memory.total)
                ),
            ));
        }
        if let Some(full) = psi_full_avg60.filter(|full| *full >= MOST_PRESSURE) {
            found.push(finding(
                Code::NodeMemoryPressure,
                Severity::Warning,
                Subject::default(),
                Numbers {
                    psi_full_avg60: Some(full),
                    ..Numbers::default()
                },
                format!("For {full:.0} % of the last minute nothing went on for want of memory."),
            ));
        }
        for memcg in &self.kubepods {
            // Kind and its like have a node in a node.
            if memcg.limit_bytes.is_none_or(|limit| limit >= memory.total) {
                let limit = match memcg.limit_bytes {
                    Some(limit) => format!("The limit of all pods together is {}", amount(limit)),
                    None => "All pods together have no limit".to_owned(),
                };
                found.push(finding(
                    Code::NoSystemReservation,
                    Severity::Warning,
                    self.subject(memcg),
                    Numbers {
                        limit_bytes: memcg.limit_bytes,
                        memory_bytes: Some(memory.total),
                        ..Numbers::default()
                    },
                    format!("{limit}, and the node has {}.", amount(memory.total)),
                ));
            }
        }
        found
    }

    /// Working sets near their limit.
    fn near_limits(&self) -> Vec<Finding> {
        let near: Vec<(&Memcg, u64, u64, u64)> = self
            .facts
            .memcgs
            .iter()
            .filter_map(|memcg| {
                let limit = memcg.limit_bytes.filter(|limit| *limit > 0)?;
                let working_set = memcg.working_set()?;
                let percent = u128::from(working_set) * 100 / u128::from(limit);
                let percent = u64::try_from(percent).ok()?;
                (percent >= self.facts.near_percent).then_some((memcg, limit, working_set, percent))
            })
            .collect();
        near.iter()
            // The limit of a pod with one container is the container's.
            .filter(|(memcg, limit, ..)| {
                !near.iter().any(|(other, same, ..)| {
                    other.path != memcg.path && memcg.contains(&other.path) && same == limit
                })
            })
            .map(|(memcg, limit, working_set, percent)| {
                let severity = if *percent >= CRITICAL_PERCENT {
                    Severity::Critical
                } else {
                    Severity::Warning
                };
                finding(
                    Code::NearLimit,
                    severity,
                    self.subject(memcg),
                    Numbers {
                        usage_bytes: memcg.usage_bytes,
                        working_set_bytes: Some(*working_set),
                        limit_bytes: Some(*limit),
                        percent: Some(*percent),
                        ..Numbers::default()
                    },
                    format!(
                        "Its working set is {percent} % of its limit, {} of {}.",
                        amount(*working_set),
                        amount(*limit)
                    ),
                )
            })
            .collect()
    }

    /// How cgroups are set.
    fn cgroups(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for memcg in self.facts.memcgs {
            if memcg.kills_nobody && memcg.limit_bytes.is_some() {
                found.push(finding(
                    Code::KillDisabled,
                    Severity::Critical,
                    self.subject(memcg),
                    Numbers {
                        usage_bytes: memcg.usage_bytes,
                        limit_bytes: memcg.limit_bytes,
                        ..Numbers::default()
                    },
                    "The OOM killer is disabled in it (memory.oom_control).".to_owned(),
                ));
            }
            let level = cgroup::resolve(&memcg.path).level;
            if memcg.kills_as_a_group && level != Level::Container {
                // A container's own cgroups are one.
                let together: BTreeSet<Vec<u8>> = self
                    .living()
                    .filter(|task| memcg.contains(&task.cgroup))
                    .map(|task| {
                        let id = self.whose(&task.cgroup).container.map(|found| found.id);
                        id.map_or_else(|| task.cgroup.clone(), String::into_bytes)
                    })
                    .collect();
                if together.len() > 1 {
                    found.push(finding(
                        Code::GroupKill,
                        Severity::Warning,
                        self.subject(memcg),
                        Numbers {
                            cgroups: u32::try_from(together.len()).ok(),
                            ..Numbers::default()
                        },
                        format!(
                            "memory.oom.group is set above {} cgroups with processes.",
                            together.len()
                        ),
                    ));
                }
            }
        }
        found
    }

    /// Requests and limits of pods.
    fn pods(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for pod in self.pods.values() {
            let class = pod.whose.pod.as_ref().and_then(|pod| pod.qos_class);
            if class == Some(QosClass::BestEffort) {
                let working_set = pod.memcg.working_set();
                found.push(finding(
                    Code::BestEffortPod,
                    Severity::Warning,
                    self.subject(pod.memcg),
                    Numbers {
                        usage_bytes: pod.memcg.usage_bytes,
                        working_set_bytes: working_set,
                        ..Numbers::default()
                    },
                    match working_set {
                        Some(bytes) => format!(
                            "The pod is BestEffort: it requests nothing and uses {}.",
                            amount(bytes)
                        ),
                        None => "The pod is BestEffort: it requests nothing.".to_owned(),
                    },
                ));
            }
            found.extend(self.without_limit(pod));
            for memcg in &pod.containers {
                found.extend(self.request(memcg));
            }
        }
        found
    }

    /// A container that uses far more than it requests.
    fn request(&self, memcg: &Memcg) -> Option<Finding> {
        let request = self.whose(&memcg.path).container?.memory_request_bytes?;
        let working_set = memcg.working_set()?;
        let is_far = request > 0 && working_set > request.saturating_mul(MOST_REQUESTS);
        is_far.then(|| {
            finding(
                Code::RequestBelowUse,
                Severity::Warning,
                self.subject(memcg),
                Numbers {
                    usage_bytes: memcg.usage_bytes,
                    working_set_bytes: Some(working_set),
                    request_bytes: Some(request),
                    ..Numbers::default()
                },
                format!(
                    "It requests {} and uses {}.",
                    amount(request),
                    amount(working_set)
                ),
            )
        })
    }

    /// Containers without a limit beside one that has it. The pod is bounded where all have one, or
    /// where it has one as a whole.
    fn without_limit(&self, pod: &PodGroup<'_>) -> Vec<Finding> {
        let has_limit = |memcg: &&Memcg| memcg.limit_bytes.is_some();
        if pod.memcg.limit_bytes.is_some() || !pod.containers.iter().any(has_limit) {
            return Vec::new();
        }
        pod.containers
            .iter()
            .filter(|memcg| !has_limit(memcg) && self.is_running(memcg))
            .map(|memcg| {
                finding(
                    Code::ContainerWithoutLimit,
                    Severity::Warning,
                    self.subject(memcg),
                    Numbers {
                        usage_bytes: memcg.usage_bytes,
                        working_set_bytes: memcg.working_set(),
                        ..Numbers::default()
                    },
                    "It has no memory limit, and another container of its pod has one.".to_owned(),
                )
            })
            .collect()
    }

    /// Whether a container has processes, and is not the one that only holds the pod together.
    fn is_running(&self, memcg: &Memcg) -> bool {
        self.living()
            .any(|task| memcg.contains(&task.cgroup) && task.oom_score_adj != SANDBOX_ADJ)
    }

    /// Processes of pods whose `oom_score_adj` is not the kubelet's.
    fn adjs(&self) -> Vec<Finding> {
        // By container, or cgroup, and value.
        let mut odd: BTreeMap<(&[u8], i32), (&Task, u32)> = BTreeMap::new();
        for task in self.living() {
            let adj = task.oom_score_adj;
            let whose = self.whose(&task.cgroup);
            if adj == SANDBOX_ADJ
                || self.facts.tracers.contains(&task.pid)
                || self.is_as_given(&whose, adj) != Some(false)
            {
                continue;
            }
            let container = whose.container.as_ref();
            let memcg = container.and_then(|found| self.containers.get(&found.id));
            let path = memcg.map_or(&task.cgroup[..], |memcg| &memcg.path);
            odd.entry((path, adj)).or_insert((task, 0)).1 += 1;
        }
        odd.into_iter()
            .map(|((path, adj), (task, count))| {
                let whose = self.whose(path);
                let expected = self.expected(&whose);
                let class = whose.pod.as_ref().and_then(|pod| pod.qos_class);
                let class = class.map_or("", |class| class.name());
                let given = match (expected, class) {
                    (Some(expected), _) => format!("the kubelet's formula gives {expected}"),
                    (None, "BestEffort") => "the kubelet gives BestEffort pods 1000".to_owned(),
                    (None, _) => format!("the kubelet gives {class} pods 3 to 999"),
                };
                let who = if count == 1 {
                    "A process has".to_owned()
                } else {
                    format!("{count} processes have")
                };
                finding(
                    Code::AdjDiffers,
                    Severity::Warning,
                    Subject {
                        pid: Some(task.pid),
                        comm: Some(task.comm.clone()),
                        ..subject(&whose, path)
                    },
                    Numbers {
                        oom_score_adj: Some(adj),
                        expected_oom_score_adj: expected,
                        processes: Some(count),
                        ..Numbers::default()
                    },
                    format!("{who} an oom_score_adj of {adj}, and {given}."),
                )
            })
            .collect()
    }

    fn expected(&self, Whose { pod, container }: &Whose) -> Option<i32> {
        expected_of(pod.as_ref()?, container.as_ref()?, self.facts.memory.total)
    }

    /// Whether the kubelet may have given this value; from the class alone where no more is known.
    fn is_as_given(&self, whose: &Whose, adj: i32) -> Option<bool> {
        let Whose { pod, container } = whose;
        container.as_ref()?;
        if let Some(expected) = self.expected(whose) {
            return Some(adj == expected);
        }
        let is_one = match pod.as_ref()?.qos_class? {
            QosClass::Guaranteed => adj == GUARANTEED_ADJ,
            QosClass::Burstable => adj == GUARANTEED_ADJ || BURSTABLE_ADJ.contains(&adj),
            QosClass::BestEffort => adj == GUARANTEED_ADJ || adj == 1000,
        };
        Some(is_one)
    }

    /// The tracer, and what the pods depend on.
    fn daemons(&self) -> Vec<Finding> {
        let is_daemon = |task: &&Task| {
            let comm = &task.comm.as_str();
            self.facts.tracers.contains(&task.pid)
                || (DAEMONS.contains(comm) && self.whose(&task.cgroup).container.is_none())
        };
        self.living()
            .filter(is_daemon)
            .filter(|task| task.oom_score_adj > PROTECTED_ADJ)
            .map(|task| {
                let adj = task.oom_score_adj;
                finding(
                    Code::UnprotectedDaemon,
                    Severity::Warning,
                    Subject {
                        pid: Some(task.pid),
                        comm: Some(task.comm.clone()),
                        ..subject(&self.whose(&task.cgroup), &task.cgroup)
                    },
                    Numbers {
                        oom_score_adj: Some(adj),
                        ..Numbers::default()
                    },
                    format!(
                        "{} has an oom_score_adj of {adj}.",
                        task.comm.escape_debug()
                    ),
                )
            })
            .collect()
    }

    fn not_checked(&self) -> Vec<NotChecked> {
        let mut not = Vec::new();
        let mut add = |code, reason| not.push(NotChecked { code, reason });
        if self.facts.memcgs.is_empty() {
            add(
                Code::NearLimit,
                "no hierarchy with the memory controller is mounted",
            );
        }
        if self.facts.psi_full_avg60.is_none() {
            add(
                Code::NodeMemoryPressure,
                "this kernel shows no /proc/pressure/memory",
            );
        }
        if self.facts.memory.available().is_none() {
            add(Code::NodeMemoryLow, "/proc/meminfo does not tell");
        }
        let requests = self.whose.values().any(|whose| {
            let container = whose.container.as_ref();
            container.is_some_and(|found| found.memory_request_bytes.is_some())
        });
        let may_have = |pod: &PodGroup<'_>| {
            let class = pod.whose.pod.as_ref().and_then(|pod| pod.qos_class);
            class != Some(QosClass::BestEffort)
        };
        if !requests && self.pods.values().any(may_have) {
            add(
                Code::RequestBelowUse,
                "requests are in no cgroup, and no source of pods has told them",
            );
        }
        not
    }
}

fn finding(
    code: Code,
    severity: Severity,
    subject: Subject,
    numbers: Numbers,
    summary: String,
) -> Finding {
    Finding {
        code,
        severity,
        subject,
        numbers,
        summary,
        why: code.why(),
        advice: code.advice(),
    }
}

fn subject(Whose { pod, container }: &Whose, path: &[u8]) -> Subject {
    let name = |pod: &Pod| {
        Some(format!(
            "{}/{}",
            pod.namespace.as_ref()?,
            pod.name.as_ref()?
        ))
    };
    Subject {
        pod_uid: pod.as_ref().map(|pod| pod.uid.clone()),
        pod: pod.as_ref().and_then(name),
        container_id: container.as_ref().map(|found| found.id.clone()),
        container: container.as_ref().and_then(|found| found.name.clone()),
        cgroup: Some(String::from_utf8_lossy(path).into_owned()),
        pid: None,
        comm: None,
    }
}
