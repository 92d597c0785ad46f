//! Mounting, flushing and unmounting.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use nix::mount::MsFlags;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::channel::{ChannelError, FileChannel};
use super::locktable::HeldLock;
use super::{HomeFs, backing};
use crate::link::files::StableFiles;
use crate::protocol::files::{Caller, MAX_STEPS, Name, Op};
use crate::sys::descriptor::proc_path;

/// The file system type that `/proc/mounts` shows.
pub const FS_TYPE: &str = "fuse.scx_mosix";

/// How far the kernel reads ahead: four requests of the largest size (`MAX_DATA_BYTES`), some
/// milliseconds of a 1 Gb/s link.
const READ_AHEAD_KIB: u32 = 1024;

/// Why home's tree could not be mounted, or not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No FUSE here.
    #[error("cannot open /dev/fuse: is the kernel's FUSE module there (modprobe fuse)?")]
    Device(#[source] std::io::Error),
    /// `mount` failed.
    #[error("cannot mount home's files at {}: this needs root", mountpoint.display())]
    Mount {
        /// Where.
        mountpoint: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// This node's own files cannot be reached.
    #[error("cannot have mounts of this node's own files (open_tree): this needs root")]
    Node(#[source] std::io::Error),
    /// The kernel and we did not come to terms.
    #[error("the kernel's FUSE does not offer what home's files need (Linux 5.11 or newer does)")]
    Session(#[source] std::io::Error),
    /// What programs had changed through memory mappings could not be written home.
    #[error("cannot write all changed pages of mapped files home")]
    Sync(#[source] std::io::Error),
    /// Home cannot be reached.
    #[error("cannot finish all file operations at home")]
    Home(#[source] ChannelError),
}

/// Home's tree, mounted. Dropping it aborts what is under way and unmounts, also for namespaces
/// that have a copy of the mount: end the guest first.
#[derive(Debug)]
pub struct Mounted {
    root: OwnedFd,
    fs: HomeFs,
}

/// Mounts home's tree, reached by `channel`, at the directory `mountpoint`, for all users, with
/// home's permissions in force and with devices and set-user-id programs. A stable file that this
/// node has with the same contents is read here. Needs root; no request goes home yet.
///
/// # Errors
/// See [`MountError`].
pub fn mount(mountpoint: &Path, channel: Arc<FileChannel>, stable: StableFiles) -> Result<Mounted, MountError> {
    let io = |errno: rustix::io::Errno| std::io::Error::from(errno);
    let node_root = backing::own_root().map_err(MountError::Node)?;
    let device = rustix::fs::openat(CWD, "/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let device = device.map_err(|errno| MountError::Device(io(errno)))?;
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device.as_raw_fd());
    let failed = |source| MountError::Mount { mountpoint: mountpoint.to_owned(), source };
    nix::mount::mount(Some("home"), mountpoint, Some(FS_TYPE), MsFlags::empty(), Some(options.as_str()))
        .map_err(|errno| failed(errno.into()))?;
    let root = rustix::fs::openat(CWD, mountpoint, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = match root {
        Ok(root) => root,
        Err(errno) => {
            let _ = rustix::mount::unmount(mountpoint, UnmountFlags::DETACH);
            return Err(failed(io(errno)));
        }
    };
    // From here on dropping `mounted` unmounts.
    let mut mounted = Mounted { root, fs: HomeFs::new(channel, stable, node_root) };
    let mut config = Config::default();
    config.acl = SessionACL::All;
    // One thread: it never waits for home, and the order of requests stays what it was.
    config.n_threads = Some(1);
    let session = Session::from_fd(mounted.fs.clone(), device, SessionACL::All, config).map_err(MountError::Session)?;
    mounted.fs.set_notifier(session.notifier());
    session.spawn().map_err(MountError::Session)?;
    mounted.show_home(mountpoint).map_err(failed)?;
    read_ahead(&mounted.root);
    Ok(mounted)
}

/// Lets the kernel read ahead further than its 128 KiB, so that a few requests are on their way to
/// home at once.
fn read_ahead(root: &OwnedFd) {
    let device = rustix::fs::statx(root, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::empty());
    let set = device.map_err(std::io::Error::from).and_then(|stat| {
        let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", stat.stx_dev_major, stat.stx_dev_minor);
        std::fs::write(path, READ_AHEAD_KIB.to_string())
    });
    if let Err(error) = set {
        tracing::debug!(%error, "the kernel reads ahead of home's files as far as it does by itself");
    }
}

impl Mounted {
    /// Mounts home's root alone where the whole is mounted, of which it is part
    /// ([`ROOT`](crate::protocol::files::ROOT) says why).
    fn show_home(&mut self, mountpoint: &Path) -> std::io::Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let home = rustix::mount::open_tree(&self.root, "home", flags)?;
        rustix::mount::unmount(proc_path(&self.root), UnmountFlags::DETACH)?;
        self.root = home;
        rustix::mount::move_mount(&self.root, "", CWD, mountpoint, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(())
    }

    /// The root of the mounted tree, as an `O_PATH` descriptor.
    pub fn root(&self) -> impl AsFd + '_ {
        &self.root
    }

    /// Brings home up to date: writes what programs changed through memory mappings, and waits
    /// until home has done all that it was asked before, also the closing of files that programs of
    /// this guest have closed. For use when the process tree is frozen before another move, and
    /// before its end is reported. Blocks, at most about `limit` plus the time that the writing
    /// takes.
    ///
    /// # Errors
    /// Home is out of reach or too slow; then home's files may be older than what the process tree
    /// saw.
    pub fn sync(&self, limit: Duration) -> Result<(), MountError> {
        let failed = |errno: rustix::io::Errno| MountError::Sync(errno.into());
        let root =
            rustix::fs::openat(&self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = root.map_err(failed)?;
        rustix::fs::syncfs(&root).map_err(failed)?;
        drop(root);
        // The kernel hands over requests in order: once this one is answered, those before it are
        // in the channel.
        rustix::fs::fstatfs(&self.root).map_err(failed)?;
        self.fs.channel().settle(limit).map_err(MountError::Home)
    }

    /// Locks that programs of this guest hold on home's files. A process tree that holds any cannot
    /// move again in this version.
    pub fn held_locks(&self) -> Vec<HeldLock> {
        self.fs.held_locks()
    }

    /// To be called when it is sure that no program of this guest runs until [`Self::runs`]: what
    /// home says of names and attributes from now on, and what the kernel has of files' contents,
    /// is cached until then. Called again, it begins anew.
    pub fn stands_still(&self) {
        self.fs.channel().cache().begin();
    }

    /// Asks home what these paths mean, without waiting for the answers: a lookup while nothing of
    /// the guest runs finds them known, instead of asking for one name after the other. Blocks
    /// while the link is full.
    pub fn look_ahead<'a>(&self, paths: impl IntoIterator<Item = &'a str>) {
        for path in paths {
            let names = path.split('/').filter(|name| !name.is_empty()).map(|name| Name::new(name.as_bytes()));
            // What is no path of names, such as that of a file which has been removed, is no harm
            // to skip.
            if let Some(names) = names.collect::<Option<Vec<Name>>>().filter(|names| names.len() <= MAX_STEPS) {
                self.fs.channel().submit(Caller { uid: 0, gid: 0 }, Op::Walk { names }, Box::new(|_| {}));
            }
        }
    }

    /// To be called before the first instruction of a program of this guest: from now on each of
    /// its questions is put to home, but for what home leases.
    pub fn runs(&self) {
        self.fs.channel().cache().end();
    }

    /// Lets every program that waits for a lock be frozen: call it after the freeze was ordered, as
    /// often as it takes. They ask again when they are thawed.
    pub fn interrupt_waits(&self) {
        self.fs.interrupt_waits();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Forced, so that each waiting call gets an answer.
        if let Err(errno) = rustix::mount::unmount(proc_path(&self.root), UnmountFlags::FORCE | UnmountFlags::DETACH) {
            tracing::warn!(%errno, "cannot unmount home's files");
        }
    }
}
