//! What the source engine is told, and what it asks of the agent that owns the process tree.

use std::path::PathBuf;

use async_trait::async_trait;

use super::OwnerError;
use crate::job::SessionId;
use crate::protocol::{MoveProgress, moves::Descriptors};

/// Where a process tree runs and so where CRIU must dump it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the namespaces of this process: a job at home that was never moved.
    Here,
    /// In a guest's namespaces: those of its pid 1, whose number on this node this is.
    Guest {
        /// Pid 1 of the guest as this node numbers it.
        init: i32,
    },
}

/// A process tree as its node sees it.
#[derive(Clone, Debug)]
pub struct ProcessTree {
    /// The root process, as this node numbers it.
    pub root_pid: i32,
    /// The cgroup that holds the process tree and nothing else, an absolute path below
    /// /sys/fs/cgroup.
    pub cgroup: PathBuf,
    /// Where CRIU must run.
    pub place: Place,
}

/// All that the engine must know to move a process tree.
#[derive(Clone, Debug)]
pub struct Move {
    /// The migration.
    pub migration: SessionId,
    /// What moves.
    pub tree: ProcessTree,
    /// The run-time directory; images lie below `mig/` in it, on tmpfs, for as long as the move
    /// lasts.
    pub run_dir: PathBuf,
}

/// Home's answer to a source that wants to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Home will never commit this migration: the process tree resumes here.
    Aborted,
    /// Too late: home had committed it under this epoch, the process tree here must not run again.
    Committed {
        /// The job's epoch.
        epoch: u64,
    },
}

/// How a move ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Home committed. The process tree here is still frozen and belongs to the owner, who turns it
    /// into deputies or kills it.
    Committed {
        /// The job's epoch.
        epoch: u64,
    },
    /// The process tree resumes here; it has been thawed.
    Aborted {
        /// Why: one readable sentence.
        reason: String,
    },
}

/// What the engine asks of the agent that owns the process tree.
#[async_trait]
pub trait Owner: Send + Sync {
    /// The engine has entered a state or has news of it. Must not wait.
    fn progress(&self, progress: MoveProgress);

    /// Called again and again while not all processes stand still: interrupts what can be
    /// interrupted. Must not wait.
    fn freezing(&self) {}

    /// The process tree stands still: take its descriptors and say which are relayed. An error is
    /// the reason why it cannot move, and makes the engine abort.
    async fn frozen(&self) -> Result<Descriptors, OwnerError>;

    /// The process tree is dumped. A guest agent flushes its relays and its file system now and
    /// tells home `Drained`; meanwhile the engine sends. Home's own agent has nothing to do here.
    async fn dumped(&self) -> Result<(), OwnerError>;

    /// Resolves when home has committed this migration, with the new epoch. Cancel-safe.
    async fn committed(&self) -> u64;

    /// Asks home to forget this migration, for as long as it takes to get an answer; the process
    /// tree stays frozen meanwhile.
    async fn abort(&self, reason: &str) -> Verdict;
}
