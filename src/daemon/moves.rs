//! Moves out of this node, from the wish to the record: asks home and the target, then lets the agent that owns the body do it.
//!
//! ```text
//!   Begin    ─► owner's agent: home makes it the candidate, facts about the body come back
//!   Reserve  ─► target: checks itself, makes the guest's world        (nothing is frozen before it says yes)
//!   Move     ─► owner's agent: freezes, sends, waits for home's word  (progress arrives as reports)
//!   Release  ─► target, if it was given up after it had been asked
//! ```
//!
//! A record is kept whatever happens. This task may end in the middle (a daemon that is killed): the agents finish the
//! move between themselves and the next daemon learns of it from their state.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    agents::{Agent, AgentError},
    now_ms,
    peers::Peers,
};
use crate::{
    api::{
        ApiError,
        backend::{GuestReservation, Requirements, Views},
        name::ProcessName,
        view::{MigrationStep, MigrationSummary, Trigger},
    },
    control::{BodyFacts, Constraints, FromAgent, JobPast, MoveProgress, MoveState, SessionId, ToAgent},
    migration::hold::hold,
};

/// How long home may take to accept a candidate.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the owner's agent may be silent in the middle of a move. Longer than any time-out of the agents' own, so that
/// their readable reason is the one that is shown.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(180);

/// How many records of ended moves are kept.
const MAX_RECORDS: usize = 1_000;

/// A move to be made.
pub struct Order {
    /// The migration's id.
    pub migration: SessionId,
    /// The job, by its home and its pid there.
    pub process: ProcessName,
    /// The job's home session.
    pub session: SessionId,
    /// Home's `address:port`.
    pub home_address: String,
    /// The name of the program.
    pub comm: String,
    /// What placement may do with it.
    pub constraints: Constraints,
    /// The target's name.
    pub target: String,
    /// What the job did so far.
    pub past: JobPast,
    /// See [`GuestReservation`].
    pub limit_milli: Option<u32>,
    /// Who wanted it.
    pub trigger: Trigger,
    /// Why, one sentence.
    pub reason: String,
}

/// The moves of this node and their records.
pub struct Moves {
    node: String,
    views: Arc<Views>,
    peers: Arc<dyn Peers>,
    run_dir: PathBuf,
    active: Mutex<HashMap<SessionId, Active>>,
    step: Notify,
    ended: mpsc::Sender<Ended>,
}

/// A move that has ended.
pub struct Ended {
    /// Its record.
    pub record: MigrationSummary,
    /// It was not begun, as the target had its hands full.
    pub was_busy: bool,
}

struct Active {
    process: ProcessName,
    target: String,
    cancel: CancellationToken,
    reason: Option<String>,
}

/// Why a move ended before it ran at the target.
struct GivenUp {
    state: MoveState,
    reason: String,
    was_busy: bool,
}

impl GivenUp {
    fn aborted(reason: impl ToString) -> Self {
        Self { state: MoveState::Aborted, reason: reason.to_string(), was_busy: false }
    }
}

impl Moves {
    /// No move yet. Each record of a move that has ended is also sent to `ended`.
    pub fn new(
        node: &str,
        views: Arc<Views>,
        peers: Arc<dyn Peers>,
        run_dir: PathBuf,
        ended: mpsc::Sender<Ended>,
    ) -> Arc<Self> {
        Arc::new(Self {
            node: node.into(),
            views,
            peers,
            run_dir,
            active: Mutex::default(),
            step: Notify::new(),
            ended,
        })
    }

    /// Starts a move; `owner` gives the agent that owns the body, starting it if need be. Returns the record.
    pub fn start<F>(
        self: &Arc<Self>,
        order: Order,
        requirements: Requirements,
        owner: F,
    ) -> Result<MigrationSummary, ApiError>
    where
        F: Future<Output = Result<Arc<Agent>, String>> + Send + 'static,
    {
        let cancel = CancellationToken::new();
        {
            let mut active = self.lock();
            if let Some((id, _)) = active.iter().find(|(_, other)| other.process == order.process) {
                let process = order.process.to_string();
                return Err(ApiError::AlreadyMoving { process, migration: id.to_string() });
            }
            let entry = Active {
                process: order.process.clone(),
                target: order.target.clone(),
                cancel: cancel.clone(),
                reason: None,
            };
            active.insert(order.migration, entry);
        }
        let created = now_ms();
        let record = MigrationSummary {
            id: order.migration,
            process: order.process.clone(),
            source: self.node.clone(),
            target: order.target.clone(),
            state: MoveState::Reserve,
            trigger: order.trigger,
            steps: vec![MigrationStep { state: MoveState::Reserve, at_ms: created }],
            memory_bytes: 0,
            wire_bytes: 0,
            downtime_us: None,
            reason: order.reason.clone(),
            create_time_ms: created,
            end_time_ms: None,
        };
        self.views.migrations.put(record.clone());
        tokio::spawn(self.clone().drive(order, requirements, owner, cancel));
        Ok(record)
    }

