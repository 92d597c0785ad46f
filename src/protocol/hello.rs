//! The hello with which both ends begin every connection: which protocols it carries, and which
//! versions of each this build understands.
//!
//! ```text
//!   "SMXH" | u8 number of offers | per offer: u8 protocol, u16 LE oldest version, u16 LE newest
//!
//!     one end ── hello ──►  ◄── hello ── other end      at the same time; then each by itself
//!     takes the newest version that both understand, or ends the connection.
//! ```
//!
//! Agents outlive their daemon and two nodes may be upgraded one after the other, so the ends of a
//! connection may be of different releases. Both compute the same answer of the same two hellos, so
//! no third message is needed. This layout never changes; protocols may be added to it, and those
//! that an end does not know are passed over.

use std::{fmt, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::ProtocolError;

/// Time for the other end's hello.
pub const HELLO_LIMIT: Duration = Duration::from_secs(10);
const MAGIC: &[u8; 4] = b"SMXH";
const HEAD_BYTES: usize = MAGIC.len() + 1;
const OFFER_BYTES: usize = 5;
const MAX_OFFERS: usize = 16;
/// The longest hello in bytes.
pub const MAX_HELLO_BYTES: usize = HEAD_BYTES + MAX_OFFERS * OFFER_BYTES;

/// What is spoken over a connection; the numbers are those of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// Daemon and agent of one node: the control socket.
    Control = 1,
    /// Guest agent and home agent: the home link.
    Home = 2,
    /// Guest agent and home agent: requests for home's files, a lane of the home link.
    Files = 3,
    /// Source and target of a move: images and pages.
    Move = 4,
}

impl Protocol {
    /// The versions that this build understands. Raise the newest with every change that an older
    /// end would not understand, and the oldest when the code for it goes.
    #[must_use]
    pub const fn versions(self) -> Versions {
        match self {
            Self::Control => Versions { oldest: 1, newest: 1 },
            Self::Home | Self::Move => Versions { oldest: 2, newest: 2 },
            Self::Files => Versions { oldest: 6, newest: 6 },
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control protocol",
            Self::Home => "home protocol",
            Self::Files => "files protocol",
            Self::Move => "migration protocol",
        })
    }
}

/// A range of versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The first that is understood.
    pub oldest: u16,
    /// The last that is understood.
    pub newest: u16,
}

impl Versions {
    /// The newest version that is in both ranges.
    #[must_use]
    pub fn newest_common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest && newest >= other.oldest).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

/// What one end understands of all that it knows to be spoken over the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello(Vec<(u8, Versions)>);

impl Hello {
    /// What this build understands of `protocols`.
    #[must_use]
    pub fn new(protocols: &[Protocol]) -> Self {
        Self(protocols.iter().map(|protocol| (*protocol as u8, protocol.versions())).collect())
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_HELLO_BYTES);
        out.extend_from_slice(MAGIC);
        out.push(self.0.len() as u8);
        for (protocol, versions) in &self.0 {
            out.push(*protocol);
            out.extend_from_slice(&versions.oldest.to_le_bytes());
            out.extend_from_slice(&versions.newest.to_le_bytes());
        }
        out
    }

    /// The hello that these bytes are.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let (head, offers) = bytes.split_first_chunk().ok_or(ProtocolError::NoHello)?;
        if offers.len() != offers_bytes(*head)? {
            return Err(ProtocolError::NoHello);
        }
        let offer = |bytes: &[u8]| {
            let [protocol, a, b, c, d] = *bytes else { return Err(ProtocolError::NoHello) };
            let versions = Versions { oldest: u16::from_le_bytes([a, b]), newest: u16::from_le_bytes([c, d]) };
            if versions.oldest > versions.newest { Err(ProtocolError::NoHello) } else { Ok((protocol, versions)) }
        };
        offers.chunks(OFFER_BYTES).map(offer).collect::<Result<_, _>>().map(Self)
    }

    /// The version of `protocol` that both ends speak, this one being of this build.
    ///
    /// # Errors
    /// If there is none.
    pub fn agree(&self, protocol: Protocol) -> Result<u16, ProtocolError> {
        let ours = protocol.versions();
        let offer = self.0.iter().find(|(number, _)| *number == protocol as u8);
        let (_, theirs) = *offer.ok_or(ProtocolError::NotOffered { protocol, ours })?;
        ours.newest_common(theirs).ok_or(ProtocolError::NoCommonVersion { protocol, ours, theirs })
    }
}

/// How many bytes follow this head.
fn offers_bytes(head: [u8; HEAD_BYTES]) -> Result<usize, ProtocolError> {
    let (magic, count) = (&head[..MAGIC.len()], usize::from(head[MAGIC.len()]));
    let is_one = magic == MAGIC && (1..=MAX_OFFERS).contains(&count);
    if is_one { Ok(count * OFFER_BYTES) } else { Err(ProtocolError::NoHello) }
}

/// Says hello over a fresh stream, waits for the other end's, and finds a version of each of
/// `protocols`.
///
/// # Errors
/// If the other end says no hello in time, or there is a protocol without a common version.
pub async fn greet<S>(stream: &mut S, protocols: &[Protocol]) -> Result<Vec<u16>, ProtocolError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    greet_within(HELLO_LIMIT, stream, protocols).await
}

async fn greet_within<S>(limit: Duration, stream: &mut S, protocols: &[Protocol]) -> Result<Vec<u16>, ProtocolError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |source| ProtocolError::Io { what: "exchange hellos", source };
    let exchange = async {
        stream.write_all(&Hello::new(protocols).encode()).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let mut bytes = [0; MAX_HELLO_BYTES];
        let mut head = [0; HEAD_BYTES];
        stream.read_exact(&mut head).await.map_err(failed)?;
        let whole = HEAD_BYTES + offers_bytes(head)?;
        bytes[..HEAD_BYTES].copy_from_slice(&head);
        stream.read_exact(&mut bytes[HEAD_BYTES..whole]).await.map_err(failed)?;
        Hello::decode(&bytes[..whole])
    };
    let theirs = timeout(limit, exchange).await.map_err(|_| ProtocolError::TimedOut)??;
    protocols.iter().map(|protocol| theirs.agree(*protocol)).collect()
}

#[cfg(test)]
mod tests;
