//! What a cgroup path is answered with, whoever lies.
#![expect(clippy::expect_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::{cgroup::Level, kubernetes::facts::Memory};

const POD: &str = "11111111-2222-3333-4444-555555555555";
const OTHER: &str = "99999999-2222-3333-4444-555555555555";
const HASH: &str = "0123456789abcdef0123456789abcdef";
const SECOND: u64 = 1_000_000_000;

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn path(pod: &str, container: char) -> String {
    format!("/kubepods/burstable/pod{pod}/{}", id(container))
}

fn pod(key: &str, name: &str) -> PodFacts {
    PodFacts {
        key: key.into(),
        uid: key.into(),
        namespace: "shop".into(),
        name: name.into(),
        ..PodFacts::default()
    }
}

fn container(id: String, pod: &str, name: &str) -> ContainerFacts {
    ContainerFacts {
        id: id.into(),
        pod: pod.into(),
        name: Some(name.into()),
        role: None,
        image: Some("sha256:abc".into()),
        restart_count: Some(2),
    }
}

fn live(cache: &mut Cache, source: Source, answered_ns: u64) {
    cache.set_health(
        source,
        Health {
            address: String::new(),
            state: PodSourceState::Live,
            answered_ns: Some(answered_ns),
            error: None,
        },
    );
}

/// A cache that knows a pod by the runtime.
fn with_cri() -> Cache {
    let mut cache = Cache::default();
    live(&mut cache, Source::Cri, SECOND);
    cache.pod(Source::Cri, pod(POD, "checkout"), SECOND);
    cache.container(Source::Cri, container(id('a'), POD, "app"), SECOND);
    cache
}

fn answer(cache: &Cache, path: &str) -> Known {
    cache
        .answer(path.as_bytes(), false, 3 * SECOND)
        .expect("every path has an answer")
}

fn names(known: &Known) -> (Option<&str>, Option<&str>) {
    let pod = known.whose.pod.as_ref().and_then(|pod| pod.name.as_deref());
    let container = known.whose.container.as_ref();
    (
        pod,
        container.and_then(|container| container.name.as_deref()),
    )
}

fn enrichment(known: &Known) -> &Enrichment {
    known
        .enrichment
        .as_ref()
        .expect("a pod's answer says where it is from")
}

/// The runtime alone: names, restarts, and how old that is.
#[test]
fn known_by_the_runtime() {
    let known = answer(&with_cri(), &path(POD, 'a'));
    assert_eq!(names(&known), (Some("checkout"), Some("app")));
    let pod = known.whose.pod.as_ref().expect("a pod");
    assert_eq!(pod.namespace.as_deref(), Some("shop"));
    assert_eq!(pod.qos_source, Some(QosSource::CgroupPath));
    let container = known.whose.container.as_ref().expect("a container");
    assert_eq!(container.restart_count, Some(2));
    assert_eq!(
        *enrichment(&known),
        Enrichment {
            complete: true,
            sources: vec!["cri".to_owned()],
            age_ms: Some(2000),
            errors: Vec::new(),
        }
    );
}

/// What the specification adds is merged by the container's name; the pod's status decides its QoS
/// class, and where the path has another one, that is told.
#[test]
fn merged_with_the_api() {
    let mut cache = with_cri();
    live(&mut cache, Source::Api, 2 * SECOND);
    assert!(!enrichment(&answer(&cache, &path(POD, 'a'))).complete);
    let mut facts = pod(POD, "checkout");
    facts.qos_class = Some(QosClass::Guaranteed);
    facts.priority = Some(7);
    facts.containers = [ContainerSpec {
        name: "app".into(),
        role: ContainerRole::Sidecar,
        image: Some("shop/checkout:1".into()),
        memory: Memory {
            request: Some(64),
            limit: Some(128),
        },
    }]
    .into();
    cache.whole_pod(Source::Api, facts, Vec::new(), 2 * SECOND);
    let known = answer(&cache, &path(POD, 'a'));
    let container = known.whose.container.as_ref().expect("a container");
    assert_eq!(container.memory_request_bytes, Some(64));
    assert_eq!(container.memory_limit_bytes, Some(128));
    assert_eq!(container.role, Some(ContainerRole::Sidecar));
    assert_eq!(container.image.as_deref(), Some("shop/checkout:1"));
    let pod = known.whose.pod.as_ref().expect("a pod");
    assert_eq!(pod.qos_class, Some(QosClass::Guaranteed));
    assert_eq!(pod.qos_source, Some(QosSource::PodStatus));
    assert_eq!(pod.priority, Some(7));
    let told = enrichment(&known);
    assert!(told.complete);
    assert_eq!(told.sources, ["api", "cri"]);
    assert_eq!(
        told.errors,
        ["the QoS class: api says Guaranteed, the cgroup path Burstable"]
    );
}