    /// Asks a move to give up. What home has committed goes on.
    pub fn cancel(&self, migration: SessionId, reason: &str) -> Result<MigrationSummary, ApiError> {
        let record = self.record(migration).ok_or(ApiError::MigrationUnknown { migration: migration.to_string() })?;
        if let Some(active) = self.lock().get_mut(&migration) {
            active.reason = Some(reason.to_owned());
            active.cancel.cancel();
        } else if record.state != MoveState::Aborted {
            return Err(ApiError::AlreadyCommitted { migration: migration.to_string() });
        }
        Ok(record)
    }

    /// The record of a move.
    pub fn record(&self, migration: SessionId) -> Option<MigrationSummary> {
        let records = self.views.migrations.all();
        records.iter().find(|record| record.id == migration).map(|record| MigrationSummary::clone(record))
    }

    /// The moves under way: the job and its target.
    pub fn under_way(&self) -> Vec<(SessionId, ProcessName, String)> {
        self.lock().iter().map(|(id, active)| (*id, active.process.clone(), active.target.clone())).collect()
    }

    /// The programs that stand still to leave this node.
    pub fn standing_still(&self) -> Vec<ProcessName> {
        let stands = |id: &SessionId| {
            self.record(*id).is_some_and(|record| (MoveState::Freeze..MoveState::Run).contains(&record.state))
        };
        self.under_way().into_iter().filter(|(id, ..)| stands(id)).map(|(_, process, _)| process).collect()
    }

    /// Told when [`Self::standing_still`] may have changed.
    pub fn step(&self) -> &Notify {
        &self.step
    }

    /// Notes what an agent of this node reports about a move.
    pub fn note(&self, progress: &MoveProgress) {
        let Some(mut record) = self.record(progress.migration) else { return };
        if record.is_over() {
            return;
        }
        record.memory_bytes = progress.memory_bytes;
        record.wire_bytes = progress.wire_bytes;
        record.downtime_us = progress.downtime_us.or(record.downtime_us);
        if let Some(reason) = &progress.reason {
            record.reason.clone_from(reason);
        }
        self.enter(record, progress.state, progress.at_ms);
    }

    fn enter(&self, mut record: MigrationSummary, state: MoveState, at_ms: u64) {
        let is_step = record.state != state;
        if is_step {
            record.state = state;
            record.steps.push(MigrationStep { state, at_ms });
        }
        if record.is_over() {
            record.end_time_ms = Some(at_ms);
        }
        self.views.migrations.put(record.clone());
        if is_step {
            self.step.notify_one();
        }
        if record.process.node != self.node {
            self.peers.report(record);
        }
    }

    async fn drive<F>(self: Arc<Self>, order: Order, requirements: Requirements, owner: F, cancel: CancellationToken)
    where
        F: Future<Output = Result<Arc<Agent>, String>> + Send,
    {
        let migration = order.migration;
        let mut busy = false;
        if let Err(GivenUp { state, reason, was_busy }) = self.attempt(&order, requirements, owner, &cancel).await {
            busy = was_busy;
            let asked = self.lock().get_mut(&migration).and_then(|active| active.reason.take());
            if let Some(mut record) = self.record(migration).filter(|record| !record.is_over()) {
                record.reason = asked.unwrap_or(reason);
                self.enter(record, state, now_ms());
            }
        }
        self.lock().remove(&migration);
        let Some(record) = self.record(migration) else { return };
        let outcome = (record.state, record.downtime_us.map(|us| us / 1_000), &record.reason);
        tracing::info!(%migration, process = %record.process, target = record.target, ?outcome, "move ended");
        self.forget_old();
        let _ = self.ended.send(Ended { record, was_busy: busy }).await;
    }

    async fn attempt<F>(
        &self,
        order: &Order,
        requirements: Requirements,
        owner: F,
        cancel: &CancellationToken,
    ) -> Result<(), GivenUp>
    where
        F: Future<Output = Result<Arc<Agent>, String>> + Send,
    {
        let Order { migration, target, .. } = order;
        let owner = owner.await.map_err(GivenUp::aborted)?;
        let body = begin(&owner, *migration, target).await?;
        hold(&self.run_dir, MoveState::Reserve).await;
        self.advance(*migration, MoveState::Prepare);
        let reserved = tokio::select! {
            reserved = self.peers.reserve(target, self.reservation(order, requirements, body)) => {
                reserved.map_err(|error| (error.to_string(), matches!(error, ApiError::TargetFull { .. })))
            }
            () = cancel.cancelled() => Err(("cancelled before anything was frozen".into(), false)),
        };
        let target_address = match reserved {
            Ok(address) => address,
            Err((why, was_busy)) => {
                self.give_up(&owner, order, &why).await;
                return Err(GivenUp { was_busy, ..GivenUp::aborted(why) });
            }
        };
        hold(&self.run_dir, MoveState::Prepare).await;
        self.advance(*migration, MoveState::Precopy);
        let result = self.execute(&owner, *migration, target_address, cancel).await;
        if let Err(GivenUp { state: MoveState::Aborted, reason, .. }) = &result {
            self.peers.release(target, *migration, reason).await;
        }
        result
    }

