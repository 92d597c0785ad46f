//! Whether this node sends its guests away and takes no others.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// Why a node that is being drained takes no guests.
pub const REFUSAL: &str = "it is being drained: `scx_mosix drain --undo` there ends that";

/// Kept in a file of the run-time directory as well: it holds for the next daemon, and ends when
/// the machine reboots.
pub struct Draining {
    file: PathBuf,
    is_on: AtomicBool,
}

impl Draining {
    /// As an earlier daemon left it in `run_dir`.
    pub fn load(run_dir: &Path) -> Self {
        let file = run_dir.join("draining");
        let is_on = AtomicBool::new(file.exists());
        Self { file, is_on }
    }

    /// Whether it is so.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// From now on it is so, or no longer.
    ///
    /// # Errors
    /// It could not be noted for the next daemon; then nothing has changed.
    pub fn set(&self, on: bool) -> io::Result<()> {
        if on {
            fs::write(&self.file, "")?;
        } else if let Err(error) = fs::remove_file(&self.file)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        self.is_on.store(on, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_daemon_continues_it() {
        let dir = tempfile::tempdir().unwrap();
        let draining = Draining::load(dir.path());
        assert!(!draining.is_on());
        draining.set(true).unwrap();
        assert!(draining.is_on() && Draining::load(dir.path()).is_on());
        draining.set(false).unwrap();
        draining.set(false).unwrap();
        assert!(!draining.is_on() && !Draining::load(dir.path()).is_on());
        assert!(Draining::load(&dir.path().join("missing")).set(true).is_err());
    }
}
