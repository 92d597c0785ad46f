//! The user-space half of the ABI in `bpf/intf.h`: tiers, statistics.

use serde::Serialize;

use super::skel::intf;

const _: () = {
    assert!(size_of::<intf::mosix_process_hint>() == 8);
    assert!(size_of::<intf::mosix_cgroup_hint>() == 8);
    assert!(size_of::<intf::mosix_tier_stats>() == 24);
    assert!(size_of::<intf::mosix_cpu_stats>() == 120);
};

/// Who is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Threads that carry a migration.
    Agent,
    /// Programs of this node's own users: whatever has no other tier.
    Home,
    /// Programs that other nodes have sent here.
    Guest,
}

impl Tier {
    /// All tiers, best first, in the order of [`SchedulerStats::tiers`].
    pub const ALL: [Self; intf::mosix_limits_MOSIX_NR_TIERS as usize] = [Self::Agent, Self::Home, Self::Guest];

    /// Its name, for lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Home => "home",
            Self::Guest => "guest",
        }
    }

    pub(super) fn as_raw(self) -> u32 {
        match self {
            Self::Agent => intf::mosix_tier_MOSIX_TIER_AGENT,
            Self::Home => intf::mosix_tier_MOSIX_TIER_HOME,
            Self::Guest => intf::mosix_tier_MOSIX_TIER_GUEST,
        }
    }
}

/// One tier's totals since the scheduler was attached, over all CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TierStats {
    /// CPU time that its tasks got.
    pub run_ns: u64,
    /// Time that they were runnable, but waited.
    pub wait_ns: u64,
    /// Times that one was put on a CPU.
    pub switches: u64,
}

/// What the scheduler did since it was attached, over all CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SchedulerStats {
    /// In the order of [`Tier::ALL`].
    pub tiers: [TierStats; Tier::ALL.len()],
    /// Tasks put straight on an idle CPU.
    pub nr_direct: u64,
    /// Tasks put into a queue.
    pub nr_queued: u64,
    /// Tasks taken from another cache's queue.
    pub nr_stolen: u64,
    /// Running tasks asked to make room.
    pub nr_preempted: u64,
    /// Turns that a lower tier got because it was owed them.
    pub nr_owed: u64,
    /// Turns put off because the process is throttled.
    pub nr_paused: u64,
}

impl SchedulerStats {
    /// Adds one CPU's statistics, which are the first bytes of `value` (`struct cpu_ctx` in the BPF
    /// half).
    pub(super) fn add(&mut self, value: &[u8]) {
        let (longs, _) = value.as_chunks::<8>();
        let mut longs = longs.iter().map(|long| u64::from_ne_bytes(*long));
        let mut next = || longs.next().unwrap_or_default();
        for tier in &mut self.tiers {
            tier.run_ns += next();
            tier.wait_ns += next();
            tier.switches += next();
        }
        self.nr_direct += next();
        self.nr_queued += next();
        self.nr_stolen += next();
        self.nr_preempted += next();
        self.nr_owed += next();
        self.nr_paused += next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_two_cpus_add_up_in_the_order_of_the_abi() {
        let value: Vec<u8> = (1..=20u64).flat_map(u64::to_ne_bytes).collect();
        let mut stats = SchedulerStats::default();
        stats.add(&value);
        stats.add(&value);
        assert_eq!(stats.tiers[2], TierStats { run_ns: 14, wait_ns: 16, switches: 18 });
        assert_eq!((stats.nr_direct, stats.nr_paused), (20, 30));
    }
}
