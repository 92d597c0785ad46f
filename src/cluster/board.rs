//! The bulletin board of MOSIX's gossip: what each node last said of itself, as far as one node has
//! heard.
//!
//! Of two words of a node, the one with the higher version counts, and of two copies of one word
//! the one that claims the higher age: no copy can be older than it claims, but for its time on the
//! way. So boards that have heard the same are the same, in whatever order it came.
//!
//! Generic over what names a node and what it says, so that the simulator runs this very code with
//! neither names nor loads.

use std::{cmp::Reverse, collections::HashMap, hash::Hash};

/// Which word of a node it is: first by the life in which it was said, then by its number in that
/// life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Of the node id under which it was said.
    pub incarnation: u64,
    /// Counts what a node says.
    pub sequence: u32,
}

/// A node's word on itself, as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<K, T> {
    /// Whose word it is.
    pub node: K,
    /// Which of its words.
    pub version: Version,
    /// How long ago it was said, in milliseconds: never less than none, by its type. Times travel
    /// as ages, so clocks need not agree.
    pub age_ms: u32,
    /// What it said.
    pub said: T,
}

/// The board of one node. Times are milliseconds of any clock that only goes forward.
pub struct Board<K, T> {
    /// This node's own word first; never empty.
    words: Vec<Word<K, T>>,
    /// When each of `words` was said, by this node's clock: may lie before the clock's zero, never
    /// in the future. Apart, because looking for the newest goes through all.
    said_ms: Vec<i64>,
    /// Where each node's word is.
    places: HashMap<K, u32>,
    most: usize,
}

struct Word<K, T> {
    node: K,
    version: Version,
    said: T,
}

impl<K: Clone + Eq + Hash, T: Clone> Board<K, T> {
    /// The board of node `me`, which says `said`; it remembers what at most `most` other nodes say.
    pub fn new(me: K, incarnation: u64, said: T, most: usize, now_ms: u64) -> Self {
        let places = HashMap::from([(me.clone(), 0)]);
        let version = Version { incarnation, sequence: 1 };
        Self { words: vec![Word { node: me, version, said }], said_ms: vec![signed(now_ms)], places, most }
    }

    /// Replaces this node's own word by one that is said now.
    pub fn say(&mut self, incarnation: u64, said: T, now_ms: u64) {
        if let (Some(own), Some(said_ms)) = (self.words.first_mut(), self.said_ms.first_mut()) {
            own.version = Version { incarnation, sequence: own.version.sequence.wrapping_add(1) };
            own.said = said;
            *said_ms = signed(now_ms);
        }
    }

    /// Takes a word that came from another node; gives back whether it was news.
    pub fn take(&mut self, entry: Entry<K, T>, now_ms: u64) -> bool {
        let Entry { node, version, age_ms, said } = entry;
        let said_ms = signed(now_ms) - i64::from(age_ms);
        match self.places.get(&node).map(|place| *place as usize) {
            // No other node knows better what it says.
            Some(0) => false,
            Some(place) => {
                let (Some(word), Some(time)) = (self.words.get_mut(place), self.said_ms.get_mut(place)) else {
                    return false;
                };
                let is_newer = version > word.version;
                if is_newer {
                    (word.version, word.said, *time) = (version, said, said_ms);
                } else if version == word.version {
                    *time = said_ms.min(*time);
                }
                is_newer
            }
            None => {
                let Some(place) = u32::try_from(self.words.len()).ok().filter(|_| self.words.len() <= self.most) else {
                    return false;
                };
                self.places.insert(node.clone(), place);
                self.words.push(Word { node, version, said });
                self.said_ms.push(said_ms);
                true
            }
        }
    }

    /// What to send: at most `size` words, this node's own in front, then the newest, newest first;
    /// their ages as of now.
    pub fn window(&self, size: usize, now_ms: u64) -> Vec<Entry<K, T>> {
        let others = newest(self.said_ms.get(1..).unwrap_or_default(), size.saturating_sub(1));
        let places = std::iter::once(0).chain(others.map(|place| place + 1)).take(size);
        places.filter_map(|place| self.entry(place, now_ms)).map(Entry::cloned).collect()
    }

    /// All words, this node's own in front.
    pub fn entries(&self, now_ms: u64) -> impl Iterator<Item = Entry<&K, &T>> {
        (0..self.words.len()).filter_map(move |place| self.entry(place, now_ms))
    }

