//! What home says, sorted out: decisions, answers, signals, steps of stdio.
//!
//! One task reads the link, in order and quickly. Decisions are kept, not queued: later questions
//! are answered from them too.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    guest::{files::FileChannel, relay::GuestRelays},
    job::SessionId,
    link::{Event, LinkSender},
    protocol::home::{GuestToHome, HomeToGuest, Signal},
};

/// Home's word on a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It brought, or may bring, the process tree here: run, under this epoch.
    Run(u64),
    /// It took the process tree away from here.
    Gone,
    /// It will never be committed: why.
    Aborted(String),
}

/// Signals that wait for the agent; they are few.
const QUEUE: usize = 64;

#[derive(Default)]
struct Heard {
    decisions: BTreeMap<SessionId, Decision>,
    begun: BTreeMap<SessionId, Option<String>>,
    is_done: bool,
}

/// Home as the agent knows it.
pub struct Home {
    /// The way to tell home.
    pub sender: LinkSender<GuestToHome>,
    heard: watch::Sender<Heard>,
    relays: Mutex<Option<Arc<GuestRelays>>>,
    /// Cancelled when home wants the guest to end, or breaks the protocol.
    pub terminated: CancellationToken,
}

impl Home {
    /// Starts reading what home says; `files` hears that there is something. The receiver gets
    /// signals for the process tree.
    pub fn listen(
        sender: LinkSender<GuestToHome>,
        mut events: mpsc::Receiver<Event<HomeToGuest>>,
        files: Arc<FileChannel>,
    ) -> (Arc<Self>, mpsc::Receiver<Signal>) {
        let home = Arc::new(Self {
            sender,
            heard: watch::Sender::default(),
            relays: Mutex::default(),
            terminated: CancellationToken::new(),
        });
        let (signals, receiver) = mpsc::channel(QUEUE);
        let heard = home.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                // It may have overtaken what home says of files.
                files.news();
                heard.hear(event, &signals).await;
            }
        });
        (home, receiver)
    }

    async fn hear(&self, event: Event<HomeToGuest>, signals: &mpsc::Sender<Signal>) {
        match event {
            Event::Stdio(stdio) => {
                let relays = self.relays().clone();
                if let Some(Err(error)) = relays.map(|relays| relays.deliver(stdio)) {
                    tracing::error!(%error, "home breaks the protocol");
                    self.terminated.cancel();
                }
            }
            Event::Control(HomeToGuest::Signal(signal)) => {
                if signals.send(signal).await.is_err() {
                    tracing::debug!(?signal, "a signal for a guest that is ending");
                }
            }
            Event::Control(HomeToGuest::Begun { migration, refused }) => {
                self.heard.send_modify(|heard| drop(heard.begun.insert(migration, refused)));
            }
            Event::Control(HomeToGuest::Aborted { migration, reason }) => {
                self.decide(migration, Decision::Aborted(reason))
            }
            Event::Control(HomeToGuest::Run { migration, epoch }) => self.decide(migration, Decision::Run(epoch)),
            Event::Control(HomeToGuest::Gone { migration }) => self.decide(migration, Decision::Gone),
            Event::Control(HomeToGuest::Done) => self.heard.send_modify(|heard| heard.is_done = true),
            Event::Control(HomeToGuest::Terminate { reason }) => {
                tracing::warn!(reason, "home ends this guest");
                self.terminated.cancel();
            }
        }
    }

    fn decide(&self, migration: SessionId, decision: Decision) {
        tracing::info!(%migration, ?decision, "home has decided");
        self.heard.send_modify(|heard| drop(heard.decisions.insert(migration, decision)));
    }

    /// Home's word on a migration, as soon as there is one. Cancel-safe.
    pub async fn decision(&self, migration: SessionId) -> Decision {
        self.hear_of(|heard| heard.decisions.get(&migration).cloned()).await
    }

    /// Home's answer to a `Begin`: why not, if it refused. Cancel-safe.
    pub async fn begun(&self, migration: SessionId) -> Option<String> {
        self.hear_of(|heard| heard.begun.get(&migration).cloned()).await
    }

    /// Home has got everything and lets the agent go. Cancel-safe.
    pub async fn done(&self) {
        self.hear_of(|heard| heard.is_done.then_some(())).await;
    }

    async fn hear_of<T>(&self, find: impl Fn(&Heard) -> Option<T>) -> T {
        let mut heard = self.heard.subscribe();
        loop {
            if let Some(found) = find(&heard.borrow_and_update()) {
                return found;
            }
            // The sender is ours, so it does not go away.
            let _ = heard.changed().await;
        }
    }

    /// Steps of stdio go to these relays from now on.
    pub fn set_relays(&self, relays: Arc<GuestRelays>) {
        *self.relays() = Some(relays);
    }

    /// Lets the relays go.
    pub fn drop_relays(&self) {
        drop(self.relays().take());
    }

    /// Tells home. Waits while the link is full; what cannot be told because the link is lost for
    /// good is dropped, since then the guest ends.
    pub async fn tell(&self, message: GuestToHome) {
        if let Err(error) = self.sender.control(&message).await {
            tracing::warn!(%error, ?message, "home cannot be told");
        }
    }

    fn relays(&self) -> MutexGuard<'_, Option<Arc<GuestRelays>>> {
        // A plain option: it is never half changed.
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
