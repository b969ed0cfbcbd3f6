//! Whose cgroup it is: as its path tells, and as somebody may know who is asked.

use std::fmt;

use tokio::time::Instant;

use crate::{
    cgroup::Placement,
    event::{Enrichment, Eviction, NodeCondition, Pod, Whose},
};

/// Knows pods and containers by name.
pub trait Directory: fmt::Debug + Send + Sync {
    /// Whose cgroup this is, as known by now. Stands between a kill and its record: must not wait.
    fn look_up(&self, path: &[u8], cut: bool) -> Known;
}

/// Finds the memory cgroups of processes that are there.
pub trait Cgroups: fmt::Debug {
    /// The path of the memory cgroup with this kernfs id, which a process is in; `None` where that
    /// cannot be made sure of. Stands between a kill and its record: must not wait.
    fn path(&mut self, pid: u32, id: u64) -> Option<&[u8]>;
}

/// Whose cgroup it is.
#[derive(Clone, Debug)]
pub struct Known {
    /// What its path tells.
    pub placement: Placement,
    /// The container and the pod.
    pub whose: Whose,
    /// Where the facts came from that the path does not tell.
    pub enrichment: Option<Enrichment>,
}

impl Known {
    /// What the path alone tells.
    pub fn from_path(path: &[u8], cut: bool) -> Self {
        Self::from_placement(Placement::of(path, cut))
    }

    /// What one reading of a path tells.
    pub fn from_placement(placement: Placement) -> Self {
        Self {
            whose: Whose::of(&placement),
            enrichment: None,
            placement,
        }
    }

    /// Whether it is a pod's, and not all of it is known.
    pub fn is_incomplete(&self) -> bool {
        let enrichment = self.enrichment.as_ref();
        enrichment.is_some_and(|enrichment| !enrichment.complete)
    }
}

impl Enrichment {
    /// Of both: as complete as the lesser, as old as the older.
    pub fn of_both(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (mut both, other) = match (one, other) {
            (Some(one), Some(other)) => (one, other),
            (one, other) => return one.or(other),
        };
        both.complete &= other.complete;
        both.age_ms = both.age_ms.max(other.age_ms);
        for (told, more) in [
            (&mut both.sources, other.sources),
            (&mut both.errors, other.errors),
        ] {
            for text in more {
                if !told.contains(&text) {
                    told.push(text);
                }
            }
        }
        Some(both)
    }
}

/// A kill to be asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// The `event_id` of the kill.
    pub event_id: String,
    /// The decision.
    pub oom_id: String,
    /// When to give up.
    pub deadline: Instant,
    /// Paths of the victim's and the trigger's cgroup, and whether they are cut.
    pub paths: [Option<(Vec<u8>, bool)>; 2],
}

/// What was learnt.
#[derive(Clone, Debug)]
pub struct Answered {
    /// What was asked.
    pub question: Question,
    /// The victim's container and pod, and the trigger's.
    pub whose: [Whose; 2],
    /// Where the facts came from.
    pub enrichment: Option<Enrichment>,
}

/// A pod was evicted.
#[derive(Clone, Debug)]
pub struct Evicted {
    /// The pod.
    pub pod: Pod,
    /// What its status tells.
    pub eviction: Eviction,
    /// The node's conditions by now.
    pub node_conditions: Option<Vec<NodeCondition>>,
    /// Where the facts came from.
    pub enrichment: Option<Enrichment>,
}

/// What comes from the sources of pods by itself.
#[derive(Debug)]
pub enum News {
    /// What was learnt of a kill.
    Answered(Box<Answered>),
    /// A pod was evicted.
    Evicted(Box<Evicted>),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Together they are as complete as the lesser and as old as the older, and say a thing once.
    #[test]
    fn enrichment_of_both() {
        let enrichment = |complete, sources: &[&str], age_ms, errors: &[&str]| Enrichment {
            complete,
            sources: sources.iter().map(|name| (*name).to_owned()).collect(),
            age_ms,
            errors: errors.iter().map(|name| (*name).to_owned()).collect(),
        };
        let one = enrichment(true, &["api", "cri"], Some(5), &["x"]);
        let other = enrichment(false, &["cri", "bundle"], None, &["x", "y"]);
        assert_eq!(
            Enrichment::of_both(Some(one.clone()), Some(other)),
            Some(enrichment(
                false,
                &["api", "cri", "bundle"],
                Some(5),
                &["x", "y"]
            ))
        );
        assert_eq!(Enrichment::of_both(None, Some(one.clone())), Some(one));
        assert_eq!(Enrichment::of_both(None, None), None);
    }
}
