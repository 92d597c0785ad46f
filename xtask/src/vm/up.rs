//! `vm up` and `vm start`: from nothing to nodes that answer.
//!
//! Image and binary are made at the same time, then all nodes boot at the same time. What a node
//! needs of its cluster (keys, the binary) lies in `cluster/`, which the first boot copies over its
//! root; virtual machines get it as a second initramfs archive.

use super::accel::{self, Accel};
use super::cluster::{Backend, Cluster, DAEMON_PORT, MOST_NODES, Phase, RootKind, State};
use super::image::{self, Image, Kernel, Locked};
use super::namespaces;
use super::qemu::{self, Machine};
use super::switch;
use crate::cmd;
use crate::product::{self, Profile};
use crate::progress::Progress;
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take until its sshd runs; emulated on a busy machine it takes half a minute.
const BOOT_TIMEOUT: Duration = Duration::from_secs(240);

/// How long daemons may take until they all know each other.
const JOIN_TIMEOUT: Duration = Duration::from_secs(120);

/// What `vm up` is asked for.
#[derive(Clone)]
pub struct Wanted {
    /// What nodes are.
    pub backend: Backend,
    /// What their root file systems lie on, if they are namespaces.
    pub root: RootKind,
    /// How many nodes.
    pub nodes: usize,
    /// CPUs of each.
    pub cpus: f64,
    /// Memory of each, MiB.
    pub memory_mib: u32,
    /// Whether the daemon is started, and waited for.
    pub daemon: bool,
    /// The nodes that boot the kernel without sched_ext.
    pub plain: Vec<usize>,
    /// How the binary is compiled.
    pub profile: Profile,
}

/// Makes the cluster and waits until it can be used. If that fails, nothing of it remains.
pub fn up(cluster: &Cluster, wanted: &Wanted, progress: &Progress) -> Result<State> {
    if wanted.nodes == 0 || wanted.nodes > MOST_NODES {
        bail!("--nodes {}: 1 to {MOST_NODES}", wanted.nodes);
    }
    check_backend(wanted)?;
    if let Some(node) = wanted.plain.iter().find(|&&node| node == 0 || node > wanted.nodes) {
        bail!("--plain-kernel n{node}: the cluster is to have {} nodes", wanted.nodes);
    }
    let _locked = Locked::wait(&format!("cluster-{}", cluster.name))?;
    match cluster.read() {
        Ok(Some(state)) if state.phase == Phase::Up && cluster.alive(&state) => {
            let name = &cluster.name;
            bail!("the cluster {name:?} is up: use it, or `cargo xtask vm down --name {name}`, or give another --name");
        }
        Ok(None) if !cluster.run_dir.exists() => {}
        // What a killed `vm up`, or the machine's restart, left behind.
        _ => cluster.down()?,
    }
    image::rehearse(progress)?;
    let (image, binary) = make(wanted.profile, progress)?;
    let accel = match wanted.backend {
        Backend::Qemu => Some(accel::choose(progress, &image)?),
        Backend::Namespaces => None,
    };
    let kernel = |node| if wanted.plain.contains(&node) { Kernel::Plain } else { Kernel::Scx };
    let mut state = State {
        phase: Phase::Booting,
        backend: wanted.backend,
        root: wanted.root,
        image: image.dir.clone(),
        kernels: (1..=wanted.nodes).map(kernel).collect(),
        accel,
        cpus: wanted.cpus,
        memory_mib: wanted.memory_mib,
        daemon: wanted.daemon,
        forwards: Vec::new(),
    };
    let mut network = None;
    let made = bring_up(cluster, &mut state, &binary, &mut network, progress);
    if made.is_err() {
        cluster.down()?;
    }
    // Closed before, it would have the cluster taken down twice at the same time.
    drop(network);
    made.map(|()| state)
}

/// Refuses what the backend cannot do.
fn check_backend(wanted: &Wanted) -> Result<()> {
    let Wanted { cpus, plain, .. } = wanted;
    if !(*cpus >= 0.01 && *cpus <= 1024.0) {
        bail!("--cpus {cpus}: 0.01 to 1024");
    }
    match wanted.backend {
        Backend::Qemu if wanted.root != RootKind::Copy => {
            bail!("--root overlay is for nodes that are namespaces: add --backend namespaces")
        }
        Backend::Qemu if cpus.fract() != 0.0 => {
            bail!("--cpus {cpus}: a virtual machine has whole CPUs; a part of one needs --backend namespaces")
        }
        Backend::Qemu => Ok(()),
        Backend::Namespaces if !plain.is_empty() => {
            bail!("--plain-kernel: nodes that are namespaces share this machine's kernel; use --backend qemu")
        }
        Backend::Namespaces => match namespaces::obstacle() {
            Some(obstacle) => bail!("nodes cannot be namespaces on this machine: {obstacle}; use --backend qemu"),
            None => Ok(()),
        },
    }
}

