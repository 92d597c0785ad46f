//! What runs with a guest at the node that hosts it: the guest agent, one process per guest, and
//! the guest's pid 1.
//!
//! ```text
//!   prepare   dial home, mount home's files, make namespaces       ── Prepared to the daemon
//!   arrive    the source's stream: target engine, home's word      ── Restored, Run, Running
//!   host      signals in; stdio, stops, exits out (mod `hosting`)  ── moves out: source engine (mod `departure`)
//!   end       kill what is left, remove cgroup, mounts, sockets
//! ```
//!
//! Until home has said `Run` nothing of the program runs here, and whatever goes wrong ends the
//! agent without harm. After that it keeps the process tree through short losses of the link; when
//! home has been out of reach for as long as home waits, it kills the process tree, because home
//! has declared it lost. The daemon of this node may come and go.

mod arrival;
mod daemon;
mod departure;
mod error;
mod exits;
pub mod files;
mod from_home;
mod hosting;
pub mod init;
mod link;
pub mod relay;
pub mod restore;
mod stdio;
mod world;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    arrival::{ArrivedTree, Arriving},
    daemon::{Daemons, Request},
    error::GuestError,
    exits::Exit,
    files::FileChannel,
    from_home::Home,
    link::{Caller, Reach},
    world::World,
};
use crate::{
    agent::{connection::Connector, process},
    causes::explain,
    link::link as new_link,
    migration::{
        criu::Program,
        target::{self, TargetError},
    },
    protocol::{
        AgentRole, AgentStart, AgentState, ExitStatus, FromAgent, GuestRole, StreamKind, ToAgent,
        home::{GuestToHome, Signal},
        init::Told,
        socket_path,
    },
    sys::namespaces,
};

/// How long the source's stream may let itself be waited for after the guest's world is made.
const STREAM_TIMEOUT: Duration = Duration::from_secs(60);
/// How long home may take to hear that a committed guest is dead.
const LOST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long reaching home may take before the world is made.
const REACH_TIMEOUT: Duration = Duration::from_secs(12);

