//! What source and target engine say to each other: one TLS connection per migration (stream kind `M`).
//!
//! ```text
//!   source                                                     target (guest agent)
//!     │ Begin{version, root, clocks, descriptors}                   │
//!     │──────────────────────────────────────────────────────────►│
//!     │ Image … Image (parts of CRIU's files), ImagesEnd          │
//!     │──────────────────────────────────────────────────────────►│ criu restore begins
//!     │ Pages, Zeros, Pages, Pages …  PagesEnd{pages, zeros}      │
//!     │──────────────────────────────────────────────────────────►│ userfaultfd puts them in place
//!     │                                                 Restored  │ held at pre-resume, all pages in place;
//!     │◄──────────────────────────────────────────────────────────│ home is told on the home link
//!     │                                                  Running  │ home has committed, CRIU has let go
//!     │◄──────────────────────────────────────────────────────────│
//!
//!   Either end may say Failed{reason} at any time before `Running`; a closed connection means the same without a reason.
//! ```
//!
//! A frame is a length (u32 LE, of what follows), a type byte and a payload. Control messages are JSON, bulk data is binary, little
//! endian. Every batch of pages carries the CRC-32C of its bytes as they were read from the source's memory, so that a
//! mistake of any stage between is found; TLS has its own protection of the way.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{criu::PAGE_BYTES, source::Descriptors};
use crate::control::SessionId;

/// The version of this protocol; both ends must have the same.
pub const VERSION: u32 = 1;
/// The largest batch of pages and the largest part of an image, in bytes.
pub const MAX_DATA_BYTES: usize = 1 << 20;
/// The largest frame in bytes, without its length.
pub const MAX_FRAME_BYTES: usize = MAX_DATA_BYTES + 320;
/// The largest address of a user's memory on x86-64 with five-level page tables.
const MAX_ADDRESS: u64 = 1 << 56;
/// The longest name of an image file.
const MAX_NAME_BYTES: usize = 200;

/// Why a frame is not one.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection broke.
    #[error("migration stream")]
    Io(#[source] std::io::Error),
    /// The bytes make no sense.
    #[error("migration stream not understood: {0}")]
    Bad(String),
    /// The other end closed in the middle of a frame, or died: it did not end the stream as TLS wants it.
    #[error("the migration stream was cut off")]
    CutOff,
}

impl From<std::io::Error> for WireError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::CutOff,
            _ => Self::Io(error),
        }
    }
}

fn bad<T>(what: impl ToString) -> Result<T, WireError> {
    Err(WireError::Bad(what.to_string()))
}

/// Everything that is not bulk data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Control {
    /// The source's first message; the body is frozen.
    Begin(Begin),
    /// All images have been sent.
    ImagesEnd,
    /// All pages have been sent.
    PagesEnd {
        /// Pages sent in `Pages`.
        pages: u64,
        /// Pages named in `Zeros`.
        zeros: u64,
    },
    /// The target is complete and waits for home.
    Restored,
    /// The body runs at the target.
    Running,
    /// The sender has given up.
    Failed {
        /// Why: one readable sentence.
        reason: String,
    },
}

/// What the target must know before the images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// [`VERSION`] of the source.
    pub version: u32,
    /// The migration.
    pub migration: SessionId,
    /// Root of the body in its own numbering.
    pub root_pid: i32,
    /// The body's `CLOCK_MONOTONIC` when this was sent, in ns.
    pub monotonic_ns: i64,
    /// The body's `CLOCK_BOOTTIME` when this was sent, in ns.
    pub boottime_ns: i64,
    /// Its descriptors that need more than a path.
    pub descriptors: Descriptors,
}

/// A batch of pages, contiguous and of one area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Whose, in the dump's numbering.
    pub pid: i32,
    /// First address.
    pub start: u64,
    /// Length in bytes when not compressed: whole pages, at most [`MAX_DATA_BYTES`].
    pub length: u32,
    /// CRC-32C of the bytes when not compressed.
    pub crc: u32,
    /// Whether `data` is an LZ4 block.
    pub compressed: bool,
    /// The bytes.
    pub data: Bytes,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// See [`Control`].
    Control(Control),
    /// The next part of an image file; a file is created by its first part.
    Image {
        /// The file's name, without a directory.
        name: String,
        /// The part.
        data: Bytes,
    },
    /// See [`Pages`].
    Pages(Pages),
    /// Pages that hold nothing but zeros.
    Zeros {
        /// Whose, in the dump's numbering.
        pid: i32,
        /// First address.
        start: u64,
        /// How many pages.
        pages: u64,
    },
}

const CONTROL: u8 = 1;
const IMAGE: u8 = 2;
const PAGES: u8 = 3;
const ZEROS: u8 = 4;

