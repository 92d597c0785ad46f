//! Settings and size of terminals as the kernel has them (`struct termios2`, `struct winsize`).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::protocol::home::{Termios, Winsize};

/// `c_lflag`: line editing and echo are done elsewhere. Set on a guest's terminal only.
pub(crate) const EXTPROC: u32 = 0o200000;
pub(crate) const ICANON: u32 = 0o2;
pub(crate) const ECHO: u32 = 0o10;
pub(crate) const OPOST: u32 = 0o1;
pub(crate) const ONLCR: u32 = 0o4;
/// Index in `c_cc` of the character that means end-of-file.
pub(crate) const VEOF: usize = 4;

fn ioctl<T>(fd: impl AsFd, request: libc::Ioctl, argument: *mut T) -> io::Result<()> {
    // SAFETY: `argument` points to a live value of the kernel's structure that the request reads or
    // fills.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, argument) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The settings of a terminal.
///
/// # Errors
/// If `fd` is none, or it is gone.
pub fn get_termios(fd: impl AsFd) -> io::Result<Termios> {
    let mut termios = Termios::default();
    ioctl(fd, libc::TCGETS2, &mut termios)?;
    Ok(termios)
}

/// Changes the settings of a terminal at once.
///
/// # Errors
/// As [`get_termios`].
pub fn set_termios(fd: impl AsFd, termios: &Termios) -> io::Result<()> {
    let mut termios = *termios;
    ioctl(fd, libc::TCSETS2, &mut termios)
}

/// The size of a terminal.
///
/// # Errors
/// As [`get_termios`].
pub fn get_winsize(fd: impl AsFd) -> io::Result<Winsize> {
    let mut winsize = Winsize::default();
    ioctl(fd, libc::TIOCGWINSZ, &mut winsize)?;
    Ok(winsize)
}

/// Changes the size of a terminal; the kernel sends SIGWINCH to its foreground group if it is
/// another.
///
/// # Errors
/// As [`get_termios`].
pub fn set_winsize(fd: impl AsFd, winsize: &Winsize) -> io::Result<()> {
    let mut winsize = *winsize;
    ioctl(fd, libc::TIOCSWINSZ, &mut winsize)
}

/// Puts a byte into a terminal's input as if it had been typed.
pub(crate) fn type_byte(fd: impl AsFd, byte: u8) -> io::Result<()> {
    let mut byte = byte;
    ioctl(fd, libc::TIOCSTI, &mut byte)
}

/// Packet mode of a pty's master: each read begins with a byte that tells data from news.
pub(crate) fn set_packet_mode(master: impl AsFd) -> io::Result<()> {
    let mut on: libc::c_int = 1;
    ioctl(master, libc::TIOCPKT, &mut on)
}