    /// Lets the owner's agent move the body and waits for the end.
    async fn execute(
        &self,
        owner: &Agent,
        migration: SessionId,
        target_address: String,
        cancel: &CancellationToken,
    ) -> Result<(), GivenUp> {
        let mut reports = owner.reports();
        let order = ToAgent::Move { migration, target_address };
        owner.request(&order, None).await.map_err(GivenUp::aborted)?;
        let ours = |report| match report {
            FromAgent::Progress(progress) if progress.migration == migration => Some(progress),
            _ => None,
        };
        let mut cancelled = false;
        loop {
            let progress = tokio::select! {
                progress = owner.wait_for(&mut reports, PROGRESS_TIMEOUT, ours) => progress,
                () = cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    let reason = self.lock().get(&migration).and_then(|active| active.reason.clone());
                    let reason = reason.unwrap_or_else(|| "cancelled".into());
                    owner.request(&ToAgent::Cancel { migration, reason }, None).await.map_err(GivenUp::aborted)?;
                    continue;
                }
            };
            match progress {
                Ok(progress) => match progress.state {
                    MoveState::Run => return Ok(()),
                    state @ (MoveState::Aborted | MoveState::Failed) => {
                        let reason = progress.reason.unwrap_or_else(|| "no reason was given".into());
                        return Err(GivenUp { state, ..GivenUp::aborted(reason) });
                    }
                    _ => {}
                },
                Err(error) => return Err(self.silent(migration, &error)),
            }
        }
    }

    /// The owner's agent died or went silent: before commit home will not run the target's copy, afterwards it may be lost.
    fn silent(&self, migration: SessionId, error: &AgentError) -> GivenUp {
        let committed = self.record(migration).is_some_and(|record| record.state >= MoveState::Commit);
        let state = if committed { MoveState::Failed } else { MoveState::Aborted };
        GivenUp { state, ..GivenUp::aborted(error) }
    }

    async fn give_up(&self, owner: &Agent, order: &Order, reason: &str) {
        let cancel = ToAgent::Cancel { migration: order.migration, reason: reason.into() };
        if let Err(error) = owner.request(&cancel, None).await {
            tracing::warn!(migration = %order.migration, %error, "cannot tell the agent that the move is given up");
        }
        self.peers.release(&order.target, order.migration, reason).await;
    }

    fn reservation(&self, order: &Order, requirements: Requirements, body: BodyFacts) -> GuestReservation {
        GuestReservation {
            migration: order.migration,
            source_node: self.node.clone(),
            session: order.session,
            home_node: order.process.node.clone(),
            home_address: order.home_address.clone(),
            root_pid: order.process.pid,
            comm: order.comm.clone(),
            constraints: order.constraints.clone(),
            past: order.past,
            by_request: order.trigger == Trigger::Request,
            limit_milli: order.limit_milli,
            body,
            requirements,
        }
    }

    fn advance(&self, migration: SessionId, state: MoveState) {
        if let Some(record) = self.record(migration).filter(|record| !record.is_over()) {
            self.enter(record, state, now_ms());
        }
    }

    /// Drops the oldest records of ended moves. The table is sorted newest first.
    fn forget_old(&self) {
        use crate::api::table::Row;
        let records = self.views.migrations.all();
        for record in records.iter().skip(MAX_RECORDS).filter(|record| record.is_over()) {
            self.views.migrations.remove(&record.key());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Active>> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn begin(owner: &Agent, migration: SessionId, target: &str) -> Result<BodyFacts, GivenUp> {
    let mut reports = owner.reports();
    let request = ToAgent::Begin { migration, target: target.into() };
    owner.request(&request, None).await.map_err(GivenUp::aborted)?;
    let pick = |report| match report {
        FromAgent::Begun { migration: begun, refused, body } if begun == migration => Some((refused, body)),
        _ => None,
    };
    let (refused, body) = owner.wait_for(&mut reports, BEGIN_TIMEOUT, pick).await.map_err(GivenUp::aborted)?;
    match (refused, body) {
        (Some(reason), _) => Err(GivenUp::aborted(reason)),
        (None, Some(body)) => Ok(body),
        (None, None) => Err(GivenUp::aborted("the agent told nothing about the program")),
    }
}
