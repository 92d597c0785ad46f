//! How long moves stop programs, learned from those that were made.

use super::learning::Learning;

/// A line `downtime = freeze + bytes / rate` through the moves so far by least squares, older ones
/// fading, and through two moves that no node made and that count less, of no memory and of
/// [`Learning::assumed_bytes`]. These took what is assumed. So what is known of programs that were
/// started elsewhere, which have no memory, says nothing of how fast memory crosses: a machine on
/// which programs start slowly, as an emulated one, may well copy fast.
#[derive(Debug, Clone, PartialEq)]
pub struct MoveTimes {
    learning: Learning,
    assumed: Line,
    made: Sums,
}

/// How long moves stop programs, by the memory that these have.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    /// Without any, in seconds.
    freeze_s: f64,
    s_per_byte: f64,
}

impl Line {
    fn at(&self, bytes: f64) -> f64 {
        self.freeze_s + bytes * self.s_per_byte
    }
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
    /// No move yet, on a machine that is so many times slower than the usual at starting programs.
    #[must_use]
    pub fn on_a_machine(slowness: f64, learning: Learning) -> Self {
        let assumed = Line {
            freeze_s: slowness * learning.assumed_freeze_ms as f64 / 1_000.0,
            s_per_byte: 1.0 / learning.assumed_link_bytes_per_s as f64,
        };
        Self { learning, assumed, made: Sums::default() }
    }

    /// These moves to one node, with what those to `all` nodes took in place of what was assumed.
    #[must_use]
    pub fn among(&self, all: &Self) -> Self {
        Self { assumed: all.line(), ..self.clone() }
    }

    /// Notes a move that took `bytes` across while its program stood still for `downtime_ms`.
    pub fn note(&mut self, bytes: u64, downtime_ms: u64) {
        let fading = 1.0 - 1.0 / f64::from(self.learning.moves);
        self.made = self.made.faded(fading).with(1.0, bytes as f64, downtime_ms as f64 / 1_000.0);
    }

    fn line(&self) -> Line {
        let Learning { assumed_weight_percent, assumed_bytes, .. } = self.learning;
        let count = f64::from(assumed_weight_percent) / 100.0;
        let assumed = |sums: Sums, bytes| sums.with(count, bytes, self.assumed.at(bytes));
        let sums = assumed(assumed(self.made, 0.0), assumed_bytes as f64);
        let spread = sums.count * sums.bytes_squared - sums.bytes * sums.bytes;
        let slope = (sums.count * sums.product - sums.bytes * sums.seconds) / spread;
        let freeze_s = (sums.seconds - sums.bytes * slope) / sums.count;
        if slope > 0.0 && freeze_s >= 0.0 {
            return Line { freeze_s, s_per_byte: slope };
        }
        // By chance larger ones were quicker, or smaller ones much quicker than large ones: all
        // take as many times longer as they did together.
        let Line { freeze_s, s_per_byte } = self.assumed;
        let longer = sums.seconds / (sums.count * freeze_s + sums.bytes * s_per_byte);
        Line { freeze_s: longer * freeze_s, s_per_byte: (longer * s_per_byte).max(f64::MIN_POSITIVE) }
    }

    /// How long a move stops a program that has no memory, in milliseconds.
    #[must_use]
    pub fn freeze_ms(&self) -> u64 {
        (self.line().freeze_s * 1_000.0) as u64
    }

    /// What crosses in each second, in bytes.
    #[must_use]
    pub fn bytes_per_s(&self) -> u64 {
        (1.0 / self.line().s_per_byte) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn downtime_ms(times: &MoveTimes, bytes: u64) -> u64 {
        times.freeze_ms() + bytes * 1_000 / times.bytes_per_s()
    }

    #[test]
    fn the_assumption_stands_until_moves_say_otherwise() {
        let mut times = MoveTimes::on_a_machine(1.0, Learning::default());
        assert!((99..=100).contains(&times.freeze_ms()) && times.bytes_per_s() / 1_000 >= 124_999, "{times:?}");
        let slow = MoveTimes::on_a_machine(20.0, Learning::default());
        assert!((1_999..=2_000).contains(&slow.freeze_ms()) && slow.bytes_per_s() / 1_000 >= 124_999, "{slow:?}");
        let mut one = times.clone();
        one.note(16 << 20, 9_000);
        assert!((7_530..7_550).contains(&downtime_ms(&one, 16 << 20)), "the first move says most: {one:?}");
        for _ in 0..40 {
            times.note(16 << 20, 2_800);
            times.note(256 << 20, 22_000);
        }
        assert!((1_400..1_450).contains(&times.freeze_ms()), "{times:?}");
        assert!((13_000_000..13_200_000).contains(&times.bytes_per_s()), "{times:?}");
    }

    #[test]
    fn slow_starts_say_nothing_of_memory_and_the_first_move_does() {
        let mut times = MoveTimes::on_a_machine(20.0, Learning::default());
        for _ in 0..10 {
            times.note(300 << 10, 4_000);
        }
        let at = |times: &MoveTimes| downtime_ms(times, 80 << 20);
        assert!((3_900..5_500).contains(&at(&times)), "{times:?}");
        times.note(80 << 20, 6_500);
        assert!((6_000..7_000).contains(&at(&times)), "{times:?}");
    }

    #[test]
    fn what_other_nodes_took_is_assumed_of_one() {
        let mut all = MoveTimes::on_a_machine(1.0, Learning::default());
        let one = all.clone();
        for _ in 0..20 {
            all.note(0, 1_000);
            all.note(100 << 20, 11_000);
        }
        assert!((10_500..11_500).contains(&downtime_ms(&one.among(&all), 100 << 20)), "{all:?}");
        let mut fast = one;
        (0..20).for_each(|_| fast.note(100 << 20, 2_000));
        assert!((1_900..2_500).contains(&downtime_ms(&fast.among(&all), 100 << 20)), "{fast:?}");
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
