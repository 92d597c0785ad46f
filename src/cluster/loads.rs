//! What each node last said of itself: the bulletin board of MOSIX's gossip.
//!
//! An entry is newer than another of the same node if its incarnation is higher, or, in one incarnation, its sequence number. The
//! window that goes to another node begins with this node's own entry, made at that moment, then the entries last made, whoever
//! passed them on.

use std::collections::HashMap;

use super::{LocalState, NodeReport, wire::LoadEntry};
use crate::keys::NodeName;

/// Nodes remembered; what more are told is dropped.
const MAX_ENTRIES: usize = 16_384;

/// The board.
#[derive(Default)]
pub(super) struct LoadTable {
    entries: HashMap<NodeName, Stored>,
    sequence: u32,
}

struct Stored {
    entry: LoadEntry,
    /// When the entry was made, by this node's clock in milliseconds; may lie before the clock's zero.
    made_ms: i64,
}

impl LoadTable {
    /// This node's entry, made now; `leaving` if it is the last.
    pub(super) fn refresh_own(
        &mut self,
        name: &NodeName,
        incarnation: u64,
        local: &LocalState,
        leaving: bool,
        now_ms: u64,
    ) {
        self.sequence = self.sequence.wrapping_add(1);
        let entry = LoadEntry {
            name: name.clone(),
            incarnation,
            sequence: self.sequence,
            age_ms: 0,
            leaving,
            summary: local.summary.clone(),
            load: local.load,
        };
        self.entries.insert(name.clone(), Stored { entry, made_ms: signed(now_ms) });
    }

    /// Takes what another node sent; gives back the nodes that have said their last word, with the incarnation that said it.
    pub(super) fn merge(&mut self, entries: Vec<LoadEntry>, me: &NodeName, now_ms: u64) -> Vec<(NodeName, u64)> {
        let mut leavers = Vec::new();
        for entry in entries {
            // Nobody knows better than this node how loaded it is.
            if entry.name == *me {
                continue;
            }
            let known = self.entries.get(&entry.name);
            let is_newer = known
                .is_none_or(|old| (entry.incarnation, entry.sequence) > (old.entry.incarnation, old.entry.sequence));
            if !is_newer || (known.is_none() && self.entries.len() >= MAX_ENTRIES) {
                continue;
            }
            if entry.leaving {
                leavers.push((entry.name.clone(), entry.incarnation));
            }
            let made_ms = signed(now_ms) - i64::from(entry.age_ms);
            self.entries.insert(entry.name.clone(), Stored { entry, made_ms });
        }
        leavers
    }

    /// What to send: the entries newest first, this node's own in front, their ages as of now.
    pub(super) fn window(&self, me: &NodeName, now_ms: u64) -> impl Iterator<Item = LoadEntry> {
        let mut newest: Vec<&Stored> = self.entries.values().collect();
        newest.sort_unstable_by_key(|stored| (stored.entry.name != *me, -stored.made_ms));
        newest.into_iter().map(move |stored| LoadEntry {
            age_ms: u32::try_from(stored.age_ms(now_ms)).unwrap_or(u32::MAX),
            ..stored.entry.clone()
        })
    }

    /// What node `name` last said, if it said it in this incarnation or a later one.
    pub(super) fn report(&self, name: &NodeName, incarnation: u64, now_ms: u64) -> Option<NodeReport> {
        let stored = self.entries.get(name).filter(|stored| stored.entry.incarnation >= incarnation)?;
        let LoadEntry { summary, load, .. } = &stored.entry;
        Some(NodeReport { summary: summary.clone(), load: *load, age_ms: stored.age_ms(now_ms) })
    }

    /// Whether node `name` said good-bye in `incarnation`.
    pub(super) fn has_left(&self, name: &NodeName, incarnation: u64) -> bool {
        self.entries.get(name).is_some_and(|stored| stored.entry.leaving && stored.entry.incarnation >= incarnation)
    }

