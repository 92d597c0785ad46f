//! How long moves stop programs, learned from those that were made.

use super::learning::Learning;

/// A line `downtime = freeze + bytes / rate` through the moves so far by least squares, older ones fading, and through two moves that nobody
/// made and that count less, of no memory and of [`Learning::assumed_bytes`]. These took what is assumed, and as many times longer as the others did: whatever
/// makes moves slow makes small ones and large ones so.
#[derive(Debug, Clone, PartialEq)]
pub struct MoveTimes {
    learning: Learning,
    made: Sums,
    /// What was assumed of the moves that were made, in seconds.
    assumed_s: f64,
    /// How many times as long moves are taken to last before one was made.
    slowness: f64,
}

/// Sums over moves.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Sums {
    count: f64,
    bytes: f64,
    seconds: f64,
    bytes_squared: f64,
    product: f64,
}

impl Sums {
    fn faded(self, fading: f64) -> Self {
        let Self { count, bytes, seconds, bytes_squared, product } = self;
        Self {
            count: count * fading,
            bytes: bytes * fading,
            seconds: seconds * fading,
            bytes_squared: bytes_squared * fading,
            product: product * fading,
        }
    }

    /// With a move of so many bytes that took so many seconds.
    fn with(self, count: f64, bytes: f64, seconds: f64) -> Self {
        Self {
            count: self.count + count,
            bytes: self.bytes + count * bytes,
            seconds: self.seconds + count * seconds,
            bytes_squared: self.bytes_squared + count * bytes * bytes,
            product: self.product + count * bytes * seconds,
        }
    }
}

impl MoveTimes {
    /// No move yet, on a machine that is so many times slower than the usual at what moves are made of: starting programs, system calls.
    #[must_use]
    pub fn on_a_machine(slowness: f64, learning: Learning) -> Self {
        Self { learning, made: Sums::default(), assumed_s: 0.0, slowness }
    }

    /// What each move counts of the one after it.
    fn fading(&self) -> f64 {
        1.0 - 1.0 / f64::from(self.learning.moves)
    }

    fn assumed_rate(&self) -> f64 {
        self.learning.assumed_link_bytes_per_s as f64
    }

    /// What is assumed of a move of so many bytes, in seconds.
    fn assume_s(&self, bytes: f64) -> f64 {
        self.learning.assumed_freeze_ms as f64 / 1_000.0 + bytes / self.assumed_rate()
    }

    /// Notes a move that took `bytes` across while its program stood still for `downtime_ms`.
    pub fn note(&mut self, bytes: u64, downtime_ms: u64) {
        let (bytes, seconds) = (bytes as f64, downtime_ms as f64 / 1_000.0);
        self.made = self.made.faded(self.fading()).with(1.0, bytes, seconds);
        self.assumed_s = self.assumed_s * self.fading() + self.assume_s(bytes);
    }

    /// How many times as long as assumed moves took.
    fn slowness(&self) -> f64 {
        if self.assumed_s > 0.0 { self.made.seconds / self.assumed_s } else { self.slowness }
    }

    /// The sums with the moves that stand for the assumption.
    fn sums(&self) -> Sums {
        let Learning { assumed_weight_percent, assumed_bytes, .. } = self.learning;
        let count = f64::from(assumed_weight_percent) / 100.0;
        let assumed = |sums: Sums, bytes| sums.with(count, bytes, self.slowness() * self.assume_s(bytes));
        assumed(assumed(self.made, 0.0), assumed_bytes as f64)
    }

    /// Seconds per byte: the line's slope. Where larger ones were quicker by chance it would be below 0: then the assumed one is taken.
    fn seconds_per_byte(&self) -> f64 {
        let sums = self.sums();
        let spread = sums.count * sums.bytes_squared - sums.bytes * sums.bytes;
        let slope = (sums.count * sums.product - sums.bytes * sums.seconds) / spread;
        if slope.is_finite() && slope > 0.0 {
            slope
        } else {
            self.slowness().max(f64::MIN_POSITIVE) / self.assumed_rate()
        }
    }

    /// How long a move stops a program that has no memory, in milliseconds.
    #[must_use]
    pub fn freeze_ms(&self) -> u64 {
        let sums = self.sums();
        let freeze_s = (sums.seconds - sums.bytes * self.seconds_per_byte()) / sums.count;
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
        let mut times = MoveTimes::on_a_machine(1.0, Learning::default());
        assert!((99..=100).contains(&times.freeze_ms()) && times.bytes_per_s() / 1_000 >= 124_999, "{times:?}");
        let slow = MoveTimes::on_a_machine(20.0, Learning::default());
        assert!(
            (1_999..=2_000).contains(&slow.freeze_ms()) && (6_249..=6_250).contains(&(slow.bytes_per_s() / 1_000)),
            "{slow:?}"
        );
        let mut one = times.clone();
        one.note(16 << 20, 9_000);
        let downtime_ms = |bytes: u64| one.freeze_ms() + bytes * 1_000 / one.bytes_per_s();
        assert!((8_990..9_010).contains(&downtime_ms(16 << 20)), "the first move says all: {one:?}");
        assert!((3_800..3_900).contains(&downtime_ms(0)), "of others it says how slow moves are here: {one:?}");
        assert!((14_000..14_300).contains(&downtime_ms(32 << 20)), "{one:?}");
        for _ in 0..40 {
            times.note(16 << 20, 2_800);
            times.note(256 << 20, 22_000);
        }
        assert!((1_450..1_550).contains(&times.freeze_ms()), "{times:?}");
        assert!((13_000_000..13_200_000).contains(&times.bytes_per_s()), "{times:?}");
    }

    proptest! {
        #[test]
        fn any_moves_give_usable_figures(moves in prop::collection::vec((any::<u64>(), any::<u64>()), 0..50)) {
            let mut times = MoveTimes::on_a_machine(1.0, Learning::default());
            for (bytes, ms) in moves {
                times.note(bytes, ms);
            }
            prop_assert!(times.bytes_per_s() < u64::MAX && times.freeze_ms() < u64::MAX);
        }
    }
}
