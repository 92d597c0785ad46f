//! Pipes and the terminal, relayed between a process tree and home. Here is what both ends use; the
//! ends are [`guest::relay`](crate::guest::relay) and [`home::relay`](crate::home::relay).
//!
//! ```text
//!   PipeOut  tree ─► guest's pipe ═ Data, Eof ══════════► home's pipe ─► reader        back: Taken (window), Hup (reader gone)
//!   PipeIn   tree ◄─ guest's pipe ◄═ Data, Eof ══════════ home's pipe ◄─ writer        back: Taken (read by the tree), Hup
//!   Tty      tree ◄─► guest's pty ◄═ Data, Eof, Termios, Winsize, Foreground ═► home's terminal, read by the deputy
//! ```
//!
//! *Output* is bounded by a window ([`crate::protocol::home::WINDOW`]): a slow reader at home
//! blocks the process tree as it would have at home. *Input* is exact: home shows the process tree
//! what is in the pipe without taking it out (tee(2)), and takes out only what the process tree has
//! read. So the next reader of the pipe finds the rest. A terminal cannot be looked into: one read
//! at a time is made for the process tree, and what it leaves is put back at the end (TIOCSTI).
//!
//! Home's descriptions are shared with other programs, so none of their flags is touched: pipes and
//! the terminal are opened a second time through /proc, without blocking. Every channel has a task
//! of its own and a queue that the window bounds.

pub(crate) mod terminal;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use crate::sys::descriptor::{proc_path, register_nonblocking};

/// The most data in one step, in bytes: what a pipe holds.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
/// Queue of one channel: the window in its smallest pieces, what a flush adds to it, and control.
pub(crate) const QUEUE_STEPS: usize = 512;

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
pub(crate) struct NonBlocking(AsyncFd<OwnedFd>);

impl NonBlocking {
    /// Opens what `descriptor` has open once more, without blocking; the original's flags stay as
    /// they are.
    ///
    /// # Errors
    /// `ENXIO` for a pipe's write end without readers, or whatever forbids it.
    pub(crate) fn reopen(descriptor: &OwnedFd, access: OFlags) -> io::Result<Self> {
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Self::own(rustix::fs::open(proc_path(descriptor), flags, Mode::empty())?)
    }

    /// Takes over a description that is not shared.
    pub(crate) fn own(descriptor: OwnedFd) -> io::Result<Self> {
        register_nonblocking(descriptor).map(Self)
    }

    /// Waits until there is something to read. Cancel safe.
    pub(crate) async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }

    /// Reads what is there, waiting for something; empty at the end of file. Cancel safe.
    pub(crate) async fn read(&self, most: usize) -> io::Result<Vec<u8>> {
        loop {
            let mut ready = self.readable().await?;
            if let Ok(result) = ready.try_io(|fd| read_now(fd.get_ref(), most)) {
                return result;
            }
        }
    }

    /// Reads what is there; `None` if nothing is.
    pub(crate) fn try_read(&self, most: usize) -> io::Result<Option<Vec<u8>>> {
        match read_now(self.0.get_ref(), most) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        }
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                bytes = bytes.get(written?..).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Resolves when the other end of a pipe has no reader any more. Cancel safe.
    pub(crate) async fn readers_gone(&self) {
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

    pub(crate) fn fd(&self) -> &OwnedFd {
        self.0.get_ref()
    }
}

fn read_now(fd: &OwnedFd, most: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; most];
    let bytes = rustix::io::read(fd, &mut buffer)?;
    buffer.truncate(bytes);
    Ok(buffer)
}

pub(crate) fn has_no_reader(fd: &OwnedFd) -> bool {
    poll_now(fd, PollFlags::empty()).is_ok_and(|events| events.contains(PollFlags::ERR))
}

/// Looks at a descriptor without waiting for anything.
fn poll_now(fd: impl AsFd, events: PollFlags) -> io::Result<PollFlags> {
    let mut polled = [PollFd::new(&fd, events)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now))?;
    Ok(polled[0].revents())
}

/// Bytes that lie unread in a pipe, or in the input of a terminal's slave.
///
/// What was written to a terminal's master comes to the slave a moment later, by a worker of the
/// kernel, and is not counted meanwhile: it would be taken for read. `poll` waits for the worker
/// before it finds nothing to read.
pub(crate) fn unread_bytes(fd: impl AsFd) -> io::Result<u32> {
    poll_now(&fd, PollFlags::IN)?;
    Ok(rustix::io::ioctl_fionread(fd)? as u32)
}
