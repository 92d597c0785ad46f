//! Leases: what a guest may cache until home breaks the lease, and how home notices a change:
//! inotify(7).
//!
//! ```text
//!   answer to the guest  -> lease(node), lease_name(dir, name)   before home looks at the file
//!   any change at home   -> inotify's queue                      before the system call that makes it returns
//!   any reply            -> notice(): the queue                  before the reply
//!   nothing to reply     -> alarm().rings(), try_notice()
//! ```
//!
//! A directory is leased for what happens to its names, and each file by itself, so that a change
//! through another hard link is seen too. A break is told once, and only of what was leased; then
//! the guest has to ask again. What inotify does not see is never leased: file systems that change
//! without this kernel's doing. Writing through a memory mapping makes no event; it moves the time
//! of change at some time (mmap(2)), and guests look at the contents anew when they open a file.
//! New mounts are noticed by themselves; a tree of another mount namespace, whose mounts cannot be
//! seen from here, is not leased.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

use super::inodes::Inode;
use crate::link::files::{BREAK_DELAY_MS, MAX_LEASED_NAMES, is_local};
use crate::protocol::files::{Break, Name};
use crate::sys::descriptor::register_borrowed;

/// Most files and directories that are leased for a guest: half of what the kernel allows a user at
/// least (inotify(7), `max_user_watches`).
const MAX_LEASES: usize = 4_096;

/// Most breaks that go into one frame, so that it stays below the size allowed; more are told as
/// "everything".
const BREAKS_PER_FRAME: usize = 32;

/// Events are read in pieces of this size.
const EVENTS_BYTES: usize = 16 << 10;

/// What happens to names in a directory.
const NAMES: WatchFlags =
    WatchFlags::CREATE.union(WatchFlags::DELETE).union(WatchFlags::MOVED_FROM).union(WatchFlags::MOVED_TO);
/// What happens to a file itself.
const SELF: WatchFlags = WatchFlags::ATTRIB.union(WatchFlags::MOVE_SELF).union(WatchFlags::DELETE_SELF);

/// What is leased for one guest.
#[derive(Debug)]
pub(super) struct Leases {
    /// `None`: nothing is, for want of inotify or because home's mounts cannot be seen.
    sources: Option<Sources>,
    state: Mutex<State>,
}

/// See [`Leases::alarm`].
pub(super) struct Alarm<'a> {
    leases: &'a Leases,
    events: AsyncFd<BorrowedFd<'a>>,
    mounts: AsyncFd<BorrowedFd<'a>>,
}

#[derive(Debug)]
struct Sources {
    events: OwnedFd,
    /// Has priority data when something was mounted or unmounted (proc_pid_mountinfo(5)).
    mounts: File,
}

#[derive(Debug, Default)]
struct State {
    by_number: HashMap<i32, Leased>,
    by_node: HashMap<u64, i32>,
    /// How many names there are in all directories.
    names: usize,
    /// Events were lost, or something was mounted.
    is_lost: bool,
}

#[derive(Debug)]
struct Leased {
    node: u64,
    is_dir: bool,
    /// The guest caches its attributes, and what each of these names means.
    attr: bool,
    names: HashSet<Name>,
}

/// Whether something is leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lease {
    No,
    /// From now on: what was seen before may be old.
    New,
    Was,
}

impl Leases {
    /// For the tree whose root this is.
    pub(super) fn new(root: impl AsFd) -> Self {
        let sources = Sources::new(root).inspect_err(|error| tracing::info!(%error, "home's files are not leased"));
        Self { sources: sources.ok(), state: Mutex::default() }
    }

    /// Leases the attributes and contents of a file that the guest knows.
    pub(super) fn lease(&self, node: u64, inode: &Inode) -> Lease {
        self.with(node, inode, |leased, _| leased.attr = true)
    }

    /// Leases what a name in a directory means, also if it means nothing.
    pub(super) fn lease_name(&self, dir: u64, inode: &Inode, name: &Name) -> bool {
        let mut is_leased = false;
        self.with(dir, inode, |leased, names| {
            is_leased = leased.names.contains(name) || *names < MAX_LEASED_NAMES;
            if is_leased && leased.names.insert(name.clone()) {
                *names += 1;
            }
        });
        is_leased
    }

    fn with(&self, node: u64, inode: &Inode, then: impl FnOnce(&mut Leased, &mut usize)) -> Lease {
        let Some(sources) = &self.sources else { return Lease::No };
        let mut state = self.lock();
        let state = &mut *state;
        let (lease, number) = match state.by_node.get(&node) {
            Some(number) => (Lease::Was, *number),
            None => match state.add(&sources.events, node, inode) {
                Some(number) => (Lease::New, number),
                None => return Lease::No,
            },
        };
        let Some(leased) = state.by_number.get_mut(&number) else { return Lease::No };
        then(leased, &mut state.names);
        lease
    }

    /// The guest has forgotten the file.
    pub(super) fn forget(&self, node: u64) {
        let Some(sources) = &self.sources else { return };
        let mut state = self.lock();
        if let Some(number) = state.by_node.get(&node).copied() {
            state.remove(number);
            // It may have ended by itself.
            let _ = inotify::remove_watch(&sources.events, number);
        }
    }

