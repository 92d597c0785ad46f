//! While the process tree runs here: signals in; stops, exits, offsets and stdio out; moves out on
//! request.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, getpgid};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Agent, Inbox, arrival,
    departure::{Leaving, News},
    error::GuestError,
    exit_channel, exits,
    init::keep_until_ended,
    lost,
    stdio::{HeldFile, offsets},
    world::World,
};
use crate::{
    agent::{MOVE_TIMEOUT, NOT_CARRIED_ON, never_begun},
    causes::explain,
    guest::relay::GuestRelays,
    job::SessionId,
    migration::source::{Outcome, Place, ProcessTree},
    protocol::{
        AgentState, ExitStatus, FromAgent, ToAgent,
        home::{GuestToHome, Signal},
        init::Told,
    },
    sys::{cgroup::members, proc::Process},
};

/// How often it is looked whether the process tree could move, which takes a hundred system calls.
const LOOK: Duration = Duration::from_secs(3);
/// How long CRIU may take to end once it has let the process tree run.
const CRIU_TIMEOUT: Duration = Duration::from_secs(10);
/// How long home may take to say that it has everything, after the end of the process tree.
const DONE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long home may take to do what a process asked of its files before it ended.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);
/// `si_code` of a signal that the kernel sent, as a terminal does to its foreground group.
const SI_KERNEL: i32 = 0x80;
/// `si_code` of a signal that was queued with a value.
const SI_QUEUE: i32 = -1;

/// A move out of here.
struct Departure {
    migration: SessionId,
    target: String,
    stage: Stage,
}

enum Stage {
    /// Home is being asked.
    Asking,
    /// The target is being asked by the daemon.
    Waiting { until: Instant },
    /// The engine works.
    Moving { cancel: CancellationToken },
}

/// How hosting ended.
#[derive(PartialEq, Eq)]
enum End {
    /// Nothing of the process tree is left.
    Over,
    /// It runs elsewhere.
    Left,
    /// It must not run here any longer.
    Lost,
}

struct Hosting<'a> {
    agent: &'a Agent,
    world: &'a World,
    root_pid: i32,
    originals: Vec<Process>,
    /// Originals whose exit has been told.
    told: BTreeSet<i32>,
    relays: Arc<GuestRelays>,
    files: Arc<Vec<HeldFile>>,
    leaving: Arc<Leaving>,
    departure: Option<Departure>,
    tasks: JoinSet<()>,
    news: mpsc::Sender<News>,
}

impl Agent {
    /// Hosts the process tree until it ends, leaves or is lost.
    pub(super) async fn host(
        &self,
        world: &World,
        tree: arrival::ArrivedTree,
        told: mpsc::Receiver<Told>,
        early: Vec<Told>,
        inbox: &mut Inbox,
    ) {
        let arrival::ArrivedTree { root_pid, host_pid, criu_pid, originals, relays, relayed, files } = tree;
        let files = Arc::new(files);
        let epoch = self.epoch.borrow().unwrap_or_default();
        let leaving = Arc::new(Leaving {
            tree: ProcessTree {
                root_pid: host_pid,
                cgroup: world.cgroup.clone(),
                place: Place::Guest { init: world.init.pid() },
            },
            hostname: self.role.hostname.clone(),
            epoch,
            run_dir: self.start.run_dir.clone(),
            home: self.home.clone(),
            daemons: self.daemons.clone(),
            relays: relays.clone(),
            relayed,
            files: files.clone(),
            mounted: world.files.clone(),
        });
        self.set_state(host_pid, Some(epoch));
        let (news, news_heard) = mpsc::channel(4);
        let mut hosting = Hosting {
            agent: self,
            world,
            root_pid,
            originals,
            told: BTreeSet::new(),
            relays,
            files,
            leaving,
            departure: None,
            tasks: JoinSet::new(),
            news,
        };
        let end = hosting.serve(criu_pid, told, early, news_heard, inbox).await;
        if end == End::Over {
            hosting.finish().await;
        }
        // Whatever a departure still does is about a process tree that is not here any more.
        hosting.tasks.shutdown().await;
    }
}

