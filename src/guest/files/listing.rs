//! Directory listings under way.
//!
//! Home sends more entries at once than the kernel takes; the rest is kept for the kernel's next
//! request, exactly as the C library keeps what one system call gave it. Any other offset, such as
//! 0 after `rewinddir`, asks home anew.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuser::{INodeNo, ReplyDirectory};

use super::answer::file_type;
use crate::protocol::files::DirEntry;

/// What is left of each open directory's last piece.
#[derive(Debug, Default)]
pub(super) struct Listings(Mutex<HashMap<u64, Rest>>);

#[derive(Debug)]
struct Rest {
    offset: u64,
    entries: VecDeque<DirEntry>,
}

impl Listings {
    /// What is left of directory `handle` at `offset`, if anything.
    pub(super) fn take(&self, handle: u64, offset: u64) -> Option<VecDeque<DirEntry>> {
        let rest = self.lock().remove(&handle)?;
        (rest.offset == offset && !rest.entries.is_empty()).then_some(rest.entries)
    }

    /// Gives the kernel as many entries as it takes and keeps the others.
    pub(super) fn answer(&self, handle: u64, mut entries: VecDeque<DirEntry>, mut reply: ReplyDirectory) {
        let mut offset = 0;
        while let Some(entry) = entries.front() {
            let is_full =
                reply.add(INodeNo(entry.ino), entry.next, file_type(entry.kind), OsStr::from_bytes(&entry.name));
            if is_full {
                break;
            }
            offset = entry.next;
            entries.pop_front();
        }
        // Before the reply, which lets the kernel ask on.
        if !entries.is_empty() {
            self.lock().insert(handle, Rest { offset, entries });
        }
        reply.ok();
    }

    /// The directory was closed.
    pub(super) fn close(&self, handle: u64) {
        self.lock().remove(&handle);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Rest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
