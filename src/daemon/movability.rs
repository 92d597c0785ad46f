//! Whether the jobs that run at home could move.
//!
//! Placement needs that of all jobs and asks all the time, so it takes what was seen last; a user who asks for a move is told how it is now.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{jobs::Job, launch::Whereabouts, state::State};
use crate::{
    control::SessionId,
    home::descriptors,
    migration::{
        movable,
        process::members,
        source::{Body, Place},
    },
};

/// Between two looks at all jobs there is a pause, so long that looks take this share of the time or less, within bounds.
const LOOK_SHARE: f64 = 0.02;
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(2_500), Duration::from_secs(10));

/// Looks at every job, and rests.
pub async fn look_at_all(state: Arc<State>) {
    let jobs: Vec<Job> = state.jobs().iter().cloned().collect();
    let at_home = |job: &Job| matches!(state.whereabouts(&state.name_of(job)), Some(Whereabouts::Home(_)));
    let jobs: Vec<Job> = jobs.into_iter().filter(at_home).collect();
    if jobs.is_empty() {
        state.measured().cannot_move.clear();
        return;
    }
    let began = Instant::now();
    if let Some(cannot_move) = look(jobs).await {
        state.measured().cannot_move = cannot_move;
    }
    sleep(began.elapsed().div_f64(LOOK_SHARE).clamp(LOOK_PAUSE.0, LOOK_PAUSE.1)).await;
}

/// Looks at a job that is at home once more, if it could not move when it was looked at last.
pub async fn look_again(state: &State, job: &Job) {
    if !state.measured().cannot_move.contains_key(&job.session) {
        return;
    }
    if let Some(mut seen) = look(vec![job.clone()]).await {
        let mut measured = state.measured();
        match seen.remove(&job.session) {
            Some(why) => measured.cannot_move.insert(job.session, why),
            None => measured.cannot_move.remove(&job.session),
        };
    }
}

/// Why those of the jobs cannot move that cannot; `None` if that is not known.
async fn look(jobs: Vec<Job>) -> Option<HashMap<SessionId, String>> {
    let looked = tokio::task::spawn_blocking(move || {
        let holders = descriptors::Holders::look();
        let reason = |job: Job| {
            let body = Body { root_pid: job.root_pid, cgroup: job.cgroup, place: Place::Here };
            let why = movable::check(&body).err().map(|error| error.to_string());
            let forecast = || match &holders {
                Ok(holders) => {
                    // Without its cgroup the job has ended.
                    let pids: Vec<i32> =
                        members(&body.cgroup).unwrap_or_default().iter().map(|process| process.pid).collect();
                    descriptors::forecast(&pids, holders).err().map(|error| error.to_string())
                }
                Err(error) => Some(format!("the descriptors of other programs cannot be looked at: {error}")),
            };
            Some((job.session, why.or_else(forecast)?))
        };
        jobs.into_iter().filter_map(reason).collect()
    });
    looked.await.ok()
}
