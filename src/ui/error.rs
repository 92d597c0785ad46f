//! What can go wrong with a command, and the exit status that says so.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode};

use crate::{api::CallError, keys::KeyError, node::NodeError};

use super::args::RunDir;

/// Refused or failed.
pub(super) const FAILED: u8 = 1;
/// No daemon answers.
const NO_DAEMON: u8 = 3;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum UiError {
    /// No daemon listens.
    #[error("no daemon answers at {} ({why}): start it with `systemctl start scx_mosix`, or as root with `scx_mosix`", .socket.display())]
    NoDaemon {
        /// Where the daemon should be.
        socket: PathBuf,
        /// What the connection said.
        why: String,
    },
    /// The daemon refused, or failed.
    #[error(transparent)]
    Call(CallError),
    /// About the cluster's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// This machine cannot be looked at.
    #[error("this machine cannot be examined")]
    Node(#[from] NodeError),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// What was waited for will not come about.
    #[error("{node} takes guests again: its draining was ended")]
    Undone {
        /// The node.
        node: String,
    },
    /// There is no move to cancel.
    #[error("{process} is not being moved: there is nothing to cancel")]
    NotMoving {
        /// The program.
        process: String,
    },
    /// The manual pages cannot be written.
    #[error("cannot write manual pages to {}", .path.display())]
    Manual {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The monitor has no terminal.
    #[error("this needs a terminal: `scx_mosix ps` and `nodes` print what it shows")]
    NoTerminal,
    /// The terminal failed.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// The page's port cannot be had.
    #[error("cannot serve at {address}: is another page served there? Give another --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The page cannot be served.
    #[error("cannot serve the page")]
    Serve(#[source] io::Error),
    /// The token cannot be read.
    #[error("cannot read the token in {}", .path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The token could be guessed.
    #[error("{}: a token has at least 32 letters and digits, and nothing else", .path.display())]
    WeakToken {
        /// The file.
        path: PathBuf,
    },
    /// No asynchronous runtime.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
}

impl UiError {
    /// Sorts what a call said: whether the daemon is there at all makes a difference to the user.
    pub(super) fn of_call(run_dir: &RunDir) -> impl Fn(CallError) -> Self {
        let socket = run_dir.socket();
        move |error| match error {
            CallError::Unreachable { why, .. } => Self::NoDaemon { socket: socket.clone(), why },
            other => Self::Call(other),
        }
    }

    /// 1: refused or failed. 3: no daemon answers. (2, wrong usage, comes from the command line's
    /// parser.)
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::NoDaemon { .. } => NO_DAEMON,
            Self::Call(_)
            | Self::Key(_)
            | Self::Node(_)
            | Self::Output(_)
            | Self::Undone { .. }
            | Self::NotMoving { .. }
            | Self::Manual { .. }
            | Self::NoTerminal
            | Self::Terminal(_)
            | Self::Listen { .. }
            | Self::Serve(_)
            | Self::TokenFile { .. }
            | Self::WeakToken { .. }
            | Self::Runtime(_) => FAILED,
        })
    }
}
