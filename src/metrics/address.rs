//! Where metrics are served.

use std::{
    fmt,
    net::{AddrParseError, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// `PORT` of the loopback address, or `ADDR:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MetricsAddress(SocketAddr);

/// Why something is no such address.
#[derive(Debug, thiserror::Error)]
#[error("give a port, such as 9471, or an address and a port, such as 127.0.0.1:9471")]
pub struct NoAddress(#[from] AddrParseError);

impl MetricsAddress {
    /// As the kernel takes it.
    pub fn socket(self) -> SocketAddr {
        self.0
    }

    /// Whether other machines can reach it.
    pub fn is_open(self) -> bool {
        !self.0.ip().is_loopback()
    }
}

impl FromStr for MetricsAddress {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        match text.parse() {
            Ok(port) => Ok(Self(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))),
            Err(_) => Ok(Self(text.parse()?)),
        }
    }
}

impl TryFrom<String> for MetricsAddress {
    type Error = NoAddress;

    fn try_from(text: String) -> Result<Self, NoAddress> {
        text.parse()
    }
}

impl From<MetricsAddress> for String {
    fn from(address: MetricsAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_not_open_to_other_machines() {
        let address: MetricsAddress = "9471".parse().unwrap();
        assert_eq!((address.to_string().as_str(), address.is_open()), ("127.0.0.1:9471", false));
    }

    #[test]
    fn an_address_is_taken_as_it_is_said() {
        for (text, is_open) in [("[::1]:1", false), ("0.0.0.0:9471", true), ("[fd00::1]:9471", true)] {
            let address: MetricsAddress = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.is_open()), (text, is_open));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for text in ["", "localhost", "65536", "127.0.0.1", "127.0.0.1:port"] {
            assert!(text.parse::<MetricsAddress>().unwrap_err().to_string().contains("9471"));
        }
    }
}
