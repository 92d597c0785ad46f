//! A cluster of guests, and what is known of it between two commands.
//!
//! ```text
//! target/vm/clusters/NAME/   cluster.json, key, nI.qcow2, nI.console      what lasts from `up` to `down`
//! /tmp/scx-mosix-vm-UID/HASH/  sockets, process ids, ssh key            short paths: a socket's may have 107 bytes
//! ```
//!
//! A cluster is `Booting` until everything in it answers. The switch's process takes a cluster down whose `vm up` died before that;
//! where even the switch died, the next `vm up` does.

use super::accel::Accel;
use super::image::{Fnv, Kernel};
use super::qemu::{self, Files};
use super::ssh::Access;
use super::switch;
use crate::product;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

/// The port that a daemon listens on.
pub const DAEMON_PORT: u16 = 7470;

/// Addresses are 10.77.0.I.
pub const MOST_NODES: usize = 200;

/// Whether the cluster may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Its `vm up` has not finished.
    Booting,
    /// All nodes have answered.
    Up,
}

/// A port of 127.0.0.1 that leads to a node's port.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Forward {
    /// The node's number.
    pub node: usize,
    /// The port of 127.0.0.1.
    pub local: u16,
    /// The node's port.
    pub port: u16,
}

/// What `cluster.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Whether the cluster may be used.
    pub phase: Phase,
    /// The image's directory.
    pub image: PathBuf,
    /// The kernel of each node, in their order.
    pub kernels: Vec<Kernel>,
    /// What runs the guests.
    pub accel: Accel,
    /// Virtual CPUs of each.
    pub cpus: u32,
    /// Memory of each, MiB.
    pub memory_mib: u32,
    /// Whether nodes start the daemon at boot.
    pub daemon: bool,
    /// The ports that `vm forward` opened.
    pub forwards: Vec<Forward>,
}

/// A cluster by its name, whether it exists or not.
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// What lasts.
    pub dir: PathBuf,
    /// What is only of use while it runs.
    pub run_dir: PathBuf,
}

