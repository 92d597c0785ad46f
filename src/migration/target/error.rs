//! Why a process tree does not come to its target.

use std::{io, time::Duration};

use tokio::task::JoinError;

use crate::{
    job::SessionId,
    migration::{criu::CriuError, pages::PageError},
    protocol::ProtocolError,
};

/// Why the guest agent cannot do what the engine asks of it. It has errors of its own.
pub type HostError = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no process tree here. But for [`Self::Lost`] it was before home's word, and the
/// program continues elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The source cannot continue.
    #[error("the source gave up: {0}")]
    GivenUp(String),
    /// The source says nothing.
    #[error("the source sent nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// The source has ended.
    #[error("the source closed the connection")]
    Closed,
    /// What the source sends is not understood, or the connection broke.
    #[error(transparent)]
    Connection(#[from] ProtocolError),
    /// The source does not keep to the protocol.
    #[error("the source sent {0} out of turn; run the same release of scx_mosix on all nodes")]
    OutOfTurn(String),
    /// Another program came.
    #[error("the source sends migration {sent}, expected is {expected}")]
    Other {
        /// What came.
        sent: SessionId,
        /// What was announced.
        expected: SessionId,
    },
    /// The images would fill this node's memory.
    #[error("the images are larger than any program's should be")]
    TooLarge,
    /// Images cannot be kept here.
    #[error("cannot write {what}")]
    Images {
        /// An image, or their directory.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// CRIU does not restore it.
    #[error(transparent)]
    Criu(#[from] CriuError),
    /// Its memory.
    #[error(transparent)]
    Pages(#[from] PageError),
    /// A thread that places memory panicked.
    #[error("the program's memory cannot be put in place; the agent's log says more")]
    Panicked(#[from] JoinError),
    /// The guest agent.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Home has committed, but the copy could not be set going.
    #[error("home has committed it, but it cannot be set going")]
    Lost(#[source] CriuError),
}
