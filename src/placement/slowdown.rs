//! What a placement costs: the slowdown that its jobs collect in each second.
//!
//! A job's *slowdown* is its time from start to end divided by its CPU time. While it is there it collects `stretch / size` of it in each
//! second: the stretch is what a second of CPU time takes where it runs, the size the CPU time that it needs in all. CPU, memory and the
//! network come down to this one currency: a full node stretches, a thrashing node stretches more, and a move that stands still for `d`
//! seconds costs `d / size`.
//!
//! ```text
//!   size(job)     = 2 · age         processes live about as long again as they have: Harchol-Balter and Downey, "Exploiting process
//!                                   lifetime distributions for dynamic load balancing", ACM TOCS 15(3), 1997
//!   weight(job)   = 1 / size
//!   stretch(node) = max(1, jobs / CPUs) / speed;   with exhausted memory as if THRASHING jobs more were there
//!   cost(node)    = stretch · Σ weight
//! ```
//!
//! A job goes where it adds least to the sum over all nodes, as in the opportunity-cost approach (Amir et al., IEEE TPDS 11(7), 2000); the
//! weights make the difference. A long job adds to everybody's stretch and has little weight itself, so long jobs gather where few short
//! ones are, and those that start find a node that is nearly free.

/// CPU time, in seconds, below which jobs are taken for equally young: what is shorter is not worth a thought.
const YOUNG_S: f64 = 1.0;
/// Jobs by which a node is the fuller, as it feels, when its memory is exhausted.
const THRASHING: f64 = 10.0;

/// The weight of a job that has had `attained_s` seconds of CPU time.
#[must_use]
pub fn weight(attained_s: f64) -> f64 {
    1.0 / (2.0 * attained_s.max(YOUNG_S))
}

/// A node and what is on it, as far as its cost goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Occupancy {
    /// Its CPUs; above 0.
    pub cpus: f64,
    /// The speed of one of them; above 0.
    pub speed: f64,
    /// Its memory, in any unit.
    pub memory: f64,
    /// Jobs that want a CPU.
    pub jobs: f64,
    /// The sum of their weights.
    pub weight: f64,
    /// Memory that they need, in the same unit.
    pub used: f64,
}

/// One job, as far as its cost goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Its [`weight`].
    pub weight: f64,
    /// Memory that it needs, in the unit of [`Occupancy::memory`].
    pub memory: f64,
}

impl Occupancy {
    /// Slowdown collected per second.
    #[must_use]
    pub fn cost(&self) -> f64 {
        let thrashing = if self.used >= self.memory { THRASHING } else { 0.0 };
        ((self.jobs + thrashing) / self.cpus).max(1.0) / self.speed * self.weight
    }

    /// With one job more.
    #[must_use]
    pub fn with(self, load: Load) -> Self {
        Self { jobs: self.jobs + 1.0, weight: self.weight + load.weight, used: self.used + load.memory, ..self }
    }

    /// Without one that is there.
    #[must_use]
    pub fn without(self, load: Load) -> Self {
        Self { jobs: self.jobs - 1.0, weight: self.weight - load.weight, used: self.used - load.memory, ..self }
    }

    /// What one job more adds to the cost: its own slowdown and everybody else's.
    #[must_use]
    pub fn marginal(&self, load: Load) -> f64 {
        self.with(load).cost() - self.cost()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY: Occupancy = Occupancy { cpus: 1.0, speed: 1.0, memory: 100.0, jobs: 0.0, weight: 0.0, used: 0.0 };

    fn job(attained_s: f64) -> Load {
        Load { weight: weight(attained_s), memory: 10.0 }
    }

    #[test]
    fn a_job_alone_collects_a_slowdown_of_one_over_its_life() {
        let alone = EMPTY.with(job(50.0));
        assert!((alone.cost() * 100.0 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_young_go_where_it_is_empty_and_the_old_to_the_old() {
        let (old, young) = (EMPTY.with(job(1_000.0)), EMPTY.with(job(1.0)));
        assert!(old.marginal(job(1_000.0)) < young.marginal(job(1_000.0)));
        assert!(EMPTY.marginal(job(1.0)) < old.marginal(job(1.0)));
        assert!(old.marginal(job(1.0)) < young.marginal(job(1.0)));
    }

    #[test]
    fn nobody_thrashes_while_there_is_room() {
        let full = Occupancy { used: 95.0, ..EMPTY };
        let busy = (0..5).fold(EMPTY, |node, _| node.with(job(1.0)));
        assert!(busy.marginal(job(1.0)) < full.with(job(1.0)).marginal(job(1.0)));
    }

    proptest! {
        #[test]
        fn a_job_more_never_makes_a_node_cheaper(
            jobs in prop::collection::vec((0.0..1e6_f64, 0.0..50.0_f64), 0..20),
            attained_s in 0.0..1e6_f64, memory in 0.0..50.0_f64, cpus in 1..64_u32, speed in 0.01..10.0_f64,
        ) {
            let node = Occupancy { cpus: f64::from(cpus), speed, ..EMPTY };
            let node = jobs.into_iter().fold(node, |node, (attained_s, memory)| node.with(Load { weight: weight(attained_s), memory }));
            let added = node.marginal(Load { weight: weight(attained_s), memory });
            prop_assert!(added > 0.0, "{added}");
        }
    }
}
