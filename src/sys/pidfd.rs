//! Pidfds: handles of processes that no later process with the same number can take the place of.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};

/// A handle of a process.
///
/// # Errors
/// If there is no such process.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A duplicate of a descriptor of another process, which may be frozen.
///
/// # Errors
/// If there is no such process or descriptor, or it may not be taken.
pub fn duplicate(pidfd: impl AsFd, descriptor: RawFd) -> io::Result<OwnedFd> {
    Ok(pidfd_getfd(pidfd, descriptor, PidfdGetfdFlags::empty())?)
}

/// Sends SIGKILL.
///
/// # Errors
/// If the process has ended.
pub fn kill(pidfd: impl AsFd) -> io::Result<()> {
    send(pidfd, Signal::KILL)
}

/// Sends a signal.
///
/// # Errors
/// If the process has ended, or the caller may not send it signals.
pub fn send(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    Ok(pidfd_send_signal(pidfd, signal)?)
}

/// `struct pidfd_info` of linux/pidfd.h in its first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// Of `mask`: the exit code is there.
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16) | (0xff << 8) | 11;

/// How a process that was waited for has ended, as `wait` told it. Kernels from 6.15 on keep it.
pub fn kept_status(pidfd: impl AsFd) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..Default::default() };
    // SAFETY: the structure has the size that the request tells, and lives through the call.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_process_is_killed_and_its_descriptors_are_taken() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pidfd = open(child.id().cast_signed()).unwrap();
        let output = duplicate(&pidfd, 1).unwrap();
        rustix::io::write(&output, b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        assert!(duplicate(&pidfd, 99).is_err());
        kill(&pidfd).unwrap();
        child.wait().unwrap();
        assert!(kill(&pidfd).is_err());
        assert!(kept_status(&pidfd).is_none_or(|status| status == libc::SIGKILL));
        assert!(open(i32::MAX).is_err() && open(0).is_err() && open(-1).is_err());
    }
}
