//! What a node, an agent or a client shows to others: a certificate with its key, and the CA that
//! it trusts.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    ClusterKey, KeyError, NodeName,
    ca::{ClusterCa, Minted, Role},
};

/// The files that `key client-cert --out DIR` writes, in the order CA, certificate, private key.
pub const CLIENT_CERT_FILES: [&str; 3] = ["ca.pem", "client.pem", "client-key.pem"];

const BUNDLE_VERSION: u32 = 1;

/// A node's certificate and private key with the CA's certificate: all that TLS needs. Cannot mint
/// further certificates.
pub struct NodeIdentity {
    name: NodeName,
    pub(super) minted: Minted,
}

/// A client's certificate and private key with the CA's certificate.
pub struct ClientIdentity(pub(super) Minted);

/// A [`NodeIdentity`] in a form that crosses a process boundary. Wiped when dropped; `Debug` shows
/// the name only.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct IdentityBundle {
    version: u32,
    name: String,
    minted: Minted,
}

impl ClusterKey {
    /// A fresh key pair for node `name`, with a certificate for that name and `addresses` (loopback
    /// is always added).
    ///
    /// # Errors
    /// [`KeyError::Crypto`], [`KeyError::Certificate`].
    pub fn mint_node_identity(&self, name: &NodeName, addresses: &[IpAddr]) -> Result<NodeIdentity, KeyError> {
        let minted = ClusterCa::derive(self)?.mint(Role::Node, name, addresses)?;
        Ok(NodeIdentity { name: name.clone(), minted })
    }

    /// A fresh key pair and certificate for a client of the API called `name`.
    ///
    /// # Errors
    /// [`KeyError::Crypto`], [`KeyError::Certificate`].
    pub fn mint_client_identity(&self, name: &NodeName) -> Result<ClientIdentity, KeyError> {
        Ok(ClientIdentity(ClusterCa::derive(self)?.mint(Role::Client, name, &[])?))
    }
}

impl ClientIdentity {
    /// Reads what [`Self::write_to`] wrote.
    ///
    /// # Errors
    /// [`KeyError::Credentials`] with the file that cannot be read. That its text is what it should
    /// be is found out when TLS is set up.
    pub fn read_from(dir: &Path) -> Result<Self, KeyError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|source| KeyError::Credentials { path, source })
        };
        let [ca, cert, key] = CLIENT_CERT_FILES;
        Ok(Self(Minted { ca_pem: read(ca)?, cert_pem: read(cert)?, key_pem: read(key)? }))
    }

    /// The PEM texts in the order of [`CLIENT_CERT_FILES`].
    pub fn pem(&self) -> [&str; 3] {
        [&self.0.ca_pem, &self.0.cert_pem, &self.0.key_pem]
    }

    /// `key client-cert --out DIR`: writes [`CLIENT_CERT_FILES`], replacing older ones; all are
    /// mode 0600.
    ///
    /// # Errors
    /// [`KeyError::Write`] with the path that could not be written.
    pub fn write_to(&self, dir: &Path) -> Result<(), KeyError> {
        std::fs::create_dir_all(dir).map_err(|source| KeyError::Write { path: dir.into(), source })?;
        for (name, text) in CLIENT_CERT_FILES.iter().zip(self.pem()) {
            let path = dir.join(name);
            let write = || -> io::Result<()> {
                // Removed and made anew: an old file's mode, and links to it, would outlive a mere
                // truncation.
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.write_all(text.as_bytes())
            };
            write().map_err(|source| KeyError::Write { path: path.clone(), source })?;
        }
        Ok(())
    }
}

impl NodeIdentity {
    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// The form in which the daemon hands this identity to an agent.
    pub fn bundle(&self) -> IdentityBundle {
        IdentityBundle { version: BUNDLE_VERSION, name: self.name.as_str().to_owned(), minted: self.minted.clone() }
    }

    /// Takes the identity out of a bundle. That its texts are what they should be is found out when
    /// TLS is set up.
    ///
    /// # Errors
    /// [`KeyError::Bundle`] if it is of another version, [`KeyError::Name`].
    pub fn from_bundle(bundle: &IdentityBundle) -> Result<Self, KeyError> {
        if bundle.version != BUNDLE_VERSION {
            return Err(KeyError::Bundle("its version is another; agent and daemon are of different releases"));
        }
        Ok(Self { name: NodeName::new(&bundle.name)?, minted: bundle.minted.clone() })
    }
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeIdentity({}, key hidden)", self.name)
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(hidden)")
    }
}

impl fmt::Debug for IdentityBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityBundle({}, key hidden)", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_bundle_gives_the_identity_back_and_shows_no_key() {
        let key = ClusterKey::generate().unwrap();
        let identity = key.mint_node_identity(&"n1".parse().unwrap(), &[]).unwrap();
        let bundle = identity.bundle();
        let copy = NodeIdentity::from_bundle(&bundle).unwrap();
        assert_eq!((copy.name(), &copy.minted.key_pem), (identity.name(), &identity.minted.key_pem));
        assert!(!format!("{bundle:?} {copy:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_bundle_of_another_version_is_refused() {
        let key = ClusterKey::generate().unwrap();
        let mut bundle = key.mint_node_identity(&"n1".parse().unwrap(), &[]).unwrap().bundle();
        bundle.version = 2;
        assert!(matches!(NodeIdentity::from_bundle(&bundle), Err(KeyError::Bundle(_))));
    }

    #[test]
    fn client_credentials_are_private_and_replace_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let key = ClusterKey::generate().unwrap();
        std::fs::write(dir.path().join("client-key.pem"), "old").unwrap();
        key.mint_client_identity(&"admin".parse().unwrap()).unwrap().write_to(dir.path()).unwrap();
        for name in CLIENT_CERT_FILES {
            let path = dir.path().join(name);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
            assert!(std::fs::read_to_string(&path).unwrap().starts_with("-----BEGIN "), "{name}");
        }
        let read = ClientIdentity::read_from(dir.path()).unwrap();
        assert!(read.tls().is_ok());
        std::fs::remove_file(dir.path().join("client.pem")).unwrap();
        assert!(matches!(ClientIdentity::read_from(dir.path()), Err(KeyError::Credentials { .. })));
    }
}
