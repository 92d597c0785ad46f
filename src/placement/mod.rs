//! Placement: which job should run where, and why.
//!
//! Everything here is pure: no clock, no I/O, no randomness but the caller's seed. The daemon (or a simulator) converts what it
//! knows into an [`Input`], calls [`Placement`], and carries out the [`Decision`]s. The same input, state and seed give the same
//! decisions.
//!
//! ```text
//!   load update, each second      decide ──┐                        ┌── Move{target, cause} ──> migration
//!   a job was started             assign ──┼─> guards ─> compare ───┤
//!   `migrate PID NODE|home|best`  request ─┘    │           │       └── Stay
//!                                               └─ reasons ─┴──────────> `why PID`, ListProcesses
//!   a source asks to send a job   admit  ────> accepting? memory? busy?  ─> Ok | one Reason
//! ```
//!
//! The algorithm is MOSIX's. A node's *load* is its runnable tasks, divided by its CPUs and by their speed relative to a standard
//! CPU. What a job would meet at a node is the node's **cost**: the load there with the job in it, but never less than a CPU
//! of its own gives ([`cost`]).
//!
//! 1. Jobs that cannot move, are pinned, too young, just arrived, or ask for next to no CPU, stay.
//! 2. While a node has fewer runnable tasks than CPUs (the *home threshold*), its own jobs stay; its guests may go home only.
//! 3. A job may go to a node that is alive, freshly heard of, accepting, able and roomy, if the cost there plus 30 % of the job's own
//!    load (the hysteresis, MOSIX's "130 % of the process"; at least 5 % of the cost here) is below the cost here. Home needs no such margin and gets a bonus.
//!    As the bonus is smaller than the margin, two nodes never play ping-pong with a job, whatever their sizes and speeds.
//! 4. Of several jobs that may go, the one with the second-highest demand goes (else the highest), older ones first; of several nodes
//!    within 5 % of the best, one at random. One move at a time leaves a node.
//! 5. The target is charged with the job at once, for a *lease*, so that the next choice sees it before the load does; and the
//!    target itself *admits* one arrival at a time, so that many sources do not stampede.
//! 6. A node short of memory first ushers out the smallest job that cures it, to any node with room, even if loads become less even.
//!
//! The seam for other policies is [`Placement`]'s methods with [`Input`] and [`Decision`]; `balance`, `cost` and `eligible` are the policy.

mod balance;
mod candidates;
mod config;
pub mod cost;
mod decision;
mod eligible;
mod input;
mod reason;
mod request;
pub mod slowdown;
mod state;
mod units;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use config::{Config, ConfigError};
pub use decision::{Action, Cause, Decision};
pub use input::{InFlight, Input, JobId, JobView, NodeName, NodeView};
pub use reason::{Comparison, Exclusion, MarginKind, Reason};
pub use request::Wish;
pub use state::Lease;

use state::State;

/// The placement of one node: its configuration and what it must remember between decisions (leases, failures).
#[derive(Debug, Clone)]
pub struct Placement {
    config: Config,
    state: State,
}

impl Placement {
    /// A placement with nothing remembered.
    ///
    /// # Errors
    /// A configuration that is out of bounds or would let jobs go to and fro for ever.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config, state: State::default() })
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Decides for every job of `input` that runs here, once per local load update. The decisions come in the order of `input.jobs`,
    /// one for each; at most [`Config::moves_per_source`] moves are under way at once. Each chosen target is charged.
    pub fn decide(&mut self, input: &Input, seed: u64) -> Vec<Decision> {
        self.state.refresh(input, &self.config);
        balance::decide(input, &self.config, &mut self.state, seed)
    }

    /// Initial assignment: where `job`, just started here and with its demand yet unknown, should run: here while there is a CPU
    /// free, else at random among the nodes within 5 % of the best. `job` counts as one runnable task if it shows less.
    /// The chosen node, also this one, is charged.
    pub fn assign(&mut self, input: &Input, job: &JobView, seed: u64) -> Decision {
        self.state.refresh(input, &self.config);
        request::assign(input, &self.config, &mut self.state, job, seed)
    }

    /// A user's wish for one job that runs here. It overrides thresholds, hysteresis, residency and the limit of one move at a time,
    /// but not facts: the job must be movable and the target alive, fresh, able, allowed, accepting and roomy.
    /// A refusal is [`Action::Stay`] with the reason.
    pub fn request(&mut self, input: &Input, job: &str, wish: &Wish, seed: u64) -> Decision {
        self.state.refresh(input, &self.config);
        request::request(input, &self.config, &mut self.state, job, wish, seed)
    }

    /// The target's side: may `job` come here now? If so its memory and load are charged to this node until it shows, or
    /// until [`Placement::failed`] or [`Placement::released`] is called.
    ///
    /// # Errors
    /// The one reason against it, for the source to show.
    pub fn admit(&mut self, input: &Input, job: &JobView, cause: Cause) -> Result<(), Reason> {
        self.state.refresh(input, &self.config);
        request::admit(input, &self.config, &mut self.state, job, cause)
    }

    /// A move that was decided or admitted came to nothing: its charge ends, and the pair is left alone for [`Config::retry_ms`].
    pub fn failed(&mut self, job: &str, target: &str, now_ms: u64) {
        self.state.failed(job, target, now_ms);
    }

    /// A decided or admitted move was not begun after all (say, the target was busy): its charge ends, nothing is held against the target.
    pub fn released(&mut self, job: &str, target: &str) {
        self.state.released(job, target);
    }

    /// The charges in force: what was sent somewhere but may not show in that node's load yet.
    #[must_use]
    pub fn leases(&self) -> &[Lease] {
        self.state.leases()
    }
}
