//! The stages of one daemon, each with its state, and the way from one to the next.
//!
//! ```text
//!   collect ──► view ──► decide ──► act        tick: each second      execs: each program that begins
//!      ▲                             │         backend: each wish
//!      └─── what is under way, and ──┘
//!           what came of it: with the next pass
//! ```
//!
//! A stage knows those before it and none behind it: what comes back comes as a value, by this
//! module.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    act::{
        Acting,
        moves::{Ended, Obstacle},
    },
    collect::Collected,
    decide::{self, Deciding},
    shared::Shared,
    view::View,
};
use crate::{
    api::{
        ApiError,
        backend::Views,
        view::{MigrationSummary, ProcessState, ProcessSummary},
    },
    job::{JobId, SessionId},
    metrics::{Figures, Metrics},
    placement::{Decision, Wish},
    protocol::MoveState,
};

/// A job that placement calls moving though no move of it is found has ended its move in this
/// millisecond, placement's unit of time.
const PLACEMENT_TICK: Duration = Duration::from_millis(1);

/// The daemon's stages.
pub struct Pipeline {
    /// What all of them share.
    pub shared: Arc<Shared>,
    /// What is measured and asked.
    pub collected: Arc<Collected>,
    /// What decisions rest on.
    pub deciding: Deciding,
    /// What is being done.
    pub acting: Acting,
    /// What the API shows.
    pub tables: Arc<Views>,
    /// What a monitoring system is told.
    pub metrics: Arc<Metrics>,
}

impl Pipeline {
    /// Jobs, nodes and moves as they are now.
    pub fn view(&self) -> View<'_> {
        View::new(&self.shared, &self.collected, self.acting.under_way())
    }

    /// Renews the tables of the API.
    pub fn show(&self, view: &View<'_>) {
        let mut migrations = HashMap::new();
        for record in self.tables.migrations.all() {
            // Newest first: the first one seen of a job stays.
            migrations.entry(record.process.clone()).or_insert(record.id);
        }
        self.tables.processes.replace_all(view.process_rows(&migrations));
        self.tables.nodes.replace_all(view.node_rows());
    }

    /// Renews those metrics that say how it is now.
    pub fn measure(&self) {
        let view = self.view();
        self.metrics.node_is(&Figures {
            nodes: &self.tables.nodes.all(),
            away: view.agents.homes.len(),
            guests: view.agents.guests.len(),
            moves: view.under_way.leaving.len(),
            lost_events: self.collected.measured().lost_events,
            traffic: self.shared.cluster.view().traffic,
        });
    }

    /// Lets placement look at every job here, and starts the moves that it wants.
    pub fn decide(&self) {
        let view = self.view();
        for decision in self.deciding.all(&self.shared, &view) {
            self.metrics.decided(&decision);
            let Some(target) = decision.target() else { continue };
            let why = decision.reasons.iter().rev().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            tracing::info!(process = %decision.job, %target, why, "placement moves a job");
            self.carry_out(&view, &decision, why);
        }
    }

    /// Starts the move that placement decided by itself. Whether it began; if not, placement knows,
    /// and the job continues here.
    pub fn carry_out(&self, view: &View<'_>, decision: &Decision, why: String) -> bool {
        let Some(target) = decision.target() else { return false };
        let started = self.acting.launch(view, decision, why, SessionId::random());
        if let Err(error) = &started {
            tracing::warn!(process = %decision.job, %target, %error, "move not started");
            self.deciding.placing.failed(&decision.job, target);
        }
        started.is_ok()
    }

    /// Asks placement about a user's wish and carries the answer out.
    pub async fn wish(
        &self,
        process: &JobId,
        wish: &Wish,
        migration: SessionId,
        reason: Option<&str>,
    ) -> Result<MigrationSummary, ApiError> {
        loop {
            {
                let view = self.view();
                let decision = self.deciding.wish(&view, process, wish);
                if decision.target().is_some() {
                    self.metrics.decided(&decision);
                    let why = reason.map_or_else(|| decide::summary(&decision), str::to_owned);
                    return self.acting.launch(&view, &decision, why, migration);
                }
                if let Some(refusal) = self.acting.refusal(&decision) {
                    self.metrics.decided(&decision);
                    return Err(refusal);
                }
            }
            sleep(PLACEMENT_TICK).await;
        }
    }

    /// Until the host of a job that has left says how it is, the figures of its last second here
    /// stand.
    fn keep_figures(&self, process: &JobId) {
        if !process.is_of(&self.shared.node) {
            return;
        }
        if let Some(row) = self.tables.processes.get(&ProcessSummary::key_of(process)) {
            let row = ProcessSummary { state: ProcessState::Unknown, cpu_percent: 0.0, ..(*row).clone() };
            self.collected.note_away(vec![row]);
        }
    }

    /// Lets the stages before learn what came of a move.
    pub fn note_ended(&self, Ended { record, obstacle }: &Ended) {
        self.metrics.moved(record);
        if record.state == MoveState::Run {
            self.keep_figures(&record.process);
            return self.collected.learned.moved(record);
        }
        match obstacle {
            Obstacle::TargetBusy => {
                let held_ms = self.collected.learned.start_takes().held_ms;
                self.deciding.placing.busy(&record.process, &record.target, held_ms);
            }
            Obstacle::CannotMove | Obstacle::Other => {
                self.deciding.placing.failed(&record.process, &record.target);
            }
        }
    }
}
