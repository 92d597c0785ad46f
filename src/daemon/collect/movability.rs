//! Whether the jobs that run at home could move.
//!
//! Placement needs that of all jobs and asks all the time, so it takes what was seen last; a user
//! who asks for a move is told how it is now.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{Collected, Measured};
use crate::{
    daemon::shared::{Shared, jobs::Job, whereabouts::Whereabouts},
    descriptors,
    job::SessionId,
    migration::{
        movable,
        source::{Place, ProcessTree},
    },
    sys::cgroup::members,
};

/// Between two looks at all jobs there is a pause, so long that looks take this share of the time
/// or less, within bounds.
const LOOK_SHARE: f64 = 0.02;
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(2_500), Duration::from_secs(10));

/// How often it is looked at a job that cannot move, before that is taken for lasting: what it does
/// changes all the time.
const PASSES: u32 = 3;

impl Collected {
    /// Looks at every job, and rests.
    pub async fn look_at_all(&self, shared: &Shared) {
        let jobs: Vec<Job> = shared.jobs().iter().cloned().collect();
        let at_home = |job: &Job| matches!(shared.whereabouts(&shared.name_of(job)), Some(Whereabouts::Home(_)));
        let jobs: Vec<Job> = jobs.into_iter().filter(at_home).collect();
        if jobs.is_empty() {
            return self.change(|measured| measured.cannot_move.clear());
        }
        let began = Instant::now();
        if let Some(cannot_move) = look(jobs, PASSES).await {
            self.change(|measured| measured.cannot_move = cannot_move);
        }
        sleep(began.elapsed().div_f64(LOOK_SHARE).clamp(LOOK_PAUSE.0, LOOK_PAUSE.1)).await;
    }

    /// Looks at a job that is at home once more, if it could not move when it was looked at last.
    pub async fn look_again(&self, job: &Job) {
        if !self.measured().cannot_move.contains_key(&job.session) {
            return;
        }
        if let Some(mut seen) = look(vec![job.clone()], movable::LOOKS).await {
            self.change(|Measured { cannot_move, .. }| match seen.remove(&job.session) {
                Some(why) => cannot_move.insert(job.session, why),
                None => cannot_move.remove(&job.session),
            });
        }
    }
}

/// Why those of the jobs cannot move that cannot, each time of so many; `None` if that is not
/// known.
async fn look(mut jobs: Vec<Job>, passes: u32) -> Option<HashMap<SessionId, String>> {
    let looked = tokio::task::spawn_blocking(move || {
        let mut seen = look_once(&jobs);
        for _ in 1..passes {
            jobs.retain(|job| seen.contains_key(&job.session));
            if jobs.is_empty() {
                break;
            }
            std::thread::sleep(movable::LOOK_PAUSE);
            seen = look_once(&jobs);
        }
        seen
    });
    looked.await.ok()
}

/// Why those of the jobs cannot move that cannot, as they are at this moment.
fn look_once(jobs: &[Job]) -> HashMap<SessionId, String> {
    let holders = descriptors::Holders::look();
    let reason = |job: &Job| {
        let tree = ProcessTree { root_pid: job.root_pid, cgroup: job.cgroup.clone(), place: Place::Here };
        let why = movable::check_once(&tree).err().map(|error| error.to_string());
        let forecast = || match &holders {
            Ok(holders) => {
                // Without its cgroup the job has ended.
                let pids: Vec<i32> =
                    members(&tree.cgroup).unwrap_or_default().iter().map(|process| process.pid).collect();
                descriptors::forecast(&pids, holders).err().map(|error| error.to_string())
            }
            Err(error) => Some(format!("the descriptors of other programs cannot be looked at: {error}")),
        };
        Some((job.session, why.or_else(forecast)?))
    };
    jobs.iter().filter_map(reason).collect()
}
