//! What moves are under way. The last stage tells it, as a value with which each pass through the
//! stages begins.

use crate::job::{JobId, SessionId};

/// The moves from here and to here, at one moment.
#[derive(Default)]
pub struct UnderWay {
    /// Out of here: the migration, the job and its target.
    pub leaving: Vec<(SessionId, JobId, String)>,
    /// Those of them whose programs stand still.
    pub standing_still: Vec<JobId>,
    /// To here.
    pub arriving: Vec<Arriving>,
    /// The memory promised to guests that do not run yet, in bytes.
    pub reserved_bytes: u64,
    /// Whether room is kept for a guest.
    pub has_reservations: bool,
}

/// A guest that is on its way here.
pub struct Arriving {
    /// The migration that brings it.
    pub migration: SessionId,
    /// The job's home session.
    pub session: SessionId,
    /// The job.
    pub job: JobId,
    /// The node that it comes from.
    pub source: String,
}
