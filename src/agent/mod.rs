//! Agents: the small processes that own a job's body and outlive a restart of the daemon.
//!
//! ```text
//!   home node                                       hosting node
//!   ┌────────┐ control (Unix, JSON)                 ┌────────┐
//!   │ daemon │◄──────────┐                ┌────────►│ daemon │
//!   └───┬────┘           │                │         └────┬───┘
//!       │ TCP sockets    ▼                ▼              │ TCP sockets
//!       └───────────► home agent ◄═════► guest agent ◄───┘
//!                        │     home link (TLS)  │
//!                     deputies                body
//! ```
//!
//! * The **home agent** (one per job that ever moved) keeps the job's epoch and is the arbiter of every commit.
//! * A **guest agent** (one per guest) restores a body, carries its input and output, and sends it on.
//! * Whoever owns the body executes a move out; the daemon only asks for it and watches. So a daemon that dies in the
//!   middle of a migration loses nothing: the agents finish it or abort it between themselves.

use std::time::Duration;

pub mod connection;
pub mod guest;
pub mod home;
pub mod process;

/// How long a daemon may take from `Begin` to `Move`: the target makes a guest's world meanwhile. Whoever owns the body gives the move up
/// then: its daemon may be dead.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Why such a move was given up.
const NOT_CARRIED_ON: &str = "the node that wanted it did not go on";
