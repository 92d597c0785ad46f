//! What the daemon asks, and the first move: out of home itself.

use std::os::fd::OwnedFd;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::first_move::{FirstMoveError, FromSource, HomeOwner};
use super::{Core, Source};
use crate::agent::{NOT_CARRIED_ON, never_begun};
use crate::causes::explain;
use crate::descriptors::{self, TakeError};
use crate::home::arbiter::{Action, Party};
use crate::home::inject::deputise;
use crate::home::relay::HomeRelays;
use crate::job::SessionId;
use crate::migration::movable;
use crate::migration::source::{self, Move, OwnerError, Place, ProcessTree, Verdict};
use crate::protocol::{FromAgent, StreamKind, ToAgent, TreeFacts, home::ChannelKind};
use crate::sys::{cgroup, signals};

/// Whether the process tree can move, found out for a `Begin`.
pub(super) struct Checked {
    pub(super) migration: SessionId,
    pub(super) target: String,
    pub(super) facts: Result<TreeFacts, FirstMoveError>,
}

impl Core {
    fn tree(&self) -> ProcessTree {
        let role = &self.settings.role;
        ProcessTree { root_pid: role.root_pid, cgroup: role.cgroup.clone(), place: Place::Here }
    }

    pub(super) async fn request(&mut self, request: ToAgent, descriptor: Option<OwnedFd>) {
        match (request, descriptor) {
            (ToAgent::Begin { migration, target }, _) => self.check(migration, target),
            (ToAgent::Move { migration, target_address }, _) => self.start_move(migration, target_address),
            (ToAgent::Cancel { migration, reason }, _) => self.cancel(migration, &reason).await,
            (ToAgent::Stream { kind }, Some(socket)) => self.incoming(kind, socket),
            (ToAgent::Stream { .. }, None) => tracing::warn!("a stream without its socket"),
            (ToAgent::Signal { signal }, _) => {
                // Sent to the process at home, be it the program or its deputy.
                if let Err(error) = signals::send(self.settings.role.root_pid, signal, None) {
                    tracing::info!(signal, %error, "a signal could not be sent");
                }
            }
            (ToAgent::Constrain { .. }, _) => tracing::warn!("ignored: the daemon keeps what holds for jobs at home"),
            (ToAgent::Terminate { reason }, _) => match (self.arbiter.owner(), self.arbiter.moving()) {
                (Party::Home, None) => {
                    tracing::info!(reason, "the home agent of a job at home ends");
                    self.leave();
                }
                _ => tracing::warn!(reason, "the home agent stays: its job is elsewhere or on its way"),
            },
        }
    }

    /// Looks at the process tree in a task of its own; [`Self::begin`] continues.
    fn check(&self, migration: SessionId, target: String) {
        let (tree, checked) = (self.tree(), self.to.checked.clone());
        tokio::spawn(async move {
            let look_once = |tree: &ProcessTree| -> Result<TreeFacts, FirstMoveError> {
                let facts = movable::check_once(tree)?;
                let pids = cgroup::members(&tree.cgroup)?;
                let pids: Vec<i32> =
                    pids.iter().filter(|process| process.state != 'Z').map(|process| process.pid).collect();
                let holders = descriptors::Holders::look().map_err(TakeError::Outside)?;
                descriptors::forecast(&pids, &holders)?;
                Ok(facts)
            };
            let look = move || movable::lasting(&tree.cgroup, || look_once(&tree));
            let facts = tokio::task::spawn_blocking(look).await.unwrap_or_else(|error| Err(error.into()));
            let _ = checked.send(Checked { migration, target, facts }).await;
        });
    }

    pub(super) async fn begin(&mut self, Checked { migration, target, facts }: Checked) {
        let refused = match (&facts, self.arbiter.owner()) {
            (_, Party::Guest(_)) => Some("the program does not run at home".to_owned()),
            (Err(error), Party::Home) => Some(explain(error)),
            (Ok(_), Party::Home) => None,
        };
        if refused.is_some() {
            return self.report(FromAgent::Begun { migration, refused, facts: None });
        }
        let mut refused = None;
        for action in self.arbiter.begin(Party::Home, migration, target.clone()) {
            if let Action::Begun { refused: why, .. } = action {
                refused = why;
            }
        }
        if refused.is_none() && self.source.as_ref().is_none_or(|source| source.migration != migration) {
            let (cancel, committed) = (CancellationToken::new(), watch::Sender::new(None));
            let begun = Instant::now();
            self.source =
                Some(Source { migration, target, cancel, committed, verdict: None, begun, is_running: false });
        }
        let facts = if refused.is_none() { facts.ok() } else { None };
        self.report(FromAgent::Begun { migration, refused, facts });
    }

    /// Home's own `Begin` is answered in [`Self::begin`], with the facts.
    pub(super) fn home_begun(&self, migration: SessionId, refused: Option<String>) {
        self.report(FromAgent::Begun { migration, refused, facts: None });
    }

