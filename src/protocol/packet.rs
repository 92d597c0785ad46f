//! Messages as JSON with the descriptors that belong to them, a packet each: the carrier of the
//! control protocol and of what an agent and pid 1 of its guest say to each other.
//!
//! On a control socket the first packet of each end is its [`Hello`]; a packet that is too long or
//! not JSON of the expected type is an error of that packet only.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::{
    MAX_MESSAGE_BYTES, Protocol, ProtocolError,
    hello::{HELLO_LIMIT, Hello},
};
use crate::sys::seqpacket::{self, Listener, Packet, Seqpacket};

fn too_long(bytes: usize) -> ProtocolError {
    ProtocolError::TooLong { protocol: Protocol::Control, bytes, most: MAX_MESSAGE_BYTES }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ProtocolError {
    move |source| match source.raw_os_error() {
        Some(libc::EMSGSIZE) => too_long(MAX_MESSAGE_BYTES + 1),
        _ => ProtocolError::Io { what, source },
    }
}

/// The same for a greeting: the other end may have ended meanwhile, which says nothing of its
/// release.
fn greeting_failed(error: io::Error) -> ProtocolError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => CLOSED,
        _ => failed("exchange hellos")(error),
    }
}

const CLOSED: ProtocolError = ProtocolError::CutOff { protocol: Protocol::Control };

fn encode(message: &impl Serialize) -> Result<Vec<u8>, ProtocolError> {
    let bytes = serde_json::to_vec(message).map_err(Protocol::Control.json())?;
    if bytes.len() > MAX_MESSAGE_BYTES { Err(too_long(bytes.len())) } else { Ok(bytes) }
}

fn decode<In: DeserializeOwned>(packet: Packet) -> Result<(In, Vec<OwnedFd>), ProtocolError> {
    let message = serde_json::from_slice(&packet.bytes).map_err(Protocol::Control.json())?;
    Ok((message, packet.descriptors))
}