    /// Forgets the entries older than `age_ms` of nodes that `is_member` does not know.
    pub(super) fn forget(&mut self, older_than_ms: u64, now_ms: u64, is_member: impl Fn(&NodeName) -> bool) {
        self.entries.retain(|name, stored| stored.age_ms(now_ms) <= older_than_ms || is_member(name));
    }
}

impl Stored {
    fn age_ms(&self, now_ms: u64) -> u64 {
        u64::try_from(signed(now_ms) - self.made_ms).unwrap_or(0)
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::local_state;

    fn said(name: &str, incarnation: u64, sequence: u32, age_ms: u32) -> LoadEntry {
        let mut local = local_state();
        local.load.nr_running = sequence;
        LoadEntry {
            name: name.parse().unwrap(),
            incarnation,
            sequence,
            age_ms,
            leaving: false,
            summary: local.summary,
            load: local.load,
        }
    }

    fn running(table: &LoadTable, name: &str) -> Option<u32> {
        table.report(&name.parse().unwrap(), 0, 0).map(|report| report.load.nr_running)
    }

    #[test]
    fn the_newer_word_stays_whatever_the_order() {
        let me = "me".parse().unwrap();
        let words = [said("a", 1, 7, 10), said("a", 2, 1, 500), said("a", 1, 9, 0), said("a", 2, 3, 5)];
        for start in 0..words.len() {
            let mut table = LoadTable::default();
            for n in 0..words.len() {
                table.merge(vec![words[(start + n) % words.len()].clone()], &me, 1000);
            }
            assert_eq!(running(&table, "a"), Some(3));
        }
    }

    #[test]
    fn ages_add_up_over_hops() {
        let mut table = LoadTable::default();
        let me = "me".parse().unwrap();
        table.merge(vec![said("a", 1, 1, 300)], &me, 100);
        assert_eq!(table.report(&"a".parse().unwrap(), 1, 1100).unwrap().age_ms, 1300);
        assert_eq!(table.window(&me, 1100).next().unwrap().age_ms, 1300);
        assert!(table.report(&"a".parse().unwrap(), 2, 1100).is_none(), "a word of an earlier life is none");
    }

    #[test]
    fn the_window_is_own_first_then_newest() {
        let mut table = LoadTable::default();
        let me: NodeName = "me".parse().unwrap();
        table.refresh_own(&me, 1, &local_state(), false, 0);
        table.merge(
            vec![said("old", 1, 1, 900), said("new", 1, 1, 10), said("mid", 1, 1, 400), said("me", 9, 9, 0)],
            &me,
            1000,
        );
        let order: Vec<String> = table.window(&me, 1000).map(|entry| entry.name.to_string()).collect();
        assert_eq!(order, ["me", "new", "mid", "old"]);
    }

    #[test]
    fn a_last_word_is_reported_once_and_a_new_life_revokes_it() {
        let mut table = LoadTable::default();
        let (me, a): (NodeName, NodeName) = ("me".parse().unwrap(), "a".parse().unwrap());
        let bye = LoadEntry { leaving: true, ..said("a", 5, 2, 0) };
        assert_eq!(table.merge(vec![bye.clone()], &me, 0), [(a.clone(), 5)]);
        assert_eq!(table.merge(vec![bye], &me, 0), []);
        assert!(table.has_left(&a, 5) && !table.has_left(&a, 6));
        table.merge(vec![said("a", 6, 1, 0)], &me, 0);
        assert!(!table.has_left(&a, 5));
    }

    #[test]
    fn strangers_are_forgotten() {
        let mut table = LoadTable::default();
        let me = "me".parse().unwrap();
        table.merge(vec![said("a", 1, 1, 0), said("b", 1, 1, 0)], &me, 0);
        table.forget(1000, 2000, |name| name.as_str() == "a");
        assert!(running(&table, "a").is_some() && running(&table, "b").is_none());
    }
}
