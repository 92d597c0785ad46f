//! The cluster as this node sees it: a snapshot, cheap to share, published whenever something
//! changes.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::GossipState;
use crate::{
    keys::NodeName,
    node::{NodeInfo, NodeLoad, SchedExtState},
};

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// It answers.
    Alive,
    /// It has not answered lately and may contradict for some seconds yet. Send it nothing new.
    Suspect,
    /// It is gone without a word: crashed, or cut off.
    Down,
    /// It said good-bye.
    Left,
}

/// The facts of a node that travel with its load; the rest of its [`NodeInfo`] is asked for by
/// gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// CPUs.
    pub cpus: u32,
    /// Speed of one CPU in thousandths of the standard speed.
    pub speed_permille: u32,
    /// All memory in bytes (in whole MiB when it came by gossip).
    pub memory_total_bytes: u64,
    /// Whether programs can move to and from it at all.
    pub can_migrate: bool,
    /// How it stands with sched_ext.
    pub sched_ext: SchedExtState,
    /// Equal for nodes whose CPUs can run each other's programs; where it differs, preflight says
    /// what is missing.
    pub features_hash: u64,
    /// What it speaks with its peers; nothing moves between nodes where it differs.
    pub protocol_version: u32,
    /// Kernel release, shortened to 40 bytes.
    pub kernel_release: String,
    /// Release of scx_mosix, shortened to 16 bytes.
    pub software_version: String,
}

/// What a node last said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// What it is.
    pub summary: NodeSummary,
    /// How loaded it was.
    pub load: NodeLoad,
    /// How long ago, in milliseconds, when the view was published.
    pub age_ms: u64,
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its name.
    pub name: NodeName,
    /// Where its daemon listens, UDP and TCP.
    pub addr: SocketAddr,
    /// Which life of it this is.
    pub incarnation: u64,
    /// How it stands.
    pub state: NodeState,
    /// What it last said; `None` until its first word has come round.
    pub report: Option<NodeReport>,
}

/// Gossip's datagrams since this node began, sealed, without UDP's headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Those that came.
    pub received_datagrams: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Those that were sent.
    pub sent_datagrams: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Those that came and were not of this cluster, late, too many or not understood.
    pub refused_datagrams: u64,
}

/// The cluster as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// This node.
    pub me: NodeName,
    /// All nodes that are known, this one included, in the order of their names.
    pub entries: Vec<NodeEntry>,
    /// How they are gossiped, and how old their reports are expected to be.
    pub gossip: GossipState,
    /// What gossip sent and received; nothing where there is no network.
    pub traffic: Traffic,
}

impl ClusterView {
    /// The entry of node `name`.
    pub fn get(&self, name: &NodeName) -> Option<&NodeEntry> {
        let index = self.entries.binary_search_by(|entry| entry.name.cmp(name)).ok()?;
        self.entries.get(index)
    }

    /// This node's own entry.
    pub fn my_entry(&self) -> Option<&NodeEntry> {
        self.get(&self.me)
    }

    /// The other nodes that are alive.
    pub fn peers(&self) -> impl Iterator<Item = &NodeEntry> {
        self.entries.iter().filter(|entry| entry.state == NodeState::Alive && entry.name != self.me)
    }
}

impl NodeSummary {
    /// What two nodes compute together is the sum of this: CPUs times speed, in thousandths of a
    /// standard CPU.
    pub fn capacity_milli(&self) -> u64 {
        u64::from(self.cpus) * u64::from(self.speed_permille)
    }
}

impl From<&NodeInfo> for NodeSummary {
    fn from(info: &NodeInfo) -> Self {
        Self {
            cpus: info.cpus,
            speed_permille: info.speed_permille,
            memory_total_bytes: info.memory_total_bytes,
            can_migrate: info.features.can_migrate(),
            sched_ext: info.features.sched_ext,
            features_hash: info.cpu.hash(),
            protocol_version: info.protocol_version,
            kernel_release: info.kernel_release.clone(),
            software_version: info.software_version.clone(),
        }
    }
}

impl NodeState {
    /// One word for tables and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "left",
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
