//! What a guest needs on this node, made before the source sends anything, and what must be gone
//! when the guest is gone.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use super::init::{Init, InitError};
use crate::{
    guest::files::{self, FileChannel, MountError, Mounted},
    link::files::StableFiles,
    protocol::{GuestRole, init::Told},
    sys::cgroup::{self, CgroupError},
};

/// How long a killed guest's cgroup may stay populated.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether it is.
const EMPTY_POLL: Duration = Duration::from_millis(5);

/// Why a guest's world could not be made.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A directory of this node.
    #[error("cannot make {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The guest's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Home's files.
    #[error("home's files cannot be used here")]
    Files(#[from] MountError),
    /// Pid 1.
    #[error("the guest's world cannot be made")]
    Init(#[from] InitError),
}

/// A guest's world: cgroup, home's files, namespaces with their pid 1.
pub struct World {
    /// Pid 1.
    pub init: Init,
    /// The cgroup of the process tree, and of nothing else.
    pub cgroup: PathBuf,
    /// Home's files.
    pub files: Arc<Mounted>,
    mountpoint: PathBuf,
}

/// Most paths that home is asked about in advance.
const LOOK_AHEAD: usize = 128;

/// Asks home about the paths that CRIU is about to look at, without waiting for the answers.
pub fn look_ahead(files: &Arc<Mounted>, paths: BTreeSet<String>) {
    let files = files.clone();
    tokio::task::spawn_blocking(move || files.look_ahead(paths.iter().take(LOOK_AHEAD).map(String::as_str)));
}

impl World {
    /// Makes it. The receiver tells what becomes of pid 1's children.
    ///
    /// # Errors
    /// See [`WorldError`]; what had been made is gone again.
    pub async fn make(
        run_dir: &Path,
        role: &GuestRole,
        files: Arc<FileChannel>,
    ) -> Result<(Self, mpsc::Receiver<Told>), WorldError> {
        let mountpoint = run_dir.join("guests").join(role.migration.to_string());
        let directory = |path: &Path| {
            std::fs::create_dir_all(path).map_err(|source| WorldError::Directory { path: path.into(), source })
        };
        cgroup::create(&role.cgroup)?;
        let cgroup = RemoveOnDrop(role.cgroup.clone());
        directory(&mountpoint)?;
        let mountpoint = RemoveOnDrop(mountpoint);
        let at = mountpoint.0.clone();
        // Mounting is quick, but the first look at the tree waits for home.
        let stable = StableFiles::new(run_dir);
        let mounted = tokio::task::spawn_blocking(move || files::mount(&at, files, stable)).await;
        let mounted =
            mounted.map_err(|error| WorldError::Directory { path: mountpoint.0.clone(), source: error.into() })?;
        let files = Arc::new(mounted?);
        // Pid 1 looks at the directories on which it mounts, many times.
        files.stands_still();
        let (init, told) = Init::start(&mountpoint.0, &role.hostname).await?;
        Ok((Self { init, cgroup: cgroup.keep(), files, mountpoint: mountpoint.keep() }, told))
    }

    /// Kills whatever is in the guest and removes everything.
    pub async fn end(self) {
        let Self { init, cgroup, files, mountpoint } = self;
        if let Err(error) = cgroup::kill(&cgroup) {
            tracing::warn!(%error, "the guest is not killed at once");
        }
        if let Err(error) = init.kill().await {
            tracing::error!(%error, "the guest's pid 1 does not end");
        }
        // A process that still waits for home's files in there gets an error now.
        drop(files);
        let until = tokio::time::Instant::now() + EMPTY_TIMEOUT;
        while let Err(error) = std::fs::remove_dir(&cgroup) {
            if error.kind() == io::ErrorKind::NotFound {
                break;
            }
            if tokio::time::Instant::now() > until {
                tracing::error!(cgroup = %cgroup.display(), %error, "the guest's cgroup cannot be removed");
                break;
            }
            tokio::time::sleep(EMPTY_POLL).await;
        }
        if let Err(error) = std::fs::remove_dir(&mountpoint) {
            tracing::warn!(path = %mountpoint.display(), %error, "the guest's mount point cannot be removed");
        }
    }

    /// Whether no process is left.
    pub fn is_empty(&self) -> bool {
        cgroup::events(&self.cgroup).is_ok_and(|events| !events.populated)
    }
}

/// A directory that is removed again if what it is for fails.
struct RemoveOnDrop(PathBuf);

impl RemoveOnDrop {
    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty()
            && let Err(error) = std::fs::remove_dir(&self.0)
        {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a directory of a guest");
        }
    }
}
