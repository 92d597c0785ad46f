//! The source engine: used by whichever agent owns the body, the home agent on the first move, a guest agent later.
//!
//! ```text
//!   Freeze ─ cgroup.freeze, wait until all stand still
//!   Dump   ─ Owner::frozen gives the channels; CRIU writes its images to tmpfs, pages left out
//!   Stream ─ Begin, images, pages of the frozen body, End
//!   Restore─ Owner::sent; wait for the first of: home's decision, the target's failure, a lost stream, cancel, time-out
//!   Commit ─ Owner::committed resolved: this copy is dead, the engine touches it no more; wait for the target's `Running`
//!   abort  ─ Owner::abort until home has acknowledged; only then thaw. Home may answer that it had committed before.
//! ```
//!
//! The engine decides nothing about who may run: a failure of its own makes it *ask* home for an abort, and it thaws the
//! body only on home's word. Its entry is
//! `run(plan: &Move, owner: &dyn Owner, connect: impl Future<Output = Result<S, String>>, cancel: CancellationToken) -> Outcome`,
//! where `S` is the authenticated stream to the target, dialled before anything is frozen. As long as home cannot be reached the body stays frozen.

mod owner;

pub use owner::{Body, Descriptors, Move, Outcome, Owner, Place, Relayed, Verdict};
