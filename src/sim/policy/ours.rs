//! Ours: each machine has a [`Placement`] of its own, the one that runs on nodes, and is told what
//! a node would be told.

use rand::RngExt as _;

use super::{Cluster, Policy, Seen};
use crate::{
    job::{Constraints, Counters, History, JobId, JobRecord, JobSpec, SessionId},
    placement::{Action, Config, Decision, InFlight, Input, JobView, NodeName, NodeView, Placement},
    sim::{
        machine::{Figures, Running, Sharing},
        scenario::Scenario,
    },
};

/// Rounds of decisions at an event, at most, where moves take no time and show at once: in each,
/// every machine may send one job.
const ROUNDS: usize = 32;

pub(super) struct ScxMosix {
    names: Vec<NodeName>,
    placements: Vec<Placement>,
    at_each_event: bool,
    /// Whether it is told how much CPU time a job will need when it is placed.
    cpu_known: bool,
}

impl ScxMosix {
    /// A placement for each machine of a scenario that was checked, where machines share their CPUs
    /// so.
    pub(super) fn new(scenario: &Scenario, sharing: Sharing) -> Self {
        let count = scenario.machines.iter().map(|kind| kind.count).sum();
        let placement = Placement::new(sharing.placement(scenario));
        // A scenario that was checked has a valid configuration.
        let placement = placement.or_else(|_| Placement::new(Config::default())).into_iter();
        Self {
            names: (0..count).map(|machine| format!("m{machine}").into()).collect(),
            placements: placement.flat_map(|placement| vec![placement; count]).collect(),
            at_each_event: scenario.decide_at_events,
            cpu_known: scenario.jobs.cpu_known,
        }
    }

    /// A job's name by its number: each is at home at the machine where it runs.
    fn job_name(&self, id: usize, at: usize) -> JobId {
        JobId { home: self.names[at].clone(), pid: i32::try_from(id).unwrap_or(i32::MAX) }
    }

    fn node(&self, cluster: &Cluster, seen: Seen) -> NodeView {
        let Seen { machine, figures, age_ms } = seen;
        let Figures { cpus, speed, memory_mib, used_mib, weight, .. } = figures;
        let link_mbit = cluster.cost.map_or(f64::INFINITY, |cost| cost.link_mbit);
        NodeView {
            name: self.names[machine].clone(),
            cpus,
            speed_milli: milli(speed),
            load_milli: milli(figures.load()),
            weight_nano: (weight * 1e9) as u64,
            // Machines of a simulation share alike, as those of the papers.
            owners: None,
            free_memory_bytes: bytes((memory_mib - used_mib).max(0.0)),
            total_memory_bytes: bytes(memory_mib),
            swapped_bytes: bytes((used_mib - memory_mib).max(0.0)),
            depletion_bytes_per_s: 0,
            memory_stall_centi: 0,
            link_bytes_per_s: (link_mbit * 1e6 / 8.0) as u64,
            freeze_ms: cluster.cost.map_or(0, |cost| (cost.freeze_s * 1e3) as u64),
            work_ms: 0,
            age_ms,
            accepting: true,
            alive: cluster.machines[machine].is_open,
            features_ok: Ok(()),
        }
    }

    fn job(&mut self, cluster: &Cluster, running: &Running, here: usize) -> JobView {
        let frozen = cluster.cost.map_or(0.0, |cost| cost.frozen_mib(running.memory_mib, running.dirty_share));
        let since_ms = |then_s: f64| ((cluster.now_s - then_s) * 1e3) as u64;
        let counters = Counters { cpu_ns: (running.attained_s * 1e3) as u64 * 1_000_000, ..Counters::default() };
        let age_ms = since_ms(running.began_s);
        JobView {
            record: JobRecord {
                id: self.job_name(running.id, here),
                session: SessionId([0; 16]),
                spec: JobSpec::default(),
                constraints: Constraints::default(),
                history: History { counters, age_ms, demand_milli: 1_000, ..History::default() },
            },
            running_on: self.names[here].clone(),
            working_set_bytes: bytes(running.memory_mib),
            frozen_bytes: bytes(frozen),
            mapped_bytes: 0,
            since_last_move_ms: running.moved_s.map(since_ms),
            movable: Ok(()),
        }
    }

