//! The page daemon: stands in for `criu lazy-pages` and puts pages in place as they come.
//!
//! ```text
//!   criu restore                       page daemon (a thread)                    placers
//!     │ connect lazy-pages.socket          │                                        │
//!     │──────────────────────────────────► │                                        │
//!     │ i32 pid, userfaultfd (SCM_RIGHTS)  │  per process; a negative pid is a      │
//!     │──────────────────────────────────► │  zombie and comes without              │
//!     │            … restorer registers areas, some of CRIU's own steps fault …     │
//!     │                                    │◄──────────────── Pages, Zeros ─────────│
//!     │ u32 "RSTF"                         │  all areas are registered by now       │
//!     │──────────────────────────────────► │                                        │
//!     │ notification pre-resume            │  all in place: descriptors are closed, │
//!     │ (to the restore's driver)          │  memory is ordinary memory             │
//! ```
//!
//! CRIU registers a process's areas after it has sent the descriptor, and says `RSTF` when all
//! areas of all processes are registered, before `pre-resume`. Pages that come before their area is
//! there wait in memory; at `RSTF` they must all fit.

use std::{
    collections::BTreeMap,
    io::{self, IoSliceMut, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
};
use tokio::sync::watch;
use userfaultfd::Uffd;

use super::{PageError, task::Task};
use crate::migration::criu::{Range, lazy_ranges, tree};
use crate::protocol::moves::{PAGE_BYTES, Pages};

/// The name that CRIU looks for in its work directory.
const SOCKET_NAME: &str = "lazy-pages.socket";
/// CRIU's word for "all areas of all processes are registered", criu/uffd.c.
const RESTORE_FINISHED: i32 = 0x5253_5446;
/// How often pages that came early are tried again while CRIU still registers areas.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// How long pages may still not fit once all areas are registered: the kernel wants events to be
/// read first.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct State {
    tasks: BTreeMap<i32, Task>,
    /// CRIU has registered everything.
    registered: bool,
    /// The source has sent everything.
    sent: bool,
    pages: u64,
    zeros: u64,
    failed: Option<PageError>,
}

impl State {
    fn is_complete(&self) -> bool {
        self.registered && self.sent && self.tasks.values().all(Task::is_complete)
    }

    fn task(&mut self, pid: i32) -> Result<&mut Task, PageError> {
        self.tasks
            .get_mut(&pid)
            .ok_or_else(|| PageError::Unexpected(format!("process {pid} is not part of the process tree")))
    }
}

/// Where a page daemon has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Working,
    Complete,
    Failed,
}

struct Shared {
    state: Mutex<State>,
    stage: watch::Sender<Stage>,
    wake: OwnedFd,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The thread that panicked has reported it; what is in place is in place.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // The counter cannot overflow: the thread reads it long before.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Does something with the state; an error ends the daemon.
    fn with(&self, change: impl FnOnce(&mut State) -> Result<(), PageError>) -> Result<(), PageError> {
        let mut state = self.state();
        if let Err(error) = change(&mut state) {
            self.fail(&mut state, error);
            return Err(PageError::GaveUp);
        }
        if state.is_complete() {
            self.wake();
        }
        Ok(())
    }

    fn fail(&self, state: &mut State, error: PageError) {
        state.failed.get_or_insert(error);
        self.stage.send_replace(Stage::Failed);
        self.wake();
    }
}

/// The daemon. Dropped, it ends, and whatever waits for a page of it finds zeros: kill the process
/// tree before.
pub struct PageDaemon {
    shared: Arc<Shared>,
    stage: watch::Receiver<Stage>,
    stop: Arc<OwnedFd>,
}

/// Hands pages to the daemon, from any thread.
#[derive(Clone)]
pub struct Placer {
    shared: Arc<Shared>,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> PageError {
    move |source| PageError::Daemon { what, source }
}

impl PageDaemon {
    /// Listens in the images' directory, for a restore that is about to start. The images must be
    /// complete.
    pub fn listen(images: &Path) -> Result<Self, PageError> {
        let mut state = State::default();
        for process in tree(images).map_err(|error| PageError::Unexpected(error.to_string()))? {
            let pid = i32::try_from(process.pid).map_err(|error| PageError::Unexpected(error.to_string()))?;
            // Zombies have no memory, and no image of it.
            if images.join(format!("pagemap-{pid}.img")).exists() {
                let expected = lazy_ranges(images, pid).map_err(|error| PageError::Unexpected(error.to_string()))?;
                state.tasks.insert(pid, Task::new(pid, expected));
            }
        }
        let path = images.join(SOCKET_NAME);
        let listener = UnixListener::bind(&path).map_err(failed("listen"))?;
        let eventfd = || {
            rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed("make an eventfd")(errno.into()))
        };
        let (wake, stop) = (eventfd()?, Arc::new(eventfd()?));
        let (sender, stage) = watch::channel(Stage::Working);
        let shared = Arc::new(Shared { state: Mutex::new(state), stage: sender, wake });
        let (thread_shared, thread_stop) = (shared.clone(), stop.clone());
        std::thread::Builder::new()
            .name("page-daemon".into())
            .spawn(move || {
                if let Err(error) = run(&thread_shared, &listener, &thread_stop) {
                    thread_shared.fail(&mut thread_shared.state(), error);
                }
            })
            .map_err(failed("start its thread"))?;
        Ok(Self { shared, stage, stop })
    }

    /// For the receiver of pages.
    pub fn placer(&self) -> Placer {
        Placer { shared: self.shared.clone() }
    }

