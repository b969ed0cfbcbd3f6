//! What the kubelet writes into the status of a pod that it evicts.
//!
//! Its words are those of `evictionMessage` in `pkg/kubelet/eviction/helpers.go`, which have
//! changed; what does not fit is kept as text and not taken apart.

use super::{facts::is_name, quantity};
use crate::event::{EvictedContainer, Eviction};

/// A longer message is cut; the kubelet's own are shorter.
const MOST_CHARS: usize = 4096;

/// What the message tells.
pub fn eviction(message: &str) -> Eviction {
    let mut eviction = Eviction::default();
    for sentence in message.split(". ") {
        let sentence = sentence.trim_end_matches(['.', ' ']);
        if let Some(resource) = sentence.strip_prefix("The node was low on resource: ") {
            eviction.resource = Some(resource)
                .filter(|name| is_resource(name))
                .map(str::to_owned);
        } else if let Some(rest) = sentence.strip_prefix("Threshold quantity: ") {
            let both = rest.split_once(", available: ");
            eviction.threshold_bytes = both.and_then(|(threshold, _)| quantity::parse(threshold));
            eviction.available_bytes = both.and_then(|(_, available)| quantity::parse(available));
        } else if let Some(rest) = sentence.strip_prefix("Container ") {
            eviction.containers.extend(container(rest));
        }
    }
    eviction.message = (!message.is_empty()).then(|| message.chars().take(MOST_CHARS).collect());
    eviction
}

/// `app was using 200Mi, which exceeds its request of 100Mi` (until 1.26), or
/// `app was using 200Mi, request is 100Mi, has larger consumption of memory`.
fn container(text: &str) -> Option<EvictedContainer> {
    let (name, rest) = text.split_once(" was using ")?;
    let (usage, rest) = rest.split_once(", ")?;
    let request = rest
        .strip_prefix("which exceeds its request of ")
        .or_else(|| Some(rest.strip_prefix("request is ")?.split_once(", ")?.0))?;
    is_name(name).then(|| EvictedContainer {
        name: name.to_owned(),
        usage_bytes: quantity::parse(usage),
        request_bytes: quantity::parse(request),
    })
}

/// `memory`, `hugepages-2Mi`, `example.com/gpu`.
fn is_resource(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-./".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn container(name: &str, usage: u64, request: u64) -> EvictedContainer {
        EvictedContainer {
            name: name.to_owned(),
            usage_bytes: Some(usage),
            request_bytes: Some(request),
        }
    }

    /// The words of 1.20, and those of newer kubelets.
    #[test]
    fn words() {
        let old = eviction(
            "The node was low on resource: memory. Container app was using 1028Ki, which exceeds its \
             request of 0. Container db was using 1536Mi, which exceeds its request of 1.5Gi. ",
        );
        assert_eq!(old.resource.as_deref(), Some("memory"));
        assert_eq!(
            old.containers,
            [
                container("app", 1028 << 10, 0),
                container("db", 1536 << 20, 1536 << 20)
            ]
        );
        assert_eq!((old.threshold_bytes, old.available_bytes), (None, None));
        let new = eviction(
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. \
             Container app was using 200Mi, request is 100Mi, has larger consumption of memory. ",
        );
        assert_eq!(
            (new.threshold_bytes, new.available_bytes),
            (Some(100 << 20), Some(90 << 20))
        );
        assert_eq!(new.containers, [container("app", 200 << 20, 100 << 20)]);
    }

    /// Other words are kept as they are, and tell nothing.
    #[test]
    fn other_words() {
        let text = "The node had condition: [DiskPressure]. ";
        let other = eviction(text);
        assert_eq!(other.message.as_deref(), Some(text));
        assert_eq!((other.resource, other.containers), (None, Vec::new()));
        assert_eq!(eviction("").message, None);
        let bad = eviction(
            "The node was low on resource: a\nb. Container ../x was using 1, request is 1, x. ",
        );
        assert_eq!((bad.resource, bad.containers), (None, Vec::new()));
    }

    proptest! {
        /// No message does harm.
        #[test]
        fn any_message(text in ".{0,200}", inner in "[a-z0-9., ]{0,60}") {
            let _ = eviction(&text);
            let _ = eviction(&format!("Container {inner} was using {inner}, request is {inner}. "));
        }
    }
}
