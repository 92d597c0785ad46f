//! The guest's side: a FUSE file system whose every operation is done at home.

mod answer;
mod filesystem;
mod listing;
mod locks;
mod locktable;
mod mount;
mod recent;
mod standstill;
mod twins;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fuser::{INodeNo, Notifier, Request};

use self::listing::Listings;
use self::locktable::LockTable;
use self::recent::Recent;
use self::standstill::Standstill;
use self::twins::Twins;
use super::channel::FileChannel;
use super::settled::Settled;
use super::wire::{Caller, Lock, Op};

pub use locktable::HeldLock;
pub use mount::{MountError, Mounted, mount};

/// The file system; clones share everything.
#[derive(Debug, Clone)]
pub(super) struct HomeFs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    channel: Arc<FileChannel>,
    listings: Listings,
    recent: Recent,
    standstill: Standstill,
    twins: Twins,
    locks: Mutex<LockTable>,
    /// Whether a program of this guest ever asked for a lock, by the thread that reads the kernel's requests.
    locks_asked_for: AtomicBool,
    /// Counts the calls of `interrupt_waits`.
    wait_rounds: AtomicU64,
    notifier: OnceLock<Notifier>,
}

impl HomeFs {
    pub(super) fn new(channel: Arc<FileChannel>, settled: Settled) -> Self {
        Self(Arc::new(Shared {
            channel,
            listings: Listings::default(),
            recent: Recent::default(),
            standstill: Standstill::default(),
            twins: Twins::new(settled),
            locks: Mutex::default(),
            locks_asked_for: AtomicBool::new(false),
            wait_rounds: AtomicU64::new(0),
            notifier: OnceLock::new(),
        }))
    }

    /// By which the kernel is told to drop pages; set once, before the first request.
    pub(super) fn set_notifier(&self, notifier: Notifier) {
        let _ = self.0.notifier.set(notifier);
    }

    pub(super) fn channel(&self) -> &Arc<FileChannel> {
        &self.0.channel
    }

    pub(super) fn held_locks(&self) -> Vec<HeldLock> {
        self.with_locks(|locks| locks.all().to_vec())
    }

    pub(super) fn note_lock(&self, node: u64, handle: u64, owner: u64, lock: Lock, flock: bool) {
        self.with_locks(|locks| locks.set(node, handle, owner, lock, flock));
    }

    pub(super) fn interrupt_waits(&self) {
        self.0.wait_rounds.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn wait_rounds(&self) -> u64 {
        self.0.wait_rounds.load(Ordering::Relaxed)
    }

    /// Writes a file's changed pages home and forgets all its pages. On a thread of its own, because the kernel waits for
    /// reads of the file under way, whose replies come over the runtime that calls this.
    pub(super) async fn drop_pages(&self, node: INodeNo) {
        let Some(notifier) = self.0.notifier.get().cloned() else { return };
        let dropped = tokio::task::spawn_blocking(move || notifier.inval_inode(node, 0, 0)).await;
        if !matches!(dropped, Ok(Ok(()))) {
            tracing::warn!(?dropped, "the kernel kept pages of a file whose lock changed");
        }
    }

    fn standstill(&self) -> &Standstill {
        &self.0.standstill
    }

    fn with_locks<T>(&self, use_them: impl FnOnce(&mut LockTable) -> T) -> T {
        use_them(&mut self.0.locks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks home, unless it has said so already and nothing of the body runs; `respond` turns its answer into the kernel's.
    fn ask<R: Send + 'static>(
        &self,
        req: &Request,
        op: Op,
        reply: R,
        respond: impl FnOnce(answer::Answer, R) + Send + 'static,
    ) {
        if let Some(known) = self.0.standstill.recall(&op) {
            return respond(Ok(known), reply);
        }
        let question = self.0.standstill.ask(&op);
        let fs = self.clone();
        let done = move |answer| {
            fs.0.standstill.hear(question, &answer);
            respond(answer, reply);
        };
        self.0.channel.submit(caller(req), op, Box::new(done));
    }
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}
