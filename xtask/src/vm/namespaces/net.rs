//! The network of a cluster of namespaces: a bridge in the hub's network namespace, one veth per
//! node.
//!
//! ```text
//!   n1: lan0 ── v1 ┐
//!   n2: lan0 ── v2 ┤ br0 10.77.0.254/24 (hub)     cut, rate: at vB, a class for what comes from A
//! ```
//!
//! Every function runs `ip` or `tc` and must be called in the hub's network namespace.

use super::super::shaper::QUEUE;
use crate::cmd;
use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use std::process::Command;

/// Bytes that a class may send at once: the largest segment that TCP hands to a device, and some.
const BURST: &str = "256k";

/// The rate of a class that only drops; HTB wants one.
const ANY_RATE: &str = "10gbit";

/// What a pair of nodes may send each other.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Nothing passes.
    pub cut: bool,
    /// At most so many 10^6 bits a second pass, each way; 0 is no limit.
    pub mbit: u32,
}

/// The address of a node.
pub fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(node).unwrap_or(0))
}

fn ip(words: &str) -> Result<()> {
    cmd::output(Command::new("ip").args(words.split(' '))).map(drop)
}

fn tc(words: &str) -> Result<()> {
    cmd::output(Command::new("tc").args(words.split(' '))).map(drop)
}

/// Makes the bridge, with the hub's own address on it.
pub fn make_bridge() -> Result<()> {
    ip("link add br0 type bridge")?;
    ip("address add 10.77.0.254/24 dev br0")?;
    ip("link set lo up")?;
    ip("link set br0 up")
}

/// Connects the node whose first process is `pid`.
pub fn attach(node: usize, pid: u32) -> Result<()> {
    detach(node);
    ip(&format!("link add v{node} type veth peer name lan0 netns {pid}"))
        .with_context(|| format!("cannot connect n{node}"))?;
    ip(&format!("link set v{node} master br0 up"))
}

/// Cuts the node off without a word to the others, as a power failure does.
pub fn detach(node: usize) {
    // It fails if there is no such link, which is what is wanted.
    let _ = ip(&format!("link delete v{node}"));
}

/// Applies what is said of each sender to one node's port. `links`: the sender and its link, of
/// every pair of `node`.
pub fn shape(node: usize, links: &[(usize, Link)]) -> Result<()> {
    // It fails if there is nothing to delete.
    let _ = tc(&format!("qdisc delete dev v{node} root"));
    let limited: Vec<_> = links.iter().filter(|(_, link)| *link != Link::default()).collect();
    if limited.is_empty() {
        return Ok(());
    }
    // What matches no filter passes unlimited: that is what `default 0` means.
    tc(&format!("qdisc add dev v{node} root handle 1: htb default 0"))?;
    for (from, link) in limited {
        // tc reads these numbers as hexadecimal.
        let (class, leaf) = (format!("{from:x}"), format!("{:x}", from + 0x100));
        let rate = if link.mbit == 0 { ANY_RATE.to_owned() } else { format!("{}mbit", link.mbit) };
        tc(&format!(
            "class add dev v{node} parent 1: classid 1:{class} htb rate {rate} ceil {rate} burst {BURST} cburst {BURST}"
        ))?;
        let queue = match link {
            Link { cut: true, .. } => "pfifo limit 0".to_owned(),
            Link { mbit: 0, .. } => "pfifo limit 1000".to_owned(),
            Link { mbit, .. } => format!("bfifo limit {}", queue_bytes(*mbit)),
        };
        tc(&format!("qdisc add dev v{node} parent 1:{class} handle {leaf}: {queue}"))?;
        let source = address(*from);
        tc(&format!(
            "filter add dev v{node} parent 1: protocol ip prio 1 u32 match ip src {source}/32 flowid 1:{class}"
        ))?;
    }
    Ok(())
}

/// What a limited line may queue: as much as [`QUEUE`] takes, and room for one large segment.
fn queue_bytes(mbit: u32) -> u64 {
    (u64::from(mbit) * 125_000 * QUEUE.as_millis() as u64 / 1_000).max(70_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_queues_a_fifth_of_a_second_but_at_least_one_segment() {
        assert_eq!(queue_bytes(100), 2_500_000);
        assert_eq!(queue_bytes(1), 70_000);
    }

    #[test]
    fn addresses_follow_node_numbers() {
        assert_eq!(address(3).to_string(), "10.77.0.3");
    }
}
