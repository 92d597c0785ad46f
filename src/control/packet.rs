//! Packets of JSON with an optional descriptor over a `SOCK_SEQPACKET` Unix socket: the carrier of [`super`].
//!
//! The kernel keeps the packets' borders and their order, so there is no framing of our own; a packet that is too long or
//! not JSON of the expected type is an error of that packet only.

use std::{
    io::{self, IoSlice, IoSliceMut},
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::unix::AsyncFd;

use super::MAX_MESSAGE_BYTES;

/// What can go wrong with a packet or its socket.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The operating system refused.
    #[error("control socket: {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The socket's file could not be made, reached or protected.
    #[error("control socket {path}")]
    Path {
        /// The socket's file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The packet is longer than [`MAX_MESSAGE_BYTES`].
    #[error("control message longer than {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    /// The packet is not what this version understands.
    #[error("control message not understood; do daemon and agent have the same version?")]
    Json(#[from] serde_json::Error),
}

fn io_error(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> PacketError {
    move |errno| PacketError::Io { what, source: errno.into() }
}

/// One end of a connection that sends `Out` and receives `In`.
///
/// `send` and `recv` are cancel-safe: a packet is sent or received whole or not at all.
pub struct PacketSocket<Out, In> {
    socket: AsyncFd<OwnedFd>,
    messages: PhantomData<fn(Out) -> In>,
}

impl<Out: Serialize, In: DeserializeOwned> PacketSocket<Out, In> {
    /// Takes over a connected socket. Must be called inside a tokio runtime.
    pub fn new(socket: OwnedFd) -> Result<Self, PacketError> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(io_error("make non-blocking"))?;
        let socket = register(socket)?;
        Ok(Self { socket, messages: PhantomData })
    }

    /// Connects to a [`PacketListener`]. Does not wait: a listener whose queue is full is an error.
    pub fn connect(path: &Path) -> Result<Self, PacketError> {
        let at = |errno: rustix::io::Errno| PacketError::Path { path: path.into(), source: errno.into() };
        let address = SocketAddrUnix::new(path).map_err(at)?;
        let socket = seqpacket()?;
        rustix::net::connect(&socket, &address).map_err(at)?;
        Self::new(socket)
    }

    /// Sends one message, with a descriptor if there is one.
    pub async fn send(&self, message: &Out, descriptor: Option<OwnedFd>) -> Result<(), PacketError> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(PacketError::TooLong);
        }
        loop {
            let mut ready =
                self.socket.writable().await.map_err(|source| PacketError::Io { what: "wait to send", source })?;
            let sent = ready.try_io(|socket| {
                let fds = descriptor.as_ref().map(AsFd::as_fd);
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if let Some(fds) = &fds {
                    control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fds)));
                }
                Ok(rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(result) => return result.map(drop).map_err(|source| PacketError::Io { what: "send", source }),
                Err(_would_block) => continue,
            }
        }
    }

    /// The next message and its descriptor; `None` when the other end has closed.
    pub async fn recv(&self) -> Result<Option<(In, Option<OwnedFd>)>, PacketError> {
        let mut bytes = vec![0; MAX_MESSAGE_BYTES];
        loop {
            let mut ready =
                self.socket.readable().await.map_err(|source| PacketError::Io { what: "wait to receive", source })?;
            let mut descriptor = None;
            let received = ready.try_io(|socket| {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let packet = rustix::net::recvmsg(
                    socket,
                    &mut [IoSliceMut::new(&mut bytes)],
                    &mut control,
                    RecvFlags::CMSG_CLOEXEC,
                )?;
                descriptor = control
                    .drain()
                    .filter_map(|message| match message {
                        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                        _ => None,
                    })
                    .next();
                Ok((packet.bytes, packet.flags.contains(ReturnFlags::TRUNC)))
            });
            match received {
                Err(_would_block) => continue,
                Ok(Err(source)) if source.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(Err(source)) => return Err(PacketError::Io { what: "receive", source }),
                Ok(Ok((0, _))) => return Ok(None),
                Ok(Ok((_, true))) => return Err(PacketError::TooLong),
                Ok(Ok((length, false))) => return Ok(Some((serde_json::from_slice(&bytes[..length])?, descriptor))),
            }
        }
    }
}

