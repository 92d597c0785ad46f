//! All that the monitor knows, and what each event makes of it. Pure: no clock, no I/O.
//!
//! ```text
//!   streams of the API ─┐
//!   keys, mouse, size  ─┼─► Event ─► Model::update ─► Effect ─► actions and questions to the API
//!   answers, time      ─┘                │
//!                                        └─► screen
//! ```

pub mod action;
pub mod dialog;
mod figures;
mod filter;
mod keys;
pub mod list;
mod mouse;
mod orders;
pub mod rows;
mod why;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use crossterm::event::{KeyEvent, MouseEvent};
use ratatui::layout::Rect;

use super::{layout::Layout, settings::Settings};
use crate::{
    api::view::{MigrationSummary, NodeSummary, PlacementReasons, ProcessSummary},
    job::{JobId, SessionId},
};
use action::Action;
use dialog::Dialog;
use list::{Batch, List, Listed, Sort};
use rows::{Move, Node, Program};
use why::Why;

pub use keys::BINDINGS;

/// How long the outcome of an action is shown.
const MESSAGE_MS: u64 = 15_000;
/// The widest column of nodes' names.
const MOST_NODE_CELLS: usize = 16;

/// A part of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pane {
    /// The machines.
    Nodes,
    /// What `run` started.
    Programs,
    /// The last decision about the chosen program.
    Why,
    /// Moves under way and ended.
    Moves,
}

/// The panes in their order on the screen.
pub const PANES: [Pane; 4] = [Pane::Nodes, Pane::Programs, Pane::Why, Pane::Moves];

/// How it stands with one stream of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It was not heard of yet.
    Opening,
    /// It brings what changes.
    Live,
    /// It broke.
    Lost {
        /// Why, one sentence.
        why: String,
        /// After which time the next attempt is made, in seconds.
        retry_s: u64,
    },
}

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// A key.
    Key(KeyEvent),
    /// The mouse.
    Mouse(MouseEvent),
    /// The screen has this size.
    Resized(u16, u16),
    /// It is so late, in ms since the epoch; comes every second.
    Time(u64),
    /// Nodes changed.
    Nodes(Batch<NodeSummary, String>),
    /// Programs changed.
    Programs(Batch<ProcessSummary, JobId>),
    /// Moves changed.
    Moves(Batch<MigrationSummary, SessionId>),
    /// How it stands with the stream that fills this pane.
    Link(Pane, Link),
    /// Placement's reasons for where a program is.
    Reasons(JobId, Result<PlacementReasons, String>),
    /// What came of an action, one sentence.
    Done(Result<String, String>),
}

/// What is to be done outside.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Do this; answered by [`Event::Done`].
    Act(Action),
    /// Ask why a program is where it is; answered by [`Event::Reasons`].
    AskWhy(JobId),
    /// Stop until the shell continues this process.
    Suspend,
    /// End.
    Quit,
}

/// What may be done from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Nothing may be changed.
    pub read_only: bool,
    /// The daemon asked is this machine's own.
    pub is_local: bool,
    /// There is a certificate with which other nodes can be asked too.
    pub has_credentials: bool,
}

/// All that the monitor knows.
pub struct Model {
    /// The machines.
    pub nodes: List<Node>,
    /// The programs.
    pub programs: List<Program>,
    /// The moves.
    pub moves: List<Move>,
    /// The last decision about the chosen program.
    pub why: Why,
    /// The pane that has the keyboard.
    pub focus: Pane,
    /// Which of *why* and *moves* is shown if there is room for one.
    pub lower: Pane,
    /// Whether one pane fills the screen.
    pub zoomed: bool,
    /// The program that stays in view.
    pub followed: Option<JobId>,
    /// What stands in front.
    pub dialog: Option<Dialog>,
    /// The filter is being typed; what it was before.
    pub typing: Option<String>,
    /// What came of the last action.
    pub message: Option<Result<String, String>>,
    /// The time, in ms since the epoch.
    pub now_ms: u64,
    /// What may be done from here.
    pub rights: Rights,
    /// The node that is asked.
    pub local: Option<String>,
    links: HashMap<Pane, Link>,
    size: Rect,
    node_cells: u16,
    message_until_ms: u64,
    /// How long placement expected a program to stand still on its way to a node, in µs.
    expected_us: HashMap<JobId, HashMap<String, u64>>,
}

impl Model {
    /// Nothing is known yet.
    pub fn new(settings: &Settings, rights: Rights) -> Self {
        let mut model = Self {
            nodes: List::new(Sort { column: 0, descending: false }),
            programs: List::new(Sort { column: 0, descending: false }),
            moves: List::new(Sort { column: 0, descending: false }),
            why: Why::default(),
            focus: Pane::Programs,
            lower: Pane::Why,
            zoomed: false,
            followed: None,
            dialog: None,
            typing: None,
            message: None,
            now_ms: 0,
            rights,
            local: None,
            links: [Pane::Nodes, Pane::Programs, Pane::Moves].map(|pane| (pane, Link::Opening)).into(),
            size: Rect::default(),
            node_cells: 5,
            message_until_ms: 0,
            expected_us: HashMap::new(),
        };
        settings.apply(&mut model);
        model
    }

