//! Starting and ending a daemon.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::mm::{MlockAllFlags, mlockall};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

mod error;

pub use self::error::DaemonError;
use super::{
    acceptor::{self, Incoming},
    act::{
        Acting,
        host::AgentSettings,
        moves::{Ended, Moves},
    },
    backend::Daemon,
    collect::Collected,
    decide::Deciding,
    events, execs,
    pipeline::Pipeline,
    settings::Settings,
    shared::{
        Shared,
        agents::{AgentKey, Agents},
        draining::Draining,
        jobs::Jobs,
        peers::GrpcPeers,
    },
    tick,
};
use crate::{
    api::{self, ApiServer, backend::Views, view::Trigger},
    cluster::{self, ClusterHandle, LocalState, NodeSummary, Transport},
    keys::{TlsConfigs, TlsPurpose},
    metrics::{self, Metrics, MetricsAddress},
    migration::criu::Program,
    node::{self, Machine, NodeError, NodeInfo, NodeInfoParams, NodeLoad, Sampler, SchedExtState, Scope},
    protocol::{FromAgent, MoveState, ToAgent},
    scheduler::{self, Backoff, Scheduler, Statistics},
    sys::{clock::now_ms, lock::Mutex},
    telemetry::{Telemetry, TelemetryConfig, landlock},
};

/// Where the gossip epoch outlives a reboot.
const EPOCH_FILE: &str = "/var/lib/scx_mosix/epoch";

/// How long an agent may take to take over a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// How old what is told of the scheduler may be.
const SCHEDULER_INTERVAL: Duration = Duration::from_secs(1);

/// Why a container's daemon does not attach our scheduler.
const CONTAINER_NO_SCHED_EXT: &str = "this node is a container, and its scheduler would be that of the whole machine";

