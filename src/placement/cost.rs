//! What a node and a job are in terms of [`slowdown`](super::slowdown), and what a move costs.
//!
//! Costs are compared in terms of the job's own slowdown: 1 is what it costs the cluster where it
//! has a standard CPU to itself and disturbs no job.
//!
//! ```text
//!   there = stretch there                  its own slowdown
//!         + others                         what it adds to the slowdown of those who are there
//!         + away + traffic / rate          if it is not home: what it costs in any case, and the time that its files take over the link
//!         + (downtime + refill + work · others) / horizon   the move: what it loses while it stands still and until caches are filled again, and
//!                                          the others at both ends while a CPU is busy with it, spread over the time that it will probably gain
//!         + 5 % of here                    the noise of measured loads; 30 % if nothing but ages speaks for the move
//!   here  = stretch here + others + away + traffic / rate   what the cluster is relieved of if it leaves; more if memory is exhausted
//! ```
//!
//! A job goes where `there < here`. After the move the two sides have changed places, so that the
//! way back is never better. Among its own (a tree that one user waits for, with the node to
//! itself) it goes where a CPU is free; to elsewhere only if the move takes next to nothing.

use super::{
    config::{Config, is_worth},
    input::{JobView, NodeName, NodeView},
    reason::{Comparison, Exclusion},
    slowdown::{Load, Occupancy},
    state::State,
    tiers::Tiers,
};

/// How long it takes from a need to a decision, in seconds: decisions are made once a second.
pub(super) const STEP_S: f64 = 1.0;

/// Runnable tasks per CPU: the load without the CPU's speed. Below 1, some CPU is free.
#[must_use]
pub fn tasks_per_cpu(load_milli: u32, speed_milli: u32) -> f64 {
    f64::from(load_milli) / 1_000.0 * f64::from(speed_milli) / 1_000.0
}

/// The free memory, in bytes, below which `node` ushers jobs out.
#[must_use]
pub fn usher_below_bytes(node: &NodeView, config: &Config) -> u64 {
    node.total_memory_bytes / 100 * u64::from(config.usher_below_percent)
}

/// Whether tasks of `node` stand still for lack of memory so much that something must leave.
#[must_use]
pub fn is_stalled(node: &NodeView, config: &Config) -> bool {
    u32::from(node.memory_stall_centi) >= 100 * config.usher_stall_percent
}

/// What a node costs jobs of one tier.
struct TierCost {
    occupancy: Occupancy,
    stretch: f64,
}

impl TierCost {
    fn new(occupancy: Occupancy) -> Self {
        Self { occupancy, stretch: occupancy.stretch() }
    }
}

/// A node as a place for jobs, with all of a cost there that depends on no job.
pub(super) struct Place {
    owners: TierCost,
    guests: TierCost,
    /// What a second of one CPU matters to those who are there, in 1/s.
    weight_per_cpu: f64,
    freeze_s: f64,
    s_per_byte: f64,
    work_s: f64,
}

impl Place {
    /// A node as its figures and the charges show it.
    pub(super) fn new(node: &NodeView, config: &Config, state: &State) -> Self {
        let tiers = Tiers::new(node, config, state);
        Self {
            owners: TierCost::new(tiers.of(true)),
            guests: TierCost::new(tiers.of(false)),
            weight_per_cpu: tiers.weight() / f64::from(node.cpus),
            freeze_s: node.freeze_ms as f64 / 1_000.0,
            s_per_byte: 1.0 / node.link_bytes_per_s.max(1) as f64,
            work_s: node.work_ms as f64 / 1_000.0,
        }
    }

    /// As a job finds it that is at home there, or a guest.
    fn tier_cost(&self, is_home: bool) -> &TierCost {
        if is_home { &self.owners } else { &self.guests }
    }

    /// What a second of CPU time takes there now, in seconds: the least that any job costs that is
    /// at home there, or a guest.
    pub(super) fn stretch(&self, is_home: bool) -> f64 {
        self.tier_cost(is_home).stretch
    }

    /// How long it takes to send a byte there, in seconds.
    pub(super) fn s_per_byte(&self) -> f64 {
        self.s_per_byte
    }

    /// How long a move to it stops a program of which so much must cross meanwhile, in seconds.
    pub(super) fn downtime_s(&self, frozen_bytes: u64) -> f64 {
        self.freeze_s + frozen_bytes as f64 * self.s_per_byte
    }
}

/// How long it takes to relieve this node of so much, in seconds: memory is looked at as it will be
/// then.
pub(super) fn ahead_s<'a>(frozen_bytes: u64, targets: impl Iterator<Item = &'a Place>) -> f64 {
    STEP_S + targets.map(|place| place.downtime_s(frozen_bytes)).min_by(f64::total_cmp).unwrap_or(0.0)
}

