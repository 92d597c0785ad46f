//! Whether an agent's process lives, as the kernel knows it: an agent holds a lock on a file of its
//! own from its first moment to its end.
//!
//! Neither time nor silence says that an agent is dead: it may be stopped, or wait for memory. The
//! lock is one of the open file (`F_OFD_SETLK`), so it goes with the process however that ends, and
//! to look at it takes none. In the file stands which process it is.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};

use crate::sys::proc::Identity;

/// The lock; dropped, it is gone and its file with it. The descriptor is closed by an exec, so
/// programs that the agent starts do not hold it.
#[derive(Debug)]
pub struct Alive {
    path: PathBuf,
    _file: File,
}

impl Alive {
    /// Takes the lock of the file `path`, which is made.
    ///
    /// # Errors
    /// Another process holds it, or the file cannot be made.
    pub fn announce(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file()))?;
        let own = Identity::own()?;
        file.set_len(0)?;
        write!(&file, "{} {}", own.pid, own.start_time_ticks)?;
        Ok(Self { path: path.into(), _file: file })
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // A file that stays is found with its lock free, which says the same.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The process that took the lock of the file `path` last; `None` if there is no such file, or it
/// does not say.
pub fn holder(path: &Path) -> Option<Identity> {
    let text = std::fs::read_to_string(path).ok()?;
    let (pid, start_time_ticks) = text.split_once(' ')?;
    Some(Identity { pid: pid.parse().ok()?, start_time_ticks: start_time_ticks.parse().ok()? })
}

/// Whether a process holds the lock of the file `path`; `None` if there is no such file.
///
/// # Errors
/// The file cannot be looked at.
pub fn is_held(path: &Path) -> io::Result<Option<bool>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut lock = whole_file();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(Some(i32::from(lock.l_type) != libc::F_UNLCK))
}

fn whole_file() -> libc::flock {
    // Both are small constants; `flock` has them in shorter types.
    let (l_type, l_whence) = (libc::F_WRLCK as libc::c_short, libc::SEEK_SET as libc::c_short);
    libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_lasts_as_long_as_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("H-1.lock");
        assert_eq!(is_held(&path).unwrap(), None);
        let alive = Alive::announce(&path).unwrap();
        assert_eq!(is_held(&path).unwrap(), Some(true));
        assert_eq!(holder(&path), Identity::own().ok());
        assert!(Alive::announce(&path).is_err());
        // That it was looked at has not ended it.
        assert_eq!(is_held(&path).unwrap(), Some(true));
        drop(alive);
        assert_eq!(is_held(&path).unwrap(), None);
        // As a process leaves it that is killed.
        std::fs::write(&path, "").unwrap();
        assert_eq!((is_held(&path).unwrap(), holder(&path)), (Some(false), None));
        Alive::announce(&path).unwrap();
    }
}
