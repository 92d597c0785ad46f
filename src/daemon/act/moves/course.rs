//! The course of one move as the daemon of its source goes it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Active, Ended, Moves, Obstacle, Order, so_far};
use crate::{
    api::{
        ApiError,
        backend::{GuestReservation, Requirements},
        view::{MigrationStep, MigrationSummary, Trigger},
    },
    causes::explain,
    daemon::{
        act::launch::NoOwner,
        shared::agents::{Agent, AgentError},
    },
    job::SessionId,
    migration::{
        failpoint::failpoint,
        machine::{IllegalStep, Machine},
    },
    protocol::{FromAgent, MoveProgress, MoveState, ToAgent, TreeFacts},
    sys::clock::now_ms,
};

/// How long home may take to accept a candidate.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a program may stand still at its start before its agent freezes it to move it. A start
/// elsewhere takes a second or less between machines that answer, some seconds if they have much to
/// do; a target that has died is silent for much longer.
const START_LIMIT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(15) };

/// How long the owner's agent may be silent in the middle of a move. Longer than any time-out of
/// the agents' own, so that their readable reason is the one that is shown.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(180);

/// How long an agent may take to say that it has given a move up.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a move was given up that was cancelled in time.
const CANCELLED: &str = "cancelled before anything was frozen";

/// Why a move ended before it ran at the target.
struct GivenUp {
    state: MoveState,
    reason: String,
    obstacle: Obstacle,
    /// How far the agent says that it came.
    progress: Option<MoveProgress>,
}

impl From<IllegalStep> for GivenUp {
    fn from(error: IllegalStep) -> Self {
        Self::aborted(error)
    }
}

impl GivenUp {
    fn aborted(reason: impl ToString) -> Self {
        Self { state: MoveState::Aborted, reason: reason.to_string(), obstacle: Obstacle::Other, progress: None }
    }

    fn of_agent(owner: &Agent, error: &AgentError) -> Self {
        Self::aborted(owner.explain(error))
    }

    fn too_slow() -> Self {
        Self::aborted(format!("an exec gate holds a program for {} s at most", START_LIMIT.as_secs()))
    }
}

