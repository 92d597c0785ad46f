//! The node's own figures that the kernel keeps as running totals: how busy its CPUs were, and how long tasks waited for one.
//!
//! MOSIX samples the number of runnable tasks at every tick and averages over a second. The same average, exact and without
//! sampling, is (time that CPUs were busy + time that tasks waited for them) / elapsed time: `/proc/stat` has the first,
//! `/proc/schedstat` the second. Both include processes too short-lived for any list.

use std::path::{Path, PathBuf};

use super::TelemetryError;

/// Totals since boot, over all CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NodeTimes {
    /// CPUs executed something.
    pub(super) busy_ms: u64,
    /// Tasks were runnable, but waited. `None` without CONFIG_SCHEDSTATS.
    pub(super) wait_ms: Option<u64>,
}

impl NodeTimes {
    /// Average number of runnable tasks between two readings, in thousandths. `tasks_waiting_milli`: the waiting ones as the
    /// tasks' own figures have it, which lack those that came and went in between; used where the kernel has no total.
    pub(super) fn nr_running_milli(self, earlier: Self, interval_ms: u64, tasks_waiting_milli: u64) -> u64 {
        let milli = |ms: u64| ms.saturating_mul(1000) / interval_ms.max(1);
        let waiting = match (self.wait_ms, earlier.wait_ms) {
            (Some(now), Some(earlier)) => milli(now.saturating_sub(earlier)),
            _ => tasks_waiting_milli,
        };
        milli(self.busy_ms.saturating_sub(earlier.busy_ms)).saturating_add(waiting)
    }
}

/// Reads both files.
pub(super) struct NodeReader {
    proc: PathBuf,
    ticks_per_second: u64,
}

impl NodeReader {
    pub(super) fn new(proc: &Path) -> Self {
        Self { proc: proc.to_owned(), ticks_per_second: rustix::param::clock_ticks_per_second() }
    }

    pub(super) fn read(&self) -> Result<NodeTimes, TelemetryError> {
        let path = self.proc.join("stat");
        let stat =
            std::fs::read_to_string(&path).map_err(|source| TelemetryError::Read { path: path.clone(), source })?;
        let busy_ticks = busy_ticks(&stat).ok_or(TelemetryError::Malformed { path })?;
        let wait_ns = std::fs::read_to_string(self.proc.join("schedstat")).ok().map(|text| wait_ns(&text));
        Ok(NodeTimes {
            busy_ms: busy_ticks.saturating_mul(1000) / self.ticks_per_second.max(1),
            wait_ms: wait_ns.map(|ns| ns / 1_000_000),
        })
    }
}

/// user + nice + system + irq + softirq of the first line; not idle, iowait, steal, nor guest time, which user contains.
fn busy_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.split_ascii_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    let times: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].into_iter().try_fold(0u64, |sum, index| Some(sum.saturating_add(*times.get(index)?)))
}

/// The eighth figure of each `cpuN` line: nanoseconds that tasks spent waiting on that CPU.
fn wait_ns(schedstat: &str) -> u64 {
    let of_cpu = |line: &str| line.split_ascii_whitespace().nth(8)?.parse::<u64>().ok();
    schedstat.lines().filter(|line| line.starts_with("cpu")).filter_map(of_cpu).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn busy_and_waiting_time_are_found() {
        assert_eq!(busy_ticks("cpu  10 20 30 400 50 6 7 80 9 0\ncpu0 1 2 3 4\n"), Some(73));
        assert_eq!(busy_ticks("intr 5\n"), None);
        let schedstat =
            "version 17\ntimestamp 1\ncpu0 0 0 0 0 0 0 111 222 3\ndomain0 3 0 0 0 0 0 0 0 9\ncpu1 0 0 0 0 0 0 1 20 3\n";
        assert_eq!(wait_ns(schedstat), 242);
    }

    #[test]
    fn two_busy_cpus_and_three_waiting_tasks_are_a_load_of_five() {
        let earlier = NodeTimes { busy_ms: 1000, wait_ms: Some(50) };
        let later = NodeTimes { busy_ms: 3000, wait_ms: Some(3050) };
        assert_eq!(later.nr_running_milli(earlier, 1000, 7), 5000);
        assert_eq!(earlier.nr_running_milli(later, 0, 7), 0);
        let without = NodeTimes { wait_ms: None, ..later };
        assert_eq!(without.nr_running_milli(earlier, 1000, 1500), 3500);
    }

    #[test]
    fn this_machine_can_be_read() {
        let times = NodeReader::new(Path::new("/proc")).read().unwrap();
        assert!(times.busy_ms > 0);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC*") {
            busy_ticks(&text);
            wait_ns(&text);
        }
    }
}
