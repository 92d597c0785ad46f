//! The daemon as the API sees it.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    constraints, draining,
    jobs::RegisterError,
    launch::Whereabouts,
    movability,
    rows::{GuestView, RowContext, users},
    state::State,
};
use crate::{
    api::{
        ApiError, Caller,
        backend::{
            Backend, ConstraintsChange, Destination, GuestReservation, MoveRequest, NodeDetails, PeerBackend,
            Registration, Views,
        },
        name::ProcessName,
        view::{MigrationSummary, NodeSummary, PlacementDecision, PlacementReasons, ProcessSummary},
    },
    control::{Constraints, SessionId},
    placement::Wish,
};

/// How many migrations `why` shows.
const SHOWN_MIGRATIONS: usize = 10;

/// The daemon behind both services.
pub struct Daemon(pub Arc<State>);

#[async_trait]
impl Backend for Daemon {
    fn local_node(&self) -> &str {
        &self.0.node
    }

    fn views(&self) -> &Views {
        &self.0.views
    }

    async fn register(&self, caller: &Caller, wanted: Registration) -> Result<ProcessSummary, ApiError> {
        let Registration { pid, constraints, class } = wanted;
        let constraints = self.of_class(constraints, &class)?;
        let uid = uid_of(caller);
        let state = &self.0;
        let registered = state.jobs().register(pid, uid, constraints);
        let job = registered.map_err(|error| match &error {
            RegisterError::NoProcess { .. } => ApiError::ProcessUnknown { process: pid.to_string() },
            RegisterError::Io { source, .. } => ApiError::CannotRegister { pid, why: format!("{error}: {source}") },
            _ => ApiError::CannotRegister { pid, why: error.to_string() },
        })?;
        tracing::info!(pid = job.root_pid, uid = job.uid, session = %job.session, %caller, "job registered");
        let row = RowContext {
            node: &state.node,
            memory_bytes: state.info.memory_total_bytes,
            figures: &state.measured().figures,
            users: &users(),
            migrations: &Default::default(),
        }
        .job(&job, None, None, None);
        state.views.processes.put(row.clone());
        Ok(row)
    }

    async fn drain(&self, caller: &Caller, on: bool) -> Result<NodeSummary, ApiError> {
        let state = &self.0;
        state.draining.set(on).map_err(|error| {
            tracing::error!(%error, "cannot note for the next daemon whether this node is being drained");
            ApiError::Internal { what: "noting that for the next daemon".into() }
        })?;
        tracing::info!(on, %caller, "draining");
        let row =
            state.views.nodes.get(&state.node).ok_or_else(|| ApiError::NodeUnknown { node: state.node.clone() })?;
        let refuses_because = on.then(|| draining::REFUSAL.to_owned());
        // Who is admitted from now on is refused, so none is missed.
        let row = NodeSummary { refuses_because, guests: state.guests(), ..NodeSummary::clone(&row) };
        state.views.nodes.put(row.clone());
        Ok(row)
    }

    async fn constrain(
        &self,
        caller: &Caller,
        process: &ProcessName,
        change: ConstraintsChange,
    ) -> Result<ProcessSummary, ApiError> {
        let state = &self.0;
        let unknown = || ApiError::ProcessUnknown { process: process.to_string() };
        if process.node != state.node {
            let what = "changing what may be done with a guest (ask its home)".into();
            return Err(ApiError::NotAllowed { what, who: caller.to_string() });
        }
        let noted = state.jobs().constrain(process.pid, uid_of(caller), |now| change.applied_to(now));
        let jobs = noted.map_err(|error| match &error {
            RegisterError::NotYours { .. } => {
                ApiError::NotAllowed { what: "change what may be done with it".into(), who: caller.to_string() }
            }
            _ => {
                tracing::error!(%process, error = &error as &dyn std::error::Error, "not constrained");
                ApiError::Internal { what: error.to_string() }
            }
        })?;
        for job in &jobs {
            tracing::info!(%process, pid = job.root_pid, constraints = ?job.constraints, %caller, "constrained");
            constraints::tell(state, job).await;
        }
        let job = jobs.into_iter().next().ok_or_else(unknown)?;
        let key = ProcessSummary::key_of(&state.name_of(&job));
        let mut row = ProcessSummary::clone(&*state.views.processes.get(&key).ok_or_else(unknown)?);
        row.constraints = job.constraints;
        state.views.processes.put(row.clone());
        Ok(row)
    }

