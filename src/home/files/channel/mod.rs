//! The guest's end of the files protocol: gives each request a number, keeps it until its reply is here, and survives the
//! loss of a link.
//!
//! ```text
//!            attach            link lost
//!  Detached ---------> Attached ---------> Detached ... after SILENCE_LIMIT_MS -> Cut (for ever: EIO)
//!                        | silence while requests wait, or a bad frame ---------^
//! ```
//!
//! On `attach` everything that waits is sent again, oldest first. The channel itself does no I/O: frames go into and come
//! from bounded queues that the home link serves.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::SILENCE_LIMIT_MS;
use super::wire::{Caller, Op, Reply, Request};

/// Why an operation got no reply; the program sees `EIO`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Home is no longer there for this guest.
    #[error("home's files are out of reach: {reason}")]
    Cut {
        /// What happened, readable.
        reason: Arc<str>,
    },
    /// Requests still waited at the end of the time allowed.
    #[error("{waiting} file operations were still under way after {limit_ms} ms")]
    StillBusy {
        /// How many.
        waiting: usize,
        /// Time allowed.
        limit_ms: u64,
    },
}

/// What becomes of a request; called exactly once, from any thread, and must not block.
pub(super) type Completion = Box<dyn FnOnce(Result<Reply, ChannelError>) + Send>;

/// The guest's end of the files protocol. Shared by the mount and by whoever serves the home link.
pub struct FileChannel {
    state: Mutex<State>,
    /// Told whenever requests have left `waiting`.
    answered: Condvar,
    cut: CancellationToken,
    runtime: Handle,
    silence_limit: Duration,
}

struct State {
    link: Link,
    /// Counts links, so that the end of an old one does not detach a new one.
    links: u64,
    next_id: u64,
    waiting: BTreeMap<u64, Waiting>,
    heard: Instant,
}

enum Link {
    Detached,
    Attached(mpsc::Sender<Bytes>),
    Cut(Arc<str>),
}

struct Waiting {
    frame: Bytes,
    since: Instant,
    done: Completion,
}

impl FileChannel {
    /// A channel without a link yet. Must be called on a tokio runtime, which then watches for silence.
    pub fn new() -> Arc<Self> {
        Self::with_silence_limit(Duration::from_millis(SILENCE_LIMIT_MS))
    }

    pub(super) fn with_silence_limit(silence_limit: Duration) -> Arc<Self> {
        let channel = Arc::new(Self {
            state: Mutex::new(State {
                link: Link::Detached,
                links: 0,
                next_id: 1,
                waiting: BTreeMap::new(),
                heard: Instant::now(),
            }),
            answered: Condvar::new(),
            cut: CancellationToken::new(),
            runtime: Handle::current(),
            silence_limit,
        });
        tokio::spawn(watch(Arc::downgrade(&channel), silence_limit));
        channel
    }

    /// Uses a new link from now on: frames for home go into `outgoing`, frames from home come out of `incoming`. Either end
    /// closing is the loss of the link; then `attach` another. Requests without a reply are sent again.
    ///
    /// # Errors
    /// The channel is cut for ever.
    pub fn attach(
        self: &Arc<Self>,
        outgoing: mpsc::Sender<Bytes>,
        incoming: mpsc::Receiver<Bytes>,
    ) -> Result<(), ChannelError> {
        let mut state = self.lock();
        if let Link::Cut(reason) = &state.link {
            return Err(ChannelError::Cut { reason: reason.clone() });
        }
        state.link = Link::Attached(outgoing.clone());
        state.links += 1;
        state.heard = Instant::now();
        let unanswered = state.waiting.values().map(|waiting| waiting.frame.clone()).collect();
        self.runtime.spawn(serve_link(self.clone(), state.links, unanswered, outgoing, incoming));
        Ok(())
    }

    /// Ends the channel for ever: all operations under way and all later ones fail with `EIO`. `reason` is for the log.
    pub fn cut(&self, reason: &str) {
        let mut state = self.lock();
        if matches!(state.link, Link::Cut(_)) {
            return;
        }
        let reason: Arc<str> = reason.into();
        state.link = Link::Cut(reason.clone());
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        tracing::warn!(%reason, waiting = waiting.len(), "home's files are cut off");
        self.cut.cancel();
        self.answered.notify_all();
        for waiting in waiting.into_values() {
            (waiting.done)(Err(ChannelError::Cut { reason: reason.clone() }));
        }
    }

    /// Waits until every request made before this call is answered. Blocks: not for a runtime's own threads.
    ///
    /// # Errors
    /// The channel is cut, or `limit` has passed.
    pub fn settle(&self, limit: Duration) -> Result<(), ChannelError> {
        let state = self.lock();
        let before = state.next_id;
        let oldest = |state: &State| state.waiting.first_key_value().is_some_and(|(id, _)| *id < before);
        let (state, _) = self
            .answered
            .wait_timeout_while(state, limit, |state| oldest(state))
            .unwrap_or_else(PoisonError::into_inner);
        match &state.link {
            Link::Cut(reason) => Err(ChannelError::Cut { reason: reason.clone() }),
            _ if oldest(&state) => Err(ChannelError::StillBusy {
                waiting: state.waiting.range(..before).count(),
                limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            }),
            _ => Ok(()),
        }
    }

