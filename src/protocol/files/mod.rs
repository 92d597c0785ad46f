//! What guest and home say about files, and how it looks in bytes.
//!
//! ```text
//! request frame:  u64 id | u32 uid | u32 gid | Op
//! reply frame:    u64 id | Breaks | Reply
//! ```
//!
//! *Breaks* are what no longer holds of what the guest was told before: they come before the reply,
//! because the reply may be how a program of the guest learns that something has changed.
//!
//! All numbers are little-endian. `id` counts requests from 1; replies come in any order. Frame
//! boundaries are kept by the link. The operations are those of the kernel's FUSE protocol as far
//! as home has to do with them; `node` is a FUSE node id, `handle` an open file. Both
//! sides have agreed on a version when the home link came up.

mod codec;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use codec::{Field, messages, record};
pub(crate) use codec::{Name, Text};

use super::{Protocol, ProtocolError};

/// Most bytes that one read or write carries: large enough to keep a link busy, small enough that a
/// terminal's output does not wait behind it.
pub(crate) const MAX_DATA_BYTES: usize = 256 * 1024;

/// Longest frame: data, plus the longest text and the fixed fields.
pub const MAX_FRAME_BYTES: usize = MAX_DATA_BYTES + 16 * 1024;

/// The node id of home's root. 1 is what FUSE calls the root of its mount, and the kernel makes
/// that before it knows of access control lists and never keeps any of it (`fuse_init_inode`): as
/// the guest's root it would cost a question for every path from there.
pub(crate) const ROOT: u64 = 2;

/// The extended attribute for which the kernel asks wherever it needs a permission.
pub(crate) const ACCESS_ACL: &str = "system.posix_acl_access";

/// Most steps of a path that is walked at once, so that the answer stays well below
/// [`MAX_FRAME_BYTES`].
pub(crate) const MAX_STEPS: usize = 64;

fn malformed(what: impl Into<Cow<'static, str>>) -> ProtocolError {
    Protocol::Files.malformed(what)
}

fn too_long(bytes: usize, most: usize) -> ProtocolError {
    ProtocolError::TooLong { protocol: Protocol::Files, bytes, most }
}

/// For whom a request is done, in home's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A request as it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) caller: Caller,
    pub(crate) op: Op,
}

record! {
    /// Seconds and nanoseconds since 1970; nanoseconds count forward also before it.
    #[derive(Copy)]
    pub(crate) struct Time { secs: i64, nanos: u32 }
}

messages! {
    /// What a time stamp is set to.
    #[derive(Copy)]
    pub(crate) enum SetTime {
        /// Home's clock.
        1 Now {},
        2 At { time: Time },
    }
}

record! {
    /// What `stat` shows. `rdev` is encoded as the kernel's 32-bit user-visible device number.
    /// `stable`: may be cached with a TTL, the name asked for included; `leased`: holds until home
    /// says otherwise, but for the time of access; `no_acl`: there is no access control list, as
    /// far as was looked.
    #[derive(Copy)]
    pub(crate) struct Attr {
        ino: u64, size: u64, blocks: u64, atime: Time, mtime: Time, ctime: Time,
        mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, stable: bool, leased: bool,
        no_acl: bool,
    }
}

record! {
    /// What a name means, as in [`Reply::Entry`].
    pub(crate) struct Step { node: u64, attr: Attr, leased: bool }
}

record! {
    /// What is in a stable file, and where home has it: the hosting node may have the same there.
    pub(crate) struct BackingFile { path: Text, digest: Bytes }
}

record! {
    /// All that is in a small file, and its attributes once it was read; both hold until home says
    /// otherwise.
    pub(crate) struct Contents { attr: Attr, data: Bytes }
}

record! {
    /// One entry of a directory; `next` is where the entry after it is read, `kind` one of
    /// `S_IFMT`'s values.
    pub(crate) struct DirEntry { ino: u64, next: u64, kind: u32, name: Bytes }
}

record! {
    /// A range of bytes, both ends included, and `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    #[derive(Copy)]
    pub(crate) struct Lock { start: u64, end: u64, kind: i32 }
}

record! {
    /// What `statfs` shows.
    #[derive(Copy)]
    pub(crate) struct Stats {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32,
    }
}

record! {
    /// What `setattr` changes; `None` stays as it is.
    #[derive(Copy, Default)]
    pub(crate) struct Changes {
        mode: Option<u32>, uid: Option<u32>, gid: Option<u32>, size: Option<u64>,
        atime: Option<SetTime>, mtime: Option<SetTime>,
    }
}

