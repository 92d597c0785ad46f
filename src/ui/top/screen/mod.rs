//! Draws the model. Only rows that are on the screen are formatted.

mod dialog;
mod list;
mod style;
mod text;

#[cfg(test)]
mod tests;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
};

use super::model::{Link, Model, Pane};
use crate::api::view::NodeState;
pub use style::Colours;

/// Draws the whole screen; returns how many rows were formatted for that.
pub fn draw(model: &mut Model, colours: Colours, buffer: &mut Buffer) -> usize {
    model.resize(buffer.area);
    model.arrange();
    let model = &*model;
    let layout = model.layout();
    top_line(model, colours, layout.top, buffer);
    let mut formatted = 0;
    for (pane, area) in &layout.panes {
        let frame = list::Frame { area: *area, number: *pane as usize + 1, has_focus: *pane == model.focus, colours };
        formatted += match pane {
            Pane::Nodes => list::draw(&model.nodes, "nodes", &frame, model, buffer),
            Pane::Programs => list::draw(&model.programs, "programs", &frame, model, buffer),
            Pane::Moves => list::draw(&model.moves, "moves", &frame, model, buffer),
            Pane::Why => text::why(model, &frame, buffer),
        };
    }
    bottom_line(model, colours, layout.bottom, buffer);
    if let Some(open) = &model.dialog {
        formatted += dialog::draw(open, model, colours, buffer);
    }
    formatted
}

/// Puts a text into one line, which it fills.
fn line(text: &str, style: Style, area: Rect, buffer: &mut Buffer) {
    if area.height > 0 {
        buffer.set_style(Rect { height: 1, ..area }, style);
        buffer.set_stringn(area.x, area.y, text, area.width.into(), style);
    }
}

/// What there is in all, or what keeps the monitor from knowing it.
fn top_line(model: &Model, colours: Colours, area: Rect, buffer: &mut Buffer) {
    let local = model.local.as_deref().unwrap_or("?");
    match model.trouble() {
        Some(Link::Lost { why, retry_s }) => {
            let text = format!(" disconnected, again in {retry_s} s: {why}");
            return line(&text, colours.alarm(), area, buffer);
        }
        Some(_) => return line(" scx_mosix top  connecting …", colours.bar(), area, buffer),
        None => {}
    }
    let alive = model.nodes.all().filter(|node| node.row.state == NodeState::Alive).count();
    let away = model.programs.all().filter(|program| program.is_away()).count();
    let under_way = model.moves.all().filter(|step| !step.row.is_over()).count();
    // What matters most comes first: the line may be cut.
    let read_only = if model.rights.read_only { ", read-only" } else { "" };
    let text = format!(
        " scx_mosix top  asks {local}{read_only}  {alive} of {} nodes alive  {} programs, {away} away  {under_way} moving",
        model.nodes.count(),
        model.programs.count(),
    );
    line(&text, colours.bar(), area, buffer);
}

/// The filter being typed, else what came of the last action, else the most useful keys.
fn bottom_line(model: &Model, colours: Colours, area: Rect, buffer: &mut Buffer) {
    if model.typing.is_some() {
        let filter = match model.focus {
            Pane::Nodes => model.nodes.filter(),
            Pane::Moves => model.moves.filter(),
            Pane::Programs | Pane::Why => model.programs.filter(),
        };
        return line(&format!(" filter: {filter}█  Enter: keep  Esc: as before"), colours.bar(), area, buffer);
    }
    match &model.message {
        Some(Ok(done)) => return line(&format!(" {done}"), colours.bar().add_modifier(Modifier::BOLD), area, buffer),
        Some(Err(failed)) => return line(&format!(" {failed}"), colours.alarm(), area, buffer),
        None => {}
    }
    let mut keys = match model.focus {
        Pane::Nodes => " F1 Help  Tab Pane  / Filter  F6 Sort  Enter Its programs".to_owned(),
        Pane::Programs => " F1 Help  Tab Pane  / Filter  F6 Sort  t Tree  F Follow".to_owned(),
        Pane::Why => " F1 Help  Tab Pane  ↑↓ Scroll".to_owned(),
        Pane::Moves => " F1 Help  Tab Pane  / Filter  F6 Sort".to_owned(),
    };
    if !model.rights.read_only {
        keys.push_str(match model.focus {
            Pane::Nodes => "  d Drain  x Expel",
            Pane::Programs | Pane::Why => "  m Move  k Signal",
            Pane::Moves => "  c Cancel",
        });
    }
    line(&format!("{keys}  q Quit"), colours.bar(), area, buffer);
}
