//! The arithmetic of load: what a job would meet at a node.
//!
//! ```text
//!   share  = demand / (speed · cpus)            the load that a job adds at a node
//!   alone  = 1 / speed                          what a CPU of one's own gives; no node gives better
//!   cost   = max(load + charged + share, alone) at a node where the job would come
//!   cost   = max(load, alone)                   where it is
//!   margin = +30 % of share, and not less than 5 % of the cost here,   elsewhere (hysteresis), or
//!            −10 % of the smaller of both shares                        at home (bonus)
//! ```
//!
//! 30 % of a job is nothing on a machine of 64 CPUs, hence the second bound: a gain below it drowns in the noise of measured loads.
//!
//! A move from A to B needs cost(B) + margin < cost(A). Afterwards B is A's measure and A is B's, and as the bonus is smaller than the
//! margin and never counted on the larger share, the move back is not better: for any loads, sizes and speeds.

use super::config::Config;
use super::input::{JobView, NodeView};
use super::reason::{Comparison, MarginKind};

/// One, in thousandths.
const MILLI: f64 = 1_000.0;

/// The load that `demand_milli` (thousandths of a CPU) adds at `node`. A node without CPUs cannot carry any.
#[must_use]
pub fn share(demand_milli: u32, node: &NodeView) -> f64 {
    f64::from(demand_milli) / (f64::from(node.speed_milli) * f64::from(node.cpus))
}

/// The load of a job that has a CPU of `node` to itself.
#[must_use]
pub fn alone(node: &NodeView) -> f64 {
    MILLI / f64::from(node.speed_milli)
}

/// The node's load.
#[must_use]
pub fn load(node: &NodeView) -> f64 {
    f64::from(node.load_milli) / MILLI
}

/// Runnable tasks per CPU: the load without the CPU's speed. Below 1, some CPU is free.
#[must_use]
pub fn tasks_per_cpu(node: &NodeView) -> f64 {
    load(node) * f64::from(node.speed_milli) / MILLI
}

/// What `job` meets here, `leaving` (load of jobs that are on their way out) not counted.
#[must_use]
pub fn here(node: &NodeView, leaving: f64) -> f64 {
    (load(node) - leaving).max(alone(node))
}

/// How strict a comparison is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Margin {
    /// The balancer's: hysteresis elsewhere, bonus at home.
    Hysteresis,
    /// For a user's request: the bonus at home only.
    HomeOnly,
}

/// What `job`, which runs at `source`, would meet at `node`, whose load does not show `charged` yet, beside `here` where it is.
#[must_use]
pub fn compare(
    job: &JobView,
    source: &NodeView,
    node: &NodeView,
    charged: f64,
    here: f64,
    margin: Margin,
    config: &Config,
) -> Comparison {
    let share_there = share(job.demand_milli, node);
    let home = job.home == node.name;
    let hysteresis = share_there * (f64::from(config.hysteresis_percent) - 100.0) / 100.0;
    let least_gain = here * f64::from(config.least_gain_percent) / 100.0;
    let (kind, margin) = match (home, margin) {
        (true, _) => {
            let smaller = share_there.min(share(job.demand_milli, source));
            (MarginKind::HomeBonus, -smaller * f64::from(config.home_bias_percent) / 100.0)
        }
        (false, Margin::HomeOnly) => (MarginKind::None, 0.0),
        (false, Margin::Hysteresis) if hysteresis >= least_gain => (MarginKind::Hysteresis, hysteresis),
        (false, Margin::Hysteresis) => (MarginKind::LeastGain, least_gain),
    };
    let total = (load(node) + charged + share_there).max(alone(node)) + margin;
    Comparison {
        node: node.name.clone(),
        load: load(node),
        charged,
        job: share_there,
        alone: alone(node),
        kind,
        margin,
        total,
        here,
    }
}
