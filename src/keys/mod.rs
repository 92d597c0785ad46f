//! The cluster's one secret and all that follows from it.
//!
//! ```text
//!   cluster key (32 random bytes in a file, the same on every node)
//!     └─ HKDF-SHA-256 ─┬─ "ca"     -> P-256 scalar -> cluster CA ─┬─ node certificates   (role node)
//!                      │                                         └─ client certificates (role client)
//!                      ├─ "key id" -> 8 public bytes: which cluster a datagram belongs to
//!                      └─ "gossip" -> one AES-256-GCM key per (sender, epoch) -> sealed UDP datagrams
//! ```
//!
//! A holder of the key *is* the cluster: each node derives the same CA and mints a certificate for
//! itself at every start, so nothing has to be distributed, renewed or revoked by hand. A new key
//! is a new cluster. Certificates say what their holder is: a **node** certificate opens peer calls
//! and streams, a **client** certificate the public API only.
//!
//! The daemon gives a restore agent an [`IdentityBundle`] (CA certificate, node certificate, its
//! private key) and never the cluster key itself.

#![forbid(unsafe_code)]

mod ca;
mod error;
mod identity;
mod name;
mod replay;
mod seal;
mod secret;
mod tls;

pub use error::KeyError;
pub use identity::{CLIENT_CERT_FILES, ClientIdentity, IdentityBundle, NodeIdentity};
pub use name::{NameError, NodeName};
pub use seal::{MAX_DATAGRAM_BYTES, MAX_PAYLOAD_BYTES, OpenError, Opened, SealError, Sealer, SenderId};
pub use secret::{ClusterKey, DEFAULT_KEY_PATH, KeyId};
pub use tls::{ALPN_H2, ALPN_STREAM, PeerIdentity, TlsConfigs, TlsPurpose, server_name};
