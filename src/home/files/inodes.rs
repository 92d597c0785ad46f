//! The files that the guest's kernel knows, each held by an `O_PATH` descriptor.
//!
//! A node id stands for one (mount, device, inode number): hard links are one node, and two mounts
//! of one directory are two, as the hosting kernel must see them. The descriptor keeps the inode
//! from being freed, so that its number cannot mean another file while the guest's kernel still
//! uses the node; it is dropped when that kernel has forgotten it.
//!
//! Node ids double as inode numbers in the guest (the same number in directory listings, `stat` and
//! `/proc/PID/maps`): on the file system of home's root they are home's own numbers, elsewhere a
//! hash of device and number with the top bit set. In the rare case that the number is taken, the
//! node gets another one and `stat` still shows the proper number.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use crate::link::files::StableFiles;
use crate::protocol::files::{Attr, ROOT, Time};
use crate::sys::descriptor::proc_path;

/// Set in the numbers of files that are not on the root's file system.
const FOREIGN: u64 = 1 << 63;

/// One file that the guest's kernel knows.
#[derive(Debug)]
pub(super) struct Inode {
    fd: OwnedFd,
    kind: FileType,
}

/// All files that the guest's kernel knows.
#[derive(Debug)]
pub(super) struct Inodes {
    root_dev: (u32, u32),
    stable: Arc<StableFiles>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_node: HashMap<u64, Known>,
    by_key: HashMap<Key, u64>,
}

#[derive(Debug)]
struct Known {
    inode: Arc<Inode>,
    key: Option<Key>,
    lookups: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    mount: u64,
    dev: (u32, u32),
    ino: u64,
}

impl Inode {
    /// The `O_PATH` descriptor.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// What sort of file it is.
    pub(super) fn kind(&self) -> FileType {
        self.kind
    }

    /// A path by which calls without a descriptor variant reach this very file, whatever its name.
    pub(super) fn path(&self) -> String {
        proc_path(&self.fd)
    }
}

impl Inodes {
    /// A table that knows the root only.
    pub(super) fn new(root: OwnedFd, stable: Arc<StableFiles>) -> Result<Self, Errno> {
        let stat = stat(&root)?;
        let inode = Arc::new(Inode { fd: root, kind: kind(&stat) });
        let mut table = Table::default();
        table.by_node.insert(ROOT, Known { inode, key: None, lookups: 1 });
        Ok(Self { root_dev: dev(&stat), stable, table: Mutex::new(table) })
    }

    /// What of this node's files is stable.
    pub(super) fn stable(&self) -> &StableFiles {
        &self.stable
    }

    /// The file behind a node id.
    ///
    /// # Errors
    /// `ESTALE`: the guest's kernel has forgotten it, or never knew it.
    pub(super) fn get(&self, node: u64) -> Result<Arc<Inode>, Errno> {
        self.lock().by_node.get(&node).map(|known| known.inode.clone()).ok_or(Errno::STALE)
    }

    /// Counts one more lookup of the file behind the `O_PATH` descriptor `fd`; returns its node id
    /// and attributes.
    pub(super) fn know(&self, fd: OwnedFd) -> Result<(u64, Attr), Errno> {
        let stat = stat(&fd)?;
        let key = Key { mount: stat.stx_mnt_id, dev: dev(&stat), ino: stat.stx_ino };
        let attr = self.attr_of(&fd, &stat);
        let mut table = self.lock();
        let table = &mut *table;
        let node = match table.by_key.entry(key) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let node = free_node(&table.by_node, attr.ino, key);
                let inode = Arc::new(Inode { fd, kind: kind(&stat) });
                table.by_node.insert(node, Known { inode, key: Some(key), lookups: 0 });
                *entry.insert(node)
            }
        };
        if let Some(known) = table.by_node.get_mut(&node) {
            known.lookups += 1;
        }
        Ok((node, attr))
    }

    /// Takes back `count` lookups; at none the file is released, after `last` was called for it.
    pub(super) fn forget(&self, node: u64, count: u64, last: impl FnOnce(u64)) {
        let mut table = self.lock();
        let Entry::Occupied(mut entry) = table.by_node.entry(node) else { return };
        let known = entry.get_mut();
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups == 0 && node != ROOT {
            // No lookup finds it again meanwhile.
            last(node);
            let known = entry.remove();
            if let Some(key) = known.key {
                table.by_key.remove(&key);
            }
        }
    }

    /// Attributes of an open file or `O_PATH` descriptor.
    pub(super) fn attr(&self, fd: impl AsFd) -> Result<Attr, Errno> {
        let stat = stat(&fd)?;
        Ok(self.attr_of(&fd, &stat))
    }

    /// The number by which guests know the file `ino` on the file system `dev`.
    pub(super) fn number(&self, dev: (u32, u32), ino: u64) -> u64 {
        if dev == self.root_dev && ino < FOREIGN { ino } else { hash(&(dev, ino)) | FOREIGN }
    }

    /// How many files are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().by_node.len()
    }

    fn attr_of(&self, fd: impl AsFd, stat: &Statx) -> Attr {
        let time = |time: &rustix::fs::StatxTimestamp| Time { secs: time.tv_sec, nanos: time.tv_nsec };
        Attr {
            ino: self.number(dev(stat), stat.stx_ino),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: time(&stat.stx_atime),
            mtime: time(&stat.stx_mtime),
            ctime: time(&stat.stx_ctime),
            mode: u32::from(stat.stx_mode),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: encode_dev(stat.stx_rdev_major, stat.stx_rdev_minor),
            blksize: stat.stx_blksize,
            stable: self.stable.holds(fd, stat),
            leased: false,
            no_acl: false,
        }
    }

    // The table is only changed by single insertions and removals, so a panic elsewhere leaves it
    // usable.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `stat` of an open file or `O_PATH` descriptor, with its mount.
