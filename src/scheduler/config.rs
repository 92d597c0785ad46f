//! What can be tuned of the scheduler, with where each default comes from. `bpf/attained.bpf.h` and
//! `bpf/tiers.bpf.h` carry it out, and the simulator's machines too.

use super::attained::AttainedService;
use crate::bounds::{self, OutOfBounds};

/// How the scheduler shares the CPUs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which processes make room for those with less attained service. Default: those of jobs.
    pub attained_service: AttainedService,
    /// CPU time, in milliseconds, up to which a process has its full weight; each doubling of it
    /// begins a level. The simulation's value, 1 s: most of its jobs, as most programs, need little
    /// more than that.
    pub first_level_ms: u64,
    /// By how many bits each level shifts the weight to the right. The simulation's value, 3: to an
    /// eighth.
    pub level_shift: u32,
    /// By how many bits the weight is shifted at most, which is the guaranteed share. The
    /// simulation's value, 9: a 512th of the full weight, from 4 s of CPU time on; one turn of 5 ms
    /// in each 2.5 s beside a process with little, about what the scheduler's longest wait gives to
    /// any other.
    pub least_shift: u32,
    /// A process that sleeps forgets its sleep, shifted to the right by so many bits, of its CPU
    /// time. 3: an eighth, so that a process that uses less than a ninth of a CPU stays at the
    /// first level. Ours, and a judgement: meant to lie above what a person's typing and scrolling
    /// costs, and below what batch programs that wait for their disk use.
    pub forget_shift: u32,
    /// Of the time that agents get at a CPU while a node's own programs wait for it, how much those
    /// are owed, in percent. Ours: 50.
    pub home_share_percent: u32,
    /// Of the time that agents and a node's own programs get at a CPU while guests wait for it, how
    /// much those are owed, in percent: enough to be frozen and to leave. Ours: 5.
    pub guest_share_percent: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            attained_service: AttainedService::default(),
            first_level_ms: 1_000,
            level_shift: 3,
            least_shift: 9,
            forget_shift: 3,
            home_share_percent: 50,
            guest_share_percent: 5,
        }
    }
}

impl Config {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first setting that is out of bounds, with its bounds.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        let settings = [
            ("first_level_ms", self.first_level_ms, 1, 3_600_000),
            ("level_shift", u64::from(self.level_shift), 1, 31),
            ("least_shift", u64::from(self.least_shift), 1, 31),
            ("forget_shift", u64::from(self.forget_shift), 0, 63),
            ("home_share_percent", u64::from(self.home_share_percent), 1, 100),
            ("guest_share_percent", u64::from(self.guest_share_percent), 1, 100),
        ];
        bounds::check("scheduler", settings)
    }

    /// CPU time, in milliseconds, from which on the weight does not fall any more: processes that
    /// have had more are served alike. 0 if all are.
    #[must_use]
    pub fn alike_from_ms(&self) -> u64 {
        let last_level = self.least_shift.div_ceil(self.level_shift.max(1)).saturating_sub(1);
        match self.attained_service {
            AttainedService::Off => 0,
            AttainedService::Jobs | AttainedService::All => self.first_level_ms << last_level,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_valid_and_bounds_hold() {
        assert_eq!(Config::default().validate(), Ok(()));
        let error = Config { least_shift: 0, ..Config::default() }.validate().unwrap_err().to_string();
        assert_eq!(error, "scheduler: least_shift is 0; set it between 1 and 31");
    }

    #[test]
    fn the_weight_falls_until_the_last_level() {
        let alike_from_ms =
            |level_shift, least_shift| Config { level_shift, least_shift, ..Config::default() }.alike_from_ms();
        assert_eq!(alike_from_ms(3, 9), 4_000);
        assert_eq!(alike_from_ms(4, 9), 4_000, "the last step may be smaller");
        assert_eq!(alike_from_ms(9, 9), 1_000);
        assert_eq!(Config { attained_service: AttainedService::Off, ..Config::default() }.alike_from_ms(), 0);
    }
}
