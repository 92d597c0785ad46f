//! Many nodes in one thread: a network of queues whose links can be cut, on a clock that only this
//! test moves.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::{Ipv4Addr, SocketAddr},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    About, ClusterView, Complaint, Core, Endpoint, Event, GossipConfig, LocalState, NodeId, NodeState, NodeSummary,
    Version, WireError,
    loads::{LoadEntry, Said},
    wire,
};
use crate::{
    keys::{ClusterKey, MAX_DATAGRAM_BYTES, OpenError, Sealer, SenderId},
    node::{NodeLoad, SchedExtState},
};

pub(super) fn local_state() -> LocalState {
    LocalState {
        summary: NodeSummary {
            cpus: 2,
            speed_permille: 1000,
            memory_total_bytes: 2 << 30,
            can_migrate: true,
            sched_ext: SchedExtState::Attached,
            features_hash: 1,
            protocol_version: 1,
            kernel_release: "7.3.4+deb13-cloud-amd64".into(),
            software_version: "0.1.0".into(),
        },
        load: NodeLoad::default(),
    }
}

/// When a datagram arrives, the how-manieth it is, from, to, bytes.
type Flight = (u64, u64, u8, u8, Vec<u8>);

struct Net {
    now_ms: u64,
    nodes: BTreeMap<u8, Endpoint>,
    /// Datagrams under way.
    flying: BinaryHeap<Reverse<Flight>>,
    sent: u64,
    cut: BTreeSet<(u8, u8)>,
    loss_percent: u32,
    rng: StdRng,
    complaints: Vec<(u8, Complaint)>,
    events: Vec<(u8, Event)>,
    bytes: BTreeMap<u8, u64>,
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, n), 7470))
}

impl Net {
    fn new() -> Self {
        Self {
            now_ms: 0,
            nodes: BTreeMap::new(),
            flying: BinaryHeap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            loss_percent: 0,
            rng: StdRng::seed_from_u64(7),
            complaints: Vec::new(),
            events: Vec::new(),
            bytes: BTreeMap::new(),
        }
    }

    /// Starts node `n` (a new life each time), which asks `joins`.
    fn start(&mut self, n: u8, key: &ClusterKey, joins: &[u8]) {
        self.start_as(n, &format!("n{n}"), key, joins);
    }

    fn start_as(&mut self, n: u8, name: &str, key: &ClusterKey, joins: &[u8]) {
        let epoch = 1_000_000 + self.now_ms;
        let me = NodeId { name: name.parse().unwrap(), addr: addr(n), incarnation: epoch };
        let sealer = Sealer::new(key, SenderId::of(&me.to_string()), epoch).unwrap();
        let mut endpoint = Endpoint::new(Core::new(me, local_state(), GossipConfig::default(), u64::from(n)), sealer);
        endpoint.set_seeds(joins.iter().map(|n| addr(*n)).collect());
        self.nodes.insert(n, endpoint);
    }

