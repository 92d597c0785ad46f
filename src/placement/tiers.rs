//! A node as its owners' programs find it, and as guests do.
//!
//! Where our scheduler runs, owners' programs come before guests, which get what those leave, and a
//! small share in any case (`bpf/tiers.bpf.h`). So owners' programs find a node as if no guest were
//! there: its owner has his machine back the moment he wants it. Guests find the CPUs that are
//! left; what an owner takes is a reason for them to leave. Elsewhere all share alike.

use super::config::Config;
use super::cost::{demand, is_stalled, tasks_per_cpu, usher_below_bytes};
use super::input::{NodeView, Owners};
use super::slowdown::{Load, Occupancy};
use super::state::State;

/// A node as its figures show it, with what was sent there and may not show yet.
pub(super) struct Tiers {
    owners: Occupancy,
    /// `None` where all share alike.
    guests: Option<Occupancy>,
    /// The share of its CPUs that guests have in any case.
    guest_share: f64,
}

impl Tiers {
    /// A node with at least one CPU.
    pub(super) fn new(node: &NodeView, config: &Config, state: &State) -> Self {
        let cpus = f64::from(node.cpus);
        let limit_bytes = node.total_memory_bytes - usher_below_bytes(node, config);
        let all = Occupancy {
            cpus,
            left: cpus,
            speed: f64::from(node.speed_milli) / 1_000.0,
            memory: limit_bytes as f64,
            thrashing: f64::from(config.thrashing_tasks),
            demand: tasks_per_cpu(node.load_milli, node.speed_milli) * cpus,
            weight: node.weight_nano as f64 / 1e9,
            used: node.total_memory_bytes.saturating_sub(node.free_memory_bytes) as f64 + node.swapped_bytes as f64,
        };
        let guest_share = f64::from(config.guest_share_percent) / 100.0;
        let shown = match node.owners {
            None => Self { owners: all, guests: None, guest_share },
            Some(Owners { demand_milli, weight_nano }) => {
                let theirs = Load { demand: demand(demand_milli), weight: weight_nano as f64 / 1e9, memory: 0.0 };
                // What was measured in two ways need not agree to the last digit.
                let (demand, weight) = (theirs.demand.min(all.demand), theirs.weight.min(all.weight));
                Self { owners: Occupancy { demand, weight, ..all }, guests: Some(all.without(theirs)), guest_share }
            }
        };
        let charged = state.unseen(node).fold(shown, |tiers, (load, is_home)| tiers.with(load, is_home));
        if is_stalled(node, config) { charged.exhausted(usher_below_bytes(node, config) as f64) } else { charged }
    }

    /// As a job finds it that is at home there, or a guest.
    pub(super) fn of(&self, is_home: bool) -> Occupancy {
        match self.guests {
            Some(guests) if !is_home => {
                let left = (guests.cpus - self.owners.demand).max(guests.cpus * self.guest_share);
                Occupancy { left, ..guests }
            }
            _ => self.owners,
        }
    }

    /// The weights of all that is there, in 1/s.
    pub(super) fn weight(&self) -> f64 {
        self.guests.map_or(self.owners.weight, |guests| self.owners.weight + guests.weight)
    }

    /// With one job more, which is at home there or not.
    pub(super) fn with(self, load: Load, is_home: bool) -> Self {
        self.changed(load, is_home, Occupancy::with)
    }

    /// Without one that is there.
    pub(super) fn without(self, load: Load, is_home: bool) -> Self {
        self.changed(load, is_home, Occupancy::without)
    }

    fn changed(self, load: Load, is_home: bool, change: impl Fn(Occupancy, Load) -> Occupancy) -> Self {
        let Some(guests) = self.guests else { return Self { owners: change(self.owners, load), ..self } };
        // Memory is not shared out by tiers.
        let memory = Load { memory: load.memory, ..Load::NONE };
        let (of_owners, of_guests) = if is_home { (load, memory) } else { (memory, load) };
        Self { owners: change(self.owners, of_owners), guests: Some(change(guests, of_guests)), ..self }
    }

    /// The same short of so many bytes at least: how many are, is unknown where all tasks stand
    /// still for lack of memory.
    fn exhausted(self, bytes: f64) -> Self {
        let exhausted =
            |occupancy: Occupancy| Occupancy { used: occupancy.used.max(occupancy.memory + bytes), ..occupancy };
        Self { owners: exhausted(self.owners), guests: self.guests.map(exhausted), ..self }
    }
}