impl Cluster {
    /// The cluster `name` of this work tree.
    pub fn named(name: &str) -> Result<Self> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 40 || !name.chars().all(fits) {
            bail!("{name:?} is no name for a cluster: letters, digits, - and _, at most 40");
        }
        let dir = product::target_dir().join("vm/clusters").join(name);
        let mut hash = Fnv::default();
        hash.add(dir.as_os_str().as_encoded_bytes());
        // SAFETY: getuid takes nothing, changes nothing and cannot fail.
        let user = unsafe { libc::getuid() };
        let run_dir = PathBuf::from(format!("/tmp/scx-mosix-vm-{user}/{:016x}", hash.0));
        Ok(Self { name: name.to_owned(), dir, run_dir })
    }

    /// Makes its directories, both only for us: keys lie in them.
    pub fn make_dirs(&self) -> Result<()> {
        for dir in [&self.dir, &self.run_dir] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        // /tmp is everybody's: someone else may have made the directory before us.
        let parent = self.run_dir.parent().unwrap_or(&self.run_dir);
        let (owner, ours) = (fs::symlink_metadata(parent)?, fs::metadata(&self.dir)?);
        if !owner.is_dir() || owner.uid() != ours.uid() || owner.mode() & 0o022 != 0 {
            bail!("{} is not ours alone: remove it", parent.display());
        }
        Ok(())
    }

    /// What is known of it, or `None` if there is no such cluster.
    pub fn read(&self) -> Result<Option<State>> {
        let path = self.dir.join("cluster.json");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let state = serde_json::from_str(&text);
        state
            .map(Some)
            .with_context(|| format!("{} is damaged: run `cargo xtask vm down --name {}`", path.display(), self.name))
    }

    /// What is known of a cluster that can be used.
    pub fn state(&self) -> Result<State> {
        match self.read()? {
            Some(state) if state.phase == Phase::Up => Ok(state),
            Some(_) => bail!("the cluster {:?} is not up yet", self.name),
            None => bail!(
                "there is no cluster {:?}: `cargo xtask vm up --nodes N --name {}` makes one",
                self.name,
                self.name
            ),
        }
    }

    /// Records `state`; a reader sees the old one or the new one.
    pub fn write(&self, state: &State) -> Result<()> {
        let fresh = self.dir.join(format!("cluster.json.{}", std::process::id()));
        fs::write(&fresh, serde_json::to_vec_pretty(state)?)?;
        fs::rename(fresh, self.dir.join("cluster.json")).context("cannot write cluster.json")
    }

    /// The number of the node `name` (n1, n2, …).
    pub fn node(&self, state: &State, name: &str) -> Result<usize> {
        let number = name.strip_prefix('n').and_then(|digits| digits.parse().ok());
        match number {
            Some(node) if (1..=state.kernels.len()).contains(&node) => Ok(node),
            _ => bail!("no node {name:?} in the cluster {:?}: it has n1 to n{}", self.name, state.kernels.len()),
        }
    }

    /// The running guest's files.
    pub fn files(&self, node: usize) -> Files {
        Files { monitor: self.run_dir.join(format!("n{node}.qmp")), pid: self.run_dir.join(format!("n{node}.pid")) }
    }

    /// What node `node` has printed on its console, over all its boots.
    pub fn console(&self, node: usize) -> PathBuf {
        self.dir.join(format!("n{node}.console"))
    }

    /// Where QEMU keeps what the node writes.
    pub fn disk(&self, node: usize) -> PathBuf {
        self.dir.join(format!("n{node}.qcow2"))
    }

    /// The cluster's key, on the host.
    pub fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    /// Access of `user` to the node `node`.
    pub fn access<'a>(&'a self, node: usize, user: &'a str) -> Result<Access<'a>> {
        let path = self.port_file(node);
        let port = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        if self.files(node).running().is_none() {
            bail!("n{node} is off: `cargo xtask vm start n{node} --name {}` boots it", self.name);
        }
        let port = port.with_context(|| format!("n{node} has not booted: {} is missing", path.display()))?;
        Ok(Access { run_dir: &self.run_dir, node, port, user })
    }

    /// The file that keeps the port to the node's sshd.
    pub fn port_file(&self, node: usize) -> PathBuf {
        self.run_dir.join(format!("n{node}.port"))
    }

    /// Ends ssh's lasting connections to the node (or to all).
    pub fn disconnect(&self, node: Option<usize>) {
        let prefix = node.map(|node| format!("n{node}."));
        for entry in fs::read_dir(&self.run_dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((node, user)) = name.strip_suffix(".ssh").and_then(|stem| stem.split_once('.')) else { continue };
            if prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix)) {
                let number = node.trim_start_matches('n').parse().unwrap_or(0);
                Access { run_dir: &self.run_dir, node: number, port: 1, user }.disconnect();
            }
        }
    }

    /// Cuts the power of everything and forgets it. Right for a cluster in any state, or for none.
    pub fn down(&self) -> Result<()> {
        self.disconnect(None);
        let mut failed = None;
        for entry in fs::read_dir(&self.run_dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(node) = name.strip_suffix(".pid").and_then(|stem| stem.strip_prefix('n')) else { continue };
            if let Ok(node) = node.parse() {
                failed = self.files(node).power_off().err().or(failed);
            }
        }
        if let Some(pid) = self.switch_pid()
            && pid != std::process::id() as i32
        {
            qemu::signal(pid, libc::SIGKILL);
            qemu::gone(pid, &self.run_dir, Duration::from_secs(5));
        }
        match failed {
            Some(error) => Err(error.context(format!("cannot take down the cluster {:?}", self.name))),
            None => {
                remove(&self.run_dir)?;
                remove(&self.dir)
            }
        }
    }

    /// The process id of the cluster's switch, if it runs.
    pub fn switch_pid(&self) -> Option<i32> {
        let pid = fs::read_to_string(self.run_dir.join("switch.pid")).ok()?.trim().parse().ok()?;
        qemu::belongs(pid, &self.run_dir).then_some(pid)
    }

    /// Where the switch takes orders.
    pub fn switch(&self) -> PathBuf {
        switch::control_socket(&self.run_dir)
    }

    /// Whether any guest of it runs.
    pub fn alive(&self, state: &State) -> bool {
        (1..=state.kernels.len()).any(|node| self.files(node).running().is_some())
    }
}

/// The clusters of this work tree.
pub fn all() -> Vec<String> {
    let dir = product::target_dir().join("vm/clusters");
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn remove(dir: &PathBuf) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
