//! What goes wrong with a guest, on its way here, at its work and on its way out.

use std::{io, path::PathBuf, time::Duration};

use tokio::task::JoinError;

use super::{files::MountError, init::InitError, world::WorldError};
use crate::{
    agent::{connection::ConnectError, process::ProcessError},
    migration::{criu::CriuError, movable::CannotMove, target::TargetError},
    protocol::ProtocolError,
    sys::cgroup::CgroupError,
};

/// Why a guest agent cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// It could not begin.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It was started for something else.
    #[error("started with another role")]
    WrongRole,
    /// Its control socket, or its end.
    #[error("the daemon cannot reach the guest agent")]
    Control(#[from] ProtocolError),
    /// No daemon can ask it for anything any more.
    #[error("the control socket is gone")]
    ControlGone,
    /// A stream to or from another node.
    #[error(transparent)]
    Stream(#[from] ConnectError),
    /// No link to home came about.
    #[error("home ({home}) cannot be reached at {address}")]
    Unreachable {
        /// Home.
        home: String,
        /// Where it should be.
        address: String,
    },
    /// The link to home is lost for good.
    #[error("{0}")]
    HomeLost(String),
    /// Home does not answer.
    #[error("home did not answer within {} s", .0.as_secs())]
    HomeSilent(Duration),
    /// Home says no.
    #[error("{0}")]
    HomeRefused(String),
    /// Home has ended the move that brings it.
    #[error("home gave it up: {0}")]
    GivenUp(String),
    /// Home has given the program to another.
    #[error("home takes this copy for an old one")]
    OldCopy,
    /// Home ends the guest.
    #[error("home does not want it any more")]
    NotWanted,
    /// The daemon ends the guest.
    #[error("{0}")]
    Terminated(String),
    /// A node takes new guests only while a daemon looks after them.
    #[error("the daemon of the target has ended")]
    DaemonGone,
    /// The stream of the source.
    #[error("the source did not come within {} s", .0.as_secs())]
    NoSource(Duration),
    /// The target engine.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// CRIU.
    #[error(transparent)]
    Criu(#[from] CriuError),
    /// The guest's world.
    #[error(transparent)]
    World(#[from] WorldError),
    /// Its pid 1.
    #[error(transparent)]
    Init(#[from] InitError),
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Home's files.
    #[error(transparent)]
    Files(#[from] MountError),
    /// A file or a channel.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A file that CRIU is given.
    #[error("cannot open {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The numbers of its processes leave no gap.
    #[error("no process numbers are left between those of the program")]
    NoNumbers,
    /// CRIU has restored something else.
    #[error("the restored program is not where it should be")]
    NotThere,
    /// The engine asks out of turn.
    #[error("the program was not taken in step by step; please report this")]
    OutOfStep,
    /// The program cannot move on.
    #[error(transparent)]
    CannotMove(#[from] CannotMove),
    /// It holds a lock at home, which would be lost.
    #[error("it holds a lock on a file (inode {0})")]
    HoldsLock(u64),
    /// It is on its way.
    #[error("it is already moving")]
    IsMoving,
    /// There is no program any more.
    #[error("it has ended")]
    HasEnded,
    /// A part of the agent panicked.
    #[error("a part of the agent failed; its log says more")]
    Panicked(#[from] JoinError),
}

impl GuestError {
    /// A file or a channel cannot be used.
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
