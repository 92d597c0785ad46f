//! One machine: which jobs are on it, and how they share its CPUs.
//!
//! Between two events each job runs at a constant rate, its weight's share of the machine, but
//! never more than one CPU; what is left over is shared by the others. A machine that thrashes
//! loses the same factor of every rate.

use super::scenario::{MachineKind, Scenario, Thrashing};
use super::workload::Part;
use crate::{
    placement::{Config, slowdown},
    scheduler,
};

/// How a machine's jobs share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// All alike.
    Fair,
    /// By weights that fall with the CPU time that a job has had: [`weight`].
    AttainedService,
    /// The shortest first; for a bound only, as the rest of a job is unknown.
    ShortestRemaining,
}

impl Sharing {
    /// Placement's tunables on machines that share their CPUs so.
    pub(super) fn placement(self, scenario: &Scenario) -> Config {
        let config = scenario.placement.clone();
        match self {
            Self::AttainedService => config.under(&scenario.scheduler),
            Self::Fair | Self::ShortestRemaining => config,
        }
    }
}

/// How weights fall with attained service: `bpf/attained.bpf.h`.
#[derive(Debug, Clone, Copy)]
struct Levels {
    /// CPU time, in seconds at speed 1, up to which a job has its full weight. Each doubling begins
    /// a level.
    first_s: f64,
    /// A job's weight on each level in relation to that on the level before.
    ratio: f64,
    /// No job's weight is less: a guaranteed share for the old.
    least: f64,
}

impl Levels {
    fn new(config: &scheduler::Config) -> Self {
        let part = |shift: u32| (-f64::from(shift)).exp2();
        Self {
            first_s: config.first_level_ms as f64 / 1e3,
            ratio: part(config.level_shift),
            least: part(config.least_shift),
        }
    }

    /// The level of a job that has had so much CPU time.
    fn level(&self, attained_s: f64) -> i32 {
        if attained_s < self.first_s { 0 } else { (attained_s / self.first_s).log2() as i32 + 1 }
    }

    /// The CPU time at which a job leaves `level`.
    fn end_s(&self, level: i32) -> f64 {
        self.first_s * f64::from(level).exp2()
    }

    fn weight(&self, attained_s: f64) -> f64 {
        self.ratio.powi(self.level(attained_s)).max(self.least)
    }
}

/// A part of a job on a machine.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Running {
    /// Its number.
    pub(super) id: usize,
    /// The job's.
    pub(super) job: usize,
    /// CPU time that it still needs, in seconds at speed 1.
    pub(super) remaining_s: f64,
    /// CPU time that it has had.
    pub(super) attained_s: f64,
    /// When it arrived, in seconds.
    pub(super) began_s: f64,
    /// When it came to its machine from another one.
    pub(super) moved_s: Option<f64>,
    /// Memory that it holds, in MiB.
    pub(super) memory_mib: f64,
    /// Memory that it changes in each second, as a share of all of it.
    pub(super) dirty_share: f64,
    /// CPU seconds at speed 1 per second, now.
    rate: f64,
}

impl Running {
    /// A part before its first second.
    pub(super) fn new(id: usize, job: usize, part: Part, began_s: f64) -> Self {
        let Part { cpu_s, memory_mib, dirty_share } = part;
        Self {
            id,
            job,
            remaining_s: cpu_s,
            attained_s: 0.0,
            began_s,
            moved_s: None,
            memory_mib,
            dirty_share,
            rate: 0.0,
        }
    }

    /// As it looks to a policy that does not know how much memory it will need.
    pub(super) fn of_unknown_memory(&self) -> Self {
        Self { memory_mib: 0.0, ..self.clone() }
    }

    /// Its weight as placement computes it, in 1/s, where jobs count alike below `young_s`.
    pub(super) fn weight(&self, young_s: f64) -> f64 {
        slowdown::weight(1.0, self.attained_s, young_s)
    }
}