    async fn migrate(&self, _: &Caller, process: &ProcessName, to: Destination) -> Result<MigrationSummary, ApiError> {
        let state = &self.0;
        let whereabouts = state.whereabouts(process);
        match whereabouts.ok_or_else(|| ApiError::ProcessUnknown { process: process.to_string() })? {
            Whereabouts::Away { session, node } => {
                let target_node = match to {
                    Destination::Node(name) => name,
                    Destination::Home => state.node.clone(),
                    Destination::Best => "best".into(),
                };
                let request = MoveRequest {
                    session,
                    target_node,
                    migration: SessionId::random(),
                    trigger: crate::api::view::Trigger::Request,
                    reason: format!("asked for at {}", state.node),
                };
                let record = state.peers.request_move(&node, request).await?;
                state.views.migrations.put(record.clone());
                Ok(record)
            }
            Whereabouts::Home(job) => {
                // Whichever process of the job was named: the job moves.
                let process = state.name_of(&job);
                movability::look_again(state, &job).await;
                state.wish(&process, &wish(to), SessionId::random(), None)
            }
            Whereabouts::Guest(..) => state.wish(process, &wish(to), SessionId::random(), None),
        }
    }

    async fn cancel(&self, _: &Caller, migration: SessionId, reason: &str) -> Result<MigrationSummary, ApiError> {
        self.0.moves.cancel(migration, reason)
    }

    async fn placement_reasons(&self, process: &ProcessName) -> Result<PlacementReasons, ApiError> {
        let state = &self.0;
        let whereabouts = state.whereabouts(process);
        let mut reasons = match whereabouts.ok_or_else(|| ApiError::ProcessUnknown { process: process.to_string() })? {
            Whereabouts::Away { session, node } => state.peers.guest_reasons(&node, session).await?,
            Whereabouts::Home(job) => {
                let process = state.name_of(&job);
                let cannot_move = state.measured().cannot_move.get(&job.session).cloned();
                self.reasons(&process, cannot_move)
            }
            Whereabouts::Guest(_, guest) => self.reasons(process, guest.cannot_move),
        };
        let name = reasons.process.clone();
        let records = state.views.migrations.all();
        let of_it = records.iter().filter(|record| record.process == name);
        reasons.migrations = of_it.take(SHOWN_MIGRATIONS).map(|record| MigrationSummary::clone(record)).collect();
        Ok(reasons)
    }
}

impl Daemon {
    /// Why a job is where it is, whose body is here.
    fn reasons(&self, process: &ProcessName, cannot_move: Option<String>) -> PlacementReasons {
        let state = &self.0;
        let mut reasons = PlacementReasons { cannot_move, ..state.placing.reasons(process) };
        if reasons.decision == PlacementDecision::Unknown {
            if state.address.is_none() {
                reasons.summary = "this node is alone: it has no key, so nothing moves".into();
            } else if !state.balance {
                reasons.summary = "nothing moves by itself here: the daemon was started with --no-balance".into();
            }
        }
        reasons
    }

    /// What holds for a job of a class; an empty name is none.
    fn of_class(&self, constraints: Constraints, class: &str) -> Result<Constraints, ApiError> {
        let state = &self.0;
        if class.is_empty() {
            return Ok(constraints);
        }
        let of_class = state.classes.get(class).ok_or_else(|| {
            let known = state.classes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".into() } else { known };
            ApiError::invalid("class", format!("there is none of that name; this node's settings have: {known}"))
        })?;
        Ok(constraints.and(of_class, &state.node))
    }

    /// The guest of this session, by its migration, for its home, which must be `peer`.
    fn guest_of(&self, peer: &str, session: SessionId) -> Result<(SessionId, GuestView), ApiError> {
        let guest = self.0.agent_view().guests.into_iter().find(|(_, guest)| guest.session == session);
        let guest = guest.ok_or_else(|| ApiError::ProcessUnknown { process: session.to_string() })?;
        if guest.1.home == peer { Ok(guest) } else { Err(ApiError::NotHome { node: peer.into() }) }
    }
}

