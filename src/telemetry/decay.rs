//! MOSIX's decay of a process's CPU use, in integers and pure: `(5·old + 3·ran) / 8`, one step per
//! second.
//!
//! (The constants are MOSIX's, as Kerrighed's balancer documents them.) Divisions round towards the
//! new value by less than one unit per step, so that a steady input is reached exactly. A node's
//! load is decayed by `node::LoadTracker`.

/// Steps after which a decayed figure is as good as new: 7/8 to the power of it is below 1 %.
const STEPS_MAX: u64 = 40;

/// A process's CPU use: `ran` held for the last `interval_ms`.
pub fn process_step(old: u64, ran: u64, interval_ms: u64) -> u64 {
    (0..steps(interval_ms)).fold(old, |old, _| towards(old, ran, 5))
}

/// Whole seconds, at least one: a sample that comes early counts as a step, one that comes late as
/// several.
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
    fn a_second_counts_three_eighths() {
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
            let limit = (0..200).fold(old, |value, _| process_step(value, new, 1000));
            prop_assert_eq!(limit, new);
        }

        #[test]
        fn never_overflows(old in any::<u64>(), new in any::<u64>(), interval in any::<u32>()) {
            process_step(old, new, u64::from(interval));
        }
    }
}