/// Accepts connections of one agent's control socket; removes the socket's file when dropped.
pub struct PacketListener {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
}

impl PacketListener {
    /// Makes the socket's file, readable and writable by its owner only. Must be called inside a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, PacketError> {
        let at = |errno: rustix::io::Errno| PacketError::Path { path: path.into(), source: errno.into() };
        let address = SocketAddrUnix::new(path).map_err(at)?;
        let socket = seqpacket()?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(io_error("make non-blocking"))?;
        rustix::net::bind(&socket, &address).map_err(at)?;
        rustix::fs::chmod(path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).map_err(at)?;
        rustix::net::listen(&socket, 16).map_err(at)?;
        let socket = register(socket)?;
        Ok(Self { socket, path: path.into() })
    }

    /// The next connection. Cancel-safe.
    pub async fn accept<Out: Serialize, In: DeserializeOwned>(&self) -> Result<PacketSocket<Out, In>, PacketError> {
        loop {
            let mut ready =
                self.socket.readable().await.map_err(|source| PacketError::Io { what: "wait to accept", source })?;
            match ready.try_io(|socket| Ok(rustix::net::accept_with(socket, SocketFlags::CLOEXEC)?)) {
                Ok(accepted) => {
                    return PacketSocket::new(accepted.map_err(|source| PacketError::Io { what: "accept", source })?);
                }
                Err(_would_block) => continue,
            }
        }
    }
}

impl Drop for PacketListener {
    fn drop(&mut self) {
        // Nobody can be told here; a stale file is found by the daemon, which removes it when nothing answers.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn register(socket: OwnedFd) -> Result<AsyncFd<OwnedFd>, PacketError> {
    // SAFETY: an `OwnedFd` owns its descriptor for as long as it lives and never hands out another.
    unsafe { AsyncFd::register(socket) }.map_err(|error| PacketError::Io { what: "register", source: error.into() })
}

fn seqpacket() -> Result<OwnedFd, PacketError> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(io_error("create"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::control::{StreamKind, ToAgent};

    #[tokio::test]
    async fn a_message_arrives_with_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = PacketListener::bind(&path).unwrap();
        let daemon = PacketSocket::<ToAgent, String>::connect(&path).unwrap();
        let agent: PacketSocket<String, ToAgent> = listener.accept().await.unwrap();

        let (mut reader, writer) = std::io::pipe().unwrap();
        daemon.send(&ToAgent::Stream { kind: StreamKind::Home }, Some(writer.into())).await.unwrap();
        let (message, descriptor) = agent.recv().await.unwrap().unwrap();
        assert!(matches!(message, ToAgent::Stream { kind: StreamKind::Home }));
        std::fs::File::from(descriptor.unwrap()).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");

        agent.send(&"x".repeat(50_000), None).await.unwrap();
        assert_eq!(daemon.recv().await.unwrap().unwrap().0.len(), 50_000);
        assert!(matches!(agent.send(&"x".repeat(MAX_MESSAGE_BYTES), None).await, Err(PacketError::TooLong)));
        drop(agent);
        assert!(daemon.recv().await.unwrap().is_none());
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_message_of_another_kind_is_an_error_not_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = PacketListener::bind(&path).unwrap();
        let daemon = PacketSocket::<String, String>::connect(&path).unwrap();
        let agent: PacketSocket<String, ToAgent> = listener.accept().await.unwrap();
        daemon.send(&"nonsense".into(), None).await.unwrap();
        assert!(matches!(agent.recv().await, Err(PacketError::Json(_))));
    }
}
