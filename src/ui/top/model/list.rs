//! A list on the screen: its rows, in which order they are shown, which one is chosen.
//!
//! Rows are put in order only when someone looks, and none is formatted for that: columns give
//! plain values to compare.

use std::{cmp::Ordering, collections::HashMap, hash::Hash};

use super::filter::Filter;

/// What a column says of a row, to sort and filter by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A number.
    Number(f64),
    /// A text.
    Text(&'a str),
}

impl Value<'_> {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

/// What a colour stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing in particular.
    Plain,
    /// As it should be.
    Good,
    /// Much to do, or on its way.
    Busy,
    /// Wrong, or too much to do.
    Bad,
    /// Of little interest now.
    Quiet,
}

/// How wide a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// So many cells.
    Cells(u16),
    /// As wide as the names of nodes.
    Node,
    /// From the first number of cells to the second, as there is room.
    Room(u16, u16),
    /// The same, and what is too long loses its beginning: the end of a path says most.
    Tail(u16, u16),
}

/// A column.
pub struct Column<R: 'static> {
    /// Its title; in lower case what filters call it.
    pub title: &'static str,
    /// Columns of a higher rank give way first where the screen is narrow.
    pub rank: u8,
    /// How wide it is.
    pub width: Width,
    /// What it says of a row, at a time in ms since the epoch.
    pub value: fn(&R, u64) -> Value<'_>,
    /// What its colour says.
    pub meaning: fn(&R) -> Meaning,
    /// Whether it is aligned to the left though it holds figures.
    pub is_left_aligned: bool,
    /// Whether it shows which rows stand below others in the tree view.
    pub is_branching: bool,
    text: Option<fn(&R, u64) -> String>,
}

impl<R> Column<R> {
    /// A column that shows its values as they are.
    pub const fn new(title: &'static str, rank: u8, width: Width, value: fn(&R, u64) -> Value<'_>) -> Self {
        let meaning = |_: &R| Meaning::Plain;
        Self { title, rank, width, value, meaning, is_left_aligned: false, is_branching: false, text: None }
    }

    /// Shows its values as such a text.
    pub const fn shown(self, text: fn(&R, u64) -> String) -> Self {
        Self { text: Some(text), ..self }
    }

    /// Gives them such colours.
    pub const fn coloured(self, meaning: fn(&R) -> Meaning) -> Self {
        Self { meaning, ..self }
    }

    /// Aligns it to the left though it holds figures: bars, and ages that begin with a sign.
    pub const fn left_aligned(self) -> Self {
        Self { is_left_aligned: true, ..self }
    }

    /// Shows which rows stand below others.
    pub const fn branching(self) -> Self {
        Self { is_branching: true, ..self }
    }

    /// What a row's cell shows.
    pub fn text(&self, row: &R, now_ms: u64) -> String {
        match (self.text, (self.value)(row, now_ms)) {
            (Some(text), _) => text(row, now_ms),
            (None, Value::Text(text)) => text.to_owned(),
            (None, Value::Number(number)) => number.to_string(),
        }
    }

    /// Whether it holds figures, which are aligned to the right and sorted from the greatest.
    pub fn is_figure(&self, row: Option<&R>) -> bool {
        row.is_some_and(|row| matches!((self.value)(row, 0), Value::Number(_)))
    }
}

/// A row of a list.
pub trait Listed: Sized + 'static {
    /// What names a row as long as it is there.
    type Key: Clone + Eq + Hash;
    /// Its columns.
    const COLUMNS: &'static [Column<Self>];
    /// The name of this row.
    fn key(&self) -> Self::Key;
    /// The row below which this one stands in the tree view.
    fn parent(&self) -> Option<Self::Key> {
        None
    }
}

/// What came of the rows of a list.
#[derive(Clone, Debug, Default)]
pub struct Batch<R, K> {
    /// These are all rows; what was there before is gone.
    pub whole: bool,
    /// New or changed.
    pub put: Vec<R>,
    /// Gone.
    pub deleted: Vec<K>,
}

/// By what a list is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// Index of the column.
    pub column: usize,
    /// From the greatest to the least.
    pub descending: bool,
}

/// Where a row stands in the list.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    row: usize,
    /// Whether it stands below another one in the tree view.
    pub is_child: bool,
}

