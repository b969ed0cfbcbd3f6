//! Each finding appears where it must, and not when it is put right.

use super::*;
use crate::{
    event::{Container, Whose},
    explain::Footprint,
    node::task::Spared,
};

const MIB: u64 = 1 << 20;
const NODE: u64 = 16 << 30;
const ID: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const OTHER_ID: &str = "0f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a09";
const UID: &str = "6c1f29b0-4d21-4a39-9a5e-0f5f3f6f2c11";

/// A node to be looked at.
struct Machine {
    memcgs: Vec<Memcg>,
    tasks: Vec<Task>,
    memory: Memory,
    tracers: Vec<u32>,
    psi: Option<f64>,
    sysctls: [u64; 3],
    whose: fn(&[u8]) -> Whose,
}

impl Machine {
    fn new() -> Self {
        Self {
            memcgs: Vec::new(),
            tasks: Vec::new(),
            memory: Memory {
                total: NODE,
                swap: 0,
                free: Some(NODE / 2),
                inactive_file: Some(0),
            },
            tracers: Vec::new(),
            psi: Some(0.0),
            sysctls: [0; 3],
            whose: Whose::from_path,
        }
    }

    /// A pod of this class, with these containers.
    fn pod(class: &str, containers: &[&str]) -> Self {
        let mut machine = Self::new();
        machine.cgroup("/kubepods", Some(NODE - 1));
        machine.cgroup(&format!("/kubepods/{class}"), None);
        machine.cgroup(&format!("/kubepods/{class}/pod{UID}"), None);
        for id in containers {
            machine.cgroup(&format!("/kubepods/{class}/pod{UID}/{id}"), None);
        }
        machine
    }

    fn cgroup(&mut self, path: &str, limit_bytes: Option<u64>) -> &mut Memcg {
        self.memcgs.push(Memcg {
            path: path.as_bytes().to_vec(),
            id: 1,
            limit_bytes,
            with_swap: None,
            swappiness: None,
            usage_bytes: Some(10 * MIB),
            inactive_file_bytes: Some(2 * MIB),
            kills_as_a_group: false,
            kills_nobody: false,
        });
        self.last()
    }

    fn last(&mut self) -> &mut Memcg {
        let last = self.memcgs.len() - 1;
        &mut self.memcgs[last]
    }

    fn task(&mut self, comm: &str, adj: i32, cgroup: &str) -> &mut Task {
        self.tasks.push(Task {
            pid: u32::try_from(self.tasks.len()).unwrap_or(0) + 100,
            comm: comm.to_owned(),
            started: 1,
            held: Footprint {
                rss_pages: 1,
                swap_pages: 0,
                pgtables_bytes: 0,
            },
            oom_score_adj: adj,
            cgroup: cgroup.as_bytes().to_vec(),
            spared: None,
        });
        let last = self.tasks.len() - 1;
        &mut self.tasks[last]
    }

    fn audit(&self, ignore: &[Code]) -> Audit {
        let [panic_on_oom, kill_allocating_task, overcommit_memory] = self.sysctls.map(Some);
        let facts = Facts {
            node: Node::default(),
            kubernetes: None,
            time: String::new(),
            whole_node: Some(true),
            memory: self.memory,
            memcgs: &self.memcgs,
            tasks: &self.tasks,
            tracers: &self.tracers,
            psi_full_avg60: self.psi,
            panic_on_oom,
            kill_allocating_task,
            overcommit_memory,
            near_percent: 85,
        };
        audit(&facts, ignore, &self.whose)
    }

    fn codes(&self) -> Vec<Code> {
        let findings = self.audit(&[]).findings;
        findings.iter().map(|finding| finding.code).collect()
    }
}

/// The node: its settings, what is available, what is waited for; each alone, and what is ignored.
#[test]
fn the_node() {
    assert_eq!(Machine::new().codes(), []);
    for (index, value, code) in [
        (0, 1, Code::PanicOnOom),
        (0, 2, Code::PanicOnOom),
        (1, 1, Code::KillAllocatingTask),
        (2, 2, Code::StrictOvercommit),
    ] {
        let mut machine = Machine::new();
        machine.sysctls[index] = value;
        assert_eq!(machine.codes(), [code]);
        assert!(machine.audit(&[code]).findings.is_empty());
    }
    let mut machine = Machine::new();
    machine.sysctls[2] = 1;
    assert_eq!(machine.codes(), []);
    machine.psi = Some(10.0);
    assert_eq!(machine.codes(), [Code::NodeMemoryPressure]);
    machine.memory.free = Some(100 * MIB - 1);
    assert_eq!(
        machine.codes(),
        [Code::NodeMemoryLow, Code::NodeMemoryPressure]
    );
    machine.memory.inactive_file = Some(1);
    machine.psi = Some(9.9);
    assert_eq!(machine.codes(), []);
}

