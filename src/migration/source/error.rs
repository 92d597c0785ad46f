//! Why a source gives a move up.

use std::{io, time::Duration};

use tokio::task::JoinError;

use crate::{
    migration::{criu::CriuError, freeze::FreezeError, machine::IllegalStep, movable::CannotMove, pages::PageError},
    protocol::ProtocolError,
    sys::cgroup::CgroupError,
};

/// Why the agent that owns the process tree cannot do what the engine asks of it. Each agent has
/// errors of its own.
pub type OwnerError = Box<dyn std::error::Error + Send + Sync>;

/// Why a move is given up at its source. The program continues there, if home has not committed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A user or a daemon wanted that.
    #[error("it was cancelled")]
    Cancelled,
    /// The program cannot move.
    #[error(transparent)]
    CannotMove(#[from] CannotMove),
    /// There is no program any more.
    #[error("its first process has ended")]
    HasEnded,
    /// A look at the program panicked.
    #[error("the program cannot be looked at; the agent's log says more")]
    Panicked(#[from] JoinError),
    /// A file of the program or of its images.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// It does not stand still.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    /// CRIU cannot dump it.
    #[error(transparent)]
    Criu(#[from] CriuError),
    /// It runs though it was frozen.
    #[error("criu has not left the program as it was: frozen")]
    NotLeftFrozen,
    /// Its memory.
    #[error(transparent)]
    Pages(#[from] PageError),
    /// The owner's agent.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The target cannot be dialled in time.
    #[error("the target did not answer within {} s", .0.as_secs())]
    NotReached(Duration),
    /// The target takes nothing.
    #[error("the target took nothing for {} s", .0.as_secs())]
    NothingTaken(Duration),
    /// The target says nothing.
    #[error("the target did not finish within {} s", .0.as_secs())]
    Silent(Duration),
    /// The target has ended.
    #[error("the target closed the connection")]
    Closed,
    /// The connection cannot be written to.
    #[error("the connection to the target broke")]
    Broken(#[source] io::Error),
    /// What comes on the connection is not understood, or it broke.
    #[error("the connection to the target broke")]
    Connection(#[from] ProtocolError),
    /// The target cannot continue.
    #[error("the target gave up: {0}")]
    GivenUp(String),
    /// The target does not keep to the protocol.
    #[error("the target answered out of turn; run the same release of scx_mosix on all nodes")]
    OutOfTurn,
    /// The move does not go its way.
    #[error(transparent)]
    Step(#[from] IllegalStep),
}

impl SourceError {
    /// A file that cannot be used.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
