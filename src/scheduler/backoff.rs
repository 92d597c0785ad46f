//! Exponential back-off between attempts to attach the scheduler: pure, the clock is the caller's.
//!
//! Each failure doubles the wait, from `first` to `longest`. An attachment that held for
//! `healthy_after` is a success, whatever ended it: the next wait is `first` again.

use std::time::Duration;

/// How long to wait before the next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    healthy_after: Duration,
    next: Duration,
}

impl Backoff {
    /// `first` is made at least 1 ms, and `longest` at least `first`.
    pub fn new(first: Duration, longest: Duration, healthy_after: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        Self { first, longest: longest.max(first), healthy_after, next: first }
    }

    /// An attachment ended after it had held for `held` (zero: it did not come about). Returns the
    /// wait before the next attempt.
    pub fn ended_after(&mut self, held: Duration) -> Duration {
        if held >= self.healthy_after {
            self.next = self.first;
        }
        let wait = self.next;
        self.next = self.next.saturating_mul(2).min(self.longest);
        wait
    }
}

impl Default for Backoff {
    /// 1 s, doubling to 5 min; an attachment that held for 1 min starts anew.
    fn default() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(300), Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(60));
        let waits: Vec<_> = (0..5).map(|_| backoff.ended_after(Duration::ZERO).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn a_long_attachment_starts_anew() {
        let mut backoff = Backoff::default();
        backoff.ended_after(Duration::ZERO);
        backoff.ended_after(Duration::ZERO);
        assert_eq!(backoff.ended_after(Duration::from_secs(3600)), Duration::from_secs(1));
        assert_eq!(backoff.ended_after(Duration::from_secs(59)), Duration::from_secs(2));
    }

    proptest! {
        #[test]
        fn stays_within_its_bounds(first in 0u64..10_000, longest in 0u64..10_000, held in prop::collection::vec(0u64..100_000, 1..80)) {
            let mut backoff = Backoff::new(Duration::from_millis(first), Duration::from_millis(longest), Duration::from_secs(60));
            for held_ms in held {
                let wait = backoff.ended_after(Duration::from_millis(held_ms));
                prop_assert!(wait >= Duration::from_millis(first.max(1)));
                prop_assert!(wait <= Duration::from_millis(longest.max(first).max(1)));
            }
        }
    }
}
