//! Where the jobs of this node are, by what its agents say.

use super::{Shared, agents::GuestView, jobs::Job};
use crate::job::{JobId, SessionId};

/// Why a job cannot be moved whose agent lives and does not answer.
pub const SILENT: &str = "its home agent does not answer now (is it stopped, or short of memory?)";

/// Where a job's process tree is, as seen from this node.
pub enum Whereabouts {
    /// Here, and never moved.
    Home(Job),
    /// Not known: its home agent lives and does not answer.
    Silent,
    /// Here, as a guest (of another node, or back home).
    Guest(SessionId, GuestView),
    /// On another node.
    Away {
        /// The job.
        session: SessionId,
        /// Where.
        node: String,
    },
}

impl Shared {
    /// Where the job `process` runs; `None` if this node knows nothing of it.
    pub fn whereabouts(&self, process: &JobId) -> Option<Whereabouts> {
        let agents = self.agents.view();
        if let Some((migration, guest)) = agents.guest(|guest| guest.job.id == *process) {
            return Some(Whereabouts::Guest(migration, guest.clone()));
        }
        if !process.is_of(&self.node) {
            return None;
        }
        let job = self.jobs().containing(process.pid).cloned()?;
        if agents.silent.contains(&job.session) {
            return Some(Whereabouts::Silent);
        }
        match agents.homes.get(&job.session) {
            Some(home) if home.epoch > 0 => {
                Some(Whereabouts::Away { session: job.session, node: home.runs_on.clone() })
            }
            _ => Some(Whereabouts::Home(job)),
        }
    }
}
