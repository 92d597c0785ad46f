//! The servers and clients together, over real sockets, with a daemon in memory.

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{
    memory::Memory,
    name::job_resource,
    view::{NodeSummary, ProcessState},
    *,
};
use crate::{
    api::backend::{ConstraintsChange, Destination, GuestReservation, Registration, Requirements},
    job::{Constraints, History, JobId, JobRecord, JobSpec, SessionId},
    keys::{ClusterKey, NodeIdentity, TlsPurpose},
    proto::v1::{
        ListNodesRequest, RegisterProcessRequest, WatchNodesRequest, cluster_service_client::ClusterServiceClient,
        node_event, process_service_client::ProcessServiceClient,
    },
    protocol::{MoveState, TreeFacts},
};

/// A daemon in memory that serves on both kinds of socket.
struct Daemon {
    memory: Arc<Memory>,
    server: Arc<ApiServer>,
    dir: tempfile::TempDir,
    shutdown: CancellationToken,
    key: ClusterKey,
    address: String,
}

impl Daemon {
    async fn start() -> Self {
        let (memory, shutdown) = (Arc::new(Memory::default()), CancellationToken::new());
        let server = Arc::new(ApiServer::new(memory.clone(), Some(memory.clone()), shutdown.clone()).await);
        let dir = tempfile::tempdir().unwrap();
        let listener = bind_unix(&dir.path().join(SOCKET_NAME)).unwrap();
        let unix = Arc::clone(&server);
        tokio::spawn(async move { unix.serve_unix(listener).await });

        let key = ClusterKey::generate().unwrap();
        let tls = node(&key, "n1").tls(TlsPurpose::Grpc).unwrap().server;
        let (sender, receiver) = mpsc::channel(4);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { while sender.send(listener.accept().await.unwrap().0).await.is_ok() {} });
        let tcp = Arc::clone(&server);
        tokio::spawn(async move { tcp.serve_tls(receiver, tls).await });
        Self { memory, server, dir, shutdown, key, address }
    }

    fn local(&self) -> Client {
        Client::unix(&self.dir.path().join(SOCKET_NAME))
    }

    fn channel(&self) -> Channel {
        let path = format!("unix://{}", self.dir.path().join(SOCKET_NAME).display());
        tonic::transport::Endpoint::from_shared(path).unwrap().connect_lazy()
    }

    /// A client that says it is node `name`.
    fn peer(&self, name: &str) -> PeerClient {
        let tls = node(&self.key, name).tls(TlsPurpose::Grpc).unwrap().client;
        PeerClient::new(&"n1".parse().unwrap(), &self.address, tls).unwrap()
    }
}

