//! Whether compressing pays, found out by measuring.
//!
//! Readers and the writer work at the same time, so the time per byte is that of the slowest stage.
//! Without compression that is the link's. With it, it is the larger of the compressor's and of the
//! link's for what is left. So compression pays when both are smaller than the link's time for the
//! raw bytes. What is not known yet is tried, and every [`PROBE_EVERY`]th batch is compressed in
//! any case, to notice when the memory or the link changes.

use std::sync::Mutex;

/// Every how many batches the compressor is tried although it does not seem to pay.
const PROBE_EVERY: u32 = 16;
/// Weight of a new measurement in the running means.
const WEIGHT: f64 = 0.25;

/// Running means of what was measured, in ns per byte of memory where it is a time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Means {
    /// Of compressing with all readers together.
    compress_ns: f64,
    /// Compressed length divided by the length before.
    ratio: f64,
    /// Of the link, per byte on the wire.
    link_ns: f64,
}

impl Means {
    /// Whether compressing makes the slowest stage faster.
    fn pays(&self) -> bool {
        self.compress_ns.max(self.ratio * self.link_ns) < self.link_ns * 0.95
    }
}

#[derive(Default)]
struct State {
    compress_ns: Option<f64>,
    ratio: Option<f64>,
    link_ns: Option<f64>,
    batches: u32,
}

/// Decides for each batch; shared by all readers and the writer.
pub struct Pace {
    readers: u32,
    state: Mutex<State>,
}

fn mean(old: Option<f64>, new: f64) -> Option<f64> {
    Some(old.map_or(new, |old| old + WEIGHT * (new - old)))
}

impl Pace {
    /// For so many readers that compress side by side.
    pub fn new(readers: usize) -> Self {
        Self { readers: u32::try_from(readers.max(1)).unwrap_or(u32::MAX), state: Mutex::new(State::default()) }
    }

    /// Whether to compress the next batch.
    pub fn compress_next(&self) -> bool {
        let mut state = self.state();
        state.batches = state.batches.wrapping_add(1);
        match (state.compress_ns, state.ratio, state.link_ns) {
            (Some(compress_ns), Some(ratio), Some(link_ns)) => {
                Means { compress_ns, ratio, link_ns }.pays() || state.batches.is_multiple_of(PROBE_EVERY)
            }
            _ => true,
        }
    }

    /// A reader has compressed `from` bytes to `to` in `ns`.
    pub fn compressed(&self, from: usize, to: usize, ns: u64) {
        if from == 0 {
            return;
        }
        let mut state = self.state();
        state.compress_ns = mean(state.compress_ns, ns as f64 / from as f64 / f64::from(self.readers));
        state.ratio = mean(state.ratio, to as f64 / from as f64);
    }

    /// The writer has got rid of `bytes` in `ns`.
    pub fn written(&self, bytes: usize, ns: u64) {
        if bytes == 0 {
            return;
        }
        let mut state = self.state();
        state.link_ns = mean(state.link_ns, ns as f64 / bytes as f64);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Means are valid after every statement that changes them.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_pays_on_slow_links_and_for_data_that_shrink() {
        let slow = Means { compress_ns: 2.0, ratio: 0.3, link_ns: 20.0 };
        assert!(slow.pays());
        assert!(!Means { ratio: 1.0, ..slow }.pays());
        assert!(!Means { link_ns: 1.0, ..slow }.pays());
    }

    #[test]
    fn it_is_tried_first_then_now_and_then() {
        let pace = Pace::new(2);
        assert!(pace.compress_next());
        for _ in 0..20 {
            pace.compressed(1000, 1000, 2000);
            pace.written(1000, 1000);
        }
        let tried = (0..160).filter(|_| pace.compress_next()).count();
        assert_eq!(tried, 10);
        for _ in 0..20 {
            pace.compressed(1000, 100, 2000);
            pace.written(1000, 100_000);
        }
        assert!((0..160).all(|_| pace.compress_next()));
    }
}
