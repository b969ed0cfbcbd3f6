//! The kernel's arithmetic and the kubelet's, and what follows from them: which points a task has,
//! where that puts it, what kind of decision it was, and what would have changed it.

mod badness;
mod eras;
mod kubelet;
mod summary;
mod survival;
mod verdict;
mod words;

pub use badness::{Footprint, limit_total_pages, oom_score, points};
pub use eras::{Held, readings, score};
pub use kubelet::{GUARANTEED_ADJ, SANDBOX_ADJ, expected_of, expected_oom_score_adj, request_for};
pub use verdict::{Case, Ranked, bystander, verdict};
pub use words::{amount, brief, process};
