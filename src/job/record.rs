//! The record of a job, which goes from daemon to daemon and to agents as one.

use serde::{Deserialize, Serialize};

use super::{Constraints, Counters, JobId, SessionId};

/// All that is said of a job, wherever it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its name.
    pub id: JobId,
    /// Its session at home, by which agents and streams find each other.
    pub session: SessionId,
    /// What does not change.
    pub spec: JobSpec,
    /// What its user lets placement do with it.
    #[serde(default)]
    pub constraints: Constraints,
    /// What it did so far.
    #[serde(default)]
    pub history: History,
}

/// What does not change of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The kernel's short name of the program.
    pub comm: String,
    /// The user at home whose it is.
    pub uid: u32,
    /// What its user started, of which it came, by the pid of its root at home: jobs of one tree
    /// are waited for together. `None`: alone.
    #[serde(default)]
    pub tree: Option<i32>,
}

/// What a job did so far, wherever it was. Of one that has moved, the kernel of the node where it
/// is counts from its arrival on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// What was counted.
    pub counters: Counters,
    /// CPU time that all jobs of its tree have had, in ms.
    #[serde(default)]
    pub tree_attained_ms: u64,
    /// Time since it was started, in ms.
    pub age_ms: u64,
    /// CPU that it asks for: what it gets plus the time it is runnable and waits, decayed, in
    /// thousandths of a CPU. This is its share of the runnable tasks where it is.
    pub demand_milli: u32,
    /// What was estimated to cross between home and the node where it is, in bytes per second, when
    /// it was sent there; `None` at home.
    #[serde(default)]
    pub home_link_bytes_per_s: Option<u64>,
}

impl History {
    /// CPU time that it has had, in ms.
    #[must_use]
    pub fn attained_ms(&self) -> u64 {
        self.counters.cpu_ms()
    }
}
