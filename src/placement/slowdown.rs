//! What a placement costs: the slowdown that its jobs collect in each second.
//!
//! A job's *slowdown* is its time from start to end divided by the CPU time that it needs. While it
//! is at a node it collects `weight · stretch` of it in each second: the stretch is what a second
//! of CPU time takes there, the weight how much a second matters to this job. CPU, memory and the
//! network come down to this one currency: a full node stretches, a node out of memory stretches
//! more, and a job that stands still for `d` seconds while it is moved loses `weight · d`.
//!
//! ```text
//!   size(job)     = 2 · CPU time so far     processes live about as long again as they have: Harchol-Balter and Downey, "Exploiting
//!                                           process lifetime distributions for dynamic load balancing", ACM TOCS 15(3), 1997
//!   weight(job)   = demand / size           demand: CPUs that it keeps busy, or would
//!   stretch(node) = max(1, demand / CPUs) / speed;   without memory as if some tasks more were there; CPUs: what those leave who come first
//!   cost(node)    = stretch · Σ weight
//! ```
//!
//! A job goes where it adds least to the sum over all nodes, as in the opportunity-cost approach
//! (Amir, Awerbuch, Barak, Borgstrom and Keren, IEEE TPDS 11(7), 2000); the weights make the
//! difference. A long job adds to the stretch of all jobs and has little weight itself, so long
//! jobs gather where few short ones are, and those that start find a node that is nearly free.
//!
//! The sum over all nodes falls with every move that follows this rule, so no sequence of such
//! moves comes back to where it began.

/// The weight of a job that keeps `demand` CPUs busy and has had `attained_s` seconds of CPU time,
/// in 1/s; below `young_s` all count alike.
#[must_use]
pub fn weight(demand: f64, attained_s: f64, young_s: f64) -> f64 {
    demand / (2.0 * attained_s.max(young_s))
}

/// One job, as far as its cost goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// CPUs that it keeps busy, or would if it had them.
    pub demand: f64,
    /// Its [`weight`], in 1/s.
    pub weight: f64,
    /// Memory that it needs, in bytes.
    pub memory: f64,
}

impl Load {
    /// What nothing is known of.
    pub const NONE: Self = Self { demand: 0.0, weight: 0.0, memory: 0.0 };
}

/// A node and what is on it, as far as its cost goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Occupancy {
    /// Its CPUs; above 0.
    pub cpus: f64,
    /// Of them, what the tiers before it leave; above 0, and all where there are none.
    pub left: f64,
    /// The speed of one of them in terms of the standard CPU; above 0.
    pub speed: f64,
    /// Memory that can be used before it is exhausted, in bytes.
    pub memory: f64,
    /// By how many more tasks it is as full, as it feels, when its memory is exhausted.
    pub thrashing: f64,
    /// CPUs that its tasks keep busy, or would: its runnable tasks.
    pub demand: f64,
    /// The sum of their weights, in 1/s.
    pub weight: f64,
    /// Memory in use, in bytes.
    pub used: f64,
}

impl Occupancy {
    /// Whether memory is exhausted.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.used >= self.memory
    }

    /// What a second of CPU time takes here, in seconds.
    #[must_use]
    pub fn stretch(&self) -> f64 {
        let thrashing = if self.is_exhausted() { self.thrashing } else { 0.0 };
        ((self.demand + thrashing) / self.left).max(1.0) / self.speed
    }

    /// Slowdown collected per second.
    #[must_use]
    pub fn cost(&self) -> f64 {
        self.stretch() * self.weight
    }

    /// As if a second mattered as much to all who are here as to `load`.
    #[must_use]
    pub fn evenly(self, load: Load) -> Self {
        Self { weight: self.demand * load.weight / load.demand, ..self }
    }

    /// With one job more.
    #[must_use]
    pub fn with(self, load: Load) -> Self {
        let Load { demand, weight, memory } = load;
        Self { demand: self.demand + demand, weight: self.weight + weight, used: self.used + memory, ..self }
    }

    /// Without one that is here. What was measured of a node and of its jobs need not agree to the
    /// last digit, so nothing gets below 0.
    #[must_use]
    pub fn without(self, load: Load) -> Self {
        let Load { demand, weight, memory } = load;
        Self {
            demand: (self.demand - demand).max(0.0),
            weight: (self.weight - weight).max(0.0),
            used: (self.used - memory).max(0.0),
            ..self
        }
    }

    /// What a job adds to the cost that is not here yet: its own slowdown and that of all others.
    #[must_use]
    pub fn added_by(&self, load: Load) -> f64 {
        self.with(load).cost() - self.cost()
    }

    /// What the cost falls by if a job leaves that is here.
    #[must_use]
    pub fn saved_by(&self, load: Load) -> f64 {
        self.cost() - self.without(load).cost()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY: Occupancy = Occupancy {
        cpus: 1.0,
        left: 1.0,
        speed: 1.0,
        memory: 100.0,
        thrashing: 10.0,
        demand: 0.0,
        weight: 0.0,
        used: 0.0,
    };

    fn job(attained_s: f64) -> Load {
        Load { demand: 1.0, weight: weight(1.0, attained_s, 1.0), memory: 10.0 }
    }

    #[test]
    fn a_job_alone_collects_a_slowdown_of_one_over_its_life() {
        let alone = EMPTY.with(job(50.0));
        assert!((alone.cost() * 100.0 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_young_go_where_it_is_empty_and_the_old_to_the_old() {
        let (old, recent) = (EMPTY.with(job(1_000.0)), EMPTY.with(job(1.0)));
        assert!(old.added_by(job(1_000.0)) < recent.added_by(job(1_000.0)));
        assert!(EMPTY.added_by(job(1.0)) < old.added_by(job(1.0)));
        assert!(old.added_by(job(1.0)) < recent.added_by(job(1.0)));
    }

    #[test]
    fn no_node_thrashes_while_there_is_room() {
        let full = Occupancy { used: 95.0, ..EMPTY };
        let busy = (0..5).fold(EMPTY, |node, _| node.with(job(1.0)));
        assert!(busy.added_by(job(1.0)) < full.with(job(1.0)).added_by(job(1.0)));
    }

    #[test]
    fn curing_exhausted_memory_saves_most() {
        let thrashing = Occupancy { used: 160.0, demand: 3.0, weight: 0.3, ..EMPTY };
        let saved = |memory: f64| thrashing.saved_by(Load { memory, ..job(10.0) });
        assert!((saved(10.0) - saved(60.0)).abs() < 1e-12 && saved(60.0) < saved(61.0));
    }

    proptest! {
        #[test]
        fn adding_and_removing_a_job_restores_the_cost(
            jobs in prop::collection::vec((0.0..1e6_f64, 0.0..50.0_f64), 0..20),
            attained_s in 0.0..1e6_f64, memory in 0.0..50.0_f64, cpus in 1..64_u32, speed in 0.01..10.0_f64,
        ) {
            let node = Occupancy { cpus: f64::from(cpus), left: f64::from(cpus), speed, ..EMPTY };
            let node = jobs.into_iter().fold(node, |node, (attained_s, memory)| node.with(Load { memory, ..job(attained_s) }));
            let load = Load { memory, ..job(attained_s) };
            let (added, saved) = (node.added_by(load), node.with(load).saved_by(load));
            prop_assert!(added > 0.0, "{added}");
            prop_assert!((added - saved).abs() < 1e-6 * added.max(1e-3), "{added} {saved}");
        }
    }
}
