//! Limits one direction between two nodes to a rate.
//!
//! A virtual clock: the line is busy until `free_at`; a frame that comes at `now` starts at
//! `max(now, free_at)` and takes its length divided by the rate. A frame that would wait longer
//! than the queue allows is dropped, which is how TCP learns the rate.

use std::time::{Duration, Instant};

/// How long a frame may wait for a limited line: the order of a home router's buffer.
pub const QUEUE: Duration = Duration::from_millis(200);

/// The state of a limited line.
pub struct Shaper {
    bytes_per_s: u64,
    queue: Duration,
    free_at: Option<Instant>,
}

impl Shaper {
    /// A line of `bytes_per_s` (at least 1) that is free now.
    pub fn new(bytes_per_s: u64, queue: Duration) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), queue, free_at: None }
    }

    /// When a frame of `bytes` that comes at `now` has passed the line, or `None` if it must be
    /// dropped.
    pub fn admit(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let start = self.free_at.map_or(now, |free_at| free_at.max(now));
        if start - now > self.queue {
            return None;
        }
        let takes = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_s);
        self.free_at = Some(start + takes);
        self.free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_pass_one_after_another_at_the_rate() {
        let now = Instant::now();
        let mut line = Shaper::new(1_000, QUEUE);
        assert_eq!(line.admit(now, 100), Some(now + Duration::from_millis(100)));
        assert_eq!(line.admit(now, 50), Some(now + Duration::from_millis(150)));
        let later = now + Duration::from_secs(5);
        assert_eq!(line.admit(later, 10), Some(later + Duration::from_millis(10)));
    }

    #[test]
    fn a_frame_that_would_wait_too_long_is_dropped() {
        let now = Instant::now();
        let mut line = Shaper::new(1_000, QUEUE);
        assert!(line.admit(now, 201).is_some());
        assert_eq!(line.admit(now, 1), None);
        assert!(line.admit(now + Duration::from_millis(1), 1).is_some());
    }
}
