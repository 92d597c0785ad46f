//! What can be tuned, with where each default comes from.

use super::learning::Learning;
use crate::bounds::{self, OutOfBounds};
use crate::scheduler;

/// Of several good nodes, those within 5 % of the best share by chance (MOSIX's initial
/// assignment).
pub const NEAR_BEST_PERCENT: u32 = 5;
/// The home threshold: below one runnable task per CPU every task has a CPU, and nothing is won by
/// moving.
pub const HOME_THRESHOLD_MILLI: u32 = 1_000;

/// The tunables of placement. Percentages are whole percents, milli is thousandths.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A node's own jobs stay while it has fewer runnable tasks per CPU than this, in thousandths.
    /// Default: one per CPU.
    pub home_threshold_milli: u32,
    /// By how much a job away from home is taken to be slowed down, in percent: its files, terminal
    /// and sockets are at home. Ours: 10.
    pub away_percent: u32,
    /// By how many more tasks a node is as full, as it feels, when its memory is exhausted: the
    /// addition under which the opportunity-cost paper's figures come out best. 10.
    pub thrashing_tasks: u32,
    /// Of a node's CPUs, what guests have in any case where owners' programs come first, in
    /// percent: a daemon sets it to what its scheduler owes them
    /// ([`scheduler::Config::guest_share_percent`](crate::scheduler::Config)).
    #[serde(skip)]
    pub guest_share_percent: u32,
    /// The least that a move must gain, in percent of the cost here: less than this is noise of
    /// measured loads. Ours: 5.
    pub least_gain_percent: u32,
    /// The same where a node would be no better if all jobs mattered alike, so that nothing but
    /// ages speaks for the move: how long a job will live is a rough guess, and jobs that are about
    /// as old must not change places for ever. Ours: 30.
    pub least_gain_by_age_percent: u32,
    /// CPU time, in milliseconds, below which jobs count alike. Ours: 1 s, what is shorter is not
    /// worth a thought. A daemon whose scheduler serves little attained service first sets it to
    /// the time up to which that does so, if that is more: what a job with more does costs them no
    /// more than it costs its likes.
    pub young_ms: u64,
    /// A job that asks for less CPU than this, in thousandths of one CPU, stays: moving it relieves
    /// no job and its user may be waiting for its next key. Ours: a quarter of a CPU.
    pub min_demand_milli: u32,
    /// A job stays this long after it was started, in milliseconds: many end at once, and its
    /// demand is not known yet. Ours: 2 s, by when MOSIX's decay (5·old + 3·new)/8 per second has
    /// seen more than half of its demand.
    pub min_age_ms: u64,
    /// How long a target is charged after a job was sent there, in milliseconds, until its load
    /// shows it by itself: the load's own rise (90 % after 5 s with MOSIX's decay) is what counts.
    /// MOSIX: "some seconds".
    pub lease_ms: u64,
    /// How long this node's own load is given to show that a job left, in milliseconds, before the
    /// next is sent. A falling load shows at the next one-second sample; three of them allow for a
    /// late one.
    pub settle_ms: u64,
    /// What is older than this, in milliseconds, says nothing about a node: it is no target. Gossip
    /// of 500 ms steps has a maximal age of 18.5 steps at 64 nodes (Amar et al. 2009).
    pub stale_ms: u64,
    /// How long a job is not offered again to a node where it failed or was refused, in
    /// milliseconds.
    pub retry_ms: u64,
    /// Nodes within this percentage of the best are as good as the best. MOSIX: 5.
    pub near_best_percent: u32,
    /// Free memory that must remain at a target beside the job, in bytes: page tables, the agent,
    /// the next few seconds.
    pub memory_margin_bytes: u64,
    /// Memory ushering starts when free memory falls below this percentage of the node's memory; a
    /// target must stay above it too.
    pub usher_below_percent: u32,
    /// Memory ushering starts as well when all tasks of the node stood still for lack of memory for
    /// this percentage of the last ten seconds (PSI, "full"). systemd-oomd kills at 60; ours is 10,
    /// as programs are to leave before that.
    pub usher_stall_percent: u32,
    /// Whether a job may also go where memory will be exhausted, if that costs less all the same:
    /// for nodes with fast swap. Ours: no.
    pub overcommit: bool,
    /// Jobs smaller than this, in bytes, are not worth ushering: they relieve nothing.
    pub usher_min_bytes: u64,
    /// Moves under way from one node at a time. A user's request does not wait for them.
    pub moves_per_source: u32,
    /// Moves under way to one node at a time. A user's request does not wait for them.
    pub moves_per_target: u32,
    /// The same as long as what is to follow brings less memory than [`Config::start_bytes`]:
    /// programs that start. They keep a node busy for a moment only, and if they had to wait they
    /// would have memory to bring. Ours: 3.
    pub starts_per_target: u32,
    /// Memory, in bytes, from which on a job that moves is no longer one that starts. Ours: 1 MiB,
    /// what a program has before it begins.
    pub start_bytes: u64,
    /// Whether programs that probably need long are placed as they begin, before they have memory
    /// to move; and whether descendants of a job that have needed long become jobs of their own,
    /// which move by themselves. Long is [`Config::min_age_ms`] of CPU time, and
    /// [`Config::move_worth`] times what moves take: as long at home, with all who share its CPUs,
    /// and as much CPU time.
    pub start_elsewhere: bool,
    /// How many times as long as a move, or a start elsewhere, stops it a program must probably run
    /// on where it is, with all who share its CPUs, to be moved for the sake of load; and how many
    /// times the CPU time that the move takes at either end it must probably still need: that much
    /// its node is relieved of. Ours: 2, as moves take longer on a busy node.
    pub move_worth: u32,
    /// The same of a program that shares the CPUs where it is with its own tree only, and would
    /// find none free elsewhere. What it gained its tree would lose, and a user who waits for all
    /// of them gains nothing; but they may be waited for one by one. Ours: 50, so that at most a
    /// fiftieth of the time goes into it.
    pub tree_move_worth: u32,
    /// Nodes that are compared in one decision; of more, as many at random, and the jobs' homes.
    /// Bounds the time of a decision in large clusters: the best of 64 at random is among the best
    /// 5 % of all with a probability of 96 %.
    pub surveyed_nodes: usize,
    /// Nodes that a decision's reasons name; the rest is counted. Bounds the reasons in large
    /// clusters.
    pub listed_nodes: usize,
    /// How it learns what moves take and programs need.
    pub learning: Learning,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            home_threshold_milli: HOME_THRESHOLD_MILLI,
            away_percent: 10,
            thrashing_tasks: 10,
            guest_share_percent: scheduler::Config::default().guest_share_percent,
            least_gain_percent: 5,
            least_gain_by_age_percent: 30,
            young_ms: 1_000,
            min_demand_milli: 250,
            min_age_ms: 2_000,
            lease_ms: 5_000,
            settle_ms: 3_000,
            stale_ms: 10_000,
            retry_ms: 60_000,
            near_best_percent: NEAR_BEST_PERCENT,
            memory_margin_bytes: 64 << 20,
            usher_below_percent: 5,
            usher_stall_percent: 10,
            overcommit: false,
            usher_min_bytes: 16 << 20,
            moves_per_source: 1,
            moves_per_target: 1,
            starts_per_target: 3,
            start_bytes: 1 << 20,
            start_elsewhere: true,
            move_worth: 2,
            tree_move_worth: 50,
            surveyed_nodes: 64,
            listed_nodes: 8,
            learning: Learning::default(),
        }
    }
}

