//! How long to wait before trying again: longer each time, and never all at the same moment.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Waits that grow from half a second to a minute.
#[derive(Debug)]
pub struct Backoff {
    wait: Duration,
    random: RandomState,
    tries: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            wait: FIRST,
            random: RandomState::new(),
            tries: 0,
        }
    }
}

impl Backoff {
    /// It worked: begin from the start.
    pub const fn reset(&mut self) {
        self.wait = FIRST;
    }

    /// How long to wait now: between half of the wait and all of it, so that the nodes of a cluster
    /// do not come back at once to an API server that has just started.
    pub fn next_wait(&mut self) -> Duration {
        let whole = self.wait;
        self.wait = (self.wait * 2).min(LONGEST);
        self.tries += 1;
        let per_mille = self.random.hash_one(self.tries) % 501;
        whole / 2 + whole.mul_f64(per_mille as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits grow up to a bound, differ from node to node, and begin anew after a success.
    #[test]
    fn waits_grow_and_differ() {
        let waits =
            |backoff: &mut Backoff| -> Vec<_> { (0..12).map(|_| backoff.next_wait()).collect() };
        let mut backoff = Backoff::default();
        let first = waits(&mut backoff);
        for (wait, whole) in first.iter().zip((0..).map(|n| FIRST * 2u32.pow(n))) {
            let whole = whole.min(LONGEST);
            assert!(
                *wait >= whole / 2 && *wait <= whole,
                "{wait:?} of {whole:?}"
            );
        }
        assert_ne!(first, waits(&mut Backoff::default()));
        backoff.reset();
        assert!(backoff.next_wait() <= FIRST);
    }
}
