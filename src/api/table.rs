//! A table that can be watched: rows by key, each with the revision of its last change.
//!
//! ```text
//!   writer: put, remove, replace_all ──> rows ──> page        (lists)
//!                                         │
//!                                         └─> changes_since(r) (watches: what is different now, not each step)
//! ```
//!
//! A watcher asks what changed since the last revision that it saw and gets the rows as they are
//! now. So a slow watcher costs nothing and misses nothing but intermediate states. Removed rows
//! are remembered for the last [`MAX_REMOVED`] removals; who asks for something older has to start
//! anew.
//!
//! Revisions count upwards from the daemon's start time in µs, so that those of a former life are
//! recognised as too old.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use super::ApiError;
use crate::sys::lock::{Mutex, MutexGuard};

/// How many removed rows are remembered for watchers that are behind.
const MAX_REMOVED: usize = 1024;

/// What a table holds.
pub trait Row: PartialEq + Send + Sync + 'static {
    /// Where the row stands in the table; lists come in this order.
    fn key(&self) -> String;
}

/// A table of rows.
pub struct Table<R> {
    state: Mutex<State<R>>,
    revision: watch::Sender<i64>,
}

struct State<R> {
    revision: i64,
    rows: BTreeMap<String, Versioned<R>>,
    /// Removals in order, oldest first.
    removed: VecDeque<Versioned<R>>,
    /// Changes after this revision are all known.
    oldest: i64,
}

struct Versioned<R> {
    revision: i64,
    row: Arc<R>,
}

/// What is different since some revision.
pub struct Changes<R> {
    /// The revision that these changes lead to.
    pub revision: i64,
    /// Rows that are new or different, as they are now.
    pub put: Vec<Arc<R>>,
    /// Rows that are gone, as they were last.
    pub removed: Vec<Arc<R>>,
}

/// Part of a table.
pub struct Page<R> {
    /// The revision at which it was read.
    pub revision: i64,
    /// The rows.
    pub rows: Vec<Arc<R>>,
    /// The key of the last row if there are more after it.
    pub more_after: Option<String>,
}

impl<R: Row> Default for Table<R> {
    fn default() -> Self {
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_micros());
        Self::starting_at(i64::try_from(now_us).unwrap_or(1))
    }
}

impl<R: Row> Table<R> {
    fn starting_at(revision: i64) -> Self {
        let state = State { revision, rows: BTreeMap::new(), removed: VecDeque::new(), oldest: revision };
        Self { state: Mutex::new(state), revision: watch::Sender::new(revision) }
    }

    /// Puts a row in its place. An equal row is no change.
    pub fn put(&self, row: R) {
        self.change(|state, next| state.put(row, next));
    }

    /// Puts a row where there is none with its key.
    pub fn put_new(&self, row: R) {
        self.change(|state, next| !state.rows.contains_key(&row.key()) && state.put(row, next));
    }

    /// Removes the row with this key, if there is one.
    pub fn remove(&self, key: &str) {
        self.change(|state, next| state.remove(key, next));
    }

    /// Makes these the rows, as one change; the rest is removed.
    pub fn replace_all(&self, rows: impl IntoIterator<Item = R>) {
        self.change(|state, next| {
            let rows: BTreeMap<String, R> = rows.into_iter().map(|row| (row.key(), row)).collect();
            let gone: Vec<String> = state.rows.keys().filter(|key| !rows.contains_key(*key)).cloned().collect();
            let mut changed = !gone.is_empty();
            for key in gone {
                state.remove(&key, next);
            }
            for row in rows.into_values() {
                changed |= state.put(row, next);
            }
            changed
        });
    }

    /// The row with this key.
    pub fn get(&self, key: &str) -> Option<Arc<R>> {
        self.lock().rows.get(key).map(|entry| Arc::clone(&entry.row))
    }

    /// All rows, in order.
    pub fn all(&self) -> Vec<Arc<R>> {
        self.lock().rows.values().map(|entry| Arc::clone(&entry.row)).collect()
    }

    /// Up to `limit` of the rows that `wanted` lets through and whose keys come after `after`.
    pub fn page(&self, after: Option<&str>, limit: usize, wanted: impl Fn(&R) -> bool) -> Page<R> {
        let state = self.lock();
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut found =
            state.rows.range::<str, _>((from, std::ops::Bound::Unbounded)).filter(|(_, entry)| wanted(&entry.row));
        let mut page = Page { revision: state.revision, rows: Vec::new(), more_after: None };
        let mut last = None;
        for (key, entry) in found.by_ref().take(limit) {
            page.rows.push(Arc::clone(&entry.row));
            last = Some(key.clone());
        }
        if found.next().is_some() {
            page.more_after = last;
        }
        page
    }