impl Config {
    /// For nodes that our scheduler serves.
    #[must_use]
    pub fn under(self, scheduler: &scheduler::Config) -> Self {
        let young_ms = self.young_ms.max(scheduler.alike_from_ms());
        Self { young_ms, guest_share_percent: scheduler.guest_share_percent, ..self }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first setting that is out of bounds, with its bounds.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        const HOUR_MS: u64 = 3_600_000;
        let settings = [
            ("home_threshold_milli", u64::from(self.home_threshold_milli), 0, 1_000_000),
            ("away_percent", u64::from(self.away_percent), 0, 1_000),
            ("thrashing_tasks", u64::from(self.thrashing_tasks), 0, 1_000),
            ("least_gain_percent", u64::from(self.least_gain_percent), 0, 100),
            ("least_gain_by_age_percent", u64::from(self.least_gain_by_age_percent), 0, 100),
            ("young_ms", self.young_ms, 1, HOUR_MS),
            ("min_demand_milli", u64::from(self.min_demand_milli), 1, 1_000_000),
            ("min_age_ms", self.min_age_ms, 0, HOUR_MS),
            ("lease_ms", self.lease_ms, self.settle_ms.max(1), HOUR_MS),
            ("settle_ms", self.settle_ms, 0, HOUR_MS),
            ("stale_ms", self.stale_ms, 1, HOUR_MS),
            ("retry_ms", self.retry_ms, 0, HOUR_MS),
            ("near_best_percent", u64::from(self.near_best_percent), 0, 100),
            ("usher_below_percent", u64::from(self.usher_below_percent), 0, 50),
            ("usher_stall_percent", u64::from(self.usher_stall_percent), 1, 100),
            ("move_worth", u64::from(self.move_worth), 0, 1_000),
            ("tree_move_worth", u64::from(self.tree_move_worth), 0, 1_000_000),
            ("moves_per_source", u64::from(self.moves_per_source), 1, 64),
            ("moves_per_target", u64::from(self.moves_per_target), 1, 64),
            ("starts_per_target", u64::from(self.starts_per_target), 1, 64),
            ("surveyed_nodes", u64::try_from(self.surveyed_nodes).unwrap_or(u64::MAX), 2, 4_096),
            ("listed_nodes", u64::try_from(self.listed_nodes).unwrap_or(u64::MAX), 1, 64),
        ];
        bounds::check("placement", settings)?;
        self.learning.validate()
    }
}

/// Whether a move, or a start elsewhere, that takes so much time is worth its while if the program
/// would run for so long where it is, both in the same unit; `worth` is [`Config::move_worth`] or
/// [`Config::tree_move_worth`].
pub(super) fn is_worth(worth: u32, takes: f64, lasts: f64) -> bool {
    takes * f64::from(worth) <= lasts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_valid_and_bounds_hold() {
        assert_eq!(Config::default().validate(), Ok(()));
        let no_lease = Config { lease_ms: 1_000, ..Config::default() };
        let error = no_lease.validate().unwrap_err().to_string();
        assert_eq!(error, "placement: lease_ms is 1000; set it between 3000 and 3600000");
        let zero_moves = Config { moves_per_source: 0, ..Config::default() };
        assert!(zero_moves.validate().is_err());
    }
}
