//! TLS 1.3 with mutual authentication, in two flavours, and the answer to "who is at the other
//! end?".
//!
//! * [`TlsPurpose::Grpc`] (ALPN `h2`): nodes and clients may connect; each service looks at the
//!   [`PeerIdentity`].
//! * [`TlsPurpose::Stream`] (ALPN `scx-mosix-stream/1`): nodes only; a client's certificate fails
//!   the handshake.
//!
//! A client certificate never serves: it lacks the extended key usage, so the verifier of either
//! flavour refuses it.

use std::{fmt, sync::Arc};

use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore,
    ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{
    KeyError, NodeIdentity, NodeName,
    ca::{Minted, Role, URI_SCHEME},
    identity::ClientIdentity,
};

/// ALPN name of HTTP/2, for gRPC.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN name of our own streams between nodes.
pub const ALPN_STREAM: &[u8] = b"scx-mosix-stream/1";

/// What a TLS connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsPurpose {
    /// gRPC: the public API and the peer services.
    Grpc,
    /// Streams between nodes: images, pages, the home protocol.
    Stream,
}

/// The two ends of a TLS connection, for `tokio_rustls::{TlsAcceptor, TlsConnector}`.
#[derive(Clone)]
pub struct TlsConfigs {
    /// For the accepting side.
    pub server: Arc<ServerConfig>,
    /// For the connecting side; the server's name is [`server_name`] of the node's name, or an
    /// address of its certificate.
    pub client: Arc<ClientConfig>,
}

/// Who is at the other end, as its certificate says. Holds only for a certificate that the
/// handshake has verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerIdentity {
    /// A node of this cluster.
    Node {
        /// Its name.
        name: NodeName,
    },
    /// A client of the API.
    Client {
        /// Its name.
        name: NodeName,
    },
}

impl NodeIdentity {
    /// The TLS configurations of this node for `purpose`.
    ///
    /// # Errors
    /// [`KeyError::Bundle`] if a text of the identity is damaged, [`KeyError::Tls`],
    /// [`KeyError::Verifier`].
    pub fn tls(&self, purpose: TlsPurpose) -> Result<TlsConfigs, KeyError> {
        let parts = Parts::of(&self.minted)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(parts.roots.clone(), provider()).build()?;
        let verifier: Arc<dyn ClientCertVerifier> = match purpose {
            TlsPurpose::Grpc => verifier,
            TlsPurpose::Stream => Arc::new(NodesOnly(verifier)),
        };
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![parts.cert.clone()], parts.key.clone_key())?;
        server.alpn_protocols = alpn(purpose);
        Ok(TlsConfigs { server: Arc::new(server), client: parts.client_config(purpose)? })
    }
}

impl ClientIdentity {
    /// The TLS configuration with which a client calls the API of a node.
    ///
    /// # Errors
    /// As [`NodeIdentity::tls`].
    pub fn tls(&self) -> Result<Arc<ClientConfig>, KeyError> {
        Parts::of(&self.0)?.client_config(TlsPurpose::Grpc)
    }
}

impl PeerIdentity {
    /// Reads the role and name from the chain that `peer_certificates()` of a finished handshake
    /// gives.
    ///
    /// # Errors
    /// [`KeyError::Peer`] if there is no certificate, or it has not exactly one URI of ours in it.
    pub fn from_certs(chain: &[CertificateDer<'_>]) -> Result<Self, KeyError> {
        let leaf = chain.first().ok_or(KeyError::Peer("it sent none"))?;
        let (_, cert) = parse_x509_certificate(leaf).map_err(|_| KeyError::Peer("it cannot be parsed"))?;
        let names = match cert.subject_alternative_name() {
            Ok(Some(san)) => &san.value.general_names,
            _ => return Err(KeyError::Peer("it has no subject alternative names")),
        };
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(URI_SCHEME),
            _ => None,
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(KeyError::Peer("it has not exactly one scx-mosix name"));
        };
        let (role, name) = uri.split_once('/').ok_or(KeyError::Peer("its scx-mosix name is incomplete"))?;
        let name = NodeName::new(name)?;
        match role {
            _ if role == Role::Node.as_str() => Ok(Self::Node { name }),
            _ if role == Role::Client.as_str() => Ok(Self::Client { name }),
            _ => Err(KeyError::Peer("its role is unknown here")),
        }
    }

    /// The node's name, if this is a node.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Node { name } => Some(name),
            Self::Client { .. } => None,
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { name } => write!(f, "node {name}"),
            Self::Client { name } => write!(f, "client {name}"),
        }
    }
}

impl fmt::Debug for TlsConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConfigs")
    }
}

/// The name under which to connect to a node: its certificate carries it whatever its address is
/// today.
pub fn server_name(name: &NodeName) -> Result<ServerName<'static>, KeyError> {
    ServerName::try_from(name.as_str().to_owned()).map_err(|_| KeyError::Peer("the node's name is no DNS name"))
}

/// AES with 128 bits before the others: as strong as the key exchange, and less work per byte of a
/// moving program than with 256 bits (10 rounds against 14, FIPS 197).
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn alpn(purpose: TlsPurpose) -> Vec<Vec<u8>> {
    match purpose {
        TlsPurpose::Grpc => vec![ALPN_H2.to_vec()],
        TlsPurpose::Stream => vec![ALPN_STREAM.to_vec()],
    }
}

