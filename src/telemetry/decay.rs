//! MOSIX's decays, in integers and pure: one step per second.
//!
//! | figure | rising | falling |
//! |---|---|---|
//! | mean: what other nodes are told | `(5·old + 3·new) / 8` | jumps to new |
//! | upper: what this node counts on when it offers itself | jumps to new | `(7·old + new) / 8` |
//! | per process | `(5·old + 3·ran) / 8` | the same |
//!
//! The mean hides a burst and shows relief at once; the upper shows a burst at once and forgets it slowly. (The constants are
//! MOSIX's, as Kerrighed's balancer documents them.) Divisions round towards the new value by less than one unit per step, so
//! that a steady input is reached exactly.

/// Steps after which a decayed figure is as good as new: 7/8 to the power of it is below 1 %.
const STEPS_MAX: u64 = 40;

/// A node's load, decayed both ways. Unit: that of the input (here: thousandths of a runnable task).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadDecay {
    /// Slow to rise, quick to fall.
    pub mean: u64,
    /// Quick to rise, slow to fall.
    pub upper: u64,
}

impl LoadDecay {
    /// `new` held for the last `interval_ms`.
    pub fn step(&mut self, new: u64, interval_ms: u64) {
        for _ in 0..steps(interval_ms) {
            self.mean = if new > self.mean { towards(self.mean, new, 5) } else { new };
            self.upper = if new < self.upper { towards(self.upper, new, 7) } else { new };
        }
    }
}

/// A process's CPU use: `ran` held for the last `interval_ms`.
pub fn process_step(old: u64, ran: u64, interval_ms: u64) -> u64 {
    (0..steps(interval_ms)).fold(old, |old, _| towards(old, ran, 5))
}

/// Whole seconds, at least one: a sample that comes early counts as a step, one that comes late as several.
fn steps(interval_ms: u64) -> u64 {
    ((interval_ms + 500) / 1000).clamp(1, STEPS_MAX)
}

/// `keep` eighths of the old value and the rest of the new one, rounded towards the new one.
fn towards(old: u64, new: u64, keep: u64) -> u64 {
    let sum = u128::from(old) * u128::from(keep) + u128::from(new) * u128::from(8 - keep);
    let rounded = if new > old { sum.div_ceil(8) } else { sum / 8 };
    u64::try_from(rounded).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn follows_the_table() {
        let mut load = LoadDecay::default();
        load.step(8000, 1000);
        assert_eq!(load, LoadDecay { mean: 3000, upper: 8000 });
        load.step(8000, 1000);
        assert_eq!(load.mean, 4875);
        load.step(0, 1000);
        assert_eq!(load, LoadDecay { mean: 0, upper: 7000 });
        assert_eq!(process_step(800, 0, 1000), 500);
        assert_eq!(process_step(0, 800, 1000), 300);
    }

    #[test]
    fn a_late_sample_counts_as_several_steps() {
        assert_eq!(process_step(0, 800, 2000), process_step(process_step(0, 800, 1000), 800, 1000));
        assert_eq!(process_step(0, 800, 10), process_step(0, 800, 1000));
    }

    proptest! {
        #[test]
        fn stays_between_old_and_new_and_reaches_a_steady_input(old in 0u64..1 << 40, new in 0u64..1 << 40) {
            let next = process_step(old, new, 1000);
            prop_assert!(next >= old.min(new) && next <= old.max(new));
            let settled = (0..200).fold(old, |value, _| process_step(value, new, 1000));
            prop_assert_eq!(settled, new);
        }

        #[test]
        fn upper_is_never_below_mean(inputs in prop::collection::vec(0u64..100_000, 1..50)) {
            let mut load = LoadDecay::default();
            for input in inputs {
                load.step(input, 1000);
                prop_assert!(load.upper >= input && load.mean <= input);
            }
        }

        #[test]
        fn never_overflows(old in any::<u64>(), new in any::<u64>(), interval in any::<u32>()) {
            process_step(old, new, u64::from(interval));
            LoadDecay { mean: old, upper: old }.step(new, u64::from(interval));
        }
    }
}
