//! The servers: one on the Unix socket, one on the TLS connections that the daemon's port brings.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    net::{TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::{
    Backend, Caller, PeerBackend,
    connection::{Connection, Slots},
    services::{Cluster, Context, Events, Migrations, Peers, Processes},
};
use crate::{
    keys::{KeyError, PeerIdentity},
    proto::{
        FILE_DESCRIPTORS,
        peer::peer_service_server::{self, PeerServiceServer},
        v1::{
            cluster_service_server::{self, ClusterServiceServer},
            event_service_server::{self, EventServiceServer},
            migration_service_server::{self, MigrationServiceServer},
            process_service_server::{self, ProcessServiceServer},
        },
    },
};

const PUBLIC_SERVICES: [&str; 4] = [
    cluster_service_server::SERVICE_NAME,
    process_service_server::SERVICE_NAME,
    migration_service_server::SERVICE_NAME,
    event_service_server::SERVICE_NAME,
];

/// How often a quiet connection is asked whether it lives, and how long the answer may take.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take to be answered; longer than a guest's reservation. Watches are answered
/// at once and continue.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Calls and watches under way on one connection.
const MAX_CALLS_PER_CONNECTION: u32 = 64;
/// The largest request; the longest has the cpu features of a node.
const MAX_REQUEST_BYTES: usize = 256 * 1024;
/// How long a TLS handshake may take, and how many may be under way.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HANDSHAKES: usize = 64;
/// How long calls under way may take to end when the daemon does.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// An error of a server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another daemon has the socket.
    #[error("another daemon listens at {}: only one can run", .path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen at {}", .path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The services' descriptions cannot be served.
    #[error("cannot set up reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server failed.
    #[error("the API server failed")]
    Serve(#[from] tonic::transport::Error),
}

/// Makes the API's Unix socket; who may do what is decided by credentials, so every user may
/// connect. A socket that a dead daemon left behind is replaced.
///
/// # Errors
/// [`ServeError::Taken`], [`ServeError::Bind`].
pub fn bind_unix(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Bind { path: path.to_owned(), source };
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ServeError::Taken { path: path.to_owned() });
            }
            std::fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path)
        }
        bound => bound,
    };
    let listener = listener.map_err(failed)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

/// The API of one daemon, to be served on any number of sockets.
pub struct ApiServer {
    context: Context,
    peers: Option<Arc<dyn PeerBackend>>,
    health: HealthReporter,
}

impl ApiServer {
    /// An API over a daemon; `peers` is what other nodes may ask, `None` without a key. It ends
    /// with `shutdown`.
    pub async fn new(
        backend: Arc<dyn Backend>,
        peers: Option<Arc<dyn PeerBackend>>,
        shutdown: CancellationToken,
    ) -> Self {
        let server = Self { context: Context { backend, shutdown }, peers, health: HealthReporter::new() };
        server.set_health(ServingStatus::Serving).await;
        server
    }

    /// Tells health checks that this node takes no new work any more; calls are still answered.
    pub async fn set_leaving(&self) {
        self.set_health(ServingStatus::NotServing).await;
    }

    async fn set_health(&self, status: ServingStatus) {
        let peer = self.peers.as_ref().map(|_| peer_service_server::SERVICE_NAME);
        for name in PUBLIC_SERVICES.into_iter().chain(peer).chain([""]) {
            self.health.set_service_status(name, status).await;
        }
    }

    /// Serves the public services to processes of this machine until shutdown.
    ///
    /// # Errors
    /// [`ServeError::Reflection`], [`ServeError::Serve`].
    pub async fn serve_unix(&self, listener: UnixListener) -> Result<(), ServeError> {
        let (sender, receiver) = mpsc::channel(16);
        let accept = accept_unix(listener, sender);
        self.serve(self.router(false)?, receiver, accept).await
    }

    /// Serves the public services, and the peer service to nodes, on TCP connections that begin
    /// with TLS, until shutdown.
    ///
    /// # Errors
    /// [`ServeError::Reflection`], [`ServeError::Serve`].
    pub async fn serve_tls(
        &self,
        incoming: mpsc::Receiver<TcpStream>,
        tls: Arc<ServerConfig>,
    ) -> Result<(), ServeError> {
        let (sender, receiver) = mpsc::channel(16);
        let accept = accept_tls(incoming, TlsAcceptor::from(tls), sender);
        self.serve(self.router(true)?, receiver, accept).await
    }