    /// Takes an event; returns what is to be done.
    pub fn update(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Key(key) => effects = self.key(key),
            Event::Mouse(mouse) => self.mouse(mouse),
            Event::Resized(width, height) => self.resize(Rect { width, height, ..Rect::default() }),
            Event::Time(now_ms) => self.time(now_ms),
            Event::Nodes(batch) => self.nodes(batch),
            Event::Programs(batch) => self.programs(batch),
            Event::Moves(batch) => self.moves(batch),
            Event::Link(pane, link) => {
                self.links.insert(pane, link);
            }
            Event::Reasons(program, reasons) => self.reasons(&program, reasons),
            Event::Done(outcome) => self.say(outcome),
        }
        let chosen = self.chosen().map(Listed::key);
        effects.extend(self.why.turn_to(chosen.as_ref(), self.now_ms).map(Effect::AskWhy));
        effects
    }

    /// The screen is that large.
    pub fn resize(&mut self, size: Rect) {
        self.size = size;
    }

    /// The screen as it is laid out now.
    pub fn layout(&self) -> Layout {
        Layout::new(self.size, self.focus, self.lower, self.zoomed, self.nodes.count())
    }

    /// Cells that names of nodes take.
    pub fn node_cells(&self) -> u16 {
        self.node_cells
    }

    /// What keeps the monitor from knowing how it is now.
    pub fn trouble(&self) -> Option<&Link> {
        let links = || PANES.iter().filter_map(|pane| self.links.get(pane));
        links().find(|link| matches!(link, Link::Lost { .. })).or_else(|| links().find(|link| **link == Link::Opening))
    }

    /// The program that keys act upon: the chosen one, or the one of the chosen move.
    pub fn chosen(&self) -> Option<&Program> {
        let of_move = || self.programs.get(&self.moves.selected()?.row.process);
        if self.focus == Pane::Moves { of_move() } else { self.programs.selected() }
    }

    /// Puts all lists in order before they are looked at.
    pub fn arrange(&mut self) {
        self.nodes.arrange();
        self.programs.arrange();
        self.moves.arrange();
        if let Some(followed) = self.followed.clone() {
            let rows = self.layout().rows(Pane::Programs);
            self.programs.select(&followed, rows);
        }
    }

    fn time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.nodes.all_mut().for_each(Node::sample);
        self.nodes.set_now(now_ms);
        self.programs.set_now(now_ms);
        self.moves.set_now(now_ms);
        if now_ms >= self.message_until_ms {
            self.message = None;
        }
    }

    fn say(&mut self, message: Result<String, String>) {
        self.message = Some(message);
        self.message_until_ms = self.now_ms + MESSAGE_MS;
    }

    fn nodes(&mut self, batch: Batch<NodeSummary, String>) {
        let whole = whole(&batch, |node| node.node.clone());
        for row in batch.put {
            if row.local {
                self.local = Some(row.node.clone());
            }
            let before = self.nodes.get(&row.node);
            let node = Node::new(row, before);
            self.nodes.put(node);
        }
        batch.deleted.iter().for_each(|node| self.nodes.remove(node));
        if let Some(whole) = whole {
            self.nodes.retain(|node| whole.contains(node));
        }
        let longest = self.nodes.all().map(|node| node.row.node.len()).max().unwrap_or_default();
        // A star at the node that is asked.
        self.node_cells = (longest + 1).clamp(4, MOST_NODE_CELLS) as u16;
        self.count_out();
    }

    fn programs(&mut self, batch: Batch<ProcessSummary, JobId>) {
        let whole = whole(&batch, ProcessSummary::name);
        for row in batch.put {
            self.programs.put(Program::new(row));
        }
        batch.deleted.iter().for_each(|program| self.programs.remove(program));
        if let Some(whole) = whole {
            self.programs.retain(|program| whole.contains(program));
        }
        self.expected_us.retain(|program, _| self.programs.get(program).is_some());
        if let Some(followed) = self.followed.take_if(|followed| self.programs.get(followed).is_none()) {
            self.say(Ok(format!("{followed} has ended")));
        }
        self.count_out();
    }

    /// How many programs of the node that is asked run elsewhere; of other nodes' it knows only its
    /// own guests.
    fn count_out(&mut self) {
        let Some(local) = self.local.clone() else { return };
        let is_out = |program: &&Program| program.row.home == local && program.is_away();
        let out = self.programs.all().filter(is_out).count();
        let nodes = self.nodes.all_mut();
        nodes.filter(|node| node.row.local).for_each(|node| node.out = Some(out));
    }

    fn moves(&mut self, batch: Batch<MigrationSummary, SessionId>) {
        let whole = whole(&batch, |step| step.id);
        for row in batch.put {
            let size_bytes = self.programs.get(&row.process).map(|program| program.row.usage.resident_bytes);
            let expected_us = self.expected_us.get(&row.process).and_then(|to| to.get(&row.target)).copied();
            let before = self.moves.get(&row.id);
            let expected_us = before.and_then(|step| step.expected_us).or(expected_us);
            let size_bytes = before.and_then(|step| step.size_bytes).or(size_bytes);
            self.moves.put(Move::new(row, size_bytes, expected_us));
        }
        batch.deleted.iter().for_each(|step| self.moves.remove(step));
        if let Some(whole) = whole {
            self.moves.retain(|step| whole.contains(step));
        }
    }

    fn reasons(&mut self, program: &JobId, reasons: Result<PlacementReasons, String>) {
        self.why.answered(program, reasons);
        let Some(Ok(reasons)) = &self.why.reasons else { return };
        let expected = reasons.candidates.iter();
        let expected: HashMap<String, u64> =
            expected.filter_map(|of| Some((of.node.clone(), self.why.expected_us(&of.node)?))).collect();
        // While it moves nothing is compared: what was expected before holds.
        if !expected.is_empty() && self.programs.get(program).is_some() {
            self.expected_us.insert(program.clone(), expected);
        }
    }
}

/// The names of all rows, if these are all.
fn whole<R, K: Eq + std::hash::Hash>(batch: &Batch<R, K>, key: impl Fn(&R) -> K) -> Option<HashSet<K>> {
    batch.whole.then(|| batch.put.iter().map(key).collect())
}
