//! Files of the hosting node that hold what home's hold, and are read in their place: local
//! resources where possible.
//!
//! Home names the path and the digest of a stable file as it is opened to be read. If this node's
//! file at that path is stable too and has the same digest, the open file is read here until it is
//! closed. A node that replaces a package replaces its files, so what is open stays what it was.
//!
//! The kernel reads and maps such a file itself if it can (FUSE passthrough, Linux 6.9): then the
//! guest shares the file's pages in memory with the node's own programs and with other guests. It
//! does that either for all that have a file open at a time or for none, and answers who mixes them
//! with `EIO` (`fs/fuse/iomode.c`); so what a file's first opening finds holds until its last
//! closing. A file of an overlay it does not read itself, as CRIU could not dump what is mapped of
//! it (`max_stack_depth`): the agent reads it.
//!
//! The files are opened below a mount of their own ([`own_root`]). CRIU runs under this node's
//! dynamic loader, and the kernel does not let it give its place to a program that maps the very
//! file that CRIU was started as (`replace_mm_exe_file`, by mount and name).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuser::BackingId;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::ReadWriteFlags;
use rustix::mount::OpenTreeFlags;

use crate::link::files::StableFiles;
use crate::protocol::files::BackingFile;
use crate::sys::descriptor::proc_path;

/// How long looking for a file here may hold up its opening.
const FIND_TIMEOUT: Duration = Duration::from_secs(5);

/// How the kernel gets at what is in an open file; `B` names this node's file to it.
#[derive(Debug)]
pub(super) enum IoMode<B> {
    /// It asks the agent and keeps the pages.
    Pages,
    /// It reads this node's file.
    Backed(Arc<B>),
    /// It asks the agent and keeps nothing, as others have the file open as [`IoMode::Backed`] and
    /// this opening cannot.
    Direct,
}

/// The files that the guest has open, and which of them are read here.
#[derive(Debug)]
pub(super) struct BackingFiles<B = BackingId> {
    stable: Arc<StableFiles>,
    /// This node's root.
    root: Arc<OwnedFd>,
    open: Mutex<Open<B>>,
}

#[derive(Debug)]
struct Open<B> {
    /// By home's handles.
    handles: HashMap<u64, Handle>,
    nodes: HashMap<u64, Node<B>>,
}

#[derive(Debug)]
struct Handle {
    node: u64,
    backing: Option<Arc<File>>,
}

#[derive(Debug)]
struct Node<B> {
    /// What its first opening found.
    backed: Option<Arc<B>>,
    handles: usize,
}

impl<B> BackingFiles<B> {
    /// Of files below `root`, this node's.
    pub(super) fn new(stable: StableFiles, root: OwnedFd) -> Self {
        let open = Mutex::new(Open { handles: HashMap::new(), nodes: HashMap::new() });
        Self { stable: Arc::new(stable), root: Arc::new(root), open }
    }

    /// This node's file, if it has the same.
    pub(super) async fn find(&self, backing: BackingFile) -> Option<File> {
        let (stable, root) = (self.stable.clone(), self.root.clone());
        let found = tokio::task::spawn_blocking(move || same(&stable, &root, &backing));
        match tokio::time::timeout(FIND_TIMEOUT, found).await {
            Ok(Ok(Ok(found))) => found,
            other => {
                tracing::debug!(?other, "a file is read at home, as it cannot be looked at here");
                None
            }
        }
    }

    /// Home has opened a file as `handle`, of which this node has a `backing` or not; `back` names
    /// that to the kernel.
    pub(super) fn open(
        &self,
        node: u64,
        handle: u64,
        backing: Option<File>,
        back: impl FnOnce(&File) -> Option<B>,
    ) -> IoMode<B> {
        let mut open = self.lock();
        let first = || Node { backed: backing.as_ref().and_then(back).map(Arc::new), handles: 0 };
        let of = open.nodes.entry(node).or_insert_with(first);
        of.handles += 1;
        let mode = match &of.backed {
            None => IoMode::Pages,
            Some(backed) if backing.is_some() => IoMode::Backed(backed.clone()),
            Some(_) => IoMode::Direct,
        };
        open.handles.insert(handle, Handle { node, backing: backing.map(Arc::new) });
        mode
    }

    /// The file that is read here in the place of `handle`.
    pub(super) fn get(&self, handle: u64) -> Option<Arc<File>> {
        self.lock().handles.get(&handle)?.backing.clone()
    }

    /// The handle is closed.
    pub(super) fn close(&self, handle: u64) {
        let mut open = self.lock();
        let Some(Handle { node, .. }) = open.handles.remove(&handle) else { return };
        let Some(of) = open.nodes.get_mut(&node) else { return };
        of.handles -= 1;
        if of.handles == 0 {
            open.nodes.remove(&node);
        }
    }

    // Entries come and go whole.
    fn lock(&self) -> MutexGuard<'_, Open<B>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This node's tree, under mounts of its own that are nowhere to be found.
pub(super) fn own_root() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(CWD, "/", flags)?)
}

