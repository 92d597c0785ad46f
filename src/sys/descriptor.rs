//! Descriptors: waiting for them in tokio, taking over those that this process was started with,
//! comparing them.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::{Mutex, PoisonError},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Makes a descriptor that does not block ready to be waited for. Must be called on a tokio
/// runtime.
///
/// # Errors
/// If the descriptor cannot be waited for.
pub fn register(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns its descriptor for as long as it lives and never hands out another.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// As [`register`], of a descriptor that belongs to another.
///
/// # Errors
/// As [`register`].
pub fn register_borrowed(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the descriptor stays open for as long as it is borrowed, and a `BorrowedFd` never
    // hands out another.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// As [`register`], for reading and writing; the descriptor is made not to block.
///
/// # Errors
/// As [`register`].
pub fn register_nonblocking(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&descriptor, true)?;
    register(descriptor, Interest::READABLE | Interest::WRITABLE)
}

/// Takes over a descriptor that this process was started with, at a number that is known to both
/// sides; each but once.
///
/// # Errors
/// If nothing is open at that number, or it was taken before.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());
    if !TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(number) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // SAFETY: the call reads a flag, of any number.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open; who started this process passed it for the caller alone, which has not
    // taken it before.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The path in `/proc` that leads to an open file, whatever its own means by now.
pub fn proc_path(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Whether two descriptors, each of a process, are one open file description.
///
/// # Errors
/// If there is no such process or descriptor, or it may not be looked at.
pub fn is_same_description(a: (i32, RawFd), b: (i32, RawFd)) -> io::Result<bool> {
    const KCMP_FILE: libc::c_long = 0;
    let [pid_a, pid_b, a, b] = [a.0, b.0, a.1, b.1].map(libc::c_long::from);
    // SAFETY: the call takes numbers only.
    match unsafe { libc::syscall(libc::SYS_kcmp, pid_a, pid_b, KCMP_FILE, a, b) } {
        -1 => Err(io::Error::last_os_error()),
        order => Ok(order == 0),
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::IntoRawFd, unix::net::UnixStream};

    use super::*;

    #[test]
    fn descriptions_are_told_apart() {
        let own = std::process::id().cast_signed();
        let (a, b) = UnixStream::pair().unwrap();
        let again = a.try_clone().unwrap();
        assert!(is_same_description((own, a.as_raw_fd()), (own, again.as_raw_fd())).unwrap());
        assert!(!is_same_description((own, b.as_raw_fd()), (own, again.as_raw_fd())).unwrap());
        assert!(is_same_description((own, a.as_raw_fd()), (i32::MAX, 0)).is_err());
    }

    #[test]
    fn what_is_open_can_be_taken_over_once() {
        let (mut reader, writer) = io::pipe().unwrap();
        let number = writer.into_raw_fd();
        drop(inherited(number).unwrap());
        assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0, "it was closed");
        assert_eq!(inherited(number).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(inherited(i32::MAX).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
