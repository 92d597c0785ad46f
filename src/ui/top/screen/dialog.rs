//! What stands in front of the panes.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::Line,
    widgets::{Block, Clear, Padding, Paragraph, Widget, Wrap},
};

use super::style::Colours;
use crate::ui::top::model::{
    BINDINGS, Model,
    dialog::{Dialog, Menu},
};

/// The widest dialog.
const MOST_CELLS: u16 = 110;
/// The widest item of a menu, beside which its note begins.
const MOST_ITEM_CELLS: usize = 24;

/// Draws a dialog; returns how many items were formatted.
pub fn draw(dialog: &Dialog, model: &Model, colours: Colours, buffer: &mut Buffer) -> usize {
    match dialog {
        Dialog::Help { line } => help(*line, model, colours, buffer),
        Dialog::Menu(menu) => list(menu, model, colours, buffer),
        Dialog::Ask { question, .. } => ask(question, colours, buffer),
    }
}

/// A box in the middle of the screen for so many lines; returns its inner part.
fn open(title: &str, lines: usize, colours: Colours, buffer: &mut Buffer) -> Rect {
    let screen = buffer.area;
    let width = screen.width.saturating_sub(4).min(MOST_CELLS);
    let height = u16::try_from(lines + 2).unwrap_or(u16::MAX).min(screen.height.saturating_sub(2));
    let area =
        Rect { x: screen.x + (screen.width - width) / 2, y: screen.y + (screen.height - height) / 2, width, height };
    Clear.render(area, buffer);
    let block =
        Block::bordered().title(format!(" {title} ")).border_style(colours.title(true)).padding(Padding::horizontal(1));
    let inner = block.inner(area);
    block.render(area, buffer);
    inner
}

fn help(first: usize, model: &Model, colours: Colours, buffer: &mut Buffer) -> usize {
    let shown = BINDINGS.iter().filter(|binding| !(binding.changes && model.rights.read_only));
    let lines: Vec<Line> = shown.map(|binding| Line::raw(format!("{:<22} {}", binding.keys, binding.what))).collect();
    let count = lines.len();
    let inner = open("keys: ↑ ↓ scroll, any other key closes", count * 2, colours, buffer);
    let scroll = u16::try_from(first).unwrap_or(u16::MAX);
    Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((scroll, 0)).render(inner, buffer);
    count
}

fn ask(question: &str, colours: Colours, buffer: &mut Buffer) -> usize {
    let inner = open("y: yes  n: no", 3, colours, buffer);
    Paragraph::new(question).wrap(Wrap { trim: false }).render(inner, buffer);
    1
}

fn list(menu: &Menu, model: &Model, colours: Colours, buffer: &mut Buffer) -> usize {
    let count = menu.shown().count();
    let typed = if menu.typed.is_empty() { String::new() } else { format!("  only: {}", menu.typed) };
    let keys = if menu.has_marks() { "  Space: mark  Enter: done" } else { "" };
    let inner = open(&format!("{}{typed}{keys}", menu.title), count.max(1), colours, buffer);
    let height = usize::from(inner.height);
    let first = menu.cursor.saturating_sub(height.saturating_sub(1) / 2).min(count.saturating_sub(height));
    let cells = menu.items.iter().map(String::len).max().unwrap_or_default().min(MOST_ITEM_CELLS);
    let mut formatted = 0;
    for (line, item) in menu.shown().skip(first).take(height).enumerate() {
        formatted += 1;
        let text = menu.items.get(item).map_or("", String::as_str);
        let is_chosen = first + line == menu.cursor;
        let chosen = if is_chosen { '>' } else { ' ' };
        let marked = match (menu.has_marks(), menu.marked.contains(&item)) {
            (false, _) => "",
            (true, true) => "[x] ",
            (true, false) => "[ ] ",
        };
        let note = model.note(menu, text);
        let text = format!("{chosen}{marked}{text:<cells$}  {note}");
        let area = Rect { y: inner.y + line as u16, height: 1, ..inner };
        buffer.set_stringn(area.x, area.y, text.trim_end(), area.width.into(), ratatui::style::Style::new());
        if is_chosen {
            buffer.set_style(area, colours.chosen(true));
        }
    }
    formatted
}
