//! Why two ends do not understand each other.

use std::{borrow::Cow, io, path::PathBuf, time::Duration};

use super::hello::{HELLO_LIMIT, Protocol, Versions};

/// What can go wrong between the two ends of a connection.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The operating system refused.
    #[error("the connection failed: cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The control socket's file could not be made, reached or protected.
    #[error("control socket {path}")]
    Path {
        /// The socket's file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The other end did not begin with a hello.
    #[error("the other end does not begin with a hello of scx_mosix; run the same release of it at both ends")]
    NoHello,
    /// The other end said nothing.
    #[error("no hello came from the other end within {} s", HELLO_LIMIT.as_secs())]
    TimedOut,
    /// The other end does not know the protocol.
    #[error(
        "the other end does not know the {protocol}, of which this end understands {ours}; upgrade scx_mosix at the other end"
    )]
    NotOffered {
        /// The protocol.
        protocol: Protocol,
        /// The versions that this end understands.
        ours: Versions,
    },
    /// No version of the protocol is known to both.
    #[error(
        "this end understands versions {ours} of the {protocol}, the other end {theirs}; upgrade scx_mosix at {} end",
        if ours.newest < theirs.oldest { "this" } else { "the other" }
    )]
    NoCommonVersion {
        /// The protocol.
        protocol: Protocol,
        /// The versions that this end understands.
        ours: Versions,
        /// The versions that the other end understands.
        theirs: Versions,
    },
    /// A message or frame is longer than its protocol allows.
    #[error("{protocol}: a message of {bytes} bytes, where {most} are the most")]
    TooLong {
        /// The protocol.
        protocol: Protocol,
        /// Its length.
        bytes: usize,
        /// The longest.
        most: usize,
    },
    /// The connection ended in the middle of a frame or a greeting, or not as TLS wants it: the
    /// other end died.
    #[error("{protocol}: the connection was cut off")]
    CutOff {
        /// The protocol.
        protocol: Protocol,
    },
    /// Nothing came for too long.
    #[error("{protocol}: nothing came from the other end within {} s", limit.as_secs())]
    Silent {
        /// The protocol.
        protocol: Protocol,
        /// How long it had.
        limit: Duration,
    },
    /// The bytes make no sense.
    #[error("{protocol}: not understood: {what}; run the same release of scx_mosix at both ends")]
    Malformed {
        /// The protocol.
        protocol: Protocol,
        /// What is wrong.
        what: Cow<'static, str>,
    },
    /// A message in JSON does not fit its type.
    #[error("{protocol}: a message is not understood; run the same release of scx_mosix at both ends")]
    Json {
        /// The protocol.
        protocol: Protocol,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl Protocol {
    /// An error of this protocol: bytes that make no sense.
    pub(crate) fn malformed(self, what: impl Into<Cow<'static, str>>) -> ProtocolError {
        ProtocolError::Malformed { protocol: self, what: what.into() }
    }

    /// An error of this protocol: a message that does not fit its type, or cannot be written.
    pub(crate) fn json(self) -> impl FnOnce(serde_json::Error) -> ProtocolError {
        move |source| ProtocolError::Json { protocol: self, source }
    }
}

impl ProtocolError {
    /// Whether both ends must be of other releases than they are: to try again cannot help.
    #[must_use]
    pub fn is_of_versions(&self) -> bool {
        matches!(self, Self::NotOffered { .. } | Self::NoCommonVersion { .. } | Self::NoHello)
    }
}
