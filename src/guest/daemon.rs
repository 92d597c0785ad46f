//! The agent's control socket: any number of daemons, one after the other, may connect; each hears
//! the state first.

use std::{os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use tokio::sync::{broadcast, mpsc, watch};

use crate::protocol::{
    AgentState, FromAgent, ProtocolError, ToAgent,
    packet::{PacketListener, PacketSocket},
};

/// Reports that a slow daemon may lag behind before it loses the oldest.
const BACKLOG: usize = 256;
/// Requests that wait for the agent.
const QUEUE: usize = 16;

/// How long to wait after an error before the next connection is accepted: descriptors or memory
/// may be short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request and the descriptor that came with it.
pub type Request = (ToAgent, Option<OwnedFd>);

/// What is told to all daemons that are or will be connected.
pub struct Daemons {
    state: watch::Sender<AgentState>,
    prepared: watch::Sender<Option<Option<String>>>,
    reports: broadcast::Sender<FromAgent>,
    connected: watch::Sender<usize>,
}

impl Daemons {
    /// Listens at `path`. Must be called inside a tokio runtime, which serves the connections.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn listen(path: &Path, state: AgentState) -> Result<(Arc<Self>, mpsc::Receiver<Request>), ProtocolError> {
        let listener = PacketListener::bind(path)?;
        let daemons = Arc::new(Self {
            state: watch::Sender::new(state),
            prepared: watch::Sender::new(None),
            reports: broadcast::Sender::new(BACKLOG),
            connected: watch::Sender::new(0),
        });
        let (requests, receiver) = mpsc::channel(QUEUE);
        let accepting = daemons.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept::<FromAgent, ToAgent>().await {
                    Ok(socket) => {
                        let (daemons, requests) = (accepting.clone(), requests.clone());
                        tokio::spawn(async move {
                            if let Err(error) = socket.greet().await {
                                let error = &error as &dyn std::error::Error;
                                return tracing::warn!(error, "no greeting with a daemon");
                            }
                            daemons.connected.send_modify(|count| *count += 1);
                            daemons.serve(socket, requests).await;
                            daemons.connected.send_modify(|count| *count -= 1);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a daemon could not connect");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        Ok((daemons, receiver))
    }

    /// Changes the state, and tells it if `change` says that it did.
    pub fn set_state(&self, change: impl FnOnce(&mut AgentState) -> bool) {
        self.state.send_if_modified(change);
    }

    /// The guest's world is made, or why not; told once to every daemon.
    pub fn prepared(&self, refused: Option<String>) {
        self.prepared.send_replace(Some(refused));
    }

    /// Resolves when no daemon is connected any more after one was.
    pub async fn gone(&self) {
        let mut connected = self.connected.subscribe();
        // The sender is ours, so neither wait can fail.
        let _ = connected.wait_for(|count| *count > 0).await;
        let _ = connected.wait_for(|count| *count == 0).await;
    }

    /// Tells the daemons that listen now.
    pub fn report(&self, report: FromAgent) {
        // No daemon listens while it is restarted; the state tells the next one what matters.
        let _ = self.reports.send(report);
    }

    async fn serve(&self, socket: PacketSocket<FromAgent, ToAgent>, requests: mpsc::Sender<Request>) {
        let mut reports = self.reports.subscribe();
        let (mut state, mut prepared) = (self.state.subscribe(), self.prepared.subscribe());
        state.mark_changed();
        prepared.mark_changed();
        loop {
            let report = tokio::select! {
                biased;
                Ok(()) = state.changed() => FromAgent::State(state.borrow_and_update().clone()),
                Ok(()) = prepared.changed() => match prepared.borrow_and_update().clone() {
                    Some(refused) => FromAgent::Prepared { refused },
                    None => continue,
                },
                report = reports.recv() => match report {
                    Ok(report) => report,
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        tracing::warn!(lost, "the daemon is too slow: reports lost");
                        continue;
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                request = socket.recv() => match request {
                    Ok(Some(request)) => match requests.send(request).await {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the daemon said something that was not understood");
                        if matches!(error, ProtocolError::Io { .. }) {
                            return;
                        }
                        continue;
                    }
                },
            };
            if let Err(error) = socket.send(&report, None).await {
                tracing::debug!(%error, "a daemon has gone");
                return;
            }
        }
    }
}
