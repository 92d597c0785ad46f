//! The core: one task that receives all messages, asks the arbiter, and does what it decides.
//!
//! Nothing here waits for a guest or for the program: what may take long has a task of its own and
//! reports back.

mod guest;
mod source;

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, interval};

use super::control::Handle;
use super::deputies::{Deputies, FromDeputy, ending};
use super::endings::{self, Ending};
use super::first_move::FromSource;
use super::guests::{BoxedStream, FromGuest, Guest};
use crate::agent::connection::Connector;
use crate::descriptors::Taken;
use crate::home::arbiter::{Action, Arbiter, Party};
use crate::home::deputy::Told;
use crate::home::inject::{Deputised, InjectError, Original};
use crate::home::relay::HomeRelays;
use crate::job::SessionId;
use crate::link::LinkSender;
use crate::protocol::{
    AgentState, ExitStatus, FromAgent, HomeRole, ToAgent,
    deputy::{Command, LOST_EXIT_CODE},
    epoch_path,
    home::{Call, HomeToGuest, SharedFile, Signal},
};
use crate::sys::{cgroup, proc::start_time_ticks};

/// How often the core looks at what is not reported.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A guest of which nothing was heard for so long is lost, and the job with it; as long as the
/// guest waits before it kills the process tree.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// How long the last messages may take to arrive, once the job has ended.
const LINGER: Duration = Duration::from_secs(2);
/// Queue of each kind of event.
const QUEUE_EVENTS: usize = 1024;

/// What a home agent works with.
pub(super) struct Settings {
    /// The daemon's run-time directory.
    pub(super) run_dir: PathBuf,
    /// This node's name.
    pub(super) node: String,
    /// The job.
    pub(super) role: HomeRole,
    /// For streams to and from other nodes.
    pub(super) connector: Connector,
    /// The job's root directory.
    pub(super) root: OwnedFd,
    /// How long the daemon may take to continue a move; or with a job that an exec gate holds here
    /// for a start elsewhere of which nothing comes, which it resumes much sooner, if it lives.
    pub(super) patience: Duration,
}

/// A move out of home under way.
struct Source {
    migration: SessionId,
    target: String,
    cancel: tokio_util::sync::CancellationToken,
    committed: watch::Sender<Option<u64>>,
    verdict: Option<tokio::sync::oneshot::Sender<crate::migration::source::Verdict>>,
    begun: Instant,
    is_running: bool,
}

/// Everything that is told to the core.
struct Inbox {
    requests: mpsc::Receiver<(ToAgent, Option<OwnedFd>)>,
    callers: mpsc::Receiver<(BoxedStream, Call)>,
    guests: mpsc::Receiver<(SessionId, FromGuest)>,
    deputies: mpsc::Receiver<FromDeputy>,
    source: mpsc::Receiver<FromSource>,
    checked: mpsc::Receiver<source::Checked>,
    deputised: mpsc::Receiver<Vec<Result<Deputised, InjectError>>>,
    terminal: mpsc::Receiver<Command>,
    ended: mpsc::Receiver<Ending>,
}

/// Where tasks send what they tell the core.
struct Senders {
    callers: mpsc::Sender<(BoxedStream, Call)>,
    guests: mpsc::Sender<(SessionId, FromGuest)>,
    deputies: mpsc::Sender<FromDeputy>,
    source: mpsc::Sender<FromSource>,
    checked: mpsc::Sender<source::Checked>,
    deputised: mpsc::Sender<Vec<Result<Deputised, InjectError>>>,
    terminal: mpsc::Sender<Command>,
    endings: mpsc::Sender<(Ending, Option<Arc<HomeRelays>>)>,
}

