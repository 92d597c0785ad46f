//! The agents of this node as the daemon sees them: one lasting control connection to each, its state and its reports.
//!
//! Agents do not depend on the daemon: when it starts it finds those of its predecessor by their sockets in the run-time
//! directory. An agent whose connection ends has ended.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::process::{OLD_LOG, agent_of_log},
    control::{
        AgentState, FromAgent, SessionId, StreamKind, ToAgent,
        packet::{PacketError, PacketSocket},
        socket_path,
    },
};

/// Names an agent on its node: a home agent by its job's home session, a guest agent by the migration that brought the guest.
pub type AgentKey = (StreamKind, SessionId);

/// How long an agent may take to accept a connection or a message and to tell its state.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

/// How many logs of agents that did not end well are kept: they lie in memory.
const LOGS_KEPT: usize = 64;

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
        source: PacketError,
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
    /// Which agent this is.
    pub fn key(&self) -> AgentKey {
        self.key
    }

    /// Its last known state.
    pub fn state(&self) -> Option<AgentState> {
        self.state.borrow().clone()
    }

    /// All reports from now on.
    pub fn reports(&self) -> broadcast::Receiver<FromAgent> {
        self.reports.subscribe()
    }

    /// All reports since the daemon connected, for whoever asks first: what an agent tells as soon as it is up is not missed.
    pub fn reports_from_start(&self) -> broadcast::Receiver<FromAgent> {
        let first = self.from_start.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.reports())
    }

    /// Cancelled when the agent has ended.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Sends a request, with a descriptor if it carries one.
    pub async fn request(&self, message: &ToAgent, descriptor: Option<OwnedFd>) -> Result<(), AgentError> {
        match tokio::time::timeout(CONTROL_TIMEOUT, self.socket.send(message, descriptor)).await {
            Ok(result) => result.map_err(|source| AgentError::Control { key: self.key, source }),
            Err(_) => Err(self.timeout(CONTROL_TIMEOUT)),
        }
    }

    /// Waits for the first report for which `pick` gives an answer. Subscribe before the request that causes it.
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

    /// Waits until the agent does not say any more that it makes this move, or has ended; no longer than `limit`.
    pub async fn let_go(&self, migration: SessionId, limit: Duration) {
        let mut state = self.state.subscribe();
        let lets_go = state.wait_for(|state| state.as_ref().and_then(moving) != Some(migration));
        tokio::select! {
            _ = tokio::time::timeout(limit, lets_go) => {}
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
    changed: watch::Sender<u64>,
    reports: mpsc::Sender<(AgentKey, FromAgent)>,
}

impl Agents {
    /// An empty table for the agents whose sockets are below `run_dir`. Every report of every agent also goes to `reports`,
    /// so that what an agent does is recorded whoever asked for it.
    pub fn new(run_dir: &Path, reports: mpsc::Sender<(AgentKey, FromAgent)>) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(run_dir.join("agents"))?;
        let by_key = Mutex::default();
        Ok(Arc::new(Self { run_dir: run_dir.into(), by_key, changed: watch::Sender::new(0), reports }))
    }

    /// Connects to the agents that an earlier daemon started; removes the sockets of those that have died.
    pub async fn adopt(self: &Arc<Self>) -> io::Result<usize> {
        let mut adopted = 0;
        for entry in std::fs::read_dir(self.run_dir.join("agents"))?.flatten() {
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(parse_name) else { continue };
            match self.attach(key, Duration::ZERO).await {
                Ok(_) => adopted += 1,
                Err(error) => {
                    tracing::info!(agent = show(&key), %error, "agent of an earlier daemon is gone");
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(adopted)
    }

    /// The agent `key`: connects to it if it is not connected yet, trying for `limit` while its socket comes up.
    pub async fn attach(self: &Arc<Self>, key: AgentKey, limit: Duration) -> Result<Arc<Agent>, AgentError> {
        if let Some(agent) = self.get(key) {
            return Ok(agent);
        }
        let path = socket_path(&self.run_dir, key.0, key.1);
        let deadline = tokio::time::Instant::now() + limit;
        let socket = loop {
            match PacketSocket::connect(&path) {
                Ok(socket) => break socket,
                Err(source @ PacketError::Path { .. }) if refused_for_good(&source) => {
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
        let mut state = agent.state.subscribe();
        tokio::spawn(self.clone().read(agent.clone()));
        tokio::select! {
            told = tokio::time::timeout(CONTROL_TIMEOUT, state.wait_for(Option::is_some)) => {
                told.map_err(|_| agent.timeout(CONTROL_TIMEOUT))?.map_err(|_| AgentError::Ended { key })?;
            }
            () = agent.ended.cancelled() => return Err(AgentError::Ended { key }),
        }
        Ok(self.lock().entry(key).or_insert(agent).clone())
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

    /// Removes logs of agents that are not here, but for the newest ones: those that ended well have removed theirs.
    pub fn tidy_logs(&self) -> io::Result<()> {
        let mut left = Vec::new();
        for entry in std::fs::read_dir(self.run_dir.join("log"))?.flatten() {
            let path = entry.path();
            let key = path.file_name().and_then(|name| agent_of_log(name.to_str()?));
            if let (Some(key), Ok(metadata)) = (key, entry.metadata())
                && self.get(key).is_none()
            {
                left.push((metadata.modified()?, path));
            }
        }
        left.sort_unstable();
        for (_, path) in left.into_iter().rev().skip(LOGS_KEPT) {
            // Few have a second file.
            let _ = std::fs::remove_file(path.with_extension(OLD_LOG));
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    async fn read(self: Arc<Self>, agent: Arc<Agent>) {
        loop {
            match agent.socket.recv().await {
                Ok(Some((report, _))) => {
                    if let FromAgent::State(state) = &report {
                        agent.state.send_replace(Some(state.clone()));
                        self.changed.send_modify(|count| *count += 1);
                    }
                    // No reader is no error: most reports are only for the record.
                    let _ = agent.reports.send(report.clone());
                    // Without that reader this daemon is ending; the agent is not, and must not be taken for dead.
                    let _ = self.reports.send((agent.key, report)).await;
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(agent = show(&agent.key), %error, "control connection lost");
                    break;
                }
            }
        }
        agent.ended.cancel();
        self.lock().remove(&agent.key);
        self.changed.send_modify(|count| *count += 1);
        tracing::debug!(agent = show(&agent.key), "agent has ended");
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
fn refused_for_good(error: &PacketError) -> bool {
    let PacketError::Path { source, .. } = error else { return true };
    !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock)
}

fn parse_name(name: &str) -> Option<AgentKey> {
    let (kind, session) = name.strip_suffix(".sock")?.split_once('-')?;
    let [byte] = kind.as_bytes() else { return None };
    Some((StreamKind::from_byte(*byte)?, session.parse().ok()?))
}

fn show(key: &AgentKey) -> String {
    format!("{}-{}", key.0 as u8 as char, key.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::packet::PacketListener;

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
        let stale = socket_path(dir.path(), StreamKind::Move, SessionId([2; 16]));
        std::os::unix::net::UnixListener::bind(&stale).unwrap();

        let fake = tokio::spawn(async move {
            let daemon: PacketSocket<FromAgent, ToAgent> = listener.accept().await.unwrap();
            daemon.send(&home_state(3), None).await.unwrap();
            let (request, _) = daemon.recv().await.unwrap().unwrap();
            let ToAgent::Begin { migration, .. } = request else { panic!("{request:?}") };
            daemon.send(&FromAgent::Begun { migration, refused: None, body: None }, None).await.unwrap();
        });
        assert_eq!(agents.adopt().await.unwrap(), 1);
        assert!(!stale.exists());
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
    async fn an_agent_is_not_dead_when_nobody_keeps_its_reports_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let key = (StreamKind::Home, SessionId([1; 16]));
        let (sender, log) = mpsc::channel(8);
        let agents = Agents::new(dir.path(), sender).unwrap();
        let listener = PacketListener::bind(&socket_path(dir.path(), key.0, key.1)).unwrap();
        drop(log);
        let fake = tokio::spawn(async move {
            let daemon: PacketSocket<FromAgent, ToAgent> = listener.accept().await.unwrap();
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
        agent.ended().cancelled().await;
    }

    #[tokio::test]
    async fn of_dead_agents_the_newest_logs_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, _log) = mpsc::channel(8);
        let agents = Agents::new(dir.path(), sender).unwrap();
        let logs = dir.path().join("log");
        std::fs::create_dir(&logs).unwrap();
        let write = |name: String, age_s: u64| {
            let file = std::fs::File::create(logs.join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age_s)).unwrap();
        };
        let oldest = format!("home-7-{}.log", SessionId::random());
        write(oldest.clone(), 1_000);
        write(format!("{oldest}.old"), 2_000);
        for age_s in 0..LOGS_KEPT as u64 {
            write(format!("guest-7-{}.log", SessionId::random()), age_s);
        }
        write("notes".into(), 5_000);
        agents.tidy_logs().unwrap();
        assert!(!logs.join(&oldest).exists() && !logs.join(format!("{oldest}.old")).exists());
        assert_eq!(std::fs::read_dir(&logs).unwrap().count(), LOGS_KEPT + 1);
    }
}