pub(super) fn stat(fd: impl AsFd) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

/// The device that a file is on.
pub(super) fn dev(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

fn kind(stat: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(stat.stx_mode))
}

/// `wanted` unless it is taken or has a meaning of its own, else the first free one of a fixed
/// sequence.
fn free_node(taken: &HashMap<u64, Known>, wanted: u64, key: Key) -> u64 {
    let is_free = |node: &u64| *node > ROOT && !taken.contains_key(node);
    let others = (0u64..).map(|attempt| hash(&(key, attempt)) | FOREIGN);
    std::iter::once(wanted).chain(others).find(is_free).unwrap_or(wanted)
}

// DefaultHasher::new has fixed keys: the same number at every hosting node and after every move.
fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The kernel's 32-bit form of a device number, as FUSE carries it.
fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// The inverse of `encode_dev`.
pub(super) fn decode_dev(rdev: u32) -> u64 {
    rustix::fs::makedev((rdev & 0xf_ff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    fn nothing_stable() -> Arc<StableFiles> {
        Arc::new(StableFiles::after(std::path::Path::new("/nonexistent"), std::time::Duration::MAX))
    }

    use rustix::fs::{CWD, Mode, OFlags};

    use super::*;

    fn path_fd(path: &std::path::Path) -> OwnedFd {
        rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn hard_links_are_one_node_and_go_when_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "x").unwrap();
        std::fs::hard_link(&a, &b).unwrap();
        let inodes = Inodes::new(path_fd(dir.path()), nothing_stable()).unwrap();
        let (node, attr) = inodes.know(path_fd(&a)).unwrap();
        assert_eq!(inodes.know(path_fd(&b)).unwrap(), (node, attr));
        assert_eq!((node, attr.nlink), (attr.ino, 2));
        inodes.forget(node, 1, |_| {});
        assert_eq!(inodes.get(node).unwrap().kind(), FileType::RegularFile);
        inodes.forget(node, 1, |_| {});
        assert_eq!(inodes.get(node).unwrap_err(), Errno::STALE);
        inodes.forget(ROOT, u64::MAX, |_| {});
        assert_eq!(inodes.len(), 1);
    }

    #[test]
    fn the_root_seen_by_name_is_another_node() {
        let dir = tempfile::tempdir().unwrap();
        let inodes = Inodes::new(path_fd(dir.path()), nothing_stable()).unwrap();
        let (node, attr) = inodes.know(path_fd(dir.path())).unwrap();
        assert_ne!(node, ROOT);
        assert_eq!(inodes.attr(inodes.get(ROOT).unwrap().fd()).unwrap(), attr);
    }

    #[test]
    fn other_file_systems_have_their_own_numbers() {
        let inodes = Inodes::new(path_fd(std::path::Path::new("/")), nothing_stable()).unwrap();
        let (node, attr) = inodes.know(path_fd(std::path::Path::new("/proc"))).unwrap();
        assert_eq!((node, node & FOREIGN), (attr.ino, FOREIGN));
    }

    #[test]
    fn device_numbers_come_back() {
        for (major, minor) in [(0, 0), (1, 3), (8, 17), (0xfff, 0xf_ffff), (259, 300)] {
            assert_eq!(decode_dev(encode_dev(major, minor)), rustix::fs::makedev(major, minor));
        }
    }
}
