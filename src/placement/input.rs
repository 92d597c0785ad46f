//! What placement is told: plain values, converted by the daemon (or made up by a simulator).
//! Everything is an integer, so that no input can be "not a number".

use std::{iter, sync::Arc};

use super::cost::{self, tasks_per_cpu};
use super::slowdown;
use crate::job::{JobId, JobRecord};

/// A node's name, unique in the cluster.
pub type NodeName = Arc<str>;

/// All that one decision rests on.
#[derive(Debug, Clone)]
pub struct Input {
    /// This node, which must be among `nodes`.
    pub here: NodeName,
    /// Now, in milliseconds of any monotonic clock that all inputs of one [`super::Placement`]
    /// share.
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
    /// The speed of one of its CPUs, in thousandths of the standard CPU. A node with none is no
    /// target.
    pub speed_milli: u32,
    /// Its load, in thousandths: runnable tasks × standard speed / (speed × CPUs), as MOSIX defines
    /// it.
    pub load_milli: u32,
    /// The sum of its tasks' weights ([`slowdown::weight`]), in thousand-millionths per second.
    pub weight_nano: u64,
    /// What its owners' programs are of that, if they come before guests there; `None` where all
    /// share alike.
    pub owners: Option<Owners>,
    /// Memory that programs could still get, in bytes (`MemAvailable`).
    pub free_memory_bytes: u64,
    /// Its memory, in bytes.
    pub total_memory_bytes: u64,
    /// What programs lack: what they have in swap and need, in bytes.
    pub swapped_bytes: u64,
    /// Its memory depletion rate in bytes per second; 0 if free memory does not shrink, or that is
    /// not known.
    pub depletion_bytes_per_s: u64,
    /// Share of the last ten seconds in which all of its tasks stood still for lack of memory, in
    /// hundredths of a percent (PSI, "full").
    pub memory_stall_centi: u16,
    /// What a program's memory gets over the network to it, in bytes per second, as measured by
    /// moves before.
    pub link_bytes_per_s: u64,
    /// How long a move to it stops a program even if it has no memory, in milliseconds, as measured
    /// by moves before.
    pub freeze_ms: u64,
    /// CPU time that a move between here and it takes at either end, agents' service while the
    /// program is away included, in milliseconds, as measured before; 0 if it was not: then a CPU
    /// is taken to be busy for as long as the program stands still.
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
    /// The runnable tasks that share each of its CPUs with a job that is at home there, or with a
    /// guest.
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

/// One job that runs here: a program started by `scx_mosix run` with all its descendants, which
/// move together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// The job, as it is now.
    pub record: JobRecord,
    /// The node where it runs.
    pub running_on: NodeName,
    /// The memory that it needs, in bytes: what is resident, or its working set if that is more.
    pub working_set_bytes: u64,
    /// What would have to cross while it stands still, in bytes.
    pub frozen_bytes: u64,
    /// What of it is of mapped files, in bytes: where it goes, the caches of home's files are
    /// empty.
    pub mapped_bytes: u64,
    /// Time since it arrived here; `None` if it never moved.
    pub since_last_move_ms: Option<u64>,
    /// Why it cannot move, if so: one readable reason.
    pub movable: Result<(), Arc<str>>,
}

impl JobView {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.record.id
    }

    /// The node where it was started.
    #[must_use]
    pub fn home(&self) -> &NodeName {
        &self.record.id.home
    }

    /// Whether its user wants it left alone by the balancer; an explicit request still moves it.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.record.constraints.stay
    }

    /// Whether this job is a guest where it runs.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        *self.home() != self.running_on
    }

    /// Whether it came of the same command as `other`, or is that.
    #[must_use]
    pub fn is_of_the_tree_of(&self, other: &Self) -> bool {
        let tree = self.record.spec.tree;
        tree.is_some() && tree == other.record.spec.tree && self.home() == other.home()
    }

    /// Whether its user lets it run at `node`.
    #[must_use]
    pub fn allows(&self, node: &str) -> bool {
        !self.record.constraints.forbid(node, self.home())
    }

    /// The nodes that only jobs like this one may go to: its home, and those that its user named.
    pub(super) fn own_nodes(&self) -> impl Iterator<Item = &str> {
        iter::once(&**self.home()).chain(self.named_nodes())
    }

    /// The nodes that its user named, beside home.
    pub(super) fn named_nodes(&self) -> impl Iterator<Item = &str> {
        let named = self.record.constraints.allowed_nodes.iter().map(String::as_str);
        named.filter(|node| !self.record.id.is_of(node))
    }

    /// What it adds to the cost of a node, where jobs count alike below `young_ms` of CPU time. A
    /// job that asks for nothing just now counts as a thousandth of a CPU, so that costs can be
    /// compared in terms of its own.
    #[must_use]
    pub fn load(&self, young_ms: u64) -> slowdown::Load {
        let history = &self.record.history;
        let demand = f64::from(history.demand_milli.max(1)) / 1_000.0;
        let attained_s = history.attained_ms().max(history.tree_attained_ms) as f64 / 1_000.0;
        let weight = slowdown::weight(demand, attained_s, young_ms as f64 / 1_000.0);
        slowdown::Load { demand, weight, memory: self.working_set_bytes as f64 }
    }

    /// What crosses the link for it while it is away from home, in bytes for each second of its CPU
    /// time, where jobs count alike below `young_ms` of that: what it read at its start says little
    /// of what it does later.
    #[must_use]
    pub fn traffic_bytes_per_s(&self, young_ms: u64) -> f64 {
        let history = &self.record.history;
        history.counters.io_bytes as f64 * 1_000.0 / history.attained_ms().max(young_ms).max(1) as f64
    }

    /// How long, in seconds, it will probably continue to gain by a move: a process lives on for
    /// about as long as it has had CPU time, and what has lasted here since it came is likely to
    /// last as long again.
    #[must_use]
    pub fn horizon_s(&self) -> f64 {
        let history = &self.record.history;
        let lasted_ms = history.attained_ms().min(self.since_last_move_ms.unwrap_or(history.age_ms));
        lasted_ms.max(1) as f64 / 1_000.0
    }

    /// How long, in seconds, it will probably run at its node, where it takes so many times as long
    /// as on a CPU of its own: as long as it has, and as it has been there.
    #[must_use]
    pub fn stays_s(&self, stretch: f64) -> f64 {
        let lasts_s = self.record.history.attained_ms().max(1) as f64 / 1_000.0 * stretch;
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
