//! The nodes that one job may go to, compared, and the choice among them.

use super::config::Config;
use super::cost::{self, Margin};
use super::decision::Cause;
use super::eligible;
use super::input::{Input, JobView, NodeName, NodeView};
use super::reason::{Comparison, Reason};
use super::state::State;

/// What is known about a job's possible targets.
pub(super) struct Candidates {
    /// Nodes that it may go to, the best first.
    pub(super) open: Vec<Comparison>,
    /// Nodes that it may not go to, each with the reason.
    closed: Vec<Reason>,
}

/// What one survey of the nodes goes by.
pub(super) struct Survey<'a> {
    pub(super) input: &'a Input,
    pub(super) config: &'a Config,
    pub(super) state: &'a State,
    pub(super) here: &'a NodeView,
    /// What jobs meet here, as [`cost::here`] has it.
    pub(super) here_cost: f64,
    pub(super) cause: Cause,
    pub(super) margin: Margin,
}

impl Survey<'_> {
    /// Compares every node but this one; `only` restricts it to one node.
    pub(super) fn nodes(&self, job: &JobView, only: Option<&str>) -> Candidates {
        let mut open = Vec::new();
        let mut closed = Vec::new();
        for node in &self.input.nodes {
            if node.name == self.here.name || only.is_some_and(|only| *only != *node.name) {
                continue;
            }
            match eligible::check(node, job, self.cause, self.input, self.config, self.state) {
                Err(why) => closed.push(Reason::Excluded { node: node.name.clone(), why }),
                Ok(()) => {
                    let charged = self.state.charged_load(node, &job.id);
                    open.push(cost::compare(job, self.here, node, charged, self.here_cost, self.margin, self.config));
                }
            }
        }
        // By name where costs are equal, so that the order of the input does not matter.
        open.sort_by(|a, b| a.total.total_cmp(&b.total).then_with(|| a.node.cmp(&b.node)));
        Candidates { open, closed }
    }
}

impl Candidates {
    /// Keeps only what is better than staying, and says whether anything is left.
    pub(super) fn better(&self) -> &[Comparison] {
        let count = self.open.partition_point(Comparison::better);
        &self.open[..count]
    }

    /// The figures as reasons, the best nodes first, at most [`Config::listed_nodes`].
    pub(super) fn reasons(self, config: &Config) -> Vec<Reason> {
        let count = self.open.len() + self.closed.len();
        let mut reasons: Vec<Reason> =
            self.open.into_iter().map(Reason::Compared).chain(self.closed).take(config.listed_nodes).collect();
        if count > reasons.len() {
            reasons.push(Reason::MoreNodes { count: count - reasons.len() });
        }
        reasons
    }
}

/// One of `good` (the best first) that is within [`Config::near_best_percent`] of the best, at random; with the number of those.
pub(super) fn choose(good: &[Comparison], config: &Config, seed: u64, job: &str) -> Option<(NodeName, usize)> {
    let limit = good.first()?.total * (1.0 + f64::from(config.near_best_percent) / 100.0);
    let among = good.iter().take_while(|comparison| comparison.total <= limit).count().max(1);
    let pick = usize::try_from(mix(seed, job) % among as u64).unwrap_or(0);
    good.get(pick).map(|comparison| (comparison.node.clone(), among))
}

/// A number that depends on every bit of the seed and the job's name: FNV-1a, then the finaliser of SplitMix64. Written out, so that a seed
/// means the same in every version of every library.
fn mix(seed: u64, job: &str) -> u64 {
    let hash = job
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut z = seed.wrapping_add(hash).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
