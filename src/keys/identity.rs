//! What a node, an agent or a client shows to others: a certificate with its key, and the CA that it trusts.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    net::IpAddr,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    ClusterKey, KeyError, NodeName,
    ca::{ClusterCa, Minted, Role},
};

/// The files that `key client-cert --out DIR` writes, in the order CA, certificate, private key.
pub const CLIENT_CERT_FILES: [&str; 3] = ["ca.pem", "client.pem", "client-key.pem"];

/// A bundle has about 3 kB.
const MAX_BUNDLE_BYTES: u64 = 64 * 1024;
const BUNDLE_VERSION: u32 = 1;

/// A node's certificate and private key with the CA's certificate: all that TLS needs. Cannot mint further certificates.
pub struct NodeIdentity {
    name: NodeName,
    pub(super) minted: Minted,
}

/// A client's certificate and private key with the CA's certificate.
pub struct ClientIdentity(pub(super) Minted);

/// A [`NodeIdentity`] in a form that crosses a process boundary. Wiped when dropped; `Debug` shows the name only.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct IdentityBundle {
    version: u32,
    name: String,
    minted: Minted,
}

impl ClusterKey {
    /// A fresh key pair for node `name`, with a certificate for that name and `addresses` (loopback is always added).
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
    /// The PEM texts in the order of [`CLIENT_CERT_FILES`].
    pub fn pem(&self) -> [&str; 3] {
        [&self.0.ca_pem, &self.0.cert_pem, &self.0.key_pem]
    }

    /// `key client-cert --out DIR`: writes [`CLIENT_CERT_FILES`], replacing older ones; all are mode 0600.
    ///
    /// # Errors
    /// [`KeyError::Write`] with the path that could not be written.
    pub fn write_to(&self, dir: &Path) -> Result<(), KeyError> {
        std::fs::create_dir_all(dir).map_err(|source| KeyError::Write { path: dir.into(), source })?;
        for (name, text) in CLIENT_CERT_FILES.iter().zip(self.pem()) {
            let path = dir.join(name);
            let write = || -> io::Result<()> {
                // Removed and made anew: an old file's mode, and links to it, would outlive a mere truncation.
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

    /// Takes the identity out of a bundle. That its texts are what they should be is found out when TLS is set up.
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

impl IdentityBundle {
    /// Puts the bundle into a sealed memory file, which a child inherits (never argv, environment or disk). The descriptor is
    /// close-on-exec; the spawner clears that in the child, or passes it at a fixed number.
    ///
    /// # Errors
    /// [`KeyError::BundleIo`].
    pub fn to_memfd(&self) -> Result<OwnedFd, KeyError> {
        let text =
            Zeroizing::new(serde_json::to_vec(self).map_err(|_| KeyError::Bundle("it cannot be written as JSON"))?);
        let write = || -> io::Result<OwnedFd> {
            let fd = rustix::fs::memfd_create("scx_mosix identity", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            let mut file = File::from(fd);
            file.write_all(&text)?;
            file.rewind()?;
            rustix::fs::fcntl_add_seals(
                &file,
                SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
            )?;
            Ok(file.into())
        };
        write().map_err(KeyError::BundleIo)
    }

    /// Reads a bundle from the descriptor that [`Self::to_memfd`] made.
    ///
    /// # Errors
    /// [`KeyError::BundleIo`], [`KeyError::Bundle`] if it holds something else.
    pub fn from_memfd(fd: OwnedFd) -> Result<Self, KeyError> {
        let mut text = Zeroizing::new(Vec::with_capacity(8192));
        let mut file = File::from(fd);
        // Agents share one open file description with the daemon, and so its offset.
        file.rewind().and_then(|()| file.take(MAX_BUNDLE_BYTES).read_to_end(&mut text)).map_err(KeyError::BundleIo)?;
        serde_json::from_slice(&text).map_err(|_| KeyError::Bundle("it is not the JSON of an identity"))
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
    fn a_bundle_crosses_in_a_memory_file_and_can_be_read_twice() {
        let key = ClusterKey::generate().unwrap();
        let identity = key.mint_node_identity(&"n1".parse().unwrap(), &[]).unwrap();
        let fd = identity.bundle().to_memfd().unwrap();
        for _ in 0..2 {
            let bundle = IdentityBundle::from_memfd(fd.try_clone().unwrap()).unwrap();
            let copy = NodeIdentity::from_bundle(&bundle).unwrap();
            assert_eq!((copy.name(), &copy.minted.key_pem), (identity.name(), &identity.minted.key_pem));
            assert!(!format!("{bundle:?} {copy:?}").contains("PRIVATE"));
        }
        // Sealed: nobody changes it on its way.
        assert!(File::from(fd).write_all(b"x").is_err());
    }

    #[test]
    fn a_bundle_of_another_version_or_rubbish_is_refused() {
        let key = ClusterKey::generate().unwrap();
        let mut bundle = key.mint_node_identity(&"n1".parse().unwrap(), &[]).unwrap().bundle();
        bundle.version = 2;
        assert!(matches!(NodeIdentity::from_bundle(&bundle), Err(KeyError::Bundle(_))));
        let rubbish: OwnedFd = tempfile::tempfile().unwrap().into();
        assert!(matches!(IdentityBundle::from_memfd(rubbish), Err(KeyError::Bundle(_))));
    }

    #[test]
    fn client_credentials_are_for_the_owner_only_and_replace_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let key = ClusterKey::generate().unwrap();
        std::fs::write(dir.path().join("client-key.pem"), "old").unwrap();
        key.mint_client_identity(&"admin".parse().unwrap()).unwrap().write_to(dir.path()).unwrap();
        for name in CLIENT_CERT_FILES {
            let path = dir.path().join(name);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
            assert!(std::fs::read_to_string(&path).unwrap().starts_with("-----BEGIN "), "{name}");
        }
    }
}
