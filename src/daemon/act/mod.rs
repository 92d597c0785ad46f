//! The last stage: what was decided is done. It owns the moves out of here and the reservations of
//! guests on their way here, and asks the agents.

mod constraints;
mod gate;
mod hints;
pub mod host;
mod launch;
mod leftovers;
pub mod moves;

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

pub use self::hints::Hints;
use self::{
    host::{AgentSettings, Host},
    moves::Moves,
};
use super::{
    collect::Collected,
    shared::{Shared, under_way::UnderWay},
};
use crate::job::SessionId;

/// How long the agent of a guest that home has committed here may take to say that it runs.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What is being done, and what it takes to do more.
pub struct Acting {
    /// Moves out of here.
    pub moves: Arc<Moves>,
    /// Guests on their way here.
    pub host: Host,
    shared: Arc<Shared>,
    collected: Arc<Collected>,
    agent_settings: AgentSettings,
}

impl Acting {
    /// Nothing is being done yet.
    pub fn new(
        shared: Arc<Shared>,
        collected: Arc<Collected>,
        moves: Arc<Moves>,
        agent_settings: AgentSettings,
    ) -> Self {
        let stream_address = shared.address.clone().unwrap_or_default();
        let host = Host::new(agent_settings.clone(), shared.agents.clone(), stream_address);
        Self { moves, host, shared, collected, agent_settings }
    }

    /// What is under way now.
    pub fn under_way(&self) -> UnderWay {
        UnderWay {
            leaving: self.moves.under_way(),
            standing_still: self.moves.standing_still(),
            arriving: self.host.arriving(),
            reserved_bytes: self.host.reserved_bytes(),
            has_reservations: self.host.has_reservations(),
        }
    }

    /// Waits until this daemon knows that a guest runs that is expected here and that its home has
    /// committed.
    pub async fn arrived(&self, session: SessionId) {
        let mut changes = self.shared.agents.changes();
        let over = async {
            while self.host.arriving().iter().any(|guest| guest.session == session) && changes.changed().await.is_ok() {
            }
        };
        // After it the job is not known here, and the caller says so.
        let _ = timeout(ARRIVAL_TIMEOUT, over).await;
    }
}
