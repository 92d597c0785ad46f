//! The guest's world: home's tree as root, and its own /proc, /dev, /run and empty /sys.
//!
//! Everything is done with this node's mounts still below, in a copy of them that is this
//! namespace's own; then the guest's tree becomes the root and the copy is released.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, makedev, mknod, umask},
    unistd::{Gid, Uid, chdir, chown, pivot_root, sethostname},
};

use crate::sys::namespaces::loopback_up;

/// What could not be done, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub(super) struct WorldError {
    what: String,
    source: io::Error,
}

type Result<T> = std::result::Result<T, WorldError>;

fn cannot<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> WorldError {
    let what = what.into();
    move |error| WorldError { what, source: error.into() }
}

/// Character devices of every guest: name, major, minor.
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// Links in /dev, as udev makes them.
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// Group of terminals in devpts, `tty` in every distribution.
const TTY_GROUP: u32 = 5;
/// What of /proc concerns the hosting node as a whole: read only, even for root.
const READ_ONLY: [&str; 8] =
    ["proc/sys", "proc/sysrq-trigger", "proc/irq", "proc/bus", "proc/fs", "proc/acpi", "proc/mtrr", "proc/scsi"];
/// What of /proc a guest must not see.
const HIDDEN: [&str; 4] = ["proc/kcore", "proc/keys", "proc/timer_list", "proc/kmsg"];
/// What CRIU has found out about this node's kernel; the guest's CRIU must not take home's for it.
const CRIU_CACHE: &str = "run/criu.kdat";

/// Makes the tree at `root` this namespace's root, with all that a guest has of its own.
pub(super) fn enter(root: &Path, hostname: &str) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(cannot("make mounts private"))?;
    sethostname(hostname).map_err(cannot("set the host name"))?;
    loopback_up().map_err(cannot("bring up the loopback device"))?;
    let criu_cache = fs::read(Path::new("/").join(CRIU_CACHE)).ok();
    chdir(root).map_err(cannot("enter the guest's root"))?;
    umask(Mode::empty());
    let locked = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount(Some("proc"), "proc", Some("proc"), locked, none)
        .map_err(cannot("mount /proc; the program's root must have that directory"))?;
    make_dev()?;
    tmpfs("run", "mode=755")?;
    tmpfs("sys", "mode=555,size=0")?;
    if let Some(cache) = criu_cache.filter(|_| Path::new("run").is_dir()) {
        fs::write(CRIU_CACHE, cache).map_err(cannot("keep what criu knows of this kernel"))?;
    }
    pivot_root(".", ".").map_err(cannot("change the root"))?;
    // The old root lies on the new one now, at the same place.
    umount2(".", MntFlags::MNT_DETACH).map_err(cannot("release this node's root"))?;
    chdir("/").map_err(cannot("enter the new root"))?;
    // A set-user-id program of home's must not become root here, and a device of home's would be
    // this node's.
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(none, "/", none, flags, none).map_err(cannot("settle the root"))
}

/// Takes away what of /proc a guest must not change or see. After it no process here can choose
/// numbers of new processes.
pub(super) fn protect_proc() -> Result<()> {
    let none = None::<&str>;
    for path in READ_ONLY.iter().map(Path::new).filter(|path| path.exists()) {
        let failed = || cannot(format!("protect {}", path.display()));
        mount(Some(path), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).map_err(failed())?;
        let flags =
            MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(none, path, none, flags | MsFlags::MS_NOEXEC, none).map_err(failed())?;
    }
    for path in HIDDEN.iter().map(Path::new).filter(|path| path.exists()) {
        mount(Some("dev/null"), path, none, MsFlags::MS_BIND, none)
            .map_err(cannot(format!("hide {}", path.display())))?;
    }
    Ok(())
}

/// A tmpfs on a directory of home's tree, if it has that directory.
fn tmpfs(dir: &str, options: &str) -> Result<()> {
    if !Path::new(dir).is_dir() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(options)).map_err(cannot(format!("mount a tmpfs on /{dir}")))
}

fn make_dev() -> Result<()> {
    let none = None::<&str>;
    let dev = PathBuf::from("dev");
    mount(Some("tmpfs"), &dev, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=64k"))
        .map_err(cannot("mount a tmpfs on /dev; the program's root must have that directory"))?;
    for (name, major, minor) in DEVICES {
        let all = Mode::from_bits_truncate(0o666);
        mknod(&dev.join(name), SFlag::S_IFCHR, all, makedev(major, minor))
            .map_err(cannot(format!("make /dev/{name}")))?;
    }
    chown(&dev.join("tty"), Some(Uid::from_raw(0)), Some(Gid::from_raw(TTY_GROUP)))
        .map_err(cannot("give /dev/tty to its group"))?;
    for (name, target) in LINKS {
        std::os::unix::fs::symlink(target, dev.join(name)).map_err(cannot(format!("make /dev/{name}")))?;
    }
    for name in ["pts", "shm"] {
        fs::create_dir(dev.join(name)).map_err(cannot(format!("make /dev/{name}")))?;
    }
    let options = format!("newinstance,ptmxmode=0666,mode=620,gid={TTY_GROUP}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), &dev.join("pts"), Some("devpts"), flags, Some(options.as_str()))
        .map_err(cannot("mount /dev/pts"))?;
    mount(Some("tmpfs"), &dev.join("shm"), Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=1777"))
        .map_err(cannot("mount /dev/shm"))?;
    mount(none, &dev, none, MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID, Some("mode=755,size=64k"))
        .map_err(cannot("settle /dev"))
}
