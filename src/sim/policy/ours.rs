//! Ours: each machine has a [`Placement`] of its own, the one that runs on nodes, and is told what a node would be told.

use std::sync::Arc;

use rand::RngExt as _;

use super::{Cluster, Policy};
use crate::{
    placement::{Action, Config, Decision, InFlight, Input, JobId, JobView, NodeName, NodeView, Placement},
    sim::{
        machine::{Machine, Running},
        scenario::Scenario,
    },
};

/// Rounds of decisions at an event, at most, where moves take no time: in each, every machine may send one job.
const ROUNDS: usize = 32;

pub(super) struct ScxMosix {
    names: Vec<NodeName>,
    placements: Vec<Placement>,
    /// The names of jobs, by number.
    jobs: Vec<JobId>,
    /// How often a job arrived.
    arrivals: usize,
    at_each_event: bool,
}

impl ScxMosix {
    /// A placement for each machine of a scenario that was checked.
    pub(super) fn new(scenario: &Scenario) -> Self {
        let count = scenario.machines.iter().map(|kind| kind.count).sum();
        let placement = Placement::new(scenario.placement.clone());
        // A scenario that was checked has a valid configuration.
        let placement = placement.or_else(|_| Placement::new(Config::default())).into_iter();
        Self {
            names: (0..count).map(|machine| format!("m{machine}").into()).collect(),
            placements: placement.flat_map(|placement| vec![placement; count]).collect(),
            jobs: Vec::new(),
            arrivals: 0,
            at_each_event: scenario.decide_at_events,
        }
    }

    fn job_name(&mut self, id: usize) -> JobId {
        for next in self.jobs.len()..=id {
            self.jobs.push(next.to_string().into());
        }
        self.jobs[id].clone()
    }

    fn node(&self, cluster: &Cluster, machine: usize) -> NodeView {
        let Machine { cpus, speed, memory_mib, used_mib, .. } = cluster.machines[machine];
        let jobs = &cluster.machines[machine].jobs;
        let weight: f64 = jobs.iter().map(placement_weight).sum();
        let link_mbit = cluster.cost.map_or(f64::INFINITY, |cost| cost.link_mbit);
        NodeView {
            name: self.names[machine].clone(),
            cpus,
            speed_milli: milli(speed),
            load_milli: milli(jobs.len() as f64 / (f64::from(cpus) * speed)),
            weight_nano: (weight * 1e9) as u64,
            free_memory_bytes: bytes((memory_mib - used_mib).max(0.0)),
            total_memory_bytes: bytes(memory_mib),
            swapped_bytes: bytes((used_mib - memory_mib).max(0.0)),
            memory_falls_bytes_per_s: 0,
            memory_stall_centi: 0,
            link_bytes_per_s: (link_mbit * 1e6 / 8.0) as u64,
            freeze_ms: cluster.cost.map_or(0, |cost| (cost.freeze_s * 1e3) as u64),
            age_ms: 0,
            accepting: true,
            alive: true,
            features_ok: Ok(()),
        }
    }

    fn job(&mut self, cluster: &Cluster, running: &Running, here: usize) -> JobView {
        let frozen = cluster.cost.map_or(0.0, |cost| cost.frozen_mib(running.memory_mib, running.dirty_share));
        let since_ms = |then_s: f64| ((cluster.now_s - then_s) * 1e3) as u64;
        JobView {
            id: self.job_name(running.id),
            home: self.names[here].clone(),
            running_on: self.names[here].clone(),
            demand_milli: 1_000,
            attained_ms: (running.attained_s * 1e3) as u64,
            rss_bytes: bytes(running.memory_mib),
            frozen_bytes: bytes(frozen),
            age_ms: since_ms(running.began_s),
            since_last_move_ms: running.moved_s.map(since_ms),
            movable: Ok(()),
            pinned: false,
            allowed_nodes: None,
        }
    }