/// What a machine tells of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures {
    pub(super) cpus: u32,
    pub(super) speed: f64,
    pub(super) memory_mib: f64,
    pub(super) used_mib: f64,
    /// Its jobs, all of which are runnable; where loads rise slowly, as many as the load shows.
    pub(super) jobs: f64,
    /// The sum of their weights as placement computes them, in 1/s.
    pub(super) weight: f64,
    /// The CPU time, in seconds, below which jobs count alike for that.
    young_s: f64,
}

impl Figures {
    /// Runnable jobs per CPU, in terms of a CPU of speed 1: MOSIX's load.
    pub(super) fn load(&self) -> f64 {
        self.load_of(self.jobs)
    }

    /// The load that so many jobs would be.
    pub(super) fn load_of(&self, jobs: f64) -> f64 {
        jobs / (f64::from(self.cpus) * self.speed)
    }

    pub(super) fn has_room(&self, memory_mib: f64) -> bool {
        self.used_mib + memory_mib < self.memory_mib
    }

    /// With one job more.
    pub(super) fn with(self, running: &Running) -> Self {
        let Self { used_mib, jobs, weight, young_s, .. } = self;
        let weight = weight + running.weight(young_s);
        Self { used_mib: used_mib + running.memory_mib, jobs: jobs + 1.0, weight, ..self }
    }

    /// Without one that is there.
    pub(super) fn without(self, running: &Running) -> Self {
        let Self { used_mib, jobs, weight, young_s, .. } = self;
        let weight = (weight - running.weight(young_s)).max(0.0);
        Self { used_mib: (used_mib - running.memory_mib).max(0.0), jobs: (jobs - 1.0).max(0.0), weight, ..self }
    }
}

/// One machine.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) cpus: u32,
    pub(super) speed: f64,
    pub(super) memory_mib: f64,
    pub(super) used_mib: f64,
    pub(super) jobs: Vec<Running>,
    /// Whether it is there and takes jobs.
    pub(super) is_open: bool,
    /// Whether its load rises slowly, as MOSIX's does, and how many jobs it does not show yet then.
    rises: bool,
    unseen: f64,
    sharing: Sharing,
    levels: Levels,
    thrashing: Thrashing,
    /// See [`Config::young_ms`], in seconds.
    young_s: f64,
    now_s: f64,
}

/// What MOSIX's load does not show yet of a job after a second, as a share.
const RISE: f64 = 5.0 / 8.0;

/// What is left of a job by rounding is nothing. More than the clock's own rounding, or time would
/// stand still: up to 10^9 s.
const NOTHING_S: f64 = 1e-6;

impl Machine {
    pub(super) fn new(kind: &MachineKind, sharing: Sharing, scenario: &Scenario) -> Self {
        let MachineKind { cpus, speed, memory_mib, .. } = *kind;
        Self {
            cpus,
            speed,
            memory_mib,
            used_mib: 0.0,
            jobs: Vec::new(),
            is_open: true,
            rises: scenario.gossip.is_some(),
            unseen: 0.0,
            sharing,
            levels: Levels::new(&scenario.scheduler),
            thrashing: scenario.thrashing,
            young_s: sharing.placement(scenario).young_ms as f64 / 1e3,
            now_s: 0.0,
        }
    }

    /// What it is like at a time when nothing has happened here since it was advanced.
    pub(super) fn figures(&self, now_s: f64) -> Figures {
        let Self { cpus, speed, memory_mib, used_mib, ref jobs, young_s, .. } = *self;
        let passed_s = now_s - self.now_s;
        let weights =
            jobs.iter().map(|running| slowdown::weight(1.0, running.attained_s + running.rate * passed_s, young_s));
        let weight = weights.sum();
        let unseen = if self.rises { self.unseen * RISE.powf(passed_s) } else { 0.0 };
        Figures { cpus, speed, memory_mib, used_mib, jobs: jobs.len() as f64 - unseen, weight, young_s }
    }

