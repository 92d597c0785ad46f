//! Pid 1 of a guest: makes the guest's world, starts CRIU in it, adopts and reaps what is restored.
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
//!     │◄───────────────────────────────────────│        criu: RPC with the agent, body: child of init
//!     │ Signal{pid, signal}, Foreground        │
//!     │───────────────────────────────────────►│ kill(2), tcsetpgrp(3) with the guest's own numbers
//!     │ Ended{pid, status}, Stopped, Continued │
//!     │◄───────────────────────────────────────│
//! ```
//!
//! One JSON message per packet of a `SOCK_SEQPACKET` socket pair. Init has one thread and does little, so that it cannot
//! fail: if the agent goes away it ends, and the kernel kills all that is in the guest. It is the binary of the agent itself,
//! started under the name [`NAME`]; it holds no way to this node's files once the guest's root is in place.

mod handle;
mod packet;
mod process;
mod world;

use std::{os::fd::RawFd, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use handle::{Init, InitError, Restoring, keep_until_ended};
pub use process::main;

use crate::control::ExitStatus;

/// What pid 1 of a guest is called, by which the binary knows that it is to be one.
pub const NAME: &str = "scx_mosix-guest-init";
/// Descriptor of the socket to the agent.
const AGENT_FD: RawFd = 3;
/// The most descriptors in a message, as the kernel limits them (SCM_MAX_FD).
const MAX_DESCRIPTORS: usize = 253;

/// What the agent asks of init.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Ask {
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
        /// The group of this process, or what the group was before it went to the background; `None` is init's own group.
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
    /// The number that each of the descriptors sent along gets in CRIU's process; the first is the cgroup's `cgroup.procs`
    /// and is used before.
    pub numbers: Vec<RawFd>,
    /// Whether the body has a terminal.
    pub terminal: bool,
    /// A number below which no new process of the guest shall be: out of the way of those that CRIU will make.
    pub last_pid: i32,
    /// `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` of the body relative to this node's, in ns.
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
    /// A child of init goes on.
    Continued {
        /// Its number in the guest.
        pid: i32,
    },
}
