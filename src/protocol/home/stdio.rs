//! Channels, and the binary frames of their steps.
//!
//! ```text
//!   u32 LE channel | u8 operation | its fields, LE
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// How a channel's data flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// The process tree reads a pipe that is written at home.
    PipeIn,
    /// The process tree writes a pipe that is read at home.
    PipeOut,
    /// The process tree's terminal.
    Tty,
}

/// A pipe or terminal of the process tree whose other end is at home; the same for the job's whole
/// life.
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

/// What a piece of output counts against [`WINDOW`]: small pieces count as 1 KiB, which bounds
/// their number too.
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
    /// The reader of the data is gone.
    Hup,
    /// So much more was taken by the reader. From home: [`cost`]s of data written to the pipe or
    /// terminal. From the guest: bytes that the process tree has read; a typed end-of-file counts
    /// as one.
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

// === impl Stdio ===

impl Stdio {
    pub(super) fn put(&self, out: &mut BytesMut) {
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
    pub(super) fn decode(mut p: Bytes) -> Option<Self> {
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