/// The agent's `main`: as pid 1 of a guest if started under that name, else as the agent itself.
pub fn main() -> ExitCode {
    if std::env::args().next().as_deref() == Some(init::NAME) {
        return init::main();
    }
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(reason = explain(error), "the guest agent cannot work");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> Result<(), GuestError> {
    let (start, log, _alive) = process::enter(StreamKind::Move)?;
    namespaces::own_mounts().map_err(GuestError::io("have mounts of its own"))?;
    let runtime = process::runtime().map_err(GuestError::io("set up the run time"))?;
    runtime.block_on(run(start))?;
    log.ends_well();
    Ok(())
}

/// What the agent hears from its surroundings.
struct Inbox {
    requests: mpsc::Receiver<Request>,
    signals: mpsc::Receiver<Signal>,
    reach: watch::Receiver<Reach>,
}

/// What all of the agent's parts use.
struct Agent {
    start: AgentStart,
    role: GuestRole,
    connector: Connector,
    program: Program,
    daemons: Arc<Daemons>,
    home: Arc<Home>,
    epoch: watch::Sender<Option<u64>>,
}

async fn run(start: AgentStart) -> Result<(), GuestError> {
    let AgentRole::Guest(role) = start.role.clone() else { return Err(GuestError::WrongRole) };
    let role = *role;
    let path = socket_path(&start.run_dir, StreamKind::Move, role.migration);
    let (daemons, requests) = Daemons::listen(&path, first_state(&role))?;
    let connector = Connector::new(&start.identity)?;
    let (link, carrier) = new_link();
    let files = FileChannel::new(link.sender.files(), link.files);
    let (home, signals) = Home::listen(link.sender, link.events, files.clone());
    let (epoch, epoch_seen) = watch::channel(None);
    let (reach_sender, reach) = watch::channel(Reach::Dialling);
    let stop = CancellationToken::new();
    let caller = Caller { connector: connector.clone(), node: start.node.clone(), role: role.clone() };
    let keeping = tokio::spawn(link::keep(caller, carrier, epoch_seen, reach_sender, stop.clone()));
    let mut inbox = Inbox { requests, signals, reach };
    let prepared = prepare(&start, &role, files, &mut inbox.reach).await;
    daemons.prepared(prepared.as_ref().err().map(explain));
    match prepared {
        Ok((program, world, told)) => {
            let agent = Agent { start, role, connector, program, daemons, home, epoch };
            agent.live(world, told, inbox).await;
        }
        Err(error) => {
            tracing::warn!(reason = explain(error), "this guest cannot be hosted");
            // The daemon hears of it, and then ends the agent; or it has gone.
            let _ = timeout(STREAM_TIMEOUT, wait_for_end(&mut inbox)).await;
        }
    }
    stop.cancel();
    let _ = keeping.await;
    Ok(())
}

fn first_state(role: &GuestRole) -> AgentState {
    AgentState::Guest {
        migration: role.migration,
        job: Box::new(role.job.clone()),
        host_pid: None,
        cgroup: role.cgroup.clone(),
        epoch: None,
        moving: None,
        cannot_move: None,
    }
}

async fn prepare(
    start: &AgentStart,
    role: &GuestRole,
    files: Arc<FileChannel>,
    reach: &mut watch::Receiver<Reach>,
) -> Result<(Program, World, mpsc::Receiver<Told>), GuestError> {
    let program = Program::find()?;
    let begun = Instant::now();
    // The daemon has seen to it, unless it has only just started.
    let learning = tokio::spawn({
        let program = program.clone();
        async move { program.learn_kernel().await }
    });
    match timeout(REACH_TIMEOUT, reach.wait_for(|reach| *reach != Reach::Dialling)).await {
        Ok(Ok(reach)) => match &*reach {
            Reach::Lost(reason) => return Err(GuestError::HomeLost(reason.clone())),
            Reach::Dialling | Reach::Reached => {}
        },
        Ok(Err(_)) | Err(_) => {
            let (home, address) = (role.job.id.home.to_string(), role.home_address.clone());
            return Err(GuestError::Unreachable { home, address });
        }
    }
    // Best effort: the guest works without.
    let _ = learning.await;
    let (world, told) = World::make(&start.run_dir, role, files).await?;
    tracing::info!(migration = %role.migration, ms = begun.elapsed().as_millis(), "the guest's world is made");
    Ok((program, world, told))
}

/// Waits for the daemon to end this agent.
async fn wait_for_end(inbox: &mut Inbox) {
    while let Some((request, _)) = inbox.requests.recv().await {
        if matches!(request, ToAgent::Terminate { .. }) {
            return;
        }
    }
}

/// Resolves with the reason when home is lost for good.
async fn lost(reach: &mut watch::Receiver<Reach>) -> GuestError {
    GuestError::HomeLost(match reach.wait_for(|reach| matches!(reach, Reach::Lost(_))).await.as_deref() {
        Ok(Reach::Lost(reason)) => reason.clone(),
        _ => "the link to home has ended".into(),
    })
}

impl Agent {
    /// From the made world to the end of everything in it.
    async fn live(&self, world: World, mut told: mpsc::Receiver<Told>, mut inbox: Inbox) {
        let mut early = Vec::new();
        let arrived = self.arrive(&world, &mut inbox, &mut told, &mut early).await;
        match arrived {
            Ok(tree) => self.host(&world, tree, told, early, &mut inbox).await,
            Err(error) => tracing::warn!(reason = explain(error), "no guest has come"),
        }
        self.home.drop_relays();
        world.end().await;
    }

    /// Takes the process tree in. An error is why there is none. Reports of pid 1 that come
    /// meanwhile are kept in `early`.
    async fn arrive(
        &self,
        world: &World,
        inbox: &mut Inbox,
        told: &mut mpsc::Receiver<Told>,
        early: &mut Vec<Told>,
    ) -> Result<ArrivedTree, GuestError> {
        let deadline = tokio::time::Instant::now() + STREAM_TIMEOUT;
        let socket = loop {
            let request = tokio::select! {
                request = inbox.requests.recv() => request.ok_or(GuestError::ControlGone)?,
                error = lost(&mut inbox.reach) => return Err(error),
                () = self.home.terminated.cancelled() => return Err(GuestError::NotWanted),
                () = self.daemons.gone() => return Err(GuestError::DaemonGone),
                () = sleep_until(deadline) => return Err(GuestError::NoSource(STREAM_TIMEOUT)),
            };
            match request {
                (ToAgent::Stream { kind: StreamKind::Move }, Some(socket)) => break socket,
                (ToAgent::Terminate { reason }, _) => return Err(GuestError::Terminated(reason)),
                (other, _) => self.refuse(other, "it has not come yet"),
            }
        };
        let (stream, source) = self.connector.accept(socket, StreamKind::Move).await?;
        tracing::info!(%source, "the source sends");
        let arriving = Arriving::new(self.role.migration, world, &self.home, &self.program, &self.daemons);
        let taken = {
            let mut taking = std::pin::pin!(target::run(stream, self.role.migration, &self.start.run_dir, &arriving));
            loop {
                tokio::select! {
                    taken = &mut taking => break taken,
                    error = lost(&mut inbox.reach) => return Err(error),
                    () = self.home.terminated.cancelled() => return Err(GuestError::NotWanted),
                    Some(report) = told.recv() => early.push(report),
                    request = inbox.requests.recv() => match request.ok_or(GuestError::ControlGone)? {
                        // Once home has been told only its word counts; it will be told of the end
                        // of this agent by its link.
                        (ToAgent::Terminate { reason }, _) => tracing::info!(reason, "the daemon wants this guest to end; home decides"),
                        (other, _) => self.refuse(other, "it is just arriving"),
                    },
                }
            }
        };
        let arrived = match taken {
            Ok(arrived) => arrived,
            Err(error) => {
                if matches!(error, TargetError::Lost(_)) {
                    self.tell_lost().await;
                }
                return Err(error.into());
            }
        };
        let downtime_us = u64::try_from(arrived.downtime.as_micros()).unwrap_or(u64::MAX);
        let (source, memory_bytes) = (source.to_string(), arrived.memory_bytes);
        self.daemons.report(FromAgent::Arrived { source, memory_bytes, downtime_us });
        self.epoch.send_replace(Some(arrived.epoch));
        arriving.into_tree().ok_or(GuestError::OutOfStep)
    }

    /// Home has committed a copy that does not run: home is told at once that the program is dead.
    async fn tell_lost(&self) {
        let status = ExitStatus::Killed(libc::SIGKILL);
        self.home.tell(GuestToHome::Exited { pid: self.role.job.id.pid, status }).await;
        self.home.tell(GuestToHome::Ended).await;
        let _ = timeout(LOST_TIMEOUT, self.home.done()).await;
    }

    /// Answers a request that cannot be fulfilled now.
    fn refuse(&self, request: ToAgent, why: &str) {
        match request {
            ToAgent::Begin { migration, .. } => {
                let refused = Some(why.to_owned());
                self.daemons.report(FromAgent::Begun { migration, refused, facts: None });
            }
            other => tracing::warn!(?other, why, "request ignored"),
        }
    }

    /// Changes what the daemon is told of this guest.
    fn set_state(&self, host_pid: i32, epoch: Option<u64>) {
        self.daemons.set_state(|state| {
            if let AgentState::Guest { host_pid: pid, epoch: of, .. } = state {
                (*pid, *of) = (Some(host_pid), epoch);
            }
            true
        });
    }
}

/// Where exits of the process tree's processes are told.
type Exits = (mpsc::Sender<Exit>, mpsc::Receiver<Exit>);

/// A channel for exits.
fn exit_channel() -> Exits {
    mpsc::channel(64)
}
