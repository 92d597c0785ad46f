//! The client of the public API.

use std::{io, path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::UnixStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Uri},
};
use tower::service_fn;

use super::{CALL_TIMEOUT, CallError, MAX_ANSWER_BYTES, endpoint, timed, tls_channel};
use crate::{
    api::{
        backend::{ConstraintsChange, Destination, Registration},
        name::{ANY, job_resource, migration_resource, node_resource, node_resources},
        view::{ClusterEvent, MigrationSummary, NodeSummary, PlacementReasons, ProcessSummary},
    },
    job::{JobId, SessionId},
    keys::KeyError,
    proto::v1::{
        self, cluster_service_client::ClusterServiceClient, event_service_client::EventServiceClient,
        migrate_process_request, migration_service_client::MigrationServiceClient,
        process_service_client::ProcessServiceClient,
    },
};

/// Rows of a page.
const PAGE_SIZE: i32 = 500;

/// A client of the public API of one daemon.
#[derive(Clone)]
pub struct Client {
    to: String,
    nodes: ClusterServiceClient<Channel>,
    processes: ProcessServiceClient<Channel>,
    migrations: MigrationServiceClient<Channel>,
    events: EventServiceClient<Channel>,
}

impl Client {
    /// A client of the daemon that listens at `socket`. It connects with the first call.
    #[must_use]
    pub fn unix(socket: &Path) -> Self {
        let path: Arc<Path> = socket.into();
        let channel = endpoint().connect_with_connector_lazy(service_fn(move |_: Uri| {
            let path = Arc::clone(&path);
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        }));
        Self::over(channel, "the daemon".to_owned())
    }

