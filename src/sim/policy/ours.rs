//! Ours: the least slowdown collected per second, by the cost of [`placement::slowdown`](crate::placement::slowdown).

use super::{Cluster, Policy};
use crate::{
    placement::slowdown::{Load, Occupancy, weight},
    sim::machine::Running,
};

/// A job moves for a gain above this share of what it costs where it is: rounding alone moves nobody.
const LEAST_GAIN: f64 = 0.02;
/// Passes over all jobs at an event, at most.
const PASSES: usize = 3;

pub(super) struct ScxMosix;

fn load(running: &Running) -> Load {
    Load { weight: weight(running.attained_s), memory: running.memory_mib }
}

/// What is on a machine when all moves that have begun are over.
fn occupancy(cluster: &Cluster, index: usize) -> Occupancy {
    let machine = &cluster.machines[index];
    let empty = Occupancy {
        cpus: f64::from(machine.cpus),
        speed: machine.speed,
        memory: machine.memory_mib,
        jobs: 0.0,
        weight: 0.0,
        used: 0.0,
    };
    let leaving = |id: usize| cluster.flights.iter().any(|flight| flight.id == id);
    let staying = machine.jobs.iter().filter(|running| !leaving(running.id));
    let arriving = cluster.flights.iter().filter(|flight| flight.to == index);
    let arriving =
        arriving.filter_map(|flight| flight.frozen.as_ref().or_else(|| cluster.machines[flight.from].get(flight.id)));
    staying.chain(arriving).fold(empty, |node, running| node.with(load(running)))
}

/// The machine to which a job adds least, and what it adds.
fn cheapest(cluster: &Cluster, load: Load, besides: Option<usize>) -> Option<(usize, f64)> {
    let machines = (0..cluster.machines.len()).filter(|index| Some(*index) != besides);
    machines.map(|index| (index, occupancy(cluster, index).marginal(load))).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// The slowdown per second that must be gained at least for a move to pay: its own slowdown while it stands still, spread over the life
/// that it may still have, which is about as long as the one that it has had.
fn price(cluster: &Cluster, running: &Running) -> f64 {
    let downtime_s = cluster.cost.map_or(0.0, |cost| cost.downtime_s(running.memory_mib, running.dirty_share));
    weight(running.attained_s) * downtime_s / running.attained_s.max(f64::MIN_POSITIVE)
}

impl Policy for ScxMosix {
    fn place(&mut self, cluster: &mut Cluster, memory_mib: f64) -> usize {
        cheapest(cluster, Load { weight: weight(0.0), memory: memory_mib }, None).map_or(0, |(machine, _)| machine)
    }

    fn rebalance(&mut self, cluster: &mut Cluster) {
        for _ in 0..PASSES {
            let before = cluster.moves;
            for from in 0..cluster.machines.len() {
                let jobs = cluster.machines[from].jobs.clone();
                for running in jobs.iter().filter(|running| !cluster.is_moving(running.id)).collect::<Vec<_>>() {
                    let load = load(running);
                    let stay = occupancy(cluster, from).without(load).marginal(load);
                    let enough = stay * (1.0 - LEAST_GAIN) - price(cluster, running);
                    if let Some((to, _)) = cheapest(cluster, load, Some(from)).filter(|(_, go)| *go < enough) {
                        cluster.move_job(running.id, from, to);
                    }
                }
            }
            if cluster.moves == before {
                return;
            }
        }
    }

    fn at_each_event(&self) -> bool {
        true
    }
}
