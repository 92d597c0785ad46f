//! The jobs of one run, drawn from a scenario by a seed.

use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

use super::scenario::{Bursts, Scenario};

/// One job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Job {
    /// When it arrives, in seconds.
    pub(super) arrival_s: f64,
    /// Its CPU demand as drawn, in seconds at speed 1: what its slowdown is measured by.
    pub(super) cpu_s: f64,
    /// Its parts, all alike; it ends with the last of them.
    pub(super) parts: u32,
    /// What each of them needs.
    pub(super) part: Part,
}

/// What is placed and moved: a whole job, or a part of a parallel one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Part {
    /// CPU time that it needs, in seconds at speed 1.
    pub(super) cpu_s: f64,
    /// Memory that it holds from arrival to end, in MiB.
    pub(super) memory_mib: f64,
    /// Memory that it changes in each second, as a share of all of it.
    pub(super) dirty_share: f64,
}

/// A uniform number in (0, 1]: never 0, by which demands are divided.
fn unit(random: &mut Xoshiro256PlusPlus) -> f64 {
    1.0 - random.random::<f64>()
}

/// The jobs in the order of their arrival.
pub(super) fn draw(scenario: &Scenario, seed: u64) -> Vec<Job> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let Scenario { arrivals, jobs: kind, .. } = scenario;
    let (least_dirty, most_dirty) = scenario.moves.dirty_share_per_s;
    let (low, high) = arrivals.rate_factor.unwrap_or((1.0, 1.0));
    let rate = (low + (high - low) * random.random::<f64>()) / arrivals.mean_gap_s;
    let mut jobs: Vec<Job> = Vec::new();
    let mut next_s = -unit(&mut random).ln() / rate;
    let mut bursts = arrivals.bursts.into_iter().flat_map(burst_times).peekable();
    loop {
        let now_s = match bursts.peek() {
            Some(burst_s) if *burst_s <= next_s => bursts.next().unwrap_or(next_s),
            _ => std::mem::replace(&mut next_s, f64::NAN),
        };
        if now_s >= arrivals.until_s {
            return jobs;
        }
        let cpu_s = (kind.least_cpu_s / unit(&mut random)).min(kind.most_cpu_s.unwrap_or(f64::INFINITY));
        let memory_mib = (kind.least_memory_mib / unit(&mut random)).min(kind.most_memory_mib);
        let dirty_share = least_dirty + (most_dirty - least_dirty) * random.random::<f64>();
        let parallel = scenario.parallel.as_ref().filter(|parallel| random.random::<f64>() < parallel.share);
        jobs.push(match parallel {
            None => Job { arrival_s: now_s, cpu_s, parts: 1, part: Part { cpu_s, memory_mib, dirty_share } },
            Some(parallel) => {
                let cpu_s = cpu_s * parallel.cpu_factor;
                let parts = random.random_range(1..=parallel.most_parts);
                let share = |demand: f64, full: bool| if full { demand } else { demand / f64::from(parts) };
                let part = Part {
                    cpu_s: share(cpu_s, parallel.full_cpu_each),
                    memory_mib: share(memory_mib, parallel.full_memory_each),
                    dirty_share,
                };
                Job { arrival_s: now_s, cpu_s, parts, part }
            }
        });
        if next_s.is_nan() {
            next_s = now_s - unit(&mut random).ln() / rate;
        }
    }
}

/// When the jobs of bursts arrive: each time as often as a burst has jobs.
fn burst_times(bursts: Bursts) -> impl Iterator<Item = f64> {
    let times = (1_u32..).map(move |burst| f64::from(burst) * bursts.every_s);
    times.flat_map(move |at_s| std::iter::repeat_n(at_s, bursts.jobs as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_jobs() {
        let scenario = Scenario::named("oc-literal");
        assert_eq!(draw(&scenario, 7), draw(&scenario, 7));
        assert_ne!(draw(&scenario, 7), draw(&scenario, 8));
    }

    #[test]
    fn arrivals_and_demands_are_as_the_scenario_says() {
        let scenario = Scenario { parallel: None, ..Scenario::named("oc-literal") };
        let jobs: Vec<Job> = (0..100).flat_map(|seed| draw(&scenario, seed)).collect();
        let per_run = jobs.len() as f64 / 100.0;
        assert!((980.0..1_020.0).contains(&per_run), "{per_run} arrivals in 10,000 s at a mean gap of 10 s");
        assert!(jobs.iter().all(|job| job.cpu_s >= 2.0 && (0.64..=64.0).contains(&job.part.memory_mib)));
        let longer = jobs.iter().filter(|job| job.cpu_s > 20.0).count() as f64 / jobs.len() as f64;
        assert!((0.09..0.11).contains(&longer), "a tenth needs more than ten times the least: {longer}");
    }

    #[test]
    fn bursts_come_on_time_among_the_others() {
        let jobs = draw(&Scenario::named("bursts"), 3);
        assert!(jobs.is_sorted_by_key(|job| job.arrival_s));
        for at_s in [900.0, 1_800.0] {
            assert_eq!(jobs.iter().filter(|job| (job.arrival_s - at_s).abs() < 1e-9).count(), 1_000);
        }
        assert!((2_900..3_200).contains(&jobs.len()), "{} jobs", jobs.len());
    }
}
