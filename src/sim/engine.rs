//! One run: jobs arrive, run, are moved and end, in the order of their times.

use std::{cmp::Ordering, collections::BinaryHeap};

use rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus};

use super::{
    machine::{Machine, Running},
    policy::{Cluster, Flight, Policy, PolicyName},
    scenario::Scenario,
    workload::{self, Job},
};

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Each job's time from arrival to the end of its last part in relation to its CPU demand, in the order of arrival.
    pub slowdowns: Vec<f64>,
    /// Moves of jobs that had begun.
    pub moves: u64,
}

/// What happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// Something on a machine changes by itself; the second figure is out of date if the machine has changed since.
    Machine(usize, u64),
    /// A part that moves stops at the one machine.
    Freeze(usize),
    /// It goes on at the other.
    Arrive(usize),
    /// The next job arrives.
    Arrival(usize),
    /// Policies may move jobs.
    Rebalance,
}

#[derive(Debug, Clone, Copy)]
struct Event {
    at_s: f64,
    what: What,
}

impl Ord for Event {
    /// The earliest is the greatest, as the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at_s.total_cmp(&self.at_s).then_with(|| other.what.cmp(&self.what))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

/// Runs `scenario` under a policy. The seed determines the jobs and all that is random.
#[must_use]
pub fn run(scenario: &Scenario, policy: PolicyName, seed: u64) -> Outcome {
    Engine::new(scenario, policy, seed).run(policy)
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
    /// The number of the next part.
    next_part: usize,
}

impl<'a> Engine<'a> {
    fn new(scenario: &'a Scenario, policy: PolicyName, seed: u64) -> Self {
        let jobs = workload::draw(scenario, seed);
        let machines: Vec<Machine> = scenario
            .machines
            .iter()
            .flat_map(|kind| std::iter::repeat_n(kind, kind.count))
            .map(|kind| Machine::new(kind, policy.sharing(), scenario.thrashing))
            .collect();
        // A stream of its own: policies that draw differently must see the same jobs.
        let random = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x9e37_79b9_7f4a_7c15);
        Self {
            scenario,
            versions: vec![0; machines.len()],
            events: BinaryHeap::new(),
            outcome: Outcome { slowdowns: vec![0.0; jobs.len()], moves: 0 },
            parts_left: jobs.iter().map(|job| job.parts).collect(),
            left: jobs.len(),
            next_part: 0,
            cluster: Cluster {
                now_s: 0.0,
                machines,
                random,
                cost: policy.pays_for_moves().then_some(scenario.moves),
                flights: Vec::new(),
                changed: Vec::new(),
                moves: 0,
            },
            jobs,
        }
    }

