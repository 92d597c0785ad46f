//! From a decision to a move: finds the agent that owns the process tree, or starts one, and hands
//! the order to [`Moves`](super::moves::Moves).

use std::{sync::Arc, time::Duration};

use tokio::task::JoinError;

use super::{Acting, host::AgentSettings, moves::Order};
use crate::{
    agent::process::{self, ProcessError},
    api::{ApiError, view::MigrationSummary},
    daemon::{
        collect::Collected,
        decide,
        shared::{
            Shared,
            agents::{Agent, AgentError, HAS_ENDED},
            whereabouts::{SILENT, Whereabouts},
        },
        view::View,
    },
    job::{JobId, JobRecord, SessionId},
    keys::NodeName,
    placement::{Action, Decision, Exclusion, Reason},
    protocol::{AgentRole, HomeRole, StreamKind},
    sys::proc::{comm, has_ended},
};

/// How long a home agent may take to come up.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no agent that could move a job.
#[derive(Debug, thiserror::Error)]
pub enum NoOwner {
    /// There is no job any more.
    #[error("{HAS_ENDED}")]
    Ended,
    /// The job has been moved meanwhile.
    #[error("it runs on {node} by now")]
    Away {
        /// Where it is.
        node: String,
    },
    /// Its agent lives and does not answer.
    #[error("{SILENT}")]
    Silent,
    /// The start of its home agent panicked.
    #[error("cannot start its home agent; the daemon's log says more")]
    Panicked(#[source] JoinError),
    /// Its home agent cannot be started.
    #[error("cannot start its home agent")]
    NotStarted(#[source] ProcessError),
    /// Its home agent was started and is not heard.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

impl Acting {
    /// Starts to move a job whose process tree is here, as was decided.
    pub fn launch(
        &self,
        view: &View<'_>,
        decision: &Decision,
        reason: String,
        migration: SessionId,
    ) -> Result<MigrationSummary, ApiError> {
        let process = &decision.job;
        let Action::Move { target, cause } = &decision.action else {
            return Err(ApiError::NoBetterNode { process: process.to_string(), why: reason });
        };
        let unknown = || ApiError::ProcessUnknown { process: process.to_string() };
        let cannot = |why: &str| ApiError::CannotMove { process: process.to_string(), why: why.into() };
        let (mut job, root, home_address) = match self.shared.whereabouts(process).ok_or_else(unknown)? {
            Whereabouts::Home(job) => {
                let address = self.shared.address.clone().ok_or_else(|| {
                    cannot("this node has no cluster key, so it has no peers: `scx_mosix key generate` makes one")
                })?;
                (view.record_of_job(&job), job.root_pid, address)
            }
            Whereabouts::Guest(migration, guest) => {
                let cluster = self.shared.cluster.view();
                let name = NodeName::new(&guest.job.id.home).map_err(|error| cannot(&error.to_string()))?;
                let home = cluster.get(&name).ok_or_else(|| cannot("its home node is not in the cluster now"))?;
                (view.record_of_guest(migration, &guest), guest.host_pid, home.addr.to_string())
            }
            Whereabouts::Away { node, .. } => return Err(cannot(&format!("it runs on {node}"))),
            Whereabouts::Silent => return Err(cannot(SILENT)),
        };
        job.spec.comm = comm(root);
        job.history.home_link_bytes_per_s = Some(self.home_link_bytes_per_s(&job, target));
        let (target, limit_milli) = (target.to_string(), decision.limit_milli);
        let order =
            Order { migration, job, home_address, target, limit_milli, trigger: decide::trigger(*cause), reason };
        let owner = OwnerOf {
            process: process.clone(),
            shared: self.shared.clone(),
            collected: self.collected.clone(),
            agent_settings: self.agent_settings.clone(),
        };
        self.moves.start(order, self.shared.requirements(), owner.get())
    }

    /// What is estimated to cross between a job's home and `target`: no more than between here and
    /// either.
    fn home_link_bytes_per_s(&self, job: &JobRecord, target: &str) -> u64 {
        let to = |node: &str| self.collected.learned.times(node).bytes_per_s();
        let estimated = job.history.home_link_bytes_per_s.unwrap_or(0);
        let from_home = if job.id.is_of(&self.shared.node) { u64::MAX } else { to(&job.id.home).max(estimated) };
        to(target).min(from_home)
    }

    /// The move of a job from here or to here that is under way.
    fn migration_of(&self, process: &JobId) -> Option<SessionId> {
        let leaving = self.moves.under_way().into_iter().find(|(_, job, _)| job == process).map(|(id, ..)| id);
        let arriving = || self.host.arriving().into_iter().find(|guest| guest.job == *process);
        leaving.or_else(|| arriving().map(|guest| guest.migration))
    }

    /// Why a job stays; `None` if that was a move of it that is over by now.
    pub fn refusal(&self, decision: &Decision) -> Option<ApiError> {
        let process = decision.job.to_string();
        let why = decide::summary(decision);
        Some(match decision.verdict() {
            Some(Reason::CannotMove { why }) => ApiError::CannotMove { process, why: why.to_string() },
            Some(Reason::AlreadyThere { node }) => ApiError::AlreadyThere { process, node: node.to_string() },
            Some(Reason::UnknownNode { node }) => ApiError::NodeUnknown { node: node.to_string() },
            Some(Reason::UnknownJob { .. }) => ApiError::ProcessUnknown { process },
            Some(Reason::Moving { .. }) => {
                ApiError::AlreadyMoving { process, migration: self.migration_of(&decision.job)?.to_string() }
            }
            Some(Reason::Excluded { node, why: exclusion }) => match exclusion {
                Exclusion::Memory { .. } => ApiError::TargetFull { node: node.to_string(), why },
                _ => ApiError::TargetRefused { node: node.to_string(), why },
            },
            _ => ApiError::NoBetterNode { process, why },
        })
    }
}

/// Gives the agent that owns the process tree of a job; one that never moved gets its home agent
/// now.
struct OwnerOf {
    process: JobId,
    shared: Arc<Shared>,
    collected: Arc<Collected>,
    agent_settings: AgentSettings,
}

impl OwnerOf {
    async fn get(self) -> Result<Arc<Agent>, NoOwner> {
        let Shared { agents, .. } = &*self.shared;
        match self.shared.whereabouts(&self.process).ok_or(NoOwner::Ended)? {
            Whereabouts::Away { node, .. } => Err(NoOwner::Away { node }),
            Whereabouts::Silent => Err(NoOwner::Silent),
            Whereabouts::Guest(migration, _) => agents.get((StreamKind::Move, migration)).ok_or(NoOwner::Ended),
            Whereabouts::Home(job) => {
                let key = (StreamKind::Home, job.session);
                if let Some(agent) = agents.get(key) {
                    return Ok(agent);
                }
                let role = HomeRole {
                    session: job.session,
                    root_pid: job.root_pid,
                    start_time_ticks: job.start_time_ticks,
                    cgroup: job.cgroup,
                };
                let start = self.agent_settings.start(AgentRole::Home(role));
                let collected = self.collected;
                let worked = move |cpu_ms| collected.learned.worked(cpu_ms);
                let gone = tokio::task::spawn_blocking(move || process::spawn_agent(&start, worked))
                    .await
                    .map_err(NoOwner::Panicked)?
                    .map_err(NoOwner::NotStarted)?;
                let attached = agents.attach_new(key, AGENT_TIMEOUT, &gone).await;
                attached.map_err(|error| if has_ended(job.root_pid) { NoOwner::Ended } else { NoOwner::Agent(error) })
            }
        }
    }
}
