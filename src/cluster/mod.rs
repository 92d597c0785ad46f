//! Who is in the cluster, and how loaded each node is.
//!
//! ```text
//!     UDP 7470                                        LocalState (this node's summary and load)
//!        │ ▲                                              │
//!   task ▼ │   one task owns the socket and the clock     ▼
//!   ┌──────────┐ datagrams  ┌──────────┐ payloads ┌────────────────────────────────────┐
//!   │ socket   ├───────────►│ Endpoint ├─────────►│ Core: no I/O, no clock of its own  │
//!   │ loop     │◄───────────┤ (Sealer) │◄─────────┤   foca (SWIM): who is alive        │
//!   └──────────┘            └──────────┘          │   LoadTable:   how loaded, how old │──► ClusterView (watch)
//!                                                 │   Joiner:      whom to ask to join │
//!                                                 └────────────────────────────────────┘
//! ```
//!
//! * **Membership** is SWIM with suspicion, by the `foca` library. A node's identity is its name,
//!   address and incarnation; a node that was wrongly declared down renews its incarnation and is
//!   back at once.
//! * **Load** travels as MOSIX's information daemon did it: each half second a node refreshes its
//!   own entry and sends the newest entries that it has, a *window* of them, to one random node
//!   that is alive; the receiver keeps the newer of each. Ages travel, not times, so clocks need
//!   not agree; what a node sends does not grow with the cluster, and how old entries are is known
//!   beforehand (`age`). A message is as many datagrams as its entries fill. Who sends more than a
//!   node should is not listened to (`intake`).
//! * **Joining** is asking: `Join` to an address, `Welcome` with the identity of who answers, then
//!   SWIM's own announcement to it. It is retried with back-off for as long as it has not worked; a
//!   node left alone also asks those it knew.
//!
//! Without a cluster key there is no socket, and the cluster is this node.

#![forbid(unsafe_code)]

mod age;
mod board;
mod codec;
mod core;
mod effects;
mod endpoint;
mod epoch;
mod gossip;
mod handle;
mod identity;
mod intake;
mod joiner;
mod loads;
mod task;
mod view;
mod wire;

#[cfg(test)]
mod tests;

pub use self::{
    age::{ExpectedAges, window_for},
    board::{Board, Entry, Version},
    core::Core,
    effects::Event,
    endpoint::{About, Complaint, Endpoint},
    epoch::next_epoch,
    gossip::{GossipConfig, GossipState, MAX_WINDOW},
    handle::{ClusterError, ClusterHandle, LocalState, Transport, start},
    identity::NodeId,
    loads::load_message_bytes,
    view::{ClusterView, NodeEntry, NodeReport, NodeState, NodeSummary, Traffic},
    wire::{JoinRefusal, WireError},
};

/// UDP and TCP port of a node, unless told otherwise.
pub const DEFAULT_PORT: u16 = 7470;