    /// Lets time pass and returns the jobs of which parts have ended by now, one for each part.
    pub(super) fn advance(&mut self, now_s: f64) -> Vec<usize> {
        let passed_s = now_s - self.now_s;
        self.now_s = now_s;
        self.unseen *= RISE.powf(passed_s);
        let mut ended = Vec::new();
        self.jobs.retain_mut(|running| {
            let got_s = running.rate * passed_s;
            running.remaining_s -= got_s;
            running.attained_s += got_s;
            let is_over = running.remaining_s <= NOTHING_S;
            if is_over {
                ended.push(running.job);
            }
            !is_over
        });
        if !ended.is_empty() {
            self.fall(ended.len());
            self.recompute();
        }
        ended
    }

    /// Takes a job in. Time must have been advanced to now.
    pub(super) fn add(&mut self, running: Running) {
        self.jobs.push(running);
        self.unseen += 1.0;
        self.recompute();
    }

    /// The job, if it is here.
    pub(super) fn get(&self, id: usize) -> Option<&Running> {
        self.jobs.iter().find(|running| running.id == id)
    }

    /// Lets a job go. Time must have been advanced to now.
    pub(super) fn remove(&mut self, id: usize) -> Option<Running> {
        let index = self.jobs.iter().position(|running| running.id == id)?;
        let running = self.jobs.remove(index);
        self.fall(1);
        self.recompute();
        Some(running)
    }

    /// Lets all go.
    pub(super) fn clear(&mut self) -> Vec<Running> {
        self.used_mib = 0.0;
        self.unseen = 0.0;
        std::mem::take(&mut self.jobs)
    }

    /// When something changes here by itself: a job ends, or one comes to its next level.
    pub(super) fn next_event_s(&mut self) -> Option<f64> {
        self.share();
        let wait = |running: &Running| {
            let until_end = running.remaining_s / running.rate;
            let Running { attained_s, .. } = *running;
            if self.sharing != Sharing::AttainedService || self.levels.weight(attained_s) <= self.levels.least {
                return until_end;
            }
            // Rounding must not leave it just below the step for ever.
            let step_s = (self.levels.end_s(self.levels.level(attained_s)) - attained_s).max(NOTHING_S);
            until_end.min(step_s / running.rate)
        };
        let soonest = self.jobs.iter().filter(|running| running.rate > 0.0).map(wait).min_by(f64::total_cmp);
        soonest.map(|wait_s| self.now_s + wait_s)
    }

    /// A load falls at once.
    fn fall(&mut self, jobs: usize) {
        self.unseen = (self.unseen - jobs as f64).max(0.0);
    }

    fn recompute(&mut self) {
        self.used_mib = self.jobs.iter().map(|running| running.memory_mib).sum();
    }

    /// What thrashing leaves of the machine.
    fn efficiency(&self) -> f64 {
        if self.used_mib < self.memory_mib {
            return 1.0;
        }
        match self.thrashing {
            Thrashing::Multiply(by) => 1.0 / by,
            Thrashing::Add(jobs) => self.jobs.len() as f64 / (self.jobs.len() as f64 + jobs),
        }
    }

