//! What a node and a job are in terms of [`slowdown`](super::slowdown), and what a move costs.
//!
//! Costs are compared in terms of the job's own slowdown: 1 is what it costs the cluster where it has a standard CPU to itself and
//! disturbs nobody.
//!
//! ```text
//!   there = stretch there                  its own slowdown
//!         + others                         what it adds to the slowdown of those who are there
//!         + away                           if it is not home
//!         + downtime / horizon · (1 + others)   the move: what it loses while it stands still, and the others at both ends while a CPU is busy
//!                                          with it, spread over the time that it will probably gain
//!         + 5 % of here                    the noise of measured loads; 30 % if nothing but ages speaks for the move
//!   here  = stretch here + others + away   what the cluster is relieved of if it leaves; more if memory is exhausted
//! ```
//!
//! A job goes where `there < here`. After the move the two sides have changed places, so that the way back is never better.

use super::{
    config::Config,
    input::{JobView, NodeName, NodeView},
    reason::Comparison,
    slowdown::{Load, Occupancy},
    state::State,
};

/// How long it takes from a need to a decision, in seconds: decisions are made once a second.
const STEP_S: f64 = 1.0;

/// The load that `demand_milli` (thousandths of a CPU) adds at `node`, as MOSIX defines load.
#[must_use]
pub fn share(demand_milli: u32, node: &NodeView) -> f64 {
    f64::from(demand_milli) / (f64::from(node.speed_milli) * f64::from(node.cpus))
}

/// Runnable tasks per CPU: the load without the CPU's speed. Below 1, some CPU is free.
#[must_use]
pub fn tasks_per_cpu(node: &NodeView) -> f64 {
    f64::from(node.load_milli) / 1_000.0 * f64::from(node.speed_milli) / 1_000.0
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

/// A node as its figures show it, with what was sent there and may not show yet, and without what is on its way out.
pub(super) fn occupancy(node: &NodeView, config: &Config, state: &State) -> Occupancy {
    let cpus = f64::from(node.cpus);
    let limit_bytes = node.total_memory_bytes - usher_below_bytes(node, config);
    let shown = Occupancy {
        cpus,
        speed: f64::from(node.speed_milli) / 1_000.0,
        memory: limit_bytes as f64,
        demand: tasks_per_cpu(node) * cpus,
        weight: node.weight_nano as f64 / 1e9,
        used: node.total_memory_bytes.saturating_sub(node.free_memory_bytes) as f64 + node.swapped_bytes as f64,
    };
    let charged = state.charges(&node.name).map(|lease| lease.load).fold(shown, Occupancy::with);
    if is_stalled(node, config) { Occupancy { used: charged.used.max(charged.memory), ..charged } } else { charged }
}

/// How long a move to `node` stops a program of which so much must cross meanwhile, in seconds.
#[must_use]
pub fn downtime_s(frozen_bytes: u64, node: &NodeView) -> f64 {
    node.freeze_ms as f64 / 1_000.0 + frozen_bytes as f64 / node.link_bytes_per_s.max(1) as f64
}

/// How long it takes to relieve this node of its largest job, in seconds: memory is looked at as it will be then.
pub(super) fn ahead_s<'a>(jobs: &[JobView], targets: impl Iterator<Item = &'a NodeView>) -> f64 {
    let largest = jobs.iter().map(|job| job.frozen_bytes).max().unwrap_or(0);
    STEP_S + targets.map(|node| downtime_s(largest, node)).min_by(f64::total_cmp).unwrap_or(0.0)
}

/// What is compared for one job.
pub(super) struct Scales<'a> {
    pub(super) job: &'a JobView,
    pub(super) load: Load,
    config: &'a Config,
    /// What the cluster is relieved of if the job leaves.
    pub(super) here: f64,
    /// The same if all jobs mattered as much as this one.
    here_evenly: f64,
    /// What a second of one CPU here matters to the others here, in terms of what it matters to the job.
    others: f64,
    /// Whether the price of the move and the least gain count; they do not if a user asked.
    counts_move: bool,
}

