//! What was left over: by agents and daemons that died, and of jobs that are over.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::Acting;
use crate::{
    daemon::shared::{GUESTS_CGROUP, jobs::Job},
    job::SessionId,
    protocol::StreamKind,
    sys::cgroup,
};

impl Acting {
    /// What a dead agent may have left: a frozen job, a guest without an agent; and what an exec
    /// gate held for a start elsewhere that came to nothing.
    pub fn recover(&self) {
        self.shared.agents.let_killed_end();
        let held: Vec<Job> =
            self.shared.jobs().iter().filter(|job| cgroup::is_to_freeze(&job.cgroup)).cloned().collect();
        for job in &held {
            let process = self.shared.name_of(job);
            let has_agent = !self.shared.agents.is_dead((StreamKind::Home, job.session));
            if has_agent || self.moves.is_moving(&process) || !self.is_committed(job) {
                self.resume(&process);
            } else {
                tracing::warn!(%process, "its home agent died after it had been committed elsewhere: ended here");
                kill(&job.cgroup);
            }
        }
        let Ok(guests) = fs::read_dir(cgroup::directory(GUESTS_CGROUP)) else { return };
        for entry in guests.flatten() {
            let name = entry.file_name();
            let migration = name.to_str().and_then(|name| name.strip_prefix("guest-")?.parse::<SessionId>().ok());
            let Some(migration) = migration else { continue };
            if self.shared.agents.is_dead((StreamKind::Move, migration)) {
                kill(&entry.path());
                // Fails while the last process is still dying; the next second tries again.
                let _ = fs::remove_dir(entry.path());
                self.host.ended(migration);
            }
        }
    }

    /// Removes files that are needed no more; they lie in memory.
    pub fn tidy(&self) {
        let is_needed = |session: SessionId| {
            let is_job = self.shared.jobs().iter().any(|job| job.session == session);
            is_job || !self.shared.agents.is_dead((StreamKind::Home, session))
        };
        let jobs = self.agent_settings.run_dir.join("jobs");
        if let Err(error) = forget_epochs(&jobs, is_needed).and_then(|()| self.shared.agents.tidy_logs()) {
            tracing::warn!(%error, "files of jobs and agents that are over stay");
        }
    }
}

fn kill(path: &Path) {
    if let Err(error) = cgroup::kill(path) {
        tracing::warn!(%error, "what is left there stays for now");
    }
}

/// Removes the epochs of jobs that are over. A job's says that its frozen processes here must not
/// resume, so it stays as long as there is one of them, or an agent that could write it; and no
/// other job ever has its session.
fn forget_epochs(jobs: &Path, is_needed: impl Fn(SessionId) -> bool) -> io::Result<()> {
    // Listed first: a job is known before it has an epoch.
    let paths: Vec<PathBuf> = fs::read_dir(jobs)?.flatten().map(|entry| entry.path()).collect();
    for path in paths {
        let session = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".epoch")?.parse().ok());
        if session.is_some_and(|session| !is_needed(session)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_go_with_their_jobs() {
        let dir = tempfile::tempdir().unwrap();
        let (over, lives) = (SessionId::random(), SessionId::random());
        let files = [format!("{over}.epoch"), format!("{lives}.epoch"), "7.json".into()];
        for file in &files {
            fs::write(dir.path().join(file), "1").unwrap();
        }
        forget_epochs(dir.path(), |session| session == lives).unwrap();
        assert_eq!(files.map(|file| dir.path().join(file).exists()), [false, true, true]);
    }
}
