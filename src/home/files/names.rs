//! Operations on names and attributes: everything but the contents of open files.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use super::Tree;
use super::inodes::{decode_dev, dev, stat};
use super::leases::Lease;
use crate::protocol::files::{
    ACCESS_ACL, Attr, Changes, MAX_DATA_BYTES, MAX_STEPS, Name, ROOT, Reply, SetTime, Stats, Step, Text,
};
use crate::sys::descriptor::proc_path;

/// Largest extended attribute and largest list of their names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_MAX_BYTES: usize = 64 * 1024;

const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Tree {
    pub(super) fn lookup(&self, parent: u64, name: &Name) -> Result<Reply, Errno> {
        let dir = self.inodes.get(parent)?;
        let leased = self.leases.lease_name(parent, &dir, name);
        let fd = match rustix::fs::openat(dir.fd(), name.as_bytes(), PATH_ONLY, Mode::empty()) {
            Err(Errno::NOENT) => {
                // Looked at afterwards: a name made in between would make it look changed.
                let stable = self.inodes.attr(dir.fd())?.stable;
                return if stable || leased { Ok(Reply::Missing { stable, leased }) } else { Err(Errno::NOENT) };
            }
            fd => fd?,
        };
        let (node, attr) = self.inodes.know(fd)?;
        let inode = self.inodes.get(node)?;
        let attr = match self.leases.lease(node, &inode) {
            Lease::No => attr,
            Lease::Was => as_leased(attr, &inode.path()),
            Lease::New => as_leased(self.inodes.attr(inode.fd())?, &inode.path()),
        };
        Ok(Reply::Entry { node, attr, leased })
    }

    pub(super) fn walk(&self, names: &[Name]) -> Result<Reply, Errno> {
        let (mut steps, mut parent) = (Vec::new(), ROOT);
        for name in names.iter().take(MAX_STEPS) {
            let Ok(Reply::Entry { node, attr, leased }) = self.lookup(parent, name) else { break };
            steps.push(Step { node, attr, leased });
            parent = node;
        }
        Ok(Reply::Walked { steps })
    }

    pub(super) fn getattr(&self, node: u64) -> Result<Reply, Errno> {
        let inode = self.inodes.get(node)?;
        let lease = self.leases.lease(node, &inode);
        let attr = self.inodes.attr(inode.fd())?;
        Ok(Reply::Attr { attr: if lease == Lease::No { attr } else { as_leased(attr, &inode.path()) } })
    }

    pub(super) fn setattr(&self, node: u64, handle: Option<u64>, changes: &Changes) -> Result<Reply, Errno> {
        let inode = self.inodes.get(node)?;
        let path = inode.path();
        // Owner before mode, since a change of owner takes set-user-id bits away.
        if changes.uid.is_some() || changes.gid.is_some() {
            let (uid, gid) = (changes.uid.map(Uid::from_raw), changes.gid.map(Gid::from_raw));
            rustix::fs::chownat(inode.fd(), "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = changes.mode {
            if inode.kind() == FileType::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            rustix::fs::chmodat(CWD, path.as_str(), Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
        }
        if let Some(size) = changes.size {
            match handle {
                Some(handle) => rustix::fs::ftruncate(&self.handles.get(handle)?.file, size)?,
                None => {
                    let file = self.reopen(node, FileType::RegularFile, OFlags::WRONLY)?;
                    rustix::fs::ftruncate(&file, size)?;
                }
            }
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            let times = Timestamps { last_access: timespec(changes.atime), last_modification: timespec(changes.mtime) };
            rustix::fs::utimensat(CWD, path.as_str(), &times, AtFlags::empty())?;
        }
        self.getattr(node)
    }

    pub(super) fn readlink(&self, node: u64) -> Result<Reply, Errno> {
        let target = rustix::fs::readlinkat(self.inodes.get(node)?.fd(), "", Vec::new())?;
        Ok(Reply::Data { data: Bytes::from(target.into_bytes()) })
    }

    pub(super) fn mknod(&self, parent: u64, name: &Name, mode: u32, rdev: u32) -> Result<Reply, Errno> {
        let dir = self.inodes.get(parent)?;
        let kind = FileType::from_raw_mode(mode);
        rustix::fs::mknodat(dir.fd(), name.as_bytes(), kind, Mode::from_raw_mode(mode & 0o7777), decode_dev(rdev))?;
        self.lookup(parent, name)
    }

    pub(super) fn mkdir(&self, parent: u64, name: &Name, mode: u32) -> Result<Reply, Errno> {
        let dir = self.inodes.get(parent)?;
        rustix::fs::mkdirat(dir.fd(), name.as_bytes(), Mode::from_raw_mode(mode & 0o7777))?;
        self.lookup(parent, name)
    }

    pub(super) fn unlink(&self, parent: u64, name: &Name, directory: bool) -> Result<Reply, Errno> {
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(self.inodes.get(parent)?.fd(), name.as_bytes(), flags)?;
        Ok(Reply::Done {})
    }

    pub(super) fn symlink(&self, parent: u64, name: &Name, target: &Text) -> Result<Reply, Errno> {
        rustix::fs::symlinkat(target.as_bytes(), self.inodes.get(parent)?.fd(), name.as_bytes())?;
        self.lookup(parent, name)
    }

    pub(super) fn rename(&self, from: (u64, &Name), to: (u64, &Name), flags: u32) -> Result<Reply, Errno> {
        let (from_dir, to_dir) = (self.inodes.get(from.0)?, self.inodes.get(to.0)?);
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        rustix::fs::renameat_with(from_dir.fd(), from.1.as_bytes(), to_dir.fd(), to.1.as_bytes(), flags)?;
        Ok(Reply::Done {})
    }

    pub(super) fn link(&self, node: u64, new_parent: u64, new_name: &Name) -> Result<Reply, Errno> {
        let (inode, dir) = (self.inodes.get(node)?, self.inodes.get(new_parent)?);
        rustix::fs::linkat(inode.fd(), "", dir.fd(), new_name.as_bytes(), AtFlags::EMPTY_PATH)?;
        self.lookup(new_parent, new_name)
    }

    /// Makes a file that did not exist when the hosting kernel looked.
    ///
    /// If it exists by now it must not simply be opened, because the caller's permission was not
    /// checked for it: `ESTALE` lets that kernel look again and open what it then finds.
    pub(super) fn create(&self, parent: u64, name: &Name, mode: u32, flags: i32) -> Result<Reply, Errno> {
        let dir = self.inodes.get(parent)?;
        let open_flags = super::data::home_flags(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(dir.fd(), name.as_bytes(), open_flags, Mode::from_raw_mode(mode & 0o7777));
        let file = file.map_err(|errno| match errno {
            Errno::EXIST if flags & libc::O_EXCL == 0 => Errno::STALE,
            errno => errno,
        })?;
        let path_fd = rustix::fs::openat(CWD, proc_path(&file), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let dev = dev(&stat(&path_fd)?);
        let (node, attr) = self.inodes.know(path_fd)?;
        let handle = self.handles.insert(file, flags & libc::O_APPEND != 0, dev);
        Ok(Reply::Created { node, attr, handle })
    }

    pub(super) fn statfs(&self, node: u64) -> Result<Reply, Errno> {
        let stats = rustix::fs::fstatfs(self.inodes.get(node)?.fd())?;
        let small = |value: i64| u32::try_from(value).map_err(|_| Errno::OVERFLOW);
        Ok(Reply::Statfs {
            stats: Stats {
                blocks: stats.f_blocks,
                bfree: stats.f_bfree,
                bavail: stats.f_bavail,
                files: stats.f_files,
                ffree: stats.f_ffree,
                bsize: small(stats.f_bsize)?,
                namelen: small(stats.f_namelen)?,
                frsize: small(stats.f_frsize)?,
            },
        })
    }

    pub(super) fn setxattr(&self, node: u64, name: &Text, flags: i32, value: &Bytes) -> Result<Reply, Errno> {
        let flags = u32::try_from(flags).ok().and_then(XattrFlags::from_bits).ok_or(Errno::INVAL)?;
        rustix::fs::setxattr(self.inodes.get(node)?.path(), name.as_bytes(), value, flags)?;
        Ok(Reply::Done {})
    }

    pub(super) fn getxattr(&self, node: u64, name: &Text) -> Result<Reply, Errno> {
        let path = self.inodes.get(node)?.path();
        let mut value = vec![0; XATTR_MAX_BYTES];
        let len = rustix::fs::getxattr(path, name.as_bytes(), &mut value[..])?;
        value.truncate(len);
        Ok(Reply::Data { data: Bytes::from(value) })
    }

    pub(super) fn listxattr(&self, node: u64) -> Result<Reply, Errno> {
        const { assert!(XATTR_MAX_BYTES <= MAX_DATA_BYTES) };
        let mut names = vec![0; XATTR_MAX_BYTES];
        let len = rustix::fs::listxattr(self.inodes.get(node)?.path(), &mut names[..])?;
        names.truncate(len);
        Ok(Reply::Data { data: Bytes::from(names) })
    }

    pub(super) fn removexattr(&self, node: u64, name: &Text) -> Result<Reply, Errno> {
        rustix::fs::removexattr(self.inodes.get(node)?.path(), name.as_bytes())?;
        Ok(Reply::Done {})
    }

    /// Opens a known file anew, not only for its name.
    pub(super) fn reopen(&self, node: u64, kind: FileType, flags: OFlags) -> Result<OwnedFd, Errno> {
        let inode = self.inodes.get(node)?;
        // The hosting kernel opens devices, FIFOs and sockets itself; opening home's for it would
        // be wrong.
        if inode.kind() != kind {
            return Err(Errno::NXIO);
        }
        rustix::fs::openat(CWD, inode.path(), flags | OFlags::CLOEXEC, Mode::empty())
    }
}

/// The attributes of the leased file that is at `path` for sure.
pub(super) fn as_leased(attr: Attr, path: &str) -> Attr {
    let no_acl = matches!(rustix::fs::getxattr(path, ACCESS_ACL, &mut [0u8; 0]), Err(Errno::NODATA));
    Attr { leased: true, no_acl, ..attr }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, UTIME_OMIT),
        Some(SetTime::Now {}) => (0, UTIME_NOW),
        Some(SetTime::At { time }) => (time.secs, i64::from(time.nanos)),
    };
    Timespec { tv_sec, tv_nsec }
}
