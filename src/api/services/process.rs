//! `ProcessService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    Context, caller, complete,
    once::Once,
    page,
    watch::{Event, Watch, WatchStream},
};
use crate::{
    api::{
        ApiError, Caller,
        backend::{ConstraintsChange, Destination, Registration},
        name::{ANY, job_resource, parse_job, parse_node, parse_nodes},
        view::ProcessSummary,
    },
    job::{Constraints, SessionId},
    proto::v1::{
        ConstrainProcessRequest, ConstrainProcessResponse, GetPlacementReasonsRequest, GetPlacementReasonsResponse,
        GetProcessRequest, GetProcessResponse, ListProcessesRequest, ListProcessesResponse, MigrateProcessRequest,
        MigrateProcessResponse, ProcessEvent, RegisterProcessRequest, RegisterProcessResponse, WatchProcessesRequest,
        WatchProcessesResponse,
        migrate_process_request::{self, Choice},
        process_event,
        process_service_server::ProcessService,
    },
};

/// The service.
pub struct Processes {
    context: Context,
    migrations: Arc<Once<SessionId>>,
}

impl Processes {
    /// The service over a daemon.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context, migrations: Arc::default() }
    }

    /// The job of this name, if the caller may see it.
    fn find(&self, caller: &Caller, name: &str) -> Result<Arc<ProcessSummary>, ApiError> {
        let backend = &self.context.backend;
        let name = parse_job(name, backend.local_node())?;
        let found = backend.views().processes.get(&ProcessSummary::key_of(&name));
        found
            .filter(|process| caller.owns(process, backend.local_node()))
            .ok_or(ApiError::ProcessUnknown { process: name.to_string() })
    }

    /// Which rows a list or watch of `parent` shows to the caller.
    fn wanted(
        &self,
        caller: Caller,
        parent: &str,
    ) -> Result<impl Fn(&ProcessSummary) -> bool + Send + Sync + 'static, ApiError> {
        let home = match parent {
            "" => None,
            parent => Some(parse_node(parent, "parent")?).filter(|node| node != ANY),
        };
        let local = self.context.backend.local_node().to_owned();
        Ok(move |process: &ProcessSummary| {
            home.as_ref().is_none_or(|home| process.home == *home) && caller.owns(process, &local)
        })
    }
}

