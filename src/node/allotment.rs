//! What a node may use of its machine: a number of CPUs, which need not be whole, and memory.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A number of CPUs, in thousandths; at least one thousandth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CpuCount(u32);

/// A text that is no number of CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be a number of CPUs from 0.01 to 65536, such as 0.6 or 2, with at most three decimals")]
pub struct NoCpuCount;

/// What the daemon was told that it may use, for where that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPUs.
    pub cpus: Option<CpuCount>,
    /// Memory, in MiB.
    pub memory_mib: Option<u64>,
}

/// What limits a node to less than its machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limiter {
    /// The CPUs on which its daemon may run.
    CpuSet,
    /// The container's cgroup.
    Cgroup,
    /// What the daemon was told.
    Flag,
}

/// What a node may use of its machine, and what limits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allotment {
    /// Whether the node is a container and not the whole machine.
    pub in_container: bool,
    /// The machine's CPUs.
    pub machine_cpus: u32,
    /// CPUs, as a share of time on those.
    pub cpus: CpuCount,
    /// Why they are not all.
    pub cpus_by: Option<Limiter>,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Why it is not all.
    pub memory_by: Option<Limiter>,
}

/// The least of all there is and of some limits; and which limit that is, if any leaves less than
/// all.
pub(super) fn least(all: u64, limits: impl IntoIterator<Item = (Limiter, Option<u64>)>) -> (u64, Option<Limiter>) {
    let lower = limits.into_iter().filter_map(|(limiter, limit)| Some((limit.filter(|limit| *limit < all)?, limiter)));
    lower.min_by_key(|(limit, _)| *limit).map_or((all, None), |(limit, limiter)| (limit, Some(limiter)))
}

impl CpuCount {
    /// In thousandths.
    pub fn milli(self) -> u32 {
        self.0
    }

    /// As many whole CPUs as it takes.
    pub fn whole(self) -> u32 {
        self.0.div_ceil(1_000)
    }

    /// The speed of each of those whole CPUs, where one to itself has `speed_permille`: together
    /// they compute what this share can.
    pub fn speed_permille(self, speed_permille: u32) -> u32 {
        let all = u64::from(speed_permille) * u64::from(self.0) / (u64::from(self.whole()) * 1_000);
        u32::try_from(all).unwrap_or(u32::MAX).max(1)
    }
}

impl From<u64> for CpuCount {
    fn from(milli: u64) -> Self {
        Self(u32::try_from(milli).unwrap_or(u32::MAX).max(1))
    }
}

impl FromStr for CpuCount {
    type Err = NoCpuCount;

    fn from_str(text: &str) -> Result<Self, NoCpuCount> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) || decimals.len() > 3 {
            return Err(NoCpuCount);
        }
        let milli = format!("{whole}{decimals:0<3}").parse().map_err(|_| NoCpuCount)?;
        if (10..=65_536_000).contains(&milli) { Ok(Self(milli)) } else { Err(NoCpuCount) }
    }
}

impl fmt::Display for CpuCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&(f64::from(self.0) / 1_000.0), f)
    }
}

impl fmt::Display for Allotment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = |limiter: Option<Limiter>| match limiter {
            None => "",
            Some(Limiter::CpuSet) => " by CPU set",
            Some(Limiter::Cgroup) => " by cgroup",
            Some(Limiter::Flag) => " by flag",
        };
        let kind = if self.in_container { "container" } else { "machine" };
        let Self { cpus, machine_cpus, cpus_by, memory_by, .. } = *self;
        let mib = self.memory_bytes >> 20;
        write!(f, "{kind}: {cpus} of {machine_cpus} CPUs{}, {mib} MiB{}", by(cpus_by), by(memory_by))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_of_cpus_are_read() {
        for (text, milli) in [("0.6", 600), ("2", 2_000), ("1.25", 1_250), ("0.01", 10), ("65536", 65_536_000)] {
            assert_eq!(text.parse::<CpuCount>().map(CpuCount::milli), Ok(milli), "{text}");
        }
        let bad =
            ["", "0", "0.009", "-1", "+1", "1.", ".5", "1e3", "nan", "0.6.1", "1.2345", "65536.001", "99999999999"];
        for text in bad {
            assert_eq!(text.parse::<CpuCount>(), Err(NoCpuCount), "{text}");
        }
    }

    #[test]
    fn a_part_of_a_cpu_is_one_slower_cpu() {
        let count = |text: &str| text.parse::<CpuCount>().unwrap();
        let shape = |text: &str| (count(text).whole(), count(text).speed_permille(900));
        assert_eq!([shape("0.6"), shape("1"), shape("1.5"), shape("4")], [(1, 540), (1, 900), (2, 675), (4, 900)]);
    }

    #[test]
    fn the_least_limit_is_named_and_one_above_all_is_none() {
        let of = |cgroup, flag| least(2_000, [(Limiter::Cgroup, cgroup), (Limiter::Flag, flag)]);
        assert_eq!(of(None, None), (2_000, None));
        assert_eq!(of(Some(1_500), Some(600)), (600, Some(Limiter::Flag)));
        assert_eq!(of(Some(500), Some(600)), (500, Some(Limiter::Cgroup)));
        assert_eq!(of(Some(9_000), Some(2_000)), (2_000, None));
    }

    #[test]
    fn an_allotment_is_described_in_one_line() {
        let whole = Allotment {
            in_container: false,
            machine_cpus: 2,
            cpus: CpuCount(2_000),
            cpus_by: None,
            memory_bytes: 8 << 30,
            memory_by: None,
        };
        assert_eq!(whole.to_string(), "machine: 2 of 2 CPUs, 8192 MiB");
        let part = Allotment {
            in_container: true,
            cpus: CpuCount(600),
            cpus_by: Some(Limiter::Cgroup),
            memory_bytes: 512 << 20,
            memory_by: Some(Limiter::Flag),
            ..whole
        };
        assert_eq!(part.to_string(), "container: 0.6 of 2 CPUs by cgroup, 512 MiB by flag");
    }

    proptest! {
        #[test]
        fn capacity_is_the_share_of_the_machines(milli in 1_u64..100_000_000, speed in 1_u32..100_000) {
            let count = CpuCount::from(milli);
            let capacity = u64::from(count.whole()) * u64::from(count.speed_permille(speed));
            let share = milli * u64::from(speed) / 1_000;
            // Each CPU's speed is rounded to a thousandth.
            prop_assert!(capacity.abs_diff(share) <= u64::from(count.whole()), "{capacity} and {share}");
            prop_assert!(count.speed_permille(speed) <= speed);
        }

        #[test]
        fn what_is_shown_is_read_as_the_same(milli in 10_u64..=65_536_000) {
            let count = CpuCount::from(milli);
            prop_assert_eq!(count.to_string().parse(), Ok(count));
        }

        #[test]
        fn no_limit_gives_more_than_all(all: u64, cgroup: Option<u64>, flag: Option<u64>) {
            let (least, limiter) = least(all, [(Limiter::Cgroup, cgroup), (Limiter::Flag, flag)]);
            prop_assert!(least <= all && [cgroup, flag].into_iter().flatten().all(|limit| least <= limit));
            prop_assert_eq!(limiter.is_some(), least < all);
        }
    }
}