fn node(key: &ClusterKey, name: &str) -> NodeIdentity {
    key.mint_node_identity(&name.parse().unwrap(), &[]).unwrap()
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn job(pid: i32) -> JobId {
    JobId::new("n1", pid)
}

fn reservation(source: &str, resident_bytes: u64) -> GuestReservation {
    GuestReservation {
        migration: SessionId::random(),
        source_node: source.into(),
        job: JobRecord {
            id: JobId::new(source, 7),
            session: SessionId::random(),
            spec: JobSpec { comm: "xz".into(), uid: 1000, tree: None },
            constraints: Constraints::default(),
            history: History::default(),
        },
        home_address: "127.0.0.1:1".into(),
        by_request: false,
        limit_milli: None,
        facts: TreeFacts {
            resident_bytes,
            processes: 1,
            threads: 1,
            monotonic_ns: 0,
            boottime_ns: 0,
            hostname: source.into(),
        },
        requirements: Requirements::default(),
    }
}

#[tokio::test]
async fn a_local_client_lists_registers_moves_and_asks_why() {
    let daemon = Daemon::start().await;
    let mut client = daemon.local();
    let nodes: Vec<_> = client.list_nodes().await.unwrap().into_iter().map(|node| (node.node, node.local)).collect();
    assert_eq!(nodes, [("n1".to_owned(), true), ("n2".to_owned(), false)]);

    let pid = std::process::id() as i32;
    let registered = client.register(&registration(pid), Duration::from_secs(5)).await.unwrap();
    assert_eq!((registered.pid, registered.uid, registered.state), (pid, own_uid(), ProcessState::Running));
    assert_eq!(client.list_processes(Some("n1")).await.unwrap(), [registered]);
    assert_eq!(client.list_processes(Some("n2")).await.unwrap(), []);

    let migration = client.migrate(&job(pid), &Destination::Node("n2".into())).await.unwrap();
    let memory = Arc::clone(&daemon.memory);
    let mut states = Vec::new();
    let over = timeout(
        Duration::from_secs(10),
        client.follow_migration(&migration, |now| {
            states.push(now.state);
            match now.state {
                MoveState::Reserve => memory.enter(now.id, MoveState::Commit),
                MoveState::Commit => memory.enter(now.id, MoveState::Run),
                _ => {}
            }
        }),
    );
    let over = over.await.unwrap().unwrap();
    assert_eq!(states, [MoveState::Reserve, MoveState::Commit, MoveState::Run]);
    assert_eq!(over.downtime_us, Some(12_345));
    assert_eq!(client.get_migration(migration.id).await.unwrap(), over);

    let reasons = client.placement_reasons(&job(pid)).await.unwrap();
    assert_eq!(reasons.reasons[0].code, "BELOW_HOME_THRESHOLD");
    assert_eq!(
        *daemon.memory.calls.lock().unwrap(),
        [format!("register {pid} stay true nodes [\"n2\"] class \"render\""), format!("migrate n1/{pid} Node(\"n2\")")]
    );
}

fn registration(pid: i32) -> Registration {
    let constraints = Constraints { stay: true, allowed_nodes: vec!["n2".into()] };
    Registration { pid, constraints, class: "render".into() }
}

#[tokio::test]
async fn a_job_is_constrained_and_a_node_drained() {
    let daemon = Daemon::start().await;
    daemon.memory.job(5, own_uid(), "xz");
    let mut client = daemon.local();
    let locked = ConstraintsChange { stay: Some(true), allowed_nodes: None };
    assert!(client.constrain(&job(5), &locked).await.unwrap().constraints.stay);
    let allowed = ConstraintsChange { stay: None, allowed_nodes: Some(vec!["n2".into()]) };
    let now = client.constrain(&job(5), &allowed).await.unwrap().constraints;
    assert_eq!((now.stay, now.allowed_nodes), (true, vec!["n2".to_owned()]));
    let any = ConstraintsChange { stay: Some(false), allowed_nodes: Some(vec![]) };
    let now = client.constrain(&job(5), &any).await.unwrap().constraints;
    assert_eq!((now.stay, now.allowed_nodes), (false, vec![]));
    let bad = ConstraintsChange { stay: None, allowed_nodes: Some(vec!["-".into()]) };
    assert!(matches!(client.constrain(&job(5), &bad).await, Err(CallError::Refused(ApiError::Invalid { .. }))));
    let gone = client.constrain(&job(6), &locked).await;
    assert!(matches!(gone, Err(CallError::Refused(ApiError::ProcessUnknown { .. }))));
    let unknown = Registration { class: "unknown".into(), ..registration(std::process::id() as i32) };
    let refused = client.register(&unknown, Duration::from_secs(5)).await;
    assert!(matches!(refused, Err(CallError::Refused(ApiError::Invalid { .. }))));

    // By the service's own function: who runs the tests may be root, or not.
    use crate::proto::v1::{DrainNodeRequest, cluster_service_server::ClusterService};
    let service =
        services::Cluster(services::Context { backend: daemon.memory.clone(), shutdown: CancellationToken::new() });
    let drain = |uid, name: &str, undo| {
        let mut request = Request::new(DrainNodeRequest { name: name.into(), undo });
        request.extensions_mut().insert(Caller::Local { uid, pid: 1 });
        service.drain_node(request)
    };
    assert_eq!(drain(1000, "nodes/-", false).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(drain(0, "nodes/n2", false).await.unwrap_err().code(), Code::InvalidArgument);
    let drained = drain(0, "nodes/n1", false).await.unwrap().into_inner().node.unwrap();
    assert_eq!((drained.accepts_guests, &*drained.refuses_because), (false, "it is being drained"));
    assert!(drain(0, "nodes/-", true).await.unwrap().into_inner().node.unwrap().accepts_guests);
}

#[tokio::test]
async fn refusals_arrive_as_they_were_meant() {
    let daemon = Daemon::start().await;
    daemon.memory.job(5, own_uid(), "xz -9e");
    let mut client = daemon.local();
    let refused = |result: Result<_, CallError>| match result {
        Err(CallError::Refused(error)) => error,
        other => panic!("{other:?}"),
    };
    let unknown = refused(client.migrate(&job(6), &Destination::Best).await);
    assert_eq!(unknown, ApiError::ProcessUnknown { process: "n1/6".into() });
    let nowhere = refused(client.migrate(&job(5), &Destination::Node("n9".into())).await);
    assert_eq!(nowhere, ApiError::NodeUnknown { node: "n9".into() });
    let there = refused(client.migrate(&job(5), &Destination::Home).await);
    assert!(matches!(there, ApiError::AlreadyThere { .. }));
}

#[tokio::test]
async fn a_migration_can_be_cancelled() {
    let daemon = Daemon::start().await;
    daemon.memory.job(5, own_uid(), "xz");
    let mut client = daemon.local();
    let migration = client.migrate(&job(5), &Destination::Best).await.unwrap();
    let cancelled = client.cancel_migration(migration.id, "changed my mind").await.unwrap();
    assert_eq!(cancelled.state, MoveState::Aborted);
    let unknown = client.cancel_migration(SessionId::random(), "").await;
    assert!(matches!(unknown, Err(CallError::Refused(ApiError::MigrationUnknown { .. }))));
}

/// Calls of another user, by the services' own functions: a test cannot change its user and stay
/// itself.
#[tokio::test]
async fn another_users_program_does_not_exist() {
    use crate::proto::v1::{
        GetProcessRequest, ListMigrationsRequest, ListProcessesRequest, MigrateProcessRequest,
        migration_service_server::MigrationService, process_service_server::ProcessService,
    };
    let memory = Arc::new(Memory::default());
    memory.job(5, 1000, "xz");
    memory.job(6, 1001, "gzip");
    let migration = memory.migrate(&Caller::Local { uid: 0, pid: 1 }, &job(5), Destination::Best).await.unwrap();
    let context = services::Context { backend: memory.clone(), shutdown: CancellationToken::new() };
    let (processes, migrations) = (services::Processes::new(context.clone()), services::Migrations(context));
    let other = Caller::Local { uid: 1001, pid: 77 };
    fn by<T>(caller: &Caller, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(caller.clone());
        request
    }
    let listed = processes.list_processes(by(&other, ListProcessesRequest::default())).await.unwrap().into_inner();
    assert_eq!(listed.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [6]);
    let name = job_resource(&job(5));
    let get = processes.get_process(by(&other, GetProcessRequest { name: name.clone() })).await.unwrap_err();
    assert_eq!(get.code(), Code::NotFound);
    let migrate = MigrateProcessRequest { name, ..Default::default() };
    assert_eq!(processes.migrate_process(by(&other, migrate)).await.unwrap_err().code(), Code::NotFound);
    let register = RegisterProcessRequest { pid: 6, ..Default::default() };
    assert_eq!(processes.register_process(by(&other, register)).await.unwrap_err().code(), Code::PermissionDenied);
    let register = RegisterProcessRequest { pid: 77, ..Default::default() };
    assert!(processes.register_process(by(&other, register)).await.is_ok());
    let listed = migrations.list_migrations(by(&other, ListMigrationsRequest::default())).await.unwrap().into_inner();
    assert!(listed.migrations.is_empty());
    let owner = Caller::Local { uid: 1000, pid: 78 };
    let listed = migrations.list_migrations(by(&owner, ListMigrationsRequest::default())).await.unwrap().into_inner();
    assert_eq!(listed.migrations[0].name, name::migration_resource(migration.id));
    // A request that came by no connection of ours has no caller and gets nothing.
    let no_caller = processes.list_processes(Request::new(ListProcessesRequest::default())).await.unwrap_err();
    assert_eq!(no_caller.code(), Code::Internal);
}

#[tokio::test]
async fn a_repeated_request_returns_the_same_migration() {
    use crate::proto::v1::{MigrateProcessRequest, migrate_process_request::Destination as Wire};
    let daemon = Daemon::start().await;
    daemon.memory.job(5, own_uid(), "xz");
    let mut client = ProcessServiceClient::new(daemon.channel());
    let request = MigrateProcessRequest {
        name: "nodes/-/processes/5".into(),
        destination: Some(Wire::Node("nodes/n2".into())),
        request_id: "abc".into(),
    };
    let first = client.migrate_process(request.clone()).await.unwrap().into_inner();
    let again = client.migrate_process(request).await.unwrap().into_inner();
    assert_eq!(first, again);
    assert_eq!(daemon.memory.calls.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_watch_tells_what_changes_and_can_be_resumed() {
    let daemon = Daemon::start().await;
    let mut client = ClusterServiceClient::new(daemon.channel());
    let mut changes = client.watch_nodes(WatchNodesRequest::default()).await.unwrap().into_inner();
    let first = changes.message().await.unwrap().unwrap();
    assert_eq!(first.events.len(), 2);
    daemon.memory.views().nodes.put(NodeSummary { node: "n3".into(), ..Default::default() });
    daemon.memory.views().nodes.remove("n2");
    let mut gone = false;
    let mut revision = first.revision;
    while !gone {
        let change = timeout(Duration::from_secs(10), changes.message()).await.unwrap().unwrap().unwrap();
        assert!(change.revision > revision);
        revision = change.revision;
        gone = change.events.iter().any(|event| event.event == Some(node_event::Event::Deleted("nodes/n2".into())));
    }
    let resume = WatchNodesRequest { start_revision: first.revision, ..Default::default() };
    let mut resumed = client.watch_nodes(resume).await.unwrap().into_inner();
    assert_eq!(resumed.message().await.unwrap().unwrap().events.len(), 2, "n2 gone, n3 new");
    let former_life = WatchNodesRequest { start_revision: 1, ..Default::default() };
    assert_eq!(client.watch_nodes(former_life).await.unwrap_err().code(), Code::OutOfRange);

    daemon.shutdown.cancel();
    let end = timeout(Duration::from_secs(10), async {
        loop {
            if let Err(status) = changes.message().await {
                return status;
            }
        }
    });
    assert_eq!(end.await.unwrap().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let daemon = Daemon::start().await;
    let admin = daemon.key.mint_client_identity(&"admin".parse().unwrap()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(admin.pem()[0].as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut anonymous = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    anonymous.alpn_protocols = vec![b"h2".to_vec()];
    let call = async |tls: Arc<ClientConfig>| {
        PeerClient::new(&"n1".parse().unwrap(), &daemon.address, tls).unwrap().api.list_nodes().await
    };
    let refused = call(Arc::new(anonymous)).await;
    assert!(matches!(refused, Err(CallError::Unreachable { .. })), "{refused:?}");
    let stranger = node(&ClusterKey::generate().unwrap(), "n2").tls(TlsPurpose::Grpc).unwrap().client;
    assert!(matches!(call(stranger).await, Err(CallError::Unreachable { .. })));
    assert_eq!(call(admin.tls().unwrap()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_peer_service_is_for_nodes() {
    let daemon = Daemon::start().await;
    let mut n2 = daemon.peer("n2");
    assert_eq!(n2.node_details().await.unwrap().node, "n1");
    assert_eq!(n2.reserve_guest(&reservation("n2", 1)).await.unwrap(), "127.0.0.1:7470");
    let full = n2.reserve_guest(&reservation("n2", 1 << 40)).await;
    assert!(matches!(full, Err(CallError::Refused(ApiError::TargetFull { .. }))));
    let posing = n2.reserve_guest(&reservation("n3", 1)).await;
    assert!(matches!(posing, Err(CallError::Refused(ApiError::Invalid { .. }))));
    n2.release_guest(SessionId::random(), "given up").await.unwrap();

    let mut migration =
        daemon.memory.migrate(&Caller::Local { uid: 0, pid: 1 }, &job(5), Destination::Best).await.unwrap();
    assert!(n2.report_migration(&migration).await.is_err(), "n1 is its source");
    migration.source = "n2".into();
    n2.report_migration(&migration).await.unwrap();

    let client = daemon.key.mint_client_identity(&"admin".parse().unwrap()).unwrap();
    let mut client = PeerClient::new(&"n1".parse().unwrap(), &daemon.address, client.tls().unwrap()).unwrap();
    assert!(matches!(client.node_details().await, Err(CallError::Refused(ApiError::NotAllowed { .. }))));
    assert_eq!(client.api.list_nodes().await.unwrap().len(), 2, "what root may, a client may");
    let local = crate::proto::peer::peer_service_client::PeerServiceClient::new(daemon.channel())
        .get_node_details(crate::proto::peer::GetNodeDetailsRequest {})
        .await;
    assert_eq!(local.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let daemon = Daemon::start().await;
    let ask = async |question| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let mut client = ServerReflectionClient::new(daemon.channel());
        let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await else {
        panic!()
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["ClusterService", "ProcessService", "MigrationService"] {
        assert!(names.contains(&&*format!("scx_mosix.v1.{name}")), "{names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("scx_mosix.v1.ClusterService".into());
    assert!(matches!(ask(symbol).await, MessageResponse::FileDescriptorResponse(_)));
    // Older clients speak v1alpha.
    let mut alpha =
        tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient::new(daemon.channel());
    let request = tonic_reflection::pb::v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut answers = alpha.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().message_response.is_some());
}

#[tokio::test]
async fn health_follows_leaving() {
    let daemon = Daemon::start().await;
    let mut client = HealthClient::new(daemon.channel());
    let mut status = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        client.check(request).await.map(|answer| answer.into_inner().status().as_str_name())
    };
    assert_eq!(status("scx_mosix.v1.ProcessService").await.unwrap(), "SERVING");
    assert_eq!(status("").await.unwrap(), "SERVING");
    assert_eq!(status("unknown").await.unwrap_err().code(), Code::NotFound);
    daemon.server.set_leaving().await;
    assert_eq!(status("scx_mosix.v1.ProcessService").await.unwrap(), "NOT_SERVING");
}

#[tokio::test]
async fn only_one_daemon_has_the_socket_and_a_dead_ones_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET_NAME);
    let first = bind_unix(&path).unwrap();
    assert!(matches!(bind_unix(&path), Err(ServeError::Taken { .. })));
    drop(first);
    bind_unix(&path).unwrap();
}

#[tokio::test]
async fn a_connection_without_tls_is_harmless() {
    let daemon = Daemon::start().await;
    let silent = TcpStream::connect(&daemon.address).await.unwrap();
    let mut rubbish = TcpStream::connect(&daemon.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut rubbish, &[0x16; 64]).await.unwrap();
    assert_eq!(daemon.peer("n2").api.list_nodes().await.unwrap().len(), 2);
    drop((silent, rubbish));
    let mut raw = ClusterServiceClient::new(daemon.channel());
    let bad = raw.list_nodes(ListNodesRequest { page_size: -1, ..Default::default() }).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
}
