//! Policies: where a job begins, and who moves where.

mod opportunity;
mod ours;
mod reference;

use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use serde::{Deserialize, Serialize};

use super::{
    boards::Boards,
    machine::{Figures, Machine, Running, Sharing},
    scenario::{MoveCost, Scenario},
};
use crate::cluster::Entry;

/// A move that takes its time.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) id: usize,
    pub(super) from: usize,
    pub(super) to: usize,
    /// When the job stops at the one machine, in seconds.
    pub(super) freeze_s: f64,
    /// When it continues at the other.
    pub(super) arrive_s: f64,
    /// The job while it stands still.
    pub(super) frozen: Option<Running>,
}

/// What a machine knows of one, which may be itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) machine: usize,
    pub(super) figures: Figures,
    /// How old that is, in milliseconds.
    pub(super) age_ms: u64,
}

/// All machines. Policies know of them what [`Cluster::known`] and [`Cluster::seen`] tell.
pub(super) struct Cluster {
    pub(super) now_s: f64,
    pub(super) machines: Vec<Machine>,
    /// What they have heard of each other; `None` if all know all at once.
    boards: Option<Boards<Figures>>,
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
    pub(super) fn new(scenario: &Scenario, policy: PolicyName, machines: Vec<Machine>, seed: u64) -> Self {
        let boards = scenario.gossip.map(|config| {
            let said = machines.iter().map(|machine| machine.figures(0.0)).collect();
            // What placement ignores is not worth storing.
            Boards::starting(said, config, scenario.network, scenario.placement.stale_ms, seed)
        });
        Self {
            now_s: 0.0,
            machines,
            boards,
            // A stream of its own: policies that draw differently must see the same jobs.
            random: Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x9e37_79b9_7f4a_7c15),
            cost: policy.pays_for_moves().then_some(scenario.moves),
            flights: Vec::new(),
            changed: Vec::new(),
            moves: 0,
        }
    }

    /// Lets time pass, in which nothing happens but gossip.
    pub(super) fn come_to(&mut self, now_s: f64) {
        self.now_s = now_s;
        let now_ms = self.now_ms();
        if let Some(boards) = &mut self.boards {
            boards.advance(now_ms, |node, at_ms| self.machines[node].figures(at_ms as f64 / 1e3));
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        (self.now_s * 1e3) as u64
    }

    /// A machine comes, or goes.
    pub(super) fn set_open(&mut self, machine: usize, is_open: bool) {
        self.machines[machine].is_open = is_open;
        if let Some(boards) = &mut self.boards {
            boards.set_away(machine, !is_open);
        }
    }

    /// Whether all know all at once.
    fn is_transparent(&self) -> bool {
        self.boards.is_none()
    }

    /// What `by` knows of `machine`; `None` if it has not heard of it.
    fn seen(&self, by: usize, machine: usize) -> Option<Seen> {
        match self.boards.as_ref().filter(|_| by != machine) {
            None => Some(Seen { machine, figures: self.machines[machine].figures(self.now_s), age_ms: 0 }),
            Some(boards) => {
                let (figures, age_ms) = boards.get(by, machine, self.now_ms())?;
                Some(Seen { machine, figures: *figures, age_ms: age_ms.into() })
            }
        }
    }

    /// What `by` knows of the machines that are there, itself included.
    fn known(&self, by: usize) -> impl Iterator<Item = Seen> {
        let (all, heard) = match &self.boards {
            None => (0..self.machines.len(), None),
            Some(boards) => (by..by + 1, Some(boards.known(by, self.now_ms()).skip(1))),
        };
        let heard = heard.into_iter().flatten().map(|Entry { node, said, age_ms, .. }| Seen {
            machine: *node as usize,
            figures: *said,
            age_ms: age_ms.into(),
        });
        let all = all.filter_map(move |machine| self.seen(by, machine)).chain(heard);
        all.filter(|seen| self.machines[seen.machine].is_open)
    }

    /// How old the words of others are that each machine knows, in milliseconds.
    pub(super) fn ages_ms(&self) -> impl Iterator<Item = impl Iterator<Item = u32>> {
        self.boards.iter().flat_map(|boards| boards.ages_ms(self.now_ms()))
    }

    /// Moves a job: at once if moves are free, else this begins its move. A job that is on its way
    /// already continues.
    pub(super) fn move_job(&mut self, id: usize, from: usize, to: usize) {
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

    /// The machines that are there.
    fn open(&self) -> impl Iterator<Item = usize> {
        (0..self.machines.len()).filter(|machine| self.machines[*machine].is_open)
    }

    /// Some machines other than `than`, each at most once.
    fn some_others(&mut self, than: usize, count: usize) -> Vec<usize> {
        let mut others: Vec<usize> = self.open().filter(|machine| *machine != than).collect();
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
    /// The machine where a job begins, or continues, that comes at the machine `at`.
    fn place(&mut self, cluster: &mut Cluster, at: usize, job: &Running) -> usize;

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

    /// Whether it is ours.
    #[must_use]
    pub fn is_ours(self) -> bool {
        matches!(self, Self::ScxMosix | Self::ScxMosixReal | Self::ScxMosixLas)
    }

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
            Self::Pvm => Box::new(reference::RoundRobin),
            Self::EPvm => Box::new(opportunity::Opportunity::on_arrival()),
            Self::Mosix => Box::new(reference::Mosix),
            Self::EMosix => Box::new(opportunity::Opportunity::moving()),
            Self::LeastLoaded => Box::new(reference::LeastLoaded),
            Self::TwoChoices => Box::new(reference::TwoChoices),
            Self::WorkStealing => Box::new(reference::WorkStealing),
            Self::Clairvoyant => Box::new(reference::Clairvoyant),
            Self::ScxMosix | Self::ScxMosixReal | Self::ScxMosixLas => {
                Box::new(ours::ScxMosix::new(scenario, self.sharing()))
            }
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
