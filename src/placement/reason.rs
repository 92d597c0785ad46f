//! Reasons: structured, with figures, and one readable line each. `scx_mosix why PID` shows these lines.

use std::fmt;
use std::sync::Arc;

use super::input::{JobId, NodeName};
use super::units::{Bytes, Milli, Seconds};

/// What is added to a node's cost before it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarginKind {
    /// Nothing: a user asked.
    None,
    /// A percentage of the job's load there.
    Hysteresis,
    /// A percentage of the cost here, as the hysteresis would be less.
    LeastGain,
    /// Home's bonus is taken off.
    HomeBonus,
}

/// The figures of one node beside here. All are loads: runnable standard tasks per standard CPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The node.
    pub node: NodeName,
    /// Its load as gossiped.
    pub load: f64,
    /// What was sent there and may not show yet.
    pub charged: f64,
    /// What this job would add.
    pub job: f64,
    /// What a CPU of its own gives there: no cost is below it.
    pub alone: f64,
    /// What was added, or taken off for home.
    pub kind: MarginKind,
    /// How much.
    pub margin: f64,
    /// The cost there with the margin.
    pub total: f64,
    /// The cost here.
    pub here: f64,
}

impl Comparison {
    /// Whether the job would do better there.
    #[must_use]
    pub fn better(&self) -> bool {
        self.total < self.here
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, load, charged, job, alone, kind, margin, total, here } = self;
        write!(f, "{node}{}: ", if *kind == MarginKind::HomeBonus { " (home)" } else { "" })?;
        let crowded = load + charged + job >= *alone;
        if crowded {
            write!(f, "load {load:.2}")?;
            if *charged > 0.0 {
                write!(f, " + {charged:.2} on its way")?;
            }
            write!(f, " + this job {job:.2}")?;
        } else {
            write!(f, "a CPU of its own {alone:.2}")?;
        }
        match kind {
            MarginKind::None => {}
            MarginKind::Hysteresis if crowded => write!(f, " × {:.0} %", 100.0 + 100.0 * margin / job)?,
            MarginKind::Hysteresis => write!(f, " + {:.0} % of this job {margin:.2}", 100.0 * margin / job)?,
            MarginKind::LeastGain => write!(f, " + least gain {margin:.2}")?,
            MarginKind::HomeBonus => write!(f, " − {:.2} for home", margin.abs())?,
        }
        write!(f, " = {total:.2} {} {here:.2} here", if self.better() { "<" } else { "≥" })
    }
}

/// Why a node is no target for a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exclusion {
    /// Membership says so.
    #[error("it is not alive")]
    Dead,
    /// Its figures are too old.
    #[error("not heard of for {}, limit {}", Seconds(*age_ms), Seconds(*limit_ms))]
    Stale {
        /// How old they are, in milliseconds.
        age_ms: u64,
        /// How old they may be, in milliseconds.
        limit_ms: u64,
    },
    /// It reports no CPU, or no speed.
    #[error("it reports no usable CPU")]
    NoCpu,
    /// The user did not allow it.
    #[error("it is not among the nodes allowed for this job")]
    NotAllowed,
    /// Its owner takes no guests.
    #[error("it accepts no guests now")]
    NotAccepting,
    /// Programs from here cannot run there.
    #[error("it cannot run programs from here: {why}")]
    Features {
        /// What is missing.
        why: Arc<str>,
    },
    /// It has no room.
    #[error("{} free, but this job needs {} and {} must remain", Bytes(*free_bytes), Bytes(*job_bytes), Bytes(*reserve_bytes))]
    Memory {
        /// Free there after what is on its way, in bytes.
        free_bytes: u64,
        /// The job's resident memory, in bytes.
        job_bytes: u64,
        /// What must remain free, in bytes.
        reserve_bytes: u64,
    },
    /// It has its hands full.
    #[error("it is receiving {arriving} other job(s), limit {limit}")]
    Receiving {
        /// Jobs on their way.
        arriving: u32,
        /// How many may be.
        limit: u32,
    },
    /// It went wrong lately.
    #[error("this job failed to get there {} ago; tried again after {}", Seconds(*ago_ms), Seconds(*retry_ms))]
    FailedLately {
        /// How long ago, in milliseconds.
        ago_ms: u64,
        /// How long it is left alone, in milliseconds.
        retry_ms: u64,
    },
}

