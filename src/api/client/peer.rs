//! The client of another node.

use std::{sync::Arc, time::Duration};

use rustls::ClientConfig;
use tonic::transport::Channel;

use super::{CALL_TIMEOUT, CallError, Client, MAX_ANSWER_BYTES, timed, tls_channel};
use crate::{
    api::{
        backend::{GuestReservation, MoveRequest, NodeDetails},
        view::{MigrationSummary, PlacementReasons},
    },
    job::{Constraints, SessionId},
    keys::{NodeName, server_name},
    proto::peer::{self, peer_service_client::PeerServiceClient},
};

/// How long a target may take to check itself and make a guest's world.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(45);

/// A client of another node, with this node's certificate.
#[derive(Clone)]
pub struct PeerClient {
    /// Its public API, of which a node may use everything.
    pub api: Client,
    node: String,
    peer: PeerServiceClient<Channel>,
}

impl PeerClient {
    /// A client of `node`, whose port is at `address` (`address:port`) and whose certificate must
    /// carry that name. It connects with the first call.
    ///
    /// # Errors
    /// [`CallError::Setup`] for a name that cannot be in a certificate.
    pub fn new(node: &NodeName, address: &str, tls: Arc<ClientConfig>) -> Result<Self, CallError> {
        let name = server_name(node).map_err(|source| CallError::Setup { to: node.to_string(), source })?;
        let channel = tls_channel(name, address, tls);
        Ok(Self {
            api: Client::over(channel.clone(), format!("node {node}")),
            node: node.to_string(),
            peer: PeerServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES),
        })
    }

    /// The node that this client calls.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What the node has.
    ///
    /// # Errors
    /// [`CallError`], as for all methods.
    pub async fn node_details(&mut self) -> Result<NodeDetails, CallError> {
        let request = timed(peer::GetNodeDetailsRequest {}, CALL_TIMEOUT);
        let answer = self.peer.get_node_details(request).await.map_err(self.api.failed())?.into_inner();
        Ok(self.api.given(answer.details)?.into())
    }

    /// Asks the node to take a guest; returns where its stream is expected, `address:port`.
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::TimedOut`] or [`CallError::Unreachable`] the reservation
    /// may exist: release it.
    pub async fn reserve_guest(&mut self, reservation: &GuestReservation) -> Result<String, CallError> {
        let request = timed(reservation.into(), RESERVE_TIMEOUT);
        Ok(self.peer.reserve_guest(request).await.map_err(self.api.failed())?.into_inner().stream_address)
    }

    /// Gives a reservation back.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn release_guest(&mut self, migration: SessionId, reason: &str) -> Result<(), CallError> {
        let request = peer::ReleaseGuestRequest { migration: migration.to_string(), reason: reason.to_owned() };
        self.peer.release_guest(timed(request, CALL_TIMEOUT)).await.map_err(self.api.failed())?;
        Ok(())
    }

    /// Asks the node to move a guest of ours on.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn request_move(&mut self, request: &MoveRequest) -> Result<MigrationSummary, CallError> {
        let answer = self.peer.request_move(timed(request.into(), CALL_TIMEOUT)).await.map_err(self.api.failed())?;
        Ok(self.api.given(answer.into_inner().migration)?.try_into()?)
    }

    /// Says what placement may do with a guest of ours.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn constrain_guest(&mut self, session: SessionId, constraints: Constraints) -> Result<(), CallError> {
        let constraints = Some(constraints.into());
        let request = peer::ConstrainGuestRequest { session: session.to_string(), constraints };
        self.peer.constrain_guest(timed(request, CALL_TIMEOUT)).await.map_err(self.api.failed())?;
        Ok(())
    }

    /// Tells the home of a job how far its migration is.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn report_migration(&mut self, migration: &MigrationSummary) -> Result<(), CallError> {
        let request = peer::ReportMigrationRequest { migration: Some(migration.into()) };
        self.peer.report_migration(timed(request, CALL_TIMEOUT)).await.map_err(self.api.failed())?;
        Ok(())
    }

    /// Why a guest of ours is there.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn guest_reasons(&mut self, session: SessionId) -> Result<PlacementReasons, CallError> {
        let request = timed(peer::GetGuestReasonsRequest { session: session.to_string() }, CALL_TIMEOUT);
        let answer = self.peer.get_guest_reasons(request).await.map_err(self.api.failed())?.into_inner();
        Ok(self.api.given(answer.reasons)?.try_into()?)
    }
}
