//! What source and target engine say to each other: one TLS connection per migration (stream kind
//! `M`).
//!
//! ```text
//!   source                                                     target (guest agent)
//!     │ Begin{root, clocks, descriptors}                            │
//!     │──────────────────────────────────────────────────────────►│
//!     │ Image … Image (parts of CRIU's files), ImagesEnd          │
//!     │──────────────────────────────────────────────────────────►│ criu restore begins
//!     │ Pages, Zeros, Pages, Pages …  PagesEnd{pages, zeros}      │
//!     │──────────────────────────────────────────────────────────►│ userfaultfd puts them in place
//!     │                                                 Restored  │ held at pre-resume, all pages in place;
//!     │◄──────────────────────────────────────────────────────────│ home is told on the home link
//!     │                                                  Running  │ home has committed, CRIU has detached
//!     │◄──────────────────────────────────────────────────────────│
//!
//!   Either end may say Failed{reason} at any time before `Running`; a closed connection means the same without a reason.
//! ```
//!
//! Control messages are JSON, bulk data is binary, little endian. Every batch of pages carries the
//! CRC-32C of its bytes as they were read from the source's memory, so that a mistake of any stage
//! between is found; TLS has its own protection of the way.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;

use super::{
    Protocol, ProtocolError,
    frame::Frames,
    home::{Channel, SharedFile},
};
use crate::job::SessionId;

/// A page in bytes; x86-64 has no other size for CRIU.
pub const PAGE_BYTES: u64 = 4096;
/// The largest batch of pages and the largest part of an image, in bytes.
pub const MAX_DATA_BYTES: usize = 1 << 20;
/// The largest payload of a frame in bytes.
const MAX_FRAME_BYTES: usize = MAX_DATA_BYTES + 320;
/// The largest address of a user's memory on x86-64 with five-level page tables.
const MAX_ADDRESS: u64 = 1 << 56;
/// The longest name of an image file.
const MAX_NAME_BYTES: usize = 200;

const FRAMES: Frames = Frames { protocol: Protocol::Move, most_bytes: MAX_FRAME_BYTES };

fn bad<T>(what: impl ToString) -> Result<T, ProtocolError> {
    Err(Protocol::Move.malformed(what.to_string()))
}

/// Everything that is not bulk data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Control {
    /// The source's first message; the process tree is frozen.
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
    /// The process tree runs at the target.
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
    /// The migration.
    pub migration: SessionId,
    /// Root of the process tree in its own numbering.
    pub root_pid: i32,
    /// The process tree's `CLOCK_MONOTONIC` when this was sent, in ns.
    pub monotonic_ns: i64,
    /// The process tree's `CLOCK_BOOTTIME` when this was sent, in ns.
    pub boottime_ns: i64,
    /// Its descriptors that need more than a path.
    pub descriptors: Descriptors,
}

/// A relayed descriptor as it is called in one dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relayed {
    /// The channel.
    pub channel: Channel,
    /// CRIU's name of it in this dump, `pipe:[INODE]`; empty for the terminal, which CRIU takes
    /// from its standard input.
    pub criu_key: String,
}

/// What the target must know of a frozen process tree's descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptors {
    /// What is relayed.
    pub relayed: Vec<Relayed>,
    /// Files whose offsets home wants to know in the end. Their `pid` is in the process tree's own
    /// numbering.
    pub shared_files: Vec<SharedFile>,
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
    /// The frame as it goes over the wire.
    pub fn encode(&self) -> Result<Bytes, ProtocolError> {
        let mut out = BytesMut::with_capacity(64);
        self.encode_into(&mut out)?;
        Ok(out.freeze())
    }

    /// The same, behind what is in `out` already, which is of no use after an error.
    pub fn encode_into(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        FRAMES.put(out, |out| self.put(out))
    }

    fn put(&self, out: &mut BytesMut) -> Result<u8, ProtocolError> {
        Ok(match self {
            Self::Control(control) => {
                serde_json::to_writer(out.writer(), control).map_err(Protocol::Move.json())?;
                CONTROL
            }
            Self::Image { name, data } => {
                check_name(name)?;
                out.reserve(data.len() + name.len() + 1);
                out.put_u8(u8::try_from(name.len()).or_else(bad)?);
                out.put_slice(name.as_bytes());
                out.put_slice(data);
                IMAGE
            }
            Self::Pages(pages) => {
                out.reserve(pages.data.len());
                out.put_i32_le(pages.pid);
                out.put_u64_le(pages.start);
                out.put_u32_le(pages.length);
                out.put_u32_le(pages.crc);
                out.put_u8(pages.compressed.into());
                out.put_slice(&pages.data);
                PAGES
            }
            Self::Zeros { pid, start, pages } => {
                out.put_i32_le(*pid);
                out.put_u64_le(*start);
                out.put_u64_le(*pages);
                ZEROS
            }
        })
    }

    /// The frame of this kind and payload. Whatever it says has been checked as far as that is
    /// possible without knowing the process tree.
    pub fn decode(kind: u8, mut bytes: Bytes) -> Result<Self, ProtocolError> {
        let short = |_| Protocol::Move.malformed("a frame is too short");
        let frame = match kind {
            CONTROL => Self::Control(serde_json::from_slice(&bytes).map_err(Protocol::Move.json())?),
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
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Self>, ProtocolError> {
        FRAMES.read(from, None).await?.map(|(kind, payload)| Self::decode(kind, payload)).transpose()
    }
}

/// An image's name must stay in the images' directory.
fn check_name(name: &str) -> Result<(), ProtocolError> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !plain || name.starts_with('.') {
        return bad(format!("{name:?} is no name of an image"));
    }
    Ok(())
}

fn check_range(pid: i32, start: u64, length: u64) -> Result<(), ProtocolError> {
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

    /// Where a frame tells its kind; the payload follows.
    const KIND_AT: usize = 4;

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
        assert!(matches!(Frame::read(&mut &wire[..wire.len() - 1][..3]).await, Err(ProtocolError::CutOff { .. })));
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
            if let Ok(Frame::Pages(pages)) = Frame::decode(kind, bytes.into()) {
                prop_assert!(pages.length as usize <= MAX_DATA_BYTES && pages.length > 0 && pages.pid > 0);
            }
        }

        #[test]
        fn what_decodes_encodes_alike(index in 0usize..4, flip in any::<u8>(), at in any::<prop::sample::Index>()) {
            let mut bytes = frames()[index].encode().unwrap()[KIND_AT..].to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let bytes = Bytes::from(bytes);
            if let Ok(frame) = Frame::decode(bytes[0], bytes.slice(1..)) {
                let again = frame.encode().unwrap().slice(KIND_AT..);
                prop_assert_eq!(Frame::decode(again[0], again.slice(1..)).unwrap(), frame);
            }
        }
    }
}