/// Runs a daemon until SIGTERM or SIGINT.
pub async fn run(mut settings: Settings) -> Result<(), DaemonError> {
    let _lock = prepare_directory(&settings.run_dir)?;
    // Who ushers programs out of a node without memory must not wait for memory itself.
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        tracing::warn!(%error, "this daemon may be slow when memory is short");
    }
    let stop = CancellationToken::new();
    let terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;

    let scope = Scope::new(Machine::this(), settings.limits)?;
    let (info, criu_takes) = look(&settings, scope.clone()).await?;
    let no_sched_ext = if settings.sched_ext { CONTAINER_NO_SCHED_EXT } else { "switched off by --no-sched-ext" };
    settings.sched_ext &= !info.allotment.in_container;
    let node = info.name.to_string();
    let identity = settings.key.as_ref().map(|key| key.mint_node_identity(&info.name, &info.addresses)).transpose()?;
    let tls: Option<TlsConfigs> = identity.as_ref().map(|identity| identity.tls(TlsPurpose::Grpc)).transpose()?;
    let identity_text = identity.as_ref().map(super::act::host::identity_text).unwrap_or_default();

    // The port is opened before anything is said to others, so that what they answer finds it open.
    let listener = match &settings.key {
        Some(_) => {
            let address = settings.listen;
            Some(TcpListener::bind(address).await.map_err(|source| DaemonError::Listen { address, source })?)
        }
        None => None,
    };
    let metrics_listener = match settings.metrics {
        Some(address) => Some(listen_for_metrics(address).await?),
        None => None,
    };
    let unix = api::bind_unix(&settings.run_dir.join(api::SOCKET_NAME))?;
    let draining = Draining::load(&settings.run_dir);
    // Others send guests here as soon as they hear of this node.
    let mut sampler = Sampler::new(scope, info.cpus, info.speed_permille);
    let load = NodeLoad { accepting: !draining.is_on(), ..sampler.first()? };
    let cluster = enter_cluster(&settings, &info, load).await?;
    let address = cluster.addr().map(|address| address.to_string());

    let scheduler = start_scheduler(settings.sched_ext.then(|| settings.scheduler.clone()));
    let hints = scheduler.as_ref().map(Scheduler::hints);
    let (telemetry, task_events) = Telemetry::start(TelemetryConfig::default())?;
    publish_confined().await;
    let scheduler_state = scheduler.as_ref().map_or_else(
        || watch::channel(crate::scheduler::State::Off { reason: no_sched_ext.into() }).1,
        Scheduler::state,
    );

    let (report_sender, reports) = mpsc::channel(1_024);
    let (ended_sender, ended) = mpsc::channel(64);
    let at = |source| DaemonError::Directory { path: settings.run_dir.join("agents"), source };
    let agents = Agents::new(&settings.run_dir, report_sender).map_err(at)?;
    let views = Arc::new(Views::default());
    let peers = GrpcPeers::new(cluster.clone(), tls.as_ref().map(|tls| tls.client.clone()), stop.clone());
    let agent_settings =
        AgentSettings { run_dir: settings.run_dir.clone(), node: node.clone(), identity: identity_text };
    let moves = Moves::new(&node, views.clone(), peers.clone(), settings.run_dir.clone(), ended_sender);
    let shared = Arc::new(Shared {
        node,
        address,
        start_time_ms: now_ms(),
        jobs: Mutex::new(Jobs::load(&settings.run_dir)?),
        agents,
        peers,
        cluster: cluster.clone(),
        scheduler: scheduler_state,
        draining,
        stop: stop.clone(),
        info,
    });
    let config = settings.placement_here();
    let collected = Arc::new(Collected::new(&shared, &config, criu_takes));
    let pipeline = Arc::new(Pipeline {
        deciding: Deciding::new(&shared.node, config, settings.balance)?,
        acting: Acting::new(shared.clone(), collected.clone(), moves, agent_settings),
        tables: views,
        metrics: Arc::new(Metrics::new()),
        collected,
        shared: shared.clone(),
    });
    let adopted = shared.agents.adopt().await.map_err(at)?;
    let (node, scope) = (&shared.node, &shared.info.allotment);
    tracing::info!(node, adopted, %scope, "scx_mosix {} is up", env!("CARGO_PKG_VERSION"));

    let daemon = Arc::new(Daemon { pipeline: pipeline.clone(), classes: settings.classes.clone() });
    let peer_backend = tls.is_some().then(|| daemon.clone() as Arc<dyn api::PeerBackend>);
    let server = Arc::new(ApiServer::new(daemon, peer_backend, stop.clone()).await);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_unix(server.clone(), unix));
    if let (Some(listener), Some(tls)) = (listener, tls) {
        let (incoming_sender, incoming) = mpsc::channel(64);
        let (grpc_sender, grpc) = mpsc::channel(64);
        tasks.spawn(acceptor::accept(listener, incoming_sender, stop.clone()));
        tasks.spawn(route(shared.clone(), incoming, grpc_sender));
        tasks.spawn(serve_tls(server.clone(), grpc, tls));
    }
    if let Some(listener) = metrics_listener {
        let renew = {
            let pipeline = pipeline.clone();
            move || pipeline.measure()
        };
        tasks.spawn(metrics::serve(listener, pipeline.metrics.clone(), renew, stop.clone()));
        if let Some(scheduler) = &scheduler {
            tasks.spawn(watch_scheduler(pipeline.clone(), scheduler.statistics()));
        }
    }
    tasks.spawn(watch_load(pipeline.clone(), sampler));
    tasks.spawn(note_reports(pipeline.clone(), reports));
    tasks.spawn(note_ended(pipeline.clone(), ended));
    tasks.spawn(execs::run(pipeline.clone(), task_events));
    tasks.spawn(events::run(pipeline.clone()));
    tasks.spawn(tick::run(pipeline.clone(), telemetry, hints));
    if let Ok(program) = Program::find() {
        tokio::spawn(async move { program.learn_kernel().await });
    }
    // Without systemd there is nothing to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    wait_for_end(terminate, interrupt, &mut tasks).await;
    tracing::info!("leaving the cluster; guests and deputies continue");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    server.set_leaving().await;
    cluster.leave().await;
    stop.cancel();
    let all_ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(5), all_ended).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    if let Some(scheduler) = scheduler {
        // Joining the supervisor's thread takes a tenth of a second.
        let _ = tokio::task::spawn_blocking(move || scheduler.stop()).await;
    }
    let _ = fs::remove_file(settings.run_dir.join(api::SOCKET_NAME));
    Ok(())
}

