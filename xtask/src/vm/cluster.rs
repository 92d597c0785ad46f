//! A cluster of nodes, and what is known of it between two commands.
//!
//! ```text
//! target/vm/clusters/NAME/   cluster.json, key, nI.console, nI.qcow2 or nI.root    what lasts from `up` to `down`
//! /tmp/scx-mosix-vm-UID/HASH/  sockets, process ids, ssh key    short paths: a socket's may have 107 bytes
//! ```
//!
//! A cluster is `Booting` until everything in it answers. The switch or hub takes a cluster down
//! whose `vm up` died before that; where even that process died, the next `vm up` does.

use super::accel::Accel;
use super::control::{self, HubRequest, Request};
use super::image::{Fnv, Kernel};
use super::namespaces;
use super::qemu::{self, Files};
use super::ssh::Access;
use super::switch;
use crate::cmd;
use crate::product;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

/// How long the hub may take for an order; to start a node it copies a root file system.
const HUB_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the switch or hub may take to change the network.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);

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

/// What nodes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Backend {
    /// Virtual machines.
    #[default]
    #[value(alias = "auto")]
    Qemu,
    /// Namespaces on this machine's own kernel, at native speed; needs root or sudo.
    Namespaces,
}

/// What the root file system of a node that is namespaces lies on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum RootKind {
    /// Files of its own on this machine's file system.
    #[default]
    Copy,
    /// An overlayfs, as in containers and live systems.
    Overlay,
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
    /// What the nodes are.
    pub backend: Backend,
    /// What their root file systems lie on, if they are namespaces.
    pub root: RootKind,
    /// The image's directory.
    pub image: PathBuf,
    /// The kernel of each node, in their order.
    pub kernels: Vec<Kernel>,
    /// What runs virtual machines; `None` where nodes are namespaces.
    pub accel: Option<Accel>,
    /// CPUs of each; only namespaces can have a part of one.
    pub cpus: f64,
    /// Memory of each, MiB.
    pub memory_mib: u32,
    /// Whether nodes start the daemon at boot.
    pub daemon: bool,
    /// The ports that `vm forward` opened.
    pub forwards: Vec<Forward>,
}

impl State {
    /// How many nodes the cluster has.
    pub fn nodes(&self) -> usize {
        self.kernels.len()
    }

    /// What runs the nodes, in a word for people and reports.
    pub fn runs_on(&self) -> &'static str {
        match self.accel {
            Some(Accel::Kvm) => "kvm",
            Some(Accel::Tcg) => "tcg",
            None => "namespaces",
        }
    }
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
        // /tmp belongs to all users: another one may have made the directory before us.
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
            Some(node) if (1..=state.nodes()).contains(&node) => Ok(node),
            _ => bail!("no node {name:?} in the cluster {:?}: it has n1 to n{}", self.name, state.nodes()),
        }
    }

    /// A name for it that no other cluster on this machine has.
    pub fn id(&self) -> String {
        self.run_dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What the first boot of a node copies over its root: keys, the binary.
    pub fn stage(&self) -> PathBuf {
        self.dir.join("cluster")
    }

    /// Which cluster a hidden command is about, also where it runs by sudo with another
    /// environment.
    pub fn hidden_arguments(&self) -> [std::ffi::OsString; 6] {
        let (dir, run_dir) = (self.dir.clone().into(), self.run_dir.clone().into());
        ["--name".into(), self.name.clone().into(), "--dir".into(), dir, "--run-dir".into(), run_dir]
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

    /// Has the hub start a node that is off: its first process is there when this returns.
    pub fn order_start(&self, node: usize) -> Result<()> {
        control::order(&self.switch(), &HubRequest::Start { node }, HUB_TIMEOUT)
    }

    /// Ends everything of a node at once.
    pub fn power_off(&self, state: &State, node: usize) -> Result<()> {
        match state.backend {
            Backend::Qemu => self.files(node).power_off()?,
            Backend::Namespaces => control::order(&self.switch(), &HubRequest::PowerOff { node }, HUB_TIMEOUT)?,
        }
        self.disconnect(Some(node));
        Ok(())
    }

    /// Changes the network between two nodes.
    pub fn change_link(&self, state: &State, request: Request) -> Result<()> {
        match state.backend {
            Backend::Qemu => control::order(&self.switch(), &request, LINK_TIMEOUT),
            Backend::Namespaces => control::order(&self.switch(), &HubRequest::Link(request), LINK_TIMEOUT),
        }
    }

    /// Cuts the power of everything and forgets it. Right for a cluster in any state, or for none.
    pub fn down(&self) -> Result<()> {
        self.disconnect(None);
        if self.has_namespaces() { self.end_namespaces() } else { self.end_machines() }
            .with_context(|| format!("cannot take down the cluster {:?}", self.name))?;
        if let Some(pid) = self.switch_pid()
            && pid != std::process::id() as i32
        {
            qemu::signal(pid, libc::SIGKILL);
            qemu::gone(pid, &self.run_dir, Duration::from_secs(5));
        }
        self.forget()
    }

    /// Removes what is known of the cluster. Nothing of it may run any more.
    pub fn forget(&self) -> Result<()> {
        remove(&self.run_dir)?;
        remove(&self.dir)
    }

    fn end_machines(&self) -> Result<()> {
        let mut failed = None;
        for entry in fs::read_dir(&self.run_dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(node) = name.strip_suffix(".pid").and_then(|stem| stem.strip_prefix('n')) else { continue };
            if let Ok(node) = node.parse() {
                failed = self.files(node).power_off().err().or(failed);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The hub does it; where it does not answer, a process like it.
    fn end_namespaces(&self) -> Result<()> {
        if control::order(&self.switch(), &HubRequest::Down, HUB_TIMEOUT).is_ok() {
            return Ok(());
        }
        let mut clean = namespaces::as_root(&std::env::current_exe()?);
        clean.args(["vm", "hub", "--clean"]).args(self.hidden_arguments());
        cmd::run(&mut clean)
    }

    /// The file that says that nodes are namespaces, whatever else is known of the cluster.
    pub fn namespaces_mark(&self) -> PathBuf {
        self.dir.join("namespaces")
    }

    fn has_namespaces(&self) -> bool {
        self.namespaces_mark().exists()
    }

    /// The process id of the cluster's switch or hub, if it runs.
    pub fn switch_pid(&self) -> Option<i32> {
        let pid = fs::read_to_string(self.run_dir.join("switch.pid")).ok()?.trim().parse().ok()?;
        qemu::belongs(pid, &self.run_dir).then_some(pid)
    }

    /// Where the switch or hub takes orders.
    pub fn switch(&self) -> PathBuf {
        switch::control_socket(&self.run_dir)
    }

    /// Whether any guest of it runs.
    pub fn alive(&self, state: &State) -> bool {
        (1..=state.nodes()).any(|node| self.files(node).running().is_some())
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
