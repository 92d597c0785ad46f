//! The control socket: any number of connections of the daemon, each told the state and every
//! report.

use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

use crate::protocol::{
    AgentState, FromAgent, ProtocolError, ToAgent,
    packet::{PacketListener, PacketSocket},
};

/// The core as its control connections see it.
#[derive(Clone)]
pub(super) struct Handle {
    /// Requests, each with the descriptor that came with it.
    pub(super) requests: mpsc::Sender<(ToAgent, Option<OwnedFd>)>,
    /// The state.
    pub(super) state: watch::Receiver<AgentState>,
    /// Everything else that the daemon is told.
    pub(super) reports: broadcast::Sender<FromAgent>,
}

/// Makes the socket and serves it until aborted.
///
/// # Errors
/// If the socket cannot be made.
pub(super) fn listen(path: &Path, handle: Handle) -> Result<JoinHandle<()>, ProtocolError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir).map_err(|source| ProtocolError::Path { path: dir.into(), source })?;
    let listener = PacketListener::bind(path)?;
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok(socket) => drop(tokio::spawn(serve(socket, handle.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "a daemon could not connect");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }))
}

async fn serve(socket: PacketSocket<FromAgent, ToAgent>, mut handle: Handle) {
    let mut reports = handle.reports.subscribe();
    if let Err(error) = socket.greet().await {
        return tracing::warn!(error = &error as &dyn std::error::Error, "no greeting with a daemon");
    }
    handle.state.mark_changed();
    loop {
        let message = tokio::select! {
            request = socket.recv() => match request {
                Ok(Some(request)) => {
                    if handle.requests.send(request).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a daemon's request is not understood");
                    return;
                }
            },
            changed = handle.state.changed() => match changed {
                Ok(()) => FromAgent::State(handle.state.borrow_and_update().clone()),
                Err(_) => return,
            },
            report = reports.recv() => match report {
                Ok(report) => report,
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            },
        };
        if let Err(error) = socket.send(&message, None).await {
            tracing::info!(%error, "a daemon went away");
            return;
        }
    }
}
