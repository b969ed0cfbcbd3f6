//! Many values to a few.

use serde_json::{Value, json};

/// What many measurements of one thing say.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// How many there were.
    pub n: usize,
    /// The least.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// Of a hundred, 99 are no greater.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// `None` of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let rank = |hundredths: usize| values.get((n * hundredths).div_ceil(100).max(1) - 1);
        Some(Self {
            n,
            min: *values.first()?,
            median: *rank(50)?,
            p99: *rank(99)?,
            max: *values.last()?,
        })
    }

    /// For a file of results.
    pub fn json(&self) -> Value {
        let Self {
            n,
            min,
            median,
            p99,
            max,
        } = self;
        json!({ "n": n, "min": min, "median": median, "p99": p99, "max": max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks are those of the nearest-rank definition.
    #[test]
    fn ranks() {
        assert!(Summary::of(Vec::new()).is_none());
        let of = |n: u32| Summary::of((1..=n).rev().map(f64::from).collect());
        let ranks = |n| of(n).map(|s| (s.n, s.min, s.median, s.p99, s.max));
        assert_eq!(ranks(1), Some((1, 1.0, 1.0, 1.0, 1.0)));
        assert_eq!(ranks(200), Some((200, 1.0, 100.0, 198.0, 200.0)));
    }
}