impl<'a> Scales<'a> {
    /// For a job at `here`, of which `here_name` is the name.
    pub(super) fn new(job: &'a JobView, here_name: &NodeName, here: &Occupancy, config: &'a Config) -> Self {
        let load = job.load();
        let away = away(job, here_name, here.stretch(), config);
        let others = here.without(load).weight / here.cpus / load.weight;
        let relieved = |occupancy: &Occupancy| occupancy.saved_by(load) / load.weight + away;
        Self {
            job,
            load,
            config,
            here: relieved(here),
            here_evenly: relieved(&here.evenly(load)),
            others,
            counts_move: true,
        }
    }

    /// For a job that has not begun yet and is not part of what `here` shows.
    pub(super) fn starting(job: &'a JobView, here_name: &NodeName, here: &Occupancy, config: &'a Config) -> Self {
        let load = job.load();
        let away = away(job, here_name, here.with(load).stretch(), config);
        let here = here.added_by(load) / load.weight + away;
        Self { job, load, config, here, here_evenly: here, others: 0.0, counts_move: false }
    }

    /// As a user sees it who asked for the move, and the target: neither its price nor a least gain count.
    pub(super) fn asked(job: &'a JobView, here: f64, config: &'a Config) -> Self {
        Self { job, load: job.load(), config, here, here_evenly: here, others: 0.0, counts_move: false }
    }

    /// What the job may cost at `node` at most, price and least gain not counted.
    pub(super) fn limit(&self, node: &NodeView, occupancy: &Occupancy) -> f64 {
        self.here - self.price(node, occupancy) - self.least_gain(node, occupancy)
    }

    /// The cost at `node`.
    pub(super) fn there(&self, node: &NodeView, occupancy: &Occupancy) -> f64 {
        self.plain(node, occupancy) + self.price(node, occupancy) + self.least_gain(node, occupancy)
    }

    /// The same without the move and the least gain.
    fn plain(&self, node: &NodeView, occupancy: &Occupancy) -> f64 {
        let added = occupancy.added_by(self.load) / self.load.weight;
        added + away(self.job, &node.name, occupancy.with(self.load).stretch(), self.config)
    }

    /// The same with all its parts.
    pub(super) fn comparison(&self, node: &NodeView, occupancy: &Occupancy) -> Comparison {
        let stretch = occupancy.with(self.load).stretch();
        Comparison {
            node: node.name.clone(),
            is_home: self.job.home == node.name,
            stretch,
            others: occupancy.added_by(self.load) / self.load.weight - stretch,
            away: away(self.job, &node.name, stretch, self.config),
            price: self.price(node, occupancy),
            downtime_s: downtime_s(self.job.frozen_bytes, node),
            least_gain: self.least_gain(node, occupancy),
            total: self.there(node, occupancy),
            here: self.here,
        }
    }

    /// What is gained by each second that a move to `node` takes, in slowdown per second.
    pub(super) fn gain_per_s(&self, node: &NodeView, total: f64) -> f64 {
        // A move is never quicker than its decision.
        (self.here - total) * self.load.weight / (STEP_S + downtime_s(self.job.frozen_bytes, node))
    }

    fn price(&self, node: &NodeView, occupancy: &Occupancy) -> f64 {
        if !self.counts_move {
            return 0.0;
        }
        let others = self.others + occupancy.weight / occupancy.cpus / self.load.weight;
        downtime_s(self.job.frozen_bytes, node) / self.job.horizon_s() * (1.0 + others)
    }

    /// The least that a move must gain: more if nothing but the jobs' ages speaks for it.
    fn least_gain(&self, node: &NodeView, occupancy: &Occupancy) -> f64 {
        if !self.counts_move {
            return 0.0;
        }
        let share = |percent: u32| f64::from(percent) / 100.0;
        let (noise, by_age) = (share(self.config.least_gain_percent), share(self.config.least_gain_by_age_percent));
        let there = self.plain(node, &occupancy.evenly(self.load)) + self.price(node, occupancy);
        let is_better_evenly = there < self.here_evenly * (1.0 - noise);
        self.here * if is_better_evenly { noise } else { by_age }
    }
}

/// What it costs a job to be at `node`, if that is not its home.
fn away(job: &JobView, node: &NodeName, stretch: f64, config: &Config) -> f64 {
    if job.home == *node { 0.0 } else { stretch * f64::from(config.away_percent) / 100.0 }
}
