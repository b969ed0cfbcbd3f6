//! What several sources tell of things with a key, some of which are gone: bounded in number, and
//! kept a while after the last source has let go of them.

use std::collections::{HashMap, VecDeque};

use crate::kubernetes::facts::Source;

/// Things stay this long after they have gone.
pub const KEPT_NS: u64 = 10 * 60 * 1_000_000_000;

/// What one source tells.
#[derive(Clone, Debug)]
pub struct View<T> {
    /// Who tells it.
    pub source: Source,
    /// What it tells.
    pub facts: T,
    /// When it told it.
    pub told_ns: u64,
    /// When it took it back.
    pub gone_ns: Option<u64>,
    generation: u64,
}

#[derive(Debug)]
struct Entry<T> {
    views: Vec<View<T>>,
    gone_ns: Option<u64>,
}

/// Facts that have a key, and tell apart two things that claim the same one.
pub trait Keyed {
    /// The key.
    fn key(&self) -> &str;
    /// Whether both are claims of the same thing, so that the later one replaces the other.
    fn same_thing(&self, other: &Self) -> bool;
}

/// A bounded number of things.
#[derive(Debug)]
pub struct Store<T> {
    entries: HashMap<Box<str>, Entry<T>>,
    /// Keys in the order in which they went; one that came back is still there, and skipped.
    gone: VecDeque<(u64, Box<str>)>,
    most: usize,
    refused: u64,
}

/// More claims on one key than there are sources is somebody playing games.
const MOST_VIEWS: usize = 8;

