//! The policies of the literature that ours is compared with, and a bound.

use rand::RngExt as _;

use super::{Cluster, Policy, SAMPLE, Seen};
use crate::sim::machine::{Figures, Running};

/// Where a job comes, which is each machine in turn.
pub(super) struct RoundRobin;

impl Policy for RoundRobin {
    fn place(&mut self, _cluster: &mut Cluster, at: usize, _job: &Running) -> usize {
        at
    }
}

/// The machine whose load would be least with one job more; of equals the one that was heard of
/// last.
fn least_loaded(among: impl IntoIterator<Item = Seen>) -> Option<usize> {
    let load = |seen: &Seen| seen.figures.load_of(seen.figures.jobs + 1.0);
    let first = |a: &Seen, b: &Seen| load(a).total_cmp(&load(b)).then(a.age_ms.cmp(&b.age_ms));
    among.into_iter().min_by(first).map(|seen| seen.machine)
}

pub(super) struct LeastLoaded;

impl Policy for LeastLoaded {
    fn place(&mut self, cluster: &mut Cluster, at: usize, _job: &Running) -> usize {
        least_loaded(cluster.known(at)).unwrap_or(at)
    }
}

pub(super) struct TwoChoices;

impl Policy for TwoChoices {
    fn place(&mut self, cluster: &mut Cluster, at: usize, _job: &Running) -> usize {
        let open: Vec<usize> = cluster.open().collect();
        let first = open[cluster.random.random_range(0..open.len())];
        let second = cluster.some_others(first, 1);
        least_loaded(second.into_iter().chain([first]).filter_map(|machine| cluster.seen(at, machine))).unwrap_or(at)
    }
}

/// MOSIX (mosix.md §2, after Barak, Guday and Wheeler, 1993): jobs begin where they come, each
/// machine in turn. In each period each machine looks at some others at random; one whose memory is
/// exhausted sends away the smallest job that cures it, to where there is room; else the job goes
/// to the least loaded with room, if even 130 % of its own load leaves that below here.
pub(super) struct Mosix;

/// MOSIX's hysteresis.
const HYSTERESIS: f64 = 1.3;

/// Those of `others` that have room, as far as `by` knows.
fn roomy(cluster: &Cluster, by: usize, others: &[usize], memory_mib: f64) -> impl Iterator<Item = Seen> {
    let seen = others.iter().filter_map(move |other| cluster.seen(by, *other));
    seen.filter(move |seen| seen.figures.has_room(memory_mib))
}

impl Policy for Mosix {
    fn place(&mut self, _cluster: &mut Cluster, at: usize, _job: &Running) -> usize {
        at
    }

    fn rebalance(&mut self, cluster: &mut Cluster) {
        for from in 0..cluster.machines.len() {
            let others = cluster.some_others(from, SAMPLE);
            let here = &cluster.machines[from];
            let over_mib = here.used_mib - here.memory_mib;
            let chosen =
                if over_mib >= 0.0 { usher(cluster, from, over_mib, &others) } else { balance(cluster, from, &others) };
            if let Some((job, to)) = chosen {
                cluster.move_job(job, from, to);
            }
        }
    }
}

