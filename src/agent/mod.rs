//! What both agents are: small processes that own a job's process tree and outlive a restart of the
//! daemon. What each does is in [`home`](crate::home) and [`guest`](crate::guest).
//!
//! ```text
//!   home node                                       hosting node
//!   ┌────────┐ control (Unix, JSON)                 ┌────────┐
//!   │ daemon │◄──────────┐                ┌────────►│ daemon │
//!   └───┬────┘           │                │         └────┬───┘
//!       │ TCP sockets    ▼                ▼              │ TCP sockets
//!       └───────────► home agent ◄═════► guest agent ◄───┘
//!                        │     home link (TLS)  │
//!                     deputies                process tree
//! ```
//!
//! * The **home agent** (one per job that ever moved) keeps the job's epoch and is the arbiter of
//!   every commit.
//! * A **guest agent** (one per guest) restores a process tree, carries its input and output, and
//!   sends it on.
//! * The owner of the process tree executes a move out; the daemon only asks for it and watches. So
//!   a daemon that dies in the middle of a migration loses nothing: the agents finish it or abort
//!   it between themselves.

use std::time::Duration;

use crate::{
    job::SessionId,
    migration::machine::Machine,
    protocol::{FromAgent, MoveProgress, MoveState},
    sys::clock::now_ms,
};

pub mod connection;
pub mod process;

/// How long a daemon may take from `Begin` to `Move`: the target makes a guest's world meanwhile.
/// The owner of the process tree gives the move up then: its daemon may be dead.
pub const MOVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Why such a move was given up.
pub const NOT_CARRIED_ON: &str = "the node that wanted it did not continue";

/// The answer to a daemon that wants to continue a move that was not begun, or was given up
/// meanwhile.
pub fn never_begun(migration: SessionId) -> FromAgent {
    FromAgent::Progress(MoveProgress {
        migration,
        state: Machine::starting_at(MoveState::Precopy).give_up(false),
        at_ms: now_ms(),
        memory_bytes: 0,
        wire_bytes: 0,
        downtime_us: None,
        reason: Some("its agent has not begun this move, or has given it up; ask for another".into()),
    })
}
