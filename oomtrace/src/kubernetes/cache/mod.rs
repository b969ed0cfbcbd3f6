//! The cache: what is known of this node's pods and containers, and how a cgroup path is answered
//! from it.
//!
//! The kernel's path says which pod and which container it is; sources only add names and numbers
//! to that. What they say of another pod, or against one another, is not used and is told.

mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use store::{Keyed, Store, View};

use super::facts::{ContainerFacts, ContainerSpec, PodFacts, Source, is_digest};
use crate::{
    cgroup::{Placement, QosClass},
    event::{
        Container, ContainerRole, Enrichment, Kubernetes, Owner, Pod, PodSource, PodSourceState,
        QosSource,
    },
    incident::Known,
};

/// Pods kept at most. A thousand a minute, kept for ten minutes, fit.
const MOST_PODS: usize = 12_288;
/// Containers kept at most.
const MOST_CONTAINERS: usize = 2 * MOST_PODS;

impl Keyed for PodFacts {
    fn key(&self) -> &str {
        &self.key
    }
    fn same_thing(&self, other: &Self) -> bool {
        self.uid == other.uid
    }
}

impl Keyed for ContainerFacts {
    fn key(&self) -> &str {
        &self.id
    }
    fn same_thing(&self, other: &Self) -> bool {
        self.pod == other.pod
    }
}

/// How a source is doing.
#[derive(Clone, Debug)]
pub struct Health {
    /// Where it is.
    pub address: String,
    /// Whether it answers.
    pub state: PodSourceState,
    /// When it last answered.
    pub answered_ns: Option<u64>,
    /// What failed last.
    pub error: Option<String>,
}

/// What is known of pods and containers.
#[derive(Debug)]
pub struct Cache {
    pods: Store<PodFacts>,
    containers: Store<ContainerFacts>,
    generation: u64,
    health: Vec<(Source, Health)>,
}

impl Default for Cache {
    fn default() -> Self {
        Self::new(MOST_PODS, MOST_CONTAINERS)
    }
}

/// Collects what an answer is made of.
#[derive(Default)]
struct Told {
    sources: BTreeSet<Source>,
    age_ns: Option<u64>,
    errors: Vec<String>,
}

impl Told {
    fn enrichment(self, complete: bool) -> Enrichment {
        let sources = self.sources.iter();
        Enrichment {
            complete,
            sources: sources.map(|source| source.name().to_owned()).collect(),
            age_ms: self.age_ns.map(|age| age / 1_000_000),
            errors: self.errors,
        }
    }
}

impl Cache {
    /// One of this size.
    pub fn new(pods: usize, containers: usize) -> Self {
        Self {
            pods: Store::new(pods),
            containers: Store::new(containers),
            generation: 0,
            health: Vec::new(),
        }
    }