    /// The last word of `node`; `None` if it was not heard of.
    pub fn get(&self, node: &K, now_ms: u64) -> Option<Entry<&K, &T>> {
        self.entry(*self.places.get(node)? as usize, now_ms)
    }

    /// How old the words of the other nodes are, in milliseconds.
    pub fn ages_ms(&self, now_ms: u64) -> impl Iterator<Item = u32> {
        self.said_ms.iter().skip(1).map(move |said_ms| age_ms(*said_ms, now_ms))
    }

    /// Forgets the words older than `older_than_ms` of other nodes that `is_member` does not know.
    pub fn forget(&mut self, older_than_ms: u64, now_ms: u64, is_member: impl Fn(&K) -> bool) {
        let is_kept: Vec<bool> = (self.words.iter().zip(&self.said_ms).enumerate())
            .map(|(place, (word, said_ms))| {
                place == 0 || u64::from(age_ms(*said_ms, now_ms)) <= older_than_ms || is_member(&word.node)
            })
            .collect();
        if is_kept.contains(&false) {
            let (mut words, mut times) = (is_kept.iter(), is_kept.iter());
            self.words.retain(|_| words.next() == Some(&true));
            self.said_ms.retain(|_| times.next() == Some(&true));
            self.places = self.words.iter().map(|word| word.node.clone()).zip(0..).collect();
        }
    }

    fn entry(&self, place: usize, now_ms: u64) -> Option<Entry<&K, &T>> {
        let (Word { node, version, said }, said_ms) = (self.words.get(place)?, *self.said_ms.get(place)?);
        Some(Entry { node, version: *version, age_ms: age_ms(said_ms, now_ms), said })
    }
}

impl<K: Clone, T: Clone> Entry<&K, &T> {
    /// The entry by itself.
    fn cloned(self) -> Entry<K, T> {
        Entry { node: self.node.clone(), version: self.version, age_ms: self.age_ms, said: self.said.clone() }
    }
}

/// The places of the `most` latest times, latest first. Boards are long and windows short: each
/// time is looked at once, some candidates are kept, and only what is given back is sorted.
fn newest(times_ms: &[i64], most: usize) -> impl Iterator<Item = usize> {
    type Candidates = Vec<(Reverse<i64>, usize)>;
    let keep = |candidates: &mut Candidates| {
        if most > 0 && candidates.len() > most {
            candidates.select_nth_unstable(most - 1);
        }
        candidates.truncate(most);
    };
    let mut candidates = Candidates::new();
    // Who is no later than the earliest of so many candidates is none.
    let mut too_early_ms = if most > 0 { i64::MIN } else { i64::MAX };
    for (place, time_ms) in times_ms.iter().enumerate() {
        if *time_ms > too_early_ms {
            candidates.push((Reverse(*time_ms), place));
            if candidates.len() >= 2 * most {
                keep(&mut candidates);
                too_early_ms = candidates.last().map_or(i64::MAX, |(time_ms, _)| time_ms.0);
            }
        }
    }
    keep(&mut candidates);
    candidates.sort_unstable();
    candidates.into_iter().map(|(_, place)| place)
}

