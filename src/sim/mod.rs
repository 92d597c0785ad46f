//! A simulator of placement: discrete events on a virtual clock, whole runs determined by a
//! scenario and a seed.
//!
//! ```text
//!   Scenario (TOML) ──┬─► machines                      ┌── place(job) ──────┐
//!   seed ─────────────┴─► jobs ──► Engine: event queue ─┤                    ├─ Policy
//!                                  machines share CPU   └── rebalance ───────┘
//!                                        │
//!                                        └─► Outcome: slowdown of each job ─► Comparison: policies on the same seeds, paired
//! ```
//!
//! Machines are fluid: between two events every job gets CPU at a constant rate, so that
//! completions are exact and nothing depends on a time step. All policies of a run see the same
//! jobs; their random choices come from a stream of their own.
//!
//! Where a scenario says how machines gossip, every policy knows of other machines what their
//! boards tell ([`boards`]), by the cluster's own code; else all know all at once. Machines leave
//! and come back as the scenario says.
//!
//! Beside it, and apart: how old the nodes' knowledge of each other becomes ([`gossip()`]).

#![forbid(unsafe_code)]

mod boards;
mod compare;
mod engine;
mod gossip;
mod machine;
mod parallel;
mod policy;
mod scenario;
mod trace;
mod workload;

pub use compare::{Comparison, PolicyResult, Ratio, compare};
pub use engine::{Departure, Leave, Outcome, run};
pub use gossip::{GOSSIP_SIZES, GossipModel, GossipResult, gossip};
pub use policy::PolicyName;
pub use scenario::{Scenario, ScenarioError};
pub use trace::{Trace, trace};
