//! Driving CRIU: dump, restore, features and version over the RPC of `criu swrk`.
//!
//! ```text
//!   engine                                criu swrk 100                       the process tree
//!     │  start: descriptor 100 = RPC socket,  │
//!     │  101 = page server's socket (dump)    │
//!     │── Request{DUMP|RESTORE} ─────────────►│── ptrace, parasite ──────────────►│
//!     │◄─ Response{NOTIFY "pre-dump"…} ───────│
//!     │── Request{NOTIFY, success} ──────────►│
//!     │◄─ Response{DUMP|RESTORE} ─────────────│
//! ```
//!
//! **Pages are left out of a dump**: CRIU is told to serve them lazily, and its page server is one
//! end of a socket pair ([`Connection`]'s second descriptor) in which the closing message already
//! lies. So it ends at once, nothing listens on the network, and the frozen process tree's memory
//! stays readable for us. **A restore is held** at the notification `pre-resume`: everything is in
//! place, no instruction of the process tree has run, and CRIU waits for our answer for as long as
//! home needs to decide.

mod connection;
mod dump;
mod images;
mod log;
mod program;
mod restore;

pub use connection::{Connection, Features, Step};
pub use dump::{DumpRequest, Dumper};
pub use images::{Range, lazy_ranges, paths, tree};
pub use program::{FIRST_FREE_FD, HOST_ROOT_FD, IMAGES_FD, MIN_VERSION, Program, RPC_FD, Version, check};
pub use restore::{HeldRestore, RestoreRequest, restore};

/// Log of CRIU in the images' directory; never sent.
pub const LOG_NAME: &str = "criu.log";

/// What can go wrong between us and CRIU.
#[derive(Debug, thiserror::Error)]
pub enum CriuError {
    /// There is no CRIU.
    #[error("criu is not installed (looked for {looked_for}); install the package criu, version 4 or newer")]
    Missing {
        /// Where.
        looked_for: String,
    },
    /// It cannot be started.
    #[error("criu cannot be started")]
    Start(#[source] std::io::Error),
    /// The socket to it broke.
    #[error("connection to criu, {what}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// It ended without an answer.
    #[error("criu ended before it had finished{}", reason(.0))]
    Ended(Option<String>),
    /// It answered something that is no answer.
    #[error("criu's answer was not understood: {0}")]
    Protocol(String),
    /// It took too long.
    #[error("criu took longer than {0} s")]
    TimedOut(u64),
    /// It could not do what was asked.
    #[error("criu could not {what}{}", reason(.why))]
    Failed {
        /// `dump` or `restore` or the like.
        what: &'static str,
        /// From its log.
        why: Option<String>,
    },
    /// An image file is not what it should be.
    #[error("image {name}: {what}")]
    Image {
        /// The file.
        name: String,
        /// What is wrong.
        what: String,
    },
}

fn reason(why: &Option<String>) -> String {
    why.as_ref().map(|why| format!(": {why}")).unwrap_or_default()
}
