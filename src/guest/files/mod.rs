//! The guest's side of home's files: a FUSE file system whose every operation is done at home.

mod answer;
mod backing;
mod channel;
mod filesystem;
mod listing;
mod locks;
mod locktable;
mod mount;
mod recent;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use fuser::{
    FileHandle, FopenFlags, INodeNo, Notifier, OpenAccMode, OpenFlags, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyOpen,
    Request,
};

use self::backing::{BackingFiles, IoMode};
use self::listing::Listings;
use self::locktable::LockTable;
use self::recent::Recent;
use crate::link::files::StableFiles;
use crate::protocol::files::{Caller, Lock, Op, Reply};

pub use channel::{ChannelError, FileChannel};
pub use locktable::HeldLock;
pub use mount::{FS_TYPE, MountError, Mounted, mount};

/// The file system; clones share everything.
#[derive(Debug, Clone)]
pub(super) struct HomeFs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    channel: Arc<FileChannel>,
    listings: Listings,
    recent: Recent,
    backing_files: BackingFiles,
    locks: Mutex<LockTable>,
    /// Whether a program of this guest ever asked for a lock, by the thread that reads the kernel's
    /// requests.
    locks_asked_for: AtomicBool,
    /// Counts the calls of `interrupt_waits`.
    wait_rounds: AtomicU64,
    notifier: OnceLock<Notifier>,
}

impl HomeFs {
    pub(super) fn new(channel: Arc<FileChannel>, stable: StableFiles, node_root: OwnedFd) -> Self {
        Self(Arc::new(Shared {
            channel,
            listings: Listings::default(),
            recent: Recent::default(),
            backing_files: BackingFiles::new(stable, node_root),
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

    /// Writes a file's changed pages home and forgets all its pages. On a thread of its own,
    /// because the kernel waits for reads of the file under way, whose replies come over the
    /// runtime that calls this.
    pub(super) async fn drop_pages(&self, node: INodeNo) {
        let Some(notifier) = self.0.notifier.get().cloned() else { return };
        let dropped = tokio::task::spawn_blocking(move || notifier.inval_inode(node, 0, 0)).await;
        if !matches!(dropped, Ok(Ok(()))) {
            tracing::warn!(?dropped, "the kernel kept pages of a file whose lock changed");
        }
    }

    fn with_locks<T>(&self, use_them: impl FnOnce(&mut LockTable) -> T) -> T {
        use_them(&mut self.0.locks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks home, unless what it has said still holds; `respond` turns its answer into the
    /// kernel's.
    fn ask<R: Send + 'static>(
        &self,
        req: &Request,
        op: Op,
        reply: R,
        respond: impl FnOnce(answer::Answer, R) + Send + 'static,
    ) {
        let caller = caller(req);
        if let Some(known) = self.channel().lookup(caller, &op) {
            return respond(Ok(known), reply);
        }
        self.channel().submit(caller, op, Box::new(move |answer| respond(answer, reply)));
    }

    /// Asks home for the attributes of an open file, unless they were heard last of all.
    fn ask_recent(&self, req: &Request, node: u64, handle: u64, reply: ReplyAttr) {
        let (caller, op) = (caller(req), Op::Getattr { node });
        if let Some(known) = self.channel().lookup(caller, &op) {
            return answer::attr(Ok(known), reply);
        }
        let (asked, before) = (Instant::now(), self.channel().news_count());
        if let Some(attr) = self.0.recent.of(handle, asked, before) {
            return answer::attr(Ok(Reply::Attr { attr }), reply);
        }
        let fs = self.clone();
        let done = move |answer| {
            if let Ok(Reply::Attr { attr }) = &answer {
                fs.0.recent.insert(handle, *attr, asked, before, fs.channel().news_count());
            }
            answer::attr(answer, reply);
        };
        self.channel().submit(caller, op, Box::new(done));
    }

    /// Home has opened a file, of which this node has a `backing` or not: the kernel learns how to
    /// read it, and whether the pages that it has are still good.
    fn opened(&self, node: INodeNo, handle: u64, keeps_pages: bool, backing: Option<File>, reply: ReplyOpen) {
        let mode = self.0.backing_files.open(node.0, handle, backing, |backing| {
            let backed = reply.open_backing(backing);
            backed.inspect_err(|error| tracing::debug!(%error, "the kernel does not read this node's file itself")).ok()
        });
        match &mode {
            IoMode::Backed(file) => reply.opened_passthrough(FileHandle(handle), FopenFlags::empty(), file),
            IoMode::Pages | IoMode::Direct => reply.opened(FileHandle(handle), answer::page_flags(&mode, keeps_pages)),
        }
    }

    /// Home has made and opened a file, or opened one that was there by then.
    fn created(&self, answer: answer::Answer, reply: ReplyCreate) {
        let mode = match answer {
            Ok(Reply::Created { node, handle, .. }) => self.0.backing_files.open(node, handle, None, |_| None),
            _ => IoMode::Pages,
        };
        answer::created(answer, answer::page_flags(&mode, false), reply);
    }

    /// Closes a file or directory: at home at once if a process may wait for that, to run what was
    /// written or to have a lock.
    fn close(&self, req: &Request, handle: u64, flags: OpenFlags, reply: ReplyEmpty) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY || self.0.locks_asked_for.load(Ordering::Relaxed) {
            return self.ask(req, Op::Release { handles: vec![handle] }, reply, answer::empty);
        }
        self.channel().close_soon(handle);
        reply.ok();
    }

    /// Asks home for what is in a file, which changes the time of access.
    fn ask_reading<R: Send + 'static>(
        &self,
        req: &Request,
        node: INodeNo,
        op: Op,
        reply: R,
        respond: impl FnOnce(answer::Answer, R) + Send + 'static,
    ) {
        let fs = self.clone();
        self.ask(req, op, reply, move |answer, reply| {
            fs.channel().cache().was_read(node.0);
            respond(answer, reply);
        });
    }
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}