    async fn serve<S>(
        &self,
        router: Router,
        connections: mpsc::Receiver<io::Result<Connection<S>>>,
        accept: impl Future<Output = ()>,
    ) -> Result<(), ServeError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let shutdown = &self.context.shutdown;
        let serve = router.serve_with_incoming_shutdown(ReceiverStream::new(connections), shutdown.cancelled());
        let accept = async {
            tokio::select! { () = accept => {}, () = shutdown.cancelled() => {} }
        };
        let overdue = async {
            shutdown.cancelled().await;
            sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            (served, ()) = async { tokio::join!(serve, accept) } => Ok(served?),
            () = overdue => Ok(()),
        }
    }

    fn router(&self, with_peers: bool) -> Result<Router, ServeError> {
        let peers = self.peers.as_ref().filter(|_| with_peers);
        let services: Vec<_> =
            PUBLIC_SERVICES.into_iter().chain(peers.map(|_| peer_service_server::SERVICE_NAME)).collect();
        let context = &self.context;
        let peers = peers.map(|peers| {
            let service = Peers { context: context.clone(), peers: Arc::clone(peers) };
            PeerServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES)
        });
        let (cluster, processes) = (Cluster(context.clone()), Processes::new(context.clone()));
        let (migrations, events) = (Migrations(context.clone()), Events(context.clone()));
        let health = HealthServer::new(HealthService::from_health_reporter(self.health.clone()));
        Ok(Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .timeout(CALL_TIMEOUT)
            .max_concurrent_streams(MAX_CALLS_PER_CONNECTION)
            .concurrency_limit_per_connection(MAX_CALLS_PER_CONNECTION as usize)
            .add_service(health)
            .add_service(reflection(&services).build_v1()?)
            .add_service(reflection(&services).build_v1alpha()?)
            .add_service(ClusterServiceServer::new(cluster).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(ProcessServiceServer::new(processes).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(MigrationServiceServer::new(migrations).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(EventServiceServer::new(events).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_optional_service(peers))
    }
}

/// Reflection that names these services, health and itself.
fn reflection(services: &[&str]) -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health")
        .with_service_name("grpc.reflection.v1.ServerReflection");
    services.iter().fold(builder, |builder, name| builder.with_service_name(*name))
}

/// Accepts local connections and finds out whose they are.
async fn accept_unix(listener: UnixListener, connections: mpsc::Sender<io::Result<Connection<UnixStream>>>) {
    let slots = Slots::default();
    loop {
        let accepted = listener.accept().await.and_then(|(stream, _)| Ok((stream.peer_cred()?, stream)));
        let (peer, stream) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: give the others time to close theirs.
                tracing::warn!(%error, "cannot accept a connection to the API");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let caller = Caller::Local { uid: peer.uid(), pid: peer.pid().unwrap_or(0) };
        let slot = if caller.is_privileged() { None } else { slots.take(peer.uid()) };
        if slot.is_none() && !caller.is_privileged() {
            tracing::warn!(%caller, "connection to the API dropped: this user, or all users, have too many");
            continue;
        }
        if connections.send(Ok(Connection::new(stream, caller, slot))).await.is_err() {
            return;
        }
    }
}

/// Shakes hands and reads certificates, several at a time.
async fn accept_tls(
    mut incoming: mpsc::Receiver<TcpStream>,
    acceptor: TlsAcceptor,
    connections: mpsc::Sender<io::Result<Connection<TlsStream<TcpStream>>>>,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    while let Some(stream) = incoming.recv().await {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let (acceptor, connections) = (acceptor.clone(), connections.clone());
        tokio::spawn(async move {
            let from = stream.peer_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
            match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => match peer(&stream) {
                    Ok(caller) => drop(connections.send(Ok(Connection::new(stream, caller, None))).await),
                    Err(error) => tracing::warn!(%from, %error, "connection to the API refused"),
                },
                Ok(Err(error)) => {
                    tracing::warn!(%from, %error, "connection to the API refused: no certificate of this cluster")
                }
                Err(_) => tracing::warn!(%from, "connection to the API dropped: the TLS handshake took too long"),
            }
            drop(permit);
        });
    }
}

fn peer(stream: &TlsStream<TcpStream>) -> Result<Caller, KeyError> {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(match PeerIdentity::from_certs(chain)? {
        PeerIdentity::Node { name } => Caller::Node { name: name.as_str().to_owned() },
        PeerIdentity::Client { name } => Caller::Client { name: name.as_str().to_owned() },
    })
}