/// What the kernel does not tell is said, not passed over.
#[test]
fn what_is_not_known() {
    let mut machine = Machine::new();
    machine.psi = None;
    machine.memory.free = None;
    let audit = machine.audit(&[]);
    assert!(audit.findings.is_empty());
    let codes: Vec<_> = audit.not_checked.iter().map(|check| check.code).collect();
    assert_eq!(
        codes,
        [
            Code::NearLimit,
            Code::NodeMemoryPressure,
            Code::NodeMemoryLow
        ]
    );
    let mut machine = Machine::pod("burstable", &[ID]);
    let audit = machine.audit(&[]);
    assert_eq!(audit.not_checked[0].code, Code::RequestBelowUse);
    machine.whose = with_request;
    assert!(machine.audit(&[]).not_checked.is_empty());
}

/// From 85 % on, without what can go first; a pod's limit that is its container's is said once.
#[test]
fn near_a_limit() {
    let mut machine = Machine::new();
    machine.cgroup("/system.slice", None);
    machine.cgroup("/system.slice/x.service", Some(8 * MIB * 100 / 84));
    assert_eq!(machine.codes(), []);
    machine.last().limit_bytes = Some(8 * MIB * 100 / 85);
    let audit = machine.audit(&[]);
    assert_eq!(audit.findings.len(), 1);
    let finding = &audit.findings[0];
    assert_eq!(finding.severity, Severity::Warning);
    assert_eq!(finding.numbers.percent, Some(85));
    assert_eq!(finding.numbers.working_set_bytes, Some(8 * MIB));
    machine.last().limit_bytes = Some(8 * MIB);
    assert_eq!(machine.audit(&[]).findings[0].severity, Severity::Critical);

    let mut machine = Machine::pod("burstable", &[ID]);
    machine.memcgs[2].limit_bytes = Some(8 * MIB);
    machine.memcgs[3].limit_bytes = Some(8 * MIB);
    let audit = machine.audit(&[]);
    assert_eq!(audit.findings.len(), 1);
    assert_eq!(audit.findings[0].subject.container_id.as_deref(), Some(ID));
    machine.memcgs[2].limit_bytes = Some(9 * MIB);
    assert_eq!(machine.codes(), [Code::NearLimit, Code::NearLimit]);
}

/// All pods together have less than the node.
#[test]
fn reservation() {
    let mut machine = Machine::new();
    machine.cgroup("/kubepods.slice", None);
    assert_eq!(machine.codes(), [Code::NoSystemReservation]);
    machine.last().limit_bytes = Some(NODE);
    assert_eq!(machine.codes(), [Code::NoSystemReservation]);
    machine.last().limit_bytes = Some(NODE - 4096);
    assert_eq!(machine.codes(), []);
}

/// A pod without requests; and a container without a limit beside one that has it, but for pause and
/// where the pod has a limit as a whole.
#[test]
fn pods() {
    assert_eq!(
        Machine::pod("besteffort", &[ID]).codes(),
        [Code::BestEffortPod]
    );
    let mut machine = Machine::pod("burstable", &[ID, OTHER_ID]);
    let of = |id| format!("/kubepods/burstable/pod{UID}/{id}");
    machine.task("app", 900, &of(ID));
    machine.task("side", 900, &of(OTHER_ID));
    assert_eq!(machine.codes(), []);
    machine.last().limit_bytes = Some(100 * MIB);
    let audit = machine.audit(&[]);
    assert_eq!(audit.findings.len(), 1);
    assert_eq!(audit.findings[0].code, Code::ContainerWithoutLimit);
    assert_eq!(audit.findings[0].subject.container_id.as_deref(), Some(ID));
    machine.tasks[0].oom_score_adj = -998;
    assert_eq!(machine.codes(), [], "pause");
    machine.tasks[0].oom_score_adj = 900;
    machine.memcgs[2].limit_bytes = Some(200 * MIB);
    assert_eq!(machine.codes(), [], "the pod has a limit");
}

/// As a source of pods tells: 1 GiB of 16 GiB, so 938.
fn with_request(path: &[u8]) -> Whose {
    let known = Whose::from_path(path);
    Whose {
        pod: known.pod.map(|pod| crate::event::Pod {
            namespace: Some("prod".to_owned()),
            name: Some("api".to_owned()),
            priority: Some(0),
            ..pod
        }),
        container: known.container.map(|container| Container {
            memory_request_bytes: Some(1 << 30),
            ..container
        }),
    }
}

