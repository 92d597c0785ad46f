//! The source engine: used by whichever agent owns the process tree, the home agent on the first
//! move, a guest agent later.
//!
//! ```text
//!   (before) ─ what cannot move is refused; the stream to the target is dialled; nothing is frozen yet
//!   Freeze   ─ cgroup.freeze, wait until all stand still; look again
//!   Dump     ─ Owner::frozen gives the channels; CRIU writes its images to tmpfs, pages left out
//!   Stream   ─ Begin, images, pages of the frozen tree, PagesEnd; Owner::dumped at the same time
//!   Restore  ─ wait for the first of: home's decision, the target's failure, a lost stream, cancel, time-out
//!   Commit   ─ Owner::committed resolved: this copy is dead, the engine touches it no more; wait for the target's `Running`
//!   abort    ─ Owner::abort until home has answered; only then thaw. Home may answer that it had committed before.
//! ```
//!
//! The engine decides nothing about who may run: a failure of its own makes it *ask* home for an
//! abort, and it thaws the process tree only on home's word. As long as home cannot be reached the
//! process tree stays frozen.

mod engine;
mod error;
mod owner;
mod transfer;

pub use engine::run;
pub use error::{OwnerError, SourceError};
pub use owner::{Move, Outcome, Owner, Place, ProcessTree, Verdict};
