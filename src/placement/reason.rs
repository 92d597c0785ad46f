//! Reasons: structured, with figures, and one readable line each. `scx_mosix why PID` shows these
//! lines.

use std::fmt;
use std::sync::Arc;

use super::input::NodeName;
use super::units::{Bytes, Milli, Seconds};
use crate::job::JobId;

/// The figures of one node beside here, in terms of the job's own slowdown: 1 is what it costs
/// where it has a standard CPU to itself and disturbs no job.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The node.
    pub node: NodeName,
    /// Whether it is the job's home.
    pub is_home: bool,
    /// What a second of its CPU time would take there, in seconds.
    pub stretch: f64,
    /// What it would add to the slowdown of those who are there.
    pub others: f64,
    /// What being away from home costs it.
    pub away: f64,
    /// What its files cost it over the link.
    pub link: f64,
    /// What the move costs.
    pub price: f64,
    /// How long the move would probably stop it, in seconds.
    pub downtime_s: f64,
    /// How long it would wait then for what it has mapped of files, in seconds.
    pub refill_s: f64,
    /// The least that a move must gain.
    pub least_gain: f64,
    /// The sum.
    pub total: f64,
    /// What the cluster is relieved of if it leaves here.
    pub here: f64,
}

impl Comparison {
    /// Whether the cluster would do better with the job there.
    #[must_use]
    pub fn better(&self) -> bool {
        self.total < self.here
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, is_home, stretch, others, away, link, price, downtime_s, refill_s, least_gain, total, here } =
            self;
        write!(f, "{node}{}: {stretch:.2} for itself", if *is_home { " (home)" } else { "" })?;
        for (value, what) in [(others, "for others"), (away, "away from home"), (link, "for its files over the link")] {
            if *value > 0.0 {
                write!(f, " + {value:.2} {what}")?;
            }
        }
        if *price > 0.0 {
            write!(f, " + {price:.2} for the move ({downtime_s:.1} s stopped")?;
            match *refill_s {
                0.05.. => write!(f, ", {refill_s:.1} s until it has its files)")?,
                _ => f.write_str(")")?,
            }
        }
        if *least_gain > 0.0 {
            write!(f, " + {least_gain:.2} least gain")?;
        }
        write!(f, " = {total:.2} {} {here:.2} here", if self.better() { "<" } else { "≥" })
    }
}

