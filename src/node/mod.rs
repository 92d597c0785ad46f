//! This node: what it is ([`NodeInfo`]), how loaded it is ([`NodeLoad`]), and what it can do
//! ([`check`]).
//!
//! ```text
//!   /proc, /sys, cpuid ─► Machine ─┬─► Features, CpuFeatures, speed ─┐
//!                                  ├─► Scope ─┬─► Allotment ─────────┴─► NodeInfo, once per start
//!           own cgroup ─► Container ┘          └─► Sampler ─► LoadTracker ─► NodeLoad, each second
//! ```
//!
//! Everything is read below one root directory, so that tests give a directory of their own for a
//! machine.

#![forbid(unsafe_code)]

mod addresses;
mod allotment;
mod check;
mod container;
mod cpu;
mod features;
mod info;
mod load;
mod machine;
mod memory;
mod probe;
mod running;
mod sampler;
mod scope;
mod speed;

pub use addresses::{advertised_address, local_addresses};
pub use allotment::{Allotment, CpuCount, Limiter, Limits};
pub use check::{CheckItem, CheckState, check};
pub use cpu::CpuFeatures;
pub use features::{CriuVersion, Features, SchedExtState};
pub use info::{NodeInfo, NodeInfoParams, PROTOCOL_VERSION};
pub use load::{FETCHED_DECAY, LoadTracker, NodeLoad, Pressure};
pub use machine::{Machine, NodeError};
pub use memory::Memory;
pub use probe::criu_takes;
pub use sampler::{SAMPLE_INTERVAL, Sampler, watch_load};
pub use scope::Scope;
pub use speed::{STANDARD_SPEED, measure_speed_permille};
