//! What placement is told: plain values, converted by the daemon (or made up by a simulator).
//! Everything is an integer, so that no input can be "not a number".

use std::{iter, sync::Arc};

use super::cost::{self, tasks_per_cpu};
use super::slowdown;

/// A node's name, unique in the cluster.
pub type NodeName = Arc<str>;

/// A job's name, unique in the cluster and readable, as reasons show it to users: `n1/4711` (home node and root pid).
pub type JobId = Arc<str>;

/// All that one decision rests on.
#[derive(Debug, Clone)]
pub struct Input {
    /// This node, which must be among `nodes`.
    pub here: NodeName,
    /// Now, in milliseconds of any monotonic clock that all inputs of one [`super::Placement`] share.
    pub now_ms: u64,
    /// Every known node, this one included.
    pub nodes: Vec<NodeView>,
    /// The jobs that run here: this node's own and guests.
    pub jobs: Vec<JobView>,
    /// The moves from and to this node that are under way.
    pub in_flight: Vec<InFlight>,
    /// Whether this node is to be rid of its guests.
    pub draining: bool,
}

impl Input {
    /// The view of a node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| &*node.name == name)
    }
}

/// One node as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Its CPUs. A node with none is no target.
    pub cpus: u32,
    /// The speed of one of its CPUs, in thousandths of the standard CPU. A node with none is no target.
    pub speed_milli: u32,
    /// Its load, in thousandths: runnable tasks × standard speed / (speed × CPUs), as MOSIX defines it.
    pub load_milli: u32,
    /// The sum of its tasks' weights ([`slowdown::weight`]), in thousand-millionths per second.
    pub weight_nano: u64,
    /// What its owners' programs are of that, if they come before guests there; `None` where all share alike.
    pub owners: Option<Owners>,
    /// Memory that programs could still get, in bytes (`MemAvailable`).
    pub free_memory_bytes: u64,
    /// Its memory, in bytes.
    pub total_memory_bytes: u64,
    /// What programs lack: what they have in swap and need, in bytes.
    pub swapped_bytes: u64,
    /// By how much its free memory gets less, in bytes per second; 0 if it does not, or is not known.
    pub memory_falls_bytes_per_s: u64,
    /// Share of the last ten seconds in which all of its tasks stood still for lack of memory, in hundredths of a percent (PSI, "full").
    pub memory_stall_centi: u16,
    /// What a program's memory gets over the network to it, in bytes per second, as measured by moves before.
    pub link_bytes_per_s: u64,
    /// How long a move to it stops a program even if it has no memory, in milliseconds, as measured by moves before.
    pub freeze_ms: u64,
    /// CPU time that a move between here and it takes at either end, agents' service while the program is away included, in milliseconds, as
    /// measured before; 0 if it was not: then a CPU is taken to be busy for as long as the program stands still.
    pub work_ms: u64,
    /// How old this view is, in milliseconds; 0 for this node.
    pub age_ms: u64,
    /// Whether it takes guests. Its own jobs may return in any case.
    pub accepting: bool,
    /// Whether membership holds it for alive.
    pub alive: bool,
    /// Why programs from here cannot run there (CPU or kernel features, CRIU missing), if so.
    pub features_ok: Result<(), Arc<str>>,
}

impl NodeView {
    /// The runnable tasks that share each of its CPUs with a job that is at home there, or with a guest.
    #[must_use]
    pub fn tasks_per_cpu(&self, is_home: bool) -> f64 {
        let all = tasks_per_cpu(self.load_milli, self.speed_milli);
        match self.owners {
            Some(owners) if is_home => all.min(cost::demand(owners.demand_milli) / f64::from(self.cpus.max(1))),
            _ => all,
        }
    }
}

/// What the programs of a node's own users ask for, guests not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owners {
    /// CPU that they use or wait for, in thousandths of one CPU.
    pub demand_milli: u32,
    /// The sum of their weights, in thousand-millionths per second.
    pub weight_nano: u64,
}