/// The user who asks; whoever has the cluster's key, or a certificate of it, may do what root may.
fn uid_of(caller: &Caller) -> u32 {
    match caller {
        Caller::Local { uid, .. } => *uid,
        Caller::Client { .. } | Caller::Node { .. } => 0,
    }
}

fn wish(to: Destination) -> Wish {
    match to {
        Destination::Node(name) => Wish::Node(name.into()),
        Destination::Home => Wish::Home,
        Destination::Best => Wish::Best,
    }
}

#[async_trait]
impl PeerBackend for Daemon {
    async fn node_details(&self) -> Result<NodeDetails, ApiError> {
        let state = &self.0;
        let info = &state.info;
        Ok(NodeDetails {
            node: state.node.clone(),
            version: info.software_version.clone(),
            protocol: info.protocol_version,
            kernel_release: info.kernel_release.clone(),
            criu_version: info.features.criu.map(|version| version.to_string()),
            cpu: info.cpu.clone(),
            available_bytes: state.available_bytes(),
            missing: super::missing(info),
        })
    }

    async fn reserve_guest(&self, peer: &str, reservation: GuestReservation) -> Result<String, ApiError> {
        let state = &self.0;
        if state.stop.is_cancelled() {
            return Err(ApiError::Leaving);
        }
        if let Some(why) = super::preflight(&state.info, &reservation.requirements) {
            return Err(ApiError::TargetRefused { node: state.node.clone(), why });
        }
        tracing::info!(peer, migration = %reservation.migration, comm = reservation.comm, "a guest is announced");
        let job = state.announced(&reservation);
        let (migration, is_guest) = (reservation.migration, reservation.home_node != state.node);
        let drained = || ApiError::TargetRefused { node: state.node.clone(), why: draining::REFUSAL.into() };
        if is_guest && state.draining.is_on() {
            return Err(drained());
        }
        let admitted = state.placing.admit(state.node_views(), state.in_flight(), &job, &reservation);
        admitted.map_err(|why| ApiError::TargetFull { node: state.node.clone(), why: why.to_string() })?;
        let mut reserved = state.host.reserve(reservation).await;
        // Whoever drains it has counted those that were on their way.
        if reserved.is_ok() && is_guest && state.draining.is_on() {
            state.host.release(peer, migration, draining::REFUSAL).await?;
            reserved = Err(drained());
        }
        if reserved.is_err() {
            state.placing.released(&job.id);
        }
        reserved
    }

    async fn release_guest(&self, peer: &str, migration: SessionId, reason: &str) -> Result<(), ApiError> {
        self.0.host.release(peer, migration, reason).await
    }

    async fn request_move(&self, peer: &str, request: MoveRequest) -> Result<MigrationSummary, ApiError> {
        let state = &self.0;
        let (_, guest) = self.guest_of(peer, request.session)?;
        if let Some(record) = state.moves.record(request.migration) {
            return Ok(record);
        }
        let process = ProcessName { node: guest.home.clone(), pid: guest.root_pid };
        let wish = if request.target_node == guest.home { Wish::Home } else { Wish::from(&*request.target_node) };
        state.wish(&process, &wish, request.migration, Some(&request.reason))
    }

    async fn constrain_guest(&self, peer: &str, session: SessionId, constraints: Constraints) -> Result<(), ApiError> {
        let (migration, guest) = self.guest_of(peer, session)?;
        let process = ProcessName { node: guest.home, pid: guest.root_pid };
        constraints::tell_agent(&self.0, &process, migration, constraints).await
    }

    async fn report_migration(&self, _: &str, migration: MigrationSummary) -> Result<(), ApiError> {
        self.0.views.migrations.put(migration);
        Ok(())
    }

    async fn guest_reasons(&self, peer: &str, session: SessionId) -> Result<PlacementReasons, ApiError> {
        let state = &self.0;
        let agents = state.agent_view();
        let guest = agents.guests.values().find(|guest| guest.session == session && guest.home == peer);
        let guest = guest.ok_or_else(|| ApiError::ProcessUnknown { process: session.to_string() })?;
        let process = ProcessName { node: guest.home.clone(), pid: guest.root_pid };
        Ok(self.reasons(&process, guest.cannot_move.clone()))
    }
}