/// Sources that disagree about a name are all named, and none is believed.
#[test]
fn disagreement_is_told() {
    let mut cache = with_cri();
    cache.pod(Source::PodLogs, pod(POD, "impostor"), SECOND);
    let known = answer(&cache, &path(POD, 'a'));
    let found = known.whose.pod.as_ref().expect("a pod");
    assert_eq!((&*found.uid, &found.name), (POD, &None));
    let told = enrichment(&known);
    assert!(!told.complete);
    assert_eq!(
        told.errors,
        ["the pod's name: the sources disagree, none is believed: \
          cri says shop/checkout, pod_logs says shop/impostor"]
    );
}

/// A source that puts a container into another pod than the kernel does is not believed.
#[test]
fn the_kernels_path_wins() {
    let mut cache = with_cri();
    cache.pod(Source::Cri, pod(OTHER, "victim"), SECOND);
    cache.container(Source::Bundle, container(id('a'), OTHER, "wrong"), SECOND);
    let known = answer(&cache, &path(POD, 'a'));
    assert_eq!(names(&known), (Some("checkout"), Some("app")));
    assert_eq!(
        enrichment(&known).errors,
        [format!(
            "bundle says that the container is of pod {OTHER}, the cgroup path says {POD}"
        )]
    );
}

/// A pod's name is known, the container's is not: that is told, and nothing is guessed.
#[test]
fn an_unknown_container_of_a_known_pod() {
    let known = answer(&with_cri(), &path(POD, 'b'));
    assert_eq!(names(&known), (Some("checkout"), None));
    assert!(!enrichment(&known).complete);
}

/// A tree of cgroups inside of a known pod is that pod, whatever it looks like: also when it has the
/// names of another pod of this node.
#[test]
fn forged_trees_inside_of_a_pod() {
    let mut cache = with_cri();
    cache.pod(Source::Cri, pod(OTHER, "victim"), SECOND);
    cache.container(Source::Cri, container(id('b'), OTHER, "db"), SECOND);
    for inside in [
        path(OTHER, 'b'),
        path(OTHER, 'c'),
        path(HASH, 'b'),
        "/kubepods".to_owned(),
    ] {
        let forged = path(POD, 'a') + &inside;
        let known = answer(&cache, &forged);
        assert_eq!(names(&known), (Some("checkout"), Some("app")), "{forged}");
        assert_eq!(known.placement.level, Level::Container, "{forged}");
    }
    // Where the outer one is unknown, the inner one is somebody's cluster in a container.
    let nested = path(HASH, 'd') + &path(OTHER, 'b');
    assert_eq!(
        names(&answer(&cache, &nested)),
        (Some("victim"), Some("db"))
    );
}

/// The outermost part of a path that is cut off may be the pod that forged the rest.
#[test]
fn a_path_that_is_cut_names_nobody() {
    let cache = with_cri();
    let known = cache
        .answer(path(POD, 'a').as_bytes(), true, SECOND)
        .expect("an answer");
    assert_eq!(names(&known), (None, None));
    assert_eq!(enrichment(&known).errors, ["the cgroup path is not whole"]);
}

/// The image of a static pod is found by the hash, and two that claim it are a conflict.
#[test]
fn static_pods() {
    let mut cache = with_cri();
    live(&mut cache, Source::Api, SECOND);
    let mut mirror = pod(HASH, "etcd-node1");
    mirror.uid = OTHER.into();
    mirror.is_static = Some(true);
    cache.whole_pod(Source::Api, mirror.clone(), Vec::new(), SECOND);
    let known = answer(&cache, &path(HASH, 'c'));
    let found = known.whose.pod.as_ref().expect("a pod");
    assert_eq!(
        (&*found.uid, found.name.as_deref()),
        (HASH, Some("etcd-node1"))
    );
    assert_eq!(found.is_static, Some(true));
    mirror.uid = POD.into();
    mirror.name = "a-liar".into();
    cache.whole_pod(Source::Api, mirror, Vec::new(), SECOND);
    assert_eq!(names(&answer(&cache, &path(HASH, 'c'))).0, None);
}

