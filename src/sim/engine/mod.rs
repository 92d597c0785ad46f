//! One run: jobs arrive, run, are moved and end, in the order of their times.

mod departures;
mod event;
#[cfg(test)]
mod tests;

use std::{collections::BinaryHeap, ops::ControlFlow};

pub use departures::{Departure, Leave};
use event::{Event, What};

use super::{
    machine::{Machine, Running},
    policy::{Cluster, Policy, PolicyName},
    scenario::Scenario,
    workload::{self, Job},
};

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Each job's time from arrival to the end of its last part in relation to its CPU demand, in
    /// the order of arrival.
    pub slowdowns: Vec<f64>,
    /// Moves of jobs that had begun.
    pub moves: u64,
}

/// Runs `scenario` under a policy. The seed determines the jobs and all that is random.
#[must_use]
pub fn run(scenario: &Scenario, policy: PolicyName, seed: u64) -> Outcome {
    Engine::new(scenario, policy, seed).run(policy, None)
}

/// The same; each `period_s` of its time it shows how it stands, and ends if that is enough.
pub(super) fn watch(
    scenario: &Scenario,
    policy: PolicyName,
    seed: u64,
    period_s: f64,
    show: &mut dyn FnMut(&Cluster) -> ControlFlow<()>,
) -> Outcome {
    Engine::new(scenario, policy, seed).run(policy, Some(Watch { period_s, show }))
}

/// An observer.
struct Watch<'w> {
    period_s: f64,
    show: &'w mut dyn FnMut(&Cluster) -> ControlFlow<()>,
}

struct Engine<'a> {
    scenario: &'a Scenario,
    jobs: Vec<Job>,
    /// Of each job, the parts that have not ended.
    parts_left: Vec<u32>,
    cluster: Cluster,
    /// How often each machine has changed.
    versions: Vec<u64>,
    events: BinaryHeap<Event>,
    outcome: Outcome,
    left: usize,
    /// Whether the policy is told of the memory of a part that it places.
    memory_known: bool,
    /// The number of the next part.
    next_part: usize,
    /// How many parts were placed: they come at each machine in turn.
    placed: usize,
    /// The machines of each of the scenario's departures: those that will leave, then those that
    /// have left.
    departures: Vec<Vec<usize>>,
}

impl<'a> Engine<'a> {
    fn new(scenario: &'a Scenario, policy: PolicyName, seed: u64) -> Self {
        let jobs = workload::draw(scenario, seed);
        let machines: Vec<Machine> = scenario
            .machines
            .iter()
            .flat_map(|kind| std::iter::repeat_n(kind, kind.count))
            .map(|kind| Machine::new(kind, policy.sharing(), scenario))
            .collect();
        Self {
            scenario,
            versions: vec![0; machines.len()],
            events: BinaryHeap::new(),
            outcome: Outcome { slowdowns: vec![0.0; jobs.len()], moves: 0 },
            parts_left: jobs.iter().map(|job| job.parts).collect(),
            left: jobs.len(),
            memory_known: scenario.jobs.memory_known || policy == PolicyName::Clairvoyant,
            next_part: 0,
            placed: 0,
            departures: departures::draw(scenario, machines.len(), seed),
            cluster: Cluster::new(scenario, policy, machines, seed),
            jobs,
        }
    }

    fn run(mut self, name: PolicyName, mut watch: Option<Watch>) -> Outcome {
        let mut policy = name.policy(self.scenario);
        let policy = policy.as_mut();
        self.expect_arrival(0);
        self.events.push(Event { at_s: self.scenario.rebalance_s, what: What::Rebalance });
        for (number, leave) in self.scenario.leaves.iter().enumerate() {
            self.events.push(Event { at_s: leave.at_s, what: What::Leave(number) });
        }
        if let Some(Watch { period_s, .. }) = &watch {
            self.events.push(Event { at_s: *period_s, what: What::Look });
        }
        while self.left > 0 {
            let Some(Event { at_s, what }) = self.events.pop() else { break };
            if matches!(what, What::Machine(machine, version) if version != self.versions[machine]) {
                continue;
            }
            self.cluster.come_to(at_s);
            match what {
                What::Machine(machine, _) => self.touch(machine),
                What::Arrival(job) => {
                    for _ in 0..self.jobs[job].parts {
                        self.begin(job, policy);
                    }
                    self.expect_arrival(job + 1);
                }
                What::Freeze(id) => self.freeze(id, policy),
                What::Arrive(id) => self.arrive(id, policy),
                What::Rebalance => self.expect_rebalance(),
                What::Leave(number) => self.leave(number, policy),
                What::Return(number) => self.come_back(number),
                What::Look => {
                    if let Some(Watch { period_s, show }) = &mut watch {
                        if show(&self.cluster).is_break() {
                            break;
                        }
                        self.events.push(Event { at_s: at_s + *period_s, what: What::Look });
                    }
                }
            }
            let may_move = match what {
                What::Rebalance => true,
                What::Machine(..) | What::Arrival(_) => policy.at_each_event(),
                _ => false,
            };
            if may_move {
                self.rebalance(policy);
            }
        }
        self.outcome.moves = self.cluster.moves;
        self.outcome
    }

