//! One run with what happened meanwhile, to be plotted.

use std::ops::ControlFlow;

use super::{
    engine::{Outcome, watch},
    policy::{Cluster, PolicyName},
    scenario::Scenario,
};

/// How a run went.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What came of it.
    pub outcome: Outcome,
    /// The mean over all machines of MOSIX's load, runnable jobs per CPU of speed 1: at times in
    /// seconds.
    pub loads: Vec<(f64, f64)>,
    /// How old the machines' knowledge of each other was, in seconds, ascending; empty if all know
    /// all at once.
    pub ages_s: Vec<f64>,
}

/// Machines whose boards are looked at each time: their ages tell the same as those of all.
const BOARDS: usize = 8;

/// Runs `scenario` under a policy, as [`super::run`] does, and looks on each `period_s` seconds
/// while jobs arrive.
#[must_use]
pub fn trace(scenario: &Scenario, policy: PolicyName, seed: u64, period_s: f64) -> Trace {
    let (mut loads, mut ages_s) = (Vec::new(), Vec::new());
    let outcome = watch(scenario, policy, seed, period_s, &mut |cluster: &Cluster| {
        if cluster.now_s <= scenario.arrivals.until_s {
            let figures = cluster.machines.iter().map(|machine| machine.figures(cluster.now_s).load());
            loads.push((cluster.now_s, figures.sum::<f64>() / cluster.machines.len() as f64));
            ages_s.extend(cluster.ages_ms().take(BOARDS).flatten().map(|age_ms| f64::from(age_ms) / 1e3));
        }
        ControlFlow::Continue(())
    });
    ages_s.sort_by(f64::total_cmp);
    Trace { outcome, loads, ages_s }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_on_changes_nothing_and_tells_loads_and_ages() {
        let mut scenario = Scenario::named("stale");
        scenario.arrivals.until_s = 300.0;
        let Trace { outcome, loads, ages_s } = trace(&scenario, PolicyName::ScxMosixReal, 3, 10.0);
        assert_eq!(outcome, super::super::run(&scenario, PolicyName::ScxMosixReal, 3));
        assert_eq!(loads.len(), 30);
        assert!(loads.iter().any(|(_, load)| *load > 0.1), "{loads:?}");
        // Steps of 5 s: nothing is older than some ten of them.
        assert!(ages_s.last().is_some_and(|oldest| (5.0..100.0).contains(oldest)), "{ages_s:?}");
    }
}
