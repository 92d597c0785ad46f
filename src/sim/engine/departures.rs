//! Machines that leave and come back.
//!
//! All machines and all policies know at once who is away: membership finds out much sooner than
//! loads change. A machine that *drains* takes no more jobs, and those that it has are placed anew
//! as if they had arrived just then, but for what they have done already; where moves take time
//! they run on until then. A machine that *dies* takes its jobs with it: they begin again
//! elsewhere. A move whose target has gone meanwhile comes to nothing, and the job continues where
//! it was.

use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use serde::Deserialize;

use super::{
    super::{
        machine::Running,
        policy::{Flight, Policy},
        scenario::Scenario,
    },
    Engine,
    event::{Event, What},
};

/// Machines that leave at one time.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leave {
    /// When, in seconds.
    pub at_s: f64,
    /// Which share of all machines, in percent. At least one leaves, and at least one stays.
    pub percent: f64,
    /// How.
    pub how: Departure,
    /// After which time they are back, in seconds; without it they are not.
    pub back_after_s: Option<f64>,
}

/// How a machine leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Departure {
    /// Its jobs continue elsewhere.
    Drains,
    /// Its jobs begin again elsewhere.
    Dies,
}

/// Which machines leave, for each of the scenario's departures. The same for all policies.
pub(super) fn draw(scenario: &Scenario, machines: usize, seed: u64) -> Vec<Vec<usize>> {
    // A stream of its own, so that neither jobs nor choices depend on it.
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x632b_e59b_d9b4_e019);
    let of_leave = |leave: &Leave| {
        let share = (machines as f64 * leave.percent / 100.0).round() as usize;
        let mut all: Vec<usize> = (0..machines).collect();
        let count = share.max(1).min(machines);
        for index in 0..count {
            let pick = random.random_range(index..machines);
            all.swap(index, pick);
        }
        all.truncate(count);
        all
    };
    scenario.leaves.iter().map(of_leave).collect()
}

impl Engine<'_> {
    /// Machines leave, as far as one is left.
    pub(super) fn leave(&mut self, number: usize, policy: &mut dyn Policy) {
        let Leave { how, back_after_s, .. } = self.scenario.leaves[number];
        // No job is to go where the next one leaves.
        let mut leaving = std::mem::take(&mut self.departures[number]);
        leaving.retain(|machine| {
            let is_open = |machine: &usize| self.cluster.machines[*machine].is_open;
            let leaves = is_open(machine) && (0..self.cluster.machines.len()).filter(is_open).count() > 1;
            if leaves {
                self.cluster.set_open(*machine, false);
            }
            leaves
        });
        for machine in &leaving {
            self.touch(*machine);
            match how {
                Departure::Drains => self.drain(*machine, policy),
                Departure::Dies => self.die(*machine, policy),
            }
        }
        self.departures[number] = leaving;
        if let Some(after_s) = back_after_s {
            self.events.push(Event { at_s: self.cluster.now_s + after_s, what: What::Return(number) });
        }
    }

    /// The machines that left are back.
    pub(super) fn come_back(&mut self, number: usize) {
        for machine in std::mem::take(&mut self.departures[number]) {
            self.cluster.set_open(machine, true);
        }
    }

    fn drain(&mut self, machine: usize, policy: &mut dyn Policy) {
        let ids: Vec<usize> = self.cluster.machines[machine].jobs.iter().map(|running| running.id).collect();
        for id in ids {
            self.evict(id, machine, policy);
        }
    }

    /// Places a job of `from` anew.
    fn evict(&mut self, id: usize, from: usize, policy: &mut dyn Policy) {
        let Some(running) = self.cluster.machines[from].get(id).cloned() else { return };
        let to = self.place(&running, policy);
        self.note_ended(to);
        self.moving(|cluster| cluster.move_job(id, from, to));
    }

    fn die(&mut self, machine: usize, policy: &mut dyn Policy) {
        let mut lost = self.cluster.machines[machine].clear();
        self.cluster.flights.retain_mut(|flight| {
            lost.extend(flight.frozen.take_if(|_| flight.from == machine));
            flight.from != machine
        });
        self.touch(machine);
        for Running { job, .. } in lost {
            self.begin(job, policy);
        }
    }

    /// The part that moves leaves its machine, if it has not ended meanwhile.
    pub(super) fn freeze(&mut self, id: usize, policy: &mut dyn Policy) {
        let Some(index) = self.cluster.flights.iter().position(|flight| flight.id == id) else { return };
        let Flight { from, to, .. } = self.cluster.flights[index];
        self.touch(from);
        if !self.cluster.machines[to].is_open {
            self.cluster.flights.swap_remove(index);
            if !self.cluster.machines[from].is_open {
                self.evict(id, from, policy);
            }
            return;
        }
        match self.cluster.machines[from].remove(id) {
            None => drop(self.cluster.flights.swap_remove(index)),
            Some(running) => {
                let flight = &mut self.cluster.flights[index];
                flight.frozen = Some(running);
                self.events.push(Event { at_s: flight.arrive_s, what: What::Arrive(id) });
                self.touch(from);
            }
        }
    }

    /// It continues at its target.
    pub(super) fn arrive(&mut self, id: usize, policy: &mut dyn Policy) {
        let Some(index) = self.cluster.flights.iter().position(|flight| flight.id == id) else { return };
        let Flight { from, to, frozen, .. } = self.cluster.flights.swap_remove(index);
        let Some(mut running) = frozen else { return };
        let is_open = |machine: &usize| self.cluster.machines[*machine].is_open;
        let to = match [to, from].into_iter().find(is_open) {
            Some(to) => to,
            None => self.place(&running, policy),
        };
        if to != from {
            running.moved_s = Some(self.cluster.now_s);
        }
        self.add(to, running);
    }
}