    fn expect_arrival(&mut self, job: usize) {
        if let Some(Job { arrival_s, .. }) = self.jobs.get(job) {
            self.events.push(Event { at_s: *arrival_s, what: What::Arrival(job) });
        }
    }

    /// The next regular time, after the time at which something is there to be moved.
    fn expect_rebalance(&mut self) {
        let period_s = self.scenario.rebalance_s;
        let mut at_s = self.cluster.now_s + period_s;
        if self.cluster.machines.iter().all(|machine| machine.jobs.is_empty())
            && let Some(next) = self.events.peek()
        {
            at_s = at_s.max((next.at_s / period_s).ceil() * period_s);
        }
        self.events.push(Event { at_s, what: What::Rebalance });
    }

    /// A part of a job begins, or begins again.
    fn begin(&mut self, job: usize, policy: &mut dyn Policy) {
        let running = Running::new(self.next_part, job, self.jobs[job].part, self.cluster.now_s);
        self.next_part += 1;
        let machine = self.place(&running, policy);
        self.add(machine, running);
    }

    /// Where a part goes that comes at the next machine that is there.
    fn place(&mut self, running: &Running, policy: &mut dyn Policy) -> usize {
        let count = self.cluster.machines.len();
        let is_open = |machine: &usize| self.cluster.machines[*machine].is_open;
        let at = (0..count).map(|turn| (self.placed + turn) % count).find(is_open).unwrap_or(0);
        self.placed = at + 1;
        if self.memory_known || running.attained_s > 0.0 {
            return policy.place(&mut self.cluster, at, running);
        }
        policy.place(&mut self.cluster, at, &running.of_unknown_memory())
    }

    fn add(&mut self, machine: usize, running: Running) {
        self.note_ended(machine);
        self.cluster.machines[machine].add(running);
        self.touch(machine);
    }

    /// Brings one machine up to now and notes which jobs have ended there.
    fn note_ended(&mut self, machine: usize) {
        let now_s = self.cluster.now_s;
        for job in self.cluster.machines[machine].advance(now_s) {
            self.parts_left[job] -= 1;
            if self.parts_left[job] == 0 {
                let Job { arrival_s, cpu_s, .. } = self.jobs[job];
                self.outcome.slowdowns[job] = (now_s - arrival_s) / cpu_s;
                self.left -= 1;
            }
        }
    }

    /// A machine has changed: what was expected of it is out of date.
    fn touch(&mut self, machine: usize) {
        self.note_ended(machine);
        self.versions[machine] += 1;
        if let Some(at_s) = self.cluster.machines[machine].next_event_s() {
            self.events.push(Event { at_s, what: What::Machine(machine, self.versions[machine]) });
        }
    }

    fn rebalance(&mut self, policy: &mut dyn Policy) {
        for machine in 0..self.cluster.machines.len() {
            let before = self.cluster.machines[machine].jobs.len();
            self.note_ended(machine);
            if self.cluster.machines[machine].jobs.len() < before {
                self.touch(machine);
            }
        }
        self.moving(|cluster| policy.rebalance(cluster));
    }

    /// Expects what follows from the moves that `moves` makes.
    fn moving(&mut self, moves: impl FnOnce(&mut Cluster)) {
        let before = self.cluster.flights.len();
        moves(&mut self.cluster);
        for machine in std::mem::take(&mut self.cluster.changed) {
            self.touch(machine);
        }
        for flight in &self.cluster.flights[before..] {
            self.events.push(Event { at_s: flight.freeze_s, what: What::Freeze(flight.id) });
        }
    }
}
