//! `EventService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    Context, caller, page,
    watch::{Event, Watch, WatchStream},
};
use crate::{
    api::{Caller, view::ClusterEvent},
    proto::v1::{
        ListEventsRequest, ListEventsResponse, WatchEventsRequest, WatchEventsResponse,
        event_service_server::EventService,
    },
};

/// The service.
pub struct Events(pub Context);

impl Events {
    /// Which events the caller may see.
    fn wanted(&self, caller: Caller) -> impl Fn(&ClusterEvent) -> bool + Send + Sync + 'static {
        let backend = Arc::clone(&self.0.backend);
        move |event: &ClusterEvent| caller.may_see(event, backend.local_node())
    }
}

#[tonic::async_trait]
impl EventService for Events {
    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        let wanted = self.wanted(caller(&request)?);
        let request = request.into_inner();
        let events = &self.0.backend.views().events;
        let (page, next_page_token) = page::read(events, request.page_size, &request.page_token, wanted)?;
        let events = page.rows.iter().map(|event| (&**event).into()).collect();
        Ok(Response::new(ListEventsResponse { events, next_page_token, revision: page.revision }))
    }

    type WatchEventsStream = WatchStream<WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let wanted = self.wanted(caller(&request)?);
        let WatchEventsRequest { start_revision, progress_notify } = request.into_inner();
        let watch = Watch {
            table: |views| &views.events,
            start_revision,
            progress_notify,
            wanted,
            // That an old event is no longer kept is nothing that happened.
            message: |revision, events: Vec<Event<ClusterEvent>>| WatchEventsResponse {
                revision,
                events: events
                    .into_iter()
                    .filter_map(|event| match event {
                        Event::Put(event) => Some((&*event).into()),
                        Event::Removed(_) => None,
                    })
                    .collect(),
            },
        };
        Ok(Response::new(watch.start(&self.0)?))
    }
}
