//! How long moves stop programs, learned from those that were made.

/// How much less each move counts than the one after it.
const FADING: f64 = 0.9;
/// What is assumed before the first move: that a program stands still for so long without memory, in seconds …
const FREEZE_S: f64 = 0.3;
/// … and that its memory crosses at so many bytes per second: 1 Gb/s.
const RATE: f64 = 1e9 / 8.0;
/// How much each of the two moves counts that stand for the assumption, beside one that was made …
const ASSUMED_COUNT: f64 = 0.1;
/// … and the size of the larger of the two, in bytes.
const ASSUMED_BYTES: f64 = (256 << 20) as f64;

/// A line `downtime = freeze + bytes / rate` through the moves so far by least squares, older ones fading. It begins with two moves that
/// nobody made, of no memory and of 256 MiB, which count less and fade like all others.
#[derive(Debug, Clone, PartialEq)]
pub struct MoveTimes {
    count: f64,
    bytes: f64,
    seconds: f64,
    bytes_squared: f64,
    product: f64,
}

impl Default for MoveTimes {
    fn default() -> Self {
        let mut times = Self { count: 0.0, bytes: 0.0, seconds: 0.0, bytes_squared: 0.0, product: 0.0 };
        times.add(ASSUMED_COUNT, 0.0, FREEZE_S);
        times.add(ASSUMED_COUNT, ASSUMED_BYTES, FREEZE_S + ASSUMED_BYTES / RATE);
        times
    }
}

impl MoveTimes {
    /// Notes a move that took `bytes` across while its program stood still for `downtime_ms`.
    pub fn note(&mut self, bytes: u64, downtime_ms: u64) {
        for sum in [&mut self.count, &mut self.bytes, &mut self.seconds, &mut self.bytes_squared, &mut self.product] {
            *sum *= FADING;
        }
        self.add(1.0, bytes as f64, downtime_ms as f64 / 1_000.0);
    }

    fn add(&mut self, count: f64, bytes: f64, seconds: f64) {
        self.count += count;
        self.bytes += count * bytes;
        self.seconds += count * seconds;
        self.bytes_squared += count * bytes * bytes;
        self.product += count * bytes * seconds;
    }

    /// Seconds per byte: the line's slope. Where all moves were of one size the slope says nothing, and where larger ones were quicker
    /// by chance it would be below 0: then no slower link is assumed than at first.
    fn seconds_per_byte(&self) -> f64 {
        let spread = self.count * self.bytes_squared - self.bytes * self.bytes;
        let slope = (self.count * self.product - self.bytes * self.seconds) / spread;
        if slope.is_finite() && slope > 0.0 { slope } else { 1.0 / RATE }
    }

    /// How long a move stops a program that has no memory, in milliseconds.
    #[must_use]
    pub fn freeze_ms(&self) -> u64 {
        let freeze_s = (self.seconds - self.bytes * self.seconds_per_byte()) / self.count;
        (freeze_s.max(0.0) * 1_000.0) as u64
    }

    /// What crosses in each second, in bytes.
    #[must_use]
    pub fn bytes_per_s(&self) -> u64 {
        (1.0 / self.seconds_per_byte()) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_assumption_stands_until_moves_say_otherwise() {
        let mut times = MoveTimes::default();
        assert!((299..=300).contains(&times.freeze_ms()) && times.bytes_per_s() / 1_000 >= 124_999, "{times:?}");
        let mut one = times.clone();
        one.note(16 << 20, 9_000);
        assert!((7_000..9_000).contains(&one.freeze_ms()), "the first move says most: {one:?}");
        for _ in 0..40 {
            times.note(16 << 20, 2_800);
            times.note(256 << 20, 22_000);
        }
        assert!((1_500..1_540).contains(&times.freeze_ms()), "{times:?}");
        assert!((13_000_000..13_200_000).contains(&times.bytes_per_s()), "{times:?}");
    }

    proptest! {
        #[test]
        fn any_moves_give_usable_figures(moves in prop::collection::vec((any::<u64>(), any::<u64>()), 0..50)) {
            let mut times = MoveTimes::default();
            for (bytes, ms) in moves {
                times.note(bytes, ms);
            }
            prop_assert!(times.bytes_per_s() < u64::MAX && times.freeze_ms() < u64::MAX);
        }
    }
}
