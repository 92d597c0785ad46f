//! Migration: a running program goes from one node to another.
//!
//! ```text
//!   source engine (in the agent that owns the process tree)        target engine (in the new guest agent)
//!
//!   movable ── refuses what cannot move, nothing frozen    preflight ── refuses what cannot be hosted
//!   freeze  ── cgroup v2 freezer, thawed by a guard
//!   criu    ── dump without pages ───── images ──────────► criu ── restore, held at `pre-resume`
//!   pages   ── read from the frozen ──── batches ────────► pages ── put in place by userfaultfd
//!              process tree, all overlapping
//!   home decides (agents): commit or abort
//!   thaw here (abort)                            or        let CRIU resume (commit)
//! ```
//!
//! One TLS connection carries everything from source to target. CRIU does all of the kernel's
//! state, memory is ours. [`machine`] says which step may follow which. Who decides is not here:
//! see [`crate::agent`].

pub mod criu;
pub mod failpoint;
pub mod freeze;
pub mod images;
pub mod machine;
mod moment;
pub mod movable;
pub mod pages;
mod rights;
pub mod source;
pub mod target;