/// A pause container needs no name; a container without a pod in its path has the pod that its
/// runtime tells.
#[test]
fn pause_and_containers_without_a_pod() {
    let mut cache = with_cri();
    let mut pause = container(id('f'), POD, "");
    (pause.name, pause.role) = (None, Some(ContainerRole::Pause));
    cache.container(Source::Cri, pause, SECOND);
    let known = answer(&cache, &path(POD, 'f'));
    assert!(enrichment(&known).complete);
    let found = known
        .whose
        .container
        .as_ref()
        .and_then(|container| container.role);
    assert_eq!(found, Some(ContainerRole::Pause));
    let known = answer(&cache, &format!("/k8s.io/{}", id('a')));
    assert_eq!(names(&known), (Some("checkout"), Some("app")));
    // Nobody's container, and no pod: nothing to be known.
    let known = answer(&cache, &format!("/k8s.io/{}", id('e')));
    assert!(known.enrichment.is_none() && known.whose.container.is_some());
    assert!(
        answer(&cache, "/system.slice/sshd.service")
            .enrichment
            .is_none()
    );
}

/// A pod that was deleted is still known, and by when.
#[test]
fn deleted_pods() {
    let mut cache = with_cri();
    let generation = cache.begin();
    cache.end(Source::Cri, generation, 2 * SECOND);
    live(&mut cache, Source::Cri, 100 * SECOND);
    let known = cache
        .answer(path(POD, 'a').as_bytes(), false, 62 * SECOND)
        .expect("an answer");
    assert_eq!(names(&known), (Some("checkout"), Some("app")));
    assert_eq!(enrichment(&known).age_ms, Some(60_000));
    // The next one to come makes the cache look at the clock.
    let later = 2 * SECOND + store::KEPT_NS;
    cache.pod(Source::Cri, pod(OTHER, "next"), later);
    cache.container(Source::Cri, container(id('b'), OTHER, "next"), later);
    let known = cache
        .answer(path(POD, 'a').as_bytes(), false, later)
        .expect("an answer");
    assert_eq!(names(&known), (None, None));
}

/// Containers that a source tells of with their pod go when it tells of them no longer, and with
/// the pod.
#[test]
fn containers_go_with_what_told_of_them() {
    let mut cache = Cache::default();
    let ids = |ids: &str| {
        ids.chars()
            .map(|it| container(id(it), POD, "app"))
            .collect::<Vec<_>>()
    };
    let gone = |cache: &Cache, it| {
        let views = cache.containers.views(&id(it)).iter();
        views.map(|view| view.gone_ns).collect::<Vec<_>>()
    };
    cache.whole_pod(Source::Api, pod(POD, "checkout"), ids("ab"), 1);
    cache.whole_pod(Source::Api, pod(POD, "checkout"), ids("bc"), 2);
    assert_eq!([gone(&cache, 'a'), gone(&cache, 'b')], [[Some(2)], [None]]);
    cache.pod_gone(Source::Api, &pod(POD, "checkout"), 3);
    assert_eq!(
        [gone(&cache, 'b'), gone(&cache, 'c')],
        [[Some(3)], [Some(3)]]
    );
    // A pause container takes its pod with it.
    let mut cache = with_cri();
    let mut pause = container(id('f'), POD, "");
    pause.role = Some(ContainerRole::Pause);
    cache.container(Source::Cri, pause, SECOND);
    assert!(cache.has_pod(Source::Cri, POD));
    cache.container_gone(Source::Cri, &id('f'), SECOND);
    assert!(!cache.has_pod(Source::Cri, POD));
}

/// While a source is asking for the Deployment, not all is known; what it shows till then is not
/// wrong.
#[test]
fn an_owner_that_is_asked_for() {
    let owner = |kind: &str| {
        let (kind, name) = (kind.to_owned(), "checkout".to_owned());
        Some(Owner { kind, name })
    };
    let mut cache = with_cri();
    let mut facts = pod(POD, "checkout");
    (facts.owner, facts.owner_asked) = (owner("ReplicaSet"), true);
    cache.whole_pod(Source::Api, facts.clone(), Vec::new(), SECOND);
    assert!(!enrichment(&answer(&cache, &path(POD, 'a'))).complete);
    for (learnt, shown) in [(None, "ReplicaSet"), (owner("Deployment"), "Deployment")] {
        cache.set_owner(Source::Api, &facts, learnt.as_ref());
        let known = answer(&cache, &path(POD, 'a'));
        assert!(enrichment(&known).complete);
        assert_eq!(known.whose.pod.and_then(|pod| pod.owner), owner(shown));
    }
}

/// Sources that do not answer are named in the answers, whatever else is known.
#[test]
fn sources_that_fail() {
    let mut cache = with_cri();
    cache.set_health(
        Source::Api,
        Health {
            address: "https://api".to_owned(),
            state: PodSourceState::Failed,
            answered_ns: None,
            error: Some("connection refused".to_owned()),
        },
    );
    let known = answer(&cache, &path(POD, 'a'));
    assert_eq!(names(&known), (Some("checkout"), Some("app")));
    assert_eq!(enrichment(&known).errors, ["api: connection refused"]);
    assert!(!enrichment(&known).complete);
    let status = cache.status(2 * SECOND);
    let sources = status
        .sources
        .iter()
        .map(|source| (&*source.name, source.age_ms));
    assert_eq!(
        sources.collect::<Vec<_>>(),
        [("api", None), ("cri", Some(1000))]
    );
}

