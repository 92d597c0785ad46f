//! What happens at which time.

use std::cmp::Ordering;

/// What happens at a time; of one moment in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// Something on a machine changes by itself; the second figure is out of date if the machine
    /// has changed since.
    Machine(usize, u64),
    /// A part that moves stops at the one machine.
    Freeze(usize),
    /// It continues at the other.
    Arrive(usize),
    /// The next job arrives.
    Arrival(usize),
    /// Policies may move jobs.
    Rebalance,
    /// Machines leave, of this number among the scenario's departures.
    Leave(usize),
    /// They are back.
    Return(usize),
    /// An observer samples.
    Look,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) at_s: f64,
    pub(super) what: What,
}

impl Ord for Event {
    /// The earliest is the greatest, as the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at_s.total_cmp(&self.at_s).then_with(|| other.what.cmp(&self.what))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}
