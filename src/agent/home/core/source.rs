//! What the daemon asks, and the first move: out of home itself.

use std::os::fd::OwnedFd;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::first_move::{FromSource, HomeOwner};
use super::{Core, Source};
use crate::agent::NOT_CARRIED_ON;
use crate::control::{BodyFacts, FromAgent, SessionId, StreamKind, ToAgent};
use crate::home::arbiter::{Action, Party};
use crate::home::descriptors;
use crate::home::inject::deputise;
use crate::home::relay::home::HomeRelays;
use crate::home::wire::ChannelKind;
use crate::migration::movable;
use crate::migration::source::{self, Body, Move, Place, Verdict};

/// Whether the body can move, found out for a `Begin`.
pub(super) struct Checked {
    pub(super) migration: SessionId,
    pub(super) target: String,
    pub(super) facts: Result<BodyFacts, String>,
}

impl Core {
    fn body(&self) -> Body {
        let role = &self.settings.role;
        Body { root_pid: role.root_pid, cgroup: role.cgroup.clone(), place: Place::Here }
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
                // SAFETY: the call takes numbers only.
                if unsafe { libc::kill(self.settings.role.root_pid, signal) } != 0 {
                    tracing::info!(signal, error = %std::io::Error::last_os_error(), "a signal could not be sent");
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

    /// Looks at the body in a task of its own; [`Self::begin`] goes on.
    fn check(&self, migration: SessionId, target: String) {
        let (body, checked) = (self.body(), self.to.checked.clone());
        tokio::spawn(async move {
            let look = move || {
                let facts = movable::check(&body).map_err(|error| error.to_string())?;
                let pids = crate::migration::process::members(&body.cgroup).map_err(|error| error.to_string())?;
                let pids: Vec<i32> =
                    pids.iter().filter(|process| process.state != 'Z').map(|process| process.pid).collect();
                let holders = descriptors::Holders::look().map_err(|error| error.to_string())?;
                descriptors::forecast(&pids, &holders).map_err(|error| error.to_string())?;
                Ok(facts)
            };
            let facts = tokio::task::spawn_blocking(look).await.unwrap_or_else(|error| Err(error.to_string()));
            let _ = checked.send(Checked { migration, target, facts }).await;
        });
    }

    pub(super) async fn begin(&mut self, Checked { migration, target, facts }: Checked) {
        let refused = match (&facts, self.arbiter.owner()) {
            (_, Party::Guest(_)) => Some("the program does not run at home".to_owned()),
            (Err(reason), Party::Home) => Some(reason.clone()),
            (Ok(_), Party::Home) => None,
        };
        if refused.is_some() {
            return self.report(FromAgent::Begun { migration, refused, body: None });
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
        let body = if refused.is_none() { facts.ok() } else { None };
        self.report(FromAgent::Begun { migration, refused, body });
    }

    /// Home's own `Begin` is answered in [`Self::begin`], with the facts.
    pub(super) fn home_begun(&self, migration: SessionId, refused: Option<String>) {
        self.report(FromAgent::Begun { migration, refused, body: None });
    }

    fn report(&self, report: FromAgent) {
        if self.reports.send(report).is_err() {
            tracing::debug!("no daemon listens now");
        }
    }

    fn start_move(&mut self, migration: SessionId, address: String) {
        let body = self.body();
        let Some(source) = self.source.as_mut().filter(|source| source.migration == migration && !source.is_running)
        else {
            return tracing::warn!(%migration, "a move that was not begun, or is under way already");
        };
        source.is_running = true;
        let owner =
            HomeOwner { body: body.clone(), core: self.to.source.clone(), committed: source.committed.subscribe() };
        let plan = Move { migration, body, run_dir: self.settings.run_dir.clone() };
        let (connector, target, cancel) =
            (self.settings.connector.clone(), source.target.clone(), source.cancel.clone());
        tokio::spawn(async move {
            let connect =
                async { connector.dial(&target, &address, StreamKind::Move, migration).await.map_err(source::explain) };
            let outcome = source::run(&plan, &owner, connect, cancel).await;
            tracing::info!(%migration, ?outcome, "the move out of home is settled");
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
                // The look at its body may still be under way: nothing is begun then. There is nobody to answer.
                if self.arbiter.owner() == Party::Home {
                    let _ = self.arbiter.abort(Party::Home, migration, reason);
                }
            }
        }
    }

    /// A daemon that began a move may die before it goes on.
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

    /// Home's answer to its own engine: `None` if the move was given up, the epoch if it had been committed.
    pub(super) fn home_verdict(&mut self, committed: Option<u64>) {
        let Some(source) = &mut self.source else { return };
        let answer = committed.map_or(Verdict::Aborted, |epoch| Verdict::Committed { epoch });
        if let Some(verdict) = source.verdict.take() {
            // Nobody waits any more only if the engine has ended.
            let _ = verdict.send(answer);
        }
        if committed.is_none() {
            self.source = None;
            self.taken = None;
        }
    }

    /// The body is elsewhere from now on: its originals become deputies, and what they had open is relayed.
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
        let (freeze, deputised) = (self.settings.role.cgroup.join("cgroup.freeze"), self.to.deputised.clone());
        tokio::task::spawn_blocking(move || {
            let results = deputise(&originals, || std::fs::write(&freeze, "0"));
            let _ = deputised.blocking_send(results);
        });
    }
}
