//! Who calls, and what he may do. All of the API's authorisation is here.
//!
//! ```text
//!   Unix socket ── SO_PEERCRED ──> Local{uid, pid}     root: all        a user: his own jobs of this node
//!   TCP, TLS ───── certificate ──> Client{name}        all that root may
//!                            └───> Node{name}          the same, and the peer service
//! ```

use std::fmt;

use super::{
    ApiError,
    view::{ClusterEvent, MigrationSummary, ProcessSummary},
};
use crate::job::JobId;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A process of this machine, as the kernel saw it when it connected.
    Local {
        /// Its effective user.
        uid: u32,
        /// Its pid; 0 if it is in a pid namespace that the daemon cannot see into.
        pid: i32,
    },
    /// A user with a client certificate of the cluster.
    Client {
        /// The name in the certificate.
        name: String,
    },
    /// A node of the cluster.
    Node {
        /// The name in the certificate.
        name: String,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid } => write!(f, "user {uid} (process {pid})"),
            Self::Client { name } => write!(f, "client {name}"),
            Self::Node { name } => write!(f, "node {name}"),
        }
    }
}

impl Caller {
    /// Whether there is nothing that this caller may not do by the public API.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        match self {
            Self::Local { uid, .. } => *uid == 0,
            Self::Client { .. } | Self::Node { .. } => true,
        }
    }

    /// Whether this caller may see and command `process`, which the node `local` knows. A guest's
    /// uid is one of its home's users, who need not be the same person here.
    #[must_use]
    pub fn owns(&self, process: &ProcessSummary, local: &str) -> bool {
        self.is_privileged() || matches!(self, Self::Local { uid, .. } if *uid == process.uid && process.home == local)
    }

    /// Whether this caller may see and cancel `migration` of `process`, which is `None` once it has
    /// ended.
    #[must_use]
    pub fn owns_migration(&self, migration: &MigrationSummary, process: Option<&ProcessSummary>, local: &str) -> bool {
        self.is_privileged()
            || process.is_some_and(|process| process.name() == migration.process && self.owns(process, local))
    }

    /// Whether this caller may see `event`: those of nodes concern everyone.
    #[must_use]
    pub fn may_see(&self, event: &ClusterEvent, local: &str) -> bool {
        let is_his = |process: &JobId| {
            process.is_of(local) && matches!(self, Self::Local { uid, .. } if event.uid == Some(*uid))
        };
        self.is_privileged() || event.process.as_ref().is_none_or(is_his)
    }

    /// Whether this caller may put process `pid` under management: a user the process that calls,
    /// and no other.
    ///
    /// # Errors
    /// [`ApiError::NotAllowed`].
    pub fn may_register(&self, pid: i32) -> Result<(), ApiError> {
        if matches!(self, Self::Local { pid: own, .. } if *own == pid) {
            return Ok(());
        }
        self.may_administer("managing a process other than the caller")
    }

    /// Whether this caller may do `what`, which concerns all users of the node.
    ///
    /// # Errors
    /// [`ApiError::NotAllowed`].
    pub fn may_administer(&self, what: &'static str) -> Result<(), ApiError> {
        if self.is_privileged() {
            return Ok(());
        }
        Err(ApiError::NotAllowed { what: what.into(), who: self.to_string() })
    }

    /// The name of the node that calls, for the peer service.
    ///
    /// # Errors
    /// [`ApiError::NotAllowed`] to all but nodes.
    pub fn node(&self) -> Result<&str, ApiError> {
        match self {
            Self::Node { name } => Ok(name),
            _ => {
                Err(ApiError::NotAllowed { what: "the service of nodes for each other".into(), who: self.to_string() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::EventKind;

    fn job(uid: u32, home: &str) -> ProcessSummary {
        ProcessSummary { pid: 7, uid, home: home.into(), runs_on: "n1".into(), ..Default::default() }
    }

    #[test]
    fn a_user_commands_his_own_jobs_of_this_node() {
        let user = Caller::Local { uid: 1000, pid: 7 };
        assert!(user.owns(&job(1000, "n1"), "n1"));
        assert!(!user.owns(&job(1001, "n1"), "n1"));
        assert!(!user.owns(&job(1000, "n2"), "n1"), "the guest's user is one of n2's");
        assert!(user.may_register(7).is_ok());
        assert!(user.may_register(8).is_err());
        assert!(Caller::Local { uid: 1000, pid: 0 }.may_register(7).is_err());
        assert!(user.may_administer("draining a node").is_err());
    }

    #[test]
    fn a_user_sees_events_of_nodes_and_of_his_own_jobs() {
        let event = |process: Option<&str>, uid| ClusterEvent {
            id: 1,
            at_ms: 0,
            kind: EventKind::Moved,
            node: "n1".into(),
            process: process.map(|home| JobId::new(home, 7)),
            uid,
            migration: None,
            text: String::new(),
        };
        let user = Caller::Local { uid: 1000, pid: 7 };
        assert!(user.may_see(&event(None, None), "n1"));
        assert!(user.may_see(&event(Some("n1"), Some(1000)), "n1"));
        for (home, uid) in [("n1", Some(1001)), ("n1", None), ("n2", Some(1000))] {
            assert!(!user.may_see(&event(Some(home), uid), "n1"), "{home} {uid:?}");
            assert!(Caller::Local { uid: 0, pid: 1 }.may_see(&event(Some(home), uid), "n1"));
        }
    }

    #[test]
    fn peer_calls_need_a_node_certificate() {
        let root = Caller::Local { uid: 0, pid: 1 };
        let client = Caller::Client { name: "admin".into() };
        let node = Caller::Node { name: "n2".into() };
        for caller in [&root, &client, &node] {
            assert!(caller.owns(&job(1000, "n2"), "n1"));
            assert!(caller.may_register(8).is_ok() && caller.may_administer("draining a node").is_ok());
        }
        assert!(root.node().is_err() && client.node().is_err());
        assert_eq!(node.node().unwrap(), "n2");
    }
}
