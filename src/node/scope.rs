//! What counts as this node: the whole machine, or the container in which this daemon runs.
//!
//! `/proc` shows the load, CPUs and memory of the whole machine also in a container (LXC,
//! systemd-nspawn, a pod, a set of namespaces with a cgroup of its own). There the node is what
//! lies in the container's cgroup, so that several nodes can share one kernel.
//!
//! | figure | machine | container |
//! |---|---|---|
//! | runnable tasks | `/proc/loadavg` | states of its cgroup's threads ([`super::running`]) |
//! | CPUs | `available_parallelism` | affinity, quota of its cgroup |
//! | memory, swap | `/proc/meminfo` | its cgroup, or its processes' figures |
//! | pressure | `/proc/pressure` | its cgroup |
//!
//! The kernel keeps the affinity within the cpuset, also one that cannot be seen from inside. The
//! processes' figures count where no memory controller does ([`super::container`]).
//!
//! `--cpus` and `--memory` lower what a node may use in either. CPUs and the total of memory are
//! read when the daemon starts; a limit of a cgroup above the container's own cannot be seen from
//! inside.

use rustix::thread::sched_getaffinity;

use super::{
    Allotment, Limits, Machine, Memory, NodeError, Pressure,
    allotment::{Limiter, least},
    container::Container,
    memory::Usage,
    running::Running,
};

/// Where this node's figures come from.
#[derive(Debug, Clone)]
pub struct Scope {
    machine: Machine,
    container: Option<Container>,
    limits: Limits,
}

impl Scope {
    /// The scope of a daemon on `machine`, which was told that it may use no more than `limits`.
    ///
    /// # Errors
    /// [`NodeError`] of `/proc/self/mounts`, in a container.
    pub fn new(machine: Machine, limits: Limits) -> Result<Self, NodeError> {
        let container = Container::find(&machine)?;
        Ok(Self { machine, container, limits })
    }

    /// The machine, for what is the same in each of its containers.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What this node may use.
    ///
    /// # Errors
    /// [`NodeError`] if a file cannot be read.
    pub fn allotment(&self) -> Result<Allotment, NodeError> {
        let usable = match self.container {
            Some(_) => affinity(),
            None => default_parallelism(),
        };
        self.allotment_of(usable)
    }

    /// The same, where this daemon may run on `usable` CPUs.
    fn allotment_of(&self, usable: u32) -> Result<Allotment, NodeError> {
        let machine_cpus = u32::try_from(self.machine.cpu_info()?.num_cores()).unwrap_or(u32::MAX).max(usable);
        let quota = self.container.as_ref().map(Container::quota_milli).transpose()?.flatten();
        let milli = |cpus: u32| u64::from(cpus) * 1_000;
        let limits = [
            (Limiter::CpuSet, Some(milli(usable))),
            (Limiter::Cgroup, quota),
            (Limiter::Flag, self.limits.cpus.map(|cpus| u64::from(cpus.milli()))),
        ];
        let (cpus_milli, cpus_by) = least(milli(machine_cpus), limits);
        let (memory_bytes, memory_by) = self.memory_limit(self.machine.memory()?.total_bytes, self.own_memory()?);
        Ok(Allotment {
            in_container: self.container.is_some(),
            machine_cpus,
            cpus: cpus_milli.into(),
            cpus_by,
            memory_bytes,
            memory_by,
        })
    }

    /// Memory and swap: what this node may use and what is left of it.
    ///
    /// # Errors
    /// [`NodeError`] if a file cannot be read.
    pub(super) fn memory(&self) -> Result<Memory, NodeError> {
        let (of_machine, own) = (self.machine.memory()?, self.own_memory()?);
        let (limit_bytes, limiter) = self.memory_limit(of_machine.total_bytes, own);
        let usage = match (own, limiter, &self.container) {
            (Some((_, usage)), ..) => Some(usage),
            // No controller counts what they use together; without a limit it does not matter.
            (None, Some(_), Some(container)) => Some(container.memory_of_processes()?),
            _ => None,
        };
        Ok(of_machine.part(limit_bytes, usage))
    }

    /// The limit and the use of memory that a container's cgroup shows.
    fn own_memory(&self) -> Result<Option<(u64, Usage)>, NodeError> {
        Ok(self.container.as_ref().map(Container::memory).transpose()?.flatten())
    }

    fn memory_limit(&self, machine_bytes: u64, own: Option<(u64, Usage)>) -> (u64, Option<Limiter>) {
        let limits = [
            (Limiter::Cgroup, own.map(|(limit_bytes, _)| limit_bytes)),
            (Limiter::Flag, self.limits.memory_mib.map(|mib| mib.saturating_mul(1 << 20))),
        ];
        least(machine_bytes, limits)
    }

    /// Pressure stall figures; `None` if the kernel does not keep them (`psi=0`, or not
    /// configured).
    ///
    /// # Errors
    /// [`NodeError::Parse`] of a file with such figures.
    pub fn pressure(&self) -> Result<Option<Pressure>, NodeError> {
        let own = self.container.as_ref().map(Container::pressure).transpose()?.flatten();
        match own {
            Some(own) => Ok(Some(own)),
            // The kernel may keep them of the machine only (`cgroup_disable=pressure`).
            None => self.machine.pressure(),
        }
    }

    /// Opens what tells how many tasks are runnable.
    ///
    /// # Errors
    /// [`NodeError::Read`] of `/proc/loadavg`.
    pub(super) fn running(&self) -> Result<Running, NodeError> {
        match &self.container {
            Some(container) => Ok(Running::of_container(container.clone())),
            None => Running::of_machine(&self.machine),
        }
    }
}

/// The CPUs on which this process may run, whatever its quota.
fn affinity() -> u32 {
    // It fails on machines with more CPUs than fit into the set.
    sched_getaffinity(None).map_or_else(|_| default_parallelism(), |cpus| cpus.count().max(1))
}

fn default_parallelism() -> u32 {
    std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