    /// What machine `here` knows: all machines as they are now, and as they will be when the moves of others are over.
    fn input(&mut self, cluster: &Cluster, here: usize) -> Input {
        let mut nodes: Vec<NodeView> = (0..cluster.machines.len()).map(|machine| self.node(cluster, machine)).collect();
        let mut in_flight = Vec::new();
        for flight in &cluster.flights {
            if flight.from == here || flight.to == here {
                in_flight.push(InFlight {
                    job: self.job_name(flight.id),
                    source: self.names[flight.from].clone(),
                    target: self.names[flight.to].clone(),
                });
                continue;
            }
            let still_there = cluster.machines[flight.from].get(flight.id);
            let Some(running) = flight.frozen.as_ref().or(still_there) else { continue };
            arrives(&mut nodes[flight.to], running);
            if still_there.is_some() {
                leaves(&mut nodes[flight.from], running);
            }
        }
        let jobs = cluster.machines[here].jobs.iter().map(|running| self.job(cluster, running, here)).collect();
        let now_ms = (cluster.now_s * 1e3) as u64;
        Input { here: self.names[here].clone(), now_ms, nodes, jobs, in_flight }
    }

    /// Lets one machine decide and carries its decisions out; says whether there were any.
    fn decide(&mut self, cluster: &mut Cluster, here: usize) -> bool {
        let input = self.input(cluster, here);
        let seed = cluster.random.random();
        let decisions = self.placements[here].decide(&input, seed);
        let mut moved = false;
        for (index, Decision { job, action, limit_milli, .. }) in decisions.into_iter().enumerate() {
            let Action::Move { target, cause } = action else { continue };
            let Some(to) = self.names.iter().position(|name| *name == target) else { continue };
            let there = self.input(cluster, to);
            if self.placements[to].admit(&there, &input.jobs[index], cause, limit_milli).is_ok() {
                let id = cluster.machines[here].jobs[index].id;
                cluster.move_job(id, here, to);
                moved = true;
                if cluster.cost.is_none() {
                    // It is there already, and shows.
                    self.placements[here].released(&job, &target);
                    self.placements[to].released(&job, &target);
                }
                // The jobs here are others now.
                break;
            }
            self.placements[here].released(&job, &target);
        }
        moved
    }
}

fn placement_weight(running: &Running) -> f64 {
    crate::placement::slowdown::weight(1.0, running.attained_s)
}

fn milli(value: f64) -> u32 {
    (value * 1e3).round() as u32
}

fn bytes(mib: f64) -> u64 {
    (mib * f64::from(1 << 20)) as u64
}

fn load_milli(node: &NodeView) -> u32 {
    1_000_000 / (node.cpus * node.speed_milli)
}

fn arrives(node: &mut NodeView, running: &Running) {
    node.load_milli += load_milli(node);
    node.weight_nano += (placement_weight(running) * 1e9) as u64;
    let needed = bytes(running.memory_mib);
    node.swapped_bytes += needed.saturating_sub(node.free_memory_bytes);
    node.free_memory_bytes = node.free_memory_bytes.saturating_sub(needed);
}

fn leaves(node: &mut NodeView, running: &Running) {
    node.load_milli = node.load_milli.saturating_sub(load_milli(node));
    node.weight_nano = node.weight_nano.saturating_sub((placement_weight(running) * 1e9) as u64);
    let freed = bytes(running.memory_mib);
    node.free_memory_bytes += freed.saturating_sub(node.swapped_bytes);
    node.swapped_bytes = node.swapped_bytes.saturating_sub(freed);
}

impl Policy for ScxMosix {
    /// Jobs are started at each machine in turn, and may begin elsewhere.
    fn place(&mut self, cluster: &mut Cluster, memory_mib: f64) -> usize {
        let here = self.arrivals % cluster.machines.len();
        self.arrivals += 1;
        let input = self.input(cluster, here);
        let fresh = JobView {
            id: Arc::from("new"),
            home: self.names[here].clone(),
            running_on: self.names[here].clone(),
            demand_milli: 1_000,
            attained_ms: 0,
            rss_bytes: bytes(memory_mib),
            frozen_bytes: 0,
            age_ms: 0,
            since_last_move_ms: None,
            movable: Ok(()),
            pinned: false,
            allowed_nodes: None,
        };
        let seed = cluster.random.random();
        let decision = self.placements[here].assign(&input, &fresh, seed);
        let target = decision.target().unwrap_or(&self.names[here]);
        self.placements[here].released(&fresh.id, target);
        self.names.iter().position(|name| name == target).unwrap_or(here)
    }

    fn rebalance(&mut self, cluster: &mut Cluster) {
        for _ in 0..ROUNDS {
            let mut moved = false;
            for here in 0..cluster.machines.len() {
                if !cluster.machines[here].jobs.is_empty() {
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
