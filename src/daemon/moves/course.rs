//! The course of one move as the daemon of its source goes it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        agents::{Agent, AgentError},
        now_ms,
    },
    Ended, Moves, Obstacle, Order,
};
use crate::{
    api::{
        ApiError,
        backend::{GuestReservation, Requirements},
        view::Trigger,
    },
    control::{BodyFacts, FromAgent, MoveState, SessionId, ToAgent},
    migration::hold::hold,
};

/// How long home may take to accept a candidate.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a program may stand still at its start before its agent freezes it to move it. A start elsewhere takes a second or less between
/// machines that answer, some seconds if they have much to do; a target that has died is silent for much longer.
const START_LIMIT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(15) };

/// How long the owner's agent may be silent in the middle of a move. Longer than any time-out of the agents' own, so that
/// their readable reason is the one that is shown.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(180);

/// How long an agent may take to say that it has given a move up.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a move was given up that somebody cancelled in time.
const CANCELLED: &str = "cancelled before anything was frozen";

/// Why a move ended before it ran at the target.
struct GivenUp {
    state: MoveState,
    reason: String,
    obstacle: Obstacle,
}

impl GivenUp {
    fn aborted(reason: impl ToString) -> Self {
        Self { state: MoveState::Aborted, reason: reason.to_string(), obstacle: Obstacle::Other }
    }

    fn too_slow() -> Self {
        Self::aborted(format!("a program that begins is held for {} s at most", START_LIMIT.as_secs()))
    }
}

impl Moves {
    /// Makes a move, from the first request to the record of its end.
    pub(super) async fn drive<F>(
        self: Arc<Self>,
        order: Order,
        requirements: Requirements,
        owner: F,
        cancel: CancellationToken,
    ) where
        F: Future<Output = Result<Arc<Agent>, String>> + Send + 'static,
    {
        let migration = order.migration;
        let mut met = Obstacle::Other;
        if let Err(GivenUp { state, reason, obstacle }) = self.attempt(&order, requirements, owner, &cancel).await {
            met = obstacle;
            let asked = self.wish(migration);
            if let Some(mut record) = self.record(migration).filter(|record| !record.is_over()) {
                record.reason = asked.unwrap_or(reason);
                self.enter(record, state, now_ms());
            }
        }
        self.lock().active.remove(&migration);
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
    ) -> Result<(), GivenUp>
    where
        F: Future<Output = Result<Arc<Agent>, String>> + Send + 'static,
    {
        let migration = order.migration;
        let until = (order.trigger == Trigger::Initial).then(|| Instant::now() + START_LIMIT);
        // In a task of its own: an agent that comes up too late for this move must be known all the same.
        let owner = tokio::spawn(owner);
        let owner = async { owner.await.map_err(GivenUp::aborted)?.map_err(GivenUp::aborted) };
        let owner = in_time(owner, until, cancel).await?;
        let prepared = in_time(self.prepare(&owner, order, requirements), until, cancel).await;
        let result = match prepared {
            Ok(_) if !self.hand_over(migration) => Err(GivenUp::aborted(CANCELLED)),
            Ok(address) => self.execute(&owner, migration, address, until, cancel).await,
            Err(given_up) => Err(given_up),
        };
        if let Err(GivenUp { state: MoveState::Aborted, reason, .. }) = &result {
            self.give_up(&owner, order, reason).await;
        }
        result
    }

    /// Asks home and the target, and returns where the target waits. Nothing is frozen by it.
    async fn prepare(&self, owner: &Agent, order: &Order, requirements: Requirements) -> Result<String, GivenUp> {
        let Order { migration, target, .. } = order;
        let body = begin(owner, *migration, target).await?;
        hold(&self.run_dir, MoveState::Reserve).await;
        self.advance(*migration, MoveState::Prepare);
        let reserved = self.peers.reserve(target, self.reservation(order, requirements, body)).await;
        let address = reserved.map_err(|error| {
            let is_busy = matches!(error, ApiError::TargetFull { .. });
            GivenUp {
                obstacle: if is_busy { Obstacle::TargetBusy } else { Obstacle::Other },
                ..GivenUp::aborted(error)
            }
        })?;
        hold(&self.run_dir, MoveState::Prepare).await;
        Ok(address)
    }

    /// From now on the move is the agent's; not if it was cancelled.
    fn hand_over(&self, migration: SessionId) -> bool {
        {
            let mut table = self.lock();
            let active = table.active.get_mut(&migration).filter(|active| !active.cancel.is_cancelled());
            let Some(active) = active else { return false };
            active.is_agents = true;
        }
        self.advance(migration, MoveState::Precopy);
        true
    }

    /// Lets the owner's agent move the body and waits for the end.
    async fn execute(
        &self,
        owner: &Agent,
        migration: SessionId,
        target_address: String,
        until: Option<Instant>,
        cancel: &CancellationToken,
    ) -> Result<(), GivenUp> {
        let mut reports = owner.reports();
        let order = ToAgent::Move { migration, target_address };
        owner.request(&order, None).await.map_err(GivenUp::aborted)?;
        let ours = |report| match report {
            FromAgent::Progress(progress) if progress.migration == migration => Some(progress),
            _ => None,
        };
        let (mut cancelled, mut is_frozen) = (false, false);
        loop {
            let reason = tokio::select! {
                progress = owner.wait_for(&mut reports, PROGRESS_TIMEOUT, ours) => {
                    let progress = progress.map_err(|error| self.silent(migration, &error))?;
                    match progress.state {
                        MoveState::Run => return Ok(()),
                        state @ (MoveState::Aborted | MoveState::Failed) => {
                            let reason = progress.reason.unwrap_or_else(|| "no reason was given".into());
                            return Err(GivenUp { state, ..GivenUp::aborted(reason) });
                        }
                        state => is_frozen |= state >= MoveState::Freeze,
                    }
                    continue;
                }
                () = cancel.cancelled(), if !cancelled => self.wish(migration).unwrap_or_else(|| "cancelled".into()),
                () = reached(until), if !cancelled && !is_frozen => GivenUp::too_slow().reason,
            };
            cancelled = true;
            owner.request(&ToAgent::Cancel { migration, reason }, None).await.map_err(GivenUp::aborted)?;
        }
    }

    /// Why somebody wants it cancelled.
    fn wish(&self, migration: SessionId) -> Option<String> {
        self.lock().active.get(&migration).and_then(|active| active.reason.clone())
    }

    /// The owner's agent died or went silent: before commit home will not run the target's copy, afterwards it may be lost.
    fn silent(&self, migration: SessionId, error: &AgentError) -> GivenUp {
        let committed = self.record(migration).is_some_and(|record| record.state >= MoveState::Commit);
        let state = if committed { MoveState::Failed } else { MoveState::Aborted };
        GivenUp { state, ..GivenUp::aborted(error) }
    }

    /// Waits a little for the agent to let go of the move; the target, if it was asked, hears of it meanwhile.
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
        owner.let_go(*migration, LET_GO_TIMEOUT).await;
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
}

/// Does a part of a move before anything is frozen, unless it is cancelled or has to be over by now.
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
        (Some(reason), _) => Err(GivenUp { obstacle: Obstacle::CannotMove, ..GivenUp::aborted(reason) }),
        (None, Some(body)) => Ok(body),
        (None, None) => Err(GivenUp::aborted("the agent told nothing about the program")),
    }
}
