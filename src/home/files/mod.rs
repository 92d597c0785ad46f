//! Home's files for a guest: the root directory of a program that runs elsewhere *is* home's tree.
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
//! *One reader, many in flight.* A single thread reads requests from the kernel, encodes each and hands it to the
//! [`FileChannel`]; the reply is given to the kernel by whoever received it. Nobody waits for the network.
//!
//! *Exactly once over a link that breaks.* Every request has a number and a reply. The channel keeps a request until its
//! reply is here and sends it again over the next link; the server remembers the replies of requests that must not be done
//! twice until the channel says that it has them. Without a link, or with silence on it, for [`SILENCE_LIMIT_MS`], the
//! channel is cut: everything in flight and everything later fails with `EIO`.
//!
//! *Consistency.* Names and attributes are never cached (time to live 0), so each step of a path and each `stat` asks home.
//! Page contents are dropped when a file is opened, when its size or modification time turns out to have changed (looked at
//! before each `read`), and when a lock on it is taken or given back. Writes go through to home before `write` returns.
//!
//! *Permissions* are checked by the hosting kernel (`default_permissions`, POSIX ACLs), which knows the caller's groups and
//! capabilities. The server acts under the caller's user and group, so that what it makes has the right owner.
//!
//! *Locks.* POSIX and OFD locks become OFD locks on a descriptor per (file, owner) at home, `flock` becomes `flock` on the
//! handle at home, so that guests and home's own programs exclude each other. A waiting lock is asked for again and again,
//! so that a waiter holds no worker and can be interrupted.
//!
//! Known limits of this version: FIFOs and Unix sockets in the tree connect only programs of the same guest (the hosting
//! kernel handles them); writable shared mappings are not coherent with home while mapped; `O_TMPFILE` and `ioctl` are
//! refused; home cannot unmount a file system whose directories a guest has seen; a change at home that keeps a file's size
//! and falls into the same clock tick as one already seen is noticed at the next open.

mod channel;
mod client;
mod server;
mod wire;

pub use channel::{ChannelError, FileChannel};
pub use client::{HeldLock, MountError, Mounted, mount};
pub use server::{FileServer, ServerError, open_root};
pub use wire::{MAX_FRAME_BYTES, WireError};

/// Silence of home (no frame at all although requests wait), or time without a link, after which every operation fails
/// with `EIO`. The same time after which a guest agent ends its body.
pub const SILENCE_LIMIT_MS: u64 = 30_000;

/// While requests are being worked on, the server says at least this often that it lives, so that an operation may take as
/// long as home's disk takes.
const PULSE_INTERVAL_MS: u64 = 5_000;
