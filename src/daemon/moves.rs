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

mod course;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{agents::Agent, now_ms, peers::Peers};
use crate::{
    api::{
        ApiError,
        backend::{Requirements, Views},
        name::ProcessName,
        view::{MigrationStep, MigrationSummary, Trigger},
    },
    control::{Constraints, JobPast, MoveProgress, MoveState, SessionId},
};

/// Between two looks whether moves are over.
const LOOK: Duration = Duration::from_millis(20);

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
    table: Mutex<Table>,
    step: Notify,
    ended: mpsc::Sender<Ended>,
}

/// A move that has ended.
pub struct Ended {
    /// Its record.
    pub record: MigrationSummary,
    /// What was in its way, if it did not come about.
    pub obstacle: Obstacle,
}

/// What was in the way of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The program cannot move.
    CannotMove,
    /// The target had its hands full, or knew better.
    TargetBusy,
    /// Whatever else.
    Other,
}

/// The moves under way.
#[derive(Default)]
struct Table {
    active: HashMap<SessionId, Active>,
    /// No other begins.
    is_closed: bool,
}

struct Active {
    process: ProcessName,
    target: String,
    cancel: CancellationToken,
    reason: Option<String>,
    /// The agent makes it: it may have frozen the program, so only it lets that go on.
    is_agents: bool,
}

impl Table {
    fn is_moving(&self, process: &ProcessName) -> bool {
        self.active.values().any(|active| active.process == *process)
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
        Arc::new(Self { node: node.into(), views, peers, run_dir, table: Mutex::default(), step: Notify::new(), ended })
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
            let mut table = self.lock();
            if table.is_closed {
                return Err(ApiError::Leaving);
            }
            if let Some((id, _)) = table.active.iter().find(|(_, other)| other.process == order.process) {
                let process = order.process.to_string();
                return Err(ApiError::AlreadyMoving { process, migration: id.to_string() });
            }
            let entry = Active {
                process: order.process.clone(),
                target: order.target.clone(),
                cancel: cancel.clone(),
                reason: None,
                is_agents: false,
            };
            table.active.insert(order.migration, entry);
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
        if let Some(active) = self.lock().active.get_mut(&migration) {
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
        self.lock().active.iter().map(|(id, active)| (*id, active.process.clone(), active.target.clone())).collect()
    }

    /// Whether the job is being moved from here.
    pub fn is_moving(&self, process: &ProcessName) -> bool {
        self.lock().is_moving(process)
    }

    /// Does `act`, which takes no time, unless the job is being moved from here; no move of it begins meanwhile.
    pub fn unless_moving<T>(&self, process: &ProcessName, act: impl FnOnce() -> T) -> Option<T> {
        let table = self.lock();
        (!table.is_moving(process)).then(act)
    }

    /// The daemon ends: no other move begins, and those that no agent makes yet are given up. Returns when these are over, or after `limit`.
    pub async fn close(&self, limit: Duration) {
        {
            let mut table = self.lock();
            table.is_closed = true;
            for active in table.active.values_mut().filter(|active| !active.is_agents) {
                active.reason = Some("the daemon of its node ends".into());
                active.cancel.cancel();
            }
        }
        let over = async {
            while self.lock().active.values().any(|active| !active.is_agents) {
                sleep(LOOK).await;
            }
        };
        if timeout(limit, over).await.is_err() {
            tracing::warn!("a move that was not begun is not over yet");
        }
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

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests;