    fn run_ms(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            // Nodes look at the clock each 10 ms; datagrams take 2 to 12.
            self.now_ms += 10;
            while self.flying.peek().is_some_and(|first| first.0.0 <= self.now_ms) {
                let Some(Reverse((_, _, from, to, datagram))) = self.flying.pop() else { break };
                if let Some(node) = self.nodes.get_mut(&to).filter(|_| !self.cut.contains(&(from, to))) {
                    let complaint = node.receive(self.now_ms, addr(from), &datagram);
                    self.complaints.extend(complaint.map(|complaint| (to, complaint)));
                    self.collect(to);
                }
            }
            let numbers: Vec<u8> = self.nodes.keys().copied().collect();
            for n in numbers {
                let node = self.nodes.get_mut(&n).unwrap();
                if node.next_deadline_ms().is_some_and(|at_ms| at_ms <= self.now_ms) {
                    node.tick(self.now_ms);
                }
                self.collect(n);
            }
        }
    }

    fn collect(&mut self, n: u8) {
        let node = self.nodes.get_mut(&n).unwrap();
        self.events.extend(node.take_events().map(|event| (n, event)));
        for (to, datagram) in node.take_datagrams() {
            assert!(datagram.len() <= MAX_DATAGRAM_BYTES);
            *self.bytes.entry(n).or_default() += datagram.len() as u64;
            let SocketAddr::V4(to) = to else { panic!("only IPv4 here") };
            self.sent += 1;
            if self.rng.random_range(0..100) >= self.loss_percent {
                let at_ms = self.now_ms + self.rng.random_range(2..12);
                self.flying.push(Reverse((at_ms, self.sent, n, to.ip().octets()[3], datagram)));
            }
        }
    }

    fn view(&self, n: u8) -> ClusterView {
        self.nodes[&n].view(self.now_ms)
    }

    fn state(&self, at: u8, of: u8) -> Option<NodeState> {
        self.view(at).get(&format!("n{of}").parse().unwrap()).map(|entry| entry.state)
    }

    fn cut(&mut self, a: &[u8], b: &[u8]) {
        for (x, y) in a.iter().flat_map(|x| b.iter().map(move |y| (*x, *y))) {
            self.cut.extend([(x, y), (y, x)]);
        }
    }

    /// How long until `nodes` see each other in state Alive with a report, at most `limit_ms`.
    fn converge(&mut self, nodes: &[u8], limit_ms: u64) -> u64 {
        let start_ms = self.now_ms;
        let is_complete = |net: &Self, at: u8| {
            let view = net.view(at);
            nodes.iter().all(|of| {
                let entry = view.get(&format!("n{of}").parse().unwrap());
                entry.is_some_and(|entry| entry.state == NodeState::Alive && entry.report.is_some())
            })
        };
        while !nodes.iter().all(|at| is_complete(self, *at)) {
            assert!(self.now_ms - start_ms < limit_ms, "not converged: {:#?}", self.view(nodes[0]));
            self.run_ms(50);
        }
        self.now_ms - start_ms
    }
}

fn cluster(size: u8) -> (Net, ClusterKey, Vec<u8>) {
    let (mut net, key) = (Net::new(), ClusterKey::generate().unwrap());
    for n in 1..=size {
        net.start(n, &key, &[1]);
    }
    (net, key, (1..=size).collect())
}

#[test]
fn twenty_nodes_find_each_other_and_notice_a_death() {
    let (mut net, _, all) = cluster(20);
    net.converge(&all, 15_000);
    net.run_ms(10_000);
    // The load that each knows of each is fresh, and no node was suspected for nothing.
    let oldest_ms =
        all.iter().flat_map(|n| net.view(*n).entries).filter_map(|entry| entry.report).map(|r| r.age_ms).max();
    assert!(oldest_ms.unwrap() < 15_000, "{oldest_ms:?}");
    assert!(!net.events.iter().any(|(_, event)| matches!(event, Event::Down { .. })), "{:?}", net.events);

    net.nodes.remove(&13);
    net.run_ms(30_000);
    for n in all.iter().filter(|n| **n != 13) {
        assert_eq!(net.state(*n, 13), Some(NodeState::Down), "as seen by {n}");
        assert_eq!(net.view(*n).peers().count(), 18);
    }
    assert!(net.complaints.is_empty(), "{:?}", net.complaints);
}

#[test]
fn what_a_node_sends_does_not_grow_with_the_cluster() {
    let rate = |size: u8| {
        let (mut net, _, all) = cluster(size);
        net.converge(&all, 30_000);
        net.run_ms(20_000);
        net.bytes.clear();
        net.run_ms(20_000);
        net.bytes[&2] / 20
    };
    let (small, large) = (rate(15), rate(60));
    assert!(large < small * 3 / 2 && large < 8000, "{small} and {large} bytes/s");
}

