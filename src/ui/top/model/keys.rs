//! What the keys do.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    Effect, Model, PANES, Pane,
    dialog::{Choice, Dialog, Menu, Purpose},
    list::{Column, List, Listed},
};

/// A line of the help.
pub struct Binding {
    /// The keys.
    pub keys: &'static str,
    /// What they do.
    pub what: &'static str,
    /// It changes something, and is not there with `--read-only`.
    pub changes: bool,
}

const fn shows(keys: &'static str, what: &'static str) -> Binding {
    Binding { keys, what, changes: false }
}

const fn changes(keys: &'static str, what: &'static str) -> Binding {
    Binding { keys, what, changes: true }
}

/// What the help lists.
pub static BINDINGS: [Binding; 23] = [
    shows("Tab Shift-Tab 1 2 3 4", "go to the next, the previous, the 1st … 4th pane"),
    shows("↑ ↓ PgUp PgDn Home End", "choose a row; in `why` scroll"),
    shows("Enter", "nodes: the programs that run there; programs: why, on the whole screen; moves: that program"),
    shows("z", "one pane on the whole screen, or all"),
    shows("/ F4", "filter: words, column:word, column=word, column>n, column<n (n may end in K, M, G); all must hold"),
    shows("Esc", "end a filter, a dialog, following, the whole screen"),
    shows("F6", "choose the column to sort by; the same again, or I: the other direction"),
    shows("P M", "sort programs by CPU%, by MEM%"),
    shows("t F5", "programs as a tree: what came of what a user started"),
    shows("F", "follow the chosen program: it stays in view"),
    shows("mouse", "choose a row or a column to sort by; the wheel scrolls"),
    shows("? F1", "this help"),
    shows("Ctrl-Z", "suspend"),
    shows("q F10", "quit"),
    changes("m", "move the program: choose where, with what placement thinks of each node"),
    changes("H", "bring the program home"),
    changes("l", "lock: it stays unless someone asks for a move; or let it move by itself again"),
    changes("a", "allow only some nodes beside home, or all"),
    changes("c", "cancel its move"),
    changes("k F9", "send it a signal (at its home)"),
    changes("d", "nodes: drain, guests leave and no others come; or end that"),
    changes("x", "nodes: expel, all guests go home once"),
    changes("y n", "the answers to a question"),
];

