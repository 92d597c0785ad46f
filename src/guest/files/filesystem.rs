//! The FUSE file system: each request of the kernel becomes one to home, with home's reply.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answer;
use super::locks::LockRequest;
use super::{HomeFs, backing, caller};
use crate::protocol::files::{Changes, Lock, MAX_DATA_BYTES, Name, Op, Reply, Text};

/// What the kernel must do for home's files to behave as at home.
const CAPABILITIES: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_POSIX_LOCKS)
    .union(InitFlags::FUSE_FLOCK_LOCKS)
    // One request truncates and opens.
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    // Home applies the umask, or the directory's default ACL in its place.
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_POSIX_ACL)
    // A changed size or modification time drops the pages.
    .union(InitFlags::FUSE_AUTO_INVAL_DATA)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    // Home takes set-user-id bits away; else the kernel would get an attribute before each write.
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2);

/// Requests in the background (read-ahead, written-back pages) that the kernel may have under way.
const MAX_BACKGROUND: u16 = 64;

/// Turns a name into what the wire carries, or answers what home's kernel would.
macro_rules! name {
    ($name:expr, $reply:expr) => {
        match Name::new($name.as_bytes()) {
            Some(name) => name,
            None => return $reply.error(if $name.len() > 255 { Errno::ENAMETOOLONG } else { Errno::EINVAL }),
        }
    };
}

macro_rules! text {
    ($text:expr, $reply:expr) => {
        match Text::new($text.as_bytes()) {
            Some(text) => text,
            None => return $reply.error(Errno::ENAMETOOLONG),
        }
    };
}

