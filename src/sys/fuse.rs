//! FUSE connections of processes that serve a file system and were killed.
//!
//! Such a process may wait for an answer that only it could have given: a call of a thread of its
//! own, or the `flush` of a file that it still has open, which no signal interrupts
//! (`fs/fuse/dev.c`). It would never end, and its connection only ends with it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    os::fd::OwnedFd,
};

use procfs::process::MountInfos;
use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::proc::{self, Identity};

/// Aborts the connections behind the file systems of type `fs_type` that `process` has mounted, if
/// it was killed and has not ended. Gives their number.
///
/// # Errors
/// The kernel does not let them be aborted.
pub fn abort_of_killed(process: Identity, fs_type: &str) -> io::Result<usize> {
    if !proc::is_killed(process) {
        return Ok(0);
    }
    let found = connections(process.pid, fs_type);
    if found.is_empty() {
        return Ok(0);
    }
    let control = control()?;
    let mut aborted = 0;
    for connection in found {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let Ok(abort) = openat(&control, format!("{connection}/abort"), flags, Mode::empty()) else { continue };
        // What was opened stays that of one connection; a later one may have its number.
        if proc::is_killed(process) && connections(process.pid, fs_type).contains(&connection) {
            File::from(abort).write_all(b"1")?;
            aborted += 1;
        }
    }
    Ok(aborted)
}

/// The connections behind what the threads of a process see mounted: each is named by the minor
/// number of its file system's device.
fn connections(pid: i32, fs_type: &str) -> BTreeSet<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // A thread that has ended sees nothing.
    let mounts = threads.filter_map(|thread| proc::read::<MountInfos>(thread.path().join("mountinfo")).ok());
    let mounts = mounts.flatten().filter(|mount| mount.fs_type == fs_type);
    mounts.filter_map(|mount| Some(mount.majmin.strip_prefix("0:")?.to_owned())).collect()
}

/// The file system in which the kernel lists connections (Documentation/filesystems/fuse.rst): a
/// mount of our own, as it need not be mounted anywhere.
fn control() -> io::Result<OwnedFd> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_to_a_process_that_lives() {
        let own = Identity::own().unwrap();
        assert_eq!(abort_of_killed(own, "proc").unwrap(), 0);
        assert!(connections(own.pid, "proc").len() <= 1);
    }
}
