//! Pid 1 of a guest: makes the guest's world, starts CRIU in it, adopts and reaps what is restored.
//!
//! What it and its agent say to each other is in [`init`](crate::protocol::init). It has one thread
//! and does little, so that it cannot fail: if the agent goes away it ends, and the kernel kills
//! all that is in the guest. It is the binary of the agent itself, started under the name [`NAME`];
//! it holds no way to this node's files once the guest's root is in place.

mod handle;
mod process;
mod world;

use std::os::fd::RawFd;

pub use handle::{Init, InitError, Restoring, keep_until_ended};
pub use process::main;

/// What pid 1 of a guest is called, by which the binary knows that it is to be one.
pub const NAME: &str = "scx_mosix-guest-init";
/// Descriptor of the socket to the agent.
const AGENT_FD: RawFd = 3;
