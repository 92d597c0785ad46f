//! From samples to [`TaskLoad`]s: threads are summed up to processes, totals become rates, rates
//! are decayed. Pure but for the names of cgroups.

use std::collections::HashMap;
use std::sync::Arc;

use super::cgroup::CgroupNames;
use super::decay;
use super::events::ProcessId;
use super::sample::TaskSample;
use crate::job::{Counters, Usage};

/// One process: who it is, where it belongs, what it uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLoad {
    /// Process id.
    pub pid: u32,
    /// Of the parent.
    pub ppid: u32,
    /// Name of its leading thread, at most 15 bytes.
    pub comm: String,
    /// Real user id.
    pub uid: u32,
    /// As field 22 of `/proc/PID/stat`: with `pid` it names the process for ever.
    pub start_time_ticks: u64,
    /// State of the leading thread as `ps` shows it; R if any thread is runnable.
    pub state: char,
    /// What it uses, all of its threads together.
    pub usage: Usage,
    /// CPU use in thousandths of a CPU, decayed as MOSIX does ([`decay::process_step`]).
    pub cpu_share_milli: u64,
    /// CPU use since the last sample, not decayed.
    pub cpu_now_milli: u64,
    /// Time that its threads were runnable, but waited for a CPU, since the last sample: waiting
    /// threads, in thousandths.
    pub wait_now_milli: u64,
    /// Page faults that waited for a disk, per second since the last sample.
    pub major_faults_per_s: u64,
    /// Path in the unified cgroup hierarchy; empty if it ended before it could be read.
    pub cgroup: Arc<str>,
    /// Time since it began.
    pub age_ms: u64,
}

/// What is remembered of a process between two samples.
#[derive(Debug, Clone, Copy, Default)]
struct Past {
    counters: Counters,
    cpu_share_milli: u64,
}

/// A process as the sum of its threads.
struct Process {
    id: ProcessId,
    leader: Option<TaskSample>,
    state: char,
    alive: bool,
    usage: Usage,
}

/// Keeps what is needed from sample to sample.
pub(super) struct Sampler {
    past: HashMap<ProcessId, Past>,
    names: CgroupNames,
    ns_per_tick: u64,
    last_ns: Option<u64>,
}

impl Sampler {
    pub(super) fn new(names: CgroupNames, ticks_per_second: u64) -> Self {
        Self { past: HashMap::new(), names, ns_per_tick: 1_000_000_000 / ticks_per_second.max(1), last_ns: None }
    }

    /// `now_ns`: CLOCK_BOOTTIME of the sample. Left out are kernel threads, processes that have
    /// ended, and in a container those outside it.
    pub(super) fn update(&mut self, samples: Vec<TaskSample>, now_ns: u64) -> Vec<TaskLoad> {
        let interval_ns = self.last_ns.map(|last| now_ns.saturating_sub(last).max(1));
        self.last_ns = Some(now_ns);
        let mut past = std::mem::take(&mut self.past);
        let mut tasks = Vec::new();
        for process in sum_up(samples) {
            let Some(leader) = process.leader.as_ref().filter(|leader| process.alive && !leader.is_kernel) else {
                continue;
            };
            let cgroup = self.names.path_of(&leader.cgroup, process.id.pid);
            if is_outside(&cgroup) {
                continue;
            }
            // One that began after the last sample has its whole life as its interval.
            let age_ns = now_ns.saturating_sub(process.id.start_ns);
            let known = past.remove(&process.id);
            let interval_ns = if known.is_some() { interval_ns.unwrap_or(age_ns) } else { age_ns }.max(1);
            let task = self.load(&process, leader, cgroup, known.unwrap_or_default(), age_ns, interval_ns);
            tasks.push(task);
        }
        self.names.forget_unseen();
        tasks
    }

    fn load(
        &mut self,
        process: &Process,
        leader: &TaskSample,
        cgroup: Arc<str>,
        past: Past,
        age_ns: u64,
        interval_ns: u64,
    ) -> TaskLoad {
        let milli = |delta: u64| share(delta, 1000, interval_ns);
        let mut usage = process.usage;
        let spent = usage.counters - past.counters;
        let cpu_now_milli = milli(spent.cpu_ns);
        let cpu_share_milli = decay::process_step(past.cpu_share_milli, cpu_now_milli, interval_ns / 1_000_000);
        // A thread that ends may take some of it along for a moment.
        usage.counters.cpu_ns = usage.counters.cpu_ns.max(past.counters.cpu_ns);
        self.past.insert(process.id, Past { counters: usage.counters, cpu_share_milli });
        let per_second = |delta: u64| share(delta, 1_000_000_000, interval_ns);
        TaskLoad {
            pid: process.id.pid,
            ppid: leader.ppid,
            comm: leader.comm.clone(),
            uid: leader.uid,
            start_time_ticks: process.id.start_ns / self.ns_per_tick,
            state: process.state,
            usage,
            cpu_share_milli,
            cpu_now_milli,
            wait_now_milli: milli(spent.wait_ns),
            major_faults_per_s: per_second(spent.major_faults),
            cgroup,
            age_ms: age_ns / 1_000_000,
        }
    }
}

/// Whether a path leads out of this process's cgroup namespace.
fn is_outside(cgroup: &str) -> bool {
    cgroup.strip_prefix("/..").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `delta * unit / interval`, without overflow.
fn share(delta: u64, unit: u64, interval: u64) -> u64 {
    u64::try_from(u128::from(delta) * u128::from(unit) / u128::from(interval.max(1))).unwrap_or(u64::MAX)
}

/// Sums threads up to processes. Threads come in any order; a process whose leader is missing (it
/// came meanwhile) has none.
fn sum_up(samples: Vec<TaskSample>) -> Vec<Process> {
    let mut processes: HashMap<u32, Process> = HashMap::with_capacity(samples.len());
    for sample in samples {
        let process = processes.entry(sample.tgid).or_insert_with(|| Process {
            id: ProcessId { pid: sample.tgid, start_ns: 0 },
            leader: None,
            state: 'S',
            alive: false,
            usage: Usage::default(),
        });
        process.usage += sample.usage;
        process.alive |= !matches!(sample.state, 'Z' | 'X');
        if sample.pid == sample.tgid {
            process.id.start_ns = sample.start_ns;
            if process.state != 'R' {
                process.state = sample.state;
            }
            process.leader = Some(sample);
        } else if sample.state == 'R' {
            process.state = 'R';
        }
    }
    processes.into_values().collect()
}

/// A plain sample for tests, here and in other modules.
#[cfg(test)]
pub(super) fn sample_of(pid: u32, run_ms: u64, wait_ms: u64) -> TaskSample {
    TaskSample {
        pid,
        tgid: pid,
        ppid: 1,
        uid: 1000,
        is_kernel: false,
        state: 'R',
        start_ns: 1_000_000_000,
        usage: Usage {
            counters: Counters { cpu_ns: run_ms * 1_000_000, wait_ns: wait_ms * 1_000_000, ..Counters::default() },
            resident_bytes: 4096,
            mapped_bytes: 0,
            processes: 1,
            threads: 1,
        },
        cgroup: super::sample::CgroupRef::Path("/x".to_owned()),
        comm: "cat".to_owned(),
    }
}

#[cfg(test)]
mod tests;