    /// What is different since `revision`; since 0, everything is.
    ///
    /// # Errors
    /// [`ApiError::RevisionCompacted`] if that is too long ago, or never was.
    pub fn changes_since(&self, revision: i64) -> Result<Changes<R>, ApiError> {
        let state = self.lock();
        if revision != 0 && !(state.oldest..=state.revision).contains(&revision) {
            return Err(ApiError::RevisionCompacted { asked: revision, oldest: state.oldest });
        }
        let put =
            state.rows.values().filter(|entry| entry.revision > revision).map(|entry| Arc::clone(&entry.row)).collect();
        let newest_first = state.removed.iter().rev().take_while(|entry| revision != 0 && entry.revision > revision);
        let removed = newest_first.filter(|entry| !state.rows.contains_key(&entry.row.key()));
        Ok(Changes { revision: state.revision, put, removed: removed.map(|entry| Arc::clone(&entry.row)).collect() })
    }

    /// Tells of every new revision.
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut State<R>, i64) -> bool) {
        let mut state = self.lock();
        let next = state.revision + 1;
        if change(&mut state, next) {
            state.revision = next;
            self.revision.send_replace(next);
        }
    }

    /// A panic of another holder leaves the table whole: each change is a few infallible steps.
    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Row> State<R> {
    fn put(&mut self, row: R, revision: i64) -> bool {
        let key = row.key();
        if self.rows.get(&key).is_some_and(|old| *old.row == row) {
            return false;
        }
        self.rows.insert(key, Versioned { revision, row: Arc::new(row) });
        true
    }

    fn remove(&mut self, key: &str, revision: i64) -> bool {
        let Some(old) = self.rows.remove(key) else { return false };
        self.removed.push_back(Versioned { revision, row: old.row });
        if self.removed.len() > MAX_REMOVED
            && let Some(forgotten) = self.removed.pop_front()
        {
            self.oldest = forgotten.revision;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Pair(u8, u8);

    impl Row for Pair {
        fn key(&self) -> String {
            format!("{:03}", self.0)
        }
    }

    #[test]
    fn an_equal_row_is_no_change() {
        let table = Table::starting_at(10);
        table.put(Pair(1, 1));
        table.put(Pair(1, 1));
        table.replace_all([Pair(1, 1)]);
        assert_eq!(*table.subscribe().borrow(), 11);
    }

    #[test]
    fn pages_cover_everything_once() {
        let table = Table::default();
        table.replace_all((0..10).map(|n| Pair(n, n)));
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = table.page(after.as_deref(), 2, |row| row.0 % 2 == 0);
            seen.extend(page.rows.iter().map(|row| row.0));
            after = page.more_after;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, [0, 2, 4, 6, 8]);
    }

    #[test]
    fn what_is_forgotten_or_never_was_cannot_be_resumed() {
        let table = Table::starting_at(1_000_000);
        assert!(table.changes_since(999).is_err(), "a former life");
        assert!(table.changes_since(1_000_001).is_err(), "the future");
        for n in 0..=MAX_REMOVED {
            table.put(Pair((n % 256) as u8, 0));
            table.remove(&Pair((n % 256) as u8, 0).key());
        }
        assert!(table.changes_since(1_000_000).is_err());
        assert_eq!(table.changes_since(1_000_002).unwrap().removed.len(), MAX_REMOVED);
    }

    proptest! {
        /// A watcher that applies the changes now and then always ends up with the table.
        #[test]
        fn a_watcher_follows(steps in proptest::collection::vec((any::<bool>(), 0u8..8, 0u8..4, any::<bool>()), 0..64)) {
            let table = Table::default();
            let mut copy = BTreeMap::new();
            let mut revision = 0;
            for (put, key, value, look) in steps {
                if put { table.put(Pair(key, value)) } else { table.remove(&Pair(key, 0).key()) }
                if look {
                    let changes = table.changes_since(revision).unwrap();
                    for row in &changes.removed { copy.remove(&row.0); }
                    for row in &changes.put { copy.insert(row.0, row.1); }
                    revision = changes.revision;
                    let now: BTreeMap<u8, u8> = table.all().iter().map(|row| (row.0, row.1)).collect();
                    prop_assert_eq!(&copy, &now);
                }
            }
        }
    }
}
