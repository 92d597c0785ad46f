//! The frames of all streams.
//!
//! ```text
//!   u32 LE payload length | u8 kind | payload
//! ```
//!
//! The payload is read into memory of its own, which is as long as the frame says and never longer
//! than the protocol allows; what is decoded from it shares that memory. Not a codec of
//! `tokio_util`, which copies a page's bytes once more when its buffer has to grow.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::{Protocol, ProtocolError};

/// Length of what precedes a payload, in bytes.
pub const HEAD_BYTES: usize = 5;

/// The frames of one protocol.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    /// Whose they are.
    pub protocol: Protocol,
    /// The longest payload in bytes.
    pub most_bytes: usize,
}

impl Frames {
    /// Appends a frame to `out`; `put` appends the payload and tells the kind. After an error `out`
    /// is of no use.
    ///
    /// # Errors
    /// If `put` fails or the payload is too long.
    pub fn put(
        &self,
        out: &mut BytesMut,
        put: impl FnOnce(&mut BytesMut) -> Result<u8, ProtocolError>,
    ) -> Result<(), ProtocolError> {
        let at = out.len();
        out.put_bytes(0, HEAD_BYTES);
        let kind = put(out)?;
        let length = self.checked(out.len() - at - HEAD_BYTES)?;
        out[at..][..4].copy_from_slice(&length.to_le_bytes());
        out[at + 4] = kind;
        Ok(())
    }

    /// Kind and payload of the next frame; `None` if the other end has closed behind the last one.
    /// With `patience` each piece must come within it. Not cancel-safe.
    ///
    /// # Errors
    /// If the stream fails, is cut off in the middle of a frame or silent, or the frame is too
    /// long.
    pub async fn read(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        patience: Option<Duration>,
    ) -> Result<Option<(u8, Bytes)>, ProtocolError> {
        let mut head = BytesMut::with_capacity(HEAD_BYTES);
        if self.fill(from, &mut head, HEAD_BYTES, patience).await? == 0 {
            return Ok(None);
        }
        let Ok([a, b, c, d, kind]) = <[u8; HEAD_BYTES]>::try_from(&head[..]) else {
            return Err(ProtocolError::CutOff { protocol: self.protocol });
        };
        let length = self.checked(u32::from_le_bytes([a, b, c, d]) as usize)? as usize;
        let mut payload = BytesMut::with_capacity(length);
        if self.fill(from, &mut payload, length, patience).await? < length {
            return Err(ProtocolError::CutOff { protocol: self.protocol });
        }
        Ok(Some((kind, payload.freeze())))
    }

    /// Reads until `into` has so many bytes or the stream ends, and says how many it has.
    async fn fill(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        into: &mut BytesMut,
        bytes: usize,
        patience: Option<Duration>,
    ) -> Result<usize, ProtocolError> {
        let mut from = from.take(bytes as u64);
        while into.len() < bytes {
            let reading = from.read_buf(into);
            let read = match patience {
                None => reading.await,
                Some(limit) => timeout(limit, reading)
                    .await
                    .map_err(|_| ProtocolError::Silent { protocol: self.protocol, limit })?,
            };
            match read {
                Ok(0) => break,
                Ok(_) => {}
                // TLS tells so of an end that closed without its farewell.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err(ProtocolError::CutOff { protocol: self.protocol });
                }
                Err(source) => return Err(ProtocolError::Io { what: "read a frame", source }),
            }
        }
        Ok(into.len())
    }

    fn checked(&self, bytes: usize) -> Result<u32, ProtocolError> {
        let too_long = || ProtocolError::TooLong { protocol: self.protocol, bytes, most: self.most_bytes };
        if bytes > self.most_bytes { Err(too_long()) } else { u32::try_from(bytes).map_err(|_| too_long()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRAMES: Frames = Frames { protocol: Protocol::Move, most_bytes: 100 };

    fn encode(kind: u8, payload: &[u8]) -> Result<BytesMut, ProtocolError> {
        let mut out = BytesMut::new();
        let put = |out: &mut BytesMut| {
            out.put_slice(payload);
            Ok(kind)
        };
        FRAMES.put(&mut out, put).map(|()| out)
    }

    #[tokio::test]
    async fn frames_that_are_too_long_are_refused_on_both_sides() {
        assert!(encode(1, &[0; 100]).is_ok());
        assert!(matches!(encode(1, &[0; 101]), Err(ProtocolError::TooLong { bytes: 101, most: 100, .. })));
        let read = FRAMES.read(&mut &[101, 0, 0, 0, 1][..], None).await;
        assert!(matches!(read, Err(ProtocolError::TooLong { bytes: 101, .. })));
    }

    #[tokio::test]
    async fn an_end_between_frames_is_none_and_within_one_an_error() {
        let bytes = encode(7, b"payload").unwrap();
        assert!(matches!(FRAMES.read(&mut &[][..], None).await, Ok(None)));
        for cut in 1..bytes.len() {
            let read = FRAMES.read(&mut &bytes[..cut], None).await;
            assert!(matches!(read, Err(ProtocolError::CutOff { .. })), "{cut}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_falls_silent_is_given_up() {
        let (mut ours, _theirs) = tokio::io::duplex(8);
        let read = FRAMES.read(&mut ours, Some(Duration::from_millis(10))).await;
        assert!(matches!(read, Err(ProtocolError::Silent { .. })));
    }

    proptest! {
        #[test]
        fn frames_survive_the_stream(frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..=100)), 0..5)) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| encode(*kind, payload).unwrap()).collect();
            let mut stream = &bytes[..];
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for (kind, payload) in frames {
                prop_assert_eq!(runtime.block_on(FRAMES.read(&mut stream, None)).unwrap(), Some((kind, payload.into())));
            }
            prop_assert_eq!(runtime.block_on(FRAMES.read(&mut stream, None)).unwrap(), None);
        }

        #[test]
        fn any_bytes_are_a_bounded_frame_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            if let Ok(Some((_, payload))) = runtime.block_on(FRAMES.read(&mut &bytes[..], None)) {
                prop_assert!(payload.len() <= FRAMES.most_bytes);
            }
        }
    }
}
