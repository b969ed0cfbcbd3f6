//! Why each finding matters, and what to do about it.

use super::Code;

impl Code {
    /// Why it matters.
    pub(super) const fn why(self) -> &'static str {
        match self {
            Self::PanicOnOom => {
                "When the node runs out of memory the kernel panics, and everything on it is gone."
            }
            Self::NodeMemoryLow => {
                "Below 100 MiB the kubelet evicts pods by default, and the next large allocation may \
                 make the kernel kill."
            }
            Self::NodeMemoryPressure => {
                "Everything on the node waits for memory to be reclaimed; next it is killed for."
            }
            Self::NearLimit => {
                "At its limit the kernel kills in it; what is left is all that a burst may take."
            }
            Self::KillDisabled => {
                "At its limit its processes hang until somebody raises it, and nothing is logged."
            }
            Self::NoSystemReservation => {
                "Pods may take all memory, so that the node runs out: then the kubelet, the runtime and \
                 pods within their limits are in the choice too."
            }
            Self::UnprotectedDaemon => {
                "When the node runs out of memory it may be the one that is killed, and then the node's \
                 pods, or the record of the kill, go with it."
            }
            Self::AdjDiffers => {
                "When the node runs out of memory the kernel goes by this value, and not by requests \
                 and QoS class."
            }
            Self::BestEffortPod => {
                "Its processes have an oom_score_adj of 1000: when the node runs out of memory they die \
                 before others that use more."
            }
            Self::RequestBelowUse => {
                "The scheduler does not know of the rest, and when the node runs out of memory the one \
                 furthest above its request dies."
            }
            Self::ContainerWithoutLimit => {
                "It can take all of the node's memory, and the limits beside it bound neither it nor \
                 the pod."
            }
            Self::GroupKill => {
                "When one process in it is chosen all of them die, also those of the other cgroups."
            }
            Self::KillAllocatingTask => {
                "When the node runs out of memory whoever happens to ask dies, whatever its \
                 oom_score_adj says."
            }
            Self::StrictOvercommit => {
                "Allocations and forks fail while memory is free, and programs that cannot bear that \
                 crash without an OOM kill; the kubelet wants 1."
            }
        }
    }

    /// What to do about it.
    pub(super) const fn advice(self) -> &'static str {
        match self {
            Self::PanicOnOom => {
                "Set vm.panic_on_oom to 0, unless the node is to fail over as a whole."
            }
            Self::NodeMemoryLow => {
                "See by `oomtrace rank --by pod` who dies next, and move load away or add memory."
            }
            Self::NodeMemoryPressure => {
                "Find who takes it by `oomtrace rank --by pod`, and give it less or the node more."
            }
            Self::NearLimit => {
                "Raise the limit above the peak of what it uses, or find what grows in it."
            }
            Self::KillDisabled => {
                "Write 0 to its memory.oom_control, unless a handler of its own watches it."
            }
            Self::NoSystemReservation => {
                "Set systemReserved and kubeReserved of the kubelet to what is used outside of pods."
            }
            Self::UnprotectedDaemon => {
                "Give it an oom_score_adj of -999 (OOMScoreAdjust= of its unit; of the tracer \
                 CAP_SYS_RESOURCE)."
            }
            Self::AdjDiffers => {
                "Let the program leave oom_score_adj alone, or make its memory request say what you \
                 want."
            }
            Self::BestEffortPod => "Request the memory it needs, unless it may die at any time.",
            Self::RequestBelowUse => "Raise the request to what it uses.",
            Self::ContainerWithoutLimit => "Give it a limit, or give the pod one as a whole.",
            Self::GroupKill => {
                "Set memory.oom.group of each container or unit instead, unless they are of no use \
                 without one another."
            }
            Self::KillAllocatingTask => "Set vm.oom_kill_allocating_task to 0.",
            Self::StrictOvercommit => {
                "Set vm.overcommit_memory to 1 on a Kubernetes node, else to 0, unless every program \
                 here is made for it."
            }
        }
    }
}
