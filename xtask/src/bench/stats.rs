//! Statistics of two things measured by turns. All pure.

use serde::Serialize;

/// Which of the two a run is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// With scx_mosix.
    Ours,
    /// What it is compared with.
    Baseline,
}

/// The order of `pairs` pairs of runs: ours first in every other one, so that neither a drift of
/// the machine (which the pairs share) nor what the first run of a pair does for the second favours
/// a side.
pub fn order(pairs: usize) -> Vec<Side> {
    let pair = |index: usize| {
        if index.is_multiple_of(2) { [Side::Ours, Side::Baseline] } else { [Side::Baseline, Side::Ours] }
    };
    (0..pairs).flat_map(pair).collect()
}

/// The middle value, or the mean of the two middle ones; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*sorted.get(middle - 1)?, upper))
}

/// One figure of both sides.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Each run's, in the order of the pairs.
    pub ours: Vec<f64>,
    /// Each run's, in the order of the pairs.
    pub baseline: Vec<f64>,
    /// What follows from the runs; nothing as long as a side has none.
    #[serde(flatten)]
    pub summary: Option<Summary>,
}

/// What the runs of a [`Comparison`] say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The median of our runs.
    pub ours_median: f64,
    /// The median of the other runs.
    pub baseline_median: f64,
    /// The median of the pairs' ratios, ours to baseline.
    pub ratio: f64,
    /// The smallest ratio of a pair.
    pub ratio_min: f64,
    /// The largest ratio of a pair.
    pub ratio_max: f64,
}

impl Comparison {
    /// Adds one run.
    pub fn add(&mut self, side: Side, value: f64) {
        match side {
            Side::Ours => self.ours.push(value),
            Side::Baseline => self.baseline.push(value),
        }
        self.summary = summarize(&self.ours, &self.baseline);
    }
}

/// The ratio is that of runs made next to each other, and its median lies within its spread, which
/// the ratio of the medians need not. A pair whose baseline is 0 has no ratio.
fn summarize(ours: &[f64], baseline: &[f64]) -> Option<Summary> {
    let pairs = ours.iter().zip(baseline).filter(|(_, baseline)| **baseline > 0.0);
    let ratios: Vec<f64> = pairs.map(|(ours, baseline)| ours / baseline).collect();
    Some(Summary {
        ours_median: median(ours)?,
        baseline_median: median(baseline)?,
        ratio: median(&ratios)?,
        ratio_min: ratios.iter().copied().reduce(f64::min)?,
        ratio_max: ratios.iter().copied().reduce(f64::max)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 100.0]), Some(3.5));
    }

    #[test]
    fn sides_take_turns_and_each_is_first_as_often() {
        use Side::{Baseline, Ours};
        assert_eq!(order(3), [Ours, Baseline, Baseline, Ours, Ours, Baseline]);
        let firsts = order(10).chunks(2).filter(|pair| pair[0] == Ours).count();
        assert_eq!(firsts, 5);
        assert!(order(7).chunks(2).all(|pair| pair[0] != pair[1]), "each pair has both");
    }

    #[test]
    fn a_drift_that_both_sides_share_does_not_change_the_ratio() {
        let mut drifting = Comparison::default();
        for slowness in [1.0, 2.0, 5.0] {
            drifting.add(Side::Ours, 10.0 * slowness);
            drifting.add(Side::Baseline, 20.0 * slowness);
        }
        let summary = drifting.summary.unwrap();
        assert_eq!((summary.ratio, summary.ratio_min, summary.ratio_max), (0.5, 0.5, 0.5));
        assert_eq!((summary.ours_median, summary.baseline_median), (20.0, 40.0));
    }

    #[test]
    fn the_ratio_lies_within_its_spread_and_pairs_are_kept_together() {
        let mut mixed = Comparison::default();
        for (side, value) in order(3).into_iter().zip([1.0, 2.0, 4.0, 12.0, 5.0, 5.0]) {
            mixed.add(side, value);
        }
        assert_eq!((&mixed.ours[..], &mixed.baseline[..]), (&[1.0, 12.0, 5.0][..], &[2.0, 4.0, 5.0][..]));
        let summary = mixed.summary.unwrap();
        assert_eq!((summary.ratio_min, summary.ratio, summary.ratio_max), (0.5, 1.0, 3.0));
    }

    #[test]
    fn nothing_is_said_of_one_side_alone_or_of_a_division_by_zero() {
        let mut half = Comparison::default();
        half.add(Side::Ours, 1.0);
        assert_eq!(half.summary, None);
        half.add(Side::Baseline, 0.0);
        assert_eq!(half.summary, None);
    }
}
