//! Relays pipes and the terminal between a body and home.
//!
//! ```text
//!   PipeOut  body ─► guest's pipe ═ Data, Eof ══════════► home's pipe ─► reader        back: Taken (window), Hup (reader gone)
//!   PipeIn   body ◄─ guest's pipe ◄═ Data, Eof ══════════ home's pipe ◄─ writer        back: Taken (read by the body), Hup
//!   Tty      body ◄─► guest's pty ◄═ Data, Eof, Termios, Winsize, Foreground ═► home's terminal, read by the deputy
//! ```
//!
//! *Output* is bounded by a window ([`super::wire::WINDOW`]): a slow reader at home blocks the body as it would have at home.
//! *Input* is exact: home shows the body what is in the pipe without taking it out (tee(2)), and takes out only what the
//! body has read. So whoever reads the pipe after the body finds the rest. A terminal cannot be looked into: one read at a time
//! is made for the body, and what it leaves is put back at the end (TIOCSTI).
//!
//! Home's descriptions are shared with other programs, so none of their flags is touched: pipes and the terminal are opened
//! a second time through /proc, without blocking. Every channel has a task of its own and a queue that the window bounds.

pub mod guest;
mod guest_tty;
pub mod home;
mod home_tty;
mod terminal;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use terminal::{get_termios, get_winsize, set_termios, set_winsize};

/// The most data in one step, in bytes: what a pipe holds.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Queue of one channel: the window in its smallest pieces, what a flush adds to it, and control.
const QUEUE_STEPS: usize = 512;
/// How often a guest looks whether the body has read, at first and at most.
const LOOK_FIRST: std::time::Duration = std::time::Duration::from_millis(1);
const LOOK_LAST: std::time::Duration = std::time::Duration::from_millis(20);

/// What goes wrong between relays.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The other side names a channel that does not exist.
    #[error("the other side of the home link names stdio channel {0}, which does not exist")]
    NoSuchChannel(u32),
    /// The other side sends more than the window allows.
    #[error("the other side of the home link floods stdio channel {0}")]
    Flooded(u32),
}

/// A pipe end or terminal that never blocks.
struct NonBlocking(AsyncFd<OwnedFd>);

impl NonBlocking {
    /// Opens what `descriptor` has open once more, without blocking; the original's flags stay as they are.
    ///
    /// # Errors
    /// `ENXIO` for a pipe's write end without readers, or whatever forbids it.
    fn reopen(descriptor: &OwnedFd, access: OFlags) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Self::own(rustix::fs::open(path, flags, Mode::empty())?)
    }

    /// Takes over a description that is nobody else's.
    fn own(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        // SAFETY: an `OwnedFd` owns its descriptor for as long as it lives and never hands out another.
        unsafe { AsyncFd::register(descriptor) }.map(Self).map_err(Into::into)
    }

    /// Reads what is there, waiting for something; empty at the end of file. Cancel safe.
    async fn read(&self, most: usize) -> io::Result<Vec<u8>> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|fd| read_now(fd.get_ref(), most)) {
                return result;
            }
        }
    }

    /// Reads what is there; `None` if nothing is.
    fn try_read(&self, most: usize) -> io::Result<Option<Vec<u8>>> {
        match read_now(self.0.get_ref(), most) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                bytes = bytes.get(written?..).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Resolves when the other end of a pipe has no reader any more. Cancel safe.
    async fn readers_gone(&self) {
        loop {
            match self.0.ready(Interest::ERROR).await {
                Ok(mut ready) if ready.ready().is_error() && has_no_reader(self.0.get_ref()) => {
                    ready.retain_ready();
                    return;
                }
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            }
        }
    }

    fn fd(&self) -> &OwnedFd {
        self.0.get_ref()
    }
}

fn read_now(fd: &OwnedFd, most: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; most];
    let bytes = rustix::io::read(fd, &mut buffer)?;
    buffer.truncate(bytes);
    Ok(buffer)
}

fn has_no_reader(fd: &OwnedFd) -> bool {
    let mut poll = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now)).is_ok() && poll[0].revents().contains(rustix::event::PollFlags::ERR)
}

/// Bytes that lie unread in a pipe, or in the input of a terminal's slave.
fn unread_bytes(fd: impl AsFd) -> io::Result<u32> {
    Ok(rustix::io::ioctl_fionread(fd)? as u32)
}

#[cfg(test)]
mod tests;
