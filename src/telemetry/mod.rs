//! Telemetry: what tasks there are and what each uses. It needs no sched_ext.
//!
//! ```text
//!   kernel: task iterator ----------> samples --+
//!           (or /proc, declared)                +--> sampler: processes, rates, decay --> Snapshot, once a second
//!           tracepoints fork, exec, exit --> ring buffer --> mpsc<TaskEvent>, at once
//! ```
//!
//! A snapshot is complete by itself; events only tell of changes sooner. Why the counters are read
//! by an iterator and not collected by programs on `sched_switch` and `page_fault_user` stands in
//! `bpf/telemetry.bpf.c`: the kernel has them already, exact, whatever the scheduler, so that
//! sampling 1,000 tasks costs about a millisecond and running tasks nothing at all.
//!
//! If the kernel refuses the programs (no root, no BTF), sampling falls back to `/proc`: with a
//! warning in the log, and [`Snapshot::source`] says so.

mod abi;
mod bpf;
mod cgroup;
pub mod decay;
mod events;
pub mod landlock;
mod proc;
mod sample;
mod sampler;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use events::{ProcessId, TaskEvent};
pub use sample::{CgroupRef, MemoryTasks, TaskSample, TaskSource};
pub use sampler::TaskLoad;

use cgroup::CgroupNames;
use proc::ProcTasks;
use sampler::Sampler;

/// What can go wrong with telemetry.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The kernel did not take a program.
    #[error("the kernel refused {what}: {reason}; run as root on a kernel with CONFIG_DEBUG_INFO_BTF, 6.2 or newer")]
    Refused {
        /// Which.
        what: String,
        /// As the kernel or the loader says it.
        reason: String,
    },
    /// A file of `/proc` cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel's programs number processes as the machine does, and here they have other
    /// numbers.
    #[error("this daemon runs in a PID namespace of its own, and the kernel's programs do not know its numbers")]
    PidNamespace,
    /// The thread that took the sample was cancelled, or panicked.
    #[error("the sample was not finished: {0}")]
    Unfinished(String),
}

/// Where a snapshot's figures come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The kernel's task iterator: exact, cheap, with events.
    Bpf,
    /// `/proc`: coarse, dearer, and without events.
    Proc {
        /// Why not BPF.
        reason: String,
    },
    /// A test.
    Memory,
}

/// How to run telemetry.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// Events that may wait for the receiver; more are counted as lost.
    pub event_capacity: usize,
    /// Fail instead of falling back to `/proc`.
    pub require_bpf: bool,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { event_capacity: 4096, require_bpf: false }
    }
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// CLOCK_BOOTTIME.
    pub taken_ns: u64,
    /// Time since the last snapshot; 0 for the first, whose rates are averages over each process's
    /// life.
    pub interval_ms: u64,
    /// Where the tasks' figures come from.
    pub source: Source,
    /// All processes but the kernel's own, and in a container those outside it, in no order.
    pub tasks: Vec<TaskLoad>,
    /// Events lost since start.
    pub lost_events: u64,
}

/// Entry point: [`Telemetry::start`].
pub struct Telemetry;

impl Telemetry {
    /// Loads the programs, and returns the handle for samples and the receiver of events. Must be
    /// called in a tokio runtime.
    ///
    /// # Errors
    /// [`TelemetryError::Refused`] if the config requires BPF. Otherwise the fall-back works
    /// wherever `/proc` is mounted.
    pub fn start(config: TelemetryConfig) -> Result<(TelemetryHandle, mpsc::Receiver<TaskEvent>), TelemetryError> {
        let (to, events) = mpsc::channel(config.event_capacity.max(1));
        let lost = Arc::new(AtomicU64::new(0));
        match bpf::start(to.clone(), Arc::clone(&lost)) {
            Ok((tasks, reader)) => Ok((TelemetryHandle::new(Box::new(tasks), lost, to, Some(reader)), events)),
            Err(error) if config.require_bpf => Err(error),
            Err(error) => {
                tracing::warn!("telemetry falls back to /proc, without events and at a higher cost: {error}");
                let tasks = ProcTasks::new(Path::new("/proc"), error.to_string());
                Ok((TelemetryHandle::new(Box::new(tasks), lost, to, None), events))
            }
        }
    }
}

/// Takes samples. Dropping it detaches the programs and ends the events.
pub struct TelemetryHandle {
    core: Option<Core>,
    lost: Arc<AtomicU64>,
    /// Keeps the receiver open also when no events come, so that a reader need not treat that as an
    /// end.
    _events: mpsc::Sender<TaskEvent>,
    reader: Option<JoinHandle<()>>,
}

/// What a sample needs; goes to a blocking thread and back.
struct Core {
    tasks: Box<dyn TaskSource>,
    sampler: Sampler,
    last_ns: Option<u64>,
}

impl TelemetryHandle {
    fn new(
        tasks: Box<dyn TaskSource>,
        lost: Arc<AtomicU64>,
        events: mpsc::Sender<TaskEvent>,
        reader: Option<JoinHandle<()>>,
    ) -> Self {
        let proc = Path::new("/proc");
        let core = Core {
            tasks,
            sampler: Sampler::new(CgroupNames::new(proc), rustix::param::clock_ticks_per_second()),
            last_ns: None,
        };
        Self { core: Some(core), lost, _events: events, reader }
    }

    /// A handle over any source, for tests; no events.
    pub fn with_source(tasks: Box<dyn TaskSource>) -> Self {
        let (to, _) = mpsc::channel(1);
        Self::new(tasks, Arc::default(), to, None)
    }

    /// Looks at everything once. Meant to be called once a second: that is the step of the decays.
    /// Takes some milliseconds, on a thread for blocking work.
    ///
    /// # Errors
    /// `Refused`, `Read`: the next call may succeed. `Unfinished`: it will not.
    pub async fn sample(&mut self) -> Result<Snapshot, TelemetryError> {
        let unfinished = || TelemetryError::Unfinished("an earlier one was cut off".to_owned());
        let mut core = self.core.take().ok_or_else(unfinished)?;
        let lost = self.lost.load(Ordering::Relaxed);
        let (core, snapshot) = tokio::task::spawn_blocking(move || {
            let snapshot = core.sample(lost);
            (core, snapshot)
        })
        .await
        .map_err(|error| TelemetryError::Unfinished(error.to_string()))?;
        self.core = Some(core);
        snapshot
    }
}

impl Drop for TelemetryHandle {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

impl Core {
    fn sample(&mut self, lost_events: u64) -> Result<Snapshot, TelemetryError> {
        let samples = self.tasks.sample()?;
        let taken_ns = boottime_ns();
        let interval_ms =
            self.last_ns.replace(taken_ns).map_or(0, |last_ns| taken_ns.saturating_sub(last_ns) / 1_000_000);
        let tasks = self.sampler.update(samples, taken_ns);
        Ok(Snapshot { taken_ns, interval_ms, source: self.tasks.source(), tasks, lost_events })
    }
}

/// CLOCK_BOOTTIME.
pub fn boottime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests;