    /// Sends a request; `done` gets what becomes of it. Blocks while the link's queue is full, until there is room, the link
    /// is lost or the channel is cut: not for a runtime's own threads.
    pub(super) fn submit(&self, caller: Caller, op: Op, done: Completion) {
        let mut state = self.lock();
        if let Link::Cut(reason) = &state.link {
            let error = ChannelError::Cut { reason: reason.clone() };
            drop(state);
            return done(Err(error));
        }
        let id = state.next_id;
        state.next_id += 1;
        let settled = state.waiting.first_key_value().map_or(id, |(oldest, _)| *oldest);
        let frame = Request { id, settled, caller, op }.encode();
        state.waiting.insert(id, Waiting { frame: frame.clone(), since: Instant::now(), done });
        // Without a link it waits for the next one, which sends all that waits.
        let Link::Attached(outgoing) = &state.link else { return };
        let full = match outgoing.try_send(frame) {
            Err(mpsc::error::TrySendError::Full(frame)) => Some((outgoing.clone(), frame)),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => None,
        };
        drop(state);
        if let Some((outgoing, frame)) = full {
            self.runtime.block_on(async {
                tokio::select! {
                    // An error is the loss of the link; the next one sends the frame.
                    _ = outgoing.send(frame) => {}
                    () = self.cut.cancelled() => {}
                }
            });
        }
    }

    /// Sends a request and waits for its reply without blocking.
    pub(super) async fn ask(self: &Arc<Self>, caller: Caller, op: Op) -> Result<Reply, ChannelError> {
        let (sender, receiver) = oneshot::channel();
        let channel = self.clone();
        // On a thread of its own because `submit` may block.
        let submitted = tokio::task::spawn_blocking(move || {
            channel.submit(
                caller,
                op,
                Box::new(move |reply| {
                    let _ = sender.send(reply);
                }),
            );
        });
        let gone = || ChannelError::Cut { reason: "the agent is ending".into() };
        submitted.await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    /// The runtime that serves this channel.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn deliver(&self, frame: Bytes) {
        let (id, reply) = match Reply::decode(frame) {
            Ok(decoded) => decoded,
            Err(error) => return self.cut(&error.to_string()),
        };
        let mut state = self.lock();
        state.heard = Instant::now();
        // Unknown ids: the pulse, or a second reply to what was sent again.
        let Some(waiting) = state.waiting.remove(&id) else { return };
        drop(state);
        self.answered.notify_all();
        (waiting.done)(Ok(reply));
    }

    fn detach(&self, link: u64) {
        let mut state = self.lock();
        if state.links == link && matches!(state.link, Link::Attached(_)) {
            state.link = Link::Detached;
            tracing::info!(waiting = state.waiting.len(), "the link to home's files is lost");
        }
    }

    /// Whether the silence has lasted too long.
    fn is_silent(&self, now: Instant) -> bool {
        let state = self.lock();
        let quiet_since = match state.link {
            Link::Attached(_) => state.waiting.first_key_value().map(|(_, oldest)| oldest.since.max(state.heard)),
            Link::Detached => Some(state.heard),
            Link::Cut(_) => None,
        };
        quiet_since.is_some_and(|since| now.saturating_duration_since(since) > self.silence_limit)
    }

    // A completion that panicked cannot have left the state half changed: it runs without the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for FileChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileChannel").field("waiting", &self.lock().waiting.len()).finish_non_exhaustive()
    }
}

/// Sends what waits, then hands over replies until the link ends.
async fn serve_link(
    channel: Arc<FileChannel>,
    link: u64,
    unanswered: Vec<Bytes>,
    outgoing: mpsc::Sender<Bytes>,
    mut incoming: mpsc::Receiver<Bytes>,
) {
    // Beside the receiving, lest both sides wait for each other with full queues.
    let resend = tokio::spawn(async move {
        for frame in unanswered {
            if outgoing.send(frame).await.is_err() {
                break;
            }
        }
    });
    loop {
        tokio::select! {
            frame = incoming.recv() => match frame {
                Some(frame) => channel.deliver(frame),
                None => break,
            },
            () = channel.cut.cancelled() => break,
        }
    }
    resend.abort();
    channel.detach(link);
}

/// Cuts the channel when home has been silent for too long.
async fn watch(channel: Weak<FileChannel>, silence_limit: Duration) {
    let mut ticks = tokio::time::interval(silence_limit / 30);
    loop {
        ticks.tick().await;
        let Some(channel) = channel.upgrade() else { return };
        if channel.is_silent(Instant::now()) {
            channel.cut(&format!("nothing was heard from home for {} s", silence_limit.as_secs_f32()));
        }
        if channel.cut.is_cancelled() {
            return;
        }
    }
}
