//! Sealed datagrams: gossip that only nodes with the cluster key can read, make, or replay.
//!
//! ```text
//!  0        4       5      6        8          16           24        32          40
//!  | "SMXG" | vers. | kind | unused | key id   | sender id  | epoch   | counter   | ciphertext … | tag 16 |
//!  |<------------------ authenticated, not encrypted --------------------------->|
//! ```
//!
//! AES-256-GCM. Each sender has a key of its own for each start of its daemon: HKDF(cluster key,
//! sender id, epoch), where the epoch grows from start to start. The nonce is the counter, which
//! never repeats within an epoch. A receiver keeps, per sender, the newest epoch and a window over
//! its counters: older epochs and counters seen before are refused.
//!
//! The key id names the cluster: a datagram of another cluster is told apart from a damaged one,
//! and is answered by an unsealed *refusal* (kind 2) so that its sender too can log why no node
//! talks to it. Refusals change no state and are not answered.

use std::collections::HashMap;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest,
};

use super::{ClusterKey, KeyError, KeyId};

/// Longest datagram sent, in bytes: fits every Ethernet path with room for tunnels (1280 is IPv6's
/// least MTU).
pub const MAX_DATAGRAM_BYTES: usize = 1200;
/// Longest payload that can be sealed, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = MAX_DATAGRAM_BYTES - HEADER_BYTES - TAG_BYTES;

const MAGIC: &[u8; 4] = b"SMXG";
const VERSION: u8 = 1;
const KIND_SEALED: u8 = 1;
const KIND_REFUSAL: u8 = 2;
const HEADER_BYTES: usize = 40;
const TAG_BYTES: usize = 16;
const REFUSAL_BYTES: usize = 16;
/// Senders remembered; beyond it the one silent for longest is forgotten. About 700 bytes each.
const MAX_SENDERS: usize = 16_384;

/// Which sender a datagram is from: a hash of what the node says it is (name and address), not
/// secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SenderId(pub [u8; 8]);

impl SenderId {
    /// The id of the sender that describes itself by `text`.
    pub fn of(text: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        let mut id = [0; 8];
        id.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        Self(id)
    }
}

/// An opened datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Who sealed it.
    pub sender: SenderId,
    /// In which run of its daemon.
    pub epoch: u64,
    /// What it says.
    pub payload: Vec<u8>,
}

/// Why a datagram was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The payload does not fit.
    #[error("a payload of {0} bytes does not fit a datagram of {MAX_DATAGRAM_BYTES}")]
    TooLong(usize),
    /// All 2^64 counters are used, or the AEAD failed.
    #[error("the datagram cannot be encrypted; restart the daemon")]
    Crypto,
}

/// Why a datagram was not opened. None of these changes what is known of any sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No datagram of ours at all: too short, too long or without the mark.
    #[error("not a datagram of scx_mosix")]
    Alien,
    /// A later release's format.
    #[error("the datagram has format {0}, this release knows {VERSION}: run the same release on all nodes")]
    Version(u8),
    /// Sealed with the key of another cluster.
    #[error("another cluster key (id {0}): copy this cluster's key file to that node if it belongs here")]
    ForeignCluster(KeyId),
    /// The peer says that it is of another cluster. Unauthenticated: good for a log line only.
    #[error("the peer says that it has another cluster key (id {0}): copy the right key file to one of the two")]
    Refused(KeyId),
    /// The right key id, but the seal does not fit: damaged or forged.
    #[error("the datagram is damaged or forged")]
    Forged,
    /// A counter that was seen before, or that is too old.
    #[error("the datagram was seen before or is too old")]
    Replayed,
    /// From an earlier run of its sender's daemon.
    #[error(
        "the datagram is from an earlier run of its sender (epoch {epoch}, newest {newest}): set that machine's clock, if it went back"
    )]
    StaleEpoch {
        /// The datagram's epoch.
        epoch: u64,
        /// The newest epoch seen from this sender.
        newest: u64,
    },
}

