//! The rest of the daemon's grip on the cluster.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{ClusterView, Core, Endpoint, GossipConfig, NodeId, NodeSummary, task};
use crate::bounds::OutOfBounds;
use crate::{
    keys::{ClusterKey, KeyError, NodeName, Sealer, SenderId},
    node::NodeLoad,
};

/// How long saying good-bye may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the cluster could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The gossip socket cannot be had.
    #[error(
        "cannot listen for gossip on UDP {addr}: is another scx_mosix running here, or is the address not this machine's?"
    )]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Keys cannot be derived from the cluster key.
    #[error("cannot seal gossip")]
    Seal(#[from] KeyError),
    /// A setting of gossip is out of bounds.
    #[error("cannot gossip with these settings")]
    Config(#[from] OutOfBounds),
}

/// What this node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalState {
    /// What it is.
    pub summary: NodeSummary,
    /// How loaded it is.
    pub load: NodeLoad,
}

/// How this node reaches others.
#[derive(Debug, Clone)]
pub struct Transport {
    /// The cluster's key.
    pub key: ClusterKey,
    /// Where to listen, normally the unspecified address and port 7470; port 0 lets the kernel
    /// choose.
    pub listen: SocketAddr,
    /// The address that others are told (with the port of `listen`); see
    /// [`crate::node::advertised_address`].
    pub advertise: IpAddr,
    /// Whom to ask for admission: `HOST` or `HOST:PORT`. May be empty.
    pub join: Vec<String>,
    /// From [`super::next_epoch`].
    pub epoch: u64,
}

/// A node's place in its cluster. Clones are the same place; it is given up by [`Self::leave`], or
/// when the last clone goes.
#[derive(Debug, Clone)]
pub struct ClusterHandle {
    view: watch::Receiver<Arc<ClusterView>>,
    local: Arc<watch::Sender<LocalState>>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
    addr: Option<SocketAddr>,
}

/// Takes this node's place: with a transport in a cluster, without one as a cluster of its own that
/// has no socket.
///
/// # Errors
/// [`ClusterError::Bind`], [`ClusterError::Seal`], [`ClusterError::Config`].
pub async fn start(
    name: NodeName,
    transport: Option<Transport>,
    local: LocalState,
    gossip: GossipConfig,
) -> Result<ClusterHandle, ClusterError> {
    gossip.validate()?;
    let (socket, endpoint, join, addr) = match transport {
        None => {
            let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
            let me = NodeId { name, addr: nowhere, incarnation: 0 };
            (None, Endpoint::alone(Core::new(me, local.clone(), gossip, 0)), Vec::new(), None)
        }
        Some(Transport { key, listen, advertise, join, epoch }) => {
            let bind_error = |source| ClusterError::Bind { addr: listen, source };
            let socket = UdpSocket::bind(listen).await.map_err(bind_error)?;
            let port = socket.local_addr().map_err(bind_error)?.port();
            let me = NodeId { name, addr: SocketAddr::new(advertise, port), incarnation: epoch };
            // The description must be unique in the cluster at any time: it selects the gossip key.
            let sealer = Sealer::new(&key, SenderId::of(&me.to_string()), epoch)?;
            let addr = me.addr;
            let core = Core::new(me, local.clone(), gossip, rand::random());
            (Some(socket), Endpoint::new(core, sealer), join, Some(addr))
        }
    };
    let (view_sender, view) = watch::channel(Arc::new(endpoint.view(0)));
    let (local, local_receiver) = watch::channel(local);
    let (leave, leave_receiver) = mpsc::channel(4);
    tokio::spawn(task::run(task::Task {
        endpoint,
        socket,
        join,
        view: view_sender,
        local: local_receiver,
        leave: leave_receiver,
    }));
    Ok(ClusterHandle { view, local: Arc::new(local), leave, addr })
}

impl ClusterHandle {
    /// The cluster as it is known now.
    pub fn view(&self) -> Arc<ClusterView> {
        self.view.borrow().clone()
    }

