//! `PeerService`: for nodes only.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Context, caller, complete};
use crate::{
    api::{
        ApiError, PeerBackend,
        backend::{GuestReservation, MoveRequest},
        message::parse_session,
        view::MigrationSummary,
    },
    job::Constraints,
    proto::peer::{
        ConstrainGuestRequest, ConstrainGuestResponse, GetGuestReasonsRequest, GetGuestReasonsResponse,
        GetNodeDetailsRequest, GetNodeDetailsResponse, ReleaseGuestRequest, ReleaseGuestResponse,
        ReportMigrationRequest, ReportMigrationResponse, RequestMoveRequest, RequestMoveResponse, ReserveGuestRequest,
        ReserveGuestResponse, peer_service_server::PeerService,
    },
};

/// The service.
pub struct Peers {
    /// What every service has.
    pub context: Context,
    /// The daemon as other nodes see it.
    pub peers: Arc<dyn PeerBackend>,
}

/// The calling node and what it says.
fn from_node<T>(request: Request<T>) -> Result<(String, T), ApiError> {
    let node = caller(&request)?.node()?.to_owned();
    Ok((node, request.into_inner()))
}

#[tonic::async_trait]
impl PeerService for Peers {
    async fn get_node_details(
        &self,
        request: Request<GetNodeDetailsRequest>,
    ) -> Result<Response<GetNodeDetailsResponse>, Status> {
        from_node(request)?;
        let details = self.peers.node_details().await?;
        Ok(Response::new(GetNodeDetailsResponse { details: Some((&details).into()) }))
    }

    async fn reserve_guest(
        &self,
        request: Request<ReserveGuestRequest>,
    ) -> Result<Response<ReserveGuestResponse>, Status> {
        let (node, request) = from_node(request)?;
        let reservation = GuestReservation::try_from(request)?;
        if reservation.source_node != node {
            return Err(ApiError::invalid("source_node", format!("the caller is {node}")).into());
        }
        let peers = Arc::clone(&self.peers);
        let stream_address = complete(async move { peers.reserve_guest(&node, reservation).await }).await?;
        Ok(Response::new(ReserveGuestResponse { stream_address }))
    }

    async fn release_guest(
        &self,
        request: Request<ReleaseGuestRequest>,
    ) -> Result<Response<ReleaseGuestResponse>, Status> {
        let (node, ReleaseGuestRequest { migration, reason }) = from_node(request)?;
        let migration = parse_session(&migration, "migration")?;
        let peers = Arc::clone(&self.peers);
        complete(async move { peers.release_guest(&node, migration, &reason).await }).await?;
        Ok(Response::new(ReleaseGuestResponse {}))
    }

    async fn request_move(
        &self,
        request: Request<RequestMoveRequest>,
    ) -> Result<Response<RequestMoveResponse>, Status> {
        let (node, request) = from_node(request)?;
        let request = MoveRequest::try_from(request)?;
        let peers = Arc::clone(&self.peers);
        let migration = complete(async move { peers.request_move(&node, request).await }).await?;
        Ok(Response::new(RequestMoveResponse { migration: Some((&migration).into()) }))
    }

    async fn constrain_guest(
        &self,
        request: Request<ConstrainGuestRequest>,
    ) -> Result<Response<ConstrainGuestResponse>, Status> {
        let (node, ConstrainGuestRequest { session, constraints }) = from_node(request)?;
        let session = parse_session(&session, "session")?;
        let constraints = Constraints::try_from(constraints.unwrap_or_default())?;
        let peers = Arc::clone(&self.peers);
        complete(async move { peers.constrain_guest(&node, session, constraints).await }).await?;
        Ok(Response::new(ConstrainGuestResponse {}))
    }

    async fn report_migration(
        &self,
        request: Request<ReportMigrationRequest>,
    ) -> Result<Response<ReportMigrationResponse>, Status> {
        let (node, request) = from_node(request)?;
        let migration = request.migration.ok_or_else(|| ApiError::invalid("migration", "it is missing"))?;
        let migration = MigrationSummary::try_from(migration)?;
        if migration.source != node {
            return Err(ApiError::invalid("migration.source", format!("the caller is {node}")).into());
        }
        if !migration.process.is_of(self.context.backend.local_node()) {
            return Err(ApiError::ProcessUnknown { process: migration.process.to_string() }.into());
        }
        let peers = Arc::clone(&self.peers);
        complete(async move { peers.report_migration(&node, migration).await }).await?;
        Ok(Response::new(ReportMigrationResponse {}))
    }

    async fn get_guest_reasons(
        &self,
        request: Request<GetGuestReasonsRequest>,
    ) -> Result<Response<GetGuestReasonsResponse>, Status> {
        let (node, GetGuestReasonsRequest { session }) = from_node(request)?;
        let reasons = self.peers.guest_reasons(&node, parse_session(&session, "session")?).await?;
        Ok(Response::new(GetGuestReasonsResponse { reasons: Some((&reasons).into()) }))
    }
}
