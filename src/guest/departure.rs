//! How a process tree leaves this guest for another node: what the source engine asks of the agent.
//!
//! ```text
//!   Begin (daemon) ─► movable? ─► Begin (home) ─► Begun ─► Move (daemon) ─► source engine ─► Gone: end │ Aborted: resumes
//! ```

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    daemon::Daemons,
    error::GuestError,
    from_home::{Decision, Home},
    stdio::{HeldFile, descriptors},
    world::look_ahead,
};
use crate::{
    agent::connection::Connector,
    guest::{files::Mounted, relay::GuestRelays},
    job::SessionId,
    migration::{
        movable,
        source::{self, Move, Outcome, Owner, OwnerError, ProcessTree, Verdict},
    },
    protocol::{
        FromAgent, MoveProgress, StreamKind, TreeFacts,
        home::GuestToHome,
        moves::{Descriptors, Relayed},
    },
    sys::{cgroup::members, proc::Process},
};

/// How long home may take to accept a candidate.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long bringing home's files up to date may take.
const SYNC_TIMEOUT: Duration = Duration::from_secs(20);

/// What a departure has come to.
#[derive(Debug)]
pub enum News {
    /// Home has been asked: the facts about the process tree, or why it cannot move.
    Begun(SessionId, Result<TreeFacts, GuestError>),
    /// A move has ended.
    Ended(SessionId, Outcome),
}

/// All that a departure uses; shared with the engine.
pub struct Leaving {
    /// The process tree.
    pub tree: ProcessTree,
    /// Its root's number at home.
    pub hostname: String,
    /// This agent's epoch of it.
    pub epoch: u64,
    /// The run-time directory.
    pub run_dir: PathBuf,
    /// Home.
    pub home: Arc<Home>,
    /// The daemons that want to know how far it is.
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
    /// Looks whether the process tree can move and makes `migration` home's candidate.
    pub async fn begin(self: Arc<Self>, migration: SessionId, target: String, news: mpsc::Sender<News>) {
        let begun = self.ask(migration, target).await;
        let _ = news.send(News::Begun(migration, begun)).await;
    }

    async fn ask(self: &Arc<Self>, migration: SessionId, target: String) -> Result<TreeFacts, GuestError> {
        let this = self.clone();
        let facts = tokio::task::spawn_blocking(move || movable::check(&this.tree)).await??;
        self.home.tell(GuestToHome::Begin { migration, target }).await;
        match timeout(BEGIN_TIMEOUT, self.home.begun(migration)).await {
            Ok(None) => Ok(TreeFacts { hostname: self.hostname.clone(), ..facts }),
            Ok(Some(refused)) => Err(GuestError::HomeRefused(refused)),
            Err(_) => {
                // It may have been accepted: then nothing will come of it.
                self.give_up(migration, "home did not answer in time").await;
                Err(GuestError::HomeSilent(BEGIN_TIMEOUT))
            }
        }
    }

    /// Gives a candidate up that was not sent.
    pub async fn give_up(&self, migration: SessionId, reason: &str) {
        self.home.tell(GuestToHome::Abort { migration, reason: reason.into() }).await;
    }

    /// Moves the process tree; `target` is the node and its `address:port`.
    pub async fn go(
        self: Arc<Self>,
        migration: SessionId,
        target: (String, String),
        connector: Connector,
        cancel: CancellationToken,
        news: mpsc::Sender<News>,
    ) {
        let plan = Move { migration, tree: self.tree.clone(), run_dir: self.run_dir.clone() };
        let dial = async {
            let (name, address) = &target;
            connector.dial(name, address, StreamKind::Move, migration).await.map_err(OwnerError::from)
        };
        let going = Going { leaving: &self, migration };
        let outcome = source::run(&plan, &going, dial, cancel).await;
        if matches!(outcome, Outcome::Aborted { .. }) {
            self.relays.resume().await;
        }
        let _ = news.send(News::Ended(migration, outcome)).await;
    }
}

/// The paths of what a process has mapped and open. One that cannot be read is looked up when CRIU
/// comes to it.
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

/// One move of the process tree.
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

    async fn frozen(&self) -> Result<Descriptors, OwnerError> {
        let Leaving { mounted, relayed, files, tree, .. } = &**self.leaving;
        if let Some(lock) = mounted.held_locks().first() {
            return Err(GuestError::HoldsLock(lock.inode).into());
        }
        // Until it is dumped, or thawed because it cannot be.
        mounted.stands_still();
        let processes = members(&tree.cgroup)?;
        look_ahead(mounted, processes.iter().flat_map(files_of).collect());
        let found = descriptors(relayed, files, &processes);
        Ok(found.map_err(GuestError::io("find the program's channels and shared files"))?)
    }

    async fn dumped(&self) -> Result<(), OwnerError> {
        self.leaving.mounted.runs();
        self.leaving.relays.pause().await;
        let mounted = self.leaving.mounted.clone();
        tokio::task::spawn_blocking(move || mounted.sync(SYNC_TIMEOUT)).await??;
        self.leaving.home.tell(GuestToHome::Drained { migration: self.migration }).await;
        Ok(())
    }

    async fn committed(&self) -> u64 {
        loop {
            match self.leaving.home.decision(self.migration).await {
                Decision::Gone => return self.leaving.epoch + 1,
                // Home never takes its word back, so this never resolves; the engine learns of it
                // by its own abort.
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
