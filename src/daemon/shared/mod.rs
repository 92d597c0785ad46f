//! What all stages of the daemon share: who this node is, and handles to what lives beside the
//! stages. It knows none of them.

pub mod agents;
pub mod draining;
pub mod jobs;
pub mod peers;
pub mod under_way;
pub mod whereabouts;

use std::sync::{Arc, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    agents::Agents,
    draining::Draining,
    jobs::{Job, Jobs},
    peers::Peers,
};
use crate::{
    api::backend::Requirements,
    cluster::{ClusterHandle, NodeReport},
    job::JobId,
    node::NodeInfo,
    sys::lock::{Mutex, MutexGuard},
};

/// The cgroup below which all guests of this node live.
pub const GUESTS_CGROUP: &str = "scx_mosix";

/// The identity of this daemon, and its handles.
pub struct Shared {
    /// This node.
    pub info: NodeInfo,
    /// Its name, as text.
    pub node: String,
    /// Where its port is; `None` without a key.
    pub address: Option<String>,
    /// When the daemon began, in ms since the epoch.
    pub start_time_ms: u64,
    /// The jobs whose home is here.
    pub jobs: Mutex<Jobs>,
    /// The agents of this node.
    pub agents: Arc<Agents>,
    /// The other nodes' daemons.
    pub peers: Arc<dyn Peers>,
    /// The cluster.
    pub cluster: ClusterHandle,
    /// Why the scheduler is not attached, if it is not.
    pub scheduler: watch::Receiver<crate::scheduler::State>,
    /// Whether this node sends its guests away.
    pub draining: Draining,
    /// Cancelled when the daemon ends.
    pub stop: CancellationToken,
}

impl Shared {
    /// The table of jobs.
    pub fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // Jobs are inserted and removed whole, so a panic elsewhere leaves the table usable.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name in the cluster of a job whose home is here.
    pub fn name_of(&self, job: &Job) -> JobId {
        JobId::new(&self.node, job.root_pid)
    }

    /// What programs from here need of another node.
    pub fn requirements(&self) -> Requirements {
        Requirements {
            protocol: self.info.protocol_version,
            cpu: self.info.cpu.clone(),
            kernel_release: self.info.kernel_release.clone(),
            criu_version: self.info.features.criu.map(|version| version.to_string()).unwrap_or_default(),
        }
    }

    /// What this node has told the cluster of itself last.
    pub fn own_report(&self) -> Option<NodeReport> {
        self.cluster.view().my_entry().and_then(|entry| entry.report.clone())
    }

    /// What could be given to programs now, in bytes, as last sampled.
    pub fn available_bytes(&self) -> u64 {
        self.own_report().map_or(0, |report| report.load.memory_free_bytes)
    }
}
