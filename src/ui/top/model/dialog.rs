//! What stands in front of the panes: help, a menu, a question.

use std::collections::BTreeSet;

use crossterm::event::KeyCode;

use super::{Pane, action::Action};
use crate::job::JobId;

/// Rows that a page of a menu has at least.
const PAGE: usize = 10;

/// What stands in front of the panes.
pub enum Dialog {
    /// What the keys do, from this line on.
    Help {
        /// The first line.
        line: usize,
    },
    /// A list to choose from.
    Menu(Menu),
    /// A question before something is done.
    Ask {
        /// The question.
        question: String,
        /// What is done after a yes.
        action: Action,
    },
}

/// What is chosen in a menu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// By which column a list is sorted.
    Sort(Pane),
    /// Which signal a program gets.
    Signal(JobId),
    /// Where a program goes.
    Migrate(JobId),
    /// Where a program may run; several can be marked.
    Allow(JobId),
}

/// A list to choose from. What is typed leaves those items that contain it.
pub struct Menu {
    /// What for.
    pub purpose: Purpose,
    /// What it says above.
    pub title: String,
    /// What there is to choose from.
    pub items: Vec<String>,
    /// Which are marked.
    pub marked: BTreeSet<usize>,
    /// What was typed.
    pub typed: String,
    /// The chosen one, among those shown.
    pub cursor: usize,
}

/// What a key made of a menu.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// It stays.
    Open,
    /// Nothing is to be done.
    Closed,
    /// This item was chosen.
    Chosen(usize),
}

impl Menu {
    /// A menu.
    pub fn new(purpose: Purpose, title: String, items: Vec<String>) -> Self {
        Self { purpose, title, items, marked: BTreeSet::new(), typed: String::new(), cursor: 0 }
    }

    /// Whether several items can be marked.
    pub fn has_marks(&self) -> bool {
        matches!(self.purpose, Purpose::Allow(_))
    }

    /// The items that contain what was typed, by their index.
    pub fn shown(&self) -> impl Iterator<Item = usize> {
        let fits = move |(at, item): (usize, &String)| item.to_lowercase().contains(&self.typed).then_some(at);
        self.items.iter().enumerate().filter_map(fits)
    }

    /// The chosen item.
    pub fn current(&self) -> Option<usize> {
        self.shown().nth(self.cursor)
    }

    /// Takes a key.
    pub fn key(&mut self, code: KeyCode) -> Choice {
        match code {
            KeyCode::Esc => return Choice::Closed,
            KeyCode::Enter => return self.current().map_or(Choice::Open, Choice::Chosen),
            KeyCode::Up => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Down => self.cursor += 1,
            KeyCode::PageUp => self.cursor = self.cursor.saturating_sub(PAGE),
            KeyCode::PageDown => self.cursor += PAGE,
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = usize::MAX,
            KeyCode::Backspace => {
                self.typed.pop();
            }
            KeyCode::Char(' ') if self.has_marks() => {
                if let Some(at) = self.current()
                    && !self.marked.remove(&at)
                {
                    self.marked.insert(at);
                }
            }
            KeyCode::Char(c) => {
                self.typed.extend(c.to_lowercase());
                self.cursor = 0;
            }
            _ => {}
        }
        self.cursor = self.cursor.min(self.shown().count().saturating_sub(1));
        Choice::Open
    }
}
