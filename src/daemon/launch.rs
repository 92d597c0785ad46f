//! From a decision to a move: finds the agent that owns the body, or starts one, and hands the order to [`Moves`].

use std::{sync::Arc, time::Duration};

use super::{agents::Agent, moves::Order, placing, rows::comm, state::State};
use crate::{
    agent::process,
    api::{
        ApiError,
        name::ProcessName,
        view::{MigrationSummary, Trigger},
    },
    control::{AgentRole, HomeRole, JobPast, SessionId, StreamKind},
    keys::NodeName,
    placement::{Action, Decision, Exclusion, JobView, Reason, Wish},
};

/// How long a home agent may take to come up.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a job's body is, as seen from this node.
pub enum Whereabouts {
    /// Here, and never moved.
    Home(super::jobs::Job),
    /// Here, as a guest (of another node, or back home).
    Guest(SessionId, super::rows::GuestView),
    /// On another node.
    Away {
        /// The job.
        session: SessionId,
        /// Where.
        node: String,
    },
}

impl State {
    /// Where the job `process` runs; `None` if this node knows nothing of it.
    pub fn whereabouts(&self, process: &ProcessName) -> Option<Whereabouts> {
        let agents = self.agent_view();
        let guest = agents.guests.iter().find(|(_, g)| g.home == process.node && g.root_pid == process.pid);
        if let Some((migration, guest)) = guest {
            return Some(Whereabouts::Guest(*migration, guest.clone()));
        }
        if process.node != self.node {
            return None;
        }
        let job = self.jobs().containing(process.pid).cloned()?;
        match agents.homes.get(&job.session) {
            Some(home) if home.epoch > 0 => {
                Some(Whereabouts::Away { session: job.session, node: home.runs_on.clone() })
            }
            _ => Some(Whereabouts::Home(job)),
        }
    }

    /// Asks placement about a user's wish and carries the answer out.
    pub fn wish(
        self: &Arc<Self>,
        process: &ProcessName,
        wish: &Wish,
        migration: SessionId,
        reason: Option<&str>,
    ) -> Result<MigrationSummary, ApiError> {
        let name = process.to_string();
        let decision = self.placing.request(self.node_views(), self.job_views(), self.in_flight(), &name, wish);
        match &decision.action {
            Action::Stay => Err(self.refusal(&name, &decision)),
            Action::Move { target, cause } => {
                let why = reason.map_or_else(|| placing::summary(&decision), str::to_owned);
                self.launch(process, target, placing::trigger(*cause), why, decision.limit_milli, migration)
            }
        }
    }

    /// Starts the move that placement decided by itself. Whether it began; if not, placement knows, and the job goes on here.
    pub fn carry_out(self: &Arc<Self>, process: &ProcessName, decision: &Decision, why: String) -> bool {
        let Action::Move { target, cause } = &decision.action else { return false };
        let trigger = placing::trigger(*cause);
        let started = self.launch(process, target, trigger, why, decision.limit_milli, SessionId::random());
        if let Err(error) = &started {
            tracing::warn!(%process, %target, %error, "move not started");
            self.placing.failed(&decision.job, target, false);
        }
        started.is_ok()
    }

    /// Starts to move a job whose body is here.
    pub fn launch(
        self: &Arc<Self>,
        process: &ProcessName,
        target: &str,
        trigger: Trigger,
        reason: String,
        limit_milli: Option<u32>,
        migration: SessionId,
    ) -> Result<MigrationSummary, ApiError> {
        let unknown = || ApiError::ProcessUnknown { process: process.to_string() };
        let cannot = |why: &str| ApiError::CannotMove { process: process.to_string(), why: why.into() };
        let (session, root, home_address, constraints) = match self.whereabouts(process).ok_or_else(unknown)? {
            Whereabouts::Home(job) => {
                let address = self.address.clone().ok_or_else(|| {
                    cannot("this node has no cluster key, so it has no peers: `scx_mosix key generate` makes one")
                })?;
                (job.session, job.root_pid, address, job.constraints)
            }
            Whereabouts::Guest(_, guest) => {
                let view = self.cluster.view();
                let name = NodeName::new(&guest.home).map_err(|error| cannot(&error.to_string()))?;
                let home = view.get(&name).ok_or_else(|| cannot("its home node is not in the cluster now"))?;
                (guest.session, guest.host_pid, home.addr.to_string(), guest.constraints)
            }
            Whereabouts::Away { node, .. } => return Err(cannot(&format!("it runs on {node}"))),
        };
        let order = Order {
            migration,
            process: process.clone(),
            session,
            home_address,
            comm: comm(root),
            constraints,
            past: self.past(process, target),
            limit_milli,
            target: target.into(),
            trigger,
            reason,
        };
        let owner = self.clone().owner(process.clone());
        self.moves.start(order, self.requirements(), owner)
    }

