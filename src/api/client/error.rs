//! Why a call failed.

use std::error::Error;

use tonic::{Code, Status};

use crate::{api::ApiError, causes::explain, keys::KeyError};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The other side refused, and says why.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The other side cannot be reached, or the connection was lost.
    #[error("no connection to {to}: {why}")]
    Unreachable {
        /// Whom the call was for.
        to: String,
        /// Why, in the words of whatever failed first.
        why: String,
    },
    /// It took too long; whether it had an effect is not known.
    #[error("{to} did not answer in time")]
    TimedOut {
        /// Whom the call was for.
        to: String,
    },
    /// The other side failed in a way that it does not explain, or is of another release.
    #[error("{to} failed: {message}")]
    Failed {
        /// Whom the call was for.
        to: String,
        /// What it said.
        message: String,
    },
    /// The connection cannot be set up at all.
    #[error("no call can be made to {to}")]
    Setup {
        /// Whom the call was for.
        to: String,
        /// Why.
        source: KeyError,
    },
}

impl CallError {
    pub(super) fn new(to: &str, status: Status) -> Self {
        let to = to.to_owned();
        match ApiError::from_status(&status) {
            Some(error) => Self::Refused(error),
            None if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => Self::TimedOut { to },
            None if status.code() == Code::Unavailable || status.source().is_some() => {
                Self::Unreachable { to, why: root_cause(&status) }
            }
            None => Self::Failed { to, message: status.message().to_owned() },
        }
    }

    /// The same as what this node's API says to its own caller, who asked for something that needed
    /// `node`.
    #[must_use]
    pub fn into_api_error(self, node: &str) -> ApiError {
        match self {
            Self::Refused(error) => error,
            Self::Unreachable { why, .. } => ApiError::Unreachable { node: node.to_owned(), why },
            other => ApiError::Unreachable { node: node.to_owned(), why: explain(other) },
        }
    }
}

/// The innermost of a status' causes: all around it is how the call was made, in words meant for
/// programmers.
fn root_cause(status: &Status) -> String {
    let mut innermost = None;
    let mut source = status.source();
    while let Some(error) = source {
        innermost = Some(error.to_string());
        source = error.source();
    }
    innermost.unwrap_or_else(|| status.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cause_of_a_lost_connection_is_told() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = CallError::new("node n2", Status::from_error(Box::new(refused)));
        assert_eq!(error.to_string(), "no connection to node n2: connection refused");
        let error = CallError::new("node n2", Status::unavailable("shutting down")).into_api_error("n2");
        assert_eq!(error.to_string(), "n2 does not answer: shutting down");
    }
}
