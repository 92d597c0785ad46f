//! A sliding window over datagram counters: each counter is accepted once, and old ones not at all.

/// How far a datagram may lag behind the newest of its sender. Gossip sends a few datagrams a
/// second, so 128 are many seconds.
const WINDOW: u64 = u128::BITS as u64;

/// The counters seen lately from one sender.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct ReplayWindow {
    newest: u64,
    /// Bit `i` is set if counter `newest - i` was accepted.
    seen: u128,
}

impl ReplayWindow {
    /// Whether `counter` is new; remembers it if so. To be called for authenticated datagrams only.
    pub(super) fn accept(&mut self, counter: u64) -> bool {
        if let Some(ahead) = counter.checked_sub(self.newest).filter(|ahead| *ahead > 0) {
            self.seen = if ahead < WINDOW { self.seen << ahead } else { 0 };
            self.seen |= 1;
            self.newest = counter;
            return true;
        }
        let lag = self.newest - counter;
        if lag >= WINDOW || self.seen & (1 << lag) != 0 {
            return false;
        }
        self.seen |= 1 << lag;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_counter_may_be_zero() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(0));
        assert!(!window.accept(0));
    }

    proptest! {
        /// Against the obvious model: never accepted twice, and always accepted if new and not
        /// older than the window.
        #[test]
        fn behaves_as_a_set(counters in prop::collection::vec(prop_oneof![0u64..300, any::<u64>()], 1..200)) {
            let (mut window, mut seen, mut newest) = (ReplayWindow::default(), HashSet::new(), 0);
            for counter in counters {
                newest = newest.max(counter);
                let expected = newest - counter < WINDOW && !seen.contains(&counter);
                prop_assert_eq!(window.accept(counter), expected);
                if expected {
                    seen.insert(counter);
                }
            }
        }
    }
}
