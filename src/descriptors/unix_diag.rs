//! Which Unix socket is connected with which: the kernel's `NETLINK_SOCK_DIAG`, dump of `AF_UNIX`
//! with `UDIAG_SHOW_PEER`.

use std::collections::BTreeMap;
use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER_BYTES: usize = 16;
/// `struct unix_diag_msg`: family, type, state, pad (4 bytes), inode (4), cookie (8).
const UNIX_DIAG_BYTES: usize = 16;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_PEER: u16 = 2;

/// The peer's inode of every connected Unix socket of this network namespace.
///
/// # Errors
/// If the kernel does not answer (its module unix_diag is missing).
pub fn peers() -> io::Result<BTreeMap<u64, u64>> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
    let limit = Some(std::time::Duration::from_secs(2));
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, limit)?;
    rustix::net::send(&socket, &request(), SendFlags::empty())?;
    let mut found = BTreeMap::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (bytes, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if parse(&buffer[..bytes], &mut found)? {
            return Ok(found);
        }
    }
}

fn request() -> Vec<u8> {
    let mut request = vec![libc::AF_UNIX as u8, 0, 0, 0];
    // states: all; inode: any; show; cookie: none
    for word in [u32::MAX, 0, UDIAG_SHOW_PEER, u32::MAX, u32::MAX] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    let mut message = ((NLMSG_HEADER_BYTES + request.len()) as u32).to_ne_bytes().to_vec();
    message.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&request);
    message
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads the messages of one datagram; whether it was the last.
fn parse(mut bytes: &[u8], found: &mut BTreeMap<u64, u64>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let message = bytes.get(NLMSG_HEADER_BYTES..length as usize).ok_or(io::ErrorKind::InvalidData)?;
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let errno = u32_at(message, 0).map_or(libc::EPROTO, |negative| -(negative as i32));
                return Err(io::Error::from_raw_os_error(errno));
            }
            _ => {
                if let (Some(inode), Some(peer)) = (u32_at(message, 4), peer_attribute(message)) {
                    found.insert(inode.into(), peer.into());
                }
            }
        }
        bytes = bytes.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn peer_attribute(message: &[u8]) -> Option<u32> {
    let mut attributes = message.get(UNIX_DIAG_BYTES..)?;
    loop {
        let (length, kind) = (u16_at(attributes, 0)? as usize, u16_at(attributes, 2)?);
        if kind == UNIX_DIAG_PEER {
            return u32_at(attributes, 4);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::MetadataExt, net::UnixStream};

    use super::*;

    #[test]
    fn a_socket_pair_is_found() {
        let (a, b) = UnixStream::pair().unwrap();
        let inode = |socket: &UnixStream| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
            std::fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino()
        };
        let peers = peers().unwrap();
        assert_eq!(peers.get(&inode(&a)), Some(&inode(&b)));
        assert_eq!(peers.get(&inode(&b)), Some(&inode(&a)));
    }

    #[test]
    fn broken_answers_are_errors_not_panics() {
        for bytes in [&[255; 20][..], &[0; 20], &[20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]] {
            assert!(parse(bytes, &mut BTreeMap::new()).is_err());
        }
    }
}