fn age_ms(said_ms: i64, now_ms: u64) -> u32 {
    u32::try_from(signed(now_ms).saturating_sub(said_ms).max(0)).unwrap_or(u32::MAX)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ME: u8 = 0;

    fn entry(node: u8, incarnation: u64, sequence: u32, age_ms: u32) -> Entry<u8, u32> {
        Entry { node, version: Version { incarnation, sequence }, age_ms, said: sequence }
    }

    fn board() -> Board<u8, u32> {
        Board::new(ME, 1, 77, 16_384, 0)
    }

    /// Words of few nodes and few versions, so that they compete.
    fn any_entry() -> impl Strategy<Value = Entry<u8, u32>> {
        // One word says one thing, no matter which node passes it on.
        (0..40_u8, 0..3_u64, 0..4_u32, prop_oneof![0..5000_u32, any::<u32>()])
            .prop_map(|(node, incarnation, sequence, age_ms)| entry(node, incarnation, sequence, age_ms))
    }

    fn contents(board: &Board<u8, u32>, now_ms: u64) -> Vec<Entry<u8, u32>> {
        (0..=u8::MAX).filter_map(|node| board.get(&node, now_ms)).map(Entry::cloned).collect()
    }

    proptest! {
        #[test]
        fn in_whatever_order_words_come_the_newest_stays(
            (entries, shuffled) in prop::collection::vec(any_entry(), 0..200)
                .prop_flat_map(|entries| (Just(entries.clone()), Just(entries).prop_shuffle())),
        ) {
            let (mut one, mut other) = (board(), board());
            for entry in &entries {
                one.take(entry.clone(), 100);
            }
            for entry in shuffled.iter().chain(&entries) {
                other.take(entry.clone(), 100);
            }
            prop_assert_eq!(contents(&one, 200), contents(&other, 200));
            for node in 1..40 {
                let newest = entries.iter().filter(|entry| entry.node == node).map(|entry| entry.version).max();
                prop_assert_eq!(one.get(&node, 200).map(|entry| entry.version), newest);
            }
        }

        #[test]
        fn a_window_is_own_first_then_the_newest(
            entries in prop::collection::vec(any_entry(), 0..200), size in 0..50_usize, said_ms in 0..9000_u64, later_ms in 0..9000_u64,
        ) {
            let mut board = board();
            for entry in entries {
                board.take(entry, said_ms);
            }
            board.say(1, 78, said_ms);
            let now_ms = said_ms + later_ms;
            let window = board.window(size, now_ms);
            // The plain way: sort all.
            let mut ages: Vec<u32> = board.ages_ms(now_ms).collect();
            ages.sort_unstable();
            prop_assert_eq!(window.len(), size.min(ages.len() + 1));
            if let Some((own, others)) = window.split_first() {
                prop_assert_eq!((own.node, own.said, u64::from(own.age_ms)), (ME, 78, later_ms));
                prop_assert!(others.iter().map(|entry| &entry.age_ms).eq(ages.iter().take(size - 1)));
                prop_assert!(others.iter().all(|entry| entry.node != ME && u64::from(entry.age_ms) >= later_ms));
            }
        }
    }

    #[test]
    fn ages_add_up_over_hops_and_are_never_negative() {
        let mut board = board();
        board.take(entry(1, 1, 1, 300), 100);
        assert_eq!(board.get(&1, 1100).unwrap().age_ms, 1300);
        // A clock that goes back, against the promise.
        assert_eq!(board.get(&1, 0).unwrap().age_ms, 200);
        board.take(entry(2, 1, 1, 0), 5000);
        assert_eq!((board.get(&2, 0).unwrap().age_ms, board.window(3, 0).len()), (0, 3));
        board.take(entry(3, 1, 1, u32::MAX), u64::MAX);
        assert_eq!(board.get(&3, u64::MAX).unwrap().age_ms, u32::MAX);
    }

    #[test]
    fn a_copy_that_claims_a_newer_age_is_ignored() {
        let mut board = board();
        assert!(board.take(entry(1, 1, 5, 300), 1000));
        assert!(!board.take(entry(1, 1, 5, 0), 1000));
        assert!(!board.take(entry(1, 1, 4, 0), 1000));
        assert_eq!(board.get(&1, 1000).unwrap().age_ms, 300);
        assert!(!board.take(entry(1, 1, 5, 400), 1000));
        assert_eq!(board.get(&1, 1000).unwrap().age_ms, 400);
    }

    #[test]
    fn entries_about_this_node_and_strangers_are_ignored() {
        let mut board = board();
        assert!(!board.take(entry(ME, 9, 9, 0), 0));
        assert_eq!(board.get(&ME, 0).unwrap().said, &77);
        for node in 1..5 {
            board.take(entry(node, 1, u32::from(node), 0), 0);
        }
        board.forget(1000, 2000, |node| *node == 3);
        assert_eq!(contents(&board, 2000).iter().map(|entry| entry.node).collect::<Vec<_>>(), [ME, 3]);
        assert!(board.take(entry(4, 1, 1, 0), 2000) && board.take(entry(3, 1, 9, 0), 2000));
        assert_eq!([3, 4].map(|node| *board.get(&node, 2000).unwrap().said), [9, 1]);
    }

    #[test]
    fn a_full_board_takes_news_of_those_it_knows_only() {
        let mut board: Board<u8, u32> = Board::new(ME, 1, 0, 2, 0);
        let taken: Vec<bool> = (1..5).map(|node| board.take(entry(node, 1, 1, 0), 0)).collect();
        assert_eq!(taken, [true, true, false, false]);
        assert!(board.take(entry(2, 1, 2, 0), 0));
    }
}
