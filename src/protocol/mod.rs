//! What agents, daemons and nodes say to each other, and how a stream finds its agent.
//!
//! # Channels
//!
//! Each says between whom it is, what carries it, its encoding, and why it is none of the others.
//!
//! - [`hello`]: both ends of each connection below; its first bytes; fixed binary. It must be read
//!   before a version is known.
//! - [`preamble`]: agent, daemon of another node; the first bytes of a TCP connection; fixed
//!   binary. It is no hello: what is said before TLS can be changed on the way, so it names an
//!   agent, and nothing is agreed on by it.
//! - [`control`](ToAgent): daemon, agent of one node; packets of a Unix socket ([`packet`]); JSON.
//!   It carries descriptors, and outlives releases, so fields may come and go. The same packets go
//!   between a guest agent and pid 1 of its guest ([`init`]), over a socket pair.
//! - [`home`]: guest agent, home agent; TLS, kind `H`; [`frame`]s of JSON, and binary for stdio. It
//!   continues over redials, so its frames are counted and acknowledged.
//! - [`files`](crate::link::files): guest's file system, home's file server; a lane of `home`;
//!   binary. JSON would cost more than the files: thousands of requests a second, answered in any
//!   order.
//! - [`moves`]: source, target of a move; TLS, kind `M`; [`frame`]s of JSON, and binary for pages.
//!   It has the rate of the network, and is never resumed: a move that breaks is aborted.
//! - [`deputy`]: home agent, deputy; packets of a socket pair; fixed binary. The deputy has no
//!   allocator and no library.
//! - `cluster`: node, node; sealed datagrams; binary, one byte of version. Datagrams have no
//!   connection on which to agree.
//! - `api`: daemon, daemon; client, daemon; gRPC over TLS or a Unix socket; protobuf. It is public:
//!   described in `proto/`.
//!
//! Every connection between processes that may be of different releases begins with a [`hello`]. A
//! deputy and pid 1 of a guest need none: both come out of the binary of the agent that starts them
//! and end with it.
//!
//! These are seven formats, and gRPC: `preamble`, `hello`, packets of JSON, frames of both streams,
//! `files`, `deputy` and `cluster`. Once each channel had one of its own, eight, with its own rules
//! for versions and types of errors. What carries a hello shares both now ([`ProtocolError`]);
//! `cluster` keeps its own.
//!
//! # A job's life
//!
//! ```text
//!  start   process                daemon                home agent (at the first move)
//!            │ register ───────────►│ cgroup, jobs/PID.json  │
//!            │ becomes CMD          │ start ────────────────►│ control socket
//!            │                      │◄═══════ hellos ═══════►│
//!            │                      │◄─────── State ─────────│
//! ```
//!
//! ```text
//!  move and commit
//!  source daemon     source agent          home agent        target daemon      guest agent
//!       │ Begin ────────►│ Candidate ─────────►│                    │                │
//!       │◄──── Begun ────│◄─────── accepted ───│                    │                │
//!       │ ReserveGuest ────────────────────────────────────────────►│ preflight      │
//!       │                │                     │                    │ start ────────►│ namespaces, FUSE
//!       │                │                     │◄═══ home link: Call ════════════════│
//!       │◄──────────────────────────── yes, or one readable reason ─│◄── Prepared ───│
//!       │ Move ─────────►│ freeze, dump        │                                     │
//!       │                │ ═══ descriptors, images, pages ═══════════════════════════►│ restore, pages placed,
//!       │                │ (Drained ──────────►│                                     │ CRIU held at pre-resume
//!       │                │   on later hops)    │◄──────────── Restored ──────────────│
//!       │                │                     │ COMMIT: epoch + 1                   │
//!       │                │◄── committed/Gone ──│──────────── Run{epoch} ────────────►│ resume
//!       │◄── Progress ───│◄════════════════════════════════ Running ═════════════════│
//! ```
//!
//! ```text
//!  end     guest agent                              home agent               deputy       parent
//!            │ Exited{pid, status} ─────────────────────►│ Exit or Kill ───────►│ ends ──────► wait
//!            │ Ended ───────────────────────────────────►│                      │
//!            │◄──────────────────────────────────── Done │ State{ended}, to the daemon
//!            │ ends                                      │ ends
//! ```

pub mod alive;
mod control;
pub mod deputy;
mod error;
pub(crate) mod files;
pub mod frame;
pub mod hello;
pub mod home;
pub mod init;
pub mod moves;
pub mod packet;
pub mod preamble;

pub use control::*;
pub use error::ProtocolError;
pub use hello::Protocol;