/// The state of a home agent.
pub(super) struct Core {
    settings: Settings,
    inbox: Inbox,
    to: Senders,
    state: watch::Sender<AgentState>,
    reports: broadcast::Sender<FromAgent>,
    arbiter: Arbiter,
    guests: HashMap<SessionId, Guest>,
    /// The link to the owner's guest, for signals.
    current: watch::Sender<Option<LinkSender<HomeToGuest>>>,
    source: Option<Source>,
    /// What was taken of the frozen original, until it is committed that it moves.
    taken: Option<(Taken, Vec<Original>)>,
    relays: Option<Arc<HomeRelays>>,
    files: Vec<(SharedFile, OwnedFd)>,
    terminal: Option<OwnedFd>,
    deputies: Deputies,
    /// The originals are being turned into deputies.
    is_deputising: bool,
    /// Deputies that were told to end.
    ending: BTreeSet<i32>,
    /// Ends that wait for the deputies.
    waiting: Vec<Ending>,
    visited: Vec<String>,
    ended: Option<ExitStatus>,
    /// Since when the job stands still here without a move that is under way.
    held_since: Option<Instant>,
    /// When to go, once the job has ended.
    leave_at: Option<Instant>,
}

impl Core {
    /// The core and the way to it for control connections. Must be called on a tokio runtime.
    pub(super) fn new(settings: Settings) -> (Self, Handle) {
        let (requests_to, requests) = mpsc::channel(QUEUE_EVENTS);
        let (callers_to, callers) = mpsc::channel(QUEUE_EVENTS);
        let (guests_to, guests) = mpsc::channel(QUEUE_EVENTS);
        let (deputies_to, deputies) = mpsc::channel(QUEUE_EVENTS);
        let (source_to, source) = mpsc::channel(QUEUE_EVENTS);
        let (checked_to, checked) = mpsc::channel(QUEUE_EVENTS);
        let (deputised_to, deputised) = mpsc::channel(1);
        let (terminal_to, terminal) = mpsc::channel(QUEUE_EVENTS);
        let (endings, ended) = endings::start();
        let visited = vec![settings.node.clone()];
        let (state, state_seen) = watch::channel(Self::describe(&settings, &Arbiter::default(), &visited, None));
        let (reports, _) = broadcast::channel(QUEUE_EVENTS);
        let handle = Handle { requests: requests_to, state: state_seen, reports: reports.clone() };
        let core = Self {
            settings,
            inbox: Inbox { requests, callers, guests, deputies, source, checked, deputised, terminal, ended },
            to: Senders {
                callers: callers_to,
                guests: guests_to,
                deputies: deputies_to,
                source: source_to,
                checked: checked_to,
                deputised: deputised_to,
                terminal: terminal_to,
                endings,
            },
            state,
            reports,
            arbiter: Arbiter::default(),
            guests: HashMap::new(),
            current: watch::Sender::new(None),
            source: None,
            taken: None,
            relays: None,
            files: Vec::new(),
            terminal: None,
            deputies: Deputies::default(),
            is_deputising: false,
            ending: BTreeSet::new(),
            waiting: Vec::new(),
            visited,
            ended: None,
            held_since: None,
            leave_at: None,
        };
        (core, handle)
    }

    fn describe(settings: &Settings, arbiter: &Arbiter, visited: &[String], ended: Option<ExitStatus>) -> AgentState {
        AgentState::Home {
            session: settings.role.session,
            root_pid: settings.role.root_pid,
            epoch: arbiter.epoch(),
            runs_on: visited.last().cloned().unwrap_or_default(),
            visited: visited.to_vec(),
            moving: arbiter.moving().map(|(migration, target)| (migration, target.to_owned())),
            ended,
        }
    }

    /// Works until the job has ended and all know it.
    pub(super) async fn run(mut self) {
        let mut look = interval(LOOK_EVERY);
        while self.leave_at.is_none_or(|at| Instant::now() < at) {
            tokio::select! {
                Some((request, descriptor)) = self.inbox.requests.recv() => self.request(request, descriptor).await,
                Some((stream, call)) = self.inbox.callers.recv() => self.caller(stream, call).await,
                Some((guest, event)) = self.inbox.guests.recv() => self.guest_says(guest, event).await,
                Some(event) = self.inbox.deputies.recv() => self.deputy_says(event).await,
                Some(event) = self.inbox.source.recv() => self.source_says(event).await,
                Some(checked) = self.inbox.checked.recv() => self.begin(checked).await,
                Some(results) = self.inbox.deputised.recv() => self.deputised(results).await,
                Some(command) = self.inbox.terminal.recv(), if !self.is_deputising =>
                    self.deputies.command(self.settings.role.root_pid, command, None).await,
                Some(ending) = self.inbox.ended.recv() => self.ended(ending).await,
                _ = look.tick() => self.look().await,
            }
            self.publish();
        }
    }

