//! This node, and the cluster as it sees it.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{Labels, define};
use crate::{
    api::view::{NodeState, NodeSummary, SchedExt},
    cluster::Traffic,
};

/// What is told of a node and its cluster at a time.
pub struct Figures<'a> {
    /// The rows of all nodes.
    pub nodes: &'a [Arc<NodeSummary>],
    /// Jobs of this node that run elsewhere, each with a home agent.
    pub away: usize,
    /// Guests here, each with a guest agent.
    pub guests: usize,
    /// Moves out of here that are under way.
    pub moves: usize,
    /// Events that telemetry lost since the daemon began.
    pub lost_events: u64,
    /// Gossip's datagrams since the daemon began.
    pub traffic: Traffic,
}

/// A figure that goes up and down.
type Level = Gauge<f64, AtomicU64>;

/// Gauges and counters of a node.
pub struct Node {
    cpus: Level,
    speed: Level,
    busy: Level,
    load: Level,
    memory: Level,
    available: Level,
    pressure: Family<Labels<2>, Level>,
    jobs: Level,
    agents: Family<Labels<1>, Level>,
    accepting: Level,
    scheduler: Level,
    moves: Level,
    lost: Counter,
    nodes: Family<Labels<1>, Level>,
    oldest: Level,
    datagrams: Family<Labels<1>, Counter>,
    bytes: Family<Labels<1>, Counter>,
    refused: Counter,
}

/// The states of nodes that are counted.
const STATES: [(NodeState, &str); 4] = [
    (NodeState::Alive, "alive"),
    (NodeState::Suspect, "suspect"),
    (NodeState::Leaving, "leaving"),
    (NodeState::Dead, "dead"),
];

impl Node {
    pub fn define(registry: &mut Registry) -> Self {
        let ratio = || Some(Unit::Other("ratio".to_owned()));
        let bytes = || Some(Unit::Bytes);
        let r = registry;
        Self {
            cpus: define(r, "cpus", None, "CPUs of this node"),
            speed: define(r, "cpu_speed", ratio(), "Measured speed of one CPU; 1 is the standard CPU's"),
            busy: define(r, "cpu_busy", ratio(), "How busy this node's CPUs were in the last seconds"),
            load: define(
                r,
                "load",
                None,
                "Runnable tasks per CPU of standard speed, averaged, as placement compares it",
            ),
            memory: define(r, "memory_size", bytes(), "Memory of this node"),
            available: define(r, "memory_available", bytes(), "Memory that programs could be given without swapping"),
            pressure: define(
                r,
                "pressure",
                ratio(),
                "Share of the last ten seconds in which some or all tasks waited for a resource",
            ),
            jobs: define(r, "jobs", None, "Jobs whose home is this node"),
            agents: define(
                r,
                "agents",
                None,
                "Agents at this node: home, one for each job that is away; guest, one for each guest",
            ),
            accepting: define(r, "accepts_guests", None, "1 if this node takes guests, 0 if not"),
            scheduler: define(r, "scheduler_attached", None, "1 while the sched_ext scheduler is in force, 0 if not"),
            moves: define(r, "moves_under_way", None, "Moves out of this node that are under way"),
            lost: define(r, "telemetry_lost_events", None, "Events of tasks that came faster than they were read"),
            nodes: define(r, "nodes", None, "Nodes of the cluster, as this node sees them"),
            oldest: define(
                r,
                "gossip_oldest_report",
                Some(Unit::Seconds),
                "Age of the oldest report of a node that is alive",
            ),
            datagrams: define(r, "gossip_datagrams", None, "Datagrams of gossip"),
            bytes: define(r, "gossip", bytes(), "Datagrams of gossip, without UDP's headers"),
            refused: define(
                r,
                "gossip_refused_datagrams",
                None,
                "Datagrams that were not of the cluster, late or too many",
            ),
        }
    }

    pub fn set(&self, figures: &Figures<'_>) {
        let Figures { nodes, away, guests, moves, lost_events, traffic } = figures;
        if let Some(row) = nodes.iter().find(|row| row.local) {
            self.set_local(row);
        }
        for (side, count) in [("home", *away), ("guest", *guests)] {
            self.agents.get_or_create(&[("side", side)]).set(count as f64);
        }
        self.moves.set(*moves as f64);
        raise(&self.lost, *lost_events);
        for (state, name) in STATES {
            let count = nodes.iter().filter(|row| row.state == state).count();
            self.nodes.get_or_create(&[("state", name)]).set(count as f64);
        }
        let alive = nodes.iter().filter(|row| row.state == NodeState::Alive);
        self.oldest.set(alive.map(|row| row.age_ms).max().unwrap_or_default() as f64 / 1_000.0);
        let directions = [
            ("received", traffic.received_datagrams, traffic.received_bytes),
            ("sent", traffic.sent_datagrams, traffic.sent_bytes),
        ];
        for (direction, datagrams, bytes) in directions {
            raise(&self.datagrams.get_or_create(&[("direction", direction)]), datagrams);
            raise(&self.bytes.get_or_create(&[("direction", direction)]), bytes);
        }
        raise(&self.refused, traffic.refused_datagrams);
    }

    fn set_local(&self, row: &NodeSummary) {
        self.cpus.set(f64::from(row.cpus));
        self.speed.set(row.cpu_speed);
        self.busy.set(row.cpu_busy_percent / 100.0);
        self.load.set(row.load);
        self.memory.set(row.memory_total_bytes as f64);
        self.available.set(row.memory_available_bytes as f64);
        let stalls = [
            ("cpu", "some", row.pressure.cpu_some_percent),
            ("memory", "some", row.pressure.memory_some_percent),
            ("memory", "full", row.pressure.memory_full_percent),
            ("io", "some", row.pressure.io_some_percent),
        ];
        for (resource, share, percent) in stalls {
            self.pressure.get_or_create(&[("resource", resource), ("share", share)]).set(percent / 100.0);
        }
        self.jobs.set(f64::from(row.jobs));
        self.accepting.set(f64::from(u8::from(row.refuses_because.is_none())));
        self.scheduler.set(f64::from(u8::from(row.sched_ext == SchedExt::Attached)));
    }
}

/// Lets a counter follow one that is kept elsewhere.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}