/// How memory runs out at a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// It has.
    #[error("{} of memory free, below {}", Bytes(*free_bytes), Bytes(*below_bytes))]
    Now {
        /// Free, in bytes.
        free_bytes: u64,
        /// The ushering threshold, in bytes.
        below_bytes: u64,
    },
    /// It will have before the largest job could have left.
    #[error("{} of memory free and {} less each second, so below {} within {}", Bytes(*free_bytes), Bytes(*depletion_bytes_per_s),
        Bytes(*below_bytes), Seconds(*ahead_ms))]
    Ahead {
        /// Free, in bytes.
        free_bytes: u64,
        /// The memory depletion rate, in bytes per second.
        depletion_bytes_per_s: u64,
        /// The ushering threshold, in bytes.
        below_bytes: u64,
        /// How far is looked ahead, in milliseconds.
        ahead_ms: u64,
    },
    /// All tasks stand still for lack of it.
    #[error("all tasks stood still for lack of memory {}.{:02} % of the time, limit {limit_percent} %", stall_centi / 100, stall_centi % 100)]
    Stall {
        /// Share of the last ten seconds, in hundredths of a percent.
        stall_centi: u16,
        /// From where on something leaves, in percent.
        limit_percent: u32,
    },
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
    #[error("it accepts no guests while it is being drained or its daemon stops")]
    NotAccepting,
    /// Programs from here cannot run there.
    #[error("it cannot run programs from here: {why}")]
    Features {
        /// What is missing.
        why: Arc<str>,
    },
    /// It has no room.
    #[error("{} left, but this job needs {} and {} must remain", Bytes(*free_bytes), Bytes(*job_bytes), Bytes(*reserve_bytes))]
    Memory {
        /// Free there after what is on its way and what depletion takes, in bytes.
        free_bytes: u64,
        /// The job's resident memory, in bytes.
        job_bytes: u64,
        /// What must remain free, in bytes.
        reserve_bytes: u64,
    },
    /// It receives as many jobs as it may.
    #[error("it is receiving {arriving} other job(s), limit {limit}")]
    Receiving {
        /// Jobs on their way.
        arriving: u32,
        /// How many may be.
        limit: u32,
    },
    /// What the source compared is out of date.
    #[error("it would cost {:.2} there by now, and must stay below {:.2}", Milli(*cost_milli), Milli(*limit_milli))]
    NoLongerBetter {
        /// The cost there, in thousandths of the job's own slowdown.
        cost_milli: u32,
        /// What it may be at most.
        limit_milli: u32,
    },
    /// A move takes too long for what is left to gain.
    #[error("a move stops it for {}, but it will probably be here for {} only{}", Seconds(*downtime_ms), Seconds(*stays_ms),
        if *for_itself { ", with its own tree; no CPU is free there" } else { "" })]
    NotWorthIt {
        /// How long it would stand still, in milliseconds.
        downtime_ms: u64,
        /// How long it would probably stay, in milliseconds.
        stays_ms: u64,
        /// Whether its own tree would lose what it gained.
        for_itself: bool,
    },
    /// A move takes too much CPU time for what it would relieve.
    #[error("a move takes {} of CPU time at either end, but it will probably need {} only", Seconds(*work_ms), Seconds(*needs_ms))]
    TooMuchWork {
        /// CPU time that the move takes at either end, in milliseconds.
        work_ms: u64,
        /// CPU time that the job will probably still need, in milliseconds.
        needs_ms: u64,
    },
    /// It refused admission lately.
    #[error("it refused admission {} ago; asked again after {}", Seconds(*ago_ms), Seconds(*retry_ms))]
    AdmissionRefused {
        /// How long ago, in milliseconds.
        ago_ms: u64,
        /// How long it is left alone, in milliseconds.
        retry_ms: u64,
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
    /// More nodes are known than are listed.
    #[error("{count} more nodes, none of those that were compared better")]
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
    /// This node is to be rid of its guests.
    #[error("{node} is being drained: guests must leave")]
    Draining {
        /// This node.
        node: NodeName,
    },
    /// Its user does not let it run here.
    #[error("{node} is not among the nodes allowed for this job: it must leave")]
    NotAllowedHere {
        /// This node.
        node: NodeName,
    },
    /// This node's own users want its CPUs.
    #[error("{node}: programs of its own users come first and ask for {:.2} of {cpus} CPUs: guests get the rest", Milli(*demand_milli))]
    OwnersFirst {
        /// This node.
        node: NodeName,
        /// CPU that those use or wait for, in thousandths of one CPU.
        demand_milli: u32,
        /// Its CPUs.
        cpus: u32,
    },
    /// Memory runs out here.
    #[error("{node}: {how}: something must leave")]
    MemoryShort {
        /// This node.
        node: NodeName,
        /// How.
        how: Shortage,
    },
    /// Moving it would not relieve memory.
    #[error("uses {}: too little to relieve memory, {} at least", Bytes(*working_set_bytes), Bytes(*min_bytes))]
    TooSmall {
        /// Its resident memory, in bytes.
        working_set_bytes: u64,
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
    /// What speaks for a move may pass before the move has come about.
    #[error("stays: another node has been better for {} only, and a move stops it for {}", Seconds(*lasted_ms), Seconds(*downtime_ms))]
    Passing {
        /// How long it has been so, in milliseconds.
        lasted_ms: u64,
        /// How long a move would stop the job, in milliseconds.
        downtime_ms: u64,
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
            Self::LittleDemand { .. } => "little_demand",
            Self::BelowThreshold { .. } => "below_threshold",
            Self::Draining { .. } => "draining",
            Self::NotAllowedHere { .. } => "not_allowed_here",
            Self::OwnersFirst { .. } => "owners_first",
            Self::MemoryShort { .. } => "memory_short",
            Self::TooSmall { .. } => "too_small",
            Self::NothingBetter => "nothing_better",
            Self::NoTarget => "no_target",
            Self::Busy { .. } => "busy",
            Self::Settling { .. } => "settling",
            Self::Passing { .. } => "passing",
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
            | Self::Draining { node }
            | Self::NotAllowedHere { node }
            | Self::OwnersFirst { node, .. }
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
