//! The moves out of this node.

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::{Labels, define, define_as};
use crate::{
    api::view::{MigrationSummary, Trigger},
    protocol::MoveState,
};

/// Moves by outcome, and what they took.
pub struct Moves {
    total: Family<Labels<2>, Counter>,
    downtime: Histogram,
    memory: Histogram,
    wire: Histogram,
    phases: Family<Labels<1>, Histogram, fn() -> Histogram>,
}

/// From 10 ms to 82 s, each twice the one before.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, 14))
}

/// From 64 KiB to 64 GiB, each four times the one before.
fn bytes() -> Histogram {
    Histogram::new(exponential_buckets(65_536.0, 4.0, 11))
}

impl Moves {
    pub fn define(registry: &mut Registry) -> Self {
        let histogram = |registry: &mut Registry, name: &str, unit, help: &str, histogram: Histogram| {
            define_as(registry, name, Some(unit), help, histogram.clone());
            histogram
        };
        let phases = Family::new_with_constructor(seconds as fn() -> Histogram);
        let help = "What the phases of moves out of this node took";
        define_as(registry, "move_phase", Some(Unit::Seconds), help, phases.clone());
        Self {
            total: define(registry, "moves", None, "Moves out of this node that are over"),
            downtime: histogram(
                registry,
                "move_downtime",
                Unit::Seconds,
                "From the freeze at this node to the first instruction at the target",
                seconds(),
            ),
            memory: histogram(
                registry,
                "move_memory",
                Unit::Bytes,
                "Memory of programs that moved out of this node, before compression",
                bytes(),
            ),
            wire: histogram(
                registry,
                "move_wire",
                Unit::Bytes,
                "What moves out of this node sent over the network",
                bytes(),
            ),
            phases,
        }
    }

    pub fn count(&self, record: &MigrationSummary) {
        let outcome = match record.state {
            MoveState::Run => "moved",
            MoveState::Aborted => "aborted",
            MoveState::Failed => "failed",
            _ => return,
        };
        self.total.get_or_create(&[("trigger", trigger(record.trigger)), ("outcome", outcome)]).inc();
        for pair in record.steps.windows(2) {
            let [from, to] = pair else { continue };
            let took_ms = to.at_ms.saturating_sub(from.at_ms);
            self.phases.get_or_create(&[("phase", from.state.name())]).observe(took_ms as f64 / 1_000.0);
        }
        if record.state == MoveState::Run {
            self.memory.observe(record.memory_bytes as f64);
            self.wire.observe(record.wire_bytes as f64);
            if let Some(downtime_us) = record.downtime_us {
                self.downtime.observe(downtime_us as f64 / 1_000_000.0);
            }
        }
    }
}

fn trigger(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::Request => "request",
        Trigger::Balance => "balance",
        Trigger::Memory => "memory",
        Trigger::Home => "home",
        Trigger::Initial => "initial",
        Trigger::Evacuate => "evacuate",
        Trigger::Unknown => "unknown",
    }
}
