//! The exec gate: a program that begins becomes a job of its own and stands still, by the freezer,
//! until it runs elsewhere; if nothing comes of that it resumes here.

use std::{fs, path::Path, time::Duration};

use super::{Acting, moves::Moves};
use crate::{
    daemon::shared::jobs::Job,
    job::JobId,
    protocol::epoch_path,
    sys::cgroup::{self, CgroupError},
};

/// How long moves that no agent makes yet may take to be given up, when the daemon ends.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

impl Acting {
    /// A job of its own for a process without children, unless it has one.
    pub fn promote(&self, pid: i32, of: &Job) -> Option<Job> {
        if pid == of.root_pid {
            return Some(of.clone());
        }
        let is_leaving = self.moves.is_moving(&self.shared.name_of(of));
        if self.shared.agents.view().is_moving_or_has_moved(of.session) || is_leaving || has_children(pid) {
            return None;
        }
        match self.shared.jobs().promote(pid, of) {
            Ok(job) => {
                tracing::debug!(pid, of = of.root_pid, "a descendant is a job of its own now");
                Some(job)
            }
            // It has ended already, or its user's session is being removed.
            Err(error) => {
                tracing::debug!(pid, %error, "a descendant stays in its job");
                None
            }
        }
    }

    /// Holds a job for a start elsewhere; `None` if it is being moved already.
    pub fn hold(&self, process: &JobId, job: &Job) -> Option<Result<(), CgroupError>> {
        self.moves.unless_moving(process, || cgroup::freeze(&job.cgroup))
    }

    /// Resumes a program here that an exec gate held for a start elsewhere, unless it is on its
    /// way, or was committed elsewhere.
    pub fn resume(&self, process: &JobId) {
        let job = self.shared.jobs().get(process.pid).filter(|_| process.is_of(&self.shared.node)).cloned();
        let Some(job) = job else { return };
        let is_elsewhere = self.shared.agents.view().is_moving_or_has_moved(job.session);
        if !is_elsewhere && !self.is_committed(&job) && thaw_unless_moving(&self.moves, process, &job.cgroup) {
            tracing::info!(%process, "its exec gate opens without a move: it resumes here");
        }
    }

    /// The daemon ends: what an exec gate holds resumes here, unless an agent moves it.
    pub async fn resume_all(&self) {
        self.moves.close(CLOSE_LIMIT).await;
        let jobs: Vec<JobId> = self.shared.jobs().iter().map(|job| self.shared.name_of(job)).collect();
        for process in jobs {
            self.resume(&process);
        }
    }

    /// Whether a job was committed elsewhere, as its home agent marks it.
    pub fn is_committed(&self, job: &Job) -> bool {
        epoch_path(&self.agent_settings.run_dir, job.session).exists()
    }
}

fn has_children(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let mut children = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("children")));
    children.any(|children| children.is_ok_and(|children| !children.trim().is_empty()))
}

/// Whether it stood still, and resumes.
fn thaw_unless_moving(moves: &Moves, process: &JobId, cgroup: &Path) -> bool {
    let thaw = || match cgroup::thaw(cgroup) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%process, %error, "it cannot be resumed");
            false
        }
    };
    // A move that begins while this is done would find the program thawed behind its back.
    cgroup::is_to_freeze(cgroup) && moves.unless_moving(process, thaw).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::view::Trigger,
        daemon::act::moves::tests::{Node, order},
    };

    #[tokio::test]
    async fn gated_programs_resume_unless_they_are_moving() {
        let (node, cgroup) = (Node::new(), tempfile::tempdir().unwrap());
        let process = JobId::new("n1", 7);
        let freeze = cgroup.path().join("cgroup.freeze");
        let elsewhere = JobId::new("n2", process.pid);
        for (moves, resumes) in [(&elsewhere, true), (&process, false)] {
            fs::write(&freeze, "1\n").unwrap();
            node.moves.start(order(moves, Trigger::Initial), Default::default(), std::future::pending()).unwrap();
            assert_eq!(thaw_unless_moving(&node.moves, &process, cgroup.path()), resumes);
            assert_eq!(cgroup::is_to_freeze(cgroup.path()), !resumes);
        }
        fs::write(&freeze, "0\n").unwrap();
        assert!(!thaw_unless_moving(&node.moves, &elsewhere, cgroup.path()));
    }
}
