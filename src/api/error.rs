//! What the API refuses, and how that crosses the wire: a canonical code, one readable sentence,
//! and an `ErrorInfo` with a reason for programs.

use std::{borrow::Cow, collections::HashMap};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "scx_mosix";

/// Why a call is refused. The text is for people and says what to do; [`ApiError::reason`] is for
/// programs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No such node.
    #[error("there is no node {node} in this cluster: `scx_mosix nodes` lists them")]
    NodeUnknown {
        /// As asked for.
        node: String,
    },
    /// No such job, or not the caller's.
    #[error("{process} is no program of yours that `scx_mosix run` started: `scx_mosix ps` lists them")]
    ProcessUnknown {
        /// As asked for.
        process: String,
    },
    /// No such migration, or not the caller's.
    #[error("there is no migration {migration}: records of ended ones are kept for a while only")]
    MigrationUnknown {
        /// As asked for.
        migration: String,
    },
    /// The process cannot be taken under management.
    #[error("process {pid} cannot be managed: {why}")]
    CannotRegister {
        /// The process.
        pid: i32,
        /// One sentence.
        why: String,
    },
    /// The job has something that cannot move.
    #[error("cannot move: {why}")]
    CannotMove {
        /// The job.
        process: String,
        /// One sentence.
        why: String,
    },
    /// The job runs there already.
    #[error("{process} is on {node} already")]
    AlreadyThere {
        /// The job.
        process: String,
        /// The node.
        node: String,
    },
    /// The job is being moved.
    #[error("{process} is being moved already: wait for migration {migration}, or `scx_mosix cancel` it")]
    AlreadyMoving {
        /// The job.
        process: String,
        /// The migration under way.
        migration: String,
    },
    /// The target does not take it.
    #[error("{node} does not take it: {why}")]
    TargetRefused {
        /// The target.
        node: String,
        /// One sentence.
        why: String,
    },
    /// The target has no room.
    #[error("{node} has no room for it: {why}")]
    TargetFull {
        /// The target.
        node: String,
        /// One sentence.
        why: String,
    },
    /// Asked for the best node, which is where it is.
    #[error("{process} stays: {why}")]
    NoBetterNode {
        /// The job.
        process: String,
        /// One sentence.
        why: String,
    },
    /// Too late to cancel.
    #[error("migration {migration} is committed: move the program back instead")]
    AlreadyCommitted {
        /// The migration.
        migration: String,
    },
    /// Known, but not for this caller.
    #[error("{what}: {who} may not do that")]
    NotAllowed {
        /// What was asked for.
        what: Cow<'static, str>,
        /// The caller, in words.
        who: String,
    },
    /// A peer that is not the home of the guest asked for it.
    #[error("{node} is not the home of that program")]
    NotHome {
        /// The peer.
        node: String,
    },
    /// A watch cannot be resumed.
    #[error(
        "revision {asked} cannot be resumed from, changes are known since {oldest}: watch again with start_revision 0"
    )]
    RevisionCompacted {
        /// As asked for.
        asked: i64,
        /// The oldest revision that a watch can begin after.
        oldest: i64,
    },
    /// A field of the request is wrong.
    #[error("bad {field}: {why}")]
    Invalid {
        /// The field.
        field: Cow<'static, str>,
        /// One sentence.
        why: String,
    },
    /// Another node, needed for this, does not answer.
    #[error("{node} does not answer: {why}")]
    Unreachable {
        /// The node.
        node: String,
        /// One sentence.
        why: String,
    },
    /// The daemon is ending.
    #[error("this node is leaving the cluster")]
    Leaving,
    /// The daemon failed at something that is its own fault.
    #[error("the daemon failed: {what}; its log says more")]
    Internal {
        /// What it was doing.
        what: String,
    },
}

