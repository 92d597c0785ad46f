//! What a guest agent and pid 1 of its guest (init) say to each other.
//!
//! ```text
//!   guest agent                              init (pid 1 of new pid, mount, ipc, uts and net namespaces)
//!     │ Setup{root, hostname}                  │
//!     │───────────────────────────────────────►│ mounts, pivot_root
//!     │ Ready                                  │
//!     │◄───────────────────────────────────────│
//!     │ Restore{line, numbers, …} + descriptors│
//!     │───────────────────────────────────────►│ time namespace, terminal, fork, exec criu swrk
//!     │ Started{pid} + pty master              │
//!     │◄───────────────────────────────────────│        criu: RPC with the agent, tree: child of init
//!     │ Signal{pid, signal}, Foreground        │
//!     │───────────────────────────────────────►│ kill(2), tcsetpgrp(3) with the guest's own numbers
//!     │ Ended{pid, status}, Stopped, Continued │
//!     │◄───────────────────────────────────────│
//! ```
//!
//! The packets are those of the control protocol ([`super::packet`]), over a socket pair and
//! without a hello: init is the binary of the agent that starts it, and ends with it.

use std::{os::fd::RawFd, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::ExitStatus;

/// What the agent asks of init.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Make the guest's world.
    Setup {
        /// Where the tree that becomes the root is mounted.
        root: PathBuf,
        /// The guest's host name.
        hostname: String,
    },
    /// Start CRIU.
    Restore(Restore),
    /// Send a signal.
    Signal {
        /// To this process of the guest, in its own numbering.
        pid: i32,
        /// The signal.
        signal: i32,
        /// The value that comes with it, if it was queued with one.
        value: Option<u64>,
    },
    /// Change the foreground group of the guest's terminal.
    Foreground {
        /// The group of this process, or what the group was before it went to the background;
        /// `None` is init's own group.
        of: Option<i32>,
    },
}

/// How to start CRIU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restore {
    /// Its command line.
    pub line: Vec<String>,
    /// Its environment.
    pub environment: Vec<(String, String)>,
    /// The number that each of the descriptors sent along gets in CRIU's process; the first is the
    /// cgroup's `cgroup.procs` and is used before.
    pub numbers: Vec<RawFd>,
    /// Whether the process tree has a terminal.
    pub terminal: bool,
    /// A number below which no new process of the guest shall be: out of the way of those that CRIU
    /// will make.
    pub last_pid: i32,
    /// `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` of the process tree relative to this node's, in ns.
    pub clock_offsets_ns: (i64, i64),
}

/// What init tells the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// The world is there.
    Ready,
    /// CRIU was started. The pty's master is attached if there is a terminal.
    Started {
        /// CRIU's number in the guest.
        pid: i32,
    },
    /// What was asked last could not be done.
    Failed {
        /// Why.
        reason: String,
    },
    /// A child of init has ended.
    Ended {
        /// Its number in the guest.
        pid: i32,
        /// How.
        status: ExitStatus,
    },
    /// A child of init was stopped.
    Stopped {
        /// Its number in the guest.
        pid: i32,
        /// By this signal.
        signal: i32,
    },
    /// A child of init continues.
    Continued {
        /// Its number in the guest.
        pid: i32,
    },
}
