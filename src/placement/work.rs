//! How much CPU time moves take, learned from agents that have ended.

use std::collections::VecDeque;

/// Agents that are remembered. The one in the middle is what counts, so that few that had much to do, say with a program that wrote for
/// hours, do not speak for all.
const CAPACITY: usize = 15;
/// What is older than this, in milliseconds, says nothing: a figure by which nothing moves any more must not last for ever. Ours: 10 minutes,
/// in which a build that is under way starts many.
const LASTS_MS: u64 = 600_000;

/// The CPU time of the home agents that ended lately, each with when that was, in milliseconds. An agent serves its program for as long as that
/// is away: what it takes is what the program's absence takes here, from the move to the last file.
#[derive(Debug, Clone, Default)]
pub struct MoveWork(VecDeque<(u64, u64)>);

impl MoveWork {
    /// An agent has ended that took so much CPU time, in milliseconds.
    pub fn note(&mut self, cpu_ms: u64, now_ms: u64) {
        if self.0.len() == CAPACITY {
            self.0.pop_front();
        }
        self.0.push_back((now_ms, cpu_ms));
    }

    /// What a move probably takes, in milliseconds of CPU time; 0 if nothing was learned lately.
    #[must_use]
    pub fn ms(&self, now_ms: u64) -> u64 {
        let lately = self.0.iter().filter(|(at_ms, _)| now_ms.saturating_sub(*at_ms) < LASTS_MS);
        let mut sorted: Vec<u64> = lately.map(|(_, cpu_ms)| *cpu_ms).collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_most_agents_took_counts_and_not_for_ever() {
        let mut work = MoveWork::default();
        assert_eq!(work.ms(5), 0);
        work.note(3_000, 1_000);
        assert_eq!(work.ms(1_000), 3_000);
        work.note(400_000, 2_000);
        work.note(2_000, 3_000);
        assert_eq!(work.ms(3_000), 3_000, "one that wrote for hours does not speak for all");
        assert_eq!(work.ms(LASTS_MS + 1_500), 400_000, "the first is too old");
        assert_eq!(work.ms(LASTS_MS + 3_000), 0);
        (0..100).for_each(|_| work.note(50, 5_000));
        assert_eq!((work.ms(5_000), work.0.len()), (50, CAPACITY));
    }
}