/// The parts of what it costs to have the job at a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Costs {
    stretch: f64,
    others: f64,
    away: f64,
    link: f64,
    price: f64,
    least_gain: f64,
}

impl Costs {
    pub(super) fn total(&self) -> f64 {
        self.stretch + self.others + self.away + self.link + self.price + self.least_gain
    }

    /// What the place itself knows best.
    pub(super) fn known_there(&self) -> f64 {
        self.stretch + self.others + self.away
    }
}

/// What is compared for one job.
pub(super) struct CostModel<'a> {
    pub(super) job: &'a JobView,
    load: Load,
    /// The inverse of its weight, and of its demand.
    per_weight: f64,
    per_demand: f64,
    /// What the cluster is relieved of if the job leaves.
    pub(super) here: f64,
    /// What the job may cost elsewhere if all jobs mattered as much as this one, to be better even
    /// so.
    evenly_below: f64,
    /// What a second of one CPU here matters to the others here, in terms of what it matters to the
    /// job.
    others: f64,
    /// Being away from home, in terms of the stretch.
    away: f64,
    /// What crosses the link while it is away, in bytes for each second of its CPU time.
    traffic: f64,
    /// How long each byte takes between here and its home, in seconds; 0 at home. It will not take
    /// less elsewhere away from home, as far as is known here.
    home_s_per_byte: f64,
    /// See [`Config::least_gain_percent`] and [`Config::least_gain_by_age_percent`].
    least_gain: f64,
    least_gain_by_age: f64,
    /// What each second of the move's downtime costs the job, if the price of the move counts; it
    /// does not if a user asked.
    price_per_s: f64,
    /// How long, in seconds, the job would probably stay here, if that matters; it does not if a
    /// user asked or memory is short.
    stays_s: f64,
    /// The CPU time, in seconds, that it will probably still need, if that matters.
    needs_s: f64,
    /// Whether it shares the CPUs here with its own tree only.
    among_its_own: bool,
}

impl<'a> CostModel<'a> {
    /// For a job at `here`, of which `here_name` is the name; to its home each byte takes
    /// `home_s_per_byte` seconds.
    pub(super) fn new(
        job: &'a JobView,
        here_name: &NodeName,
        here: &Occupancy,
        home_s_per_byte: f64,
        config: &Config,
    ) -> Self {
        let asked = Self::asked(job, 0.0, config);
        let load = asked.load;
        let link = asked.traffic * home_s_per_byte;
        let away = if *job.home() == *here_name { 0.0 } else { asked.away * here.stretch() + link };
        let relieved = |occupancy: &Occupancy| occupancy.saved_by(load) / load.weight + away;
        let here_cost = relieved(here);
        let noise = share(config.least_gain_percent);
        let if_it_matters = |seconds: f64| if here.is_exhausted() { f64::INFINITY } else { seconds };
        Self {
            here: here_cost,
            evenly_below: relieved(&here.evenly(load)) * (1.0 - noise),
            others: here.without(load).weight / here.cpus / load.weight,
            least_gain: here_cost * noise,
            least_gain_by_age: here_cost * share(config.least_gain_by_age_percent),
            price_per_s: 1.0 / job.horizon_s(),
            home_s_per_byte,
            stays_s: if_it_matters(job.stays_s(here.stretch())),
            needs_s: if_it_matters(job.record.history.attained_ms() as f64 / 1_000.0),
            ..asked
        }
    }

    /// For a job that has not begun yet and is not part of what `here` shows.
    pub(super) fn starting(
        job: &'a JobView,
        here_name: &NodeName,
        here: &Occupancy,
        expected_ms: Option<u64>,
        config: &Config,
    ) -> Self {
        let load = job.load(config.young_ms);
        let away = if *job.home() == *here_name { 0.0 } else { share(config.away_percent) * here.with(load).stretch() };
        let needs_s = expected_ms.map_or(f64::INFINITY, |ms| ms as f64 / 1_000.0);
        Self {
            others: here.weight / here.cpus / load.weight,
            price_per_s: expected_ms.map_or(0.0, |ms| 1_000.0 / ms.max(1) as f64),
            stays_s: needs_s * here.with(load).stretch(),
            needs_s,
            ..Self::asked(job, here.added_by(load) / load.weight + away, config)
        }
    }

    /// As a user sees it who asked for the move, and the target: neither its price nor a least gain
    /// count.
    pub(super) fn asked(job: &'a JobView, here: f64, config: &Config) -> Self {
        let load = job.load(config.young_ms);
        Self {
            job,
            load,
            per_weight: 1.0 / load.weight,
            per_demand: 1.0 / load.demand,
            here,
            evenly_below: 0.0,
            others: 0.0,
            away: share(config.away_percent),
            traffic: job.traffic_bytes_per_s(config.young_ms),
            home_s_per_byte: 0.0,
            least_gain: 0.0,
            least_gain_by_age: 0.0,
            price_per_s: 0.0,
            stays_s: f64::INFINITY,
            needs_s: f64::INFINITY,
            among_its_own: false,
        }
    }

