//! The daemon as the API sees it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    pipeline::Pipeline,
    shared::{
        agents::GuestView,
        draining,
        jobs::RegisterError,
        whereabouts::{SILENT, Whereabouts},
    },
    view::announced,
};
use crate::{
    api::{
        ApiError, Caller,
        backend::{
            Backend, ConstraintsChange, Destination, GuestReservation, MoveRequest, NodeDetails, PeerBackend,
            Registration, Views,
        },
        table::Row,
        view::{MigrationSummary, NodeSummary, PlacementDecision, PlacementReasons, ProcessSummary},
    },
    job::{Constraints, JobId, SessionId},
    migration::machine::Machine,
    placement::Wish,
    protocol::StreamKind,
};

/// How many migrations `why` shows.
const SHOWN_MIGRATIONS: usize = 10;

/// How long a home agent may take to tell of the end of a move that its source has told of.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// The daemon behind both services.
pub struct Daemon {
    /// What answers.
    pub pipeline: Arc<Pipeline>,
    /// What holds for jobs of a class, by its name.
    pub classes: BTreeMap<String, Constraints>,
}

#[async_trait]
impl Backend for Daemon {
    fn local_node(&self) -> &str {
        &self.pipeline.shared.node
    }

    fn views(&self) -> &Views {
        &self.pipeline.tables
    }

    async fn register(&self, caller: &Caller, wanted: Registration) -> Result<ProcessSummary, ApiError> {
        let Registration { pid, constraints, class } = wanted;
        let constraints = self.of_class(constraints, &class)?;
        let uid = uid_of(caller);
        let Pipeline { shared, tables, .. } = &*self.pipeline;
        let registered = shared.jobs().register(pid, uid, constraints);
        let job = registered.map_err(|error| match &error {
            RegisterError::NoProcess { .. } => ApiError::ProcessUnknown { process: pid.to_string() },
            RegisterError::Io { source, .. } => ApiError::CannotRegister { pid, why: format!("{error}: {source}") },
            _ => ApiError::CannotRegister { pid, why: error.to_string() },
        })?;
        tracing::info!(pid = job.root_pid, uid = job.uid, session = %job.session, %caller, "job registered");
        let row = self.pipeline.view().new_row(&job);
        tables.processes.put(row.clone());
        Ok(row)
    }

    async fn drain(&self, caller: &Caller, on: bool) -> Result<NodeSummary, ApiError> {
        let Pipeline { shared, tables, .. } = &*self.pipeline;
        shared.draining.set(on).map_err(|error| {
            tracing::error!(%error, "cannot note for the next daemon whether this node is being drained");
            ApiError::Internal { what: "noting that for the next daemon".into() }
        })?;
        tracing::info!(on, %caller, "draining");
        let row = tables.nodes.get(&shared.node).ok_or_else(|| ApiError::NodeUnknown { node: shared.node.clone() })?;
        let refuses_because = on.then(|| draining::REFUSAL.to_owned());
        // Who is admitted from now on is refused, so none is missed.
        let row = NodeSummary { refuses_because, guests: self.pipeline.view().guests(), ..NodeSummary::clone(&row) };
        tables.nodes.put(row.clone());
        Ok(row)
    }

