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

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::control::{ExitStatus, SessionId};

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

/// How a channel's data flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// The body reads a pipe that is written at home.
    PipeIn,
    /// The body writes a pipe that is read at home.
    PipeOut,
    /// The body's terminal.
    Tty,
}

/// A pipe or terminal of the body whose other end is at home; the same for the job's whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// Names the channel in [`Stdio`].
    pub id: u32,
    /// How data flows.
    pub kind: ChannelKind,
}

/// One step on one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stdio {
    /// [`Channel::id`].
    pub channel: u32,
    /// What happens.
    pub op: StdioOp,
}

/// What a piece of output counts against [`WINDOW`]: small pieces count as 1 KiB, which bounds their number too.
pub fn cost(data: &[u8]) -> u32 {
    data.len().max(1 << 10) as u32
}

/// How much output may be on its way on one channel, in units of [`cost`].
pub const WINDOW: u32 = 256 << 10;

/// What can happen on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StdioOp {
    /// Bytes, in order.
    Data(Bytes),
    /// No more data in this direction; on a terminal: one end-of-file was typed.
    Eof,
    /// Whoever would take the data is gone.
    Hup,
    /// So much more was taken by whoever reads. From home: [`cost`]s of data written to the pipe or terminal. From the guest:
    /// bytes that the body has read; a typed end-of-file counts as one.
    Taken(u32),
    /// The terminal's settings changed there: take them over here.
    Termios(Termios),
    /// The terminal's size.
    Winsize(Winsize),
    /// Whether the job is in the foreground of home's terminal.
    Foreground(bool),
}

/// The kernel's `struct termios2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Termios {
    /// `c_iflag`
    pub iflag: u32,
    /// `c_oflag`
    pub oflag: u32,
    /// `c_cflag`
    pub cflag: u32,
    /// `c_lflag`
    pub lflag: u32,
    /// `c_line`
    pub line: u8,
    /// `c_cc`
    pub cc: [u8; 19],
    /// `c_ispeed`
    pub ispeed: u32,
    /// `c_ospeed`
    pub ospeed: u32,
}

/// The kernel's `struct winsize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Winsize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
    /// Width in pixels.
    pub xpixel: u16,
    /// Height in pixels.
    pub ypixel: u16,
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

// === impl Stdio ===

impl Stdio {
    fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(self.channel);
        match &self.op {
            StdioOp::Data(data) => {
                out.put_u8(0);
                out.extend_from_slice(data);
            }
            StdioOp::Eof => out.put_u8(1),
            StdioOp::Hup => out.put_u8(2),
            StdioOp::Taken(bytes) => {
                out.put_u8(3);
                out.put_u32_le(*bytes);
            }
            StdioOp::Termios(t) => {
                out.put_u8(4);
                for word in [t.iflag, t.oflag, t.cflag, t.lflag, t.ispeed, t.ospeed] {
                    out.put_u32_le(word);
                }
                out.put_u8(t.line);
                out.extend_from_slice(&t.cc);
            }
            StdioOp::Winsize(w) => {
                out.put_u8(5);
                for word in [w.rows, w.cols, w.xpixel, w.ypixel] {
                    out.put_u16_le(word);
                }
            }
            StdioOp::Foreground(yes) => {
                out.put_u8(6);
                out.put_u8(u8::from(*yes));
            }
        }
    }

    /// `None` if there is a byte too few or too many.
    fn decode(mut p: Bytes) -> Option<Self> {
        let channel = p.try_get_u32_le().ok()?;
        let op = match p.try_get_u8().ok()? {
            0 => StdioOp::Data(p.split_off(0)),
            1 => StdioOp::Eof,
            2 => StdioOp::Hup,
            3 => StdioOp::Taken(p.try_get_u32_le().ok()?),
            4 => {
                let mut words = [0; 6];
                for word in &mut words {
                    *word = p.try_get_u32_le().ok()?;
                }
                let [iflag, oflag, cflag, lflag, ispeed, ospeed] = words;
                let line = p.try_get_u8().ok()?;
                let mut cc = [0; 19];
                p.try_copy_to_slice(&mut cc).ok()?;
                StdioOp::Termios(Termios { iflag, oflag, cflag, lflag, line, cc, ispeed, ospeed })
            }
            5 => {
                let mut words = [0; 4];
                for word in &mut words {
                    *word = p.try_get_u16_le().ok()?;
                }
                let [rows, cols, xpixel, ypixel] = words;
                StdioOp::Winsize(Winsize { rows, cols, xpixel, ypixel })
            }
            6 => match p.try_get_u8().ok()? {
                0 => StdioOp::Foreground(false),
                1 => StdioOp::Foreground(true),
                _ => return None,
            },
            _ => return None,
        };
        p.is_empty().then_some(Self { channel, op })
    }
}

#[cfg(test)]
mod tests;
