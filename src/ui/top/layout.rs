//! Where the panes are on a screen of some size. The model asks for it too: for pages and the
//! mouse.

use ratatui::layout::Rect;

use super::model::{
    Pane,
    list::{Column, Listed, Width},
};

/// From this width on *why* and *moves* stand side by side.
const WIDE: u16 = 110;
/// Below this height only the pane that has the keyboard is shown.
const LOW: u16 = 16;
/// Lines of a pane above its rows: its title, and the titles of its columns.
pub const HEAD_LINES: u16 = 2;
/// Cells in front of a row, for the mark of the chosen one.
pub const MARK_CELLS: u16 = 1;

/// Which panes are on the screen, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The line at the top.
    pub top: Rect,
    /// The panes.
    pub panes: Vec<(Pane, Rect)>,
    /// The line at the bottom.
    pub bottom: Rect,
}

impl Layout {
    /// Lays out a screen. `lower` is which of *why* and *moves* is shown if there is room for one.
    pub fn new(screen: Rect, focus: Pane, lower: Pane, zoomed: bool, nodes: usize) -> Self {
        let line = |y| Rect { y, height: 1.min(screen.height), ..screen };
        let top = line(screen.y);
        let bottom = line(screen.bottom().saturating_sub(1).max(screen.y));
        let middle = Rect { y: screen.y + top.height, height: screen.height.saturating_sub(2), ..screen };
        let panes = if zoomed || middle.height < LOW - 2 { vec![(focus, middle)] } else { all(middle, lower, nodes) };
        Self { top, panes, bottom }
    }

    /// Where a pane is, if it is shown.
    pub fn pane(&self, pane: Pane) -> Option<Rect> {
        self.panes.iter().find(|(shown, _)| *shown == pane).map(|(_, area)| *area)
    }

    /// How many rows of a pane are shown.
    pub fn rows(&self, pane: Pane) -> usize {
        self.pane(pane).map_or(0, |area| area.height.saturating_sub(HEAD_LINES).into())
    }
}

fn all(middle: Rect, lower: Pane, nodes: usize) -> Vec<(Pane, Rect)> {
    let height = middle.height;
    let most = height / 4;
    let nodes = u16::try_from(nodes.max(1)).unwrap_or(u16::MAX).min(most.max(3)) + HEAD_LINES;
    let below = (height / 3).max(6);
    let programs = height - nodes - below;
    let part = |y, height| Rect { y, height, ..middle };
    let below = part(middle.y + nodes + programs, below);
    let mut panes = vec![(Pane::Nodes, part(middle.y, nodes)), (Pane::Programs, part(middle.y + nodes, programs))];
    if middle.width >= WIDE {
        // A column of space between the two.
        let half = middle.width / 2;
        panes.push((Pane::Why, Rect { width: half - 1, ..below }));
        panes.push((Pane::Moves, Rect { x: below.x + half, width: below.width - half, ..below }));
    } else {
        panes.push((lower, below));
    }
    panes
}

/// Which columns there is room for: index, first cell, cells.
pub fn columns<R: Listed>(width: u16, node_cells: u16) -> Vec<(usize, u16, u16)> {
    let least = |column: &Column<R>| match column.width {
        Width::Cells(cells) | Width::Room(cells, _) | Width::Tail(cells, _) => cells,
        Width::Node => node_cells,
    };
    let mut by_rank: Vec<usize> = (0..R::COLUMNS.len()).collect();
    by_rank.sort_by_key(|at| R::COLUMNS[*at].rank);
    let mut left = width.saturating_sub(MARK_CELLS);
    let mut shown = Vec::new();
    for at in by_rank {
        let cells = least(&R::COLUMNS[at]) + u16::from(!shown.is_empty());
        if cells > left {
            break;
        }
        left -= cells;
        shown.push(at);
    }
    shown.sort_unstable();
    let grows = |at: &&usize| matches!(R::COLUMNS[**at].width, Width::Room(..) | Width::Tail(..));
    let mut growing = shown.iter().filter(grows).count();
    let mut x = MARK_CELLS;
    let mut columns = Vec::new();
    for at in &shown {
        let mut cells = least(&R::COLUMNS[*at]);
        if let Width::Room(_, most) | Width::Tail(_, most) = R::COLUMNS[*at].width {
            // The last one gets the rest.
            let share = if growing == 1 { left } else { left / 3 };
            let more = share.min(most - cells);
            (cells, left, growing) = (cells + more, left - more, growing - 1);
        }
        columns.push((*at, x, cells));
        x += cells + 1;
    }
    columns
}