/// The image and the binary, whichever takes longer.
fn make(profile: Profile, progress: &Progress) -> Result<(Image, PathBuf)> {
    std::thread::scope(|scope| {
        let image = scope.spawn(|| image::ensure(progress));
        let binary = product::build(profile, progress)?;
        let image = image.join().map_err(|_| anyhow!("the image's build broke off"))??;
        Ok((image, binary))
    })
}

fn bring_up(
    cluster: &Cluster,
    state: &mut State,
    binary: &Path,
    network: &mut Option<ChildStdin>,
    progress: &Progress,
) -> Result<()> {
    let nodes = state.nodes();
    prepare(cluster, state, binary).context("cannot prepare the cluster's files")?;
    cluster.write(state)?;
    let network = network.insert(start_network(cluster, state)?);
    for node in 1..=nodes {
        boot(cluster, state, node)?;
    }
    await_nodes(cluster, state, progress)?;
    if state.daemon {
        await_daemons(cluster, nodes, progress)?;
    }
    state.phase = Phase::Up;
    cluster.write(state)?;
    // From here on the cluster lasts, whatever becomes of this process.
    network.write_all(b"up\n").context("the process of the cluster's network has ended")
}

/// Keys and the binary, and what virtual machines boot from.
fn prepare(cluster: &Cluster, state: &State, binary: &Path) -> Result<()> {
    cluster.make_dirs()?;
    let root = cluster.stage();
    for dir in ["etc/ssh", "etc/scx_mosix", "usr/bin"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let keygen = |path: &Path| {
        cmd::output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "node", "-f"]).arg(path))
    };
    let (identity, host_key) = (cluster.run_dir.join("id"), root.join("etc/ssh/host_key"));
    keygen(&identity)?;
    keygen(&host_key)?;
    fs::copy(identity.with_extension("pub"), root.join("etc/ssh/authorized_keys"))?;
    let known = format!("node {}", fs::read_to_string(host_key.with_extension("pub"))?);
    fs::write(cluster.run_dir.join("known_hosts"), known)?;

    if state.daemon {
        let mut generate = Command::new(binary);
        cmd::output(generate.args(["key", "generate", "--out"]).arg(cluster.key()))?;
        fs::copy(cluster.key(), root.join("etc/scx_mosix/key"))?;
    }
    // Debug information would only cost the guests memory.
    cmd::output(Command::new("strip").arg("-o").arg(root.join("usr/bin/scx_mosix")).arg(binary))?;
    std::os::unix::fs::symlink("scx_mosix", root.join("usr/bin/mosrun"))?;
    match state.backend {
        Backend::Qemu => prepare_machines(cluster, state),
        Backend::Namespaces => fs::write(cluster.namespaces_mark(), "").map_err(Into::into),
    }
}

/// Disks and initramfs archives.
fn prepare_machines(cluster: &Cluster, state: &State) -> Result<()> {
    let archive = cluster.dir.join("cluster.cpio");
    let pack = "find cluster | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 >\"$1\"";
    cmd::output(Command::new("sh").args(["-c", pack, "sh"]).arg(&archive).current_dir(&cluster.dir))?;
    let image = Image { dir: state.image.clone() };
    for kernel in [Kernel::Scx, Kernel::Plain] {
        let mut both = fs::File::create(initramfs(cluster, kernel))?;
        for part in [&image.initramfs(kernel), &archive] {
            std::io::copy(&mut fs::File::open(part)?, &mut both)?;
        }
    }
    for node in 1..=state.nodes() {
        let mut create = Command::new(image.qemu_img());
        create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(image.disk()).arg(cluster.disk(node));
        cmd::output(&mut create)?;
    }
    Ok(())
}

fn initramfs(cluster: &Cluster, kernel: Kernel) -> PathBuf {
    cluster.dir.join(format!("initramfs-{kernel:?}.cpio").to_lowercase())
}

