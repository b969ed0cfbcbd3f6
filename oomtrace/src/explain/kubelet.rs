//! The `oom_score_adj` that the kubelet gives a container (`GetContainerOOMScoreAdjust` in
//! `pkg/kubelet/qos/policy.go`), and the request that leads to one.

use crate::{
    cgroup::QosClass,
    event::{Container, Pod},
};

/// The priority class of pods that the node cannot do without.
const NODE_CRITICAL: &str = "system-node-critical";
/// Guaranteed pods, and those the node cannot do without.
pub const GUARANTEED_ADJ: i32 = -997;
/// The sandbox of a pod, which the runtime sets; and what older kubelets gave where later ones give
/// [`GUARANTEED_ADJ`].
pub const SANDBOX_ADJ: i32 = -998;
/// BestEffort pods.
const BEST_EFFORT: i32 = 1000;
/// The least a Burstable container gets.
const BURSTABLE_LEAST: i64 = 1000 + GUARANTEED_ADJ as i64;
/// The most a Burstable container gets: less than a BestEffort one.
const BURSTABLE_MOST: i64 = 999;

/// What the formula gives this container, as far as it is known.
pub fn expected_of(pod: &Pod, container: &Container, capacity_bytes: u64) -> Option<i32> {
    // The priority of a pod that has been looked up is never unknown, its class may be none. Of
    // static pods without that class kubelets think differently: 1.20 counts all as critical. Their
    // uid is a hash, without dashes.
    let node_critical = match (&pod.priority_class, pod.priority) {
        (Some(class), _) if class == NODE_CRITICAL => Some(true),
        (None, None) => None,
        _ => pod.uid.contains('-').then_some(false),
    };
    expected_oom_score_adj(
        pod.qos_class?,
        node_critical,
        container.memory_request_bytes,
        Some(capacity_bytes),
    )
}

/// What the formula gives a container of a pod of this class; `None` where a fact that it needs is
/// unknown. `node_critical` is whether the node cannot do without the pod: it is of the priority
/// class `system-node-critical`.
pub fn expected_oom_score_adj(
    class: QosClass,
    node_critical: Option<bool>,
    request_bytes: Option<u64>,
    capacity_bytes: Option<u64>,
) -> Option<i32> {
    match (class, node_critical) {
        (QosClass::Guaranteed, _) | (_, Some(true)) => Some(GUARANTEED_ADJ),
        (_, None) => None,
        (QosClass::BestEffort, Some(false)) => Some(BEST_EFFORT),
        (QosClass::Burstable, Some(false)) => burstable(request_bytes?, capacity_bytes?),
    }
}

/// `1000 - 1000 * request / capacity` in integers, kept within its bounds.
fn burstable(request_bytes: u64, capacity_bytes: u64) -> Option<i32> {
    let share = (u128::from(request_bytes) * 1000).checked_div(u128::from(capacity_bytes))?;
    let adj = 1000_i64.saturating_sub(i64::try_from(share).unwrap_or(i64::MAX));
    i32::try_from(adj.clamp(BURSTABLE_LEAST, BURSTABLE_MOST)).ok()
}

/// The smallest memory request that gives a container of a Burstable pod this `oom_score_adj` or a
/// lower one; `None` where none up to the node's capacity does.
pub fn request_for(oom_score_adj: i32, capacity_bytes: u64) -> Option<u64> {
    let adj = i64::from(oom_score_adj);
    if adj < BURSTABLE_LEAST {
        return None;
    }
    if adj >= BURSTABLE_MOST {
        return Some(0);
    }
    let share = u128::try_from(1000 - adj).ok()?;
    u64::try_from((share * u128::from(capacity_bytes)).div_ceil(1000)).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// What real kubelets gave, and the edges of the formula.
    #[test]
    fn the_formula() {
        for (request, capacity, expected) in [
            (0, 16 * GIB, 999),
            (128 * MIB, 16 * GIB, 993),
            (GIB, 16 * GIB, 938),
            (4 * GIB, 16 * GIB, 750),
            (16 * GIB, 16 * GIB, 3),
            (64 * GIB, 16 * GIB, 3),
            (64 * MIB, 64 * GIB, 999),
            (8 * GIB, 64 * GIB, 875),
        ] {
            let given = expected_oom_score_adj(
                QosClass::Burstable,
                Some(false),
                Some(request),
                Some(capacity),
            );
            assert_eq!(given, Some(expected), "{request} of {capacity}");
        }
    }

    /// The class decides, but for pods the node cannot do without; what is unknown stays so.
    #[test]
    fn classes() {
        use QosClass::{BestEffort, Burstable, Guaranteed};
        for (class, critical, expected) in [
            (Guaranteed, Some(false), Some(-997)),
            (Guaranteed, None, Some(-997)),
            (BestEffort, Some(false), Some(1000)),
            (BestEffort, Some(true), Some(-997)),
            (BestEffort, None, None),
            (Burstable, Some(true), Some(-997)),
            (Burstable, Some(false), None),
            (Burstable, None, None),
        ] {
            let given = expected_oom_score_adj(class, critical, None, Some(GIB));
            assert_eq!(given, expected, "{class:?} {critical:?}");
        }
        let none = expected_oom_score_adj(Burstable, Some(false), Some(1), Some(0));
        assert_eq!(none, None, "a node without memory");
    }

    /// What is known of the pod decides; a static pod needs its class.
    #[test]
    fn of_a_pod() {
        let pod = Pod {
            uid: "8dbc5577-d0e2-4706-8787-57d52c03ddf2".to_owned(),
            qos_class: Some(QosClass::Burstable),
            priority: Some(0),
            ..Pod::default()
        };
        let container = Container {
            memory_request_bytes: Some(GIB),
            ..Container::default()
        };
        assert_eq!(expected_of(&pod, &container, 16 * GIB), Some(938));
        let unknown = Pod {
            priority: None,
            ..pod.clone()
        };
        assert_eq!(expected_of(&unknown, &container, 16 * GIB), None);
        let static_pod = Pod {
            uid: "14011c7d92a9e513dfd69211da0413db".to_owned(),
            ..pod
        };
        assert_eq!(expected_of(&static_pod, &container, 16 * GIB), None);
        let critical = Pod {
            priority_class: Some(NODE_CRITICAL.to_owned()),
            ..static_pod
        };
        assert_eq!(expected_of(&critical, &container, 16 * GIB), Some(-997));
    }

    proptest! {
        /// The request found is enough, and the next smaller one is not.
        #[test]
        fn the_smallest_request(adj in -1000..=1000_i32, capacity in 1_u64..1 << 50) {
            match request_for(adj, capacity) {
                Some(request) => {
                    prop_assert!(request <= capacity);
                    prop_assert!(burstable(request, capacity).unwrap() <= adj);
                    if let Some(less) = request.checked_sub(1) {
                        prop_assert!(burstable(less, capacity).unwrap() > adj);
                    }
                }
                None => prop_assert!(burstable(capacity, capacity).unwrap() > adj),
            }
        }
    }
}