/// No source at all: said, not passed over.
#[test]
fn no_source() {
    let known = answer(&Cache::default(), &path(POD, 'a'));
    assert_eq!(enrichment(&known).errors, ["no source of pods was found"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A thousand pods a minute come and go, and each path has its own pod's name or none.
    #[test]
    fn churn_never_names_a_wrong_pod(steps in prop::collection::vec((0u32..40, any::<bool>()), 1..150)) {
        let mut cache = Cache::new(16, 32);
        let uid = |n: u32| format!("{n:08x}-0000-0000-0000-000000000000");
        let container_id = |n: u32| format!("{n:064x}");
        for (now, (n, comes)) in (0u64..).map(|n| n * SECOND).zip(steps) {
            if comes {
                let container = container(container_id(n), &uid(n), "app");
                cache.whole_pod(Source::Api, pod(&uid(n), &format!("pod-{n}")), vec![container], now);
            } else {
                cache.pod_gone(Source::Api, &pod(&uid(n), ""), now);
            }
            for n in 0..40 {
                let path = format!("/kubepods/pod{}/{}", uid(n), container_id(n));
                let known = cache.answer(path.as_bytes(), false, now).expect("an answer");
                let (pod, _) = names(&known);
                let right = format!("pod-{n}");
                prop_assert!(pod.is_none_or(|pod| pod == right));
            }
            prop_assert!(cache.pods.len() <= 16 && cache.containers.len() <= 32);
        }
    }

    /// No bytes of a path do harm.
    #[test]
    fn any_path(path in prop::collection::vec(any::<u8>(), 0..300), cut in any::<bool>()) {
        let _ = with_cri().answer(&path, cut, SECOND);
    }
}

/// Hours without an answer take nothing away, and say how old it is; what went meanwhile is known
/// for ten minutes more from when that is learnt.
#[test]
fn hours_of_outage() {
    const HOUR: u64 = 3600 * SECOND;
    let mut cache = Cache::default();
    live(&mut cache, Source::Api, SECOND);
    let generation = cache.begin();
    cache.whole_pod(
        Source::Api,
        pod(POD, "checkout"),
        vec![container(id('a'), POD, "app")],
        SECOND,
    );
    cache.end(Source::Api, generation, SECOND);
    if let Some(health) = cache.health_mut(Source::Api) {
        health.state = PodSourceState::Failed;
        health.error = Some("no answer".to_owned());
    }
    let at = |cache: &Cache, now_ns| {
        let known = cache.answer(path(POD, 'a').as_bytes(), false, now_ns);
        known.expect("an answer")
    };
    let known = at(&cache, 6 * HOUR + SECOND);
    assert_eq!(names(&known), (Some("checkout"), Some("app")));
    assert_eq!(enrichment(&known).age_ms, Some(6 * 3_600_000));
    assert_eq!(enrichment(&known).errors, ["api: no answer"]);
    // It answers again, and the pod is no more.
    live(&mut cache, Source::Api, 6 * HOUR);
    let generation = cache.begin();
    cache.end(Source::Api, generation, 6 * HOUR);
    let kept = 6 * HOUR + store::KEPT_NS;
    assert_eq!(names(&at(&cache, kept - 1)).0, Some("checkout"));
    cache.pod(Source::Api, pod(OTHER, "later"), kept);
    assert_eq!(names(&at(&cache, kept)).0, None);
}

/// An eviction is known once, whoever tells it.
#[test]
fn evicted_pods() {
    let mut cache = Cache::default();
    live(&mut cache, Source::Cri, SECOND);
    assert!(!cache.knows_statuses());
    live(&mut cache, Source::Kubelet, SECOND);
    assert!(cache.knows_statuses() && !cache.is_evicted(POD));
    let mut evicted = pod(POD, "checkout");
    evicted.evicted = true;
    cache.whole_pod(Source::Kubelet, evicted, Vec::new(), SECOND);
    cache.whole_pod(Source::Api, pod(POD, "checkout"), Vec::new(), SECOND);
    assert!(cache.is_evicted(POD));
    let (found, told) = cache.pod_of(POD, SECOND);
    assert_eq!(found.name.as_deref(), Some("checkout"));
    assert_eq!(told.sources, ["api", "kubelet"]);
}