/// Seals what this node sends and opens what others send.
pub struct Sealer {
    secret: ClusterKey,
    key_id: KeyId,
    sender: SenderId,
    epoch: u64,
    key: LessSafeKey,
    counter: u64,
    peers: HashMap<SenderId, Peer>,
    /// Counts opened datagrams; orders the peers by when they were last heard.
    clock: u64,
}

struct Peer {
    epoch: u64,
    key: LessSafeKey,
    window: super::replay::ReplayWindow,
    heard: u64,
}

struct Header {
    sender: SenderId,
    epoch: u64,
    counter: u64,
}

impl Sealer {
    /// A sealer for this node. `epoch` must be greater than in every earlier run with the same
    /// `sender`: nonces repeat otherwise.
    ///
    /// # Errors
    /// [`KeyError::Crypto`].
    pub fn new(secret: &ClusterKey, sender: SenderId, epoch: u64) -> Result<Self, KeyError> {
        let key = sender_key(secret, sender, epoch)?;
        let key_id = secret.id()?;
        Ok(Self { secret: secret.clone(), key_id, sender, epoch, key, counter: 0, peers: HashMap::new(), clock: 0 })
    }

    /// Seals one payload.
    ///
    /// # Errors
    /// [`SealError::TooLong`] above [`MAX_PAYLOAD_BYTES`].
    pub fn seal(&mut self, payload: &[u8]) -> Result<Vec<u8>, SealError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(SealError::TooLong(payload.len()));
        }
        self.counter = self.counter.checked_add(1).ok_or(SealError::Crypto)?;
        let header = Header { sender: self.sender, epoch: self.epoch, counter: self.counter }.encode(self.key_id);
        let mut sealed = payload.to_vec();
        self.key
            .seal_in_place_append_tag(nonce(self.counter), Aad::from(&header), &mut sealed)
            .map_err(|_| SealError::Crypto)?;
        Ok([&header, sealed.as_slice()].concat())
    }

    /// Opens one datagram, which may be anything.
    ///
    /// # Errors
    /// See [`OpenError`]; on [`OpenError::ForeignCluster`] send back [`Self::refusal`], not too
    /// often.
    pub fn open(&mut self, datagram: &[u8]) -> Result<Opened, OpenError> {
        let (header, sealed) = self.parse(datagram)?;
        // A key that is new to us is remembered only once it has opened something.
        let known = self.peers.get(&header.sender).filter(|peer| peer.epoch == header.epoch);
        let fresh = match known {
            Some(_) => None,
            None => Some(sender_key(&self.secret, header.sender, header.epoch).map_err(|_| OpenError::Forged)?),
        };
        let key = known.map(|peer| &peer.key).or(fresh.as_ref()).ok_or(OpenError::Forged)?;
        let aad = Aad::from(datagram.get(..HEADER_BYTES).unwrap_or_default());
        let mut payload = sealed.to_vec();
        let length = key.open_in_place(nonce(header.counter), aad, &mut payload).map_err(|_| OpenError::Forged)?.len();
        payload.truncate(length);

        if let Some(peer) = self.peers.get(&header.sender).filter(|peer| header.epoch < peer.epoch) {
            return Err(OpenError::StaleEpoch { epoch: header.epoch, newest: peer.epoch });
        }
        self.clock += 1;
        if let Some(key) = fresh {
            self.make_room(header.sender);
            let window = super::replay::ReplayWindow::default();
            self.peers.insert(header.sender, Peer { epoch: header.epoch, key, window, heard: self.clock });
        }
        let peer = self.peers.get_mut(&header.sender).ok_or(OpenError::Forged)?;
        if !peer.window.accept(header.counter) {
            return Err(OpenError::Replayed);
        }
        peer.heard = self.clock;
        Ok(Opened { sender: header.sender, epoch: header.epoch, payload })
    }

    /// The unsealed answer to a datagram of another cluster: "my key has this id".
    pub fn refusal(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REFUSAL_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, KIND_REFUSAL, 0, 0]);
        out.extend_from_slice(&self.key_id.0);
        out
    }

    /// The public id of this cluster's key.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    fn parse<'d>(&self, datagram: &'d [u8]) -> Result<(Header, &'d [u8]), OpenError> {
        if datagram.len() > MAX_DATAGRAM_BYTES {
            return Err(OpenError::Alien);
        }
        let (magic, rest) = datagram.split_first_chunk::<4>().ok_or(OpenError::Alien)?;
        let (&[version, kind, _, _], rest) = rest.split_first_chunk::<4>().ok_or(OpenError::Alien)?;
        if magic != MAGIC {
            return Err(OpenError::Alien);
        }
        if version != VERSION {
            return Err(OpenError::Version(version));
        }
        let (key_id, rest) = rest.split_first_chunk::<8>().ok_or(OpenError::Alien)?;
        let key_id = KeyId(*key_id);
        match kind {
            KIND_REFUSAL if datagram.len() == REFUSAL_BYTES && key_id != self.key_id => {
                return Err(OpenError::Refused(key_id));
            }
            KIND_SEALED => {}
            _ => return Err(OpenError::Alien),
        }
        if key_id != self.key_id {
            return Err(OpenError::ForeignCluster(key_id));
        }
        let (sender, rest) = rest.split_first_chunk::<8>().ok_or(OpenError::Alien)?;
        let (epoch, rest) = rest.split_first_chunk::<8>().ok_or(OpenError::Alien)?;
        let (counter, sealed) = rest.split_first_chunk::<8>().ok_or(OpenError::Alien)?;
        let header = Header {
            sender: SenderId(*sender),
            epoch: u64::from_be_bytes(*epoch),
            counter: u64::from_be_bytes(*counter),
        };
        Ok((header, sealed))
    }

    /// Forgets the sender silent for longest if there are too many. Who holds the key could do
    /// worse than exhaust this.
    fn make_room(&mut self, newcomer: SenderId) {
        if self.peers.len() < MAX_SENDERS || self.peers.contains_key(&newcomer) {
            return;
        }
        if let Some(oldest) = self.peers.iter().min_by_key(|(_, peer)| peer.heard).map(|(id, _)| *id) {
            self.peers.remove(&oldest);
        }
    }
}

