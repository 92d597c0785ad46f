//! What the mouse does.

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::{Position, Rect};

use super::{
    Model, Pane,
    list::Listed,
    rows::{Move, Node, Program},
};
use crate::ui::top::layout::{self, HEAD_LINES};

/// Rows that a notch of the wheel scrolls.
const NOTCH: isize = 3;

impl Model {
    /// Takes what the mouse did. A dialog belongs to the keyboard.
    pub(super) fn mouse(&mut self, mouse: MouseEvent) {
        self.arrange();
        let at = Position { x: mouse.column, y: mouse.row };
        let layout = self.layout();
        let hit = layout.panes.iter().find(|(_, area)| area.contains(at));
        let (Some((pane, area)), None) = (hit.copied(), &self.dialog) else { return };
        match mouse.kind {
            MouseEventKind::Down(MouseButton::Left) => self.press(pane, area, at),
            MouseEventKind::ScrollUp => self.turn(pane, -NOTCH, layout.rows(pane)),
            MouseEventKind::ScrollDown => self.turn(pane, NOTCH, layout.rows(pane)),
            _ => {}
        }
    }

    fn turn(&mut self, pane: Pane, rows: isize, height: usize) {
        match pane {
            Pane::Nodes => self.nodes.scroll(rows, height),
            Pane::Programs => self.programs.scroll(rows, height),
            Pane::Moves => self.moves.scroll(rows, height),
            Pane::Why => self.why.line = self.why.line.saturating_add_signed(rows as i16),
        }
    }

    fn press(&mut self, pane: Pane, area: Rect, at: Position) {
        self.typing = None;
        self.focus_on(pane);
        let line = at.y - area.y;
        if line + 1 == HEAD_LINES {
            let (x, cells) = (at.x - area.x, self.node_cells());
            let column = match pane {
                Pane::Nodes => column_at::<Node>(area.width, cells, x),
                Pane::Programs => column_at::<Program>(area.width, cells, x),
                Pane::Moves => column_at::<Move>(area.width, cells, x),
                Pane::Why => None,
            };
            if column.is_some() {
                self.sort_by(column);
            }
            return;
        }
        let Some(line) = line.checked_sub(HEAD_LINES).map(usize::from) else { return };
        let height = area.height.saturating_sub(HEAD_LINES).into();
        match pane {
            Pane::Nodes => self.nodes.select_line(line, height),
            Pane::Programs => {
                self.followed = None;
                self.programs.select_line(line, height);
            }
            Pane::Moves => self.moves.select_line(line, height),
            Pane::Why => {}
        }
    }
}

fn column_at<R: Listed>(width: u16, node_cells: u16, x: u16) -> Option<usize> {
    let columns = layout::columns::<R>(width, node_cells);
    columns.iter().find(|(_, start, cells)| (*start..start + cells).contains(&x)).map(|(column, ..)| *column)
}