/// Sends one message over a socket that blocks.
///
/// # Errors
/// If the other end is gone, or the message or its descriptors are too many.
pub fn send(socket: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<(), ProtocolError> {
    seqpacket::send(socket, &encode(message)?, descriptors).map_err(failed("send"))
}

/// The next message over a socket that blocks, and its descriptors; `None` when the other end has
/// closed.
///
/// # Errors
/// If the socket fails, or it is no such message.
pub fn recv<In: DeserializeOwned>(socket: impl AsFd) -> Result<Option<(In, Vec<OwnedFd>)>, ProtocolError> {
    seqpacket::recv(socket, MAX_MESSAGE_BYTES).map_err(failed("receive"))?.map(decode).transpose()
}

/// One end of a connection that sends `Out` and receives `In`.
///
/// `send` and `recv` are cancel-safe: a packet is sent or received whole or not at all.
pub struct PacketSocket<Out, In> {
    socket: Seqpacket,
    messages: PhantomData<fn(Out) -> In>,
}

impl<Out: Serialize, In: DeserializeOwned> PacketSocket<Out, In> {
    /// Connects to a [`PacketListener`]. Does not wait: a listener whose queue is full is an error.
    pub fn connect(path: &Path) -> Result<Self, ProtocolError> {
        let socket = Seqpacket::connect(path).map_err(|source| ProtocolError::Path { path: path.into(), source })?;
        Ok(Self { socket, messages: PhantomData })
    }

    /// Our end of a pair, and the other's as a socket that blocks, for [`send`] and [`recv`].
    pub fn pair() -> Result<(Self, OwnedFd), ProtocolError> {
        let (socket, theirs) = Seqpacket::pair().map_err(failed("make a pair of sockets"))?;
        Ok((Self { socket, messages: PhantomData }, theirs))
    }

    /// Says hello, waits for the other end's, and finds the version to speak: the first thing that
    /// each end does. Not cancel-safe.
    ///
    /// # Errors
    /// If the other end closes, says no hello in time, or one without a common version.
    pub async fn greet(&self) -> Result<u16, ProtocolError> {
        let exchange = async {
            self.socket.send(&Hello::new(&[Protocol::Control]).encode(), &[]).await?;
            self.socket.recv(MAX_MESSAGE_BYTES).await
        };
        let exchanged = timeout(HELLO_LIMIT, exchange).await.map_err(|_| ProtocolError::TimedOut)?;
        let packet = exchanged.map_err(greeting_failed)?.ok_or(CLOSED)?;
        Hello::decode(&packet.bytes)?.agree(Protocol::Control)
    }

    /// Sends one message, with a descriptor if there is one.
    pub async fn send(&self, message: &Out, descriptor: Option<OwnedFd>) -> Result<(), ProtocolError> {
        let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
        self.send_with(message, &descriptors).await
    }

    /// Sends one message with so many descriptors.
    pub async fn send_with(&self, message: &Out, descriptors: &[BorrowedFd<'_>]) -> Result<(), ProtocolError> {
        self.socket.send(&encode(message)?, descriptors).await.map_err(failed("send"))
    }

    /// The next message and its descriptor; `None` when the other end has closed.
    pub async fn recv(&self) -> Result<Option<(In, Option<OwnedFd>)>, ProtocolError> {
        let received = self.recv_with().await?;
        Ok(received.map(|(message, descriptors)| (message, descriptors.into_iter().next())))
    }

    /// The next message and all its descriptors; `None` when the other end has closed.
    pub async fn recv_with(&self) -> Result<Option<(In, Vec<OwnedFd>)>, ProtocolError> {
        self.socket.recv(MAX_MESSAGE_BYTES).await.map_err(failed("receive"))?.map(decode).transpose()
    }
}

/// Accepts connections of one agent's control socket; removes the socket's file when dropped.
pub struct PacketListener(Listener);

impl PacketListener {
    /// Makes the socket's file, readable and writable by its owner only. Must be called inside a
    /// tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, ProtocolError> {
        Listener::bind(path).map(Self).map_err(|source| ProtocolError::Path { path: path.into(), source })
    }

    /// The next connection. Cancel-safe.
    pub async fn accept<Out: Serialize, In: DeserializeOwned>(&self) -> Result<PacketSocket<Out, In>, ProtocolError> {
        let socket = self.0.accept().await.map_err(failed("accept"))?;
        Ok(PacketSocket { socket, messages: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::protocol::{StreamKind, ToAgent};

    /// A daemon's end of a connection, and an agent's.
    async fn connected<In: DeserializeOwned>() -> (PacketSocket<String, String>, PacketSocket<String, In>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = PacketListener::bind(&path).unwrap();
        let daemon = PacketSocket::connect(&path).unwrap();
        (daemon, listener.accept().await.unwrap())
    }

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
        assert!(matches!(agent.send(&"x".repeat(MAX_MESSAGE_BYTES), None).await, Err(ProtocolError::TooLong { .. })));
        drop(agent);
        assert!(daemon.recv().await.unwrap().is_none());
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_blocks_carries_the_same_packets() {
        let (ours, theirs) = PacketSocket::<String, String>::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        ours.send_with(&"two of them".into(), &[reader.as_fd(), writer.as_fd()]).await.unwrap();
        let (message, descriptors) = recv::<String>(&theirs).unwrap().unwrap();
        assert_eq!((message.as_str(), descriptors.len()), ("two of them", 2));
        assert!(matches!(send(&theirs, &"x".repeat(MAX_MESSAGE_BYTES), &[]), Err(ProtocolError::TooLong { .. })));
        send(&theirs, &"back", &[]).unwrap();
        drop(theirs);
        assert_eq!(ours.recv_with().await.unwrap().unwrap().0, "back");
        assert!(ours.recv_with().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn daemon_and_agent_greet_each_other_first() {
        let (daemon, agent) = connected::<String>().await;
        let (at_daemon, at_agent) = tokio::join!(daemon.greet(), agent.greet());
        assert_eq!(at_daemon.unwrap(), at_agent.unwrap());
        agent.send(&"after it".into(), None).await.unwrap();
        assert_eq!(daemon.recv().await.unwrap().unwrap().0, "after it");
    }

    #[tokio::test]
    async fn a_message_in_place_of_a_hello_is_refused() {
        let (daemon, agent) = connected::<String>().await;
        agent.send(&"no hello".into(), None).await.unwrap();
        assert!(matches!(daemon.greet().await, Err(ProtocolError::NoHello)));
        drop(daemon);
        assert!(matches!(agent.greet().await, Err(ProtocolError::CutOff { .. })));
    }

    #[tokio::test]
    async fn a_message_of_another_kind_is_an_error_not_a_panic() {
        let (daemon, agent) = connected::<ToAgent>().await;
        daemon.send(&"nonsense".into(), None).await.unwrap();
        assert!(matches!(agent.recv().await, Err(ProtocolError::Json { .. })));
    }
}
