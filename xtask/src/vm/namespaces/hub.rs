//! The hub: the one process of a cluster of namespaces that is root and lives from `up` to `down`.
//!
//! It owns the bridge, starts and ends nodes, and carries connections from 127.0.0.1 to the nodes'
//! sshd. If the `vm up` that started it ends before it has said that all is well, the hub takes the
//! half-made cluster down.

use super::cgroups::NodeGroups;
use super::facts::may_raise_limits;
use super::net::{self, Link};
use super::node;
use crate::cmd;
use crate::vm::cluster::{Cluster, MOST_NODES, State};
use crate::vm::control::{self, HubRequest, Reply, Request};
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may take until it has namespaces of its own.
const UNSHARE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a node's sshd may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that sends no order must not stop the others.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the limit of descriptors is kept that [`lower_descriptor_limit`] replaced. Hubs hold a
/// shared lock on it.
const SAVED_NR_OPEN: &str = "/run/scx-mosix-nr_open";

const NR_OPEN: &str = "/proc/sys/fs/nr_open";

struct Hub {
    cluster: Cluster,
    state: State,
    links: BTreeMap<(usize, usize), Link>,
}

enum Event {
    Order(UnixStream),
    /// The `vm up` that started the hub died.
    Abandoned,
}

/// Serves the cluster until it goes down; or, with `clean`, only removes what a hub that died has
/// left.
pub fn run(cluster: Cluster, clean: bool) -> Result<()> {
    let state = cluster.read();
    if clean {
        // Whatever is known of it: the files tell.
        let nodes = state.ok().flatten().map_or(MOST_NODES, |state| state.nodes());
        return clean_up(&cluster, nodes);
    }
    let state = state?.context("cluster.json is missing")?;
    // The user whose cluster it is; not root where the hub runs by sudo.
    let owner = fs::metadata(&cluster.dir)?.uid();
    let saved = lower_descriptor_limit()?;
    let control = control::listen(&cluster.switch(), owner)?;
    let (events, inbox) = mpsc::channel();
    watch_stdin(events.clone());
    thread::spawn(move || {
        for stream in control.incoming().flatten() {
            if events.send(Event::Order(stream)).is_err() {
                return;
            }
        }
    });
    // Listeners belong to the machine's network, connections to the hub's: a thread is in one
    // network namespace, and so are the threads that it starts.
    let listeners = listen(&cluster, state.nodes(), owner)?;
    let mut hub = Hub { cluster, state, links: BTreeMap::new() };
    let serving = thread::spawn(move || -> Result<()> {
        // SAFETY: the flag concerns the calling thread's network namespace only.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace")?;
        net::make_bridge()?;
        for (node, listener) in listeners {
            thread::spawn(move || forward_all(&listener, node));
        }
        hub.run(&inbox)
    });
    let result = serving.join().unwrap_or_else(|_| Err(anyhow!("the hub's thread broke off")));
    restore_descriptor_limit(saved);
    result
}

/// Tells if stdin ends without a line, that is if the `vm up` that started us died.
fn watch_stdin(events: mpsc::Sender<Event>) {
    thread::spawn(move || {
        let mut word = String::new();
        if matches!(std::io::stdin().read_line(&mut word), Ok(0) | Err(_)) {
            let _ = events.send(Event::Abandoned);
        }
    });
}

fn listen(cluster: &Cluster, nodes: usize, owner: u32) -> Result<Vec<(usize, TcpListener)>> {
    let listen = |node| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
        let file = cluster.port_file(node);
        fs::write(&file, listener.local_addr()?.port().to_string())?;
        chown(&file, Some(owner), None)?;
        Ok((node, listener))
    };
    (1..=nodes).map(listen).collect()
}

fn forward_all(listener: &TcpListener, node: usize) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || {
            if let Err(error) = forward(&stream, node) {
                eprintln!("hub: n{node}: {error}");
            }
        });
    }
}

/// Carries one connection to the node's sshd until both directions have ended.
fn forward(client: &TcpStream, node: usize) -> std::io::Result<()> {
    let address = SocketAddr::new(net::address(node).into(), 22);
    let server = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    for stream in [client, &server] {
        stream.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        scope.spawn(|| carry(client, &server));
        carry(&server, client);
    });
    Ok(())
}

