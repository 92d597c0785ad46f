//! Files of the hosting node that hold what home's hold, and are read in their place: local resources where possible.
//!
//! Home names the path and the digest of a settled file as it is opened. If this node's file at that path is settled too and has the same
//! digest, the open file is read here until it is closed. A node that replaces a package replaces its files, so what is open stays
//! what it was.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, StatxFlags};
use rustix::io::ReadWriteFlags;

use super::super::settled::Settled;
use super::super::wire::Twin;

/// How long looking for a file here may hold up its opening.
const FIND_TIMEOUT: Duration = Duration::from_secs(5);

/// The open files that are read here, by home's handles.
#[derive(Debug)]
pub(super) struct Twins {
    settled: Arc<Settled>,
    open: Mutex<HashMap<u64, Arc<File>>>,
}

impl Twins {
    pub(super) fn new(settled: Settled) -> Self {
        Self { settled: Arc::new(settled), open: Mutex::default() }
    }

    /// Reads `handle` here from now on, if this node has the file.
    pub(super) async fn find(&self, handle: u64, twin: Twin) {
        let settled = self.settled.clone();
        let found = tokio::task::spawn_blocking(move || same(&settled, &twin));
        match tokio::time::timeout(FIND_TIMEOUT, found).await {
            Ok(Ok(Ok(Some(file)))) => drop(self.lock().insert(handle, Arc::new(file))),
            Ok(Ok(Ok(None))) => {}
            other => tracing::debug!(?other, "a file is read at home, as it cannot be looked at here"),
        }
    }

    /// The file that is read here in the place of `handle`.
    pub(super) fn get(&self, handle: u64) -> Option<Arc<File>> {
        self.lock().get(&handle).cloned()
    }

    /// The handle is closed.
    pub(super) fn close(&self, handle: u64) {
        self.lock().remove(&handle);
    }

    // Entries come and go whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This node's file, if it is the same.
fn same(settled: &Settled, twin: &Twin) -> io::Result<Option<File>> {
    let path = Path::new(OsStr::from_bytes(twin.path.as_bytes()));
    if !path.is_absolute() {
        return Ok(None);
    }
    // Nothing but a regular file is opened, as opening others may do something.
    let there = match rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        there => there?,
    };
    let stat = rustix::fs::statx(&there, "", rustix::fs::AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
        return Ok(None);
    }
    let file = File::open(format!("/proc/self/fd/{}", there.as_raw_fd()))?;
    let digest = settled.digest(&file, &stat)?;
    Ok(digest.filter(|digest| digest[..] == twin.digest[..]).map(|_| file))
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

    use super::super::super::wire::Text;
    use super::*;

    #[test]
    fn only_what_is_the_same_is_read_here() {
        let dir = tempfile::tempdir().unwrap();
        let settled = Settled::after(dir.path(), Duration::ZERO);
        let path = dir.path().join("file");
        let write = |byte: u8| std::fs::write(&path, vec![byte; 100_000]).unwrap();
        let twin = |digest: &[u8]| Twin {
            path: Text::new(path.as_os_str().as_bytes()).unwrap(),
            digest: Bytes::copy_from_slice(digest),
        };
        let sha256 = |byte: u8| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &vec![byte; 100_000]);
        assert!(same(&settled, &twin(sha256(1).as_ref())).unwrap().is_none());
        write(1);
        // Once worked out and once looked up.
        for _ in 0..2 {
            let file = same(&settled, &twin(sha256(1).as_ref())).unwrap().unwrap();
            assert_eq!(read(&file, 99_990, 100).unwrap(), [1; 10]);
            assert_eq!(read_at_once(&file, 0, 4096), Some(vec![1; 4096]));
            assert_eq!(read_at_once(&file, 99_990, 100), None);
            assert!(same(&settled, &twin(sha256(2).as_ref())).unwrap().is_none());
        }
        // The clock that stamps files has ticks.
        std::thread::sleep(Duration::from_millis(20));
        write(2);
        assert!(same(&settled, &twin(sha256(1).as_ref())).unwrap().is_none());
        assert!(same(&settled, &twin(sha256(2).as_ref())).unwrap().is_some());
        let late = Settled::after(dir.path(), Duration::from_secs(600));
        assert!(same(&late, &twin(sha256(2).as_ref())).unwrap().is_none());
        let fifo = Twin { path: Text::new(b"/dev/null").unwrap(), digest: Bytes::from_static(&[0; 32]) };
        assert!(same(&settled, &fifo).unwrap().is_none());
    }
}
