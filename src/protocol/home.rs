//! What a guest agent and a home agent say to each other, and its bytes.
//!
//! ```text
//!   guest agent                                     home agent
//!     ── Call{session, migration, epoch, received} ────────────►
//!     ◄── Welcome{epoch, received} or Refused{reason} ──────────      then, in both directions:
//!     ◄── Control (JSON), Stdio (binary)  in the order sent ───►
//!     ◄── Files (opaque: link::files)     a lane of its own ───►
//!     ◄── Alive{received}                 heartbeat and ack ───►
//! ```
//!
//! Control, Stdio and Files frames are *counted*: each side tells how many it has received, keeps
//! what the other has not yet acknowledged, and sends that again after a redial (see
//! [`crate::link`]). So a lost connection loses and doubles nothing.

mod stdio;

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::AsyncRead;

use super::{ExitStatus, Protocol, ProtocolError, frame::Frames};
use crate::job::SessionId;

pub use stdio::{Channel, ChannelKind, Stdio, StdioOp, Termios, WINDOW, Winsize, cost};

/// The largest payload of a frame in bytes: 1 MiB of data and room for the headers around it.
pub const MAX_PAYLOAD_BYTES: usize = (1 << 20) + 64;

const FRAMES: Frames = Frames { protocol: Protocol::Home, most_bytes: MAX_PAYLOAD_BYTES };

/// The first frame of a connection after the hellos, from the guest agent: who calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The node that calls.
    pub node: String,
    /// The job's home session.
    pub session: SessionId,
    /// The migration that brings, or brought, the guest: names the guest.
    pub migration: SessionId,
    /// The epoch under which the guest runs; `None` before it was committed.
    pub epoch: Option<u64>,
    /// Counted frames received on earlier connections of this guest.
    pub received: u64,
}

/// Home's answer to a [`Call`] that it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The job's epoch now.
    pub epoch: u64,
    /// Counted frames received from this guest on earlier connections.
    pub received: u64,
}

/// Home's answer to a [`Call`] that it does not accept: the guest must end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, in a sentence.
    pub reason: String,
}

/// From a guest agent to the home agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "guest", rename_all = "snake_case")]
pub enum GuestToHome {
    /// The process tree's owner asks that this migration be home's candidate. Answered by
    /// [`HomeToGuest::Begun`].
    Begin {
        /// The migration out of here.
        migration: SessionId,
        /// The target's name.
        target: String,
    },
    /// The process tree's owner gives the migration up. Answered by [`HomeToGuest::Aborted`], or
    /// [`HomeToGuest::Gone`] if too late.
    Abort {
        /// The migration.
        migration: SessionId,
        /// Why, for the record.
        reason: String,
    },
    /// The process tree's owner: it is frozen and dumped, and all that it wrote is on this link,
    /// before this message.
    Drained {
        /// The migration.
        migration: SessionId,
    },
    /// The target: the copy is complete and held. Answered by [`HomeToGuest::Run`] or
    /// [`HomeToGuest::Aborted`].
    Restored {
        /// The migration.
        migration: SessionId,
    },
    /// The target: the copy runs.
    Running {
        /// The migration.
        migration: SessionId,
    },
    /// A process of the tree was stopped by a signal.
    Stopped {
        /// Its pid at home.
        pid: i32,
        /// The signal.
        signal: i32,
    },
    /// Offsets of regular files at this moment, before the exit of those that have them open.
    Offsets {
        /// One per open file description of the table in the dump.
        offsets: Vec<FileOffset>,
    },
    /// A process of the tree ended; what it wrote is on this link, before this message.
    Exited {
        /// Its pid at home.
        pid: i32,
        /// How.
        status: ExitStatus,
    },
    /// Nothing of the process tree is left. Answered by [`HomeToGuest::Done`].
    Ended,
}

/// From the home agent to a guest agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "home", rename_all = "snake_case")]
pub enum HomeToGuest {
    /// Answer to [`GuestToHome::Begin`].
    Begun {
        /// The migration.
        migration: SessionId,
        /// Why not, if refused.
        refused: Option<String>,
    },
    /// This migration will never be committed: the source may thaw, the target must end.
    Aborted {
        /// The migration.
        migration: SessionId,
        /// Why.
        reason: String,
    },
    /// To the target: committed, run.
    Run {
        /// The migration.
        migration: SessionId,
        /// The epoch that begins.
        epoch: u64,
    },
    /// To the old owner: the process tree runs elsewhere; kill the copy and end.
    Gone {
        /// The migration that took it away.
        migration: SessionId,
    },
    /// A signal for a process of the tree.
    Signal(Signal),
    /// Answer to [`GuestToHome::Ended`]: all is delivered at home, the agent may go.
    Done,
    /// Kill the process tree and end: home waits for it no more.
    Terminate {
        /// Why, for the log.
        reason: String,
    },
}

