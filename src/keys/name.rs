//! Names of nodes: what certificates, gossip, the API and people call a machine.

use std::{fmt, str::FromStr, sync::Arc};

use rustls::pki_types::DnsName;
use serde::{Deserialize, Serialize};

/// The name of a node, unique in its cluster: a DNS host name in lower case, at most 63 bytes,
/// cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

/// A string that is no node name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot be a node's name: use 1 to 63 letters, digits, '-' and '.', beginning with a letter or digit and not only digits"
)]
pub struct NameError {
    /// The string as it was given, shortened to 80 characters.
    pub name: String,
}

impl NodeName {
    /// Longest name in bytes, as for a DNS label, so that gossip entries stay small.
    pub const MAX_BYTES: usize = 63;

    /// Checks `name` and folds it to lower case (host names do not distinguish case; gossip and
    /// certificates would).
    ///
    /// # Errors
    /// [`NameError`] if it is not a valid DNS name of at most [`Self::MAX_BYTES`].
    pub fn new(name: &str) -> Result<Self, NameError> {
        let refuse = || NameError { name: name.chars().take(80).collect() };
        let lower = name.to_ascii_lowercase();
        let plain = lower.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if lower.len() > Self::MAX_BYTES || lower.ends_with('.') || !plain || DnsName::try_from(lower.as_str()).is_err()
        {
            return Err(refuse());
        }
        Ok(Self(lower.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        Self::new(s)
    }
}

impl TryFrom<String> for NodeName {
    type Error = NameError;

    fn try_from(s: String) -> Result<Self, NameError> {
        Self::new(&s)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.as_str().to_owned()
    }
}

impl AsRef<str> for NodeName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_accepted_in_any_case() {
        for (given, folded) in [("n1", "n1"), ("Build-07.Lab", "build-07.lab"), ("7up", "7up")] {
            assert_eq!(NodeName::new(given).unwrap().as_str(), folded);
        }
    }

    #[test]
    fn what_cannot_stand_in_a_certificate_is_refused() {
        let long = "a".repeat(64);
        for bad in ["", "-a", "a b", "a/b", "ä", "10", "a.", ".a", "a..b", "n1\n", long.as_str()] {
            assert!(NodeName::new(bad).is_err(), "{bad:?}");
        }
    }
}