fn carry(mut from: &TcpStream, mut to: &TcpStream) {
    // The other direction tells the error, if there is one.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

impl Hub {
    fn run(&mut self, inbox: &mpsc::Receiver<Event>) -> Result<()> {
        for event in inbox {
            let stream = match event {
                Event::Abandoned => {
                    clean_up(&self.cluster, self.state.nodes())?;
                    return self.cluster.forget();
                }
                Event::Order(stream) => stream,
            };
            let request = match read_order(&stream) {
                Ok(request) => request,
                Err(error) => {
                    eprintln!("hub: {error:#}");
                    continue;
                }
            };
            let done = self.obey(request);
            let reply = match &done {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Refused(format!("{error:#}")),
            };
            // A client that has gone does not need the answer.
            let _ = (&stream).write_all(format!("{}\n", serde_json::to_string(&reply)?).as_bytes());
            if request == HubRequest::Down && done.is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn obey(&mut self, request: HubRequest) -> Result<()> {
        match request {
            HubRequest::Link(link) => self.change_link(link),
            HubRequest::Start { node } => self.known(node).and_then(|()| self.start(node)),
            HubRequest::PowerOff { node } => self.known(node).and_then(|()| power_off(&self.cluster, node)),
            HubRequest::Down => clean_up(&self.cluster, self.state.nodes()),
        }
    }

    fn known(&self, node: usize) -> Result<()> {
        if node == 0 || node > self.state.nodes() {
            bail!("there is no n{node}");
        }
        Ok(())
    }

    fn start(&self, node: usize) -> Result<()> {
        if !node::Files::of(&self.cluster, node).root.exists() {
            node::make_root(&self.cluster, &self.state, node)?;
        }
        NodeGroups::of(&self.cluster.id(), node)?.create(node::limits(&self.state))?;
        let console = fs::File::options().create(true).append(true).open(self.cluster.console(node))?;
        let mut command = Command::new(std::env::current_exe()?);
        // What it is known by, as init is by its last argument.
        command.arg0(self.cluster.files(node).pid);
        command.args(["vm", "become-node", "--node", &node.to_string()]);
        command.args(self.cluster.hidden_arguments());
        command.current_dir("/").stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        let mut child = command.spawn().context("cannot start the node's first process")?;
        fs::write(&self.cluster.files(node).pid, child.id().to_string())?;
        let connected = await_namespace(child.id()).and_then(|()| net::attach(node, child.id()));
        if let Err(error) = connected {
            let _ = child.kill();
            let _ = child.wait();
            let said = fs::read_to_string(self.cluster.console(node)).unwrap_or_default();
            return Err(error.context(format!("n{node} does not start: {}", cmd::tail(said.trim(), 10))));
        }
        // Reaps it whenever it ends.
        thread::spawn(move || child.wait());
        // Its port is new; the other ports kept what was said of this node.
        self.shape(node)
    }

    fn change_link(&mut self, request: Request) -> Result<()> {
        let (a, b) = request.pair();
        self.known(a)?;
        self.known(b)?;
        if a == b {
            bail!("n{a} has no link to itself");
        }
        let link = self.links.entry((a.min(b), a.max(b))).or_default();
        match request {
            Request::Cut { .. } => link.cut = true,
            Request::Heal { .. } => link.cut = false,
            Request::Rate { mbit, .. } => link.mbit = mbit,
        }
        self.shape(a)?;
        self.shape(b)
    }

    /// Applies the links of `node` to its port, if it is connected.
    fn shape(&self, node: usize) -> Result<()> {
        if self.cluster.files(node).running().is_none() {
            return Ok(());
        }
        let other = |pair: (usize, usize)| match pair {
            (a, b) if a == node => Some(b),
            (a, b) if b == node => Some(a),
            _ => None,
        };
        let links: Vec<_> = self.links.iter().filter_map(|(pair, link)| Some((other(*pair)?, *link))).collect();
        net::shape(node, &links)
    }
}

fn read_order(stream: &UnixStream) -> Result<HubRequest> {
    stream.set_read_timeout(Some(ORDER_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(stream.take(4096)).read_line(&mut line).context("cannot read an order")?;
    serde_json::from_str(&line).context("not an order")
}

/// Waits until process `pid` is in another network namespace than this thread.
fn await_namespace(pid: u32) -> Result<()> {
    let own = fs::read_link("/proc/thread-self/ns/net")?;
    let until = Instant::now() + UNSHARE_TIMEOUT;
    while fs::read_link(format!("/proc/{pid}/ns/net")).context("the node's first process ended")? == own {
        if Instant::now() > until {
            bail!("the node's first process made no namespaces within {} s", UNSHARE_TIMEOUT.as_secs());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Ends everything of a node at once. The network goes first: peers of a machine without power hear
/// nothing.
fn power_off(cluster: &Cluster, node: usize) -> Result<()> {
    net::detach(node);
    NodeGroups::of(&cluster.id(), node)?.destroy()?;
    remove_file(&cluster.files(node).pid)
}

/// Ends all nodes and removes what root made. Right for a cluster in any state.
fn clean_up(cluster: &Cluster, nodes: usize) -> Result<()> {
    let made = |node: &usize| cluster.console(*node).exists() || node::Files::of(cluster, *node).exist();
    let nodes: Vec<usize> = (1..=nodes).filter(made).collect();
    for &node in &nodes {
        power_off(cluster, node)?;
    }
    for node in nodes {
        node::Files::of(cluster, node).discard()?;
        remove_file(&cluster.console(node))?;
        remove_file(&cluster.port_file(node))?;
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// CRIU raises its limit of descriptors to `fs.nr_open`. Where root may not raise limits, that must
/// not be above the limit that it has. The file returned is locked until the hub ends.
fn lower_descriptor_limit() -> Result<Option<fs::File>> {
    if may_raise_limits() {
        return Ok(None);
    }
    let saved = fs::File::options().create(true).append(true).read(true).open(SAVED_NR_OPEN)?;
    saved.lock_shared()?;
    let now: u64 = fs::read_to_string(NR_OPEN)?.trim().parse().context("fs.nr_open is no number")?;
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if now > hard {
        fs::write(SAVED_NR_OPEN, now.to_string())?;
        fs::write(NR_OPEN, hard.to_string()).context("cannot lower fs.nr_open")?;
    }
    Ok(Some(saved))
}

/// The last hub on this machine gives back what the first one lowered.
fn restore_descriptor_limit(saved: Option<fs::File>) {
    let Some(mut file) = saved else { return };
    let _ = file.unlock();
    let mut value = String::new();
    if file.try_lock().is_ok() && file.read_to_string(&mut value).is_ok() {
        // Empty: it was low enough already. The file stays: a hub that begins just now waits for
        // its lock.
        if !value.is_empty() && fs::write(NR_OPEN, &value).is_ok() {
            let _ = file.set_len(0);
        }
    }
}
