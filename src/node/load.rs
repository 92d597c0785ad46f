//! A node's load as MOSIX defines it.
//!
//! The number of runnable tasks is sampled several times a second. Each second their mean `new` is
//! folded into two figures:
//!
//! ```text
//!   mean:   rising  (5·old + 3·new) / 8     falling  new            what placement compares: slow to alarm, quick to relax
//!   upper:  rising  new                     falling  (7·old + new) / 8   what a node admits to others: quick to alarm
//! ```
//!
//! (weights as in MOSIX and Kerrighed's balancer), and scaled to one standard CPU:
//! `· standard speed / cpu speed / cpus`. So a load of 1 means: as many runnable tasks as a node
//! with standard CPUs has CPUs.

use serde::{Deserialize, Serialize};

/// How loaded a node is. Gossiped each half second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeLoad {
    /// Decayed mean of runnable tasks per standard CPU, times 1000.
    pub load_milli: u32,
    /// Upper estimate of the same, times 1000.
    pub load_upper_milli: u32,
    /// Runnable tasks now, neither decayed nor scaled.
    pub nr_running: u32,
    /// The sum of its tasks' weights, in thousand-millionths per second: what a second matters to
    /// them. The daemon fills this in.
    pub weight_nano: u64,
    /// The share of the load that programs of this node's own users make, in thousandths. The
    /// daemon fills this in.
    pub owners_permille: u16,
    /// The sum of those programs' weights, in thousand-millionths per second. The daemon fills this
    /// in.
    pub owners_weight_nano: u64,
    /// Memory that programs can get without swapping (`MemAvailable`), in bytes.
    pub memory_free_bytes: u64,
    /// What programs lack: what is in swap, as far as they had to fetch as much back lately, in
    /// bytes. What they left there long ago nothing needs.
    pub swapped_bytes: u64,
    /// Pressure stall figures; `None` where the kernel keeps none.
    pub pressure: Option<Pressure>,
    /// Guests that run here or are on their way. The daemon fills this in.
    pub guests: u32,
    /// Whether this node takes guests now. The daemon fills this in.
    pub accepting: bool,
}

/// Share of the last ten seconds in which some, or all, tasks stood still for lack of a resource,
/// in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pressure {
    /// Some task waited for a CPU.
    pub cpu_some_centi: u16,
    /// Some task waited for memory.
    pub memory_some_centi: u16,
    /// All tasks waited for memory.
    pub memory_full_centi: u16,
    /// Some task waited for I/O.
    pub io_some_centi: u16,
    /// All tasks waited for I/O.
    pub io_full_centi: u16,
}

/// Of what was fetched for lack of memory, what still counts a second later: about eight seconds
/// are looked back on. What programs touch within some seconds is their working set (Denning, "The
/// working set model for program behavior", CACM 11(5), 1968).
pub const FETCHED_DECAY: f64 = 7.0 / 8.0;

/// Folds samples of runnable tasks into the decayed figures.
#[derive(Debug, Clone)]
pub struct LoadTracker {
    cpus: u64,
    speed_permille: u64,
    sum: u64,
    samples: u64,
    mean_milli: u64,
    upper_milli: u64,
}

impl LoadTracker {
    /// A tracker for a node of `cpus` CPUs (at least one is assumed), each of `speed_permille`
    /// thousandths of the standard speed.
    pub fn new(cpus: u32, speed_permille: u32) -> Self {
        Self {
            cpus: u64::from(cpus.max(1)),
            speed_permille: u64::from(speed_permille.max(1)),
            sum: 0,
            samples: 0,
            mean_milli: 0,
            upper_milli: 0,
        }
    }

    /// Adds one sample: tasks runnable now.
    pub fn sample(&mut self, nr_running: u32) {
        self.sum += u64::from(nr_running);
        self.samples += 1;
    }

    /// Ends a second: folds its samples in. Without a sample nothing changes.
    pub fn end_second(&mut self) {
        if self.samples == 0 {
            return;
        }
        let new = self.sum * 1000 / self.samples;
        (self.sum, self.samples) = (0, 0);
        self.mean_milli = if new > self.mean_milli { (5 * self.mean_milli + 3 * new).div_ceil(8) } else { new };
        self.upper_milli = if new > self.upper_milli { new } else { (7 * self.upper_milli + new) / 8 };
    }

    /// The mean, per standard CPU, times 1000.
    pub fn load_milli(&self) -> u32 {
        self.scale(self.mean_milli)
    }

    /// The upper estimate, per standard CPU, times 1000.
    pub fn load_upper_milli(&self) -> u32 {
        self.scale(self.upper_milli)
    }

    fn scale(&self, tasks_milli: u64) -> u32 {
        u32::try_from(tasks_milli.saturating_mul(1000) / self.speed_permille / self.cpus).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(tracker: &mut LoadTracker, running: &[u32]) -> Vec<(u32, u32)> {
        let second = |tasks: &u32| {
            for _ in 0..10 {
                tracker.sample(*tasks);
            }
            tracker.end_second();
            (tracker.load_milli(), tracker.load_upper_milli())
        };
        running.iter().map(second).collect()
    }

    #[test]
    fn mean_and_upper_bound_follow_changes_at_opposite_speeds() {
        let mut tracker = LoadTracker::new(1, 1000);
        let expected = vec![(3000, 8000), (4875, 8000), (0, 7000), (0, 6125)];
        assert_eq!(seconds(&mut tracker, &[8, 8, 0, 0]), expected);
    }

    #[test]
    fn load_is_per_standard_cpu() {
        // The same four tasks: on four standard CPUs, on two, and on two of half the speed.
        for (cpus, speed, expected) in [(4, 1000, 1000), (2, 1000, 2000), (2, 500, 4000)] {
            let mut tracker = LoadTracker::new(cpus, speed);
            let last = *seconds(&mut tracker, &[4; 40]).last().unwrap();
            assert_eq!(last, (expected, expected), "{cpus} CPUs of speed {speed}");
        }
    }

    #[test]
    fn a_second_without_samples_changes_nothing() {
        let mut tracker = LoadTracker::new(1, 1000);
        seconds(&mut tracker, &[2]);
        let before = (tracker.load_milli(), tracker.load_upper_milli());
        tracker.end_second();
        assert_eq!((tracker.load_milli(), tracker.load_upper_milli()), before);
    }

    proptest! {
        #[test]
        fn upper_is_never_below_mean_and_nothing_overflows(cpus: u32, speed: u32, running in prop::collection::vec(any::<u32>(), 1..30)) {
            let mut tracker = LoadTracker::new(cpus, speed);
            for (mean, upper) in seconds(&mut tracker, &running) {
                prop_assert!(mean <= upper);
            }
        }
    }
}