/// One reason of a decision: a rule with its figures.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Reason {
    /// A node's cost was compared with the cost here.
    #[error("{0}")]
    Compared(Comparison),
    /// A node was no target.
    #[error("{node}: {why}")]
    Excluded {
        /// The node.
        node: NodeName,
        /// Why.
        why: Exclusion,
    },
    /// More nodes were considered than are listed.
    #[error("{count} more nodes considered, none better than those listed")]
    MoreNodes {
        /// How many.
        count: usize,
    },
    /// The job cannot move.
    #[error("cannot move: {why}")]
    CannotMove {
        /// The one reason.
        why: Arc<str>,
    },
    /// Its user locked it.
    #[error("stays: pinned here by its user; `scx_mosix migrate` still moves it")]
    Pinned,
    /// It is under way already.
    #[error("is moving to {target} now")]
    Moving {
        /// The node that it goes to.
        target: NodeName,
    },
    /// It runs at another node, which decides about it.
    #[error("runs on {node}, which decides about it")]
    Elsewhere {
        /// That node.
        node: NodeName,
    },
    /// It was started a moment ago.
    #[error("stays: started {} ago, moves after {} at the earliest", Seconds(*age_ms), Seconds(*min_ms))]
    TooYoung {
        /// Its age, in milliseconds.
        age_ms: u64,
        /// The least age, in milliseconds.
        min_ms: u64,
    },
    /// It arrived a moment ago.
    #[error("stays: arrived {} ago, moves again after {} at the earliest", Seconds(*since_ms), Seconds(*min_ms))]
    JustArrived {
        /// Time since it arrived, in milliseconds.
        since_ms: u64,
        /// The least time between moves, in milliseconds.
        min_ms: u64,
    },
    /// It asks for next to no CPU.
    #[error("stays: asks for {:.2} CPU, moves from {:.2} CPU on", Milli(*demand_milli), Milli(*min_milli))]
    LittleDemand {
        /// What it asks for, in thousandths of a CPU.
        demand_milli: u32,
        /// From where on it would move, in thousandths of a CPU.
        min_milli: u32,
    },
    /// This node is below the home threshold.
    #[error("{node}: {tasks_per_cpu:.2} runnable tasks per CPU, below the threshold of {threshold:.2}: {}",
        if *guest { "a guest leaves for home only" } else { "this node's own jobs stay" })]
    BelowThreshold {
        /// This node.
        node: NodeName,
        /// Runnable tasks per CPU here.
        tasks_per_cpu: f64,
        /// The threshold.
        threshold: f64,
        /// Whether the job is a guest here.
        guest: bool,
    },
    /// Memory runs out here.
    #[error("{node}: {} of memory free, below {}: something must leave", Bytes(*free_bytes), Bytes(*below_bytes))]
    MemoryShort {
        /// This node.
        node: NodeName,
        /// Free here, in bytes.
        free_bytes: u64,
        /// The ushering threshold, in bytes.
        below_bytes: u64,
    },
    /// Moving it would not relieve memory.
    #[error("uses {}: too little to relieve memory, {} at least", Bytes(*rss_bytes), Bytes(*min_bytes))]
    TooSmall {
        /// Its resident memory, in bytes.
        rss_bytes: u64,
        /// What is worth it, in bytes.
        min_bytes: u64,
    },
    /// No node is better.
    #[error("stays: no other node is better")]
    NothingBetter,
    /// No node may take it.
    #[error("stays: no other node can take it")]
    NoTarget,
    /// Other moves leave this node.
    #[error("stays: {moving} leaves {node} first, {limit} at a time")]
    Busy {
        /// This node.
        node: NodeName,
        /// A job on its way out.
        moving: JobId,
        /// How many may leave at a time.
        limit: u32,
    },
    /// The last move must show first.
    #[error("stays: a job left {node} {} ago, its load is given {} to show it", Seconds(*since_ms), Seconds(*settle_ms))]
    Settling {
        /// This node.
        node: NodeName,
        /// Time since then, in milliseconds.
        since_ms: u64,
        /// The time given, in milliseconds.
        settle_ms: u64,
    },
    /// It goes to the best node.
    #[error("moves to {node}: {}", if *among > 1 { format!("by chance, among {among} nodes that are about equally good") } else { "the best node".into() })]
    Chosen {
        /// The node.
        node: NodeName,
        /// The number of equally good nodes.
        among: usize,
    },
    /// It was started here, and here is best.
    #[error("starts on {node}, where it is: no other node is better")]
    StartsHere {
        /// This node.
        node: NodeName,
    },
    /// A user asked for this node.
    #[error("moves to {node}: asked for by its user")]
    Requested {
        /// The node.
        node: NodeName,
    },
    /// Nothing to do.
    #[error("stays: it is on {node} already")]
    AlreadyThere {
        /// The node.
        node: NodeName,
    },
    /// No such node.
    #[error("there is no node {node} in this cluster; `scx_mosix nodes` lists them")]
    UnknownNode {
        /// The name that was asked for.
        node: NodeName,
    },
    /// No such job.
    #[error("no job {job} runs here; `scx_mosix ps` lists them")]
    UnknownJob {
        /// The name that was asked for.
        job: JobId,
    },
    /// This node does not know its own figures.
    #[error("stays: {node} has no usable figures of its own yet")]
    NoFigures {
        /// This node.
        node: NodeName,
    },
}