impl Moves {
    /// Starts a move; `owner` gives the agent that owns the process tree, starting it if need be.
    /// Returns the record.
    pub fn start<F>(
        self: &Arc<Self>,
        order: Order,
        requirements: Requirements,
        owner: F,
    ) -> Result<MigrationSummary, ApiError>
    where
        F: Future<Output = Result<Arc<Agent>, NoOwner>> + Send + 'static,
    {
        let (order, cancel) = (Arc::new(order), CancellationToken::new());
        {
            let mut table = self.lock();
            if table.is_closed {
                return Err(ApiError::Leaving);
            }
            if let Some((id, _)) = table.active.iter().find(|(_, other)| other.order.job.id == order.job.id) {
                let process = order.job.id.to_string();
                return Err(ApiError::AlreadyMoving { process, migration: id.to_string() });
            }
            let machine = Machine::starting_at(MoveState::Reserve);
            let entry =
                Active { order: order.clone(), machine, cancel: cancel.clone(), reason: None, is_agents: false };
            table.active.insert(order.migration, entry);
        }
        let created = now_ms();
        let record = MigrationSummary {
            id: order.migration,
            process: order.job.id.clone(),
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

    /// Makes a move, from the first request to the record of its end.
    async fn drive<F>(
        self: Arc<Self>,
        order: Arc<Order>,
        requirements: Requirements,
        owner: F,
        cancel: CancellationToken,
    ) where
        F: Future<Output = Result<Arc<Agent>, NoOwner>> + Send + 'static,
    {
        let migration = order.migration;
        let (end, met) = match self.attempt(&order, requirements, owner, &cancel).await {
            Ok(end) => (end, Obstacle::Other),
            Err(GivenUp { state, reason, obstacle, progress }) => {
                let Some(progress) = progress.or_else(|| self.record(migration).map(so_far)) else { return };
                let reason = Some(self.wish(migration).unwrap_or(reason));
                (MoveProgress { state, reason, ..progress }, obstacle)
            }
        };
        self.close_record(end);
        let Some(record) = self.record(migration) else { return };
        let outcome = (record.state, record.downtime_us.map(|us| us / 1_000), &record.reason);
        tracing::info!(%migration, process = %record.process, target = record.target, ?outcome, "move ended");
        self.forget_old();
        let _ = self.ended.send(Ended { record, obstacle: met }).await;
    }

    async fn attempt<F>(
        &self,
        order: &Order,
        requirements: Requirements,
        owner: F,
        cancel: &CancellationToken,
    ) -> Result<MoveProgress, GivenUp>
    where
        F: Future<Output = Result<Arc<Agent>, NoOwner>> + Send + 'static,
    {
        let migration = order.migration;
        let until = (order.trigger == Trigger::Initial).then(|| Instant::now() + START_LIMIT);
        // In a task of its own: an agent that comes up too late for this move must be known all the
        // same.
        let owner = tokio::spawn(owner);
        let owner = async {
            let owner = owner.await.map_err(|error| GivenUp::aborted(explain(error)))?;
            owner.map_err(|error| GivenUp::aborted(explain(error)))
        };
        let owner = in_time(owner, until, cancel).await?;
        let prepared = in_time(self.prepare(&owner, order, requirements), until, cancel).await;
        let result = match prepared {
            Ok(address) => match self.hand_over(migration) {
                Ok(()) => self.execute(&owner, migration, address, until, cancel).await,
                Err(given_up) => Err(given_up),
            },
            Err(given_up) => Err(given_up),
        };
        match &result {
            Err(GivenUp { state: MoveState::Aborted, reason, .. }) => self.give_up(&owner, order, reason).await,
            // Until then this node takes the job for one that is here.
            Ok(_) => owner.released(migration, RELEASE_TIMEOUT).await,
            Err(_) => {}
        }
        result
    }

    /// Asks home and the target, and returns where the target waits. Nothing is frozen by it.
    async fn prepare(&self, owner: &Agent, order: &Order, requirements: Requirements) -> Result<String, GivenUp> {
        let Order { migration, target, .. } = order;
        let facts = begin(owner, *migration, target).await?;
        failpoint(&self.run_dir, MoveState::Reserve).await;
        self.advance(*migration, MoveState::Prepare)?;
        let reserved = self.peers.reserve(target, self.reservation(order, requirements, facts)).await;
        let address = reserved.map_err(|error| {
            let is_busy = matches!(error, ApiError::TargetFull { .. });
            GivenUp {
                obstacle: if is_busy { Obstacle::TargetBusy } else { Obstacle::Other },
                ..GivenUp::aborted(error)
            }
        })?;
        failpoint(&self.run_dir, MoveState::Prepare).await;
        Ok(address)
    }

    /// From now on the move is the agent's; not if it was cancelled.
    fn hand_over(&self, migration: SessionId) -> Result<(), GivenUp> {
        {
            let mut table = self.lock();
            let active = table.active.get_mut(&migration).filter(|active| !active.cancel.is_cancelled());
            active.ok_or_else(|| GivenUp::aborted(CANCELLED))?.is_agents = true;
        }
        Ok(self.advance(migration, MoveState::Precopy)?)
    }

    /// Lets the owner's agent move the process tree and waits for the end, which is returned.
    async fn execute(
        &self,
        owner: &Agent,
        migration: SessionId,
        target_address: String,
        until: Option<Instant>,
        cancel: &CancellationToken,
    ) -> Result<MoveProgress, GivenUp> {
        let mut reports = owner.reports();
        let order = ToAgent::Move { migration, target_address };
        owner.request(&order, None).await.map_err(|error| GivenUp::of_agent(owner, &error))?;
        let ours = |report| match report {
            FromAgent::Progress(progress) if progress.migration == migration => Some(progress),
            _ => None,
        };
        let (mut cancelled, mut is_frozen) = (false, false);
        loop {
            let reason = tokio::select! {
                progress = owner.wait_for(&mut reports, PROGRESS_TIMEOUT, ours) => {
                    // The owner's agent died or went silent.
                    let progress = progress.map_err(|error| self.given_up(migration, owner.explain(&error)))?;
                    match progress.state {
                        MoveState::Run => return Ok(progress),
                        state @ (MoveState::Aborted | MoveState::Failed) => {
                            let reason = progress.reason.clone().unwrap_or_else(|| "no reason was given".into());
                            return Err(GivenUp { state, progress: Some(progress), ..GivenUp::aborted(reason) });
                        }
                        state => is_frozen |= state >= MoveState::Freeze,
                    }
                    if let Err(error) = self.note(&progress) {
                        let reason = error.to_string();
                        // It makes the move, so it is asked to give it up at home. If it cannot be
                        // told it is silent, and home hears of that.
                        let _ = owner.request(&ToAgent::Cancel { migration, reason: reason.clone() }, None).await;
                        return Err(self.given_up(migration, reason));
                    }
                    continue;
                }
                () = cancel.cancelled(), if !cancelled => self.wish(migration).unwrap_or_else(|| "cancelled".into()),
                () = reached(until), if !cancelled && !is_frozen => GivenUp::too_slow().reason,
            };
            cancelled = true;
            let sent = owner.request(&ToAgent::Cancel { migration, reason }, None).await;
            sent.map_err(|error| self.given_up(migration, owner.explain(&error)))?;
        }
    }

    /// Why it is to be cancelled.
    fn wish(&self, migration: SessionId) -> Option<String> {
        self.lock().active.get(&migration).and_then(|active| active.reason.clone())
    }

    /// Of a move that its agent does not end as it should: before commit home will not run the
    /// target's copy, afterwards it may be lost.
    fn given_up(&self, migration: SessionId, reason: String) -> GivenUp {
        let committed = self.record(migration).is_some_and(|record| record.state >= MoveState::Commit);
        let state = if committed { MoveState::Failed } else { MoveState::Aborted };
        GivenUp { state, ..GivenUp::aborted(reason) }
    }

    /// Waits a little for the agent to release the move; the target, if it was asked, hears of it
    /// meanwhile.
    async fn give_up(&self, owner: &Agent, order: &Order, reason: &str) {
        let Order { migration, target, .. } = order;
        let record = self.record(*migration);
        if record.as_ref().is_some_and(|record| record.state >= MoveState::Prepare) {
            // It may be silent, and the program does not wait for it.
            let (peers, target, migration, reason) =
                (self.peers.clone(), target.clone(), *migration, reason.to_owned());
            tokio::spawn(async move { peers.release(&target, migration, &reason).await });
        }
        // What the agent has ended itself it need not be told.
        if record.is_some_and(|record| record.state < MoveState::Precopy) {
            let cancel = ToAgent::Cancel { migration: *migration, reason: reason.into() };
            if let Err(error) = owner.request(&cancel, None).await {
                tracing::warn!(%migration, %error, "cannot tell the agent that the move is given up");
            }
        }
        owner.released(*migration, RELEASE_TIMEOUT).await;
    }

    fn reservation(&self, order: &Order, requirements: Requirements, facts: TreeFacts) -> GuestReservation {
        GuestReservation {
            migration: order.migration,
            source_node: self.node.clone(),
            job: order.job.clone(),
            home_address: order.home_address.clone(),
            by_request: order.trigger == Trigger::Request,
            limit_milli: order.limit_milli,
            facts,
            requirements,
        }
    }
}

/// Does a part of a move before anything is frozen, unless it is cancelled or has to be over by
/// now.
async fn in_time<T>(
    part: impl Future<Output = Result<T, GivenUp>>,
    until: Option<Instant>,
    cancel: &CancellationToken,
) -> Result<T, GivenUp> {
    tokio::select! {
        done = part => done,
        () = cancel.cancelled() => Err(GivenUp::aborted(CANCELLED)),
        () = reached(until) => Err(GivenUp::too_slow()),
    }
}

async fn reached(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn begin(owner: &Agent, migration: SessionId, target: &str) -> Result<TreeFacts, GivenUp> {
    let mut reports = owner.reports();
    let request = ToAgent::Begin { migration, target: target.into() };
    let of_agent = |error| GivenUp::of_agent(owner, &error);
    owner.request(&request, None).await.map_err(of_agent)?;
    let pick = |report| match report {
        FromAgent::Begun { migration: begun, refused, facts } if begun == migration => Some((refused, facts)),
        _ => None,
    };
    let (refused, facts) = owner.wait_for(&mut reports, BEGIN_TIMEOUT, pick).await.map_err(of_agent)?;
    match (refused, facts) {
        (Some(reason), _) => Err(GivenUp { obstacle: Obstacle::CannotMove, ..GivenUp::aborted(reason) }),
        (None, Some(facts)) => Ok(facts),
        (None, None) => Err(GivenUp::aborted("the agent told nothing about the program")),
    }
}