    /// What a job whose body is here did so far, before it goes to `target`.
    fn past(&self, process: &ProcessName, target: &str) -> JobPast {
        let name = process.to_string();
        let job = self.job_views().into_iter().find(|job| *job.id == *name);
        job.map_or_else(JobPast::default, |job| JobPast {
            attained_ms: job.attained_ms,
            tree: job.tree,
            tree_attained_ms: job.tree_attained_ms,
            age_ms: job.age_ms,
            demand_milli: job.demand_milli,
            io_bytes: job.io_bytes,
            home_link_bytes_per_s: Some(self.home_link_bytes_per_s(&job, target)),
        })
    }

    /// What is reckoned to cross between a job's home and `target`: no more than between here and either.
    fn home_link_bytes_per_s(&self, job: &JobView, target: &str) -> u64 {
        let to = |node: &str| self.placing.times(node).bytes_per_s();
        let from_home =
            if job.is_guest() { to(&job.home).max(job.home_link_bytes_per_s.unwrap_or(0)) } else { u64::MAX };
        to(target).min(from_home)
    }

    /// The agent that owns the body of a job; a job that never moved gets its home agent now.
    async fn owner(self: Arc<Self>, process: ProcessName) -> Result<Arc<Agent>, String> {
        let gone = || "it has ended".to_owned();
        match self.whereabouts(&process).ok_or_else(gone)? {
            Whereabouts::Away { node, .. } => Err(format!("it runs on {node} by now")),
            Whereabouts::Guest(migration, _) => self.agents.get((StreamKind::Move, migration)).ok_or_else(gone),
            Whereabouts::Home(job) => {
                let key = (StreamKind::Home, job.session);
                if let Some(agent) = self.agents.get(key) {
                    return Ok(agent);
                }
                let role = HomeRole {
                    session: job.session,
                    root_pid: job.root_pid,
                    start_time_ticks: job.start_time_ticks,
                    cgroup: job.cgroup,
                };
                let start = self.agent_settings.start(AgentRole::Home(role));
                let state = self.clone();
                tokio::task::spawn_blocking(move || {
                    process::spawn_agent(&start, move |cpu_ms| state.placing.worked(cpu_ms))
                })
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| format!("cannot start its home agent: {error}"))?;
                self.agents.attach(key, AGENT_TIMEOUT).await.map_err(|error| error.to_string())
            }
        }
    }

    fn refusal(&self, process: &str, decision: &Decision) -> ApiError {
        let process = process.to_owned();
        let why = placing::summary(decision);
        match decision.verdict() {
            Some(Reason::CannotMove { why }) => ApiError::CannotMove { process, why: why.to_string() },
            Some(Reason::AlreadyThere { node }) => ApiError::AlreadyThere { process, node: node.to_string() },
            Some(Reason::UnknownNode { node }) => ApiError::NodeUnknown { node: node.to_string() },
            Some(Reason::UnknownJob { .. }) => ApiError::ProcessUnknown { process },
            Some(Reason::Moving { .. }) => {
                let moves = self.moves.under_way();
                let current = moves.iter().find(|(_, name, _)| name.to_string() == process);
                let migration = current.map(|(id, ..)| id.to_string()).unwrap_or_default();
                ApiError::AlreadyMoving { process, migration }
            }
            Some(Reason::Excluded { node, why: exclusion }) => match exclusion {
                Exclusion::Memory { .. } => ApiError::TargetFull { node: node.to_string(), why },
                _ => ApiError::TargetRefused { node: node.to_string(), why },
            },
            _ => ApiError::NoBetterNode { process, why },
        }
    }
}
