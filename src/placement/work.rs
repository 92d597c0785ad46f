//! How much CPU time moves take, learned from agents that have ended.

use std::collections::VecDeque;

use super::learning::Learning;

/// The CPU time of the home agents that ended lately, each with when that was, in milliseconds. An
/// agent serves its program for as long as that is away: what it takes is what the program's
/// absence takes here, from the move to the last file.
#[derive(Debug, Clone)]
pub struct MoveWork {
    learning: Learning,
    agents: VecDeque<(u64, u64)>,
}

impl MoveWork {
    /// Nothing learned yet.
    #[must_use]
    pub fn new(learning: Learning) -> Self {
        Self { learning, agents: VecDeque::new() }
    }

    /// An agent has ended that took so much CPU time, in milliseconds.
    pub fn note(&mut self, cpu_ms: u64, now_ms: u64) {
        if self.agents.len() >= self.learning.agents {
            self.agents.pop_front();
        }
        self.agents.push_back((now_ms, cpu_ms));
    }

    /// What a move probably takes, in milliseconds of CPU time; 0 if nothing was learned lately.
    #[must_use]
    pub fn ms(&self, now_ms: u64) -> u64 {
        let is_late = |at_ms: u64| now_ms.saturating_sub(at_ms) < self.learning.agents_ms;
        let lately = self.agents.iter().filter(|(at_ms, _)| is_late(*at_ms));
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
        let Learning { agents, agents_ms, .. } = Learning::default();
        let mut work = MoveWork::new(Learning::default());
        assert_eq!(work.ms(5), 0);
        work.note(3_000, 1_000);
        assert_eq!(work.ms(1_000), 3_000);
        work.note(400_000, 2_000);
        work.note(2_000, 3_000);
        assert_eq!(work.ms(3_000), 3_000, "one that wrote for hours does not speak for all");
        assert_eq!(work.ms(agents_ms + 1_500), 400_000, "the first is too old");
        assert_eq!(work.ms(agents_ms + 3_000), 0);
        (0..100).for_each(|_| work.note(50, 5_000));
        assert_eq!((work.ms(5_000), work.agents.len()), (50, agents));
    }
}