/// This node's file, if it is the same.
fn same(stable: &StableFiles, root: &OwnedFd, backing: &BackingFile) -> io::Result<Option<File>> {
    let path = Path::new(OsStr::from_bytes(backing.path.as_bytes()));
    if !path.is_absolute() {
        return Ok(None);
    }
    // Nothing but a regular file is opened, as opening others may do something.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let there = match rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        there => there?,
    };
    let stat = rustix::fs::statx(&there, "", rustix::fs::AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
        return Ok(None);
    }
    let file = File::open(proc_path(&there))?;
    let digest = stable.digest(&file, &stat)?;
    Ok(digest.filter(|digest| digest[..] == backing.digest[..]).map(|_| file))
}

/// What of the file is in memory, if that is all that was asked for.
pub(super) fn read_at_once(file: &File, offset: u64, size: u32) -> Option<Vec<u8>> {
    let mut data = vec![0; size as usize];
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut data)], offset, ReadWriteFlags::NOWAIT).ok()?;
    (read == data.len()).then_some(data)
}

/// The same, whether it is in memory or not. Shorter only at the end of the file.
pub(super) fn read(file: &File, offset: u64, size: u32) -> io::Result<Vec<u8>> {
    let mut data = vec![0; size as usize];
    let mut filled = 0;
    while filled < data.len() {
        match file.read_at(&mut data[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    data.truncate(filled);
    Ok(data)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::files::Text;

    fn node_root() -> OwnedFd {
        File::open("/").unwrap().into()
    }

    #[test]
    fn the_first_open_decides_the_io_mode_until_the_last_close() {
        let dir = tempfile::tempdir().unwrap();
        let backing_files = BackingFiles::<u32>::new(StableFiles::new(dir.path()), node_root());
        let open = |handle, has_backing: bool, back: Option<u32>| {
            let backing = has_backing.then(|| tempfile::tempfile().unwrap());
            match backing_files.open(7, handle, backing, |_| back) {
                IoMode::Pages => "pages".to_owned(),
                IoMode::Backed(backed) => format!("backed by {backed}"),
                IoMode::Direct => "direct".to_owned(),
            }
        };
        assert_eq!(open(1, true, Some(1)), "backed by 1");
        assert_eq!(open(2, true, Some(2)), "backed by 1");
        assert_eq!(open(3, false, None), "direct");
        backing_files.close(1);
        assert_eq!(open(4, true, Some(3)), "backed by 1");
        for handle in [2, 3, 4, 4] {
            backing_files.close(handle);
        }
        // The kernel cannot do it.
        assert_eq!(open(5, true, None), "pages");
        assert_eq!(open(6, true, Some(4)), "pages");
        assert!(backing_files.get(6).is_some() && backing_files.get(1).is_none());
        backing_files.close(5);
        backing_files.close(6);
        assert_eq!(open(7, false, None), "pages");
        assert_eq!(open(8, true, Some(5)), "pages");
    }

    #[test]
    fn only_what_is_the_same_is_read_here() {
        let dir = tempfile::tempdir().unwrap();
        let stable = StableFiles::after(dir.path(), Duration::ZERO);
        let root = node_root();
        let path = dir.path().join("file");
        let write = |byte: u8| std::fs::write(&path, vec![byte; 100_000]).unwrap();
        let backing = |digest: &[u8]| BackingFile {
            path: Text::new(path.as_os_str().as_bytes()).unwrap(),
            digest: Bytes::copy_from_slice(digest),
        };
        let sha256 = |byte: u8| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &vec![byte; 100_000]);
        assert!(same(&stable, &root, &backing(sha256(1).as_ref())).unwrap().is_none());
        write(1);
        // Once worked out and once looked up.
        for _ in 0..2 {
            let file = same(&stable, &root, &backing(sha256(1).as_ref())).unwrap().unwrap();
            assert_eq!(read(&file, 99_990, 100).unwrap(), [1; 10]);
            assert_eq!(read_at_once(&file, 0, 4096), Some(vec![1; 4096]));
            assert_eq!(read_at_once(&file, 99_990, 100), None);
            assert!(same(&stable, &root, &backing(sha256(2).as_ref())).unwrap().is_none());
        }
        // The clock that stamps files has ticks.
        std::thread::sleep(Duration::from_millis(20));
        write(2);
        assert!(same(&stable, &root, &backing(sha256(1).as_ref())).unwrap().is_none());
        assert!(same(&stable, &root, &backing(sha256(2).as_ref())).unwrap().is_some());
        let late = StableFiles::after(dir.path(), Duration::from_secs(600));
        assert!(same(&late, &root, &backing(sha256(2).as_ref())).unwrap().is_none());
        let fifo = BackingFile { path: Text::new(b"/dev/null").unwrap(), digest: Bytes::from_static(&[0; 32]) };
        assert!(same(&stable, &root, &fifo).unwrap().is_none());
    }
}
