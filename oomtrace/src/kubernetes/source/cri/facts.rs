//! Messages of the CRI to facts.

use std::collections::HashMap;

use super::proto::{ContainerMetadata, ImageSpec, PodSandboxMetadata};
use crate::{
    event::ContainerRole,
    kubernetes::facts::{ContainerFacts, PodFacts, image, is_container_id, is_name, is_pod_key},
};

/// The kubelet's label on everything it makes (`pkg/kubelet/types/labels.go`).
pub const POD_UID: &str = "io.kubernetes.pod.uid";

type Labels = HashMap<String, String>;

/// A pod, and its pause container.
pub fn pod(
    id: &str,
    metadata: Option<&PodSandboxMetadata>,
    labels: &Labels,
    allowed: &[String],
) -> Option<(PodFacts, ContainerFacts)> {
    let PodSandboxMetadata {
        name,
        uid,
        namespace,
    } = metadata?;
    let mut pod = PodFacts::named(uid, namespace, name)?;
    pod.labels = labels
        .iter()
        .filter(|(name, value)| allowed.contains(name) && value.len() <= 63)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let pause = ContainerFacts {
        id: id.into(),
        pod: pod.key.clone(),
        name: None,
        role: Some(ContainerRole::Pause),
        image: None,
        restart_count: None,
    };
    is_container_id(id).then_some((pod, pause))
}

/// A container.
pub fn container(
    id: &str,
    metadata: Option<&ContainerMetadata>,
    spec: Option<&ImageSpec>,
    labels: &Labels,
) -> Option<ContainerFacts> {
    let ContainerMetadata { name, attempt } = metadata?;
    let pod = labels.get(POD_UID)?;
    (is_container_id(id) && is_pod_key(pod) && is_name(name)).then(|| ContainerFacts {
        id: id.into(),
        pod: pod.as_str().into(),
        name: Some(name.as_str().into()),
        role: None,
        image: spec
            .and_then(|spec| image(&spec.user_specified_image).or_else(|| image(&spec.image))),
        restart_count: Some(*attempt),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "tests")]

    use super::*;

    const UID: &str = "11111111-2222-3333-4444-555555555555";

    fn metadata() -> PodSandboxMetadata {
        PodSandboxMetadata {
            name: "checkout".to_owned(),
            uid: UID.to_owned(),
            namespace: "shop".to_owned(),
        }
    }

    /// A pod and its pause container; labels that are not allowed are not kept.
    #[test]
    fn a_pod() {
        let labels = ["app", "secret"].map(|name| (name.to_owned(), "x".to_owned()));
        let (pod, pause) = super::pod(
            &"a".repeat(64),
            Some(&metadata()),
            &labels.into(),
            &["app".to_owned()],
        )
        .expect("a pod");
        assert_eq!(
            (&*pod.key, &*pod.namespace, &*pod.name),
            (UID, "shop", "checkout")
        );
        assert_eq!(pod.labels.into_keys().collect::<Vec<_>>(), ["app"]);
        assert_eq!((&*pause.pod, pause.role), (UID, Some(ContainerRole::Pause)));
    }

    /// What is no id, no uid or no name makes no facts.
    #[test]
    fn what_is_no_pod() {
        let none = Labels::new();
        assert!(super::pod("short", Some(&metadata()), &none, &[]).is_none());
        assert!(super::pod(&"a".repeat(64), None, &none, &[]).is_none());
        for (uid, name) in [("x", "checkout"), (UID, "../x"), (UID, "")] {
            let metadata = PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.to_owned(),
                ..metadata()
            };
            assert!(super::pod(&"a".repeat(64), Some(&metadata), &none, &[]).is_none());
        }
        let metadata = ContainerMetadata {
            name: "app".to_owned(),
            attempt: 1,
        };
        let of = |uid: &str| Labels::from([(POD_UID.to_owned(), uid.to_owned())]);
        let id = "b".repeat(64);
        assert!(container(&id, Some(&metadata), None, &of(UID)).is_some());
        assert!(container(&id, Some(&metadata), None, &of("x")).is_none());
        assert!(container(&id, Some(&metadata), None, &none).is_none());
        assert!(container("x", Some(&metadata), None, &of(UID)).is_none());
    }

    /// The image as the user named it, where the runtime knows that.
    #[test]
    fn images() {
        let metadata = ContainerMetadata {
            name: "app".to_owned(),
            attempt: 0,
        };
        let labels = Labels::from([(POD_UID.to_owned(), UID.to_owned())]);
        let named = |image: &str, user: &str| {
            let spec = ImageSpec {
                image: image.to_owned(),
                user_specified_image: user.to_owned(),
            };
            container(&"b".repeat(64), Some(&metadata), Some(&spec), &labels)?.image
        };
        assert_eq!(named("sha256:1", "shop:1").as_deref(), Some("shop:1"));
        assert_eq!(named("shop:1", "").as_deref(), Some("shop:1"));
        assert_eq!(named("", ""), None);
    }
}
