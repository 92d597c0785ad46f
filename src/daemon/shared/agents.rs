//! The agents of this node as the daemon sees them: one lasting control connection to each, its
//! state and its reports.
//!
//! Agents do not depend on the daemon: when it starts it finds those of its predecessor by their
//! sockets in the run-time directory. An agent that is not connected may be slow, or stopped. It is
//! dead only if its lock ([`crate::protocol::alive`]) is free.

mod search;
mod view;

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::view::{AgentView, GuestView, HomeView};
use crate::{
    job::SessionId,
    protocol::{AgentState, FromAgent, ProtocolError, StreamKind, ToAgent, packet::PacketSocket, socket_path},
    sys::{
        lock::{Mutex, MutexGuard},
        proc::has_ended,
    },
};

/// Names an agent on its node: a home agent by its job's home session, a guest agent by the
/// migration that brought the guest.
pub type AgentKey = (StreamKind, SessionId);

/// How long an agent may take to accept a connection or a message and to tell its state.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

/// How many reports a slow reader may lag behind before it loses the oldest.
const REPORT_BACKLOG: usize = 256;

/// What can go wrong with an agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its socket does not answer.
    #[error("agent {key} does not answer", key = show(.key))]
    Control {
        /// Which one.
        key: AgentKey,
        /// What failed.
        source: ProtocolError,
    },
    /// It has ended, or never came up.
    #[error("agent {key} has ended; its log is in the run-time directory", key = show(.key))]
    Ended {
        /// Which one.
        key: AgentKey,
    },
    /// It did not answer in time.
    #[error("agent {key} did not answer within {seconds} s", key = show(.key))]
    Timeout {
        /// Which one.
        key: AgentKey,
        /// How long it had.
        seconds: u64,
    },
}

/// Why nothing more is to be done about a program.
pub const HAS_ENDED: &str = "the program has ended";

impl AgentError {
    /// Whether the agent and this daemon are of releases that do not understand each other.
    pub fn is_of_versions(&self) -> bool {
        matches!(self, Self::Control { source, .. } if source.is_of_versions())
    }

    /// Why the agent of a program cannot do what it was asked for, if the program's root is `pid`
    /// on this node: agents end with it.
    pub fn explain(&self, pid: i32) -> String {
        if has_ended(pid) { HAS_ENDED.into() } else { self.to_string() }
    }
}

/// An agent and the daemon's connection to it.
pub struct Agent {
    key: AgentKey,
    socket: PacketSocket<ToAgent, FromAgent>,
    state: watch::Sender<Option<AgentState>>,
    reports: broadcast::Sender<FromAgent>,
    from_start: Mutex<Option<broadcast::Receiver<FromAgent>>>,
    ended: CancellationToken,
}

impl Agent {
    /// Its last known state.
    pub fn state(&self) -> Option<AgentState> {
        self.state.borrow().clone()
    }

    /// Why it cannot do what it was asked for.
    pub fn explain(&self, error: &AgentError) -> String {
        let pid = self.state().and_then(|state| match state {
            AgentState::Home { root_pid, .. } => Some(root_pid),
            AgentState::Guest { host_pid, .. } => host_pid,
        });
        pid.map_or_else(|| error.to_string(), |pid| error.explain(pid))
    }

    /// All reports from now on.
    pub fn reports(&self) -> broadcast::Receiver<FromAgent> {
        self.reports.subscribe()
    }

    /// All reports since the daemon connected, for the first receiver: what an agent tells as soon
    /// as it is up is not missed.
    pub fn reports_from_start(&self) -> broadcast::Receiver<FromAgent> {
        let first = self.from_start.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.reports())
    }

    /// Sends a request, with a descriptor if it carries one.
    pub async fn request(&self, message: &ToAgent, descriptor: Option<OwnedFd>) -> Result<(), AgentError> {
        match tokio::time::timeout(CONTROL_TIMEOUT, self.socket.send(message, descriptor)).await {
            Ok(result) => result.map_err(|source| AgentError::Control { key: self.key, source }),
            Err(_) => Err(self.timeout(CONTROL_TIMEOUT)),
        }
    }

    /// Waits for the first report for which `pick` gives an answer. Subscribe before the request
    /// that causes it.
    pub async fn wait_for<T>(
        &self,
        reports: &mut broadcast::Receiver<FromAgent>,
        limit: Duration,
        pick: impl Fn(FromAgent) -> Option<T>,
    ) -> Result<T, AgentError> {
        let found = async {
            loop {
                match reports.recv().await {
                    Ok(report) => {
                        if let Some(answer) = pick(report) {
                            return Ok(answer);
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        tracing::warn!(agent = show(&self.key), lost, "reports lost: the daemon is too slow");
                    }
                    Err(broadcast::error::RecvError::Closed) => return Err(AgentError::Ended { key: self.key }),
                }
            }
        };
        tokio::select! {
            biased;
            result = tokio::time::timeout(limit, found) => result.unwrap_or_else(|_| Err(self.timeout(limit))),
            () = self.ended.cancelled() => Err(AgentError::Ended { key: self.key }),
        }
    }

    /// Waits until the agent does not say any more that it makes this move, or has ended; no longer
    /// than `limit`.
    pub async fn released(&self, migration: SessionId, limit: Duration) {
        let mut state = self.state.subscribe();
        let releases = state.wait_for(|state| state.as_ref().and_then(moving) != Some(migration));
        tokio::select! {
            _ = tokio::time::timeout(limit, releases) => {}
            () = self.ended.cancelled() => {}
        }
    }

    fn timeout(&self, limit: Duration) -> AgentError {
        AgentError::Timeout { key: self.key, seconds: limit.as_secs() }
    }
}

