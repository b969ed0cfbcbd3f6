//! Whose cgroup it is, and what is known of the pod.

use crate::{
    cgroup,
    event::{Container, Pod, QosSource},
};

/// Whose cgroup it is, as far as known: names, requests and limits where a source of pods has told
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whose {
    /// The pod.
    pub pod: Option<Pod>,
    /// The container.
    pub container: Option<Container>,
}

/// Tells whose a cgroup path is. [`from_path`] is the least that one can tell.
pub type Names<'a> = dyn Fn(&[u8]) -> Whose + 'a;

/// What the path alone tells: the pod's uid and QoS class, the container's id.
pub fn from_path(path: &[u8]) -> Whose {
    let placement = cgroup::resolve(path);
    Whose {
        pod: placement.pod.map(|pod| Pod {
            uid: pod.uid,
            qos_class: placement.qos_class,
            qos_source: placement.qos_class.map(|_| QosSource::CgroupPath),
            ..Pod::default()
        }),
        container: placement.container.map(|container| Container {
            id: container.id,
            runtime: container.runtime.map(|runtime| runtime.name().to_owned()),
            ..Container::default()
        }),
    }
}
