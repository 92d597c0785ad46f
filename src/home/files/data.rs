//! Operations on open files and directories.
//!
//! Files are read and written at the offset that the request names; no handle's own offset is used,
//! except that of a directory, which is set before each listing because only home's file system
//! knows what its offsets mean.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;

use bytes::Bytes;
use rustix::fs::{AtFlags, FallocateFlags, FileType, OFlags, RawDir, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::Tree;
use super::inodes::{dev, stat};
use super::leases::Lease;
use super::names::as_leased;
use crate::protocol::files::{BackingFile, Contents, DirEntry, MAX_DATA_BYTES, Reply, Text};
use crate::sys::descriptor::proc_path;

/// Size up to which all of a file that is opened to be read comes with home's answer, in bytes:
/// most headers and sources, and no more than the kernel reads ahead anyway.
const CONTENTS_BYTES: u64 = 64 << 10;

/// Directory entries are read from home's kernel in pieces of this size.
const LISTING_BYTES: usize = 32 * 1024;

/// Most bytes copied by one request, so that it ends in reasonable time; the kernel asks for the
/// rest.
const COPY_MAX_BYTES: u64 = 64 << 20;

/// The flags with which home opens a file that a guest opens with `flags`.
///
/// Not passed on: `O_APPEND`, because pages written back from a mapping must go where they belong
/// even through an appending handle; `O_DIRECT`, because the worker's buffers are not aligned; what
/// makes names, since the name is done with; and what would signal the worker.
pub(super) fn home_flags(flags: i32) -> OFlags {
    const KEPT: i32 = libc::O_ACCMODE | libc::O_TRUNC | libc::O_SYNC | libc::O_DSYNC | libc::O_NOATIME;
    OFlags::from_bits_retain((flags & KEPT).cast_unsigned()) | OFlags::CLOEXEC
}

impl Tree {
    pub(super) fn open(&self, node: u64, flags: i32) -> Result<Reply, Errno> {
        let appends = flags & libc::O_APPEND != 0;
        let file = match self.reopen(node, FileType::RegularFile, home_flags(flags)) {
            // A file that may only be appended to (chattr +a) has to be opened so.
            Err(Errno::PERM) if appends => {
                self.reopen(node, FileType::RegularFile, home_flags(flags) | OFlags::APPEND)?
            }
            file => file?,
        };
        let stat = stat(&file)?;
        let stable = self.inodes.stable().holds(&file, &stat);
        let contents = match flags & libc::O_ACCMODE {
            libc::O_RDONLY if stat.stx_size <= CONTENTS_BYTES => self.contents(node, &file)?,
            _ => None,
        };
        Ok(Reply::Opened { handle: self.handles.insert(file, appends, dev(&stat)), stable, backing: None, contents })
    }

    /// All that is in a small file, if it is leased.
    fn contents(&self, node: u64, file: &OwnedFd) -> Result<Option<Contents>, Errno> {
        if self.leases.lease(node, &*self.inodes.get(node)?) == Lease::No {
            return Ok(None);
        }
        // One byte more tells whether it has grown meanwhile.
        let data = read_at(file, 0, CONTENTS_BYTES as usize + 1)?;
        if data.len() as u64 > CONTENTS_BYTES {
            return Ok(None);
        }
        let attr = as_leased(self.inodes.attr(file)?, &proc_path(file));
        Ok(Some(Contents { attr, data: data.into() }))
    }

    /// What the hosting node needs to know to read its own file instead of an open one of home's.
    pub(super) fn backing(&self, handle: u64) -> Result<Option<BackingFile>, Errno> {
        let handle = self.handles.get(handle)?;
        let digest = match self.inodes.stable().digest(&handle.file, &stat(&handle.file)?) {
            Ok(digest) => digest,
            Err(error) => {
                tracing::debug!(%error, "a stable file has no digest");
                None
            }
        };
        let Some(digest) = digest else { return Ok(None) };
        let path = rustix::fs::readlink(proc_path(&handle.file), Vec::new())?;
        let path = Text::new(path.as_bytes());
        Ok(path.map(|path| BackingFile { path, digest: Bytes::copy_from_slice(&digest) }))
    }

    pub(super) fn opendir(&self, node: u64) -> Result<Reply, Errno> {
        let dir = self.reopen(node, FileType::Directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let dev = dev(&stat(&dir)?);
        Ok(Reply::Opened { handle: self.handles.insert(dir, false, dev), stable: false, backing: None, contents: None })
    }

    pub(super) fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Reply, Errno> {
        let handle = self.handles.get(handle)?;
        let size = usize::try_from(size).map_or(MAX_DATA_BYTES, |size| size.min(MAX_DATA_BYTES));
        let data = read_at(&handle.file, offset, size)?;
        Ok(Reply::Data { data: Bytes::from(data) })
    }

    pub(super) fn write(&self, handle: u64, offset: u64, cached: bool, data: &Bytes) -> Result<Reply, Errno> {
        let handle = self.handles.get(handle)?;
        let written = if handle.appends && !cached {
            rustix::io::pwritev2(&handle.file, &[IoSlice::new(data)], 0, ReadWriteFlags::APPEND)?
        } else {
            rustix::io::pwrite(&handle.file, data, offset)?
        };
        Ok(Reply::Written { bytes: u32::try_from(written).map_err(|_| Errno::OVERFLOW)? })
    }

    pub(super) fn fsync(&self, handle: u64, data_only: bool) -> Result<Reply, Errno> {
        let handle = self.handles.get(handle)?;
        if data_only {
            rustix::fs::fdatasync(&handle.file)?
        } else {
            rustix::fs::fsync(&handle.file)?
        }
        Ok(Reply::Done {})
    }

    pub(super) fn readdir(&self, handle: u64, offset: u64) -> Result<Reply, Errno> {
        let dir = self.handles.get(handle)?;
        let _cursor = dir.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::fs::seek(&dir.file, SeekFrom::Start(offset))?;
        let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
        let mut listing = RawDir::new(&dir.file, &mut buffer);
        let mut entries = Vec::new();
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = Bytes::copy_from_slice(entry.file_name().to_bytes());
            let kind = match entry.file_type() {
                // Some file systems do not tell; FUSE must be told.
                FileType::Unknown => {
                    match rustix::fs::statat(&dir.file, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                        // It went away meanwhile.
                        Err(_) => FileType::RegularFile,
                    }
                }
                kind => kind,
            };
            entries.push(DirEntry {
                ino: self.inodes.number(dir.dev, entry.ino()),
                next: entry.next_entry_cookie(),
                kind: kind.as_raw_mode(),
                name,
            });
            if listing.is_buffer_empty() {
                break;
            }
        }
        Ok(Reply::Entries { entries })
    }

    pub(super) fn fallocate(&self, handle: u64, offset: u64, length: u64, mode: i32) -> Result<Reply, Errno> {
        let mode = FallocateFlags::from_bits(mode.cast_unsigned()).ok_or(Errno::OPNOTSUPP)?;
        rustix::fs::fallocate(&self.handles.get(handle)?.file, mode, offset, length)?;
        Ok(Reply::Done {})
    }

    pub(super) fn lseek(&self, handle: u64, offset: i64, whence: i32) -> Result<Reply, Errno> {
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let position = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        Ok(Reply::Offset { offset: rustix::fs::seek(&self.handles.get(handle)?.file, position)? })
    }

    pub(super) fn copy_file_range(&self, from: (u64, u64), to: (u64, u64), length: u64) -> Result<Reply, Errno> {
        let (source, target) = (self.handles.get(from.0)?, self.handles.get(to.0)?);
        let (mut from_offset, mut to_offset) = (from.1, to.1);
        let length = usize::try_from(length.min(COPY_MAX_BYTES)).map_err(|_| Errno::OVERFLOW)?;
        let copied = rustix::fs::copy_file_range(
            &source.file,
            Some(&mut from_offset),
            &target.file,
            Some(&mut to_offset),
            length,
        )?;
        Ok(Reply::Written { bytes: u32::try_from(copied).map_err(|_| Errno::OVERFLOW)? })
    }
}

/// Reads `size` bytes from `offset` on. Shorter only at the end of the file, because the kernel
/// takes less than it asked for as that.
fn read_at(file: &OwnedFd, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
    let mut data = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match rustix::io::pread(file, &mut data[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(Errno::INTR) => {}
            Err(_) if filled > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    data.truncate(filled);
    Ok(data)
}