    /// Waits until all pages of all processes are in place and the memory is ordinary memory.
    /// Cancel-safe.
    pub async fn complete(&mut self) -> Result<(), PageError> {
        let stage = self.stage.wait_for(|stage| *stage != Stage::Working).await.map(|stage| *stage);
        if matches!(stage, Ok(Stage::Complete)) {
            return Ok(());
        }
        Err(self.shared.state().failed.take().unwrap_or(PageError::GaveUp))
    }
}

impl Drop for PageDaemon {
    fn drop(&mut self) {
        // Cannot fail: the counter is 0.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
    }
}

impl Placer {
    /// Unpacks, checks and places a batch. Blocks for as long as that takes.
    pub fn place(&self, pages: &Pages) -> Result<(), PageError> {
        let length = pages.length as usize;
        let raw = match pages.compressed {
            true => lz4_flex::block::decompress(&pages.data, length).unwrap_or_default(),
            false => pages.data.to_vec(),
        };
        self.shared.with(|state| {
            if raw.len() != length || crc32c::crc32c(&raw) != pages.crc {
                return Err(PageError::Damaged);
            }
            state.pages += length as u64 / PAGE_BYTES;
            state.task(pages.pid)?.place(pages.start, raw)
        })
    }

    /// Notes pages of zeros.
    pub fn zeros(&self, pid: i32, start: u64, pages: u64) -> Result<(), PageError> {
        self.shared.with(|state| {
            state.zeros += pages;
            state.task(pid)?.zeros(Range { start, end: start + pages * PAGE_BYTES })
        })
    }

    /// The source has sent everything, so many pages and so many of zeros. All batches must have
    /// been handed over before.
    pub fn end(&self, pages: u64, zeros: u64) -> Result<(), PageError> {
        self.shared.with(|state| {
            let missing: u64 = state.tasks.values().map(Task::missing_bytes).sum();
            if (state.pages, state.zeros) != (pages, zeros) || missing > 0 {
                return Err(PageError::Unexpected(format!(
                    "{} of {pages} pages and {} of {zeros} zero pages arrived, {missing} bytes of the process tree are missing",
                    state.pages, state.zeros
                )));
            }
            state.sent = true;
            Ok(())
        })
    }
}

fn run(shared: &Shared, listener: &UnixListener, stop: &OwnedFd) -> Result<(), PageError> {
    let mut criu = None;
    let mut all_registered = None;
    loop {
        let mut state = shared.state();
        if state.failed.is_some() {
            return Ok(());
        }
        if state.is_complete() {
            // Closing the descriptors makes the areas ordinary memory.
            state.tasks.clear();
            shared.stage.send_replace(Stage::Complete);
            return Ok(());
        }
        let registered = state.registered;
        let uffds: Vec<(i32, Arc<Uffd>)> =
            state.tasks.iter().filter_map(|(pid, task)| Some((*pid, task.uffd()?))).collect();
        let early = state.tasks.values().any(Task::has_early);
        drop(state);

        let criu_fd = criu.as_ref().map_or(listener.as_fd(), |stream: &UnixStream| stream.as_fd());
        let mut fds = vec![PollFd::new(stop, PollFlags::IN), PollFd::new(&shared.wake, PollFlags::IN)];
        fds.extend(uffds.iter().map(|(_, uffd)| PollFd::new(&**uffd, PollFlags::IN)));
        if !registered {
            fds.push(PollFd::from_borrowed_fd(criu_fd, PollFlags::IN));
        }
        let limit = early.then_some(RETRY);
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("poll")(errno.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            return Ok(());
        }
        if ready[1] {
            rustix::io::read(&shared.wake, &mut [0; 8]).map_err(|errno| failed("read an eventfd")(errno.into()))?;
        }
        if !registered && ready[2 + uffds.len()] {
            match &mut criu {
                None => criu = Some(listener.accept().map_err(failed("accept criu"))?.0),
                Some(stream) => listen_to_criu(shared, stream)?,
            }
        }
        let mut state = shared.state();
        for ((pid, _), _) in uffds.iter().zip(&ready[2..]).filter(|(_, ready)| **ready) {
            state.task(*pid)?.handle_events()?;
        }
        for task in state.tasks.values_mut() {
            task.retry()?;
        }
        if state.registered && state.tasks.values().any(Task::has_early) {
            let since = *all_registered.get_or_insert_with(Instant::now);
            if since.elapsed() > SETTLE {
                return Err(PageError::Unexpected("criu did not make room for all pages".into()));
            }
        }
    }
}

/// The next message of CRIU's.
fn listen_to_criu(shared: &Shared, stream: &mut UnixStream) -> Result<(), PageError> {
    let mut word = [0; 4];
    stream.read_exact(&mut word).map_err(failed("hear of criu"))?;
    match i32::from_ne_bytes(word) {
        RESTORE_FINISHED => shared.state().registered = true,
        pid if pid < 0 => {}
        pid => {
            let uffd = receive_uffd(stream)?;
            shared.state().task(pid)?.attach(uffd)?;
        }
    }
    Ok(())
}

fn receive_uffd(stream: &UnixStream) -> Result<Uffd, PageError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|errno| failed("receive a userfaultfd")(errno.into()))?;
    let fd: Option<OwnedFd> = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let fd = fd.ok_or_else(|| PageError::Unexpected("criu announced a process without its userfaultfd".into()))?;
    // SAFETY: the descriptor was just received and is owned here; that it is a userfaultfd is
    // CRIU's word, and if it is not, the kernel refuses the first operation.
    Ok(unsafe { Uffd::from_raw_fd(fd.into_raw_fd()) })
}

#[cfg(test)]
mod tests;