fn usher(cluster: &Cluster, from: usize, over_mib: f64, others: &[usize]) -> Option<(usize, usize)> {
    let jobs = &cluster.machines[from].jobs;
    let mut jobs: Vec<(usize, f64)> = jobs.iter().map(|running| (running.id, running.memory_mib)).collect();
    // The smallest that cures it; if none does, the largest first.
    jobs.sort_by(|(_, a), (_, b)| {
        let key = |mib: f64| if mib > over_mib { (0, mib) } else { (1, -mib) };
        let (a, b) = (key(*a), key(*b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    jobs.into_iter().find_map(|(job, mib)| Some((job, least_loaded(roomy(cluster, from, others, mib))?)))
}

fn balance(cluster: &Cluster, from: usize, others: &[usize]) -> Option<(usize, usize)> {
    // The oldest has the longest life before it.
    let job = cluster.machines[from].jobs.iter().max_by(|a, b| a.attained_s.total_cmp(&b.attained_s))?;
    let to = least_loaded(roomy(cluster, from, others, job.memory_mib))?;
    let (here, there) = (cluster.seen(from, from)?.figures, cluster.seen(from, to)?.figures);
    (there.load() + HYSTERESIS * there.load_of(1.0) < here.load()).then_some((job.id, to))
}

/// Work stealing (Blumofe and Leiserson, 1999): an idle machine takes a job of one at random that
/// has more than it has CPUs.
pub(super) struct WorkStealing;

impl Policy for WorkStealing {
    fn place(&mut self, _cluster: &mut Cluster, at: usize, _job: &Running) -> usize {
        at
    }

    fn rebalance(&mut self, cluster: &mut Cluster) {
        for thief in 0..cluster.machines.len() {
            let here = &cluster.machines[thief];
            if here.jobs.len() >= here.cpus as usize || !here.is_open {
                continue;
            }
            let others = cluster.some_others(thief, usize::MAX);
            let has_several = |figures: Figures| figures.jobs > f64::from(figures.cpus);
            let known = others.into_iter().filter_map(|other| cluster.seen(thief, other));
            let victim = known.into_iter().find(|seen| has_several(seen.figures)).map(|seen| seen.machine);
            // The victim gives away what it really has.
            let now_s = cluster.now_s;
            let Some(victim) = victim.filter(|victim| has_several(cluster.machines[*victim].figures(now_s))) else {
                continue;
            };
            let room = cluster.machines[thief].figures(now_s);
            let jobs = cluster.machines[victim].jobs.iter().filter(|running| room.has_room(running.memory_mib));
            // The oldest work, as at the far end of a work-stealing queue.
            let job = jobs.min_by_key(|running| running.id).map(|running| running.id);
            if let Some(job) = job {
                cluster.move_job(job, victim, thief);
            }
        }
    }

    fn at_each_event(&self) -> bool {
        true
    }
}

/// Greedy with full knowledge of all jobs and machines as they are: at each event, the shortest job
/// first, each to the machine where it ends soonest behind those that are there already, if its
/// memory fits.
pub(super) struct Clairvoyant;

impl Policy for Clairvoyant {
    fn place(&mut self, cluster: &mut Cluster, at: usize, _job: &Running) -> usize {
        least_loaded(cluster.open().filter_map(|machine| cluster.seen(machine, machine))).unwrap_or(at)
    }

    fn rebalance(&mut self, cluster: &mut Cluster) {
        let mut jobs: Vec<(f64, usize, f64, usize)> = Vec::new();
        for (machine, state) in cluster.machines.iter().enumerate() {
            jobs.extend(state.jobs.iter().map(|r| (r.remaining_s, r.id, r.memory_mib, machine)));
        }
        jobs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        // When each CPU has done what it was given, and each machine's memory.
        let mut busy_until: Vec<Vec<f64>> =
            cluster.machines.iter().map(|machine| vec![0.0; machine.cpus as usize]).collect();
        let mut used_mib = vec![0.0; cluster.machines.len()];
        for (remaining_s, job, memory_mib, from) in jobs {
            let end = |to: usize| {
                let free_at = busy_until[to].iter().copied().fold(f64::INFINITY, f64::min);
                let end_s = free_at + remaining_s / cluster.machines[to].speed;
                let fits = used_mib[to] + memory_mib < cluster.machines[to].memory_mib;
                // Where it is, if that is as good.
                (!fits, end_s, to != from, to)
            };
            let best = cluster
                .open()
                .map(end)
                .min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)).then(a.3.cmp(&b.3)));
            let Some((_, end_s, _, to)) = best else { return };
            used_mib[to] += memory_mib;
            if let Some(cpu) = busy_until[to].iter_mut().min_by(|a, b| a.total_cmp(b)) {
                *cpu = end_s;
            }
            cluster.move_job(job, from, to);
        }
    }

    fn at_each_event(&self) -> bool {
        true
    }
}
