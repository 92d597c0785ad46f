//! Locks that a guest holds at home.
//!
//! The guest's POSIX locks belong to an *owner* (a process, or for OFD locks an open file), a
//! number that the hosting kernel makes up. Each (file, owner) has one open file of its own here,
//! whose OFD locks stand for that owner's locks: they exclude home's POSIX locks, home's OFD locks
//! and other owners. Closing that one file gives all of them back.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::inodes::Inode;
use crate::protocol::files::Lock;

/// Largest file offset, by which the kernel means "to the end, wherever it is".
const OFFSET_MAX: u64 = i64::MAX as u64;

/// All POSIX locks of the guest.
#[derive(Debug, Default)]
pub(super) struct Locks {
    owners: Mutex<HashMap<(u64, u64), Owner>>,
}

#[derive(Debug)]
struct Owner {
    file: OwnedFd,
    /// Handles through which the locks were made.
    handles: BTreeSet<u64>,
}

impl Locks {
    /// Takes, changes or gives back a lock, without waiting.
    ///
    /// # Errors
    /// `EAGAIN`: another holds it.
    pub(super) fn set(&self, inode: &Inode, node: u64, handle: u64, owner: u64, lock: Lock) -> Result<(), Errno> {
        let mut owners = self.lock();
        let entry = match owners.entry((node, owner)) {
            Entry::Occupied(entry) => entry.into_mut(),
            // He has no lock here to give back.
            Entry::Vacant(_) if lock.kind == libc::F_UNLCK => return Ok(()),
            Entry::Vacant(entry) => entry.insert(Owner { file: open(inode)?, handles: BTreeSet::new() }),
        };
        entry.handles.insert(handle);
        fcntl(&entry.file, FcntlArg::F_OFD_SETLK(&to_flock(lock)?)).map_err(from_nix)?;
        Ok(())
    }

    /// The lock that stands in the way of `lock`, or `F_UNLCK` if none does.
    pub(super) fn get(&self, inode: &Inode, node: u64, owner: u64, lock: Lock) -> Result<Lock, Errno> {
        let owners = self.lock();
        let mut found = to_flock(lock)?;
        match owners.get(&(node, owner)) {
            Some(entry) => fcntl(&entry.file, FcntlArg::F_OFD_GETLK(&mut found)),
            None => fcntl(&open(inode)?, FcntlArg::F_OFD_GETLK(&mut found)),
        }
        .map_err(from_nix)?;
        let start = u64::try_from(found.l_start).unwrap_or(0);
        let len = u64::try_from(found.l_len).unwrap_or(0);
        let end = if len == 0 { OFFSET_MAX } else { start.saturating_add(len - 1) };
        Ok(Lock { start, end, kind: i32::from(found.l_type) })
    }

    /// Gives back all locks that `owner` has on the file: he closed a descriptor of it.
    pub(super) fn drop_owner(&self, node: u64, owner: u64) {
        self.lock().remove(&(node, owner));
    }

    /// Gives back what was locked through a handle that is gone. For processes `drop_owner` came
    /// first; this is for OFD locks, which the hosting kernel gives back in no other way.
    pub(super) fn drop_handle(&self, handle: u64) {
        self.lock().retain(|_, owner| !owner.handles.contains(&handle));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `flock` on the open file itself, without waiting.
pub(super) fn flock(file: &OwnedFd, kind: i32) -> Result<(), Errno> {
    let operation = match kind {
        libc::F_RDLCK => FlockOperation::NonBlockingLockShared,
        libc::F_WRLCK => FlockOperation::NonBlockingLockExclusive,
        libc::F_UNLCK => FlockOperation::NonBlockingUnlock,
        _ => return Err(Errno::INVAL),
    };
    rustix::fs::flock(file, operation)
}

/// Writable if that is possible, since a write lock needs it; the hosting kernel has checked how
/// the program opened it.
fn open(inode: &Inode) -> Result<OwnedFd, Errno> {
    let path = inode.path();
    let open =
        |access| rustix::fs::openat(CWD, path.as_str(), access | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY))
}

fn to_flock(lock: Lock) -> Result<libc::flock, Errno> {
    if lock.start > lock.end || lock.end > OFFSET_MAX {
        return Err(Errno::INVAL);
    }
    let len = if lock.end == OFFSET_MAX { 0 } else { lock.end - lock.start + 1 };
    let offset = |value: u64| i64::try_from(value).map_err(|_| Errno::OVERFLOW);
    Ok(libc::flock {
        l_type: i16::try_from(lock.kind).map_err(|_| Errno::INVAL)?,
        l_whence: 0, // SEEK_SET
        l_start: offset(lock.start)?,
        l_len: offset(len)?,
        l_pid: 0, // OFD locks demand it
    })
}

fn from_nix(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}
