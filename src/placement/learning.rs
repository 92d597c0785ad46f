//! How placement learns what moves take and what programs need.

use crate::bounds::{self, OutOfBounds};

/// The tunables of what is learned: [`MoveTimes`](super::MoveTimes), [`MoveWork`](super::MoveWork),
/// [`History`](super::History).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub struct Learning {
    /// Moves that decide how long the next will stop a program: each counts by this part of it less
    /// than the one after it. Ours: 10, so that a link that has become slow shows soon, and one
    /// slow move does not count for much.
    pub moves: u32,
    /// What is assumed before the first move: that a program stands still for so long without
    /// memory, in milliseconds, measured beside moves of 70 MiB, which took seven times as long.
    /// 100 …
    pub assumed_freeze_ms: u64,
    /// … and that its memory crosses at so many bytes per second: 1 Gb/s.
    pub assumed_link_bytes_per_s: u64,
    /// How much each of the two moves that stand for the assumption counts beside one that was
    /// made, in percent: 10 …
    pub assumed_weight_percent: u32,
    /// … and the size of the larger of the two, in bytes: that of a program of medium size, whose
    /// moves soon say more. 32 MiB.
    pub assumed_bytes: u64,
    /// Agents whose CPU time is remembered. The one in the middle is what counts, so that few that
    /// had much to do, say with a program that wrote for hours, do not speak for all. Ours: 15.
    pub agents: usize,
    /// What is older than this, in milliseconds, says nothing of agents' CPU time: a figure by
    /// which nothing moves any more must not last for ever. Ours: 10 minutes, in which a build that
    /// is under way starts many.
    pub agents_ms: u64,
    /// How much a start elsewhere, or the CPU time of a program that ended, counts beside what was
    /// known before it, in percent. Ours: 30, by which about the last six decide.
    pub news_percent: u32,
    /// Programs whose CPU time is remembered. Ours: 4,096; a thousand source files and their
    /// compilers take a few hundred KiB.
    pub programs: usize,
}

impl Default for Learning {
    fn default() -> Self {
        Self {
            moves: 10,
            assumed_freeze_ms: 100,
            assumed_link_bytes_per_s: 125_000_000,
            assumed_weight_percent: 10,
            assumed_bytes: 32 << 20,
            agents: 15,
            agents_ms: 600_000,
            news_percent: 30,
            programs: 4_096,
        }
    }
}

impl Learning {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first setting that is out of bounds, with its bounds.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        const DAY_MS: u64 = 86_400_000;
        let settings = [
            ("moves", u64::from(self.moves), 1, 1_000),
            ("assumed_freeze_ms", self.assumed_freeze_ms, 1, 3_600_000),
            ("assumed_link_bytes_per_s", self.assumed_link_bytes_per_s, 1_000, 1 << 50),
            ("assumed_weight_percent", u64::from(self.assumed_weight_percent), 1, 1_000),
            ("assumed_bytes", self.assumed_bytes, 1 << 10, 1 << 50),
            ("agents", self.agents as u64, 1, 1_000),
            ("agents_ms", self.agents_ms, 1, DAY_MS),
            ("news_percent", u64::from(self.news_percent), 1, 100),
            ("programs", self.programs as u64, 2, 1_000_000),
        ];
        bounds::check("placement.learning", settings)
    }

    /// The mix of `before` and `news`.
    pub fn blend(&self, before: f64, news: f64) -> f64 {
        before + f64::from(self.news_percent) / 100.0 * (news - before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_valid_and_bounds_hold() {
        assert_eq!(Learning::default().validate(), Ok(()));
        let error = Learning { moves: 0, ..Learning::default() }.validate().unwrap_err().to_string();
        assert_eq!(error, "placement.learning: moves is 0; set it between 1 and 1000");
    }
}
