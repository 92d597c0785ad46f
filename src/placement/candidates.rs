//! The nodes that jobs may go to, compared, and the choice among them.

use std::collections::HashMap;

use super::config::Config;
use super::cost::{CostModel, Place};
use super::decision::Cause;
use super::eligible::{self, Room};
use super::input::{Input, JobView, NodeName, NodeView};
use super::reason::{Exclusion, Reason};
use super::state::State;
use crate::job::JobId;

/// A node that is compared.
struct Known<'a> {
    node: &'a NodeView,
    place: Place,
    room: Room,
    /// Whether it takes jobs from here at all.
    open: Result<(), Exclusion>,
}

/// The nodes that are compared in one decision.
pub(super) struct Survey<'a> {
    input: &'a Input,
    config: &'a Config,
    state: &'a State,
    cause: Cause,
    seed: u64,
    /// Those that all jobs compare, the emptiest first, then those that only some do: their homes,
    /// and what their users named.
    known: Vec<Known<'a>>,
    /// How many all jobs compare.
    common: usize,
    /// Where those are that must be among them.
    named: HashMap<&'a str, usize>,
}

/// The nodes that one job compares.
struct Compared {
    home: Option<usize>,
    /// Its own.
    own: Vec<usize>,
    /// How many all jobs compare.
    common: usize,
}

impl Compared {
    /// Those of all jobs that are not its own, the emptiest first.
    fn others(&self) -> impl Iterator<Item = usize> {
        (0..self.common).filter(|index| Some(*index) != self.home)
    }
}

/// A node where a job could go.
#[derive(Clone, Copy)]
struct Offer {
    index: usize,
    is_home: bool,
    total: f64,
}

/// What the nodes that were looked at so far offer to one job.
struct Offers {
    /// Those that are about as good as the best before them.
    near_best: Vec<Offer>,
    /// What costs more than this is not chosen.
    bound: f64,
    /// Whether any node would take it.
    is_open: bool,
}

/// What came of a look at one node.
#[derive(PartialEq, Eq)]
enum Weighed {
    /// It was looked at.
    Done,
    /// It costs too much whatever the job adds to it.
    Dear,
}

/// The node that was chosen for a job.
#[derive(Clone)]
pub(super) struct Choice {
    pub(super) node: NodeName,
    /// The number of nodes that are about equally good.
    pub(super) among: usize,
    /// What is gained by each second that the move takes; where memory is short, what is relieved.
    pub(super) gain: f64,
    /// How long the move would probably stop the job, in milliseconds.
    pub(super) downtime_ms: u64,
    /// See [`Decision`](super::Decision).
    pub(super) limit_milli: Option<u32>,
}

/// What came of a comparison.
pub(super) enum Found {
    /// A place to go.
    Choice(Choice),
    /// Nodes that would take the job, none of them better.
    NothingBetter,
    /// No node would take it.
    NoTarget,
}