impl Header {
    fn encode(&self, key_id: KeyId) -> [u8; HEADER_BYTES] {
        let fields: [&[u8]; 6] = [
            MAGIC,
            &[VERSION, KIND_SEALED, 0, 0],
            &key_id.0,
            &self.sender.0,
            &self.epoch.to_be_bytes(),
            &self.counter.to_be_bytes(),
        ];
        let mut out = [0; HEADER_BYTES];
        out.iter_mut().zip(fields.concat()).for_each(|(to, from)| *to = from);
        out
    }
}

fn nonce(counter: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = counter.to_be_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

fn sender_key(secret: &ClusterKey, sender: SenderId, epoch: u64) -> Result<LessSafeKey, KeyError> {
    let bytes = secret.derive(&[b"gossip", &sender.0, &epoch.to_be_bytes()])?;
    let key =
        UnboundKey::new(&AES_256_GCM, bytes.as_slice()).map_err(|_| KeyError::Crypto("setting up a gossip key"))?;
    Ok(LessSafeKey::new(key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Sealer, Sealer) {
        let key = ClusterKey::generate().unwrap();
        let make = |name| Sealer::new(&key, SenderId::of(name), 10).unwrap();
        (make("n1"), make("n2"))
    }

    #[test]
    fn a_datagram_is_opened_once() {
        let (mut n1, mut n2) = pair();
        let datagram = n1.seal(b"hello").unwrap();
        assert!(!datagram.windows(5).any(|w| w == b"hello"));
        assert_eq!(n2.open(&datagram).unwrap().payload, b"hello");
        assert_eq!(n2.open(&datagram), Err(OpenError::Replayed));
    }

    #[test]
    fn an_earlier_run_is_refused_and_a_later_one_starts_afresh() {
        let key = ClusterKey::generate().unwrap();
        let mut n2 = Sealer::new(&key, SenderId::of("n2"), 1).unwrap();
        let mut runs = [5, 6].map(|epoch| Sealer::new(&key, SenderId::of("n1"), epoch).unwrap());
        let [old, late, new] =
            [runs[0].seal(b"old").unwrap(), runs[0].seal(b"late").unwrap(), runs[1].seal(b"new").unwrap()];
        assert!(n2.open(&old).is_ok());
        assert_eq!(n2.open(&new).unwrap().epoch, 6);
        assert_eq!(n2.open(&late), Err(OpenError::StaleEpoch { epoch: 5, newest: 6 }));
        assert_eq!(n2.open(&new), Err(OpenError::Replayed));
    }

    #[test]
    fn another_cluster_is_recognised_on_both_sides() {
        let (mut n1, _) = pair();
        let (mut stranger, _) = pair();
        let error = n1.open(&stranger.seal(b"hi").unwrap()).unwrap_err();
        assert_eq!(error, OpenError::ForeignCluster(stranger.key_id()));
        assert!(error.to_string().contains("another cluster key"));
        assert_eq!(stranger.open(&n1.refusal()), Err(OpenError::Refused(n1.key_id())));
        // Our own refusal, reflected, is nothing to report.
        assert_eq!(n1.open(&n1.refusal()), Err(OpenError::Alien));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_the_largest_fits() {
        let (mut n1, mut n2) = pair();
        assert_eq!(n1.seal(&[0; MAX_PAYLOAD_BYTES + 1]), Err(SealError::TooLong(MAX_PAYLOAD_BYTES + 1)));
        let datagram = n1.seal(&[7; MAX_PAYLOAD_BYTES]).unwrap();
        assert_eq!(datagram.len(), MAX_DATAGRAM_BYTES);
        assert_eq!(n2.open(&datagram).unwrap().payload, vec![7; MAX_PAYLOAD_BYTES]);
    }

    #[test]
    fn forged_senders_take_no_memory() {
        let (mut n1, mut n2) = pair();
        let mut datagram = n1.seal(b"x").unwrap();
        for id in 0..100 {
            datagram[16] = datagram[16].wrapping_add(id).wrapping_add(1);
            for epoch in [0, 0xff] {
                datagram[24] = epoch; // a far epoch must not shut out the real sender, nor a former one be accepted
                assert_eq!(n2.open(&datagram), Err(OpenError::Forged));
            }
        }
        assert!(n2.peers.is_empty());
        assert!(n2.open(&n1.seal(b"y").unwrap()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..1300), mark: bool) {
            let (_, mut n2) = pair();
            let mut bytes = bytes;
            if mark {
                let head = [MAGIC.as_slice(), &[VERSION, KIND_SEALED, 0, 0], &n2.key_id().0].concat();
                bytes.splice(0..0, head);
            }
            prop_assert!(n2.open(&bytes).is_err());
        }

        #[test]
        fn any_payload_survives_and_any_changed_bit_does_not(
            payload in prop::collection::vec(any::<u8>(), 0..=MAX_PAYLOAD_BYTES), at: prop::sample::Index, bit in 0..8u32,
        ) {
            let (mut n1, mut n2) = pair();
            let datagram = n1.seal(&payload).unwrap();
            let mut damaged = datagram.clone();
            *at.get_mut(&mut damaged) ^= 1 << bit;
            prop_assert!(n2.open(&damaged).is_err());
            prop_assert_eq!(n2.open(&datagram).unwrap().payload, payload);
        }
    }
}
