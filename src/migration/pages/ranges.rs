//! A set of addresses as disjoint ranges: what is still to come.

use std::collections::BTreeMap;

use crate::migration::criu::Range;

/// Disjoint ranges by their start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    by_start: BTreeMap<u64, u64>,
}

impl Ranges {
    /// The ranges given, which must not overlap.
    pub fn new(ranges: impl IntoIterator<Item = Range>) -> Self {
        Self { by_start: ranges.into_iter().map(|range| (range.start, range.end)).collect() }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// Bytes in all ranges.
    pub fn bytes(&self) -> u64 {
        self.by_start.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether `address` is in one of them.
    pub fn contains(&self, address: u64) -> bool {
        self.by_start.range(..=address).next_back().is_some_and(|(_, end)| *end > address)
    }

    /// Takes out what `range` covers and returns how many bytes that were.
    pub fn remove(&mut self, range: Range) -> u64 {
        let first = self.by_start.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let touched: Vec<(u64, u64)> =
            self.by_start.range(first..range.end).map(|(start, end)| (*start, *end)).collect();
        let mut removed = 0;
        for (start, end) in touched {
            let (from, to) = (start.max(range.start), end.min(range.end));
            if from >= to {
                continue;
            }
            removed += to - from;
            self.by_start.remove(&start);
            if start < from {
                self.by_start.insert(start, from);
            }
            if to < end {
                self.by_start.insert(to, end);
            }
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_like_a_set_of_addresses(
            gaps in prop::collection::vec((1u64..5, 1u64..9), 0..8),
            removals in prop::collection::vec((0u64..80, 1u64..30), 0..8),
        ) {
            let mut at = 0;
            let mut ranges = Vec::new();
            for (gap, length) in gaps {
                ranges.push(Range { start: at + gap, end: at + gap + length });
                at += gap + length;
            }
            let mut model: BTreeSet<u64> = ranges.iter().flat_map(|range| range.start..range.end).collect();
            let mut set = Ranges::new(ranges);
            for (start, length) in removals {
                let range = Range { start, end: start + length };
                let before = model.len();
                model.retain(|address| !(range.start..range.end).contains(address));
                prop_assert_eq!(set.remove(range), (before - model.len()) as u64);
                prop_assert_eq!(set.bytes(), model.len() as u64);
                prop_assert_eq!(set.is_empty(), model.is_empty());
                for address in 0..100 {
                    prop_assert_eq!(set.contains(address), model.contains(&address));
                }
            }
        }
    }
}
