//! Moves out of this node, from the wish to the record: asks home and the target, then lets the
//! agent that owns the process tree do it.
//!
//! ```text
//!   Begin    ─► owner's agent: home makes it the candidate, facts about the tree come back
//!   Reserve  ─► target: checks itself, makes the guest's world        (nothing is frozen before it says yes)
//!   Move     ─► owner's agent: freezes, sends, waits for home's word  (progress arrives as reports)
//!   Release  ─► target, if it was given up after it had been asked
//! ```
//!
//! A record is kept whatever happens. This task may end in the middle (a daemon that is killed):
//! the agents finish the move between themselves and the next daemon learns of it from their state.

mod course;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{
        ApiError,
        backend::Views,
        view::{MigrationStep, MigrationSummary, Trigger},
    },
    daemon::shared::peers::Peers,
    job::{JobId, JobRecord, SessionId},
    migration::machine::{IllegalStep, Machine},
    protocol::{MoveProgress, MoveState},
    sys::{
        clock::now_ms,
        lock::{Mutex, MutexGuard},
    },
};

/// Between two looks whether moves are over.
const LOOK: Duration = Duration::from_millis(20);

/// How many records of ended moves are kept.
const MAX_RECORDS: usize = 1_000;

/// A move to be made.
pub struct Order {
    /// The migration's id.
    pub migration: SessionId,
    /// The job.
    pub job: JobRecord,
    /// Home's `address:port`.
    pub home_address: String,
    /// The target's name.
    pub target: String,
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
    /// The target refused admission.
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
    order: Arc<Order>,
    /// The only one who changes the record's state.
    machine: Machine,
    cancel: CancellationToken,
    reason: Option<String>,
    /// The agent makes it: it may have frozen the program, so only it resumes that.
    is_agents: bool,
}

impl Table {
    fn is_moving(&self, process: &JobId) -> bool {
        self.active.values().any(|active| active.order.job.id == *process)
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

    /// Asks a move to give up. What home has committed continues.
    pub fn cancel(&self, migration: SessionId, reason: &str) -> Result<MigrationSummary, ApiError> {
        let record = self.record(migration).ok_or(ApiError::MigrationUnknown { migration: migration.to_string() })?;
        match record.state {
            MoveState::Aborted => {}
            MoveState::Commit | MoveState::Run | MoveState::Failed => {
                return Err(ApiError::AlreadyCommitted { migration: migration.to_string() });
            }
            _ => {
                if let Some(active) = self.lock().active.get_mut(&migration) {
                    active.reason = (!reason.is_empty()).then(|| reason.to_owned());
                    active.cancel.cancel();
                }
            }
        }
        Ok(record)
    }

    /// The record of a move.
    pub fn record(&self, migration: SessionId) -> Option<MigrationSummary> {
        let records = self.views.migrations.all();
        records.iter().find(|record| record.id == migration).map(|record| MigrationSummary::clone(record))
    }

    /// The moves under way: the job and its target.
    pub fn under_way(&self) -> Vec<(SessionId, JobId, String)> {
        let of = |(id, Active { order, .. }): (&SessionId, &Active)| (*id, order.job.id.clone(), order.target.clone());
        self.lock().active.iter().map(of).collect()
    }

    /// Whether the job is being moved from here.
    pub fn is_moving(&self, process: &JobId) -> bool {
        self.lock().is_moving(process)
    }

    /// Does `act`, which takes no time, unless the job is being moved from here; no move of it
    /// begins meanwhile.
    pub fn unless_moving<T>(&self, process: &JobId, act: impl FnOnce() -> T) -> Option<T> {
        let table = self.lock();
        (!table.is_moving(process)).then(act)
    }

    /// The daemon ends: no other move begins, and those that no agent makes yet are given up.
    /// Returns when these are over, or after `limit`.
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
    pub fn standing_still(&self) -> Vec<JobId> {
        let stands = |id: &SessionId| {
            self.record(*id).is_some_and(|record| (MoveState::Freeze..MoveState::Run).contains(&record.state))
        };
        self.under_way().into_iter().filter(|(id, ..)| stands(id)).map(|(_, process, _)| process).collect()
    }

    /// Told when [`Self::standing_still`] may have changed.
    pub fn step(&self) -> &Notify {
        &self.step
    }

    /// The last step of a move; one that it cannot take gives it up. Its job may be moved again
    /// before the record says so: who sees the end of a move may ask for another.
    fn close_record(&self, mut end: MoveProgress) {
        let Some(Active { mut machine, .. }) = self.lock().active.remove(&end.migration) else { return };
        if let Err(error) = machine.catch_up(end.state) {
            machine.give_up(false);
            end.reason = Some(error.to_string());
        }
        self.put(&end, machine);
    }

    /// Notes how far a move is, as its agent reports.
    fn note(&self, progress: &MoveProgress) -> Result<(), IllegalStep> {
        self.step_of(progress.migration, |machine| machine.catch_up(progress.state))
            .map(|machine| machine.into_iter().for_each(|machine| self.put(progress, machine)))
    }

    /// A move takes its next step.
    fn advance(&self, migration: SessionId, state: MoveState) -> Result<(), IllegalStep> {
        let machine = self.step_of(migration, |machine| machine.enter(state))?;
        if let Some((machine, record)) = machine.zip(self.record(migration)) {
            self.put(&so_far(record), machine);
        }
        Ok(())
    }

    /// The machine of a move after a step; `None` if the move has ended.
    fn step_of(
        &self,
        migration: SessionId,
        step: impl FnOnce(&mut Machine) -> Result<(), IllegalStep>,
    ) -> Result<Option<Machine>, IllegalStep> {
        let mut table = self.lock();
        let Some(active) = table.active.get_mut(&migration) else { return Ok(None) };
        step(&mut active.machine)?;
        Ok(Some(active.machine))
    }

    /// Brings the record of a move up to date with its machine and what is known of it.
    fn put(&self, progress: &MoveProgress, machine: Machine) {
        let Some(mut record) = self.record(progress.migration) else { return };
        record.memory_bytes = progress.memory_bytes;
        record.wire_bytes = progress.wire_bytes;
        record.downtime_us = progress.downtime_us.or(record.downtime_us);
        if let Some(reason) = &progress.reason {
            record.reason.clone_from(reason);
        }
        let is_step = record.state != machine.state();
        if is_step {
            record.state = machine.state();
            record.steps.push(MigrationStep { state: record.state, at_ms: progress.at_ms });
        }
        if record.is_over() {
            record.end_time_ms = Some(progress.at_ms);
        }
        self.views.migrations.put(record.clone());
        if is_step {
            self.step.notify_one();
        }
        if !record.process.is_of(&self.node) {
            self.peers.report(record);
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

/// How far a move has come by now, as its record says.
fn so_far(record: MigrationSummary) -> MoveProgress {
    let MigrationSummary { id: migration, state, memory_bytes, wire_bytes, downtime_us, .. } = record;
    MoveProgress { migration, state, at_ms: now_ms(), memory_bytes, wire_bytes, downtime_us, reason: None }
}

#[cfg(test)]
pub(super) mod tests;
