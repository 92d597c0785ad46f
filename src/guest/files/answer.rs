//! From home's replies to the kernel's.

use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow,
};

use super::backing::IoMode;
use super::channel::ChannelError;
use crate::link::files::STABLE_TTL_MS;
use crate::protocol::files::{Attr, ROOT, Reply, SetTime, Time};

/// How long the kernel may cache these attributes, and the name that led to them.
fn time_to_live(attr: &Attr) -> Duration {
    if attr.stable { Duration::from_millis(STABLE_TTL_MS) } else { Duration::ZERO }
}

/// Attributes of a file that is not there.
const NO_FILE: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: SystemTime::UNIX_EPOCH,
    mtime: SystemTime::UNIX_EPOCH,
    ctime: SystemTime::UNIX_EPOCH,
    crtime: SystemTime::UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

/// A directory of which nothing else is told.
const DIRECTORY: FileAttr = FileAttr { kind: FileType::Directory, perm: 0o755, nlink: 2, ..NO_FILE };

/// Node ids are not used again while the kernel knows them, so one generation is enough.
const GENERATION: Generation = Generation(0);

/// What became of a request.
pub(super) type Answer = Result<Reply, ChannelError>;

/// The error that an answer amounts to where it is not the reply hoped for.
pub(super) fn errno(answer: Answer) -> Errno {
    match answer {
        Ok(Reply::Error { errno }) => Errno::from_i32(errno),
        Ok(Reply::Missing { .. }) => Errno::ENOENT,
        Ok(reply) => {
            tracing::error!(?reply, "home answered another question than was asked");
            Errno::EIO
        }
        // Logged once by the channel.
        Err(_) => Errno::EIO,
    }
}

pub(super) fn empty(answer: Answer, reply: ReplyEmpty) {
    match answer {
        Ok(Reply::Done {}) => reply.ok(),
        other => reply.error(errno(other)),
    }
}

pub(super) fn entry(answer: Answer, reply: ReplyEntry) {
    match answer {
        Ok(Reply::Entry { node, attr, .. }) => reply.entry(&time_to_live(&attr), &file_attr(node, &attr), GENERATION),
        // Node 0: there is no such name, and that may be cached.
        Ok(Reply::Missing { stable: true, .. }) => {
            reply.entry(&Duration::from_millis(STABLE_TTL_MS), &NO_FILE, GENERATION)
        }
        other => reply.error(errno(other)),
    }
}

/// The one thing that the mount's own root has. The kernel asks for its attributes as it uses them.
pub(super) fn home_root(reply: ReplyEntry) {
    reply.entry(&Duration::ZERO, &FileAttr { ino: INodeNo(ROOT), ..DIRECTORY }, GENERATION);
}

pub(super) fn mount_root(reply: ReplyAttr) {
    reply.attr(&Duration::from_millis(STABLE_TTL_MS), &FileAttr { ino: INodeNo::ROOT, ..DIRECTORY });
}

pub(super) fn attr(answer: Answer, reply: ReplyAttr) {
    match answer {
        Ok(Reply::Attr { attr }) => reply.attr(&time_to_live(&attr), &file_attr(attr.ino, &attr)),
        other => reply.error(errno(other)),
    }
}

pub(super) fn data(answer: Answer, reply: ReplyData) {
    match answer {
        Ok(Reply::Data { data }) => reply.data(&data),
        other => reply.error(errno(other)),
    }
}

/// Of a directory.
pub(super) fn opened(answer: Answer, reply: ReplyOpen) {
    match answer {
        Ok(Reply::Opened { handle, .. }) => reply.opened(FileHandle(handle), FopenFlags::empty()),
        other => reply.error(errno(other)),
    }
}

/// What the kernel does with the pages of a file that it opens: unless told to keep those that it
/// has, it drops them.
pub(super) fn page_flags<B>(mode: &IoMode<B>, keeps_pages: bool) -> FopenFlags {
    match mode {
        IoMode::Direct => FopenFlags::FOPEN_DIRECT_IO,
        IoMode::Pages if keeps_pages => FopenFlags::FOPEN_KEEP_CACHE,
        IoMode::Pages | IoMode::Backed(_) => FopenFlags::empty(),
    }
}

