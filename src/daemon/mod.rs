//! The daemon: wires the layers together; every node runs one, master of its own jobs and host of others'.
//!
//! ```text
//!   run ─┬─ scheduler, telemetry ──► tick (each second: measure, tidy up, show, decide)
//!        │                     └──► execs (at each exec: start elsewhere)  │
//!        ├─ cluster ◄── load of each second                         │ launch
//!        ├─ acceptor ──► gRPC server, agents' streams               ▼
//!        ├─ agents (control sockets) ◄────────────────────────── moves ──► peers (reserve, release)
//!        └─ API: backend ──► wishes ──► placement ──► launch      host ◄── peers' reservations
//! ```
//!
//! A daemon that ends leaves its agents, their guests and deputies alone; the next one adopts them.

pub mod acceptor;
pub mod agents;
pub mod backend;
mod constraints;
mod cpus;
mod draining;
mod execs;
pub mod figures;
pub mod host;
pub mod jobs;
pub mod launch;
mod movability;
pub mod moves;
pub mod peers;
pub mod placing;
pub mod rows;
mod settings;
mod start;
pub mod state;
pub mod tick;
mod trees;

pub use settings::{Settings, SettingsError};
pub use start::{DaemonError, run};

use crate::{
    api::backend::Requirements,
    node::{self, CheckState, NodeInfo},
};

/// The wall clock in ms since the epoch.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}

/// What a node cannot do, one sentence each.
pub fn missing(info: &NodeInfo) -> Vec<String> {
    let items = node::check(info);
    let bad = items.into_iter().filter(|item| item.state != CheckState::Ok);
    bad.map(|item| format!("{}: {}", item.name, item.detail)).collect()
}

/// Why the scheduler is not attached, if it is not.
pub fn scheduler_note(state: &crate::scheduler::State) -> Option<String> {
    use crate::scheduler::State;
    match state {
        State::Running { .. } => None,
        State::Off { reason } | State::Ejected { reason, .. } | State::Unsupported { reason } => Some(reason.clone()),
    }
}

/// Why a program with these requirements cannot run on this node; memory is looked at elsewhere.
pub fn preflight(info: &NodeInfo, needs: &Requirements) -> Option<String> {
    if needs.protocol != info.protocol_version {
        let (theirs, ours) = (needs.protocol, info.protocol_version);
        return Some(format!("the source speaks version {theirs} with its peers, this node {ours}: update the older"));
    }
    if !info.features.can_migrate() {
        return Some(format!("this node cannot host: {}", missing(info).join("; ")));
    }
    let lacking = needs.cpu.missing_at(&info.cpu);
    if !lacking.is_empty() {
        return Some(format!("its CPU lacks {}, which the program may use", lacking.join(", ")));
    }
    None
}