/// By the formula where the request is known, else by what the class allows; the tracer, pause and
/// kernel threads are not meant.
#[test]
fn adj_by_class_and_formula() {
    for (class, good, bad) in [
        ("", &[-997, -998][..], &[0, 1000, -999][..]),
        ("burstable", &[2, 3, 999, -997, -998], &[0, 1, 1000, -1000]),
        ("besteffort", &[1000, -997, -998], &[0, 999]),
    ] {
        let mut machine = Machine::pod(class, &[ID]);
        let path = format!("/kubepods/{class}/pod{UID}/{ID}").replace("//", "/");
        for memcg in &mut machine.memcgs {
            let path = String::from_utf8_lossy(&memcg.path).replace("//", "/");
            memcg.path = path.into_bytes();
        }
        let is_odd = |machine: &Machine| machine.codes().contains(&Code::AdjDiffers);
        machine.task("app", 0, &path);
        for (values, odd) in [(good, false), (bad, true)] {
            for adj in values {
                machine.tasks[0].oom_score_adj = *adj;
                assert_eq!(is_odd(&machine), odd, "{class} {adj}");
            }
        }
        machine.tracers = vec![machine.tasks[0].pid];
        machine.tasks[0].oom_score_adj = bad[bad.len() - 1];
        assert!(!is_odd(&machine), "the tracer chose it");
        machine.tracers.clear();
        machine.tasks[0].spared = Some(Spared::NoMemory);
        assert!(!is_odd(&machine));
    }
    let mut machine = Machine::pod("burstable", &[ID]);
    machine.whose = with_request;
    let path = format!("/kubepods/burstable/pod{UID}/{ID}/below");
    machine.task("app", 938, &path);
    assert_eq!(machine.codes(), []);
    machine.tasks[0].oom_score_adj = 937;
    machine.task("child", 937, &path);
    let audit = machine.audit(&[]);
    assert_eq!(audit.findings.len(), 1);
    let finding = &audit.findings[0];
    assert_eq!(finding.subject.pod.as_deref(), Some("prod/api"));
    assert_eq!(finding.numbers.expected_oom_score_adj, Some(938));
    assert_eq!(finding.numbers.processes, Some(2));
}

/// More than twice the request.
#[test]
fn requests() {
    let mut machine = Machine::pod("burstable", &[ID]);
    machine.whose = with_request;
    machine.last().usage_bytes = Some((2 << 30) + 2 * MIB);
    assert_eq!(machine.codes(), []);
    machine.last().usage_bytes = Some((2 << 30) + 2 * MIB + 1);
    assert_eq!(machine.codes(), [Code::RequestBelowUse]);
}

/// Only where more than one cgroup dies; those inside of a container are one.
#[test]
fn groups() {
    let mut machine = Machine::new();
    machine.cgroup("/a", None).kills_as_a_group = true;
    machine.task("one", 0, "/a/b");
    assert_eq!(machine.codes(), []);
    machine.task("two", 0, "/a/c");
    assert_eq!(machine.codes(), [Code::GroupKill]);

    let mut machine = Machine::pod("burstable", &[ID, OTHER_ID]);
    let pod = format!("/kubepods/burstable/pod{UID}");
    machine.memcgs[2].kills_as_a_group = true;
    machine.memcgs[3].kills_as_a_group = true;
    machine.task("one", 900, &format!("{pod}/{ID}"));
    machine.task("two", 900, &format!("{pod}/{ID}/below"));
    assert_eq!(machine.codes(), []);
    machine.task("three", 900, &format!("{pod}/{OTHER_ID}"));
    assert_eq!(machine.codes(), [Code::GroupKill]);
}

/// Nobody is killed at this limit.
#[test]
fn killing_is_off() {
    let mut machine = Machine::new();
    machine.cgroup("/a", None).kills_nobody = true;
    assert_eq!(machine.codes(), []);
    machine.last().limit_bytes = Some(100 * MIB);
    assert_eq!(machine.codes(), [Code::KillDisabled]);
}

/// The tracer and what pods depend on; not what runs in a container under such a name.
#[test]
fn daemons() {
    let mut machine = Machine::new();
    machine.task("kubelet", -999, "/system.slice/kubelet.service");
    machine.task("oomtrace", 0, "/user.slice");
    machine.task("containerd", 0, &format!("/system.slice/docker-{ID}.scope"));
    assert_eq!(machine.codes(), []);
    machine.tracers.push(machine.tasks[1].pid);
    assert_eq!(machine.codes(), [Code::UnprotectedDaemon]);
    machine.tasks[0].oom_score_adj = 0;
    assert_eq!(machine.codes().len(), 2);
}