impl Filesystem for HomeFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The errors carry the nearest possible value, which is what is wanted of these.
        let _ = config.set_max_write(u32::try_from(MAX_DATA_BYTES).unwrap_or(u32::MAX));
        let _ = config.set_max_background(MAX_BACKGROUND);
        // The kernel refuses files of an overlay: CRIU could not dump what is mapped of its layers.
        let _ = config.set_max_stack_depth(1);
        let _ = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH);
        config.add_capabilities(CAPABILITIES).map_err(|missing| {
            io::Error::new(io::ErrorKind::Unsupported, format!("the kernel's FUSE lacks {missing:?}"))
        })
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT {
            return answer::home_root(reply);
        }
        self.ask(req, Op::Lookup { parent: parent.0, name: name!(name, reply) }, reply, answer::entry);
    }

    fn forget(&self, req: &Request, node: INodeNo, count: u64) {
        let count = self.channel().cache().forget(node.0, count);
        if count > 0 {
            self.ask(req, Op::Forget { node: node.0, count }, (), |_, ()| {});
        }
    }

    fn getattr(&self, req: &Request, node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        match handle {
            None if node == INodeNo::ROOT => answer::mount_root(reply),
            // It is the kernel that asks, before a `read`.
            Some(handle) => self.ask_recent(req, node.0, handle.0, reply),
            None => self.ask(req, Op::Getattr { node: node.0 }, reply, answer::attr),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(answer::set_time), mtime.map(answer::set_time));
        let changes = Changes { mode, uid, gid, size, atime, mtime };
        let handle = handle.map(|handle| handle.0);
        self.ask(req, Op::Setattr { node: node.0, handle, changes }, reply, answer::attr);
    }

    fn readlink(&self, req: &Request, node: INodeNo, reply: ReplyData) {
        self.ask_reading(req, node, Op::Readlink { node: node.0 }, reply, answer::data);
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let name = name!(name, reply);
        self.ask(req, Op::Mknod { parent: parent.0, name, mode, umask, rdev }, reply, answer::entry);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let name = name!(name, reply);
        self.ask(req, Op::Mkdir { parent: parent.0, name, mode, umask }, reply, answer::entry);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name!(name, reply);
        self.ask(req, Op::Unlink { parent: parent.0, name }, reply, answer::empty);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name!(name, reply);
        self.ask(req, Op::Rmdir { parent: parent.0, name }, reply, answer::empty);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (name!(name, reply), text!(target.as_os_str(), reply));
        self.ask(req, Op::Symlink { parent: parent.0, name, target }, reply, answer::entry);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (name!(name, reply), name!(new_name, reply));
        let op = Op::Rename { parent: parent.0, name, new_parent: new_parent.0, new_name, flags: flags.bits() };
        self.ask(req, op, reply, answer::empty);
    }

    fn link(&self, req: &Request, node: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let new_name = name!(new_name, reply);
        self.ask(req, Op::Link { node: node.0, new_parent: new_parent.0, new_name }, reply, answer::entry);
    }

    fn open(&self, req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        // While nothing of the process tree runs, the pages that the kernel has stay valid too.
        let still = self.channel().cache().is_still();
        // A backing file is only read, whatever home says: no guest writes this node's files.
        let only_reads = flags.acc_mode() == OpenAccMode::O_RDONLY;
        let fs = self.clone();
        self.ask(req, Op::Open { node: node.0, flags: flags.0 }, reply, move |answer, reply| match answer {
            Ok(Reply::Opened { handle, stable, backing: Some(backing), .. }) if only_reads => {
                let runtime = fs.channel().runtime().clone();
                runtime.spawn(async move {
                    let backing = fs.0.backing_files.find(backing).await;
                    fs.opened(node, handle, stable || still, backing, reply);
                });
            }
            Ok(Reply::Opened { handle, stable, .. }) => fs.opened(node, handle, stable || still, None, reply),
            other => reply.error(answer::errno(other)),
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name!(name, reply);
        let fs = self.clone();
        let op = Op::Create { parent: parent.0, name, mode, umask, flags };
        self.ask(req, op, reply, move |answer, reply| fs.created(answer, reply));
    }

    fn read(
        &self,
        req: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some(data) = self.channel().cache().contents(node.0, offset, size) {
            return reply.data(&data);
        }
        let op = Op::Read { handle: handle.0, offset, size };
        let Some(backing) = self.0.backing_files.get(handle.0) else {
            return self.ask_reading(req, node, op, reply, answer::data);
        };
        if let Some(data) = backing::read_at_once(&backing, offset, size) {
            return reply.data(&data);
        }
        let (channel, caller) = (self.channel().clone(), caller(req));
        self.channel().runtime().spawn_blocking(move || match backing::read(&backing, offset, size) {
            Ok(data) => reply.data(&data),
            Err(error) => {
                tracing::warn!(%error, "this node's disk fails; home's file is read");
                channel.submit(caller, op, Box::new(move |answer| answer::data(answer, reply)));
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let op = Op::Write {
            handle: handle.0,
            offset,
            cached: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            kill_suid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            data: Bytes::copy_from_slice(data),
        };
        self.ask(req, op, reply, answer::written);
    }

    fn flush(&self, req: &Request, node: INodeNo, _handle: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        // All that home does is to give back locks.
        if !self.0.locks_asked_for.load(Ordering::Relaxed) {
            return reply.ok();
        }
        self.with_locks(|locks| locks.drop_owner(node.0, owner.0));
        self.ask(req, Op::Flush { node: node.0, owner: owner.0 }, reply, answer::empty);
    }

    fn release(
        &self,
        req: &Request,
        node: INodeNo,
        handle: FileHandle,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.with_locks(|locks| locks.drop_handle(handle.0));
        self.0.backing_files.close(handle.0);
        self.channel().cache().closed(node.0);
        self.close(req, handle.0, flags, reply);
    }

    fn fsync(&self, req: &Request, _node: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.ask(req, Op::Fsync { handle: handle.0, data_only }, reply, answer::empty);
    }

    fn opendir(&self, req: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.ask(req, Op::Opendir { node: node.0 }, reply, answer::opened);
    }

    fn readdir(&self, req: &Request, node: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        if let Some(entries) = self.0.listings.take(handle.0, offset) {
            return self.0.listings.answer(handle.0, entries, reply);
        }
        let fs = self.clone();
        let op = Op::Readdir { handle: handle.0, offset };
        self.ask_reading(req, node, op, reply, move |answer, reply| match answer {
            Ok(Reply::Entries { entries }) => fs.0.listings.answer(handle.0, entries.into(), reply),
            other => reply.error(answer::errno(other)),
        });
    }

    fn releasedir(&self, req: &Request, _node: INodeNo, handle: FileHandle, flags: OpenFlags, reply: ReplyEmpty) {
        self.0.listings.close(handle.0);
        self.close(req, handle.0, flags, reply);
    }

    fn fsyncdir(&self, req: &Request, _node: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.ask(req, Op::Fsync { handle: handle.0, data_only }, reply, answer::empty);
    }

    fn statfs(&self, req: &Request, node: INodeNo, reply: ReplyStatfs) {
        self.ask(req, Op::Statfs { node: node.0 }, reply, answer::statfs);
    }

    fn setxattr(
        &self,
        req: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let name = text!(name, reply);
        let op = Op::Setxattr { node: node.0, name, flags, value: Bytes::copy_from_slice(value) };
        self.ask(req, op, reply, answer::empty);
    }

    fn getxattr(&self, req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = text!(name, reply);
        let respond = move |answer, reply| answer::xattr(answer, size, reply);
        self.ask(req, Op::Getxattr { node: node.0, name }, reply, respond);
    }

    fn listxattr(&self, req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let done = move |answer| answer::xattr(answer, size, reply);
        self.0.channel.submit(caller(req), Op::Listxattr { node: node.0 }, Box::new(done));
    }

    fn removexattr(&self, req: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = text!(name, reply);
        self.ask(req, Op::Removexattr { node: node.0, name }, reply, answer::empty);
    }

    fn getlk(
        &self,
        req: &Request,
        node: INodeNo,
        _handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        let op = Op::Getlk { node: node.0, owner: owner.0, lock: Lock { start, end, kind } };
        self.ask(req, op, reply, answer::lock);
    }

    fn setlk(
        &self,
        req: &Request,
        node: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        _pid: u32,
        wait: bool,
        reply: ReplyEmpty,
    ) {
        self.0.locks_asked_for.store(true, Ordering::Relaxed);
        let lock = Lock { start, end, kind };
        let (node, handle, owner) = (node.0, handle.0, owner.0);
        let request = LockRequest { caller: caller(req), tid: req.pid(), node, handle, owner, lock, wait };
        self.0.channel.runtime().spawn(request.serve(self.clone(), reply));
    }

    fn fallocate(
        &self,
        req: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.ask(req, Op::Fallocate { handle: handle.0, offset, length, mode }, reply, answer::empty);
    }

    fn lseek(&self, req: &Request, _node: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.ask(req, Op::Lseek { handle: handle.0, offset, whence }, reply, answer::offset);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _from_node: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _to_node: INodeNo,
        to: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let op = Op::CopyFileRange { from: from.0, from_offset, to: to.0, to_offset, length };
        self.ask(req, op, reply, answer::written);
    }

    // The kernel has its own answers to these; fuser's defaults would log a warning each time.

    fn ioctl(
        &self,
        _req: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in: &[u8],
        _out: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _req: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _req: &Request, _node: INodeNo, _blocksize: u32, _index: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }
}
