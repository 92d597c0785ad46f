//! What a guest agent and a home agent say to each other, and its bytes.
//!
//! ```text
//!   frame   u32 LE payload length | u8 kind | payload
//!
//!   guest agent                                     home agent
//!     ── Hello{version, session, migration, epoch, received} ──►
//!     ◄── Welcome{epoch, received} or Refused{reason} ──────────      then, in both directions:
//!     ◄── Control (JSON), Stdio (binary)  in the order sent ───►
//!     ◄── Files (opaque: home::files)     a lane of its own ───►
//!     ◄── Alive{received}                 heartbeat and ack ───►
//! ```
//!
//! Control, Stdio and Files frames are *counted*: each side tells how many it has received, keeps what the other has not yet
//! acknowledged, and sends that again after a redial (see [`super::link`]). So a lost connection loses and doubles nothing.

mod stdio;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::control::{ExitStatus, SessionId};

pub use stdio::{Channel, ChannelKind, Stdio, StdioOp, Termios, WINDOW, Winsize, cost};

/// The version of this protocol; both ends must have the same, because a cluster runs one version.
pub const PROTOCOL_VERSION: u32 = 1;

/// The largest payload of a frame in bytes: 1 MiB of data and room for the headers around it.
pub const MAX_PAYLOAD_BYTES: usize = (1 << 20) + 64;

/// Length of a frame's header in bytes.
pub const HEADER_BYTES: usize = 5;

/// What is wrong with bytes from the other side; the connection ends.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The length field exceeds [`MAX_PAYLOAD_BYTES`].
    #[error("a frame of {0} bytes is longer than the home protocol allows")]
    TooLong(usize),
    /// The kind byte is unknown.
    #[error("frame of unknown kind {0}: do both nodes run the same version of scx_mosix?")]
    UnknownKind(u8),
    /// A binary payload is too short or too long for its kind.
    #[error("malformed {0} frame")]
    Malformed(&'static str),
    /// A JSON payload does not fit its type.
    #[error("a message of the home protocol is not understood: do both nodes run the same version of scx_mosix?")]
    Json(#[from] serde_json::Error),
}

/// The first frame of a connection, from the guest agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u32,
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

/// Home's answer to a [`Hello`] that it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The job's epoch now.
    pub epoch: u64,
    /// Counted frames received from this guest on earlier connections.
    pub received: u64,
}

/// Home's answer to a [`Hello`] that it does not accept: the guest must end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, in a sentence.
    pub reason: String,
}

/// From a guest agent to the home agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "guest", rename_all = "snake_case")]
pub enum GuestToHome {
    /// The body's owner asks that this migration of its body be home's candidate. Answered by [`HomeToGuest::Begun`].
    Begin {
        /// The migration out of here.
        migration: SessionId,
        /// The target's name.
        target: String,
    },
    /// The body's owner gives the migration up. Answered by [`HomeToGuest::Aborted`], or [`HomeToGuest::Gone`] if too late.
    Abort {
        /// The migration.
        migration: SessionId,
        /// Why, for the record.
        reason: String,
    },
    /// The body's owner: the body is frozen and dumped, and all that it wrote is on this link, before this message.
    Drained {
        /// The migration.
        migration: SessionId,
    },
    /// The target: the copy is complete and held. Answered by [`HomeToGuest::Run`] or [`HomeToGuest::Aborted`].
    Restored {
        /// The migration.
        migration: SessionId,
    },
    /// The target: the copy runs.
    Running {
        /// The migration.
        migration: SessionId,
    },
    /// A process of the body was stopped by a signal.
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
    /// A process of the body ended; what it wrote is on this link, before this message.
    Exited {
        /// Its pid at home.
        pid: i32,
        /// How.
        status: ExitStatus,
    },
    /// Nothing of the body is left. Answered by [`HomeToGuest::Done`].
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
    /// To the old owner: the body runs elsewhere; kill the copy and end.
    Gone {
        /// The migration that took it away.
        migration: SessionId,
    },
    /// A signal for a process of the body.
    Signal(Signal),
    /// Answer to [`GuestToHome::Ended`]: all is delivered at home, the agent may go.
    Done,
    /// Kill the body and end: nobody waits for it any more.
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
    /// See [`Hello`].
    Hello(Hello),
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
    /// Whether the frame is counted, and sent again after a redial.
    pub fn is_counted(&self) -> bool {
        matches!(self, Self::Control(_) | Self::Stdio(_) | Self::Files(_))
    }

    /// Header and payload.
    ///
    /// # Errors
    /// If a message cannot be written as JSON, or the payload is longer than [`MAX_PAYLOAD_BYTES`].
    pub fn encode(&self) -> Result<Bytes, WireError> {
        let mut out = BytesMut::from(&[0; HEADER_BYTES][..]);
        let kind = match self {
            Self::Hello(hello) => json(&mut out, 0, hello)?,
            Self::Welcome(welcome) => json(&mut out, 1, welcome)?,
            Self::Refused(refused) => json(&mut out, 2, refused)?,
            Self::Control(bytes) => raw(&mut out, 3, bytes),
            Self::Stdio(stdio) => {
                stdio.put(&mut out);
                4
            }
            Self::Files(bytes) => raw(&mut out, 5, bytes),
            Self::Alive(received) => {
                out.put_u64_le(*received);
                6
            }
        };
        let payload_bytes = out.len() - HEADER_BYTES;
        if payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(WireError::TooLong(payload_bytes));
        }
        out[..4].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        out[4] = kind;
        Ok(out.freeze())
    }

    /// The payload's length and the kind that a header tells.
    ///
    /// # Errors
    /// If the length is beyond [`MAX_PAYLOAD_BYTES`].
    pub fn decode_header(header: [u8; HEADER_BYTES]) -> Result<(usize, u8), WireError> {
        let [a, b, c, d, kind] = header;
        let payload_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
        if payload_bytes > MAX_PAYLOAD_BYTES {
            Err(WireError::TooLong(payload_bytes))
        } else {
            Ok((payload_bytes, kind))
        }
    }

    /// The frame of this kind and payload.
    ///
    /// # Errors
    /// If the kind is unknown or the payload does not fit it.
    pub fn decode(kind: u8, payload: Bytes) -> Result<Self, WireError> {
        Ok(match kind {
            0 => Self::Hello(serde_json::from_slice(&payload)?),
            1 => Self::Welcome(serde_json::from_slice(&payload)?),
            2 => Self::Refused(serde_json::from_slice(&payload)?),
            3 => Self::Control(payload),
            4 => Self::Stdio(Stdio::decode(payload).ok_or(WireError::Malformed("stdio"))?),
            5 => Self::Files(payload),
            6 => Self::Alive(u64::from_le_bytes(payload[..].try_into().map_err(|_| WireError::Malformed("alive"))?)),
            _ => return Err(WireError::UnknownKind(kind)),
        })
    }
}

fn json<T: Serialize>(out: &mut BytesMut, kind: u8, message: &T) -> Result<u8, WireError> {
    serde_json::to_writer(out.writer(), message)?;
    Ok(kind)
}

fn raw(out: &mut BytesMut, kind: u8, bytes: &[u8]) -> u8 {
    out.extend_from_slice(bytes);
    kind
}

#[cfg(test)]
mod tests;
