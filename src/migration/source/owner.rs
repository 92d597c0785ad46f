//! What the source engine is told, and what it asks of the agent that owns the body.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::agent::control::{MoveProgress, SessionId};

/// Where a body runs and so where CRIU must dump it.
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

/// A body as its node sees it.
#[derive(Clone, Debug)]
pub struct Body {
    /// The root process, as this node numbers it.
    pub root_pid: i32,
    /// The cgroup that holds the body and nothing else, an absolute path below /sys/fs/cgroup.
    pub cgroup: PathBuf,
    /// Where CRIU must run.
    pub place: Place,
}

/// All that the engine must know to move a body.
#[derive(Clone, Debug)]
pub struct Move {
    /// The migration.
    pub migration: SessionId,
    /// What moves.
    pub body: Body,
    /// The run-time directory; images lie below `mig/` in it, on tmpfs, for as long as the move lasts.
    pub run_dir: PathBuf,
}

/// Which way the data of a relayed descriptor go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// The body writes, home reads.
    Out,
    /// Home writes, the body reads.
    In,
    /// The body's terminal.
    Tty,
}

/// A relayed descriptor as it is called in one dump.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Channel {
    /// Home's number of it, the same for as long as the job lives.
    pub id: u32,
    /// CRIU's name of it in this dump, `pipe:[INODE]`; empty for the terminal, which CRIU takes from its standard input.
    pub criu_key: String,
    /// What it is.
    pub kind: ChannelKind,
}

/// Home's answer to a source that wants to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Home will never commit this migration: the body goes on here.
    Aborted,
    /// Too late: home had committed it under this epoch, the body here must not run again.
    Committed {
        /// The job's epoch.
        epoch: u64,
    },
}

/// How a move ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Home committed. The body here is still frozen and belongs to the owner, who turns it into deputies or kills it.
    Committed {
        /// The job's epoch.
        epoch: u64,
    },
    /// The body goes on here; it has been thawed.
    Aborted {
        /// Why: one readable sentence.
        reason: String,
    },
}

/// What the engine asks of the agent that owns the body.
#[async_trait]
pub trait Owner: Send + Sync {
    /// The engine has entered a state or has news of it. Must not wait.
    fn progress(&self, progress: MoveProgress);

    /// The body stands still: take its descriptors and say which are relayed. An error is the one readable reason why it
    /// cannot move, and makes the engine abort.
    async fn frozen(&self) -> Result<Vec<Channel>, String>;

    /// All of the body has been sent. A guest agent flushes its relays now and tells home `Drained`.
    async fn sent(&self) -> Result<(), String>;

    /// Resolves when home has committed this migration, with the new epoch. Cancel-safe.
    async fn committed(&self) -> u64;

    /// Asks home to forget this migration, for as long as it takes to get an answer; the body stays frozen meanwhile.
    async fn abort(&self, reason: &str) -> Verdict;
}
