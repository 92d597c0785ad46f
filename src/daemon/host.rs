//! This node as a host: takes reservations for guests, keeps room for them, gives them back.
//!
//! ```text
//!   preflight ─► placement admits it ─► reserve ─► guest agent started ─► it says Prepared ─► yes
//! ```
//!
//! A reservation counts until its guest runs (then telemetry sees its memory) or its agent ends. An agent that gets no
//! stream, or whose source falls silent, ends by itself: nothing here must be cleaned up by a daemon that may not live.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{agents::Agents, jobs::CGROUP_ROOT};
use crate::{
    agent::process,
    api::{ApiError, backend::GuestReservation, name::ProcessName},
    control::{AgentRole, AgentStart, AgentState, FromAgent, GuestRole, SessionId, StreamKind, ToAgent},
    keys::NodeIdentity,
};

/// How long a guest agent may take to reach home and make the guest's world. Generous: mounting home's tree takes many
/// round trips, and nothing is frozen meanwhile.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many guests may be on their way here at a time, also if users asked for it: each one's pages compete for the same link and CPUs.
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

struct Reservation {
    job: ProcessName,
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

    /// The guests that are on their way: the job, and the node that it comes from.
    pub fn arriving(&self) -> Vec<(ProcessName, String)> {
        self.lock().values().map(|reservation| (reservation.job.clone(), reservation.source.clone())).collect()
    }

    /// Takes a guest. The caller has done the preflight: the guest could run here; and placement has admitted it: there is room.
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
                job: ProcessName { node: want.home_node.clone(), pid: want.root_pid },
                source: want.source_node.clone(),
                resident_bytes: want.body.resident_bytes,
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
            Err(why) => {
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

    async fn prepare(&self, want: GuestReservation) -> Result<(), String> {
        let migration = want.migration;
        let role = GuestRole {
            migration,
            session: want.session,
            home_node: want.home_node,
            home_address: want.home_address,
            root_pid: want.root_pid,
            comm: want.comm,
            constraints: want.constraints,
            past: want.past,
            monotonic_ns: want.body.monotonic_ns,
            boottime_ns: want.body.boottime_ns,
            hostname: want.body.hostname,
            cgroup: PathBuf::from(CGROUP_ROOT).join(format!("scx_mosix/guest-{migration}")),
        };
        let start = self.settings.start(AgentRole::Guest(Box::new(role)));
        tokio::task::spawn_blocking(move || process::spawn_agent(&start, |_| {}))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("cannot start an agent: {error}"))?;
        let agent = self
            .agents
            .attach((StreamKind::Move, migration), PREPARE_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        let mut reports = agent.reports_from_start();
        let pick = |report| match report {
            FromAgent::Prepared { refused } => Some(refused),
            _ => None,
        };
        match agent.wait_for(&mut reports, PREPARE_TIMEOUT, pick).await {
            Ok(None) => Ok(()),
            Ok(Some(refused)) => Err(refused),
            Err(error) => Err(error.to_string()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Reservation>> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.reservations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
