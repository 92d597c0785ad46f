//! The second stage: jobs and nodes at one moment, as placement and users see them; made of what
//! was collected and what is under way, and without effects.

mod placement;
mod rows;

pub use self::placement::announced;
use super::{
    collect::Collected,
    shared::{Shared, agents::AgentView, under_way::UnderWay},
};

/// This node and its cluster at one moment.
pub struct View<'a> {
    /// The agents' states.
    pub agents: AgentView,
    /// The moves that are under way.
    pub under_way: UnderWay,
    shared: &'a Shared,
    collected: &'a Collected,
}

impl<'a> View<'a> {
    /// As it is now.
    pub fn new(shared: &'a Shared, collected: &'a Collected, under_way: UnderWay) -> Self {
        Self { agents: shared.agents.view(), under_way, shared, collected }
    }

    /// The guests that are here or on their way, of which each will have to leave if this node is
    /// drained.
    pub fn guests(&self) -> u32 {
        let here = self.agents.guests.values().filter(|guest| !guest.job.id.is_of(&self.shared.node)).count();
        let arriving = self.under_way.arriving.iter().filter(|guest| !guest.job.is_of(&self.shared.node)).count();
        u32::try_from(here + arriving).unwrap_or(u32::MAX)
    }
}
