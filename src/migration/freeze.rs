//! Stopping all of a body at one instant, by the cgroup v2 freezer, and letting it go on.
//!
//! A frozen process answers to nobody but SIGKILL and ptrace, and nobody sees it stopped: its parent is told nothing.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a freeze may take. A process that sleeps in the kernel uninterruptibly holds it up.
pub const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether all stand still; a freeze takes some hundred µs.
const POLL: Duration = Duration::from_micros(300);

/// Why a body does not stand still.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The cgroup's files cannot be used.
    #[error("cgroup {cgroup}")]
    Cgroup {
        /// The cgroup.
        cgroup: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Some process did not stop.
    #[error("a process did not stop within {} s; it waits in the kernel for something that does not come", FREEZE_TIMEOUT.as_secs())]
    TimedOut,
    /// Each time that it stood still some thread was in code that belongs to the node.
    #[error("a thread never leaves the kernel's own code in the program (vDSO) for long enough")]
    InVdso,
}

/// A frozen cgroup. Thaws it when dropped, unless [`Frozen::keep`] was called.
#[derive(Debug)]
pub struct Frozen {
    cgroup: PathBuf,
    thaw: bool,
}

/// Freezes `cgroup` and waits until all in it stand still, calling `nudge` again and again meanwhile for what holds it up and can
/// be interrupted. On an error it has been thawed again.
pub async fn freeze(cgroup: &Path, nudge: impl Fn()) -> Result<Frozen, FreezeError> {
    let until = Instant::now() + FREEZE_TIMEOUT;
    let failed = |source| FreezeError::Cgroup { cgroup: cgroup.into(), source };
    // From here on the guard undoes whatever was reached.
    let frozen = Frozen { cgroup: cgroup.into(), thaw: true };
    std::fs::write(cgroup.join("cgroup.freeze"), "1").map_err(failed)?;
    while !is_frozen(cgroup).map_err(failed)? {
        if Instant::now() > until {
            return Err(FreezeError::TimedOut);
        }
        nudge();
        tokio::time::sleep(POLL).await;
    }
    Ok(frozen)
}

/// Whether all in `cgroup` stand still by the freezer.
pub fn is_frozen(cgroup: &Path) -> io::Result<bool> {
    let events = std::fs::read_to_string(cgroup.join("cgroup.events"))?;
    Ok(events.lines().any(|line| line == "frozen 1"))
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

    /// Lets all go on.
    pub fn thaw(mut self) -> Result<(), FreezeError> {
        self.thaw = false;
        self.write_thaw().map_err(|source| FreezeError::Cgroup { cgroup: self.cgroup.clone(), source })
    }

    fn write_thaw(&self) -> io::Result<()> {
        std::fs::write(self.cgroup.join("cgroup.freeze"), "0")
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if self.thaw
            && let Err(error) = self.write_thaw()
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(cgroup = %self.cgroup.display(), %error, "cannot thaw; write 0 to its cgroup.freeze");
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
    async fn what_does_not_stop_is_thawed() {
        let dir = cgroup("populated 1\nfrozen 0\n");
        assert!(matches!(freeze(dir.path(), || {}).await, Err(FreezeError::TimedOut)));
        assert_eq!(state(dir.path()), "0");
    }
}
