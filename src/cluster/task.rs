//! The one task that owns the gossip socket: waits for a datagram, a deadline, a new load, or the
//! order to leave, and lets the [`Endpoint`] decide. Its queues are the socket's buffers; what does
//! not fit there is lost, which gossip expects.

use std::{
    collections::BTreeSet,
    future::pending,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{UdpSocket, lookup_host},
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{ClusterView, Complaint, DEFAULT_PORT, Endpoint, Event, LocalState};
use crate::keys::MAX_DATAGRAM_BYTES;

/// Names of the nodes to join are looked up again after this time: their addresses may change.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the task works with.
pub(super) struct Task {
    pub(super) endpoint: Endpoint,
    pub(super) socket: Option<UdpSocket>,
    pub(super) join: Vec<String>,
    pub(super) view: watch::Sender<Arc<ClusterView>>,
    pub(super) local: watch::Receiver<LocalState>,
    pub(super) leave: mpsc::Receiver<oneshot::Sender<()>>,
}

/// Runs until the node leaves or all its handles are dropped.
pub(super) async fn run(task: Task) {
    let Task { mut endpoint, socket, join, view, mut local, mut leave } = task;
    let start = Instant::now();
    let now_ms = || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (seeds_sender, mut seeds) = watch::channel(BTreeSet::new());
    if !join.is_empty() {
        tokio::spawn(resolve(join, seeds_sender));
    }
    // One byte more than is ever sent, so that what is longer shows as too long.
    let mut buffer = [0; MAX_DATAGRAM_BYTES + 1];
    loop {
        let deadline = start + Duration::from_millis(endpoint.next_deadline_ms().unwrap_or(u64::MAX >> 20));
        tokio::select! {
            received = receive(socket.as_ref(), &mut buffer) => match received {
                Ok((datagram, from)) => {
                    if let Some(complaint) = endpoint.receive(now_ms(), from, datagram) {
                        log_complaint(&complaint);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "gossip cannot be received");
                    // Were it to fail for good, this would not spin.
                    sleep(Duration::from_millis(10)).await;
                }
            },
            () = sleep_until(deadline) => {}
            Ok(()) = local.changed() => {
                let state = local.borrow_and_update().clone();
                endpoint.set_local(state);
            }
            Ok(()) = seeds.changed() => {
                let resolved = seeds.borrow_and_update().clone();
                endpoint.set_seeds(resolved);
            }
            order = leave.recv() => {
                endpoint.leave(now_ms());
                send_all(socket.as_ref(), &mut endpoint).await;
                view.send_replace(Arc::new(endpoint.view(now_ms())));
                if let Some(done) = order {
                    let _ = done.send(());
                }
                return;
            }
        }
        endpoint.tick(now_ms());
        send_all(socket.as_ref(), &mut endpoint).await;
        endpoint.take_events().for_each(|event| log_event(&event));
        if endpoint.take_changed() {
            view.send_replace(Arc::new(endpoint.view(now_ms())));
        }
    }
}

async fn receive<'b>(socket: Option<&UdpSocket>, buffer: &'b mut [u8]) -> io::Result<(&'b [u8], SocketAddr)> {
    let Some(socket) = socket else { return pending().await };
    let (length, from) = socket.recv_from(buffer).await?;
    // A socket for both families shows IPv4 addresses as IPv6.
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    Ok((buffer.get(..length).unwrap_or_default(), from))
}

async fn send_all(socket: Option<&UdpSocket>, endpoint: &mut Endpoint) {
    let datagrams = endpoint.take_datagrams();
    let Some(socket) = socket.filter(|_| !datagrams.is_empty()) else { return };
    let both_families = socket.local_addr().is_ok_and(|addr| addr.is_ipv6());
    for (to, datagram) in datagrams {
        let ip = match to.ip() {
            IpAddr::V4(ip) if both_families => IpAddr::V6(ip.to_ipv6_mapped()),
            ip => ip,
        };
        // A node that is not reached now will be suspected, as it should be.
        if let Err(error) = socket.send_to(&datagram, SocketAddr::new(ip, to.port())).await {
            tracing::debug!(%to, %error, "gossip cannot be sent");
        }
    }
}

/// Looks the names up, again and again; ends when the receiver is gone.
async fn resolve(join: Vec<String>, seeds: watch::Sender<BTreeSet<SocketAddr>>) {
    let mut failing = BTreeSet::new();
    loop {
        let mut resolved = BTreeSet::new();
        for name in &join {
            match timeout(RESOLVE_TIMEOUT, lookup_host(with_port(name))).await {
                Ok(Ok(addrs)) => {
                    failing.remove(name);
                    resolved.extend(addrs.map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port())));
                }
                Ok(Err(error)) if failing.insert(name) => {
                    tracing::warn!(%name, %error, "the node to join cannot be looked up; trying on");
                }
                Err(_) if failing.insert(name) => {
                    tracing::warn!(%name, "looking up the node to join takes too long; trying on")
                }
                _ => {}
            }
        }
        // What cannot be looked up now is asked at its last address.
        if !resolved.is_empty() && *seeds.borrow() != resolved {
            seeds.send_replace(resolved);
        }
        tokio::select! {
            () = seeds.closed() => return,
            () = sleep(RESOLVE_INTERVAL) => {}
        }
    }
}

/// `HOST`, `HOST:PORT`, a bare IPv6 address or `[IPV6]:PORT`, as `lookup_host` wants it.
fn with_port(name: &str) -> String {
    if let Ok(ip) = name.parse::<Ipv6Addr>() {
        return format!("[{ip}]:{DEFAULT_PORT}");
    }
    let has_port = name.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if has_port { name.to_owned() } else { format!("{name}:{DEFAULT_PORT}") }
}

fn log_complaint(Complaint { from, about }: &Complaint) {
    tracing::warn!(%from, "gossip refused: {about}");
}

fn log_event(event: &Event) {
    match event {
        Event::Up(node) => tracing::info!(%node, "node is up"),
        Event::Down { node, left: true } => tracing::info!(%node, "node has left"),
        Event::Down { node, left: false } => tracing::warn!(%node, "node is down: it does not answer any more"),
        Event::Rejoined => tracing::info!("the other nodes took this one for dead; it is back"),
        Event::NameConflict { newcomer, holder } => {
            tracing::warn!(%newcomer, %holder, "a node with a name that is taken asks to join; give it another by --name");
        }
        Event::NoAnswer { from } => {
            tracing::warn!(%from, "no answer from the node to join: does scx_mosix run there, and is this UDP port open? Trying on");
        }
        Event::JoinRefused { by, reason } => tracing::error!(%by, "this node may not join: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_may_be_left_out() {
        let cases = [
            ("n1", "n1:7470"),
            ("n1:80", "n1:80"),
            ("10.0.0.1", "10.0.0.1:7470"),
            ("fd00::1", "[fd00::1]:7470"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[fd00::1]", "[fd00::1]:7470"),
        ];
        for (given, expected) in cases {
            assert_eq!(with_port(given), expected);
        }
    }
}
