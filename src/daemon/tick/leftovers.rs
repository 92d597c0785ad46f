//! What was left over: by agents and daemons that died, and of jobs that are over.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    super::{
        execs,
        jobs::{CGROUP_ROOT, Job},
        state::State,
    },
    GUESTS_CGROUP,
};
use crate::control::{SessionId, StreamKind};

/// What a dead agent may have left: a frozen job, a guest that nobody owns; and what was held for a start elsewhere that came to nothing.
pub fn recover(state: &State) {
    let held: Vec<Job> = state.jobs().iter().filter(|job| execs::is_held(&job.cgroup)).cloned().collect();
    for job in &held {
        let process = state.name_of(job);
        let has_agent = state.agents.get((StreamKind::Home, job.session)).is_some();
        if has_agent || state.moves.is_moving(&process) || !execs::is_committed(state, job) {
            execs::go_on(state, &process);
        } else {
            tracing::warn!(%process, "its home agent died after it had been committed elsewhere: ended here");
            write(&job.cgroup.join("cgroup.kill"), "1");
        }
    }
    let Ok(guests) = fs::read_dir(Path::new(CGROUP_ROOT).join(GUESTS_CGROUP)) else { return };
    for entry in guests.flatten() {
        let name = entry.file_name();
        let migration = name.to_str().and_then(|name| name.strip_prefix("guest-")?.parse::<SessionId>().ok());
        let Some(migration) = migration else { continue };
        let socket = crate::control::socket_path(&state.agent_settings.run_dir, StreamKind::Move, migration);
        if state.agents.get((StreamKind::Move, migration)).is_none() && !socket.exists() {
            write(&entry.path().join("cgroup.kill"), "1");
            // Fails while the last process is still dying; the next second tries again.
            let _ = fs::remove_dir(entry.path());
            state.host.ended(migration);
        }
    }
}

fn write(path: &Path, text: &str) {
    if let Err(error) = fs::write(path, text) {
        tracing::warn!(path = %path.display(), %error, "cannot write");
    }
}

/// Removes files that nobody needs any more; they lie in memory.
pub fn tidy(state: &State) {
    let is_needed = |session: SessionId| {
        let is_job = state.jobs().iter().any(|job| job.session == session);
        is_job || state.agents.get((StreamKind::Home, session)).is_some()
    };
    let jobs = state.agent_settings.run_dir.join("jobs");
    if let Err(error) = forget_epochs(&jobs, is_needed).and_then(|()| state.agents.tidy_logs()) {
        tracing::warn!(%error, "files of jobs and agents that are over stay");
    }
}

/// Removes the epochs of jobs that are over. A job's says that its frozen processes here must not go on, so it stays as long as there is one
/// of them, or an agent that could write it; and no other job ever has its session.
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
