//! What the state machine wants done: payloads to send, timers, events; and how SWIM is tuned.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque, binary_heap::PeekMut},
    net::SocketAddr,
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::{Config, Notification, PeriodicParams, Runtime, Timer};

use super::{JoinRefusal, NodeId, wire};
use crate::keys::MAX_PAYLOAD_BYTES;

/// Payloads that wait to be taken; more are dropped, as by any network.
const MAX_OUTGOING: usize = 1024;

/// Something that people may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node joined or came back.
    Up(NodeId),
    /// A node does not answer any more, or has left.
    Down {
        /// The node.
        node: NodeId,
        /// It said good-bye.
        left: bool,
    },
    /// The others took this node for dead; it has contradicted.
    Rejoined,
    /// A node asked to join under a name that a living node has.
    NameConflict {
        /// Who asked.
        newcomer: NodeId,
        /// Who has the name.
        holder: NodeId,
    },
    /// A node that this one shall join does not answer.
    NoAnswer {
        /// Where it should be.
        from: SocketAddr,
    },
    /// This node may not join.
    JoinRefused {
        /// Who said so.
        by: SocketAddr,
        /// Why.
        reason: JoinRefusal,
    },
}

/// What foca and the rest want done.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) now_ms: u64,
    timers: BinaryHeap<Reverse<Due>>,
    timers_set: u64,
    pub(super) outgoing: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) events: VecDeque<Event>,
    /// Members that came up and have not been told this node's load.
    pub(super) newcomers: Vec<SocketAddr>,
    pub(super) changed: bool,
}

/// A timer of foca's; the earlier first, then foca's own order, then as set.
struct Due {
    at_ms: u64,
    set: u64,
    timer: Timer<NodeId>,
}

impl Effects {
    /// The next timer that has come, taken out.
    pub(super) fn pop_due(&mut self) -> Option<Timer<NodeId>> {
        let due = self.timers.peek_mut().filter(|due| due.0.at_ms <= self.now_ms)?;
        Some(PeekMut::pop(due).0.timer)
    }

    /// When the next timer comes; `u64::MAX` if there is none.
    pub(super) fn next_timer_ms(&self) -> u64 {
        self.timers.peek().map_or(u64::MAX, |due| due.0.at_ms)
    }

    /// Puts a payload into the queue.
    pub(super) fn send(&mut self, to: SocketAddr, payload: Vec<u8>) {
        if self.outgoing.len() < MAX_OUTGOING {
            self.outgoing.push_back((to, payload));
        }
    }
}

impl Runtime<NodeId> for Effects {
    fn notify(&mut self, notification: Notification<'_, NodeId>) {
        self.changed = true;
        match notification {
            Notification::MemberUp(id) => {
                self.newcomers.push(id.addr);
                self.events.push_back(Event::Up(id.clone()));
            }
            Notification::MemberDown(id) => self.events.push_back(Event::Down { node: id.clone(), left: false }),
            Notification::Rejoin(_) => self.events.push_back(Event::Rejoined),
            Notification::Rename(..) | Notification::Active | Notification::Idle | Notification::Defunct => {}
        }
    }

    fn send_to(&mut self, to: NodeId, packet: &[u8]) {
        self.send(to.addr, wire::membership(packet));
    }

    fn submit_after(&mut self, timer: Timer<NodeId>, after: Duration) {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.timers_set += 1;
        self.timers.push(Reverse(Due { at_ms: self.now_ms.saturating_add(after_ms), set: self.timers_set, timer }));
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, &self.timer, self.set).cmp(&(other.at_ms, &other.timer, other.set))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

/// SWIM's constants: those of memberlist for local networks, with a quicker look at nodes that were
/// cut off.
pub(super) fn swim_config() -> Config {
    const ONE: NonZeroUsize = NonZeroUsize::MIN;
    const TWO: NonZeroUsize = ONE.saturating_add(1);
    const THREE: NonZeroUsize = ONE.saturating_add(2);
    let every = |ms, num_members| Some(PeriodicParams { frequency: Duration::from_millis(ms), num_members });
    Config {
        probe_period: Duration::from_millis(1000),
        // Long against a local network's round trip, for daemons that wait for a CPU.
        probe_rtt: Duration::from_millis(400),
        num_indirect_probes: THREE,
        max_transmissions: const { NonZeroU8::new(10).unwrap() },
        // So long that a daemon which waits for a CPU can still contradict.
        suspect_to_down_after: Duration::from_millis(10_000),
        // Until then `nodes` shows it. Coming back is possible at any time, in a new incarnation.
        remove_down_after: Some(Duration::from_secs(3600)),
        max_packet_size: const { NonZeroUsize::new(MAX_PAYLOAD_BYTES - wire::MEMBERSHIP_HEAD_BYTES).unwrap() },
        notify_down_members: true,
        periodic_announce: every(30_000, ONE),
        periodic_announce_to_down_members: every(10_000, TWO),
        periodic_gossip: every(250, THREE),
    }
}
