//! What the kernel counts of a thread; summed up, of a process and of a job.

use std::ops::{AddAssign, Sub};

use serde::{Deserialize, Serialize};

/// What was counted since they began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Time on a CPU.
    #[serde(rename = "cpu_time_ms", with = "as_ms")]
    pub cpu_ns: u64,
    /// Time runnable, but waiting for a CPU; of the threads that live.
    #[serde(default, rename = "wait_time_ms", with = "as_ms")]
    pub wait_ns: u64,
    /// Page faults that waited for a disk.
    #[serde(default)]
    pub major_faults: u64,
    /// Read from disks and written to files, in bytes, by children that were waited for too.
    #[serde(default)]
    pub io_bytes: u64,
}

impl Counters {
    /// Time on a CPU, in ms.
    #[must_use]
    pub fn cpu_ms(&self) -> u64 {
        self.cpu_ns / NS_PER_MS
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        let Self { cpu_ns, wait_ns, major_faults, io_bytes } = other;
        self.cpu_ns = self.cpu_ns.saturating_add(cpu_ns);
        self.wait_ns = self.wait_ns.saturating_add(wait_ns);
        self.major_faults = self.major_faults.saturating_add(major_faults);
        self.io_bytes = self.io_bytes.saturating_add(io_bytes);
    }
}

impl Sub for Counters {
    type Output = Self;

    /// What came since `before`; a counter that has fallen, as a thread ended, gives 0.
    fn sub(self, before: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            wait_ns: self.wait_ns.saturating_sub(before.wait_ns),
            major_faults: self.major_faults.saturating_sub(before.major_faults),
            io_bytes: self.io_bytes.saturating_sub(before.io_bytes),
        }
    }
}

/// What was counted, and what they have now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// What was counted.
    #[serde(flatten)]
    pub counters: Counters,
    /// Memory in use, in bytes.
    pub resident_bytes: u64,
    /// What of that is of mapped files, in bytes.
    pub mapped_bytes: u64,
    /// Processes.
    pub processes: u32,
    /// Threads of all of them.
    pub threads: u32,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        let Self { counters, resident_bytes, mapped_bytes, processes, threads } = other;
        self.counters += counters;
        self.resident_bytes = self.resident_bytes.saturating_add(resident_bytes);
        self.mapped_bytes = self.mapped_bytes.saturating_add(mapped_bytes);
        self.processes = self.processes.saturating_add(processes);
        self.threads = self.threads.saturating_add(threads);
    }
}

const NS_PER_MS: u64 = 1_000_000;

/// Times are ns here, as the kernel counts them, and ms in JSON.
mod as_ms {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::NS_PER_MS;

    pub(super) fn serialize<S: Serializer>(ns: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(ns / NS_PER_MS)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        Ok(u64::deserialize(deserializer)?.saturating_mul(NS_PER_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_summed_and_a_fallen_counter_is_zero() {
        let counters = Counters { cpu_ns: 5_000_000, wait_ns: 4, major_faults: 3, io_bytes: u64::MAX };
        let one = Usage { counters, resident_bytes: 7, mapped_bytes: 6, processes: 1, threads: 2 };
        let mut sum = one;
        sum += one;
        let counted = Counters { cpu_ns: 10_000_000, wait_ns: 8, major_faults: 6, io_bytes: u64::MAX };
        assert_eq!(sum, Usage { counters: counted, resident_bytes: 14, mapped_bytes: 12, processes: 2, threads: 4 });
        assert_eq!(counted - counters, Counters { io_bytes: 0, ..counters });
        assert_eq!(counters - counted, Counters::default());
    }

    #[test]
    fn usage_is_flat_json_with_times_in_ms() {
        let counters = Counters { cpu_ns: 5_900_000, wait_ns: 0, major_faults: 3, io_bytes: 4 };
        let json = serde_json::to_value(Usage { counters, ..Usage::default() }).unwrap();
        assert_eq!((&json["cpu_time_ms"], &json["major_faults"], &json["threads"]), (&5.into(), &3.into(), &0.into()));
        let read: Usage = serde_json::from_value(json).unwrap();
        assert_eq!(read.counters, Counters { cpu_ns: 5_000_000, ..counters });
    }
}
