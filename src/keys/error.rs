//! What can go wrong with the key, the CA and the TLS configurations.

use std::{io, path::PathBuf};

use super::NameError;

/// An error of the key file, of the certificates, or of TLS set-up.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key file cannot be read.
    #[error("cannot read the cluster key {}: make one with `scx_mosix key generate`, or copy it from another node", .path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of a client's credentials cannot be read.
    #[error("cannot read {}: `scx_mosix key client-cert --out DIR` at a node makes credentials", .path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of a key or certificate cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// What was being written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file exists already; it is never overwritten, because nodes that hold it would be
    /// shut out.
    #[error("{} exists already: remove it first if the cluster is to get a new key (every node needs the new one)", .path.display())]
    Exists {
        /// The key file.
        path: PathBuf,
    },
    /// Others than the owner can read or write the key file.
    #[error("others can read or write {} (mode {mode:04o}): run `chmod 600` on it, and make a new key if others may have read it", .path.display())]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file belongs to another user.
    #[error("{} belongs to uid {uid}, not to root or to the user who reads it: run `chown root` on it", .path.display())]
    Owner {
        /// The key file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The contents are not a key file.
    #[error("{} is not a cluster key ({reason}): copy the file again from another node", .path.display())]
    Format {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A name that no certificate can carry.
    #[error("no certificate for this name")]
    Name(#[from] NameError),
    /// A cryptographic primitive refused.
    #[error("the cryptographic library failed while {0}")]
    Crypto(&'static str),
    /// A certificate could not be made.
    #[error("cannot make the certificate")]
    Certificate(#[from] rcgen::Error),
    /// A TLS configuration could not be built.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The verifier of client certificates could not be built.
    #[error("cannot set up the check of certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The peer's certificate does not say what it is.
    #[error("the peer's certificate is not one of a node or client of scx_mosix: {0}")]
    Peer(&'static str),
    /// An identity handed over by the daemon cannot be used.
    #[error("the identity handed over by the daemon cannot be used: {0}")]
    Bundle(&'static str),
}