impl ApiError {
    /// A field of a request is wrong.
    pub fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), why: why.into() }
    }

    /// What programs look at: the `reason` of the `ErrorInfo`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NodeUnknown { .. } => "NODE_UNKNOWN",
            Self::ProcessUnknown { .. } => "PROCESS_UNKNOWN",
            Self::MigrationUnknown { .. } => "MIGRATION_UNKNOWN",
            Self::CannotRegister { .. } => "CANNOT_REGISTER",
            Self::CannotMove { .. } => "CANNOT_MOVE",
            Self::AlreadyThere { .. } => "ALREADY_THERE",
            Self::AlreadyMoving { .. } => "ALREADY_MOVING",
            Self::TargetRefused { .. } => "TARGET_REFUSED",
            Self::TargetFull { .. } => "TARGET_FULL",
            Self::NoBetterNode { .. } => "NO_BETTER_NODE",
            Self::AlreadyCommitted { .. } => "ALREADY_COMMITTED",
            Self::NotAllowed { .. } => "NOT_ALLOWED",
            Self::NotHome { .. } => "NOT_HOME",
            Self::RevisionCompacted { .. } => "REVISION_COMPACTED",
            Self::Invalid { .. } => "INVALID",
            Self::Unreachable { .. } => "NODE_UNREACHABLE",
            Self::Leaving => "LEAVING",
            Self::Internal { .. } => "INTERNAL",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::NodeUnknown { .. } | Self::ProcessUnknown { .. } | Self::MigrationUnknown { .. } => Code::NotFound,
            Self::CannotRegister { .. }
            | Self::CannotMove { .. }
            | Self::AlreadyThere { .. }
            | Self::TargetRefused { .. }
            | Self::NoBetterNode { .. }
            | Self::AlreadyCommitted { .. } => Code::FailedPrecondition,
            Self::AlreadyMoving { .. } => Code::Aborted,
            Self::TargetFull { .. } => Code::ResourceExhausted,
            Self::NotAllowed { .. } | Self::NotHome { .. } => Code::PermissionDenied,
            Self::RevisionCompacted { .. } => Code::OutOfRange,
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::Unreachable { .. } | Self::Leaving => Code::Unavailable,
            Self::Internal { .. } => Code::Internal,
        }
    }

    /// The error's figures by name.
    fn metadata(&self) -> HashMap<String, String> {
        let pairs: &[(&str, &str)] = match self {
            Self::NodeUnknown { node } | Self::NotHome { node } => &[("node", node)],
            Self::ProcessUnknown { process } => &[("process", process)],
            Self::MigrationUnknown { migration } | Self::AlreadyCommitted { migration } => &[("migration", migration)],
            Self::CannotRegister { pid, why } => &[("pid", &pid.to_string()), ("why", why)],
            Self::CannotMove { process, why } | Self::NoBetterNode { process, why } => {
                &[("process", process), ("why", why)]
            }
            Self::AlreadyThere { process, node } => &[("process", process), ("node", node)],
            Self::AlreadyMoving { process, migration } => &[("process", process), ("migration", migration)],
            Self::TargetRefused { node, why } | Self::TargetFull { node, why } | Self::Unreachable { node, why } => {
                &[("node", node), ("why", why)]
            }
            Self::RevisionCompacted { asked, oldest } => {
                &[("start_revision", &asked.to_string()), ("oldest_revision", &oldest.to_string())]
            }
            Self::Invalid { field, why } => &[("field", field), ("why", why)],
            Self::NotAllowed { what, who } => &[("what", what), ("who", who)],
            Self::Internal { what } => &[("what", what)],
            Self::Leaving => &[],
        };
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }
}