/// A signal that reached a deputy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// The process at home and in the guest.
    pub pid: i32,
    /// The signal's number.
    pub signal: i32,
    /// `si_code`: `SI_KERNEL` means that the terminal sent it to the whole foreground group.
    pub code: i32,
    /// `si_value` of `SI_QUEUE` signals.
    pub value: u64,
}

/// Where a file that is shared with processes at home stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOffset {
    /// [`SharedFile::id`].
    pub id: u32,
    /// Offset in bytes.
    pub offset: i64,
}

/// A regular file whose open file description processes outside the job may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFile {
    /// Names it in [`FileOffset`].
    pub id: u32,
    /// A process that has it open in the dump.
    pub pid: i32,
    /// Its descriptor there.
    pub fd: i32,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// See [`Call`].
    Call(Call),
    /// See [`Welcome`].
    Welcome(Welcome),
    /// See [`Refused`].
    Refused(Refused),
    /// JSON of a [`GuestToHome`] or [`HomeToGuest`].
    Control(Bytes),
    /// See [`Stdio`].
    Stdio(Stdio),
    /// Opaque bytes of the file protocol.
    Files(Bytes),
    /// I am there, and have received this many counted frames.
    Alive(u64),
}

// === impl Frame ===

impl Frame {
    /// The frame as it goes over the stream.
    ///
    /// # Errors
    /// If a message cannot be written as JSON, or the payload is longer than [`MAX_PAYLOAD_BYTES`].
    pub fn encode(&self) -> Result<Bytes, ProtocolError> {
        let mut out = BytesMut::new();
        FRAMES.put(&mut out, |out| self.put(out))?;
        Ok(out.freeze())
    }

    fn put(&self, out: &mut BytesMut) -> Result<u8, ProtocolError> {
        match self {
            Self::Call(call) => json(out, 0, call),
            Self::Welcome(welcome) => json(out, 1, welcome),
            Self::Refused(refused) => json(out, 2, refused),
            Self::Control(bytes) => Ok(raw(out, 3, bytes)),
            Self::Stdio(stdio) => {
                stdio.put(out);
                Ok(4)
            }
            Self::Files(bytes) => Ok(raw(out, 5, bytes)),
            Self::Alive(received) => {
                out.put_u64_le(*received);
                Ok(6)
            }
        }
    }

    /// The next frame, each piece of which must come within `patience`; `None` if the other end has
    /// closed after the last one. Not cancel-safe.
    ///
    /// # Errors
    /// If the stream fails or is silent, or the frame is none.
    pub async fn read(from: &mut (impl AsyncRead + Unpin), patience: Duration) -> Result<Option<Self>, ProtocolError> {
        let frame = FRAMES.read(from, Some(patience)).await?;
        frame.map(|(kind, payload)| Self::decode(kind, payload)).transpose()
    }

    /// The frame of this kind and payload.
    ///
    /// # Errors
    /// If the kind is unknown or the payload does not fit it.
    pub fn decode(kind: u8, payload: Bytes) -> Result<Self, ProtocolError> {
        let malformed = |what: &'static str| Protocol::Home.malformed(what);
        Ok(match kind {
            0 => Self::Call(from_json(&payload)?),
            1 => Self::Welcome(from_json(&payload)?),
            2 => Self::Refused(from_json(&payload)?),
            3 => Self::Control(payload),
            4 => Self::Stdio(Stdio::decode(payload).ok_or_else(|| malformed("a stdio frame"))?),
            5 => Self::Files(payload),
            6 => Self::Alive(u64::from_le_bytes(payload[..].try_into().map_err(|_| malformed("an alive frame"))?)),
            _ => return Err(malformed("a frame of unknown kind")),
        })
    }
}

fn json<T: Serialize>(out: &mut BytesMut, kind: u8, message: &T) -> Result<u8, ProtocolError> {
    serde_json::to_writer(out.writer(), message).map_err(Protocol::Home.json())?;
    Ok(kind)
}

fn from_json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ProtocolError> {
    serde_json::from_slice(payload).map_err(Protocol::Home.json())
}

fn raw(out: &mut BytesMut, kind: u8, bytes: &[u8]) -> u8 {
    out.extend_from_slice(bytes);
    kind
}

#[cfg(test)]
mod tests;
