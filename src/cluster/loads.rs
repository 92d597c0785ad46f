//! What nodes say on the board: what each is and how loaded it is.

use super::{
    LocalState, NodeReport,
    board::{Board, Entry, Version},
    view::NodeSummary,
    wire,
};
use crate::{
    keys::{MAX_DATAGRAM_BYTES, MAX_PAYLOAD_BYTES, NodeName},
    node::NodeLoad,
};

/// Nodes remembered beside this one; what more are told is dropped.
pub(super) const MAX_NODES: usize = 16_384;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// It is its last word: it leaves.
    pub(super) leaving: bool,
    pub(super) summary: NodeSummary,
    pub(super) load: NodeLoad,
}

pub(super) type LoadEntry = Entry<NodeName, Said>;
pub(super) type LoadBoard = Board<NodeName, Said>;

impl Said {
    pub(super) fn new(local: &LocalState, leaving: bool) -> Self {
        Self { leaving, summary: local.summary.clone(), load: local.load }
    }
}

impl LoadBoard {
    /// What node `name` last said, if it said it in this incarnation or a later one.
    pub(super) fn report(&self, name: &NodeName, incarnation: u64, now_ms: u64) -> Option<NodeReport> {
        let entry = self.get(name, now_ms).filter(|entry| entry.version.incarnation >= incarnation)?;
        let Said { summary, load, .. } = entry.said;
        Some(NodeReport { summary: summary.clone(), load: *load, age_ms: u64::from(entry.age_ms) })
    }

    /// Whether node `name` said good-bye in `incarnation` or later.
    pub(super) fn has_left(&self, name: &NodeName, incarnation: u64) -> bool {
        self.get(name, 0).is_some_and(|entry| entry.said.leaving && entry.version.incarnation >= incarnation)
    }
}

/// The bytes of one load message among `nodes` of which each says `local`: of its sealed datagrams,
/// without headers of UDP and IP. Names have ten letters.
pub fn load_message_bytes(nodes: usize, window: usize, local: &LocalState) -> usize {
    let entry = |n: usize| {
        let node = NodeName::new(&format!("node-{n:05}")).ok()?;
        let version = Version { incarnation: 1, sequence: 1 };
        Some(LoadEntry { node, version, age_ms: 0, said: Said::new(local, false) })
    };
    let Some(own) = entry(0) else { return 0 };
    let mut board = LoadBoard::new(own.node, 1, own.said, nodes, 0);
    for other in (1..nodes).filter_map(entry) {
        board.take(other, 0);
    }
    let payloads = wire::load(&board.window(window, 0));
    payloads.iter().map(|payload| payload.len() + MAX_DATAGRAM_BYTES - MAX_PAYLOAD_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::local_state;

    fn said(name: &str, incarnation: u64, leaving: bool) -> LoadEntry {
        let version = Version { incarnation, sequence: 1 };
        LoadEntry { node: name.parse().unwrap(), version, age_ms: 0, said: Said::new(&local_state(), leaving) }
    }

    fn board() -> LoadBoard {
        Board::new("me".parse().unwrap(), 1, Said::new(&local_state(), false), MAX_NODES, 0)
    }

    #[test]
    fn a_last_word_stands_until_a_new_life() {
        let (mut board, a) = (board(), "a".parse().unwrap());
        board.take(said("a", 5, true), 0);
        assert!(board.has_left(&a, 5) && !board.has_left(&a, 6));
        board.take(said("a", 6, false), 0);
        assert!(!board.has_left(&a, 5));
    }

    #[test]
    fn a_word_of_an_earlier_life_is_no_report() {
        let (mut board, a) = (board(), "a".parse().unwrap());
        board.take(said("a", 5, false), 100);
        assert_eq!(board.report(&a, 5, 1100).unwrap().age_ms, 1000);
        assert!(board.report(&a, 6, 1100).is_none());
    }

    #[test]
    fn a_message_is_as_long_among_10000_nodes_as_among_100() {
        let bytes = |nodes| load_message_bytes(nodes, 16, &local_state());
        assert_eq!(bytes(100), bytes(10_000));
        assert!((1_000..2_400).contains(&bytes(100)), "{}", bytes(100));
    }
}
