//! Why a daemon cannot run.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::{
    api::ServeError, bounds::OutOfBounds, cluster::ClusterError, daemon::settings::SettingsError,
    daemon::shared::jobs::RegisterError, keys::KeyError, node::NodeError, telemetry::TelemetryError,
};

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another daemon runs.
    #[error("another daemon uses {}: stop it first, or give --run-dir", .path.display())]
    Running {
        /// The run-time directory.
        path: PathBuf,
    },
    /// A file or directory cannot be made.
    #[error("cannot set up {}; the daemon needs root", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The port cannot be had.
    #[error("cannot listen on TCP {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A signal handler cannot be set.
    #[error("cannot handle signals")]
    Signals(#[source] io::Error),
    /// This machine cannot be looked at.
    #[error("cannot find out what this machine is")]
    Node(#[from] NodeError),
    /// The probe of this machine panicked.
    #[error("the probe of this machine failed")]
    Probe(#[source] tokio::task::JoinError),
    /// The key cannot be used.
    #[error("cannot use the cluster's key")]
    Key(#[from] KeyError),
    /// The cluster cannot be entered.
    #[error("cannot take part in the cluster")]
    Cluster(#[from] ClusterError),
    /// Telemetry does not start.
    #[error("cannot measure")]
    Telemetry(#[from] TelemetryError),
    /// The API cannot be served.
    #[error("cannot serve the API")]
    Api(#[from] ServeError),
    /// Jobs of an earlier daemon cannot be read.
    #[error("cannot take over the jobs of an earlier daemon")]
    Jobs(#[from] RegisterError),
    /// The settings cannot be used.
    #[error("cannot use these settings")]
    Settings(#[from] SettingsError),
    /// A setting is out of bounds.
    #[error("cannot use these settings")]
    Bounds(#[from] OutOfBounds),
}
