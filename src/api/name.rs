//! Resource names: `nodes/{node}`, `nodes/{node}/processes/{pid}`, `migrations/{id}`.

use std::fmt;

use super::ApiError;
use crate::control::SessionId;

/// The node of a name that stands for the node asked, or in a list for every node.
pub const ANY: &str = "-";

/// The longest node name that is looked at; longer ones are no names (63 is the limit of a DNS label).
const MAX_NODE_BYTES: usize = 63;

/// Names a job in the whole cluster: its home node and the pid of its root process there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessName {
    /// The home node.
    pub node: String,
    /// The root process's pid at home.
    pub pid: i32,
}

impl ProcessName {
    /// Reads `nodes/{node}/processes/{pid}`, where `-` as the node stands for `local`.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] if it is written otherwise.
    pub fn parse(name: &str, local: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::invalid("name", "it must be nodes/{node}/processes/{pid}");
        let (node, pid) =
            name.strip_prefix("nodes/").and_then(|rest| rest.split_once("/processes/")).ok_or_else(bad)?;
        let pid: i32 = pid.parse().map_err(|_| bad())?;
        if pid <= 0 || !is_node(node) {
            return Err(bad());
        }
        Ok(Self { node: if node == ANY { local } else { node }.to_owned(), pid })
    }

    /// The name as resource name.
    #[must_use]
    pub fn resource(&self) -> String {
        format!("nodes/{}/processes/{}", self.node, self.pid)
    }
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.pid)
    }
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
    match name.strip_prefix("nodes/") {
        Some(node) if is_node(node) => Ok(node.to_owned()),
        _ => Err(ApiError::invalid(field, "it must be nodes/{node}")),
    }
}

/// The most nodes that may be named as those where a job may run.
pub const MAX_ALLOWED_NODES: usize = 256;

/// Reads the nodes where a job may run.
///
/// # Errors
/// [`ApiError::Invalid`] if one is no name of a node, or there are too many.
pub fn parse_nodes(names: &[String]) -> Result<Vec<String>, ApiError> {
    const FIELD: &str = "allowed_nodes";
    let read = |name: &String| match parse_node(name, FIELD)? {
        any if any == ANY => Err(ApiError::invalid(FIELD, "name nodes, or none for any")),
        node => Ok(node),
    };
    check_allowed(names.iter().map(read).collect::<Result<_, _>>()?)
}

/// Checks the names of nodes where a job may run.
///
/// # Errors
/// [`ApiError::Invalid`] if there are too many.
pub fn check_allowed(nodes: Vec<String>) -> Result<Vec<String>, ApiError> {
    if nodes.len() > MAX_ALLOWED_NODES {
        return Err(ApiError::invalid("allowed_nodes", format!("it names more than {MAX_ALLOWED_NODES} nodes")));
    }
    Ok(nodes)
}

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

fn is_node(node: &str) -> bool {
    !node.is_empty() && node.len() <= MAX_NODE_BYTES && !node.contains('/') && !node.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_text() {
        let name = ProcessName { node: "n1".into(), pid: 4711 };
        assert_eq!(ProcessName::parse(&name.resource(), "n9").unwrap(), name);
        assert_eq!(ProcessName::parse("nodes/-/processes/4711", "n1").unwrap(), name);
        assert_eq!(parse_node("nodes/n2", "node").unwrap(), "n2");
        let id = SessionId::random();
        assert_eq!(parse_migration(&migration_resource(id)).unwrap(), id);
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
            assert!(ProcessName::parse(bad, "n1").is_err(), "{bad}");
        }
        for bad in ["", "nodes/", "nodes/a/b", "n1", &format!("nodes/{}", "x".repeat(64))] {
            assert!(parse_node(bad, "node").is_err(), "{bad}");
        }
        assert!(parse_migration("migrations/12").is_err());
        for bad in
            [vec!["nodes/-".to_owned()], vec!["n1".to_owned()], vec!["nodes/n1".to_owned(); MAX_ALLOWED_NODES + 1]]
        {
            assert!(parse_nodes(&bad).is_err(), "{bad:?}");
        }
    }
}