impl Hosting<'_> {
    async fn serve(
        &mut self,
        criu_pid: i32,
        mut told: mpsc::Receiver<Told>,
        mut early: Vec<Told>,
        mut news: mpsc::Receiver<News>,
        inbox: &mut Inbox,
    ) -> End {
        self.agent.home.tell(GuestToHome::Running { migration: self.agent.role.migration }).await;
        let mut foreground = self.relays.foreground();
        self.set_foreground(*foreground.borrow_and_update()).await;
        let (exit_sender, mut exited) = exit_channel();
        if let Err(error) = exits::watch(&self.originals, &exit_sender) {
            tracing::warn!(%error, "not all ends of the program's processes will be seen");
        }
        // Until then CRIU is in the cgroup with the process tree, where a check or a move would
        // take it for a process of the tree.
        if timeout(CRIU_TIMEOUT, keep_until_ended(criu_pid, &mut told, &mut early)).await.is_err() {
            tracing::warn!("criu has not ended: until it does this guest cannot move on");
        }
        for report in early {
            self.hear_init(report).await;
        }
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                report = told.recv() => match report {
                    Some(report) => self.hear_init(report).await,
                    None => return self.init_died().await,
                },
                Some((pid, status)) = exited.recv() => match status {
                    // A kernel before 6.15 forgets it once pid 1, its parent, has asked: pid 1
                    // tells it.
                    None if pid == self.root_pid => {}
                    status => self.exited(pid, status).await,
                },
                signal = inbox.signals.recv() => match signal {
                    Some(signal) => self.signal(signal).await,
                    None => return End::Lost,
                },
                request = inbox.requests.recv() => match request {
                    Some((request, _)) => self.request(request).await,
                    None => return End::Lost,
                },
                Some(news) = news.recv() => if self.departed(news).await {
                    return End::Left;
                },
                Ok(()) = foreground.changed() => {
                    let yes = *foreground.borrow_and_update();
                    self.set_foreground(yes).await;
                }
                _ = look.tick() => self.look().await,
                reason = lost(&mut inbox.reach) => {
                    tracing::error!(%reason, "home has given this guest up: killing it");
                    return End::Lost;
                }
                () = self.agent.home.terminated.cancelled() => return End::Lost,
            }
            if self.told.contains(&self.root_pid) && self.world.is_empty() && self.all_told() {
                return End::Over;
            }
        }
    }

    /// Whether every process that has a deputy at home was reported.
    fn all_told(&self) -> bool {
        self.originals.iter().all(|process| self.told.contains(&process.inner_pid))
    }

    async fn hear_init(&mut self, told: Told) {
        match told {
            Told::Ended { pid, status } => self.exited(pid, Some(status)).await,
            Told::Stopped { pid, signal } if self.is_original(pid) => {
                self.relays.drain().await;
                self.agent.home.tell(GuestToHome::Stopped { pid, signal }).await;
            }
            other => tracing::trace!(?other, "no news for home"),
        }
    }

    fn is_original(&self, pid: i32) -> bool {
        self.originals.iter().any(|process| process.inner_pid == pid)
    }

    /// Tells home how a process ended, after all that it wrote and all that its files need.
    async fn exited(&mut self, pid: i32, status: Option<ExitStatus>) {
        if !self.is_original(pid) || !self.told.insert(pid) {
            return;
        }
        let status = status.unwrap_or_else(|| {
            tracing::warn!(pid, "its parent was quicker than we and this kernel keeps no exit status: home is told 0");
            ExitStatus::Exited(0)
        });
        self.relays.drain().await;
        self.sync().await;
        let home = &self.agent.home;
        if !self.files.is_empty() {
            home.tell(GuestToHome::Offsets { offsets: offsets(&self.files) }).await;
        }
        home.tell(GuestToHome::Exited { pid, status }).await;
    }

    /// Brings home's files up to date, so that a process that waits for the end of another finds
    /// what that wrote.
    async fn sync(&self) {
        let mounted = self.world.files.clone();
        let synced = tokio::task::spawn_blocking(move || mounted.sync(SYNC_TIMEOUT)).await;
        if !matches!(synced, Ok(Ok(()))) {
            tracing::warn!(?synced, "home may not have all that an ended process wrote");
        }
    }

    /// Pid 1 has ended and so everything else: only the kernel's out-of-memory killer or root does
    /// that.
    async fn init_died(&mut self) -> End {
        tracing::error!("the guest's pid 1 was killed");
        for pid in self.originals.iter().map(|process| process.inner_pid).collect::<Vec<_>>() {
            self.exited(pid, Some(ExitStatus::Killed(libc::SIGKILL))).await;
        }
        End::Over
    }

    async fn signal(&self, signal: Signal) {
        let value = (signal.code == SI_QUEUE).then_some(signal.value);
        self.send(signal.pid, signal.signal, value).await;
        if signal.code == SI_KERNEL {
            for pid in self.newer_members(signal.pid) {
                self.send(pid, signal.signal, None).await;
            }
        }
    }

    async fn send(&self, pid: i32, signal: i32, value: Option<u64>) {
        if let Err(error) = self.world.init.signal(pid, signal, value).await {
            tracing::warn!(%error, pid, signal, "a signal was not delivered");
        }
    }

    /// Processes without a deputy that a terminal's signal to the group of `pid` must reach too.
    /// Each deputy of the group hears of the signal, so only the one of the group's lowest number
    /// stands for the others.
    fn newer_members(&self, pid: i32) -> Vec<i32> {
        let processes = members(&self.world.cgroup).unwrap_or_default();
        let group = |process: &Process| getpgid(Pid::from_raw(process.pid)).ok();
        let Some(own) = processes.iter().find(|process| process.inner_pid == pid).map(group) else { return Vec::new() };
        let (known, new): (Vec<&Process>, Vec<&Process>) = processes
            .iter()
            .filter(|process| group(process) == own)
            .partition(|process| self.is_original(process.inner_pid));
        if known.iter().any(|process| process.inner_pid < pid) {
            return Vec::new();
        }
        new.into_iter().map(|process| process.inner_pid).collect()
    }

    async fn set_foreground(&self, yes: bool) {
        if let Err(error) = self.world.init.foreground(yes.then_some(self.root_pid)).await {
            tracing::warn!(%error, "the guest's terminal does not follow home's");
        }
    }

    async fn request(&mut self, request: ToAgent) {
        match request {
            ToAgent::Begin { migration, .. } if self.departure.is_some() || self.told.contains(&self.root_pid) => {
                let refused = match self.departure {
                    Some(_) => GuestError::IsMoving,
                    None => GuestError::HasEnded,
                };
                self.report_begun(migration, Err(refused));
            }
            ToAgent::Begin { migration, target } => {
                self.tasks.spawn(self.leaving.clone().begin(migration, target.clone(), self.news.clone()));
                self.set_departure(Some(Departure { migration, target, stage: Stage::Asking }));
            }
            ToAgent::Move { migration, target_address } => self.start_move(migration, target_address),
            ToAgent::Cancel { migration, reason } => self.cancel(migration, &reason).await,
            ToAgent::Signal { signal } => self.send(self.root_pid, signal, None).await,
            ToAgent::Constrain { constraints: new } => self.agent.daemons.set_state(|state| {
                if let AgentState::Guest { job, .. } = state {
                    job.constraints = new;
                }
                true
            }),
            ToAgent::Stream { .. } | ToAgent::Terminate { .. } => {
                tracing::warn!(?request, "ignored: a guest runs here");
            }
        }
    }

    fn start_move(&mut self, migration: SessionId, address: String) {
        let ours = self.departure.as_mut().filter(|departure| departure.migration == migration);
        let Some(Departure { target, stage, .. }) = ours else {
            return self.agent.daemons.report(never_begun(migration));
        };
        if !matches!(stage, Stage::Waiting { .. }) {
            return tracing::warn!(%migration, "a move that home has not begun, or that is under way");
        }
        let cancel = CancellationToken::new();
        *stage = Stage::Moving { cancel: cancel.clone() };
        let target = (target.clone(), address);
        let connector = self.agent.connector.clone();
        self.tasks.spawn(self.leaving.clone().go(migration, target, connector, cancel, self.news.clone()));
    }

    async fn cancel(&mut self, migration: SessionId, reason: &str) {
        let Some(departure) = self.departure.as_ref().filter(|departure| departure.migration == migration) else {
            return;
        };
        match &departure.stage {
            Stage::Moving { cancel } => cancel.cancel(),
            Stage::Asking | Stage::Waiting { .. } => {
                self.leaving.give_up(migration, reason).await;
                self.set_departure(None);
            }
        }
    }

    /// Whether the process tree has left.
    async fn departed(&mut self, news: News) -> bool {
        match news {
            News::Begun(migration, begun) => {
                let ours = self.departure.as_mut().filter(|departure| departure.migration == migration);
                match (&begun, ours) {
                    (Ok(_), Some(departure)) => {
                        departure.stage = Stage::Waiting { until: Instant::now() + MOVE_TIMEOUT }
                    }
                    // It was cancelled meanwhile.
                    (Ok(_), None) => return false,
                    (Err(_), _) => self.set_departure(None),
                }
                self.report_begun(migration, begun);
                false
            }
            News::Ended(migration, Outcome::Committed { epoch }) => {
                tracing::info!(%migration, epoch, "the guest has moved on");
                true
            }
            News::Ended(migration, Outcome::Aborted { reason }) => {
                tracing::info!(%migration, reason, "the guest stays");
                self.set_departure(None);
                false
            }
        }
    }

    fn report_begun(&self, migration: SessionId, begun: Result<crate::protocol::TreeFacts, GuestError>) {
        let (refused, facts) = match begun {
            Ok(facts) => (None, Some(facts)),
            Err(error) => (Some(explain(error)), None),
        };
        self.agent.daemons.report(FromAgent::Begun { migration, refused, facts });
    }

    fn set_departure(&mut self, departure: Option<Departure>) {
        let now = departure.as_ref().map(|departure| (departure.migration, departure.target.clone()));
        self.departure = departure;
        self.agent.daemons.set_state(|state| {
            if let AgentState::Guest { moving, .. } = state {
                *moving = now;
            }
            true
        });
    }

    /// Looks now and then: a daemon that began a move and died, and whether the process tree could
    /// move.
    async fn look(&mut self) {
        if let Some(Departure { migration, stage: Stage::Waiting { until }, .. }) = self.departure
            && Instant::now() > until
        {
            self.cancel(migration, NOT_CARRIED_ON).await;
        }
        if self.departure.is_some() {
            return;
        }
        let tree = self.leaving.tree.clone();
        let checked = tokio::task::spawn_blocking(move || crate::migration::movable::check(&tree)).await;
        let why = checked.ok().and_then(Result::err).map(|error| error.to_string());
        self.agent.daemons.set_state(|state| match state {
            AgentState::Guest { cannot_move, .. } if *cannot_move != why => {
                *cannot_move = why;
                true
            }
            _ => false,
        });
    }

    /// The process tree has ended: home gets everything, then the agent may go.
    async fn finish(&self) {
        self.relays.drain().await;
        self.agent.home.tell(GuestToHome::Ended).await;
        if timeout(DONE_TIMEOUT, self.agent.home.done()).await.is_err() {
            tracing::warn!("home has not said that it has everything");
        }
    }
}
