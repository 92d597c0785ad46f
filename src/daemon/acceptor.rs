//! The node's one TCP port: looks at the first bytes of a connection and hands it to whom it is
//! for.
//!
//! ```text
//!   0x16 …                           TLS: gRPC, terminated by this daemon
//!   "SMX1" kind session(16 bytes)    a stream for an agent, which terminates TLS itself
//! ```
//!
//! Because the agent holds the connection, it outlives a restart of the daemon.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_util::sync::CancellationToken;

use crate::job::SessionId;
use crate::protocol::{
    StreamKind,
    preamble::{PREAMBLE_BYTES, parse_preamble},
};

/// The first byte of a TLS connection: content type handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// How long a connection may take to say what it is.
const PREAMBLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections may be unidentified at a time; further ones wait in the kernel's queue.
const MAX_UNIDENTIFIED: usize = 256;

/// A connection whose purpose is known.
pub enum Incoming {
    /// A gRPC client; nothing has been read from the connection.
    Grpc(TcpStream),
    /// A stream for an agent; the preamble has been read.
    Stream(StreamKind, SessionId, TcpStream),
}

/// Accepts connections until `stop`, identifies each and passes it on.
pub async fn accept(listener: TcpListener, incoming: mpsc::Sender<Incoming>, stop: CancellationToken) {
    let unidentified = Arc::new(Semaphore::new(MAX_UNIDENTIFIED));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: give the others time to close theirs.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = unidentified.clone().acquire_owned().await else { return };
        let incoming = incoming.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(PREAMBLE_TIMEOUT, identify(stream)).await {
                Ok(Ok(connection)) => drop(incoming.send(connection).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "connection dropped"),
                Err(_) => tracing::debug!(%peer, "connection dropped: it did not say what it is"),
            }
            drop(permit);
        });
    }
}

async fn identify(mut stream: TcpStream) -> io::Result<Incoming> {
    stream.set_nodelay(true)?;
    let mut first = [0; 1];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] == TLS_HANDSHAKE {
        return Ok(Incoming::Grpc(stream));
    }
    let mut bytes = [0; PREAMBLE_BYTES];
    stream.read_exact(&mut bytes).await?;
    let (kind, session) = parse_preamble(&bytes)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "neither TLS nor a stream of this version"))?;
    Ok(Incoming::Stream(kind, session, stream))
}

/// The port that nodes listen on unless told otherwise, TCP and UDP.
pub const DEFAULT_PORT: u16 = 7470;

/// The address that `host` means, with the default port if it names none.
pub fn with_default_port(host: &str) -> Option<SocketAddr> {
    host.parse().ok().or_else(|| Some(SocketAddr::new(host.parse().ok()?, DEFAULT_PORT)))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::protocol::preamble::preamble;

    async fn pair() -> (TcpStream, mpsc::Receiver<Incoming>, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, receiver) = mpsc::channel(4);
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, sender, stop.clone()));
        (TcpStream::connect(address).await.unwrap(), receiver, stop)
    }

    #[tokio::test]
    async fn a_preamble_is_read_and_nothing_behind_it() {
        let (mut client, mut incoming, _stop) = pair().await;
        let session = SessionId::random();
        client.write_all(&preamble(StreamKind::Move, session)).await.unwrap();
        client.write_all(b"behind").await.unwrap();
        let Some(Incoming::Stream(StreamKind::Move, got, mut stream)) = incoming.recv().await else { panic!() };
        assert_eq!(got, session);
        let mut rest = [0; 6];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"behind");
    }

    #[tokio::test]
    async fn tls_is_passed_on_unread() {
        let (mut client, mut incoming, _stop) = pair().await;
        client.write_all(&[TLS_HANDSHAKE, 3, 1]).await.unwrap();
        let Some(Incoming::Grpc(mut stream)) = incoming.recv().await else { panic!() };
        let mut bytes = [0; 3];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, [TLS_HANDSHAKE, 3, 1]);
    }

    #[tokio::test]
    async fn anything_else_is_dropped() {
        let (mut client, mut incoming, stop) = pair().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut end = Vec::new();
        let _ = client.read_to_end(&mut end).await;
        assert!(end.is_empty());
        stop.cancel();
        assert!(incoming.recv().await.is_none());
    }
}