impl<'a> Survey<'a> {
    /// Looks at all nodes but this one, or at [`Config::surveyed_nodes`] of them, by chance, and
    /// those that `must` be among them. The one that a user `named` counts however old what is
    /// known of it is.
    pub(super) fn new(
        input: &'a Input,
        must: impl Iterator<Item = &'a str>,
        named: Option<&'a NodeName>,
        config: &'a Config,
        state: &'a State,
        cause: Cause,
        seed: u64,
    ) -> Self {
        let look = |node: &'a NodeView| {
            let room = Room::new(node, input, config, state);
            let is_named = named == Some(&node.name);
            let open = eligible::node(node, &room, is_named, cause, input, config, state);
            Known { node, place: Place::new(node, config, state), room, open }
        };
        let mut known = Vec::with_capacity(config.surveyed_nodes.min(input.nodes.len()));
        if input.nodes.len() <= config.surveyed_nodes + 1 {
            let others = input.nodes.iter().filter(|node| node.name != input.here);
            known.extend(others.map(look));
        } else {
            let mut order: Vec<usize> = (0..input.nodes.len()).collect();
            for index in 0..order.len() {
                let pick = index + bounded(mix(seed, index as u64), order.len() - index);
                order.swap(index, pick);
                let one = look(&input.nodes[order[index]]);
                if one.node.name != input.here && one.open.is_ok() {
                    known.push(one);
                    if known.len() == config.surveyed_nodes {
                        break;
                    }
                }
            }
        }
        let emptier = |a: &Known, b: &Known| a.place.stretch(false).total_cmp(&b.place.stretch(false));
        known.sort_unstable_by(|a, b| emptier(a, b).then_with(|| a.node.name.cmp(&b.node.name)));
        let common = known.len();
        let must = must.chain(named.map(|name| &**name)).filter(|name| **name != *input.here);
        let mut named: HashMap<&str, usize> = must.map(|name| (name, usize::MAX)).collect();
        for (index, known) in known.iter().enumerate() {
            named.entry(&known.node.name).and_modify(|at| *at = index);
        }
        let mut missing = named.values().filter(|index| **index == usize::MAX).count();
        for node in &input.nodes {
            if missing == 0 {
                break;
            }
            if let Some(at) = named.get_mut(&*node.name).filter(|index| **index == usize::MAX) {
                *at = known.len();
                known.push(look(node));
                missing -= 1;
            }
        }
        Self { input, config, state, cause, seed, known, common, named }
    }

    /// Where a node is that must be among them, if it is known.
    fn index_of(&self, name: &str) -> Option<usize> {
        self.named.get(name).copied().filter(|index| *index < self.known.len())
    }

    /// How long each byte takes between here and the home of a job that is among the nodes
    /// compared, in seconds, as this node has measured or as was estimated when it was sent here,
    /// whichever is less; 0 at home, and if nothing is known of that.
    pub(super) fn home_s_per_byte(&self, job: &JobView) -> f64 {
        let known = self.index_of(job.home()).and_then(|index| self.known.get(index));
        let estimated = job.record.history.home_link_bytes_per_s.map_or(f64::INFINITY, |rate| 1.0 / rate.max(1) as f64);
        known.filter(|_| job.is_guest()).map_or(0.0, |known| known.place.s_per_byte().min(estimated))
    }

    /// The nodes that take jobs from here.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Place> {
        self.known.iter().filter(|known| known.open.is_ok()).map(|known| &known.place)
    }

    /// The nodes that a job compares: its own, which are its home and what its user named, and
    /// those that all do; `only` restricts them to one, which must be among them.
    fn compared(&self, job: &JobView, only: Option<&str>) -> Compared {
        let home = self.index_of(job.home());
        if let Some(name) = only {
            return Compared { home, own: Vec::from_iter(self.index_of(name)), common: 0 };
        }
        // Few have any.
        let allowed = job.named_nodes().filter_map(|name| self.index_of(name));
        let allowed = allowed.filter(|at| *at >= self.common && Some(*at) != home);
        Compared { home, own: home.into_iter().chain(allowed).collect(), common: self.common }
    }

    fn check(&self, known: &Known, job: &JobView) -> Result<(), Exclusion> {
        if let Err(why) = &known.open {
            return Err(why.clone());
        }
        eligible::job(job, known.node, &known.room, self.cause, self.input, self.config, self.state)
    }

    /// Compares the nodes for a job; `only` restricts them to one. With `any` the best is chosen
    /// even if it costs more than here.
    pub(super) fn find(&self, model: &CostModel, only: Option<&str>, any: bool) -> Found {
        let bound = if any { f64::INFINITY } else { model.here };
        let mut offers = Offers { near_best: Vec::new(), bound, is_open: false };
        let compared = self.compared(model.job, only);
        for index in &compared.own {
            self.weigh(*index, Some(*index) == compared.home, any, model, &mut offers);
        }
        for index in compared.others() {
            // They come by what the least of their costs is, the lowest first.
            if self.weigh(index, false, any, model, &mut offers) == Weighed::Dear {
                break;
            }
        }
        match self.choose(&offers, any, model) {
            Some(choice) => Found::Choice(choice),
            None if offers.is_open => Found::NothingBetter,
            None => Found::NoTarget,
        }
    }

    /// Adds what a node offers to the others, if it is about as good as the best of them.
    fn weigh(&self, index: usize, is_home: bool, any: bool, model: &CostModel, offers: &mut Offers) -> Weighed {
        let Some(known) = self.known.get(index) else { return Weighed::Done };
        let is_dear = model.least(&known.place, is_home) > offers.bound;
        if !(is_dear && offers.is_open) {
            if self.check(known, model.job).is_err() {
                return Weighed::Done;
            }
            offers.is_open = true;
        }
        if is_dear {
            return Weighed::Dear;
        }
        let total = model.there(&known.place, is_home).total();
        let is_better = any || (total < model.here && model.is_worth(&known.place, is_home, self.config).is_ok());
        if is_better && total <= offers.bound {
            offers.bound = offers.bound.min(self.near(total));
            offers.near_best.push(Offer { index, is_home, total });
        }
        Weighed::Done
    }

    /// The figures of that comparison, the best nodes first, then the nodes that are no targets; at
    /// most [`Config::listed_nodes`].
    pub(super) fn list(&self, model: &CostModel, only: Option<&str>) -> Vec<Reason> {
        let (mut offers, mut closed) = (Vec::new(), Vec::new());
        let compared = self.compared(model.job, only);
        for index in compared.own.iter().copied().chain(compared.others()) {
            let (Some(known), is_home) = (self.known.get(index), Some(index) == compared.home) else { continue };
            match self.check(known, model.job).and_then(|()| model.is_worth(&known.place, is_home, self.config)) {
                Ok(()) => offers.push(model.comparison(known.node, &known.place, is_home)),
                Err(why) => closed.push(Reason::Excluded { node: known.node.name.clone(), why }),
            }
        }
        offers.sort_by(|a, b| a.total.total_cmp(&b.total));
        let all = offers.into_iter().map(Reason::Compared).chain(closed);
        let mut reasons: Vec<Reason> = all.take(self.config.listed_nodes).collect();
        let count = if only.is_some() { 1 } else { self.input.nodes.len() - 1 };
        if count > reasons.len() {
            reasons.push(Reason::MoreNodes { count: count - reasons.len() });
        }
        reasons
    }

    /// What is about as good as the best, if that costs so much.
    fn near(&self, best: f64) -> f64 {
        best * (1.0 + f64::from(self.config.near_best_percent) / 100.0)
    }

    /// One of the offers that are within [`Config::near_best_percent`] of the best, at random.
    fn choose(&self, offers: &Offers, any: bool, model: &CostModel) -> Option<Choice> {
        let near_best = || offers.near_best.iter().filter(|offer| offer.total <= offers.bound);
        let among = near_best().count();
        let pick = bounded(mix(self.seed, hash(model.job.id())), among);
        let Offer { index, is_home, total } = *near_best().nth(pick)?;
        let Known { node, place, .. } = self.known.get(index)?;
        let limit = model.limit(&model.there(place, is_home));
        Some(Choice {
            node: node.name.clone(),
            among,
            gain: model.gain_per_s(place, total),
            downtime_ms: (place.downtime_s(model.job.frozen_bytes) * 1_000.0) as u64,
            limit_milli: (!any).then(|| (limit * 1_000.0).ceil() as u32),
        })
    }
}

/// A number below `bound` from a random one; 0 if `bound` is 0.
fn bounded(random: u64, bound: usize) -> usize {
    usize::try_from((u128::from(random) * bound as u128) >> 64).unwrap_or(0)
}

/// FNV-1a of the pid. Written out, so that a seed means the same in every version of every library.
fn hash(job: &JobId) -> u64 {
    let text = job.pid.to_string();
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A number that depends on every bit of both: the finaliser of SplitMix64.
fn mix(seed: u64, value: u64) -> u64 {
    let mut z = seed.wrapping_add(value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