    /// A source is about to tell all it knows. What it tells from now on is of the generation
    /// returned.
    pub const fn begin(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// A source has told all it knows; the rest has gone.
    pub fn end(&mut self, source: Source, generation: u64, now_ns: u64) {
        self.pods.sweep(source, generation, now_ns);
        self.containers.sweep(source, generation, now_ns);
    }

    /// A source tells of a pod. Returns whether it is new.
    pub fn pod(&mut self, source: Source, facts: PodFacts, now_ns: u64) -> bool {
        self.pods.put(source, self.generation, facts, now_ns)
    }

    /// A source tells of a pod and of all of its containers. Returns whether the pod is new.
    pub fn whole_pod(
        &mut self,
        source: Source,
        mut facts: PodFacts,
        containers: Vec<ContainerFacts>,
        now_ns: u64,
    ) -> bool {
        facts.ids = containers
            .iter()
            .map(|container| container.id.clone())
            .collect();
        for id in self.ids(source, &facts) {
            if !facts.ids.contains(&id) {
                self.container_gone(source, &id, now_ns);
            }
        }
        for container in containers {
            self.container(source, container, now_ns);
        }
        self.pod(source, facts, now_ns)
    }

    /// Ids of the containers that a source told of with a pod.
    fn ids(&self, source: Source, facts: &PodFacts) -> Box<[Box<str>]> {
        let mut views = self.pods.views(&facts.key).iter();
        let view = views.find(|view| view.source == source && view.facts.same_thing(facts));
        view.map_or_else(Box::default, |view| view.facts.ids.clone())
    }

    /// A source has asked who is behind what manages a pod; `None` where it was not told.
    pub fn set_owner(&mut self, source: Source, facts: &PodFacts, owner: Option<&Owner>) {
        let mut views = self.pods.views_mut(&facts.key).iter_mut();
        let view = views.find(|view| view.source == source && view.facts.same_thing(facts));
        if let Some(view) = view {
            view.facts.owner_asked = false;
            if let Some(owner) = owner {
                view.facts.owner = Some(owner.clone());
            }
        }
    }

    /// A source tells of a container. Returns whether it is new.
    pub fn container(&mut self, source: Source, facts: ContainerFacts, now_ns: u64) -> bool {
        self.containers.put(source, self.generation, facts, now_ns)
    }

    /// A source says that a pod has gone, and its containers with it.
    pub fn pod_gone(&mut self, source: Source, facts: &PodFacts, now_ns: u64) {
        for id in self.ids(source, facts) {
            self.container_gone(source, &id, now_ns);
        }
        self.pods
            .remove(source, &facts.key, now_ns, |old| old.same_thing(facts));
    }

    /// A source says that a container has gone; a pause container takes its pod with it.
    pub fn container_gone(&mut self, source: Source, id: &str, now_ns: u64) {
        let mut views = self.containers.views(id).iter();
        let pause = views
            .find(|view| view.source == source && view.facts.role == Some(ContainerRole::Pause));
        if let Some(pod) = pause.map(|view| view.facts.pod.clone()) {
            self.pods.remove(source, &pod, now_ns, |_| true);
        }
        self.containers.remove(source, id, now_ns, |_| true);
    }

    /// Whether a source tells of a pod.
    pub fn has_pod(&self, source: Source, key: &str) -> bool {
        let mut views = self.pods.views(key).iter();
        views.any(|view| view.source == source && view.gone_ns.is_none())
    }

    /// Whether some source has told that a pod was evicted.
    pub fn is_evicted(&self, key: &str) -> bool {
        self.pods.views(key).iter().any(|view| view.facts.evicted)
    }

    /// Whether a source that tells of statuses has ever told all it knows.
    pub fn knows_statuses(&self) -> bool {
        let mut sources = self.health.iter();
        sources.any(|(source, health)| source.tells_spec() && health.answered_ns.is_some())
    }

    /// A pod, by what its cgroup is named after.
    pub fn pod_of(&self, key: &str, now_ns: u64) -> (Pod, Enrichment) {
        let mut told = Told::default();
        let pod = self.described_pod(key, None, self.pods.views(key), &mut told, now_ns);
        let complete = pod.name.is_some();
        (pod, told.enrichment(complete))
    }

    /// How a source is doing.
    pub fn set_health(&mut self, source: Source, health: Health) {
        match self.health.iter_mut().find(|(known, _)| *known == source) {
            Some((_, old)) => *old = health,
            None => {
                self.health.push((source, health));
                self.health.sort_by_key(|(source, _)| *source);
            }
        }
    }

    /// How a source is doing, to change it.
    pub fn health_mut(&mut self, source: Source) -> Option<&mut Health> {
        let found = self.health.iter_mut().find(|(known, _)| *known == source);
        found.map(|(_, health)| health)
    }

    /// The sources, and how much is known.
    pub fn status(&self, now_ns: u64) -> Kubernetes {
        let sources = self.health.iter().map(|(source, health)| PodSource {
            name: source.name().to_owned(),
            address: health.address.clone(),
            state: health.state,
            age_ms: health
                .answered_ns
                .map(|answered| now_ns.saturating_sub(answered) / 1_000_000),
            error: health.error.clone(),
        });
        Kubernetes {
            sources: sources.collect(),
            pods: self.pods.len() as u64,
            containers: self.containers.len() as u64,
            refused: self.pods.refused() + self.containers.refused(),
        }
    }

    /// Which reading of a path counts: from the outside, the first whose pod or container is known.
    ///
    /// Whoever may make cgroups inside of a container can make one that looks like another pod's,
    /// whose uid and container id are no secret. The pods of one kubelet are never inside one
    /// another, so a tree inside of a known pod is such a forgery, or a cluster of somebody else's.
    /// Where nothing is known it is the innermost, which is right under kind.
    fn reading(&self, readings: Vec<Placement>) -> Option<Placement> {
        let known = |placement: &Placement| {
            let pod = placement.pod.as_ref();
            let container = placement.container.as_ref();
            pod.is_some_and(|pod| !self.pods.views(&pod.uid).is_empty())
                || container.is_some_and(|container| {
                    let views = self.containers.views(&container.id).iter();
                    let mut views =
                        views.filter(|view| pod.is_none_or(|pod| *pod.uid == *view.facts.pod));
                    views.next().is_some()
                })
        };
        let outermost = readings.iter().rposition(known).unwrap_or(0);
        readings.into_iter().nth(outermost)
    }

    /// Whose cgroup this is. Never waits for anything.
    pub fn answer(&self, path: &[u8], cut: bool, now_ns: u64) -> Option<Known> {
        let placement = self.reading(readings(path, cut))?;
        let container = placement.container.as_ref();
        let views = container.map_or(&[][..], |container| self.containers.views(&container.id));
        // A path such as /k8s.io/<id> has no pod in it; the sources may know one, if they agree.
        let key = match &placement.pod {
            Some(pod) => Some(pod.uid.clone()),
            None => agreed(views.iter().map(|view| &*view.facts.pod)).map(str::to_owned),
        };
        let mut told = Told::default();
        let mut known = Known::from_placement(placement);
        let Some(key) = key else {
            return Some(known);
        };
        let (mut views, mut pod_views) = (views, self.pods.views(&key));
        if cut {
            // What is missing may be the pod that made this look like another's.
            (views, pod_views) = (&[], &[]);
            told.errors.push("the cgroup path is not whole".to_owned());
        }
        let qos_class = known.placement.qos_class;
        let pod = self.described_pod(&key, qos_class, pod_views, &mut told, now_ns);
        known.whose.container = known.whose.container.map(|container| {
            self.described_container(container, &key, views, pod_views, &mut told, now_ns)
        });
        let asking = pod_views.iter().any(|view| view.facts.owner_asked);
        let has_spec = !self.health.iter().any(|(source, _)| source.tells_spec())
            || pod_views.iter().any(|view| view.source.tells_spec());
        let named = pod.name.is_some()
            && known.whose.container.as_ref().is_none_or(|container| {
                container.name.is_some() || container.role == Some(ContainerRole::Pause)
            });
        if self.health.is_empty() {
            told.errors.push("no source of pods was found".to_owned());
        }
        for (source, health) in &self.health {
            if health.state != PodSourceState::Live {
                let error = health.error.as_deref().unwrap_or("has not answered yet");
                told.errors.push(format!("{}: {error}", source.name()));
            }
        }
        known.enrichment = Some(told.enrichment(named && has_spec && !asking));
        known.whose.pod = Some(pod);
        Some(known)
    }

    fn described_pod(
        &self,
        key: &str,
        path_qos: Option<QosClass>,
        views: &[View<PodFacts>],
        told: &mut Told,
        now_ns: u64,
    ) -> Pod {
        let mut pod = Pod {
            uid: key.to_owned(),
            qos_class: path_qos,
            qos_source: path_qos.map(|_| QosSource::CgroupPath),
            ..Pod::default()
        };
        let views = in_order_of_trust(views);
        let Some(first) = views.first() else {
            return pod;
        };
        if views.iter().any(|view| !first.facts.same_name(&view.facts)) {
            let claims = views.iter().map(|view| {
                let PodFacts {
                    namespace, name, ..
                } = &view.facts;
                format!("{} says {namespace}/{name}", view.source.name())
            });
            told.errors.push(conflict("the pod's name", claims));
            return pod;
        }
        for view in &views {
            let PodFacts {
                key: _,
                uid: _,
                namespace,
                name,
                qos_class,
                priority,
                priority_class,
                owner,
                owner_asked: _,
                labels,
                is_static,
                memory,
                containers: _,
                evicted: _,
                ids: _,
            } = &view.facts;
            pod.namespace.get_or_insert_with(|| namespace.to_string());
            pod.name.get_or_insert_with(|| name.to_string());
            if let Some(qos_class) = qos_class
                && pod.qos_source != Some(QosSource::PodStatus)
            {
                if path_qos.is_some_and(|path| path != *qos_class) {
                    told.errors.push(format!(
                        "the QoS class: {} says {}, the cgroup path {}",
                        view.source.name(),
                        qos_class.name(),
                        path_qos.map_or("", QosClass::name)
                    ));
                }
                (pod.qos_class, pod.qos_source) = (Some(*qos_class), Some(QosSource::PodStatus));
            }
            pod.priority = pod.priority.or(*priority);
            first_of(&mut pod.priority_class, priority_class);
            pod.owner = pod.owner.take().or_else(|| owner.clone());
            if pod.labels.is_empty() {
                pod.labels.clone_from(labels);
            }
            pod.is_static = pod.is_static.or(*is_static);
            pod.memory_request_bytes = pod.memory_request_bytes.or(memory.request);
            pod.memory_limit_bytes = pod.memory_limit_bytes.or(memory.limit);
            self.note(view, told, now_ns);
        }
        pod
    }

    fn described_container(
        &self,
        mut container: Container,
        key: &str,
        views: &[View<ContainerFacts>],
        pod_views: &[View<PodFacts>],
        told: &mut Told,
        now_ns: u64,
    ) -> Container {
        let mut views = in_order_of_trust(views);
        for view in views.iter().filter(|view| *view.facts.pod != *key) {
            told.errors.push(format!(
                "{} says that the container is of pod {}, the cgroup path says {key}",
                view.source.name(),
                view.facts.pod
            ));
        }
        views.retain(|view| *view.facts.pod == *key);
        let names = || views.iter().filter_map(|view| view.facts.name.as_deref());
        let name = agreed(names());
        if name.is_none() && names().next().is_some() {
            let claims = views.iter().filter_map(|view| {
                let name = view.facts.name.as_deref()?;
                Some(format!("{} says {name}", view.source.name()))
            });
            told.errors.push(conflict("the container's name", claims));
            return container;
        }
        container.name = name.map(str::to_owned);
        for view in &views {
            let ContainerFacts {
                id: _,
                pod: _,
                name: _,
                role,
                image,
                restart_count,
            } = &view.facts;
            container.role = container.role.or(*role);
            container.restart_count = container.restart_count.or(*restart_count);
            better_image(&mut container.image, image.as_deref());
            self.note(view, told, now_ns);
        }
        let specs = in_order_of_trust(pod_views).into_iter().filter_map(|view| {
            let mut containers = view.facts.containers.iter();
            containers.find(|spec| Some(&*spec.name) == name)
        });
        for spec in specs {
            let ContainerSpec {
                name: _,
                role,
                image,
                memory,
            } = spec;
            container.role = container.role.or(Some(*role));
            container.memory_request_bytes = container.memory_request_bytes.or(memory.request);
            container.memory_limit_bytes = container.memory_limit_bytes.or(memory.limit);
            better_image(&mut container.image, image.as_deref());
        }
        container
    }

    /// A view was used: how old is it? One that its source still holds is as old as that source's
    /// last answer.
    fn note<T>(&self, view: &View<T>, told: &mut Told, now_ns: u64) {
        told.sources.insert(view.source);
        let confirmed_ns = view.gone_ns.or_else(|| {
            let health = self
                .health
                .iter()
                .find(|(source, _)| *source == view.source);
            health.and_then(|(_, health)| health.answered_ns)
        });
        let as_of_ns = confirmed_ns.unwrap_or(0).max(view.told_ns);
        let age_ns = now_ns.saturating_sub(as_of_ns);
        told.age_ns = Some(told.age_ns.map_or(age_ns, |age| age.max(age_ns)));
    }
}

impl PodFacts {
    fn same_name(&self, other: &Self) -> bool {
        (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }
}

/// All readings of a path, the innermost first.
fn readings(path: &[u8], cut: bool) -> Vec<Placement> {
    let mut readings = vec![Placement::of(path, cut)];
    let mut path = path;
    while let Some(prefix_len) = readings.last().and_then(|inner| inner.prefix_len)
        && let Some(prefix) = path.get(..prefix_len)
        && !prefix.is_empty()
    {
        readings.push(Placement::of(prefix, cut));
        path = prefix;
    }
    readings
}

/// Those whose source is believed first, first; of one source, the one that is there.
fn in_order_of_trust<T>(views: &[View<T>]) -> Vec<&View<T>> {
    let mut views: Vec<_> = views.iter().collect();
    views.sort_by_key(|view| (view.source, view.gone_ns.is_some()));
    views
}

/// What all say, if they say the same.
fn agreed<'a>(mut claims: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let first = claims.next()?;
    claims.all(|claim| claim == first).then_some(first)
}

fn conflict(what: &str, claims: impl Iterator<Item = String>) -> String {
    let claims: Vec<String> = claims.collect();
    format!(
        "{what}: the sources disagree, none is believed: {}",
        claims.join(", ")
    )
}

fn first_of(field: &mut Option<String>, told: &Option<Box<str>>) {
    if field.is_none() {
        *field = told.as_deref().map(str::to_owned);
    }
}

/// Keeps the image that tells a reader more.
fn better_image(field: &mut Option<String>, told: Option<&str>) {
    if let Some(told) = told
        && field
            .as_deref()
            .is_none_or(|image| is_digest(image) && !is_digest(told))
    {
        *field = Some(told.to_owned());
    }
}
