//! Memory: read from the frozen process tree, carried over, put in place before the process tree
//! runs.
//!
//! ```text
//!   source                                                        target
//!   plan ─► readers (a few threads) ─► writer ═══ M stream ═══► placers (a few threads) ─► UFFDIO_COPY
//!           process_vm_readv,           one task                 LZ4, CRC-32C                 ▲
//!           zero pages left out,                                                              │ faults, events
//!           CRC-32C, LZ4 if it pays                              page daemon ◄── lazy-pages.socket ── criu restore
//! ```
//!
//! All stages run at the same time, bounded by the channels between them. Nothing is asked for: the
//! source sends everything in order of addresses, so no round trip is ever waited for.

mod daemon;
mod pace;
mod plan;
mod ranges;
mod send;
mod task;

pub use daemon::{PageDaemon, Placer};
pub use pace::Pace;
pub use plan::{Area, plan};
pub use send::{Sent, send};

/// What can go wrong with a process tree's memory.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The frozen process tree's memory cannot be read.
    #[error("memory of process {pid} at {address:#x} cannot be read")]
    Read {
        /// The process on this node.
        pid: i32,
        /// Where.
        address: u64,
        /// The system's error.
        source: std::io::Error,
    },
    /// The restored process tree's memory cannot be written.
    #[error("memory of process {pid} at {address:#x} cannot be put in place")]
    Place {
        /// The process in the process tree's numbering.
        pid: i32,
        /// Where.
        address: u64,
        /// The system's error.
        source: std::io::Error,
    },
    /// A batch is not what the source has read.
    #[error("a batch of pages was damaged on its way")]
    Damaged,
    /// Pages came that are not expected, or some that were expected never came.
    #[error("{0}")]
    Unexpected(String),
    /// CRIU's side of the page daemon.
    #[error("page daemon, {what}")]
    Daemon {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// It has failed before; [`PageDaemon::complete`] says why.
    #[error("the page daemon has given up")]
    GaveUp,
    /// The stream broke; its reader knows why.
    #[error("the stream to the target is closed")]
    Closed,
}
