//! Placement: which job should run where, and why.
//!
//! Everything here is pure: no clock, no I/O, no randomness but the caller's seed. The daemon (or a
//! simulator) converts what it knows into an [`Input`], calls [`Placement`], and carries out the
//! [`Decision`]s. The same input, state and seed give the same decisions.
//!
//! ```text
//!   load update, each second      decide ──┐                        ┌── Move{target, cause} ──> migration
//!   a job was started             assign ──┼─> guards ─> compare ───┤
//!   `migrate PID NODE|home|best`  request ─┘    │           │       └── Stay
//!                                               └─ reasons ─┴──────────> `why PID`, ListProcesses
//!   a source asks to send a job   admit  ────> accepting? memory? busy?  ─> Ok | one Reason
//!   `why PID`                     explain ───> the figures behind a decision
//! ```
//!
//! A job goes where it adds least to the slowdown that all jobs of the cluster collect, its move
//! counted ([`slowdown`], [`cost`]).
//!
//! 1. A job that may not be where it is, as its node is being drained of guests or its user does
//!    not allow it, goes to the best node that takes it.
//! 2. Jobs that cannot move, are pinned, too new to be known, or ask for next to no CPU, stay.
//! 3. While a node has fewer runnable tasks than CPUs (the *home threshold*), its own jobs stay;
//!    its guests may go home only.
//! 4. A job may go to a node that is alive, freshly heard of, accepting, able and roomy, if it
//!    costs less there: its own slowdown, the others', that of being away from home, and that of
//!    standing still while it is moved, against the time that it will probably live; and if that
//!    has been so for as long as the move would stop it.
//! 5. Of several jobs the one goes whose move gains most for each second that it takes; of several
//!    nodes within 5 % of the best, one at random. One move at a time leaves a node.
//! 6. The target is charged with the job at once, for a *lease*, so that the next choice sees it
//!    before the load does; and the target itself *admits* one arrival at a time, or a few that
//!    start, and only what still costs less there by its own figures, so that many sources do not
//!    stampede.
//! 7. A node whose memory will be exhausted before its largest job could have left costs as if ten
//!    more tasks ran there. If no cost is lower elsewhere even so, the job goes that frees most of
//!    what is missing, to any node with room.
//! 8. A program that begins is placed at once if those like it needed enough CPU time before
//!    ([`History`]): it has no memory yet.
//!
//! The seam for other policies is [`Placement`]'s methods with [`Input`] and [`Decision`];
//! `balance`, `cost`, `slowdown` and `eligible` are the policy.

#![forbid(unsafe_code)]

mod balance;
mod candidates;
mod config;
pub mod cost;
mod decision;
mod eligible;
mod history;
mod input;
mod learning;
mod reason;
mod request;
pub mod slowdown;
mod state;
mod tiers;
mod times;
mod units;
mod wanting;
mod work;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use decision::{Action, Cause, Decision};
pub use history::{History, Program, Prospect, StartTakes};
pub use input::{InFlight, Input, JobView, NodeName, NodeView, Owners};
pub use learning::Learning;
pub use reason::{Comparison, Exclusion, Reason, Shortage};
pub use request::Wish;
pub use state::Lease;
pub use times::MoveTimes;
pub use work::MoveWork;

use state::State;
use wanting::Wanting;

use crate::{bounds::OutOfBounds, job::JobId};

/// The placement of one node: its configuration and what it must remember between decisions
/// (leases, failures, who wants to leave).
#[derive(Debug, Clone)]
pub struct Placement {
    config: Config,
    state: State,
    wanting: Wanting,
}

