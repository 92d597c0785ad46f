//! Reads single words of the command line.

use super::{AllowedNodes, CancelWhat};
use crate::{
    api::{backend::Destination, name::ANY},
    job::JobId,
    keys::NodeName,
};

/// `PID` or `NODE/PID`; the node that is asked is called `-`.
pub(super) fn process(text: &str) -> Result<JobId, String> {
    let of_node = if text.contains('/') { text.to_owned() } else { format!("{ANY}/{text}") };
    of_node.parse().map_err(|_| "it must be PID or NODE/PID".to_owned())
}

/// As [`process`], or an id of 32 hex digits, which is longer than any pid.
pub(super) fn cancel_what(text: &str) -> Result<CancelWhat, String> {
    if let Ok(id) = text.parse() {
        return Ok(CancelWhat::Migration(id));
    }
    process(text).map(CancelWhat::Process).map_err(|_| "it must be PID, NODE/PID or a migration's id".to_owned())
}

pub(super) fn allowed(text: &str) -> Result<AllowedNodes, String> {
    if text == "any" {
        return Ok(AllowedNodes(Vec::new()));
    }
    let read = |node: &str| NodeName::new(node).map(|node| node.to_string()).map_err(|error| error.to_string());
    Ok(AllowedNodes(text.split(',').map(read).collect::<Result<_, _>>()?))
}

/// `home`, `best` or a node.
pub(in crate::ui) fn destination(text: &str) -> Result<Destination, String> {
    Ok(match text {
        "home" => Destination::Home,
        "best" => Destination::Best,
        node => Destination::Node(NodeName::new(node).map_err(|error| error.to_string())?.as_str().to_owned()),
    })
}
