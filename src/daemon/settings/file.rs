//! The settings file. `packaging/config.toml` is one with all there is, and comments for users.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer};

use super::{super::acceptor::DEFAULT_PORT, SettingsError};
use crate::{
    api::name::MAX_ALLOWED_NODES,
    bounds::{self, OutOfBounds},
    cluster::GossipConfig,
    job::Constraints,
    keys::NodeName,
    metrics::MetricsAddress,
    node::CpuCount,
    placement, scheduler,
};

/// The settings file.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub struct SettingsFile {
    /// What the command line can say too.
    pub daemon: Daemon,
    /// `[placement]`
    pub placement: placement::Config,
    /// `[gossip]`
    pub gossip: GossipConfig,
    /// `[scheduler]`
    pub scheduler: scheduler::Config,
    /// `[class.NAME]`, by name.
    pub class: BTreeMap<String, Class>,
}

/// `[daemon]`: what the command line can say too.
#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub struct Daemon {
    /// The cluster's key.
    pub key: Option<PathBuf>,
    /// Whom to ask for admission.
    pub join: Vec<String>,
    /// This node's name.
    pub node_name: Option<NodeName>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The address that others are told.
    pub advertise: Option<IpAddr>,
    /// Where metrics are served.
    pub metrics: Option<MetricsAddress>,
    /// What this node may use.
    #[serde(deserialize_with = "cpu_count")]
    pub cpus: Option<CpuCount>,
    /// What this node may use, in MiB.
    pub memory_mib: Option<u64>,
    /// Whether to schedule with our scheduler.
    pub sched_ext: bool,
    /// Whether to move jobs by itself.
    pub balance: bool,
}

/// On all addresses, at our port.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), DEFAULT_PORT);

impl Default for Daemon {
    fn default() -> Self {
        Self {
            key: None,
            join: Vec::new(),
            node_name: None,
            listen: LISTEN,
            advertise: None,
            metrics: None,
            cpus: None,
            memory_mib: None,
            sched_ext: true,
            balance: true,
        }
    }
}

/// A TOML number, whole or not.
fn cpu_count<'a, D: Deserializer<'a>>(number: D) -> Result<Option<CpuCount>, D::Error> {
    let count = f64::deserialize(number)?.to_string().parse();
    count.map(Some).map_err(serde::de::Error::custom)
}

impl SettingsFile {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, is not understood, or has a value that is out of bounds.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let path = || path.to_owned();
        let text = std::fs::read_to_string(path()).map_err(|source| SettingsError::Read { path: path(), source })?;
        let parsed = toml::from_str(&text);
        let file: Self = parsed.map_err(|source| SettingsError::Parse { path: path(), source: Box::new(source) })?;
        file.check_bounds().map_err(|source| SettingsError::Bounds { path: path(), source })?;
        match file.too_many_nodes() {
            None => Ok(file),
            Some(class) => Err(SettingsError::ManyNodes { path: path(), class: class.clone() }),
        }
    }

    pub(super) fn check_bounds(&self) -> Result<(), OutOfBounds> {
        // As on the command line.
        bounds::check("daemon", [("memory_mib", self.daemon.memory_mib.unwrap_or(16), 16, u64::from(u32::MAX))])?;
        self.placement.validate()?;
        self.gossip.validate()?;
        self.scheduler.validate()
    }

    /// A class with more nodes than may be named.
    pub(super) fn too_many_nodes(&self) -> Option<&String> {
        self.class.iter().find(|(_, class)| class.nodes.len() > MAX_ALLOWED_NODES).map(|(name, _)| name)
    }
}

/// What holds for the jobs that users start with `--class NAME`.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub struct Class {
    stay: bool,
    nodes: Vec<NodeName>,
}

impl From<Class> for Constraints {
    fn from(class: Class) -> Self {
        Self { stay: class.stay, allowed_nodes: class.nodes.iter().map(ToString::to_string).collect() }
    }
}