/// A list.
pub struct List<R: Listed> {
    rows: Vec<R>,
    index: HashMap<R::Key, usize>,
    order: Vec<Place>,
    is_arranged: bool,
    sort: Sort,
    tree: bool,
    filter: Filter,
    now_ms: u64,
    selected: Option<R::Key>,
    /// Where the chosen row was last, so that its neighbour is chosen when it goes.
    position: usize,
    offset: usize,
}

impl<R: Listed> List<R> {
    /// An empty list.
    pub fn new(sort: Sort) -> Self {
        Self {
            rows: Vec::new(),
            index: HashMap::new(),
            order: Vec::new(),
            is_arranged: true,
            sort,
            tree: false,
            filter: Filter::default(),
            now_ms: 0,
            selected: None,
            position: 0,
            offset: 0,
        }
    }

    /// How many rows there are, shown or not.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// All rows, in no order.
    pub fn all(&self) -> impl Iterator<Item = &R> {
        self.rows.iter()
    }

    /// The same, to change what does not name them.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut R> {
        self.is_arranged = false;
        self.rows.iter_mut()
    }

    /// A row.
    pub fn get(&self, key: &R::Key) -> Option<&R> {
        self.index.get(key).and_then(|at| self.rows.get(*at))
    }

    /// Adds a row, or puts it in place of the one with its name.
    pub fn put(&mut self, row: R) {
        self.is_arranged = false;
        let key = row.key();
        match self.index.get(&key).and_then(|at| self.rows.get_mut(*at)) {
            Some(old) => *old = row,
            None => {
                self.index.insert(key, self.rows.len());
                self.rows.push(row);
            }
        }
    }

    /// Removes a row.
    pub fn remove(&mut self, key: &R::Key) {
        let Some(at) = self.index.remove(key) else { return };
        self.is_arranged = false;
        self.rows.swap_remove(at);
        if let Some(moved) = self.rows.get(at) {
            self.index.insert(moved.key(), at);
        }
    }

    /// Removes all rows but those that `is_kept` says.
    pub fn retain(&mut self, is_kept: impl Fn(&R::Key) -> bool) {
        let gone: Vec<R::Key> = self.index.keys().filter(|key| !is_kept(key)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    /// By what it is sorted.
    pub fn sort(&self) -> Sort {
        self.sort
    }

    /// Sorts it otherwise.
    pub fn set_sort(&mut self, sort: Sort) {
        self.sort = Sort { column: sort.column.min(R::COLUMNS.len().saturating_sub(1)), ..sort };
        self.is_arranged = false;
    }

    /// Sorts it by a column, in the other direction if it was sorted by that.
    pub fn sort_by(&mut self, column: usize) {
        let descending = match R::COLUMNS.get(column) {
            _ if column == self.sort.column => !self.sort.descending,
            Some(title) => title.is_figure(self.rows.first()),
            None => return,
        };
        self.set_sort(Sort { column, descending });
    }

    /// Whether it is shown as a tree.
    pub fn is_tree(&self) -> bool {
        self.tree
    }

    /// Shows it as a tree, or flat.
    pub fn set_tree(&mut self, tree: bool) {
        self.tree = tree;
        self.is_arranged = false;
    }

    /// What is shown of it.
    pub fn filter(&self) -> &str {
        self.filter.text()
    }

    /// Shows other rows of it.
    pub fn set_filter(&mut self, text: &str) {
        self.filter = Filter::new(text);
        self.is_arranged = false;
    }

    /// It is so late, in ms since the epoch: what depends on that changes too.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.is_arranged &= self.filter.text().is_empty();
    }

    /// Puts the rows in order, if something has changed since.
    pub fn arrange(&mut self) {
        if self.is_arranged {
            return;
        }
        self.is_arranged = true;
        let (rows, now_ms, Sort { column, descending }) = (&self.rows, self.now_ms, self.sort);
        let mut shown: Vec<usize> = (0..rows.len()).filter(|at| self.filter.shows(&rows[*at], now_ms)).collect();
        if let Some(column) = R::COLUMNS.get(column) {
            // Equal rows stay in the order in which they came, which is that of their names.
            shown.sort_by(|a, b| {
                let (a, b) = ((column.value)(&rows[*a], now_ms), (column.value)(&rows[*b], now_ms));
                if descending { b.compare(&a) } else { a.compare(&b) }
            });
        }
        self.order = if self.tree { self.as_tree(&shown) } else { flat(shown) };
        let at = self.selected.as_ref().and_then(|key| self.position_of(key));
        self.position = at.unwrap_or(self.position).min(self.order.len().saturating_sub(1));
        if at.is_none() {
            self.selected = self.row(self.position).map(Listed::key);
        }
    }

    /// Rows below the one that they belong to, if that is shown.
    fn as_tree(&self, shown: &[usize]) -> Vec<Place> {
        let mut is_shown = vec![false; self.rows.len()];
        shown.iter().for_each(|at| is_shown[*at] = true);
        let parent = |at: &usize| {
            let parent = self.rows.get(*at)?.parent()?;
            self.index.get(&parent).copied().filter(|parent| is_shown[*parent] && parent != at)
        };
        let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
        for at in shown {
            if let Some(parent) = parent(at) {
                children.entry(parent).or_default().push(*at);
            }
        }
        let mut order = Vec::with_capacity(shown.len());
        for at in shown.iter().filter(|at| parent(at).is_none()) {
            order.push(Place { row: *at, is_child: false });
            let below = children.remove(at).unwrap_or_default();
            order.extend(below.into_iter().map(|row| Place { row, is_child: true }));
        }
        order
    }

    fn position_of(&self, key: &R::Key) -> Option<usize> {
        let at = self.index.get(key)?;
        self.order.iter().position(|place| place.row == *at)
    }

    fn row(&self, position: usize) -> Option<&R> {
        self.order.get(position).and_then(|place| self.rows.get(place.row))
    }

    /// How many rows are shown.
    pub fn shown(&self) -> usize {
        self.order.len()
    }

    /// The chosen row.
    pub fn selected(&self) -> Option<&R> {
        self.selected.as_ref().and_then(|key| self.get(key))
    }

    /// Chooses a row by its name, and shows it.
    pub fn select(&mut self, key: &R::Key, height: usize) {
        self.arrange();
        if let Some(position) = self.position_of(key) {
            self.select_at(position, height);
        }
    }

    /// Chooses another row, so many down, and shows it.
    pub fn step(&mut self, rows: isize, height: usize) {
        self.arrange();
        self.select_at(self.position.saturating_add_signed(rows), height);
    }

    /// Chooses the row at a line of the screen.
    pub fn select_line(&mut self, line: usize, height: usize) {
        self.arrange();
        if self.offset + line < self.order.len() {
            self.select_at(self.offset + line, height);
        }
    }

    fn select_at(&mut self, position: usize, height: usize) {
        self.position = position.min(self.order.len().saturating_sub(1));
        self.selected = self.row(self.position).map(Listed::key);
        self.show_selected(height);
    }

    /// Scrolls so that the chosen row is on the screen.
    pub fn show_selected(&mut self, height: usize) {
        self.offset = self.offset.clamp((self.position + 1).saturating_sub(height.max(1)), self.position);
    }

    /// Scrolls without choosing.
    pub fn scroll(&mut self, rows: isize, height: usize) {
        self.arrange();
        self.offset = self.offset.saturating_add_signed(rows).min(self.order.len().saturating_sub(height.max(1)));
    }

    /// The rows on a screen so many lines high: where each stands, the row, whether it is chosen.
    pub fn on_screen(&self, height: usize) -> impl Iterator<Item = (Place, &R, bool)> {
        let offset = self.offset.min(self.order.len().saturating_sub(height.max(1)));
        let places = self.order.iter().enumerate().skip(offset).take(height);
        places.filter_map(move |(at, place)| {
            Some((*place, self.rows.get(place.row)?, at == self.position && self.selected.is_some()))
        })
    }

    /// The first shown row on the screen, counted from 1.
    pub fn first_on_screen(&self, height: usize) -> usize {
        self.offset.min(self.order.len().saturating_sub(height.max(1))) + 1
    }
}

fn flat(shown: Vec<usize>) -> Vec<Place> {
    shown.into_iter().map(|row| Place { row, is_child: false }).collect()
}