impl Reason {
    /// The rule's name, stable and for machines.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Compared(_) => "compared",
            Self::Excluded { .. } => "excluded",
            Self::MoreNodes { .. } => "more_nodes",
            Self::CannotMove { .. } => "cannot_move",
            Self::Pinned => "pinned",
            Self::Moving { .. } => "moving",
            Self::Elsewhere { .. } => "elsewhere",
            Self::TooYoung { .. } => "too_young",
            Self::JustArrived { .. } => "just_arrived",
            Self::LittleDemand { .. } => "little_demand",
            Self::BelowThreshold { .. } => "below_threshold",
            Self::MemoryShort { .. } => "memory_short",
            Self::TooSmall { .. } => "too_small",
            Self::NothingBetter => "nothing_better",
            Self::NoTarget => "no_target",
            Self::Busy { .. } => "busy",
            Self::Settling { .. } => "settling",
            Self::Chosen { .. } => "chosen",
            Self::StartsHere { .. } => "starts_here",
            Self::Requested { .. } => "requested",
            Self::AlreadyThere { .. } => "already_there",
            Self::UnknownNode { .. } => "unknown_node",
            Self::UnknownJob { .. } => "unknown_job",
            Self::NoFigures { .. } => "no_figures",
        }
    }

    /// The node that the reason is about, if it is about one.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Compared(comparison) => Some(&comparison.node),
            Self::Excluded { node, .. }
            | Self::Moving { target: node }
            | Self::Elsewhere { node }
            | Self::BelowThreshold { node, .. }
            | Self::MemoryShort { node, .. }
            | Self::Busy { node, .. }
            | Self::Settling { node, .. }
            | Self::Chosen { node, .. }
            | Self::StartsHere { node }
            | Self::Requested { node }
            | Self::AlreadyThere { node }
            | Self::UnknownNode { node }
            | Self::NoFigures { node } => Some(node),
            _ => None,
        }
    }
}
