//! Namespaces that this process makes for itself.

use std::{io, os::fd::AsRawFd};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Gives this process mounts of its own, so that what it mounts is seen by no other process. To be
/// called before there are threads.
///
/// # Errors
/// If the system refuses.
pub fn own_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What the node mounts later is seen here, what is mounted here is not seen there.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    Ok(())
}

/// Has the children that this process makes from now on live in a time namespace in which
/// `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` are ahead by so many ns.
///
/// # Errors
/// If the system refuses.
pub fn time_for_children(monotonic_ns: i64, boottime_ns: i64) -> io::Result<()> {
    const SECOND_NS: i64 = 1_000_000_000;
    unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
    let line = |clock: &str, ns: i64| format!("{clock} {} {}\n", ns.div_euclid(SECOND_NS), ns.rem_euclid(SECOND_NS));
    std::fs::write("/proc/self/timens_offsets", line("monotonic", monotonic_ns) + &line("boottime", boottime_ns))
}

/// Takes the loopback device of this network namespace into use; a new one has it down.
///
/// # Errors
/// If the system refuses.
pub fn loopback_up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the descriptor is open and the request is a proper ifreq for this call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
