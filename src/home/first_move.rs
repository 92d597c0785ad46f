//! The first move, out of home itself: what the source engine asks of the home agent.

use std::io;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinError;

use crate::descriptors::{self, TakeError, Taken};
use crate::home::inject::Original;
use crate::migration::movable::CannotMove;
use crate::migration::source::{Owner, OwnerError, ProcessTree, Verdict};
use crate::protocol::{
    MoveProgress,
    moves::{Descriptors, Relayed},
};
use crate::sys::{
    cgroup::{CgroupError, members},
    proc,
};

/// Why a job cannot move out of home. It continues here.
#[derive(Debug, thiserror::Error)]
pub(super) enum FirstMoveError {
    /// The program cannot.
    #[error(transparent)]
    CannotMove(#[from] CannotMove),
    /// Its descriptors cannot be relayed, or looked at.
    #[error(transparent)]
    Descriptors(#[from] TakeError),
    /// Its processes.
    #[error("its processes cannot be listed")]
    Processes(#[from] CgroupError),
    /// Signals that wait for one of them.
    #[error("the signals that wait for process {pid} cannot be read")]
    Signals {
        /// The process.
        pid: i32,
        /// The system's error.
        source: io::Error,
    },
    /// A look at it panicked.
    #[error("the program cannot be looked at; the agent's log says more")]
    Panicked(#[from] JoinError),
    /// The agent's core.
    #[error("the home agent is ending")]
    CoreGone,
}

/// What the engine's side tells the core.
pub(super) enum FromSource {
    /// Progress of the move.
    Progress(MoveProgress),
    /// The process tree stands still; this was taken, and these processes are there, parents first.
    Frozen { taken: Taken, originals: Vec<Original> },
    /// The process tree is dumped.
    Dumped,
    /// The engine wants to give up.
    Abort { reason: String, verdict: oneshot::Sender<Verdict> },
}

/// Home's own agent as the owner of the process tree.
pub(super) struct HomeOwner {
    pub(super) tree: ProcessTree,
    pub(super) core: mpsc::Sender<FromSource>,
    /// The epoch, once it is committed that the process tree is elsewhere.
    pub(super) committed: watch::Receiver<Option<u64>>,
}

#[async_trait]
impl Owner for HomeOwner {
    fn progress(&self, progress: MoveProgress) {
        if self.core.try_send(FromSource::Progress(progress)).is_err() {
            tracing::debug!("a report of progress was dropped");
        }
    }

    async fn frozen(&self) -> Result<Descriptors, OwnerError> {
        let tree = self.tree.clone();
        let (taken, originals) = tokio::task::spawn_blocking(move || take(&tree)).await??;
        let relayed = taken.channels.iter();
        let relayed =
            relayed.map(|taken| Relayed { channel: taken.channel, criu_key: taken.criu_key.clone() }).collect();
        let shared_files = taken.files.iter().map(|(file, _)| *file).collect();
        self.core.send(FromSource::Frozen { taken, originals }).await.map_err(|_| FirstMoveError::CoreGone)?;
        Ok(Descriptors { relayed, shared_files })
    }

    async fn dumped(&self) -> Result<(), OwnerError> {
        self.core.send(FromSource::Dumped).await.map_err(|_| FirstMoveError::CoreGone.into())
    }

    async fn committed(&self) -> u64 {
        let mut committed = self.committed.clone();
        let epoch = committed.wait_for(Option::is_some).await.ok().and_then(|epoch| *epoch);
        match epoch {
            Some(epoch) => epoch,
            // The core has ended, and with it this process.
            None => std::future::pending().await,
        }
    }

    async fn abort(&self, reason: &str) -> Verdict {
        let (verdict, answer) = oneshot::channel();
        let sent = self.core.send(FromSource::Abort { reason: reason.into(), verdict }).await;
        match (sent, answer.await) {
            (Ok(()), Ok(verdict)) => verdict,
            // The core has ended, and with it this process; a process tree whose fate is unknown is
            // not touched.
            _ => std::future::pending().await,
        }
    }
}

/// Descriptors and processes of the frozen process tree.
pub(super) fn take(tree: &ProcessTree) -> Result<(Taken, Vec<Original>), FirstMoveError> {
    let mut alive: Vec<_> = members(&tree.cgroup)?.into_iter().filter(|process| process.state != 'Z').collect();
    let mut originals = Vec::new();
    // Parents before their children; the root's parent is outside.
    let mut generation = vec![tree.root_pid];
    while let Some(pid) = generation.pop() {
        let dumped_signals = pending_signals(pid).map_err(|source| FirstMoveError::Signals { pid, source })?;
        originals.push(Original { pid, dumped_signals });
        let (children, others) = alive.into_iter().partition(|process| process.parent == pid);
        alive = others;
        generation.extend(children.iter().map(|child| child.pid));
    }
    let pids: Vec<i32> = originals.iter().map(|original| original.pid).collect();
    Ok((descriptors::take(&pids)?, originals))
}

/// Signals that wait for the process: they go with the dump.
fn pending_signals(pid: i32) -> std::io::Result<u64> {
    let status = proc::status(format!("/proc/{pid}"))?;
    Ok(status.sigpnd | status.shdpnd)
}