    /// What machine `here` knows: what it has seen; where all know all, the others as they will be
    /// when their moves are over.
    fn input(&mut self, cluster: &Cluster, here: usize) -> Input {
        let mut known: Vec<Seen> = cluster.known(here).collect();
        if cluster.is_transparent() {
            let others = cluster.flights.iter().filter(|flight| flight.from != here && flight.to != here);
            for flight in others {
                let still_there = cluster.machines[flight.from].get(flight.id);
                let Some(running) = flight.frozen.as_ref().or(still_there) else { continue };
                for seen in &mut known {
                    if seen.machine == flight.to {
                        seen.figures = seen.figures.with(running);
                    } else if seen.machine == flight.from && still_there.is_some() {
                        seen.figures = seen.figures.without(running);
                    }
                }
            }
        }
        let nodes = known.into_iter().map(|seen| self.node(cluster, seen)).collect();
        let jobs = cluster.machines[here].jobs.iter().map(|running| self.job(cluster, running, here)).collect();
        Input { jobs, nodes, ..self.input_alone(cluster, here) }
    }

    /// What machine `here` knows of itself.
    fn input_alone(&mut self, cluster: &Cluster, here: usize) -> Input {
        let flights = cluster.flights.iter().filter(|flight| flight.from == here || flight.to == here);
        let in_flight = flights.map(|flight| InFlight {
            job: self.job_name(flight.id, flight.from),
            source: self.names[flight.from].clone(),
            target: self.names[flight.to].clone(),
        });
        let in_flight = in_flight.collect();
        let nodes = cluster.seen(here, here).into_iter().map(|seen| self.node(cluster, seen)).collect();
        Input {
            here: self.names[here].clone(),
            now_ms: cluster.now_ms(),
            nodes,
            jobs: Vec::new(),
            in_flight,
            draining: false,
        }
    }

    /// The number of the machine of that name.
    fn machine(&self, name: &NodeName) -> Option<usize> {
        name.strip_prefix('m')?.parse().ok().filter(|machine| *machine < self.names.len())
    }

    /// Asks the machine that was chosen for a job of `here` whether it takes it; says which it is,
    /// if so.
    fn admitted(&mut self, cluster: &Cluster, here: usize, decision: &Decision, job: &JobView) -> Option<usize> {
        let Action::Move { target, cause } = &decision.action else { return None };
        let to = self.machine(target)?;
        let there = self.input_alone(cluster, to);
        if self.placements[to].admit(&there, job, *cause, decision.limit_milli).is_err() {
            self.placements[here].busy(job.id(), target, there.now_ms, 0);
            return None;
        }
        Some(to)
    }

    /// A job is at its target at once, and where all know all this shows at once.
    fn settle(&mut self, cluster: &Cluster, here: usize, to: usize, job: &JobId) {
        if cluster.is_transparent() {
            let target = &self.names[to];
            self.placements[to].released(job, target);
            self.placements[here].released(job, target);
        }
    }

    /// Lets one machine decide and carries its decisions out; says whether there were any.
    fn decide(&mut self, cluster: &mut Cluster, here: usize) -> bool {
        let input = self.input(cluster, here);
        let seed = cluster.random.random();
        let decisions = self.placements[here].decide(&input, seed);
        for (index, decision) in decisions.iter().enumerate() {
            if let Some(to) = self.admitted(cluster, here, decision, &input.jobs[index]) {
                cluster.move_job(cluster.machines[here].jobs[index].id, here, to);
                if cluster.cost.is_none() {
                    self.settle(cluster, here, to, &decision.job);
                }
                // The jobs here are others now.
                return true;
            }
        }
        false
    }
}

fn milli(value: f64) -> u32 {
    (value * 1e3).round() as u32
}

fn bytes(mib: f64) -> u64 {
    (mib * f64::from(1 << 20)) as u64
}

impl Policy for ScxMosix {
    fn place(&mut self, cluster: &mut Cluster, at: usize, job: &Running) -> usize {
        let expected_ms = self.cpu_known.then_some((job.remaining_s * 1e3) as u64);
        let job = self.job(cluster, job, at);
        let input = Input { jobs: Vec::new(), ..self.input(cluster, at) };
        let seed = cluster.random.random();
        let decision = self.placements[at].assign(&input, &job, expected_ms, seed);
        let to = self.admitted(cluster, at, &decision, &job).unwrap_or(at);
        self.settle(cluster, at, to, job.id());
        to
    }

    fn rebalance(&mut self, cluster: &mut Cluster) {
        for _ in 0..if cluster.is_transparent() { ROUNDS } else { 1 } {
            let mut moved = false;
            for here in 0..cluster.machines.len() {
                if !cluster.machines[here].jobs.is_empty() && cluster.machines[here].is_open {
                    moved |= self.decide(cluster, here);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn at_each_event(&self) -> bool {
        self.at_each_event
    }
}
