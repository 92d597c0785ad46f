//! Agents that are not connected: looked for until they answer or are known to be dead; and what
//! dead ones leave.

use std::{
    collections::HashSet,
    io,
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::task::JoinSet;

use super::{AgentKey, Agents, show};
use crate::{
    agent::process::{OLD_LOG, agent_of_log},
    guest::files::FS_TYPE,
    protocol::{FromAgent, ProtocolError, StreamKind, ToAgent, alive, lock_path, packet::PacketSocket, socket_path},
    sys::{fuse, lock::MutexGuard},
};

/// How long a daemon that starts waits for the agents of its predecessor. Those that answer later
/// it takes up when they do.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two attempts to reach an agent that lives and does not answer: at first, and later.
const FIND_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How many logs of agents that did not end well are kept: they lie in memory.
const LOGS_KEPT: usize = 64;

impl Agents {
    /// Connects to the agents that an earlier daemon started, and removes the files of those that
    /// have died. Returns how many are connected; those that are slow follow.
    pub async fn adopt(self: &Arc<Self>) -> io::Result<usize> {
        let entries = std::fs::read_dir(self.run_dir.join("agents"))?.flatten();
        let keys: HashSet<AgentKey> = entries.filter_map(|entry| parse_name(entry.file_name().to_str()?)).collect();
        let mut finding = JoinSet::new();
        for key in keys {
            finding.spawn(self.start_finding(key));
        }
        let all = async { while finding.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(ADOPT_TIMEOUT, all).await;
        // The search for the others continues.
        finding.detach_all();
        Ok(self.lock().len())
    }

    /// Looks for an agent until it is connected, or known to be dead. It counts as silent from now
    /// on.
    pub(super) fn start_finding(self: &Arc<Self>, key: AgentKey) -> impl Future<Output = ()> + Send + 'static {
        self.lock_silent().insert(key);
        let this = self.clone();
        async move {
            let (mut pause, mut is_told) = (FIND_PAUSE.0, false);
            loop {
                let Err(error) = this.attach(key, Duration::ZERO).await else { break };
                this.let_end(key);
                if this.is_dead(key) {
                    tracing::info!(agent = show(&key), %error, "an agent is dead");
                    this.remove_files(key);
                    break;
                }
                if error.is_of_versions() && !std::mem::replace(&mut is_told, true) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(agent = show(&key), error, "an agent of another release runs on by itself");
                }
                tracing::debug!(agent = show(&key), %error, "an agent lives and does not answer");
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(FIND_PAUSE.1);
            }
            this.lock_silent().remove(&key);
            this.changed.send_modify(|count| *count += 1);
        }
    }

    /// Whether the agent is known to have no process any more. One that never was is dead too.
    pub fn is_dead(&self, key: AgentKey) -> bool {
        if self.get(key).is_some() {
            return false;
        }
        match alive::is_held(&lock_path(&self.run_dir, key.0, key.1)) {
            Ok(Some(is_held)) => !is_held,
            // One of an older version has none: nothing listens at its socket if it is dead.
            Ok(None) => nothing_listens(&socket_path(&self.run_dir, key.0, key.1)),
            Err(error) => {
                tracing::warn!(agent = show(&key), %error, "cannot tell whether an agent lives");
                false
            }
        }
    }

    /// The agents that are not connected, but not known to be dead either.
    pub fn silent(&self) -> Vec<AgentKey> {
        self.lock_silent().iter().copied().collect()
    }

    /// Lets guest agents end that were killed and wait for their own answers
    /// ([`fuse`](crate::sys::fuse)). One that is connected may be among them.
    pub fn let_killed_end(&self) {
        let connected: Vec<AgentKey> = self.lock().keys().copied().collect();
        for key in connected.into_iter().chain(self.silent()) {
            self.let_end(key);
        }
    }

    fn let_end(&self, key: AgentKey) {
        let Some(process) = alive::holder(&lock_path(&self.run_dir, key.0, key.1)) else { return };
        match fuse::abort_of_killed(process, FS_TYPE) {
            Ok(0) => {}
            Ok(_) => tracing::info!(agent = show(&key), "a killed agent need not answer itself any more"),
            Err(error) => {
                tracing::warn!(agent = show(&key), %error, "a killed agent may not end: cannot abort its FUSE connection")
            }
        }
    }

    fn remove_files(&self, key: AgentKey) {
        for path in [socket_path(&self.run_dir, key.0, key.1), lock_path(&self.run_dir, key.0, key.1)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a dead agent's file stays");
                }
                _ => {}
            }
        }
    }

    /// Removes logs of agents that are not here, but for the newest ones: those that ended well
    /// have removed theirs.
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

    fn lock_silent(&self) -> MutexGuard<'_, HashSet<AgentKey>> {
        // Keys come and go whole.
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nothing_listens(socket: &Path) -> bool {
    match PacketSocket::<ToAgent, FromAgent>::connect(socket) {
        Err(ProtocolError::Path { source, .. }) => {
            matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        }
        _ => false,
    }
}

