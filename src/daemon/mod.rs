//! The daemon: wires the layers together; every node runs one, master of its own jobs and host of
//! others'.
//!
//! ```text
//!   shared   who this node is; handles: jobs, agents, peers, cluster     (knows no stage)
//!      │
//!   collect  ──► view ──► decide ──► act     each stage owns its state and knows those before it
//!      │          │          │        │
//!   pipeline  holds them, and gives one's output to the next
//!      ▲
//!   tick (each second) · execs (each program that begins) · backend (the API) · start (all tasks)
//! ```
//!
//! A daemon that ends leaves its agents, their guests and deputies alone; the next one adopts them.

#![forbid(unsafe_code)]

mod acceptor;
mod act;
mod backend;
mod collect;
mod decide;
mod events;
mod execs;
mod pipeline;
mod settings;
mod shared;
mod start;
mod tick;
mod view;

pub use settings::{Settings, SettingsError};
pub use start::{DaemonError, run};

use crate::{
    api::backend::Requirements,
    node::{self, CheckState, NodeInfo},
};

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
