//! `cargo xtask vm`: a private cluster on this computer, of virtual machines (without privileges)
//! or of namespaces (as root).
//!
//! ```text
//!             image  (Debian root, two kernels; cached)          accel  (does KVM boot a guest here?)
//!               └───────────────┐            ┌─────────────────────┘
//!   up/start ──► cluster ──► qemu n1, n2, …  ├── network card 1 ── ssh: exec, push, pull, shell, forward
//!   (state: cluster.json)                    └── network card 2 ── switch: 10.77.0.0/24, cut, heal, rate
//!                        └─► namespaces n1, n2, …  ── the hub: bridge 10.77.0.0/24, cut, heal, rate; ssh
//! ```
//!
//! The commands are an interface that other programs rely on (README.md tells it to users): they
//! must stay as they are.

pub mod accel;
pub mod cluster;
pub mod control;
pub mod image;
pub mod namespaces;
pub mod qemu;
pub mod shaper;
pub mod sources;
pub mod ssh;
pub mod switch;
pub mod up;
pub mod vng;

use crate::cmd;
use crate::product::{self, Profile};
use crate::progress::Progress;
use crate::setup;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use cluster::{Backend, Cluster, Forward, RootKind, State};
use control::Request;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// The daemon's log on a node.
pub const DAEMON_LOG: &str = "/var/log/scx_mosix.log";

/// Which cluster a command is about.
#[derive(Args)]
pub struct Name {
    /// The cluster's name, for several side by side
    #[arg(long = "name", value_name = "CLUSTER", default_value = "default")]
    name: String,
}

