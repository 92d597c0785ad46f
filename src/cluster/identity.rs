//! What SWIM knows a node by.

use std::{fmt, net::SocketAddr};

use foca::Identity;

use crate::keys::NodeName;

/// A node in one of its lives. The address is unique in the cluster; the incarnation grows whenever
/// the daemon starts and whenever the node has to contradict its own death.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NodeId {
    /// Its name, unique too (a second node of the same name is refused when it joins).
    pub name: NodeName,
    /// Where its daemon listens (the same port for UDP and TCP).
    pub addr: SocketAddr,
    /// Which life this is; starts at the daemon's epoch.
    pub incarnation: u64,
}

impl Identity for NodeId {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        Some(Self { incarnation: self.incarnation.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        // The name decides ties, so that all nodes decide alike.
        (self.incarnation, &self.name) > (adversary.incarnation, &adversary.name)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.addr)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.name, self.addr, self.incarnation)
    }
}
