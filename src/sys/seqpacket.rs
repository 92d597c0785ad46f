//! Packets with descriptors over `SOCK_SEQPACKET` Unix sockets.
//!
//! The kernel keeps the packets' borders and their order, so there is no framing of our own. A
//! packet that is longer than its receiver takes gives `EMSGSIZE` and is lost; those after it are
//! not.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::Mode,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
    },
};
use tokio::io::unix::AsyncFd;

use super::descriptor::register_nonblocking;

/// The most descriptors with one packet: the kernel's own limit.
pub const MAX_DESCRIPTORS: usize = 253;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// What was received.
#[derive(Debug)]
pub struct Packet {
    /// The message; never empty.
    pub bytes: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// Two connected sockets, which block.
///
/// # Errors
/// If the system refuses.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one packet.
///
/// # Errors
/// If the other end is gone, or the packet or its descriptors are too many.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOMANYREFS.into());
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next packet, of at most so many bytes; `None` when the other end has closed.
///
/// # Errors
/// If the socket fails, or the packet is longer.
pub fn recv(socket: impl AsFd, most_bytes: usize) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; most_bytes];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
        Err(Errno::CONNRESET) => return Ok(None),
        received => received?,
    };
    // Taken out in any case, so that they are closed.
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE.into());
    }
    bytes.truncate(received.bytes);
    Ok((!bytes.is_empty()).then_some(Packet { bytes, descriptors }))
}

/// One end of a connection. Its waits are cancel safe: a packet is sent or received whole or not at
/// all.
#[derive(Debug)]
pub struct Seqpacket(AsyncFd<OwnedFd>);

impl Seqpacket {
    /// Takes over a connected socket. Must be called on a tokio runtime, as all that makes one.
    ///
    /// # Errors
    /// If the socket cannot be waited for.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        register_nonblocking(socket).map(Self)
    }

    /// Our end, and the other's as a socket that blocks.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pair()?;
        Ok((Self::new(ours)?, theirs))
    }

    /// Connects to a [`Listener`]. Does not wait: a listener whose queue is full is an error.
    ///
    /// # Errors
    /// If nothing listens there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = new_socket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    /// Sends one packet, when there is room for it.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(sent) = ready.try_io(|socket| send(socket.get_ref(), bytes, descriptors)) {
                return sent;
            }
        }
    }

    /// The next packet, of at most so many bytes; `None` when the other end has closed.
    ///
    /// # Errors
    /// As [`recv`].
    pub async fn recv(&self, most_bytes: usize) -> io::Result<Option<Packet>> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(received) = ready.try_io(|socket| recv(socket.get_ref(), most_bytes)) {
                return received;
            }
        }
    }
}

/// Accepts connections at a path; removes the socket's file when dropped.
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
}

impl Listener {
    /// Makes the socket's file, readable and writable by its owner only. Must be called on a tokio
    /// runtime.
    ///
    /// # Errors
    /// If it is there already, or cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = new_socket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self { socket: register_nonblocking(socket)?, path: path.into() })
    }

    /// The next connection. Cancel safe.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn accept(&self) -> io::Result<Seqpacket> {
        loop {
            let mut ready = self.socket.readable().await?;
            let accept = |socket: &AsyncFd<OwnedFd>| Ok(rustix::net::accept_with(socket, SocketFlags::CLOEXEC)?);
            if let Ok(accepted) = ready.try_io(accept) {
                return Seqpacket::new(accepted?);
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nothing can be told here; a stale file is found by the daemon, which removes it when
        // nothing answers.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[tokio::test]
    async fn packets_arrive_whole_with_their_descriptors() {
        let (ours, theirs) = Seqpacket::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        ours.send(b"one", &[writer.as_fd(), theirs.as_fd()]).await.unwrap();
        ours.send(b"two", &[]).await.unwrap();
        drop(writer);
        let one = recv(&theirs, 10).unwrap().unwrap();
        assert_eq!((one.bytes.as_slice(), one.descriptors.len()), (b"one".as_slice(), 2));
        std::fs::File::from(one.descriptors.into_iter().next().unwrap()).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert_eq!(recv(&theirs, 10).unwrap().unwrap().bytes, b"two");
        drop(ours);
        assert!(recv(&theirs, 10).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_packet_that_is_too_long_is_an_error_of_its_own() {
        let (ours, theirs) = Seqpacket::pair().unwrap();
        send(&theirs, b"eleven byte", &[]).unwrap();
        send(&theirs, b"short", &[]).unwrap();
        let error = ours.recv(10).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(ours.recv(10).await.unwrap().unwrap().bytes, b"short");
        let many = vec![theirs.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(ours.send(b"x", &many).await.is_err());
    }
}