    async fn constrain(
        &self,
        caller: &Caller,
        process: &JobId,
        change: ConstraintsChange,
    ) -> Result<ProcessSummary, ApiError> {
        let Pipeline { shared, acting, tables, .. } = &*self.pipeline;
        let unknown = || ApiError::ProcessUnknown { process: process.to_string() };
        if !process.is_of(&shared.node) {
            let what = "changing what may be done with a guest (ask its home)".into();
            return Err(ApiError::NotAllowed { what, who: caller.to_string() });
        }
        let noted = shared.jobs().constrain(process.pid, uid_of(caller), |now| change.applied_to(now));
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
            acting.tell_host(job).await;
        }
        let job = jobs.into_iter().next().ok_or_else(unknown)?;
        let key = ProcessSummary::key_of(&shared.name_of(&job));
        let mut row = ProcessSummary::clone(&*tables.processes.get(&key).ok_or_else(unknown)?);
        row.constraints = job.constraints;
        tables.processes.put(row.clone());
        Ok(row)
    }

    async fn migrate(&self, _: &Caller, process: &JobId, to: Destination) -> Result<MigrationSummary, ApiError> {
        let Pipeline { shared, collected, acting, tables, .. } = &*self.pipeline;
        let unknown = || ApiError::ProcessUnknown { process: process.to_string() };
        let mut whereabouts = shared.whereabouts(process).ok_or_else(unknown)?;
        if let Whereabouts::Away { session, node } = &whereabouts
            && *node == shared.node
        {
            acting.arrived(*session).await;
            whereabouts = shared.whereabouts(process).ok_or_else(unknown)?;
        }
        match whereabouts {
            Whereabouts::Silent => Err(ApiError::CannotMove { process: process.to_string(), why: SILENT.into() }),
            Whereabouts::Away { session, node } => {
                let target_node = match to {
                    Destination::Node(name) => name,
                    Destination::Home => shared.node.clone(),
                    Destination::Best => "best".into(),
                };
                let request = MoveRequest {
                    session,
                    target_node,
                    migration: SessionId::random(),
                    trigger: crate::api::view::Trigger::Request,
                    reason: format!("asked for at {}", shared.node),
                };
                let record = shared.peers.request_move(&node, request).await?;
                // Its source may have reported since how far it is.
                tables.migrations.put_new(record.clone());
                Ok(record)
            }
            Whereabouts::Home(job) => {
                // Whichever process of the job was named: the job moves.
                let process = shared.name_of(&job);
                collected.look_again(&job).await;
                self.pipeline.wish(&process, &wish(to), SessionId::random(), None).await
            }
            Whereabouts::Guest(..) => self.pipeline.wish(process, &wish(to), SessionId::random(), None).await,
        }
    }

    async fn cancel(&self, caller: &Caller, migration: SessionId, reason: &str) -> Result<MigrationSummary, ApiError> {
        let Pipeline { shared, acting, .. } = &*self.pipeline;
        tracing::info!(%migration, reason, %caller, "a move is to be given up");
        match acting.moves.record(migration) {
            // Only the source's daemon can ask the agent that makes the move.
            Some(record) if record.source != shared.node && !record.is_over() => {
                shared.peers.cancel(&record.source, migration, reason).await
            }
            _ => acting.moves.cancel(migration, reason),
        }
    }

    async fn placement_reasons(&self, process: &JobId) -> Result<PlacementReasons, ApiError> {
        let Pipeline { shared, collected, tables, .. } = &*self.pipeline;
        let whereabouts = shared.whereabouts(process);
        let mut reasons = match whereabouts.ok_or_else(|| ApiError::ProcessUnknown { process: process.to_string() })? {
            Whereabouts::Silent => self.reasons(process, Some(SILENT.into())),
            Whereabouts::Away { session, node } => shared.peers.guest_reasons(&node, session).await?,
            Whereabouts::Home(job) => {
                let process = shared.name_of(&job);
                let cannot_move = collected.measured().cannot_move.get(&job.session).cloned();
                self.reasons(&process, cannot_move)
            }
            Whereabouts::Guest(_, guest) => self.reasons(process, guest.cannot_move),
        };
        let name = reasons.process.clone();
        let records = tables.migrations.all();
        let of_it = records.iter().filter(|record| record.process == name);
        reasons.migrations = of_it.take(SHOWN_MIGRATIONS).map(|record| MigrationSummary::clone(record)).collect();
        Ok(reasons)
    }
}

impl Daemon {
    /// Why a job is where it is, whose process tree is here.
    fn reasons(&self, process: &JobId, cannot_move: Option<String>) -> PlacementReasons {
        let Pipeline { shared, deciding, .. } = &*self.pipeline;
        let mut reasons = PlacementReasons { cannot_move, ..deciding.placing.reasons(process) };
        if reasons.decision == PlacementDecision::Unknown {
            if shared.address.is_none() {
                reasons.summary = "this node is alone: it has no key, so nothing moves".into();
            } else if !deciding.balance {
                reasons.summary = "nothing moves by itself here: the daemon was started with --no-balance".into();
            }
        }
        reasons
    }

    /// What holds for a job of a class; an empty name is none.
    fn of_class(&self, constraints: Constraints, class: &str) -> Result<Constraints, ApiError> {
        let shared = &self.pipeline.shared;
        if class.is_empty() {
            return Ok(constraints);
        }
        let of_class = self.classes.get(class).ok_or_else(|| {
            let known = self.classes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".into() } else { known };
            ApiError::invalid("class", format!("there is none of that name; this node's settings have: {known}"))
        })?;
        Ok(constraints.and(of_class, &shared.node))
    }

    /// The guest of this session, by its migration, for its home, which must be `peer`.
    fn guest_of(&self, peer: &str, session: SessionId) -> Result<(SessionId, GuestView), ApiError> {
        let agents = self.pipeline.shared.agents.view();
        let guest = agents.guest(|guest| guest.job.session == session);
        let (migration, guest) = guest.ok_or_else(|| ApiError::ProcessUnknown { process: session.to_string() })?;
        if guest.job.id.is_of(peer) {
            Ok((migration, guest.clone()))
        } else {
            Err(ApiError::NotHome { node: peer.into() })
        }
    }
}

