//! What a daemon asks of the other nodes' daemons.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, PoisonError},
};

use async_trait::async_trait;
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{
        ApiError, PeerClient,
        backend::{GuestReservation, MoveRequest, NodeDetails},
        view::{MigrationSummary, PlacementReasons, ProcessSummary},
    },
    cluster::ClusterHandle,
    job::{Constraints, SessionId},
    keys::NodeName,
    sys::lock::Mutex,
};

/// The other nodes, by name. Behind it are gRPC clients with this node's certificate; tests put a
/// fake in their place.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Asks a node to take a guest; returns where its stream is expected.
    async fn reserve(&self, node: &str, reservation: GuestReservation) -> Result<String, ApiError>;

    /// Gives a reservation back; a node that cannot be reached gives it up by itself.
    async fn release(&self, node: &str, migration: SessionId, reason: &str);

    /// As home: asks the hosting node to move a job on.
    async fn request_move(&self, node: &str, request: MoveRequest) -> Result<MigrationSummary, ApiError>;

    /// As home: asks the source of a migration to give it up.
    async fn cancel(&self, node: &str, migration: SessionId, reason: &str) -> Result<MigrationSummary, ApiError>;

    /// Tells the job's home how far its migration is; does not wait. Lost reports are made good by
    /// the agents' state.
    fn report(&self, record: MigrationSummary);

    /// As home: asks the hosting node why a job is there.
    async fn guest_reasons(&self, node: &str, session: SessionId) -> Result<PlacementReasons, ApiError>;

    /// As home: says to the hosting node what placement may do with a job.
    async fn constrain(&self, node: &str, session: SessionId, constraints: Constraints) -> Result<(), ApiError>;

    /// What a node has.
    async fn details(&self, node: &str) -> Result<NodeDetails, ApiError>;

    /// What a node says of the jobs that it hosts or owns.
    async fn processes(&self, node: &str) -> Result<Vec<ProcessSummary>, ApiError>;
}

/// How many reports to homes may wait to be sent.
const REPORT_QUEUE: usize = 256;

/// The other nodes over gRPC, found by the cluster's view.
pub struct GrpcPeers {
    cluster: ClusterHandle,
    tls: Option<Arc<ClientConfig>>,
    /// Each with the daemon that it was made for: the next one at the same address knows nothing of
    /// the connection.
    clients: Mutex<HashMap<String, (SocketAddr, u64, PeerClient)>>,
    reports: mpsc::Sender<MigrationSummary>,
}

impl GrpcPeers {
    /// The peers of `cluster`, called with this node's certificate; without one there are none.
    /// Must be called inside a tokio runtime.
    pub fn new(cluster: ClusterHandle, tls: Option<Arc<ClientConfig>>, stop: CancellationToken) -> Arc<Self> {
        let (reports, queue) = mpsc::channel(REPORT_QUEUE);
        let peers = Arc::new(Self { cluster, tls, clients: Mutex::default(), reports });
        tokio::spawn(peers.clone().send_reports(queue, stop));
        peers
    }

    /// The client of a node that is known; connections are kept.
    fn client(&self, node: &str) -> Result<PeerClient, ApiError> {
        let unknown = || ApiError::NodeUnknown { node: node.into() };
        let name = NodeName::new(node).map_err(|_| unknown())?;
        let (address, incarnation) = {
            let view = self.cluster.view();
            let entry = view.get(&name).ok_or_else(unknown)?;
            (entry.addr, entry.incarnation)
        };
        let Some(tls) = &self.tls else { return Err(unknown()) };
        // Entries are only inserted whole, so a panic elsewhere leaves the map usable.
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, of, client)) = clients.get(node)
            && (*known, *of) == (address, incarnation)
        {
            return Ok(client.clone());
        }
        let client =
            PeerClient::new(&name, &address.to_string(), tls.clone()).map_err(|error| error.into_api_error(node))?;
        clients.insert(node.into(), (address, incarnation, client.clone()));
        Ok(client)
    }

    async fn send_reports(self: Arc<Self>, mut queue: mpsc::Receiver<MigrationSummary>, stop: CancellationToken) {
        loop {
            let record = tokio::select! {
                record = queue.recv() => record,
                () = stop.cancelled() => return,
            };
            let Some(record) = record else { return };
            let home = record.process.home.clone();
            let sent = match self.client(&home) {
                Ok(mut client) => client.report_migration(&record).await.map_err(|error| error.into_api_error(&home)),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                tracing::info!(%home, migration = %record.id, %error, "home did not hear how far a migration is");
            }
        }
    }
}

#[async_trait]
impl Peers for GrpcPeers {
    async fn reserve(&self, node: &str, reservation: GuestReservation) -> Result<String, ApiError> {
        self.client(node)?.reserve_guest(&reservation).await.map_err(|error| error.into_api_error(node))
    }

    async fn release(&self, node: &str, migration: SessionId, reason: &str) {
        let released = match self.client(node) {
            Ok(mut client) => client.release_guest(migration, reason).await.map_err(|e| e.into_api_error(node)),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            tracing::info!(node, %migration, %error, "the target will give its reservation up by itself");
        }
    }

    async fn request_move(&self, node: &str, request: MoveRequest) -> Result<MigrationSummary, ApiError> {
        self.client(node)?.request_move(&request).await.map_err(|error| error.into_api_error(node))
    }

    async fn cancel(&self, node: &str, migration: SessionId, reason: &str) -> Result<MigrationSummary, ApiError> {
        let mut client = self.client(node)?.api;
        client.cancel_migration(migration, reason).await.map_err(|error| error.into_api_error(node))
    }

    fn report(&self, record: MigrationSummary) {
        if self.reports.try_send(record).is_err() {
            tracing::info!("too many migrations to report: home will learn the outcome from its agent");
        }
    }

    async fn guest_reasons(&self, node: &str, session: SessionId) -> Result<PlacementReasons, ApiError> {
        self.client(node)?.guest_reasons(session).await.map_err(|error| error.into_api_error(node))
    }

    async fn constrain(&self, node: &str, session: SessionId, constraints: Constraints) -> Result<(), ApiError> {
        let mut client = self.client(node)?;
        client.constrain_guest(session, constraints).await.map_err(|error| error.into_api_error(node))
    }

    async fn details(&self, node: &str) -> Result<NodeDetails, ApiError> {
        self.client(node)?.node_details().await.map_err(|error| error.into_api_error(node))
    }

    async fn processes(&self, node: &str) -> Result<Vec<ProcessSummary>, ApiError> {
        self.client(node)?.api.list_processes(None).await.map_err(|error| error.into_api_error(node))
    }
}
