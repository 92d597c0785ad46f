//! Home's files for a guest: the root directory of a program that runs elsewhere *is* home's tree.
//! Here is what both ends know; the ends are [`guest::files`](crate::guest::files) and
//! [`home::files`](crate::home::files).
//!
//! ```text
//!  hosting node                                                        home node
//!  guest's system call
//!    -> kernel FUSE -> fuser thread                                       FileServer: a few worker threads
//!                        |  Op                                              ^   | Reply
//!                        v                                                  |   v
//!                    FileChannel  ==== frames (Bytes), one home link ====  serve()   -> home's real files
//!                        |  Reply, on the link's task
//!                        v
//!                    fuser reply -> kernel -> guest's system call returns
//! ```
//!
//! *One reader, many in flight.* A single thread reads requests from the kernel, encodes each and
//! hands it to the `FileChannel`; the reply is given to the kernel by the task that received it.
//! No thread waits for the network.
//!
//! *When home is lost.* The home link carries frames over as many connections as it takes. When it
//! gives up, or nothing is heard for [`SILENCE_LIMIT_MS`] while requests wait, the channel is cut:
//! everything under way and everything later fails with `EIO`. Home says that it is alive while it
//! works, so an operation may take as long as home's disk takes.
//!
//! *Consistency.* The kernel caches no names and attributes (time to live 0), so each step of a
//! path and each `stat` asks the agent. What home *leases* (the server's leases, the channel's
//! attribute cache) the agent answers itself until home breaks the lease. Home does so before any
//! reply, and before anything else reaches the guest by which one of its programs could learn of
//! the change; any other program may see it up to [`BREAK_DELAY_MS`] later. Times of access are not
//! leased. Of *stable* files ([`StableFiles`]), which only root can change and which have not
//! changed for long, a user's programs may see a change up to 3 s late. What is in such a file is
//! read from the hosting node's own file of the same path, for as long as it is open, if their
//! digests are the same. Page contents are dropped when a file is opened, when its size or
//! modification time turns out to have changed (looked at before each `read`), and when a lock on
//! it is taken or given back. Writes go through to home before `write` returns. The attributes
//! looked at before a `read` are cached for up to 50 ms if no other reply came from home meanwhile.
//!
//! *While nothing of the guest runs*, being restored or dumped, all answers of home are cached
//! until it runs (`Mounted::stands_still`): then CRIU, which looks at the same paths again and
//! again, waits for home only once for each.
//!
//! *Permissions* are checked by the hosting kernel (`default_permissions`, POSIX ACLs), which knows
//! the caller's groups and capabilities. The server acts under the caller's user and group, so that
//! what it makes has the right owner.
//!
//! *Locks.* POSIX and OFD locks become OFD locks on a descriptor per (file, owner) at home, `flock`
//! becomes `flock` on the handle at home, so that guests and home's own programs exclude each
//! other. A waiting lock is asked for again and again, so that a waiter holds no worker and can be
//! interrupted.
//!
//! Known limits of this version: FIFOs and Unix sockets in the tree connect only programs of the
//! same guest (the hosting kernel handles them); writable shared mappings are not coherent with
//! home while mapped; `O_TMPFILE` and `ioctl` are refused; home cannot unmount a file system whose
//! directories a guest has seen; a change at home that keeps a file's size and falls into the same
//! clock tick as one already seen is noticed at the next open.

mod stable;

pub use stable::StableFiles;
pub(crate) use stable::is_local;

/// Silence of home, while requests wait, after which every operation fails with `EIO`. The same
/// time after which a guest agent that has lost home ends its process tree.
pub const SILENCE_LIMIT_MS: u64 = 30_000;

/// Attribute TTL of stable files in the hosting kernel: as NFS does at least of all files
/// (nfs(5), `acregmin`).
pub(crate) const STABLE_TTL_MS: u64 = 3_000;

/// How long after a change home tells guests of it, if no reply does so before: long enough that a
/// program at home that writes a leased file in small pieces is not held up by each.
pub(crate) const BREAK_DELAY_MS: u64 = 20;

/// Most names that home leases to a guest, and that a guest caches.
pub(crate) const MAX_LEASED_NAMES: usize = 16_384;

/// While requests are being worked on, the server says at least this often that it is alive.
pub(crate) const PULSE_INTERVAL_MS: u64 = 5_000;

/// Most requests of a guest under way; the kernel keeps the others. The server's queue holds as
/// many, so that requests for files never hold up what else comes over the home link. Queues given
/// to either side should hold as many too.
pub const MAX_IN_FLIGHT: usize = 256;
