//! The fall-back when BPF is refused: processes from `/proc`.
//!
//! Five files per process and sample instead of one pass in the kernel: some ten times the cost,
//! CPU time in clock ticks, nothing of processes that come and go between two samples, and no
//! events. A snapshot says which source it has.

use std::path::{Path, PathBuf};

use procfs::process::{Io, Schedstat};

use super::sample::{CgroupRef, PF_KTHREAD, TaskSample, TaskSource};
use super::{Source, TelemetryError};
use crate::{
    job::{Counters, Usage},
    sys::proc,
};

/// Reads `/proc`.
pub(super) struct ProcTasks {
    proc: PathBuf,
    reason: String,
    ns_per_tick: u64,
    page_bytes: u64,
}

impl ProcTasks {
    /// `reason`: why not BPF.
    pub(super) fn new(proc: &Path, reason: String) -> Self {
        Self {
            proc: proc.to_owned(),
            reason,
            ns_per_tick: 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1),
            page_bytes: rustix::param::page_size() as u64,
        }
    }

    fn process(&self, pid: u32) -> Option<TaskSample> {
        let dir = self.proc.join(pid.to_string());
        let (stat, status) = (proc::stat(&dir).ok()?, proc::status(&dir).ok()?);
        // Without CONFIG_TASK_IO_ACCOUNTING it is not counted.
        let io_bytes = proc::read::<Io>(dir.join("io")).map_or(0, |io| io.read_bytes.saturating_add(io.write_bytes));
        let nr_threads = u32::try_from(stat.num_threads).ok()?;
        Some(TaskSample {
            pid,
            tgid: pid,
            ppid: u32::try_from(stat.ppid).ok()?,
            uid: status.ruid,
            is_kernel: stat.flags & PF_KTHREAD != 0,
            state: stat.state,
            start_ns: stat.starttime.checked_mul(self.ns_per_tick)?,
            usage: Usage {
                counters: Counters {
                    cpu_ns: stat.utime.checked_add(stat.stime)?.checked_mul(self.ns_per_tick)?,
                    wait_ns: wait_ns(&dir, nr_threads),
                    major_faults: stat.majflt,
                    io_bytes,
                },
                resident_bytes: stat.rss.checked_mul(self.page_bytes)?,
                mapped_bytes: status.rssfile.unwrap_or(0).saturating_mul(1024),
                processes: 1,
                threads: nr_threads,
            },
            cgroup: CgroupRef::Path(proc::cgroup(&dir).unwrap_or_else(|| "/".into())),
            comm: stat.comm,
        })
    }
}

/// Waiting time of all live threads. Absent without CONFIG_SCHED_INFO.
fn wait_ns(dir: &Path, nr_threads: u32) -> u64 {
    let of = |dir: &Path| proc::read::<Schedstat>(dir.join("schedstat")).map_or(0, |stat| stat.run_delay);
    if nr_threads <= 1 {
        return of(dir);
    }
    let threads = std::fs::read_dir(dir.join("task")).into_iter().flatten().flatten();
    threads.map(|thread| of(&thread.path())).fold(0, u64::saturating_add)
}

impl TaskSource for ProcTasks {
    fn sample(&mut self) -> Result<Vec<TaskSample>, TelemetryError> {
        let entries =
            std::fs::read_dir(&self.proc).map_err(|source| TelemetryError::Read { path: self.proc.clone(), source })?;
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // A process that ends between two reads is left out.
        Ok(pids.filter_map(|pid| self.process(pid)).collect())
    }

    fn source(&self) -> Source {
        Source::Proc { reason: self.reason.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_user_and_cgroup() {
        let mut source = ProcTasks::new(Path::new("/proc"), "test".to_owned());
        let samples = source.sample().unwrap();
        let own = samples.iter().find(|sample| sample.pid == std::process::id()).unwrap();
        assert_eq!(own.uid, rustix::process::getuid().as_raw());
        let Usage { resident_bytes, mapped_bytes, threads, .. } = own.usage;
        assert!(resident_bytes > mapped_bytes && mapped_bytes > 0 && threads > 0 && own.start_ns > 0);
        assert!(!own.is_kernel && !own.comm.is_empty(), "{own:?}");
        let program = std::env::current_exe().unwrap();
        assert!(program.file_name().unwrap().to_str().unwrap().starts_with(&own.comm), "{own:?}");
        assert!(matches!(&own.cgroup, CgroupRef::Path(path) if path.starts_with('/')));
    }
}
