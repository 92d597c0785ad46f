//! This node as a host: takes reservations for guests, keeps room for them, gives them back.
//!
//! ```text
//!   preflight ─► placement admits it ─► reserve ─► guest agent started ─► it says Prepared ─► yes
//! ```
//!
//! A reservation counts until its guest runs (then telemetry sees its memory) or its agent ends. An
//! agent that gets no stream, or whose source falls silent, ends by itself: nothing here must be
//! cleaned up by a daemon that may not live.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::task::JoinError;

use crate::{
    agent::process::{self, ProcessError},
    api::{ApiError, backend::GuestReservation},
    causes::explain,
    daemon::shared::{
        GUESTS_CGROUP,
        agents::{AgentError, Agents},
        under_way::Arriving,
    },
    job::{JobId, SessionId},
    keys::NodeIdentity,
    protocol::{AgentRole, AgentStart, AgentState, FromAgent, GuestRole, StreamKind, ToAgent},
    sys::{
        cgroup,
        lock::{Mutex, MutexGuard},
    },
};

/// How long a guest agent may take to reach home and make the guest's world. Generous: mounting
/// home's tree takes many round trips, and nothing is frozen meanwhile.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many guests may be on their way here at a time, also if users asked for it: each one's pages
/// compete for the same link and CPUs.
const MAX_ARRIVALS: usize = 4;

/// A node's identity as agents are given it: the JSON of its bundle. Secret.
pub fn identity_text(identity: &NodeIdentity) -> String {
    // A bundle is strings and numbers: it always has a JSON form.
    serde_json::to_string(&identity.bundle()).unwrap_or_default()
}

/// What agents are started with on this node.
#[derive(Clone)]
pub struct AgentSettings {
    /// The run-time directory.
    pub run_dir: PathBuf,
    /// This node's name.
    pub node: String,
    /// The node's identity in text form; secret.
    pub identity: String,
}

impl AgentSettings {
    /// The start message of an agent.
    pub fn start(&self, role: AgentRole) -> AgentStart {
        AgentStart { run_dir: self.run_dir.clone(), node: self.node.clone(), identity: self.identity.clone(), role }
    }
}

