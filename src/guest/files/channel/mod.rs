//! The guest's end of the files protocol: numbers requests, keeps what to do with each reply,
//! remembers what home said that still holds, ends all of it when home is lost.
//!
//! ```text
//!  submit(op, done): a free slot? -> id -> waiting[id] = done -> frame -> outgoing ==> home link
//!  home link ==> incoming -> frame -> cache: invalidate -> waiting.remove(id) -> cache: insert -> done(reply)
//!
//!  Open ---- incoming closed, a bad frame, or SILENCE_LIMIT_MS without a frame while requests wait ----> Cut: EIO for ever
//! ```
//!
//! The channel does no I/O: frames go into and come from bounded queues. The home link behind them
//! delivers each frame once and in order, over as many connections as it takes; the channel notices
//! only that it takes long.

mod attributes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::attributes::{AttributeCache, Question};
use crate::link::files::{MAX_IN_FLIGHT, SILENCE_LIMIT_MS};
use crate::protocol::files::{Attr, Caller, Op, Reply, Request};

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

/// How long a file that was only read may stay open at home when it is closed here. That takes a
/// message and its answer and says nothing to the program, so those that it closes one after the
/// other are closed together.
const CLOSE_DELAY: Duration = Duration::from_millis(100);

/// Most files that are closed together.
const MAX_CLOSING: usize = 1024;

/// What becomes of a request; called exactly once, from any thread, and must not block.
pub(super) type Completion = Box<dyn FnOnce(Result<Reply, ChannelError>) + Send>;

/// The guest's end of the files protocol. Shared by the mount and by the owner of the home link.
pub struct FileChannel {
    state: Mutex<State>,
    /// Held while files are taken out of `closing` and home is asked to close them.
    closes: Mutex<()>,
    /// Told whenever requests have left `waiting`.
    answered: Condvar,
    /// Counts what was heard from home.
    news: AtomicU64,
    cache: AttributeCache,
    outgoing: mpsc::Sender<Bytes>,
    slots: Arc<Semaphore>,
    cut: CancellationToken,
    runtime: Handle,
}

struct State {
    /// Set when the channel is cut.
    reason: Option<Arc<str>>,
    next_id: u64,
    waiting: BTreeMap<u64, Waiting>,
    heard: Instant,
    /// Open files that home may close.
    closing: Vec<u64>,
}

struct Waiting {
    since: Instant,
    caller: Caller,
    question: Option<Question>,
    done: Completion,
    _slot: OwnedSemaphorePermit,
}

impl FileChannel {
    /// A channel to home: frames for home go into `outgoing`, frames from home come out of
    /// `incoming`, both in order and without loss. `incoming` closing means that home is lost. Must
    /// be called on a tokio runtime, which serves the channel.
    pub fn new(outgoing: mpsc::Sender<Bytes>, incoming: mpsc::Receiver<Bytes>) -> Arc<Self> {
        Self::with_silence_limit(outgoing, incoming, Duration::from_millis(SILENCE_LIMIT_MS))
    }

    /// The same with another limit than [`SILENCE_LIMIT_MS`].
    pub fn with_silence_limit(
        outgoing: mpsc::Sender<Bytes>,
        incoming: mpsc::Receiver<Bytes>,
        silence_limit: Duration,
    ) -> Arc<Self> {
        let state =
            State { reason: None, next_id: 1, waiting: BTreeMap::new(), heard: Instant::now(), closing: Vec::new() };
        let channel = Arc::new(Self {
            state: Mutex::new(state),
            closes: Mutex::default(),
            answered: Condvar::new(),
            news: AtomicU64::new(0),
            cache: AttributeCache::default(),
            outgoing,
            slots: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            cut: CancellationToken::new(),
            runtime: Handle::current(),
        });
        tokio::spawn(receive(Arc::downgrade(&channel), channel.cut.clone(), incoming, silence_limit));
        channel
    }