/// Makes the run-time directory and takes it for this process; the lock ends with the returned
/// file.
fn prepare_directory(run_dir: &Path) -> Result<File, DaemonError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DaemonError::Directory { path, source }
    };
    fs::create_dir_all(run_dir).map_err(failed(run_dir))?;
    // Users reach the API's socket; the rest is root's.
    fs::set_permissions(run_dir, Permissions::from_mode(0o755)).map_err(failed(run_dir))?;
    for name in ["agents", "jobs", "mig", "log"] {
        let path = run_dir.join(name);
        fs::create_dir_all(&path).map_err(failed(&path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(failed(&path))?;
    }
    let path = run_dir.join("daemon.lock");
    let lock = File::create(&path).map_err(failed(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(DaemonError::Running { path: run_dir.into() }),
        Err(fs::TryLockError::Error(source)) => Err(DaemonError::Directory { path, source }),
    }
}

/// Looks at this machine; also how long `criu --version` takes.
async fn look(settings: &Settings, scope: Scope) -> Result<(NodeInfo, Option<Duration>), DaemonError> {
    let mut addresses = Vec::new();
    if settings.key.is_some() {
        let toward = settings.join.iter().find_map(|host| acceptor::with_default_port(host)).map(|a| a.ip());
        let listens = (!settings.listen.ip().is_unspecified()).then(|| settings.listen.ip());
        let advertised = match settings.advertise.or(listens) {
            Some(address) => address,
            None => node::advertised_address(toward)?,
        };
        addresses.push(advertised);
        addresses.extend(node::local_addresses()?.into_iter().filter(|address| *address != advertised));
    }
    let params = NodeInfoParams { name: settings.node_name.clone(), addresses };
    let probe = move || Ok((NodeInfo::probe(&scope, params)?, node::criu_takes()));
    let looked: Result<_, NodeError> = tokio::task::spawn_blocking(probe).await.map_err(DaemonError::Probe)?;
    Ok(looked?)
}

async fn listen_for_metrics(address: MetricsAddress) -> Result<TcpListener, DaemonError> {
    if address.is_open() {
        tracing::warn!(%address, "other machines can read the metrics of this node, unencrypted");
    }
    let socket = address.socket();
    TcpListener::bind(socket).await.map_err(|source| DaemonError::Listen { address: socket, source })
}

async fn enter_cluster(settings: &Settings, info: &NodeInfo, load: NodeLoad) -> Result<ClusterHandle, DaemonError> {
    let transport = settings.key.as_ref().map(|key| {
        let (epoch, problem) = cluster::next_epoch(Path::new(EPOCH_FILE));
        if let Some(error) = problem {
            tracing::warn!(%error, "the gossip epoch cannot be kept: others may refuse this node's datagrams for a while");
        }
        let advertise = info.addresses.first().copied().unwrap_or(settings.listen.ip());
        Transport { key: key.clone(), listen: settings.listen, advertise, join: settings.join.clone(), epoch }
    });
    let local = LocalState { summary: NodeSummary::from(info), load };
    Ok(cluster::start(info.name.clone(), transport, local, settings.gossip).await?)
}

fn start_scheduler(config: Option<scheduler::Config>) -> Option<Scheduler> {
    match Scheduler::start(config?, Backoff::default()) {
        Ok(scheduler) => Some(scheduler),
        Err(error) => {
            tracing::warn!(%error, "the kernel's own scheduler stays in force");
            None
        }
    }
}

/// Lets agents know, also when this daemon is gone, which programs Landlock confines.
async fn publish_confined() {
    let published = tokio::task::spawn_blocking(landlock::publish).await;
    if let Err(error) = published.map_err(|error| error.to_string()).and_then(|made| made.map_err(|e| e.to_string())) {
        tracing::warn!(
            error,
            "programs confined by Landlock cannot be told from others: those that cannot gain privileges will not move"
        );
    }
}

/// Tells each second what the scheduler did.
async fn watch_scheduler(pipeline: Arc<Pipeline>, statistics: Statistics) {
    let seconds = async {
        loop {
            // Why it is not in force is in the log, and a busy supervisor answers the next time.
            let stats = statistics.read().await;
            pipeline.metrics.scheduler_did(stats.as_ref().ok());
            sleep(SCHEDULER_INTERVAL).await;
        }
    };
    pipeline.shared.stop.run_until_cancelled(seconds).await;
}

/// Tells the cluster each second how loaded this node is, and what its scheduler does.
async fn watch_load(pipeline: Arc<Pipeline>, sampler: Sampler) {
    let shared = &pipeline.shared;
    let (loads, mut changes) = watch::channel(NodeLoad::default());
    let complete = {
        let pipeline = pipeline.clone();
        move |load: &mut NodeLoad| {
            let (shared, view) = (&pipeline.shared, pipeline.view());
            load.guests = view.guests();
            load.accepting = !shared.stop.is_cancelled() && !shared.draining.is_on();
            load.memory_free_bytes = load.memory_free_bytes.saturating_sub(view.under_way.reserved_bytes);
            (load.weight_nano, load.owners_weight_nano) = view.weights_nano();
            let measured = pipeline.collected.measured();
            load.owners_permille = measured.owners_permille();
            let NodeInfo { cpus, speed_permille, .. } = shared.info;
            load.load_milli = measured.own_load.taken_from(load.load_milli, cpus, speed_permille);
        }
    };
    let publish = async {
        let mut summary = NodeSummary::from(&shared.info);
        while changes.changed().await.is_ok() {
            shared.cluster.set_load(*changes.borrow_and_update());
            let sched_ext = match &*shared.scheduler.borrow() {
                crate::scheduler::State::Running { .. } => SchedExtState::Attached,
                crate::scheduler::State::Ejected { .. } => SchedExtState::Ejected,
                crate::scheduler::State::Off { .. } => shared.info.features.sched_ext,
                crate::scheduler::State::Unsupported { .. } => SchedExtState::Unsupported,
            };
            if summary.sched_ext != sched_ext {
                summary.sched_ext = sched_ext;
                shared.cluster.set_summary(summary.clone());
            }
        }
    };
    tokio::join!(node::watch_load(sampler, loads, complete, shared.stop.clone()), publish);
}

/// Hands connections to whom they are for.
async fn route(shared: Arc<Shared>, mut incoming: mpsc::Receiver<Incoming>, grpc: mpsc::Sender<tokio::net::TcpStream>) {
    while let Some(connection) = incoming.recv().await {
        match connection {
            Incoming::Grpc(stream) => drop(grpc.send(stream).await),
            Incoming::Stream(kind, session, stream) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let handed = async {
                        let agent =
                            shared.agents.attach((kind, session), STREAM_TIMEOUT).await.map_err(|e| e.to_string())?;
                        let stream = stream.into_std().map_err(|error| error.to_string())?;
                        let message = ToAgent::Stream { kind };
                        agent.request(&message, Some(stream.into())).await.map_err(|error| error.to_string())
                    };
                    if let Err(error) = handed.await {
                        tracing::info!(%session, ?kind, error, "a stream came for an agent that is not here");
                    }
                });
            }
        }
    }
}

