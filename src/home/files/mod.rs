//! Home's end of the files protocol: a few threads that do at home, on real files, what the guest's
//! kernel asks for.
//!
//! ```text
//!  serve(): incoming -> frame -> Request -> bounded queue -> workers -> Reply -> frame -> outgoing
//!                     while anything is at work, every few seconds: Pulse -> outgoing
//!                     what changes of leased files: with the next reply, or a Pulse a moment later
//! ```
//!
//! The server belongs to one guest. When it ends, everything that the guest had open or locked at
//! home is released.

mod data;
mod handles;
mod identity;
mod inodes;
mod leases;
mod locks;
mod names;
mod queue;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use tokio::sync::mpsc;

use self::handles::Handles;
use self::identity::{As, Identity};
use self::inodes::Inodes;
use self::leases::Leases;
use self::locks::Locks;
use self::queue::Queue;
use crate::link::files::{BREAK_DELAY_MS, MAX_IN_FLIGHT, PULSE_INTERVAL_MS, StableFiles};
use crate::protocol::{
    ProtocolError,
    files::{Op, Reply, Request},
};

/// Threads per guest. They wait for home's disk, not for the processor; more only help against a
/// slow disk.
const WORKERS: usize = 8;

/// Why a guest's files cannot be served, or no longer over this link.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The root directory cannot be used.
    #[error("cannot serve the root directory of the program at home")]
    Root(#[source] std::io::Error),
    /// No worker could be started.
    #[error("cannot start a thread to serve files")]
    Thread(#[source] std::io::Error),
    /// The guest's agent does not speak the protocol; the link is to be closed.
    #[error("a guest's agent sent a bad request for files")]
    Protocol(#[source] ProtocolError),
    /// The guest's agent does not wait for its replies; the link is to be closed.
    #[error("a guest's agent has more than {MAX_IN_FLIGHT} requests for files under way")]
    TooMany,
}

/// Serves home's tree to one guest.
pub struct FileServer {
    tree: Arc<Tree>,
    queue: Arc<Queue<Job>>,
}

/// A request and where its reply goes.
struct Job {
    request: Request,
    outgoing: mpsc::Sender<Bytes>,
}

/// What the workers share.
#[derive(Debug)]
struct Tree {
    inodes: Inodes,
    handles: Handles,
    locks: Locks,
    leases: Leases,
    /// Requests received and not yet answered.
    at_work: AtomicUsize,
}

/// The root directory of a process at home, as the process sees it: pass it to [`FileServer::new`].
/// The tree stays usable when the process is gone.
///
/// # Errors
/// There is no such process, or it may not be looked at.
pub fn open_root(pid: u32) -> std::io::Result<OwnedFd> {
    let path = format!("/proc/{pid}/root");
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

impl FileServer {
    /// Starts the workers for the tree below `root`, an `O_PATH` descriptor of a directory. The
    /// guest may cache what is stable for a while.
    ///
    /// # Errors
    /// `root` cannot be looked at, or no thread can be started with an identity of its own.
    pub fn new(root: OwnedFd, stable: StableFiles) -> Result<Self, ServerError> {
        raise_descriptor_limit();
        let leases = Leases::new(&root);
        let tree = Arc::new(Tree {
            inodes: Inodes::new(root, stable.into()).map_err(|errno| ServerError::Root(errno.into()))?,
            handles: Handles::default(),
            locks: Locks::default(),
            leases,
            at_work: AtomicUsize::new(0),
        });
        // From here on the workers end with the server.
        let server = Self { tree, queue: Arc::new(Queue::new(MAX_IN_FLIGHT)) };
        for number in 0..WORKERS {
            let (tree, queue) = (server.tree.clone(), server.queue.clone());
            let (started, start) = std::sync::mpsc::sync_channel(1);
            std::thread::Builder::new()
                .name(format!("files-{number}"))
                .spawn(move || match Identity::take() {
                    Ok(identity) => {
                        let _ = started.send(Ok(()));
                        work(&tree, &queue, identity);
                    }
                    Err(errno) => {
                        let _ = started.send(Err(errno));
                    }
                })
                .map_err(ServerError::Thread)?;
            let outcome = start.recv().map_err(std::io::Error::other);
            outcome.and_then(|outcome| Ok(outcome?)).map_err(ServerError::Thread)?;
        }
        Ok(server)
    }

    /// Serves the guest: request frames come out of `incoming`, reply frames go into `outgoing`,
    /// both in order and without loss. Ends when `incoming` is closed.
    ///
    /// # Errors
    /// A frame that cannot be understood: the guest's agent is not to be trusted any further.
    pub async fn serve(
        self,
        mut incoming: mpsc::Receiver<Bytes>,
        outgoing: mpsc::Sender<Bytes>,
    ) -> Result<(), ServerError> {
        let serve = async {
            while let Some(frame) = incoming.recv().await {
                let request = Request::decode(frame).map_err(ServerError::Protocol)?;
                self.tree.at_work.fetch_add(1, Ordering::Relaxed);
                let queued = self.queue.push(Job { request, outgoing: outgoing.clone() });
                queued.map_err(|_| ServerError::TooMany)?;
            }
            Ok(())
        };
        tokio::select! {
            outcome = serve => outcome,
            () = pulse(&self.tree, &outgoing) => Ok(()),
            () = push(&self.tree, &outgoing) => Ok(()),
        }
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl std::fmt::Debug for FileServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileServer").finish_non_exhaustive()
    }
}

/// Says that home is alive as long as something is being worked on; returns when the receiver is
/// gone.
async fn pulse(tree: &Tree, outgoing: &mpsc::Sender<Bytes>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(PULSE_INTERVAL_MS));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = outgoing.closed() => return,
        }
        if tree.at_work.load(Ordering::Relaxed) > 0 {
            // A full queue says as much.
            let _ = outgoing.try_send(Reply::Pulse {}.encode(0, &[]));
        }
    }
}

