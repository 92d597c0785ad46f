//! The files and directories that the guest has open at home, by handle number.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

/// An open file or directory.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) file: OwnedFd,
    /// Opened with `O_APPEND`: writes go to the end wherever that is then.
    pub(super) appends: bool,
    /// For a directory: the file system it is on, and the holder moves its offset.
    pub(super) dev: (u32, u32),
    pub(super) cursor: Mutex<()>,
}

/// All open files of a guest.
#[derive(Debug, Default)]
pub(super) struct Handles {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Handle>>>,
}

impl Handles {
    /// Enters an open file; returns its handle.
    pub(super) fn insert(&self, file: OwnedFd, appends: bool, dev: (u32, u32)) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let handle = Arc::new(Handle { file, appends, dev, cursor: Mutex::new(()) });
        self.lock().insert(number, handle);
        number
    }

    /// The open file behind a handle.
    ///
    /// # Errors
    /// `EBADF`: it was released, or never opened.
    pub(super) fn get(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        self.lock().get(&number).cloned().ok_or(Errno::BADF)
    }

    /// Closes a handle, as soon as it is unused.
    pub(super) fn remove(&self, number: u64) {
        let closed = self.lock().remove(&number);
        // Outside the lock: closing may take long.
        drop(closed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Handle>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
