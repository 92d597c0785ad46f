//! The first move, out of home itself: what the source engine asks of the home agent.

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use crate::control::MoveProgress;
use crate::home::descriptors::{self, Taken};
use crate::home::inject::Original;
use crate::migration::process::members;
use crate::migration::source::{Body, Descriptors, Owner, Relayed, Verdict};

/// What the engine's side tells the core.
pub(super) enum FromSource {
    /// Progress of the move.
    Progress(MoveProgress),
    /// The body stands still; this was taken, and these processes are there, parents first.
    Frozen { taken: Taken, originals: Vec<Original> },
    /// The body is dumped.
    Dumped,
    /// The engine wants to give up.
    Abort { reason: String, verdict: oneshot::Sender<Verdict> },
}

/// Home's own agent as the owner of the body.
pub(super) struct HomeOwner {
    pub(super) body: Body,
    pub(super) core: mpsc::Sender<FromSource>,
    /// The epoch, once it is committed that the body is elsewhere.
    pub(super) committed: watch::Receiver<Option<u64>>,
}

const CORE_GONE: &str = "the home agent is ending";

#[async_trait]
impl Owner for HomeOwner {
    fn progress(&self, progress: MoveProgress) {
        if self.core.try_send(FromSource::Progress(progress)).is_err() {
            tracing::debug!("a report of progress was dropped");
        }
    }

    async fn frozen(&self) -> Result<Descriptors, String> {
        let body = self.body.clone();
        let (taken, originals) =
            tokio::task::spawn_blocking(move || take(&body)).await.map_err(|error| error.to_string())??;
        let relayed = taken.channels.iter();
        let relayed =
            relayed.map(|taken| Relayed { channel: taken.channel, criu_key: taken.criu_key.clone() }).collect();
        let shared_files = taken.files.iter().map(|(file, _)| *file).collect();
        self.core.send(FromSource::Frozen { taken, originals }).await.map_err(|_| CORE_GONE)?;
        Ok(Descriptors { relayed, shared_files })
    }

    async fn dumped(&self) -> Result<(), String> {
        self.core.send(FromSource::Dumped).await.map_err(|_| CORE_GONE.into())
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
            // The core has ended, and with it this process; a body whose fate is unknown is not touched.
            _ => std::future::pending().await,
        }
    }
}

/// Descriptors and processes of the frozen body.
pub(super) fn take(body: &Body) -> Result<(Taken, Vec<Original>), String> {
    let processes = members(&body.cgroup).map_err(|error| format!("its processes cannot be listed: {error}"))?;
    let mut alive: Vec<_> = processes.into_iter().filter(|process| process.state != 'Z').collect();
    let mut originals = Vec::new();
    // Parents before their children; the root's parent is outside.
    let mut generation = vec![body.root_pid];
    while let Some(pid) = generation.pop() {
        let dumped_signals = pending_signals(pid).map_err(|error| format!("its signals cannot be read: {error}"))?;
        originals.push(Original { pid, dumped_signals });
        let (children, others) = alive.into_iter().partition(|process| process.parent == pid);
        alive = others;
        generation.extend(children.iter().map(|child| child.pid));
    }
    let pids: Vec<i32> = originals.iter().map(|original| original.pid).collect();
    let taken = descriptors::take(&pids).map_err(|error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })?;
    Ok((taken, originals))
}

/// Signals that wait for the process: they go with the dump.
fn pending_signals(pid: i32) -> std::io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or_default()
    };
    Ok(set("SigPnd:") | set("ShdPnd:"))
}