impl ApiError {
    /// Takes a status of the API apart again; `None` if it is not one of ours, or of a later
    /// release.
    #[must_use]
    pub fn from_status(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN)?;
        let text = |name: &str| info.metadata.get(name).cloned().unwrap_or_default();
        let number = |name: &str| text(name).parse().unwrap_or(0);
        let (node, process, migration, why, what) =
            (text("node"), text("process"), text("migration"), text("why"), text("what"));
        Some(match info.reason.as_str() {
            "NODE_UNKNOWN" => Self::NodeUnknown { node },
            "PROCESS_UNKNOWN" => Self::ProcessUnknown { process },
            "MIGRATION_UNKNOWN" => Self::MigrationUnknown { migration },
            "CANNOT_REGISTER" => Self::CannotRegister { pid: text("pid").parse().unwrap_or(0), why },
            "CANNOT_MOVE" => Self::CannotMove { process, why },
            "ALREADY_THERE" => Self::AlreadyThere { process, node },
            "ALREADY_MOVING" => Self::AlreadyMoving { process, migration },
            "TARGET_REFUSED" => Self::TargetRefused { node, why },
            "TARGET_FULL" => Self::TargetFull { node, why },
            "NO_BETTER_NODE" => Self::NoBetterNode { process, why },
            "ALREADY_COMMITTED" => Self::AlreadyCommitted { migration },
            "NOT_ALLOWED" => Self::NotAllowed { what: what.into(), who: text("who") },
            "NOT_HOME" => Self::NotHome { node },
            "REVISION_COMPACTED" => {
                Self::RevisionCompacted { asked: number("start_revision"), oldest: number("oldest_revision") }
            }
            "INVALID" => Self::Invalid { field: text("field").into(), why },
            "NODE_UNREACHABLE" => Self::Unreachable { node, why },
            "LEAVING" => Self::Leaving,
            "INTERNAL" => Self::Internal { what },
            _ => return None,
        })
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut details = ErrorDetails::with_error_info(error.reason(), ERROR_DOMAIN, error.metadata());
        if let ApiError::Invalid { field, why } = &error {
            details.add_bad_request_violation(field.to_string(), why.clone());
        }
        Self::with_error_details(error.code(), error.to_string(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_people_and_programs() {
        let status = Status::from(ApiError::TargetRefused { node: "n2".into(), why: "it has no CRIU".into() });
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "n2 does not take it: it has no CRIU");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.domain.as_str(), info.reason.as_str()), (ERROR_DOMAIN, "TARGET_REFUSED"));
        assert_eq!(info.metadata["why"], "it has no CRIU");
    }

    #[test]
    fn every_refusal_survives_the_wire() {
        let text = || "some text".to_owned();
        let (node, process, migration, why, who) = (text(), text(), text(), text(), text());
        let (what, field) = (Cow::from("doing it"), Cow::from("name"));
        let all = [
            ApiError::NodeUnknown { node: node.clone() },
            ApiError::ProcessUnknown { process: process.clone() },
            ApiError::MigrationUnknown { migration: migration.clone() },
            ApiError::CannotRegister { pid: 7, why: why.clone() },
            ApiError::CannotMove { process: process.clone(), why: why.clone() },
            ApiError::AlreadyThere { process: process.clone(), node: node.clone() },
            ApiError::AlreadyMoving { process: process.clone(), migration: migration.clone() },
            ApiError::TargetRefused { node: node.clone(), why: why.clone() },
            ApiError::TargetFull { node: node.clone(), why: why.clone() },
            ApiError::NoBetterNode { process, why: why.clone() },
            ApiError::AlreadyCommitted { migration },
            ApiError::NotAllowed { what, who },
            ApiError::NotHome { node: node.clone() },
            ApiError::RevisionCompacted { asked: 1, oldest: 2 },
            ApiError::Invalid { field, why: why.clone() },
            ApiError::Unreachable { node, why },
            ApiError::Leaving,
            ApiError::Internal { what: text() },
        ];
        for error in all {
            assert_eq!(ApiError::from_status(&Status::from(error.clone())), Some(error));
        }
        assert_eq!(ApiError::from_status(&Status::unavailable("no details")), None);
    }

    #[test]
    fn a_bad_field_is_named() {
        let status = Status::from(ApiError::invalid("page_size", "negative"));
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "page_size");
    }
}
