//! What a daemon is told at its start, from its command line and its settings file.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

mod file;

use crate::{
    api::name::MAX_ALLOWED_NODES,
    bounds::OutOfBounds,
    cluster::GossipConfig,
    job::Constraints,
    keys::{ClusterKey, DEFAULT_KEY_PATH, KeyError, NodeName},
    metrics::MetricsAddress,
    node::Limits,
    placement, scheduler,
    ui::args::DaemonArgs,
};
use file::SettingsFile;

/// Where the daemon looks for settings if it is not told.
const DEFAULT_CONFIG_PATH: &str = "/etc/scx_mosix/config.toml";

/// What a daemon is told at its start.
pub struct Settings {
    /// The cluster's key; without one the daemon is alone and listens on its Unix socket only.
    pub key: Option<ClusterKey>,
    /// This node's name; by default its host name.
    pub node_name: Option<NodeName>,
    /// Where to listen, TCP and UDP.
    pub listen: SocketAddr,
    /// The address that others are told; by default found out.
    pub advertise: Option<IpAddr>,
    /// Whom to ask for admission.
    pub join: Vec<String>,
    /// Where metrics are served.
    pub metrics: Option<MetricsAddress>,
    /// The run-time directory.
    pub run_dir: PathBuf,
    /// What this node may use, where that cannot be read.
    pub limits: Limits,
    /// Whether to schedule with our scheduler.
    pub sched_ext: bool,
    /// Whether to move jobs by itself.
    pub balance: bool,
    /// Placement's tunables.
    pub placement: placement::Config,
    /// Load gossip's tunables.
    pub gossip: GossipConfig,
    /// How our scheduler shares the CPUs.
    pub scheduler: scheduler::Config,
    /// What holds for jobs of a class, by its name.
    pub classes: BTreeMap<String, Constraints>,
}

impl Settings {
    /// Placement's tunables, for the scheduler that this node has.
    pub fn placement_here(&self) -> placement::Config {
        let placement = self.placement.clone();
        if self.sched_ext { placement.under(&self.scheduler) } else { placement }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The key file cannot be used.
    #[error("cannot use the cluster's key")]
    Key(#[from] KeyError),
    /// The settings file cannot be read.
    #[error("cannot read the settings in {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The settings file is not understood.
    #[error("{}: settings not understood", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A setting could not work.
    #[error("{}: settings out of bounds", .path.display())]
    Bounds {
        /// The file.
        path: PathBuf,
        /// Which.
        source: OutOfBounds,
    },
    /// A class has more nodes than a job may.
    #[error("{}: class {class} names more than {MAX_ALLOWED_NODES} nodes", .path.display())]
    ManyNodes {
        /// The file.
        path: PathBuf,
        /// The class.
        class: String,
    },
}

/// `path` if there is such a file.
fn existing(path: &str) -> Option<PathBuf> {
    Some(PathBuf::from(path)).filter(|path| path.exists())
}

impl TryFrom<DaemonArgs> for Settings {
    type Error = SettingsError;

    /// The command line's word comes before the file's, and that before the defaults.
    fn try_from(args: DaemonArgs) -> Result<Self, SettingsError> {
        let path = args.config.or_else(|| existing(DEFAULT_CONFIG_PATH));
        let file = path.as_deref().map(SettingsFile::read).transpose()?.unwrap_or_default();
        let said = file.daemon;
        let key = args.key.or(said.key).or_else(|| existing(DEFAULT_KEY_PATH));
        Ok(Self {
            key: key.as_deref().map(ClusterKey::load).transpose()?,
            node_name: args.node_name.or(said.node_name),
            listen: args.listen.unwrap_or(said.listen),
            advertise: args.advertise.or(said.advertise),
            join: if args.join.is_empty() { said.join } else { args.join },
            metrics: args.metrics.or(said.metrics),
            run_dir: args.run_dir.path,
            limits: Limits {
                cpus: args.limits.cpus.or(said.cpus),
                memory_mib: args.limits.memory_mib.or(said.memory_mib),
            },
            sched_ext: said.sched_ext && !args.no_sched_ext,
            balance: said.balance && !args.no_balance,
            placement: file.placement,
            gossip: file.gossip,
            scheduler: file.scheduler,
            classes: file.class.into_iter().map(|(name, class)| (name, class.into())).collect(),
        })
    }
}

#[cfg(test)]
mod tests;