/// The agent whose socket or lock has this name.
fn parse_name(name: &str) -> Option<AgentKey> {
    let (kind, session) = name.strip_suffix(".sock").or_else(|| name.strip_suffix(".lock"))?.split_once('-')?;
    let [byte] = kind.as_bytes() else { return None };
    Some((StreamKind::from_byte(*byte)?, session.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::job::SessionId;
    use crate::protocol::{AgentState, alive::Alive, packet::PacketListener};

    #[tokio::test]
    async fn an_agent_that_is_slow_is_neither_dead_nor_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let key = (StreamKind::Home, SessionId([1; 16]));
        let (sender, _kept) = mpsc::channel(8);
        let agents = Agents::new(dir.path(), sender).unwrap();
        let (socket, lock) = (socket_path(dir.path(), key.0, key.1), lock_path(dir.path(), key.0, key.1));
        let alive = Alive::announce(&lock).unwrap();
        let listener = PacketListener::bind(&socket).unwrap();
        // Nothing is accepted, as by a process that is stopped.
        assert_eq!(agents.adopt().await.unwrap(), 0);
        assert!(socket.exists() && agents.silent().contains(&key) && !agents.is_dead(key));
        let fake = tokio::spawn(async move {
            let daemon: PacketSocket<FromAgent, ToAgent> = listener.accept().await.unwrap();
            daemon.greet().await.unwrap();
            let (visited, moving, ended) = (Vec::new(), None, None);
            let (root_pid, epoch, runs_on) = (7, 1, "n2".into());
            let state = AgentState::Home { session: key.1, root_pid, epoch, runs_on, visited, moving, ended };
            daemon.send(&FromAgent::State(state), None).await.unwrap();
            daemon.recv().await
        });
        let mut changes = agents.changes();
        while agents.get(key).is_none() {
            changes.changed().await.unwrap();
        }
        while agents.silent().contains(&key) {
            changes.changed().await.unwrap();
        }
        fake.abort();
        drop(alive);
        while !agents.is_dead(key) || agents.silent().contains(&key) {
            changes.changed().await.unwrap();
        }
        assert!(!socket.exists());
    }

    #[tokio::test]
    async fn an_agent_of_another_release_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let key = (StreamKind::Home, SessionId([1; 16]));
        let (sender, _log) = mpsc::channel(8);
        let agents = Agents::new(dir.path(), sender).unwrap();
        let socket = socket_path(dir.path(), key.0, key.1);
        let _alive = Alive::announce(&lock_path(dir.path(), key.0, key.1)).unwrap();
        let listener = PacketListener::bind(&socket).unwrap();
        let old = tokio::spawn(async move {
            let daemon: PacketSocket<String, ToAgent> = listener.accept().await.unwrap();
            daemon.send(&"its state, as before there were hellos".into(), None).await.unwrap();
            (listener, daemon)
        });
        let error = agents.attach(key, Duration::ZERO).await.err().unwrap();
        assert!(error.is_of_versions(), "{error}");
        let _kept = old.await.unwrap();
        assert!(!agents.is_dead(key) && socket.exists());
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