/// The commands of `cargo xtask vm`.
#[derive(Subcommand)]
pub enum Vm {
    /// Boot nodes n1…nN on one private network, with scx_mosix running and joined
    Up {
        /// How many nodes
        #[arg(long)]
        nodes: usize,
        /// What nodes are
        #[arg(long, value_enum, default_value = "qemu")]
        backend: Backend,
        /// What the root file systems of nodes that are namespaces lie on
        #[arg(long, value_enum, default_value = "copy")]
        root: RootKind,
        /// CPUs of each node; namespaces may have a part of one, such as 0.6
        #[arg(long, default_value_t = 2.0)]
        cpus: f64,
        /// Memory of each node, MiB
        #[arg(long, value_name = "MIB", default_value_t = 1024)]
        mem: u32,
        /// Do not start scx_mosix (`start-daemon` on a node does)
        #[arg(long)]
        no_daemon: bool,
        /// A node that boots Debian's own kernel, which lacks sched_ext; may be repeated
        #[arg(long, value_name = "NODE")]
        plain_kernel: Vec<String>,
        #[command(flatten)]
        name: Name,
    },
    /// Run a command on a node; stdin, stdout, stderr and the exit status pass through
    Exec {
        /// The node: n1, n2, …
        node: String,
        /// The user there (image: root, user)
        #[arg(long, default_value = "root")]
        user: String,
        #[command(flatten)]
        name: Name,
        /// The command and its arguments, passed exactly
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Copy a file or directory to a node
    Push {
        /// The node
        node: String,
        /// The file here
        source: PathBuf,
        /// The path there
        destination: String,
        #[command(flatten)]
        name: Name,
    },
    /// Copy a file or directory from a node
    Pull {
        /// The node
        node: String,
        /// The file there
        source: String,
        /// The path here
        destination: PathBuf,
        #[command(flatten)]
        name: Name,
    },
    /// Open a terminal on a node
    Shell {
        /// The node
        node: String,
        /// The user there
        #[arg(long, default_value = "root")]
        user: String,
        #[command(flatten)]
        name: Name,
    },
    /// Power a node off at once
    Kill {
        /// The node
        node: String,
        #[command(flatten)]
        name: Name,
    },
    /// Boot a node that was powered off; its disk is as it was
    Start {
        /// The node
        node: String,
        #[command(flatten)]
        name: Name,
    },
    /// Change the network between two nodes
    #[command(subcommand)]
    Net(Net),
    /// Print a local address that reaches a node's TCP port until the cluster goes down
    Forward {
        /// The node
        node: String,
        /// Its port
        port: u16,
        #[command(flatten)]
        name: Name,
    },
    /// Write ca.pem, client.pem and client-key.pem of the cluster into a directory
    Credentials {
        /// The directory
        dir: PathBuf,
        #[command(flatten)]
        name: Name,
    },
    /// Print a node's console and its daemon's log
    Logs {
        /// The node
        node: String,
        #[command(flatten)]
        name: Name,
    },
    /// Power everything off and forget it
    Down {
        #[command(flatten)]
        name: Name,
        /// Every cluster of this work tree
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Build the guests' image now
    Image {
        /// Take the newest versions and record them in vm-images/packages.lock
        #[arg(long)]
        update_lock: bool,
    },
    /// Run a command on this computer's own root file system under the guests' kernel (virtme-ng)
    Vng(vng::Vng),
    /// Say what tests run on: "namespaces", or "qemu" and why not on namespaces
    #[command(hide = true)]
    Backend,
    /// The process that a cluster of namespaces hangs on
    #[command(hide = true)]
    Hub {
        #[command(flatten)]
        cluster: HiddenCluster,
        /// Only remove what a hub that died has left
        #[arg(long)]
        clean: bool,
    },
    /// Become the first process of a node that is namespaces
    #[command(hide = true)]
    BecomeNode {
        #[command(flatten)]
        cluster: HiddenCluster,
        /// The node's number
        #[arg(long)]
        node: usize,
    },
    /// The process that a cluster's network is
    #[command(hide = true)]
    Switch {
        #[command(flatten)]
        name: Name,
        /// How many nodes
        #[arg(long)]
        nodes: usize,
        /// The cluster's run directory
        #[arg(long)]
        dir: PathBuf,
    },
}

/// A cluster by its directories: a hidden command may run as another user, with another
/// environment.
#[derive(Args)]
pub struct HiddenCluster {
    /// The cluster's name
    #[arg(long)]
    name: String,
    /// Its directory
    #[arg(long)]
    dir: PathBuf,
    /// Its run directory
    #[arg(long)]
    run_dir: PathBuf,
}

impl From<HiddenCluster> for Cluster {
    fn from(HiddenCluster { name, dir, run_dir }: HiddenCluster) -> Self {
        Self { name, dir, run_dir }
    }
}

/// The commands of `cargo xtask vm net`.
#[derive(Subcommand)]
pub enum Net {
    /// Let nothing pass between two nodes
    Cut {
        /// One node
        a: String,
        /// The other
        b: String,
        #[command(flatten)]
        name: Name,
    },
    /// Let everything pass again (a limit stays)
    Heal {
        /// One node
        a: String,
        /// The other
        b: String,
        #[command(flatten)]
        name: Name,
    },
    /// Limit the rate between two nodes, each way; 0 lifts the limit
    Rate {
        /// One node
        a: String,
        /// The other
        b: String,
        /// 10^6 bits a second
        mbit: u32,
        #[command(flatten)]
        name: Name,
    },
}

/// A cluster that can be used, and one of its nodes.
fn find(name: &Name, node: &str) -> Result<(Cluster, State, usize)> {
    let cluster = Cluster::named(&name.name)?;
    let state = cluster.state()?;
    let node = cluster.node(&state, node)?;
    Ok((cluster, state, node))
}

/// Carries out one of the commands.
pub fn run(command: Vm) -> Result<()> {
    match command {
        Vm::Up { nodes, backend, root, cpus, mem, no_daemon, plain_kernel, name } => {
            let node = |name: &String| {
                let digits = name.strip_prefix('n').unwrap_or_default();
                digits.parse().with_context(|| format!("--plain-kernel {name}: say n1, n2, …"))
            };
            let plain = plain_kernel.iter().map(node).collect::<Result<_>>()?;
            let progress = Progress::new();
            setup::ensure(&progress)?;
            let (memory_mib, daemon, profile) = (mem, !no_daemon, Profile::Test);
            let wanted = up::Wanted { backend, root, nodes, cpus, memory_mib, daemon, plain, profile };
            up::up(&Cluster::named(&name.name)?, &wanted, &progress).map(drop)
        }
        Vm::Exec { node, user, name, command } => {
            let (cluster, _, node) = find(&name, &node)?;
            cluster.access(node, &user)?.exec(&command)
        }
        Vm::Push { node, source, destination, name } => {
            let (cluster, _, node) = find(&name, &node)?;
            cluster.access(node, "root")?.push(&source, &destination)
        }
        Vm::Pull { node, source, destination, name } => {
            let (cluster, _, node) = find(&name, &node)?;
            cluster.access(node, "root")?.pull(&source, &destination)
        }
        Vm::Shell { node, user, name } => {
            let (cluster, _, node) = find(&name, &node)?;
            cluster.access(node, &user)?.shell()
        }
        Vm::Kill { node, name } => {
            let (cluster, state, node) = find(&name, &node)?;
            cluster.power_off(&state, node)
        }
        Vm::Start { node, name } => {
            let (cluster, state, node) = find(&name, &node)?;
            up::start(&cluster, &state, node, &Progress::new())
        }
        Vm::Net(net) => run_net(&net),
        Vm::Forward { node, port, name } => forward(&name, &node, port),
        Vm::Credentials { dir, name } => {
            let cluster = Cluster::named(&name.name)?;
            cluster.state()?;
            if !cluster.key().exists() {
                bail!("the cluster {:?} was made with --no-daemon: it has no key", cluster.name);
            }
            let binary = product::build(Profile::Test, &Progress::new())?;
            cmd::run(
                Command::new(binary).args(["key", "client-cert", "--key"]).arg(cluster.key()).arg("--out").arg(dir),
            )
        }
        Vm::Logs { node, name } => logs(&name, &node),
        Vm::Down { name, all: false } => Cluster::named(&name.name)?.down(),
        Vm::Down { all: true, .. } => cluster::all().iter().try_for_each(|name| Cluster::named(name)?.down()),
        Vm::Image { update_lock } => {
            let progress = Progress::new();
            setup::ensure(&progress)?;
            if update_lock { image::update_lock(&progress) } else { image::ensure(&progress).map(drop) }
        }
        Vm::Vng(command) => std::process::exit(vng::run(&command)?.into()),
        Vm::Backend => {
            match namespaces::obstacle() {
                Some(obstacle) => println!("qemu: nodes cannot be namespaces here: {obstacle}"),
                None => println!("namespaces"),
            }
            Ok(())
        }
        Vm::Hub { cluster, clean } => namespaces::hub::run(cluster.into(), clean),
        Vm::BecomeNode { cluster, node } => {
            let cluster = Cluster::from(cluster);
            let state = cluster.read()?.context("cluster.json is missing")?;
            namespaces::become_node(&cluster, &state, node)
        }
        Vm::Switch { name, nodes, dir } => switch::serve(&dir, nodes, || {
            if let Err(error) = Cluster::named(&name.name).and_then(|cluster| cluster.down()) {
                eprintln!("switch: {error:#}");
            }
        }),
    }
}

fn run_net(net: &Net) -> Result<()> {
    let (Net::Cut { a, b, name } | Net::Heal { a, b, name } | Net::Rate { a, b, name, .. }) = net;
    let (cluster, state, a) = find(name, a)?;
    let b = cluster.node(&state, b)?;
    let request = match *net {
        Net::Cut { .. } => Request::Cut { a, b },
        Net::Heal { .. } => Request::Heal { a, b },
        Net::Rate { mbit, .. } => Request::Rate { a, b, mbit },
    };
    cluster.change_link(&state, request)
}

fn forward(name: &Name, node: &str, port: u16) -> Result<()> {
    let (cluster, mut state, node) = find(name, node)?;
    let known = state.forwards.iter().find(|forward| (forward.node, forward.port) == (node, port));
    let local = match known {
        Some(forward) => forward.local,
        None => {
            let local = ssh::free_port()?;
            cluster.access(node, "root")?.forward(local, port)?;
            state.forwards.push(Forward { node, local, port });
            cluster.write(&state)?;
            local
        }
    };
    println!("127.0.0.1:{local}");
    Ok(())
}

fn logs(name: &Name, node: &str) -> Result<()> {
    let (cluster, _, node) = find(name, node)?;
    let console = std::fs::read(cluster.console(node)).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    writeln!(out, "== n{node}: console")?;
    out.write_all(&console)?;
    writeln!(out, "\n== n{node}: {DAEMON_LOG}")?;
    out.flush()?;
    match cluster.access(node, "root") {
        Ok(access) => {
            access.connect()?;
            let print = ["sh", "-c", "cat \"$1\" 2>/dev/null || echo '(none)'", "sh", DAEMON_LOG].map(str::to_owned);
            cmd::run(&mut access.command(&print))
        }
        Err(error) => Ok(writeln!(out, "({error:#})")?),
    }
}
