//! Files that will stay as they are for a while: their attribute TTL and the digests of their
//! contents.
//!
//! A compiler looks up some thousands of names below `/usr`, none of which has changed for weeks.
//! Files there are *stable*: they belong to root, only root may write them, they are on a local
//! disk, and nothing about them has changed for [`STABLE_AFTER`]. The longer a file has stayed as
//! it is, the longer it will: the same reasoning lets NFS cache attributes for a tenth of the time
//! since the last change (nfs(5), `acregmin`), where this asks for 200 times the TTL
//! ([`STABLE_TTL_MS`](super::STABLE_TTL_MS)). What users own is never stable, and root's own
//! programs, who might change such files, are never answered so.
//!
//! Programs and libraries are mostly the same on all nodes. That a stable file has the same
//! contents at home and where a guest is hosted is known by the SHA-256 digests of both, each
//! worked out once and kept for all agents of a node:
//!
//! ```text
//!   RUN_DIR/digests/SLOT   device, inode, size, time of change, digest; at most SLOTS of them
//! ```

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustix::fs::{FileType, Statx};
use serde::{Deserialize, Serialize};

/// How long nothing must have changed.
const STABLE_AFTER: Duration = Duration::from_secs(600);

/// File systems on which only what goes through this kernel changes a file, and a change shows in
/// its time stamps: ext2 to ext4, XFS, Btrfs, F2FS, tmpfs, overlayfs, SquashFS, EROFS
/// (`linux/magic.h`), ZFS.
const LOCAL: [u64; 9] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994, 0x794c_7630, 0x7371_7368, 0xe0f5_e1e2, 0x2fc1_2fc1];

/// Sizes of files of which a digest is worth its time, in bytes: a smaller one is read in a round
/// trip, and for a larger one the guest that opens it would have to wait.
const DIGESTED: std::ops::Range<u64> = 64 << 10..256 << 20;

/// Digests that a node keeps.
const SLOTS: u64 = 4_096;

/// How much of a file is read at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// SHA-256 of a file's contents.
pub(crate) type Digest = [u8; SHA256_OUTPUT_LEN];

/// What is stable on this node, and where the digests are.
#[derive(Debug)]
pub struct StableFiles {
    after: Duration,
    digests: PathBuf,
}

/// A digest and the file that it is of.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    device: (u32, u32),
    inode: u64,
    size: u64,
    changed: (i64, u32),
    digest: Digest,
}

impl StableFiles {
    /// With digests kept below a node's run-time directory.
    pub fn new(run_dir: &Path) -> Self {
        Self::after(run_dir, STABLE_AFTER)
    }

    /// The same, where files are stable that were changed so long ago.
    pub fn after(run_dir: &Path, after: Duration) -> Self {
        Self { after, digests: run_dir.join("digests") }
    }

    /// Whether the file may be taken to stay as it is for a while.
    pub(crate) fn holds(&self, file: impl AsFd, stat: &Statx) -> bool {
        only_root_changes(stat) && is_old(stat, self.after) && is_local(file)
    }

    /// The digest of a stable file that is worth one.
    pub(crate) fn digest(&self, file: impl AsFd, stat: &Statx) -> io::Result<Option<Digest>> {
        let is_file = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
        if !is_file || !DIGESTED.contains(&stat.stx_size) || !self.holds(&file, stat) {
            return Ok(None);
        }
        let mut known = Known {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            digest: Digest::default(),
        };
        let slot = self.slot(&known);
        let kept = std::fs::read(&slot).ok().and_then(|text| serde_json::from_slice::<Known>(&text).ok());
        if let Some(kept) = kept.filter(|kept| Known { digest: Digest::default(), ..*kept } == known) {
            return Ok(Some(kept.digest));
        }
        known.digest = contents(file, stat.stx_size)?;
        if let Err(error) = self.keep(&slot, &known) {
            tracing::debug!(%error, "a digest is not kept");
        }
        Ok(Some(known.digest))
    }

    fn slot(&self, known: &Known) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (known.device, known.inode).hash(&mut hasher);
        self.digests.join((hasher.finish() % SLOTS).to_string())
    }

    /// Whole or not at all: other agents read it.
    fn keep(&self, slot: &Path, known: &Known) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.digests)?;
        let new = slot.with_extension(format!("{:?}-{}", std::thread::current().id(), std::process::id()));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(known)?)?;
        std::fs::rename(new, slot)
    }
}

fn contents(file: impl AsFd, size: u64) -> io::Result<Digest> {
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < size {
        match rustix::io::pread(&file, &mut chunk, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => {
                context.update(&chunk[..bytes]);
                at += bytes as u64;
            }
        }
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    Ok(digest)
}

fn only_root_changes(stat: &Statx) -> bool {
    let mode = u32::from(stat.stx_mode);
    let others_write = mode & 0o022 != 0;
    let kind = FileType::from_raw_mode(mode);
    // The mode of a symbolic link means nothing.
    let is_safe = match kind {
        FileType::Symlink => true,
        FileType::RegularFile | FileType::Directory => !others_write,
        _ => false,
    };
    stat.stx_uid == 0 && is_safe
}

/// The time of change cannot be set by hand, so no unpacked archive seems old. A clock that was set
/// back only makes files seem new.
fn is_old(stat: &Statx, after: Duration) -> bool {
    let Ok(seconds) = u64::try_from(stat.stx_ctime.tv_sec) else { return false };
    let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, stat.stx_ctime.tv_nsec));
    changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|age| age >= after)
}

/// Whether all that changes the file goes through this kernel.
pub(crate) fn is_local(file: impl AsFd) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|stats| LOCAL.contains(&(stats.f_type.cast_unsigned() & u64::from(u32::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(uid: u32, mode: u32, changed_s_ago: u64) -> Statx {
        let file = tempfile::tempfile().unwrap();
        let mut stat =
            rustix::fs::statx(&file, "", rustix::fs::AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::BASIC_STATS).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        stat.stx_uid = uid;
        stat.stx_mode = u16::try_from(mode).unwrap();
        stat.stx_ctime.tv_sec = i64::try_from(now - changed_s_ago).unwrap();
        stat
    }

    #[test]
    fn only_what_root_alone_may_change_is_stable() {
        let stable = |uid, mode| only_root_changes(&stat(uid, mode, 0));
        for mode in [libc::S_IFREG | 0o755, libc::S_IFREG | 0o400, libc::S_IFDIR | 0o755, libc::S_IFLNK | 0o777] {
            assert!(stable(0, mode), "{mode:o}");
            assert!(!stable(1000, mode), "{mode:o}");
        }
        let others = [libc::S_IFREG | 0o664, libc::S_IFDIR | 0o1777, libc::S_IFCHR | 0o600, libc::S_IFIFO | 0o600];
        for mode in others {
            assert!(!stable(0, mode), "{mode:o}");
        }
    }

    #[test]
    fn files_changed_lately_or_in_the_future_are_not_stable() {
        assert!(is_old(&stat(0, 0, 11), Duration::from_secs(10)));
        assert!(!is_old(&stat(0, 0, 8), Duration::from_secs(10)));
        let mut future = stat(0, 0, 0);
        future.stx_ctime.tv_sec += 1000;
        assert!(!is_old(&future, Duration::ZERO));
        future.stx_ctime.tv_sec = -1;
        assert!(!is_old(&future, Duration::ZERO));
    }

    #[test]
    fn what_the_kernel_makes_up_is_not_local() {
        for path in ["/proc/version", "/sys/kernel"] {
            assert!(!is_local(std::fs::File::open(path).unwrap()), "{path}");
        }
    }
}