    /// Ends the channel for ever: all operations under way and all later ones fail with `EIO`.
    /// `reason` is for people.
    pub fn cut(&self, reason: &str) {
        let mut state = self.lock();
        if state.reason.is_some() {
            return;
        }
        let reason: Arc<str> = reason.into();
        state.reason = Some(reason.clone());
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        tracing::warn!(%reason, waiting = waiting.len(), "home's files are cut off");
        self.cut.cancel();
        self.slots.close();
        self.answered.notify_all();
        for waiting in waiting.into_values() {
            self.cache.insert(waiting.question, None);
            (waiting.done)(Err(ChannelError::Cut { reason: reason.clone() }));
        }
    }

    /// Says that the process tree is about to learn something from home by another way, such as
    /// input or a signal. From then on a program that reads a file sees at least what was there
    /// when home sent it. Cheap: call it for each such message, before passing it on.
    pub fn news(&self) {
        self.news.fetch_add(1, Ordering::AcqRel);
        self.cache.overtaken();
    }

    /// What home has said, and still holds.
    pub(super) fn cache(&self) -> &AttributeCache {
        &self.cache
    }

    /// How much has been heard from home so far.
    pub(super) fn news_count(&self) -> u64 {
        self.news.load(Ordering::Acquire)
    }

    /// Waits until every request made before this call is answered. Blocks: not for a runtime's own
    /// threads.
    ///
    /// # Errors
    /// The channel is cut, or `limit` has passed.
    pub(super) fn settle(&self, limit: Duration) -> Result<(), ChannelError> {
        self.close_now();
        let state = self.lock();
        let before = state.next_id;
        let (state, _) = self
            .answered
            .wait_timeout_while(state, limit, |state| state.waiting.range(..before).next().is_some())
            .unwrap_or_else(PoisonError::into_inner);
        match (&state.reason, state.waiting.range(..before).count()) {
            (Some(reason), _) => Err(ChannelError::Cut { reason: reason.clone() }),
            (None, 0) => Ok(()),
            (None, waiting) => {
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                Err(ChannelError::StillBusy { waiting, limit_ms })
            }
        }
    }

    /// The answer to what the kernel asks, if home has given it already, to whomever.
    pub(super) fn lookup(&self, caller: Caller, op: &Op) -> Option<Reply> {
        Some(told_to(caller, self.cache.lookup(op)?))
    }

