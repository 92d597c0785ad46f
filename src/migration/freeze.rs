//! Stopping all of a process tree at one instant, by the cgroup v2 freezer, and resuming it.
//!
//! A frozen process answers only to SIGKILL and ptrace, and no process sees it stopped: its parent
//! is told nothing.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::sys::cgroup::{self, CgroupError};

/// How long a freeze may take. A process that sleeps in the kernel uninterruptibly holds it up.
pub const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether all stand still; a freeze takes some hundred µs.
const POLL: Duration = Duration::from_micros(300);

/// Why a process tree does not stand still.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The cgroup's files cannot be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// It cannot be seen where its threads stand.
    #[error("its threads cannot be looked at")]
    Threads(#[source] io::Error),
    /// Some process did not stop.
    #[error("a process did not stop within {} s; it waits in the kernel for something that does not come", FREEZE_TIMEOUT.as_secs())]
    TimedOut,
    /// Each time that it stood still something was in the way of a dump.
    #[error("each time that it stood still {0}")]
    NotDumpable(NotNow),
}

/// Why a frozen process tree cannot be dumped at this moment, though it can a moment later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// A thread is in code that belongs to the node.
    #[error("a thread was in the kernel's own code in the program (vDSO)")]
    InVdso,
    /// A thread is frozen, but still on a CPU: it is not known where it stands.
    #[error("a thread was still on a CPU")]
    OnCpu,
    /// A process waits for its child, which uses its memory, to execute a program: no tracer can
    /// stop it.
    #[error("a process was between vfork and exec")]
    InVfork,
}

/// A frozen cgroup. Thaws it when dropped, unless [`Frozen::keep`] was called.
#[derive(Debug)]
pub struct Frozen {
    cgroup: PathBuf,
    thaw: bool,
}

/// Freezes `cgroup` and waits until all in it stand still, calling `nudge` again and again
/// meanwhile for what holds it up and can be interrupted. On an error it has been thawed again.
pub async fn freeze(cgroup: &Path, nudge: impl Fn()) -> Result<Frozen, FreezeError> {
    let until = Instant::now() + FREEZE_TIMEOUT;
    // From here on the guard undoes whatever was reached.
    let frozen = Frozen { cgroup: cgroup.into(), thaw: true };
    cgroup::freeze(cgroup)?;
    while !cgroup::events(cgroup)?.frozen {
        if Instant::now() > until {
            return Err(FreezeError::TimedOut);
        }
        nudge();
        tokio::time::sleep(POLL).await;
    }
    Ok(frozen)
}

/// Whether `cgroup` is frozen again after a tracer has released its processes.
///
/// `cgroup.events` counts a stopped process as frozen, but not one that has left its stop and has
/// not reached the freezer yet. Such a process executes nothing of its program, and waits for a CPU
/// at most. So this waits, unless the cgroup has been told to run.
///
/// # Errors
/// If the cgroup cannot be looked at.
pub async fn is_frozen_again(cgroup: &Path) -> Result<bool, CgroupError> {
    let begun = Instant::now();
    while !cgroup::events(cgroup)?.frozen {
        if !cgroup::is_to_freeze(cgroup) || begun.elapsed() > FREEZE_TIMEOUT {
            return Ok(false);
        }
        tokio::time::sleep(POLL).await;
    }
    tracing::debug!(us = begun.elapsed().as_micros(), "frozen again");
    Ok(true)
}

impl Frozen {
    /// The cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Leaves it frozen for good: from now on the owner decides.
    pub fn keep(mut self) {
        self.thaw = false;
    }

    /// Resumes all.
    pub fn thaw(mut self) -> Result<(), FreezeError> {
        self.thaw = false;
        Ok(cgroup::thaw(&self.cgroup)?)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if self.thaw
            && let Err(error) = cgroup::thaw(&self.cgroup)
            && error.cause.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%error, "write 0 to its cgroup.freeze");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories stand in for cgroups: the guard only reads and writes these files.
    fn cgroup(events: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.events"), events).unwrap();
        dir
    }

    fn state(dir: &Path) -> String {
        std::fs::read_to_string(dir.join("cgroup.freeze")).unwrap()
    }

    #[tokio::test]
    async fn a_guard_thaws_unless_it_is_kept() {
        let dir = cgroup("populated 1\nfrozen 1\n");
        let frozen = freeze(dir.path(), || {}).await.unwrap();
        assert_eq!(state(dir.path()), "1");
        drop(frozen);
        assert_eq!(state(dir.path()), "0");
        freeze(dir.path(), || {}).await.unwrap().keep();
        assert_eq!(state(dir.path()), "1");
    }

    #[tokio::test]
    async fn a_tree_on_its_way_into_the_freezer_is_waited_for() {
        let dir = cgroup("populated 1\nfrozen 0\n");
        std::fs::write(dir.path().join("cgroup.freeze"), "1\n").unwrap();
        let waiting = is_frozen_again(dir.path());
        tokio::pin!(waiting);
        tokio::time::timeout(10 * POLL, &mut waiting).await.unwrap_err();
        std::fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn a_thawed_tree_is_told_at_once() {
        let dir = cgroup("populated 1\nfrozen 0\n");
        std::fs::write(dir.path().join("cgroup.freeze"), "0\n").unwrap();
        assert!(!is_frozen_again(dir.path()).await.unwrap());
    }

    #[tokio::test]
    async fn what_does_not_stop_is_thawed() {
        let dir = cgroup("populated 1\nfrozen 0\n");
        assert!(matches!(freeze(dir.path(), || {}).await, Err(FreezeError::TimedOut)));
        assert_eq!(state(dir.path()), "0");
    }
}