impl Placement {
    /// A placement with nothing remembered.
    ///
    /// # Errors
    /// A configuration that is out of bounds.
    pub fn new(config: Config) -> Result<Self, OutOfBounds> {
        config.validate()?;
        Ok(Self { config, state: State::default(), wanting: Wanting::default() })
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Decides for every job of `input` that runs here, once per local load update. The decisions
    /// come in the order of `input.jobs`, one for each; at most [`Config::moves_per_source`] moves
    /// are under way at once. Each chosen target is charged. The figures of the nodes that were
    /// compared are among the reasons of moves only; [`Placement::explain`] has the others.
    pub fn decide(&mut self, input: &Input, seed: u64) -> Vec<Decision> {
        self.state.refresh(input, &self.config);
        balance::decide(input, &self.config, &mut self.state, &mut self.wanting, seed)
    }

    /// All reasons of a `decision` that came of [`Placement::decide`], called with the same input
    /// and seed upon a clone of `self`: with the figures of all nodes that were compared, whatever
    /// was decided.
    #[must_use]
    pub fn explain(&self, input: &Input, decision: &Decision, seed: u64) -> Vec<Reason> {
        let mut state = self.state.clone();
        state.refresh(input, &self.config);
        balance::explain(input, &self.config, &state, decision, seed)
    }

    /// What is worth doing about a program of which so much CPU time is expected, in milliseconds,
    /// where so many tasks share each CPU here: it is long if it takes longer here than its start
    /// elsewhere, and more CPU time, as often as [`Config::move_worth`] says.
    #[must_use]
    pub fn prospect(&self, expected_ms: Option<u64>, start: StartTakes, tasks_per_cpu: f64) -> Prospect {
        let Config { start_elsewhere, min_age_ms, move_worth, .. } = self.config;
        let lasts = |ms: u64| ms as f64 * tasks_per_cpu.max(1.0);
        let is_worth = |takes_ms: u64, lasts_ms: f64| config::is_worth(move_worth, takes_ms as f64, lasts_ms);
        let is_long =
            |ms: &u64| *ms >= min_age_ms && is_worth(start.held_ms, lasts(*ms)) && is_worth(start.work_ms, *ms as f64);
        expected_ms.filter(|_| start_elsewhere).filter(is_long).map_or(Prospect::Short, Prospect::Long)
    }

    /// Initial assignment: where `job`, just started here and with its demand yet unknown, should
    /// run: here while there is a CPU free, else at random among the nodes within 5 % of the best.
    /// `job` counts as one runnable task if it shows less. If it is known how much CPU time it will
    /// probably need, in milliseconds, the time for which its start elsewhere holds it up
    /// ([`NodeView::freeze_ms`] of `input`) is weighed against that. The chosen node, also this
    /// one, is charged.
    pub fn assign(&mut self, input: &Input, job: &JobView, expected_ms: Option<u64>, seed: u64) -> Decision {
        self.state.refresh(input, &self.config);
        request::assign(input, &self.config, &mut self.state, job, expected_ms, seed)
    }

    /// A user's wish for one job that runs here. It overrides thresholds, hysteresis, residency and
    /// the limit of one move at a time, but not facts: the job must be movable and the target
    /// alive, able, allowed, accepting and roomy. A refusal is [`Action::Stay`] with the reason.
    pub fn request(&mut self, input: &Input, job: &JobId, wish: &Wish, seed: u64) -> Decision {
        self.state.refresh(input, &self.config);
        request::request(input, &self.config, &mut self.state, job, wish, seed)
    }

    /// The target's side: may `job` come here now? If so its memory and load are charged to this
    /// node until it shows, or until [`Placement::failed`] or [`Placement::released`] is called.
    /// `limit_milli` is that of the source's [`Decision`].
    ///
    /// # Errors
    /// The one reason against it, for the source to show.
    pub fn admit(
        &mut self,
        input: &Input,
        job: &JobView,
        cause: Cause,
        limit_milli: Option<u32>,
    ) -> Result<(), Reason> {
        self.state.refresh(input, &self.config);
        request::admit(input, &self.config, &mut self.state, job, cause, limit_milli)
    }

    /// A move that was decided or admitted came to nothing: its charge ends, and the pair is left
    /// alone for [`Config::retry_ms`].
    pub fn failed(&mut self, job: &JobId, target: &str, now_ms: u64) {
        self.state.failed(job, target, now_ms, self.config.retry_ms);
    }

    /// The target of a move that was decided refused admission: its charge ends, and no job is
    /// offered to the target for as long as a move takes, in milliseconds, or [`Config::settle_ms`]
    /// if that is longer: by then it has room for another move, and its load shows what it has
    /// taken.
    pub fn busy(&mut self, job: &JobId, target: &str, now_ms: u64, takes_ms: u64) {
        self.state.busy(job, target, now_ms, self.config.settle_ms.max(takes_ms));
    }

    /// A decided or admitted move was not begun after all (say, the target was busy): its charge
    /// ends, nothing is held against the target.
    pub fn released(&mut self, job: &JobId, target: &str) {
        self.state.released(job, target);
    }

    /// The charges in force: what was sent somewhere but may not show in that node's load yet.
    #[must_use]
    pub fn leases(&self) -> &[Lease] {
        self.state.leases()
    }
}