    /// A client of the daemon whose port is at `address` (`HOST:PORT`), with a client's
    /// certificate. The daemon's certificate must be for `name`: its node's name, or an address of
    /// it. It connects with the first call.
    ///
    /// # Errors
    /// [`CallError::Setup`] for a name that cannot be in a certificate.
    pub fn tls(address: &str, name: &str, tls: Arc<ClientConfig>) -> Result<Self, CallError> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| CallError::Setup {
            to: address.to_owned(),
            source: KeyError::Peer("the host is neither a name nor an address"),
        })?;
        Ok(Self::over(tls_channel(name, address, tls), address.to_owned()))
    }

    pub(super) fn over(channel: Channel, to: String) -> Self {
        Self {
            to,
            nodes: ClusterServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES),
            processes: ProcessServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES),
            migrations: MigrationServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES),
            events: EventServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES),
        }
    }

    /// Says why a call of this client failed, or why a stream of it broke.
    pub fn failed(&self) -> impl Fn(Status) -> CallError + '_ {
        |status| CallError::new(&self.to, status)
    }

    /// What should be in every answer.
    pub(super) fn given<T>(&self, part: Option<T>) -> Result<T, CallError> {
        part.ok_or_else(|| CallError::Failed { to: self.to.clone(), message: "its answer is empty".to_owned() })
    }

    /// All nodes.
    ///
    /// # Errors
    /// [`CallError`], as for all methods.
    pub async fn list_nodes(&mut self) -> Result<Vec<NodeSummary>, CallError> {
        let (mut nodes, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = timed(v1::ListNodesRequest { page_size: PAGE_SIZE, page_token }, CALL_TIMEOUT);
            let page = self.nodes.list_nodes(request).await.map_err(self.failed())?.into_inner();
            for node in page.nodes {
                nodes.push(node.try_into()?);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(nodes);
            }
        }
    }

    /// The node that answers.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn local_node(&mut self) -> Result<NodeSummary, CallError> {
        let request = timed(v1::GetNodeRequest { name: node_resource(ANY) }, CALL_TIMEOUT);
        let answer = self.nodes.get_node(request).await.map_err(self.failed())?.into_inner();
        Ok(self.given(answer.node)?.try_into()?)
    }

    /// The jobs whose home is `home`, or with `None` all that the daemon knows.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn list_processes(&mut self, home: Option<&str>) -> Result<Vec<ProcessSummary>, CallError> {
        let parent = home.map(node_resource).unwrap_or_default();
        let (mut processes, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListProcessesRequest { parent: parent.clone(), page_size: PAGE_SIZE, page_token };
            let answer = self.processes.list_processes(timed(request, CALL_TIMEOUT)).await;
            let page = answer.map_err(self.failed())?.into_inner();
            for process in page.processes {
                processes.push(process.try_into()?);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(processes);
            }
        }
    }

    /// One job.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get_process(&mut self, name: &JobId) -> Result<ProcessSummary, CallError> {
        let request = timed(v1::GetProcessRequest { name: job_resource(name) }, CALL_TIMEOUT);
        let answer = self.processes.get_process(request).await.map_err(self.failed())?.into_inner();
        Ok(self.given(answer.process)?.try_into()?)
    }

    /// Takes a process of the daemon's machine under management, with a time limit of the caller's.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn register(&mut self, wanted: &Registration, limit: Duration) -> Result<ProcessSummary, CallError> {
        let request = v1::RegisterProcessRequest {
            pid: wanted.pid,
            stay: wanted.constraints.stay,
            request_id: String::new(),
            allowed_nodes: node_resources(&wanted.constraints.allowed_nodes),
            class: wanted.class.clone(),
        };
        let request = timed(request, limit);
        let answer = self.processes.register_process(request).await.map_err(self.failed())?.into_inner();
        Ok(self.given(answer.process)?.try_into()?)
    }

    /// Starts to move a job.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn migrate(&mut self, name: &JobId, to: &Destination) -> Result<MigrationSummary, CallError> {
        use migrate_process_request::{Choice, Destination as Wire};
        let destination = match to {
            Destination::Node(node) => Wire::Node(node_resource(node)),
            Destination::Home => Wire::Choice(Choice::Home.into()),
            Destination::Best => Wire::Choice(Choice::Best.into()),
        };
        let request = v1::MigrateProcessRequest {
            name: job_resource(name),
            destination: Some(destination),
            request_id: SessionId::random().to_string(),
        };
        let answer =
            self.processes.migrate_process(timed(request, CALL_TIMEOUT)).await.map_err(self.failed())?.into_inner();
        Ok(self.given(answer.migration)?.try_into()?)
    }

    /// Changes what placement may do with a job.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn constrain(&mut self, name: &JobId, change: &ConstraintsChange) -> Result<ProcessSummary, CallError> {
        let request = v1::ConstrainProcessRequest {
            name: job_resource(name),
            stay: change.stay,
            allowed_nodes: change
                .allowed_nodes
                .as_deref()
                .map(|nodes| v1::AllowedNodes { nodes: node_resources(nodes) }),
        };
        let answer = self.processes.constrain_process(timed(request, CALL_TIMEOUT)).await.map_err(self.failed())?;
        Ok(self.given(answer.into_inner().process)?.try_into()?)
    }

    /// Lets the node that answers send its guests away and take no others, or ends that.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn drain(&mut self, on: bool) -> Result<NodeSummary, CallError> {
        let request = timed(v1::DrainNodeRequest { name: node_resource(ANY), undo: !on }, CALL_TIMEOUT);
        let answer = self.nodes.drain_node(request).await.map_err(self.failed())?.into_inner();
        Ok(self.given(answer.node)?.try_into()?)
    }

    /// Why a job is where it is.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn placement_reasons(&mut self, name: &JobId) -> Result<PlacementReasons, CallError> {
        let request = timed(v1::GetPlacementReasonsRequest { name: job_resource(name) }, CALL_TIMEOUT);
        let answer = self.processes.get_placement_reasons(request).await.map_err(self.failed())?.into_inner();
        Ok(self.given(answer.reasons)?.try_into()?)
    }

    /// The migrations of one job, or with `None` all that the daemon knows of, the newest first.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn list_migrations(&mut self, process: Option<&JobId>) -> Result<Vec<MigrationSummary>, CallError> {
        let process = process.map(job_resource).unwrap_or_default();
        let (mut migrations, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListMigrationsRequest { process: process.clone(), page_size: PAGE_SIZE, page_token };
            let answer = self.migrations.list_migrations(timed(request, CALL_TIMEOUT)).await;
            let page = answer.map_err(self.failed())?.into_inner();
            for migration in page.migrations {
                migrations.push(migration.try_into()?);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(migrations);
            }
        }
    }

    /// One migration.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get_migration(&mut self, id: SessionId) -> Result<MigrationSummary, CallError> {
        let request = timed(v1::GetMigrationRequest { name: migration_resource(id) }, CALL_TIMEOUT);
        let answer = self.migrations.get_migration(request).await.map_err(self.failed())?.into_inner();
        Ok(self.given(answer.migration)?.try_into()?)
    }

    /// Asks a migration to give up.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn cancel_migration(&mut self, id: SessionId, reason: &str) -> Result<MigrationSummary, CallError> {
        let request = v1::CancelMigrationRequest { name: migration_resource(id), reason: reason.to_owned() };
        let answer = self.migrations.cancel_migration(timed(request, CALL_TIMEOUT)).await.map_err(self.failed())?;
        Ok(self.given(answer.into_inner().migration)?.try_into()?)
    }

    /// Follows the nodes.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn watch_nodes(&mut self, start_revision: i64) -> Result<Streaming<v1::WatchNodesResponse>, CallError> {
        let request = v1::WatchNodesRequest { start_revision, progress_notify: true };
        Ok(self.nodes.watch_nodes(request).await.map_err(self.failed())?.into_inner())
    }

    /// Follows the jobs whose home is `home`, or with `None` all that the daemon knows.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn watch_processes(
        &mut self,
        home: Option<&str>,
        start_revision: i64,
    ) -> Result<Streaming<v1::WatchProcessesResponse>, CallError> {
        let parent = home.map(node_resource).unwrap_or_default();
        let request = v1::WatchProcessesRequest { parent, start_revision, progress_notify: true };
        Ok(self.processes.watch_processes(request).await.map_err(self.failed())?.into_inner())
    }

    /// Follows the migrations of one job, or with `None` all that the daemon knows.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn watch_migrations(
        &mut self,
        process: Option<&JobId>,
        start_revision: i64,
    ) -> Result<Streaming<v1::WatchMigrationsResponse>, CallError> {
        let process = process.map(job_resource).unwrap_or_default();
        let request = v1::WatchMigrationsRequest { process, start_revision, progress_notify: true };
        Ok(self.migrations.watch_migrations(request).await.map_err(self.failed())?.into_inner())
    }

    /// The events that the daemon keeps, the oldest first.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn list_events(&mut self) -> Result<Vec<ClusterEvent>, CallError> {
        let (mut events, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = timed(v1::ListEventsRequest { page_size: PAGE_SIZE, page_token }, CALL_TIMEOUT);
            let page = self.events.list_events(request).await.map_err(self.failed())?.into_inner();
            for event in page.events {
                events.push(event.try_into()?);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Calls `seen` with each event that the daemon keeps and then with each new one, until `seen`
    /// says that it is enough.
    ///
    /// # Errors
    /// [`CallError`], also when the daemon ends.
    pub async fn follow_events(&mut self, mut seen: impl FnMut(&ClusterEvent) -> bool) -> Result<(), CallError> {
        let request = v1::WatchEventsRequest { start_revision: 0, progress_notify: true };
        let mut answers = self.events.watch_events(request).await.map_err(self.failed())?.into_inner();
        while let Some(answer) = answers.message().await.map_err(self.failed())? {
            for event in answer.events {
                if !seen(&event.try_into()?) {
                    return Ok(());
                }
            }
        }
        Err(CallError::Failed { to: self.to.clone(), message: "it stopped telling what happens".to_owned() })
    }

    /// Calls `seen` with each new record of a migration until it is over; returns the last.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn follow_migration(
        &mut self,
        migration: &MigrationSummary,
        mut seen: impl FnMut(&MigrationSummary),
    ) -> Result<MigrationSummary, CallError> {
        let mut changes = self.watch_migrations(Some(&migration.process), 0).await?;
        while let Some(answer) = changes.message().await.map_err(self.failed())? {
            for event in answer.events {
                let Some(v1::migration_event::Event::Put(now)) = event.event else { continue };
                let now = MigrationSummary::try_from(now)?;
                if now.id != migration.id {
                    continue;
                }
                seen(&now);
                if now.is_over() {
                    return Ok(now);
                }
            }
        }
        Err(CallError::Failed { to: self.to.clone(), message: "it stopped telling how the migration goes".to_owned() })
    }
}
