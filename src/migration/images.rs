//! The directory of CRIU's images: on tmpfs, for as long as a move lasts, and gone afterwards in
//! any case.

use std::{
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::job::SessionId;

/// What `statfs` calls a tmpfs.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A fresh directory, removed with all in it when dropped.
#[derive(Debug)]
pub struct ImageDir {
    path: PathBuf,
}

impl ImageDir {
    /// Makes `RUN_DIR/mig/MIGRATION`, empty, for root only. What an earlier attempt may have left
    /// there is removed.
    ///
    /// # Errors
    /// If it cannot be made, or would not be in memory.
    pub fn create(run_dir: &Path, migration: SessionId) -> io::Result<Self> {
        let path = run_dir.join("mig").join(migration.to_string());
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let dir = Self { path };
        if rustix::fs::statfs(&dir.path)?.f_type as i64 != TMPFS_MAGIC {
            return Err(io::Error::other(format!(
                "{} is not on a tmpfs; images must not reach a disk",
                dir.path.display()
            )));
        }
        Ok(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ImageDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::error!(path = %self.path.display(), %error, "cannot remove the images of a migration");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_nothing_behind() {
        let run_dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let id = SessionId([3; 16]);
        let dir = ImageDir::create(run_dir.path(), id).unwrap();
        std::fs::write(dir.path().join("core-1.img"), "x").unwrap();
        let again = ImageDir::create(run_dir.path(), id).unwrap();
        assert_eq!(std::fs::read_dir(again.path()).unwrap().count(), 0);
        drop(again);
        assert!(!run_dir.path().join("mig").join(id.to_string()).exists());
        std::mem::forget(dir);
    }
}
