//! oomtrace records every OOM kill of the Linux kernel: who died, whose limit was hit, who asked
//! for the memory, and why this victim and not another.
//!
//! The parts, in the direction of the data:
//!
//! ```text
//! probe, kernel_log → incident → cgroup, explain → event → format → sink
//!                        ↑
//!                    kubernetes
//! ```
//!
//! Beside them `oomd` listens to another killer, on the system bus.
//!
//! `rank` and `audit` look at the node as it is now: `node → cgroup, explain → rank, audit → format`.
//!
//! Parsers take bytes and return values; sockets, files, clocks and eBPF are at the rim.

pub mod audit;
pub mod backoff;
pub mod btf;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod event;
pub mod event_log;
pub mod explain;
pub mod filter;
pub mod format;
pub mod host;
#[cfg(feature = "http")]
pub mod http;
pub mod incident;
pub mod kernel_log;
#[cfg_attr(not(feature = "kubernetes"), path = "kubernetes_off.rs")]
pub mod kubernetes;
#[cfg(feature = "http")]
mod messages;
pub mod metrics;
#[cfg(feature = "tls")]
pub mod net;
pub mod node;
pub mod oomd;
pub mod probe;
pub mod process;
pub mod rank;
pub mod report;
pub mod sink;
#[cfg(feature = "tls")]
pub mod tls;
pub mod tracer;