messages! {
    /// What a guest asks home to do.
    pub(crate) enum Op {
        1 Lookup { parent: u64, name: Name },
        /// Takes back `count` lookups.
        2 Forget { node: u64, count: u64 },
        3 Getattr { node: u64 },
        4 Setattr { node: u64, handle: Option<u64>, changes: Changes },
        5 Readlink { node: u64 },
        6 Mknod { parent: u64, name: Name, mode: u32, umask: u32, rdev: u32 },
        7 Mkdir { parent: u64, name: Name, mode: u32, umask: u32 },
        8 Unlink { parent: u64, name: Name },
        9 Rmdir { parent: u64, name: Name },
        10 Symlink { parent: u64, name: Name, target: Text },
        11 Rename { parent: u64, name: Name, new_parent: u64, new_name: Name, flags: u32 },
        12 Link { node: u64, new_parent: u64, new_name: Name },
        13 Open { node: u64, flags: i32 },
        14 Read { handle: u64, offset: u64, size: u32 },
        /// `cached`: written back from the page cache, so `offset` counts even if the handle
        /// appends.
        15 Write { handle: u64, offset: u64, cached: bool, kill_suid: bool, data: Bytes },
        /// A descriptor was closed: gives back all POSIX locks of `owner`.
        16 Flush { node: u64, owner: u64 },
        17 Release { handles: Vec<u64> },
        18 Fsync { handle: u64, data_only: bool },
        19 Opendir { node: u64 },
        20 Readdir { handle: u64, offset: u64 },
        21 Statfs { node: u64 },
        22 Setxattr { node: u64, name: Text, flags: i32, value: Bytes },
        23 Getxattr { node: u64, name: Text },
        24 Listxattr { node: u64 },
        25 Removexattr { node: u64, name: Text },
        26 Create { parent: u64, name: Name, mode: u32, umask: u32, flags: i32 },
        27 Getlk { node: u64, owner: u64, lock: Lock },
        /// Never waits: `EAGAIN` if another holds it. `flock`: the whole file, owned by the handle.
        28 Setlk { node: u64, handle: u64, owner: u64, lock: Lock, flock: bool },
        29 Fallocate { handle: u64, offset: u64, length: u64, mode: i32 },
        30 Lseek { handle: u64, offset: i64, whence: i32 },
        31 CopyFileRange { from: u64, from_offset: u64, to: u64, to_offset: u64, length: u64 },
        /// Looks up names one below the other, the first in the root; at most [`MAX_STEPS`] of
        /// them.
        32 Walk { names: Vec<Name> },
    }
}

messages! {
    /// A lease that home breaks.
    pub(crate) enum Break {
        /// What the name means.
        1 Name { dir: u64, name: Name },
        /// Attributes and contents.
        2 Node { node: u64 },
        3 Everything {},
    }
}

messages! {
    /// What home answers.
    pub(crate) enum Reply {
        1 Done {},
        2 Error { errno: i32 },
        /// `leased`: the name means this file until home says otherwise.
        3 Entry { node: u64, attr: Attr, leased: bool },
        4 Attr { attr: Attr },
        5 Data { data: Bytes },
        /// `stable`: the contents are what they were if the attributes are. `backing`, `contents`:
        /// of a file that is only read.
        6 Opened { handle: u64, stable: bool, backing: Option<BackingFile>, contents: Option<Contents> },
        7 Created { node: u64, attr: Attr, handle: u64 },
        8 Written { bytes: u32 },
        9 Entries { entries: Vec<DirEntry> },
        10 Statfs { stats: Stats },
        11 Lock { lock: Lock },
        12 Offset { offset: u64 },
        /// Answers nothing (its id is 0): home is alive and at work.
        13 Pulse {},
        /// There is no such name, and its directory is stable, or there is none until home says
        /// otherwise, or both.
        14 Missing { stable: bool, leased: bool },
        /// As many of the names as there are.
        15 Walked { steps: Vec<Step> },
    }
}

impl Request {
    /// The request's frame.
    pub(crate) fn encode(&self) -> Bytes {
        let data_bytes = match &self.op {
            Op::Write { data, .. } => data.len(),
            _ => 0,
        };
        let mut out = BytesMut::with_capacity(128 + data_bytes);
        self.id.put(&mut out);
        self.caller.uid.put(&mut out);
        self.caller.gid.put(&mut out);
        self.op.put(&mut out);
        out.freeze()
    }

    /// Reads a request's frame; never panics, whatever it holds.
    pub(crate) fn decode(frame: Bytes) -> Result<Self, ProtocolError> {
        let mut input = open(frame)?;
        let request = Request {
            id: u64::take(&mut input)?,
            caller: Caller { uid: u32::take(&mut input)?, gid: u32::take(&mut input)? },
            op: Op::take(&mut input)?,
        };
        close(input, request)
    }
}

impl Reply {
    /// The frame that answers request `id` with this reply, and tells beforehand what no longer
    /// holds.
    pub(crate) fn encode(&self, id: u64, breaks: &[Break]) -> Bytes {
        let data_bytes = match self {
            Reply::Data { data } | Reply::Opened { contents: Some(Contents { data, .. }), .. } => data.len(),
            _ => 0,
        };
        let mut out = BytesMut::with_capacity(160 + data_bytes);
        id.put(&mut out);
        codec::put_all(breaks, &mut out);
        self.put(&mut out);
        out.freeze()
    }

    /// Reads a reply's frame: the request's id, what no longer holds, and the reply. Never panics,
    /// whatever it holds.
    pub(crate) fn decode(frame: Bytes) -> Result<(u64, Vec<Break>, Self), ProtocolError> {
        let mut input = open(frame)?;
        let reply = (u64::take(&mut input)?, Vec::take(&mut input)?, Reply::take(&mut input)?);
        close(input, reply)
    }
}

/// Checks the size of a frame.
fn open(frame: Bytes) -> Result<Bytes, ProtocolError> {
    if frame.len() > MAX_FRAME_BYTES {
        return Err(too_long(frame.len(), MAX_FRAME_BYTES));
    }
    Ok(frame)
}

/// Checks that nothing follows.
fn close<T>(rest: Bytes, value: T) -> Result<T, ProtocolError> {
    if rest.is_empty() { Ok(value) } else { Err(malformed(format!("{} bytes too many", rest.len()))) }
}
