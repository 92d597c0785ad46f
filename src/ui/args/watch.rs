//! The options of what watches a cluster.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::{RunDir, process};
use crate::job::JobId;

const TOP_EXAMPLES: &str = "\
The key `?` lists what the keys do. What is sorted by, and how panes are shown, is kept in
$XDG_CONFIG_HOME/scx_mosix/top.toml.

Examples:
  scx_mosix top                                     this machine's own daemon
  scx_mosix top --read-only                         only to look
  scx_mosix key client-cert --out creds             at a node: makes credentials; then anywhere:
  scx_mosix top --server n1:7470 --credentials creds";

/// `top`.
#[derive(Clone, Debug, Args)]
#[command(after_help = TOP_EXAMPLES)]
pub struct TopArgs {
    /// Change nothing, only look
    #[arg(long)]
    pub read_only: bool,
    /// Ask the daemon of another machine; HOST is its node's name, or an address of it
    #[arg(long, value_name = "HOST:PORT", requires = "credentials")]
    pub server: Option<String>,
    /// What `key client-cert --out DIR` wrote; without --server to command other nodes too
    #[arg(long, value_name = "DIR")]
    pub credentials: Option<PathBuf>,
    /// The daemon.
    #[command(flatten)]
    pub run_dir: RunDir,
}

/// `web`.
#[derive(Clone, Debug, Args)]
pub struct WebArgs {
    /// Where to serve the page
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7471")]
    pub listen: SocketAddr,
    /// A file with the token that a page must know, at least 32 letters and digits, for a service;
    /// without it a new token is in the address that is printed
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// What to watch.
    #[command(flatten)]
    pub watch: TopArgs,
}

/// `wait`.
#[derive(Clone, Debug, Args)]
pub struct WaitArgs {
    /// The programs: their pids, or NODE/PID for guests of other machines
    #[arg(required = true, value_name = "PID", value_parser = process)]
    pub processes: Vec<JobId>,
    /// The daemon.
    #[command(flatten)]
    pub run_dir: RunDir,
}
