//! The guest's side of the terminal: a pty whose master is here.
//!
//! Its slave is set to EXTPROC: editing and echo are done by home's terminal, and every change of
//! its settings is told on the master (packet mode). CRIU, and a program that restores settings it
//! saved before, clear EXTPROC; it is set again. Output passes the slave's ONLCR and then that of
//! home's terminal: the carriage return that the first adds is removed.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pty::OpenptFlags;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::{LOOK_FIRST, LOOK_LAST, Out, ToRelay};
use crate::link::relay::terminal::{
    EXTPROC, ICANON, ONLCR, OPOST, VEOF, get_termios, set_packet_mode, set_termios, set_winsize,
};
use crate::link::relay::{CHUNK_BYTES, NonBlocking, unread_bytes};
use crate::protocol::home::{StdioOp, Termios};

/// The kernel writes ONLCR's two bytes together, so what follows a carriage return comes at once if
/// it was ONLCR's.
const LONE_RETURN_AFTER: Duration = Duration::from_millis(5);
/// First byte of a read from the master in packet mode: data follow. Any other is news, of settings
/// among others.
const TIOCPKT_DATA: u8 = 0;

/// A pty: the master, and a slave of our own for its settings and its unread input.
pub(super) struct Pty {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Pty {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&master)?;
        Self::from_master(master)
    }

    pub(super) fn from_master(master: OwnedFd) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        Ok(Self { master, slave })
    }

    /// A slave for the process tree: a description of its own.
    pub(super) fn slave(&self) -> io::Result<OwnedFd> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        Ok(rustix::pty::ioctl_tiocgptpeer(&self.master, flags)?)
    }
}

pub(super) struct GuestTty {
    master: NonBlocking,
    slave: OwnedFd,
    out: Out,
    foreground: watch::Sender<bool>,
    /// The settings as home knows them, without EXTPROC.
    settings: Termios,
    /// Bytes of input that the process tree had not read when we last looked.
    waiting: u32,
    /// A carriage return at the end of a piece: the next byte tells whether it is ONLCR's.
    held_return: bool,
}

impl GuestTty {
    pub(super) fn new(pty: Pty, out: Out, foreground: watch::Sender<bool>) -> io::Result<Self> {
        let settings = get_termios(&pty.slave)?;
        set_packet_mode(&pty.master)?;
        let master = NonBlocking::own(pty.master)?;
        Ok(Self { master, slave: pty.slave, out, foreground, settings, waiting: 0, held_return: false })
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<ToRelay>) {
        let mut look = LOOK_FIRST;
        let mut is_paused = false;
        loop {
            let next = tokio::select! {
                biased;
                next = queue.recv() => next,
                packet = self.master.read(CHUNK_BYTES), if self.out.is_open() && !is_paused => {
                    match packet {
                        Ok(packet) => self.take_from_tree(&packet).await,
                        Err(error) => {
                            tracing::warn!(%error, "the guest's terminal cannot be read any more");
                            return;
                        }
                    }
                    continue;
                }
                () = sleep(LONE_RETURN_AFTER), if self.held_return && !is_paused => {
                    self.release_return().await;
                    continue;
                }
                () = sleep(look), if self.waiting > 0 && !is_paused => {
                    look = if self.tell_taken().await { LOOK_FIRST } else { (look * 2).min(LOOK_LAST) };
                    continue;
                }
            };
            match next {
                None => return,
                Some(ToRelay::Step(step)) => {
                    look = LOOK_FIRST;
                    self.take_from_home(step).await;
                }
                Some(ToRelay::Drain { pause, done }) => {
                    while let Ok(Some(packet)) = self.master.try_read(CHUNK_BYTES)
                        && !packet.is_empty()
                    {
                        self.take_from_tree(&packet).await;
                    }
                    self.release_return().await;
                    self.tell_taken().await;
                    is_paused = pause;
                    let _ = done.send(());
                }
                Some(ToRelay::Resume) => is_paused = false,
                Some(ToRelay::Arm) => self.arm(),
            }
        }
    }

    async fn take_from_tree(&mut self, packet: &[u8]) {
        match packet.split_first() {
            Some((&TIOCPKT_DATA, data)) => {
                let adds_returns = self.settings.oflag & (OPOST | ONLCR) == OPOST | ONLCR;
                let data = strip_returns(data, adds_returns, &mut self.held_return);
                if !data.is_empty() {
                    self.out.data(data).await;
                }
            }
            Some(_) => self.look_at_settings().await,
            None => {}
        }
    }

