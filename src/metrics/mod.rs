//! What a monitoring system is told of this node. Each metric is defined once, with its unit and
//! its meaning, in the group that it belongs to.
//!
//! ```text
//!   daemon ──► node, moves, placement ──► Metrics ──► text ──► serve: GET /metrics
//!   logs   ──► messages ─────────────────────┘
//! ```
//!
//! The names follow <https://prometheus.io/docs/practices/naming/>; the text is OpenMetrics 1.0, or
//! Prometheus' older format for those who do not ask for it.

#![forbid(unsafe_code)]

mod address;
mod decisions;
mod messages;
mod moves;
mod node;
mod scheduling;
mod serve;
mod text;

use prometheus_client::{
    encoding::EncodeMetric,
    registry::{Metric, Registry, Unit},
};

pub use self::{address::MetricsAddress, messages::CountMessages, node::Figures, serve::serve, text::Format};
use self::{decisions::Decisions, messages::Messages, moves::Moves, node::Node, scheduling::Scheduling};
use crate::{api::view::MigrationSummary, placement::Decision, scheduler::SchedulerStats};

/// What the names of all metrics begin with.
const PREFIX: &str = "scx_mosix";

/// All metrics of a daemon.
pub struct Metrics {
    registry: Registry,
    node: Node,
    scheduling: Scheduling,
    decisions: Decisions,
    moves: Moves,
}

impl Metrics {
    /// Nothing is counted yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let node = Node::define(&mut registry);
        let scheduling = Scheduling::define(&mut registry);
        let decisions = Decisions::define(&mut registry);
        let moves = Moves::define(&mut registry);
        Messages::define(&mut registry);
        Self { registry, node, scheduling, decisions, moves }
    }

    /// Tells how this node and its cluster are now.
    pub fn node_is(&self, figures: &Figures<'_>) {
        self.node.set(figures);
    }

    /// Tells what the scheduler did since it was attached; `None` while it is not.
    pub fn scheduler_did(&self, stats: Option<&SchedulerStats>) {
        self.scheduling.set(stats);
    }

    /// Counts a decision of placement.
    pub fn decided(&self, decision: &Decision) {
        self.decisions.count(decision);
    }

    /// Counts a move out of this node that is over.
    pub fn moved(&self, record: &MigrationSummary) {
        self.moves.count(record);
    }

    /// All metrics as they are now.
    pub fn text(&self, format: Format) -> String {
        text::of(&self.registry, format)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What tells the series of a metric apart: `N` names with a value each.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Defines a metric that begins at zero.
fn define<M>(registry: &mut Registry, name: &str, unit: Option<Unit>, help: &str) -> M
where
    M: Metric + EncodeMetric + Clone + Default,
{
    let metric = M::default();
    define_as(registry, name, unit, help, metric.clone());
    metric
}

/// Defines a metric that is made already.
fn define_as(registry: &mut Registry, name: &str, unit: Option<Unit>, help: &str, metric: impl Metric) {
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric),
        None => registry.register(name, help, metric),
    }
}

#[cfg(test)]
mod tests;