#[tonic::async_trait]
impl ProcessService for Processes {
    async fn list_processes(
        &self,
        request: Request<ListProcessesRequest>,
    ) -> Result<Response<ListProcessesResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let wanted = self.wanted(caller, &request.parent)?;
        let processes = &self.context.backend.views().processes;
        let (page, next_page_token) = page::read(processes, request.page_size, &request.page_token, wanted)?;
        let processes = page.rows.iter().map(|process| (&**process).into()).collect();
        Ok(Response::new(ListProcessesResponse { processes, next_page_token, revision: page.revision }))
    }

    async fn get_process(&self, request: Request<GetProcessRequest>) -> Result<Response<GetProcessResponse>, Status> {
        let found = self.find(&caller(&request)?, &request.get_ref().name)?;
        Ok(Response::new(GetProcessResponse { process: Some((&*found).into()) }))
    }

    type WatchProcessesStream = WatchStream<WatchProcessesResponse>;

    async fn watch_processes(
        &self,
        request: Request<WatchProcessesRequest>,
    ) -> Result<Response<Self::WatchProcessesStream>, Status> {
        let caller = caller(&request)?;
        let WatchProcessesRequest { parent, start_revision, progress_notify } = request.into_inner();
        let event = |event: Event<ProcessSummary>| ProcessEvent {
            event: Some(match event {
                Event::Put(process) => process_event::Event::Put((&*process).into()),
                Event::Removed(process) => process_event::Event::Deleted(job_resource(&process.name())),
            }),
        };
        let watch = Watch {
            table: |views| &views.processes,
            start_revision,
            progress_notify,
            wanted: self.wanted(caller, &parent)?,
            message: move |revision, events: Vec<_>| WatchProcessesResponse {
                revision,
                events: events.into_iter().map(event).collect(),
            },
        };
        Ok(Response::new(watch.start(&self.context)?))
    }

    /// Registering is idempotent by itself, so that its `request_id` needs no memory.
    async fn register_process(
        &self,
        request: Request<RegisterProcessRequest>,
    ) -> Result<Response<RegisterProcessResponse>, Status> {
        let caller = caller(&request)?;
        let RegisterProcessRequest { pid, stay, request_id: _, allowed_nodes, class } = request.into_inner();
        if pid <= 0 {
            return Err(ApiError::invalid("pid", "it must be above 0").into());
        }
        caller.may_register(pid)?;
        let constraints = Constraints { stay, allowed_nodes: parse_nodes(&allowed_nodes)? };
        let wanted = Registration { pid, constraints, class };
        let backend = Arc::clone(&self.context.backend);
        let process = complete(async move { backend.register(&caller, wanted).await }).await?;
        Ok(Response::new(RegisterProcessResponse { process: Some((&process).into()) }))
    }

    async fn migrate_process(
        &self,
        request: Request<MigrateProcessRequest>,
    ) -> Result<Response<MigrateProcessResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let process = self.find(&caller, &request.name)?.name();
        let to = destination(&request)?;
        let (backend, migrations) = (Arc::clone(&self.context.backend), Arc::clone(&self.migrations));
        let migration = complete(async move {
            let mut begun = None;
            let what = format!("{process} {to:?}");
            let work = async {
                let migration = backend.migrate(&caller, &process, to).await?;
                let id = migration.id;
                begun = Some(migration);
                Ok(id)
            };
            let id = migrations.run(&caller, &request.request_id, what, work).await?;
            let find = || backend.views().migrations.all().into_iter().find(|migration| migration.id == id);
            let migration = begun.or_else(|| find().map(|migration| (*migration).clone()));
            migration.ok_or(ApiError::MigrationUnknown { migration: id.to_string() })
        })
        .await?;
        Ok(Response::new(MigrateProcessResponse { migration: Some((&migration).into()) }))
    }

    async fn constrain_process(
        &self,
        request: Request<ConstrainProcessRequest>,
    ) -> Result<Response<ConstrainProcessResponse>, Status> {
        let caller = caller(&request)?;
        let ConstrainProcessRequest { name, stay, allowed_nodes } = request.into_inner();
        let process = self.find(&caller, &name)?.name();
        let allowed_nodes = allowed_nodes.map(|allowed| parse_nodes(&allowed.nodes)).transpose()?;
        let change = ConstraintsChange { stay, allowed_nodes };
        let backend = Arc::clone(&self.context.backend);
        let process = complete(async move { backend.constrain(&caller, &process, change).await }).await?;
        Ok(Response::new(ConstrainProcessResponse { process: Some((&process).into()) }))
    }

    async fn get_placement_reasons(
        &self,
        request: Request<GetPlacementReasonsRequest>,
    ) -> Result<Response<GetPlacementReasonsResponse>, Status> {
        let process = self.find(&caller(&request)?, &request.get_ref().name)?;
        let reasons = self.context.backend.placement_reasons(&process.name()).await?;
        Ok(Response::new(GetPlacementReasonsResponse { reasons: Some((&reasons).into()) }))
    }
}

fn destination(request: &MigrateProcessRequest) -> Result<Destination, ApiError> {
    use migrate_process_request::Destination as Wire;
    let missing = || ApiError::invalid("destination", "give a node, CHOICE_HOME or CHOICE_BEST");
    match request.destination.as_ref().ok_or_else(missing)? {
        Wire::Node(node) => match parse_node(node, "node")? {
            any if any == ANY => Err(missing()),
            node => Ok(Destination::Node(node)),
        },
        Wire::Choice(choice) => match Choice::try_from(*choice) {
            Ok(Choice::Home) => Ok(Destination::Home),
            Ok(Choice::Best) => Ok(Destination::Best),
            Ok(Choice::Unspecified) | Err(_) => Err(missing()),
        },
    }
}
