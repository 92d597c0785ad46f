//! Attained service: young processes first, old ones with a guaranteed share. `bpf/attained.bpf.h` carries it out; the values are
//! here, once, for it and for the simulator.
//!
//! Nobody knows how long a process will go on, but of those that have had a second of CPU time half reach two: the time had so far
//! is the best guess for the time to come (Harchol-Balter & Downey, "Exploiting process lifetime distributions for dynamic load
//! balancing", ACM TOCS 15(3), 1997). Under such a distribution serving the one that has had least keeps the mean response time lowest
//! of all policies that do not know the rest (Nuyens & Wierman, "The foreground-background queue: a survey", Performance Evaluation
//! 65(3–4), 2008). Levels that begin at doublings are the multi-level feedback queue's approximation of it; the least weight keeps the
//! old from starving, which the pure policy does not. In the simulation of the opportunity-cost paper's cluster most of what any
//! policy can gain lies here.

use std::time::Duration;

use super::skel::intf;

/// CPU time up to which a process has its full weight; each doubling of it begins a level. The simulation's value: most of its jobs,
/// as most programs, need little more than that.
pub const FIRST_LEVEL: Duration = Duration::from_secs(1);

/// By how many bits each level shifts the weight to the right: to an eighth. The simulation's value.
pub const LEVEL_SHIFT: u32 = 3;

/// By how many bits the weight is shifted at most, which is the guaranteed share: a 512th of the full weight, from 4 s of CPU time on.
/// The simulation's value; one turn of 5 ms in each 2.5 s beside a young process, about what the scheduler's longest wait gives to
/// anybody.
pub const LEAST_SHIFT: u32 = 9;

/// CPU time from which on the weight does not fall any more: whoever has had more is served alike.
#[must_use]
pub fn alike_from() -> Duration {
    FIRST_LEVEL * (1 << (LEAST_SHIFT / LEVEL_SHIFT - 1))
}

// Whole levels down to the floor, in words of 32 bits.
const _: () = assert!(LEAST_SHIFT.is_multiple_of(LEVEL_SHIFT) && LEAST_SHIFT < u32::BITS);

/// A process that sleeps forgets its sleep, shifted to the right by so many bits, of its CPU time: an eighth, so that whoever uses less
/// than a ninth of a CPU stays young. Ours, and a judgement: meant to lie above what a person's typing and scrolling costs, and below
/// what batch programs that wait for their disk use.
pub const FORGET_SHIFT: u32 = 3;

/// Whose weight falls with the CPU time that they have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttainedService {
    /// Nobody's: plain weights.
    Off,
    /// That of the processes of jobs, at home and as guests.
    #[default]
    Jobs,
    /// Everybody's but the kernel's own threads'.
    All,
}

impl AttainedService {
    pub(super) fn as_raw(self) -> u32 {
        match self {
            Self::Off => intf::mosix_attained_service_MOSIX_ATTAINED_OFF,
            Self::Jobs => intf::mosix_attained_service_MOSIX_ATTAINED_JOBS,
            Self::All => intf::mosix_attained_service_MOSIX_ATTAINED_ALL,
        }
    }
}

/// How the scheduler shares the CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether old processes make room for young ones. Default: those of jobs.
    pub attained_service: AttainedService,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_is_a_word_of_its_own_to_the_kernel() {
        let all = [AttainedService::Off, AttainedService::Jobs, AttainedService::All].map(AttainedService::as_raw);
        assert_eq!(all, [0, 1, 2]);
        assert_eq!(Config::default().attained_service, AttainedService::Jobs);
    }
}
