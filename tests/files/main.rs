//! Home's files as a guest sees them: a real FUSE mount on this machine, served from a temporary
//! tree through the files protocol in memory. Each check is done by real programs or system calls
//! and compared with what the tree itself shows.
//!
//! Needs root and /dev/fuse.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod coherence;
mod fixture;
mod locks;
mod loss;
mod programs;
mod random;
mod semantics;
