//! How gossip of loads is tuned: how much a node says, and when.

use rand::{Rng, RngExt};
use serde::Deserialize;

use super::age::{ExpectedAges, window_for};
use crate::bounds::{self, OutOfBounds};

/// The widest window. A message of it is at most 26 datagrams; with one message in a period, what a
/// node sends is bounded whatever the cluster's size.
pub const MAX_WINDOW: usize = 128;

/// The tunables of load gossip; the same on all nodes, else the expected ages are not those that
/// come true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub struct GossipConfig {
    /// Entries in a message, the sender's own included: 1 to [`MAX_WINDOW`]. Default: 16, by which
    /// entries of 64 nodes are on average 3.2 s and the oldest 9.3 s old.
    pub window: usize,
    /// A node speaks once in this time, in milliseconds: 100 to 60,000. MOSIX: 500.
    pub period_ms: u64,
    /// The average age of entries that is wanted, in milliseconds. If set, windows are as wide as
    /// that takes at the cluster's present size, but no narrower than `window` and no wider than
    /// [`MAX_WINDOW`].
    pub expected_age_ms: Option<u64>,
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self { window: 16, period_ms: 500, expected_age_ms: None }
    }
}

/// What gossip does at the cluster's present size, and which ages are expected of that; see
/// [`ExpectedAges`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GossipState {
    /// Entries in a message.
    pub window: usize,
    /// A node speaks once in this time, in milliseconds.
    pub period_ms: u64,
    /// Expected age of an entry, in milliseconds.
    pub average_age_ms: u64,
    /// Expected age of the oldest entry of one node's board, in milliseconds.
    pub maximal_age_ms: u64,
}

impl GossipConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first setting that is out of bounds, with its bounds.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        const HOUR_MS: u64 = 3_600_000;
        let settings = [
            ("window", self.window as u64, 1, MAX_WINDOW as u64),
            ("period_ms", self.period_ms, 100, 60_000),
            // No entry of another node is on average more recent than it takes to be heard once.
            ("expected_age_ms", self.expected_age_ms.unwrap_or(HOUR_MS), self.period_ms, HOUR_MS),
        ];
        bounds::check("gossip", settings)
    }

    /// What is done among `nodes`, this one included.
    pub fn among(&self, nodes: usize) -> GossipState {
        let window = match self.expected_age_ms {
            None => self.window,
            Some(wanted_ms) => {
                let steps = wanted_ms as f64 / self.period_ms as f64;
                window_for(nodes, steps, MAX_WINDOW).unwrap_or(MAX_WINDOW).max(self.window)
            }
        };
        let ages = ExpectedAges::of(nodes, window);
        // Of steps, some hundreds at most.
        let in_ms = |steps: f64| (steps * self.period_ms as f64).round() as u64;
        GossipState {
            window,
            period_ms: self.period_ms,
            average_age_ms: in_ms(ages.average),
            maximal_age_ms: in_ms(ages.maximal),
        }
    }

    /// When a node that speaks at `now_ms` speaks next: a little irregular, so that nodes started
    /// together do not stay in step.
    pub fn next_turn_ms(&self, now_ms: u64, rng: &mut impl Rng) -> u64 {
        now_ms + self.period_ms * rng.random_range(90..=110) / 100
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn default_is_valid_and_errors_say_what_to_do() {
        assert_eq!(GossipConfig::default().validate(), Ok(()));
        let error = |config: GossipConfig| config.validate().unwrap_err().to_string();
        let wide = GossipConfig { window: 1000, ..GossipConfig::default() };
        assert_eq!(error(wide), "gossip: window is 1000; set it between 1 and 128");
        let hasty = GossipConfig { period_ms: 1, ..GossipConfig::default() };
        assert_eq!(error(hasty), "gossip: period_ms is 1; set it between 100 and 60000");
        let greedy = GossipConfig { expected_age_ms: Some(10), ..GossipConfig::default() };
        assert_eq!(error(greedy), "gossip: expected_age_ms is 10; set it between 500 and 3600000");
    }

    #[test]
    fn windows_widen_with_the_cluster_if_an_age_is_wanted() {
        let config = GossipConfig { expected_age_ms: Some(5_000), ..GossipConfig::default() };
        let windows: Vec<usize> = [1, 2, 100, 200, 400, 100_000].map(|nodes| config.among(nodes).window).into();
        assert_eq!(windows[..3], [16, 16, 16]);
        assert!(windows.is_sorted() && windows[3] > 16 && windows[5] == MAX_WINDOW, "{windows:?}");
        for nodes in [2, 100, 200, 400] {
            assert!(config.among(nodes).average_age_ms <= 5_000);
        }
        let fixed = GossipConfig::default().among(64);
        assert_eq!((fixed.window, fixed.average_age_ms, fixed.maximal_age_ms), (16, 3_177, 9_250));
    }

    #[test]
    fn turns_come_once_in_a_period() {
        let mut rng = StdRng::seed_from_u64(1);
        let config = GossipConfig::default();
        let end_ms = (0..1000).fold(0, |now_ms, _| config.next_turn_ms(now_ms, &mut rng));
        assert!((490_000..510_000).contains(&end_ms), "{end_ms}");
    }
}