    /// Gives each job its rate.
    fn share(&mut self) {
        let full = self.speed * self.efficiency();
        match self.sharing {
            Sharing::Fair => {
                let rate = full * (f64::from(self.cpus) / self.jobs.len() as f64).min(1.0);
                self.jobs.iter_mut().for_each(|running| running.rate = rate);
            }
            Sharing::ShortestRemaining => {
                self.jobs.sort_by(|a, b| a.remaining_s.total_cmp(&b.remaining_s).then(a.id.cmp(&b.id)));
                for (index, running) in self.jobs.iter_mut().enumerate() {
                    running.rate = if index < self.cpus as usize { full } else { 0.0 };
                }
            }
            Sharing::AttainedService => {
                // The heaviest first: a job that is due more than a CPU gets one, and the others
                // share the rest.
                self.jobs.sort_by(|a, b| a.attained_s.total_cmp(&b.attained_s).then(a.id.cmp(&b.id)));
                let mut cpus = f64::from(self.cpus);
                let levels = self.levels;
                let mut weights: f64 = self.jobs.iter().map(|running| levels.weight(running.attained_s)).sum();
                for running in &mut self.jobs {
                    let own = levels.weight(running.attained_s);
                    let part = (cpus * own / weights).min(1.0);
                    running.rate = full * part;
                    cpus = (cpus - part).max(0.0);
                    weights -= own;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: u32, sharing: Sharing) -> Machine {
        thrashing_machine(cpus, sharing, Thrashing::Multiply(10.0))
    }

    fn thrashing_machine(cpus: u32, sharing: Sharing, thrashing: Thrashing) -> Machine {
        let kind = MachineKind { count: 1, cpus, speed: 1.0, memory_mib: 100.0 };
        Machine::new(&kind, sharing, &Scenario { thrashing, ..Scenario::named("oc-fit") })
    }

    fn running(id: usize, cpu_s: f64, memory_mib: f64) -> Running {
        Running::new(id, id, Part { cpu_s, memory_mib, dirty_share: 0.0 }, 0.0)
    }

    /// When each job ends.
    fn ends(machine: &mut Machine) -> Vec<(usize, f64)> {
        let mut all = Vec::new();
        while let Some(at_s) = machine.next_event_s() {
            all.extend(machine.advance(at_s).into_iter().map(|job| (job, (at_s * 1e6).round() / 1e6)));
        }
        all
    }

    #[test]
    fn fair_jobs_share_alike_and_none_gets_more_than_a_cpu() {
        let mut one = machine(1, Sharing::Fair);
        one.add(running(0, 1.0, 1.0));
        one.add(running(1, 2.0, 1.0));
        assert_eq!(ends(&mut one), [(0, 2.0), (1, 3.0)]);
        let mut two = machine(4, Sharing::Fair);
        two.add(running(0, 1.0, 1.0));
        two.add(running(1, 2.0, 1.0));
        assert_eq!(ends(&mut two), [(0, 1.0), (1, 2.0)]);
    }

    #[test]
    fn the_shortest_goes_first() {
        let mut one = machine(1, Sharing::ShortestRemaining);
        one.add(running(0, 2.0, 1.0));
        one.add(running(1, 1.0, 1.0));
        assert_eq!(ends(&mut one), [(1, 1.0), (0, 3.0)]);
    }

    #[test]
    fn where_the_young_go_first_they_matter_alike_to_placement() {
        let weights = |sharing| {
            let mut one = machine(1, sharing);
            [0.5, 3.0, 4.0, 40.0].map(|attained_s| {
                one.clear();
                one.add(Running { attained_s, ..running(0, 1.0, 1.0) });
                one.figures(0.0).weight
            })
        };
        assert_eq!(weights(Sharing::Fair), [0.5, 1.0 / 6.0, 0.125, 0.0125]);
        assert_eq!(weights(Sharing::AttainedService), [0.125, 0.125, 0.125, 0.0125]);
    }

    #[test]
    fn the_young_go_first_and_the_old_do_not_starve() {
        let mut one = machine(1, Sharing::AttainedService);
        one.add(Running { attained_s: 1_000.0, ..running(0, 1.0, 1.0) });
        one.add(running(1, 0.5, 1.0));
        let ends = ends(&mut one);
        assert_eq!(ends[0].0, 1, "{ends:?}");
        assert!(ends[0].1 < 0.502, "{ends:?}");
        assert_eq!(ends[1], (0, 1.5), "no CPU time is lost");
    }

    #[test]
    fn a_thrashing_machine_loses_what_the_scenario_says() {
        let mut one = machine(1, Sharing::Fair);
        one.add(running(0, 1.0, 100.0));
        assert_eq!(ends(&mut one), [(0, 10.0)]);
        let mut added = thrashing_machine(1, Sharing::Fair, Thrashing::Add(10.0));
        added.add(running(0, 1.0, 100.0));
        assert_eq!(ends(&mut added), [(0, 11.0)]);
    }
}