/// One job that runs here: a program started by `scx_mosix run` with all its descendants, which move together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// Its name.
    pub id: JobId,
    /// The node where it was started.
    pub home: NodeName,
    /// The node where it runs.
    pub running_on: NodeName,
    /// CPU that it asks for: what it gets plus the time it is runnable and waits, decayed, in thousandths of one CPU. This is the
    /// job's share of the runnable tasks here.
    pub demand_milli: u32,
    /// CPU time that it has had since it was started, wherever it was, in milliseconds.
    pub attained_ms: u64,
    /// What its user started, of which it came, by the pid of its root at home: jobs of one tree are waited for together. `None`: alone.
    pub tree: Option<i32>,
    /// CPU time that all jobs of its tree have had, in milliseconds; less than `attained_ms` counts as that. Who waits for one of them waits
    /// for all, so a second matters as much to each.
    pub tree_attained_ms: u64,
    /// The memory that it needs, in bytes: what is resident, or its working set if that is more.
    pub rss_bytes: u64,
    /// What would have to cross while it stands still, in bytes.
    pub frozen_bytes: u64,
    /// What of it is of mapped files, in bytes: where it goes, the caches of home's files are empty.
    pub mapped_bytes: u64,
    /// What it has read from disks and written to files since it was started, wherever it was, in bytes: away from home that crosses the link.
    pub io_bytes: u64,
    /// What was reckoned to cross between its home and the node where it runs, in bytes per second, when it was sent there; `None` at home. It is
    /// not brought back because the two ends think otherwise of one link, or it would be sent to and fro.
    pub home_link_bytes_per_s: Option<u64>,
    /// Time since it was started, in milliseconds.
    pub age_ms: u64,
    /// Time since it arrived here; `None` if it never moved.
    pub since_last_move_ms: Option<u64>,
    /// Why it cannot move, if so: one readable reason.
    pub movable: Result<(), Arc<str>>,
    /// Left alone by the balancer; an explicit request still moves it.
    pub pinned: bool,
    /// The nodes that its user allows; `None` for any. Home is always allowed.
    pub allowed_nodes: Option<Vec<NodeName>>,
}

impl JobView {
    /// Whether this job is a guest where it runs.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        self.home != self.running_on
    }

    /// Whether it came of the same command as `other`, or is that.
    #[must_use]
    pub fn is_of_the_tree_of(&self, other: &Self) -> bool {
        self.tree.is_some() && self.tree == other.tree && self.home == other.home
    }

    /// Whether its user lets it run at `node`.
    #[must_use]
    pub fn allows(&self, node: &str) -> bool {
        self.allowed_nodes.as_ref().is_none_or(|nodes| *self.home == *node || nodes.iter().any(|name| **name == *node))
    }

    /// The nodes that only jobs like this one may go to: its home, and those that its user named.
    pub(super) fn own_nodes(&self) -> impl Iterator<Item = &NodeName> {
        let named = self.allowed_nodes.iter().flatten().filter(|node| **node != self.home);
        iter::once(&self.home).chain(named)
    }

    /// What it adds to the cost of a node, where jobs are equally young below `young_ms` of CPU time. A job that asks for nothing just now counts as a thousandth of a CPU, so that costs can be
    /// compared in terms of its own.
    #[must_use]
    pub fn load(&self, young_ms: u64) -> slowdown::Load {
        let demand = f64::from(self.demand_milli.max(1)) / 1_000.0;
        let attained_s = self.attained_ms.max(self.tree_attained_ms) as f64 / 1_000.0;
        let weight = slowdown::weight(demand, attained_s, young_ms as f64 / 1_000.0);
        slowdown::Load { demand, weight, memory: self.rss_bytes as f64 }
    }

    /// What crosses the link for it while it is away from home, in bytes for each second of its CPU time, where jobs are equally young below
    /// `young_ms` of that: what it read at its start says little of how it goes on.
    #[must_use]
    pub fn traffic_bytes_per_s(&self, young_ms: u64) -> f64 {
        self.io_bytes as f64 * 1_000.0 / self.attained_ms.max(young_ms).max(1) as f64
    }

    /// How long, in seconds, it will probably go on to gain by a move: a process lives on for about as long as it has had CPU time, and what
    /// has lasted here since it came is likely to last as long again.
    #[must_use]
    pub fn horizon_s(&self) -> f64 {
        let lasted_ms = self.attained_ms.min(self.since_last_move_ms.unwrap_or(self.age_ms));
        lasted_ms.max(1) as f64 / 1_000.0
    }

    /// How long, in seconds, it will probably go on at its node, where it takes so many times as long as on a CPU of its own: as long as it
    /// has, and as it has been there.
    #[must_use]
    pub fn stays_s(&self, stretch: f64) -> f64 {
        let lasts_s = self.attained_ms.max(1) as f64 / 1_000.0 * stretch;
        let since_s = self.since_last_move_ms.map_or(f64::INFINITY, |ms| ms as f64 / 1_000.0);
        lasts_s.min(since_s)
    }
}

/// A move under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    /// The job.
    pub job: JobId,
    /// The node that it leaves.
    pub source: NodeName,
    /// The node that it goes to.
    pub target: NodeName,
}