    fn publish(&self) {
        let now = Self::describe(&self.settings, &self.arbiter, &self.visited, self.ended);
        self.state.send_if_modified(|state| {
            let is_news = *state != now;
            *state = now;
            is_news
        });
    }

    /// Does what the arbiter has decided.
    async fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Record { epoch } => self.record(epoch),
                Action::Begun { to: Party::Home, migration, refused } => self.home_begun(migration, refused),
                Action::Begun { to: Party::Guest(guest), migration, refused } => {
                    self.tell(guest, HomeToGuest::Begun { migration, refused });
                }
                Action::Aborted { to: Party::Home, .. } => self.home_verdict(None),
                Action::Aborted { to: Party::Guest(guest), migration, reason } => {
                    self.tell(guest, HomeToGuest::Aborted { migration, reason });
                }
                Action::Retire { party: Party::Home, epoch, .. } => self.retire_home(epoch),
                Action::Retire { party: Party::Guest(guest), migration, .. } => {
                    self.tell(guest, HomeToGuest::Gone { migration });
                }
                Action::Run { migration, epoch } => self.let_run(migration, epoch).await,
            }
        }
    }

    fn tell(&self, guest: SessionId, message: HomeToGuest) {
        match self.guests.get(&guest) {
            Some(guest) => guest.tell(message),
            None => tracing::debug!(%guest, ?message, "a guest that never called is told nothing"),
        }
    }

    /// The marker of the epoch: for observers outside; this process itself is the record that
    /// counts.
    fn record(&self, epoch: u64) {
        let path = epoch_path(&self.settings.run_dir, self.settings.role.session);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = made.and_then(|()| std::fs::write(&path, format!("{epoch}\n")));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "the epoch's marker could not be written");
        }
        tracing::info!(epoch, "a move is committed");
    }

    async fn let_run(&mut self, migration: SessionId, epoch: u64) {
        let Some(guest) = self.guests.get(&migration) else { return };
        let is_new = !self.current.borrow().as_ref().is_some_and(|link| link.is_same(&guest.sender));
        if is_new {
            self.visited.push(guest.node.clone());
            self.current.send_replace(Some(guest.sender.clone()));
            if let Some(relays) = &self.relays {
                relays.attach(&guest.sender.stdio()).await;
            }
        }
        self.tell(migration, HomeToGuest::Run { migration, epoch });
    }

    async fn deputised(&mut self, results: Vec<Result<Deputised, InjectError>>) {
        self.is_deputising = false;
        let root = self.settings.role.root_pid;
        for result in results {
            let lost = match result {
                Ok(deputised) => {
                    let pid = deputised.pid;
                    self.deputies.add(deputised, self.to.deputies.clone()).err().map(|error| (pid, error.to_string()))
                }
                Err(error) => Some((error.pid, format!("{error}: {}", error.source))),
            };
            if let Some((pid, reason)) = lost {
                tracing::error!(pid, reason, "a process has no deputy, so its guest process ends too");
                self.signal(Signal { pid, signal: libc::SIGKILL, code: 0, value: 0 });
            }
        }
        if let Some(terminal) = &self.terminal {
            self.deputies.command(root, Command::Terminal, Some(terminal.as_fd())).await;
        }
        for ending in std::mem::take(&mut self.waiting) {
            self.ended(ending).await;
        }
    }

    async fn deputy_says(&mut self, event: FromDeputy) {
        match event {
            FromDeputy::Told { pid, told } => {
                if let Some(signal) = self.deputies.signal(pid, &told, self.relays.as_deref()) {
                    self.signal(signal);
                }
                if let (Some(relays), Told::Input(_) | Told::Hangup(_) | Told::Foreground(_)) = (&self.relays, &told) {
                    relays.told(told);
                }
            }
            FromDeputy::Gone { pid } => {
                self.deputies.remove(pid);
                if !self.ending.remove(&pid) {
                    // Killed at home: SIGKILL cannot be held back.
                    self.signal(Signal { pid, signal: libc::SIGKILL, code: 0, value: 0 });
                }
            }
        }
    }

    /// Passes a signal on to the process tree.
    fn signal(&self, signal: Signal) {
        if let Party::Guest(guest) = self.arbiter.owner() {
            self.tell(guest, HomeToGuest::Signal(signal));
        }
    }

    /// An end whose output is in place.
    async fn ended(&mut self, event: Ending) {
        if self.is_deputising {
            return self.waiting.push(event);
        }
        match event {
            Ending::Exited { pid, status, is_root } => {
                if is_root {
                    self.ended = Some(status);
                }
                self.end_deputy(pid, ending(status)).await;
            }
            Ending::Ended => {
                if let Party::Guest(guest) = self.arbiter.owner() {
                    self.tell(guest, HomeToGuest::Done);
                }
                self.end(ExitStatus::Exited(LOST_EXIT_CODE.into())).await;
            }
        }
    }

    async fn end_deputy(&mut self, pid: i32, command: Command) {
        self.ending.insert(pid);
        self.deputies.command(pid, command, None).await;
    }

    /// Nothing of the process tree is left; deputies of which no end was reported end with
    /// `otherwise`.
    async fn end(&mut self, otherwise: ExitStatus) {
        let actions = self.arbiter.end();
        self.act(actions).await;
        self.ended.get_or_insert(otherwise);
        for pid in self.deputies.pids() {
            if !self.ending.contains(&pid) {
                self.end_deputy(pid, ending(otherwise)).await;
            }
        }
        self.leave();
    }

    fn leave(&mut self) {
        self.leave_at.get_or_insert(Instant::now() + LINGER);
    }

    /// What is not reported: halted deputies, a guest that is lost, a job at home that has ended.
    async fn look(&mut self) {
        for signal in self.deputies.halted() {
            self.signal(signal);
        }
        let lost = |guest: &Guest| guest.lost_since.is_some_and(|since| since.elapsed() >= LOST_AFTER);
        match self.arbiter.owner() {
            Party::Home => {
                let is_moving = self.source.as_ref().is_some_and(|source| source.is_running);
                let is_there =
                    start_time_ticks(self.settings.role.root_pid) == Some(self.settings.role.start_time_ticks);
                if !is_there && !is_moving && self.leave_at.is_none() {
                    tracing::info!("the job has ended at home");
                    let actions = self.arbiter.end();
                    self.act(actions).await;
                    self.leave();
                }
                self.give_up_forgotten().await;
                self.open_exec_gate(is_moving);
            }
            Party::Guest(owner) => {
                if self.leave_at.is_none()
                    && let Some(node) =
                        self.guests.get(&owner).filter(|guest| lost(guest)).map(|guest| guest.node.clone())
                {
                    self.lose(&node).await;
                }
            }
        }
        let owner = self.arbiter.owner();
        let moving = self.arbiter.moving().map(|(migration, _)| migration);
        self.guests.retain(|id, guest| Party::Guest(*id) == owner || Some(*id) == moving || !lost(guest));
    }

    /// Without a daemon that looks after it, a job that an exec gate held for a start elsewhere
    /// resumes here after a while. What the engine has frozen it thaws itself.
    fn open_exec_gate(&mut self, is_moving: bool) {
        let cgroup = &self.settings.role.cgroup;
        if is_moving || !cgroup::events(cgroup).is_ok_and(|events| events.frozen) {
            self.held_since = None;
        } else if self.held_since.get_or_insert_with(Instant::now).elapsed() >= self.settings.patience {
            tracing::warn!("its exec gate was closed without a move for too long: it resumes here");
            if let Err(error) = cgroup::thaw(cgroup) {
                tracing::error!(%error, "it cannot be resumed");
            }
        }
    }

    async fn lose(&mut self, node: &str) {
        tracing::error!(node, "the node that ran the job is out of reach; the job is lost");
        if let Some(terminal) = &self.terminal {
            let message =
                format!("\r\nscx_mosix: {node}, which ran this program, is out of reach; the program is lost\r\n");
            let _ = rustix::io::write(terminal, message.as_bytes());
        }
        self.end(ExitStatus::Exited(LOST_EXIT_CODE.into())).await;
    }
}

#[cfg(test)]
mod tests;