/// All agents of the node.
pub struct Agents {
    run_dir: PathBuf,
    by_key: Mutex<HashMap<AgentKey, Arc<Agent>>>,
    /// Those that are being looked for: they are not connected, and not known to be dead.
    silent: Mutex<HashSet<AgentKey>>,
    changed: watch::Sender<u64>,
    reports: mpsc::Sender<(AgentKey, FromAgent)>,
}

impl Agents {
    /// An empty table for the agents whose sockets are below `run_dir`. Every report of every agent
    /// also goes to `reports`, so that what an agent does is recorded no matter which daemon asked
    /// for it.
    pub fn new(run_dir: &Path, reports: mpsc::Sender<(AgentKey, FromAgent)>) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(run_dir.join("agents"))?;
        let (by_key, silent) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { run_dir: run_dir.into(), by_key, silent, changed: watch::Sender::new(0), reports }))
    }

    /// As [`Self::attach`], for an agent that has just been started; `gone` is cancelled when its
    /// process has ended.
    pub async fn attach_new(
        self: &Arc<Self>,
        key: AgentKey,
        limit: Duration,
        gone: &CancellationToken,
    ) -> Result<Arc<Agent>, AgentError> {
        tokio::select! {
            attached = self.attach(key, limit) => attached,
            () = gone.cancelled() => Err(AgentError::Ended { key }),
        }
    }

    /// The agent `key`: connects to it if it is not connected yet, trying for `limit` while its
    /// socket comes up.
    pub async fn attach(self: &Arc<Self>, key: AgentKey, limit: Duration) -> Result<Arc<Agent>, AgentError> {
        if let Some(agent) = self.get(key) {
            return Ok(agent);
        }
        let path = socket_path(&self.run_dir, key.0, key.1);
        let deadline = tokio::time::Instant::now() + limit;
        let socket = loop {
            match PacketSocket::connect(&path) {
                Ok(socket) => break socket,
                Err(source @ ProtocolError::Path { .. }) if refused_for_good(&source) => {
                    return Err(AgentError::Control { key, source });
                }
                Err(source) if tokio::time::Instant::now() >= deadline => {
                    return Err(AgentError::Control { key, source });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let (reports, from_start) = broadcast::channel(REPORT_BACKLOG);
        let agent = Arc::new(Agent {
            key,
            socket,
            state: watch::Sender::new(None),
            reports,
            from_start: Mutex::new(Some(from_start)),
            ended: CancellationToken::new(),
        });
        // An agent is known with its state only.
        let told = async {
            agent.socket.greet().await.map_err(|source| match source {
                ProtocolError::CutOff { .. } => AgentError::Ended { key },
                source => AgentError::Control { key, source },
            })?;
            while agent.state().is_none() {
                match agent.socket.recv().await {
                    Ok(Some((report, _))) => self.deliver(&agent, report).await,
                    Ok(None) => return Err(AgentError::Ended { key }),
                    Err(source) => return Err(AgentError::Control { key, source }),
                }
            }
            Ok(())
        };
        tokio::time::timeout(CONTROL_TIMEOUT, told).await.map_err(|_| agent.timeout(CONTROL_TIMEOUT))??;
        {
            let mut by_key = self.lock();
            if let Some(known) = by_key.get(&key) {
                return Ok(known.clone());
            }
            by_key.insert(key, agent.clone());
        }
        self.changed.send_modify(|count| *count += 1);
        tokio::spawn(self.clone().read(agent.clone()));
        Ok(agent)
    }

    /// The agent `key` if it is connected.
    pub fn get(&self, key: AgentKey) -> Option<Arc<Agent>> {
        self.lock().get(&key).cloned()
    }

    /// The states of all agents.
    pub fn states(&self) -> Vec<(AgentKey, AgentState)> {
        self.lock().values().filter_map(|agent| Some((agent.key, agent.state()?))).collect()
    }

    /// Counts the changes of any agent's state, and agents that come or go.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    async fn read(self: Arc<Self>, agent: Arc<Agent>) {
        loop {
            match agent.socket.recv().await {
                Ok(Some((report, _))) => self.deliver(&agent, report).await,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(agent = show(&agent.key), %error, "control connection lost");
                    break;
                }
            }
        }
        // Its process may end a little later, or not at all if only the connection was lost.
        let finding = self.start_finding(agent.key);
        agent.ended.cancel();
        self.lock().remove(&agent.key);
        self.changed.send_modify(|count| *count += 1);
        tracing::debug!(agent = show(&agent.key), "the connection to an agent has ended");
        tokio::spawn(finding);
    }

    async fn deliver(&self, agent: &Agent, report: FromAgent) {
        if let FromAgent::State(state) = &report {
            agent.state.send_replace(Some(state.clone()));
            self.changed.send_modify(|count| *count += 1);
        }
        // No reader is no error: most reports are only for the record.
        let _ = agent.reports.send(report.clone());
        // Without that reader this daemon is ending; the agent is not, and must not be taken for
        // dead.
        let _ = self.reports.send((agent.key, report)).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentKey, Arc<Agent>>> {
        // The table is never left half changed, so a panic elsewhere does not spoil it.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The move out that an agent says it makes.
fn moving(state: &AgentState) -> Option<SessionId> {
    let (AgentState::Home { moving, .. } | AgentState::Guest { moving, .. }) = state;
    moving.as_ref().map(|(migration, _)| *migration)
}

/// Only a missing or not yet listening socket is worth another try.
fn refused_for_good(error: &ProtocolError) -> bool {
    let ProtocolError::Path { source, .. } = error else { return true };
    !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock)
}

fn show(key: &AgentKey) -> String {
    format!("{}-{}", key.0 as u8 as char, key.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{lock_path, packet::PacketListener};

    fn home_state(epoch: u64) -> FromAgent {
        FromAgent::State(AgentState::Home {
            session: SessionId([1; 16]),
            root_pid: 7,
            epoch,
            runs_on: "n1".into(),
            visited: vec!["n1".into()],
            moving: None,
            ended: None,
        })
    }

    #[tokio::test]
    async fn a_restarted_daemon_finds_its_agents_and_sees_them_end() {
        let dir = tempfile::tempdir().unwrap();
        let key = (StreamKind::Home, SessionId([1; 16]));
        let (sender, mut log) = mpsc::channel(8);
        let agents = Agents::new(dir.path(), sender).unwrap();
        let listener = PacketListener::bind(&socket_path(dir.path(), key.0, key.1)).unwrap();
        let dead = (StreamKind::Move, SessionId([2; 16]));
        let stale = [socket_path(dir.path(), dead.0, dead.1), lock_path(dir.path(), dead.0, dead.1)];
        std::os::unix::net::UnixListener::bind(&stale[0]).unwrap();
        std::fs::write(&stale[1], "").unwrap();

        let fake = tokio::spawn(async move {
            let daemon: PacketSocket<FromAgent, ToAgent> = listener.accept().await.unwrap();
            daemon.greet().await.unwrap();
            daemon.send(&home_state(3), None).await.unwrap();
            let (request, _) = daemon.recv().await.unwrap().unwrap();
            let ToAgent::Begin { migration, .. } = request else { panic!("{request:?}") };
            daemon.send(&FromAgent::Begun { migration, refused: None, facts: None }, None).await.unwrap();
        });
        assert_eq!(agents.adopt().await.unwrap(), 1);
        assert!(agents.is_dead(dead) && stale.iter().all(|path| !path.exists()));
        let agent = agents.get(key).unwrap();
        assert!(matches!(agent.state(), Some(AgentState::Home { epoch: 3, .. })));

        let mut reports = agent.reports();
        let migration = SessionId::random();
        agent.request(&ToAgent::Begin { migration, target: "n2".into() }, None).await.unwrap();
        let limit = Duration::from_secs(5);
        let pick = |report| matches!(report, FromAgent::Begun { migration: m, .. } if m == migration).then_some(());
        agent.wait_for(&mut reports, limit, pick).await.unwrap();
        fake.await.unwrap();
        let ended = agent.wait_for(&mut reports, limit, |_| None::<()>).await;
        assert!(matches!(ended, Err(AgentError::Ended { .. })), "{ended:?}");
        assert!(agents.get(key).is_none());
        assert!(matches!(log.recv().await, Some((k, FromAgent::State(_))) if k == key));
    }

    #[tokio::test]
    async fn an_agent_is_not_dead_when_its_reports_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let key = (StreamKind::Home, SessionId([1; 16]));
        let (sender, log) = mpsc::channel(8);
        let agents = Agents::new(dir.path(), sender).unwrap();
        let listener = PacketListener::bind(&socket_path(dir.path(), key.0, key.1)).unwrap();
        drop(log);
        let fake = tokio::spawn(async move {
            let daemon: PacketSocket<FromAgent, ToAgent> = listener.accept().await.unwrap();
            daemon.greet().await.unwrap();
            for epoch in 0..3 {
                daemon.send(&home_state(epoch), None).await.unwrap();
            }
            daemon
        });
        let agent = agents.attach(key, Duration::from_secs(5)).await.unwrap();
        let mut state = agent.state.subscribe();
        let last = state.wait_for(|state| matches!(state, Some(AgentState::Home { epoch: 2, .. })));
        tokio::time::timeout(Duration::from_secs(5), last).await.expect("it is heard no more").unwrap();
        assert!(agents.get(key).is_some());
        drop(fake.await.unwrap());
        agent.ended.cancelled().await;
    }
}