pub(super) fn created(answer: Answer, flags: FopenFlags, reply: ReplyCreate) {
    match answer {
        Ok(Reply::Created { node, attr, handle }) => {
            reply.created(&time_to_live(&attr), &file_attr(node, &attr), GENERATION, FileHandle(handle), flags);
        }
        other => reply.error(errno(other)),
    }
}

pub(super) fn written(answer: Answer, reply: ReplyWrite) {
    match answer {
        Ok(Reply::Written { bytes }) => reply.written(bytes),
        other => reply.error(errno(other)),
    }
}

pub(super) fn offset(answer: Answer, reply: ReplyLseek) {
    match answer {
        Ok(Reply::Offset { offset }) => match i64::try_from(offset) {
            Ok(offset) => reply.offset(offset),
            Err(_) => reply.error(Errno::EOVERFLOW),
        },
        other => reply.error(errno(other)),
    }
}

pub(super) fn statfs(answer: Answer, reply: ReplyStatfs) {
    match answer {
        Ok(Reply::Statfs { stats }) => reply.statfs(
            stats.blocks,
            stats.bfree,
            stats.bavail,
            stats.files,
            stats.ffree,
            stats.bsize,
            stats.namelen,
            stats.frsize,
        ),
        other => reply.error(errno(other)),
    }
}

pub(super) fn lock(answer: Answer, reply: ReplyLock) {
    match answer {
        // The holder is a process at home, or of another guest: no pid that this one could know.
        Ok(Reply::Lock { lock }) => reply.locked(lock.start, lock.end, lock.kind, 0),
        other => reply.error(errno(other)),
    }
}

/// `size` is how much room the program has; 0 asks how much it needs.
pub(super) fn xattr(answer: Answer, size: u32, reply: ReplyXattr) {
    match answer {
        Ok(Reply::Data { data }) => match u32::try_from(data.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&data),
            _ => reply.error(Errno::ERANGE),
        },
        other => reply.error(errno(other)),
    }
}

/// What is said of files to programs that ask how much to read and write at a time, as the C
/// library does for its buffers, in bytes: each time is a question to home. Other network file
/// systems say more.
const IO_BYTES: u32 = 64 << 10;

/// The kernel's view of home's attributes; `node` because fuser takes node id and inode number for
/// one thing.
fn file_attr(node: u64, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(node),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.mode),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize.max(IO_BYTES),
        flags: 0,
    }
}

/// The sort of file that a mode tells.
pub(super) fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

fn system_time(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.secs.unsigned_abs());
    let whole = if time.secs < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    let exact = whole.and_then(|whole| whole.checked_add(Duration::from_nanos(u64::from(time.nanos))));
    exact.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The time stamp that a program asked for.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    let time = match time {
        TimeOrNow::Now => return SetTime::Now {},
        TimeOrNow::SpecificTime(time) => time,
    };
    let time = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Time { secs: after.as_secs().cast_signed(), nanos: after.subsec_nanos() },
        // Before 1970 fuser 0.18 subtracts the nanoseconds, which count forward; this takes its two
        // numbers back out.
        Err(before) => {
            let before = before.duration();
            Time { secs: -before.as_secs().cast_signed(), nanos: before.subsec_nanos() }
        }
    };
    SetTime::At { time }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_nanoseconds_forward() {
        let time = system_time(Time { secs: -2, nanos: 800_000_000 });
        assert_eq!(SystemTime::UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(1200));
        assert!(system_time(Time { secs: i64::MAX, nanos: 0 }) > SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn what_fuser_makes_of_a_time_is_undone() {
        let from_fuser = SystemTime::UNIX_EPOCH - Duration::new(2, 800_000_000);
        let time = Time { secs: -2, nanos: 800_000_000 };
        assert_eq!(set_time(TimeOrNow::SpecificTime(from_fuser)), SetTime::At { time });
    }

    #[test]
    fn room_for_attributes_is_checked() {
        assert_eq!(errno(Ok(Reply::Error { errno: libc::ENODATA })), Errno::from_i32(libc::ENODATA));
        assert_eq!(errno(Ok(Reply::Done {})), Errno::EIO);
        assert_eq!(errno(Err(ChannelError::Cut { reason: "test".into() })), Errno::EIO);
    }
}
