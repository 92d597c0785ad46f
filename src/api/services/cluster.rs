//! `ClusterService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    Context, caller, complete, page,
    watch::{Event, Watch, WatchStream},
};
use crate::{
    api::{
        ApiError,
        name::{ANY, node_resource, parse_node},
        view::NodeSummary,
    },
    proto::v1::{
        DrainNodeRequest, DrainNodeResponse, GetNodeRequest, GetNodeResponse, ListNodesRequest, ListNodesResponse,
        NodeEvent, WatchNodesRequest, WatchNodesResponse, cluster_service_server::ClusterService, node_event,
    },
};

/// The service.
pub struct Cluster(pub Context);

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        let request = request.into_inner();
        let nodes = &self.0.backend.views().nodes;
        let (page, next_page_token) = page::read(nodes, request.page_size, &request.page_token, |_| true)?;
        let nodes = page.rows.iter().map(|node| (&**node).into()).collect();
        Ok(Response::new(ListNodesResponse { nodes, next_page_token, revision: page.revision }))
    }

    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<GetNodeResponse>, Status> {
        let mut node = parse_node(&request.into_inner().name, "name")?;
        if node == ANY {
            self.0.backend.local_node().clone_into(&mut node);
        }
        let found = self.0.backend.views().nodes.get(&node).ok_or(ApiError::NodeUnknown { node })?;
        Ok(Response::new(GetNodeResponse { node: Some((&*found).into()) }))
    }

    type WatchNodesStream = WatchStream<WatchNodesResponse>;

    async fn watch_nodes(
        &self,
        request: Request<WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        let WatchNodesRequest { start_revision, progress_notify } = request.into_inner();
        let event = |event: Event<NodeSummary>| NodeEvent {
            event: Some(match event {
                Event::Put(node) => node_event::Event::Put((&*node).into()),
                Event::Removed(node) => node_event::Event::Deleted(node_resource(&node.node)),
            }),
        };
        let watch = Watch {
            table: |views| &views.nodes,
            start_revision,
            progress_notify,
            wanted: |_: &NodeSummary| true,
            message: move |revision, events: Vec<_>| WatchNodesResponse {
                revision,
                events: events.into_iter().map(event).collect(),
            },
        };
        Ok(Response::new(watch.start(&self.0)?))
    }

    async fn drain_node(&self, request: Request<DrainNodeRequest>) -> Result<Response<DrainNodeResponse>, Status> {
        let caller = caller(&request)?;
        caller.may_administer("draining a node")?;
        let DrainNodeRequest { name, undo } = request.into_inner();
        let (node, local) = (parse_node(&name, "name")?, self.0.backend.local_node());
        if node != ANY && node != local {
            return Err(ApiError::invalid("name", format!("this is {local}: ask {node} itself")).into());
        }
        let backend = Arc::clone(&self.0.backend);
        let node = complete(async move { backend.drain(&caller, !undo).await }).await?;
        Ok(Response::new(DrainNodeResponse { node: Some((&node).into()) }))
    }
}