/// Starts the switch or the hub and returns its stdin: to close that without a word takes the
/// cluster down.
fn start_network(cluster: &Cluster, state: &State) -> Result<ChildStdin> {
    let log = fs::File::create(cluster.dir.join("network.log"))?;
    let own = std::env::current_exe()?;
    let mut command = match state.backend {
        Backend::Qemu => {
            let mut command = Command::new(own);
            command.args(["vm", "switch", "--name", &cluster.name, "--nodes", &state.nodes().to_string(), "--dir"]);
            command.arg(&cluster.run_dir);
            command
        }
        Backend::Namespaces => {
            let mut command = namespaces::as_root(&own);
            command.args(["vm", "hub"]).args(cluster.hidden_arguments());
            command
        }
    };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C at the terminal is for `vm up`; the switch or hub clears up after it.
        .process_group(0);
    let mut child = command.spawn().context("cannot start the process of the cluster's network")?;
    fs::write(cluster.run_dir.join("switch.pid"), child.id().to_string())?;
    let until = Instant::now() + Duration::from_secs(10);
    while !cluster.switch().exists() {
        if child.try_wait()?.is_some() || Instant::now() > until {
            let said = fs::read_to_string(cluster.dir.join("network.log")).unwrap_or_default();
            bail!("the process of the cluster's network does not start: {}", cmd::tail(said.trim(), 10));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.stdin.take().context("the process of the cluster's network has no stdin")
}

/// Starts the node's QEMU, or its first process.
fn boot(cluster: &Cluster, state: &State, node: usize) -> Result<()> {
    match state.accel {
        Some(accel) => boot_machine(cluster, state, node, accel),
        None => cluster.order_start(node),
    }
}

fn boot_machine(cluster: &Cluster, state: &State, node: usize, accel: Accel) -> Result<()> {
    let kernel = state.kernels[node - 1];
    let image = Image { dir: state.image.clone() };
    let _ = fs::remove_file(cluster.port_file(node));
    qemu::boot(&Machine {
        program: &image.qemu(),
        node,
        nodes: state.nodes(),
        daemon: state.daemon,
        accel,
        cpus: state.cpus as u32,
        memory_mib: state.memory_mib,
        kernel: &image.kernel(kernel),
        initramfs: &initramfs(cluster, kernel),
        disk: &cluster.disk(node),
        console: &cluster.console(node),
        port: &switch::port_socket(&cluster.run_dir, node),
        files: &cluster.files(node),
    })
}

/// Boots a node that is off.
pub fn start(cluster: &Cluster, state: &State, node: usize, progress: &Progress) -> Result<()> {
    if cluster.files(node).running().is_some() {
        bail!("n{node} runs already");
    }
    cluster.disconnect(Some(node));
    let before = fs::metadata(cluster.console(node)).map_or(0, |file| file.len());
    boot(cluster, state, node)?;
    let step = progress.step(format!("booting n{node}"));
    await_ssh(cluster, state.backend, node, before)?;
    let access = cluster.access(node, "root")?;
    for forward in state.forwards.iter().filter(|forward| forward.node == node) {
        access.forward(forward.local, forward.port)?;
    }
    if state.daemon {
        // The others may be off or cut away: only this one must be there.
        await_listing(cluster, node, &[node])?;
    }
    step.done();
    Ok(())
}

fn await_nodes(cluster: &Cluster, state: &State, progress: &Progress) -> Result<()> {
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let waiting: Vec<_> = (1..=state.nodes())
            .map(|node| {
                let step = progress.step(format!("booting n{node}"));
                scope.spawn(move || await_ssh(cluster, state.backend, node, 0).map(|()| step.done()))
            })
            .collect();
        waiting.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("waiting broke off")))).collect()
    });
    results.into_iter().collect()
}

/// Waits for the node's sshd and opens root's lasting connection. `before`: how long the console's
/// log was before this boot.
fn await_ssh(cluster: &Cluster, backend: Backend, node: usize, before: u64) -> Result<()> {
    let until = Instant::now() + BOOT_TIMEOUT;
    let reached = format!("node-init: n{node} reachable");
    loop {
        let console = fs::read(cluster.console(node)).unwrap_or_default();
        let console = String::from_utf8_lossy(console.get(before as usize..).unwrap_or_default()).into_owned();
        if console.contains(&reached) {
            break;
        }
        let tail = || cmd::tail(console.trim(), 12);
        if cluster.files(node).running().is_none() {
            bail!("n{node} ended while it booted. The last that it printed:\n{}", tail());
        }
        if Instant::now() > until {
            bail!("n{node} has not booted within {} s. The last that it printed:\n{}", BOOT_TIMEOUT.as_secs(), tail());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    if backend == Backend::Qemu {
        // The hub has written it where nodes are namespaces.
        fs::write(cluster.port_file(node), cluster.files(node).ssh_port()?.to_string())?;
    }
    cluster.access(node, "root")?.connect()
}

fn await_daemons(cluster: &Cluster, nodes: usize, progress: &Progress) -> Result<()> {
    let step = progress.step("the daemons join each other");
    let all: Vec<usize> = (1..=nodes).collect();
    for &node in &all {
        await_listing(cluster, node, &all)?;
    }
    step.done();
    Ok(())
}

/// Waits until the daemon of `node` lists all of `expected`.
fn await_listing(cluster: &Cluster, node: usize, expected: &[usize]) -> Result<()> {
    let access = cluster.access(node, "root")?;
    let words = ["scx_mosix", "nodes", "--output", "json"].map(str::to_owned);
    let until = Instant::now() + JOIN_TIMEOUT;
    loop {
        let answer = cmd::output(&mut access.command(&words));
        if let Ok(listing) = &answer
            && expected.iter().all(|node| listing.contains(&format!("\"n{node}\"")))
        {
            return Ok(());
        }
        if Instant::now() > until {
            let log = cmd::output(&mut access.command(&["tail", "-n", "20", super::DAEMON_LOG].map(str::to_owned)));
            let listing = answer.unwrap_or_else(|error| error.to_string());
            bail!(
                "n{node}'s daemon does not list {} within {} s; port {DAEMON_PORT}. `scx_mosix nodes` says:\n{listing}\n\
                 The end of its log:\n{}",
                expected.iter().map(|node| format!("n{node}")).collect::<Vec<_>>().join(", "),
                JOIN_TIMEOUT.as_secs(),
                log.unwrap_or_else(|error| error.to_string()),
            );
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}