    /// Follows the cluster: a new view comes with every change, and at least once in a period of
    /// gossip.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.view.clone()
    }

    /// The address that others know this node by; `None` without a transport.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Tells the cluster this node's load, from the next period of gossip on.
    pub fn set_load(&self, load: NodeLoad) {
        self.local.send_modify(|local| local.load = load);
    }

    /// Tells the cluster what this node has become: sched_ext was ejected, say.
    pub fn set_summary(&self, summary: NodeSummary) {
        self.local.send_modify(|local| local.summary = summary);
    }

    /// Says good-bye, so that the others need not find out. Returns when it is said, within three
    /// seconds; gossip ends. May be called again.
    pub async fn leave(&self) {
        let (done, said) = oneshot::channel();
        // A closed channel means that the task is gone: left already.
        let leaving = async {
            if self.leave.send(done).await.is_ok() {
                let _ = said.await;
            }
        };
        if timeout(LEAVE_TIMEOUT, leaving).await.is_err() {
            tracing::warn!("the other nodes could not be told that this one leaves; they will find out");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::cluster::{NodeState, tests::local_state};

    const LIMIT: Duration = Duration::from_secs(20);

    async fn node(name: &str, key: &ClusterKey, join: &[&ClusterHandle]) -> ClusterHandle {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let transport = Transport {
            key: key.clone(),
            listen: SocketAddr::new(local, 0),
            advertise: local,
            join: join.iter().map(|handle| handle.addr().unwrap().to_string()).collect(),
            epoch: 1,
        };
        start(name.parse().unwrap(), Some(transport), local_state(), GossipConfig::default()).await.unwrap()
    }

    async fn wait(handle: &ClusterHandle, is_right: impl Fn(&ClusterView) -> bool) {
        let mut views = handle.subscribe();
        let right = timeout(LIMIT, views.wait_for(|view| is_right(view))).await;
        assert!(right.is_ok(), "{:#?}", handle.view());
    }

    fn state(view: &ClusterView, name: &str) -> Option<NodeState> {
        view.get(&name.parse().unwrap()).map(|entry| entry.state)
    }

    #[tokio::test]
    async fn nodes_meet_by_real_sockets_share_their_load_and_part() {
        let key = ClusterKey::generate().unwrap();
        let n1 = node("n1", &key, &[]).await;
        let n2 = node("n2", &key, &[&n1]).await;
        let stranger = node("n3", &ClusterKey::generate().unwrap(), &[&n1]).await;
        let is_there = |name: &'static str| move |view: &ClusterView| state(view, name) == Some(NodeState::Alive);
        tokio::join!(wait(&n1, is_there("n2")), wait(&n2, is_there("n1")));

        let busy = NodeLoad { load_milli: 777, guests: 3, ..NodeLoad::default() };
        n2.set_load(busy);
        let name: NodeName = "n2".parse().unwrap();
        wait(&n1, |view| {
            view.get(&name).and_then(|entry| entry.report.as_ref()).is_some_and(|report| report.load == busy)
        })
        .await;

        assert_eq!((n1.view().entries.len(), stranger.view().entries.len()), (2, 1));
        n2.leave().await;
        wait(&n1, |view| state(view, "n2") == Some(NodeState::Left)).await;
        n2.leave().await;
        assert_eq!(state(&n2.view(), "n2"), Some(NodeState::Left));
    }

    #[tokio::test]
    async fn a_node_without_a_key_is_a_cluster_of_its_own() {
        let alone = start("n1".parse().unwrap(), None, local_state(), GossipConfig::default()).await.unwrap();
        assert_eq!(alone.addr(), None);
        alone.set_load(NodeLoad { nr_running: 9, ..NodeLoad::default() });
        wait(&alone, |view| {
            view.entries.len() == 1 && view.my_entry().unwrap().report.as_ref().unwrap().load.nr_running == 9
        })
        .await;
        alone.leave().await;
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_that_names_it() {
        let key = ClusterKey::generate().unwrap();
        let n1 = node("n1", &key, &[]).await;
        let listen = n1.addr().unwrap();
        let transport = Transport { key, listen, advertise: listen.ip(), join: vec![], epoch: 2 };
        let error =
            start("n2".parse().unwrap(), Some(transport), local_state(), GossipConfig::default()).await.unwrap_err();
        assert!(error.to_string().contains(&listen.to_string()), "{error}");
    }
}
