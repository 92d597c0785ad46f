//! Policies: where a job begins, and who moves where.

mod opportunity;
mod ours;
mod reference;

use rand::{RngExt as _, rngs::Xoshiro256PlusPlus};
use serde::{Deserialize, Serialize};

use super::{
    machine::{Machine, Running, Sharing},
    scenario::{MoveCost, Scenario},
};

/// A move that takes its time.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) id: usize,
    pub(super) from: usize,
    pub(super) to: usize,
    /// When the job stops at the one machine, in seconds.
    pub(super) freeze_s: f64,
    /// When it goes on at the other.
    pub(super) arrive_s: f64,
    /// The job while it stands still.
    pub(super) frozen: Option<Running>,
}

/// All machines, as policies see them.
pub(super) struct Cluster {
    pub(super) now_s: f64,
    pub(super) machines: Vec<Machine>,
    /// For the policy's choices only.
    pub(super) random: Xoshiro256PlusPlus,
    /// What moves cost; `None` if they are free and take no time.
    pub(super) cost: Option<MoveCost>,
    /// Moves under way.
    pub(super) flights: Vec<Flight>,
    /// Machines that jobs have left or come to since the engine looked.
    pub(super) changed: Vec<usize>,
    pub(super) moves: u64,
}

impl Cluster {
    /// Moves a job: at once if moves are free, else this begins its move. A job that is on its way already goes on.
    fn move_job(&mut self, id: usize, from: usize, to: usize) {
        let Some(running) = self.machines[from].get(id).filter(|_| from != to) else { return };
        if let Some(cost) = self.cost {
            if !self.is_moving(id) {
                let freeze_s = self.now_s + cost.send_s(running.memory_mib);
                let arrive_s = freeze_s + cost.downtime_s(running.memory_mib, running.dirty_share);
                self.flights.push(Flight { id, from, to, freeze_s, arrive_s, frozen: None });
                self.moves += 1;
            }
        } else if let Some(mut running) = self.machines[from].remove(id) {
            running.moved_s = Some(self.now_s);
            self.machines[to].add(running);
            self.changed.extend([from, to]);
            self.moves += 1;
        }
    }

    /// Whether a job is on its way.
    fn is_moving(&self, id: usize) -> bool {
        self.flights.iter().any(|flight| flight.id == id)
    }

    /// Some machines other than `than`, each at most once.
    fn some_others(&mut self, than: usize, count: usize) -> Vec<usize> {
        let mut others: Vec<usize> = (0..self.machines.len()).filter(|machine| *machine != than).collect();
        let count = count.min(others.len());
        for index in 0..count {
            let pick = self.random.random_range(index..others.len());
            others.swap(index, pick);
        }
        others.truncate(count);
        others
    }
}

/// Machines that a machine, or a job, looks at in each period.
const SAMPLE: usize = 2;

/// A placement policy. Policies that never move jobs implement the first method only.
pub(super) trait Policy {
    /// The machine where a new job begins.
    fn place(&mut self, cluster: &mut Cluster, memory_mib: f64) -> usize;

    /// Moves jobs, once in each of the scenario's periods.
    fn rebalance(&mut self, _cluster: &mut Cluster) {}

    /// Whether it may also move jobs whenever one arrives or ends.
    fn at_each_event(&self) -> bool {
        false
    }
}

/// The policies by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyName {
    /// Round robin: "PVM".
    Pvm,
    /// The least marginal cost on arrival (Amir et al., 2000).
    EPvm,
    /// Load balancing by moves, memory first.
    Mosix,
    /// The least marginal cost on arrival and by moves.
    EMosix,
    /// The least load on arrival.
    LeastLoaded,
    /// The less loaded of two machines at random, on arrival (Mitzenmacher, 2001).
    TwoChoices,
    /// Round robin; a machine that is idle takes a job of one that has several.
    WorkStealing,
    /// Ours: the least slowdown per second, with free moves.
    ScxMosix,
    /// The same, where moves cost what they do.
    ScxMosixReal,
    /// With free moves again, where machines also serve by attained service.
    ScxMosixLas,
    /// Knows what each job still needs and moves freely: a bound.
    Clairvoyant,
}

impl PolicyName {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Pvm,
        Self::EPvm,
        Self::Mosix,
        Self::EMosix,
        Self::LeastLoaded,
        Self::TwoChoices,
        Self::WorkStealing,
        Self::ScxMosix,
        Self::ScxMosixReal,
        Self::ScxMosixLas,
        Self::Clairvoyant,
    ];

    /// How machines share their CPUs under it.
    pub(super) fn sharing(self) -> Sharing {
        match self {
            Self::ScxMosixLas => Sharing::AttainedService,
            Self::Clairvoyant => Sharing::ShortestRemaining,
            _ => Sharing::Fair,
        }
    }

    /// Whether its moves cost what the scenario says.
    pub(super) fn pays_for_moves(self) -> bool {
        self == Self::ScxMosixReal
    }

    pub(super) fn policy(self, scenario: &Scenario) -> Box<dyn Policy> {
        match self {
            Self::Pvm => Box::new(reference::RoundRobin::default()),
            Self::EPvm => Box::new(opportunity::Opportunity::on_arrival()),
            Self::Mosix => Box::new(reference::Mosix::default()),
            Self::EMosix => Box::new(opportunity::Opportunity::moving()),
            Self::LeastLoaded => Box::new(reference::LeastLoaded),
            Self::TwoChoices => Box::new(reference::TwoChoices),
            Self::WorkStealing => Box::new(reference::WorkStealing::default()),
            Self::ScxMosix | Self::ScxMosixReal | Self::ScxMosixLas => Box::new(ours::ScxMosix::new(scenario)),
            Self::Clairvoyant => Box::new(reference::Clairvoyant),
        }
    }
}

impl std::fmt::Display for PolicyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // As in JSON.
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_on_tables_and_in_json() {
        for policy in PolicyName::ALL {
            assert_eq!(serde_json::to_string(&policy).unwrap(), format!("\"{policy}\""));
        }
    }
}
