//! Whose the load of this node is.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use crate::{
    agent::process::AGENTS_CGROUP,
    daemon::shared::{GUESTS_CGROUP, agents::AgentView},
    job::JobId,
    placement::slowdown,
    sys::cgroup,
    telemetry::TaskLoad,
};

/// What tasks used or waited for in the last second, by whose they are.
#[derive(Default)]
pub struct LoadByOwner {
    /// scx_mosix's own, in thousandths of a CPU. Nothing waits for what agents do but the programs
    /// that they move, whose cost it is.
    pub own_milli: u64,
    /// This node's own users', in thousandths of a CPU.
    pub owners_milli: u64,
    /// Guests', in thousandths of a CPU.
    pub guests_milli: u64,
    /// The weights of the owners' that belong to no job, in 1/s.
    pub others_weight: f64,
}

impl LoadByOwner {
    /// `is_job` knows the cgroups of jobs and guests.
    pub fn of(
        tasks: &[TaskLoad],
        node: &str,
        agents: &AgentView,
        young_ms: u64,
        is_job: impl Fn(&Path) -> bool,
    ) -> Self {
        let young_s = young_ms as f64 / 1_000.0;
        let (own_pid, own, guests) =
            (std::process::id(), cgroup::directory(AGENTS_CGROUP), cgroup::directory(GUESTS_CGROUP));
        // Of those that run; in one that does not run yet is CRIU.
        let hosted: HashMap<&PathBuf, &JobId> =
            agents.guests.values().map(|guest| (&guest.cgroup, &guest.job.id)).collect();
        let mut load = Self::default();
        for task in tasks {
            let cgroup = cgroup::directory(&task.cgroup);
            let asked_milli = task.cpu_now_milli + task.wait_now_milli;
            let guest = hosted.get(&cgroup);
            if task.pid == own_pid || cgroup.starts_with(&own) || (guest.is_none() && cgroup.starts_with(&guests)) {
                load.own_milli += asked_milli;
            } else if guest.is_none_or(|job| job.is_of(node)) {
                load.owners_milli += asked_milli;
                if !is_job(&cgroup) {
                    load.others_weight += weight(task, young_s);
                }
            } else {
                load.guests_milli += asked_milli;
            }
        }
        load
    }
}

/// What a second matters to a process that belongs to no job, in 1/s.
fn weight(task: &TaskLoad, young_s: f64) -> f64 {
    let demand = (task.cpu_now_milli + task.wait_now_milli) as f64 / 1_000.0;
    slowdown::weight(demand, task.usage.counters.cpu_ms() as f64 / 1_000.0, young_s)
}
