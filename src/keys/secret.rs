//! The cluster key: 32 random bytes, and the text file that carries them from node to node.
//!
//! ```text
//! scx_mosix cluster key v1
//! 3f0c…64 hex digits…
//! checksum 9ad1c0b2
//! ```
//!
//! The checksum (first four bytes of SHA-256 over the key) finds a copy that was cut or mistyped
//! before it shows as "another cluster". The file must be readable by its owner only.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use aws_lc_rs::{digest, hkdf};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::KeyError;

/// Where the daemon and the `key` commands look for the key unless told otherwise.
pub const DEFAULT_KEY_PATH: &str = "/etc/scx_mosix/key";

const KEY_BYTES: usize = 32;
const FIRST_LINE: &str = "scx_mosix cluster key v1";
/// A valid file has 108 bytes; anything much longer is something else.
const MAX_FILE_BYTES: u64 = 1024;

/// The secret that all nodes of a cluster share. Wiped from memory when dropped; never shown by
/// `Debug`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ClusterKey([u8; KEY_BYTES]);

/// Eight public bytes that tell one cluster key from another without revealing anything of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 8]);

impl ClusterKey {
    /// A new random key.
    ///
    /// # Errors
    /// [`KeyError::Crypto`] if the system has no random bytes to give.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = [0; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Crypto("drawing random bytes"))?;
        Ok(Self(bytes))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`KeyError::Read`], [`KeyError::Owner`] or [`KeyError::Permissions`] if the file is not the
    /// owner's alone, and [`KeyError::Format`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let read_error = |source| KeyError::Read { path: path.into(), source };
        // Not blocking, should the path be a FIFO.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(read_error)?;
        // The open file is asked, not the path, so that it cannot be exchanged in between.
        let metadata = file.metadata().map_err(read_error)?;
        let mode = metadata.mode() & 0o7777;
        if !metadata.is_file() {
            return Err(KeyError::Format { path: path.into(), reason: "not a regular file" });
        }
        if metadata.uid() != 0 && metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(KeyError::Owner { path: path.into(), uid: metadata.uid() });
        }
        if mode & 0o077 != 0 {
            return Err(KeyError::Permissions { path: path.into(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(256));
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(read_error)?;
        Self::parse(&text).map_err(|reason| KeyError::Format { path: path.into(), reason })
    }

    /// Writes the key to a new file of mode 0600, making its directory if need be.
    ///
    /// # Errors
    /// [`KeyError::Exists`] if there is a file already, [`KeyError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.into() },
            _ => KeyError::Write { path: path.into(), source },
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(|source| KeyError::Write { path: dir.into(), source })?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(self.to_text().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// `scx_mosix key generate`: a new key into a new file.
    ///
    /// # Errors
    /// As [`Self::generate`] and [`Self::save`].
    pub fn generate_file(path: &Path) -> Result<Self, KeyError> {
        let key = Self::generate()?;
        key.save(path)?;
        Ok(key)
    }

    /// Reads the text form; says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut lines = text.lines().map(str::trim_end);
        match lines.next() {
            Some(FIRST_LINE) => {}
            Some(line) if line.starts_with("scx_mosix cluster key v") => return Err("its version is not known here"),
            _ => return Err("its first line is wrong"),
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        let digits = lines.next().unwrap_or_default();
        hex::decode_to_slice(digits, bytes.as_mut_slice()).map_err(|_| "its second line is not 64 hex digits")?;
        let key = Self(*bytes);
        match lines.next().and_then(|line| line.strip_prefix("checksum ")) {
            Some(sum) if sum == key.checksum() => {}
            Some(_) => return Err("its checksum is wrong"),
            None => return Err("its checksum is missing"),
        }
        if lines.any(|line| !line.is_empty()) {
            return Err("something follows the checksum");
        }
        Ok(key)
    }

    fn to_text(&self) -> Zeroizing<String> {
        let digits = Zeroizing::new(hex::encode(self.0));
        Zeroizing::new(format!("{FIRST_LINE}\n{}\nchecksum {}\n", *digits, self.checksum()))
    }

    fn checksum(&self) -> String {
        let sum = digest::digest(&digest::SHA256, &self.0);
        hex::encode(sum.as_ref().get(..4).unwrap_or_default())
    }

    /// 32 bytes for one purpose: HKDF-SHA-256 with the purpose's labels as info. Different labels,
    /// unrelated bytes.
    pub(super) fn derive(&self, labels: &[&[u8]]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"scx_mosix v1");
        let mut out = Zeroizing::new([0; 32]);
        salt.extract(&self.0)
            .expand(labels, hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(out.as_mut_slice()))
            .map_err(|_| KeyError::Crypto("deriving from the cluster key"))?;
        Ok(out)
    }

    /// The public short name of this key.
    ///
    /// # Errors
    /// [`KeyError::Crypto`].
    pub fn id(&self) -> Result<KeyId, KeyError> {
        let bytes = self.derive(&[b"key id"])?;
        let mut id = [0; 8];
        id.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = *from);
        Ok(KeyId(id))
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(hidden)")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_saved_key_loads_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/key");
        let key = ClusterKey::generate_file(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ClusterKey::load(&path).unwrap().0, key.0);
        assert!(matches!(ClusterKey::generate_file(&path), Err(KeyError::Exists { .. })));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        ClusterKey::generate_file(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = ClusterKey::load(&path).unwrap_err();
            assert!(
                matches!(error, KeyError::Permissions { .. }) && error.to_string().contains("chmod 600"),
                "{error}"
            );
        }
    }

    #[test]
    fn damage_is_found_and_named() {
        let text = ClusterKey([7; 32]).to_text();
        assert!(ClusterKey::parse(&text).is_ok());
        let cases = [
            (text.replacen("v1", "v2", 1), "version"),
            (text.replacen("07", "08", 1), "checksum is wrong"),
            (text.lines().take(2).collect::<Vec<_>>().join("\n"), "checksum is missing"),
            (text.replacen("0707", "07", 1), "64 hex digits"),
            (String::new(), "first line"),
            (format!("{}more", *text), "follows"),
        ];
        for (text, expected) in cases {
            let reason = ClusterKey::parse(&text).unwrap_err();
            assert!(reason.contains(expected), "{reason} / {expected}");
        }
    }

    #[test]
    fn debug_hides_the_key_and_purposes_differ() {
        let key = ClusterKey([0x5a; 32]);
        assert!(!format!("{key:?}").contains("5a"));
        assert_ne!(*key.derive(&[b"ca"]).unwrap(), *key.derive(&[b"gossip"]).unwrap());
        assert_ne!(key.id().unwrap(), ClusterKey([0x5b; 32]).id().unwrap());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,300}") {
            let _ = ClusterKey::parse(&text);
        }

        #[test]
        fn every_key_survives_its_text(bytes: [u8; 32]) {
            prop_assert_eq!(ClusterKey::parse(&ClusterKey(bytes).to_text()).unwrap().0, bytes);
        }
    }
}
