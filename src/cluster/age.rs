//! How old the entries of a bulletin board are expected to be: Amar, Barak, Drezner and Okun,
//! "Randomized gossip algorithms for maintaining a distributed bulletin board with guaranteed age
//! properties", Concurrency and Computation: Practice and Experience 21, 2009.
//!
//! In a cluster of N nodes each sends, once in a step, the W newest entries that it has to one
//! random other node. All times are in steps; a step is the period of gossip.
//!
//! The formulas are made for windows that are small against the cluster, W ≤ N/4: there
//! `cargo xtask sim gossip` finds them right within 5 %. They are estimates where windows hold most
//! of the board: the average is then up to a step and a half less than they say, while the maximum
//! is up to a third more (N = 20, W = 16); among ten nodes or fewer nothing is as old as they say.

/// Euler's constant: the expected largest of many exponential times exceeds ln N by it.
const EULER: f64 = 0.577_215_664_901_532_9;

/// What ages are expected on one node's board at any moment, in steps.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ExpectedAges {
    /// Of all entries, on average.
    pub average: f64,
    /// Of the oldest entry.
    pub maximal: f64,
}

impl ExpectedAges {
    /// In a cluster of `nodes` where messages hold `window` entries. A node that is alone knows
    /// itself only, at age 0.
    pub fn of(nodes: usize, window: usize) -> Self {
        if nodes < 2 {
            return Self::default();
        }
        let n = nodes as f64;
        let spread = Spread::until_full(n, window);
        // That one of the nodes which hold an entry in their windows sends it to a given node in a
        // step.
        let missed = 1.0 - 1.0 / (n - 1.0);
        let heard = 1.0 - missed.powf(spread.holders);
        let average = 1.0 / heard + spread.age;
        let maximal = -(n.ln() + EULER) / (spread.holders * missed.ln());
        // Of two nodes each hears from the other in each step, and the maximum is no random one.
        Self { average, maximal: maximal.max(average) }
    }
}

/// How an entry spreads while it is recent enough for the windows.
struct Spread {
    /// X_T: how many nodes have it in their windows, which is also how many entries are that
    /// recent.
    holders: f64,
    /// A_w: the average age of the entries in a window.
    age: f64,
}

impl Spread {
    /// Until time T, when the entries not older fill the window: X_T = W.
    fn until_full(n: f64, window: usize) -> Self {
        let window = window.max(1) as f64;
        if window >= n {
            // The limit of the below for W → N.
            return Self { holders: n, age: (n - 1.0) / n * n.ln() };
        }
        let time = (n - 1.0) / n * (window * (n - 1.0) / (n - window)).ln();
        let growth = (n * time / (n - 1.0)).exp();
        let holders = n * growth / (n - 1.0 + growth);
        Self { holders, age: time - (n - 1.0) / holders * ((n - 1.0 + growth).ln() - n.ln()) }
    }
}

/// The smallest window up to `largest` by which entries are on average at most `average` steps old
/// among `nodes`; `None` if none is.
pub fn window_for(nodes: usize, average: f64, largest: usize) -> Option<usize> {
    // One after the other: where windows are about as large as the cluster, the formula does not
    // fall with the window.
    (1..=largest).find(|window| ExpectedAges::of(nodes, *window).average <= average)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_sizes() {
        for (nodes, window, average, maximal) in [
            (64, 16, 6.35, 18.5),
            (128, 16, 10.3, 42.9),
            (256, 32, 11.0, 48.7),
            (1024, 32, 35.0, 240.0),
            (2048, 64, 35.7, 262.0),
        ] {
            let ages = ExpectedAges::of(nodes, window);
            let is_near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.005;
            assert!(is_near(ages.average, average) && is_near(ages.maximal, maximal), "{nodes}, {window}: {ages:?}");
        }
    }

    #[test]
    fn entry_age_falls_with_the_window_and_grows_with_the_cluster() {
        for nodes in 1..300 {
            let ages: Vec<ExpectedAges> = (1..=64).map(|window| ExpectedAges::of(nodes, window)).collect();
            assert!(ages.iter().all(|ages| ages.average.is_finite() && ages.average >= 0.0), "{nodes}: {ages:?}");
            assert!(
                ages.iter().all(|ages| ages.maximal.is_finite() && ages.maximal >= ages.average),
                "{nodes}: {ages:?}"
            );
            let small = ages.get(..nodes.min(256) / 4).unwrap();
            assert!(small.is_sorted_by(|a, b| a.average > b.average && a.maximal > b.maximal), "{nodes}: {ages:?}");
            for (window, ages) in (1..).zip(small) {
                let more = ExpectedAges::of(nodes + 1, window);
                assert!(more.average > ages.average && more.maximal > ages.maximal, "{nodes}, {window}");
            }
        }
    }

    #[test]
    fn the_window_for_an_age_is_the_smallest_that_reaches_it() {
        for (nodes, wanted) in [(64, 6.4), (1024, 35.0), (2048, 100.0), (10_000, 120.0)] {
            let window = window_for(nodes, wanted, 128).unwrap();
            assert!(ExpectedAges::of(nodes, window).average <= wanted);
            assert!(ExpectedAges::of(nodes, window - 1).average > wanted, "{nodes}, {wanted}: {window}");
        }
        assert_eq!((window_for(64, 6.36, 128), window_for(64, 1000.0, 128)), (Some(16), Some(1)));
        assert_eq!(window_for(1000, 2.0, 128), None);
        assert_eq!(window_for(1, 0.0, 128), Some(1));
        // Where windows hold the whole board, it does not matter how much wider they are.
        assert_eq!(ExpectedAges::of(10, 10), ExpectedAges::of(10, 128));
        assert_eq!(ExpectedAges::of(0, 5), ExpectedAges { average: 0.0, maximal: 0.0 });
    }
}
