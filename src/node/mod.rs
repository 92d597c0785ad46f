//! This node: what it is ([`NodeInfo`]), how loaded it is ([`NodeLoad`]), and what it can do ([`check`]).
//!
//! ```text
//!   /proc, /sys, cpuid ──► Machine ─┬─► Features, CpuFeatures ─┐
//!                                   │   speed::measure ────────┴─► NodeInfo   (once per start, and when something changes)
//!                                   └─► Sampler ──► LoadTracker ─► NodeLoad   (each second)
//! ```
//!
//! Everything is read below one root directory, so that tests give a directory of their own for a machine.

mod addresses;
mod check;
mod cpu;
mod features;
mod info;
mod load;
mod machine;
mod probe;
mod sampler;
mod speed;

pub use addresses::{advertised_address, local_addresses};
pub use check::{CheckItem, CheckState, check};
pub use cpu::CpuFeatures;
pub use features::{CriuVersion, Features, SchedExtState};
pub use info::{NodeInfo, NodeInfoParams, PROTOCOL_VERSION};
pub use load::{FETCHED_DECAY, LoadTracker, NodeLoad, Pressure};
pub use machine::{Machine, NodeError};
pub use probe::criu_takes;
pub use sampler::{SAMPLE_INTERVAL, Sampler, watch_load};
pub use speed::{STANDARD_SPEED, measure_speed_permille};
