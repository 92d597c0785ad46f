//! Resource names: `nodes/{node}`, `nodes/{node}/processes/{pid}`, `migrations/{id}`,
//! `events/{id}`.

use super::ApiError;
use crate::{
    job::{JobId, SessionId},
    keys::NodeName,
};

/// The node of a name that stands for the node asked, or in a list for every node.
pub const ANY: &str = "-";

/// Reads `nodes/{node}/processes/{pid}`, where `-` as the node stands for `local`.
///
/// # Errors
/// [`ApiError::Invalid`] if it is written otherwise.
pub fn parse_job(name: &str, local: &str) -> Result<JobId, ApiError> {
    let bad = || ApiError::invalid("name", "it must be nodes/{node}/processes/{pid}");
    let (node, pid) = name.strip_prefix("nodes/").and_then(|rest| rest.split_once("/processes/")).ok_or_else(bad)?;
    let pid = pid.parse().ok().filter(|pid: &i32| *pid > 0).ok_or_else(bad)?;
    let node = node_name(node).ok_or_else(bad)?;
    Ok(JobId::new(if node == ANY { local } else { &node }, pid))
}

/// The resource name of a job.
#[must_use]
pub fn job_resource(job: &JobId) -> String {
    format!("nodes/{}/processes/{}", job.home, job.pid)
}

/// The resource name of a node.
#[must_use]
pub fn node_resource(node: &str) -> String {
    format!("nodes/{node}")
}

/// The resource names of nodes.
#[must_use]
pub fn node_resources(nodes: &[String]) -> Vec<String> {
    nodes.iter().map(|node| node_resource(node)).collect()
}

/// Reads `nodes/{node}`; `field` is where it stood. [`ANY`] is returned as it is.
///
/// # Errors
/// [`ApiError::Invalid`] if it is written otherwise.
pub fn parse_node(name: &str, field: &'static str) -> Result<String, ApiError> {
    let node = name.strip_prefix("nodes/").and_then(node_name);
    node.ok_or_else(|| ApiError::invalid(field, "it must be nodes/{node}"))
}

/// The most nodes that may be named as those where a job may run.
pub const MAX_ALLOWED_NODES: usize = 256;

/// Reads the nodes where a job may run.
///
/// # Errors
/// [`ApiError::Invalid`] if one is no name of a node, or there are too many.
pub fn parse_nodes(names: &[String]) -> Result<Vec<String>, ApiError> {
    let nodes: Result<Vec<String>, _> = names.iter().map(|name| parse_node(name, ALLOWED_NODES)).collect();
    check_allowed(&nodes?)
}

/// Checks the names of nodes where a job may run, and gives them as the cluster writes them.
///
/// # Errors
/// [`ApiError::Invalid`] if one is no name of a node, or there are too many.
pub fn check_allowed(nodes: &[String]) -> Result<Vec<String>, ApiError> {
    if nodes.len() > MAX_ALLOWED_NODES {
        return Err(ApiError::invalid(ALLOWED_NODES, format!("it names more than {MAX_ALLOWED_NODES} nodes")));
    }
    let read = |name: &String| NodeName::new(name).map(|name| name.to_string());
    let read: Result<_, _> = nodes.iter().map(read).collect();
    read.map_err(|error| ApiError::invalid(ALLOWED_NODES, format!("{error}; name nodes, or none for any")))
}

const ALLOWED_NODES: &str = "allowed_nodes";

/// The resource name of a migration.
#[must_use]
pub fn migration_resource(id: SessionId) -> String {
    format!("migrations/{id}")
}

/// Reads `migrations/{id}`.
///
/// # Errors
/// [`ApiError::Invalid`] if it is written otherwise.
pub fn parse_migration(name: &str) -> Result<SessionId, ApiError> {
    name.strip_prefix("migrations/")
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| ApiError::invalid("name", "it must be migrations/{id} with an id of 32 hex digits"))
}

/// The resource name of an event.
#[must_use]
pub fn event_resource(id: u64) -> String {
    format!("events/{id}")
}

/// Reads `events/{id}`.
///
/// # Errors
/// [`ApiError::Invalid`] if it is written otherwise.
pub fn parse_event(name: &str) -> Result<u64, ApiError> {
    name.strip_prefix("events/")
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| ApiError::invalid("name", "it must be events/{id} with a number as id"))
}

/// A node's name as the cluster writes it, or [`ANY`].
fn node_name(text: &str) -> Option<String> {
    if text == ANY { Some(text.to_owned()) } else { NodeName::new(text).ok().map(|name| name.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_text() {
        let name = JobId::new("n1", 4711);
        assert_eq!(parse_job(&job_resource(&name), "n9").unwrap(), name);
        assert_eq!(parse_job("nodes/-/processes/4711", "n1").unwrap(), name);
        assert_eq!(parse_node("nodes/n2", "node").unwrap(), "n2");
        assert_eq!(parse_nodes(&["nodes/N2".into(), "nodes/n3".into()]).unwrap(), ["n2", "n3"]);
        let id = SessionId::random();
        assert_eq!(parse_migration(&migration_resource(id)).unwrap(), id);
        assert_eq!(parse_event(&event_resource(u64::MAX)).unwrap(), u64::MAX);
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in [
            "",
            "n1/1",
            "nodes/n1",
            "nodes/n1/processes/",
            "nodes/n1/processes/0",
            "nodes/n1/processes/-4",
            "nodes//processes/1",
        ] {
            assert!(parse_job(bad, "n1").is_err(), "{bad}");
        }
        for bad in ["", "nodes/", "nodes/a/b", "n1", &format!("nodes/{}", "x".repeat(64)), "nodes/\u{1}"] {
            assert!(parse_node(bad, "node").is_err(), "{bad}");
        }
        assert!(parse_migration("migrations/12").is_err());
        assert!(parse_event("events/").is_err() && parse_event("events/-1").is_err());
        for bad in ["-", "n 1", "\u{1}"] {
            assert!(check_allowed(&[bad.to_owned()]).is_err(), "{bad}");
        }
        for bad in
            [vec!["nodes/-".to_owned()], vec!["n1".to_owned()], vec!["nodes/n1".to_owned(); MAX_ALLOWED_NODES + 1]]
        {
            assert!(parse_nodes(&bad).is_err(), "{bad:?}");
        }
    }
}
