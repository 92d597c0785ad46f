//! Attained service: processes with little of it first, the others with a guaranteed share.
//! `bpf/attained.bpf.h` carries it out; the values are those of [`Config`](super::Config).
//!
//! How long a process will run is unknown, but of those that have had a second of CPU time half
//! reach two: the time had so far is the best guess for the time to come (Harchol-Balter & Downey,
//! "Exploiting process lifetime distributions for dynamic load balancing", ACM TOCS 15(3), 1997).
//! Under such a distribution serving the one that has had least keeps the mean response time lowest
//! of all policies that do not know the rest (Nuyens & Wierman, "The foreground-background queue: a
//! survey", Performance Evaluation 65(3–4), 2008). Levels that begin at doublings are the
//! multi-level feedback queue's approximation of it; the least weight keeps the old from starving,
//! which the pure policy does not. In the simulation of the opportunity-cost paper's cluster most
//! of what any policy can gain lies here.

use super::skel::intf;

/// Whose weight falls with the CPU time that they have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub enum AttainedService {
    /// Of no process: plain weights.
    Off,
    /// That of the processes of jobs, at home and as guests.
    #[default]
    Jobs,
    /// Of all processes but the kernel's own threads.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_is_a_word_of_its_own_to_the_kernel() {
        let all = [AttainedService::Off, AttainedService::Jobs, AttainedService::All].map(AttainedService::as_raw);
        assert_eq!(all, [0, 1, 2]);
    }
}
