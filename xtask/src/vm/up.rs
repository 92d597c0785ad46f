//! `vm up` and `vm start`: from nothing to nodes that answer.
//!
//! Image and binary are made at the same time, then all nodes boot at the same time. What a node needs of its cluster (keys, the
//! binary) is appended to its initramfs as a second archive, `/cluster`, which the first boot copies over its root.

use super::accel;
use super::cluster::{Cluster, DAEMON_PORT, MOST_NODES, Phase, State};
use super::image::{self, Image, Kernel, Locked};
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
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take until its sshd runs; emulated on a busy machine it takes half a minute.
const BOOT_TIMEOUT: Duration = Duration::from_secs(240);

/// How long daemons may take until they all know each other.
const JOIN_TIMEOUT: Duration = Duration::from_secs(120);

/// What `vm up` is asked for.
pub struct Wanted {
    /// How many nodes.
    pub nodes: usize,
    /// Virtual CPUs of each.
    pub cpus: u32,
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
    let (image, binary) = make(wanted.profile, progress)?;
    let accel = accel::choose(progress, &image)?;
    let kernel = |node| if wanted.plain.contains(&node) { Kernel::Plain } else { Kernel::Scx };
    let mut state = State {
        phase: Phase::Booting,
        image: image.dir.clone(),
        kernels: (1..=wanted.nodes).map(kernel).collect(),
        accel,
        cpus: wanted.cpus,
        memory_mib: wanted.memory_mib,
        daemon: wanted.daemon,
        forwards: Vec::new(),
    };
    let made = bring_up(cluster, &mut state, &binary, progress);
    if made.is_err() {
        cluster.down()?;
    }
    made.map(|()| state)
}

/// The image and the binary, whichever takes longer.
fn make(profile: Profile, progress: &Progress) -> Result<(Image, PathBuf)> {
    std::thread::scope(|scope| {
        let image = scope.spawn(|| image::ensure(progress));
        let binary = product::build(profile)?;
        let image = image.join().map_err(|_| anyhow!("the image's build broke off"))??;
        Ok((image, binary))
    })
}

fn bring_up(cluster: &Cluster, state: &mut State, binary: &Path, progress: &Progress) -> Result<()> {
    cluster.make_dirs()?;
    cluster.write(state)?;
    let nodes = state.kernels.len();
    prepare(cluster, state, binary).context("cannot prepare the cluster's files")?;
    let mut switch = start_switch(cluster, nodes)?;
    for node in 1..=nodes {
        boot(cluster, state, node)?;
    }
    await_nodes(cluster, nodes, &vec![0; nodes], progress)?;
    if state.daemon {
        await_daemons(cluster, nodes, progress)?;
    }
    state.phase = Phase::Up;
    cluster.write(state)?;
    // From here on the switch does not care what becomes of us.
    switch.write_all(b"up\n").context("the cluster's switch has ended")
}

/// Keys, disks and initramfs archives.
fn prepare(cluster: &Cluster, state: &State, binary: &Path) -> Result<()> {
    let stage = tempfile::Builder::new().prefix("stage").tempdir_in(&cluster.dir)?;
    let root = stage.path().join("cluster");
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

    let archive = cluster.dir.join("cluster.cpio");
    let pack = "find cluster | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 >\"$1\"";
    cmd::output(Command::new("sh").args(["-c", pack, "sh"]).arg(&archive).current_dir(stage.path()))?;
    let image = Image { dir: state.image.clone() };
    for kernel in [Kernel::Scx, Kernel::Plain] {
        let mut both = fs::File::create(initramfs(cluster, kernel))?;
        for part in [&image.initramfs(kernel), &archive] {
            std::io::copy(&mut fs::File::open(part)?, &mut both)?;
        }
    }
    for node in 1..=state.kernels.len() {
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(image.disk()).arg(cluster.disk(node));
        cmd::output(&mut create)?;
    }
    Ok(())
}

fn initramfs(cluster: &Cluster, kernel: Kernel) -> PathBuf {
    cluster.dir.join(format!("initramfs-{kernel:?}.cpio").to_lowercase())
}

/// Starts the switch and returns its stdin: to close that without a word takes the cluster down.
fn start_switch(cluster: &Cluster, nodes: usize) -> Result<std::process::ChildStdin> {
    let log = fs::File::create(cluster.dir.join("switch.log"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["vm", "switch", "--name", &cluster.name, "--nodes", &nodes.to_string(), "--dir"])
        .arg(&cluster.run_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C at the terminal is for `vm up`; the switch clears up after it.
        .process_group(0);
    let mut child = command.spawn().context("cannot start the cluster's switch")?;
    fs::write(cluster.run_dir.join("switch.pid"), child.id().to_string())?;
    let until = Instant::now() + Duration::from_secs(10);
    while !cluster.switch().exists() {
        if child.try_wait()?.is_some() || Instant::now() > until {
            let said = fs::read_to_string(cluster.dir.join("switch.log")).unwrap_or_default();
            bail!("the cluster's switch does not start: {}", cmd::tail(said.trim(), 10));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.stdin.take().context("the cluster's switch has no stdin")
}

/// Starts the node's QEMU.
fn boot(cluster: &Cluster, state: &State, node: usize) -> Result<()> {
    let kernel = state.kernels[node - 1];
    let image = Image { dir: state.image.clone() };
    let _ = fs::remove_file(cluster.port_file(node));
    qemu::boot(&Machine {
        node,
        nodes: state.kernels.len(),
        daemon: state.daemon,
        accel: state.accel,
        cpus: state.cpus,
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
    await_ssh(cluster, node, before)?;
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

fn await_nodes(cluster: &Cluster, nodes: usize, before: &[u64], progress: &Progress) -> Result<()> {
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let waiting: Vec<_> = (1..=nodes)
            .map(|node| {
                let step = progress.step(format!("booting n{node}"));
                scope.spawn(move || await_ssh(cluster, node, before[node - 1]).map(|()| step.done()))
            })
            .collect();
        waiting.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("waiting broke off")))).collect()
    });
    results.into_iter().collect()
}

/// Waits for the node's sshd and opens root's lasting connection. `before`: how long the console's log was before this boot.
fn await_ssh(cluster: &Cluster, node: usize, before: u64) -> Result<()> {
    let until = Instant::now() + BOOT_TIMEOUT;
    let reached = format!("vm-init: n{node} reachable");
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
    fs::write(cluster.port_file(node), cluster.files(node).ssh_port()?.to_string())?;
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
