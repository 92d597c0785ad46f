//! What a job is, wherever it is spoken of: telemetry, placement, daemons, agents and the API embed
//! these types whole. A new field of a job is named here, in the message of `proto/`, and in
//! `api/message/job.rs`.

mod constraints;
mod id;
mod record;
mod session;
mod usage;

pub use constraints::Constraints;
pub use id::{JobId, NoJobId};
pub use record::{History, JobRecord, JobSpec};
pub use session::SessionId;
pub use usage::{Counters, Usage};

/// For tests, here and in other modules.
#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A job that was just started.
    pub(crate) fn record(home: &str, pid: i32) -> JobRecord {
        JobRecord {
            id: JobId::new(home, pid),
            session: SessionId::random(),
            spec: JobSpec { comm: "cc".into(), uid: 1000, tree: None },
            constraints: Constraints::default(),
            history: History::default(),
        }
    }
}
