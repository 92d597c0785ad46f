//! A node's memory: the machine's, or a part of it.

/// Memory and swap that a node may use, and what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it, in bytes.
    pub total_bytes: u64,
    /// What programs can get without swapping, in bytes.
    pub free_bytes: u64,
    /// What is in swap, in bytes.
    pub swapped_bytes: u64,
    /// What was fetched back from swap since the machine, or the container, began, in bytes.
    pub fetched_bytes: u64,
}

/// What those in a container use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Memory that cannot be had without swapping, in bytes.
    pub(super) used_bytes: u64,
    /// What they have in swap, in bytes; `None` if that is not known.
    pub(super) swapped_bytes: Option<u64>,
    /// What they fetched back from swap, in bytes; `None` if that is not known.
    pub(super) fetched_bytes: Option<u64>,
}

impl Memory {
    /// A part of this machine's memory, of which no more than `limit_bytes` may be used. Without
    /// `usage` all that is used of the machine's counts.
    pub(super) fn part(self, limit_bytes: u64, usage: Option<Usage>) -> Self {
        let total_bytes = self.total_bytes.min(limit_bytes);
        let of_machine = Usage {
            used_bytes: self.total_bytes.saturating_sub(self.free_bytes),
            swapped_bytes: None,
            fetched_bytes: None,
        };
        let usage = usage.unwrap_or(of_machine);
        Self {
            total_bytes,
            // Neighbours may have taken what the limit would allow.
            free_bytes: self.free_bytes.min(total_bytes.saturating_sub(usage.used_bytes)),
            swapped_bytes: usage.swapped_bytes.unwrap_or(self.swapped_bytes),
            fetched_bytes: usage.fetched_bytes.unwrap_or(self.fetched_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MACHINE: Memory = Memory { total_bytes: 8_000, free_bytes: 5_000, swapped_bytes: 70, fetched_bytes: 900 };

    fn used(used_bytes: u64) -> Option<Usage> {
        Some(Usage { used_bytes, swapped_bytes: Some(7), fetched_bytes: None })
    }

    #[test]
    fn a_part_has_what_its_limit_and_the_machine_leave() {
        let expected = Memory { total_bytes: 1_000, free_bytes: 600, swapped_bytes: 7, fetched_bytes: 900 };
        assert_eq!(MACHINE.part(1_000, used(400)), expected);
        assert_eq!(MACHINE.part(7_000, used(400)).free_bytes, 5_000, "others have the rest");
        assert_eq!(MACHINE.part(1_000, used(4_000)).free_bytes, 0);
    }

    #[test]
    fn without_a_limit_or_figures_of_its_own_it_is_the_machine() {
        assert_eq!(MACHINE.part(u64::MAX, None), MACHINE);
        assert_eq!(MACHINE.part(4_000, None).free_bytes, 1_000);
    }

    proptest! {
        #[test]
        fn nothing_is_free_that_is_not(total: u64, free: u64, limit: u64, used: Option<u64>) {
            let machine = Memory { total_bytes: total, free_bytes: free.min(total), swapped_bytes: 0, fetched_bytes: 0 };
            let usage = used.map(|used_bytes| Usage { used_bytes, ..Usage::default() });
            let part = machine.part(limit, usage);
            prop_assert!(part.total_bytes <= total.min(limit));
            prop_assert!(part.free_bytes <= part.total_bytes && part.free_bytes <= machine.free_bytes);
        }
    }
}
