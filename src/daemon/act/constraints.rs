//! What placement may do with the jobs of this node, as their hosts know it.
//!
//! ```text
//!   `lock`, `allow` ──► the job's file here, which is right
//!                         └─ told at once ──► agent of the guest (here, or by its host's daemon); a move that it forbids is cancelled
//!                         └─ every 3 s: a host that says otherwise is told again; it may have been on its way, or out of reach
//! ```

use super::Acting;
use crate::{
    api::{ApiError, view::Trigger},
    daemon::shared::{jobs::Job, whereabouts::Whereabouts},
    job::{Constraints, JobId, SessionId},
    protocol::{StreamKind, ToAgent},
};

impl Acting {
    /// Tells the host of a job of this node.
    pub async fn tell_host(&self, job: &Job) {
        let process = self.shared.name_of(job);
        let told = match self.shared.whereabouts(&process) {
            Some(Whereabouts::Guest(migration, _)) => {
                self.tell_agent(&process, migration, job.constraints.clone()).await
            }
            Some(Whereabouts::Away { session, node }) => {
                self.shared.peers.constrain(&node, session, job.constraints.clone()).await
            }
            Some(Whereabouts::Home(_)) => {
                self.cancel_forbidden(&process, &job.constraints);
                Ok(())
            }
            // A silent agent's job is corrected once it answers.
            Some(Whereabouts::Silent) | None => Ok(()),
        };
        if let Err(error) = told {
            tracing::info!(%process, %error, "its host does not know yet what may be done with it");
        }
    }

    /// Cancels the move of a job from here that it may not make. One that is past its commit
    /// continues; placement will have it leave again.
    fn cancel_forbidden(&self, process: &JobId, constraints: &Constraints) {
        for (migration, moving, target) in self.moves.under_way() {
            if moving != *process {
                continue;
            }
            let by_request = self.moves.record(migration).is_some_and(|record| record.trigger == Trigger::Request);
            if constraints.forbid(&target, &process.home) || (constraints.stay && !by_request) {
                tracing::info!(%process, target, "its move is no longer wanted");
                // It may have ended just now.
                let _ = self.moves.cancel(migration, "its user does not want it any more");
            }
        }
    }

    /// Tells the agent of a guest that is here.
    ///
    /// # Errors
    /// [`ApiError::ProcessUnknown`], [`ApiError::Unreachable`].
    pub async fn tell_agent(
        &self,
        process: &JobId,
        migration: SessionId,
        constraints: Constraints,
    ) -> Result<(), ApiError> {
        self.cancel_forbidden(process, &constraints);
        let unknown = || ApiError::ProcessUnknown { process: migration.to_string() };
        let agent = self.shared.agents.get((StreamKind::Move, migration)).ok_or_else(unknown)?;
        let sent = agent.request(&ToAgent::Constrain { constraints }, None).await;
        sent.map_err(|error| ApiError::Unreachable { node: self.shared.node.clone(), why: error.to_string() })
    }

    /// Tells a host that said this of jobs of this node, named by their root pids, and is wrong
    /// about one.
    pub async fn correct_hosts(&self, said: impl Iterator<Item = (i32, &Constraints)>) {
        for (root_pid, constraints) in said {
            let job = self.shared.jobs().get(root_pid).cloned();
            if let Some(job) = job.filter(|job| job.constraints != *constraints) {
                self.tell_host(&job).await;
            }
        }
    }
}
