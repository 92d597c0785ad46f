//! Streams between agents: TLS 1.3 over TCP, nodes of the cluster at both ends.
//!
//! The one that dials sends the preamble, by which the other node's daemon finds the agent; the
//! agent that is handed the socket finds the TLS handshake next on it. Inside TLS both ends say
//! hello first.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::job::SessionId;
use crate::keys::{
    IdentityBundle, KeyError, NodeIdentity, NodeName, PeerIdentity, TlsConfigs, TlsPurpose, server_name,
};
use crate::protocol::{ProtocolError, StreamKind, hello::greet, preamble::preamble};

/// Time to reach the other node, and for its handshake.
const SETUP_LIMIT: Duration = Duration::from_secs(10);

/// How long the other node may be out of reach before a stream fails. Nodes answer in ms; the
/// kernel's own limit is a quarter of an hour, and a program may stand still for it.
const PEER_LIMIT: Duration = Duration::from_secs(15);

/// Lets a stream fail when nothing is heard of the other node's kernel, be there something to send
/// or not (tcp(7)).
fn watch_peer(tcp: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, PEER_LIMIT / 3)?;
    sockopt::set_tcp_keepintvl(tcp, PEER_LIMIT / 3)?;
    sockopt::set_tcp_keepcnt(tcp, 2)?;
    sockopt::set_tcp_user_timeout(tcp, u32::try_from(PEER_LIMIT.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Our identity, or the peer's name or certificate, is not usable.
    #[error("no secure stream")]
    Key(#[from] KeyError),
    /// The start message's identity is damaged.
    #[error("the identity in the start message is damaged")]
    Identity(#[source] serde_json::Error),
    /// The name is no node name.
    #[error("'{0}' is no name of a node")]
    Name(String),
    /// The network or the handshake failed.
    #[error("no stream with {peer}")]
    Io {
        /// With whom.
        peer: String,
        /// What failed.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("no stream with {peer} within {} s", SETUP_LIMIT.as_secs())]
    Timeout {
        /// With whom.
        peer: String,
    },
    /// The other end speaks none of our versions.
    #[error("no common language with {peer}")]
    Protocol {
        /// With whom.
        peer: String,
        /// What is missing.
        source: ProtocolError,
    },
    /// The other end is no node.
    #[error("a client of the cluster cannot open a stream between nodes")]
    NotANode,
}

impl ConnectError {
    /// Only what the other end said is about its versions; a node that does not let us in closes
    /// the connection here.
    fn of_greeting(peer: String, error: ProtocolError) -> Self {
        match error {
            ProtocolError::Io { source, .. } => Self::Io { peer, source },
            ProtocolError::TimedOut => Self::Timeout { peer },
            source => Self::Protocol { peer, source },
        }
    }

    /// Whether one end must be upgraded first: to dial again cannot help.
    pub fn is_of_versions(&self) -> bool {
        matches!(self, Self::Protocol { source, .. } if source.is_of_versions())
    }
}

/// An agent's means to open and accept streams.
#[derive(Clone)]
pub struct Connector(TlsConfigs);

impl Connector {
    /// From the `identity` of an agent's start message: the JSON of an [`IdentityBundle`].
    ///
    /// # Errors
    /// If the identity is damaged.
    pub fn new(identity: &str) -> Result<Self, ConnectError> {
        let bundle: IdentityBundle = serde_json::from_str(identity).map_err(ConnectError::Identity)?;
        Ok(Self(NodeIdentity::from_bundle(&bundle)?.tls(TlsPurpose::Stream)?))
    }

    /// Dials the agent that serves `kind` and `session` at node `name`, whose port is at `address`.
    ///
    /// # Errors
    /// If the node cannot be reached, is not the one of that name, or speaks none of our versions.
    pub async fn dial(
        &self,
        name: &str,
        address: &str,
        kind: StreamKind,
        session: SessionId,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ConnectError> {
        let peer = || format!("{name} at {address}");
        let node = NodeName::new(name).map_err(|_| ConnectError::Name(name.to_owned()))?;
        let server = server_name(&node)?;
        let connect = async {
            let mut tcp = TcpStream::connect(address).await?;
            watch_peer(&tcp)?;
            tcp.write_all(&preamble(kind, session)).await?;
            TlsConnector::from(self.0.client.clone()).connect(server, tcp).await
        };
        let connected = timeout(SETUP_LIMIT, connect).await.map_err(|_| ConnectError::Timeout { peer: peer() })?;
        let mut stream = connected.map_err(|source| ConnectError::Io { peer: peer(), source })?;
        greet(&mut stream, kind.protocols()).await.map_err(|error| ConnectError::of_greeting(peer(), error))?;
        Ok(stream)
    }

    /// Finishes a connection that the daemon has handed over, and says which node it is from.
    ///
    /// # Errors
    /// If the handshake fails, the other end is not a node of the cluster, or speaks none of our
    /// versions.
    pub async fn accept(
        &self,
        socket: OwnedFd,
        kind: StreamKind,
    ) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, NodeName), ConnectError> {
        let peer = || "the caller".to_owned();
        let accept = async {
            let tcp = std::net::TcpStream::from(socket);
            tcp.set_nonblocking(true)?;
            let tcp = TcpStream::from_std(tcp)?;
            watch_peer(&tcp)?;
            TlsAcceptor::from(self.0.server.clone()).accept(tcp).await
        };
        let accepted = timeout(SETUP_LIMIT, accept).await.map_err(|_| ConnectError::Timeout { peer: peer() })?;
        let mut stream = accepted.map_err(|source| ConnectError::Io { peer: peer(), source })?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let PeerIdentity::Node { name } = PeerIdentity::from_certs(chain)? else { return Err(ConnectError::NotANode) };
        greet(&mut stream, kind.protocols())
            .await
            .map_err(|error| ConnectError::of_greeting(name.to_string(), error))?;
        Ok((stream, name))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::keys::ClusterKey;
    use crate::protocol::preamble::{PREAMBLE_BYTES, parse_preamble};

    fn connector(key: &ClusterKey, name: &str) -> Connector {
        let identity = key.mint_node_identity(&NodeName::new(name).unwrap(), &[]).unwrap();
        Connector::new(&serde_json::to_string(&identity.bundle()).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_stream_is_opened_to_the_named_node_only() {
        let key = ClusterKey::generate().unwrap();
        let (n1, n2) = (connector(&key, "n1"), connector(&key, "n2"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let session = SessionId::random();
        let server = tokio::spawn(async move {
            let mut heard = Vec::new();
            for _ in 0..2 {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut bytes = [0; PREAMBLE_BYTES];
                tcp.read_exact(&mut bytes).await.unwrap();
                assert_eq!(parse_preamble(&bytes), Some((StreamKind::Home, session)));
                heard.push(
                    n1.accept(tcp.into_std().unwrap().into(), StreamKind::Home)
                        .await
                        .map(|(_, name)| name.to_string())
                        .ok(),
                );
            }
            heard
        });
        n2.dial("n1", &address, StreamKind::Home, session).await.unwrap();
        assert!(n2.dial("n3", &address, StreamKind::Home, session).await.is_err());
        assert_eq!(server.await.unwrap()[0].as_deref(), Some("n2"));
    }
}