async fn serve_unix(server: Arc<ApiServer>, listener: tokio::net::UnixListener) {
    if let Err(error) = server.serve_unix(listener).await {
        tracing::error!(%error, "the API is no longer served to this machine");
    }
}

async fn serve_tls(server: Arc<ApiServer>, incoming: mpsc::Receiver<tokio::net::TcpStream>, tls: TlsConfigs) {
    if let Err(error) = server.serve_tls(incoming, tls.server).await {
        tracing::error!(%error, "the API is no longer served to other machines");
    }
}

/// Learns from what agents report.
async fn note_reports(pipeline: Arc<Pipeline>, mut reports: mpsc::Receiver<(AgentKey, FromAgent)>) {
    loop {
        let report = tokio::select! {
            report = reports.recv() => report,
            () = pipeline.shared.stop.cancelled() => return,
        };
        match report {
            Some((_, FromAgent::Arrived { source, memory_bytes, downtime_us })) => {
                pipeline.collected.learned.arrived(&source, memory_bytes, downtime_us);
            }
            Some(_) => {}
            None => return,
        }
    }
}

/// Learns from moves that have ended.
async fn note_ended(pipeline: Arc<Pipeline>, mut ended: mpsc::Receiver<Ended>) {
    loop {
        let ended = tokio::select! {
            ended = ended.recv() => ended,
            () = pipeline.shared.stop.cancelled() => return,
        };
        let Some(ended) = ended else { return };
        pipeline.note_ended(&ended);
        if ended.record.state != MoveState::Run && ended.record.trigger == Trigger::Initial {
            execs::not_started(&pipeline, &ended);
        }
    }
}

/// Waits for a signal, or for a part of the daemon that ended though it should not.
async fn wait_for_end(
    mut terminate: tokio::signal::unix::Signal,
    mut interrupt: tokio::signal::unix::Signal,
    tasks: &mut JoinSet<()>,
) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = tasks.join_next() => match ended {
            Some(Err(error)) => tracing::error!(%error, "a part of the daemon failed"),
            _ => tracing::error!("a part of the daemon ended"),
        },
    }
}
