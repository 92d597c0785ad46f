//! What this guest has locked: kept here because a process tree that holds a lock must not move,
//! and home cannot tell quickly.

use crate::protocol::files::Lock;

/// A lock that a program of the guest holds on one of home's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLock {
    /// The file's inode number as the guest sees it.
    pub inode: u64,
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` for "to the end".
    pub end: u64,
    /// Exclusive, not shared.
    pub exclusive: bool,
    /// Made by `flock`, not by `fcntl`.
    pub flock: bool,
    handle: u64,
    owner: u64,
}

/// All locks of a guest, as the kernel has been told.
#[derive(Debug, Default)]
pub(super) struct LockTable(Vec<HeldLock>);

impl LockTable {
    /// Enters what a successful lock request has changed.
    pub(super) fn set(&mut self, node: u64, handle: u64, owner: u64, lock: Lock, flock: bool) {
        let mut rest = Vec::with_capacity(self.0.len() + 1);
        for held in self.0.drain(..) {
            let is_same_holder = held.inode == node
                && held.flock == flock
                && if flock { held.handle == handle } else { held.owner == owner };
            if !is_same_holder || held.end < lock.start || lock.end < held.start {
                rest.push(held);
                continue;
            }
            // What sticks out on either side stays as it was.
            if held.start < lock.start {
                rest.push(HeldLock { end: lock.start - 1, ..held.clone() });
            }
            if held.end > lock.end {
                rest.push(HeldLock { start: lock.end + 1, ..held });
            }
        }
        if lock.kind != libc::F_UNLCK {
            let exclusive = lock.kind == libc::F_WRLCK;
            rest.push(HeldLock { inode: node, start: lock.start, end: lock.end, exclusive, flock, handle, owner });
        }
        self.0 = rest;
    }

    /// An owner closed a descriptor of the file.
    pub(super) fn drop_owner(&mut self, node: u64, owner: u64) {
        self.0.retain(|held| held.flock || held.inode != node || held.owner != owner);
    }

    /// A handle was released.
    pub(super) fn drop_handle(&mut self, handle: u64) {
        self.0.retain(|held| held.handle != handle);
    }

    /// All locks held.
    pub(super) fn all(&self) -> &[HeldLock] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(table: &LockTable) -> Vec<(u64, u64, bool)> {
        table.all().iter().map(|held| (held.start, held.end, held.exclusive)).collect()
    }

    fn lock(start: u64, end: u64, kind: i32) -> Lock {
        Lock { start, end, kind }
    }

    #[test]
    fn ranges_are_split_replaced_and_given_back() {
        let mut table = LockTable::default();
        table.set(1, 10, 20, lock(0, 99, libc::F_RDLCK), false);
        table.set(1, 10, 20, lock(10, 19, libc::F_WRLCK), false);
        assert_eq!(ranges(&table), [(0, 9, false), (20, 99, false), (10, 19, true)]);
        table.set(1, 10, 20, lock(5, u64::MAX, libc::F_UNLCK), false);
        assert_eq!(ranges(&table), [(0, 4, false)]);
        table.set(1, 10, 21, lock(0, 99, libc::F_UNLCK), false);
        assert_eq!(ranges(&table), [(0, 4, false)]);
        table.drop_owner(1, 20);
        assert_eq!(ranges(&table), []);
    }

    #[test]
    fn flock_belongs_to_the_handle() {
        let mut table = LockTable::default();
        let all = |kind| lock(0, i64::MAX as u64, kind);
        table.set(1, 10, 20, all(libc::F_WRLCK), true);
        table.set(1, 10, 21, all(libc::F_RDLCK), true);
        assert_eq!(ranges(&table), [(0, i64::MAX as u64, false)]);
        table.drop_owner(1, 21);
        assert_eq!(table.all().len(), 1);
        table.drop_handle(10);
        assert_eq!(table.all(), []);
    }
}
