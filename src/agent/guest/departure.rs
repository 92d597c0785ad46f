//! How a body leaves this guest for another node: what the source engine asks of the agent.
//!
//! ```text
//!   Begin (daemon) ─► movable? ─► Begin (home) ─► Begun ─► Move (daemon) ─► source engine ─► Gone: end │ Aborted: goes on
//! ```

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    daemon::Daemons,
    home::{Decision, Home},
    stdio::{HeldFile, descriptors},
    world::look_ahead,
};
use crate::{
    agent::connection::Connector,
    control::{BodyFacts, FromAgent, MoveProgress, SessionId, StreamKind},
    home::{files::Mounted, relay::guest::GuestRelays, wire::GuestToHome},
    migration::{
        movable,
        process::{Process, members},
        source::{self, Body, Descriptors, Move, Outcome, Owner, Relayed, Verdict, explain},
    },
};

/// How long home may take to accept a candidate.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long bringing home's files up to date may take.
const SYNC_TIMEOUT: Duration = Duration::from_secs(20);

/// What a departure has come to.
#[derive(Debug)]
pub enum News {
    /// Home has been asked: the facts about the body, or why it cannot move.
    Begun(SessionId, Result<BodyFacts, String>),
    /// It is settled.
    Settled(SessionId, Outcome),
}

/// All that a departure uses; shared with the engine.
pub struct Leaving {
    /// The body.
    pub body: Body,
    /// Its root's number at home.
    pub hostname: String,
    /// This agent's epoch of it.
    pub epoch: u64,
    /// The run-time directory.
    pub run_dir: PathBuf,
    /// Home.
    pub home: Arc<Home>,
    /// Whoever wants to know how far it is.
    pub daemons: Arc<Daemons>,
    /// The relays of its channels.
    pub relays: Arc<GuestRelays>,
    /// Its channels.
    pub relayed: Vec<Relayed>,
    /// Its shared files.
    pub files: Arc<Vec<HeldFile>>,
    /// Home's file system.
    pub mounted: Arc<Mounted>,
}

impl Leaving {
    /// Looks whether the body can move and makes `migration` home's candidate.
    pub async fn begin(self: Arc<Self>, migration: SessionId, target: String, news: mpsc::Sender<News>) {
        let begun = self.ask(migration, target).await;
        let _ = news.send(News::Begun(migration, begun)).await;
    }

    async fn ask(self: &Arc<Self>, migration: SessionId, target: String) -> Result<BodyFacts, String> {
        let this = self.clone();
        let facts = tokio::task::spawn_blocking(move || movable::check(&this.body)).await.map_err(explain)?;
        let facts = facts.map_err(|error| error.to_string())?;
        self.home.tell(GuestToHome::Begin { migration, target }).await;
        match timeout(BEGIN_TIMEOUT, self.home.begun(migration)).await {
            Ok(None) => Ok(BodyFacts { hostname: self.hostname.clone(), ..facts }),
            Ok(Some(refused)) => Err(refused),
            Err(_) => {
                // It may have been accepted: then nothing will come of it.
                self.give_up(migration, "home did not answer in time").await;
                Err(format!("home did not answer within {} s", BEGIN_TIMEOUT.as_secs()))
            }
        }
    }

    /// Gives a candidate up that was not sent.
    pub async fn give_up(&self, migration: SessionId, reason: &str) {
        self.home.tell(GuestToHome::Abort { migration, reason: reason.into() }).await;
    }

    /// Moves the body; `target` is the node and its `address:port`.
    pub async fn go(
        self: Arc<Self>,
        migration: SessionId,
        target: (String, String),
        connector: Connector,
        cancel: CancellationToken,
        news: mpsc::Sender<News>,
    ) {
        let plan = Move { migration, body: self.body.clone(), run_dir: self.run_dir.clone() };
        let dial = async {
            let (name, address) = &target;
            connector.dial(name, address, StreamKind::Move, migration).await.map_err(explain)
        };
        let going = Going { leaving: &self, migration };
        let outcome = source::run(&plan, &going, dial, cancel).await;
        if matches!(outcome, Outcome::Aborted { .. }) {
            self.relays.resume().await;
        }
        let _ = news.send(News::Settled(migration, outcome)).await;
    }
}

/// The paths of what a process has mapped and open. One that cannot be read is looked up when CRIU comes to it.
fn files_of(process: &Process) -> Vec<String> {
    let maps = std::fs::read_to_string(process.proc("maps")).unwrap_or_default();
    let mut paths: Vec<String> =
        maps.lines().filter_map(|line| line.find('/').map(|start| line[start..].to_owned())).collect();
    let descriptors = std::fs::read_dir(process.proc("fd")).into_iter().flatten().flatten();
    let targets =
        descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok());
    paths.extend(targets.filter(|target| target.starts_with('/')));
    paths
}

/// One move of the body.
struct Going<'a> {
    leaving: &'a Arc<Leaving>,
    migration: SessionId,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.leaving.mounted.runs();
    }
}

#[async_trait]
impl Owner for Going<'_> {
    fn progress(&self, progress: MoveProgress) {
        self.leaving.daemons.report(FromAgent::Progress(progress));
    }

    fn freezing(&self) {
        self.leaving.mounted.interrupt_waits();
    }

    async fn frozen(&self) -> Result<Descriptors, String> {
        let Leaving { mounted, relayed, files, body, .. } = &**self.leaving;
        if let Some(lock) = mounted.held_locks().first() {
            return Err(format!("it holds a lock on a file (inode {})", lock.inode));
        }
        // Until it is dumped, or thawed because it cannot be.
        mounted.stands_still();
        let processes = members(&body.cgroup).map_err(explain)?;
        look_ahead(mounted, processes.iter().flat_map(files_of).collect());
        descriptors(relayed, files, &processes).map_err(explain)
    }

    async fn dumped(&self) -> Result<(), String> {
        self.leaving.mounted.runs();
        self.leaving.relays.pause().await;
        let mounted = self.leaving.mounted.clone();
        let synced = tokio::task::spawn_blocking(move || mounted.sync(SYNC_TIMEOUT)).await.map_err(explain)?;
        synced.map_err(explain)?;
        self.leaving.home.tell(GuestToHome::Drained { migration: self.migration }).await;
        Ok(())
    }

    async fn committed(&self) -> u64 {
        loop {
            match self.leaving.home.decision(self.migration).await {
                Decision::Gone => return self.leaving.epoch + 1,
                // Home never takes its word back, so this never resolves; the engine learns of it by its own abort.
                Decision::Aborted(_) | Decision::Run(_) => std::future::pending::<()>().await,
            }
        }
    }

    async fn abort(&self, reason: &str) -> Verdict {
        self.leaving.mounted.runs();
        self.leaving.give_up(self.migration, reason).await;
        match self.leaving.home.decision(self.migration).await {
            Decision::Gone => Verdict::Committed { epoch: self.leaving.epoch + 1 },
            Decision::Aborted(_) | Decision::Run(_) => Verdict::Aborted,
        }
    }
}