/// Why no guest can come here now.
#[derive(Debug, thiserror::Error)]
enum NotPrepared {
    /// The start of its agent panicked.
    #[error("cannot start an agent; the log of the target's daemon says more")]
    Panicked(#[source] JoinError),
    /// Its agent cannot be started.
    #[error("cannot start an agent")]
    NotStarted(#[source] ProcessError),
    /// Its agent was started and is not heard.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Its agent cannot make the guest's world, or reach home.
    #[error("{0}")]
    Refused(String),
}

struct Reservation {
    session: SessionId,
    job: JobId,
    source: String,
    resident_bytes: u64,
    /// Its agent has made the guest's world. Until then `reserve` looks after it.
    is_prepared: bool,
}

/// The guests that are on their way.
pub struct Host {
    settings: AgentSettings,
    agents: Arc<Agents>,
    stream_address: String,
    reservations: Mutex<HashMap<SessionId, Reservation>>,
}

impl Host {
    /// A host whose streams arrive at `stream_address`, `address:port`.
    pub fn new(settings: AgentSettings, agents: Arc<Agents>, stream_address: String) -> Self {
        Self { settings, agents, stream_address, reservations: Mutex::default() }
    }

    /// The memory promised to guests that do not run yet, in bytes.
    pub fn reserved_bytes(&self) -> u64 {
        self.lock().values().map(|reservation| reservation.resident_bytes).sum()
    }

    /// Whether room is kept for a guest.
    pub fn has_reservations(&self) -> bool {
        !self.lock().is_empty()
    }

    /// The guests that are on their way. One that runs is not, though its reservation counts until
    /// its memory is measured.
    pub fn arriving(&self) -> Vec<Arriving> {
        let of = |(migration, reservation): (&SessionId, &Reservation)| Arriving {
            migration: *migration,
            session: reservation.session,
            job: reservation.job.clone(),
            source: reservation.source.clone(),
        };
        let reservations = self.lock();
        reservations.iter().filter(|(migration, _)| !self.runs(**migration)).map(of).collect()
    }

    fn runs(&self, migration: SessionId) -> bool {
        let state = self.agents.get((StreamKind::Move, migration)).and_then(|agent| agent.state());
        matches!(state, Some(AgentState::Guest { epoch: Some(_), .. }))
    }

    /// Takes a guest. The caller has done the preflight: the guest could run here; and placement
    /// has admitted it: there is room.
    pub async fn reserve(&self, want: GuestReservation) -> Result<String, ApiError> {
        let key = (StreamKind::Move, want.migration);
        {
            let mut reservations = self.lock();
            if reservations.contains_key(&want.migration) {
                return Ok(self.stream_address.clone());
            }
            if reservations.len() >= MAX_ARRIVALS {
                let why = format!("{MAX_ARRIVALS} programs are on their way here already");
                return Err(ApiError::TargetFull { node: self.settings.node.clone(), why });
            }
            let reservation = Reservation {
                session: want.job.session,
                job: want.job.id.clone(),
                source: want.source_node.clone(),
                resident_bytes: want.facts.resident_bytes,
                is_prepared: false,
            };
            reservations.insert(want.migration, reservation);
        }
        match self.prepare(want).await {
            Ok(()) => {
                if let Some(reservation) = self.lock().get_mut(&key.1) {
                    reservation.is_prepared = true;
                }
                Ok(self.stream_address.clone())
            }
            Err(error) => {
                let why = explain(error);
                self.lock().remove(&key.1);
                if let Some(agent) = self.agents.get(key) {
                    let _ = agent.request(&ToAgent::Terminate { reason: why.clone() }, None).await;
                }
                Err(ApiError::TargetRefused { node: self.settings.node.clone(), why })
            }
        }
    }

    /// Gives a reservation back that `source` made. A guest that runs is left alone.
    pub async fn release(&self, source: &str, migration: SessionId, reason: &str) -> Result<(), ApiError> {
        {
            let mut reservations = self.lock();
            match reservations.get(&migration) {
                Some(reservation) if reservation.source != source => {
                    return Err(ApiError::NotAllowed {
                        what: "release a reservation".into(),
                        who: format!("node {source}"),
                    });
                }
                Some(_) => drop(reservations.remove(&migration)),
                None => return Ok(()),
            }
        }
        let Some(agent) = self.agents.get((StreamKind::Move, migration)) else { return Ok(()) };
        if matches!(agent.state(), Some(AgentState::Guest { epoch: None, .. })) {
            let request = ToAgent::Terminate { reason: reason.into() };
            if let Err(error) = agent.request(&request, None).await {
                tracing::warn!(%migration, %error, "cannot end the agent of a guest that does not come");
            }
        }
        Ok(())
    }

    /// Forgets the reservations whose guest runs, or whose agent has ended.
    pub fn settle(&self) {
        self.lock().retain(|migration, reservation| {
            match self.agents.get((StreamKind::Move, *migration)).map(|agent| agent.state()) {
                Some(state) => !matches!(state, Some(AgentState::Guest { epoch: Some(_), .. })),
                // It has ended: its source fell silent, or could not say that it gave up.
                None => !reservation.is_prepared,
            }
        });
    }

    /// Forgets the reservation of an agent that has ended.
    pub fn ended(&self, migration: SessionId) {
        self.lock().remove(&migration);
    }

    async fn prepare(&self, want: GuestReservation) -> Result<(), NotPrepared> {
        let migration = want.migration;
        let role = GuestRole {
            migration,
            job: want.job,
            home_address: want.home_address,
            monotonic_ns: want.facts.monotonic_ns,
            boottime_ns: want.facts.boottime_ns,
            hostname: want.facts.hostname,
            cgroup: cgroup::directory(GUESTS_CGROUP).join(format!("guest-{migration}")),
        };
        let start = self.settings.start(AgentRole::Guest(Box::new(role)));
        let gone = tokio::task::spawn_blocking(move || process::spawn_agent(&start, |_| {}))
            .await
            .map_err(NotPrepared::Panicked)?
            .map_err(NotPrepared::NotStarted)?;
        let agent = self.agents.attach_new((StreamKind::Move, migration), PREPARE_TIMEOUT, &gone).await?;
        let mut reports = agent.reports_from_start();
        let pick = |report| match report {
            FromAgent::Prepared { refused } => Some(refused),
            _ => None,
        };
        let refused = agent.wait_for(&mut reports, PREPARE_TIMEOUT, pick).await?;
        refused.map_or(Ok(()), |reason| Err(NotPrepared::Refused(reason)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Reservation>> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.reservations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::protocol::{
        packet::{PacketListener, PacketSocket},
        socket_path,
    };

    #[tokio::test]
    async fn a_guest_that_runs_is_not_on_its_way() {
        let dir = tempfile::tempdir().unwrap();
        let (reports, _kept) = mpsc::channel(8);
        let agents = Agents::new(dir.path(), reports).unwrap();
        let settings = AgentSettings { run_dir: dir.path().into(), node: "n2".into(), identity: String::new() };
        let host = Host::new(settings, agents.clone(), "192.0.2.2:7470".into());
        let migration = SessionId::random();
        let job = crate::job::tests::record("n1", 7);
        let (session, id) = (job.session, job.id.clone());
        let reservation = Reservation { session, job: id, source: "n1".into(), resident_bytes: 1, is_prepared: true };
        host.lock().insert(migration, reservation);
        let listener = PacketListener::bind(&socket_path(dir.path(), StreamKind::Move, migration)).unwrap();
        let attaching =
            tokio::spawn(async move { agents.attach((StreamKind::Move, migration), PREPARE_TIMEOUT).await });
        let daemon: PacketSocket<FromAgent, ToAgent> = listener.accept().await.unwrap();
        daemon.greet().await.unwrap();
        for (host_pid, epoch, arriving) in [(None, None, 1), (Some(70), Some(1), 0)] {
            let mut changes = host.agents.changes();
            let state = AgentState::Guest {
                migration,
                job: Box::new(job.clone()),
                host_pid,
                cgroup: "/x".into(),
                epoch,
                moving: None,
                cannot_move: None,
            };
            daemon.send(&FromAgent::State(state), None).await.unwrap();
            changes.changed().await.unwrap();
            assert_eq!(host.arriving().len(), arriving);
            assert!(host.has_reservations(), "its memory is not measured yet");
        }
        attaching.await.unwrap().unwrap();
        host.settle();
        assert!(!host.has_reservations());
    }
}