/// Tells what changes of leased files if no reply does; returns when the receiver is gone.
async fn push(tree: &Tree, outgoing: &mpsc::Sender<Bytes>) {
    let told = async {
        let Some(alarm) = tree.leases.alarm()? else { return Ok(()) };
        loop {
            alarm.rings().await?;
            let Ok(permit) = outgoing.reserve().await else { return Ok(()) };
            let mut permit = Some(permit);
            let mut tell = |breaks: &[_]| {
                if let Some(permit) = permit.take_if(|_| !breaks.is_empty()) {
                    permit.send(Reply::Pulse {}.encode(0, breaks));
                }
            };
            // Not by waiting for the lock: who has it may wait for room in the queue, which this
            // runtime makes.
            while tree.leases.try_notice(&mut tell).is_none() {
                tokio::time::sleep(Duration::from_millis(BREAK_DELAY_MS)).await;
            }
        }
    };
    let told: std::io::Result<()> = told.await;
    if let Err(error) = told {
        tracing::warn!(%error, "changes of home's files are told with replies only");
    }
    outgoing.closed().await;
}

/// What a worker thread does until the server ends.
fn work(tree: &Tree, queue: &Queue<Job>, mut identity: Identity) {
    while let Some(Job { request, outgoing }) = queue.pop() {
        let reply = tree.perform(&mut identity, &request);
        let reply = reply.unwrap_or_else(|errno| Reply::Error { errno: errno.raw_os_error() });
        // If it fails no caller waits for it.
        let _ = tree.leases.notice(|breaks| outgoing.blocking_send(reply.encode(request.id, breaks)));
        tree.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tree {
    fn perform(&self, identity: &mut Identity, request: &Request) -> Result<Reply, Errno> {
        let keep_suid = match &request.op {
            Op::Write { kill_suid, .. } => !kill_suid,
            // The kernel's wish is not to be had from fuser here; this is what it comes to.
            Op::Setattr { changes, .. } if changes.size.is_some() => request.caller.uid == 0,
            Op::Open { flags, .. } if flags & libc::O_TRUNC != 0 => request.caller.uid == 0,
            Op::Fallocate { .. } | Op::CopyFileRange { .. } => request.caller.uid == 0,
            _ => true,
        };
        identity.assume(As { uid: request.caller.uid, gid: request.caller.gid, keep_suid })?;
        match &request.op {
            Op::Lookup { parent, name } => self.lookup(*parent, name),
            Op::Walk { names } => self.walk(names),
            Op::Forget { node, count } => {
                self.inodes.forget(*node, *count, |node| self.leases.forget(node));
                Ok(Reply::Done {})
            }
            Op::Getattr { node } => self.getattr(*node),
            Op::Setattr { node, handle, changes } => self.setattr(*node, *handle, changes),
            Op::Readlink { node } => self.readlink(*node),
            Op::Mknod { parent, name, mode, umask, rdev } => {
                identity.set_umask(*umask);
                self.mknod(*parent, name, *mode, *rdev)
            }
            Op::Mkdir { parent, name, mode, umask } => {
                identity.set_umask(*umask);
                self.mkdir(*parent, name, *mode)
            }
            Op::Unlink { parent, name } => self.unlink(*parent, name, false),
            Op::Rmdir { parent, name } => self.unlink(*parent, name, true),
            Op::Symlink { parent, name, target } => self.symlink(*parent, name, target),
            Op::Rename { parent, name, new_parent, new_name, flags } => {
                self.rename((*parent, name), (*new_parent, new_name), *flags)
            }
            Op::Link { node, new_parent, new_name } => self.link(*node, *new_parent, new_name),
            Op::Create { parent, name, mode, umask, flags } => {
                identity.set_umask(*umask);
                self.create(*parent, name, *mode, *flags)
            }
            Op::Statfs { node } => self.statfs(*node),
            Op::Setxattr { node, name, flags, value } => self.setxattr(*node, name, *flags, value),
            Op::Getxattr { node, name } => self.getxattr(*node, name),
            Op::Listxattr { node } => self.listxattr(*node),
            Op::Removexattr { node, name } => self.removexattr(*node, name),
            Op::Open { node, flags } => match self.open(*node, *flags)? {
                Reply::Opened { handle, stable: true, contents: None, .. }
                    if flags & libc::O_ACCMODE == libc::O_RDONLY =>
                {
                    // Digests are the node's.
                    identity.assume(As { uid: 0, gid: 0, keep_suid: true })?;
                    Ok(Reply::Opened { handle, stable: true, backing: self.backing(handle)?, contents: None })
                }
                opened => Ok(opened),
            },
            Op::Read { handle, offset, size } => self.read(*handle, *offset, *size),
            Op::Write { handle, offset, cached, data, .. } => self.write(*handle, *offset, *cached, data),
            Op::Flush { node, owner } => {
                self.locks.drop_owner(*node, *owner);
                Ok(Reply::Done {})
            }
            Op::Release { handles } => {
                for handle in handles {
                    self.locks.drop_handle(*handle);
                    self.handles.remove(*handle);
                }
                Ok(Reply::Done {})
            }
            Op::Fsync { handle, data_only } => self.fsync(*handle, *data_only),
            Op::Opendir { node } => self.opendir(*node),
            Op::Readdir { handle, offset } => self.readdir(*handle, *offset),
            Op::Getlk { node, owner, lock } => {
                let lock = self.locks.get(&*self.inodes.get(*node)?, *node, *owner, *lock)?;
                Ok(Reply::Lock { lock })
            }
            Op::Setlk { handle, lock, flock: true, .. } => {
                locks::flock(&self.handles.get(*handle)?.file, lock.kind)?;
                Ok(Reply::Done {})
            }
            Op::Setlk { node, handle, owner, lock, flock: false } => {
                self.locks.set(&*self.inodes.get(*node)?, *node, *handle, *owner, *lock)?;
                Ok(Reply::Done {})
            }
            Op::Fallocate { handle, offset, length, mode } => self.fallocate(*handle, *offset, *length, *mode),
            Op::Lseek { handle, offset, whence } => self.lseek(*handle, *offset, *whence),
            Op::CopyFileRange { from, from_offset, to, to_offset, length } => {
                self.copy_file_range((*from, *from_offset), (*to, *to_offset), *length)
            }
        }
    }
}

/// Every file that the guest's kernel knows costs a descriptor, so allow as many as the kernel
/// does.
fn raise_descriptor_limit() {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let wanted = Rlimit { current: most, maximum: most };
    if most.is_none() || rustix::process::setrlimit(Resource::Nofile, wanted).is_err() {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let raised = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        tracing::warn!(
            ?maximum,
            ?raised,
            "cannot raise the limit of open files; a guest that looks at very many will get EMFILE"
        );
    }
}
