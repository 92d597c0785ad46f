//! Which addresses this machine has, and under which of them other nodes should call it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrStorage};

use super::NodeError;

/// An address that is never used (TEST-NET-1); asking for the route to it finds the default route.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The addresses of all interfaces that are up, but loopback and link-local ones; IPv4 first.
///
/// # Errors
/// [`NodeError::Addresses`].
pub fn local_addresses() -> Result<Vec<IpAddr>, NodeError> {
    let interfaces = getifaddrs().map_err(|errno| NodeError::Addresses(errno.into()))?;
    let mut addresses: Vec<IpAddr> = interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|interface| interface.address.as_ref().and_then(ip_of))
        .filter(is_reachable)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// The address under which this node is known: the one from which `toward` (a node to join) is
/// reached; without it, or without a route to it, that of the default route; else the first of
/// [`local_addresses`]. Sends nothing.
///
/// # Errors
/// [`NodeError::NoAddress`] if there is none but loopback, [`NodeError::Addresses`].
pub fn advertised_address(toward: Option<IpAddr>) -> Result<IpAddr, NodeError> {
    let by_route = toward.into_iter().chain([ELSEWHERE]).filter_map(|ip| source_address(ip).ok()).find(is_reachable);
    match by_route {
        Some(address) => Ok(address),
        None => local_addresses()?.first().copied().ok_or(NodeError::NoAddress),
    }
}

/// The source address that the kernel would use toward `ip`.
fn source_address(ip: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(ip, 9))?;
    Ok(socket.local_addr()?.ip())
}

fn is_reachable(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_loopback_or_link_local_address_is_ever_named() {
        for ip in local_addresses().unwrap() {
            assert!(is_reachable(&ip), "{ip}");
        }
        for bad in ["127.0.0.1", "169.254.1.1", "0.0.0.0", "::1", "fe80::1", "::"] {
            assert!(!is_reachable(&bad.parse().unwrap()), "{bad}");
        }
    }

    #[test]
    fn loopback_as_goal_does_not_make_loopback_the_address() {
        match advertised_address(Some(Ipv4Addr::LOCALHOST.into())) {
            Ok(ip) => assert!(is_reachable(&ip), "{ip}"),
            Err(error) => assert!(matches!(error, NodeError::NoAddress), "{error}"),
        }
    }
}
