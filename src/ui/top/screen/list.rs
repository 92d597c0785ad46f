//! A list in its pane: title, titles of columns, rows.

use ratatui::{
    buffer::Buffer,
    layout::{Alignment, Rect},
    style::Style,
    text::Span,
};

use super::{line, style::Colours};
use crate::ui::top::{
    layout::{HEAD_LINES, columns},
    model::{
        Model,
        list::{Column, List, Listed, Width},
    },
};

/// A pane on the screen.
pub struct Frame {
    /// Where it is.
    pub area: Rect,
    /// The key that leads to it.
    pub number: usize,
    /// Whether it has the keyboard.
    pub has_focus: bool,
    /// The colours.
    pub colours: Colours,
}

impl Frame {
    /// Draws its title, after which lines are drawn up to the edge.
    pub fn title(&self, text: &str, buffer: &mut Buffer) {
        let mark = if self.has_focus { '▶' } else { '─' };
        let text = format!("{mark} {} {text} ", self.number);
        let rest = usize::from(self.area.width).saturating_sub(width(&text));
        line(&format!("{text}{}", "─".repeat(rest)), self.colours.title(self.has_focus), self.area, buffer);
    }
}

/// Draws a list; returns how many rows were formatted.
pub fn draw<R: Listed>(list: &List<R>, name: &str, frame: &Frame, model: &Model, buffer: &mut Buffer) -> usize {
    let Frame { area, has_focus, colours, .. } = *frame;
    let height = usize::from(area.height.saturating_sub(HEAD_LINES));
    frame.title(&title(list, name, height, model), buffer);
    if area.height < HEAD_LINES {
        return 0;
    }
    let columns = columns::<R>(area.width, model.node_cells());
    let sample = list.all().next();
    let head = Rect { y: area.y + 1, height: 1, ..area };
    buffer.set_style(head, colours.head());
    for (column, x, cells) in &columns {
        let column = &R::COLUMNS[*column];
        let cell = Rect { x: area.x + x, width: *cells, ..head };
        put(column.title, cell, alignment(column, sample), false, colours.head(), buffer);
    }
    let mut formatted = 0;
    for (at, (place, row, is_chosen)) in list.on_screen(height).enumerate() {
        let y = area.y + HEAD_LINES + at as u16;
        formatted += 1;
        for (column, x, cells) in &columns {
            let column = &R::COLUMNS[*column];
            let mut text = column.text(row, model.now_ms);
            if place.is_child && column.is_branching {
                text.insert_str(0, "└ ");
            }
            let cell = Rect { x: area.x + x, y, width: *cells, height: 1 };
            let keeps_end = matches!(column.width, Width::Tail(..));
            put(&text, cell, alignment(column, Some(row)), keeps_end, colours.of((column.meaning)(row)), buffer);
        }
        if is_chosen {
            buffer.set_string(area.x, y, ">", Style::new());
            buffer.set_style(Rect { y, height: 1, ..area }, colours.chosen(has_focus));
        }
    }
    formatted
}

/// The name, how many rows there are, by what they are sorted, and which are shown.
fn title<R: Listed>(list: &List<R>, name: &str, height: usize, model: &Model) -> String {
    let (shown, sort) = (list.shown(), list.sort());
    let mut text = match shown > height {
        true => {
            let first = list.first_on_screen(height);
            format!("{name}  {first}-{} of {shown}", (first + height).saturating_sub(1).min(shown))
        }
        false => format!("{name}  {shown}"),
    };
    let direction = if sort.descending { '↓' } else { '↑' };
    text.push_str(&format!("  by {} {direction}", R::COLUMNS.get(sort.column).map_or("", |column| column.title)));
    if !list.filter().is_empty() {
        text.push_str(&format!("  filter: {}", list.filter()));
    }
    if list.is_tree() {
        text.push_str("  tree");
    }
    if let Some(followed) = model.followed.as_ref().filter(|_| name == "programs") {
        text.push_str(&format!("  follows {followed}"));
    }
    text
}

fn alignment<R: Listed>(column: &Column<R>, row: Option<&R>) -> Alignment {
    if column.is_figure(row) && !column.is_left_aligned { Alignment::Right } else { Alignment::Left }
}

/// Puts a text into a cell. What is too long loses its end, or its beginning.
fn put(text: &str, cell: Rect, alignment: Alignment, keeps_end: bool, style: Style, buffer: &mut Buffer) {
    let room = usize::from(cell.width);
    let surplus = width(text).saturating_sub(room);
    if surplus > 0 && keeps_end {
        // Sparklines and most paths: a cell a character. A path tells that it has lost something.
        let mark = if text.starts_with('/') { "…" } else { "" };
        let end: String = mark.chars().chain(text.chars().skip(surplus + mark.len().min(1))).collect();
        buffer.set_stringn(cell.x, cell.y, end, room, style);
        return;
    }
    let space = if alignment == Alignment::Right { room.saturating_sub(width(text)) } else { 0 };
    buffer.set_stringn(cell.x + space as u16, cell.y, text, room, style);
}

/// The cells that a text takes.
fn width(text: &str) -> usize {
    Span::raw(text).width()
}