    /// The same for a job that may share the CPUs here with its own tree only.
    pub(super) fn among_its_own(self, among_its_own: bool) -> Self {
        Self { among_its_own, ..self }
    }

    /// Whether a move to a place is worth its while: [`Config::move_worth`],
    /// [`Config::tree_move_worth`].
    pub(super) fn is_worth(&self, place: &Place, is_home: bool, config: &Config) -> Result<(), Exclusion> {
        let Occupancy { left, demand: taken, .. } = place.tier_cost(is_home).occupancy;
        let free = left - taken;
        let is_free = free >= self.load.demand.min(1.0) - demand(config.min_demand_milli);
        let for_itself = self.among_its_own && !is_free;
        let downtime_s = place.downtime_s(self.job.frozen_bytes);
        let worth = if for_itself { config.tree_move_worth } else { config.move_worth };
        let milli = |seconds: f64| (seconds * 1_000.0) as u64;
        if !is_worth(worth, downtime_s, self.stays_s) {
            let (downtime_ms, stays_ms) = (milli(downtime_s), milli(self.stays_s));
            return Err(Exclusion::NotWorthIt { downtime_ms, stays_ms, for_itself });
        }
        if !is_worth(config.move_worth, place.work_s, self.needs_s) {
            return Err(Exclusion::TooMuchWork { work_ms: milli(place.work_s), needs_ms: milli(self.needs_s) });
        }
        Ok(())
    }

    /// No job costs less at a place than this: what it would if it added nothing to that and its
    /// move had no price.
    pub(super) fn least(&self, place: &Place, is_home: bool) -> f64 {
        let stretch = place.stretch(is_home);
        let away = if is_home { 0.0 } else { stretch * self.away };
        let least_gain = self.least_gain.min(self.least_gain_by_age);
        Costs { stretch, others: 0.0, away, link: 0.0, price: 0.0, least_gain }.total()
    }

    /// What the job would cost at a place.
    pub(super) fn there(&self, place: &Place, is_home: bool) -> Costs {
        let tier_cost = place.tier_cost(is_home);
        let Occupancy { demand, weight, .. } = tier_cost.occupancy;
        let stretch = tier_cost.occupancy.with(self.load).stretch();
        let added = stretch - tier_cost.stretch;
        let away = if is_home { 0.0 } else { stretch * self.away };
        let link = if is_home { 0.0 } else { self.traffic * place.s_per_byte.max(self.home_s_per_byte) };
        let downtime_s = place.downtime_s(self.job.frozen_bytes);
        let others = self.others + place.weight_per_cpu * self.per_weight;
        let stopped_s = downtime_s + self.refill_s(place, is_home);
        let price = self.price_per_s * (stopped_s + downtime_s.max(place.work_s) * others);
        let is_better_evenly = stretch + added * demand * self.per_demand + away + link + price < self.evenly_below;
        let least_gain = if is_better_evenly { self.least_gain } else { self.least_gain_by_age };
        Costs { stretch, others: added * weight * self.per_weight, away, link, price, least_gain }
    }

    /// How long it takes at a place to fetch again what it has mapped of files, in seconds. Home
    /// has them. What CPUs have in their caches is fetched from memory in a few milliseconds, which
    /// is little beside any move.
    fn refill_s(&self, place: &Place, is_home: bool) -> f64 {
        if is_home { 0.0 } else { self.job.mapped_bytes as f64 * place.s_per_byte }
    }

    /// What the job may cost at most of [`Costs::known_there`] where it costs this.
    pub(super) fn limit(&self, costs: &Costs) -> f64 {
        self.here - costs.price - costs.least_gain - costs.link
    }

    /// What is gained by each second that the move takes, the time until it is decided included.
    pub(super) fn gain_per_s(&self, place: &Place, total: f64) -> f64 {
        (self.here - total) * self.load.weight / (STEP_S + place.downtime_s(self.job.frozen_bytes))
    }

    /// The costs at a node as they are shown.
    pub(super) fn comparison(&self, node: &NodeView, place: &Place, is_home: bool) -> Comparison {
        let costs = self.there(place, is_home);
        let Costs { stretch, others, away, link, price, least_gain } = costs;
        Comparison {
            node: node.name.clone(),
            is_home,
            stretch,
            others,
            away,
            link,
            price,
            downtime_s: place.downtime_s(self.job.frozen_bytes),
            refill_s: self.refill_s(place, is_home),
            least_gain,
            total: costs.total(),
            here: self.here,
        }
    }
}

/// Thousandths of a CPU in CPUs.
pub(super) fn demand(milli: u32) -> f64 {
    f64::from(milli) / 1_000.0
}

/// A percentage as a share.
fn share(percent: u32) -> f64 {
    f64::from(percent) / 100.0
}