    async fn release_return(&mut self) {
        if std::mem::take(&mut self.held_return) {
            self.out.data(vec![b'\r']).await;
        }
    }

    /// Tells home of settings that the process tree has made, and keeps EXTPROC on.
    async fn look_at_settings(&mut self) {
        let Ok(now) = get_termios(&self.slave) else { return };
        let settings = Termios { lflag: now.lflag & !EXTPROC, ..now };
        let is_news = settings != self.settings;
        self.settings = settings;
        if now.lflag & EXTPROC == 0 {
            self.apply(settings);
        }
        if is_news {
            self.out.tell(StdioOp::Termios(settings)).await;
        }
    }

    /// CRIU has just set what the process tree had where it came from.
    fn arm(&mut self) {
        if let Ok(now) = get_termios(&self.slave) {
            self.apply(Termios { lflag: now.lflag & !EXTPROC, ..now });
        }
    }

    fn apply(&mut self, settings: Termios) {
        self.settings = settings;
        let external = Termios { lflag: settings.lflag | EXTPROC, ..settings };
        if let Err(error) = set_termios(&self.slave, &external) {
            tracing::warn!(%error, "the guest's terminal does not take home's settings");
        }
    }

    async fn take_from_home(&mut self, step: StdioOp) {
        match step {
            StdioOp::Data(data) => self.give(&data, data.len() as u32).await,
            StdioOp::Eof if self.settings.lflag & ICANON != 0 => {
                // With EXTPROC a lone end-of-file character in the input is read as the end of
                // file.
                let eof = self.settings.cc[VEOF];
                self.give(&[eof], 1).await;
            }
            StdioOp::Taken(cost) => self.out.taken(cost),
            StdioOp::Termios(settings) => self.apply(Termios { lflag: settings.lflag & !EXTPROC, ..settings }),
            StdioOp::Winsize(winsize) => {
                if let Err(error) = set_winsize(self.master.fd(), &winsize) {
                    tracing::warn!(%error, "the guest's terminal does not take home's size");
                }
            }
            StdioOp::Foreground(yes) => drop(self.foreground.send_replace(yes)),
            // In raw mode there is no end of file. A terminal that is gone sends SIGHUP, which goes
            // its own way.
            StdioOp::Eof => self.out.tell(StdioOp::Taken(1)).await,
            StdioOp::Hup => {}
        }
    }

    async fn give(&mut self, input: &[u8], bytes: u32) {
        match self.master.write_all(input).await {
            Ok(()) => self.waiting += bytes,
            Err(error) => tracing::warn!(%error, "the guest's terminal takes no input"),
        }
    }

    /// Tells home what the process tree has read since the last look; whether it has.
    async fn tell_taken(&mut self) -> bool {
        let left = unread_bytes(&self.slave).unwrap_or(self.waiting);
        let taken = self.waiting.saturating_sub(left);
        self.waiting -= taken;
        if taken > 0 {
            self.out.tell(StdioOp::Taken(taken)).await;
        }
        taken > 0
    }
}

/// Removes the carriage return before each line feed. `held` carries one at the end of a piece over
/// to the next.
fn strip_returns(data: &[u8], adds_returns: bool, held: &mut bool) -> Vec<u8> {
    let mut stripped = Vec::with_capacity(data.len() + 1);
    for byte in data {
        if std::mem::take(held) && (*byte != b'\n' || !adds_returns) {
            stripped.push(b'\r');
        }
        if *byte == b'\r' && adds_returns {
            *held = true;
        } else {
            stripped.push(*byte);
        }
    }
    stripped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_onlcr_adds_is_removed_wherever_pieces_are_cut(text in "[ab\r\n]{0,30}", cut in 0_usize..40) {
            let sent = text.replace('\n', "\r\n").into_bytes();
            let (first, second) = sent.split_at(cut.min(sent.len()));
            let mut held = false;
            let mut got = strip_returns(first, true, &mut held);
            got.extend(strip_returns(second, true, &mut held));
            if held {
                got.push(b'\r');
            }
            prop_assert_eq!(got, text.into_bytes());
        }
    }
}