    /// Lets home close an open file soon. Blocks as [`Self::submit`] does.
    pub(super) fn close_soon(self: &Arc<Self>, handle: u64) {
        let mut state = self.lock();
        state.closing.push(handle);
        let closing = state.closing.len();
        drop(state);
        match closing {
            1 => {}
            MAX_CLOSING => return self.close_now(),
            _ => return,
        }
        let channel = Arc::downgrade(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(CLOSE_DELAY).await;
            if let Some(channel) = channel.upgrade().filter(|channel| !channel.lock().closing.is_empty()) {
                // On a thread of its own because `submit` may block.
                tokio::task::spawn_blocking(move || channel.close_now());
            }
        });
    }

    /// The call returns when all that was to be closed is asked for, also by another thread.
    fn close_now(&self) {
        let _alone = self.closes.lock().unwrap_or_else(PoisonError::into_inner);
        let handles = std::mem::take(&mut self.lock().closing);
        if !handles.is_empty() {
            self.submit(Caller { uid: 0, gid: 0 }, Op::Release { handles }, Box::new(|_| {}));
        }
    }

    /// Sends a request; `done` gets what becomes of it. Blocks while [`MAX_IN_FLIGHT`] requests are
    /// under way or the queue is full, until the channel is cut: not for a runtime's own threads.
    pub(super) fn submit(&self, caller: Caller, op: Op, done: Completion) {
        let slot = match self.slots.clone().try_acquire_owned() {
            Ok(slot) => Some(slot),
            Err(_) => self.runtime.block_on(self.slots.clone().acquire_owned()).ok(),
        };
        let mut state = self.lock();
        let slot = match (slot, &state.reason) {
            (Some(slot), None) => slot,
            (_, reason) => {
                let reason = reason.clone().unwrap_or_else(|| "the agent is ending".into());
                drop(state);
                return done(Err(ChannelError::Cut { reason }));
            }
        };
        let id = state.next_id;
        state.next_id += 1;
        let question = self.cache.ask(&op);
        state.waiting.insert(id, Waiting { since: Instant::now(), caller, question, done, _slot: slot });
        // Under the lock, so that frames leave in the order of their numbers.
        let sent = self.outgoing.try_send(Request { id, caller, op }.encode());
        drop(state);
        match sent {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(frame)) => {
                let sent = async {
                    tokio::select! {
                        sent = self.outgoing.send(frame) => sent.is_ok(),
                        () = self.cut.cancelled() => true,
                    }
                };
                if !self.runtime.block_on(sent) {
                    self.cut("the link to home is closed");
                }
            }
            Err(mpsc::error::TrySendError::Closed(_)) => self.cut("the link to home is closed"),
        }
    }

    /// Sends a request and waits for its reply without blocking.
    pub(super) async fn ask(self: &Arc<Self>, caller: Caller, op: Op) -> Result<Reply, ChannelError> {
        let (sender, receiver) = oneshot::channel();
        let channel = self.clone();
        // On a thread of its own because `submit` may block.
        let submitted = tokio::task::spawn_blocking(move || {
            let done = move |reply| {
                let _ = sender.send(reply);
            };
            channel.submit(caller, op, Box::new(done));
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
        let (id, breaks, reply) = match Reply::decode(frame) {
            Ok(decoded) => decoded,
            Err(error) => return self.cut(&error.to_string()),
        };
        self.cache.invalidate(&breaks);
        let mut state = self.lock();
        state.heard = Instant::now();
        // A pulse answers nothing.
        let Some(waiting) = state.waiting.remove(&id) else { return };
        drop(state);
        self.news.fetch_add(1, Ordering::AcqRel);
        self.cache.insert(waiting.question, Some(&reply));
        self.answered.notify_all();
        (waiting.done)(Ok(told_to(waiting.caller, reply)));
    }

    /// Since when requests wait without a word from home.
    fn silent_since(&self) -> Option<Instant> {
        let state = self.lock();
        state.waiting.first_key_value().map(|(_, oldest)| oldest.since.max(state.heard))
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

/// Hands over replies and watches for silence until the channel is cut or dropped.
async fn receive(
    channel: Weak<FileChannel>,
    cut: CancellationToken,
    mut incoming: mpsc::Receiver<Bytes>,
    silence_limit: Duration,
) {
    let mut ticks = tokio::time::interval(silence_limit / 30);
    loop {
        let frame = tokio::select! {
            () = cut.cancelled() => return,
            frame = incoming.recv() => Some(frame),
            _ = ticks.tick() => None,
        };
        let Some(channel) = channel.upgrade() else { return };
        match frame {
            Some(Some(frame)) => channel.deliver(frame),
            Some(None) => channel.cut("the link to home is closed"),
            None if channel.silent_since().is_some_and(|since| since.elapsed() > silence_limit) => {
                channel.cut(&format!("nothing was heard from home for {} s", silence_limit.as_secs_f32()));
            }
            None => {}
        }
    }
}

/// What becomes of home's reply for those who asked: root's programs may be those that change what
/// is stable, so they cache nothing that is not leased.
fn told_to(caller: Caller, reply: Reply) -> Reply {
    if caller.uid != 0 {
        return reply;
    }
    match reply {
        Reply::Entry { node, attr, leased } => Reply::Entry { node, attr: Attr { stable: false, ..attr }, leased },
        Reply::Attr { attr } => Reply::Attr { attr: Attr { stable: false, ..attr } },
        Reply::Opened { handle, backing, contents, .. } => Reply::Opened { handle, stable: false, backing, contents },
        Reply::Missing { leased: true, .. } => Reply::Missing { stable: false, leased: true },
        Reply::Missing { leased: false, .. } => Reply::Error { errno: libc::ENOENT },
        other => other,
    }
}