impl Frame {
    /// The frame as it goes over the wire, its length included.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        let mut out = BytesMut::with_capacity(64);
        self.encode_into(&mut out)?;
        Ok(out.freeze())
    }

    /// The same, behind what is in `out` already, which is of no use after an error.
    pub fn encode_into(&self, out: &mut BytesMut) -> Result<(), WireError> {
        let start = out.len();
        out.put_u32_le(0);
        match self {
            Self::Control(control) => {
                out.put_u8(CONTROL);
                serde_json::to_writer((&mut *out).writer(), control).map_err(std::io::Error::from)?;
            }
            Self::Image { name, data } => {
                check_name(name)?;
                out.reserve(data.len() + name.len());
                out.put_u8(IMAGE);
                out.put_u8(u8::try_from(name.len()).or_else(bad)?);
                out.put_slice(name.as_bytes());
                out.put_slice(data);
            }
            Self::Pages(pages) => {
                out.reserve(pages.data.len());
                out.put_u8(PAGES);
                out.put_i32_le(pages.pid);
                out.put_u64_le(pages.start);
                out.put_u32_le(pages.length);
                out.put_u32_le(pages.crc);
                out.put_u8(pages.compressed.into());
                out.put_slice(&pages.data);
            }
            Self::Zeros { pid, start, pages } => {
                out.put_u8(ZEROS);
                out.put_i32_le(*pid);
                out.put_u64_le(*start);
                out.put_u64_le(*pages);
            }
        }
        let length = out.len() - start - 4;
        if length > MAX_FRAME_BYTES {
            return bad(format!("a frame of {length} bytes is too long"));
        }
        out[start..][..4].copy_from_slice(&u32::try_from(length).or_else(bad)?.to_le_bytes());
        Ok(())
    }

    /// The frame whose bytes, without the length, these are. Whatever it says has been checked as far as that is possible
    /// without knowing the body.
    pub fn decode(mut bytes: Bytes) -> Result<Self, WireError> {
        let short = |_| WireError::Bad("a frame is too short".into());
        let frame = match bytes.try_get_u8().map_err(short)? {
            CONTROL => Self::Control(serde_json::from_slice(&bytes).or_else(bad)?),
            IMAGE => {
                let length = usize::from(bytes.try_get_u8().map_err(short)?);
                if bytes.len() < length {
                    return bad("an image's name is cut off");
                }
                let name = String::from_utf8(bytes.split_to(length).into()).or_else(bad)?;
                check_name(&name)?;
                Self::Image { name, data: bytes }
            }
            PAGES => {
                let pages = Pages {
                    pid: bytes.try_get_i32_le().map_err(short)?,
                    start: bytes.try_get_u64_le().map_err(short)?,
                    length: bytes.try_get_u32_le().map_err(short)?,
                    crc: bytes.try_get_u32_le().map_err(short)?,
                    compressed: bytes.try_get_u8().map_err(short)? != 0,
                    data: bytes,
                };
                let length = u64::from(pages.length);
                check_range(pages.pid, pages.start, length)?;
                if length > MAX_DATA_BYTES as u64 || !pages.compressed && pages.data.len() as u64 != length {
                    return bad(format!("a batch of {length} bytes"));
                }
                Self::Pages(pages)
            }
            ZEROS => {
                let pid = bytes.try_get_i32_le().map_err(short)?;
                let start = bytes.try_get_u64_le().map_err(short)?;
                let pages = bytes.try_get_u64_le().map_err(short)?;
                check_range(pid, start, pages.saturating_mul(PAGE_BYTES))?;
                Self::Zeros { pid, start, pages }
            }
            other => return bad(format!("message type {other}")),
        };
        Ok(frame)
    }

    /// The next frame, `None` if the other end has closed after the last one. Not cancel-safe.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Self>, WireError> {
        let mut length = [0; 4];
        let mut filled = 0;
        while filled < length.len() {
            match from.read(&mut length[filled..]).await? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(WireError::CutOff),
                read => filled += read,
            }
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME_BYTES {
            return bad(format!("a frame of {length} bytes is too long"));
        }
        let mut bytes = BytesMut::zeroed(length);
        from.read_exact(&mut bytes).await?;
        Self::decode(bytes.freeze()).map(Some)
    }
}

/// An image's name must stay in the images' directory.
fn check_name(name: &str) -> Result<(), WireError> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !plain || name.starts_with('.') {
        return bad(format!("{name:?} is no name of an image"));
    }
    Ok(())
}

fn check_range(pid: i32, start: u64, length: u64) -> Result<(), WireError> {
    let whole = start.is_multiple_of(PAGE_BYTES) && length.is_multiple_of(PAGE_BYTES) && length > 0;
    if pid <= 0 || !whole || start.checked_add(length).is_none_or(|end| end > MAX_ADDRESS) {
        return bad(format!("{length} bytes at {start:#x} of process {pid}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Control(Control::PagesEnd { pages: 7, zeros: 9 }),
            Frame::Image { name: "core-12.img".into(), data: Bytes::from_static(b"abc") },
            Frame::Pages(Pages {
                pid: 12,
                start: 0x7000,
                length: 8192,
                crc: 5,
                compressed: true,
                data: Bytes::from_static(b"x"),
            }),
            Frame::Zeros { pid: 12, start: 0x1000, pages: 1 << 30 },
        ]
    }

    #[tokio::test]
    async fn frames_survive_the_wire() {
        let mut wire: Vec<u8> = Vec::new();
        for frame in frames() {
            wire.extend(frame.encode().unwrap());
        }
        let mut reader = wire.as_slice();
        for frame in frames() {
            assert_eq!(Frame::read(&mut reader).await.unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut reader).await.unwrap(), None);
        assert!(matches!(Frame::read(&mut &wire[..wire.len() - 1][..3]).await, Err(WireError::CutOff)));
    }

    #[test]
    fn names_stay_in_their_directory() {
        for name in ["", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\0b"] {
            let data = Bytes::new();
            assert!(Frame::Image { name: name.into(), data }.encode().is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..6) {
            let mut all = vec![kind];
            all.extend(bytes);
            if let Ok(Frame::Pages(pages)) = Frame::decode(all.into()) {
                prop_assert!(pages.length as usize <= MAX_DATA_BYTES && pages.length > 0 && pages.pid > 0);
            }
        }

        #[test]
        fn what_decodes_encodes_alike(index in 0usize..4, flip in any::<u8>(), at in any::<prop::sample::Index>()) {
            let mut bytes = frames()[index].encode().unwrap()[4..].to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(frame) = Frame::decode(bytes.into()) {
                let again = frame.encode().unwrap().slice(4..);
                prop_assert_eq!(Frame::decode(again).unwrap(), frame);
            }
        }
    }
}