#[test]
fn another_key_never_gets_in_and_both_sides_know_why() {
    let (mut net, key, all) = cluster(3);
    let foreign_key = ClusterKey::generate().unwrap();
    net.start(9, &foreign_key, &[1, 2]);
    net.converge(&all, 10_000);
    net.run_ms(150_000);
    assert!(net.state(1, 9).is_none() && net.view(9).entries.len() == 1);
    let complaints =
        |n: u8| net.complaints.iter().filter(|(at, _)| *at == n).map(|(_, c)| c.about.clone()).collect::<Vec<_>>();
    let (ours, theirs) = (key.id().unwrap(), foreign_key.id().unwrap());
    // It asks every 15 seconds; each side logs once a minute.
    assert_eq!(complaints(1), vec![About::Datagram(OpenError::ForeignCluster(theirs)); 3]);
    assert_eq!(complaints(9), vec![About::Datagram(OpenError::Refused(ours)); 6]);
}

#[test]
fn a_leaver_is_known_to_have_left_at_once_and_may_come_back() {
    let (mut net, key, all) = cluster(5);
    net.converge(&all, 10_000);
    let now_ms = net.now_ms;
    net.nodes.get_mut(&4).unwrap().leave(now_ms);
    net.run_ms(2000);
    for n in [1, 2, 3, 5] {
        assert_eq!(net.state(n, 4), Some(NodeState::Left), "as seen by {n}");
    }
    assert!(net.events.iter().any(|(_, event)| matches!(event, Event::Down { left: true, .. })));
    net.start(4, &key, &[1]);
    net.converge(&all, 10_000);
}

#[test]
fn two_nodes_cut_apart_find_each_other_again() {
    let (mut net, _, all) = cluster(2);
    net.converge(&all, 5000);
    net.cut(&[1], &[2]);
    net.run_ms(60_000);
    assert_eq!((net.state(1, 2), net.state(2, 1)), (Some(NodeState::Down), Some(NodeState::Down)));
    net.cut.clear();
    net.converge(&all, 40_000);
}

#[test]
fn two_halves_find_each_other_again() {
    let (mut net, _, all) = cluster(8);
    net.converge(&all, 10_000);
    net.cut(&[1, 2, 3], &[4, 5, 6, 7, 8]);
    net.run_ms(40_000);
    assert_eq!((net.view(1).peers().count(), net.view(8).peers().count()), (2, 4));
    net.cut.clear();
    net.converge(&all, 90_000);
}

#[test]
fn one_cut_link_is_no_death() {
    let (mut net, _, all) = cluster(4);
    net.converge(&all, 10_000);
    net.events.clear();
    net.cut(&[1], &[2]);
    net.run_ms(60_000);
    assert!(!net.events.iter().any(|(_, event)| matches!(event, Event::Down { .. })), "{:?}", net.events);
}

#[test]
fn a_lossy_network_is_good_enough() {
    let (mut net, _, all) = cluster(10);
    net.loss_percent = 20;
    net.converge(&all, 60_000);
}

#[test]
fn a_restarted_node_is_back_under_its_name() {
    let (mut net, key, all) = cluster(3);
    net.converge(&all, 10_000);
    let before = net.view(1).get(&"n3".parse().unwrap()).unwrap().incarnation;
    net.run_ms(1000);
    net.start(3, &key, &[1]);
    net.run_ms(100);
    net.converge(&all, 10_000);
    let after = net.view(1).get(&"n3".parse().unwrap()).unwrap().incarnation;
    assert!(after > before);
}

