//! Many runs of several policies on the same seeds, and what can be said of them with which
//! confidence.

use serde::Serialize;

use super::{
    engine::{Outcome, run},
    parallel,
    policy::PolicyName,
    scenario::Scenario,
};

/// The quantile of the normal distribution for 95 % on both sides: runs are many, so Student's t is
/// as good as normal.
const Z_95: f64 = 1.959_964;

/// What came of all policies.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The scenario's name.
    pub scenario: String,
    /// The first run's seed; the others follow.
    pub seed: u64,
    /// Runs of each policy.
    pub runs: u64,
    /// The policies, as they were asked for.
    pub policies: Vec<PolicyResult>,
}

/// What came of one policy.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyResult {
    /// Its name.
    pub policy: PolicyName,
    /// The mean slowdown over all jobs of all runs.
    pub slowdown_by_job: f64,
    /// Half the width of its 95 % confidence interval.
    pub slowdown_by_job_ci95: f64,
    /// The mean over runs of each run's mean slowdown.
    pub slowdown_by_execution: f64,
    /// Half the width of its 95 % confidence interval.
    pub slowdown_by_execution_ci95: f64,
    /// Moves per job.
    pub moves_per_job: f64,
    /// Its slowdown by job in relation to that of each other policy, on the same seeds.
    pub ratios: Vec<Ratio>,
}

/// A ratio of two policies' slowdowns, paired by run.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    /// The other policy.
    pub to: PolicyName,
    /// The ratio: below 1 is better than the other.
    pub ratio: f64,
    /// Half the width of its 95 % confidence interval (delta method).
    pub ci95: f64,
}

/// One run's sums.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    jobs: f64,
    slowdown: f64,
    moves: f64,
}

impl From<Outcome> for Sums {
    fn from(outcome: Outcome) -> Self {
        let slowdown = outcome.slowdowns.iter().sum();
        Self { jobs: outcome.slowdowns.len() as f64, slowdown, moves: outcome.moves as f64 }
    }
}

/// Runs every policy `runs` times, on all CPUs. `progress` is told after each run, from any thread.
#[must_use]
pub fn compare(
    scenario: &Scenario,
    policies: &[PolicyName],
    seed: u64,
    runs: u64,
    progress: &(dyn Fn() + Sync),
) -> Comparison {
    let all: Vec<Vec<Sums>> = parallel::map(runs as usize, |index| {
        let of_policy = |policy: &PolicyName| {
            let sums = run(scenario, *policy, seed.wrapping_add(index as u64)).into();
            progress();
            sums
        };
        policies.iter().map(of_policy).collect()
    });
    let of = |policy: usize| all.iter().map(|sums| sums[policy]).collect::<Vec<Sums>>();
    let results = policies.iter().enumerate().map(|(index, policy)| {
        let own = of(index);
        let others = policies.iter().enumerate().filter(|(other, _)| *other != index);
        let ratios = others.map(|(other, to)| ratio_of(*to, &own, &of(other))).collect();
        result_of(*policy, &own, ratios)
    });
    Comparison { scenario: scenario.name.clone(), seed, runs, policies: results.collect() }
}

/// The ratio of two sums over runs and half the width of its confidence interval.
fn ratio(above: &[f64], below: &[f64]) -> (f64, f64) {
    let runs = above.len() as f64;
    let (sum_above, sum_below) = (above.iter().sum::<f64>(), below.iter().sum::<f64>());
    let ratio = sum_above / sum_below;
    // Cochran, Sampling Techniques, 1977, section 2.11: the variance of a ratio estimate.
    let squares: f64 = above.iter().zip(below).map(|(a, b)| (a - ratio * b).powi(2)).sum();
    let error = (squares * runs / (runs - 1.0).max(1.0)).sqrt() / sum_below;
    (ratio, Z_95 * error)
}

fn result_of(policy: PolicyName, runs: &[Sums], ratios: Vec<Ratio>) -> PolicyResult {
    let column = |pick: fn(&Sums) -> f64| runs.iter().map(pick).collect::<Vec<f64>>();
    let (slowdowns, jobs, ones) = (column(|run| run.slowdown), column(|run| run.jobs), vec![1.0; runs.len()]);
    let (by_job, by_job_ci95) = ratio(&slowdowns, &jobs);
    let (by_execution, by_execution_ci95) = ratio(&column(|run| run.slowdown / run.jobs.max(1.0)), &ones);
    PolicyResult {
        policy,
        slowdown_by_job: by_job,
        slowdown_by_job_ci95: by_job_ci95,
        slowdown_by_execution: by_execution,
        slowdown_by_execution_ci95: by_execution_ci95,
        moves_per_job: ratio(&column(|run| run.moves), &jobs).0,
        ratios,
    }
}

fn ratio_of(to: PolicyName, own: &[Sums], other: &[Sums]) -> Ratio {
    let column = |runs: &[Sums]| runs.iter().map(|run| run.slowdown).collect::<Vec<f64>>();
    let (ratio, ci95) = ratio(&column(own), &column(other));
    Ratio { to, ratio, ci95 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_of_proportional_runs_is_certain() {
        let below = [1.0, 5.0, 2.0];
        assert_eq!(ratio(&below.map(|value| value * 3.0), &below), (3.0, 0.0));
    }

    #[test]
    fn the_interval_of_a_mean_is_the_usual_one() {
        let (mean, half) = ratio(&[1.0, 2.0, 3.0, 4.0], &[1.0; 4]);
        let expected = Z_95 * (5.0_f64 / 3.0).sqrt() / 2.0;
        assert!((mean - 2.5).abs() < 1e-12 && (half - expected).abs() < 1e-12, "{mean} ± {half}");
    }

    #[test]
    fn a_seed_gives_the_same_comparison_on_any_thread_count() {
        let mut scenario = Scenario::named("oc-fit");
        scenario.arrivals.until_s = 500.0;
        let policies = [PolicyName::Pvm, PolicyName::EMosix];
        let text = || serde_json::to_string(&compare(&scenario, &policies, 5, 8, &|| {})).unwrap();
        assert_eq!(text(), text());
    }
}