    fn report(&self, report: FromAgent) {
        if self.reports.send(report).is_err() {
            tracing::debug!("no daemon listens now");
        }
    }

    fn start_move(&mut self, migration: SessionId, address: String) {
        let tree = self.tree();
        let Some(source) = self.source.as_mut().filter(|source| source.migration == migration) else {
            return self.report(never_begun(migration));
        };
        if std::mem::replace(&mut source.is_running, true) {
            return tracing::warn!(%migration, "a move that is under way already");
        }
        let owner =
            HomeOwner { tree: tree.clone(), core: self.to.source.clone(), committed: source.committed.subscribe() };
        let plan = Move { migration, tree, run_dir: self.settings.run_dir.clone() };
        let (connector, target, cancel) =
            (self.settings.connector.clone(), source.target.clone(), source.cancel.clone());
        tokio::spawn(async move {
            let connect = async {
                connector.dial(&target, &address, StreamKind::Move, migration).await.map_err(OwnerError::from)
            };
            let outcome = source::run(&plan, &owner, connect, cancel).await;
            tracing::info!(%migration, ?outcome, "the move out of home has ended");
        });
    }

    async fn cancel(&mut self, migration: SessionId, reason: &str) {
        match self.source.as_ref().filter(|source| source.migration == migration) {
            // The engine asks for the abort.
            Some(source) if source.is_running => source.cancel.cancel(),
            Some(_) => {
                let actions = self.arbiter.abort(Party::Home, migration, reason);
                self.act(actions).await;
                self.source = None;
            }
            None => {
                tracing::info!(%migration, reason, "a move that is unknown was cancelled");
                // The look at its process tree may still be under way: nothing is begun then. There
                // is no daemon to answer.
                if self.arbiter.owner() == Party::Home {
                    let _ = self.arbiter.abort(Party::Home, migration, reason);
                }
            }
        }
    }

    /// A daemon that began a move may die before it continues.
    pub(super) async fn give_up_forgotten(&mut self) {
        let is_forgotten = |source: &Source| !source.is_running && source.begun.elapsed() >= self.settings.patience;
        let forgotten = self.source.as_ref().filter(|source| is_forgotten(source)).map(|source| source.migration);
        if let Some(migration) = forgotten {
            tracing::warn!(%migration, "given up: {NOT_CARRIED_ON}");
            self.cancel(migration, NOT_CARRIED_ON).await;
        }
    }

    pub(super) async fn source_says(&mut self, event: FromSource) {
        match event {
            FromSource::Progress(progress) => self.report(FromAgent::Progress(progress)),
            FromSource::Frozen { taken, originals } => self.taken = Some((taken, originals)),
            FromSource::Dumped => {
                if let Some(migration) = self.source.as_ref().map(|source| source.migration) {
                    let actions = self.arbiter.drained(Party::Home, migration);
                    self.act(actions).await;
                }
            }
            FromSource::Abort { reason, verdict } => {
                let Some(source) = &mut self.source else { return };
                source.verdict = Some(verdict);
                let migration = source.migration;
                let actions = self.arbiter.abort(Party::Home, migration, &reason);
                self.act(actions).await;
            }
        }
    }

    /// Home's answer to its own engine: `None` if the move was given up, the epoch if it had been
    /// committed.
    pub(super) fn home_verdict(&mut self, committed: Option<u64>) {
        let Some(source) = &mut self.source else { return };
        let answer = committed.map_or(Verdict::Aborted, |epoch| Verdict::Committed { epoch });
        if let Some(verdict) = source.verdict.take() {
            // The receiver is gone only if the engine has ended.
            let _ = verdict.send(answer);
        }
        if committed.is_none() {
            self.source = None;
            self.taken = None;
        }
    }

    /// The process tree is elsewhere from now on: its originals become deputies, and what they had
    /// open is relayed.
    pub(super) fn retire_home(&mut self, epoch: u64) {
        if let Some(source) = &self.source {
            source.committed.send_replace(Some(epoch));
        }
        self.home_verdict(Some(epoch));
        // Already done if this answers an abort that came too late.
        let Some((taken, originals)) = self.taken.take() else { return };
        let terminal = taken.channels.iter().find(|taken| taken.channel.kind == ChannelKind::Tty);
        self.terminal = terminal.and_then(|taken| taken.descriptor.try_clone().ok());
        self.files = taken.files;
        match HomeRelays::start(taken.channels, self.to.terminal.clone()) {
            Ok(relays) => self.relays = Some(std::sync::Arc::new(relays)),
            Err(error) => tracing::error!(%error, "the job's pipes and terminal cannot be relayed"),
        }
        self.is_deputising = true;
        let (cgroup, deputised) = (self.settings.role.cgroup.clone(), self.to.deputised.clone());
        tokio::task::spawn_blocking(move || {
            let results = deputise(&originals, || cgroup::thaw(&cgroup).map_err(|error| error.cause));
            let _ = deputised.blocking_send(results);
        });
    }
}
