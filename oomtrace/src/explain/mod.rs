//! The kernel's arithmetic: which points a task has, and where that puts it.

mod badness;

pub use badness::{Footprint, limit_total_pages, oom_score, points};
