//! The home agent's side of a deputy: its program and the socket to it.
//!
//! `main.rs` and `sys.rs` here are not part of this crate: build.rs compiles them into the
//! freestanding program [`IMAGE`].

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use bytes::Bytes;

use crate::protocol::deputy::{Command, MAX_INPUT_BYTES, REPORT_BYTES, Report};

use crate::sys::seqpacket::Seqpacket;

/// The deputy's program, a static ELF.
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/deputy"));

/// What a deputy told; [`Report`] with its own memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A signal came.
    Signal {
        /// Its number.
        signal: i32,
        /// `si_code`.
        code: i32,
        /// `si_value`.
        value: u64,
    },
    /// Terminal input; empty means end of file.
    Input(Bytes),
    /// The terminal is gone, with this errno.
    Hangup(i32),
    /// Whether the deputy's group is in the foreground.
    Foreground(bool),
    /// Did not stay stopped, without a SIGCONT.
    Continued,
}

/// The socket to one deputy.
pub struct DeputySocket(Seqpacket);

impl DeputySocket {
    /// Takes over the end that [`super::inject`] got. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// If the descriptor cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Seqpacket::new(socket).map(Self)
    }

    /// Sends one command, with a descriptor for [`Command::Terminal`]. Cancel safe.
    ///
    /// # Errors
    /// If the deputy is gone.
    pub async fn send(&self, command: Command, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.0.send(&command.encode(), descriptor.as_slice()).await
    }

    /// What the deputy tells next; `None` when it is gone. Cancel safe.
    ///
    /// # Errors
    /// If the deputy speaks another version, or the socket fails.
    pub async fn recv(&self) -> io::Result<Option<Told>> {
        loop {
            let Some(packet) = self.0.recv(REPORT_BYTES + MAX_INPUT_BYTES).await? else { return Ok(None) };
            return Ok(Some(match Report::decode(&packet.bytes).ok_or(io::ErrorKind::InvalidData)? {
                // Told once more than needed if the injector did not wait for it.
                Report::Ready => continue,
                Report::Signal { signal, code, value } => Told::Signal { signal, code, value },
                Report::Input(input) => Told::Input(Bytes::copy_from_slice(input)),
                Report::Hangup(errno) => Told::Hangup(errno),
                Report::Foreground(yes) => Told::Foreground(yes),
                Report::Continued => Told::Continued,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::protocol::deputy::*;

    proptest! {
        #[test]
        fn commands_survive_their_packets(comm in any::<[u8; 16]>(), dumped in any::<u64>(), byte in any::<u8>(), bytes in any::<u16>()) {
            let all = [Command::Init { comm, dumped }, Command::Exit(byte), Command::Kill(byte), Command::Stop(byte),
                Command::Terminal, Command::Read(bytes)];
            for command in all {
                prop_assert_eq!(Command::decode(&command.encode()), Some(command));
            }
        }

        #[test]
        fn reports_survive_their_packets(signal in any::<i32>(), code in any::<i32>(), value in any::<u64>(), input in prop::collection::vec(any::<u8>(), 0..50)) {
            let all = [Report::Ready, Report::Signal { signal, code, value }, Report::Input(&input), Report::Hangup(signal),
                Report::Foreground(true), Report::Foreground(false), Report::Continued];
            for report in all {
                let mut packet = report.encode().to_vec();
                if let Report::Input(input) = report {
                    packet.extend_from_slice(input);
                }
                prop_assert_eq!(Report::decode(&packet), Some(report));
            }
        }

        #[test]
        fn any_packet_decodes_or_is_refused(packet in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (Command::decode(&packet), Report::decode(&packet));
        }
    }
}