impl<T: Keyed> Store<T> {
    /// One that holds `most` things.
    pub fn new(most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            gone: VecDeque::new(),
            most,
            refused: 0,
        }
    }

    /// What is told of a key.
    pub fn views(&self, key: &str) -> &[View<T>] {
        self.entries
            .get(key)
            .map_or(&[], |entry| entry.views.as_slice())
    }

    /// What is told of a key, to change it.
    pub fn views_mut(&mut self, key: &str) -> &mut [View<T>] {
        self.entries
            .get_mut(key)
            .map_or(&mut [], |entry| entry.views.as_mut_slice())
    }

    /// How many things are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many were not taken in, for want of room.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes in what a source tells. Returns whether the key is new.
    pub fn put(&mut self, source: Source, generation: u64, facts: T, now_ns: u64) -> bool {
        let view = View {
            source,
            facts,
            told_ns: now_ns,
            gone_ns: None,
            generation,
        };
        if let Some(entry) = self.entries.get_mut(view.facts.key()) {
            entry.gone_ns = None;
            let old = entry
                .views
                .iter_mut()
                .find(|old| old.source == source && old.facts.same_thing(&view.facts));
            if let Some(old) = old {
                *old = view;
            } else if entry.views.len() < MOST_VIEWS {
                entry.views.push(view);
            }
            return false;
        }
        self.expire(now_ns);
        if self.entries.len() >= self.most && !self.evict() {
            self.refused += 1;
            return false;
        }
        let entry = Entry {
            gone_ns: None,
            views: vec![view],
        };
        let key = entry.views[0].facts.key().into();
        self.entries.insert(key, entry);
        true
    }

    /// A source says that a thing has gone.
    pub fn remove(&mut self, source: Source, key: &str, now_ns: u64, fits: impl Fn(&T) -> bool) {
        self.forget(key, now_ns, |view| {
            view.source == source && fits(&view.facts)
        });
        self.expire(now_ns);
    }

    /// A source has told all it knows: what it did not tell in this generation has gone.
    pub fn sweep(&mut self, source: Source, generation: u64, now_ns: u64) {
        let keys: Vec<Box<str>> = self.entries.keys().cloned().collect();
        for key in keys {
            self.forget(&key, now_ns, |view| {
                view.source == source && view.generation < generation
            });
        }
        self.expire(now_ns);
    }

    fn forget(&mut self, key: &str, now_ns: u64, which: impl Fn(&View<T>) -> bool) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        for view in entry.views.iter_mut().filter(|view| which(view)) {
            view.gone_ns.get_or_insert(now_ns);
        }
        if entry.gone_ns.is_none() && entry.views.iter().all(|view| view.gone_ns.is_some()) {
            entry.gone_ns = Some(now_ns);
            self.gone.push_back((now_ns, key.into()));
        }
    }

    /// Lets go of what has been gone for long enough.
    fn expire(&mut self, now_ns: u64) {
        while let Some((gone_ns, _)) = self.gone.front()
            && gone_ns.saturating_add(KEPT_NS) <= now_ns
        {
            self.evict();
        }
    }

    /// Lets go of what went first. Returns whether there was any.
    fn evict(&mut self) -> bool {
        while let Some((gone_ns, key)) = self.gone.pop_front() {
            let is_gone = |entry: &Entry<T>| entry.gone_ns == Some(gone_ns);
            if self.entries.get(&key).is_some_and(is_gone) {
                self.entries.remove(&key);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Thing(&'static str, u32);

    impl Keyed for Thing {
        fn key(&self) -> &str {
            self.0
        }
        fn same_thing(&self, other: &Self) -> bool {
            self.1 == other.1
        }
    }

    const A_SECOND: u64 = 1_000_000_000;

    /// A thing that has gone is known for ten minutes more, and then no longer.
    #[test]
    fn gone_things_stay_ten_minutes() {
        let mut store = Store::new(8);
        store.put(Source::Cri, 0, Thing("a", 1), 0);
        store.remove(Source::Cri, "a", A_SECOND, |_| true);
        store.put(Source::Cri, 0, Thing("b", 1), A_SECOND + KEPT_NS - 1);
        assert_eq!(store.views("a").len(), 1);
        assert_eq!(store.views("a")[0].gone_ns, Some(A_SECOND));
        store.put(Source::Cri, 0, Thing("c", 1), A_SECOND + KEPT_NS);
        assert!(store.views("a").is_empty());
    }

    /// What went first makes room first; what is there is never put out, and then new things are
    /// refused and counted.
    #[test]
    fn the_first_to_go_makes_room() {
        let mut store = Store::new(3);
        for key in ["a", "b", "c"] {
            store.put(Source::Cri, 0, Thing(key, 1), 0);
        }
        store.remove(Source::Cri, "b", 1, |_| true);
        store.remove(Source::Cri, "a", 2, |_| true);
        assert!(store.put(Source::Cri, 0, Thing("d", 1), 3));
        assert!(store.views("b").is_empty() && !store.views("a").is_empty());
        assert!(store.put(Source::Cri, 0, Thing("e", 1), 3));
        assert!(store.views("a").is_empty() && !store.views("c").is_empty());
        assert!(!store.put(Source::Cri, 0, Thing("f", 1), 3));
        assert_eq!((store.len(), store.refused()), (3, 1));
    }

    /// A thing that came back is not put out for having been gone once.
    #[test]
    fn what_comes_back_stays() {
        let mut store = Store::new(2);
        store.put(Source::Cri, 0, Thing("a", 1), 0);
        store.remove(Source::Cri, "a", 1, |_| true);
        store.put(Source::Cri, 0, Thing("a", 1), 2);
        store.put(Source::Cri, 0, Thing("b", 1), KEPT_NS * 2);
        assert_eq!(store.views("a").len(), 1);
        assert!(!store.put(Source::Cri, 0, Thing("c", 1), KEPT_NS * 2));
        assert_eq!(store.views("a").len(), 1);
    }

    /// A thing has gone when the last source has let go of it; a sweep touches its own source only.
    #[test]
    fn the_last_source_decides() {
        let mut store = Store::new(8);
        store.put(Source::Cri, 1, Thing("a", 1), 0);
        store.put(Source::Api, 1, Thing("a", 1), 0);
        store.put(Source::Cri, 2, Thing("b", 1), 0);
        store.sweep(Source::Cri, 2, 5);
        let gone = |store: &Store<Thing>, key: &str| -> Vec<bool> {
            let views = store.views(key).iter();
            views.map(|view| view.gone_ns.is_some()).collect()
        };
        assert_eq!(gone(&store, "a"), [true, false]);
        assert_eq!(gone(&store, "b"), [false]);
        assert!(store.gone.is_empty());
        store.sweep(Source::Api, 2, 6);
        assert_eq!(store.gone, [(6, "a".into())]);
    }

    /// Two claims on one key by one source stand side by side, and no more than a few of them.
    #[test]
    fn claims_on_one_key() {
        let mut store = Store::new(8);
        for claim in 0..100 {
            store.put(Source::Api, 0, Thing("a", claim), 0);
            store.put(Source::Api, 0, Thing("a", claim), 0);
        }
        assert_eq!(store.views("a").len(), MOST_VIEWS);
        store.remove(Source::Api, "a", 1, |thing| thing.1 == 0);
        let there = store
            .views("a")
            .iter()
            .filter(|view| view.gone_ns.is_none());
        assert_eq!(there.count(), MOST_VIEWS - 1);
    }

    /// However fast things come and go, no more are kept than there is room for.
    #[test]
    fn churn_is_bounded() {
        let names: Vec<&'static str> = (0..5000)
            .map(|n| &*Box::leak(format!("{n}").into_boxed_str()))
            .collect();
        let mut store = Store::new(100);
        for (now, name) in (0..).zip(&names) {
            assert!(store.put(Source::Cri, 0, Thing(name, 1), now));
            store.remove(Source::Cri, name, now, |_| true);
        }
        assert_eq!(store.len(), 100);
        assert!(store.gone.len() <= 100);
        assert!(!store.views("4900").is_empty() && store.views("4899").is_empty());
    }
}