/// The user who asks; a holder of the cluster's key, or of a certificate of it, may do what root
/// may.
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
        let shared = &self.pipeline.shared;
        let info = &shared.info;
        Ok(NodeDetails {
            node: shared.node.clone(),
            version: info.software_version.clone(),
            protocol: info.protocol_version,
            kernel_release: info.kernel_release.clone(),
            criu_version: info.features.criu.map(|version| version.to_string()),
            cpu: info.cpu.clone(),
            available_bytes: shared.available_bytes(),
            missing: super::missing(info),
        })
    }

    async fn reserve_guest(&self, peer: &str, reservation: GuestReservation) -> Result<String, ApiError> {
        let Pipeline { shared, deciding, acting, .. } = &*self.pipeline;
        if shared.stop.is_cancelled() {
            return Err(ApiError::Leaving);
        }
        if let Some(why) = super::preflight(&shared.info, &reservation.requirements) {
            return Err(ApiError::TargetRefused { node: shared.node.clone(), why });
        }
        tracing::info!(peer, migration = %reservation.migration, comm = reservation.job.spec.comm, "a guest is announced");
        let job = announced(&reservation);
        let (migration, is_guest) = (reservation.migration, !reservation.job.id.is_of(&shared.node));
        let drained = || ApiError::TargetRefused { node: shared.node.clone(), why: draining::REFUSAL.into() };
        if is_guest && shared.draining.is_on() {
            return Err(drained());
        }
        let admitted = {
            let view = self.pipeline.view();
            deciding.placing.admit(view.nodes(), view.in_flight(), &job, &reservation)
        };
        admitted.map_err(|why| ApiError::TargetFull { node: shared.node.clone(), why: why.to_string() })?;
        let mut reserved = acting.host.reserve(reservation).await;
        // The drain has counted those that were on their way.
        if reserved.is_ok() && is_guest && shared.draining.is_on() {
            acting.host.release(peer, migration, draining::REFUSAL).await?;
            reserved = Err(drained());
        }
        if reserved.is_err() {
            deciding.placing.released(&job.record.id);
        }
        reserved
    }

    async fn release_guest(&self, peer: &str, migration: SessionId, reason: &str) -> Result<(), ApiError> {
        self.pipeline.acting.host.release(peer, migration, reason).await
    }

    async fn request_move(&self, peer: &str, request: MoveRequest) -> Result<MigrationSummary, ApiError> {
        let acting = &self.pipeline.acting;
        acting.arrived(request.session).await;
        let (_, guest) = self.guest_of(peer, request.session)?;
        if let Some(record) = acting.moves.record(request.migration) {
            return Ok(record);
        }
        let wish =
            if guest.job.id.is_of(&request.target_node) { Wish::Home } else { Wish::from(&*request.target_node) };
        self.pipeline.wish(&guest.job.id, &wish, request.migration, Some(&request.reason)).await
    }

    async fn constrain_guest(&self, peer: &str, session: SessionId, constraints: Constraints) -> Result<(), ApiError> {
        let (migration, guest) = self.guest_of(peer, session)?;
        self.pipeline.acting.tell_agent(&guest.job.id, migration, constraints).await
    }

    async fn report_migration(&self, _: &str, migration: MigrationSummary) -> Result<(), ApiError> {
        let Pipeline { shared, tables, .. } = &*self.pipeline;
        let session = shared.jobs().get(migration.process.pid).map(|job| job.session);
        if migration.is_over()
            && let Some(agent) = session.and_then(|session| shared.agents.get((StreamKind::Home, session)))
        {
            // Who sees the end of a move may ask for another one: then this daemon must know where
            // the job is.
            agent.released(migration.id, RELEASE_TIMEOUT).await;
        }
        if let Some(known) = tables.migrations.get(&migration.key()) {
            let step = Machine::starting_at(known.state).catch_up(migration.state);
            step.map_err(|error| ApiError::invalid("state", error.to_string()))?;
        }
        tables.migrations.put(migration);
        Ok(())
    }

    async fn guest_reasons(&self, peer: &str, session: SessionId) -> Result<PlacementReasons, ApiError> {
        let shared = &self.pipeline.shared;
        let agents = shared.agents.view();
        let guest = agents.guest(|guest| guest.job.session == session && guest.job.id.is_of(peer));
        let (_, guest) = guest.ok_or_else(|| ApiError::ProcessUnknown { process: session.to_string() })?;
        Ok(self.reasons(&guest.job.id, guest.cannot_move.clone()))
    }
}