#[test]
fn a_name_is_given_only_once() {
    let (mut net, key, all) = cluster(3);
    net.converge(&all, 10_000);
    net.start_as(7, "n2", &key, &[1]);
    net.run_ms(5000);
    assert_eq!(net.view(1).get(&"n2".parse().unwrap()).unwrap().addr, addr(2));
    assert!(net.events.iter().any(|(n, event)| *n == 7 && matches!(event, Event::JoinRefused { .. })));
    assert!(net.events.iter().any(|(n, event)| *n == 1 && matches!(event, Event::NameConflict { .. })));
    // When the holder dies, its name is free.
    net.nodes.remove(&2);
    net.run_ms(40_000);
    assert_eq!(net.view(1).get(&"n2".parse().unwrap()).unwrap().addr, addr(7));
}

#[test]
fn a_changed_load_reaches_all_nodes() {
    let (mut net, _, all) = cluster(6);
    net.converge(&all, 10_000);
    let mut busy = local_state();
    busy.load.load_milli = 4321;
    net.nodes.get_mut(&5).unwrap().set_local(busy);
    net.run_ms(8000);
    for n in all {
        let report = net.view(n).get(&"n5".parse().unwrap()).unwrap().report.clone().unwrap();
        assert_eq!(report.load.load_milli, 4321, "as seen by {n}");
    }
}

#[test]
fn a_flooding_node_is_not_listened_to_but_its_neighbours_are() {
    let me = |n: u8| NodeId { name: format!("n{n}").parse().unwrap(), addr: addr(n), incarnation: 1 };
    let core = |n| Core::new(me(n), local_state(), GossipConfig::default(), u64::from(n));
    let mut listener = core(1);
    let word = |n: u8, load_milli| {
        let mut state = local_state();
        state.load.load_milli = load_milli;
        let said = Said::new(&state, false);
        wire::load(&[LoadEntry {
            node: me(n).name,
            version: Version { incarnation: 1, sequence: load_milli },
            age_ms: 0,
            said,
        }])
        .remove(0)
    };
    let mut refused = 0;
    for count in 1..=10_000 {
        listener.take_changed();
        match listener.receive(1000, addr(2), &word(2, count)) {
            Ok(()) => assert!(listener.take_changed()),
            Err(error) => {
                assert_eq!(error, WireError::Flood);
                assert!(!listener.take_changed());
                refused += 1;
            }
        }
    }
    // Four messages of sixteen entries, at most four datagrams each.
    assert_eq!(refused, 10_000 - 16);
    assert_eq!(listener.receive(1000, addr(3), &word(3, 1)), Ok(()));
    assert_eq!(listener.receive(1500, addr(2), &word(2, 20_000)), Ok(()));
    assert_eq!(listener.take_outgoing().count(), 0, "load is not answered");
    // Nor is more answered than is taken.
    let (mut host, mut newcomer) = (core(4), core(5));
    newcomer.set_seeds(BTreeSet::from([addr(4)]));
    newcomer.tick(0);
    let (_, question) = newcomer.take_outgoing().next().unwrap();
    let answers = (0..1000).filter(|_| host.receive(1000, addr(5), &question).is_ok()).count();
    assert_eq!((answers, host.take_outgoing().count()), (4, 4));
}

#[test]
fn the_view_tells_which_ages_are_expected_and_they_come_true() {
    let (mut net, _, all) = cluster(40);
    net.converge(&all, 30_000);
    net.run_ms(20_000);
    let gossip = net.view(1).gossip;
    assert_eq!(gossip, GossipConfig::default().among(40));
    let (mut sum_ms, mut count) = (0, 0);
    for _ in 0..20 {
        net.run_ms(1000);
        for at in &all {
            let view = net.view(*at);
            let others = view.entries.iter().filter(|entry| entry.name != view.me);
            let ages = others.filter_map(|entry| Some(entry.report.as_ref()?.age_ms)).collect::<Vec<u64>>();
            (sum_ms, count) = (sum_ms + ages.iter().sum::<u64>(), count + ages.len() as u64);
        }
    }
    let ratio = sum_ms as f64 / count as f64 / gossip.average_age_ms as f64;
    assert!((0.85..1.15).contains(&ratio), "{ratio}");
}
