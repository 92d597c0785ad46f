//! What placement is told: plain values, converted by the daemon (or made up by a simulator).
//! Everything is an integer, so that no input can be "not a number".

use std::sync::Arc;

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
    /// Memory that programs could still get, in bytes (`MemAvailable`).
    pub free_memory_bytes: u64,
    /// Its memory, in bytes.
    pub total_memory_bytes: u64,
    /// How old this view is, in milliseconds; 0 for this node.
    pub age_ms: u64,
    /// Whether it takes guests. Its own jobs may return in any case.
    pub accepting: bool,
    /// Whether membership holds it for alive.
    pub alive: bool,
    /// Whether its sched_ext scheduler is in force; its reasons mention it, nothing depends on it.
    pub sched_ext: bool,
    /// Why programs from here cannot run there (CPU or kernel features, CRIU missing), if so.
    pub features_ok: Result<(), Arc<str>>,
}

/// One job that runs here: a program started by `scx_mosix run` with all its descendants, which move together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// Its name.
    pub id: JobId,
    /// The root process's pid at home.
    pub root_pid: i32,
    /// The node where it was started.
    pub home: NodeName,
    /// The node where it runs.
    pub running_on: NodeName,
    /// CPU that it got, decayed, in thousandths of one CPU.
    pub cpu_milli: u32,
    /// CPU that it asked for: what it got plus the time it was runnable and waited, decayed, in thousandths of one CPU. This is the
    /// job's share of the runnable tasks here.
    pub demand_milli: u32,
    /// Its resident memory, in bytes, shared pages counted once.
    pub rss_bytes: u64,
    /// Time since it was started, in milliseconds.
    pub age_ms: u64,
    /// Time since it arrived here; `None` if it never moved.
    pub since_last_move_ms: Option<u64>,
    /// How often it moved.
    pub moves: u32,
    /// Its threads, over all its processes.
    pub threads: u32,
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

    /// Whether its user lets it run at `node`.
    #[must_use]
    pub fn allows(&self, node: &str) -> bool {
        *self.home == *node || self.allowed_nodes.as_ref().is_none_or(|nodes| nodes.iter().any(|name| &**name == node))
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
