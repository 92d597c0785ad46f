//! On whose behalf a worker thread acts.
//!
//! A worker takes over the caller's file system user and group, so that what it makes belongs to
//! him, also for home directories on NFS. It keeps root's capabilities for files all the same: the
//! hosting kernel has checked permissions already, knowing all groups of the caller, which home
//! does not. The exceptions: making devices is left to root, and `CAP_FSETID` is put down when a
//! write or truncation has to take set-user-id bits away.
//!
//! All of this is per thread, also `setfsuid` and `setfsgid` of the C library; the mask of file
//! modes is the thread's own after `unshare(CLONE_FS)`.

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// What a worker thread acts as at the moment.
#[derive(Debug)]
pub(super) struct Identity {
    own: CapabilitySets,
    now: As,
}

/// Whom to act for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct As {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Set-user-id bits stay when a file is written.
    pub(super) keep_suid: bool,
}

impl Identity {
    /// Prepares the calling thread, which must belong to the server for good.
    pub(super) fn take() -> Result<Self, Errno> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)
            .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
        let own = rustix::thread::capabilities(None)?;
        if own.permitted.contains(CapabilitySet::SETGID) {
            rustix::thread::set_thread_groups(&[])?;
        }
        let now = As {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            keep_suid: own.effective.contains(CapabilitySet::FSETID),
        };
        Ok(Self { own, now })
    }

    /// Acts as `who` from now on.
    ///
    /// # Errors
    /// The kernel refuses; then nothing may be done in his name.
    pub(super) fn assume(&mut self, who: As) -> Result<(), Errno> {
        if self.now == who {
            return Ok(());
        }
        // They report no error; a second call with an impossible id tells what is in force.
        setfsgid(Gid::from_raw(who.gid));
        setfsuid(Uid::from_raw(who.uid));
        let (gid, uid) = (setfsgid(Gid::from_raw(u32::MAX)), setfsuid(Uid::from_raw(u32::MAX)));
        if (uid.as_raw(), gid.as_raw()) != (who.uid, who.gid) {
            return Err(Errno::PERM);
        }
        let mut effective = self.own.permitted;
        effective.set(CapabilitySet::FSETID, who.keep_suid && self.own.permitted.contains(CapabilitySet::FSETID));
        if who.uid != 0 {
            effective.remove(CapabilitySet::MKNOD);
        }
        rustix::thread::set_capabilities(None, CapabilitySets { effective, ..self.own })?;
        self.now = who;
        Ok(())
    }

    /// Sets the mask that the next file is made with; home's kernel applies it, or the directory's
    /// default ACL instead.
    pub(super) fn set_umask(&self, umask: u32) {
        rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
    }
}