/// An identity as rustls wants it.
struct Parts {
    roots: Arc<RootCertStore>,
    cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Parts {
    fn of(minted: &Minted) -> Result<Self, KeyError> {
        let certificate = |text: &str| {
            CertificateDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::Bundle("a certificate is not PEM"))
        };
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&minted.ca_pem)?)?;
        let key = PrivateKeyDer::from_pem_slice(minted.key_pem.as_bytes())
            .map_err(|_| KeyError::Bundle("its private key is not PEM"))?;
        Ok(Self { roots: Arc::new(roots), cert: certificate(&minted.cert_pem)?, key })
    }

    fn client_config(&self, purpose: TlsPurpose) -> Result<Arc<ClientConfig>, KeyError> {
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(vec![self.cert.clone()], self.key.clone_key())?;
        client.alpn_protocols = alpn(purpose);
        Ok(Arc::new(client))
    }
}

/// A verifier that lets node certificates through and no others.
#[derive(Debug)]
struct NodesOnly(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for NodesOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let verified = self.0.verify_client_cert(leaf, intermediates, now)?;
        match PeerIdentity::from_certs(std::slice::from_ref(leaf)) {
            Ok(PeerIdentity::Node { .. }) => Ok(verified),
            _ => Err(TlsError::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::keys::ClusterKey;

    /// A whole handshake in memory; what each side then knows of the other.
    fn shake(
        client: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
        to: ServerName<'static>,
    ) -> Result<[PeerIdentity; 2], TlsError> {
        let mut client = ClientConnection::new(client, to)?;
        let mut server = ServerConnection::new(server)?;
        for _ in 0..8 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        let who =
            |certs: Option<&[CertificateDer<'static>]>| PeerIdentity::from_certs(certs.unwrap_or_default()).unwrap();
        Ok([who(server.peer_certificates()), who(client.peer_certificates())])
    }

    fn node(key: &ClusterKey, name: &str) -> NodeIdentity {
        key.mint_node_identity(&name.parse().unwrap(), &["10.0.0.1".parse().unwrap()]).unwrap()
    }

    fn to(name: &str) -> ServerName<'static> {
        ServerName::try_from(name.to_owned()).unwrap()
    }

    #[test]
    fn two_nodes_know_each_other_by_name_and_by_address() {
        let key = ClusterKey::generate().unwrap();
        for purpose in [TlsPurpose::Grpc, TlsPurpose::Stream] {
            let (n1, n2) = (node(&key, "n1").tls(purpose).unwrap(), node(&key, "n2").tls(purpose).unwrap());
            for target in ["n2", "10.0.0.1", "127.0.0.1", "localhost"] {
                let [seen_by_server, seen_by_client] = shake(n1.client.clone(), n2.server.clone(), to(target)).unwrap();
                assert_eq!(seen_by_server.node().unwrap().as_str(), "n1");
                assert_eq!(seen_by_client.node().unwrap().as_str(), "n2");
            }
            assert!(shake(n1.client, n2.server, to("n3")).is_err(), "n2 must not pass for n3");
        }
    }

    #[test]
    fn another_cluster_is_refused_by_both_sides() {
        let n1 = node(&ClusterKey::generate().unwrap(), "n1").tls(TlsPurpose::Grpc).unwrap();
        let n2 = node(&ClusterKey::generate().unwrap(), "n2").tls(TlsPurpose::Grpc).unwrap();
        assert!(shake(n1.client, n2.server.clone(), to("n2")).is_err());
        assert!(shake(n2.client, n1.server, to("n1")).is_err());
    }

    #[test]
    fn a_client_certificate_allows_api_calls_only() {
        let key = ClusterKey::generate().unwrap();
        let client = key.mint_client_identity(&"admin".parse().unwrap()).unwrap();
        let n1 = node(&key, "n1");
        let api = n1.tls(TlsPurpose::Grpc).unwrap();
        let [seen, _] = shake(client.tls().unwrap(), api.server, to("n1")).unwrap();
        assert_eq!(seen, PeerIdentity::Client { name: "admin".parse().unwrap() });

        let stream = n1.tls(TlsPurpose::Stream).unwrap();
        let config = Parts::of(&client.0).unwrap().client_config(TlsPurpose::Stream).unwrap();
        assert!(shake(config, stream.server, to("n1")).is_err());

        let parts = Parts::of(&client.0).unwrap();
        let impostor = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![parts.cert], parts.key)
            .unwrap();
        assert!(shake(api.client, Arc::new(impostor), to("admin")).is_err());
    }

    #[test]
    fn no_certificate_no_connection() {
        let key = ClusterKey::generate().unwrap();
        let identity = node(&key, "n1");
        let anonymous = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(Parts::of(&identity.minted).unwrap().roots)
            .with_no_client_auth();
        assert!(shake(Arc::new(anonymous), identity.tls(TlsPurpose::Grpc).unwrap().server, to("n1")).is_err());
    }

    #[test]
    fn an_agent_connects_with_the_bundle_of_its_daemon() {
        let key = ClusterKey::generate().unwrap();
        let agent = NodeIdentity::from_bundle(&node(&key, "n1").bundle()).unwrap();
        let home = node(&key, "n2").tls(TlsPurpose::Stream).unwrap();
        let [seen, _] = shake(agent.tls(TlsPurpose::Stream).unwrap().client, home.server, to("n2")).unwrap();
        assert_eq!(seen.to_string(), "node n1");
    }
}