    /// Passes what does not hold any more to `tell`. Nothing else is told meanwhile, so what `tell`
    /// sends goes before whatever is sent after a later call.
    pub(super) fn notice<T>(&self, tell: impl FnOnce(&[Break]) -> T) -> T {
        tell(&self.breaks(&mut self.lock()))
    }

    /// The same, unless another thread is telling just now: then `None`.
    pub(super) fn try_notice<T>(&self, tell: impl FnOnce(&[Break]) -> T) -> Option<T> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(std::sync::TryLockError::Poisoned(state)) => state.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        Some(tell(&self.breaks(&mut state)))
    }

    fn breaks(&self, state: &mut State) -> Vec<Break> {
        self.sources.as_ref().map(|sources| state.read(&sources.events)).unwrap_or_default()
    }

    /// What tells that [`Self::notice`] may have something to tell; `None` if it never has. Must be
    /// called on a tokio runtime.
    pub(super) fn alarm(&self) -> io::Result<Option<Alarm<'_>>> {
        let Some(Sources { events, mounts }) = &self.sources else { return Ok(None) };
        let events = register_borrowed(events.as_fd(), Interest::READABLE)?;
        let mounts = register_borrowed(mounts.as_fd(), Interest::PRIORITY)?;
        Ok(Some(Alarm { leases: self, events, mounts }))
    }

    // Entries come and go whole; what is lost of both tables is not leased.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Alarm<'_> {
    /// Waits until something may have changed, and a moment longer.
    pub(super) async fn rings(&self) -> io::Result<()> {
        tokio::select! {
            ready = self.events.readable() => ready?.clear_ready(),
            ready = self.mounts.ready(Interest::PRIORITY) => {
                ready?.clear_ready_matching(Ready::ALL);
                self.leases.lock().is_lost = true;
            }
        }
        tokio::time::sleep(Duration::from_millis(BREAK_DELAY_MS)).await;
        Ok(())
    }
}

impl Sources {
    fn new(root: impl AsFd) -> io::Result<Self> {
        let mounts = File::open("/proc/thread-self/mountinfo")?;
        let id = rustix::fs::statx(root, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id.to_string();
        for line in BufReader::new(&mounts).lines() {
            if line?.split(' ').next() == Some(&id) {
                let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
                return Ok(Self { events, mounts });
            }
        }
        Err(io::Error::other("the program's root is in a mount namespace of its own"))
    }
}

impl State {
    fn add(&mut self, events: &OwnedFd, node: u64, inode: &Inode) -> Option<i32> {
        let is_dir = inode.kind() == FileType::Directory;
        let what = match inode.kind() {
            FileType::Directory => NAMES | SELF | WatchFlags::ONLYDIR,
            // Once told of, it is asked for anew: a program that writes it continues without being
            // leased.
            FileType::RegularFile => WatchFlags::MODIFY | SELF | WatchFlags::ONESHOT,
            _ => return None,
        };
        if self.by_node.len() >= MAX_LEASES || !is_local(inode.fd()) {
            return None;
        }
        let number = inotify::add_watch(events, inode.path(), what).ok()?;
        // Two mounts of one directory have one watch.
        if self.by_number.contains_key(&number) {
            return None;
        }
        self.by_number.insert(number, Leased { node, is_dir, attr: false, names: HashSet::new() });
        self.by_node.insert(node, number);
        Some(number)
    }

    fn remove(&mut self, number: i32) -> Option<Leased> {
        let leased = self.by_number.remove(&number)?;
        self.by_node.remove(&leased.node);
        self.names -= leased.names.len();
        Some(leased)
    }

    /// Reads all events that there are.
    fn read(&mut self, events: &OwnedFd) -> Vec<Break> {
        let mut breaks = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut reader = Reader::new(events, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().and_then(|name| Name::new(name.to_bytes()));
                    self.event(event.wd(), event.events(), name, &mut breaks);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => {
                    tracing::warn!(%errno, "cannot read what has changed of home's files");
                    self.is_lost = true;
                    break;
                }
            }
        }
        if self.is_lost || breaks.len() > BREAKS_PER_FRAME {
            for number in self.by_number.keys() {
                let _ = inotify::remove_watch(events, *number);
            }
            *self = Self::default();
            breaks = vec![Break::Everything {}];
        }
        breaks
    }

    fn event(&mut self, number: i32, what: ReadFlags, name: Option<Name>, breaks: &mut Vec<Break>) {
        self.is_lost |= what.contains(ReadFlags::QUEUE_OVERFLOW);
        let Some(leased) = self.by_number.get_mut(&number) else { return };
        let node = leased.node;
        let of_names = what.intersects(ReadFlags::from_bits_retain(NAMES.bits()));
        // A directory's watch also tells of the attributes of what is in it, which has watches of
        // its own.
        if leased.attr && (of_names || name.is_none()) {
            leased.attr = false;
            breaks.push(Break::Node { node });
        }
        if let Some(name) = name.filter(|name| of_names && leased.names.remove(name)) {
            self.names -= 1;
            breaks.push(Break::Name { dir: node, name });
        }
        if !leased.is_dir || what.contains(ReadFlags::IGNORED) {
            let names = self.remove(number).map(|leased| leased.names).unwrap_or_default();
            breaks.extend(names.into_iter().map(|name| Break::Name { dir: node, name }));
        }
    }
}