impl Model {
    /// Takes a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Vec<Effect> {
        if key.kind == KeyEventKind::Release {
            return Vec::new();
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return vec![Effect::Quit],
            KeyCode::Char('z') if is_control => return vec![Effect::Suspend],
            KeyCode::Char('l') if is_control => return Vec::new(),
            _ => self.message = None,
        }
        // What is on the screen is what keys act upon.
        self.arrange();
        if let Some(dialog) = self.dialog.take() {
            return self.key_in_dialog(dialog, key.code);
        }
        if self.typing.is_some() {
            self.key_in_filter(key.code);
            return Vec::new();
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::F(10) => return vec![Effect::Quit],
            KeyCode::Char('?') | KeyCode::F(1) => self.dialog = Some(Dialog::Help { line: 0 }),
            KeyCode::Tab => self.focus_next(1),
            KeyCode::BackTab => self.focus_next(PANES.len() - 1),
            KeyCode::Char(digit @ '1'..='4') => self.focus_on(PANES[digit as usize - '1' as usize]),
            KeyCode::Char('z') => self.zoomed = !self.zoomed,
            KeyCode::Esc => self.escape(),
            KeyCode::Enter => self.enter(),
            KeyCode::Char('/') | KeyCode::F(4) => self.typing = self.filter_text().map(str::to_owned),
            KeyCode::F(6) => self.offer_columns(),
            KeyCode::Char('I') => self.sort_by(None),
            KeyCode::Char('P') => self.sort_programs_by("CPU%"),
            KeyCode::Char('M') => self.sort_programs_by("MEM%"),
            KeyCode::Char('t') | KeyCode::F(5) => self.programs.set_tree(!self.programs.is_tree()),
            KeyCode::Char('F') => {
                let chosen = self.programs.selected().map(Listed::key);
                self.followed = if self.followed.is_some() { None } else { chosen };
            }
            KeyCode::Up => self.step(-1),
            KeyCode::Down => self.step(1),
            KeyCode::PageUp => self.step(-self.page()),
            KeyCode::PageDown => self.step(self.page()),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::F(9) => self.order('k'),
            KeyCode::Char(letter) if !is_control => self.order(letter),
            _ => {}
        }
        Vec::new()
    }

    fn key_in_dialog(&mut self, dialog: Dialog, code: KeyCode) -> Vec<Effect> {
        match dialog {
            Dialog::Help { line } => {
                let line = match code {
                    KeyCode::Up => line.saturating_sub(1),
                    KeyCode::Down => (line + 1).min(BINDINGS.len()),
                    KeyCode::PageUp | KeyCode::Home => 0,
                    KeyCode::PageDown | KeyCode::End => BINDINGS.len() / 2,
                    _ => return Vec::new(),
                };
                self.dialog = Some(Dialog::Help { line });
                Vec::new()
            }
            Dialog::Ask { question, action } => match code {
                KeyCode::Char('y' | 'Y') => vec![Effect::Act(action)],
                KeyCode::Char('n' | 'N') | KeyCode::Esc => Vec::new(),
                _ => {
                    self.dialog = Some(Dialog::Ask { question, action });
                    Vec::new()
                }
            },
            Dialog::Menu(mut menu) => match menu.key(code) {
                Choice::Open => {
                    self.dialog = Some(Dialog::Menu(menu));
                    Vec::new()
                }
                Choice::Closed => Vec::new(),
                Choice::Chosen(item) => self.chosen_in(&menu, item),
            },
        }
    }

    /// A filter takes effect as it is typed.
    fn key_in_filter(&mut self, code: KeyCode) {
        let mut text = self.filter_text().unwrap_or_default().to_owned();
        match code {
            KeyCode::Enter => self.typing = None,
            KeyCode::Esc => text = self.typing.take().unwrap_or_default(),
            KeyCode::Backspace => {
                text.pop();
            }
            KeyCode::Char(c) => text.push(c),
            _ => {}
        }
        self.set_filter(&text);
    }

    fn filter_text(&self) -> Option<&str> {
        match self.focus {
            Pane::Nodes => Some(self.nodes.filter()),
            Pane::Programs => Some(self.programs.filter()),
            Pane::Moves => Some(self.moves.filter()),
            Pane::Why => None,
        }
    }

    fn set_filter(&mut self, text: &str) {
        match self.focus {
            Pane::Nodes => self.nodes.set_filter(text),
            Pane::Programs => self.programs.set_filter(text),
            Pane::Moves => self.moves.set_filter(text),
            Pane::Why => {}
        }
    }

    fn focus_next(&mut self, by: usize) {
        let at = PANES.iter().position(|pane| *pane == self.focus).unwrap_or_default();
        self.focus_on(PANES[(at + by) % PANES.len()]);
    }

    /// Gives the keyboard to a pane, which is shown then.
    pub(super) fn focus_on(&mut self, pane: Pane) {
        self.focus = pane;
        if matches!(pane, Pane::Why | Pane::Moves) {
            self.lower = pane;
        }
    }

    /// Ends one thing at a time, what is nearest first.
    fn escape(&mut self) {
        if self.filter_text().is_some_and(|text| !text.is_empty()) {
            self.set_filter("");
        } else if self.followed.is_some() {
            self.followed = None;
        } else {
            self.zoomed = false;
        }
    }

    fn enter(&mut self) {
        match self.focus {
            Pane::Nodes => {
                let Some(node) = self.nodes.selected() else { return };
                let filter = format!("node={}", node.row.node);
                self.programs.set_filter(&filter);
                self.focus_on(Pane::Programs);
            }
            Pane::Programs => {
                self.focus_on(Pane::Why);
                self.zoomed = true;
            }
            Pane::Why => {
                self.focus_on(Pane::Programs);
                self.zoomed = false;
            }
            Pane::Moves => {
                let Some(program) = self.moves.selected().map(|step| step.row.process.clone()) else { return };
                self.programs.set_filter("");
                self.focus_on(Pane::Programs);
                let rows = self.layout().rows(Pane::Programs);
                self.programs.select(&program, rows);
            }
        }
    }

    fn page(&self) -> isize {
        self.layout().rows(self.focus).max(1).cast_signed()
    }

    fn step(&mut self, rows: isize) {
        let height = self.layout().rows(self.focus);
        match self.focus {
            Pane::Nodes => self.nodes.step(rows, height),
            Pane::Programs => {
                // Who looks elsewhere follows no longer.
                self.followed = None;
                self.programs.step(rows, height);
            }
            Pane::Moves => self.moves.step(rows, height),
            Pane::Why => {
                let rows = rows.clamp(-1_000, 1_000) as i16;
                self.why.line = self.why.line.saturating_add_signed(rows);
            }
        }
    }

    fn offer_columns(&mut self) {
        fn titles<R: Listed>(list: &List<R>) -> (Vec<String>, usize) {
            (R::COLUMNS.iter().map(|column| column.title.to_owned()).collect(), list.sort().column)
        }
        let (titles, now) = match self.focus {
            Pane::Nodes => titles(&self.nodes),
            Pane::Programs => titles(&self.programs),
            Pane::Moves => titles(&self.moves),
            Pane::Why => return,
        };
        let mut menu = Menu::new(Purpose::Sort(self.focus), "Sort by".into(), titles);
        menu.cursor = now;
        self.dialog = Some(Dialog::Menu(menu));
    }

    /// Sorts the pane that has the keyboard by a column; with `None` in the other direction.
    pub(super) fn sort_by(&mut self, column: Option<usize>) {
        fn sort<R: Listed>(list: &mut List<R>, column: Option<usize>) {
            let now = list.sort().column;
            list.sort_by(column.unwrap_or(now));
        }
        match self.focus {
            Pane::Nodes => sort(&mut self.nodes, column),
            Pane::Programs => sort(&mut self.programs, column),
            Pane::Moves => sort(&mut self.moves, column),
            Pane::Why => {}
        }
    }

    fn sort_programs_by(&mut self, title: &str) {
        let of_title = |column: &Column<super::Program>| column.title == title;
        if let Some(column) = super::Program::COLUMNS.iter().position(of_title) {
            self.focus_on(Pane::Programs);
            self.programs.sort_by(column);
        }
    }
}
