//! The preamble of a stream between agents: tells a node's port to which agent a connection
//! belongs.
//!
//! `"SMX1"`, the kind's byte, 16 bytes of session; the TLS handshake follows. The preamble tells a
//! stranger nothing and gives him nothing: the sender must still prove in the handshake that it is
//! a node of the cluster.

use super::StreamKind;
use crate::job::SessionId;

/// The first bytes of a stream for an agent; no TLS connection begins so.
pub const MAGIC: &[u8; 4] = b"SMX1";

/// A preamble's length in bytes: magic, kind, session.
pub const PREAMBLE_BYTES: usize = 4 + 1 + 16;

/// The preamble of a stream.
pub fn preamble(kind: StreamKind, session: SessionId) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4] = kind as u8;
    bytes[5..].copy_from_slice(&session.0);
    bytes
}

/// What a preamble says; `None` if it is not one of this version.
pub fn parse_preamble(bytes: &[u8; PREAMBLE_BYTES]) -> Option<(StreamKind, SessionId)> {
    let (magic, rest) = bytes.split_at(MAGIC.len());
    let (kind, session) = rest.split_first()?;
    let kind = (magic == MAGIC).then(|| StreamKind::from_byte(*kind))??;
    Some((kind, SessionId(session.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_survives_and_another_is_refused() {
        let session = SessionId::random();
        let mut bytes = preamble(StreamKind::Home, session);
        assert_eq!(parse_preamble(&bytes), Some((StreamKind::Home, session)));
        bytes[4] = b'?';
        assert_eq!(parse_preamble(&bytes), None);
        assert_eq!(parse_preamble(&[0; PREAMBLE_BYTES]), None);
    }
}
