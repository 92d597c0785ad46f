//! What placement decided.

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{Labels, define};
use crate::placement::{Decision, Reason};

/// Decisions by rule.
pub struct Decisions {
    total: Family<Labels<2>, Counter>,
}

impl Decisions {
    pub fn define(registry: &mut Registry) -> Self {
        let help = "Decisions of placement, which looks at each program once a second, by the rule that decided";
        Self { total: define(registry, "placement_decisions", None, help) }
    }

    pub fn count(&self, decision: &Decision) {
        let action = if decision.target().is_some() { "move" } else { "stay" };
        let rule = decision.verdict().map_or("none", Reason::rule);
        self.total.get_or_create(&[("action", action), ("rule", rule)]).inc();
    }
}
