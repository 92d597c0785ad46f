//! `MigrationService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    Context, caller, complete, page,
    watch::{Event, Watch, WatchStream},
};
use crate::{
    api::{
        ApiError, Backend, Caller,
        name::{migration_resource, parse_job, parse_migration},
        view::{MigrationSummary, ProcessSummary},
    },
    proto::v1::{
        CancelMigrationRequest, CancelMigrationResponse, GetMigrationRequest, GetMigrationResponse,
        ListMigrationsRequest, ListMigrationsResponse, MigrationEvent, WatchMigrationsRequest, WatchMigrationsResponse,
        migration_event, migration_service_server::MigrationService,
    },
};

/// The service.
pub struct Migrations(pub Context);

impl Migrations {
    /// Which rows a list or watch of `process` shows to the caller.
    fn wanted(
        &self,
        caller: Caller,
        process: &str,
    ) -> Result<impl Fn(&MigrationSummary) -> bool + Send + Sync + 'static, ApiError> {
        let backend = Arc::clone(&self.0.backend);
        let process = match process {
            "" => None,
            name => Some(parse_job(name, backend.local_node())?),
        };
        Ok(move |migration: &MigrationSummary| {
            process.as_ref().is_none_or(|process| migration.process == *process)
                && visible(&*backend, &caller, migration)
        })
    }

    /// The migration of this name, if the caller may see it.
    fn find(&self, caller: &Caller, name: &str) -> Result<Arc<MigrationSummary>, ApiError> {
        let id = parse_migration(name)?;
        let mut all = self.0.backend.views().migrations.all().into_iter();
        all.find(|migration| migration.id == id && visible(&*self.0.backend, caller, migration))
            .ok_or(ApiError::MigrationUnknown { migration: id.to_string() })
    }
}

fn visible(backend: &dyn Backend, caller: &Caller, migration: &MigrationSummary) -> bool {
    let process = backend.views().processes.get(&ProcessSummary::key_of(&migration.process));
    caller.owns_migration(migration, process.as_deref(), backend.local_node())
}

#[tonic::async_trait]
impl MigrationService for Migrations {
    async fn list_migrations(
        &self,
        request: Request<ListMigrationsRequest>,
    ) -> Result<Response<ListMigrationsResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let wanted = self.wanted(caller, &request.process)?;
        let migrations = &self.0.backend.views().migrations;
        let (page, next_page_token) = page::read(migrations, request.page_size, &request.page_token, wanted)?;
        let migrations = page.rows.iter().map(|migration| (&**migration).into()).collect();
        Ok(Response::new(ListMigrationsResponse { migrations, next_page_token, revision: page.revision }))
    }

    async fn get_migration(
        &self,
        request: Request<GetMigrationRequest>,
    ) -> Result<Response<GetMigrationResponse>, Status> {
        let found = self.find(&caller(&request)?, &request.get_ref().name)?;
        Ok(Response::new(GetMigrationResponse { migration: Some((&*found).into()) }))
    }

    type WatchMigrationsStream = WatchStream<WatchMigrationsResponse>;

    async fn watch_migrations(
        &self,
        request: Request<WatchMigrationsRequest>,
    ) -> Result<Response<Self::WatchMigrationsStream>, Status> {
        let caller = caller(&request)?;
        let WatchMigrationsRequest { process, start_revision, progress_notify } = request.into_inner();
        let event = |event: Event<MigrationSummary>| MigrationEvent {
            event: Some(match event {
                Event::Put(migration) => migration_event::Event::Put((&*migration).into()),
                Event::Removed(migration) => migration_event::Event::Deleted(migration_resource(migration.id)),
            }),
        };
        let watch = Watch {
            table: |views| &views.migrations,
            start_revision,
            progress_notify,
            wanted: self.wanted(caller, &process)?,
            message: move |revision, events: Vec<_>| WatchMigrationsResponse {
                revision,
                events: events.into_iter().map(event).collect(),
            },
        };
        Ok(Response::new(watch.start(&self.0)?))
    }

    async fn cancel_migration(
        &self,
        request: Request<CancelMigrationRequest>,
    ) -> Result<Response<CancelMigrationResponse>, Status> {
        let caller = caller(&request)?;
        let CancelMigrationRequest { name, reason } = request.into_inner();
        let id = self.find(&caller, &name)?.id;
        let backend = Arc::clone(&self.0.backend);
        let migration = complete(async move { backend.cancel(&caller, id, &reason).await }).await?;
        Ok(Response::new(CancelMigrationResponse { migration: Some((&migration).into()) }))
    }
}