    fn run(mut self, name: PolicyName) -> Outcome {
        let mut policy = name.policy(self.scenario);
        self.expect_arrival(0);
        self.events.push(Event { at_s: self.scenario.rebalance_s, what: What::Rebalance });
        while self.left > 0 {
            let Some(event) = self.events.pop() else { break };
            match event.what {
                What::Machine(machine, version) if version != self.versions[machine] => continue,
                What::Machine(machine, _) => {
                    self.cluster.now_s = event.at_s;
                    self.touch(machine);
                    if policy.at_each_event() {
                        self.rebalance(policy.as_mut());
                    }
                }
                What::Arrival(job) => {
                    self.advance(event.at_s);
                    let Job { parts, part, .. } = self.jobs[job];
                    for _ in 0..parts {
                        let machine = policy.place(&mut self.cluster, part.memory_mib);
                        self.cluster.machines[machine].add(Running::new(self.next_part, job, part, event.at_s));
                        self.next_part += 1;
                        self.touch(machine);
                    }
                    self.expect_arrival(job + 1);
                    if policy.at_each_event() {
                        self.rebalance(policy.as_mut());
                    }
                }
                What::Freeze(id) => {
                    self.advance(event.at_s);
                    self.freeze(id);
                }
                What::Arrive(id) => {
                    self.advance(event.at_s);
                    self.arrive(id);
                }
                What::Rebalance => {
                    self.advance(event.at_s);
                    self.rebalance(policy.as_mut());
                    self.expect_rebalance();
                }
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

    /// Brings all machines up to a time.
    fn advance(&mut self, now_s: f64) {
        self.cluster.now_s = now_s;
        for machine in 0..self.cluster.machines.len() {
            if self.note_ended(machine) {
                self.touch(machine);
            }
        }
    }

    /// Brings one machine up to now; says whether jobs have ended there.
    fn note_ended(&mut self, machine: usize) -> bool {
        let now_s = self.cluster.now_s;
        let ended = self.cluster.machines[machine].advance(now_s);
        for job in &ended {
            self.parts_left[*job] -= 1;
            if self.parts_left[*job] == 0 {
                let Job { arrival_s, cpu_s, .. } = self.jobs[*job];
                self.outcome.slowdowns[*job] = (now_s - arrival_s) / cpu_s;
                self.left -= 1;
            }
        }
        !ended.is_empty()
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
        self.advance(self.cluster.now_s);
        let before = self.cluster.flights.len();
        policy.rebalance(&mut self.cluster);
        for machine in std::mem::take(&mut self.cluster.changed) {
            self.touch(machine);
        }
        for flight in &self.cluster.flights[before..] {
            self.events.push(Event { at_s: flight.freeze_s, what: What::Freeze(flight.id) });
        }
    }

    /// The part that moves leaves its machine, if it has not ended meanwhile.
    fn freeze(&mut self, id: usize) {
        let Some(index) = self.cluster.flights.iter().position(|flight| flight.id == id) else { return };
        let from = self.cluster.flights[index].from;
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

    fn arrive(&mut self, id: usize) {
        let Some(index) = self.cluster.flights.iter().position(|flight| flight.id == id) else { return };
        let Flight { to, frozen, .. } = self.cluster.flights.swap_remove(index);
        if let Some(mut running) = frozen {
            running.moved_s = Some(self.cluster.now_s);
            self.cluster.machines[to].add(running);
            self.touch(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &str) -> Scenario {
        let mut scenario = Scenario::named(name);
        scenario.arrivals.until_s = 1_000.0;
        scenario
    }

    #[test]
    fn a_run_is_determined_by_its_seed_and_all_jobs_end() {
        for policy in PolicyName::ALL {
            let one = run(&scenario("oc-fit"), policy, 3);
            assert_eq!(one, run(&scenario("oc-fit"), policy, 3), "{policy:?}");
            // The fastest machine has speed 1, and each part of a parallel job has all of its demand.
            assert!(one.slowdowns.iter().all(|slowdown| *slowdown >= 1.0 - 1e-6), "{policy:?}");
        }
    }

    #[test]
    fn a_job_alone_on_the_fastest_machine_is_not_slowed_down() {
        let mut scenario = scenario("oc-literal");
        scenario.arrivals.mean_gap_s = 1e9;
        scenario.arrivals.until_s = 3e9;
        scenario.parallel = None;
        scenario.jobs.most_memory_mib = 1.0;
        let seed = (0..).find(|seed| !workload::draw(&scenario, *seed).is_empty()).unwrap();
        let outcome = run(&scenario, PolicyName::Clairvoyant, seed);
        assert!(outcome.slowdowns.iter().all(|slowdown| (slowdown - 1.0).abs() < 1e-6), "{outcome:?}");
    }

    #[test]
    fn moves_are_made_if_they_pay() {
        let moves = |freeze_s: f64| {
            let mut scenario = scenario("oc-fit");
            scenario.moves.freeze_s = freeze_s;
            let outcome = run(&scenario, PolicyName::ScxMosixReal, 3);
            assert!(outcome.slowdowns.iter().all(|slowdown| *slowdown >= 1.0 - 1e-6), "{outcome:?}");
            outcome.moves
        };
        let free = run(&scenario("oc-fit"), PolicyName::ScxMosix, 3).moves;
        assert!(free > 10, "{free}");
        assert!(moves(0.05) > free / 4, "{} of {free}", moves(0.05));
        assert_eq!(moves(1e6), 0);
    }
}
