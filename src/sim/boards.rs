//! The bulletin boards of all nodes of a cluster, which gossip: in one thread, on a virtual clock.
//!
//! Boards, their windows and the irregular period are the cluster's own code; only names and
//! sockets are left out. Nodes do not take turns together: each has a phase of its own, as real
//! ones have. (Where all send at once and hear at once, as in a synchronous model, a word can make
//! but one hop in a step, and ages are some 7 % above these, the oldest some 10 %.)

use std::{cmp::Reverse, collections::BinaryHeap};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::scenario::Network;
use crate::cluster::{Board, Entry, GossipConfig};

/// Turns of a node after which it forgets what is too old: forgetting looks at the whole board.
const FORGET_TURNS: u32 = 8;

/// The boards of a cluster, on which nodes say a `T` of themselves.
pub(super) struct Boards<T> {
    config: GossipConfig,
    network: Network,
    nodes: Vec<Node<T>>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    flying: Flying<T>,
    rng: StdRng,
    /// Words older than this are forgotten, in milliseconds.
    forget_ms: Option<u64>,
}

struct Node<T> {
    board: Board<u32, T>,
    /// Whether it neither speaks nor hears.
    is_away: bool,
    turns: u32,
}

/// What happens, in the order of its time; those of one moment in the order of nodes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Turn { node: usize },
    Arrival { to: usize, message: usize },
}

impl<T: Clone> Boards<T> {
    /// Boards, at least two, whose nodes begin to speak within a period from now on, which is
    /// time 0.
    pub(super) fn new(boards: Vec<Board<u32, T>>, config: GossipConfig, network: Network, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let first =
            (0..boards.len()).map(|node| Reverse((rng.random_range(0..config.period_ms), Event::Turn { node })));
        let events = first.collect();
        let nodes = boards.into_iter().map(|board| Node { board, is_away: false, turns: 0 }).collect();
        Self { config, network, nodes, events, flying: Flying::default(), rng, forget_ms: None }
    }

    /// The boards of a cluster whose nodes have not heard of each other yet; they forget what is
    /// older than `forget_ms`.
    pub(super) fn starting(said: Vec<T>, config: GossipConfig, network: Network, forget_ms: u64, seed: u64) -> Self {
        let most = said.len();
        let boards = said.into_iter().zip(0..).map(|(said, node)| Board::new(node, 1, said, most, 0)).collect();
        Self { forget_ms: Some(forget_ms), ..Self::new(boards, config, network, seed) }
    }

    /// Lets everything happen that happens before `until_ms`; `say` is told a node and a time and
    /// gives what the node then says.
    pub(super) fn advance(&mut self, until_ms: u64, mut say: impl FnMut(usize, u64) -> T) {
        while self.events.peek().is_some_and(|Reverse((at_ms, _))| *at_ms < until_ms) {
            let Some(Reverse((now_ms, event))) = self.events.pop() else { return };
            match event {
                Event::Turn { node } => {
                    self.events.push(Reverse((self.config.next_turn_ms(now_ms, &mut self.rng), Event::Turn { node })));
                    self.speak(node, now_ms, &mut say);
                }
                Event::Arrival { to, message } => {
                    let entries = self.flying.take(message);
                    let node = &mut self.nodes[to];
                    if !node.is_away {
                        for entry in entries {
                            node.board.take(entry, now_ms);
                        }
                    }
                }
            }
        }
    }

    fn speak(&mut self, node: usize, now_ms: u64, say: &mut impl FnMut(usize, u64) -> T) {
        let count = self.nodes.len();
        let Node { board, is_away, turns } = &mut self.nodes[node];
        if *is_away {
            return;
        }
        board.say(1, say(node, now_ms), now_ms);
        *turns += 1;
        if let Some(forget_ms) = self.forget_ms.filter(|_| turns.is_multiple_of(FORGET_TURNS)) {
            board.forget(forget_ms, now_ms, |_| false);
        }
        let message = board.window(self.config.window, now_ms);
        let other = self.rng.random_range(0..count - 1);
        let to = other + usize::from(other >= node);
        let Network { loss, delay_ms } = self.network;
        if loss == 0.0 || !self.rng.random_bool(loss) {
            let message = self.flying.put(message);
            self.events.push(Reverse((now_ms + delay_ms, Event::Arrival { to, message })));
        }
    }

    /// A node is away from now on, or is back. A message to one that is away is lost.
    pub(super) fn set_away(&mut self, node: usize, is_away: bool) {
        self.nodes[node].is_away = is_away;
    }

    /// What `by` knows of all nodes it has heard of, itself in front.
    pub(super) fn known(&self, by: usize, now_ms: u64) -> impl Iterator<Item = Entry<&u32, &T>> {
        self.nodes[by].board.entries(now_ms)
    }

    /// What `by` knows of `node`, and how old that is, in milliseconds.
    pub(super) fn get(&self, by: usize, node: usize, now_ms: u64) -> Option<(&T, u32)> {
        self.nodes[by].board.get(&(node as u32), now_ms).map(|entry| (entry.said, entry.age_ms))
    }

    /// How old the words of others are, in milliseconds, for each board.
    pub(super) fn ages_ms(&self, now_ms: u64) -> impl Iterator<Item = impl Iterator<Item = u32>> {
        self.nodes.iter().map(move |node| node.board.ages_ms(now_ms))
    }
}

/// Messages under way, by number.
struct Flying<T> {
    messages: Vec<Vec<Entry<u32, T>>>,
    free: Vec<usize>,
}

impl<T> Default for Flying<T> {
    fn default() -> Self {
        Self { messages: Vec::new(), free: Vec::new() }
    }
}

impl<T> Flying<T> {
    fn put(&mut self, message: Vec<Entry<u32, T>>) -> usize {
        let number = self.free.pop().unwrap_or(self.messages.len());
        match self.messages.get_mut(number) {
            Some(place) => *place = message,
            None => self.messages.push(message),
        }
        number
    }

    fn take(&mut self, number: usize) -> Vec<Entry<u32, T>> {
        self.free.push(number);
        self.messages.get_mut(number).map(std::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boards(seed: u64) -> Boards<u64> {
        Boards::starting(vec![0; 20], GossipConfig::default(), Network::default(), 10_000, seed)
    }

    #[test]
    fn gossip_reaches_all_nodes_with_the_claimed_age() {
        let mut boards = boards(3);
        boards.advance(30_000, |_, now_ms| now_ms);
        for by in 0..20 {
            let known: Vec<Entry<&u32, &u64>> = boards.known(by, 30_000).collect();
            assert_eq!((known.len(), *known[0].node), (20, by as u32));
            assert!(known.iter().all(|entry| entry.said + u64::from(entry.age_ms) == 30_000), "{known:?}");
        }
    }

    #[test]
    fn who_is_away_is_forgotten_and_comes_back() {
        let mut boards = boards(4);
        boards.advance(30_000, |_, now_ms| now_ms);
        boards.set_away(7, true);
        boards.advance(60_000, |_, now_ms| now_ms);
        assert!((0..20).filter(|by| *by != 7).all(|by| boards.get(by, 7, 60_000).is_none()));
        assert_eq!(boards.get(7, 7, 60_000).map(|(said, _)| *said < 30_000), Some(true));
        boards.set_away(7, false);
        boards.advance(90_000, |_, now_ms| now_ms);
        assert!((0..20).all(|by| boards.get(by, 7, 90_000).is_some()));
    }
}
