//! The nodes that jobs may go to, compared, and the choice among them.

use super::config::Config;
use super::cost::{self, Scales};
use super::decision::Cause;
use super::eligible;
use super::input::{Input, JobView, NodeName, NodeView};
use super::reason::{Exclusion, Reason};
use super::slowdown::Occupancy;
use super::state::State;

/// A node that is compared.
struct Known<'a> {
    node: &'a NodeView,
    occupancy: Occupancy,
    charged_bytes: u64,
    /// Whether it takes jobs from here at all.
    open: Result<(), Exclusion>,
}

/// The nodes that are compared in one decision, in the order of their names.
pub(super) struct Survey<'a> {
    input: &'a Input,
    config: &'a Config,
    state: &'a State,
    cause: Cause,
    seed: u64,
    known: Vec<Known<'a>>,
    /// Nodes that are not compared.
    unseen: usize,
}

/// A node where a job could go.
#[derive(Clone, Copy)]
struct Offer {
    known: usize,
    total: f64,
}

/// What was found for one job.
pub(super) struct Found {
    /// The figures, the best nodes first, then the nodes that are no targets; at most [`Config::listed_nodes`].
    pub(super) reasons: Vec<Reason>,
    /// Where it would go.
    pub(super) choice: Option<Choice>,
    /// Whether any node would take it.
    pub(super) any_open: bool,
}

/// The node that was chosen for a job.
#[derive(Clone)]
pub(super) struct Choice {
    pub(super) node: NodeName,
    /// The number of nodes that are about equally good.
    pub(super) among: usize,
    /// What is gained by each second that the move takes.
    pub(super) gain_per_s: f64,
    /// See [`Decision`](super::Decision).
    pub(super) limit_milli: Option<u32>,
}

impl<'a> Survey<'a> {
    /// Looks at all nodes but this one, or at [`Config::surveyed_nodes`] of them, by chance, and the homes of the jobs here.
    pub(super) fn new(input: &'a Input, config: &'a Config, state: &'a State, cause: Cause, seed: u64) -> Self {
        let look = |node: &'a NodeView| Known {
            node,
            occupancy: cost::occupancy(node, config, state),
            charged_bytes: state.charged_bytes(&node.name),
            open: eligible::node(node, cause, input, config, state),
        };
        let others = || input.nodes.iter().filter(|node| node.name != input.here);
        let mut known: Vec<Known> = if others().count() <= config.surveyed_nodes {
            others().map(look).collect()
        } else {
            let is_home = |node: &NodeView| input.jobs.iter().any(|job| job.is_guest() && job.home == node.name);
            let mut by_chance: Vec<&NodeView> =
                others().filter(|node| eligible::node(node, cause, input, config, state).is_ok()).collect();
            let count = config.surveyed_nodes.min(by_chance.len());
            for index in 0..count {
                let pick = index + bounded(mix(seed, index as u64), by_chance.len() - index);
                by_chance.swap(index, pick);
            }
            let (chosen, rest) = by_chance.split_at(count);
            let has_guests = input.jobs.iter().any(JobView::is_guest);
            let homes = rest.iter().filter(|node| has_guests && is_home(node));
            chosen.iter().chain(homes).map(|node| look(node)).collect()
        };
        known.sort_unstable_by(|a, b| a.node.name.cmp(&b.node.name));
        Self { input, config, state, cause, seed, unseen: input.nodes.len() - 1 - known.len(), known }
    }

    /// The nodes that take jobs from here.
    pub(super) fn targets(&self) -> impl Iterator<Item = &'a NodeView> {
        self.known.iter().filter(|known| known.open.is_ok()).map(|known| known.node)
    }

    /// Compares the nodes for a job; `only` restricts them to one. With `any` the best is chosen even if it costs more than here.
    pub(super) fn find(&self, scales: &Scales, only: Option<&str>, any: bool) -> Found {
        let mut offers = Vec::with_capacity(self.known.len());
        let mut closed = Vec::new();
        let listed = self.config.listed_nodes;
        let mut count = 0;
        for (index, known) in self.known.iter().enumerate() {
            if only.is_some_and(|only| *only != *known.node.name) {
                continue;
            }
            count += 1;
            match self.check(known, scales.job) {
                Ok(()) => offers.push(Offer { known: index, total: scales.there(known.node, &known.occupancy) }),
                Err(why) if closed.len() < listed => {
                    closed.push(Reason::Excluded { node: known.node.name.clone(), why });
                }
                Err(_) => {}
            }
        }
        let choice = self.choose(&offers, any, scales);
        let any_open = !offers.is_empty();
        let best_first = |a: &Offer, b: &Offer| a.total.total_cmp(&b.total).then(a.known.cmp(&b.known));
        if offers.len() > listed {
            offers.select_nth_unstable_by(listed, best_first);
            offers.truncate(listed);
        }
        offers.sort_unstable_by(best_first);
        let compared = offers.iter().map(|offer| &self.known[offer.known]);
        let compared = compared.map(|known| Reason::Compared(scales.comparison(known.node, &known.occupancy)));
        let mut reasons: Vec<Reason> = compared.chain(closed).take(listed).collect();
        if only.is_none() {
            count += self.unseen;
        }
        if count > reasons.len() {
            reasons.push(Reason::MoreNodes { count: count - reasons.len() });
        }
        Found { reasons, choice, any_open }
    }

    fn check(&self, known: &Known, job: &JobView) -> Result<(), Exclusion> {
        known.open.clone()?;
        eligible::job(job, known.node, known.charged_bytes, self.cause, self.input, self.config, self.state)
    }

    /// One of the offers that are better than here, or of any, that is within [`Config::near_best_percent`] of the best, at random.
    fn choose(&self, offers: &[Offer], any: bool, scales: &Scales) -> Option<Choice> {
        let good = || offers.iter().filter(|offer| any || offer.total < scales.here);
        let best = good().map(|offer| offer.total).min_by(f64::total_cmp)?;
        // Away from the best by a share of its size; a cost may be below 0 where memory is relieved.
        let near = best + best.abs() * f64::from(self.config.near_best_percent) / 100.0;
        let among = good().filter(|offer| offer.total <= near).count();
        let pick = bounded(mix(self.seed, hash(&scales.job.id)), among);
        let offer = good().filter(|offer| offer.total <= near).nth(pick)?;
        let Known { node, occupancy, .. } = &self.known[offer.known];
        Some(Choice {
            node: node.name.clone(),
            among,
            gain_per_s: scales.gain_per_s(node, offer.total),
            limit_milli: (!any).then(|| (scales.limit(node, occupancy) * 1_000.0).ceil() as u32),
        })
    }
}

/// A number below `bound` from a random one; 0 if `bound` is 0.
fn bounded(random: u64, bound: usize) -> usize {
    usize::try_from((u128::from(random) * bound as u128) >> 64).unwrap_or(0)
}

/// FNV-1a. Written out, so that a seed means the same in every version of every library.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A number that depends on every bit of both: the finaliser of SplitMix64.
fn mix(seed: u64, value: u64) -> u64 {
    let mut z = seed.wrapping_add(value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
