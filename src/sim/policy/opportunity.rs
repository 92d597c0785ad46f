//! E-PVM and E-MOSIX: the opportunity cost of Amir, Awerbuch, Barak, Borgstrom and Keren, IEEE TPDS
//! 11(7), 2000.
//!
//! A machine costs `n^(used memory / memory) + n^(jobs / L)`, with `n` machines and `L` the
//! smallest power of two above the highest number of jobs seen of a machine. A job goes where it
//! adds the least cost. E-MOSIX also compares each running job, in each period, with a few machines
//! at random, and moves it if it adds less there. As in the paper a job at a slow machine is one
//! like any other; with loads, which are jobs by speed, both policies do worse. The paper's
//! machines have one CPU; of a machine with more we count the jobs per CPU.
//!
//! Much hangs on `L`, of which the paper says no more than that. The larger it is, the less jobs
//! count beside memory. Over 400 runs of `oc-fit` the slowdowns by job of E-PVM and E-MOSIX, which
//! are 8.4 and 8.4 as we read it, are 8.6 and 8.8 if a machine that thrashes is seen as ten jobs
//! fuller, 9.8 and 10.6 if slow machines are seen as the fuller too, 8.5 and 8.9 if `L` is always
//! 4, 10.1 and 10.4 if it is 64, 10.9 and 11.8 if it is 256. Others' simulations of the same differ
//! by as much. Ours is the reading under which both do best.

use super::{Cluster, Policy, SAMPLE, Seen};
use crate::sim::machine::{Figures, Running};

pub(super) struct Opportunity {
    moves: bool,
    /// The highest number of jobs per CPU seen of a machine.
    most_jobs: f64,
}

/// Jobs per CPU.
fn crowd(machine: Figures, jobs: f64) -> f64 {
    jobs / f64::from(machine.cpus)
}

impl Opportunity {
    pub(super) fn on_arrival() -> Self {
        Self { moves: false, most_jobs: 1.0 }
    }

    pub(super) fn moving() -> Self {
        Self { moves: true, most_jobs: 1.0 }
    }

    /// What a job of this memory adds at a machine with so many jobs and so much memory in use
    /// beside it.
    fn marginal(&self, machines: usize, there: Figures, jobs: f64, used_mib: f64, memory_mib: f64) -> f64 {
        let n = machines as f64;
        let most = (self.most_jobs + 1e-9).log2().ceil().exp2();
        let cost = |jobs: f64, used_mib: f64| n.powf(used_mib / there.memory_mib) + n.powf(crowd(there, jobs) / most);
        cost(jobs + 1.0, used_mib + memory_mib) - cost(jobs, used_mib)
    }

    fn see(&mut self, known: impl Iterator<Item = Seen>) {
        let most = known.map(|seen| crowd(seen.figures, seen.figures.jobs)).fold(1.0, f64::max);
        self.most_jobs = self.most_jobs.max(most);
    }
}

impl Policy for Opportunity {
    fn place(&mut self, cluster: &mut Cluster, at: usize, job: &Running) -> usize {
        self.see(cluster.known(at));
        let n = cluster.machines.len();
        let cost = |Seen { machine, figures, age_ms }: Seen| {
            (machine, self.marginal(n, figures, figures.jobs, figures.used_mib, job.memory_mib), age_ms)
        };
        // Of equals the one that was heard of last.
        let best = cluster.known(at).map(cost).min_by(|a, b| a.1.total_cmp(&b.1).then(a.2.cmp(&b.2)));
        best.map_or(at, |(machine, ..)| machine)
    }

    fn rebalance(&mut self, cluster: &mut Cluster) {
        if !self.moves {
            return;
        }
        let n = cluster.machines.len();
        for by in 0..if cluster.is_transparent() { 1 } else { n } {
            self.see(cluster.known(by));
        }
        for from in 0..n {
            let jobs: Vec<(usize, f64)> =
                cluster.machines[from].jobs.iter().map(|running| (running.id, running.memory_mib)).collect();
            for (job, memory_mib) in jobs {
                let here = cluster.machines[from].figures(cluster.now_s);
                let stay = self.marginal(n, here, (here.jobs - 1.0).max(0.0), here.used_mib - memory_mib, memory_mib);
                let others = cluster.some_others(from, SAMPLE);
                let move_to = |index: usize| {
                    let there = cluster.seen(from, index)?.figures;
                    Some((index, self.marginal(n, there, there.jobs, there.used_mib, memory_mib)))
                };
                let best = others.into_iter().filter_map(move_to).min_by(|a, b| a.1.total_cmp(&b.1));
                if let Some((to, _)) = best.filter(|(_, cost)| *cost < stay) {
                    cluster.move_job(job, from, to);
                }
            }
        }
    }
}
