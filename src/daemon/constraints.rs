//! What placement may do with the jobs of this node, as their hosts know it.
//!
//! ```text
//!   `lock`, `allow` ──► the job's file here, which is right
//!                         └─ told at once ──► agent of the guest (here, or by its host's daemon); a move that it forbids is cancelled
//!                         └─ every 3 s: whoever says otherwise is told again; it may have been on its way, or out of reach
//! ```

use super::{jobs::Job, launch::Whereabouts, state::State};
use crate::{
    api::{ApiError, name::ProcessName, view::Trigger},
    control::{Constraints, SessionId, StreamKind, ToAgent},
};

/// Tells whoever hosts a job of this node.
pub async fn tell(state: &State, job: &Job) {
    let process = state.name_of(job);
    let told = match state.whereabouts(&process) {
        Some(Whereabouts::Guest(migration, _)) => tell_agent(state, &process, migration, job.constraints.clone()).await,
        Some(Whereabouts::Away { session, node }) => {
            state.peers.constrain(&node, session, job.constraints.clone()).await
        }
        Some(Whereabouts::Home(_)) => {
            cancel_forbidden(state, &process, &job.constraints);
            Ok(())
        }
        None => Ok(()),
    };
    if let Err(error) = told {
        tracing::info!(%process, %error, "its host does not know yet what may be done with it");
    }
}

/// Cancels the move of a job from here that it may not make. One that is past its commit goes on; placement will have it leave again.
fn cancel_forbidden(state: &State, process: &ProcessName, constraints: &Constraints) {
    for (migration, moving, target) in state.moves.under_way() {
        if moving != *process {
            continue;
        }
        let by_request = state.moves.record(migration).is_some_and(|record| record.trigger == Trigger::Request);
        if constraints.forbid(&target, &process.node) || (constraints.stay && !by_request) {
            tracing::info!(%process, target, "its move is no longer wanted");
            // It may have ended just now.
            let _ = state.moves.cancel(migration, "its user does not want it any more");
        }
    }
}

/// Tells the agent of a guest that is here.
///
/// # Errors
/// [`ApiError::ProcessUnknown`], [`ApiError::Unreachable`].
pub async fn tell_agent(
    state: &State,
    process: &ProcessName,
    migration: SessionId,
    constraints: Constraints,
) -> Result<(), ApiError> {
    cancel_forbidden(state, process, &constraints);
    let unknown = || ApiError::ProcessUnknown { process: migration.to_string() };
    let agent = state.agents.get((StreamKind::Move, migration)).ok_or_else(unknown)?;
    let sent = agent.request(&ToAgent::Constrain { constraints }, None).await;
    sent.map_err(|error| ApiError::Unreachable { node: state.node.clone(), why: error.to_string() })
}

/// Tells whoever said this of jobs of this node, named by their root pids, and is wrong about one.
pub async fn correct(state: &State, said: impl Iterator<Item = (i32, &Constraints)>) {
    for (root_pid, constraints) in said {
        let job = state.jobs().get(root_pid).cloned();
        if let Some(job) = job.filter(|job| job.constraints != *constraints) {
            tell(state, &job).await;
        }
    }
}
